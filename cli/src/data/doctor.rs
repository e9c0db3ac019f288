//! `graft data doctor`: what the doctor of a job's prepare stage finds, for people.

use std::path::Path;

use graft_crds::contract::TrainerFailure;
use graft_crds::spec::{Data, Task};
use graft_data::doctor::{self, Report};
use graft_data::{DataError, Dataset, Geometry, Reading, inspect};
use graft_trainer::{decoded, remote};
use serde_json::Value;

use super::{Form, data_failure, here, json};
use crate::job::{self, spec_failure};
use crate::mounts::{self, Mount};
use crate::validate::{cache, loader};

/// Examine and print.
///
/// # Errors
/// The job or the data cannot be read, or the layout says nothing of splits.
pub fn run(what: &str, mounts: &[Mount], sheet: Option<&Path>, form: Form) -> Result<(), TrainerFailure> {
    let path = here(what)?;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (dataset, reading, report) = if path.is_file() { of_job(&path, mounts, threads)? } else { of_folder(&path, threads)? };
    if let Some(file) = sheet {
        write_sheet(file, doctor::sheet(&report, &dataset, &reading, threads).as_deref(), report.pairs.len())?;
    }
    match form {
        Form::Json => json(&report),
        Form::Text => {
            print!("{}", text(&report));
            Ok(())
        }
    }
}

type Examined = (Dataset, Reading, Report);

/// The images of a job are kept decoded, for `graft validate` and the next time.
fn of_job(path: &Path, mounts: &[Mount], threads: usize) -> Result<Examined, TrainerFailure> {
    let mut job = job::read(path)?;
    mounts::apply(&mut job.spec, mounts);
    let spec = job.spec;
    let failed = |error: DataError| data_failure(&error);
    let data = remote::local(&spec.data, &cache("data"), "", |line| eprintln!("{line}")).map_err(|failure| failure.of_rank(None))?;
    let seed = spec.fine_tune.as_ref().map_or(0, |f| u64::from(f.seed.unsigned_abs()));
    let dataset = Dataset::load(&data, &spec.task, seed).map_err(failed)?;
    let geometry = Geometry::resolve(spec.backbone.architecture, spec.backbone.preprocessing.as_ref()).map_err(failed)?;
    let loader = loader(&spec, &dataset, geometry, threads, |line| eprintln!("{line}"));
    let examined = loader.examine(0..dataset.samples.len(), |news| eprintln!("{news}"));
    loader.trouble().iter().for_each(|why| eprintln!("{}", decoded::without(why)));
    let prints: Vec<_> = examined.into_iter().map(Result::ok).collect();
    let report = doctor::judge(&dataset, &prints, threads);
    Ok((dataset, Reading::of(&data), report))
}

/// The data of the snippet that `graft data inspect` prints.
fn of_folder(path: &Path, threads: usize) -> Result<Examined, TrainerFailure> {
    let seen = inspect::inspect(path).map_err(|error| data_failure(&error))?;
    let snippet = seen.snippet.ok_or_else(|| {
        let what = format!(
            "{} is laid out as {}, which does not say which images are for training and which for testing",
            path.display(),
            seen.layout.name()
        );
        spec_failure("NoSplits", format!("{what}; name a TransferJob instead, or see `graft data inspect`"))
    })?;
    let read = |error: &dyn std::fmt::Display| spec_failure("InvalidYaml", format!("{}: {error}", path.display()));
    let value: Value = serde_saphyr::from_str(&snippet).map_err(|error| read(&error))?;
    let data: Data = serde_json::from_value(value["data"].clone()).map_err(|error| read(&error))?;
    let dataset = Dataset::load(&data, &Task::default(), 0).map_err(|error| data_failure(&error))?;
    let reading = Reading::of(&data);
    let report = doctor::examine(&dataset, &reading, threads);
    Ok((dataset, reading, report))
}

/// Writes the contact sheet, and says so beside the report.
fn write_sheet(file: &Path, png: Option<&[u8]>, pairs: usize) -> Result<(), TrainerFailure> {
    let Some(png) = png else {
        eprintln!("no pair is in two splits or under two labels: {} is not written", file.display());
        return Ok(());
    };
    std::fs::write(file, png)
        .map_err(|error| spec_failure("NotWritable", format!("{}: {error}; name a file that can be written", file.display())))?;
    eprintln!("{}: {} of {pairs} pairs, as pictures", file.display(), pairs.min(doctor::PAIRS_SHOWN));
    Ok(())
}

/// The report in sentences; what does harm comes first.
fn text(report: &Report) -> String {
    let mut lines = vec![format!("{} images looked at, {} cannot be decoded", report.images, report.undecodable)];
    let harmful = report.harmful_pairs();
    lines.push(format!("{} pairs of equal pictures, {} of nearly equal ones", report.exact.pairs, report.near.pairs));
    lines.push(format!("{} pairs are in two splits, {} have two labels", harmful.across_splits, harmful.label_conflicts));
    lines.extend(report.pairs.iter().map(|pair| format!("  {pair}")));
    let patients = &report.patients;
    lines.push(match patients.named {
        0 => "no column names the patients".into(),
        named => format!("{named} patients, {} in two splits", patients.across_splits),
    });
    lines.push(format!("copies tie images into {} groups, {} of them in two splits", patients.inferred_groups, patients.inferred_across_splits));
    for class in &report.classes {
        lines.extend(class.empty_splits().map(|split| format!("class {:?} has no image in {}", class.class, split.name())));
    }
    lines.extend(
        report
            .imbalance
            .filter(|ratio| *ratio >= 3.0)
            .map(|ratio| format!("the largest class has {ratio:.1} training images for each of the smallest")),
    );
    lines.extend(report.shortcuts.iter().map(|shortcut| format!("shortcut: {shortcut}")));
    if report.is_clean() {
        lines.push("nothing that would make the test result wrong".into());
    }
    lines.join("\n") + "\n"
}
