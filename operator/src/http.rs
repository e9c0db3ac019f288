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
    Router::new().route("/livez", get(async || "ok")).route("/readyz", get(ready)).route("/metrics", metrics).with_state(shared)
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
