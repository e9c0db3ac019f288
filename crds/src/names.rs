//! Every string that Kubernetes sees: labels, annotations, names of children, condition types and event reasons.

/// Manager of fields in children.
pub const FIELD_MANAGER: &str = "graft-operator";
/// Manager of the fields of status.
pub const STATUS_MANAGER: &str = "graft-operator-status";

/// `app.kubernetes.io/managed-by`.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Name of the TransferJob; every child and pod carries it, and every watch selects it.
pub const LABEL_JOB: &str = "graft.dev/job";
/// UID of the TransferJob.
pub const LABEL_JOB_UID: &str = "graft.dev/job-uid";
/// Identity of the run.
pub const LABEL_RUN: &str = "graft.dev/run";
/// Number of the attempt.
pub const LABEL_ATTEMPT: &str = "graft.dev/attempt";

/// SHA-256 of the trainer's configuration, on the Job and its pods.
pub const ANNOTATION_CONFIG: &str = "graft.dev/config-sha256";
/// SHA-256 of the pod template that the spec asked for, on the Job.
pub const ANNOTATION_POD: &str = "graft.dev/pod-sha256";

/// Condition: stopped by spec.suspend.
pub const CONDITION_SUSPENDED: &str = "Suspended";
/// Condition: the whole gang runs.
pub const CONDITION_RUNNING: &str = "Running";
/// Condition: the model is written.
pub const CONDITION_COMPLETE: &str = "Complete";
/// Condition: the run ended without a model.
pub const CONDITION_FAILED: &str = "Failed";
/// kstatus: the operator still works towards the spec.
pub const CONDITION_RECONCILING: &str = "Reconciling";
/// kstatus: nothing will change without somebody's help.
pub const CONDITION_STALLED: &str = "Stalled";
/// The data was looked at: `True` with what was found, `False` when it was refused, `Unknown` before.
pub const CONDITION_DATA_CHECKED: &str = "DataChecked";
/// Something that is not the disease tells the label: `Unknown` before the data was looked at.
pub const CONDITION_SHORTCUT_SUSPECTED: &str = "ShortcutSuspected";

/// Name of the trainer's container.
pub const CONTAINER: &str = "trainer";
/// Folder of the configuration in the container.
pub const CONFIG_DIR: &str = "/etc/graft";
/// File of the configuration, in the ConfigMap and in the folder.
pub const CONFIG_FILE: &str = "config.json";
/// Environment variable of the token by which the pods of an attempt know each other.
pub const GANG_TOKEN: &str = "GRAFT_GANG_TOKEN";
/// User and group of the trainer image.
pub const TRAINER_UID: i64 = 65532;

/// Name of the Job, the Service and the ConfigMap of an attempt: job, run (4 digits) and attempt.
#[must_use]
pub fn attempt_name(job: &str, run_id: &str, attempt: u32) -> String {
    format!("{job}-{}-{attempt}", crate::contract::truncate(run_id, 4))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_longest_pod_host_name_is_a_dns_label() {
        let name = super::attempt_name(&"j".repeat(48), "0123456789abcdef", 9999);
        assert!(format!("{name}-1023").len() <= 63);
    }
}
