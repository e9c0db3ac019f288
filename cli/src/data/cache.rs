//! `graft data cache`: what is kept of decoded images, and giving some of it up.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Subcommand;
use graft_crds::contract::TrainerFailure;
use graft_data::decoded::kept::{self, Kept, Policy};
use graft_trainer::decoded;

use crate::job::spec_failure;

const DAY: u64 = 24 * 3600;

/// What to do.
#[derive(Subcommand)]
pub enum Cache {
    /// List data sets with their images, bytes, and how long ago they were used
    Ls {
        /// A job's output, or a folder of decoded images. Default: GRAFT_DECODED, else the user's cache folder
        folder: Option<PathBuf>,
    },
    /// Give up what was not used for long, what another version left, and what is over the quota, the longest unused first
    Gc {
        /// A job's output, or a folder of decoded images. Default: GRAFT_DECODED, else the user's cache folder
        folder: Option<PathBuf>,
        /// What was not used for so many days goes
        #[arg(long, value_name = "DAYS", default_value_t = 30)]
        older_than: u64,
        /// GiB that may stay. Default: GRAFT_DECODED_GIB, else 32
        #[arg(long, value_name = "GIB")]
        quota: Option<f64>,
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
    },
}

impl Cache {
    /// List or tidy up, and print.
    ///
    /// # Errors
    /// The folder cannot be read, or files in it cannot be removed.
    pub fn run(self) -> Result<(), TrainerFailure> {
        let now = SystemTime::now();
        match self {
            Self::Ls { folder } => {
                let root = root(folder.as_deref());
                let all = kept::list(&root).map_err(|error| failed(&root, &error))?;
                all.iter().rev().for_each(|kept| println!("{}", line(kept, now)));
                println!("{}: {} data sets, {}", root.display(), all.len(), size(all.iter().map(|kept| kept.bytes).sum()));
            }
            Self::Gc { folder, older_than, quota, dry_run } => {
                let root = root(folder.as_deref());
                let older_than = Some(Duration::from_secs(older_than.saturating_mul(DAY)));
                let policy = Policy { quota: bytes(quota)?, older_than, spare: None };
                let gone = if dry_run { would_go(&root, &policy, now) } else { kept::free(&root, &policy, now) };
                let gone = gone.map_err(|error| failed(&root, &error))?;
                gone.iter().for_each(|(kept, why)| println!("{}; {}", line(kept, now), why.words()));
                let verb = if dry_run { "would be freed" } else { "freed" };
                println!("{}: {} {verb}", root.display(), size(gone.iter().map(|(kept, _)| kept.bytes).sum()));
            }
        }
        Ok(())
    }
}

fn would_go(root: &Path, policy: &Policy<'_>, now: SystemTime) -> std::io::Result<Vec<(Kept, kept::Why)>> {
    let all = kept::list(root)?;
    Ok(kept::choose(&all, policy, now).into_iter().map(|(kept, why)| (kept.clone(), why)).collect())
}

/// The folder of decoded images: of an output the one in it.
fn root(named: Option<&Path>) -> PathBuf {
    let Some(named) = named else { return decoded::folder(&crate::validate::cache("decoded")) };
    let within = named.join(".graft/decoded");
    if within.is_dir() { within } else { named.to_owned() }
}

fn bytes(quota: Option<f64>) -> Result<u64, TrainerFailure> {
    match quota {
        None => decoded::quota().map_err(|why| spec_failure("InvalidQuota", why)),
        Some(gib) => decoded::bytes(gib).ok_or_else(|| spec_failure("InvalidQuota", format!("--quota {gib} is no number of GiB, such as 32"))),
    }
}

fn failed(root: &Path, error: &std::io::Error) -> TrainerFailure {
    spec_failure("NotWritable", format!("{}: {error}; the folder must be yours", root.display()))
}

fn line(kept: &Kept, now: SystemTime) -> String {
    let what = kept
        .about
        .as_ref()
        .map_or_else(|| "unknown".into(), |about| format!("{} at {} x {} pixels", about.data.join(", "), about.geometry.size, about.geometry.size));
    let age = now.duration_since(kept.used).unwrap_or_default();
    format!("{what}: {} images, {}, used {} ago, in {}", kept.images, size(kept.bytes), words(age), kept.folder.display())
}

fn size(bytes: u64) -> String {
    let mib = bytes as f64 / 1_048_576.0;
    if mib < 1024.0 { format!("{mib:.1} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

fn words(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..DAY => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / DAY),
    }
}
