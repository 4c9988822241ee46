//! A figure: values that were measured, and the bound that the worst of them must keep.

use std::fmt::Write as _;

use serde::Serialize;

/// What the values of a figure are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// A number of things.
    Count,
}

/// A figure with all its values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What it is, for people.
    pub name: String,
    /// What its values are.
    pub unit: Unit,
    /// The worst value may be this; none for a figure that stands beside another for comparison.
    pub bound: Option<f64>,
    /// In the order of the rounds.
    pub values: Vec<f64>,
}

impl Figure {
    /// A figure in seconds, without values yet.
    #[must_use]
    pub fn seconds(name: impl Into<String>, bound: Option<f64>) -> Self {
        Self { name: name.into(), unit: Unit::Seconds, bound, values: Vec::new() }
    }

    /// A number of things of which there must be none.
    #[must_use]
    pub fn none_of(name: impl Into<String>) -> Self {
        Self { name: name.into(), unit: Unit::Count, bound: Some(0.0), values: Vec::new() }
    }

    /// The middle one of its values; the mean of the two in the middle where their number is even.
    #[must_use]
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match (sorted.get(middle), sorted.len().is_multiple_of(2)) {
            (Some(high), true) => f64::midpoint(sorted[middle - 1], *high),
            (Some(middle), false) => *middle,
            (None, _) => f64::NAN,
        }
    }

    /// The greatest of its values.
    #[must_use]
    pub fn worst(&self) -> f64 {
        self.sorted().last().copied().unwrap_or(f64::NAN)
    }

    /// Whether there are values, and the worst of them keeps the bound.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.values.is_empty() && self.bound.is_none_or(|bound| self.worst() <= bound)
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    fn text(&self, value: f64) -> String {
        match self.unit {
            Unit::Seconds => format!("{value:.3} s"),
            Unit::Count => format!("{value:.0}"),
        }
    }
}

/// The value of which 99 in 100 are not above; the greatest of fewer than 100.
#[must_use]
pub fn p99(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let below = values.len() - values.len() / 100;
    values.get(below.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// One line per figure.
#[must_use]
pub fn table(figures: &[Figure]) -> String {
    let mut text =
        format!("{:<72} {:>9} {:>9} {:>9} {:>6}\n", "figure", "bound", "median", "worst", "rounds");
    for figure in figures {
        let bound = figure.bound.map_or_else(|| "-".to_owned(), |bound| figure.text(bound));
        let (median, worst) = (figure.text(figure.median()), figure.text(figure.worst()));
        let missed = if figure.holds() { "" } else { "  MISSED" };
        let count = figure.values.len();
        // Writing into a text cannot fail.
        let _ = writeln!(text, "{:<72} {bound:>9} {median:>9} {worst:>9} {count:>6}{missed}", figure.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> Figure {
        Figure { values: values.to_vec(), ..Figure::seconds("f", Some(2.0)) }
    }

    #[test]
    fn the_worst_value_must_keep_the_bound_and_no_value_is_no_success() {
        assert!(of(&[1.0, 2.0]).holds());
        assert!(!of(&[1.0, 2.1]).holds());
        assert!(!of(&[]).holds());
        assert!(Figure { values: vec![9.0], ..Figure::seconds("f", None) }.holds());
        assert!(!Figure { values: vec![1.0], ..Figure::none_of("f") }.holds());
    }

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        assert_eq!(of(&[3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]).median(), 2.5);
    }

    #[test]
    fn one_in_a_hundred_may_be_above_the_p99() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(p99(values), 198.0);
        assert_eq!(p99(vec![3.0, 1.0]), 3.0);
    }

    #[test]
    fn a_bound_that_is_missed_is_said_in_the_table() {
        let text = table(&[of(&[1.0]), of(&[3.0])]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(!lines[1].contains("MISSED") && lines[2].ends_with("MISSED"), "{text}");
    }
}
