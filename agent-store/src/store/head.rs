//! The newest samples, not compressed: one list of ticks, and for each series the values at them. Every ten minutes, or when
//! it takes too much memory, what it holds is frozen and becomes a block.

use super::block::{Run, fingerprint};
use crate::histogram::Histogram;
use crate::labels::{Labels, NAME};
use crate::series::{Comparison, Matcher, Millis, accepts};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A series of the store, in few bytes. It stays good while the series gets samples; after two blocks without (twenty
/// minutes) it is forgotten, and appending to it is counted as refused: ask for it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesRef {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// One sample's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter or gauge.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<Histogram>),
}

/// Values, and the ticks at which they were.
#[derive(Debug)]
pub(super) struct Piece<T> {
    pub(super) runs: Vec<Run>,
    pub(super) values: Vec<T>,
    /// Each value behind this one has grown from the one before it.
    pub(super) grows_from: usize,
}

impl<T> Default for Piece<T> {
    fn default() -> Self {
        Self {
            runs: Vec::new(),
            values: Vec::new(),
            grows_from: 0,
        }
    }
}

impl<T> Piece<T> {
    fn has(&self, tick: u32) -> bool {
        self.runs.last().is_some_and(|run| run.start + run.len > tick)
    }

    /// `has_grown`: from the value before it.
    fn push(&mut self, tick: u32, value: T, has_grown: bool) {
        if !has_grown {
            self.grows_from = self.values.len();
        }
        match self.runs.last_mut() {
            Some(run) if run.start + run.len == tick => run.len += 1,
            _ => self.runs.push(Run { start: tick, len: 1 }),
        }
        if self.values.len() == self.values.capacity() {
            // Doubling would leave a quarter of the head unused.
            self.values.reserve_exact(32 + self.values.len() / 4);
        }
        self.values.push(value);
    }

    /// Calls with times and values of `from..=to`, run by run.
    pub(super) fn each_run(
        &self,
        axis: &[Millis],
        from: Millis,
        to: Millis,
        mut each: impl FnMut(&[Millis], &[T]),
    ) {
        let mut first = 0;
        for run in &self.runs {
            let (start, len) = (run.start as usize, run.len as usize);
            if let (Some(times), Some(values)) =
                (axis.get(start..start + len), self.values.get(first..first + len))
            {
                let (a, b) = within(times, from, to);
                if let (Some(times), Some(values)) = (times.get(a..b), values.get(a..b))
                    && !times.is_empty()
                {
                    each(times, values);
                }
            }
            first += len;
        }
    }
}

/// The part of rising times that is in `from..=to`.
pub(super) fn within(times: &[Millis], from: Millis, to: Millis) -> (usize, usize) {
    let start = times.partition_point(|time| *time < from);
    (start, times.partition_point(|time| *time <= to).max(start))
}

/// The samples of a series in the head.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) floats: Piece<f64>,
    pub(super) histograms: Piece<Arc<Histogram>>,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.floats.values.is_empty() && self.histograms.values.is_empty()
    }

    fn samples(&self) -> usize {
        self.floats.values.len() + self.histograms.values.len()
    }
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    /// `None`: free.
    labels: Option<Labels>,
    fingerprint: u128,
    held: Held,
    /// How often the head was frozen since the last sample.
    idle: u8,
}

/// What the head held, until it is a block.
pub(super) struct Frozen {
    pub(super) axis: Arc<[Millis]>,
    /// Ordered by labels.
    pub(super) series: Vec<(Labels, u128, Held)>,
    pub(super) logs: (u64, u64),
    pub(super) bytes: usize,
    pub(super) samples: u64,
}

impl Frozen {
    /// The series that all matchers accept. By labels those of a metric are beside each other, and behind those that have a label
    /// before its name.
    pub(super) fn accepted(&self, matchers: &[Matcher]) -> impl Iterator<Item = &(Labels, u128, Held)> {
        let place = |value: Option<&str>, with: bool| {
            self.series.partition_point(|(labels, ..)| {
                labels.iter().next().is_none_or(|(label, its)| {
                    let own = (&**label, value.map(|_| &**its));
                    own < (NAME, value) || with && own == (NAME, value)
                })
            })
        };
        let (head, rest) = match metric(matchers) {
            Some(name) => (
                place(None, false),
                place(Some(name), false)..place(Some(name), true),
            ),
            None => (0, 0..self.series.len()),
        };
        let parts = [self.series.get(..head), self.series.get(rest)];
        let all = parts.into_iter().flatten().flatten();
        all.filter(move |(labels, ..)| accepts(matchers, labels))
    }
}

/// The metric that is asked for, if it is one.
fn metric(matchers: &[Matcher]) -> Option<&str> {
    matchers.iter().find_map(|matcher| match &matcher.comparison {
        Comparison::Equal(name) if matcher.label == NAME && !name.is_empty() => Some(name.as_str()),
        _ => None,
    })
}

#[derive(Default)]
pub(super) struct Head {
    pub(super) axis: Vec<Millis>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_labels: HashMap<Labels, u32>,
    by_name: HashMap<Arc<str>, Vec<u32>>,
    words: HashSet<Arc<str>>,
    /// About what samples and identities take.
    pub(super) sample_bytes: usize,
    pub(super) label_bytes: usize,
}

impl Head {
    pub(super) fn samples(&self) -> u64 {
        self.slots.iter().map(|slot| slot.held.samples() as u64).sum()
    }

    pub(super) fn series_count(&self) -> usize {
        self.by_labels.len()
    }

    fn word(&mut self, word: &Arc<str>) -> Arc<str> {
        if let Some(known) = self.words.get(word) {
            return known.clone();
        }
        self.label_bytes += word.len() + 48;
        self.words.insert(word.clone());
        word.clone()
    }

