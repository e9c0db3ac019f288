//! The operator. `graft-operator-otel` is the same with traces.

fn main() -> anyhow::Result<()> {
    graft_operator::program::main(|| {
        if std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_some() {
            tracing::warn!("no traces are sent: this is graft-operator; graft-operator-otel sends them");
        }
        Ok(None)
    })
}
