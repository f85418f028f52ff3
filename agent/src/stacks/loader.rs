//! Sees to it that the kernel can unwind the processes that are sampled.
//!
//! A thread of its own and of low priority: reading a table takes milliseconds (libc 2-5, libLLVM 70), and the ring must
//! be drained meanwhile. It is asked for a process when a sample of it could not be unwound to its end. What it finds goes two
//! ways: rows and ranges to the kernel, and an [`Image`] to whoever gives the addresses names.
//!
//! Nothing that the kernel may be reading is changed: a process gets new ranges beside the old ones, then its entry is
//! replaced, and what it had before is free a second later.

use super::arena::{Arena, Piece};
use super::build_id::Identity;
use super::image::{Binary, Image, Located, Open, open, vdso};
use super::maps::{self, FileId, Mapping, Origin};
use super::parts::Part;
use super::python::layouts::Layouts;
use super::python::runtime;
use super::ranges::{self, by_frame_pointer, split};
pub use super::stats::Stats;
use super::table::{self, Table};
use crate::bpf::KernelMap;
use crate::bpf::shards::Shards;
use crate::bpf::sys::{self, MappedArray};
use crate::error::Result;
use agent_common::profile::{Index, Process, ProcessKey, Range, SHARD_ROWS};
use agent_common::wire::Wire;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Ranges of all processes.
pub const RANGES: u32 = 16_384;
/// Processes at once.
pub const PROCESSES: u32 = 4096;
/// A program that has looked an entry up is done with it after this time.
const GRACE: Duration = Duration::from_secs(1);
/// Processes that are gone are looked for so often.
const LOOK: Duration = Duration::from_secs(5);
/// A file that no process has any more stays open and has its rows for this time: programs come again, and names are asked
/// for every ten seconds.
const IDLE: Duration = Duration::from_secs(30);
/// After that so many files keep their rows …
const IDLE_FILES: usize = 256;
/// … of so many rows in all, 8 MiB.
const IDLE_ROWS: usize = 1 << 20;

/// The kernel's maps.
pub struct Maps {
    /// `PROCESSES`.
    pub processes: KernelMap,
    /// `RANGES`.
    pub ranges: MappedArray,
    /// `UNWIND_SHARDS`.
    pub shards: Shards,
    /// `PYTHON_LAYOUTS`.
    pub layouts: Layouts,
}

struct Held {
    binary: Arc<Binary>,
    /// Its rows, in order.
    parts: Vec<Part>,
    users: usize,
    unused_since: Instant,
}

struct Known {
    start: u64,
    /// When the kernel was told.
    at: Instant,
    ranges: Piece,
    files: HashSet<Option<FileId>>,
    /// That of its Python.
    layout: Option<Arc<u32>>,
}

/// Ranges that nothing leads to any more, and the layout of the Python that they were of.
type Garbage = (Piece, Option<Arc<u32>>);

/// Tables, ranges and processes.
pub struct Loader {
    maps: Maps,
    rows: Arena,
    ranges: Arena,
    /// By file; `None` is the vdso, the same in all processes.
    files: HashMap<Option<FileId>, Held>,
    known: HashMap<u32, Known>,
    /// Files at once; the stacks of further ones have addresses only.
    most_open: usize,
    /// Whose rows are gone, and which are still open.
    closing: VecDeque<(Instant, Arc<Binary>)>,
    garbage: VecDeque<(Instant, Garbage)>,
    next_id: u32,
    /// Of the last entry in PROCESSES.
    serial: u32,
    looked: Instant,
    stats: Stats,
}

impl Loader {
    /// With room for so many shards and open files.
    pub fn new(maps: Maps, shards: usize, most_open: usize) -> Self {
        Self {
            maps,
            rows: Arena::new(shards),
            ranges: Arena::new(1),
            files: HashMap::new(),
            known: HashMap::new(),
            most_open,
            closing: VecDeque::new(),
            garbage: VecDeque::new(),
            next_id: 0,
            serial: 0,
            looked: Instant::now(),
            stats: Stats::default(),
        }
    }

