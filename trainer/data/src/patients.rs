//! Whose picture it is, where no column of a manifest says so: the folder's name, or what the DICOM file itself names.

use graft_crds::spec::{Data, PatientFrom};

use crate::dataset::Sets;
use crate::error::{Finding, Reason};
use crate::source::{Record, is_dicom};
use crate::{dicom, parallel, series};

/// Fill in the patients of records that have none. Where the spec does not say how, DICOM files are asked and every other file
/// is a patient of its own; where it does, a record without a patient is a finding.
pub(crate) fn identify(data: &Data, sets: &mut Sets, findings: &mut Vec<Finding>) {
    if data.columns.patient.is_some() || data.patient_from == Some(PatientFrom::File) {
        return;
    }
    let mut records: Vec<&mut Record> = sets.iter_mut().flatten().collect();
    let found: Vec<Option<String>> = match data.patient_from {
        Some(PatientFrom::Folder) => records.iter().map(|record| folder(record)).collect(),
        _ => {
            // Slices of a series show one patient, also where nobody is named.
            let named = data.patient_from == Some(PatientFrom::PatientId);
            let threads = parallel::processors();
            parallel::map(records.len(), threads, |index| {
                let path = &records[index].path;
                is_dicom(path).then(|| dicom::patient(path).or_else(|| if named { None } else { series::uid(path) })).flatten()
            })
        }
    };
    for (record, patient) in records.iter_mut().zip(found) {
        record.patient = patient;
    }
    let (what, remedy) = match data.patient_from {
        Some(PatientFrom::Folder) => {
            ("lie in no folder of a patient below the class or the manifest's folder", "lay each patient's images into a folder of its own")
        }
        Some(PatientFrom::PatientId) => ("are no DICOM files that name a patient (0010,0020)", "name the patients in a manifest's column"),
        _ => return,
    };
    let without: Vec<String> = records.iter().filter(|record| record.patient.is_none()).map(|record| record.place()).collect();
    if !without.is_empty() {
        let what = format!("spec.data.patientFrom: {} images {what}", without.len());
        let remedy = format!("{remedy}, or leave spec.data.patientFrom out if every image is a patient of its own");
        findings.push(Finding::new(Reason::MissingPatient, what, without, remedy));
    }
}

/// The name of the folder that holds the image; none where that is a class folder or the manifest's.
fn folder(record: &Record) -> Option<String> {
    let parts: Vec<&str> = record.key.split('/').collect();
    // A key in class folders begins with the class.
    let least = if record.place.row.is_some() { 2 } else { 3 };
    parts.len().checked_sub(2).filter(|_| parts.len() >= least).map(|at| parts[at].to_owned())
}

/// What to do about patients in two splits.
pub(crate) fn remedy(data: &Data) -> &'static str {
    match (&data.columns.patient, data.patient_from) {
        (None, None | Some(PatientFrom::PatientId)) => {
            "move all images of a patient to one split; if PatientID was replaced by the same text everywhere, name the patients in a manifest's column, or set spec.data.patientFrom to folder or file"
        }
        (None, _) => "move all images of a patient to one split",
        (Some(_), _) => "move all rows of a patient to one split",
    }
}
