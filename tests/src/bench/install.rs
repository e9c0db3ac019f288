//! From `helm install` to an operator that is ready, with its image on the node already.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::{conditions, rounds};
use crate::cluster::{Cluster, can_run_node};
use crate::lab;
use crate::programs::tool;
use crate::report::{Aim, Row, median, print};
use crate::scenario::{kubectl, restricted_namespace, workspace};

const SYSTEM: &str = "graft-system";

pub(super) fn run() -> Result<()> {
    can_run_node().map_err(anyhow::Error::msg)?;
    let cluster = Cluster::start()?;
    cluster.load_image(&lab::image()?.with_file_name("graft-operator.oci.tar"))?;
    restricted_namespace(&cluster, SYSTEM)?;
    helm(&cluster, &["install", "graft-crds", "charts/graft-crds"])?;
    kubectl(&cluster, &["wait", "--for=condition=Established", "crd/transferjobs.graft.dev", "--timeout=30s"])?;
    let mut seconds = Vec::new();
    for round in 0..rounds() {
        let began = Instant::now();
        let set = "image.repository=docker.io/library/graft-operator,image.tag=dev,image.pullPolicy=Never";
        helm(&cluster, &["install", "graft", "charts/graft", "--namespace", SYSTEM, "--wait", "--timeout", "60s", "--set", set])?;
        seconds.push(began.elapsed().as_secs_f64());
        println!("round {round}: {:.2} s", seconds[round]);
        helm(&cluster, &["uninstall", "graft", "--namespace", SYSTEM, "--wait"])?;
        kubectl(&cluster, &["wait", "--for=delete", "pod", "--all", "--namespace", SYSTEM, "--timeout=60s"])?;
    }
    let rows = [Row::new("helm install to operator ready, image on the node", median(&seconds), "s", Aim::AtMost(5.0))];
    print("install", &conditions(), &rows);
    Ok(())
}

fn helm(cluster: &Cluster, arguments: &[&str]) -> Result<()> {
    let home = tempfile::tempdir()?;
    let mut helm = Command::new(tool("helm")?);
    helm.current_dir(workspace()).args(arguments).env("KUBECONFIG", cluster.kubeconfig());
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        helm.env(name, home.path());
    }
    let output = helm.output().context("starting helm")?;
    if !output.status.success() {
        bail!("helm {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
