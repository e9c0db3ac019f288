//! From the trainer's progress to what people read: rounded, so that a status is news and not noise.

use std::collections::BTreeMap;

use graft_crds::TransferJobStatus;
use graft_crds::contract::{DataFindings, Progress, ShortcutFeature, truncate};
use graft_crds::spec::Evaluation;
use graft_crds::status::{CheckpointStatus, DataStatus, ProgressStatus};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Most metrics in a status; a task of 30 findings has fewer.
const METRICS: usize = 200;
/// Bytes of a metric's name.
const NAME: usize = 128;

/// Write progress that was read at `now` into a status.
pub fn show(status: &mut TransferJobStatus, progress: &Progress, evaluation: &Evaluation, now: Timestamp) {
    let percent = if progress.percent.is_finite() { progress.percent.clamp(0.0, 100.0).floor() as i32 } else { 0 };
    status.stage = Some(progress.stage);
    status.progress = Some(ProgressStatus {
        summary: format!("{percent}%"),
        percent,
        epoch: signed(progress.epoch),
        epochs: signed(progress.epochs),
        unsaved_steps: signed(progress.unsaved_steps),
        samples_per_second: progress.samples_per_second.and_then(three_digits),
        eta: progress.eta_seconds.and_then(eta),
    });
    if !progress.metrics.is_empty() {
        let known = progress.metrics.iter().filter(|(name, value)| value.is_finite() && is_name(name)).take(METRICS);
        status.metrics = known.map(|(name, value)| (name.clone(), fraction(*value))).collect();
        status.headline = headline(&progress.metrics, evaluation);
    }
    if let Some(findings) = &progress.data {
        status.data = Some(data(findings));
    }
    if let Some(checkpoint) = &progress.checkpoint {
        let digest = checkpoint.digest.chars().filter(char::is_ascii_hexdigit).take(64).collect();
        let told = CheckpointStatus { epoch: signed(checkpoint.epoch), digest, seen: Some(Time(now)) };
        let known = status.checkpoint.as_ref().is_some_and(|c| (c.epoch, &c.digest) == (told.epoch, &told.digest));
        if !known {
            status.checkpoint = Some(told);
        }
    }
}

/// A pod is believed in what it measured, not in how much and under which names.
fn is_name(name: &str) -> bool {
    (1..=NAME).contains(&name.len()) && !name.contains(char::is_control)
}

/// Four decimals; a number so large that they mean nothing in powers of ten.
fn fraction(value: f64) -> String {
    if value.abs() < 1e15 { format!("{value:.4}") } else { format!("{value:e}") }
}

/// Findings come from a pod: no more of them than there are features, and no class name at length or with control characters.
fn data(findings: &DataFindings) -> DataStatus {
    let shortcut = |found: &graft_crds::contract::ShortcutFinding| {
        let class: String = truncate(&found.class, 63).chars().filter(|letter| !letter.is_control()).collect();
        format!("{} (tells {class}, AUROC {:.2})", found.feature.name(), found.auroc)
    };
    DataStatus {
        images: signed(findings.images),
        skipped: signed(findings.skipped),
        pairs_across_splits: signed(findings.pairs_across_splits),
        label_conflicts: signed(findings.label_conflicts),
        left_out: signed(findings.left_out),
        shortcuts: findings.shortcuts.iter().take(ShortcutFeature::ALL.len()).map(shortcut).collect(),
    }
}

/// Write the progress of a running gang, if it is news and the last write is long enough ago.
/// Speed and the time left change with every look; alone they are no news.
pub fn show_if_news(status: &mut TransferJobStatus, progress: &Progress, evaluation: &Evaluation, due: Due, now: Timestamp) {
    let mut candidate = status.clone();
    show(&mut candidate, progress, evaluation, now);
    let news = candidate.stage != status.stage
        || candidate.metrics != status.metrics
        || candidate.checkpoint != status.checkpoint
        || candidate.data != status.data
        || key(candidate.progress.as_ref()) != key(status.progress.as_ref());
    match due {
        Due::Now if news => *status = candidate,
        Due::Now | Due::Later => {}
    }
}

/// Whether progress may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Long enough after the last write.
    Now,
    /// Too soon.
    Later,
}

impl Due {
    /// At most one write per interval.
    pub fn at(now: Timestamp, written: Option<Timestamp>, interval_seconds: i64) -> Self {
        match written {
            Some(at) if at.duration_until(now) < SignedDuration::from_secs(interval_seconds) => Self::Later,
            Some(_) | None => Self::Now,
        }
    }
}

