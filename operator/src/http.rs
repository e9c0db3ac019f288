//! `/livez`, `/readyz` and `/metrics`. Ready means working: all watches have brought their first list, so the CRD is
//! there and the operator may read what it needs.

use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use kube::runtime::reflector::Store;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;

use crate::GuardedJob;
use crate::gatekeeper::{self, Gatekeeper};
use crate::reconcile::Context;
use crate::tls;

/// What the handlers read.
#[derive(Clone)]
pub struct Shared {
    /// Tables and metrics.
    pub context: Arc<Context>,
    /// All TransferJobs.
    pub store: Store<GuardedJob>,
}

/// Serve until `stop`; over TLS if there is a folder with a certificate.
///
/// # Errors
/// The certificate cannot be used.
pub fn serve<F>(listener: TcpListener, tls: Option<&Path>, router: Router, stop: F) -> anyhow::Result<JoinHandle<io::Result<()>>>
where
    F: Future<Output = ()> + Send + 'static,
{
    Ok(match tls {
        Some(folder) => tokio::spawn(axum::serve(tls::Listener::new(listener, folder)?, router).with_graceful_shutdown(stop).into_future()),
        None => tokio::spawn(axum::serve(listener, router).with_graceful_shutdown(stop).into_future()),
    })
}

/// The routes; `/metrics` is behind the gatekeeper if there is one.
pub fn router(shared: Shared, gatekeeper: Option<Arc<Gatekeeper>>) -> Router {
    let metrics = match gatekeeper {
        Some(gatekeeper) => get(metrics).layer(from_fn_with_state(gatekeeper, gatekeeper::guard)),
        None => get(metrics),
    };
    packed(Router::new().route("/livez", get(async || "ok")).route("/readyz", get(ready)).route("/metrics", metrics).with_state(shared))
}

/// Packed by gzip for those who take it, as Prometheus does: names of jobs and labels stand in each of a job's series.
fn packed(router: Router) -> Router {
    router.layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
}

async fn ready(State(shared): State<Shared>) -> Response {
    let mut missing = Vec::new();
    // The store is ready when the first list is in it; the future is asked once and dropped.
    if futures::FutureExt::now_or_never(shared.store.wait_until_ready()).is_none() {
        missing.push("transferjobs (is the CRD installed?)");
    }
    if !shared.context.jobs.is_ready() {
        missing.push("jobs");
    }
    if !shared.context.pods.is_ready() {
        missing.push("pods");
    }
    if missing.is_empty() {
        "ok".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not yet listed: {}", missing.join(", "))).into_response()
    }
}

async fn metrics(State(shared): State<Shared>) -> Response {
    match shared.context.metrics.render(&shared.store) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::metrics::of_a_thousand_jobs;

    /// The answer to a request with this header, as it goes over the network.
    async fn asked(header: &str) -> Vec<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = packed(Router::new().route("/metrics", get(async || of_a_thousand_jobs(63))));
        let server = serve(listener, None, router, std::future::pending()).unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET /metrics HTTP/1.1\r\nHost: operator\r\n{header}Connection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        server.abort();
        answer
    }

    #[tokio::test]
    async fn a_scrape_is_packed_for_who_takes_it() {
        let began = Instant::now();
        let packed = asked("Accept-Encoding: gzip;q=1.0,*;q=0.1\r\n").await;
        let plain = asked("").await;
        println!(
            "1000 jobs of long names: {} KiB, {} KiB packed, both in {:.0} ms",
            plain.len() / 1024,
            packed.len() / 1024,
            began.elapsed().as_secs_f64() * 1e3
        );
        assert!(packed.windows(22).any(|part| part.eq_ignore_ascii_case(b"content-encoding: gzip")));
        assert!(packed.len() <= 1 << 20 && plain.len() > 1 << 20, "{} and {} bytes", packed.len(), plain.len());
        assert!(plain.ends_with(b"\n"));
    }
}
