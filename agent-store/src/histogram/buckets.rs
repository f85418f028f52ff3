//! The bounds of buckets.

use super::Histogram;

/// A bucket with its bounds in the unit of the values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Lower bound; inclusive if it is negative or this is the zero bucket.
    pub lower: f64,
    /// Upper bound; inclusive if it is positive or this is the zero bucket.
    pub upper: f64,
    /// How many values.
    pub count: f64,
}

impl Bucket {
    /// Whether the lower bound is within.
    pub fn lower_inclusive(&self) -> bool {
        self.lower < 0.0 || self.is_zero_point()
    }

    /// Whether the upper bound is within.
    pub fn upper_inclusive(&self) -> bool {
        self.upper > 0.0 || self.is_zero_point()
    }

    /// A zero bucket of threshold 0 holds just that value.
    fn is_zero_point(&self) -> bool {
        self.lower == 0.0 && self.upper == 0.0
    }
}

impl Histogram {
    /// All buckets by their bounds, from the lowest; the zero bucket is among them when it holds anything.
    pub fn buckets(&self) -> Vec<Bucket> {
        let mut all = Vec::with_capacity(self.negative.len() + self.positive.len() + 1);
        all.extend(self.negative.iter().rev().map(|(index, count)| Bucket {
            lower: -bound(*index, self.schema),
            upper: (-bound(index.saturating_sub(1), self.schema)).min(-self.zero_threshold),
            count: *count,
        }));
        if self.zero_count > 0.0 {
            all.push(Bucket {
                lower: -self.zero_threshold,
                upper: self.zero_threshold,
                count: self.zero_count,
            });
        }
        all.extend(self.positive.iter().map(|(index, count)| Bucket {
            lower: bound(index.saturating_sub(1), self.schema).max(self.zero_threshold),
            upper: bound(*index, self.schema),
            count: *count,
        }));
        all
    }
}

/// The upper bound of bucket `index`. That of the last one is the largest float: the next holds infinity.
pub(super) fn bound(index: i32, schema: i8) -> f64 {
    let index = f64::from(index);
    let exponent = if schema < 0 {
        index * f64::from(-i32::from(schema)).exp2()
    } else {
        index / f64::from(schema).exp2()
    };
    if exponent == 1024.0 {
        return f64::MAX;
    }
    // In two steps, so that a whole exponent gives an exact bound.
    let whole = exponent.floor();
    (exponent - whole).exp2() * whole.exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_powers_of_two() {
        assert_eq!(bound(0, 3), 1.0);
        assert_eq!(bound(8, 3), 2.0);
        assert_eq!(bound(-8, 3), 0.5);
        assert_eq!(bound(1, -2), 16.0);
        assert_eq!(bound(1024, 0), f64::MAX);
        assert_eq!(bound(1025, 0), f64::INFINITY);
        assert!((bound(1, 3) - 1.090_507_732_665_257_7).abs() < 1e-15);
    }

    #[test]
    fn buckets_go_from_the_lowest_to_the_highest() {
        let histogram = Histogram {
            zero_threshold: 0.5,
            zero_count: 1.0,
            positive: vec![(0, 2.0), (2, 3.0)],
            negative: vec![(1, 4.0), (3, 5.0)],
            ..Histogram::default()
        };
        let seen: Vec<(f64, f64, f64)> = histogram
            .buckets()
            .iter()
            .map(|b| (b.lower, b.upper, b.count))
            .collect();
        let wanted = [
            (-8.0, -4.0, 5.0),
            (-2.0, -1.0, 4.0),
            (-0.5, 0.5, 1.0),
            (0.5, 1.0, 2.0),
            (2.0, 4.0, 3.0),
        ];
        assert_eq!(seen, wanted);
    }
}
