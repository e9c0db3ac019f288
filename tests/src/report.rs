//! The result of a benchmark: rows that people read, and one line of JSON that programs read. Whether an aim is met is
//! computed here from the measured value and never written by hand.

use serde::Serialize;

/// What a value should reach.
#[derive(Clone, Copy, Debug)]
pub enum Aim {
    /// The value should not be above this.
    AtMost(f64),
    /// The value should not be below this.
    AtLeast(f64),
    /// Nothing is asked of the value.
    None,
}

/// One measured value, with the peer's beside it where there is one.
#[derive(Debug, Serialize)]
pub struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    peer: Option<f64>,
    ratio: Option<f64>,
    /// Smallest and largest of several runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    spread: Option<[f64; 2]>,
    /// The peer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_spread: Option<[f64; 2]>,
    aim: Option<String>,
    met: Option<bool>,
}

impl Row {
    /// A value against an aim.
    #[must_use]
    pub fn new(name: impl Into<String>, value: f64, unit: &'static str, aim: Aim) -> Self {
        let (text, met) = match aim {
            Aim::AtMost(limit) => (Some(format!("<= {limit} {unit}")), Some(value <= limit)),
            Aim::AtLeast(limit) => (Some(format!(">= {limit} {unit}")), Some(value >= limit)),
            Aim::None => (None, None),
        };
        Self { name: name.into(), value, unit, peer: None, ratio: None, spread: None, peer_spread: None, aim: text, met }
    }

    /// A value beside a peer's, with an aim for their ratio (value ÷ peer).
    #[must_use]
    pub fn beside(name: impl Into<String>, value: f64, unit: &'static str, peer: f64, aim: Aim) -> Self {
        let ratio = value / peer;
        let (text, met) = match aim {
            Aim::AtMost(limit) => (Some(format!("ratio <= {limit}")), Some(ratio <= limit)),
            Aim::AtLeast(limit) => (Some(format!("ratio >= {limit}")), Some(ratio >= limit)),
            Aim::None => (None, None),
        };
        Self { name: name.into(), value, unit, peer: Some(peer), ratio: Some(ratio), spread: None, peer_spread: None, aim: text, met }
    }

    /// A value with the interval in which it lies; an aim is met if all of the interval meets it.
    #[must_use]
    pub fn within(name: impl Into<String>, value: f64, unit: &'static str, interval: [f64; 2], aim: Aim) -> Self {
        let [low, high] = interval;
        let met = match aim {
            Aim::AtMost(limit) => Some(high <= limit),
            Aim::AtLeast(limit) => Some(low >= limit),
            Aim::None => None,
        };
        Self { spread: Some(interval), met, ..Self::new(name, value, unit, aim) }
    }

    /// The median of several runs beside the median of a peer's, with an aim for the ratio of the two.
    #[must_use]
    pub fn of_runs(name: impl Into<String>, values: &[f64], unit: &'static str, peers: &[f64], aim: Aim) -> Self {
        let spread =
            |list: &[f64]| Some([list.iter().copied().fold(f64::INFINITY, f64::min), list.iter().copied().fold(f64::NEG_INFINITY, f64::max)]);
        Self { spread: spread(values), peer_spread: spread(peers), ..Self::beside(name, median(values), unit, median(peers), aim) }
    }
}

/// The interval in which the median of what these values are drawn from lies, with 95 % confidence: between two of them in order,
/// by the binomial distribution's normal approximation (Conover, Practical Nonparametric Statistics, section 3.2).
#[must_use]
pub fn interval_of_median(values: &[f64]) -> [f64; 2] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (n, last) = (sorted.len() as f64, sorted.len().saturating_sub(1));
    let half = 1.96 * n.sqrt() / 2.0;
    let at = |rank: f64| sorted.get((rank.max(1.0) as usize - 1).min(last)).copied().unwrap_or(f64::NAN);
    [at((n / 2.0 - half).floor()), at((n / 2.0 + half).ceil() + 1.0)]
}

/// The middle of the values; 0 of none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Print the rows, and last the line of JSON.
pub fn print(bench: &str, conditions: &serde_json::Value, rows: &[Row]) {
    for row in rows {
        let range = |spread: Option<[f64; 2]>| spread.map(|[low, high]| format!(" ({low:.4} to {high:.4})")).unwrap_or_default();
        let peer = row.peer.map(|p| format!("  peer {p:.4}{}", range(row.peer_spread))).unwrap_or_default();
        let ratio = row.ratio.map(|r| format!("  ratio {r:.3}")).unwrap_or_default();
        let aim = row.aim.as_ref().map(|a| format!("  aim {a}")).unwrap_or_default();
        let met = match row.met {
            Some(true) => "  met",
            Some(false) => "  MISSED",
            None => "",
        };
        println!("{:<44} {:>12.4} {}{}{peer}{ratio}{aim}{met}", row.name, row.value, row.unit, range(row.spread));
    }
    println!("{}", serde_json::json!({"bench": bench, "conditions": conditions, "rows": rows}));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_is_judged_by_the_value() {
        assert_eq!(Row::new("a", 1.0, "s", Aim::AtMost(3.0)).met, Some(true));
        assert_eq!(Row::new("a", 4.0, "s", Aim::AtMost(3.0)).met, Some(false));
        assert_eq!(Row::beside("a", 4.0, "s", 5.0, Aim::AtLeast(0.9)).met, Some(false));
        let runs = Row::of_runs("a", &[2.0, 4.0, 3.0], "1/s", &[2.0, 1.0, 3.0], Aim::AtLeast(1.0));
        assert_eq!((runs.ratio, runs.spread, runs.peer_spread, runs.met), (Some(1.5), Some([2.0, 4.0]), Some([1.0, 3.0]), Some(true)));
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(interval_of_median(&hundred), [40.0, 61.0]);
        let within = |high| Row::within("a", 0.5, "%", [0.1, high], Aim::AtMost(1.0)).met;
        assert_eq!((within(0.9), within(1.1)), (Some(true), Some(false)));
    }
}
