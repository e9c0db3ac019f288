//! The demo as a user starts it: on real data in a cluster, and on what it generates itself where no node can run.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::process::{Command, Stdio};

use graft_tests::cluster::can_run_node;
use graft_tests::lab::image;
use graft_tests::scenario::{binary, real_data};

fn demo(change: impl FnOnce(&mut Command)) -> String {
    let mut command = Command::new(binary("demo").unwrap());
    command.stdin(Stdio::null());
    change(&mut command);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
}

#[test]
fn on_real_data() {
    let Some(data) = real_data() else {
        println!("skipped on_real_data: there is no GRAFT_DATA");
        return;
    };
    if let Err(reason) = can_run_node() {
        println!("skipped on_real_data: {reason}");
        return;
    }
    let text = demo(|command| {
        command.env("GRAFT_DATA", data).arg("--image").arg(image().unwrap());
    });
    let conflicts = "DataChecked=True  DuplicatesFound: 746 images; 2 pairs of the same picture in two splits, 2 under two labels";
    says(&text, &["COVID-CT and ImageNet weights", "kubectl get tj -o wide", "auroc", conflicts, "203 stored predictions", "demo done"]);
}

#[test]
fn on_generated_data_without_a_node() {
    // Without programs in the path a machine cannot hold a node, and graft needs none.
    let text = demo(|command| {
        command.env("GRAFT_DATA", "/nonexistent").env("PATH", "");
    });
    says(&text, &["generating phantom lung slices", "ip is missing", "`graft run` instead", "auroc", "stored predictions", "demo done"]);
}
