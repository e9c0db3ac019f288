//! How the operator is configured: flags and their environment variables, in one place. The chart's `config` values are
//! these fields; their schema and documentation are generated from here.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Graft's operator: runs TransferJobs as gangs of trainer pods.
#[derive(Clone, Debug, Parser, JsonSchema)]
#[serde(rename_all = "camelCase")]
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
    /// How many TransferJobs are reconciled at the same time. Default: twice the CPUs, at least 4.
    #[arg(long, env = "GRAFT_CONCURRENCY", value_parser = clap::value_parser!(u16).range(1..))]
    #[schemars(range(min = 1))]
    pub concurrency: Option<u16>,
    /// Form of the log.
    #[arg(long, env = "GRAFT_LOG_FORMAT", value_enum, default_value_t = LogFormat::default())]
    #[serde(default)]
    pub log_format: LogFormat,
    /// Least time between two looks at a running job's progress, in seconds.
    #[arg(long, env = "GRAFT_PROGRESS_INTERVAL_SECONDS", default_value_t = progress_interval(), value_parser = clap::value_parser!(u32).range(1..=3600))]
    #[serde(default = "progress_interval")]
    #[schemars(range(min = 1, max = 3600))]
    pub progress_interval_seconds: u32,
    /// Folder with `tls.crt` and `tls.key`; everything at `listen` is then served over TLS. Default: plain HTTP.
    #[arg(long, env = "GRAFT_TLS_FOLDER")]
    pub tls_folder: Option<PathBuf>,
    /// Who may read /metrics.
    #[arg(long, env = "GRAFT_SCRAPERS", value_enum, default_value_t = Scrapers::default(), requires_if("authorized", "tls_folder"))]
    #[serde(default)]
    pub scrapers: Scrapers,
}

/// Who may read `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scrapers {
    /// Whoever reaches the port.
    #[default]
    Anyone,
    /// Who shows a token that the API server knows and lets `get` the path. Only over TLS: a token must not be seen.
    Authorized,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// For people.
    Text,
}

fn progress_interval() -> u32 {
    10
}

impl OperatorConfig {
    /// How many TransferJobs are reconciled at the same time: reconciles wait for the API server most of their time.
    #[must_use]
    pub fn concurrency(&self) -> u16 {
        let cpus = std::thread::available_parallelism().map_or(2, usize::from);
        self.concurrency.unwrap_or_else(|| u16::try_from(cpus.saturating_mul(2)).unwrap_or(u16::MAX).max(4))
    }
}
