//! `graft data`: looks at data without a job, or with one, writes manifests, tidies up decoded images, and trains nothing. Text for people, or `--json`.

mod cache;
mod doctor;
mod inspect;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use graft_crds::contract::{ExitReason, TrainerFailure};
use graft_data::DataError;

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
    /// Write the manifest that a job reads, from the lists, tables or arrays of COVID-CT, ChestX-ray14, CheXpert or MedMNIST
    Manifest {
        /// The data set's folder, or an .npz file
        path: PathBuf,
        /// Where the images of arrays and their manifest go. Default: a folder beside the file
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Recognise a data set's layout, count what is in it, and print what a job would say
    Inspect {
        /// A folder or a table, also as file:///…
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
            Self::Manifest { path, out } => {
                let written = graft_data::manifest::write(&path, out.as_deref()).map_err(|error| data_failure(&error))?;
                println!("{}: {} images", written.manifest.display(), written.rows);
                written.notes.iter().for_each(|note| println!("note: {note}"));
                println!("\n{}", written.snippet.trim_end());
                Ok(())
            }
            Self::Inspect { uri, json } => inspect::run(&here(&uri)?, form(json)),
        }
    }
}

/// The absolute path that a URI or a path names.
fn here(uri: &str) -> Result<PathBuf, TrainerFailure> {
    if uri.starts_with("s3://") {
        let text = format!("{uri}: folders and files of this machine are read here; name the prefix in a job, and see `graft validate`");
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
