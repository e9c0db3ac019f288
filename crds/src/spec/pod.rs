//! What of a pod can be chosen: a small typed set instead of an inlined pod template, which alone would make the CRD
//! too large for plain `kubectl apply`.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, EmptyDirVolumeSource, HostPathVolumeSource, PersistentVolumeClaimVolumeSource, ResourceRequirements, SecretVolumeSource,
};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// How many pods and processes train together, as one gang.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!(self.gpus > 0 && self.processes > 1)", "spec.workers.processes is for CPUs; with spec.workers.gpus there is one process per GPU"))]
pub struct Workers {
    /// Number of pods. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1024))]
    pub replicas: i32,
    /// GPUs per pod, one process each; requested as `nvidia.com/gpu`. Default: 0, train on CPUs.
    #[serde(default)]
    #[schemars(range(min = 0, max = 16))]
    pub gpus: i32,
    /// Processes per pod when training on CPUs. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64))]
    pub processes: i32,
    /// CPU and memory of each pod. Each process gets its share of the requested CPUs as threads. Default: requests of 1 CPU per process and 2Gi, a limit of 8Gi per process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

fn one() -> i32 {
    1
}

impl Default for Workers {
    fn default() -> Self {
        Self { replicas: 1, gpus: 0, processes: 1, resources: None }
    }
}

impl Workers {
    /// Rank processes in each pod.
    #[must_use]
    pub fn processes_per_pod(&self) -> i32 {
        if self.gpus > 0 { self.gpus } else { self.processes }
    }

    /// Rank processes in the whole gang.
    #[must_use]
    pub fn world_size(&self) -> i32 {
        self.replicas * self.processes_per_pod()
    }
}

/// A volume: a name and exactly one source.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "[has(self.persistentVolumeClaim), has(self.emptyDir), has(self.configMap), has(self.secret), has(self.hostPath), has(self.nfs)].filter(x, x).size() == 1",
    "spec.volumes: each volume needs exactly one of persistentVolumeClaim, emptyDir, configMap, secret, hostPath, nfs"
))]
pub struct Volume {
    /// Name that volumeMounts refer to.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// A claim in the job's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>,
    /// Scratch space that lives as long as the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDirVolumeSource>,
    /// Files from a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapVolumeSource>,
    /// Files from a Secret; the operator itself never reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretVolumeSource>,
    /// A folder of the node; the `restricted` pod security standard forbids it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPathVolumeSource>,
    /// An NFS export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nfs: Option<NfsSource>,
}

/// An NFS export.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NfsSource {
    /// Host name or address of the server.
    #[schemars(length(min = 1, max = 253))]
    pub server: String,
    /// Exported path.
    #[schemars(length(min = 1, max = 1024))]
    pub path: String,
    /// True mounts it read-only. Default: false.
    #[serde(default)]
    pub read_only: bool,
}

/// Where a volume appears in the trainer's container.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Name of the volume.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Absolute path in the container.
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^/.*$"))]
    pub mount_path: String,
    /// A folder within the volume. Default: its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub sub_path: Option<String>,
    /// True mounts it read-only. Default: false.
    #[serde(default)]
    pub read_only: bool,
}
