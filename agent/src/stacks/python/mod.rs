//! Python's own frames: what the kernel has found of them get names here, and their place among those of C.
//!
//! The kernel hands on the addresses of code objects. They are read while the process has them, right when the sample comes
//! in, and remembered; a fingerprint that the kernel took with the address tells whether it still is the same object.

mod code;
pub mod layouts;
mod lines;
pub mod runtime;

use code::Code;
pub use code::{Function, Lost};
use lines::Lines;

use super::aside::Aside;
use super::store::Place;
use agent_common::profile::python::{self, LAST_OF_RUN};
use runtime::Objects;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Code objects that are remembered …
const CODES: usize = 16_384;
/// … and their bytes.
const BYTES: usize = 8 << 20;
/// A page of a process may be a file system's that never answers; all others are there in microseconds.
const PATIENCE: Duration = Duration::from_secs(3);
/// Code objects that could not be read are not tried again for this time …
const PAUSE: Duration = Duration::from_secs(3);
/// … so many of them.
const FAILED: usize = 4096;
/// Bytes of the functions that have names, some 60,000; those beyond are `[python: no_room]`. A process can make up new ones
/// with every sample.
const NAMED: usize = 16 << 20;

/// A process that runs Python.
#[derive(Debug)]
pub struct Python {
    /// Its memory: of this process and program, whoever has its id later.
    pub memory: Arc<File>,
    /// How its objects are read.
    pub objects: Objects,
    /// Where its `_PyRuntime` lies.
    pub runtime: u64,
    /// Number of its layout in the kernel's map, which is its own as long as somebody has it.
    pub layout: Arc<u32>,
}

/// A frame of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it is; `None` = it is none that anybody has written.
    pub place: Option<Place>,
    /// The interpreter's loop was entered with it.
    pub is_last: bool,
}

/// Functions by their numbers, as long as frames are of them.
#[derive(Default)]
pub struct Functions {
    known: HashMap<u32, Arc<Function>>,
    bytes: usize,
}

impl Functions {
    /// Adds some.
    pub fn learn(&mut self, functions: Vec<(u32, Arc<Function>)>) {
        for (number, function) in functions {
            if self.known.contains_key(&number) {
                continue;
            }
            let size = function.size();
            let function = if self.bytes + size > NAMED {
                Arc::new(Function::lost("no_room"))
            } else {
                function
            };
            self.bytes += function.size();
            self.known.insert(number, function);
        }
    }

    /// That of a place, and the line.
    pub fn at(&self, place: Place) -> Option<(&Function, u32)> {
        match place {
            Place::Python(number, line) => Some((self.known.get(&number)?, line)),
            _ => None,
        }
    }

    /// Forgets all but those of some places.
    pub fn keep(&mut self, places: &HashSet<Place>) {
        let number = |place: &Place| match place {
            Place::Python(number, _) => Some(*number),
            _ => None,
        };
        let used: HashSet<u32> = places.iter().filter_map(number).collect();
        self.known.retain(|number, _| used.contains(number));
        self.bytes = self.known.values().map(|function| function.size()).sum();
    }

    /// Bytes that they take.
    pub const fn size(&self) -> usize {
        self.bytes
    }
}

/// Which code object: process and its start, address, fingerprint.
type Key = (u32, u64, u64, u32);

/// What is remembered of one.
struct Known {
    function: Option<(u32, Arc<Function>)>,
    lines: Lines,
}

/// All code objects that were seen.
pub struct Codes {
    /// Reads them; by process and its start.
    aside: Aside<(u32, u64)>,
    known: HashMap<Key, Known>,
    /// What could not be read, and when.
    failed: HashMap<Key, (Lost, Instant)>,
    bytes: usize,
    numbers: HashMap<Arc<Function>, u32>,
    next: u32,
    /// Frames without a name, by [`Lost::ALL`].
    pub lost: [u64; Lost::ALL.len()],
}

impl Default for Codes {
    fn default() -> Self {
        Self {
            aside: Aside::new("python", PATIENCE),
            known: HashMap::new(),
            failed: HashMap::new(),
            bytes: 0,
            numbers: HashMap::new(),
            next: 0,
            lost: Default::default(),
        }
    }
}

