//! What can be wrong with the data, as findings: all of one kind together, each naming its places and the remedy.
//! A message never holds a value of the patient column; patients appear as [`pseudonym`]s beside the rows they are in.
//! File names do appear as they are; those that look like they are made from names or record numbers are refused by place alone.

use std::fmt;
use std::sync::LazyLock;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// A message names at most this many places; the findings themselves keep all.
const PLACES_SHOWN: usize = 12;
/// A message is at most this many bytes, so that it fits into a pod's termination message with room to spare.
const MESSAGE_LIMIT: usize = 2800;

/// What is wrong, in one word for `status.failure.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A folder or a manifest does not exist.
    DataNotFound,
    /// A manifest or a folder cannot be read or is not what it should be.
    DataUnreadable,
    /// A path or a column looks like personal data.
    PersonalData,
    /// A column is not in the manifest's header.
    ColumnNotFound,
    /// A row names no image.
    MissingInput,
    /// A row has no label.
    MissingLabel,
    /// A row has no patient although a patient column is named.
    MissingPatient,
    /// A row has a split value that is none of the configured ones.
    UnknownSplit,
    /// A split has no sample.
    EmptySplit,
    /// Training has fewer than two classes.
    TooFewClasses,
    /// A class of validation or test that training lacks, or one that the task does not name.
    UnknownClass,
    /// Validation is given twice.
    AmbiguousValidation,
    /// A patient is in more than one split.
    PatientInTwoSplits,
    /// An image file is in more than one split.
    InputInTwoSplits,
    /// Two images of different splits show the same picture.
    PictureInTwoSplits,
    /// Two images show the same picture and have different labels.
    LabelConflict,
    /// An image file does not exist.
    InputNotFound,
    /// There are fewer training samples than processes.
    TooFewSamples,
    /// An image cannot be decoded.
    UndecodableInput,
    /// An image file was moved or changed after it was checked.
    InputChanged,
    /// The size of the network's input is not possible.
    InvalidPreprocessing,
}

impl Reason {
    /// The word as it stands in status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DataNotFound => "DataNotFound",
            Self::DataUnreadable => "DataUnreadable",
            Self::PersonalData => "PersonalData",
            Self::ColumnNotFound => "ColumnNotFound",
            Self::MissingInput => "MissingInput",
            Self::MissingLabel => "MissingLabel",
            Self::MissingPatient => "MissingPatient",
            Self::UnknownSplit => "UnknownSplit",
            Self::UnknownClass => "UnknownClass",
            Self::TooFewClasses => "TooFewClasses",
            Self::EmptySplit => "EmptySplit",
            Self::AmbiguousValidation => "AmbiguousValidation",
            Self::PatientInTwoSplits => "PatientInTwoSplits",
            Self::InputInTwoSplits => "InputInTwoSplits",
            Self::PictureInTwoSplits => "PictureInTwoSplits",
            Self::LabelConflict => "LabelConflict",
            Self::InputNotFound => "InputNotFound",
            Self::TooFewSamples => "TooFewSamples",
            Self::UndecodableInput => "UndecodableInput",
            Self::InputChanged => "InputChanged",
            Self::InvalidPreprocessing => "InvalidPreprocessing",
        }
    }
}

/// One thing that is wrong, with all places where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong, in one word.
    pub reason: Reason,
    /// What is wrong, in a sentence without a full stop.
    pub what: String,
    /// Every place: `file:row`, a path, a pseudonym with its rows. May be empty when `what` says it all.
    pub places: Vec<String>,
    /// What to do about it.
    pub remedy: String,
}

impl Finding {
    pub(crate) fn new(reason: Reason, what: impl Into<String>, places: Vec<String>, remedy: impl Into<String>) -> Self {
        Self { reason, what: what.into(), places, remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for (i, place) in self.places.iter().take(PLACES_SHOWN).enumerate() {
            write!(f, "{} {place}", if i == 0 { ":" } else { "," })?;
        }
        if let Some(more @ 1..) = self.places.len().checked_sub(PLACES_SHOWN) {
            write!(f, " ... and {more} more")?;
        }
        write!(f, "; {}", self.remedy)
    }
}

/// The data cannot be trained on: all findings of the check that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataError {
    findings: Vec<Finding>,
}

impl DataError {
    pub(crate) fn one(finding: Finding) -> Self {
        Self { findings: vec![finding] }
    }

    /// `Ok` when there is no finding.
    pub(crate) fn check(mut findings: Vec<Finding>) -> Result<(), Self> {
        findings.sort_by_key(|finding| finding.reason);
        if findings.is_empty() { Ok(()) } else { Err(Self { findings }) }
    }

    /// The first finding's reason in CamelCase, for status.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.findings.first().map_or("DataUnreadable", |finding| finding.reason.name())
    }

    /// Every finding with every place; for a log, where length does not matter.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

