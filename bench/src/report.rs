//! Samples, what is said of them, and how it is shown.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Measured values of one kind, in the order of their measuring.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

/// One line of the table and one entry of `bench.json`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    name: &'static str,
    unit: &'static str,
    n: usize,
    p50: f64,
    p95: f64,
    max: f64,
    /// What it is held against.
    baseline: &'static str,
    baseline_p50: f64,
    ratio: f64,
}

impl Samples {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// The same, told otherwise.
    pub(crate) fn map(self, tell: impl Fn(f64) -> f64) -> Self {
        Self(self.0.into_iter().map(tell).collect())
    }

    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The value below which `share` (0 to 1) of the samples lie: the nearest that was measured, no interpolation.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "a rank among a few hundred samples"
        )]
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }
}

impl Row {
    pub(crate) fn new(
        name: &'static str,
        unit: &'static str,
        samples: &Samples,
        baseline: &'static str,
        base: &Samples,
    ) -> Self {
        let round = |value: f64| (value * 1000.0).round() / 1000.0;
        let (p50, baseline_p50) = (samples.percentile(0.5), base.percentile(0.5));
        Self {
            name,
            unit,
            n: samples.0.len(),
            p50: round(p50),
            p95: round(samples.percentile(0.95)),
            max: round(samples.percentile(1.0)),
            baseline,
            baseline_p50: round(baseline_p50),
            ratio: round(p50 / baseline_p50),
        }
    }
}

/// All rows, for people.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<18} {:>4} {:>4} {:>10} {:>10} {:>10} {:>10} {:>10} {:>7}  {}\n",
        "name", "unit", "n", "p50", "p95", "max", "bare p50", "difference", "ratio", "against"
    );
    for row in rows {
        let Row { name, unit, n, p50, p95, max, baseline, baseline_p50, ratio } = row;
        let difference = p50 - baseline_p50;
        let written = writeln!(
            text,
            "{name:<18} {unit:>4} {n:>4} {p50:>10.2} {p95:>10.2} {max:>10.2} {baseline_p50:>10.2} {difference:>+10.2} {ratio:>7.2}  {baseline}"
        );
        written.expect("a string takes everything");
    }
    text
}

/// Writes `bench.json`.
pub(crate) fn write(rows: &[Row], file: &Path) -> Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let text = serde_json::to_string_pretty(rows)?;
    std::fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: impl IntoIterator<Item = u32>) -> Samples {
        Samples(values.into_iter().map(f64::from).collect())
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred = samples((1..=100).rev());
        assert_eq!(hundred.percentile(0.5).to_string(), "50");
        assert_eq!(hundred.percentile(0.95).to_string(), "95");
        assert_eq!(hundred.percentile(1.0).to_string(), "100");
        assert_eq!(samples([7]).percentile(0.5).to_string(), "7");
        assert!(samples([]).percentile(0.5).is_nan());
    }

    #[test]
    fn a_row_says_by_how_much() {
        let row =
            Row::new("create_ready", "ms", &samples([30, 10, 20]), "bare restore", &samples([10, 8, 12]));
        let json = serde_json::to_value(&row).unwrap();
        let expected = serde_json::json!({
            "name": "create_ready", "unit": "ms", "n": 3, "p50": 20.0, "p95": 30.0, "max": 30.0,
            "baseline": "bare restore", "baseline_p50": 10.0, "ratio": 2.0,
        });
        assert_eq!(json, expected);
        let table = table(&[row]);
        assert!(table.contains("+10.00"), "{table}");
        assert_eq!(table.lines().count(), 2);
    }
}
