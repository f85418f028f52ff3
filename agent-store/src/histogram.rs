//! A native histogram sample: what a bucket, a sum and a count are to Prometheus.

mod arithmetic;
mod buckets;

pub use buckets::Bucket;

/// Native histogram of Prometheus, as one sample. Bucket `i` of `positive` holds values in
/// `(2^((i-1) * 2^-schema), 2^(i * 2^-schema)]`: Prometheus' index, which is OTel's plus one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Resolution: `2^schema` buckets an octave. The agent's own are 3.
    pub schema: i8,
    /// Values whose absolute is at most this are in `zero_count`.
    pub zero_threshold: f64,
    /// Number of values in the zero bucket.
    pub zero_count: f64,
    /// Number of values; NaN values are in no bucket, so it can be more than the sum of all buckets.
    pub count: f64,
    /// Sum of the values; `series::STALE` marks the end of the series.
    pub sum: f64,
    /// Buckets that are not empty, `(index, count)`, ordered by index.
    pub positive: Vec<(i32, f64)>,
    /// The same for negative values, by the index of their absolute.
    pub negative: Vec<(i32, f64)>,
    /// Whether this is a gauge of a distribution, which may fall, and not a counter.
    pub is_gauge: bool,
}
