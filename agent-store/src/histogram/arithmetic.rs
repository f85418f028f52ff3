//! Sums, differences and multiples of histograms, and whether a counter began anew. Histograms of different resolution
//! meet at the lower one, and of different zero buckets at the wider one, as in Prometheus.

use super::Histogram;
use super::buckets::bound;

impl Histogram {
    /// Adds another.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, 1.0);
    }

    /// Takes another away.
    pub fn sub(&mut self, other: &Self) {
        self.combine(other, -1.0);
    }

    /// Applies `f` to all counts and to the sum.
    pub fn map(&mut self, f: impl Fn(f64) -> f64) {
        self.zero_count = f(self.zero_count);
        self.count = f(self.count);
        self.sum = f(self.sum);
        for (_, count) in self.positive.iter_mut().chain(&mut self.negative) {
            *count = f(*count);
        }
        self.compact();
    }

    /// Divides all counts and the sum; by zero, no bucket stays.
    pub fn divide(&mut self, by: f64) {
        if by == 0.0 {
            self.positive.clear();
            self.negative.clear();
        }
        self.map(|value| value / by);
    }

    /// The same with at most the resolution `schema`.
    pub fn at_schema(&self, schema: i8) -> Self {
        let mut reduced = self.clone();
        reduced.reduce(schema);
        reduced
    }

    /// Whether a counter that was `previous` cannot have become this one by counting.
    pub fn is_reset_since(&self, previous: &Self) -> bool {
        if self.count < previous.count
            || self.schema > previous.schema
            || self.zero_threshold < previous.zero_threshold
        {
            return true;
        }
        let (zero_count, threshold) = previous.widened(self.zero_threshold);
        if threshold != self.zero_threshold || self.zero_count < zero_count {
            return true;
        }
        // Nearly always there is nothing to do to it: buckets are ordered.
        let is_bare = |buckets: &[(i32, f64)]| {
            let first = buckets.first();
            first.is_none_or(|(index, _)| bound(*index, previous.schema) > self.zero_threshold)
        };
        if self.schema == previous.schema && is_bare(&previous.positive) && is_bare(&previous.negative) {
            return fell(&previous.positive, &self.positive) || fell(&previous.negative, &self.negative);
        }
        let mut previous = previous.clone();
        previous.trim(self.zero_threshold);
        previous.reduce(self.schema);
        fell(&previous.positive, &self.positive) || fell(&previous.negative, &self.negative)
    }

    fn combine(&mut self, other: &Self, sign: f64) {
        let other_zero = self.reconcile_zero(other);
        self.zero_count += sign * other_zero;
        self.count += sign * other.count;
        self.sum += sign * other.sum;
        let schema = self.schema.min(other.schema);
        self.reduce(schema);
        let mut other = other.clone();
        // Before its resolution is reduced: Prometheus does it after, and counts twice what is within one wider bucket.
        other.trim(self.zero_threshold);
        other.reduce(schema);
        merge(&mut self.positive, &other.positive, sign);
        merge(&mut self.negative, &other.negative, sign);
        self.is_gauge |= other.is_gauge;
        self.compact();
    }

    /// Widens this zero bucket to at least the other's; says what the other then counts in it.
    fn reconcile_zero(&mut self, other: &Self) -> f64 {
        let (mut count, mut threshold) = (other.zero_count, other.zero_threshold);
        // Each turn widens one of the two to a bucket's bound, so it ends. NaN would not.
        while threshold != self.zero_threshold && !threshold.is_nan() && !self.zero_threshold.is_nan() {
            if self.zero_threshold > threshold {
                (count, threshold) = other.widened(self.zero_threshold);
            }
            if threshold > self.zero_threshold {
                (self.zero_count, self.zero_threshold) = self.widened(threshold);
                self.trim(self.zero_threshold);
            }
        }
        count
    }

    /// Count and threshold of the zero bucket if it were at least `threshold` wide: more where that lies within a bucket.
    fn widened(&self, mut threshold: f64) -> (f64, f64) {
        if threshold == self.zero_threshold {
            return (self.zero_count, threshold);
        }
        loop {
            let mut count = self.zero_count;
            let mut wider = threshold;
            for buckets in [&self.positive, &self.negative] {
                for (index, inside) in buckets {
                    if bound(index.saturating_sub(1), self.schema) >= wider {
                        break;
                    }
                    count += inside;
                    let upper = bound(*index, self.schema);
                    if upper > wider {
                        wider = if *inside == 0.0 { wider } else { upper };
                        break;
                    }
                }
            }
            if wider == threshold {
                return (count, threshold);
            }
            threshold = wider;
        }
    }

    /// Takes away buckets that a zero bucket of this width covers.
    fn trim(&mut self, threshold: f64) {
        let schema = self.schema;
        for buckets in [&mut self.positive, &mut self.negative] {
            buckets.retain(|(index, _)| bound(*index, schema) > threshold);
        }
    }

    fn reduce(&mut self, schema: i8) {
        if schema >= self.schema {
            return;
        }
        let shift = (i32::from(self.schema) - i32::from(schema)).min(31);
        for buckets in [&mut self.positive, &mut self.negative] {
            let mut wider: Vec<(i32, f64)> = Vec::with_capacity(buckets.len());
            for (index, count) in buckets.drain(..) {
                let index = (index.saturating_sub(1) >> shift) + 1;
                match wider.last_mut() {
                    Some(last) if last.0 == index => last.1 += count,
                    _ => wider.push((index, count)),
                }
            }
            *buckets = wider;
        }
        self.schema = schema;
    }

    fn compact(&mut self) {
        self.positive.retain(|(_, count)| *count != 0.0);
        self.negative.retain(|(_, count)| *count != 0.0);
    }
}

