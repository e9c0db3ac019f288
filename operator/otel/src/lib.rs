//! OpenTelemetry's traces of the operator: one trace for each run of a TransferJob, with a span for each stage and each reconcile.
//! `spans` decides which spans there are; here they are sent by OTLP over HTTP, in batches and from a thread of its own, so
//! that no reconcile ever waits for a collector. What a collector does not take in time is lost.

pub mod spans;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use graft_crds::TransferJob;
use graft_crds::status::TransferJobStatus;
use graft_operator::tracer::{Reconcile, Tracer};
use jiff::Timestamp;
use kube::ResourceExt;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor};

use spans::{Open, Span};

/// Longest time for one batch.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer of a collector that is read, in bytes.
const LIMIT: u64 = 64 * 1024;
/// Either variable names a collector; the first with the path `/v1/traces` added.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// Sends spans to a collector.
pub struct Otlp {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    open: Mutex<HashMap<String, Open>>,
}

impl Otlp {
    /// As OpenTelemetry's environment variables say; `None` where they name no collector.
    ///
    /// # Errors
    /// What they say makes no sense.
    pub fn from_env() -> anyhow::Result<Option<Self>> {
        if ENDPOINTS.iter().all(|name| std::env::var(name).unwrap_or_default().is_empty()) {
            tracing::info!("no traces are sent: OTEL_EXPORTER_OTLP_ENDPOINT is not set");
            return Ok(None);
        }
        let exporter = SpanExporter::builder().with_http().with_http_client(Courier::new()).build().context("OTEL_EXPORTER_OTLP_…")?;
        let instance = std::env::var("POD_NAME").ok().map(|pod| KeyValue::new("service.instance.id", pod));
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder().with_service_name("graft-operator").with_attributes([version].into_iter().chain(instance)).build();
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&resource);
        let scope = InstrumentationScope::builder("graft-operator").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Some(Self { processor, scope, open: Mutex::default() }))
    }

    fn send(&self, span: Span) {
        self.processor.on_end(SpanData {
            span_context: SpanContext::new(span.trace, span.id, TraceFlags::SAMPLED, false, TraceState::default()),
            parent_span_id: span.parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: span.name.into(),
            start_time: span.start.into(),
            end_time: span.end.into(),
            attributes: span.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: span.error.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        });
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tracer for Otlp {
    fn reconciled(&self, job: &TransferJob, reconcile: &Reconcile) {
        self.send(spans::of_reconcile(job, reconcile));
        // After a start of the operator: a stage that runs is seen for the first time.
        if let Some(status) = &job.status
            && let Some(part) = spans::seen(status, reconcile.end)
        {
            self.open().entry(job.uid().unwrap_or_default()).or_insert(part);
        }
    }

    fn status_written(&self, job: &TransferJob, after: &TransferJobStatus, now: Timestamp) {
        let uid = job.uid().unwrap_or_default();
        let known = self.open().remove(&uid);
        let (open, over) = spans::between(job, known, after, now);
        if let Some(part) = open {
            self.open().insert(uid, part);
        }
        for span in over {
            self.send(span);
        }
    }

    fn forget(&self, uid: &str) {
        self.open().remove(uid);
    }

    fn close(&self) {
        if let Err(error) = self.processor.shutdown_with_timeout(TIMEOUT) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// Carries batches to the collector. It blocks, which the thread of the batches may.
#[derive(Debug)]
struct Courier {
    agent: ureq::Agent,
    failing: AtomicBool,
}

impl Courier {
    fn new() -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT)).build();
        Self { agent: config.into(), failing: AtomicBool::new(false) }
    }

    fn carry(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ureq::Error> {
        let (head, body) = request.into_parts();
        let (head, mut body) = self.agent.run(Request::from_parts(head, body.to_vec()))?.into_parts();
        Ok(Response::from_parts(head, body.with_config().limit(LIMIT).read_to_vec()?.into()))
    }

    /// Say it once when batches begin to fail, and once when they no longer do.
    fn tell(&self, trouble: Option<String>) {
        let before = self.failing.swap(trouble.is_some(), Ordering::Relaxed);
        match trouble {
            Some(error) if !before => tracing::warn!(error, "traces cannot be sent; the operator goes on without"),
            None if before => tracing::info!("traces are sent again"),
            Some(_) | None => {}
        }
    }
}

#[async_trait::async_trait]
impl HttpClient for Courier {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.carry(request);
        self.tell(match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(answer.status().to_string()),
            Err(error) => Some(error.to_string()),
        });
        Ok(answer?)
    }
}
