//! Each kind of bad input: one clear error before training, its class and reason, and words that say where and what to do.
#![allow(missing_docs, reason = "tests")]

mod common;

use std::fs;

use common::Site;
use graft_crds::contract::ExitReason;
use graft_trainer::event::Event;
use serde_json::{Value, json};

/// Break something, run, and look at the failure: exit class, reason, and words of the message.
fn refused(exit: ExitReason, reason: &str, words: &[&str], harm: impl FnOnce(&Site, &mut Value)) {
    let site = Site::new();
    let mut job = site.job("out");
    harm(&site, &mut job);
    let ended = site.run(&job);
    let failure = ended.summary.failure.expect("a failure");
    assert_eq!((ended.code, failure.exit, failure.reason.as_str()), (Some(i32::from(exit.code())), exit, reason), "{}", failure.message);
    for word in words {
        assert!(failure.message.contains(word), "{reason}: {word:?} is not in {:?}", failure.message);
    }
    assert!(exit.is_permanent());
    assert!(!ended.events.iter().any(|e| matches!(e, Event::Step(_) | Event::FirstStep { .. })), "training had begun");
    assert!(ended.summary.output.is_none());
}

fn rewrite(site: &Site, change: impl FnOnce(String) -> String) {
    let path = site.path("data/manifest.csv");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, change(text)).unwrap();
}

#[test]
fn weights_that_are_missing() {
    refused(ExitReason::UserError, "WeightsNotFound", &["spec.backbone.weights", "nowhere"], |_, job| {
        job["backbone"]["weights"]["uri"] = json!("file:///nowhere/w.safetensors");
    });
}

#[test]
fn weights_that_are_cut_off() {
    refused(ExitReason::UserError, "WeightsUnreadable", &["weights.safetensors"], |site, _| {
        let path = site.path("weights.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    });
}

#[test]
fn weights_of_another_digest() {
    let wrong = "0".repeat(64);
    refused(ExitReason::UserError, "WeightsDigestMismatch", &[&wrong, "SHA-256"], |_, job| {
        job["backbone"]["weights"]["sha256"] = json!("0".repeat(64))
    });
}

#[test]
fn weights_of_another_architecture() {
    refused(ExitReason::UserError, "WeightsDoNotFit", &["mobilenet_v1_050", "architecture"], |_, job| {
        job["backbone"]["architecture"] = json!("mobilenet_v1_050");
    });
}

#[test]
fn a_layer_that_is_not_there() {
    refused(ExitReason::UserError, "UnknownLayer", &["spec.fineTune.unfreeze", "layer4", "26"], |_, job| {
        job["fineTune"]["unfreeze"] = json!(["layer4"])
    });
}

#[test]
fn an_unknown_class_in_the_test_set() {
    refused(ExitReason::DataError, "UnknownClass", &["manifest.csv", "mystery"], |site, job| {
        job["task"]["classes"] = json!([]);
        job["task"]["positiveClass"] = Value::Null;
        rewrite(site, |text| change_row(&text, "test", |row| row.replace(",lesion,", ",mystery,").replace(",normal,", ",mystery,")));
    });
}

#[test]
fn a_missing_label() {
    refused(ExitReason::DataError, "MissingLabel", &["manifest.csv:"], |site, _| {
        rewrite(site, |text| change_row(&text, "train", |row| row.replace(",lesion,", ",,").replace(",normal,", ",,")));
    });
}

#[test]
fn an_empty_split() {
    refused(ExitReason::DataError, "EmptySplit", &["test"], |site, _| {
        rewrite(site, |text| text.lines().filter(|l| !l.contains(",test,")).map(|l| format!("{l}\n")).collect());
    });
}

#[test]
fn a_patient_in_two_splits() {
    refused(ExitReason::DataError, "PatientInTwoSplits", &["patient#", "train", "test"], |site, _| {
        rewrite(site, |text| change_row(&text, "train", |row| row.replace(",train,", ",test,")));
    });
}

#[test]
fn a_column_that_is_not_there() {
    refused(ExitReason::DataError, "ColumnNotFound", &["diagnosis", "label"], |_, job| job["data"]["columns"]["label"] = json!("diagnosis"));
}

#[test]
fn images_that_cannot_be_decoded_are_all_named() {
    let names = std::cell::RefCell::new(Vec::new());
    let site = Site::new();
    let text = fs::read_to_string(site.path("data/manifest.csv")).unwrap();
    for row in text.lines().skip(1).step_by(9) {
        let name = row.split(',').next().unwrap();
        fs::write(site.path("data").join(name), b"no image").unwrap();
        names.borrow_mut().push(name.to_owned());
    }
    let ended = site.run(&site.job("out"));
    let failure = ended.summary.failure.expect("a failure");
    assert_eq!((ended.code, failure.reason.as_str()), (Some(65), "UndecodableInput"));
    assert!(names.borrow().len() >= 4);
    for name in names.borrow().iter() {
        assert!(failure.message.contains(name), "{name} is not in {}", failure.message);
    }
}

#[test]
fn an_output_that_cannot_be_written() {
    refused(ExitReason::UserError, "OutputNotWritable", &["spec.output.uri"], |site, job| {
        fs::write(site.path("a-file"), b"").unwrap();
        job["output"]["uri"] = json!(site.uri("a-file/out"));
    });
}

#[test]
fn more_processes_than_samples() {
    refused(ExitReason::DataError, "TooFewSamples", &["2 processes"], |site, _| {
        rewrite(site, |text| {
            let mut kept = 0;
            let keep = |l: &&str| !l.contains(",train,") || std::mem::replace(&mut kept, kept + 1) < 1;
            text.lines().filter(keep).map(|l| format!("{l}\n")).collect()
        });
    });
}

#[test]
fn data_that_does_not_exist_yet() {
    refused(ExitReason::DataError, "DataNotFound", &["spec.data.train", "not-there"], |site, job| {
        job["data"]["train"]["uri"] = json!(site.uri("not-there"))
    });
}

#[test]
fn a_configuration_of_another_release() {
    let site = Site::new();
    let path = site.path("config.json");
    fs::write(&path, r#"{"contractVersion": 99}"#).unwrap();
    let message = site.path("termination");
    let status =
        std::process::Command::new(common::TRAINER).arg("agent").arg("--config").arg(&path).arg("--termination-log").arg(&message).status().unwrap();
    assert_eq!(status.code(), Some(64));
    let summary = graft_crds::contract::TerminationSummary::from_message(&fs::read_to_string(&message).unwrap()).unwrap();
    assert_eq!(summary.failure.unwrap().reason, "ConfigRejected");
}

/// Change the first row of a split.
fn change_row(text: &str, split: &str, change: impl FnOnce(&str) -> String) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let row = lines.iter_mut().find(|l| l.contains(&format!(",{split},"))).unwrap();
    *row = change(row);
    lines.join("\n") + "\n"
}
