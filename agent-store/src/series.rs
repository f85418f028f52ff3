//! Samples of a series in columns, and where they come from.

use crate::histogram::Histogram;
use crate::labels::Labels;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type Millis = i64;

/// The NaN by which Prometheus marks the end of a series: it has no value from here on. Compare by [`is_stale`].
pub const STALE: f64 = f64::from_bits(0x7ff0_0000_0000_0002);

/// Whether a value is the marker and not an ordinary NaN.
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE.to_bits()
}

/// Samples of one kind, ordered by time, each time once; both of the same length.
#[derive(Clone, Debug, PartialEq)]
pub struct Column<T> {
    /// When.
    pub times: Vec<Millis>,
    /// What.
    pub values: Vec<T>,
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Self {
            times: Vec::new(),
            values: Vec::new(),
        }
    }
}

/// The samples of a series within a span. Nearly always one of the columns is empty; a metric that became a native
/// histogram has both, and no time is in both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// Counters and gauges.
    pub floats: Column<f64>,
    /// Native histograms.
    pub histograms: Column<Arc<Histogram>>,
}

impl Samples {
    /// How many floats it takes as long to work on.
    pub(crate) fn weight(&self) -> usize {
        self.floats.times.len() + self.histograms.times.len() * OF_A_HISTOGRAM
    }
}

/// A series and its samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Its identity.
    pub labels: Labels,
    /// Its samples.
    pub samples: Samples,
}

/// How a selector compares a label; regular expressions are anchored at both ends.
#[derive(Clone, Debug)]
pub enum Comparison {
    /// `=`
    Equal(String),
    /// `!=`
    NotEqual(String),
    /// `=~`
    Matches(regex::Regex),
    /// `!~`
    MatchesNot(regex::Regex),
}

/// One condition of a selector.
#[derive(Clone, Debug)]
pub struct Matcher {
    /// The label; `__name__` for the metric.
    pub label: String,
    /// What its value must be; a label that is absent has the empty value.
    pub comparison: Comparison,
}

impl Matcher {
    /// `label="value"`.
    pub fn equal(label: &str, value: &str) -> Self {
        Self {
            label: label.to_owned(),
            comparison: Comparison::Equal(value.to_owned()),
        }
    }

    /// Whether a value passes.
    pub fn accepts(&self, value: &str) -> bool {
        match &self.comparison {
            Comparison::Equal(other) => value == other,
            Comparison::NotEqual(other) => value != other,
            Comparison::Matches(pattern) => pattern.is_match(value),
            Comparison::MatchesNot(pattern) => !pattern.is_match(value),
        }
    }
}

/// Whether all matchers accept these labels.
pub fn accepts(matchers: &[Matcher], labels: &Labels) -> bool {
    matchers
        .iter()
        .all(|matcher| matcher.accepts(labels.get(&matcher.label)))
}

/// Why a source could not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// More series or samples than one query may look at; says which limit.
    TooMany(String),
    /// What is asked for makes no sense to the source; says what does.
    Senseless(String),
    /// The query's time is over.
    TimedOut,
    /// The store failed; says what, on what, and why.
    Failed(String),
}

/// What bounds one query: asked by a source before it hands out samples, and by the evaluator while it works.
pub trait Bounds: Sync {
    /// Takes note of `series` and `samples` more; an error when that is too many, or the time is over.
    fn take(&self, series: usize, samples: usize) -> Result<(), Refusal>;
}

/// No bound at all.
pub struct Free;

impl Bounds for Free {
    fn take(&self, _: usize, _: usize) -> Result<(), Refusal> {
        Ok(())
    }
}

