//! Brings the samples of series together from blocks and head.

use super::block::find::Pairs;
use super::block::read::Block;
use super::block::{Column as Place, Entry, Extent, Kind, Run, damaged};
use super::codec::{floats, histograms};
use super::head::{Held, Piece, within};
use super::stats::Counters;
use crate::histogram::Histogram;
use crate::labels::Labels;
use crate::series::{Bounds, Column, Matcher, Millis, Refusal, Samples, Series, cores, in_parts, is_stale};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

/// From so many samples of a block on, they are decoded by more than one thread; below, starting one takes longer.
const MANY: usize = 1 << 18;
/// Between so many columns a query's time is looked at.
const AT_A_TIME: usize = 128;

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

fn panicked() -> Refusal {
    Refusal::Failed("a thread that decoded columns has panicked".to_owned())
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
    pub(super) bounds: &'a dyn Bounds,
    pub(super) counters: &'a Counters,
    pub(super) index: HashMap<u128, usize>,
    pub(super) found: Vec<Series>,
    /// Series that the bounds know of already: what is in the head and in a block is one series.
    pub(super) counted: Option<&'a HashMap<u128, usize>>,
    /// How many of `found` the bounds have not been asked for.
    pub(super) new: usize,
}

struct Task {
    series: usize,
    place: Place,
    axis: Arc<[Millis]>,
    /// How many of its samples are in the span.
    wanted: usize,
}

impl Gather<'_> {
    fn span(&self) -> (Millis, Millis) {
        (self.from, self.to)
    }

    /// The place of a series in the answer; `labels` is asked for when it is new.
    fn series<E>(&mut self, id: u128, labels: impl FnOnce() -> Result<Labels, E>) -> Result<usize, E> {
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

    /// Takes what a block has.
    pub(super) fn block(&mut self, block: &Block, matchers: &[Matcher]) -> Result<(), Refusal> {
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
        let mut tasks = Vec::with_capacity(entries.len());
        let mut pairs = Pairs::default();
        let mut own = None;
        for entry in entries {
            if let Err(error) = self.entry(block, entry, &mut pairs, &mut own, &mut tasks) {
                self.counters.damage(block.id, &error);
            }
        }
        let wanted = if self.samples {
            tasks.iter().map(|task| task.wanted).sum()
        } else {
            0
        };
        self.bounds.take(std::mem::take(&mut self.new), wanted)?;
        if !self.samples {
            return Ok(());
        }
        let samples: usize = tasks.iter().map(|task| task.place.n as usize).sum();
        let cores = if samples < MANY { 1 } else { cores() };
        let this = &*self;
        for pieces in in_parts(&tasks, cores, |part| this.read(block, part)) {
            for (series, piece) in pieces.unwrap_or_else(|| Err(panicked()))? {
                if let Some(series) = self.found.get_mut(series) {
                    extend(&mut series.samples.floats, piece.floats);
                    extend(&mut series.samples.histograms, piece.histograms);
                }
            }
        }
        Ok(())
    }

    /// Reads and decodes columns, whole ones, of which the bounds know only what is wanted: so the time is looked at.
    fn read(&self, block: &Block, tasks: &[Task]) -> Result<Vec<(usize, Samples)>, Refusal> {
        let mut pieces = Vec::with_capacity(tasks.len());
        for tasks in tasks.chunks(AT_A_TIME) {
            self.bounds.take(0, 0)?;
            let chunks: Vec<Extent> = tasks.iter().map(|task| task.place.chunk).collect();
            block.chunks(&chunks, |at, data| {
                let Some(task) = tasks.get(at) else { return };
                let piece = data.and_then(|data| {
                    self.decode(task, data, block.summary.step)
                        .ok_or_else(|| damaged("a column"))
                });
                match piece {
                    Ok(piece) => pieces.push((task.series, piece)),
                    Err(error) => self.counters.damage(block.id, &error),
                }
            });
        }
        Ok(pieces)
    }

    /// Notes which columns of an entry are to be read.
    fn entry(
        &mut self,
        block: &Block,
        mut entry: Entry,
        pairs: &mut Pairs,
        own: &mut Option<(Extent, Arc<[Millis]>)>,
        tasks: &mut Vec<Task>,
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
            if wanted > 0 {
                let series = self.series(entry.fingerprint, || block.labels(&entry, pairs))?;
                tasks.push(Task {
                    series,
                    place,
                    axis,
                    wanted,
                });
            }
        }
        Ok(())
    }

    fn decode(&self, task: &Task, data: &[u8], step: Millis) -> Option<Samples> {
        let span = self.span();
        let mut piece = Samples::default();
        if task.place.kind == Kind::Histogram {
            append(&task.place, &task.axis, data, span, &mut piece.histograms)?;
            shrink(&mut piece.histograms);
            return Some(piece);
        }
        append(&task.place, &task.axis, data, span, &mut piece.floats)?;
        shrink(&mut piece.floats);
        if step == 0 && self.rollup == Some(Kind::Count) {
            ones(&mut piece.floats.values);
        }
        Some(piece)
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
        let wanted = if self.samples { n } else { 0 };
        self.bounds.take(std::mem::take(&mut self.new), wanted)?;
        let Some(series) = self.found.get_mut(at).filter(|_| self.samples) else {
            return Ok(());
        };
        let start = series.samples.floats.values.len();
        copy(&held.floats, axis, from, to, &mut series.samples.floats);
        if self.rollup == Some(Kind::Count) {
            ones(series.samples.floats.values.get_mut(start..).unwrap_or_default());
        }
        if histograms {
            copy(&held.histograms, axis, from, to, &mut series.samples.histograms);
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Vec<Series> {
        for series in &mut self.found {
            order(&mut series.samples.floats);
            order(&mut series.samples.histograms);
        }
        self.found
    }
}

/// Gives back the room of what was decoded and is not wanted: the bounds did not count it.
fn shrink<T>(column: &mut Column<T>) {
    column.times.shrink_to_fit();
    column.values.shrink_to_fit();
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

fn copy<T: Clone>(piece: &Piece<T>, axis: &[Millis], from: Millis, to: Millis, into: &mut Column<T>) {
    piece.each_run(axis, from, to, |times, values| {
        into.times.extend_from_slice(times);
        into.values.extend_from_slice(values);
    });
}

/// What one sample counts for; the end of a series stays one.
fn ones(values: &mut [f64]) {
    for value in values.iter_mut().filter(|value| !is_stale(**value)) {
        *value = 1.0;
    }
}
