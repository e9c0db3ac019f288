//! `graft-operator trial`: makes one TransferJob, waits for its end and deletes it. It is what `helm test` runs, since the images
//! hold no kubectl. It uses no right of the operator, but those of its own pod's service account.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use graft_crds::TransferJob;
use graft_crds::status::Phase;
use graft_operator_core::trial::{self, Verdict};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, ResourceExt};

use crate::program;

/// Make a TransferJob, wait for its end and delete it.
#[derive(Parser)]
#[command(name = "graft-operator trial")]
struct Arguments {
    /// The TransferJob, as JSON.
    #[arg(long, env = "GRAFT_TRIAL_JOB")]
    job: String,
    /// How long it may take, in seconds; its pods must run after half of it.
    #[arg(long, env = "GRAFT_TRIAL_SECONDS", default_value_t = 240)]
    seconds: u64,
    /// Name of this pod. The job belongs to it, so that it goes even if this process cannot delete it.
    #[arg(long, env = "POD_NAME")]
    pod: String,
    /// UID of this pod.
    #[arg(long, env = "POD_UID")]
    pod_uid: String,
}

/// Run it; an error says how the job ended instead.
pub fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse_from(std::env::args_os().skip(1));
    program::to_its_end(run(&arguments))
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut job: TransferJob = serde_json::from_str(&arguments.job).context("the job is no TransferJob")?;
    let namespace = job.namespace().context("the job names no namespace")?;
    job.owner_references_mut().push(OwnerReference {
        api_version: "v1".into(),
        kind: "Pod".into(),
        name: arguments.pod.clone(),
        uid: arguments.pod_uid.clone(),
        ..OwnerReference::default()
    });
    let jobs: Api<TransferJob> = Api::namespaced(Client::try_default().await.context("connect to the cluster")?, &namespace);
    let name = jobs.create(&PostParams::default(), &job).await.context("make the job")?.name_any();
    tracing::info!(namespace, job = name, "made");
    let end = watch(&jobs, &name, Duration::from_secs(arguments.seconds)).await;
    jobs.delete(&name, &DeleteParams::foreground()).await.context("delete the job")?;
    end
}

/// Say each phase, until the last.
async fn watch(jobs: &Api<TransferJob>, name: &str, patience: Duration) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut last = None;
    loop {
        let status = jobs.get(name).await.context("read the job")?.status.unwrap_or_default();
        if last != Some(status.phase) {
            last = Some(status.phase);
            tracing::info!(job = name, phase = status.phase.map(Phase::name), message = status.message, metrics = ?status.metrics);
        }
        match trial::verdict(&status, began.elapsed(), patience) {
            Verdict::Passed => return Ok(()),
            Verdict::Failed(why) => bail!(why),
            Verdict::NotYet => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}