/// Something that has series: the store, or vectors in a test.
pub trait Source: Sync {
    /// The series that all matchers accept, with their samples in `from..=to`, in any order; series without a sample there
    /// may be left out.
    fn select(
        &self,
        matchers: &[Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
    ) -> Result<Vec<Series>, Refusal>;

    /// Shows each of them to `visit`, in any order, on several threads if there is much; after a `Break` it soon ends. A
    /// source need not have all of them in memory at once.
    fn each(
        &self,
        matchers: &[Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
        visit: &Visit<'_>,
    ) -> Result<(), Refusal> {
        show(&self.select(matchers, from, to, bounds)?, visit)
    }

    /// The same, but of each series at least its latest sample, and no more of it than costs nothing.
    fn latest(
        &self,
        matchers: &[Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
    ) -> Result<Vec<Series>, Refusal> {
        self.select(matchers, from, to, bounds)
    }

    /// What [`Self::select`] finds, in any order, if all of it are counters that did nothing but grow there, and the source knows that
    /// without making each of their samples; `None` otherwise.
    fn rises(
        &self,
        _matchers: &[Matcher],
        _from: Millis,
        _to: Millis,
        _bounds: &dyn Bounds,
    ) -> Result<Option<Vec<Rise>>, Refusal> {
        Ok(None)
    }
}

/// Two samples of a counter.
#[derive(Clone, Debug)]
pub enum Ends {
    /// Numbers.
    Floats(f64, f64),
    /// Native histograms.
    Histograms(Arc<Histogram>, Arc<Histogram>),
}

/// A counter in a span in which it never fell, and kept its buckets if it has any: all that its growth depends on.
#[derive(Clone, Debug)]
pub struct Rise {
    /// Its identity.
    pub labels: Labels,
    /// Of the first and the last sample.
    pub times: (Millis, Millis),
    /// How many samples there are.
    pub count: usize,
    /// The first and the last sample.
    pub ends: Ends,
}

/// Looks at a series; `Break`: it need see no more.
pub type Visit<'a> = dyn Fn(&Series) -> ControlFlow<()> + Sync + 'a;

/// Shows series that are at hand.
pub fn show(series: &[Series], visit: &Visit<'_>) -> Result<(), Refusal> {
    let threads = threads(series.iter().map(|one| one.samples.weight()).sum());
    let parts = in_parts(series, threads, |part| {
        let _ = part.iter().try_for_each(visit);
    });
    match parts.iter().all(Option::is_some) {
        true => Ok(()),
        false => Err(panicked()),
    }
}

/// What a histogram costs more than a float: it has that many buckets, about.
pub(crate) const OF_A_HISTOGRAM: usize = 64;

/// From so many samples on, several threads work on them; below, starting one takes longer.
const MANY: usize = 1 << 18;

/// Threads that work on so many samples.
pub(crate) fn threads(samples: usize) -> usize {
    if samples < MANY { 1 } else { cores() }
}

/// A part of the work has panicked.
pub(crate) fn panicked() -> Refusal {
    Refusal::Failed("a thread of the query has panicked".to_owned())
}

/// Threads that a query may take: not the node.
fn cores() -> usize {
    std::thread::available_parallelism()
        .map_or(1, std::num::NonZero::get)
        .min(4)
}

/// What `work` makes of equal parts, each on a thread of its own, the first on this one, in their order; `None` of one that has
/// panicked. A part for which there is no thread to be had is done here as well.
pub(crate) fn in_parts<'a, T: Sync, R: Send>(
    items: &'a [T],
    threads: usize,
    work: impl Fn(&'a [T]) -> R + Sync,
) -> Vec<Option<R>> {
    let share = items.len().div_ceil(threads.max(1)).max(1);
    let mut parts = items.chunks(share);
    let first = parts.next().unwrap_or_default();
    let work = &work;
    std::thread::scope(|scope| {
        let others: Vec<_> = parts
            .map(|part| {
                let thread = std::thread::Builder::new();
                thread
                    .spawn_scoped(scope, move || work(part))
                    .map_err(|_none| work(part))
            })
            .collect();
        let first = Some(work(first));
        let others = others.into_iter().map(|other| match other {
            Ok(thread) => thread.join().ok(),
            Err(done) => Some(done),
        });
        std::iter::once(first).chain(others).collect()
    })
}
