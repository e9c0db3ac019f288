//! Bad input, one clear error each: `graft validate` and `graft run` give the same exit code and reason, name the place and
//! the remedy, and nothing has been trained. The trainer's pods run the same code.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;

use common::{Run, Site, graft};
use serde_json::{Value, json};

/// Validate and run this job; both must refuse it with `code`, `reason` and every one of `parts`.
fn refused(site: &Site, change: impl Fn(&mut Value), code: i32, reason: &str, parts: &[&str]) {
    let job = site.job("refused", |job| change(job)).to_string_lossy().into_owned();
    for verb in ["validate", "run"] {
        let run = Run::of(graft(&[verb, &job]));
        let error = run.stderr.lines().filter(|l| l.starts_with("error: ")).collect::<Vec<_>>();
        assert_eq!(error.len(), 1, "{verb} must give one error, not {}:\n{}", error.len(), run.stderr);
        assert_eq!(run.code, Some(code), "{verb}: {}", run.stderr);
        assert!(error[0].starts_with(&format!("error: {reason}: ")), "{verb} must say {reason}: {}", run.stderr);
        for part in parts {
            assert!(run.stderr.contains(part), "{verb} must say {part:?}: {}", run.stderr);
        }
        assert!(!run.stdout.contains("firstStep"), "{verb} trained");
    }
    assert!(!site.path("refused/manifest.json").exists() && !site.path("refused/.graft/checkpoints").exists());
}

const USER: i32 = 64;
const DATA: i32 = 65;

#[test]
fn weights_that_are_missing_truncated_changed_or_of_another_shape() {
    let site = Site::new();
    let weights = |name: &str| {
        let uri = site.uri(name);
        move |job: &mut Value| job["spec"]["backbone"]["weights"]["uri"] = uri.clone().into()
    };
    refused(&site, weights("nowhere.pth"), USER, "WeightsNotFound", &["nowhere.pth", "spec.backbone.weights"]);
    let whole = site.read("weights.safetensors");
    fs::write(site.path("short.safetensors"), &whole[..whole.len() / 2]).unwrap();
    refused(&site, weights("short.safetensors"), USER, "WeightsUnreadable", &["short.safetensors", "copy the file again"]);
    refused(
        &site,
        |job| job["spec"]["backbone"]["weights"]["sha256"] = "0".repeat(64).into(),
        USER,
        "WeightsDigestMismatch",
        &["weights.safetensors", "000000"],
    );
    refused(&site, |job| job["spec"]["backbone"]["architecture"] = "resnet18".into(), USER, "WeightsDoNotFit", &["conv1.weight", "resnet18"]);
}

#[test]
fn paths_and_columns_of_personal_data() {
    let site = Site::new();
    fs::rename(site.path("phantom/images/patient-003-slice-1.png"), site.path("phantom/images/DOE^JOHN.png")).unwrap();
    site.manifest(|_, line| Some(line.replace("patient-003-slice-1.png", "DOE^JOHN.png")));
    refused(&site, |_| {}, DATA, "PersonalData", &["manifest.csv:12", "a person's name", "spec.data.allowPersonalData"]);
    let said = Run::of(graft(&["validate", &site.job("said", |_| {}).to_string_lossy()]));
    assert!(!said.stderr.contains("DOE") && !said.stdout.contains("DOE"), "{}{}", said.stdout, said.stderr);
    let allowed = site.job("allowed", |job| job["spec"]["data"]["allowPersonalData"] = "a phantom of that name".into());
    assert_eq!(Run::of(graft(&["validate", &allowed.to_string_lossy()])).code, Some(0));

    site.manifest(|row, line| Some(format!("{line},{}", if row == 1 { "Date of Birth" } else { "1961-02-03" })));
    refused(&site, |_| {}, DATA, "PersonalData", &["manifest.csv:1", "\"Date of Birth\"", "a date of birth"]);
}

#[test]
fn names_that_do_not_exist() {
    let site = Site::new();
    refused(
        &site,
        |job| job["spec"]["backbone"]["architecture"] = "mobilenet_v1_25".into(),
        USER,
        "InvalidSpec",
        &["spec.backbone.architecture", "mobilenet_v1_025"],
    );
    refused(&site, |job| job["spec"]["fineTune"]["unfreeze"] = json!(["layer4"]), USER, "UnknownLayer", &["spec.fineTune.unfreeze", "layer4", "26"]);
    refused(
        &site,
        |job| job["spec"]["data"]["columns"]["patient"] = "pateint".into(),
        DATA,
        "ColumnNotFound",
        &["manifest.csv", "pateint", "patient"],
    );
    refused(&site, |job| job["spec"]["data"]["train"]["uri"] = site.uri("phantoms").into(), DATA, "DataNotFound", &["phantoms"]);
    refused(&site, |job| job["spec"]["fineTune"]["epoch"] = 3.into(), USER, "InvalidSpec", &["spec.fineTune.epoch"]);
}

