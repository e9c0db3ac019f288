//! How good predictions are: accuracy, AUROC, F1, sensitivity, specificity, log loss and the confusion matrix, equal to
//! scikit-learn's. Assumes class probabilities and true classes of the same samples. Never gives NaN: a value that the
//! data leave undefined is absent, with the reason beside it.

use serde::{Deserialize, Serialize};

/// The input cannot be judged at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetricsError {
    /// There is nothing to judge.
    #[error("there are no predictions to evaluate; the set must hold at least one sample")]
    Empty,
    /// The two inputs do not belong together.
    #[error("{probabilities} probabilities do not fit {labels} samples of {classes} classes")]
    Shape {
        /// Length of the probabilities.
        probabilities: usize,
        /// Number of true classes.
        labels: usize,
        /// Number of classes.
        classes: usize,
    },
    /// A probability is NaN or outside [0, 1].
    #[error("sample {sample} has a probability that is no number between 0 and 1; the training diverged or the outputs are not probabilities")]
    NotAProbability {
        /// Index of the sample.
        sample: usize,
    },
    /// A predicted number is infinite or none.
    #[error("the number predicted for sample {sample} is infinite or no number; the training diverged")]
    NotANumber {
        /// Index of the sample.
        sample: usize,
    },
    /// A class index is out of range.
    #[error("class {class} does not exist: there are {classes} classes")]
    UnknownClass {
        /// The class.
        class: usize,
        /// Number of classes.
        classes: usize,
    },
}

/// A value, or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The value; absent where the data leave it undefined.
    pub value: Option<f64>,
    /// Why there is no value, or what it leaves out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Score {
    /// A value.
    #[must_use]
    pub fn of(value: f64) -> Self {
        Self { value: Some(value), reason: None }
    }

    /// No value, and why.
    #[must_use]
    pub fn undefined(reason: impl Into<String>) -> Self {
        Self { value: None, reason: Some(reason.into()) }
    }

    fn ratio(numerator: u64, denominator: u64, reason: &str) -> Self {
        if denominator == 0 { Self::undefined(reason) } else { Self::of(numerator as f64 / denominator as f64) }
    }
}

/// Judgement of one set of predictions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evaluation {
    /// Number of samples.
    pub samples: usize,
    /// Share of samples whose predicted class is the true one.
    pub accuracy: f64,
    /// Area under the ROC curve.
    pub auroc: Score,
    /// Harmonic mean of precision and sensitivity.
    pub f1: Score,
    /// True positives over positives.
    pub sensitivity: Score,
    /// True negatives over negatives.
    pub specificity: Score,
    /// Mean negative log likelihood in nats; probabilities are clipped to [ε, 1 − ε] with ε = 2⁻⁵², as scikit-learn does.
    pub log_loss: f64,
    /// `confusion[t][p]`: samples of true class `t` predicted as `p`. Of findings a row each: true negatives, false positives, false
    /// negatives, true positives.
    pub confusion: Vec<Vec<u64>>,
    /// The findings of a multi-label task one by one; empty in classification.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<FindingScores>,
}

/// Judgement of one finding over the samples that are known to show it or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FindingScores {
    /// Samples that show it.
    pub positives: usize,
    /// Samples that do not.
    pub negatives: usize,
    /// Area under the ROC curve.
    pub auroc: Score,
    /// Harmonic mean of precision and sensitivity at probability 0.5.
    pub f1: Score,
    /// True positives over positives at probability 0.5.
    pub sensitivity: Score,
    /// True negatives over negatives at probability 0.5.
    pub specificity: Score,
}

