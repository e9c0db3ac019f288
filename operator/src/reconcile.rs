//! One reconcile: observe, decide, carry out. What is decided stands in `graft-operator-core`; here are only requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::channel::mpsc::UnboundedSender;
use graft_crds::TransferJob;
use graft_crds::names::{FIELD_MANAGER, STATUS_MANAGER};
use graft_operator_core::{
    Child, ChildKind, ChildRef, EventKind, JobView, Plan, PodView, Settings, World, decide, expected_job, progress_target, rejected,
};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::GuardedJob;
use crate::index::Table;
use crate::memory::Memory;
use crate::metrics::{Metrics, Outcome};
use crate::pull::pull;
use crate::tracer::{Reconcile, Tracer};

/// Longest time for one reconcile; the client's own retries could take many minutes.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A job that runs is looked at this often even when nothing happens.
const RESYNC: Duration = Duration::from_secs(600);
/// When somebody else wrote first, the watch brings the newer version soon.
const AFTER_CONFLICT: Duration = Duration::from_secs(1);

/// What all reconciles share.
pub struct Context {
    /// Client of the API server.
    pub client: Client,
    /// Settings of the core.
    pub settings: Settings,
    /// Jobs by TransferJob.
    pub jobs: Table<JobView>,
    /// Pods by TransferJob.
    pub pods: Table<PodView>,
    /// What is remembered between reconciles.
    pub memory: Memory,
    /// Sends events.
    pub recorder: Recorder,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Hears what happens, if there is one.
    pub tracer: Option<Arc<dyn Tracer>>,
}

impl Context {
    /// Nothing is known and nobody traces; `triggers` gets the TransferJobs that must be looked at.
    pub fn new(client: Client, settings: Settings, metrics: Arc<Metrics>, triggers: UnboundedSender<ObjectRef<GuardedJob>>) -> Self {
        let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: std::env::var("POD_NAME").ok() };
        Self {
            settings,
            jobs: Table::new(triggers.clone()),
            pods: Table::new(triggers),
            memory: Memory::default(),
            recorder: Recorder::new(client.clone(), reporter),
            metrics,
            tracer: None,
            client,
        }
    }
}

/// Why a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The stored object is no TransferJob of this version.
    #[error("the TransferJob cannot be read: {0}; was it written under another version of the CRD?")]
    Unreadable(String),
    /// The API server did not do what it was asked.
    #[error("{what}: {source}")]
    Api {
        /// What it was asked.
        what: &'static str,
        /// What it said.
        #[source]
        source: Box<kube::Error>,
    },
    /// It took too long.
    #[error("not done within 60 s")]
    Timeout,
}

fn api_error(what: &'static str) -> impl FnOnce(kube::Error) -> ReconcileError {
    move |source| ReconcileError::Api { what, source: Box::new(source) }
}

/// The controller's entry: measures, bounds the time and keeps the books on errors.
///
/// # Errors
/// See [`ReconcileError`].
pub async fn reconcile(guarded: Arc<GuardedJob>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let (began, start) = (Instant::now(), Timestamp::now());
    context.metrics.begin(&guarded);
    let result = match &guarded.0 {
        Ok(job) => tokio::time::timeout(TIMEOUT, reconcile_job(job, &context)).await.unwrap_or(Err(ReconcileError::Timeout)),
        Err(invalid) => Err(ReconcileError::Unreadable(invalid.error.clone())),
    };
    let outcome = match &result {
        Ok(action) if *action == Action::await_change() => Outcome::Success,
        Ok(_) => Outcome::RequeueAfter,
        Err(_) => Outcome::Error,
    };
    context.metrics.end(&guarded, outcome, began.elapsed().as_secs_f64());
    if let (Some(tracer), Ok(job)) = (&context.tracer, &guarded.0) {
        let error = result.as_ref().err().map(ToString::to_string);
        tracer.reconciled(job, &Reconcile { start, end: Timestamp::now(), outcome, error });
    }
    if result.is_ok() {
        context.memory.succeeded(guarded.meta().uid.as_deref().unwrap_or_default());
    }
    result
}

