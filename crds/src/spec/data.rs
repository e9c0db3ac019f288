//! The labelled target data: where it lies and how it is split.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::decimal::Decimal;

/// The labelled target data. A patient never is in two splits: that is an error, not a warning.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("has(self.test) || has(self.columns.split)", "spec.data.test is missing: name a test set, or spec.data.columns.split if the manifest has a split column"),
    validation = ("!has(self.columns.split) || has(self.train.manifest)", "spec.data.columns.split needs spec.data.train.manifest: class folders have no columns"),
    validation = ("!(has(self.columns.split) && (has(self.test) || has(self.validation.uri)))", "spec.data.columns.split takes test and validation from the training manifest; remove spec.data.test and spec.data.validation.uri, or the split column"),
    validation = ("!(has(self.validation.fraction) && has(self.validation.uri))", "spec.data.validation takes either fraction or uri, not both"),
    validation = ("!(has(self.columns.patient) && has(self.patientFrom))", "spec.data.columns.patient already says whose image it is; remove it, or spec.data.patientFrom"),
    validation = ("(!self.train.uri.startsWith('https:') || has(self.train.manifest)) && (!has(self.test) || !self.test.uri.startsWith('https:') || has(self.test.manifest)) && (!has(self.validation.uri) || !self.validation.uri.startsWith('https:') || has(self.validation.manifest))", "an https:// folder cannot be listed: name its manifest"),
    validation = ("!has(self.windows) || self.windows.size() != 2", "spec.data.windows takes one window, or three for the three channels")
)]
pub struct Data {
    /// Training data; with `columns.split`, the manifest of all splits.
    pub train: DataSet,
    /// Validation data, used to choose the best epoch. Default: the manifest's validation rows, else 15 % of the training patients.
    #[serde(default)]
    pub validation: Validation,
    /// Test data; left out when `columns.split` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<DataSet>,
    /// Names of the manifest's columns.
    #[serde(default)]
    pub columns: DataColumns,
    /// Where a patient's id comes from if no column names it. Default: `patientId` for DICOM files that have one, else `file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patient_from: Option<PatientFrom>,
    /// The values of the split column.
    #[serde(default)]
    pub splits: DataSplits,
    /// The same picture in two splits or under two labels: the job fails, leaves copies of test pictures out of training, or records it. Default: record.
    #[serde(default)]
    pub duplicates: Duplicates,
    /// Images that cannot be decoded: `stop` before training, or `skip` and count them in status.data. Default: stop.
    #[serde(default)]
    pub on_bad_input: BadInput,
    /// Why paths or columns that look like names, birth dates, contacts or record numbers are none, or may be here. Default: none, they are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 10, max = 256))]
    pub allow_personal_data: Option<String>,
    /// Grey windows for DICOM and NIfTI: one, or three for the three channels. Default: a DICOM file's own, else the full range.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub windows: Vec<Window>,
}

/// What happens when an image cannot be decoded.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BadInput {
    /// The job fails before training and names all bad files.
    #[default]
    Stop,
    /// The files are left out, named in the log and counted.
    Skip,
}

/// Where a patient's id comes from if no column names it: the `folder` of the file, its DICOM `patientId`, or the `file` itself.
/// Default: `patientId` for DICOM files that have one, else `file`.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PatientFrom {
    /// The name of the folder that holds the file.
    Folder,
    /// The DICOM file's PatientID (0010,0020).
    PatientId,
    /// Every file is a patient of its own.
    File,
}

/// A grey window, for CT in Hounsfield units (lung: center -600, width 1500), else in the unit of the file.
#[derive(KubeSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// The value in the middle.
    #[schemars(range(min = -65_536, max = 65_536))]
    pub center: i32,
    /// From black to white.
    #[schemars(range(min = 1, max = 131_072))]
    pub width: i32,
}

/// What happens when the same picture is in two splits, or under two labels.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Duplicates {
    /// The job fails before training and names the pairs.
    Refuse,
    /// Pictures of the test set are left out of training and validation, and those of the validation set out of training.
    Regroup,
    /// The job logs how many there are and trains.
    #[default]
    Record,
}

/// A set of labelled images: a folder with one folder per class, or a manifest.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataSet {
    /// `file:///FOLDER`, `s3://BUCKET/PREFIX` (or gs, az), `hf://datasets/OWNER/NAME@REVISION/FOLDER`, `https://HOST/FOLDER`. Without a manifest: a folder per class.
    #[schemars(length(min = 8, max = 1024), regex(pattern = r"^(file:///.+|(s3|gs|az)://[^/]+(/.*)?|hf://datasets/.+/.+|https://[^?#@]+)$"))]
    pub uri: String,
    /// A CSV or Parquet file in that folder, whose paths start there. Default: none, class folders are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub manifest: Option<String>,
}

/// Validation data: a fraction of the training patients, or a set of its own.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("!has(self.manifest) || has(self.uri)", "spec.data.validation.manifest needs spec.data.validation.uri"))]
pub struct Validation {
    /// Share of the training patients that is held out, between 0 and 0.9; by patient, never by image. Default: "0.15" where no validation set is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = ("double(self) > 0.0 && double(self) < 0.9", "spec.data.validation.fraction must lie between 0 and 0.9"))]
    pub fraction: Option<Decimal>,
    /// A folder of its own, as of `train`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 1024), regex(pattern = r"^(file:///.+|(s3|gs|az)://[^/]+(/.*)?|hf://datasets/.+/.+|https://[^?#@]+)$"))]
    pub uri: Option<String>,
    /// A CSV or Parquet file in that folder. Default: none, class folders are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub manifest: Option<String>,
}

/// Names of the manifest's columns.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataColumns {
    /// Column with the image's path. Default: "image".
    #[serde(default = "image_column")]
    #[schemars(length(min = 1, max = 128))]
    pub input: String,
    /// Column with the class, or the number of a regression task; of a multiLabel task with the findings, `A|B`, where others than spec.task.classes are ignored. If there is no
    /// such column, a multiLabel manifest has a column per class: 1, 0, and -1 or nothing for unknown. Default: "label".
    #[serde(default = "label_column")]
    #[schemars(length(min = 1, max = 128))]
    pub label: String,
    /// Column that identifies the patient; splits never cut through a patient. Default: none, every image is its own patient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub patient: Option<String>,
    /// Column that says to which split a row belongs. Default: none, all rows belong to the set that names the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub split: Option<String>,
}

fn image_column() -> String {
    "image".into()
}

fn label_column() -> String {
    "label".into()
}

impl Default for DataColumns {
    fn default() -> Self {
        Self { input: image_column(), label: label_column(), patient: None, split: None }
    }
}

/// The values of the split column.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataSplits {
    /// Value of training rows. Default: "train".
    #[serde(default = "train_split")]
    #[schemars(length(min = 1, max = 128))]
    pub train: String,
    /// Value of validation rows. Default: "val".
    #[serde(default = "validation_split")]
    #[schemars(length(min = 1, max = 128))]
    pub validation: String,
    /// Value of test rows. Default: "test".
    #[serde(default = "test_split")]
    #[schemars(length(min = 1, max = 128))]
    pub test: String,
}

fn train_split() -> String {
    "train".into()
}

fn validation_split() -> String {
    "val".into()
}

fn test_split() -> String {
    "test".into()
}

impl Default for DataSplits {
    fn default() -> Self {
        Self { train: train_split(), validation: validation_split(), test: test_split() }
    }
}
