//! Samples of stacks in a recording: where they were, whose, and what that is called. Addresses of processes, which mean
//! nothing later, are not in it, but those of files; names are those that were known when it was made.
//!
//! Everything is told once and then called by its number, from a `RESET` on anew.

use crate::stacks::image::{Binary, Open};
use crate::stacks::perf_map::PerfMap;
use crate::stacks::python::Function;
use crate::stacks::store::{Count, Place, SECOND, Store, Who};
use crate::stacks::table::{Segment, Table};
use crate::stacks::tap::Tapped;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

/// Numbers of all new stacks of a second that the flight recorder takes: some two megabytes a second at the very most.
const WORDS: usize = 1 << 18;

/// Numbers of all stacks after which a recording begins anew, so that neither who writes nor who reads keeps every stack that
/// there ever was: some 64 MiB.
const FULL: usize = if cfg!(test) { 1 << 10 } else { 1 << 21 };
/// Owners, after which it does.
const FULL_OWNERS: usize = 1 << 16;
/// A file that says more than this is damaged.
const ABSURD: usize = 8 * FULL;

/// A file.
#[derive(Serialize, Deserialize)]
struct File {
    id: u32,
    path: String,
    build_id: String,
    /// See [`crate::stacks::build_id::Identity`].
    hash: String,
    base: u64,
    segments: Vec<[u64; 3]>,
    /// It is code that a process has made at run time.
    jit: bool,
}

/// Who had a stack; see [`Who`].
#[derive(Serialize, Deserialize)]
struct Owner {
    subject: String,
    process: String,
    pid: u32,
    thread: String,
    container: String,
    cgroup: String,
    sample: u8,
    label: String,
}

/// What is new in a second.
#[derive(Default, Serialize, Deserialize)]
struct Batch {
    files: Vec<File>,
    /// Number, name, file, first line, as shown.
    functions: Vec<(u32, String, String, u32, String)>,
    owners: Vec<Owner>,
    places: Vec<Place>,
    /// By number of the place.
    names: Vec<(u32, String)>,
    /// Numbers of places, innermost first.
    stacks: Vec<Vec<u32>>,
    /// Second, number of the owner, of the stack; samples, value.
    samples: Vec<(u64, u32, u32, u64, u64)>,
}

/// Numbers in the order in which they are given.
struct Numbers<T>(HashMap<T, u32>);

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Hash + Eq + Clone> Numbers<T> {
    /// The number, and whether it is new.
    fn of(&mut self, value: &T) -> (u32, bool) {
        if let Some(number) = self.0.get(value) {
            return (*number, false);
        }
        let number = self.0.len() as u32;
        self.0.insert(value.clone(), number);
        (number, true)
    }
}

/// What has been told since the last `RESET`.
#[derive(Default)]
pub(super) struct Writer {
    owners: Numbers<Who>,
    places: Numbers<Place>,
    stacks: Numbers<Arc<[Place]>>,
    named: HashSet<u32>,
    files: HashSet<u32>,
    functions: HashSet<u32>,
    /// Numbers of all stacks.
    words: usize,
}

impl Writer {
    /// Whether it has told so much that it has to begin anew.
    pub(super) fn is_full(&self) -> bool {
        self.words > FULL || self.owners.0.len() > FULL_OWNERS
    }