/// What follows an error: a try after a growing, jittered delay.
pub fn on_error(guarded: Arc<GuardedJob>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let delay = context.memory.failed(guarded.meta().uid.as_deref().unwrap_or_default());
    tracing::warn!(namespace = guarded.namespace(), name = guarded.name_any(), %error, delay_seconds = delay.as_secs_f64(), "reconcile failed");
    Action::requeue(delay)
}

async fn reconcile_job(watched: &TransferJob, context: &Context) -> Result<Action, ReconcileError> {
    let uid = watched.uid().unwrap_or_default();
    let job = context.memory.freshest(&uid, watched);
    let mut world = observe(job, &uid, context).await?;
    if let Some(target) = progress_target(&world) {
        let interval = Duration::from_secs(u64::try_from(context.settings.progress_interval_seconds).unwrap_or(10));
        if context.memory.may_pull(&uid, interval) {
            let answer = pull(&target).await;
            context.metrics.pulled(&answer);
            match answer {
                Ok(progress) => context.memory.pulled(&uid, target.attempt.clone(), progress),
                Err(error) => tracing::debug!(name = world.job.name_any(), %error, "no progress"),
            }
        }
        world.progress = context.memory.progress(&uid, &target.attempt);
    }
    let plan = decide(&world);
    let next = plan.next;
    carry_out(context, &world, plan).await.map(|done| match (done, next) {
        (Done::Conflict, _) => Action::requeue(AFTER_CONFLICT),
        (Done::All, Some(next)) => Action::requeue(Duration::try_from(next).unwrap_or_default().min(RESYNC)),
        (Done::All, None) => Action::await_change(),
    })
}

async fn observe(job: TransferJob, uid: &str, context: &Context) -> Result<World, ReconcileError> {
    let mut world = World {
        now: Timestamp::now(),
        settings: context.settings.clone(),
        jobs: context.jobs.of(uid),
        pods: context.pods.of(uid),
        progress: None,
        progress_written: context.memory.progress_written(uid),
        job,
    };
    // The watch may be behind our own write. A Job that seems to be gone is asked for before anything follows from that.
    if let Some(name) = expected_job(&world).filter(|name| world.jobs.iter().all(|j| j.name != *name)) {
        let jobs: Api<Job> = namespaced(context, &world.job);
        let found = jobs.get_opt(&name).await.map_err(api_error("get the Job"))?;
        let ours = found.filter(|j| j.owner_references().iter().any(|o| o.uid == uid));
        world.jobs.extend(ours.as_ref().and_then(JobView::of));
    }
    Ok(world)
}

/// How far a plan was carried out.
pub enum Done {
    /// All of it is done.
    All,
    /// Somebody else wrote the job first.
    Conflict,
}

/// Children, then status, then deletions, then events. An interruption anywhere leaves a world from which the same
/// decision follows again.
pub async fn carry_out(context: &Context, world: &World, plan: Plan) -> Result<Done, ReconcileError> {
    if let Err(error) = apply(context, &world.job, &plan.apply).await {
        if let ReconcileError::Api { source, .. } = &error
            && let kube::Error::Api(status) = source.as_ref()
            && (400..500).contains(&status.code)
            && status.code != 409
            && status.code != 429
        {
            let plan = rejected(world, &status.reason, &status.message);
            if let Done::All = write_status(context, world, &plan).await? {
                tell(context, &world.job, &plan).await;
            }
        }
        return Err(error);
    }
    if let Done::Conflict = write_status(context, world, &plan).await? {
        return Ok(Done::Conflict);
    }
    for child in &plan.delete {
        delete(context, &world.job, child).await?;
    }
    tell(context, &world.job, &plan).await;
    Ok(Done::All)
}

fn namespaced<K>(context: &Context, job: &TransferJob) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    Api::namespaced(context.client.clone(), &job.namespace().unwrap_or_default())
}

/// The Job comes last: where it exists, its companions do.
async fn apply(context: &Context, job: &TransferJob, children: &[Child]) -> Result<(), ReconcileError> {
    let (jobs, companions): (Vec<_>, Vec<_>) = children.iter().partition(|c| matches!(c, Child::Job(_)));
    futures::future::try_join_all(companions.into_iter().map(|c| apply_one(context, job, c))).await?;
    futures::future::try_join_all(jobs.into_iter().map(|c| apply_one(context, job, c))).await?;
    Ok(())
}

