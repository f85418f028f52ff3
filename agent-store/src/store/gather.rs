//! Brings the samples of series together from blocks and head.

use super::block::find::Pairs;
use super::block::read::Block;
use super::block::{Column as Place, Entry, Extent, Kind, Run, damaged};
use super::codec::{floats, histograms};
use super::head::{Held, Piece, within};
use super::stats::Counters;
use crate::histogram::Histogram;
use crate::labels::Labels;
use crate::series::{
    Bounds, Column, Matcher, Millis, Refusal, Samples, Series, in_parts, is_stale, panicked, threads,
};
use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow::{self, Break};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Series that a thread decodes together, for their columns are read together from a block. They and what is made of them
/// should fit in a cache.
const AT_A_TIME: usize = 16;

/// What a column can be decoded to.
pub(super) trait Coded: Clone {
    fn decode(data: &[u8], n: usize, into: &mut Vec<Self>) -> Option<()>;
}

impl Coded for f64 {
    fn decode(data: &[u8], n: usize, into: &mut Vec<Self>) -> Option<()> {
        floats::decode(data, n, into)
    }
}

impl Coded for Arc<Histogram> {
    fn decode(data: &[u8], n: usize, into: &mut Vec<Self>) -> Option<()> {
        histograms::decode(data, n, into)
    }
}

/// Appends what a column has in `from..=to`. Nothing is appended if it is damaged.
pub(super) fn append<T: Coded>(
    place: &Place,
    axis: &[Millis],
    data: &[u8],
    (from, to): (Millis, Millis),
    into: &mut Column<T>,
) -> Option<()> {
    let (times, values) = (into.times.len(), into.values.len());
    let done = (|| {
        T::decode(data, place.n as usize, &mut into.values)?;
        into.times.reserve_exact(place.n as usize);
        let mut kept = values;
        let mut read = values;
        for run in &place.runs {
            let run_times = axis.get(run.start as usize..(run.start + run.len) as usize)?;
            let (a, b) = within(run_times, from, to);
            into.times.extend_from_slice(run_times.get(a..b)?);
            if kept != read + a {
                for at in 0..b - a {
                    into.values.swap(kept + at, read + a + at);
                }
            }
            kept += b - a;
            read += run.len as usize;
        }
        if read != into.values.len() {
            return None;
        }
        into.values.truncate(kept);
        Some(())
    })();
    if done.is_none() {
        into.times.truncate(times);
        into.values.truncate(values);
    }
    done
}

/// Orders a column whose parts overlapped; of two samples of a time the one that was appended later stays.
pub(super) fn order<T: Clone>(column: &mut Column<T>) {
    if column.times.is_sorted_by(|a, b| a < b) {
        return;
    }
    let mut by_time: Vec<usize> = (0..column.times.len()).collect();
    let time = |at: &usize| column.times.get(*at).copied().unwrap_or_default();
    by_time.sort_by_key(time);
    let kept: Vec<usize> = by_time
        .iter()
        .zip(by_time.iter().skip(1).map(Some).chain([None]))
        .filter(|(at, next)| next.is_none_or(|next| time(next) != time(at)))
        .map(|(at, _)| *at)
        .collect();
    column.values = kept
        .iter()
        .filter_map(|at| column.values.get(*at).cloned())
        .collect();
    column.times = kept.iter().map(time).collect();
}

/// The answer to one query, as it grows.
pub(super) struct Gather<'a> {
    /// What is wanted of rollups; `None` for the series as they are.
    pub(super) rollup: Option<Kind>,
    pub(super) from: Millis,
    pub(super) to: Millis,
    /// Whether samples are wanted, or only who has any.
    pub(super) samples: bool,
    /// Whether the latest sample of each series is enough.
    pub(super) latest: bool,
    /// When the head begins.
    pub(super) since: Millis,
    pub(super) bounds: &'a dyn Bounds,
    pub(super) counters: &'a Counters,
    pub(super) index: HashMap<u128, usize>,
    pub(super) found: Vec<Series>,
    /// Series that the bounds know of already: what is in the head and in a block is one series.
    pub(super) counted: Option<&'a HashMap<u128, usize>>,
    /// How many of `found` the bounds have not been asked for.
    pub(super) new: usize,
    pub(super) tasks: Vec<Task>,
}

