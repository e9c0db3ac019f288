//! A cluster with the CRD, the operator, the image and the volumes in place: where end-to-end tests and benchmarks begin.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use graft_crds::status::TransferJobStatus;

use crate::cluster::{Cluster, can_run_node};
use crate::scenario::{self, Operator, kubectl};

/// The namespace of the jobs, under the `restricted` pod security standard.
pub const NAMESPACE: &str = "radiology";

/// Jobs of tests are short: on an idle machine, over after two looks at the operator's own interval.
pub const PROGRESS_SECONDS: u32 = 2;

/// A cluster that is ready for TransferJobs, with the real data in `/data` and an empty folder in `/models`.
pub struct Lab {
    /// The operator; dropped before the cluster.
    pub operator: Operator,
    /// The cluster.
    pub cluster: Cluster,
    /// Folder that holds what outlives a pod.
    pub work: tempfile::TempDir,
}

impl Lab {
    /// Start it.
    ///
    /// # Errors
    /// This machine cannot run a node, the image or the data is missing, or something does not start.
    pub fn start() -> Result<Self> {
        let data = scenario::real_data().context("set GRAFT_DATA to the folder of real data")?;
        Self::with_data(&data)
    }

    /// Start it with this folder as `/data`.
    ///
    /// # Errors
    /// This machine cannot run a node, the image is missing, or something does not start.
    pub fn with_data(data: &Path) -> Result<Self> {
        can_run_node().map_err(anyhow::Error::msg)?;
        let work = tempfile::Builder::new().prefix("graft-lab-").tempdir()?;
        fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755))?;
        let models = work.path().join("models");
        fs::create_dir(&models)?;
        fs::set_permissions(&models, fs::Permissions::from_mode(0o777))?;
        let cluster = Cluster::start()?;
        cluster.load_image(&image()?)?;
        scenario::install_crd(&cluster)?;
        scenario::restricted_namespace(&cluster, NAMESPACE)?;
        cluster.create_hostpath_volume("graft-data", NAMESPACE, data, "10Gi")?;
        cluster.create_hostpath_volume("graft-models", NAMESPACE, &models, "10Gi")?;
        let operator = Operator::start(&cluster, &work.path().join("operator.log"), PROGRESS_SECONDS)?;
        Ok(Self { operator, cluster, work })
    }

    /// The folder that pods see as `/models`.
    #[must_use]
    pub fn models(&self) -> PathBuf {
        self.work.path().join("models")
    }

    /// `kubectl apply` in the namespace.
    ///
    /// # Errors
    /// The API server refuses it; its message.
    pub fn apply(&self, file: &Path) -> Result<()> {
        kubectl(&self.cluster, &["apply", "-n", NAMESPACE, "-f", &file.to_string_lossy()])?;
        Ok(())
    }

    /// Apply `examples/lung-ct.yaml` and wait for its end.
    ///
    /// # Errors
    /// It does not end within 40 minutes.
    pub fn run_example(&self) -> Result<TransferJobStatus> {
        self.apply(&scenario::workspace().join("examples/lung-ct.yaml"))?;
        scenario::wait_for_end(&self.cluster, (NAMESPACE, "lung-ct"), Duration::from_secs(40 * 60))
    }
}

/// The trainer image that `cargo xtask image` wrote.
///
/// # Errors
/// There is none.
pub fn image() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own.ancestors().map(|folder| folder.join("image/graft-trainer.oci.tar")).find(|path| path.is_file());
    match found {
        Some(path) => Ok(path),
        None => bail!("there is no trainer image beside {}; `cargo xtask image` writes it", own.display()),
    }
}
