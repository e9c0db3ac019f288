//! The program around the library: flags, log, runtime.

use anyhow::Context as _;
use clap::Parser;
use graft_operator::config::{LogFormat, OperatorConfig};

fn main() -> anyhow::Result<()> {
    let config = OperatorConfig::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.init(),
    }
    // Two threads: decoding a large list must not keep /livez waiting. More would only add memory.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("start the runtime")?;
    runtime.block_on(graft_operator::run(config))
}
