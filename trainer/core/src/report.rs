//! The tables that a run writes: `history.csv`, `predictions.csv` and `metrics.json`, as text. Patients appear under
//! whatever name the caller passes, which must be a pseudonym; writing the files is the caller's.

use std::collections::BTreeMap;

use graft_crds::contract::Stage;
use graft_crds::spec::TaskType;
use serde::{Deserialize, Serialize};

use crate::metrics::{Evaluation, Score};
use crate::regression::Deviation;

/// A table cannot be written as CSV.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The writer failed.
    #[error("a table cannot be written as CSV: {0}")]
    Csv(#[from] csv::Error),
    /// A prediction has not one probability per class.
    #[error("the prediction for {input} has {found} probabilities for {classes} classes")]
    Width {
        /// The image.
        input: String,
        /// How many there are.
        found: usize,
        /// How many there should be.
        classes: usize,
    },
}

/// One epoch of one stage: a row of `history.csv`. Columns are the field names in snake case; what is absent is an empty field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryRow {
    /// The stage.
    pub stage: Stage,
    /// The epoch, from 1.
    pub epoch: u64,
    /// The attempt that trained it, from 0.
    pub attempt: u32,
    /// Learning rate at the end of the epoch.
    pub learning_rate: f64,
    /// Mean training loss over the epoch.
    pub train_loss: f64,
    /// Mean validation loss after it.
    pub validation_loss: Option<f64>,
    /// Validation accuracy after it.
    pub validation_accuracy: Option<f64>,
    /// Validation AUROC after it.
    pub validation_auroc: Option<f64>,
    /// Mean absolute error of a regression task on the validation set after it.
    #[serde(default)]
    pub validation_mae: Option<f64>,
    /// Duration in seconds.
    pub seconds: f64,
    /// Training images per second over all ranks.
    pub samples_per_second: Option<f64>,
}

/// `history.csv`, with a header even when there is no row.
///
/// # Errors
/// When the writer fails.
pub fn history_csv(rows: &[HistoryRow]) -> Result<String, ReportError> {
    const HEADER: [&str; 11] = [
        "stage",
        "epoch",
        "attempt",
        "learning_rate",
        "train_loss",
        "validation_loss",
        "validation_accuracy",
        "validation_auroc",
        "validation_mae",
        "seconds",
        "samples_per_second",
    ];
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    writer.write_record(HEADER)?;
    for row in rows {
        writer.serialize(row)?;
    }
    text(writer)
}

/// Rows of a `history.csv` that an earlier attempt wrote.
///
/// # Errors
/// When the text is no such table.
pub fn parse_history(text: &str) -> Result<Vec<HistoryRow>, ReportError> {
    Ok(csv::Reader::from_reader(text.as_bytes()).deserialize().collect::<Result<_, _>>()?)
}

/// One image of the test set: a row of `predictions.csv`.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The image as the user names it.
    pub input: String,
    /// The patient's pseudonym; empty field when there is none.
    pub patient: Option<String>,
    /// Name of the true class, or the true number.
    pub label: String,
    /// Probability of each class, or the predicted number.
    pub predicted: Vec<f64>,
}

/// `predictions.csv`: columns `input`, `patient`, `label`, and `probability_CLASS` for each class; `predicted_NAME` in a regression task.
/// Numbers are written so that reading gives the same `f64` again.
///
/// # Errors
/// When a row has not one number per class.
pub fn predictions_csv(task: TaskType, classes: &[String], rows: &[Prediction]) -> Result<String, ReportError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let header = ["input", "patient", "label"].map(str::to_owned);
    let what = if task == TaskType::Regression { "predicted" } else { "probability" };
    writer.write_record(header.into_iter().chain(classes.iter().map(|class| format!("{what}_{class}"))))?;
    for row in rows {
        if row.predicted.len() != classes.len() {
            return Err(ReportError::Width { input: row.input.clone(), found: row.predicted.len(), classes: classes.len() });
        }
        let start = [row.input.clone(), row.patient.clone().unwrap_or_default(), row.label.clone()];
        writer.write_record(start.into_iter().chain(row.predicted.iter().map(f64::to_string)))?;
    }
    text(writer)
}

