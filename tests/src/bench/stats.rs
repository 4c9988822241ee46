//! Medians, percentiles and spreads, exact: every sample is kept and sorted.

/// Percentiles of latencies, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Latency {
    /// Samples.
    pub count: usize,
    /// Half of them took at most this long.
    pub p50_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// 999 of 1,000; the longest one where there are fewer.
    pub p999_ms: f64,
}

impl Latency {
    /// Of samples in milliseconds; none without samples.
    #[must_use]
    pub fn of(mut samples_ms: Vec<f64>) -> Option<Self> {
        samples_ms.sort_unstable_by(f64::total_cmp);
        Some(Self {
            count: samples_ms.len(),
            p50_ms: percentile(&samples_ms, 0.5)?,
            p99_ms: percentile(&samples_ms, 0.99)?,
            p999_ms: percentile(&samples_ms, 0.999)?,
        })
    }
}

/// The smallest value of `sorted` that at least `part` (0 to 1) of all do not exceed.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank within the slice")]
fn percentile(sorted: &[f64], part: f64) -> Option<f64> {
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// The middle value, or the mean of the two in the middle; none without values.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 { Some(upper) } else { Some(f64::midpoint(values[middle - 1], upper)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_that_occurred() {
        let latency = Latency::of((1..=1_000).rev().map(f64::from).collect()).unwrap();
        assert_eq!(latency, Latency { count: 1_000, p50_ms: 500.0, p99_ms: 990.0, p999_ms: 999.0 });
        let one = Latency::of(vec![7.0]).unwrap();
        assert_eq!((one.p50_ms, one.p999_ms), (7.0, 7.0));
        assert_eq!(Latency::of(Vec::new()), None);
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
    }
}
