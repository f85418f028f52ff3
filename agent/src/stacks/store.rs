//! Samples of the last hour, in slices of ten seconds (those of the last minute of one), and the dictionary of their stacks.
//!
//! A frame is an address inside a file, a stack a list of frames, a sample a stack with who had it; each is kept once.
//! Memory is bounded: over the budget the oldest slice goes first.

mod used;

use super::dictionary::Dictionary;
use super::image::Binary;
use super::python::{Function, Functions};
pub use super::query::{Below, Query, Window, moment};
use super::tap::Tap;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// A second, ns.
pub const SECOND: u64 = 1_000_000_000;
/// Length of a slice, ns.
pub const SLICE: u64 = 10 * SECOND;
/// Slices that are younger have a length of a second.
const FINE: u64 = 60 * SECOND;
/// Older samples are forgotten.
const HOUR: u64 = 3600 * SECOND;
/// What a sample, a frame of a stack and a name take, with their place in a table: by size_of and the tables' fill.
const SAMPLE_BYTES: usize = 96;
const STACK_BYTES: usize = 80;
const FRAME_BYTES: usize = 112;

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Place {
    /// An address of the kernel.
    Kernel(u64),
    /// An address inside a file, before relocation.
    Binary(u32, u64),
    /// A function of Python, and its line.
    Python(u32, u32),
    /// An address of no file and not of the process's own code: the kernel's `[vsyscall]`.
    Anonymous(u64),
    /// Nobody knows what it belonged to.
    Unknown(u64),
    /// The stack is not whole: why ([`agent_common::profile::end`]).
    Cut(u8),
    /// What comes behind it is the stack of who ended the wait, and its name.
    Waker([u8; 16]),
}

/// Who had a stack, and what it was a sample of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Who {
    /// Container, unit or process.
    pub subject: Arc<str>,
    /// Name of the process.
    pub process: Arc<str>,
    /// Its id.
    pub pid: u32,
    /// Name of the thread.
    pub thread: Arc<str>,
    /// Full id of the container; empty = in none.
    pub container: Arc<str>,
    /// Path of its cgroup; empty = the root, or not known.
    pub cgroup: Arc<str>,
    /// What was sampled ([`agent_common::profile::sample`]).
    pub sample: u8,
    /// Why, or where: what the kind of sample has to say besides; empty = nothing.
    pub label: Arc<str>,
}

/// What has been counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Samples.
    pub samples: u64,
    /// What they stand for, in the unit of their kind ([`agent_common::profile::sample::UNITS`]).
    pub value: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    who: u32,
    stack: u32,
}

struct Slice {
    start: u64,
    end: u64,
    samples: HashMap<Key, Count>,
}

impl Slice {
    fn add(&mut self, key: Key, count: Count) {
        let total = self.samples.entry(key).or_default();
        total.samples += count.samples;
        total.value += count.value;
    }
}

/// Samples by time, who and stack.
pub struct Store {
    budget: usize,
    slices: VecDeque<Slice>,
    whos: Dictionary<Who>,
    /// Frame numbers, innermost first.
    stacks: Dictionary<Arc<[u32]>>,
    frames: Dictionary<Place>,
    frames_in_stacks: usize,
    /// By the number of the frame; those of the last frames may be missing.
    names: Vec<Option<Arc<str>>>,
    bytes_of_names: usize,
    binaries: HashMap<u32, Arc<Binary>>,
    /// What places of Python are called.
    pub functions: Functions,
    /// What a recording takes, if one is made.
    pub tap: Option<Tap>,
    /// All samples since this time are here.
    since: u64,
    /// What began before has been taken by [`Store::seal`].
    sealed: u64,
    /// Samples that went with slices before their hour was over.
    pub forgotten: u64,
}

/// A stack with all that a query brought together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Who.
    pub who: Who,
    /// Frames, innermost first.
    pub frames: Arc<[u32]>,
    /// Who ended the wait: its [name](Place::Waker) and frames, innermost first; empty = nobody was seen.
    pub waker: Arc<[u32]>,
    /// How often.
    pub count: Count,
}