fn text(writer: csv::Writer<Vec<u8>>) -> Result<String, ReportError> {
    let bytes = writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `metrics.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// The classes, in the order of the confusion matrix.
    pub classes: Vec<String>,
    /// The class that the two-class metrics are about; none with more classes.
    pub positive_class: Option<String>,
    /// The judgement on the test set.
    pub test: Judgement,
    /// The judgement on the validation set, by which the best epoch was chosen.
    pub validation: Option<Judgement>,
}

/// How good predictions are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Judgement {
    /// Of classes or findings.
    Classes(Evaluation),
    /// Of numbers.
    Numbers(Deviation),
}

impl Judgement {
    /// The metrics by the names that status and reports use; those that are undefined are left out.
    #[must_use]
    pub fn by_name(&self) -> BTreeMap<&'static str, f64> {
        let (scores, always) = match self {
            Self::Classes(e) => (
                vec![("auroc", &e.auroc), ("f1", &e.f1), ("sensitivity", &e.sensitivity), ("specificity", &e.specificity)],
                [("accuracy", e.accuracy), ("log_loss", e.log_loss)],
            ),
            Self::Numbers(d) => (vec![("r2", &d.r2), ("pearson", &d.pearson)], [("mae", d.mae), ("rmse", d.rmse)]),
        };
        let defined = scores.into_iter().filter_map(|(name, Score { value, .. })| Some((name, (*value)?)));
        defined.chain(always).collect()
    }

    /// What the best epoch has least of: the log loss, or the mean squared error in units of `deviation`.
    #[must_use]
    pub fn loss(&self, deviation: f64) -> f64 {
        match self {
            Self::Classes(evaluation) => evaluation.log_loss,
            Self::Numbers(numbers) => (numbers.rmse / deviation).powi(2),
        }
    }

    /// A metric by its name, if this has it and it is defined.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.by_name().get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_survives_its_csv() {
        let row = HistoryRow {
            stage: Stage::FineTune,
            epoch: 1,
            attempt: 0,
            learning_rate: 1e-4,
            train_loss: 0.1 + 0.2,
            validation_loss: Some(0.5),
            validation_accuracy: None,
            validation_auroc: None,
            validation_mae: None,
            seconds: 2.5,
            samples_per_second: Some(80.0),
        };
        let text = history_csv(std::slice::from_ref(&row)).unwrap();
        assert!(text.starts_with("stage,epoch,attempt,learning_rate,train_loss,"), "{text}");
        assert!(text.contains("\nfineTune,1,0,0.0001,0.30000000000000004,0.5,,,,2.5,80.0\n"), "{text}");
        assert_eq!(parse_history(&text).unwrap(), [row]);
        assert_eq!(parse_history(&history_csv(&[]).unwrap()).unwrap(), []);
    }

    #[test]
    fn predictions_are_quoted_and_exact() {
        let row = Prediction { input: "a, \"b\".png".into(), patient: None, label: "covid".into(), predicted: vec![1.0 / 3.0, 2.0 / 3.0] };
        let classes = ["covid".to_owned(), "normal".to_owned()];
        let text = predictions_csv(TaskType::Classification, &classes, std::slice::from_ref(&row)).unwrap();
        assert_eq!(
            text,
            "input,patient,label,probability_covid,probability_normal\n\"a, \"\"b\"\".png\",,covid,0.3333333333333333,0.6666666666666666\n"
        );
        assert!(matches!(predictions_csv(TaskType::Classification, &classes[..1], &[row]), Err(ReportError::Width { found: 2, classes: 1, .. })));
    }

    #[test]
    fn metrics_by_name_leave_out_what_is_undefined() {
        let classes = Judgement::Classes(Evaluation::of(&[0.2, 0.8], &[1], 2, 1).unwrap());
        assert_eq!(classes.by_name().into_keys().collect::<Vec<_>>(), ["accuracy", "f1", "log_loss", "sensitivity"]);
        let numbers = Judgement::Numbers(Deviation::of(&[1.0], &[3.0]).unwrap());
        assert_eq!(numbers.by_name().into_keys().collect::<Vec<_>>(), ["mae", "rmse"]);
        assert_eq!((numbers.metric("mae"), numbers.metric("auroc"), numbers.loss(4.0)), (Some(2.0), None, 0.25));
        for judged in [classes, numbers] {
            let text = serde_json::to_string(&judged).unwrap();
            assert_eq!(serde_json::from_str::<Judgement>(&text).unwrap(), judged);
        }
    }
}