/// A column of a block that is to be read.
pub(super) struct Task {
    pub(super) series: usize,
    /// Number of the block.
    pub(super) block: usize,
    pub(super) place: Place,
    pub(super) axis: Arc<[Millis]>,
    /// How many of its samples are in the span.
    wanted: usize,
}

impl<'a> Gather<'a> {
    /// For samples of a span, as they are.
    pub(super) fn new((from, to): (Millis, Millis), bounds: &'a dyn Bounds, counters: &'a Counters) -> Self {
        Self {
            rollup: None,
            from,
            to,
            samples: true,
            latest: false,
            since: Millis::MAX,
            bounds,
            counters,
            index: HashMap::new(),
            found: Vec::new(),
            counted: None,
            new: 0,
            tasks: Vec::new(),
        }
    }
}

impl Gather<'_> {
    pub(super) fn span(&self) -> (Millis, Millis) {
        (self.from, self.to)
    }

    /// The place of a series in the answer; `labels` is asked for when it is new.
    pub(super) fn series<E>(
        &mut self,
        id: u128,
        labels: impl FnOnce() -> Result<Labels, E>,
    ) -> Result<usize, E> {
        if let Some(at) = self.index.get(&id) {
            return Ok(*at);
        }
        let labels = labels()?;
        self.index.insert(id, self.found.len());
        self.new += usize::from(self.counted.is_none_or(|known| !known.contains_key(&id)));
        self.found.push(Series {
            labels,
            ..Series::default()
        });
        Ok(self.found.len() - 1)
    }

    fn wants(&self, kind: Kind, step: Millis) -> bool {
        match (self.rollup, kind) {
            (None, kind) => matches!(kind, Kind::Float | Kind::Histogram),
            (Some(_), Kind::Float) if step == 0 => true,
            (Some(wanted), kind) => wanted == kind,
        }
    }

    /// Takes note of what a block has, which is the `number`th of those that [`Gather::each`] will read.
    pub(super) fn block(
        &mut self,
        number: usize,
        block: &Block,
        matchers: &[Matcher],
    ) -> Result<(), Refusal> {
        if block.summary.to < self.from || block.summary.from > self.to {
            return Ok(());
        }
        let series = match block.find(matchers) {
            Ok(series) if series.is_empty() => return Ok(()),
            Ok(series) => series,
            Err(error) => {
                self.counters.damage(block.id, &error);
                return Ok(());
            }
        };
        let entries = block.entries(&series, |_, error| self.counters.damage(block.id, &error));
        let before = self.tasks.len();
        let mut pairs = Pairs::default();
        let mut own = None;
        for entry in entries {
            if let Err(error) = self.entry((number, block), entry, &mut pairs, &mut own) {
                self.counters.damage(block.id, &error);
            }
        }
        let new = self.tasks.get(before..).unwrap_or_default();
        let wanted = new.iter().map(|task| task.wanted).sum();
        self.bounds.take(
            std::mem::take(&mut self.new),
            if self.samples { wanted } else { 0 },
        )?;
        if !self.samples {
            self.tasks.clear();
        }
        Ok(())
    }

    /// Calls with each series, whole, on several threads if there is much; what `make` leaves of its samples is room for those
    /// of another. After a `Break` it soon ends.
    pub(super) fn each(
        mut self,
        blocks: &[Arc<Block>],
        make: &(dyn Fn(&mut Series) -> ControlFlow<()> + Sync),
    ) -> Result<(), Refusal> {
        self.tasks.sort_by_key(|task| task.series);
        let found = std::mem::take(&mut self.found);
        let tasks = self.tasks.iter().map(|task| task.place.n as usize);
        let held = found.iter().map(|series| series.samples.weight());
        let threads = threads(tasks.sum::<usize>() + held.sum::<usize>());
        let mut first = 0;
        let plans: Vec<Plan> = found
            .into_iter()
            .enumerate()
            .map(|(at, series)| {
                let tasks = self.tasks.get(first..).unwrap_or_default();
                let end = first + tasks.partition_point(|task| task.series <= at);
                let tasks = std::mem::replace(&mut first, end)..end;
                Plan {
                    series: Mutex::new(series),
                    tasks,
                }
            })
            .collect();
        let this = &self;
        for part in in_parts(&plans, threads, |part| this.part(blocks, part, make)) {
            part.unwrap_or_else(|| Err(panicked()))?;
        }
        Ok(())
    }

    /// Makes some of the series whole, a few at a time.
    fn part(
        &self,
        blocks: &[Arc<Block>],
        plans: &[Plan],
        make: &(dyn Fn(&mut Series) -> ControlFlow<()> + Sync),
    ) -> Result<(), Refusal> {
        let mut whole: Vec<Series> = Vec::new();
        for plans in plans.chunks(AT_A_TIME) {
            // The bounds know what is wanted of columns that are decoded whole: so the time is looked at.
            self.bounds.take(0, 0)?;
            whole.resize_with(plans.len(), Series::default);
            self.decode(blocks, plans, &mut whole);
            for (plan, series) in plans.iter().zip(&mut whole) {
                let mut held = plan.series.lock().unwrap_or_else(PoisonError::into_inner);
                let held = std::mem::take(&mut *held);
                series.labels = held.labels;
                extend(&mut series.samples.floats, held.samples.floats);
                extend(&mut series.samples.histograms, held.samples.histograms);
                order(&mut series.samples.floats);
                order(&mut series.samples.histograms);
                if let Break(()) = make(series) {
                    return Ok(());
                }
                clear(&mut series.samples.floats);
                clear(&mut series.samples.histograms);
            }
        }
        Ok(())
    }

    /// Reads and decodes the columns of some series: those of a block together, in the order of the file.
    fn decode(&self, blocks: &[Arc<Block>], plans: &[Plan], whole: &mut [Series]) {
        let mut tasks: Vec<(usize, &Task)> = Vec::new();
        for ((at, plan), series) in plans.iter().enumerate().zip(&mut *whole) {
            let own = self.tasks.get(plan.tasks.clone()).unwrap_or_default();
            let floats = own.iter().filter(|task| task.place.kind != Kind::Histogram);
            let room = floats.map(|task| task.wanted).sum();
            series.samples.floats.times.reserve_exact(room);
            series.samples.floats.values.reserve_exact(room);
            tasks.extend(own.iter().map(|task| (at, task)));
        }
        tasks.sort_by_key(|(_, task)| (task.block, task.place.chunk.offset));
        for tasks in tasks.chunk_by(|(_, a), (_, b)| a.block == b.block) {
            let Some(block) = tasks.first().and_then(|(_, task)| blocks.get(task.block)) else {
                continue;
            };
            let chunks: Vec<Extent> = tasks.iter().map(|(_, task)| task.place.chunk).collect();
            block.chunks(&chunks, |n, data| {
                let Some((at, task)) = tasks.get(n) else { return };
                let Some(series) = whole.get_mut(*at) else { return };
                let done = data.and_then(|data| {
                    self.column(task, data, block.summary.step, &mut series.samples)
                        .ok_or_else(|| damaged("a column"))
                });
                if let Err(error) = done {
                    self.counters.damage(block.id, &error);
                }
            });
        }
    }

    /// Notes which columns of an entry are to be read.
    fn entry(
        &mut self,
        (number, block): (usize, &Block),
        mut entry: Entry,
        pairs: &mut Pairs,
        own: &mut Option<(Extent, Arc<[Millis]>)>,
    ) -> io::Result<()> {
        for place in std::mem::take(&mut entry.columns) {
            if !self.wants(place.kind, block.summary.step) {
                continue;
            }
            let axis = match (place.axis, &*own) {
                (None, _) => block.main()?,
                (Some(axis), Some((at, times))) if *at == axis.at => times.clone(),
                (Some(axis), _) => {
                    let times: Arc<[Millis]> = block.axis(axis)?.into();
                    *own = Some((axis.at, times.clone()));
                    times
                }
            };
            let in_span = |run: &Run| {
                let times = axis
                    .get(run.start as usize..(run.start + run.len) as usize)
                    .unwrap_or_default();
                let (a, b) = within(times, self.from, self.to);
                b - a
            };
            let wanted = place.runs.iter().map(in_span).sum();
            // The head is later than all blocks, but for what was imported.
            let is_known = || {
                self.counted
                    .is_some_and(|known| known.contains_key(&entry.fingerprint))
            };
            if self.latest && block.summary.to < self.since && is_known() {
                continue;
            }
            if wanted > 0 {
                let series = self.series(entry.fingerprint, || block.labels(&entry, pairs))?;
                self.tasks.push(Task {
                    series,
                    block: number,
                    place,
                    axis,
                    wanted,
                });
            }
        }
        Ok(())
    }

    /// Appends a column.
    fn column(&self, task: &Task, data: &[u8], step: Millis, into: &mut Samples) -> Option<()> {
        let span = self.span();
        if task.place.kind == Kind::Histogram {
            return append(&task.place, &task.axis, data, span, &mut into.histograms);
        }
        let start = into.floats.values.len();
        append(&task.place, &task.axis, data, span, &mut into.floats)?;
        if step == 0 && self.rollup == Some(Kind::Count) {
            ones(into.floats.values.get_mut(start..).unwrap_or_default());
        }
        Some(())
    }

    /// Takes what the head, or what was frozen of it, has of a series.
    pub(super) fn held(
        &mut self,
        labels: &Labels,
        id: u128,
        held: &Held,
        axis: &[Millis],
    ) -> Result<(), Refusal> {
        let (from, to) = self.span();
        let histograms = self.rollup.is_none();
        let mut n = 0;
        held.floats.each_run(axis, from, to, |times, _| n += times.len());
        if histograms {
            held.histograms
                .each_run(axis, from, to, |times, _| n += times.len());
        }
        if n == 0 {
            return Ok(());
        }
        let at = self.series(id, || Ok::<_, Refusal>(labels.clone()))?;
        let wanted = match (self.samples, self.latest) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => n,
        };
        self.bounds.take(std::mem::take(&mut self.new), wanted)?;
        let Some(series) = self.found.get_mut(at).filter(|_| self.samples) else {
            return Ok(());
        };
        let start = series.samples.floats.values.len();
        let copied = if self.latest { 1 } else { usize::MAX };
        copy(&held.floats, axis, from, to, copied, &mut series.samples.floats);
        if self.rollup == Some(Kind::Count) {
            ones(series.samples.floats.values.get_mut(start..).unwrap_or_default());
        }
        if histograms {
            copy(
                &held.histograms,
                axis,
                from,
                to,
                copied,
                &mut series.samples.histograms,
            );
        }
        Ok(())
    }
}

/// A series as it is gathered: what of it is in memory, and which of the tasks are its own.
struct Plan {
    series: Mutex<Series>,
    tasks: Range<usize>,
}

fn clear<T>(column: &mut Column<T>) {
    column.times.clear();
    column.values.clear();
}

/// Puts one column behind another.
pub(super) fn extend<T>(column: &mut Column<T>, mut more: Column<T>) {
    if column.times.is_empty() {
        *column = more;
    } else {
        column.times.append(&mut more.times);
        column.values.append(&mut more.values);
    }
}

/// Copies at most the last `most` of each run.
fn copy<T: Clone>(
    piece: &Piece<T>,
    axis: &[Millis],
    from: Millis,
    to: Millis,
    most: usize,
    into: &mut Column<T>,
) {
    piece.each_run(axis, from, to, |times, values| {
        let first = times.len().saturating_sub(most);
        into.times
            .extend_from_slice(times.get(first..).unwrap_or_default());
        into.values
            .extend_from_slice(values.get(first..).unwrap_or_default());
    });
}

/// What one sample counts for; the end of a series stays one.
fn ones(values: &mut [f64]) {
    for value in values.iter_mut().filter(|value| !is_stale(**value)) {
        *value = 1.0;
    }
}