    /// The samples as JSON, and how many are left out: those whose stacks are too many, of the flight recorder. `None` = there is
    /// nothing.
    pub(super) fn batch(
        &mut self,
        tapped: &Tapped,
        store: &Store,
        is_bounded: bool,
    ) -> (Option<Vec<u8>>, u64) {
        let (mut batch, mut words, mut left_out) = (Batch::default(), 0, tapped.left_out);
        for ((second, who, stack), count) in &tapped.samples {
            if is_bounded && words > WORDS && !self.stacks.0.contains_key(stack) {
                left_out += count.samples;
                continue;
            }
            let (owner, is_new) = self.owners.of(who);
            if is_new {
                batch.owners.push(Owner::of(who));
            }
            let (number, is_new) = self.stacks.of(stack);
            if is_new {
                words += stack.len();
                self.words += stack.len();
                let places = stack.iter().map(|place| self.place(*place, store, &mut batch));
                let places = places.collect();
                batch.stacks.push(places);
            }
            batch
                .samples
                .push((second / SECOND, owner, number, count.samples, count.value));
        }
        for (place, name) in &tapped.names {
            if let Some(number) = self.places.0.get(place)
                && self.named.insert(*number)
            {
                batch.names.push((*number, name.to_string()));
            }
        }
        if batch.samples.is_empty() && batch.names.is_empty() {
            return (None, left_out);
        }
        (serde_json::to_vec(&batch).ok(), left_out)
    }

    /// The number of a place; if it is new, all that is known of it is told.
    fn place(&mut self, place: Place, store: &Store, batch: &mut Batch) -> u32 {
        let (number, is_new) = self.places.of(&place);
        if !is_new {
            return number;
        }
        batch.places.push(place);
        match place {
            Place::Binary(id, _) if self.files.insert(id) => {
                batch
                    .files
                    .extend(store.binary(id).map(|binary| File::of(binary)));
            }
            Place::Python(id, _) if self.functions.insert(id) => {
                let function = store.functions.at(place).map(|(function, _)| function);
                batch.functions.extend(function.map(|f| {
                    let [name, file, shown] = [&f.name, &f.file, &f.shown].map(|text| text.to_string());
                    (id, name, file, f.line, shown)
                }));
            }
            _ => {}
        }
        if let Some(name) = store.name_of_place(place)
            && self.named.insert(number)
        {
            batch.names.push((number, name.to_string()));
        }
        number
    }
}

impl Owner {
    fn of(who: &Who) -> Self {
        Self {
            subject: who.subject.to_string(),
            process: who.process.to_string(),
            pid: who.pid,
            thread: who.thread.to_string(),
            container: who.container.to_string(),
            cgroup: who.cgroup.to_string(),
            sample: who.sample,
            label: who.label.to_string(),
        }
    }

    fn who(self) -> Who {
        Who {
            subject: self.subject.into(),
            process: self.process.into(),
            pid: self.pid,
            thread: self.thread.into(),
            container: self.container.into(),
            cgroup: self.cgroup.into(),
            sample: self.sample,
            label: self.label.into(),
        }
    }
}

impl File {
    fn of(binary: &Binary) -> Self {
        let segments = binary.table.segments.iter();
        Self {
            id: binary.id,
            path: binary.path.to_string_lossy().into_owned(),
            build_id: binary.build_id.clone(),
            hash: binary.identity.hash.clone(),
            base: binary.table.base,
            segments: segments.map(|s| [s.offset, s.size, s.address]).collect(),
            jit: binary.perf_map.is_some(),
        }
    }

    fn binary(self) -> Binary {
        let segment = |[offset, size, address]: [u64; 3]| Segment {
            offset,
            size,
            address,
        };
        Binary {
            id: self.id,
            path: self.path.into(),
            file: Open::default(),
            build_id: self.build_id,
            identity: crate::stacks::build_id::Identity {
                hash: self.hash,
                inode: String::new(),
            },
            table: Table {
                base: self.base,
                segments: self.segments.into_iter().map(segment).collect(),
                ..Table::default()
            },
            fault: String::new(),
            perf_map: self.jit.then(PerfMap::default),
        }
    }
}

/// What a replay has been told since the last `RESET`.
#[derive(Default)]
pub(super) struct Reader {
    owners: Vec<Who>,
    places: Vec<Place>,
    stacks: Vec<Arc<[Place]>>,
    files: HashMap<u32, Arc<Binary>>,
    /// Numbers of all stacks.
    words: usize,
    /// Of the texts of owners and files.
    bytes: usize,
}

