//! Opens a store: who holds it, which blocks are good, and what the log has that no block has.

use super::block::read::{Block, Data};
use super::head::{Frozen, Head, SeriesRef, Value};
use super::live::settled;
use super::log::{self, Listener};
use super::logfile::{numbered, path};
use super::stats::Report;
use crate::labels::Labels;
use crate::series::Millis;
use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) fn block_path(directory: &Path, id: u64) -> PathBuf {
    directory.join(format!("{id:010}.block"))
}

/// Takes the directory for this process; the kernel gives it back when the process is gone, however it goes.
pub(super) fn lock(directory: &Path) -> Result<File, String> {
    let name = directory.join("lock");
    let failed = |error: io::Error| format!("cannot open the store: {}: {error}", name.display());
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&name)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {
            let write = file
                .set_len(0)
                .and_then(|()| write!(file, "{}", std::process::id()));
            // A full disk holds no number; the lock holds all the same.
            let _ = write;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let pid = if pid.is_empty() {
                "another process"
            } else {
                pid.as_str()
            };
            Err(format!(
                "the store in {} is in use by process {pid}: stop it, or name another directory",
                directory.display()
            ))
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// So often a reader lists blocks that the writer merges meanwhile, which takes it far longer than listing.
const LISTINGS: usize = 10;

/// What a directory holds.
#[derive(Default)]
pub(super) struct Found {
    pub(super) blocks: Vec<Arc<Block>>,
    /// Of logs that no block holds yet, but the last.
    pub(super) frozen: Vec<Arc<Frozen>>,
    /// Of the last log.
    pub(super) head: Head,
    /// The first log that is in the head.
    pub(super) first_log: u64,
    pub(super) next_log: u64,
    pub(super) next_block: u64,
    /// The time of the last tick.
    pub(super) last: Millis,
    /// The time from which age is counted.
    pub(super) settled: Millis,
    pub(super) report: Report,
}

struct Replay<'a> {
    head: &'a mut Head,
    refs: HashMap<u32, SeriesRef>,
    last: &'a mut Millis,
    samples: u64,
    unknown: u64,
}

impl Listener for Replay<'_> {
    fn series(&mut self, slot: u32, labels: Labels) {
        if let Some(series) = self.head.series(&labels, usize::MAX) {
            self.refs.insert(slot, series);
        }
    }

    fn tick(&mut self, time: Millis, samples: Vec<(u32, Value)>) {
        if time <= *self.last {
            return;
        }
        *self.last = time;
        self.head.tick(time);
        for (slot, value) in samples {
            match self.refs.get(&slot) {
                Some(series) => self.samples += u64::from(self.head.push(*series, &value)),
                None => self.unknown += 1,
            }
        }
    }
}

/// Reads a directory. A reader changes nothing, and the writer may go on meanwhile: logs are read before blocks, because a
/// log goes only when the block that holds it is there.
pub(super) fn read(directory: &Path, read_only: bool) -> io::Result<Found> {
    let mut found = Found {
        last: Millis::MIN,
        settled: Millis::MIN,
        ..Found::default()
    };
    let mut logs = Vec::new();
    for segment in numbered(directory, "log")? {
        found.next_log = segment;
        match std::fs::read(path(directory, segment)) {
            Ok(bytes) => logs.push((segment, bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => found.note(format!("log {segment}: {error}: left out")),
        }
    }
    found.next_log += 1;
    found.read_blocks(directory, read_only)?;
    let held = |segment: u64| {
        found
            .blocks
            .iter()
            .any(|block| (block.summary.logs.0..=block.summary.logs.1).contains(&segment))
    };
    logs.retain(|(segment, _)| !held(*segment));
    found.first_log = found.next_log;
    let count = logs.len();
    for (at, (segment, bytes)) in logs.into_iter().enumerate() {
        found.replay(segment, &bytes);
        if at + 1 < count && !found.head.axis.is_empty() {
            let frozen = found.head.freeze((segment, segment));
            found.frozen.push(Arc::new(frozen));
        } else if at + 1 == count {
            found.first_log = segment;
        }
    }
    // What was imported may be of the future; it does not hold the clock up.
    let logged = |block: &&Arc<Block>| block.summary.logs.0 <= block.summary.logs.1;
    let spans: Vec<(Millis, Millis)> = found
        .blocks
        .iter()
        .filter(logged)
        .map(|block| (block.summary.from, block.summary.to))
        .collect();
    found.last = spans
        .iter()
        .map(|span| span.1)
        .chain([found.last])
        .max()
        .unwrap_or(Millis::MIN);
    found.settled = settled(spans.into_iter());
    Ok(found)
}

impl Found {
    fn note(&mut self, finding: String) {
        self.report.damaged += 1;
        self.report.findings.push(finding);
    }

    /// Opens all blocks that are listed; tells whether one of them was gone.
    fn open_blocks(&mut self, directory: &Path, read_only: bool) -> io::Result<bool> {
        let mut gone = false;
        for id in numbered(directory, "block")? {
            self.next_block = id;
            let name = block_path(directory, id);
            let block = File::open(&name).and_then(|file| Block::open(id, Data::File(file)));
            match block {
                Ok(block) => self.blocks.push(Arc::new(block)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => gone = true,
                Err(error) if read_only || !is_damage(&error) => {
                    self.note(format!("block {}: {error}: left out", name.display()));
                }
                Err(error) => {
                    let aside = name.with_extension("damaged");
                    let moved = std::fs::rename(&name, &aside).is_ok();
                    let name = if moved { aside } else { name };
                    self.note(format!(
                        "block {}: {error}: left out; remove it when you have seen it",
                        name.display()
                    ));
                }
            }
        }
        Ok(gone)
    }

    fn read_blocks(&mut self, directory: &Path, read_only: bool) -> io::Result<()> {
        let noted = (self.report.damaged, self.report.findings.len());
        let mut listings = 0;
        while self.open_blocks(directory, read_only)? && read_only {
            listings += 1;
            if listings == LISTINGS {
                self.note("blocks go while they are listed, again and again: some may be missing".into());
                break;
            }
            // What was listed has been merged since: the block that replaces it is in the next list.
            self.blocks.clear();
            self.report.damaged = noted.0;
            self.report.findings.truncate(noted.1);
        }
        self.next_block += 1;
        // A crash between a merge and the removal of what was merged leaves both.
        let replaced: HashSet<u64> = self
            .blocks
            .iter()
            .flat_map(|block| block.summary.replaces.clone())
            .collect();
        for block in self.blocks.extract_if(.., |block| replaced.contains(&block.id)) {
            if !read_only {
                let _ = std::fs::remove_file(block_path(directory, block.id));
            }
        }
        if !read_only {
            for entry in std::fs::read_dir(directory)?.flatten() {
                if entry.path().extension().is_some_and(|ending| ending == "tmp") {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
        self.blocks.sort_by_key(|block| (block.summary.from, block.id));
        self.report.blocks = self.blocks.len();
        Ok(())
    }

    fn replay(&mut self, segment: u64, bytes: &[u8]) {
        let mut replay = Replay {
            head: &mut self.head,
            refs: HashMap::new(),
            last: &mut self.last,
            samples: 0,
            unknown: 0,
        };
        let damage = log::replay(bytes, &mut replay);
        let unknown = replay.unknown;
        self.report.replayed += replay.samples;
        self.report.torn += usize::from(damage.torn);
        if damage.places > 0 {
            self.note(format!(
                "log {segment}: damaged in {} places; {} ticks and {unknown} samples cannot be read, the rest is used",
                damage.places, damage.ticks
            ));
        }
    }
}

pub(super) fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}
