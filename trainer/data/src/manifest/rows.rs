//! Rows of slices and images with what is known of each, and the manifest that they become: patients who are in no split yet are set
//! aside for testing, so that a job can read it.

use std::collections::BTreeSet;
use std::path::Path;

use super::answers::Answers;
use super::{Options, Written, few, refused, save, snippet};
use crate::error::{DataError, Reason};
use crate::split;

/// A row.
pub(super) struct Row {
    pub(super) image: String,
    /// Who it shows, never a name.
    pub(super) patient: String,
    /// The class, or 1 and 0 for each of several.
    pub(super) labels: Vec<String>,
    pub(super) split: Option<String>,
    /// Values of other columns.
    pub(super) more: Vec<String>,
}

/// All rows, and what their columns are.
pub(super) struct Rows<'a> {
    /// Findings with a column each; none where the one label is a class.
    pub(super) findings: Vec<String>,
    /// Names of other columns.
    pub(super) more: Vec<&'a str>,
    pub(super) rows: Vec<Row>,
    pub(super) notes: Vec<String>,
}

impl Rows<'_> {
    /// Writes them, and says what a job would have to say. Columns are image, label or the findings, patient, split, and the others.
    ///
    /// # Errors
    /// There are none, there is a manifest already, or it cannot be written.
    pub(super) fn write(mut self, root: &Path, options: &Options) -> Result<Written, DataError> {
        if self.rows.is_empty() {
            let what = format!("{}: nothing is left to write: {}", root.display(), self.notes.join("; "));
            return Err(refused(Reason::MissingInput, what, "see the reasons"));
        }
        let labelled = self.rows.iter().all(|row| !row.labels.is_empty());
        if labelled {
            self.set_aside(options);
        } else {
            self.notes.push(
                "nothing says what the images show: give --labels a CSV table, with a column image, series or patient and a column label".into(),
            );
        }
        let label: Vec<&str> = if self.findings.is_empty() { vec!["label"] } else { self.findings.iter().map(String::as_str).collect() };
        let mut header = vec!["image"];
        if labelled {
            header.extend(&label);
        }
        header.push("patient");
        if labelled {
            header.push("split");
        }
        header.extend(&self.more);
        let row = |row: &Row| {
            let split = row.split.iter().filter(|_| labelled).cloned();
            let labels = if labelled { row.labels.as_slice() } else { &[] };
            std::iter::once(row.image.clone())
                .chain(labels.iter().cloned())
                .chain([row.patient.clone()])
                .chain(split)
                .chain(row.more.iter().cloned())
                .collect()
        };
        let rows: Vec<Vec<String>> = self.rows.iter().map(row).collect();
        let manifest = save(root, &header, &rows)?;
        let own = if self.findings.is_empty() { "    label: label\n" } else { "" };
        let snippet = if labelled { snippet(root, &self.findings, own, true) } else { String::new() };
        Ok(Written { manifest, rows: rows.len(), notes: self.notes, snippet })
    }

    /// Where no row is for testing, a share of the patients is.
    fn set_aside(&mut self, options: &Options) {
        if self.rows.iter().any(|row| row.split.as_deref() == Some("test")) {
            self.rows.iter_mut().filter(|row| row.split.is_none()).for_each(|row| row.split = Some("train".into()));
            return;
        }
        let shown = |row: &Row| if self.findings.is_empty() { row.labels[0].clone() } else { row.labels.join("|") };
        let strata: Vec<String> = self.rows.iter().map(shown).collect();
        let items: Vec<split::Item<'_>> =
            self.rows.iter().zip(&strata).map(|(row, stratum)| split::Item { patient: &row.patient, strata: vec![stratum] }).collect();
        let test = split::test(&items, options.test, options.seed);
        let count =
            |wanted: bool| items.iter().zip(&test).filter(|(_, test)| **test == wanted).map(|(item, _)| item.patient).collect::<BTreeSet<_>>().len();
        let note = format!("{} of {} patients are set aside for testing, by seed {}", count(true), count(true) + count(false), options.seed);
        for (row, test) in self.rows.iter_mut().zip(test) {
            let kept = row.split.take().filter(|split| !test && split != "train");
            row.split = Some(kept.unwrap_or_else(|| if test { "test" } else { "train" }.into()));
        }
        self.notes.push(note);
    }
}

/// Fills in labels, splits and patients from a table; rows that it does not have are left out. `ids` are what a row can be known by
/// besides its path.
pub(super) fn answered(rows: Vec<(Row, Vec<String>)>, answers: &Answers, notes: &mut Vec<String>) -> Vec<Row> {
    let (mut kept, mut without, mut used) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for (mut row, ids) in rows {
        let Some(answer) = answers.find(&row.image, &ids) else {
            without.insert(row.image.split('#').next().unwrap_or_default().to_owned());
            continue;
        };
        used.insert(answer.row);
        row.labels = vec![answer.label.clone()];
        row.split = answer.split.clone();
        if let Some(patient) = &answer.patient {
            row.patient = crate::error::pseudonym(patient);
        }
        kept.push(row);
    }
    if !without.is_empty() {
        // Names of files may be anything; the table's own may name patients, and are not shown.
        notes.push(format!(
            "{} files have no row in the table of labels and were left out: {}",
            without.len(),
            few(&without.into_iter().collect::<Vec<_>>())
        ));
    }
    let unused = answers.rows() - used.len();
    if unused > 0 {
        notes.push(format!("{unused} rows of the table of labels fit no file"));
    }
    kept
}
