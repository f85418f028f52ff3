//! Quantiles of values, of classic and of native histograms, and the fraction between two values.

use super::{Version, float};
use crate::histogram::{Bucket, Histogram};

/// A quantile outside of 0 to 1 is infinite, and without a value it is NaN.
fn special(q: f64, empty: bool) -> Option<f64> {
    if empty || q.is_nan() {
        Some(f64::NAN)
    } else if q < 0.0 {
        Some(f64::NEG_INFINITY)
    } else if q > 1.0 {
        Some(f64::INFINITY)
    } else {
        None
    }
}

/// The quantile of values, which are put in order; between two of them it is interpolated.
pub(super) fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if let Some(value) = special(q, values.is_empty()) {
        return value;
    }
    // NaN is the smallest, as in Prometheus.
    values.sort_by(|a, b| b.is_nan().cmp(&a.is_nan()).then_with(|| a.total_cmp(b)));
    let last = values.len() - 1;
    let rank = q * last as f64;
    let lower = (rank.floor().max(0.0) as usize).min(last);
    let weight = rank - rank.floor();
    values[lower] * (1.0 - weight) + values[(lower + 1).min(last)] * weight
}

/// The quantile of cumulative buckets `(upper bound, count)`, ordered by their bound.
pub(super) fn of_classic(q: f64, buckets: &[(f64, f64)]) -> f64 {
    if let Some(value) = special(q, false) {
        return value;
    }
    if buckets.last().is_none_or(|(bound, _)| *bound != f64::INFINITY) {
        return f64::NAN;
    }
    // Buckets with the same bound ("1" and "1.0") are one; and a scrape that was cut in two must not let them fall.
    let mut whole: Vec<(f64, f64)> = Vec::with_capacity(buckets.len());
    for (bound, count) in buckets {
        match whole.last_mut() {
            Some(last) if last.0.total_cmp(bound).is_eq() => last.1 += count,
            _ => whole.push((*bound, *count)),
        }
    }
    let mut most = whole[0].1;
    for (_, count) in &mut whole {
        if *count > most {
            most = *count;
        } else if *count < most {
            *count = most;
        }
    }
    let observations = whole.last().map_or(0.0, |(_, count)| *count);
    if whole.len() < 2 || observations == 0.0 {
        return f64::NAN;
    }
    let mut rank = q * observations;
    let last = whole.len() - 1;
    // Not partition_point by `<`: a NaN count is never enough.
    #[allow(clippy::neg_cmp_op_on_partial_ord, reason = "a NaN count is not enough")]
    let at = whole[..last].partition_point(|(_, count)| !(*count >= rank));
    if at == last {
        return whole[last - 1].0;
    }
    let (end, mut count) = whole[at];
    if at == 0 && end <= 0.0 {
        return end;
    }
    let mut start = 0.0;
    if at > 0 {
        let below = whole[at - 1];
        start = below.0;
        count -= below.1;
        rank -= below.1;
    }
    start + (end - start) * (rank / count)
}

/// Buckets in order; a histogram of one sign has nothing of the other in its zero bucket.
fn one_sided(histogram: &Histogram) -> Vec<Bucket> {
    let mut buckets = histogram.buckets();
    for bucket in buckets
        .iter_mut()
        .filter(|bucket| bucket.lower < 0.0 && bucket.upper > 0.0)
    {
        if histogram.negative.is_empty() && !histogram.positive.is_empty() {
            bucket.lower = 0.0;
        } else if histogram.positive.is_empty() && !histogram.negative.is_empty() {
            bucket.upper = 0.0;
        }
    }
    buckets
}

/// Whether values are spread evenly over the logarithm of a bucket: those of the zero bucket never are.
fn is_exponential(bucket: &Bucket, version: Version) -> bool {
    version == Version::Three && (bucket.lower > 0.0 || bucket.upper < 0.0)
}

/// Which value of a bucket has this fraction of the others below it.
fn value_at(fraction: f64, bucket: &Bucket, version: Version) -> f64 {
    let Bucket { lower, upper, .. } = *bucket;
    if !is_exponential(bucket, version) {
        return lower + (upper - lower) * fraction;
    }
    let (from, to) = (lower.abs().log2(), upper.abs().log2());
    if lower > 0.0 {
        (from + (to - from) * fraction).exp2()
    } else {
        -(to + (from - to) * (1.0 - fraction)).exp2()
    }
}

