//! Python's own frames: what the kernel has found of them get names here, and their place among those of C.
//!
//! The kernel hands on the addresses of code objects. They are read while the process has them, right when the sample comes
//! in, and remembered; a fingerprint that the kernel took with the address tells whether it still is the same object.

mod code;
pub mod layouts;
mod lines;
pub mod runtime;

use code::{Code, Lines};
pub use code::{Function, Lost};

use super::store::Place;
use agent_common::profile::python::{self, LAST_OF_RUN};
use runtime::Objects;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

/// Code objects that are remembered …
const CODES: usize = 16_384;
/// … and their bytes.
const BYTES: usize = 8 << 20;

/// A process that runs Python.
#[derive(Debug)]
pub struct Python {
    /// Its memory: of this process and program, whoever has its id later.
    pub memory: File,
    /// How its objects are read.
    pub objects: Objects,
    /// Where its `_PyRuntime` lies.
    pub runtime: u64,
    /// Number of its layout in the kernel's map.
    pub layout: u32,
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
pub struct Functions(HashMap<u32, Arc<Function>>);

impl Functions {
    /// Adds some.
    pub fn learn(&mut self, functions: Vec<(u32, Arc<Function>)>) {
        for (number, function) in functions {
            self.0.entry(number).or_insert(function);
        }
    }

    /// That of a place, and the line.
    pub fn at(&self, place: Place) -> Option<(&Function, u32)> {
        match place {
            Place::Python(number, line) => Some((self.0.get(&number)?, line)),
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
        self.0.retain(|number, _| used.contains(number));
    }

    /// Bytes that they take.
    pub fn size(&self) -> usize {
        self.0.values().map(|function| function.size()).sum()
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
#[derive(Default)]
pub struct Codes {
    known: HashMap<Key, Known>,
    bytes: usize,
    numbers: HashMap<Arc<Function>, u32>,
    next: u32,
    /// Frames without a name, by [`Lost::ALL`].
    pub lost: [u64; Lost::ALL.len()],
}

impl Codes {
    /// The frames of a sample, and the functions that their places name.
    pub fn frames(
        &mut self,
        (tgid, start): (u32, u64),
        process: &Python,
        words: &[u64],
        end: u8,
    ) -> (Vec<Frame>, Vec<(u32, Arc<Function>)>) {
        let (mut frames, mut functions) = (Vec::with_capacity(words.len() / 2), Vec::new());
        for pair in words.chunks_exact(2) {
            let [first, second] = *pair else { continue };
            let address = first & !LAST_OF_RUN;
            let key = (tgid, start, address, (second >> 32) as u32);
            let found = if address == 0 {
                None
            } else {
                self.function(key, process, second as u32)
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
    fn function(&mut self, key: Key, process: &Python, index: u32) -> Option<(u32, Arc<Function>, u32)> {
        if !self.known.contains_key(&key) {
            match Code::read(&process.memory, process.objects, key.2, key.3) {
                Ok(code) => self.learn(key, code),
                // What cannot be read now is not remembered.
                Err(why) => {
                    if let Some(at) = Lost::ALL.iter().position(|lost| *lost == why) {
                        self.lost[at] += 1;
                    }
                    let (number, function) = self.number(Function::lost(why.name()));
                    return Some((number, function, 0));
                }
            }
        }
        let known = self.known.get(&key)?;
        let (number, function) = known.function.clone()?;
        Some((number, function, known.lines.of(index)))
    }

    fn learn(&mut self, key: Key, code: Code) {
        let size = code.lines.size();
        if self.known.len() >= CODES || self.bytes + size > BYTES {
            self.known.clear();
            self.numbers.clear();
            self.bytes = 0;
        }
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
