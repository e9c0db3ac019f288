//! How far predicted numbers are from the true ones: mean absolute error, root mean squared error, R² and Pearson's correlation, equal
//! to scikit-learn's and SciPy's, and the agreement of two methods of measurement as Bland and Altman 1986 judge it.

use serde::{Deserialize, Serialize};

use crate::metrics::{MetricsError, Score};

/// Judgement of one set of predicted numbers; everything but `r2` and `pearson` is in their unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deviation {
    /// Number of samples.
    pub samples: usize,
    /// Mean absolute error.
    pub mae: f64,
    /// Root of the mean squared error.
    pub rmse: f64,
    /// 1 − squared errors ÷ squared distances of the true numbers from their mean; below 0 where the mean would have been the better guess.
    pub r2: Score,
    /// Pearson's correlation of predicted and true numbers.
    pub pearson: Score,
    /// Mean of predicted − true.
    pub bias: f64,
    /// Bias ∓ 1.96 standard deviations (with n − 1) of predicted − true: 95 % of the differences, if they are normal.
    pub limits_of_agreement: Option<[f64; 2]>,
}

impl Deviation {
    /// Judges `predicted` against `truth`, number by number.
    ///
    /// # Errors
    /// Empty input, lengths that differ, a prediction that is no number.
    pub fn of(predicted: &[f64], truth: &[f64]) -> Result<Self, MetricsError> {
        if truth.len() != predicted.len() {
            return Err(MetricsError::Shape { probabilities: predicted.len(), labels: truth.len(), classes: 1 });
        }
        if truth.is_empty() {
            return Err(MetricsError::Empty);
        }
        if let Some(sample) = predicted.iter().position(|p| !p.is_finite()) {
            return Err(MetricsError::NotANumber { sample });
        }
        let n = truth.len() as f64;
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / n;
        let pairs = || predicted.iter().zip(truth);
        let squares = pairs().map(|(p, t)| (p - t).powi(2)).sum::<f64>();
        let (of_predicted, of_truth) = (mean(&mut predicted.iter().copied()), mean(&mut truth.iter().copied()));
        let spread = |values: &[f64], mean: f64| values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        let (predicted_spread, true_spread) = (spread(predicted, of_predicted), spread(truth, of_truth));
        let together = pairs().map(|(p, t)| (p - of_predicted) * (t - of_truth)).sum::<f64>();
        let bias = of_predicted - of_truth;
        let deviation = (pairs().map(|(p, t)| (p - t - bias).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        let all_equal = |which: &str| Score::undefined(format!("all {which} numbers are the same"));
        Ok(Self {
            samples: truth.len(),
            mae: mean(&mut pairs().map(|(p, t)| (p - t).abs())),
            rmse: (squares / n).sqrt(),
            r2: if true_spread > 0.0 { Score::of(1.0 - squares / true_spread) } else { all_equal("true") },
            pearson: match (true_spread > 0.0, predicted_spread > 0.0) {
                (true, true) => Score::of((together / (predicted_spread * true_spread).sqrt()).clamp(-1.0, 1.0)),
                (false, _) => all_equal("true"),
                (true, false) => all_equal("predicted"),
            },
            bias,
            limits_of_agreement: deviation.is_finite().then_some([bias - 1.96 * deviation, bias + 1.96 * deviation]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_to_scikit_learn_and_scipy() {
        let golden: serde_json::Value = serde_json::from_str(include_str!("../tests/golden/metrics.json")).unwrap();
        let cases = golden["regression"].as_array().unwrap();
        assert_eq!(cases.len(), 3);
        for case in cases {
            let numbers = |field: &str| -> Vec<f64> { serde_json::from_value(case[field].clone()).unwrap() };
            let ours = Deviation::of(&numbers("predicted"), &numbers("truth")).unwrap();
            let limits = ours.limits_of_agreement.unwrap();
            let found = [ours.mae, ours.rmse, ours.r2.value.unwrap(), ours.pearson.value.unwrap(), ours.bias, limits[0], limits[1]];
            for ((name, theirs), ours) in ["mae", "rmse", "r2", "pearson", "bias", "low", "high"].iter().map(|n| (n, &case[n])).zip(found) {
                let theirs = theirs.as_f64().unwrap();
                assert!((ours - theirs).abs() <= 1e-9 * theirs.abs().max(1.0), "{name} is {ours}, the reference says {theirs}");
            }
        }
    }

    #[test]
    fn what_the_data_leave_undefined_is_absent_with_a_reason() {
        let one = Deviation::of(&[3.0], &[2.0]).unwrap();
        assert_eq!((one.mae, one.rmse, one.bias, one.limits_of_agreement), (1.0, 1.0, 1.0, None));
        assert_eq!(one.r2, Score::undefined("all true numbers are the same"));
        let flat = Deviation::of(&[2.0, 2.0], &[1.0, 4.0]).unwrap();
        assert_eq!(flat.pearson, Score::undefined("all predicted numbers are the same"));
        assert!(flat.r2.value.unwrap() < 0.0);
        assert_eq!(Deviation::of(&[], &[]), Err(MetricsError::Empty));
        assert_eq!(Deviation::of(&[0.0, f64::NAN], &[1.0, 2.0]), Err(MetricsError::NotANumber { sample: 1 }));
        assert!(matches!(Deviation::of(&[0.0], &[]), Err(MetricsError::Shape { .. })));
    }
}
