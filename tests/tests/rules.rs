//! The chart's rules, as promtool takes them.
#![allow(missing_docs, clippy::unwrap_used)]

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