fn key(progress: Option<&ProgressStatus>) -> Option<(i32, i64, i64)> {
    progress.map(|p| (p.percent, p.epoch, p.epochs))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The first metric that was asked for: of the test set, or of the validation set as long as there is no other.
fn headline(metrics: &BTreeMap<String, f64>, evaluation: &Evaluation) -> Option<String> {
    let name = evaluation.metrics.first()?.name();
    let validation = format!("validation_{name}");
    let (name, value) = metrics.get_key_value(name).or_else(|| metrics.get_key_value(&validation))?;
    value.is_finite().then(|| if value.abs() < 1e15 { format!("{name}={value:.3}") } else { format!("{name}={value:e}") })
}

/// Three significant digits: `1.23`, `45.6`, `789`, `12300`.
fn three_digits(value: f64) -> Option<String> {
    if !value.is_finite() || !(0.0..1e15).contains(&value) {
        return None;
    }
    Some(match value {
        v if v >= 1000.0 => {
            let step = 10f64.powi(v.log10().floor() as i32 - 2);
            format!("{:.0}", (v / step).round() * step)
        }
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    })
}

/// The time that is left, the coarser the longer it is: `45s`, `4m10s`, `42m`, `3h10m`.
fn eta(seconds: f64) -> Option<String> {
    if !seconds.is_finite() || !(0.0..1e9).contains(&seconds) {
        return None;
    }
    let round = |step: f64| ((seconds / step).round() * step) as u64;
    Some(match seconds {
        s if s < 57.5 => format!("{}s", round(5.0)),
        s if s < 595.0 => {
            let total = round(10.0);
            format!("{}m{:02}s", total / 60, total % 60)
        }
        s if s < 3570.0 => format!("{}m", round(60.0) / 60),
        _ => {
            let total = round(600.0) / 60;
            format!("{}h{:02}m", total / 60, total % 60)
        }
    })
}

#[cfg(test)]
mod tests {
    use graft_crds::contract::Stage;
    use rstest::rstest;

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[rstest]
    #[case(3.0, "5s")]
    #[case(44.0, "45s")]
    #[case(58.0, "1m00s")]
    #[case(249.0, "4m10s")]
    #[case(599.0, "10m")]
    #[case(2520.0, "42m")]
    #[case(3590.0, "1h00m")]
    #[case(11_500.0, "3h10m")]
    fn eta_is_coarse(#[case] seconds: f64, #[case] expected: &str) {
        assert_eq!(eta(seconds).unwrap(), expected);
    }

    #[rstest]
    #[case(1.2345, "1.23")]
    #[case(45.67, "45.7")]
    #[case(789.4, "789")]
    #[case(12_345.0, "12300")]
    #[case(0.0, "0.00")]
    fn speed_has_three_digits(#[case] value: f64, #[case] expected: &str) {
        assert_eq!(three_digits(value).unwrap(), expected);
    }

    #[rstest]
    #[case(f64::NAN)]
    #[case(f64::INFINITY)]
    #[case(-1.0)]
    fn what_is_no_number_is_not_shown(#[case] value: f64) {
        assert_eq!((eta(value), three_digits(value)), (None, None));
    }

    #[test]
    fn speed_alone_is_no_news() {
        let mut progress = Progress { stage: Stage::FineTune, percent: 12.9, samples_per_second: Some(10.0), ..Progress::default() };
        let mut status = TransferJobStatus::default();
        let evaluation = Evaluation::default();
        show_if_news(&mut status, &progress, &evaluation, Due::Now, NOW);
        assert_eq!(status.progress.as_ref().unwrap().summary, "12%");
        let before = status.clone();
        progress.samples_per_second = Some(20.0);
        show_if_news(&mut status, &progress, &evaluation, Due::Now, NOW);
        assert_eq!(status, before);
        progress.percent = 13.0;
        show_if_news(&mut status, &progress, &evaluation, Due::Later, NOW);
        assert_eq!(status, before);
        show_if_news(&mut status, &progress, &evaluation, Due::Now, NOW);
        assert_eq!(status.progress.unwrap().samples_per_second.unwrap(), "20.0");
    }

    #[test]
    fn a_checkpoint_is_as_old_as_the_first_look_that_showed_it() {
        let checkpoint = |epoch| Some(graft_crds::contract::CheckpointRef { epoch, digest: "d1".into() });
        let mut status = TransferJobStatus::default();
        let mut look = |epoch, second| {
            let progress = Progress { checkpoint: checkpoint(epoch), ..Progress::default() };
            show(&mut status, &progress, &Evaluation::default(), Timestamp::from_second(second).unwrap());
            status.checkpoint.clone().unwrap().seen.unwrap().0.as_second()
        };
        assert_eq!([look(1, 10), look(1, 20), look(2, 30), look(2, 40)], [10, 10, 30, 30]);
    }

    #[test]
    fn what_was_found_in_the_data_is_news_and_bounded() {
        let hostile = graft_crds::contract::ShortcutFinding {
            feature: ShortcutFeature::ImageSize,
            class: format!("a\n\u{1b}{}", "b".repeat(9000)),
            auroc: 0.913,
        };
        let findings =
            DataFindings { images: 746, skipped: 1, pairs_across_splits: 2, label_conflicts: u64::MAX, left_out: 1, shortcuts: vec![hostile; 50] };
        let mut status = TransferJobStatus::default();
        let progress = Progress { data: Some(findings), ..Progress::default() };
        show_if_news(&mut status, &progress, &Evaluation::default(), Due::Now, NOW);
        let data = status.data.unwrap();
        assert_eq!((data.images, data.pairs_across_splits, data.label_conflicts, data.shortcuts.len()), (746, 2, i64::MAX, 6));
        assert!(data.shortcuts[0].starts_with("image size (tells ab") && data.shortcuts[0].len() < 120, "{}", data.shortcuts[0]);
    }

    #[test]
    fn the_headline_prefers_the_test_set() {
        let metrics = BTreeMap::from([("validation_auroc".to_owned(), 0.9)]);
        assert_eq!(headline(&metrics, &Evaluation::default()).unwrap(), "validation_auroc=0.900");
        let metrics = BTreeMap::from([("validation_auroc".to_owned(), 0.9), ("auroc".to_owned(), 0.9412)]);
        assert_eq!(headline(&metrics, &Evaluation::default()).unwrap(), "auroc=0.941");
    }
}
