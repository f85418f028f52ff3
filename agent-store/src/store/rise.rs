//! Counters that only grow, by the ends of a span: what `rate` comes to depends on nothing else, and hundreds of samples need not
//! be made.

use super::block::{Extent, Kind, Run, damaged};
use super::codec::floats::decode;
use super::codec::histograms::{ends, shape};
use super::gather::{Gather, Task};
use super::head::{Held, Piece, within};
use super::rollup::ROLLUP;
use super::{Store, read};
use crate::histogram::Histogram;
use crate::labels::Labels;
use crate::series::{Bounds, Ends, Free, Matcher, Millis, Refusal, Rise, is_stale};
use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::Range;

/// Whether a counter that was `before` has become this one by counting.
#[allow(
    clippy::neg_cmp_op_on_partial_ord,
    reason = "NaN has not fallen, as in `rate`"
)]
pub(super) fn has_risen(before: &f64, now: &f64) -> bool {
    !(now < before) && !is_stale(*before) && !is_stale(*now)
}

/// The same, in the same buckets.
pub(super) fn has_grown(before: &Histogram, now: &Histogram) -> bool {
    shape(before) == shape(now) && !is_stale(before.sum) && !is_stale(now.sum) && !now.is_reset_since(before)
}

/// Columns that are decoded between two looks at the clock.
const AT_A_TIME: usize = 16;

/// What there is of a series in a span.
enum Found {
    Nothing,
    Part(Part),
    /// It may not only grow.
    Else,
}

/// The ends of what one piece of the store has of a series.
struct Part {
    times: (Millis, Millis),
    count: usize,
    ends: Ends,
}

impl Part {
    /// Both, if this one goes on in the other.
    fn then(self, next: Self) -> Option<Self> {
        let ends = match (self.ends, next.ends) {
            (Ends::Floats(first, before), Ends::Floats(now, last)) if has_risen(&before, &now) => {
                Ends::Floats(first, last)
            }
            (Ends::Histograms(first, before), Ends::Histograms(now, last)) if has_grown(&before, &now) => {
                Ends::Histograms(first, last)
            }
            _ => return None,
        };
        (self.times.1 < next.times.0).then_some(Self {
            times: (self.times.0, next.times.1),
            count: self.count + next.count,
            ends,
        })
    }
}

/// Which values of a column are in a span, and when the first and the last of them were.
fn values(
    runs: &[Run],
    axis: &[Millis],
    (from, to): (Millis, Millis),
) -> Option<(Range<usize>, (Millis, Millis))> {
    let mut found: Option<(Range<usize>, (Millis, Millis))> = None;
    let mut before = 0;
    for run in runs {
        let times = axis.get(run.start as usize..(run.start + run.len) as usize)?;
        let (a, b) = within(times, from, to);
        if let [first, .., last] | [first @ last] = times.get(a..b)? {
            let (values, span) = found.get_or_insert((before + a..before + a, (*first, *last)));
            (values.end, span.1) = (before + b, *last);
        }
        before += run.len as usize;
    }
    found
}

/// The part of a piece of the head, whose values come to `ends`.
fn of_piece<T: Clone>(
    piece: &Piece<T>,
    axis: &[Millis],
    span: (Millis, Millis),
    ends: impl Fn(T, T) -> Option<Ends>,
) -> Found {
    let Some((range, times)) = values(&piece.runs, axis, span) else {
        return Found::Nothing;
    };
    let part = match piece.values.get(range.clone()) {
        Some([first, .., last] | [first @ last]) if piece.grows_from <= range.start => {
            ends(first.clone(), last.clone())
        }
        _ => None,
    };
    part.map_or(Found::Else, |ends| {
        Found::Part(Part {
            times,
            count: range.len(),
            ends,
        })
    })
}

fn held(held: &Held, axis: &[Millis], span: (Millis, Millis)) -> Found {
    let floats = of_piece(&held.floats, axis, span, |first, last| {
        (!is_stale(first)).then_some(Ends::Floats(first, last))
    });
    let histograms = of_piece(&held.histograms, axis, span, |first, last| {
        (!is_stale(first.sum)).then_some(Ends::Histograms(first, last))
    });
    match (floats, histograms) {
        (found, Found::Nothing) | (Found::Nothing, found) => found,
        _ => Found::Else,
    }
}

/// The parts of series, by their place in what is gathered.
type Parts = HashMap<usize, Vec<Part>>;

