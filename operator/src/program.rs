//! The operator's program: watches TransferJobs, their Jobs and pods, and carries out what `graft-operator-core` decides.
//! All state is in the API server; this process may be killed at any time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::http::{HeaderValue, header};
use clap::Parser;
use futures::StreamExt;
use futures::channel::mpsc;
use graft_crds::names::LABEL_JOB;
use graft_operator_core::{JobView, PodView, Settings};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::client::ClientBuilder;
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, predicates};
use kube::{Api, Client, Resource, ResourceExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::{LogFormat, OperatorConfig, Scrapers};
use crate::gatekeeper::Gatekeeper;
use crate::reconcile::Context;
use crate::tracer::Tracer;
use crate::{GuardedJob, http, metrics, reconcile, stop, trial};

/// Objects in one page of a list: keeps the peak of memory low.
pub(crate) const PAGE: u32 = 50;

/// Run `graft-operator`, or what its first argument names. `tracer` makes what hears of reconciles, once there is a log. It is
/// no generic argument: all of the program would be compiled again for each binary.
///
/// # Errors
/// It cannot be configured, or cannot reach the cluster.
pub fn main(tracer: fn() -> anyhow::Result<Option<Arc<dyn Tracer>>>) -> anyhow::Result<()> {
    match std::env::args_os().nth(1).as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("trial") => return trial::main(),
        Some("stop") => return stop::main(),
        Some(_) | None => {}
    }
    let config = OperatorConfig::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.init(),
    }
    let tracer = tracer()?;
    // Two threads: decoding a large list must not keep /livez waiting. More would only add memory.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("start the runtime")?;
    let result = runtime.block_on(run(config, tracer.clone()));
    if let Some(tracer) = tracer {
        tracer.close();
    }
    result
}

/// Runs a task that a hook of the chart starts, on one thread, and says in words what happens.
pub(crate) fn to_its_end(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_ansi(false).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(task)
}

/// Run until SIGTERM or SIGINT.
async fn run(config: OperatorConfig, tracer: Option<Arc<dyn Tracer>>) -> anyhow::Result<()> {
    let mut cluster = kube::Config::infer().await.context("find the cluster: neither a kubeconfig nor a service account is usable")?;
    // Audit logs and the API server's own metrics tell clients apart by this name.
    cluster.headers.push((header::USER_AGENT, HeaderValue::from_static(concat!("graft-operator/", env!("CARGO_PKG_VERSION")))));
    let metrics = metrics::Metrics::new(config.concurrency())?;
    let client = ClientBuilder::try_from(cluster).context("connect to the cluster")?.with_layer(&metrics::Requests(metrics.clone())).build();
    let (triggers, asked) = mpsc::unbounded();
    let settings = Settings { trainer_image: config.trainer_image.clone(), progress_interval_seconds: i64::from(config.progress_interval_seconds) };
    let context = Arc::new(Context { tracer, ..Context::new(client.clone(), settings, metrics.clone(), triggers) });
    let (store, writer) = reflector::store();
    let stop = stop_on_signal()?;

    let listener = tokio::net::TcpListener::bind(config.listen).await.with_context(|| format!("listen on {}", config.listen))?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), listen = %config.listen, namespace = config.namespace, concurrency = config.concurrency(), "graft-operator starts");
    let gatekeeper = match config.scrapers {
        Scrapers::Anyone => None,
        Scrapers::Authorized => Some(Gatekeeper::new(client.clone())),
    };
    let router = http::router(http::Shared { context: context.clone(), store: store.clone() }, gatekeeper);
    let server = http::serve(listener, config.tls_folder.as_deref(), router, stopped(stop.clone()))?;

    let namespace = config.namespace.as_deref();
    tokio::spawn(follow_jobs(scoped(&client, namespace), context.clone()));
    tokio::spawn(follow_pods(scoped(&client, namespace), context.clone()));
    // Nothing is decided before Jobs and pods are known: what is not listed yet would seem to be gone.
    let mut early = stop.clone();
    loop {
        if context.jobs.is_ready() && context.pods.is_ready() {
            break;
        }
        tokio::select! {
            _ = early.changed() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }

    let jobs = watcher(scoped::<GuardedJob>(&client, namespace), watcher::Config::default().page_size(PAGE));
    let forgetful = context.clone();
    let changes = metrics.clone();
    let known = store.clone();
    let jobs = jobs
        .default_backoff()
        .modify(|job| job.managed_fields_mut().clear())
        .reflect(writer)
        .inspect(move |event| forget(&forgetful, &known, event))
        .applied_objects()
        .predicate_filter(predicates::generation, Default::default())
        .inspect(move |job| {
            if let Ok(job) = job {
                changes.asked(&ObjectRef::from_obj(job));
            }
        });
    Controller::for_stream(jobs, store)
        .with_config(controller::Config::default().concurrency(config.concurrency()))
        .reconcile_on(asked.inspect(move |reference| metrics.asked(reference)))
        .graceful_shutdown_on(stopped(stop))
        .run(reconcile::reconcile, reconcile::on_error, context)
        .for_each(async |result| {
            if let Err(error) = result {
                tracing::debug!(%error, "controller");
            }
        })
        .await;
    server.await.context("the HTTP server failed")??;
    tracing::info!("graft-operator stopped");
    Ok(())
}

/// The namespace to work in, or all.
pub(crate) fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn labelled() -> watcher::Config {
    watcher::Config::default().labels(LABEL_JOB).page_size(PAGE)
}

async fn follow_jobs(api: Api<Job>, context: Arc<Context>) {
    context.jobs.follow(watcher(api, labelled()).default_backoff(), JobView::of).await;
}

async fn follow_pods(api: Api<Pod>, context: Arc<Context>) {
    context.pods.follow(watcher(api, labelled()).default_backoff(), PodView::of).await;
}

fn forget(context: &Context, store: &Store<GuardedJob>, event: &Result<Event<GuardedJob>, watcher::Error>) {
    match event {
        Ok(Event::Delete(job)) => {
            let uid = job.meta().uid.as_deref().unwrap_or_default();
            context.memory.forget(uid);
            context.metrics.forget(uid);
            if let Some(tracer) = &context.tracer {
                tracer.forget(uid);
            }
        }
        Ok(Event::InitDone) => context.memory.keep(&store.state().iter().filter_map(|j| j.meta().uid.clone()).collect::<HashSet<_>>()),
        Ok(Event::Init | Event::InitApply(_) | Event::Apply(_)) => {}
        Err(error) => tracing::warn!(kind = "TransferJob", %error, "watch failed, trying again"),
    }
}

/// Turns true on SIGTERM or SIGINT.
fn stop_on_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop; running reconciles are finished first");
        // The receivers live as long as the process.
        let _ = sender.send(true);
    });
    Ok(receiver)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, which also is a stop.
    let _ = stop.wait_for(|stopped| *stopped).await;
}
