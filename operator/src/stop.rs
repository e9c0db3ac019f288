//! `graft-operator stop`: stops all gangs, so that nothing of them runs without an operator. It is what `helm uninstall` runs first
//! where `uninstall.jobs` is `stop`. The operator itself goes before the gangs, or it would start them again. It uses no right
//! of the operator, but those of its own pod's service account.

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use futures::channel::mpsc;
use graft_crds::names::{LABEL_JOB, LABEL_JOB_UID};
use graft_operator_core::{JobView, PodView, Settings, World, leave};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::GuardedJob;
use crate::metrics::Metrics;
use crate::program::{self, PAGE, scoped};
use crate::reconcile::{Context, carry_out};

/// Stop the operator, then all gangs.
#[derive(Parser)]
#[command(name = "graft-operator stop")]
struct Arguments {
    /// The operator's Deployment, in the namespace of this pod.
    #[arg(long, env = "GRAFT_STOP_DEPLOYMENT")]
    deployment: String,
    /// The only namespace whose gangs are stopped. Default: all.
    #[arg(long, env = "GRAFT_NAMESPACE")]
    namespace: Option<String>,
    /// How long it may take, in seconds.
    #[arg(long, env = "GRAFT_STOP_SECONDS", default_value_t = 240)]
    seconds: u64,
}

/// Run it; an error says what still runs.
pub fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse_from(std::env::args_os().skip(1));
    program::to_its_end(run(&arguments))
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(arguments.seconds);
    let client = Client::try_default().await.context("connect to the cluster")?;
    stop_operator(&client, &arguments.deployment, until).await?;
    let settings = Settings { trainer_image: String::new(), progress_interval_seconds: 1 };
    let context = Context::new(client, settings, Metrics::new(1)?, mpsc::unbounded().0);
    loop {
        let passed = stop_gangs(&context, arguments.namespace.as_deref()).await;
        match passed {
            Ok(Left { pods: 0, plans: 0 }) => {
                tracing::info!("no gang runs");
                return Ok(());
            }
            Ok(left) if Instant::now() > until => {
                bail!("{} pods of gangs still run after {} s; `kubectl get pods -A -l {LABEL_JOB}` shows them", left.pods, arguments.seconds)
            }
            Err(error) if Instant::now() > until => return Err(error),
            Ok(left) => tracing::info!(pods = left.pods, "gangs stop"),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "trying again"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// No operator starts anything from here on: its pod finishes the reconciles that run, and no other comes.
async fn stop_operator(client: &Client, name: &str, until: Instant) -> anyhow::Result<()> {
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let none = Patch::Merge(serde_json::json!({"spec": {"replicas": 0}}));
    let scale = match deployments.patch_scale(name, &PatchParams::default(), &none).await {
        Ok(scale) => scale,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(error).context("scale the operator down"),
    };
    let selector = scale.status.and_then(|status| status.selector).with_context(|| format!("the Deployment {name} selects no pods"))?;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    loop {
        let found = pods.list(&ListParams::default().labels(&selector)).await.context("list the operator's pods")?;
        if !found.iter().filter_map(PodView::of).any(|pod| pod.is_waited_for(Timestamp::now())) {
            tracing::info!(deployment = name, "the operator is stopped");
            return Ok(());
        }
        if Instant::now() > until {
            bail!("the operator still runs; `kubectl get pods -l {selector}` shows its pod");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// What was still to be done.
struct Left {
    /// Pods of gangs that may still compute.
    pods: usize,
    /// Jobs for which something had to be written or deleted.
    plans: usize,
}

/// One look at all jobs. What was stopped shows in the next.
async fn stop_gangs(context: &Context, namespace: Option<&str>) -> anyhow::Result<Left> {
    let now = Timestamp::now();
    let mut jobs = views(scoped::<Job>(&context.client, namespace), JobView::of).await.context("list the gangs")?;
    let mut pods = views(scoped::<Pod>(&context.client, namespace), PodView::of).await.context("list the pods of the gangs")?;
    let mut left = Left { pods: pods.values().flatten().filter(|pod| pod.is_waited_for(now)).count(), plans: 0 };
    for guarded in list(scoped::<GuardedJob>(&context.client, namespace), ListParams::default()).await.context("list the jobs")? {
        let uid = guarded.meta().uid.clone().unwrap_or_default();
        let job = match guarded.0 {
            Ok(job) => job,
            Err(invalid) => {
                tracing::warn!(error = invalid.error, "a TransferJob cannot be read and is left alone");
                continue;
            }
        };
        let world = World {
            now,
            settings: context.settings.clone(),
            jobs: jobs.remove(&uid).unwrap_or_default(),
            pods: pods.remove(&uid).unwrap_or_default(),
            progress: None,
            progress_written: None,
            job,
        };
        let plan = leave(&world);
        if !plan.is_empty() {
            left.plans += 1;
            carry_out(context, &world, plan).await.with_context(|| format!("stop {}", world.job.name_any()))?;
        }
    }
    Ok(left)
}

/// Views of what belongs to TransferJobs, by the UID of theirs.
async fn views<K, V>(api: Api<K>, view: fn(&K) -> Option<V>) -> kube::Result<HashMap<String, Vec<V>>>
where
    K: Resource + DeserializeOwned + Clone + Debug,
{
    let mut found: HashMap<String, Vec<V>> = HashMap::new();
    for object in list(api, ListParams::default().labels(LABEL_JOB)).await? {
        if let (Some(uid), Some(view)) = (object.labels().get(LABEL_JOB_UID), view(&object)) {
            found.entry(uid.clone()).or_default().push(view);
        }
    }
    Ok(found)
}

/// All objects, a page at a time.
async fn list<K>(api: Api<K>, which: ListParams) -> kube::Result<Vec<K>>
where
    K: DeserializeOwned + Clone + Debug,
{
    let mut which = which.limit(PAGE);
    let mut all = Vec::new();
    loop {
        let page = api.list(&which).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => which = which.continue_token(&token),
            None => return Ok(all),
        }
    }
}