impl Evaluation {
    /// Judges `probabilities` (`[N, classes]`, row-major, each row a distribution) against the true classes `labels` (`[N]`).
    ///
    /// With two classes the values are those of class `positive`, predicted where its probability is at least 0.5. With
    /// more classes `positive` has no meaning, the class of highest probability (the first among equals) is predicted,
    /// and the values are unweighted means of the classes' one-vs-rest values; one undefined class leaves the mean undefined.
    ///
    /// # Errors
    /// Empty input, shapes that do not fit, a probability outside [0, 1], a class out of range.
    pub fn of(probabilities: &[f64], labels: &[usize], classes: usize, positive: usize) -> Result<Self, MetricsError> {
        check(probabilities, labels, classes, positive)?;
        let rows = || probabilities.chunks_exact(classes).zip(labels);
        let mut confusion = vec![vec![0u64; classes]; classes];
        let mut loss = 0.0;
        for (row, &label) in rows() {
            confusion[label][predicted(row, positive)] += 1;
            loss -= row[label].clamp(f64::EPSILON, 1.0 - f64::EPSILON).ln();
        }
        let judged: Vec<usize> = if classes == 2 { vec![positive] } else { (0..classes).collect() };
        let mean = |score: &dyn Fn(usize) -> Score| macro_mean(&judged, score);
        let counts = |class| Counts::of(&confusion, class);
        Ok(Self {
            samples: labels.len(),
            accuracy: (0..classes).map(|class| confusion[class][class]).sum::<u64>() as f64 / labels.len() as f64,
            auroc: mean(&|class| {
                let scored: Vec<(f64, bool)> = rows().map(|(row, &label)| (row[class], label == class)).collect();
                auroc(&scored)
            }),
            f1: mean(&|class| {
                let c = counts(class);
                Score::ratio(2 * c.true_positive, 2 * c.true_positive + c.false_positive + c.false_negative, NO_F1)
            }),
            sensitivity: mean(&|class| {
                let c = counts(class);
                Score::ratio(c.true_positive, c.true_positive + c.false_negative, NO_POSITIVE)
            }),
            specificity: mean(&|class| {
                let c = counts(class);
                Score::ratio(c.true_negative, c.true_negative + c.false_positive, NO_NEGATIVE)
            }),
            log_loss: loss / labels.len() as f64,
            confusion,
            findings: Vec::new(),
        })
    }

    /// Judges `probabilities` (`[N, classes]`, row-major, each on its own) against what is known, `truth` (`[N, classes]`), where `None` is
    /// unknown and counts for nothing. Accuracy and log loss are means over all that is known; the other values are unweighted means over
    /// the findings for which they are defined, with the number of those that were left out as the reason.
    ///
    /// # Errors
    /// Empty input, nothing known, shapes that do not fit, a probability outside [0, 1].
    pub fn of_findings(probabilities: &[f64], truth: &[Option<bool>], classes: usize) -> Result<Self, MetricsError> {
        if classes == 0 || truth.len() != probabilities.len() || !truth.len().is_multiple_of(classes) {
            return Err(MetricsError::Shape { probabilities: probabilities.len(), labels: truth.len() / classes.max(1), classes });
        }
        if let Some(at) = probabilities.iter().position(|p| !(0.0..=1.0).contains(p)) {
            return Err(MetricsError::NotAProbability { sample: at / classes });
        }
        let known = || probabilities.iter().zip(truth).enumerate().filter_map(|(at, (p, shown))| Some((at % classes, *p, (*shown)?)));
        let count = known().count();
        if count == 0 {
            return Err(MetricsError::Empty);
        }
        let mut confusion = vec![vec![0u64; 4]; classes];
        let mut scored = vec![Vec::new(); classes];
        let (mut loss, mut right) = (0.0, 0usize);
        for (class, p, shown) in known() {
            let said = p >= 0.5;
            confusion[class][usize::from(shown) * 2 + usize::from(said)] += 1;
            scored[class].push((p, shown));
            right += usize::from(said == shown);
            loss -= if shown { p } else { 1.0 - p }.clamp(f64::EPSILON, 1.0 - f64::EPSILON).ln();
        }
        let findings: Vec<FindingScores> = confusion.iter().zip(&scored).map(|(counts, scored)| FindingScores::of(counts, scored)).collect();
        Ok(Self {
            samples: truth.len() / classes,
            accuracy: right as f64 / count as f64,
            auroc: defined_mean(&findings, |f| &f.auroc),
            f1: defined_mean(&findings, |f| &f.f1),
            sensitivity: defined_mean(&findings, |f| &f.sensitivity),
            specificity: defined_mean(&findings, |f| &f.specificity),
            log_loss: loss / count as f64,
            confusion,
            findings,
        })
    }
}

impl FindingScores {
    fn of(counts: &[u64], scored: &[(f64, bool)]) -> Self {
        let [tn, fp, fneg, tp] = [counts[0], counts[1], counts[2], counts[3]];
        let positives = scored.iter().filter(|(_, shown)| *shown).count();
        Self {
            positives,
            negatives: scored.len() - positives,
            auroc: auroc(scored),
            f1: Score::ratio(2 * tp, 2 * tp + fp + fneg, NO_F1),
            sensitivity: Score::ratio(tp, tp + fneg, NO_POSITIVE),
            specificity: Score::ratio(tn, tn + fp, NO_NEGATIVE),
        }
    }
}

fn defined_mean(findings: &[FindingScores], score: impl Fn(&FindingScores) -> &Score) -> Score {
    let values: Vec<f64> = findings.iter().filter_map(|finding| score(finding).value).collect();
    let left_out = findings.len() - values.len();
    if values.is_empty() {
        return Score::undefined("it is defined for no finding");
    }
    let reason = (left_out > 0).then(|| format!("mean without {left_out} findings, for which it is not defined"));
    Score { value: Some(values.iter().sum::<f64>() / values.len() as f64), reason }
}