impl Row {
    /// The frames of both stacks.
    pub fn all(&self) -> impl Iterator<Item = u32> {
        self.frames.iter().chain(self.waker.iter()).copied()
    }
}

impl Store {
    /// With a budget in bytes.
    pub fn new(budget: usize) -> Self {
        Self {
            budget,
            slices: VecDeque::new(),
            whos: Dictionary::new(),
            stacks: Dictionary::new(),
            frames: Dictionary::new(),
            frames_in_stacks: 0,
            names: Vec::new(),
            bytes_of_names: 0,
            binaries: HashMap::new(),
            functions: Functions::default(),
            tap: None,
            since: 0,
            sealed: 0,
            forgotten: 0,
        }
    }

    /// Adds a sample; `time` in ns since the Unix epoch.
    pub fn add(&mut self, time: u64, who: Who, places: &[Place], binaries: &[Arc<Binary>], count: Count) {
        if let Some(tap) = &mut self.tap {
            tap.add(time, &who, places, count);
        }
        for binary in binaries {
            self.binaries.entry(binary.id).or_insert_with(|| binary.clone());
        }
        let frames: Arc<[u32]> = places.iter().map(|place| self.frames.number(*place)).collect();
        let before = self.stacks.values.len();
        let stack = self.stacks.number(frames.clone());
        if self.stacks.values.len() != before {
            self.frames_in_stacks += frames.len();
        }
        let key = Key {
            who: self.whos.number(who),
            stack,
        };
        // Samples come nearly in order. A late one belongs to a slice that is there; one that is too late for what has been
        // sealed to the first that has not.
        let time = time.max(self.sealed);
        let at = self.slices.partition_point(|slice| slice.end <= time);
        if let Some(slice) = self.slices.get_mut(at).filter(|slice| slice.start <= time) {
            slice.add(key, count);
            return;
        }
        let start = time - time % SECOND;
        let samples = HashMap::from([(key, count)]);
        self.slices.insert(
            at,
            Slice {
                start,
                end: start + SECOND,
                samples,
            },
        );
        self.merge();
        self.trim();
    }

    /// Makes slices of ten seconds of those that are no longer of the last minute.
    fn merge(&mut self) {
        let before = self.fine();
        if !self
            .slices
            .iter()
            .any(|s| s.start < before && s.end - s.start < SLICE)
        {
            return;
        }
        for slice in std::mem::take(&mut self.slices) {
            let start = slice.start - slice.start % SLICE;
            match self.slices.back_mut() {
                Some(last) if last.start == start && start < before => {
                    for (key, count) in slice.samples {
                        last.add(key, count);
                    }
                }
                _ if start < before => self.slices.push_back(Slice {
                    start,
                    end: start + SLICE,
                    samples: slice.samples,
                }),
                _ => self.slices.push_back(slice),
            }
        }
    }

    /// From here on slices have a length of a second.
    fn fine(&self) -> u64 {
        let newest = self.slices.back().map_or(0, |slice| slice.start);
        let fine = newest.saturating_sub(FINE);
        fine - fine % SLICE
    }

    /// The window that the answer to a query is really about: whole slices, as far back as samples are kept.
    pub fn window(&self, query: &Query, now: u64) -> Window {
        let fine = self.fine();
        let length = |time: u64| if time < fine { SLICE } else { SECOND };
        let from = query.from - query.from % length(query.from);
        let to = match query.to {
            0 => now,
            to => to.checked_next_multiple_of(length(to - 1)).unwrap_or(to).min(now),
        };
        let from = from.max(self.since);
        Window {
            from,
            to: to.max(from),
        }
    }

    /// The windows of ten seconds that are over by a time and have samples, each once: what is later than its window is
    /// added to one that is still open.
    pub fn seal(&mut self, until: u64) -> Vec<Window> {
        let until = until - until % SLICE;
        let mut windows: Vec<Window> = self
            .slices
            .iter()
            .filter(|slice| slice.start >= self.sealed && slice.start < until)
            .map(|slice| slice.start - slice.start % SLICE)
            .map(|from| Window {
                from,
                to: from + SLICE,
            })
            .collect();
        windows.dedup();
        self.sealed = self.sealed.max(until);
        windows
    }