#[test]
fn labels_splits_and_patients() {
    let site = Site::new();
    let good = site.text("phantom/manifest.csv");
    let lines = |change: &dyn Fn(usize, &str) -> Option<String>| {
        fs::write(site.path("phantom/manifest.csv"), &good).unwrap();
        site.manifest(change);
    };
    lines(&|row, line| Some(if row == 5 { line.replace(",lesion,", ",,").replace(",normal,", ",,") } else { line.into() }));
    refused(&site, |_| {}, DATA, "MissingLabel", &["manifest.csv:5", "label"]);
    lines(&|row, line| Some(if row > 1 { line.replace(",test,", ",train,") } else { line.into() }));
    refused(&site, |_| {}, DATA, "EmptySplit", &["test"]);
    lines(&|_, line| Some(if line.contains(",test,") { line.replace(",lesion,", ",tumour,") } else { line.into() }));
    let open = |job: &mut Value| drop(job["spec"].as_object_mut().unwrap().remove("task"));
    refused(&site, open, DATA, "UnknownClass", &["tumour", "manifest.csv:"]);
    lines(&|row, line| Some(if row == 2 { line.replace(",train,", ",test,") } else { line.into() }));
    refused(&site, |_| {}, DATA, "PatientInTwoSplits", &["manifest.csv", "2"]);
    let said = Run::of(graft(&["validate", &site.path("refused.json").to_string_lossy()])).stderr;
    assert!(!said.contains("phantom-000"), "a patient id in an error: {said}");
    // With a key, the same patient has a name that nobody can compute without it.
    let mut keyed = common::command(&["validate", &site.path("refused.json").to_string_lossy()]);
    let keyed = Run::of(keyed.env("GRAFT_PSEUDONYM_KEY", "secret").output().unwrap()).stderr;
    let pseudonym = |text: &str| text.split("patient#").nth(1).map(|rest| rest[..8].to_owned());
    assert!(pseudonym(&said).is_some() && pseudonym(&said) != pseudonym(&keyed), "{said}{keyed}");
}

/// An error has room for a dozen places; the log has all of them, once.
#[test]
fn many_bad_files_are_all_in_the_log() {
    let site = Site::new();
    let mut names: Vec<String> = fs::read_dir(site.path("phantom/images")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    for name in &names[..20] {
        fs::write(site.path("phantom/images").join(name), b"nothing").unwrap();
    }
    refused(&site, |_| {}, DATA, "UndecodableInput", &["20 image files cannot be decoded"]);
    let run = Run::of(graft(&["run", &site.path("refused.json").to_string_lossy()]));
    assert!(run.stderr.contains("... and 8 more"), "{}", run.stderr);
    for name in &names[..20] {
        let told = |line: &&str| line.contains("UndecodableInput: ") && line.contains(name.as_str()) && line.contains("\"log\"");
        assert_eq!(run.stdout.lines().filter(told).count(), 1, "{name}: {}", run.stdout);
    }
}

#[test]
fn images_that_do_not_decode_are_all_listed() {
    let site = Site::new();
    let bad = ["patient-000-slice-1.png", "patient-004-slice-0.png", "patient-013-slice-2.png"];
    for name in bad {
        let path = site.path("phantom/images").join(name);
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 3]).unwrap();
    }
    refused(&site, |_| {}, DATA, "UndecodableInput", &bad);
    let few = Run::of(graft(&["run", &site.path("refused.json").to_string_lossy()]));
    assert!(!few.logs("UndecodableInput: "), "the error names all three: {}", few.stdout);

    let gone = "patient-014-slice-0.png";
    fs::remove_file(site.path("phantom/images").join(gone)).unwrap();
    refused(&site, |_| {}, DATA, "InputNotFound", &[gone]);
    let skip = |job: &mut Value| job["spec"]["data"]["onBadInput"] = "skip".into();
    let run = site.run("rest", skip);
    assert_eq!(run.summary()["progress"]["data"]["skipped"], json!(4), "{}", run.stdout);
    for name in bad.into_iter().chain([gone]) {
        assert!(run.logs(&format!("left out: images/{name} (")), "{name}: {}", run.stdout);
    }
    let report: Value = serde_json::from_slice(&site.read("rest/data.json")).unwrap();
    assert_eq!((&report["images"], &report["undecodable"]), (&json!(56), &json!(4)));
    let validated = Run::of(graft(&["validate", &site.path("rest.json").to_string_lossy()]));
    assert!(validated.code == Some(0) && validated.stdout.contains("56 images decode"), "{}", validated.stdout);
    // A class of which nothing is left is no class.
    site.manifest(|row, line| (row == 1 || !line.contains(",lesion,train,") || line.contains("patient-000-slice-1")).then(|| line.to_owned()));
    refused(&site, skip, DATA, "UndecodableInput", &["nothing is left of", "lesion"]);
}