const NO_F1: &str = "no positive is present or predicted";

const NO_POSITIVE: &str = "no sample of the positive class";
const NO_NEGATIVE: &str = "no sample outside the positive class";

fn check(probabilities: &[f64], labels: &[usize], classes: usize, positive: usize) -> Result<(), MetricsError> {
    if labels.is_empty() {
        return Err(MetricsError::Empty);
    }
    if classes == 0 || labels.len().checked_mul(classes) != Some(probabilities.len()) {
        return Err(MetricsError::Shape { probabilities: probabilities.len(), labels: labels.len(), classes });
    }
    if let Some(&class) = labels.iter().chain([&positive]).find(|&&class| class >= classes) {
        return Err(MetricsError::UnknownClass { class, classes });
    }
    match probabilities.iter().position(|p| !(0.0..=1.0).contains(p)) {
        Some(at) => Err(MetricsError::NotAProbability { sample: at / classes }),
        None => Ok(()),
    }
}

/// The predicted class of one row of probabilities; see [`Evaluation::of`].
#[must_use]
pub fn predicted(row: &[f64], positive: usize) -> usize {
    if row.len() == 2 {
        return if row[positive] >= 0.5 { positive } else { 1 - positive };
    }
    let mut best = 0;
    for (class, p) in row.iter().enumerate() {
        if *p > row[best] {
            best = class;
        }
    }
    best
}

/// Area under the ROC curve of (score, is positive): the probability that a positive scores above a negative, ties
/// counting one half (Mann and Whitney 1947; Hanley and McNeil 1982), from the sum of mid-ranks.
#[must_use]
pub fn auroc(scored: &[(f64, bool)]) -> Score {
    let positives = scored.iter().filter(|(_, positive)| *positive).count();
    let negatives = scored.len() - positives;
    if positives == 0 {
        return Score::undefined(NO_POSITIVE);
    }
    if negatives == 0 {
        return Score::undefined(NO_NEGATIVE);
    }
    let mut sorted = scored.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut rank_sum = 0.0;
    let mut before = 0;
    for tied in sorted.chunk_by(|a, b| a.0 == b.0) {
        let middle = before as f64 + (tied.len() as f64 + 1.0) / 2.0;
        rank_sum += middle * tied.iter().filter(|(_, positive)| *positive).count() as f64;
        before += tied.len();
    }
    let (p, n) = (positives as f64, negatives as f64);
    Score::of((rank_sum - p * (p + 1.0) / 2.0) / (p * n))
}

struct Counts {
    true_positive: u64,
    false_positive: u64,
    false_negative: u64,
    true_negative: u64,
}

impl Counts {
    fn of(confusion: &[Vec<u64>], class: usize) -> Self {
        let true_positive = confusion[class][class];
        let actual: u64 = confusion[class].iter().sum();
        let predicted: u64 = confusion.iter().map(|row| row[class]).sum();
        let all: u64 = confusion.iter().flatten().sum();
        Self {
            true_positive,
            false_positive: predicted - true_positive,
            false_negative: actual - true_positive,
            true_negative: all + true_positive - actual - predicted,
        }
    }
}

