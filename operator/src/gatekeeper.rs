//! Asks the API server whose token a scrape carries and whether they may `get` `/metrics`. What it allowed holds for a minute;
//! what it refused is asked again, a few at a time, so that strangers cannot make the operator a burden to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use graft_operator_core::scraper;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;

/// How long a permission holds.
const HOLDS: Duration = Duration::from_secs(60);
/// How many permissions are remembered: a cluster has few scrapers.
const REMEMBERED: usize = 64;
/// How many questions may be open.
const QUESTIONS: usize = 4;

/// Who lets scrapes in.
pub struct Gatekeeper {
    client: Client,
    allowed: Mutex<HashMap<String, Instant>>,
    questions: Semaphore,
}

impl Gatekeeper {
    /// One that has let nobody in yet.
    pub fn new(client: Client) -> Arc<Self> {
        Arc::new(Self { client, allowed: Mutex::default(), questions: Semaphore::new(QUESTIONS) })
    }

    /// 200 for one who may scrape, else what to answer.
    async fn judge(&self, token: &str) -> Result<StatusCode, kube::Error> {
        let remembered = |list: &mut HashMap<String, Instant>| {
            list.retain(|_, until| *until > Instant::now());
            list.contains_key(token)
        };
        if remembered(&mut self.allowed.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(StatusCode::OK);
        }
        let Ok(_open) = self.questions.acquire().await else { return Ok(StatusCode::SERVICE_UNAVAILABLE) };
        let spec = TokenReviewSpec { token: Some(token.to_owned()), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let review = Api::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        let Some(spec) = review.status.and_then(scraper::question) else { return Ok(StatusCode::UNAUTHORIZED) };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let review = Api::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        if !review.status.as_ref().is_some_and(scraper::allowed) {
            return Ok(StatusCode::FORBIDDEN);
        }
        let mut list = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() < REMEMBERED {
            list.insert(token.to_owned(), Instant::now() + HOLDS);
        }
        Ok(StatusCode::OK)
    }
}

/// The layer in front of `/metrics`.
pub async fn guard(State(gatekeeper): State<Arc<Gatekeeper>>, request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let verdict = match scraper::bearer(header) {
        Some(token) => gatekeeper.judge(token).await,
        None => Ok(StatusCode::UNAUTHORIZED),
    };
    match verdict {
        Ok(StatusCode::OK) => next.run(request).await,
        Ok(StatusCode::UNAUTHORIZED) => (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")]).into_response(),
        Ok(other) => other.into_response(),
        Err(error) => {
            tracing::warn!(%error, "the API server does not say who may scrape");
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}