    /// The series of these labels; `None` when identities take `most` bytes already.
    pub(super) fn series(&mut self, labels: &Labels, most: usize) -> Option<SeriesRef> {
        if let Some(slot) = self.by_labels.get(labels).copied() {
            let place = self.slots.get_mut(slot as usize)?;
            place.idle = 0;
            return Some(SeriesRef {
                slot,
                generation: place.generation,
            });
        }
        if self.label_bytes >= most {
            return None;
        }
        // Most words are in many series; each is kept once.
        let labels = Labels::new(
            labels
                .iter()
                .map(|(name, value)| (self.word(name), self.word(value)))
                .collect::<Vec<_>>(),
        );
        self.label_bytes += series_bytes(&labels);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                labels: None,
                fingerprint: 0,
                held: Held::default(),
                idle: 0,
            });
            self.slots.len() as u32 - 1
        });
        self.by_labels.insert(labels.clone(), slot);
        self.by_name
            .entry(self.words.get(labels.name()).cloned().unwrap_or_default())
            .or_default()
            .push(slot);
        let place = self.slots.get_mut(slot as usize)?;
        place.fingerprint = fingerprint(&labels);
        place.labels = Some(labels);
        place.idle = 0;
        Some(SeriesRef {
            slot,
            generation: place.generation,
        })
    }

    /// Begins a tick, which must be later than the last.
    pub(super) fn tick(&mut self, time: Millis) {
        self.axis.push(time);
        self.sample_bytes += 8;
    }

    /// The labels of a series, if it is known.
    pub(super) fn labels(&self, series: SeriesRef) -> Option<&Labels> {
        self.slots
            .get(series.slot as usize)
            .filter(|s| s.generation == series.generation)?
            .labels
            .as_ref()
    }

    /// Takes a value at the last tick; false when the series is forgotten, or has one at that tick.
    pub(super) fn push(&mut self, series: SeriesRef, value: &Value) -> bool {
        let tick = self.axis.len() as u32 - 1;
        let Some(slot) = self
            .slots
            .get_mut(series.slot as usize)
            .filter(|s| s.generation == series.generation)
        else {
            return false;
        };
        if slot.labels.is_none() || slot.held.floats.has(tick) || slot.held.histograms.has(tick) {
            return false;
        }
        slot.idle = 0;
        match value {
            Value::Float(value) => {
                let has_grown = |last| super::rise::has_risen(last, value);
                let has_grown = slot.held.floats.values.last().is_some_and(has_grown);
                slot.held.floats.push(tick, *value, has_grown);
                self.sample_bytes += 8;
            }
            Value::Histogram(value) => {
                // What did not change is held once.
                let last = slot.held.histograms.values.last();
                let kept = last
                    .filter(|last| super::codec::histograms::same(last, value))
                    .cloned();
                let has_grown = last.is_some_and(|last| super::rise::has_grown(last, value));
                self.sample_bytes += match kept {
                    Some(_) => 8,
                    None => 144 + 16 * (value.positive.len() + value.negative.len()),
                };
                slot.held
                    .histograms
                    .push(tick, kept.unwrap_or_else(|| value.clone()), has_grown);
            }
        }
        true
    }

    /// Takes out all samples, and forgets series that have long had none.
    pub(super) fn freeze(&mut self, logs: (u64, u64)) -> Frozen {
        let mut series = Vec::with_capacity(self.by_labels.len());
        let mut samples = 0;
        let mut gone = false;
        for (at, slot) in self.slots.iter_mut().enumerate() {
            let Some(labels) = &slot.labels else { continue };
            if !slot.held.is_empty() {
                samples += slot.held.samples() as u64;
                series.push((labels.clone(), slot.fingerprint, std::mem::take(&mut slot.held)));
                slot.idle = 0;
            }
            slot.idle += 1;
            if slot.idle > 2 {
                self.label_bytes = self.label_bytes.saturating_sub(series_bytes(labels));
                self.by_labels.remove(labels);
                slot.labels = None;
                slot.generation = slot.generation.wrapping_add(1);
                self.free.push(at as u32);
                gone = true;
            }
        }
        if gone {
            let slots = &self.slots;
            self.by_name.retain(|_, list| {
                list.retain(|slot| {
                    slots
                        .get(*slot as usize)
                        .is_some_and(|slot| slot.labels.is_some())
                });
                !list.is_empty()
            });
            let mut freed = 0;
            self.words.retain(|word| {
                let used = Arc::strong_count(word) > 1;
                freed += if used { 0 } else { word.len() + 48 };
                used
            });
            self.label_bytes = self.label_bytes.saturating_sub(freed);
            self.by_labels.shrink_to(self.by_labels.len() * 2);
        }
        series.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let frozen = Frozen {
            axis: std::mem::take(&mut self.axis).into(),
            series,
            logs,
            bytes: self.sample_bytes,
            samples,
        };
        self.sample_bytes = 0;
        frozen
    }

    /// Calls with the series that all matchers accept.
    pub(super) fn each(&self, matchers: &[Matcher], mut each: impl FnMut(&Labels, u128, &Held)) {
        let mut visit = |slot: &Slot| {
            if let Some(labels) = &slot.labels
                && accepts(matchers, labels)
            {
                each(labels, slot.fingerprint, &slot.held);
            }
        };
        match metric(matchers) {
            None => self.slots.iter().for_each(visit),
            Some(name) => {
                for slot in self.by_name.get(name).into_iter().flatten() {
                    if let Some(slot) = self.slots.get(*slot as usize) {
                        visit(slot);
                    }
                }
            }
        }
    }
}

/// About what an identity takes beside its words: pairs, slot, and its places in three maps.
fn series_bytes(labels: &Labels) -> usize {
    labels.len() * 32 + 320
}