async fn apply_one(context: &Context, job: &TransferJob, child: &Child) -> Result<(), ReconcileError> {
    match child {
        Child::ConfigMap(object) => patch::<ConfigMap>(&namespaced(context, job), object).await.map_err(api_error("create the ConfigMap")),
        Child::Service(object) => patch::<Service>(&namespaced(context, job), object).await.map_err(api_error("create the Service")),
        Child::NetworkPolicy(object) => {
            patch::<NetworkPolicy>(&namespaced(context, job), object).await.map_err(api_error("create the NetworkPolicy"))
        }
        Child::Job(object) => patch::<Job>(&namespaced(context, job), object).await.map_err(api_error("create the Job")),
    }
}

async fn patch<K>(api: &Api<K>, object: &K) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + std::fmt::Debug,
{
    api.patch(&object.name_any(), &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(object)).await.map(drop)
}

async fn delete(context: &Context, job: &TransferJob, child: &ChildRef) -> Result<(), ReconcileError> {
    let preconditions = child.uid.clone().map(|uid| Preconditions { uid: Some(uid), resource_version: None });
    let params = DeleteParams { preconditions, ..DeleteParams::background() };
    let result = match child.kind {
        ChildKind::ConfigMap => namespaced::<ConfigMap>(context, job).delete(&child.name, &params).await.map(drop),
        ChildKind::Service => namespaced::<Service>(context, job).delete(&child.name, &params).await.map(drop),
        ChildKind::NetworkPolicy => namespaced::<NetworkPolicy>(context, job).delete(&child.name, &params).await.map(drop),
        ChildKind::Job => namespaced::<Job>(context, job).delete(&child.name, &params).await.map(drop),
    };
    match result {
        // Gone, or another object of that name.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        other => other.map_err(api_error("delete a child")),
    }
}

/// Write the status over exactly the version it was decided from.
async fn write_status(context: &Context, world: &World, plan: &Plan) -> Result<Done, ReconcileError> {
    let Some(status) = &plan.status else { return Ok(Done::All) };
    let job = &world.job;
    let body = serde_json::json!({
        "apiVersion": TransferJob::api_version(&()),
        "kind": TransferJob::kind(&()),
        "metadata": {"name": job.name_any(), "resourceVersion": job.resource_version()},
        "status": status,
    });
    let api: Api<TransferJob> = namespaced(context, job);
    match api.patch_status(&job.name_any(), &PatchParams::apply(STATUS_MANAGER).force(), &Patch::Apply(body)).await {
        Ok(mut written) => {
            written.managed_fields_mut().clear();
            let progress_at = plan.carries_progress.then_some(world.now);
            context.memory.wrote(&job.uid().unwrap_or_default(), job.resource_version().unwrap_or_default(), written, progress_at);
            context.metrics.status_written(job, status, world.now);
            if let Some(tracer) = &context.tracer {
                tracer.status_written(job, status, world.now);
            }
            tracing::info!(
                namespace = job.namespace(),
                name = job.name_any(),
                phase = status.phase.map(|p| p.name()),
                message = status.message,
                "status written"
            );
            Ok(Done::All)
        }
        // Written by somebody else in between, or deleted: the watch brings the news.
        Err(kube::Error::Api(answer)) if answer.code == 409 || answer.code == 404 => Ok(Done::Conflict),
        Err(error) => Err(api_error("write the status")(error)),
    }
}

/// Events are a courtesy: one that cannot be sent is logged and not tried again.
async fn tell(context: &Context, job: &TransferJob, plan: &Plan) {
    for event in &plan.events {
        let event = Event {
            type_: match event.kind {
                EventKind::Normal => EventType::Normal,
                EventKind::Warning => EventType::Warning,
            },
            reason: event.reason.clone(),
            note: Some(event.message.clone()),
            action: "Reconcile".into(),
            secondary: None,
        };
        if let Err(error) = context.recorder.publish(&event, &job.object_ref(&())).await {
            tracing::warn!(name = job.name_any(), %error, reason = event.reason, "event not sent");
        }
    }
}
