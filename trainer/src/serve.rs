//! What an agent tells over HTTP: `/progress` for the operator, `/metrics` for Prometheus, `/healthz` for probes. It also
//! listens for SIGTERM, because both live on the same small runtime.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use graft_crds::contract::{ExitReason, Progress, TrainerConfig};
use prometheus::{Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, Opts, Registry, TextEncoder};

use crate::agent::Message;
use crate::event::{Event, Failure};

/// What the agent knows, for whoever asks.
pub(crate) struct Board {
    progress: Progress,
    /// The lowest rank of this pod: its progress is the pod's.
    speaker: Option<u32>,
    registry: Registry,
    metrics: Option<Metrics>,
}

struct Metrics {
    samples: IntCounter,
    loss: Gauge,
    rate: Gauge,
    epoch: Gauge,
    percent: Gauge,
    quality: GaugeVec,
    exchange: Gauge,
    overlapped: Gauge,
    buckets: Gauge,
    largest_bucket: Gauge,
    steps: HistogramVec,
}

impl Metrics {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let buckets = prometheus::exponential_buckets(0.001, 2.0, 16)?;
        let metrics = Self {
            samples: IntCounter::new("graft_trainer_samples_total", "Images that passed through training steps in this pod.")?,
            loss: Gauge::new("graft_trainer_loss", "Mean training loss of the last epoch.")?,
            rate: Gauge::new("graft_trainer_learning_rate", "Learning rate at the end of the last epoch.")?,
            epoch: Gauge::new("graft_trainer_epoch", "Epochs of the current stage that are done.")?,
            percent: Gauge::new("graft_trainer_progress_ratio", "Share of the whole job that is done, 0 to 1.")?,
            exchange: Gauge::new("graft_trainer_gradient_exchange_seconds", "Mean duration of the exchange of gradients in a training step.")?,
            overlapped: Gauge::new(
                "graft_trainer_gradient_exchange_overlapped_seconds",
                "The part of graft_trainer_gradient_exchange_seconds under the backward pass.",
            )?,
            buckets: Gauge::new("graft_trainer_gradient_buckets", "Buckets that gradients are sent in.")?,
            largest_bucket: Gauge::new("graft_trainer_gradient_bucket_max_bytes", "Size of the largest bucket of gradients.")?,
            quality: GaugeVec::new(Opts::new("graft_trainer_metric", "Metrics by split."), &["split", "name"])?,
            steps: HistogramVec::new(
                HistogramOpts::new("graft_trainer_step_seconds", "Duration of the parts of a training step; communication overlaps with backward.")
                    .buckets(buckets),
                &["part"],
            )?,
        };
        registry.register(Box::new(metrics.samples.clone()))?;
        let exchange = [&metrics.exchange, &metrics.overlapped, &metrics.buckets, &metrics.largest_bucket];
        for gauge in [&metrics.loss, &metrics.rate, &metrics.epoch, &metrics.percent].into_iter().chain(exchange) {
            registry.register(Box::new(gauge.clone()))?;
        }
        registry.register(Box::new(metrics.quality.clone()))?;
        registry.register(Box::new(metrics.steps.clone()))?;
        Ok(metrics)
    }
}

impl Board {
    pub(crate) fn new(_: &TrainerConfig) -> Self {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).ok();
        Self { progress: Progress::default(), speaker: None, registry, metrics }
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    pub(crate) fn record(&mut self, rank: u32, event: &Event) {
        let speaks = *self.speaker.get_or_insert(rank) >= rank;
        let Some(metrics) = &self.metrics else { return };
        match event {
            Event::Progress(progress) if speaks => {
                self.speaker = Some(rank);
                metrics.epoch.set(progress.epoch as f64);
                metrics.percent.set(progress.percent / 100.0);
                for (name, value) in &progress.metrics {
                    let (split, name) = name.strip_prefix("validation_").map_or(("test", name.as_str()), |name| ("validation", name));
                    metrics.quality.with_label_values(&[split, name]).set(*value);
                }
                self.progress = progress.clone();
            }
            Event::Epoch(row) if speaks => {
                metrics.loss.set(row.train_loss);
                metrics.rate.set(row.learning_rate);
            }
            Event::Exchange(exchange) if speaks => {
                metrics.exchange.set(exchange.seconds);
                metrics.overlapped.set(exchange.overlapped_seconds);
                metrics.buckets.set(exchange.bucket_bytes.len() as f64);
                metrics.largest_bucket.set(exchange.bucket_bytes.iter().max().copied().unwrap_or(0) as f64);
            }
            Event::Step(times) => {
                metrics.samples.inc_by(times.samples);
                for (part, seconds) in
                    [("data", times.data), ("forward", times.forward), ("backward", times.backward), ("optimizer", times.optimizer)]
                {
                    metrics.steps.with_label_values(&[part]).observe(seconds);
                }
            }
            Event::Progress(_) | Event::Epoch(_) | Event::Exchange(_) => {}
            Event::Log { .. } | Event::FirstStep { .. } | Event::Failed(_) | Event::Output(_) => {}
        }
    }

    fn metrics_text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing into memory cannot fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}

/// Start the runtime thread: HTTP on `port`, if any, and the signals.
pub(crate) fn start(port: Option<u16>, board: Arc<Mutex<Board>>, sender: Sender<Message>) -> Result<tokio::runtime::Handle, Failure> {
    let bug = |error: std::io::Error| Failure::new(ExitReason::Bug, "AgentNotStarted", error.to_string());
    let listener = match port {
        Some(port) => Some(std::net::TcpListener::bind(("0.0.0.0", port)).map_err(bug)?),
        None => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(bug)?;
    let handle = runtime.handle().clone();
    std::thread::spawn(move || {
        runtime.block_on(async {
            if let Some(listener) = listener {
                tokio::spawn(http(listener, board));
            }
            signals(sender).await;
        });
    });
    Ok(handle)
}

async fn signals(sender: Sender<Message>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else { return };
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if sender.send(Message::Terminate).is_err() {
            // The agent is done supervising; only the exit is left.
            std::future::pending::<()>().await;
        }
    }
}

async fn http(listener: std::net::TcpListener, board: Arc<Mutex<Board>>) {
    let progress = board.clone();
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/progress",
            get(move || {
                let body = progress.lock().ok().and_then(|board| serde_json::to_string(&board.progress).ok());
                async move {
                    body.map_or(StatusCode::INTERNAL_SERVER_ERROR.into_response(), |b| {
                        ([(header::CONTENT_TYPE, "application/json")], b).into_response()
                    })
                }
            }),
        )
        .route(
            "/metrics",
            get(move || {
                let body = board.lock().map(|board| board.metrics_text()).unwrap_or_default();
                async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], body).into_response() }
            }),
        );
    let listening = listener.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(listener));
    if let Ok(listener) = listening {
        let _ = axum::serve(listener, routes).await;
    }
}