/// When, who, where, in which files, and how often.
type Sample = (u64, Who, Arc<[Place]>, Vec<Arc<Binary>>, Count);

/// What a step brings a replay's store.
#[derive(Default)]
pub struct Recalled {
    samples: Vec<Sample>,
    names: Vec<(Place, String)>,
    functions: Vec<(u32, Arc<Function>)>,
}

impl Reader {
    /// Bytes of the texts that it keeps.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reads a batch; `None` = it is damaged.
    pub(super) fn read(&mut self, json: &[u8]) -> Option<Recalled> {
        let batch: Batch = serde_json::from_slice(json).ok()?;
        let mut out = Recalled::default();
        for file in batch.files {
            let texts = [&file.path, &file.build_id, &file.hash].map(String::len);
            self.bytes += texts.iter().sum::<usize>() + size_of_val(file.segments.as_slice());
            self.files.insert(file.id, Arc::new(file.binary()));
        }
        for (number, name, file, line, shown) in batch.functions {
            let function = Function {
                name: name.into(),
                file: file.into(),
                line,
                shown: shown.into(),
            };
            out.functions.push((number, Arc::new(function)));
        }
        for owner in &batch.owners {
            let Owner {
                subject,
                process,
                thread,
                container,
                cgroup,
                label,
                ..
            } = owner;
            let texts = [subject, process, thread, container, cgroup, label].map(String::len);
            self.bytes += texts.iter().sum::<usize>();
        }
        self.owners.extend(batch.owners.into_iter().map(Owner::who));
        self.places.extend(batch.places);
        let told = [self.words, self.places.len(), self.owners.len(), self.files.len()];
        if told.iter().any(|told| *told > ABSURD) {
            return None;
        }
        for stack in batch.stacks {
            self.words += stack.len() + 1;
            let places = stack
                .iter()
                .map(|number| self.places.get(*number as usize).copied());
            self.stacks.push(places.collect::<Option<_>>()?);
        }
        for (second, owner, stack, samples, value) in batch.samples {
            let stack = self.stacks.get(stack as usize)?;
            let binary = |place: &Place| match place {
                Place::Binary(id, _) => self.files.get(id).cloned(),
                _ => None,
            };
            out.samples.push((
                second.checked_mul(SECOND)?,
                self.owners.get(owner as usize)?.clone(),
                stack.clone(),
                stack.iter().filter_map(binary).collect(),
                Count { samples, value },
            ));
        }
        for (place, name) in batch.names {
            out.names.push((*self.places.get(place as usize)?, name));
        }
        Some(out)
    }
}

impl Recalled {
    /// Gives it to a store.
    pub fn fill(self, store: &mut Store) {
        store.functions.learn(self.functions);
        for (time, who, places, files, count) in self.samples {
            store.add(time, who, &places, &files, count);
        }
        for (place, name) in self.names {
            store.name(place, &name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_more_stacks_than_are_written_is_damaged() {
        let stacks = Batch {
            stacks: vec![Vec::new(); 2 * FULL],
            ..Batch::default()
        };
        let (mut reader, many) = (Reader::default(), serde_json::to_vec(&stacks).unwrap());
        let read = (0..8).take_while(|_| reader.read(&many).is_some()).count();
        assert_eq!(read, 5);
    }

    /// Cause: ever other stacks. Seen: after so many it is time to begin anew, and what was told is forgotten then.
    #[test]
    fn what_was_told_is_not_kept_for_ever() {
        let (mut writer, store) = (Writer::default(), Store::new(1 << 20));
        let mut told = 0;
        while !writer.is_full() {
            let stack: Arc<[Place]> = (0..16).map(|depth| Place::Kernel(told * 16 + depth)).collect();
            let tapped = Tapped {
                samples: vec![((told * SECOND, Who::default(), stack), Count::default())],
                ..Tapped::default()
            };
            assert!(writer.batch(&tapped, &store, false).0.is_some());
            told += 1;
        }
        assert_eq!(told as usize, FULL / 16 + 1);
    }
}