    /// Makes a process known; `None` = it is gone.
    pub fn load(&mut self, tgid: u32, start: u64, now: Instant) -> Result<Option<Image>> {
        let Ok(text) = std::fs::read(format!("/proc/{tgid}/maps")) else {
            self.forget(tgid, now);
            return Ok(None);
        };
        let mappings = maps::parse(&text);
        if mappings.is_empty() {
            self.forget(tgid, now);
            return Ok(None);
        }
        let mut files = HashSet::new();
        let mut ranges = Vec::with_capacity(mappings.len());
        let mut image = Image {
            tgid,
            start,
            mappings: Vec::with_capacity(mappings.len()),
            python: None,
        };
        for mapping in &mappings {
            let key = match &mapping.origin {
                Origin::File(id, _) => Some(Some(*id)),
                Origin::Vdso => Some(None),
                Origin::Anonymous => None,
            };
            let binary = key.and_then(|key| {
                files.insert(key);
                self.binary(tgid, key, mapping, now)?;
                let held = self.files.get(&key)?;
                if image.python.is_none() {
                    let layouts = &mut self.maps.layouts;
                    image.python = layouts.find(tgid, &held.binary.table, mapping).map(Arc::new);
                }
                split(mapping, &held.binary.table, &held.parts, &mut ranges);
                Some(held.binary.clone())
            });
            if key.is_none() {
                ranges.push(by_frame_pointer(mapping));
            }
            image.mappings.push(Located {
                start: mapping.start,
                end: mapping.end,
                offset: mapping.offset,
                binary,
            });
        }
        self.publish(&image, &ranges, files, now)?;
        Ok(Some(image))
    }

    /// Loads a file unless it is there.
    fn binary(&mut self, tgid: u32, key: Option<FileId>, mapping: &Mapping, now: Instant) -> Option<()> {
        if let Some(held) = self.files.get_mut(&key) {
            // Not to be evicted for another file of the same process.
            held.unused_since = now;
            let binary = held.binary.clone();
            binary.file.is_of(tgid);
            if let (Origin::File(_, path), None) = (&mapping.origin, binary.file.get()) {
                binary.file.set(self.may_open(open(tgid, mapping, path).ok()));
            }
            return Some(());
        }
        let (path, file, read) = match &mapping.origin {
            Origin::File(_, path) => match open(tgid, mapping, path) {
                Ok(file) => {
                    let read = table::read(&file);
                    (path.clone(), Some(file), read)
                }
                Err(e) => (path.clone(), None, Err(table::Fault::Io(e.to_string()))),
            },
            _ => (PathBuf::from("[vdso]"), None, vdso(mapping)),
        };
        // The process may just have ended, and others have the same file: what cannot be read now is tried again.
        if let (Origin::File(..), Err(table::Fault::Io(cause))) = (&mapping.origin, &read) {
            tracing::debug!("{}: cannot be read: {cause}", path.display());
            return None;
        }
        self.stats.tables += 1;
        let (mut table, mut fault) = match read {
            Ok(table) => (table, String::new()),
            Err(e) => {
                self.stats.faulty += 1;
                tracing::debug!("{}: {e}; its frames end stacks", path.display());
                (Table::default(), e.to_string())
            }
        };
        let identity = file.as_ref().map(Identity::of).unwrap_or_default();
        table.python = file.as_ref().and_then(|file| runtime::symbols(file, &path));
        let rows = std::mem::take(&mut table.rows);
        let mut parts = Vec::new();
        if !rows.is_empty() {
            match self.room(Index::words(rows.len()), now) {
                Some(room) => {
                    let mut rest = rows.as_slice();
                    for piece in room {
                        if rest.is_empty() {
                            self.rows.give(piece);
                            continue;
                        }
                        let (part, after, written) = Part::write(&mut self.maps.shards, piece, rest);
                        if let Err(e) = written {
                            tracing::warn!("{e}");
                        }
                        rest = after;
                        parts.push(part);
                    }
                }
                None => {
                    self.stats.refused += 1;
                    fault = format!("no room for {} rows in probes.profile.table_memory", rows.len());
                    // A machine that builds meets hundreds of such files; the metric counts them all.
                    if self.stats.refused.is_power_of_two() {
                        let so_far = self.stats.refused;
                        tracing::warn!("{}: {fault}; so it is of {so_far} files so far", path.display());
                    }
                }
            }
        }
        // A large table took several times its size while it was made.
        let is_large = rows.len() >= SHARD_ROWS;
        drop(rows);
        if is_large {
            sys::trim();
        }
        self.next_id += 1;
        self.files.insert(
            key,
            Held {
                binary: Arc::new(Binary {
                    id: self.next_id,
                    path,
                    file: Open::of(tgid, self.may_open(file)),
                    build_id: table.build_id.clone(),
                    identity,
                    table,
                    fault,
                    perf_map: None,
                }),
                parts,
                users: 0,
                unused_since: now,
            },
        );
        Some(())
    }

