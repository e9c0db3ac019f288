//! From the file that `kubectl apply` takes to a checked TransferJob, with the answers that the API server would give:
//! unknown fields, types, ranges, and the CEL rules of the definition. It reads one file and asks nobody.

use std::path::Path;

use graft_crds::contract::{ExitReason, TrainerFailure};
use graft_crds::{TransferJob, crd};
use kube_cel::Validator;
use serde_json::Value;

use crate::structural;

/// A failure of the spec: exit code 64.
pub fn spec_failure(reason: &str, message: impl Into<String>) -> TrainerFailure {
    TrainerFailure { exit: ExitReason::UserError, reason: reason.into(), message: message.into(), rank: None }
}

/// Read the one TransferJob in a file; other objects in it are skipped.
///
/// # Errors
/// The file cannot be read, is no YAML, holds no TransferJob or several, or one that the API server would refuse; then
/// every problem is listed.
pub fn read(path: &Path) -> Result<TransferJob, TrainerFailure> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| spec_failure("FileNotReadable", format!("{}: {e}; name the YAML file of a TransferJob", path.display())))?;
    parse(&text).map_err(|failure| TrainerFailure { message: format!("{}: {}", path.display(), failure.message), ..failure })
}

fn parse(text: &str) -> Result<TransferJob, TrainerFailure> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|e| spec_failure("InvalidYaml", e.to_string()))?;
    let mut jobs: Vec<Value> = documents.into_iter().filter(|d| d["kind"] == "TransferJob").collect();
    let Some(job) = jobs.pop() else {
        return Err(spec_failure("NoTransferJob", "no object of kind TransferJob; is it the right file?"));
    };
    if !jobs.is_empty() {
        return Err(spec_failure("SeveralTransferJobs", format!("{} TransferJobs; put each into a file of its own", jobs.len() + 1)));
    }
    check(&job)?;
    serde_json::from_value(job).map_err(|e| spec_failure("InvalidSpec", e.to_string()))
}

/// What `kubectl apply` would answer.
fn check(job: &Value) -> Result<(), TrainerFailure> {
    let expected = "graft.dev/v1alpha1";
    if job["apiVersion"] != expected {
        return Err(spec_failure("InvalidSpec", format!("apiVersion is {}, this graft knows {expected}", job["apiVersion"])));
    }
    let schema = crd::schema();
    let mut problems: Vec<String> = crd::unknown_fields(&schema, job)
        .into_iter()
        .map(|path| format!("unknown field \"{path}\"; `kubectl explain tj.spec` lists the fields"))
        .collect();
    if job["metadata"]["name"].as_str().unwrap_or_default().is_empty() {
        problems.push("metadata.name: Required value".into());
    }
    problems.extend(structural::problems(&schema, job));
    // Rules may assume a sound structure.
    if problems.is_empty()
        && let Err(errors) = Validator::new().validate(&schema, job, None)
    {
        problems.extend(errors.into_iter().map(|e| e.to_string()));
    }
    if problems.is_empty() { Ok(()) } else { Err(spec_failure("InvalidSpec", problems.join("\n"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<std::path::PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "yaml")).collect()
    }

    #[test]
    fn every_example_is_accepted() {
        let examples = examples();
        assert!(examples.len() >= 4, "{examples:?}");
        for path in examples {
            let job = read(&path).unwrap_or_else(|f| panic!("{}", f.message));
            assert_eq!(job.metadata.name.as_deref(), path.file_stem().and_then(|s| s.to_str()), "{}", path.display());
        }
    }

    /// Each change to a good example, and what must be in the answer.
    #[test]
    fn what_the_api_server_refuses_is_refused() {
        let good = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/lung-ct.yaml")).unwrap();
        let cases: &[(&str, &str, &str)] = &[
            ("architecture: mobilenet_v1_100", "architecture: mobilenet_v9", "spec.backbone.architecture: Unsupported value: \"mobilenet_v9\""),
            ("architecture: mobilenet_v1_100", "architecture: ResNet-50", "did you mean \"resnet50\"?"),
            ("  fineTune:", "  finetune:", "unknown field \"spec.finetune\""),
            ("replicas: 2", "replicas: 0", "spec.workers.replicas: Invalid value: 0: should be greater than or equal to 1"),
            ("replicas: 2", "replicas: two", "spec.workers.replicas: Invalid value: \"two\": must be of type integer"),
            ("uri: file:///models/lung-ct", "uri: s3://models/lung-ct", "spec.output.uri: Invalid value"),
            ("uri: file:///models/lung-ct", "folder: /models", "spec.output.uri: Required value"),
            ("globalBatchSize: 32", "globalBatchSize: 1", "spec.fineTune.globalBatchSize must be at least the number of ranks"),
            ("split: split", "patient: again", "duplicate"),
            ("      split: split\n", "", "spec.data.test is missing"),
            ("name: models, mountPath", "name: nothing, mountPath", "spec.volumeMounts names a volume that spec.volumes does not declare"),
            ("kind: TransferJob", "kind: Job", "no object of kind TransferJob"),
            ("graft.dev/v1alpha1", "graft.dev/v1", "apiVersion"),
        ];
        for (from, to, wanted) in cases {
            assert!(good.contains(from), "the example has no {from:?}");
            let failure = parse(&good.replacen(from, to, 1)).expect_err(wanted);
            assert!(failure.message.to_lowercase().contains(&wanted.to_lowercase()), "{to}: {}", failure.message);
            assert_eq!(failure.exit, ExitReason::UserError);
        }
    }

    #[test]
    fn other_objects_in_the_file_are_skipped() {
        let good = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/lung-ct.yaml")).unwrap();
        let with = format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\ndata:\n  a: b\n---\n{good}");
        assert_eq!(parse(&with).unwrap(), parse(&good).unwrap());
        assert_eq!(parse(&format!("{good}\n---\n{good}")).unwrap_err().reason, "SeveralTransferJobs");
    }
}
