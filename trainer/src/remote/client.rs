//! The client of `guard.rs` as `object_store` wants one. It waits where it is called: downloads have a thread each.

use std::io::{self, Read};
use std::sync::Mutex;

use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService};

use super::{agent, environment, plain};

/// Makes clients that may reach this very machine or not.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) loopback: bool,
}

impl HttpConnector for Client {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let agent = agent(environment("SSL_CERT_FILE"), self.loopback);
        let agent = agent.map_err(|error| object_store::Error::Generic { store: "HTTP", source: Box::new(error) })?;
        Ok(HttpClient::new(Agent(agent)))
    }
}

#[derive(Debug)]
struct Agent(ureq::Agent);

#[async_trait::async_trait]
impl HttpService for Agent {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string();
        let body = body.collect().await?.to_bytes();
        let answer = if body.is_empty() {
            self.0.run(ureq::http::Request::from_parts(parts, ()))
        } else {
            self.0.run(ureq::http::Request::from_parts(parts, body.to_vec()))
        };
        let (parts, body) = answer.map_err(|error| of(error, &url))?.into_parts();
        let pieces = Pieces { reader: Mutex::new(body.into_reader()) };
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(StreamBody::new(stream::iter(pieces)))))
    }
}

/// A refused address stays an error of the system, by which it is known; nothing of it is tried again.
fn of(error: ureq::Error, url: &str) -> HttpError {
    match error {
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => HttpError::new(HttpErrorKind::Unknown, error),
        ureq::Error::Timeout(_) => HttpError::new(HttpErrorKind::Timeout, io::Error::other(plain(&error, url))),
        ureq::Error::Io(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
            HttpError::new(HttpErrorKind::Connect, io::Error::other(plain(&error, url)))
        }
        _ => HttpError::new(HttpErrorKind::Unknown, io::Error::other(plain(&error, url))),
    }
}

/// A body, piece by piece. The lock is never waited for; it makes the reader one that threads may share.
struct Pieces<R> {
    reader: Mutex<R>,
}

impl<R: Read> Iterator for Pieces<R> {
    type Item = Result<hyper::body::Frame<bytes::Bytes>, HttpError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut piece = vec![0; 1 << 18];
        let reader = self.reader.get_mut().ok()?;
        match reader.read(&mut piece) {
            Ok(0) => None,
            Ok(n) => {
                piece.truncate(n);
                Some(Ok(hyper::body::Frame::data(piece.into())))
            }
            Err(error) => Some(Err(HttpError::new(HttpErrorKind::Interrupted, error))),
        }
    }
}
