//! How the operator is configured: flags and their environment variables, in one place.

use clap::{Parser, ValueEnum};

/// Graft's operator: runs TransferJobs as gangs of trainer pods.
#[derive(Clone, Debug, Parser)]
#[command(name = "graft-operator", version)]
pub struct OperatorConfig {
    /// Trainer image of jobs that name none.
    #[arg(long, env = "GRAFT_TRAINER_IMAGE")]
    pub trainer_image: String,
    /// The only namespace to work in. Default: all.
    #[arg(long, env = "GRAFT_NAMESPACE")]
    pub namespace: Option<String>,
    /// Address of /livez, /readyz and /metrics.
    #[arg(long, env = "GRAFT_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: std::net::SocketAddr,
    /// How many TransferJobs are reconciled at the same time.
    #[arg(long, env = "GRAFT_CONCURRENCY", default_value_t = default_concurrency(), value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,
    /// Form of the log.
    #[arg(long, env = "GRAFT_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
    /// Least time between two looks at a running job's progress, in seconds.
    #[arg(long, env = "GRAFT_PROGRESS_INTERVAL_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub progress_interval_seconds: u32,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// Twice the CPUs, at least 4: reconciles wait for the API server most of their time.
fn default_concurrency() -> u16 {
    let cpus = std::thread::available_parallelism().map_or(2, usize::from);
    u16::try_from(cpus.saturating_mul(2)).unwrap_or(u16::MAX).max(4)
}