    /// A file, unless too many are open.
    fn may_open(&self, file: Option<File>) -> Option<File> {
        file.filter(|_| self.open_files() < self.most_open)
    }

    fn open_files(&self) -> usize {
        let held = self
            .files
            .values()
            .filter(|held| held.binary.file.get().is_some());
        held.count() + self.closing.len()
    }

    /// Room for rows, if need be that of files that no process has any more, oldest first.
    fn room(&mut self, rows: usize, now: Instant) -> Option<Vec<Piece>> {
        loop {
            if let Some(pieces) = self.rows.take(rows) {
                return Some(pieces);
            }
            if !self.evict(now) {
                return None;
            }
        }
    }

    /// Forgets the file that no process has had for the longest time. Its rows are free at once: the kernel reads them no more.
    fn evict(&mut self, now: Instant) -> bool {
        let is_idle =
            |held: &Held| held.users == 0 && now.saturating_duration_since(held.unused_since) >= GRACE;
        let oldest = self
            .files
            .iter()
            .filter(|(_, held)| is_idle(held))
            .min_by_key(|(_, held)| held.unused_since)
            .map(|(key, _)| *key);
        let Some(held) = oldest.and_then(|key| self.files.remove(&key)) else {
            return false;
        };
        for part in held.parts {
            self.rows.give(part.piece);
            if !self.rows.is_used(part.piece.shard as usize) {
                self.maps.shards.remove(part.piece.shard as usize);
            }
        }
        if held.binary.file.get().is_some() {
            self.closing.push_back((held.unused_since, held.binary));
        }
        true
    }

    fn publish(
        &mut self,
        image: &Image,
        ranges: &[Range],
        files: HashSet<Option<FileId>>,
        now: Instant,
    ) -> Result<()> {
        let (tgid, start) = (image.tgid, image.start);
        let room = self
            .ranges
            .take(ranges.len())
            .and_then(|pieces| match pieces[..] {
                // All ranges of a process lie side by side.
                [piece] => Some(piece),
                _ => None,
            });
        let Some(piece) = room.filter(|p| p.row + p.rows <= RANGES) else {
            if let Some(piece) = room {
                self.ranges.give(piece);
            }
            tracing::warn!(
                "process {tgid}: no room for {} mappings; its stacks stay short",
                ranges.len()
            );
            self.stats.refused += 1;
            return Ok(());
        };
        for (i, range) in ranges.iter().enumerate() {
            ranges::write(&self.maps.ranges, piece.row as usize + i, range);
        }
        for file in &files {
            if let Some(held) = self.files.get_mut(file) {
                held.users += 1;
            }
        }
        self.forget(tgid, now);
        self.serial = self.serial.wrapping_add(1);
        let value = Process {
            start,
            range: piece.row,
            ranges: piece.rows,
            python: image.python.as_ref().map_or(0, |python| python.runtime),
            layout: image.python.as_ref().map_or(0, |python| *python.layout),
            serial: self.serial,
        };
        let known = Known {
            start,
            at: now,
            ranges: piece,
            files,
            layout: image.python.as_ref().map(|python| python.layout.clone()),
        };
        self.known.insert(tgid, known);
        let written = self
            .maps
            .processes
            .update(&bytes(&ProcessKey { tgid }), &bytes(&value));
        if let Err(e) = written {
            // The old entry leads to ranges that will be another process's.
            let _ = self.maps.processes.remove(&bytes(&ProcessKey { tgid }));
            self.forget(tgid, now);
            self.stats.refused += 1;
            tracing::debug!("map PROCESSES: {e}");
        }
        Ok(())
    }

