//! Medians and how far they can be trusted.

use serde::Serialize;

/// A median and the interval that holds it with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Median.
    pub median: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

const RESAMPLES: usize = 4000;

/// The middle of some values; NaN when there are none.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// A quantile, interpolated; NaN when there are no values.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = q * (sorted.len().saturating_sub(1)) as f64;
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    match (sorted.get(below), sorted.get(above)) {
        (Some(b), Some(a)) => b + (a - b) * at.fract(),
        _ => f64::NAN,
    }
}

/// Median with its bootstrap interval. The same values always give the same interval.
pub fn estimate(values: &[f64]) -> Option<Estimate> {
    if values.is_empty() {
        return None;
    }
    let mut random = SplitMix(0x6765_6f70_686f_6e65);
    let mut resample = || {
        let draw = |_| {
            let i = (random.next() % values.len() as u64) as usize;
            values.get(i).copied().unwrap_or(f64::NAN)
        };
        median(&(0..values.len()).map(draw).collect::<Vec<_>>())
    };
    let medians: Vec<f64> = (0..RESAMPLES).map(|_| resample()).collect();
    Some(Estimate {
        median: median(values),
        low: quantile(&medians, 0.025),
        high: quantile(&medians, 0.975),
    })
}

/// Splitmix64: small, seeded, good enough to resample with.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(quantile(&[0.0, 10.0], 0.25), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_interval_holds_the_median_and_repeats() {
        let values = [1.01, 0.98, 1.05, 1.02, 1.00, 1.03, 0.99];
        let e = estimate(&values).unwrap();
        assert_eq!(e.median, 1.01);
        assert!(e.low >= 0.98 && e.low <= e.median && e.median <= e.high && e.high <= 1.05);
        assert_eq!(Some(e), estimate(&values));
        assert_eq!(estimate(&[]), None);
        let one = estimate(&[2.0]).unwrap();
        assert_eq!((one.low, one.high), (2.0, 2.0));
    }
}
