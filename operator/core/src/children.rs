//! The children of one attempt: ConfigMap, headless Service, NetworkPolicy and Indexed Job, all of one name. Builders state their whole
//! intent and never send a partial object, because server-side apply would take an empty field for a wish.

use std::collections::BTreeMap;

use graft_crds::TransferJob;
use graft_crds::contract::{Device, Gang, HTTP_PORT, RENDEZVOUS_PORT, RunIdentity, TrainerConfig, run_id};
use graft_crds::names::{
    ANNOTATION_CONFIG, ANNOTATION_POD, CONFIG_FILE, FIELD_MANAGER, LABEL_ATTEMPT, LABEL_JOB, LABEL_JOB_UID, LABEL_MANAGED_BY, LABEL_RUN, attempt_name,
};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sha2::{Digest, Sha256};

use crate::plan::{Child, ChildKind, ChildRef};
use crate::pod;
use crate::quantity::cpus;
use crate::world::Settings;

/// One attempt of one run of a TransferJob: what all its children are made from.
pub(crate) struct Attempt<'a> {
    pub job: &'a TransferJob,
    pub settings: &'a Settings,
    pub number: u32,
    pub run: String,
    pub name: String,
}

impl<'a> Attempt<'a> {
    pub fn new(job: &'a TransferJob, settings: &'a Settings, number: u32) -> Self {
        let run = run_id(job.metadata.uid.as_deref().unwrap_or_default(), &job.spec.run_token);
        let name = attempt_name(job.metadata.name.as_deref().unwrap_or_default(), &run, number);
        Self { job, settings, number, run, name }
    }

    /// The labels of all children and pods.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.selector();
        labels.insert(LABEL_MANAGED_BY.into(), FIELD_MANAGER.into());
        labels.insert(LABEL_JOB.into(), self.job.metadata.name.clone().unwrap_or_default());
        labels
    }

    fn selector(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (LABEL_JOB_UID.into(), self.job.metadata.uid.clone().unwrap_or_default()),
            (LABEL_RUN.into(), self.run.clone()),
            (LABEL_ATTEMPT.into(), self.number.to_string()),
        ])
    }

    fn meta(&self, annotations: Option<BTreeMap<String, String>>) -> ObjectMeta {
        let owner = OwnerReference {
            api_version: "graft.dev/v1alpha1".into(),
            kind: "TransferJob".into(),
            name: self.job.metadata.name.clone().unwrap_or_default(),
            uid: self.job.metadata.uid.clone().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        };
        ObjectMeta {
            name: Some(self.name.clone()),
            namespace: self.job.metadata.namespace.clone(),
            labels: Some(self.labels()),
            annotations,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        }
    }

    /// The configuration that all pods of the attempt read.
    pub fn config(&self) -> TrainerConfig {
        let workers = &self.job.spec.workers;
        // A gang of one pod meets itself and needs no name service.
        let rendezvous_host = if workers.replicas > 1 { format!("{0}-0.{0}", self.name) } else { "127.0.0.1".into() };
        let gang = Gang {
            replicas: unsigned(workers.replicas),
            processes: unsigned(workers.processes_per_pod()),
            device: if workers.gpus > 0 { Device::Cuda } else { Device::Cpu },
            threads: self.threads(),
            rendezvous_host,
            rendezvous_port: RENDEZVOUS_PORT,
            http_port: HTTP_PORT,
        };
        let run = RunIdentity {
            namespace: self.job.metadata.namespace.clone().unwrap_or_default(),
            name: self.job.metadata.name.clone().unwrap_or_default(),
            id: self.run.clone(),
            attempt: self.number,
        };
        TrainerConfig::render(&self.job.spec, run, gang)
    }

    /// Threads of each process: its share of the pod's CPUs. A container sees all cores of its node, so it must be told.
    fn threads(&self) -> u32 {
        let resources = pod::resources(&self.job.spec.workers);
        let of = |list: &Option<BTreeMap<String, _>>| list.as_ref().and_then(|l| l.get("cpu")).and_then(cpus);
        let share =
            of(&resources.requests).or_else(|| of(&resources.limits)).unwrap_or(1.0) / f64::from(self.job.spec.workers.processes_per_pod().max(1));
        // Within 1 to 1024 the conversion is exact.
        share.floor().clamp(1.0, 1024.0) as u32
    }
}

