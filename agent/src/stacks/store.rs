//! Samples of the last hour, in slices of ten seconds, and the dictionary of their stacks.
//!
//! A frame is an address inside a file, a stack a list of frames, a sample a stack with who had it; each is kept once.
//! Memory is bounded: over the budget the oldest slice goes first.

use super::image::Binary;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

/// Length of a slice, ns.
pub const SLICE: u64 = 10_000_000_000;
/// Slices of an hour.
const HOUR: usize = 360;
/// What a sample, a frame of a stack and a name take, with their place in a table: by size_of and the tables' fill.
const SAMPLE_BYTES: usize = 96;
const STACK_BYTES: usize = 80;
const FRAME_BYTES: usize = 112;

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// An address of the kernel.
    Kernel(u64),
    /// An address inside a file, before relocation.
    Binary(u32, u64),
    /// Code that was made at run time.
    Anonymous(u64),
    /// Nobody knows what it belonged to.
    Unknown(u64),
    /// The stack is not whole: why ([`agent_common::profile::end`]).
    Cut(u8),
}

/// Who had a stack, and what it was a sample of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    samples: HashMap<Key, Count>,
}

/// Each value once, by number. Numbers stay until [`Dictionary::keep`].
struct Dictionary<T> {
    values: Vec<T>,
    numbers: HashMap<T, u32>,
}

impl<T: Clone + Eq + Hash> Dictionary<T> {
    fn new() -> Self {
        Self {
            values: Vec::new(),
            numbers: HashMap::new(),
        }
    }

    fn number(&mut self, value: T) -> u32 {
        if let Some(&number) = self.numbers.get(&value) {
            return number;
        }
        let number = self.values.len() as u32;
        self.values.push(value.clone());
        self.numbers.insert(value, number);
        number
    }