    /// Bytes, as far as they can be told.
    pub fn bytes(&self) -> usize {
        let samples: usize = self.slices.iter().map(|slice| slice.samples.capacity()).sum();
        samples * SAMPLE_BYTES
            + self.stacks.values.len() * STACK_BYTES
            + self.frames_in_stacks * size_of::<u32>()
            + self.frames.values.len() * FRAME_BYTES
            + self.bytes_of_names
            + self.functions.size()
    }

    fn trim(&mut self) {
        let mut dropped = false;
        let newest = self.slices.back().map_or(0, |slice| slice.start);
        while let Some(old) = self.slices.front() {
            let over = old.end + HOUR <= newest + SLICE;
            if !over && (self.bytes() <= self.budget || self.slices.len() == 1) {
                break;
            }
            let samples: u64 = old.samples.values().map(|c| c.samples).sum();
            self.forgotten += if over { 0 } else { samples };
            self.since = self.since.max(old.end);
            self.slices.pop_front();
            dropped = true;
            if self.bytes() > self.budget {
                self.sweep();
            }
        }
        // The dictionaries are gone through once in ten minutes, not with each slice.
        if dropped && (newest / SLICE).is_multiple_of(60) {
            self.sweep();
        }
    }

    /// Forgets the stacks that no sample has any more.
    fn sweep(&mut self) {
        let used = |of: fn(&Key) -> u32| -> HashSet<u32> {
            self.slices
                .iter()
                .flat_map(|s| s.samples.keys().map(of))
                .collect()
        };
        let (whos, stacks) = (used(|key| key.who), used(|key| key.stack));
        let (whos, stacks) = (self.whos.keep(&whos), self.stacks.keep(&stacks));
        for slice in &mut self.slices {
            slice.samples = std::mem::take(&mut slice.samples)
                .into_iter()
                .filter_map(|(key, count)| {
                    let key = Key {
                        who: *whos.get(&key.who)?,
                        stack: *stacks.get(&key.stack)?,
                    };
                    Some((key, count))
                })
                .collect();
        }
        let frames: HashSet<u32> = self
            .stacks
            .values
            .iter()
            .flat_map(|s| s.iter().copied())
            .collect();
        let moved = self.frames.keep(&frames);
        let renumbered: Vec<Arc<[u32]>> = self
            .stacks
            .values
            .iter()
            .map(|stack| {
                stack
                    .iter()
                    .filter_map(|frame| moved.get(frame).copied())
                    .collect()
            })
            .collect();
        self.stacks = Dictionary::new();
        for stack in renumbered {
            self.stacks.number(stack);
        }
        self.frames_in_stacks = self.stacks.values.iter().map(|s| s.len()).sum();
        let mut names = std::mem::take(&mut self.names);
        self.bytes_of_names = 0;
        for (old, new) in moved {
            if let Some(name) = names.get_mut(old as usize).and_then(Option::take) {
                self.name_frame(new, name);
            }
        }
        let places: HashSet<Place> = self.frames.values.iter().copied().collect();
        let files: HashSet<u32> = places
            .iter()
            .filter_map(|place| match place {
                Place::Binary(id, _) => Some(*id),
                _ => None,
            })
            .collect();
        self.binaries.retain(|id, _| files.contains(id));
        self.functions.keep(&places);
    }

    /// Those of some frames that have no name yet.
    pub fn nameless(&self, frames: impl IntoIterator<Item = u32>) -> Vec<Place> {
        frames
            .into_iter()
            .filter(|frame| self.name_of(*frame).is_none())
            .filter_map(|frame| self.frames.values.get(frame as usize))
            .filter(|place| !matches!(place, Place::Cut(_) | Place::Python(..) | Place::Waker(_)))
            .copied()
            .collect()
    }

    fn name_of(&self, frame: u32) -> Option<&Arc<str>> {
        self.names.get(frame as usize)?.as_ref()
    }

    fn name_frame(&mut self, frame: u32, name: Arc<str>) {
        let at = frame as usize;
        if self.names.len() <= at {
            self.names.resize(at + 1, None);
        }
        if let Some(place) = self.names.get_mut(at) {
            self.bytes_of_names += name.len();
            let before = place.replace(name);
            self.bytes_of_names -= before.map_or(0, |before| before.len());
        }
    }

