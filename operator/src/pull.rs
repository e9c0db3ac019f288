//! Reads `/progress` of a running gang's index 0. Bounded in time and size; a failure is no news and changes nothing.

use std::time::Duration;

use graft_crds::contract::Progress;
use graft_operator_core::ProgressTarget;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Longest time for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Largest answer, in bytes.
const LIMIT: usize = 64 * 1024;

/// Why there is no progress.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Nobody listens.
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    /// Not HTTP, or cut off.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// The request could not be made.
    #[error("{0}")]
    Request(#[from] hyper::http::Error),
    /// Another status than 200.
    #[error("status {0}")]
    Status(StatusCode),
    /// Too large, or cut off.
    #[error("answer: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Not the contract's JSON.
    #[error("answer: {0}")]
    Json(#[from] serde_json::Error),
    /// No answer in time.
    #[error("no answer within 2 s")]
    Timeout,
}

/// Ask once.
///
/// # Errors
/// There is no answer in time, or it is not the contract's.
pub async fn pull(target: &ProgressTarget) -> Result<Progress, PullError> {
    tokio::time::timeout(TIMEOUT, ask(target)).await.unwrap_or(Err(PullError::Timeout))
}

async fn ask(target: &ProgressTarget) -> Result<Progress, PullError> {
    let host = if target.ip.contains(':') { format!("[{}]:{}", target.ip, target.port) } else { format!("{}:{}", target.ip, target.port) };
    let stream = TcpStream::connect(&host).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/progress").header(header::HOST, &host).header(header::CONNECTION, "close").body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(PullError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), LIMIT).collect().await.map_err(PullError::Body)?;
        Ok(serde_json::from_slice(&body.to_bytes())?)
    };
    // The connection does the reading and writing; it may end before the body is taken, so its own end decides nothing.
    let mut exchange = std::pin::pin!(exchange);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        answer = &mut exchange => return answer,
        end = &mut connection => end?,
    }
    exchange.await
}
