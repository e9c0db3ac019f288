//! What rows of a manifest lack, so that all of them are named at once.

use graft_crds::spec::DataColumns;

use crate::error::{Finding, Reason};
use crate::labels::Labels;

/// Rows that cannot be used, by what they lack.
#[derive(Default)]
pub(crate) struct Problems {
    pub(crate) no_input: Vec<String>,
    pub(crate) no_label: Vec<String>,
    pub(crate) odd_label: Vec<String>,
    pub(crate) no_patient: Vec<String>,
    pub(crate) ragged: Vec<String>,
    pub(crate) outside: Vec<String>,
}

impl Problems {
    /// Those of rows further down.
    pub(crate) fn append(&mut self, more: &mut Self) {
        self.no_input.append(&mut more.no_input);
        self.no_label.append(&mut more.no_label);
        self.odd_label.append(&mut more.odd_label);
        self.no_patient.append(&mut more.no_patient);
        self.ragged.append(&mut more.ragged);
        self.outside.append(&mut more.outside);
    }

    /// A finding for each kind; `width` is the number of the header's fields.
    pub(crate) fn report(self, (columns, labels): (&DataColumns, Labels<'_>), width: usize, findings: &mut Vec<Finding>) {
        let mut add = |reason, what: String, places: Vec<String>, remedy: &str| {
            if !places.is_empty() {
                findings.push(Finding::new(reason, what, places, remedy));
            }
        };
        let n = self.ragged.len();
        add(
            Reason::DataUnreadable,
            format!("{n} rows do not have the header's {width} fields"),
            self.ragged,
            "quote fields that hold a comma, and complete the rows",
        );
        let n = self.outside.len();
        add(
            Reason::DataUnreadable,
            format!("{n} rows have a path in column {:?} that leads out of the manifest's folder", columns.input),
            self.outside,
            "write paths relative to the folder that uri names, without ..",
        );
        let n = self.no_input.len();
        add(
            Reason::MissingInput,
            format!("{n} rows have no value in column {:?}", columns.input),
            self.no_input,
            "fill in the image's path or remove the rows",
        );
        let n = self.no_label.len();
        add(
            Reason::MissingLabel,
            format!("{n} rows have no label in column {:?}", columns.label),
            self.no_label,
            "fill in the label or remove the rows",
        );
        let n = self.odd_label.len();
        let (what, remedy) = match labels {
            Labels::Number => {
                let what = format!("{n} rows have something else than a number in column {:?}", columns.label);
                (what, "write numbers with a point and without a unit, such as 63.5, or remove the rows")
            }
            Labels::Class | Labels::Findings(_) => (
                format!("{n} rows say of a finding what cannot be understood"),
                "write the findings as spec.task.classes does, A|B in one column; or 1, 0, and -1 or nothing for unknown, in a column for each",
            ),
        };
        add(Reason::UnknownClass, what, self.odd_label, remedy);
        let n = self.no_patient.len();
        let patient = columns.patient.as_deref().unwrap_or_default();
        let remedy = "fill in the patient, remove the rows, or leave spec.data.columns.patient out if every image is a patient of its own";
        add(Reason::MissingPatient, format!("{n} rows have no value in column {patient:?}"), self.no_patient, remedy);
    }
}