fn unsigned(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(1)
}

/// The children of an attempt in the order in which they are created.
///
/// # Errors
/// The configuration cannot be written as JSON.
pub(crate) fn build(attempt: &Attempt<'_>) -> Result<Vec<Child>, serde_json::Error> {
    let text = serde_json::to_string_pretty(&attempt.config())?;
    let digest = hex_digest(text.as_bytes());
    Ok(vec![
        Child::ConfigMap(Box::new(config_map(attempt, text))),
        Child::Service(Box::new(service(attempt))),
        Child::NetworkPolicy(Box::new(network_policy(attempt))),
        Child::Job(Box::new(job(attempt, &digest))),
    ])
}

fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Digest of the pods that the spec asks for now. A Job's template cannot be changed, so one that was made for another
/// spec is known by it.
pub(crate) fn pod_digest(attempt: &Attempt<'_>) -> String {
    // The template always has string keys, so it is always JSON.
    hex_digest(&serde_json::to_vec(&pod::template(attempt, BTreeMap::new())).unwrap_or_default())
}

/// The children of an attempt by name, in the order in which they are deleted.
pub(crate) fn refs(name: &str, job_uid: Option<&str>) -> Vec<ChildRef> {
    let child = |kind, uid: Option<&str>| ChildRef { kind, name: name.to_owned(), uid: uid.map(str::to_owned) };
    vec![child(ChildKind::ConfigMap, None), child(ChildKind::Service, None), child(ChildKind::NetworkPolicy, None), child(ChildKind::Job, job_uid)]
}

fn config_map(attempt: &Attempt<'_>, text: String) -> ConfigMap {
    ConfigMap { metadata: attempt.meta(None), data: Some(BTreeMap::from([(CONFIG_FILE.into(), text)])), immutable: Some(true), binary_data: None }
}

fn service(attempt: &Attempt<'_>) -> Service {
    let port = |name: &str, port: u16| ServicePort {
        name: Some(name.into()),
        port: i32::from(port),
        target_port: Some(IntOrString::Int(i32::from(port))),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    };
    Service {
        metadata: attempt.meta(None),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(attempt.selector()),
            ports: Some(vec![port("http", HTTP_PORT), port("rendezvous", RENDEZVOUS_PORT)]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The pods of an attempt hear each other on every port, because collectives choose theirs, and everybody else only where progress
/// and metrics are served. A network without policies ignores it.
fn network_policy(attempt: &Attempt<'_>) -> NetworkPolicy {
    let own = LabelSelector { match_labels: Some(attempt.selector()), ..LabelSelector::default() };
    let gang = NetworkPolicyIngressRule {
        from: Some(vec![NetworkPolicyPeer { pod_selector: Some(own.clone()), ..NetworkPolicyPeer::default() }]),
        ports: None,
    };
    let http = NetworkPolicyPort { port: Some(IntOrString::Int(i32::from(HTTP_PORT))), protocol: Some("TCP".into()), end_port: None };
    let others = NetworkPolicyIngressRule { from: None, ports: Some(vec![http]) };
    NetworkPolicy {
        metadata: attempt.meta(None),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(own),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(vec![gang, others]),
            egress: None,
        }),
    }
}

fn job(attempt: &Attempt<'_>, digest: &str) -> Job {
    let replicas = attempt.job.spec.workers.replicas;
    let annotations = BTreeMap::from([(ANNOTATION_CONFIG.into(), digest.to_owned())]);
    Job {
        metadata: attempt.meta(Some(annotations.clone().into_iter().chain([(ANNOTATION_POD.into(), pod_digest(attempt))]).collect())),
        spec: Some(JobSpec {
            completion_mode: Some("Indexed".into()),
            completions: Some(replicas),
            parallelism: Some(replicas),
            backoff_limit: Some(0),
            pod_replacement_policy: Some("Failed".into()),
            template: pod::template(attempt, annotations),
            ..JobSpec::default()
        }),
        status: None,
    }
}