impl Store {
    /// See [`crate::series::Source::rises`].
    pub(super) fn find_rises(
        &self,
        matchers: &[Matcher],
        (from, to): (Millis, Millis),
        bounds: &dyn Bounds,
    ) -> Result<Option<Vec<Rise>>, Refusal> {
        if matchers.iter().any(|matcher| matcher.label == ROLLUP) {
            return Ok(None);
        }
        // What is found is taken when it is an answer: else whoever reads it whole takes it.
        let mut all = Gather::new((from, to), &Free, &self.inner.counters);
        let mut parts = Parts::new();
        let mut is_plain = true;
        let mut take = |labels: &Labels, id, of: &Held, axis: &[Millis]| {
            if !is_plain {
                return;
            }
            match held(of, axis, (from, to)) {
                Found::Nothing => {}
                Found::Else => is_plain = false,
                Found::Part(part) => {
                    let Ok(at) = all.series(id, || Ok::<_, Infallible>(labels.clone()));
                    parts.entry(at).or_default().push(part);
                }
            }
        };
        let view = {
            let live = read(&self.inner.live);
            live.head
                .each(matchers, |labels, id, of| take(labels, id, of, &live.head.axis));
            self.inner.view()
        };
        for frozen in &view.frozen {
            frozen
                .accepted(matchers)
                .for_each(|(labels, id, of)| take(labels, *id, of, &frozen.axis));
        }
        if !is_plain {
            return Ok(None);
        }
        for (number, block) in view.blocks.iter().enumerate() {
            all.block(number, block, matchers)?;
        }
        let mut tasks = std::mem::take(&mut all.tasks);
        tasks.sort_by_key(|task| (task.block, task.place.chunk.offset));
        for tasks in tasks.chunk_by(|a, b| a.block == b.block) {
            let Some(block) = tasks.first().and_then(|task| view.blocks.get(task.block)) else {
                continue;
            };
            let chunks: Vec<Extent> = tasks.iter().map(|task| task.place.chunk).collect();
            let mut in_time = Ok(());
            block.chunks(&chunks, |n, data| {
                if n % AT_A_TIME == 0 && in_time.is_ok() {
                    in_time = bounds.take(0, 0);
                }
                let Some(task) = tasks.get(n).filter(|_| is_plain && in_time.is_ok()) else {
                    return;
                };
                let found =
                    data.and_then(|data| part(task, data, (from, to)).ok_or_else(|| damaged("a column")));
                match found {
                    Ok(Some(part)) => parts.entry(task.series).or_default().push(part),
                    // Of what is damaged whoever reads it whole takes note.
                    Ok(None) | Err(_) => is_plain = false,
                }
            });
            in_time?;
            if !is_plain {
                return Ok(None);
            }
        }
        let rises = parts.into_iter().map(|(at, mut parts)| {
            parts.sort_by_key(|part| part.times);
            let labels = all.found.get(at)?.labels.clone();
            let whole = parts
                .into_iter()
                .map(Some)
                .reduce(|all, next| all?.then(next?))??;
            Some(Rise {
                labels,
                times: whole.times,
                count: whole.count,
                ends: whole.ends,
            })
        });
        let rises: Option<Vec<Rise>> = rises.collect();
        let found = rises.as_ref().map_or(0, Vec::len);
        bounds.take(found, 2 * found)?;
        Ok(rises)
    }
}

/// What a column of a block has; `Some(None)`: it may not only grow.
#[allow(clippy::option_option, reason = "no answer, and that there is none")]
fn part(task: &Task, data: &[u8], span: (Millis, Millis)) -> Option<Option<Part>> {
    let (range, times) = values(&task.place.runs, &task.axis, span)?;
    let count = range.len();
    let n = task.place.n as usize;
    let ends = match task.place.kind {
        Kind::Histogram => ends(data, n, range)?.map(|(first, last)| Ends::Histograms(first, last)),
        _ => floats(data, n, range)?,
    };
    Some(ends.map(|ends| Part { times, count, ends }))
}

thread_local! {
    /// Room to decode to.
    static FLOATS: RefCell<Vec<f64>> = const { RefCell::new(Vec::new()) };
}

#[allow(clippy::option_option, reason = "no answer, and that there is none")]
fn floats(data: &[u8], n: usize, range: Range<usize>) -> Option<Option<Ends>> {
    FLOATS.with_borrow_mut(|all| {
        all.clear();
        decode(data, n, all)?;
        let values = all.get(range)?;
        let ([first, .., last] | [first @ last]) = values else {
            return None;
        };
        let rises = !is_stale(*first) && values.windows(2).all(|pair| has_risen(&pair[0], &pair[1]));
        Some(rises.then_some(Ends::Floats(*first, *last)))
    })
}
