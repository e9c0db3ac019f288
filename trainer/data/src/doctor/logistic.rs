//! Logistic regression of a few columns, its cross-validation, and the AUROC of its scores with an interval: as much as a probe needs.

use sha2::{Digest, Sha256};

/// Ridge penalty on standardised columns; keeps separable data finite.
const RIDGE: f64 = 1.0;
/// Newton's method on a convex problem of this size needs fewer.
const ITERATIONS: usize = 25;

/// Folds of the cross-validation.
const FOLDS: usize = 5;

/// The fold of all rows of one patient: a model must not know who it is judged on.
pub(crate) fn fold(patient: &str) -> usize {
    usize::from(Sha256::digest(patient)[0]) % FOLDS
}

/// The score of each row by a model that was fitted without its fold. `rows` gives all rows, and may ask which of them are trained on.
pub(crate) fn out_of_fold<R: AsRef<[f64]>>(positive: &[bool], folds: &[usize], rows: impl Fn(&[bool]) -> Vec<R>) -> Vec<f64> {
    let mut scores = vec![0.0; folds.len()];
    for fold in 0..FOLDS {
        let trained: Vec<bool> = folds.iter().map(|own| *own != fold).collect();
        let rows = rows(&trained);
        let (seen, labels): (Vec<&[f64]>, Vec<bool>) =
            rows.iter().zip(positive).zip(&trained).filter(|(_, trained)| **trained).map(|((row, positive), _)| (row.as_ref(), *positive)).unzip();
        let score = fit(&seen, &labels);
        for ((slot, row), _) in scores.iter_mut().zip(&rows).zip(&trained).filter(|(_, trained)| !**trained) {
            *slot = score(row.as_ref());
        }
    }
    scores
}

/// The 95 % interval of an AUROC with this standard error.
pub(crate) fn interval((area, error): (f64, f64)) -> (f64, f64) {
    ((area - 1.96 * error).max(0.0), (area + 1.96 * error).min(1.0))
}

