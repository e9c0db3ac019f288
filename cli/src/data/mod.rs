//! `graft data`: looks at data without a job, or with one, writes manifests, tidies up decoded images, and trains nothing. Text for people, or `--json`.

mod cache;
mod doctor;
mod inspect;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use graft_crds::contract::{ExitReason, TrainerFailure};
use graft_data::DataError;
use graft_data::manifest::{self, Options, Slices, Splitting};
use graft_trainer::remote;

use crate::job::spec_failure;
use crate::mounts::Mount;

/// What to look at, and for what.
#[derive(Subcommand)]
pub enum Data {
    /// Decoded images that are kept on the disk: list them, give up what is old or over the quota
    #[command(subcommand)]
    Cache(cache::Cache),
    /// Look for pictures in two splits or under two labels, and for what predicts the label and should not
    Doctor {
        /// A TransferJob's YAML file, or a folder (also as file:///…) whose layout is recognised
        what: String,
        /// Where a folder of the pods lies here, as /data=/home/me/data
        #[arg(long = "mount", value_name = "INSIDE=OUTSIDE")]
        mounts: Vec<Mount>,
        /// Write the pairs that do harm, side by side, into this PNG file: it shows pixels
        #[arg(long, value_name = "FILE")]
        sheet: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write the manifest that a job reads, from lists, tables, arrays, series of DICOM, volumes of NIfTI, masks, boxes, signals or class folders
    Manifest {
        /// The data set's folder, or an .npz file, whose MD5 must be the published one if it is named as one of MedMNIST's
        path: PathBuf,
        /// Where the images of arrays or signals and their manifest go. Default: a folder beside the array, `spectrograms` beside the table
        #[arg(long)]
        out: Option<PathBuf>,
        /// Slices of each volume or series: all, every:N, or middle:SHARE
        #[arg(long, default_value = "all")]
        slices: Slices,
        /// Samples of a signal that become one spectrogram
        #[arg(long, default_value_t = manifest::WINDOW)]
        window: usize,
        /// What DICOM and NIfTI show: a CSV table with a column image, series or patient, and a column label
        #[arg(long, value_name = "TABLE")]
        labels: Option<PathBuf>,
        /// The share of patients that is set aside for testing where nothing says which
        #[arg(long, default_value_t = 0.2)]
        test: f64,
        /// Decides which patients these are
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Add columns of splits to a manifest: by patient, of even classes, the same for the same seed
    Split {
        /// The manifest, which stays as it is
        manifest: PathBuf,
        /// The new one
        #[arg(long)]
        out: PathBuf,
        /// The column of the label; several times for one column per finding
        #[arg(long, default_value = "label")]
        label: Vec<String>,
        /// The column of patients. Default: patient, patient_id, subject, subject_id or RID, else each image file is a patient
        #[arg(long)]
        patient: Option<String>,
        /// A column split with this share of the patients for testing
        #[arg(long)]
        test: Option<f64>,
        /// Columns fold_1, fold_2, … in each of which another part is for testing, or for validation if there is a test set
        #[arg(long, default_value_t = 0)]
        folds: usize,
        /// A column without_SITE for each value of this column, whose rows are for testing in it
        #[arg(long, value_name = "COLUMN")]
        by_site: Option<String>,
        /// Decides who goes where
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Recognise a data set's layout, count what is in it, and print what a job would say
    Inspect {
        /// A folder, a table, an .npz file, or one file of DICOM or NIfTI, also as file:///…, s3://…, gs://…, az:// or hf://datasets/…; of https://… a table; what lies elsewhere is a folder or a table
        uri: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// How the result is printed.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Json,
}

impl Data {
    /// Look and print.
    ///
    /// # Errors
    /// The data or the file that names it cannot be read.
    pub fn run(self) -> Result<(), TrainerFailure> {
        let form = |json| if json { Form::Json } else { Form::Text };
        match self {
            Self::Cache(command) => command.run(),
            Self::Doctor { what, mounts, sheet, json } => doctor::run(&what, &mounts, sheet.as_deref(), form(json)),
            Self::Split { manifest, out, label: labels, patient, test, folds, by_site: site, seed } => {
                if test.is_none() && folds == 0 && site.is_none() {
                    return Err(spec_failure("NoSplits", "nothing to add: give --test SHARE, --folds N or --by-site COLUMN"));
                }
                if let Some(share) = test {
                    check_share(share)?;
                }
                let how = Splitting { labels, patient, test, folds, site, seed };
                let added = manifest::split(&manifest, &out, &how).map_err(|error| data_failure(&error))?;
                for (column, counts) in &added.columns {
                    let counts: Vec<String> = counts.iter().map(|(value, rows)| format!("{value} {rows}")).collect();
                    println!("{column}: {}", counts.join(", "));
                }
                added.notes.iter().for_each(|note| println!("note: {note}"));
                println!("{}: name one of these columns in spec.data.columns.split", out.display());
                Ok(())
            }
            Self::Manifest { path, out, slices, labels, window, test, seed } => {
                check_share(test)?;
                let options = Options { out, slices, labels, window, test, seed };
                let written = manifest::write(&path, &options).map_err(|error| data_failure(&error))?;
                println!("{}: {} images", written.manifest.display(), written.rows);
                written.notes.iter().for_each(|note| println!("note: {note}"));
                if !written.snippet.is_empty() {
                    println!("\n{}", written.snippet.trim_end());
                }
                Ok(())
            }
            Self::Inspect { uri, json } => inspect::run(&uri, form(json)),
        }
    }
}

fn check_share(share: f64) -> Result<(), TrainerFailure> {
    if share > 0.0 && share < 1.0 {
        return Ok(());
    }
    Err(spec_failure("InvalidSpec", format!("--test {share} is no share of patients: take a number between 0 and 1, such as 0.2")))
}

/// The absolute path that a URI or a path names.
fn here(uri: &str) -> Result<PathBuf, TrainerFailure> {
    if remote::elsewhere(uri) {
        let text = format!("{uri}: folders and files of this machine are read here; name it in the spec.data of a job, and the job's file here");
        return Err(spec_failure("FileNotReadable", text));
    }
    let path: &Path = graft_data::local_path(uri);
    std::path::absolute(path).map_err(|error| spec_failure("FileNotReadable", format!("{uri}: {error}; name a folder or a file")))
}

/// Every finding with every place: no termination message limits the text here.
fn data_failure(error: &DataError) -> TrainerFailure {
    crate::validate::data_failure(error)
}

fn json<T: serde::Serialize>(value: &T) -> Result<(), TrainerFailure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| TrainerFailure {
        exit: ExitReason::Bug,
        reason: "NotWritable".into(),
        message: format!("the report cannot be written as JSON: {error}"),
        rank: None,
    })?;
    println!("{text}");
    Ok(())
}
