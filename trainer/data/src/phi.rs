//! Personal data where a job would carry it on: the paths of images stand in predictions, reports and messages, so they must not
//! be made from names, birth dates, telephone numbers or record numbers; and a manifest with a column of them has no business
//! on a training cluster. Only what can hardly be anything else is taken for such: a date alone is no birth date, and a word no name.

use std::sync::LazyLock;

use regex::RegexSet;

/// What a piece of text looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Personal {
    /// A person's name.
    Name,
    /// A date of birth.
    BirthDate,
    /// A telephone number, or an address for e-mail.
    Contact,
    /// The number of a medical record or of an insurance.
    RecordNumber,
}

impl Personal {
    /// In words, after "looks like".
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Name => "a person's name",
            Self::BirthDate => "a date of birth",
            Self::Contact => "a telephone number or an e-mail address",
            Self::RecordNumber => "a record number",
        }
    }
}

/// Columns by their names in lower case without anything but letters and digits. `name` alone names files as often as people.
const COLUMNS: &[(Personal, &[&str])] = &[
    (
        Personal::Name,
        &[
            "patientname",
            "patientsname",
            "firstname",
            "lastname",
            "surname",
            "givenname",
            "familyname",
            "middlename",
            "fullname",
            "personname",
            "othernames",
        ],
    ),
    (Personal::BirthDate, &["dob", "birthdate", "dateofbirth", "birthday", "patientbirthdate", "patientsbirthdate", "dateofbirthdob"]),
    (
        Personal::Contact,
        &["phone", "phonenumber", "telephone", "telephonenumber", "mobilephone", "email", "emailaddress", "homeaddress", "streetaddress"],
    ),
    (
        Personal::RecordNumber,
        &["mrn", "medicalrecordnumber", "ssn", "socialsecuritynumber", "nhsnumber", "insurancenumber", "passportnumber", "accessionnumber"],
    ),
];

/// What a column's name says it holds.
pub(crate) fn column(name: &str) -> Option<Personal> {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect();
    COLUMNS.iter().find(|(_, names)| names.contains(&plain.as_str())).map(|(kind, _)| *kind)
}

const PATTERNS: &[(Personal, &str)] = &[
    // As DICOM writes a name, DOE^JOHN, and as an index does: Doe, John.
    (Personal::Name, r"[A-Za-z]{2,}\^[A-Za-z]"),
    (Personal::Name, r"(^|[^A-Za-z])[A-Z][A-Za-z'-]+,[ _]?[A-Z][a-z]+"),
    (Personal::Name, r"(?i)(^|[^a-z])(patient|first|last|sur|given|family)[ _-]?name[ _=:-]+[a-z]{2,}"),
    (
        Personal::BirthDate,
        r"(?i)(^|[^a-z])(dob|born|birth[ _-]?(date|day)|geb)[ _=:.-]*([0-9]{8}|[0-9]{4}[-._][0-9]{2}[-._][0-9]{2}|[0-9]{2}[-._][0-9]{2}[-._][0-9]{4})",
    ),
    (Personal::Contact, r"[A-Za-z0-9._+-]+@[A-Za-z0-9-]+\.[A-Za-z]{2,}"),
    (Personal::Contact, r"\+[0-9]{1,3}[ .-]?\(?[0-9]{2,4}\)?[ .-]?[0-9]{3}[ .-]?[0-9]{3,4}"),
    (Personal::Contact, r"\([0-9]{3}\) ?[0-9]{3}-[0-9]{4}"),
    (Personal::RecordNumber, r"(?i)(^|[^a-z])mrn[ _#:=-]*[0-9]{4,}"),
    (Personal::RecordNumber, r"(^|[^0-9])[0-9]{3}-[0-9]{2}-[0-9]{4}([^0-9]|$)"),
];

/// All patterns at once, so that a path is gone through once; none if one of them were no regular expression.
static ALL: LazyLock<Option<RegexSet>> = LazyLock::new(|| RegexSet::new(PATTERNS.iter().map(|(_, pattern)| pattern)).ok());

/// What the path of an image looks like it is made from.
pub(crate) fn path(key: &str) -> Option<Personal> {
    let all = ALL.as_ref()?;
    // Whether any does is cheaper to tell than which.
    let first = all.is_match(key).then(|| all.matches(key).into_iter().next()).flatten()?;
    PATTERNS.get(first).map(|(kind, _)| *kind)
}

/// Whether a path looks like it is made from personal data, and should not be shown.
#[must_use]
pub fn shows_person(key: &str) -> bool {
    path(key).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles() {
        assert!(ALL.is_some());
    }

    #[test]
    fn identities_are_found() {
        for (key, kind) in [
            ("ct/DOE^JOHN^^^/IM0001", Personal::Name),
            ("covid/Doe, John.png", Personal::Name),
            ("covid/O'Brien,_Mary 2.png", Personal::Name),
            ("xray/patientname=smith-1.png", Personal::Name),
            ("a/dob_19610203_1.png", Personal::BirthDate),
            ("a/x born 03.02.1961.png", Personal::BirthDate),
            ("a/jane.doe@hospital.org.png", Personal::Contact),
            ("a/+49 170 123 4567.jpg", Personal::Contact),
            ("a/(555) 123-4567.jpg", Personal::Contact),
            ("MRN-00471234/1.dcm", Personal::RecordNumber),
            ("a/123-45-6789.dcm", Personal::RecordNumber),
        ] {
            assert_eq!(path(key), Some(kind), "{key}");
        }
        for (name, kind) in
            [("Patient's Name", Personal::Name), ("DOB", Personal::BirthDate), ("e-mail", Personal::Contact), ("MRN", Personal::RecordNumber)]
        {
            assert_eq!(column(name), Some(kind), "{name}");
        }
    }

    #[test]
    fn no_real_file_raises_a_false_alarm() {
        let Some(data) = std::env::var_os("GRAFT_DATA").map(std::path::PathBuf::from).filter(|data| data.is_dir()) else {
            println!("skipped no_real_file_raises_a_false_alarm: there is no GRAFT_DATA");
            return;
        };
        let mut folders = vec![data.clone()];
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let file = entry.unwrap().path();
                if file.is_dir() {
                    folders.push(file);
                } else {
                    seen += 1;
                    let key = file.strip_prefix(&data).unwrap().to_string_lossy().into_owned();
                    assert_eq!(path(&key), None, "{key}");
                }
            }
        }
        assert!(seen > 2000, "only {seen} files");
    }

    #[test]
    fn ordinary_names_are_left_alone() {
        for key in [
            "CT_COVID/2020.03.04.20031039-p23-108_1%0.jpg",
            "CT_COVID/Gastrointestinal-involvement-in-COVID-19-pneumonia_p6-18.png",
            "train/patient00001/study1/view1_frontal.jpg",
            "00000001_000.png",
            "images/patient-000-slice-0.png",
            "ISIC_0024306.jpg",
            "1.2.840.113619.2.55.3.604688119.971.1281431222.462/000012.dcm",
            "LIDC-IDRI-0001/01-01-2000-30178/3000566.000000-03192/1-001.dcm",
            "TCGA-02-0003-01Z-00-DX1.6171b175.svs/tile_12,34.png",
            "2019-03-05/scan.nii.gz#40",
            "newborn/20190305.png",
            "Rosemary,thyme/1.png",
        ] {
            assert_eq!(path(key), None, "{key}");
        }
        for name in ["name", "Image Index", "Patient ID", "Patient Age", "Patient Gender", "RID", "subject_id", "study_date", "address"] {
            assert_eq!(column(name), None, "{name}");
        }
    }
}