/// Weights by Newton's method (iteratively reweighted least squares; Hastie, Tibshirani and Friedman, "The Elements of Statistical
/// Learning", 4.4.1) on columns standardised by the rows given, with the intercept unpenalised. Returns the scorer.
pub(crate) fn fit<'a>(rows: &[&'a [f64]], positive: &[bool]) -> impl Fn(&[f64]) -> f64 + use<'a> {
    let columns = rows.first().map_or(0, |row| row.len());
    let n = rows.len().max(1) as f64;
    let means: Vec<f64> = (0..columns).map(|c| rows.iter().map(|row| row[c]).sum::<f64>() / n).collect();
    let scales: Vec<f64> = (0..columns)
        .map(|c| {
            let variance = rows.iter().map(|row| (row[c] - means[c]).powi(2)).sum::<f64>() / n;
            if variance > 1e-12 { variance.sqrt().recip() } else { 0.0 }
        })
        .collect();
    let standard = move |row: &[f64]| -> Vec<f64> {
        std::iter::once(1.0).chain(row.iter().zip(&means).zip(&scales).map(|((x, mean), scale)| (x - mean) * scale)).collect()
    };
    let design: Vec<Vec<f64>> = rows.iter().map(|row| standard(row)).collect();
    let mut weights = vec![0.0; columns + 1];
    for _ in 0..ITERATIONS {
        let mut gradient = vec![0.0; columns + 1];
        let mut hessian = vec![vec![0.0; columns + 1]; columns + 1];
        for (x, positive) in design.iter().zip(positive) {
            let p = sigmoid(dot(&weights, x));
            let (error, curvature) = (p - f64::from(u8::from(*positive)), (p * (1.0 - p)).max(1e-9));
            for i in 0..=columns {
                gradient[i] += error * x[i];
                for j in 0..=i {
                    hessian[i][j] += curvature * x[i] * x[j];
                }
            }
        }
        for i in 1..=columns {
            gradient[i] += RIDGE * weights[i];
            hessian[i][i] += RIDGE;
        }
        let step = solve(hessian, gradient);
        weights.iter_mut().zip(&step).for_each(|(weight, step)| *weight -= step);
        if step.iter().all(|step| step.abs() < 1e-8) {
            break;
        }
    }
    move |row| dot(&weights, &standard(row))
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Solves for a symmetric positive definite matrix, of which the lower half is read, by Cholesky's decomposition.
fn solve(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Vec<f64> {
    let n = right.len();
    for i in 0..n {
        for j in 0..=i {
            let rest = matrix[i][j] - (0..j).map(|k| matrix[i][k] * matrix[j][k]).sum::<f64>();
            matrix[i][j] = if i == j { rest.max(1e-12).sqrt() } else { rest / matrix[j][j] };
        }
    }
    for i in 0..n {
        right[i] = (right[i] - (0..i).map(|k| matrix[i][k] * right[k]).sum::<f64>()) / matrix[i][i];
    }
    for i in (0..n).rev() {
        right[i] = (right[i] - (i + 1..n).map(|k| matrix[k][i] * right[k]).sum::<f64>()) / matrix[i][i];
    }
    right
}

/// The area under the ROC curve and its standard error by DeLong's method (DeLong, DeLong and Clarke-Pearson, Biometrics 1988,
/// with midranks: Sun and Xu, IEEE Signal Processing Letters 2014). `None` with fewer than two of either kind.
pub(crate) fn auroc(scores: &[f64], positive: &[bool]) -> Option<(f64, f64)> {
    let of = |wanted: bool| scores.iter().zip(positive).filter(|(_, p)| **p == wanted).map(|(s, _)| *s).collect::<Vec<f64>>();
    let (cases, controls) = (of(true), of(false));
    if cases.len() < 2 || controls.len() < 2 {
        return None;
    }
    let all: Vec<f64> = cases.iter().chain(&controls).copied().collect();
    let (rank_all, rank_cases, rank_controls) = (midranks(&all), midranks(&cases), midranks(&controls));
    let (m, n) = (cases.len() as f64, controls.len() as f64);
    let of_case: Vec<f64> = (0..cases.len()).map(|i| (rank_all[i] - rank_cases[i]) / n).collect();
    let of_control: Vec<f64> = (0..controls.len()).map(|j| 1.0 - (rank_all[cases.len() + j] - rank_controls[j]) / m).collect();
    let area = of_case.iter().sum::<f64>() / m;
    let variance = |values: &[f64]| values.iter().map(|v| (v - area).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0);
    Some((area, (variance(&of_case) / m + variance(&of_control) / n).sqrt()))
}

/// Ranks from 1; equal values share the mean of theirs.
fn midranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    for equal in order.chunk_by(|a, b| values[*a].total_cmp(&values[*b]).is_eq()) {
        let first = order.partition_point(|i| values[*i].total_cmp(&values[equal[0]]).is_lt());
        let rank = first as f64 + (equal.len() as f64 + 1.0) / 2.0;
        equal.iter().for_each(|i| ranks[*i] = rank);
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_are_where_the_gradient_vanishes() {
        let rows: Vec<Vec<f64>> = (0..60).map(|i| vec![f64::from(i % 7), f64::from(i * i % 11)]).collect();
        let positive: Vec<bool> = (0..60).map(|i| i % 7 + i % 3 > 4).collect();
        let views: Vec<&[f64]> = rows.iter().map(Vec::as_slice).collect();
        let score = fit(&views, &positive);
        // With an unpenalised intercept the mean probability is the share of positives.
        let mean = rows.iter().map(|row| sigmoid(score(row))).sum::<f64>() / 60.0;
        let share = positive.iter().filter(|p| **p).count() as f64 / 60.0;
        assert!((mean - share).abs() < 1e-6, "{mean} {share}");
        let scores: Vec<f64> = rows.iter().map(|row| score(row)).collect();
        assert!(auroc(&scores, &positive).unwrap().0 > 0.85);
    }

    #[test]
    fn separable_rows_and_constant_columns_stay_finite() {
        let rows: Vec<Vec<f64>> = (0..20).map(|i| vec![f64::from(i), 3.0]).collect();
        let positive: Vec<bool> = (0..20).map(|i| i >= 10).collect();
        let views: Vec<&[f64]> = rows.iter().map(Vec::as_slice).collect();
        let score = fit(&views, &positive);
        assert!(score(&[0.0, 3.0]).is_finite() && score(&[0.0, 3.0]) < score(&[19.0, 3.0]));
    }

    #[test]
    fn auroc_and_its_error_equal_the_definition() {
        let scores = [0.1, 0.4, 0.35, 0.8, 0.4, 0.9];
        let positive = [false, false, true, true, true, false];
        // The definition: the share of pairs of a case and a control that are in order, ties counting half.
        let mut wins = 0.0;
        for (a, _) in scores.iter().zip(positive).filter(|(_, positive)| *positive) {
            for (b, _) in scores.iter().zip(positive).filter(|(_, positive)| !*positive) {
                wins += if a > b {
                    1.0
                } else if a == b {
                    0.5
                } else {
                    0.0
                };
            }
        }
        let (area, error) = auroc(&scores, &positive).unwrap();
        assert!((area - wins / 9.0).abs() < 1e-12 && error > 0.0);
        assert_eq!(auroc(&[1.0, 2.0], &[true, false]), None);
        assert_eq!(auroc(&[1.0, 1.0, 1.0, 1.0], &[true, false, true, false]).unwrap().0, 0.5);
    }
}
