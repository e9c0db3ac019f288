//! The pod of a gang: what the user may choose of it, under the `restricted` pod security standard.

use std::collections::BTreeMap;

use graft_crds::contract::{HTTP_PORT, RENDEZVOUS_PORT};
use graft_crds::names::{CONFIG_DIR, CONFIG_FILE, CONTAINER, GANG_TOKEN, TRAINER_UID};
use graft_crds::spec::{Mount, Volume as JobVolume, Workers};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, NFSVolumeSource, ObjectFieldSelector,
    PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile, SecurityContext, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::children::Attempt;

const GPU: &str = "nvidia.com/gpu";
const CONFIG_VOLUME: &str = "graft-config";
const TMP_VOLUME: &str = "graft-tmp";
const SHM_VOLUME: &str = "graft-shm";
/// A node that does not answer for so long has lost its pods, in seconds; Kubernetes' own default is 300.
const NODE_PATIENCE: i64 = 30;
/// Time for a last checkpoint after SIGTERM, in seconds.
const GRACE: i64 = 30;
/// Most that a pod may write to `/tmp`: the trainer keeps nothing there, libraries a little.
const TMP_SIZE: &str = "2Gi";
/// Most that the processes of a pod may share; what they do share counts as the pod's memory.
const SHM_SIZE: &str = "8Gi";
/// Most memory of each process of a pod whose author names none, in Gi.
const MEMORY_LIMIT: i32 = 8;