/// Which fraction of the values of a bucket is below one of them.
fn fraction_at(value: f64, bucket: &Bucket, version: Version) -> f64 {
    let Bucket { lower, upper, .. } = *bucket;
    if !is_exponential(bucket, version) {
        return (value - lower) / (upper - lower);
    }
    let (from, to) = (lower.abs().log2(), upper.abs().log2());
    (value.abs().log2() - from) / (to - from)
}

/// The quantile of a native histogram.
pub(super) fn of_native(q: f64, histogram: &Histogram, version: Version) -> f64 {
    if let Some(value) = special(q, false) {
        return value;
    }
    if histogram.count == 0.0 {
        return f64::NAN;
    }
    let mut rank = q * histogram.count;
    let mut count = 0.0;
    let mut found = Bucket {
        lower: 0.0,
        upper: 0.0,
        count: 0.0,
    };
    for bucket in one_sided(histogram) {
        found = bucket;
        count += bucket.count;
        if count >= rank {
            break;
        }
    }
    let count = count.min(histogram.count);
    if count < rank {
        // NaN was observed: it is in no bucket.
        return found.upper;
    }
    rank -= count - found.count;
    value_at(rank / found.count, &found, version)
}

/// Which part of the values lies between two.
pub(super) fn fraction(lower: f64, upper: f64, histogram: &Histogram, version: Version) -> f64 {
    if histogram.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let buckets = one_sided(histogram);
    let rank_of = |value: f64| {
        let mut rank = 0.0;
        for bucket in &buckets {
            if bucket.lower >= value {
                return float::min(rank, histogram.count);
            }
            if bucket.upper > value {
                rank += match version {
                    // As exactly as it is compared with.
                    Version::Two => bucket.count * (value - bucket.lower) / (bucket.upper - bucket.lower),
                    Version::Three => bucket.count * fraction_at(value, bucket, version),
                };
                return float::min(rank, histogram.count);
            }
            rank += bucket.count;
        }
        histogram.count
    };
    (rank_of(upper) - rank_of(lower)) / histogram.count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(0.25, &mut [4.0, 1.0, 2.0, 3.0]), 1.75);
        assert_eq!(quantile(1.5, &mut [1.0]), f64::INFINITY);
        assert!(quantile(0.5, &mut []).is_nan());
        assert!(
            quantile(0.0, &mut [1.0, f64::NAN]).is_nan(),
            "NaN is the smallest"
        );
    }

    #[test]
    fn a_classic_histogram_that_falls_is_levelled() {
        let buckets = [(1.0, 10.0), (2.0, 7.0), (f64::INFINITY, 20.0)];
        assert_eq!(of_classic(0.25, &buckets), 0.5);
        assert_eq!(of_classic(0.9, &buckets), 2.0);
        assert!(of_classic(0.5, &buckets[..2]).is_nan());
    }

    #[test]
    fn native_quantile_and_fraction_are_each_others_inverse() {
        let histogram = Histogram {
            count: 12.0,
            zero_count: 2.0,
            zero_threshold: 0.001,
            positive: vec![(1, 4.0), (2, 6.0)],
            ..Histogram::default()
        };
        for version in [Version::Two, Version::Three] {
            let median = of_native(0.5, &histogram, version);
            assert_eq!(median, 2.0);
            assert_eq!(fraction(f64::NEG_INFINITY, median, &histogram, version), 0.5);
            assert_eq!(of_native(-0.1, &histogram, version), f64::NEG_INFINITY);
            for q in [0.1, 0.3, 0.7, 0.9] {
                let value = of_native(q, &histogram, version);
                assert!((fraction(f64::NEG_INFINITY, value, &histogram, version) - q).abs() < 1e-12);
            }
        }
        // The middle of (2, 4]: of the values, and of their logarithms.
        assert_eq!(of_native(0.75, &histogram, Version::Two), 3.0);
        assert_eq!(of_native(0.75, &histogram, Version::Three), 8f64.sqrt());
    }

    #[test]
    fn negative_buckets_are_mirrored() {
        let histogram = Histogram {
            count: 4.0,
            negative: vec![(2, 4.0)],
            ..Histogram::default()
        };
        let value = of_native(0.25, &histogram, Version::Three);
        assert!((value + 2f64.powf(1.75)).abs() < 1e-12, "{value}");
        assert!((fraction(f64::NEG_INFINITY, value, &histogram, Version::Three) - 0.25).abs() < 1e-12);
    }
}
