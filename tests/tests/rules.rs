//! The chart's rules as promtool takes them, and its dashboards as Grafana's types do.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use graft_tests::programs::tool;
use graft_tests::scenario::workspace;

#[test]
fn rules_fire_when_they_should_and_only_then() {
    let folder = workspace().join("charts/graft/rules");
    for arguments in [["check", "rules", "graft.yaml"], ["test", "rules", "test.yaml"]] {
        let output = Command::new(tool("promtool").unwrap()).current_dir(&folder).args(arguments).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "promtool {}: {said}", arguments.join(" "));
        println!("{}", said.trim());
    }
}

/// Grafana's own types read the dashboards: nothing that they need is missing, and nothing is there that they do not know.
#[test]
fn grafana_knows_what_is_in_the_dashboards() {
    let check = |files: &[PathBuf]| {
        let output = Command::new(tool("dashboards").unwrap()).args(files).output().unwrap();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    };
    let file = |name: &str| workspace().join(format!("charts/graft/dashboards/{name}.json"));
    check(&["operator", "fleet", "job"].map(file)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(file("fleet")).unwrap();
    for (right, wrong) in [("\"drawStyle\": \"line\"", "\"drawStyle\": 3"), ("\"legendFormat\"", "\"legend\""), ("\"gridPos\"", "\"position\"")] {
        assert!(text.contains(right), "{right}");
        let path = folder.path().join("wrong.json");
        fs::write(&path, text.replacen(right, wrong, 1)).unwrap();
        assert!(check(&[path]).is_err(), "{wrong} is let through");
    }
}
