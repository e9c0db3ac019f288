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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const GOOD: &str = r#"{"stage":"fineTune","epoch":1,"epochs":2,"step":7,"percent":40.0}"#;

    /// What a pod answers, chunk by chunk; `pause` between them, and what comes after the last is repeated for ever.
    struct Pod {
        chunks: Vec<Vec<u8>>,
        pause: Duration,
        endless: &'static [u8],
    }

    impl Pod {
        fn saying(text: impl Into<Vec<u8>>) -> Self {
            Self { chunks: vec![text.into()], pause: Duration::ZERO, endless: b"" }
        }

        async fn asked(self) -> Result<Progress, PullError> {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await;
                for chunk in self.chunks {
                    let _ = stream.write_all(&chunk).await;
                    tokio::time::sleep(self.pause).await;
                }
                while !self.endless.is_empty() && stream.write_all(self.endless).await.is_ok() {
                    tokio::time::sleep(self.pause).await;
                }
            });
            pull(&ProgressTarget { ip: "127.0.0.1".into(), port, attempt: "a".into() }).await
        }
    }

    fn answer(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn an_honest_pod_is_heard() {
        assert_eq!(Pod::saying(answer(GOOD)).asked().await.unwrap().step, 7);
    }

    #[tokio::test]
    async fn a_hostile_pod_costs_two_seconds_and_64_kib_at_most() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let pods = [
            ("says nothing", Pod { chunks: Vec::new(), pause: Duration::from_secs(9), endless: b" " }),
            ("drips its headers", Pod { chunks: vec![b"HTTP/1.1 200 OK\r\n".to_vec()], pause: Duration::from_millis(50), endless: b"A: b\r\n" }),
            ("floods with headers", Pod { chunks: vec![b"HTTP/1.1 200 OK\r\n".to_vec()], pause: Duration::ZERO, endless: b"A: b\r\n" }),
            ("has a long header", Pod { chunks: vec![b"HTTP/1.1 200 OK\r\nA: ".to_vec()], pause: Duration::ZERO, endless: &[b'x'; 4096] }),
            ("has an endless body", Pod { chunks: vec![chunked.into()], pause: Duration::ZERO, endless: b"4\r\nxxxx\r\n" }),
            ("lies about its length", Pod::saying(format!("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{GOOD}"))),
            ("is too large", Pod::saying(answer(&format!("{}{GOOD}", " ".repeat(LIMIT))))),
            ("leads elsewhere", Pod::saying("HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n")),
            ("is no HTTP", Pod::saying(vec![0xff; 70_000])),
            ("hangs up", Pod::saying("")),
            ("is no JSON", Pod::saying(answer("<html>"))),
            ("is nested deeply", Pod::saying(answer(&"[".repeat(60_000)))),
            ("is of another contract", Pod::saying(answer(r#"{"stage":"mining"}"#))),
            ("counts below zero", Pod::saying(answer(&GOOD.replace(":7", ":-7")))),
        ];
        for (what, pod) in pods {
            let began = Instant::now();
            let answer = pod.asked().await;
            assert!(answer.is_err(), "a pod that {what}: {answer:?}");
            assert!(began.elapsed() < TIMEOUT + Duration::from_millis(500), "a pod that {what} took {:?}", began.elapsed());
        }
    }
}