impl Codes {
    /// The frames of a sample, and the functions that their places name.
    pub fn frames(
        &mut self,
        (tgid, start): (u32, u64),
        process: &Python,
        words: &[u64],
        end: u8,
        now: Instant,
    ) -> (Vec<Frame>, Vec<(u32, Arc<Function>)>) {
        let (mut frames, mut functions) = (Vec::with_capacity(words.len() / 2), Vec::new());
        for pair in words.chunks_exact(2) {
            let [first, second] = *pair else { continue };
            let address = first & !LAST_OF_RUN;
            let key = (tgid, start, address, (second >> 32) as u32);
            let found = if address == 0 {
                None
            } else {
                self.function(key, process, second as u32, now)
            };
            frames.push(Frame {
                place: found
                    .as_ref()
                    .map(|(number, _, line)| Place::Python(*number, *line)),
                is_last: first & LAST_OF_RUN != 0,
            });
            functions.extend(found.map(|(number, function, _)| (number, function)));
        }
        if !matches!(end, python::COMPLETE | python::NO_THREAD) {
            let why = python::NAMES.get(usize::from(end)).copied().unwrap_or_default();
            let (number, function) = self.number(Function::lost(why));
            functions.push((number, function));
            frames.push(Frame {
                place: Some(Place::Python(number, 0)),
                is_last: true,
            });
        }
        (frames, functions)
    }

    /// The function that an instruction is of, and its line.
    fn function(
        &mut self,
        key: Key,
        process: &Python,
        index: u32,
        now: Instant,
    ) -> Option<(u32, Arc<Function>, u32)> {
        if !self.known.contains_key(&key)
            && let Err(why) = self.read(key, process, now)
        {
            if let Some(at) = Lost::ALL.iter().position(|lost| *lost == why) {
                self.lost[at] += 1;
            }
            let (number, function) = self.number(Function::lost(why.name()));
            return Some((number, function, 0));
        }
        let known = self.known.get(&key)?;
        let (number, function) = known.function.clone()?;
        Some((number, function, known.lines.of(index)))
    }

    /// Reads a code object, unless that has just failed: every sample of a process may be of the same ones.
    fn read(&mut self, key: Key, process: &Python, now: Instant) -> Result<(), Lost> {
        if let Some((why, since)) = self.failed.get(&key)
            && now.saturating_duration_since(*since) < PAUSE
        {
            return Err(*why);
        }
        let ((tgid, start, at, seen), objects) = (key, process.objects);
        let memory = process.memory.clone();
        let read = move || Code::read(&memory, objects, at, seen);
        match self.aside.run((tgid, start), read).unwrap_or(Err(Lost::Silent)) {
            Ok(code) => {
                self.failed.remove(&key);
                self.learn(key, code);
                Ok(())
            }
            Err(why) => {
                if self.failed.len() >= FAILED {
                    self.failed.clear();
                }
                self.failed.insert(key, (why, now));
                Err(why)
            }
        }
    }

    fn learn(&mut self, key: Key, code: Code) {
        let names = code.function.as_ref().map_or(0, Function::size);
        let size = size_of::<(Key, Known)>() + code.lines.size() + names;
        if self.known.len() >= CODES || self.bytes + size > BYTES {
            self.known.clear();
            self.numbers.clear();
            self.bytes = 0;
        }
        // A function that several objects are of counts with each: so the sum can be told without asking who is the last.
        self.bytes += size;
        let known = Known {
            function: code.function.map(|function| self.number(function)),
            lines: code.lines,
        };
        self.known.insert(key, known);
    }

    fn number(&mut self, function: Function) -> (u32, Arc<Function>) {
        if let Some((function, number)) = self.numbers.get_key_value(&function) {
            return (*number, function.clone());
        }
        let function = Arc::new(function);
        self.next += 1;
        self.numbers.insert(function.clone(), self.next);
        (self.next, function)
    }
}

#[cfg(test)]
mod tests;