    /// Forgets all others; returns the new number of each.
    fn keep(&mut self, used: &HashSet<u32>) -> HashMap<u32, u32> {
        let old = std::mem::take(&mut self.values);
        self.numbers.clear();
        let mut moved = HashMap::new();
        for (number, value) in old.into_iter().enumerate() {
            if used.contains(&(number as u32)) {
                moved.insert(number as u32, self.number(value));
            }
        }
        moved
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
    names: HashMap<Place, Arc<str>>,
    binaries: HashMap<u32, Arc<Binary>>,
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
    /// How often.
    pub count: Count,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// From this time on, ns since the Unix epoch.
    pub from: u64,
    /// Until this time; 0 = now.
    pub to: u64,
    /// Only this container, unit or process.
    pub subject: Option<String>,
    /// Only processes of this name.
    pub process: Option<String>,
    /// Only this process.
    pub pid: Option<u32>,
    /// Only this kind of sample.
    pub sample: u8,
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
            names: HashMap::new(),
            binaries: HashMap::new(),
            forgotten: 0,
        }
    }

    /// Adds a sample; `time` in ns since the Unix epoch.
    pub fn add(&mut self, time: u64, who: Who, places: &[Place], binaries: &[Arc<Binary>], count: Count) {
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
        let start = time - time % SLICE;
        // Samples come nearly in order; a late one belongs to a slice that is there, or to the oldest.
        let at = self.slices.partition_point(|slice| slice.start < start);
        let there = self.slices.get(at).is_some_and(|slice| slice.start == start);
        if !there {
            self.slices.insert(
                at,
                Slice {
                    start,
                    samples: HashMap::new(),
                },
            );
        }
        if let Some(slice) = self.slices.get_mut(at) {
            let total = slice.samples.entry(key).or_default();
            total.samples += count.samples;
            total.value += count.value;
        }
        if !there {
            self.trim();
        }
    }

    /// Bytes, as far as they can be told.
    pub fn bytes(&self) -> usize {
        let samples: usize = self.slices.iter().map(|slice| slice.samples.capacity()).sum();
        let names: usize = self.names.values().map(|name| name.len()).sum();
        samples * SAMPLE_BYTES
            + self.stacks.values.len() * STACK_BYTES
            + self.frames_in_stacks * size_of::<u32>()
            + self.frames.values.len() * FRAME_BYTES
            + names
    }

    /// Time of the oldest sample, ns since the Unix epoch.
    pub fn oldest(&self) -> Option<u64> {
        self.slices.front().map(|slice| slice.start)
    }

    fn trim(&mut self) {
        let mut dropped = false;
        while self.slices.len() > HOUR || (self.bytes() > self.budget && self.slices.len() > 1) {
            let old = self.slices.pop_front();
            if self.slices.len() < HOUR {
                self.forgotten += old.map_or(0, |s| s.samples.values().map(|c| c.samples).sum::<u64>());
            }
            dropped = true;
            if self.bytes() > self.budget {
                self.sweep();
            }
        }
        // The dictionaries are gone through once in ten minutes, not with each slice.
        if dropped
            && self
                .slices
                .back()
                .is_some_and(|slice| (slice.start / SLICE).is_multiple_of(60))
        {
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
        let places: HashSet<Place> = self.frames.values.iter().copied().collect();
        self.names.retain(|place, _| places.contains(place));
        let files: HashSet<u32> = places
            .iter()
            .filter_map(|place| match place {
                Place::Binary(id, _) => Some(*id),
                _ => None,
            })
            .collect();
        self.binaries.retain(|id, _| files.contains(id));
    }

    /// Those of some frames that have no name yet.
    pub fn nameless(&self, frames: impl IntoIterator<Item = u32>) -> Vec<Place> {
        frames
            .into_iter()
            .filter_map(|frame| self.frames.values.get(frame as usize))
            .filter(|place| !matches!(place, Place::Cut(_)) && !self.names.contains_key(place))
            .copied()
            .collect()
    }

    /// All places that have no name yet.
    pub fn nameless_all(&self) -> Vec<Place> {
        self.nameless(0..self.frames.values.len() as u32)
    }

    /// Forgets all samples.
    pub fn clear(&mut self) {
        self.slices.clear();
        self.sweep();
    }

    /// Gives a place its name.
    pub fn name(&mut self, place: Place, name: &str) {
        self.names.insert(place, name.into());
    }

    /// A file.
    pub fn binary(&self, id: u32) -> Option<&Arc<Binary>> {
        self.binaries.get(&id)
    }

    /// Where a frame is, and its name if it has one.
    pub fn frame(&self, number: u32) -> Option<(Place, Option<&Arc<str>>)> {
        let place = *self.frames.values.get(number as usize)?;
        Some((place, self.names.get(&place)))
    }

    /// All samples that a query is about, each stack of each `who` once.
    pub fn query(&self, query: &Query) -> Vec<Row> {
        let to = if query.to == 0 { u64::MAX } else { query.to };
        let wanted = |who: &Who| {
            who.sample == query.sample
                && query.subject.as_ref().is_none_or(|s| **s == *who.subject)
                && query.process.as_ref().is_none_or(|p| **p == *who.process)
                && query.pid.is_none_or(|pid| pid == who.pid)
        };
        let mut found: HashMap<Key, Count> = HashMap::new();
        let inside = |slice: &&Slice| slice.start + SLICE > query.from && slice.start < to;
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
                Some(Row {
                    who: self.whos.values.get(key.who as usize)?.clone(),
                    frames: self.stacks.values.get(key.stack as usize)?.clone(),
                    count,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(pid: u32) -> Who {
        Who {
            subject: "web".into(),
            process: "nginx".into(),
            pid,
            thread: "nginx".into(),
            container: "".into(),
            sample: 0,
            label: "".into(),
        }
    }

    const ONE: Count = Count {
        samples: 1,
        value: 10,
    };

    fn total(store: &Store, query: &Query) -> u64 {
        store.query(query).iter().map(|row| row.count.samples).sum()
    }

    #[test]
    fn the_same_stack_is_kept_once_and_counted_by_who() {
        let mut store = Store::new(1 << 20);
        let stack = [Place::Binary(1, 5), Place::Kernel(7)];
        for i in 0..10 {
            store.add(SLICE + i, who(1 + (i % 2) as u32), &stack, &[], ONE);
        }
        store.add(3 * SLICE, who(1), &stack, &[], ONE);
        assert_eq!((store.stacks.values.len(), store.frames.values.len()), (1, 2));
        assert_eq!(total(&store, &Query::default()), 11);
        let of_one = Query {
            pid: Some(1),
            ..Query::default()
        };
        assert_eq!(total(&store, &of_one), 6);
        let early = Query {
            to: 2 * SLICE,
            ..Query::default()
        };
        assert_eq!(total(&store, &early), 10);
        let late = Query {
            from: 2 * SLICE,
            ..Query::default()
        };
        assert_eq!(total(&store, &late), 1);
        let rows = store.query(&Query::default());
        assert_eq!(rows.len(), 2);
        let first = rows.first().unwrap();
        let places: Vec<Place> = first.frames.iter().map(|f| store.frame(*f).unwrap().0).collect();
        assert_eq!(places, stack);
    }

    #[test]
    fn memory_stays_within_the_budget_and_the_youngest_stay() {
        let mut store = Store::new(256 << 10);
        for slice in 1..200u64 {
            for i in 0..50u64 {
                let stack = [
                    Place::Kernel(slice * 1000 + i),
                    Place::Kernel(1),
                    Place::Kernel(slice),
                ];
                store.add(slice * SLICE, who(1), &stack, &[], ONE);
                store.name(Place::Kernel(slice * 1000 + i), "a_function_of_the_kernel");
            }
        }
        assert!(store.bytes() <= (256 << 10) + (32 << 10), "{}", store.bytes());
        let left = total(&store, &Query::default());
        assert!(left > 500, "{left}");
        assert_eq!(left + store.forgotten, 199 * 50, "what went is counted");
        let youngest = Query {
            from: 199 * SLICE,
            ..Query::default()
        };
        assert_eq!(total(&store, &youngest), 50);
        for row in store.query(&Query::default()) {
            let places: Vec<Place> = row.frames.iter().map(|f| store.frame(*f).unwrap().0).collect();
            let [Place::Kernel(a), Place::Kernel(1), Place::Kernel(slice)] = places[..] else {
                panic!("{places:?}");
            };
            assert_eq!(a / 1000, slice, "sweeping mixes no stacks");
        }
    }

    #[test]
    fn an_hour_is_kept() {
        let mut store = Store::new(64 << 20);
        for slice in 1..1000 {
            store.add(slice * SLICE, who(1), &[Place::Kernel(1)], &[], ONE);
        }
        assert_eq!(total(&store, &Query::default()), HOUR as u64);
        assert_eq!(store.forgotten, 0, "their hour was over");
        assert_eq!(store.oldest(), Some((1000 - HOUR as u64) * SLICE));
    }
}
