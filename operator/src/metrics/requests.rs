//! Counts and times the requests to the API server under client-go's names, as a layer around kube's client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use hyper::{Request, Response};
use tower::{Layer, Service};

use super::Metrics;

/// The layer.
#[derive(Clone)]
pub struct Requests(pub Arc<Metrics>);

/// A client that is measured.
#[derive(Clone)]
pub struct Measured<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S> Layer<S> for Requests {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured { inner, metrics: self.0.clone() }
    }
}

impl<S, B, A> Service<Request<B>> for Measured<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (metrics, method, began) = (self.metrics.clone(), request.method().clone(), Instant::now());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let status = answer.as_ref().ok().map(Response::status);
            metrics.requested(method.as_str(), status.as_ref().map_or("<error>", |s| s.as_str()), began.elapsed().as_secs_f64());
            answer
        })
    }
}