fn macro_mean(classes: &[usize], score: &dyn Fn(usize) -> Score) -> Score {
    let mut sum = 0.0;
    for &class in classes {
        match score(class) {
            Score { value: Some(value), .. } => sum += value,
            Score { value: None, reason } => {
                let reason = reason.unwrap_or_default();
                return Score::undefined(if classes.len() == 1 { reason } else { format!("class {class}: {reason}") });
            }
        }
    }
    Score::of(sum / classes.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(name: &str, what: &str, ours: f64, theirs: &serde_json::Value) {
        let theirs = theirs.as_f64().unwrap();
        assert!((ours - theirs).abs() <= 1e-6, "{name}: {what} is {ours}, scikit-learn says {theirs}");
    }

    #[test]
    fn equal_to_scikit_learn() {
        let golden: serde_json::Value = serde_json::from_str(include_str!("../tests/golden/metrics.json")).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 7);
        for case in cases {
            let name = case["name"].as_str().unwrap();
            let probabilities: Vec<f64> = serde_json::from_value(case["probabilities"].clone()).unwrap();
            let labels: Vec<usize> = serde_json::from_value(case["labels"].clone()).unwrap();
            let number = |field: &str| case[field].as_u64().unwrap() as usize;
            let ours = Evaluation::of(&probabilities, &labels, number("classes"), number("positive")).unwrap();
            close(name, "accuracy", ours.accuracy, &case["accuracy"]);
            close(name, "AUROC", ours.auroc.value.unwrap(), &case["auroc"]);
            close(name, "F1", ours.f1.value.unwrap(), &case["f1"]);
            close(name, "sensitivity", ours.sensitivity.value.unwrap(), &case["sensitivity"]);
            close(name, "specificity", ours.specificity.value.unwrap(), &case["specificity"]);
            close(name, "log loss", ours.log_loss, &case["log_loss"]);
            assert_eq!(serde_json::to_value(&ours.confusion).unwrap(), case["confusion"], "{name}");
        }
    }

    #[test]
    fn one_class_only_is_undefined_with_a_reason() {
        let all_positive = Evaluation::of(&[0.2, 0.8, 0.6, 0.4], &[1, 1], 2, 1).unwrap();
        assert_eq!(all_positive.auroc, Score::undefined(NO_NEGATIVE));
        assert_eq!(all_positive.specificity, Score::undefined(NO_NEGATIVE));
        assert_eq!(all_positive.sensitivity, Score::of(0.5));
        let no_positive = Evaluation::of(&[0.9, 0.1], &[0], 2, 1).unwrap();
        assert_eq!((no_positive.f1.value, no_positive.sensitivity.value), (None, None));
        let absent_class = Evaluation::of(&[0.6, 0.3, 0.1, 0.3, 0.6, 0.1], &[0, 1], 3, 2).unwrap();
        assert_eq!(absent_class.auroc.reason.as_deref(), Some("class 2: no sample of the positive class"));
        assert!(!serde_json::to_string(&no_positive).unwrap().contains("NaN"));
    }

    #[test]
    fn findings_are_judged_as_two_classes_each_over_what_is_known() {
        let classes = 4;
        let n = 60;
        let p: Vec<f64> = (0..n * classes).map(|i| f64::from(u16::try_from(i * 37 % 101).unwrap()) / 101.0).collect();
        // The last finding is never there.
        let truth = |i: usize| match (i % classes, i * 13 % 7) {
            (_, 0) => None,
            (class, k) => Some(class < 3 && k < 3),
        };
        let truth: Vec<Option<bool>> = (0..n * classes).map(truth).collect();
        let ours = Evaluation::of_findings(&p, &truth, classes).unwrap();
        let (mut right, mut loss, mut known) = (0.0, 0.0, 0.0);
        for class in 0..classes {
            let rows: Vec<(f64, usize)> =
                p.iter().zip(&truth).skip(class).step_by(classes).filter_map(|(p, t)| Some((*p, usize::from((*t)?)))).collect();
            let two: Vec<f64> = rows.iter().flat_map(|(p, _)| [1.0 - p, *p]).collect();
            let alone = Evaluation::of(&two, &rows.iter().map(|r| r.1).collect::<Vec<_>>(), 2, 1).unwrap();
            let own = &ours.findings[class];
            assert_eq!((&own.auroc, &own.f1, &own.sensitivity), (&alone.auroc, &alone.f1, &alone.sensitivity), "{class}");
            assert_eq!(own.specificity, alone.specificity, "{class}");
            assert_eq!(ours.confusion[class], [&alone.confusion[0][..], &alone.confusion[1][..]].concat());
            let count = rows.len() as f64;
            (right, loss, known) = (right + alone.accuracy * count, loss + alone.log_loss * count, known + count);
        }
        assert!((ours.accuracy - right / known).abs() < 1e-12 && (ours.log_loss - loss / known).abs() < 1e-12);
        let three = ours.findings[..3].iter().map(|f| f.auroc.value.unwrap()).sum::<f64>() / 3.0;
        assert!((ours.auroc.value.unwrap() - three).abs() < 1e-12);
        assert_eq!(ours.auroc.reason.as_deref(), Some("mean without 1 findings, for which it is not defined"));
        assert_eq!(Evaluation::of_findings(&[0.5; 2], &[None; 2], 2), Err(MetricsError::Empty));
        assert!(matches!(Evaluation::of_findings(&[0.5; 3], &[None; 3], 2), Err(MetricsError::Shape { .. })));
    }

    #[test]
    fn what_cannot_be_judged_is_refused() {
        assert_eq!(Evaluation::of(&[], &[], 2, 1), Err(MetricsError::Empty));
        assert_eq!(Evaluation::of(&[0.5; 3], &[0, 1], 2, 1), Err(MetricsError::Shape { probabilities: 3, labels: 2, classes: 2 }));
        assert_eq!(Evaluation::of(&[0.5, 0.5, f64::NAN, 0.5], &[0, 1], 2, 1), Err(MetricsError::NotAProbability { sample: 1 }));
        assert_eq!(Evaluation::of(&[0.5; 2], &[2], 2, 1), Err(MetricsError::UnknownClass { class: 2, classes: 2 }));
    }
}