impl DataError {
    /// Every place with its reason, if the text of this error does not have room for all of them.
    #[must_use]
    pub fn unshown(&self) -> Vec<String> {
        let whole: usize = self.findings.iter().map(|finding| finding.to_string().len() + 1).sum();
        if whole <= MESSAGE_LIMIT && self.findings.iter().all(|finding| finding.places.len() <= PLACES_SHOWN) {
            return Vec::new();
        }
        let of = |finding: &Finding| finding.places.iter().map(|place| format!("{}: {place}", finding.reason.name())).collect::<Vec<_>>();
        self.findings.iter().flat_map(of).collect()
    }
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = MESSAGE_LIMIT;
        for (i, finding) in self.findings.iter().enumerate() {
            let text = format!("{}{finding}", if i == 0 { "" } else { "\n" });
            if text.len() > left {
                let cut = graft_crds::contract::truncate(&text, left);
                let rest = self.findings.len() - i - 1;
                return write!(f, "{cut} ... (cut){}", if rest > 0 { format!(" and {rest} more findings") } else { String::new() });
            }
            left -= text.len();
            f.write_str(&text)?;
        }
        Ok(())
    }
}

impl std::error::Error for DataError {}

/// Environment variable with the key of [`pseudonym`]s.
pub const PSEUDONYM_KEY: &str = "GRAFT_PSEUDONYM_KEY";

static KEY: LazyLock<Option<Vec<u8>>> =
    LazyLock::new(|| std::env::var_os(PSEUDONYM_KEY).filter(|key| !key.is_empty()).map(std::ffi::OsString::into_encoded_bytes));

/// The name under which a patient appears in messages and reports: `patient#` and the first eight hexadecimal digits of
/// the id's HMAC-SHA-256 under the key in the environment, or of its SHA-256 where there is none. It lets two mentions be matched
/// without showing the id. Without a key it is no protection against someone who can guess ids.
#[must_use]
pub fn pseudonym(patient: &str) -> String {
    named(patient, KEY.as_deref())
}

fn named(patient: &str, key: Option<&[u8]>) -> String {
    // A key of any length is taken.
    let keyed = key.and_then(|key| Hmac::<Sha256>::new_from_slice(key).ok());
    let digest: [u8; 32] = keyed.map_or_else(|| Sha256::digest(patient).into(), |mac| mac.chain_update(patient).finalize().into_bytes().into());
    format!("patient#{}", digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// The known name that is nearest to `wanted`, if it is near enough to be a slip: at most a third of its letters differ.
#[must_use]
pub fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let (distance, name) = known.into_iter().map(|name| (distance(&wanted, &name.to_lowercase()), name)).min_by_key(|(distance, _)| *distance)?;
    (distance <= wanted.chars().count().max(name.chars().count()).div_ceil(3)).then_some(name)
}

/// Levenshtein's distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_makes_other_pseudonyms() {
        // printf 12345 | openssl dgst -sha256, and with -hmac secret
        assert_eq!(named("12345", None), "patient#5994471a");
        assert_eq!(named("12345", Some(b"secret")), "patient#f88c7ebe");
        assert_ne!(named("12345", Some(b"other")), named("12345", Some(b"secret")));
    }

    #[test]
    fn a_message_is_capped_and_says_so() {
        let places = (0..5000).map(|i| format!("manifest.csv:{i}")).collect();
        let error = DataError::one(Finding::new(Reason::MissingLabel, "rows without a label", places, "fill them in"));
        let text = error.to_string();
        assert!(text.ends_with("manifest.csv:11 ... and 4988 more; fill them in"), "{text}");
        assert_eq!(error.findings()[0].places.len(), 5000);

        let long = vec![Finding::new(Reason::UndecodableInput, "ü".repeat(2000), vec![], "x"); 3];
        let text = DataError::check(long).unwrap_err().to_string();
        assert!(text.len() < MESSAGE_LIMIT + 60 && text.ends_with("and 2 more findings"), "{} bytes", text.len());
    }

    #[test]
    fn the_gravest_finding_gives_the_reason() {
        let finding = |reason| Finding::new(reason, "w", vec![], "r");
        let error = DataError::check(vec![finding(Reason::UndecodableInput), finding(Reason::ColumnNotFound)]).unwrap_err();
        assert_eq!(error.reason(), "ColumnNotFound");
        assert_eq!(DataError::check(vec![]), Ok(()));
    }

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        assert_eq!(nearest("lable", ["image", "label", "split"]), Some("label"));
        assert_eq!(nearest("patient", ["image", "patient_id"]), Some("patient_id"));
        assert_eq!(nearest("diagnosis", ["image", "label"]), None);
    }

    #[test]
    fn a_pseudonym_hides_the_id() {
        assert_eq!(pseudonym("abc"), "patient#ba7816bf");
    }
}