    /// Lets go of a process: not of its entry, which is replaced or gone with the process.
    fn forget(&mut self, tgid: u32, now: Instant) {
        let Some(known) = self.known.remove(&tgid) else {
            return;
        };
        self.garbage.push_back((now, (known.ranges, known.layout)));
        for file in &known.files {
            if let Some(held) = self.files.get_mut(file) {
                held.users = held.users.saturating_sub(1);
                held.unused_since = now;
            }
        }
    }

    fn collect_garbage(&mut self, now: Instant) {
        while let Some((since, _)) = self.garbage.front()
            && now.saturating_duration_since(*since) >= GRACE
        {
            if let Some((_, (piece, layout))) = self.garbage.pop_front() {
                self.ranges.give(piece);
                drop(layout);
            }
        }
    }

    /// When the kernel was told last how to unwind a process: the `now` of that [`Loader::load`].
    pub fn published(&self, tgid: u32) -> Option<Instant> {
        self.known.get(&tgid).map(|known| known.at)
    }

    /// Whether the kernel can unwind a process.
    pub fn knows(&self, tgid: u32) -> bool {
        self.known.contains_key(&tgid)
    }

    /// To be called now and then: gives back what belongs to processes that are gone. Returns those if it has looked.
    pub fn tidy(&mut self, now: Instant) -> Result<Option<Vec<u32>>> {
        let mut gone = None;
        if now.duration_since(self.looked) >= LOOK {
            self.looked = now;
            // The kernel takes the entry out when the process ends or becomes another program.
            let mut there = HashMap::new();
            self.maps
                .processes
                .for_each(ProcessKey::SIZE, Process::SIZE, |key, value| {
                    there.extend(ProcessKey::decode(key).zip(Process::decode(value)))
                })?;
            let there: HashMap<u32, u64> = there.into_iter().map(|(k, v)| (k.tgid, v.start)).collect();
            let mut lost = Vec::new();
            for (tgid, known) in &self.known {
                let entered = there.get(tgid) == Some(&known.start);
                // One that ended while it was looked at has been entered after its end.
                if entered && std::fs::read_link(format!("/proc/{tgid}/exe")).is_err() {
                    let _ = self.maps.processes.remove(&bytes(&ProcessKey { tgid: *tgid }));
                } else if entered {
                    continue;
                }
                lost.push(*tgid);
            }
            for tgid in &lost {
                self.forget(*tgid, now);
            }
            gone = Some(lost);
            self.let_go(now);
        }
        self.collect_garbage(now);
        Ok(gone)
    }

    /// Closes the files that no process has had for a while, and forgets those that are too many.
    fn let_go(&mut self, now: Instant) {
        let is_old = |since: Instant| now.saturating_duration_since(since) >= IDLE;
        while self.closing.front().is_some_and(|(since, _)| is_old(*since)) {
            if let Some((_, binary)) = self.closing.pop_front() {
                binary.file.set(None);
            }
        }
        let old = |held: &&Held| held.users == 0 && is_old(held.unused_since);
        for held in self.files.values().filter(old) {
            held.binary.file.set(None);
        }
        loop {
            let (files, rows) = self
                .files
                .values()
                .filter(old)
                .fold((0, 0), |(files, rows), held| {
                    let own: usize = held.parts.iter().map(|part| part.piece.rows as usize).sum();
                    (files + 1, rows + own)
                });
            if (files <= IDLE_FILES && rows <= IDLE_ROWS) || !self.evict(now) {
                return;
            }
        }
    }

    /// What it holds.
    pub fn stats(&self) -> Stats {
        Stats {
            processes: self.known.len(),
            binaries: self.files.len(),
            open: self.open_files(),
            rows: self.rows.used(),
            bytes: self.maps.shards.bytes() + RANGES as usize * Range::SIZE,
            ..self.stats
        }
    }
}

fn bytes(value: &impl Wire) -> Vec<u8> {
    let mut out = Vec::new();
    value.encode(&mut out);
    out
}

const _: () = assert!(RANGES as usize <= SHARD_ROWS && Range::SIZE.is_multiple_of(8));