#[test]
fn copies_of_test_pictures_are_left_out_of_training_and_shown() {
    let site = Site::new();
    let manifest = site.text("phantom/manifest.csv");
    let of =
        |split: &str| manifest.lines().find(|line| line.contains(&format!(",{split},"))).unwrap().split(',').map(str::to_owned).collect::<Vec<_>>();
    let (train, test) = (of("train"), of("test"));
    fs::copy(site.path("phantom").join(&test[0]), site.path("phantom").join(&train[0])).unwrap();
    refused(&site, |job| job["spec"]["data"]["duplicates"] = "refuse".into(), DATA, "PictureInTwoSplits", &[&train[0], &test[0], "regroup"]);
    let run = Run::of(graft(&["run", &site.job("shown", |job| job["spec"]["data"]["duplicates"] = "refuse".into()).to_string_lossy()]));
    assert!(run.code == Some(DATA) && run.stderr.contains("data-pairs.png in the output shows them"), "{}", run.stderr);

    let run = site.run("grouped", |job| job["spec"]["data"]["duplicates"] = "regroup".into());
    let found = &run.summary()["progress"]["data"];
    assert_eq!((&found["leftOut"], &found["pairsAcrossSplits"], &found["images"]), (&json!(1), &json!(1), &json!(60)), "{}", run.stdout);
    assert!(run.logs("left out: 1 training and 0 validation images") && run.logs("35 train, 12 validation, 12 test"), "{}", run.stdout);
    let report: Value = serde_json::from_slice(&site.read("grouped/data.json")).unwrap();
    assert_eq!((&report["leftOut"], report["pairs"].as_array().unwrap().len()), (&json!({"train": 1, "validation": 0}), 1));
    assert_eq!(site.text("grouped/predictions.csv").lines().count(), 13, "the test set is what it was");
    let sheet = site.read("grouped/data-pairs.png");
    assert!(sheet == site.read("shown/data-pairs.png"), "the job that was refused shows the same");
    assert!(sheet.starts_with(b"\x89PNG") && site.text("grouped/manifest.json").contains("data-pairs.png"));

    let file = site.path("sheet.png").to_string_lossy().into_owned();
    let said = Run::of(graft(&["data", "doctor", &site.path("grouped.json").to_string_lossy(), "--sheet", &file]));
    assert!(said.code == Some(0) && said.stderr.contains("1 of 1 pairs"), "{}", said.stderr);
    assert!(site.read("sheet.png") == sheet);
}

#[test]
fn more_processes_than_samples() {
    let site = Site::new();
    site.manifest(|row, line| {
        (row == 1 || !line.contains(",train,") || line.contains("patient-000") || line.contains("patient-001")).then(|| line.to_owned())
    });
    refused(&site, |job| job["spec"]["workers"] = json!({"replicas": 4, "processes": 2}), DATA, "TooFewSamples", &["6", "8"]);
}

#[test]
fn an_output_that_cannot_be_written() {
    let site = Site::new();
    fs::write(site.path("file"), b"").unwrap();
    let job = site.job("refused", |job| job["spec"]["output"]["uri"] = site.uri("file/out").into());
    let run = Run::of(graft(&["run", &job.to_string_lossy()]));
    assert_eq!(run.code, Some(USER));
    assert!(run.stderr.contains("OutputNotWritable") && run.stderr.contains("spec.output.uri"), "{}", run.stderr);
}

#[test]
fn a_file_that_is_no_job() {
    let site = Site::new();
    for (text, reason) in [("a: [", "InvalidYaml"), ("kind: Pod", "NoTransferJob")] {
        fs::write(site.path("odd.yaml"), text).unwrap();
        let run = Run::of(graft(&["validate", &site.path("odd.yaml").to_string_lossy()]));
        assert_eq!(run.code, Some(USER));
        assert!(run.stderr.contains(reason) && run.stderr.contains("odd.yaml"), "{}", run.stderr);
    }
}