    /// All places that have no name yet.
    pub fn nameless_all(&self) -> Vec<Place> {
        self.nameless(0..self.frames.values.len() as u32)
    }

    /// Begins anew.
    pub fn clear(&mut self, now: u64) {
        self.since = now;
        self.slices.clear();
        self.sweep();
    }

    /// Gives a place its name.
    pub fn name(&mut self, place: Place, name: &str) {
        let frame = self.frames.number(place);
        let name: Arc<str> = name.into();
        if let Some(tap) = &mut self.tap {
            tap.name(place, &name);
        }
        self.name_frame(frame, name);
    }

    /// The name of a place, if it has one.
    pub fn name_of_place(&self, place: Place) -> Option<&Arc<str>> {
        self.name_of(self.frames.find(&place)?)
    }

    /// The function of Python that a frame is of, and its line there.
    pub fn python(&self, frame: u32) -> Option<(&Function, u32)> {
        self.functions.at(*self.frames.values.get(frame as usize)?)
    }

    /// A file.
    pub fn binary(&self, id: u32) -> Option<&Arc<Binary>> {
        self.binaries.get(&id)
    }

    /// Where a frame is, and its name if it has one.
    pub fn frame(&self, number: u32) -> Option<(Place, Option<&Arc<str>>)> {
        let place = *self.frames.values.get(number as usize)?;
        let name = match place {
            Place::Python(..) => self.functions.at(place).map(|(function, _)| &function.shown),
            _ => self.name_of(number),
        };
        Some((place, name))
    }

    /// All samples that a query is about, each stack of each `who` once.
    pub fn query(&self, query: &Query) -> Vec<Row> {
        let to = if query.to == 0 { u64::MAX } else { query.to };
        let wanted = |who: &Who| {
            who.sample == query.sample
                && query.subject.as_ref().is_none_or(|s| **s == *who.subject)
                && query.process.as_ref().is_none_or(|p| **p == *who.process)
                && query.pid.is_none_or(|pid| pid == who.pid)
                && query.cgroup.as_ref().is_none_or(|below| below.has(&who.cgroup))
        };
        let mut found: HashMap<Key, Count> = HashMap::new();
        let inside = |slice: &&Slice| slice.end > query.from && slice.start < to;
        for (key, count) in self.slices.iter().filter(inside).flat_map(|slice| &slice.samples) {
            if self.whos.values.get(key.who as usize).is_some_and(wanted) {
                let total = found.entry(*key).or_default();
                total.samples += count.samples;
                total.value += count.value;
            }
        }
        let mut rows: Vec<(Key, Count)> = found.into_iter().collect();
        // The most first, and the same order for the same samples.
        rows.sort_by_key(|(key, count)| (std::cmp::Reverse(count.value), key.stack, key.who));
        rows.into_iter()
            .filter_map(|(key, count)| {
                let frames = self.stacks.values.get(key.stack as usize)?;
                let is_waker = |frame: &u32| matches!(self.frame(*frame), Some((Place::Waker(_), _)));
                let end = frames.iter().position(is_waker).unwrap_or(frames.len());
                let (own, waker) = frames.split_at_checked(end)?;
                let without_tracing = |frames: &[u32], at: usize| -> Arc<[u32]> {
                    let is_kept = |(i, frame): &(usize, &u32)| *i != at || !self.is_tracing(**frame);
                    let kept = frames.iter().enumerate().filter(is_kept);
                    kept.map(|(_, frame)| *frame).collect()
                };
                Some(Row {
                    who: self.whos.values.get(key.who as usize)?.clone(),
                    frames: without_tracing(own, 0),
                    waker: without_tracing(waker, 1),
                    count,
                })
            })
            .collect()
    }

    /// Whether a frame, the innermost, is the kernel's way to the programs of a tracepoint: it is there where there are several.
    fn is_tracing(&self, frame: u32) -> bool {
        let name = self.frame(frame).and_then(|(_, name)| name);
        name.is_some_and(|name| name.starts_with("__traceiter_"))
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