/// The template of an attempt's pods.
pub fn template(attempt: &Attempt<'_>, annotations: BTreeMap<String, String>) -> PodTemplateSpec {
    let spec = &attempt.job.spec;
    let metadata = ObjectMeta { labels: Some(attempt.labels()), annotations: Some(annotations), ..ObjectMeta::default() };
    let pod = PodSpec {
        restart_policy: Some("Never".into()),
        subdomain: Some(attempt.name.clone()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        service_account_name: spec.service_account_name.clone(),
        node_selector: (!spec.node_selector.is_empty()).then(|| spec.node_selector.clone()),
        tolerations: Some(tolerations(&spec.tolerations)),
        termination_grace_period_seconds: Some(GRACE),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(TRAINER_UID),
            run_as_group: Some(TRAINER_UID),
            fs_group: Some(TRAINER_UID),
            fs_group_change_policy: Some("OnRootMismatch".into()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        volumes: Some(volumes(attempt)),
        containers: vec![container(attempt)],
        ..PodSpec::default()
    };
    PodTemplateSpec { metadata: Some(metadata), spec: Some(pod) }
}

fn container(attempt: &Attempt<'_>) -> Container {
    let spec = &attempt.job.spec;
    let port = |name: &str, port: u16| ContainerPort {
        name: Some(name.into()),
        container_port: i32::from(port),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    };
    Container {
        name: CONTAINER.into(),
        image: Some(spec.image.clone().unwrap_or_else(|| attempt.settings.trainer_image.clone())),
        image_pull_policy: Some("IfNotPresent".into()),
        args: Some(vec!["agent".into(), "--config".into(), format!("{CONFIG_DIR}/{CONFIG_FILE}")]),
        env: Some(environment(&spec.env)),
        ports: Some(vec![port("http", HTTP_PORT), port("rendezvous", RENDEZVOUS_PORT)]),
        resources: Some(resources(&spec.workers)),
        volume_mounts: Some(mounts(&spec.volume_mounts, spec.workers.gpus)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// What a pod asks for: the user's resources, or one CPU per process and 2Gi, which may become 8Gi per process; GPUs on top.
pub fn resources(workers: &Workers) -> ResourceRequirements {
    let mut resources = workers.resources.clone().unwrap_or_else(|| ResourceRequirements {
        requests: Some(BTreeMap::from([
            ("cpu".into(), Quantity(workers.processes_per_pod().to_string())),
            ("memory".into(), Quantity("2Gi".into())),
        ])),
        limits: Some(BTreeMap::from([("memory".into(), Quantity(format!("{}Gi", MEMORY_LIMIT.saturating_mul(workers.processes_per_pod()))))])),
        ..ResourceRequirements::default()
    });
    if workers.gpus > 0 {
        resources.limits.get_or_insert_default().insert(GPU.into(), Quantity(workers.gpus.to_string()));
    }
    resources
}

/// The user's variables, and before them those that the trainer needs where the user does not set them.
fn environment(user: &[EnvVar]) -> Vec<EnvVar> {
    let own = |name: &str, value: Option<&str>, field: Option<&str>| EnvVar {
        name: name.into(),
        value: value.map(str::to_owned),
        value_from: field.map(|path| EnvVarSource {
            field_ref: Some(ObjectFieldSelector { api_version: Some("v1".into()), field_path: path.into() }),
            ..EnvVarSource::default()
        }),
    };
    // The root file system is read-only; what wants a home finds one.
    let defaults = [
        own("POD_NAME", None, Some("metadata.name")),
        own("HOME", Some("/tmp"), None),
        // Made by the API server for each Job, so for each attempt: who cannot read the namespace's Jobs cannot join the gang.
        own(GANG_TOKEN, None, Some("metadata.labels['batch.kubernetes.io/controller-uid']")),
    ];
    let missing = defaults.into_iter().filter(|d| user.iter().all(|u| u.name != d.name));
    missing.chain(user.iter().cloned()).collect()
}

fn tolerations(user: &[Toleration]) -> Vec<Toleration> {
    let mut all = user.to_vec();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if all.iter().all(|t| t.key.as_deref() != Some(key)) {
            all.push(Toleration {
                key: Some(key.into()),
                operator: Some("Exists".into()),
                effect: Some("NoExecute".into()),
                toleration_seconds: Some(NODE_PATIENCE),
                value: None,
            });
        }
    }
    all
}

fn volumes(attempt: &Attempt<'_>) -> Vec<Volume> {
    let spec = &attempt.job.spec;
    let mut all: Vec<Volume> = spec.volumes.iter().map(volume).collect();
    all.push(Volume {
        name: CONFIG_VOLUME.into(),
        config_map: Some(ConfigMapVolumeSource { name: attempt.name.clone(), ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    });
    if !mounted(&spec.volume_mounts, "/tmp") {
        all.push(scratch(TMP_VOLUME, None, TMP_SIZE));
    }
    if spec.workers.gpus > 0 && !mounted(&spec.volume_mounts, "/dev/shm") {
        all.push(scratch(SHM_VOLUME, Some("Memory"), SHM_SIZE));
    }
    all
}

fn scratch(name: &str, medium: Option<&str>, size: &str) -> Volume {
    let source = EmptyDirVolumeSource { medium: medium.map(str::to_owned), size_limit: Some(Quantity(size.into())) };
    Volume { name: name.into(), empty_dir: Some(source), ..Volume::default() }
}

fn volume(v: &JobVolume) -> Volume {
    Volume {
        name: v.name.clone(),
        persistent_volume_claim: v.persistent_volume_claim.clone(),
        empty_dir: v.empty_dir.clone(),
        config_map: v.config_map.clone(),
        secret: v.secret.clone(),
        host_path: v.host_path.clone(),
        nfs: v.nfs.as_ref().map(|n| NFSVolumeSource { server: n.server.clone(), path: n.path.clone(), read_only: Some(n.read_only) }),
        ..Volume::default()
    }
}

fn mounted(user: &[Mount], path: &str) -> bool {
    user.iter().any(|m| m.mount_path.trim_end_matches('/') == path)
}

fn mounts(user: &[Mount], gpus: i32) -> Vec<VolumeMount> {
    let own = |name: &str, path: &str, read_only: Option<bool>| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only,
        ..VolumeMount::default()
    };
    let mut all: Vec<VolumeMount> = user
        .iter()
        .map(|m| VolumeMount {
            name: m.name.clone(),
            mount_path: m.mount_path.clone(),
            sub_path: m.sub_path.clone(),
            read_only: Some(m.read_only),
            ..VolumeMount::default()
        })
        .collect();
    all.push(own(CONFIG_VOLUME, CONFIG_DIR, Some(true)));
    if !mounted(user, "/tmp") {
        all.push(own(TMP_VOLUME, "/tmp", None));
    }
    if gpus > 0 && !mounted(user, "/dev/shm") {
        all.push(own(SHM_VOLUME, "/dev/shm", None));
    }
    all
}
