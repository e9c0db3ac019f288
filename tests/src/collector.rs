//! A collector of OpenTelemetry's traces, as small as one can be: takes OTLP over HTTP and keeps what it is sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
pub use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

/// A collector that listens until the process ends.
pub struct Collector {
    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` must be.
    pub endpoint: String,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    /// Listen at this address, on a free port.
    ///
    /// # Errors
    /// There is none.
    pub fn start(address: &str) -> Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let spans = Arc::new(Mutex::new(Vec::new()));
        let kept = spans.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = kept.clone();
                std::thread::spawn(move || while take(&stream, &kept).is_ok() {});
            }
        });
        Ok(Self { endpoint, spans })
    }

    /// All spans so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One request of a connection.
fn take(stream: &TcpStream, kept: &Mutex<Vec<Span>>) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line)? > 0, "the connection is closed");
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_ascii_lowercase());
    }
    ensure!(head.first().is_some_and(|line| line.starts_with("post /v1/traces ")), "{head:?}");
    ensure!(head.contains(&"content-type: application/x-protobuf".to_owned()), "{head:?}");
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).context("no length")?.parse()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request = ExportTraceServiceRequest::decode(body.as_slice())?;
    let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    kept.lock().unwrap_or_else(PoisonError::into_inner).extend(scopes.flat_map(|scope| scope.spans));
    let mut stream = stream;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n")?;
    Ok(())
}

/// An attribute of a span that is a text; empty if there is none.
#[must_use]
pub fn attribute(span: &Span, key: &str) -> String {
    let value = span.attributes.iter().find(|a| a.key == key).and_then(|a| a.value.as_ref()?.value.as_ref());
    match value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}