fn merge(into: &mut Vec<(i32, f64)>, other: &[(i32, f64)], sign: f64) {
    let mut merged = Vec::with_capacity(into.len().max(other.len()));
    let mut theirs = other
        .iter()
        .map(|(index, count)| (*index, sign * count))
        .peekable();
    for ours in into.drain(..) {
        while let Some(next) = theirs.next_if(|next| next.0 < ours.0) {
            merged.push(next);
        }
        let same = theirs.next_if(|next| next.0 == ours.0);
        merged.push((ours.0, ours.1 + same.map_or(0.0, |next| next.1)));
    }
    merged.extend(theirs);
    *into = merged;
}

/// Whether a bucket holds less than before.
fn fell(before: &[(i32, f64)], now: &[(i32, f64)]) -> bool {
    // Nearly always the same buckets are filled as before.
    if before.len() == now.len() {
        let pairs = || before.iter().zip(now);
        if pairs().all(|(before, now)| before.0 == now.0) {
            return pairs().any(|(before, now)| now.1 < before.1);
        }
    }
    let mut now = now.iter().peekable();
    before.iter().any(|(index, count)| {
        while now.next_if(|next| next.0 < *index).is_some() {}
        now.peek()
            .filter(|next| next.0 == *index)
            .map_or(0.0, |next| next.1)
            < *count
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(schema: i8, positive: &[(i32, f64)]) -> Histogram {
        let count = positive.iter().map(|(_, count)| count).sum();
        Histogram {
            schema,
            count,
            sum: count,
            positive: positive.to_vec(),
            ..Histogram::default()
        }
    }

    #[test]
    fn the_lower_resolution_wins() {
        let mut sum = histogram(1, &[(1, 1.0), (2, 2.0), (3, 4.0)]);
        sum.add(&histogram(0, &[(1, 10.0), (5, 1.0)]));
        assert_eq!((sum.schema, sum.count), (0, 18.0));
        assert_eq!(sum.positive, [(1, 13.0), (2, 4.0), (5, 1.0)]);
    }

    #[test]
    fn a_difference_with_itself_has_no_bucket() {
        let mut difference = histogram(3, &[(1, 1.0), (7, 2.0)]);
        difference.sub(&difference.clone());
        assert_eq!(difference.count, 0.0);
        assert!(difference.positive.is_empty());
    }

    #[test]
    fn zero_buckets_meet_at_a_bound_that_cuts_no_bucket() {
        let mut sum = histogram(0, &[(1, 3.0), (2, 4.0)]);
        let mut wide = histogram(0, &[(4, 1.0)]);
        (wide.zero_threshold, wide.zero_count, wide.count) = (1.5, 5.0, 6.0);
        sum.add(&wide);
        assert_eq!((sum.zero_threshold, sum.zero_count), (2.0, 8.0));
        assert_eq!(sum.positive, [(2, 4.0), (4, 1.0)]);
    }

    #[test]
    fn what_cannot_come_by_counting_is_a_reset() {
        let before = histogram(1, &[(1, 2.0), (4, 2.0)]);
        assert!(!histogram(1, &[(1, 2.0), (4, 3.0)]).is_reset_since(&before));
        assert!(!histogram(0, &[(1, 2.0), (2, 2.0)]).is_reset_since(&before));
        assert!(
            histogram(1, &[(1, 5.0)]).is_reset_since(&before),
            "a bucket is gone"
        );
        assert!(
            histogram(1, &[(1, 1.0), (4, 9.0)]).is_reset_since(&before),
            "a bucket fell"
        );
        assert!(
            histogram(2, &[(1, 9.0)]).is_reset_since(&before),
            "a finer resolution"
        );
        assert!(histogram(1, &[(4, 3.0)]).is_reset_since(&before), "fewer in all");
    }
}
