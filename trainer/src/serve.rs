//! What an agent tells over HTTP: `/progress` for the operator, `/metrics` for Prometheus, `/healthz` for probes. It also
//! listens for SIGTERM, because both live on the same small runtime.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use graft_crds::contract::{ExitReason, Progress};

use crate::agent::Message;
use crate::doorstep::{Doorstep, Limited};
use crate::event::{Event, Failure};
use crate::metrics::Metrics;

/// Connections of one address, and of all, at a time.
const GUESTS_OF_ADDRESS: usize = 16;
const GUESTS: usize = 64;
/// How long one lasts: longer than Prometheus waits by default.
const VISIT: Duration = Duration::from_secs(15);

/// What the agent knows, for whoever asks.
pub(crate) struct Board {
    progress: Progress,
    /// The lowest rank of this pod: its progress is the pod's.
    speaker: Option<u32>,
    /// Process ids of this pod's ranks.
    ranks: Vec<u32>,
    metrics: Option<Metrics>,
}

impl Board {
    /// The board of a pod with so many GPUs.
    pub(crate) fn new(gpus: u32) -> Self {
        Self { progress: Progress::default(), speaker: None, ranks: Vec::new(), metrics: Metrics::new(gpus).ok() }
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// A rank runs under this process id.
    pub(crate) fn started(&mut self, process: u32) {
        self.ranks.push(process);
    }

    pub(crate) fn record(&mut self, rank: u32, event: &Event) {
        let speaks = *self.speaker.get_or_insert(rank) >= rank;
        let Some(metrics) = &self.metrics else { return };
        match event {
            Event::Progress(progress) if speaks => {
                self.speaker = Some(rank);
                metrics.progress(progress);
                self.progress = progress.clone();
            }
            Event::Epoch(row) if speaks => metrics.epoch(row),
            Event::Exchange(exchange) if speaks => metrics.exchange(exchange),
            Event::Steps { steps } => steps.iter().for_each(|times| metrics.step(times)),
            Event::Checkpoint { seconds } => metrics.checkpoint(*seconds),
            Event::Progress(_) | Event::Epoch(_) | Event::Exchange(_) => {}
            Event::Log { .. } | Event::FirstStep { .. } | Event::Failed(_) | Event::Output(_) => {}
        }
    }

    fn metrics_text(&self) -> Vec<u8> {
        self.metrics.as_ref().map(|metrics| metrics.text(&self.ranks)).unwrap_or_default()
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
        let limited = Limited { listener, doorstep: Doorstep::new(GUESTS_OF_ADDRESS, GUESTS), visit: VISIT };
        let _ = axum::serve(limited, routes).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::StepTimes;

    /// Series of the board after so many steps and epochs.
    fn series(steps: u64) -> usize {
        let mut board = Board::new(0);
        for step in 0..steps {
            board.record(0, &Event::Steps { steps: vec![StepTimes { samples: 16, data: 0.001 * step as f64, ..StepTimes::default() }] });
            let metrics = [("validation_auroc".to_owned(), 0.5), ("auroc".to_owned(), 1.0 / (step + 1) as f64)].into();
            board.record(0, &Event::Progress(Progress { step, epoch: step, metrics, ..Progress::default() }));
        }
        String::from_utf8(board.metrics_text()).unwrap().lines().filter(|line| !line.starts_with('#')).count()
    }

    #[test]
    fn a_longer_run_has_no_more_series() {
        assert!(series(2) > 50);
        assert_eq!(series(2), series(2000));
    }
}
