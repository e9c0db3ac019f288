//! `graft data inspect`: the layout, its counts and a snippet, for people.

use std::collections::BTreeSet;

use graft_crds::contract::TrainerFailure;
use graft_data::inspect::{self, Column, Inspection, Kind, Layout};
use graft_data::series::Series;
use graft_trainer::remote;

use super::{Form, data_failure, here, json};
use crate::validate::cache;

/// So many series are shown as text.
const SERIES: usize = 20;

/// Inspect and print.
///
/// # Errors
/// Nothing that is known lies there, or it cannot be fetched.
pub fn run(uri: &str, form: Form) -> Result<(), TrainerFailure> {
    let seen = if remote::elsewhere(uri) { afar(uri)? } else { inspect::inspect(&here(uri)?).map_err(|error| data_failure(&error))? };
    match form {
        Form::Json => json(&seen),
        Form::Text => {
            print!("{}", text(&seen));
            Ok(())
        }
    }
}

/// What is not on this machine: of images only the names are fetched. The folder where they are then is not spoken of.
fn afar(uri: &str) -> Result<Inspection, TrainerFailure> {
    let (folder, path) = remote::outline(uri, &cache("data"), |line| eprintln!("{line}")).map_err(|failure| failure.of_rank(None))?;
    let own = folder.path().display().to_string();
    let table = path.strip_prefix(folder.path()).map(|table| table.display().to_string()).unwrap_or_default();
    let base = uri.strip_suffix(&table).unwrap_or(uri).trim_end_matches('/');
    let mut seen = inspect::inspect(&path).map_err(|error| {
        let failure = data_failure(&error);
        TrainerFailure { message: failure.message.replace(&own, base), ..failure }
    })?;
    seen.snippet = seen.snippet.map(|snippet| snippet.replace(&format!("file://{own}"), base));
    seen.notes.iter_mut().for_each(|note| *note = note.replace(&own, base));
    Ok(seen)
}

fn text(seen: &Inspection) -> String {
    let patients = seen.patients.map_or(String::new(), |n| format!(", {n} patients"));
    let what = match seen.layout {
        Layout::Measurements => "rows",
        Layout::Signals => "recordings",
        _ => "images",
    };
    let mut lines = vec![format!("{}: {} {what}{patients}", seen.layout.name(), seen.images)];
    let splits: BTreeSet<&String> = seen.counts.values().flat_map(|counts| counts.keys()).collect();
    // The usual order first, then the rest by name.
    let usual = ["train", "val", "validation", "test"];
    let mut splits: Vec<&String> = splits.into_iter().collect();
    let place = |split: &str| usual.iter().position(|name| split.split(' ').next() == Some(*name)).unwrap_or(usual.len());
    splits.sort_by_key(|split| place(split));
    let room = |split: &str| split.chars().count().max(10);
    let width = seen.counts.keys().map(|class| class.chars().count()).max().unwrap_or(0).max(5);
    let head: String = splits.iter().map(|split| format!(" {split:>wide$}", wide = room(split))).collect();
    if !seen.counts.is_empty() {
        lines.push(format!("{:<width$}{head}", "class"));
    }
    for (class, counts) in &seen.counts {
        let row: String = splits.iter().map(|split| format!(" {:>wide$}", counts.get(*split).unwrap_or(&0), wide = room(split))).collect();
        lines.push(format!("{class:<width$}{row}"));
    }
    lines.extend(seen.columns.iter().map(column));
    for series in seen.series.iter().take(SERIES) {
        lines.push(line(series));
        lines.extend(series.faults.iter().map(|fault| format!("  fault: {fault}")));
    }
    lines.extend(seen.series.len().checked_sub(SERIES + 1).map(|more| format!("and {} more series, see --json", more + 1)));
    lines.extend(seen.notes.iter().map(|note| format!("note: {note}")));
    lines.extend(seen.snippet.iter().map(|snippet| format!("\n{}", snippet.trim_end())));
    lines.join("\n") + "\n"
}

fn column(column: &Column) -> String {
    let kind = match column.kind {
        Kind::Numeric { least, most } => format!("numbers from {least} to {most}"),
        Kind::Categorical { levels } => format!("{levels} categories"),
        Kind::Text => "text, which hardly repeats".into(),
        Kind::Constant => "the same in each row".into(),
    };
    let missing = if column.missing > 0 { format!(", missing in {} rows", column.missing) } else { String::new() };
    format!("column {:?}: {kind}{missing}", column.name)
}

fn line(series: &Series) -> String {
    let [width, height] = series.size;
    let spacing = series.spacing.map_or(String::new(), |[down, across]| format!(" of {across:.3} × {down:.3} mm"));
    let step = series.step.map_or(String::new(), |step| format!(", {step:.3} mm apart"));
    let ends = [series.slices.first(), series.slices.last()].map(|name| name.map_or("", String::as_str));
    let values = series.values.map_or(String::new(), |[least, most]| format!(", values {least} to {most} in the middle"));
    format!("series: {} slices, {width} × {height}{spacing}{step}{values}, from {} to {}", series.slices.len(), ends[0], ends[1])
}
