//! The operator with traces: everything that `graft-operator` does, and spans sent to where `OTEL_EXPORTER_OTLP_ENDPOINT` says.

use std::sync::Arc;

use graft_operator::tracer::Tracer;
use graft_operator_otel::Otlp;

fn main() -> anyhow::Result<()> {
    graft_operator::program::main(|| Ok(Otlp::from_env()?.map(|otlp| Arc::new(otlp) as Arc<dyn Tracer>)))
}
