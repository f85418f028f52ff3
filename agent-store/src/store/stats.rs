//! What the store was told, what it took, and what became of it.

use super::lock;
use super::settings::Settings;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// So many findings are kept by name; all are counted.
const NAMED: usize = 16;

/// What happened since the store was opened.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) appended: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) series_refused: AtomicU64,
    pub(super) late_ticks: AtomicU64,
    pub(super) unlogged: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) write_failures: AtomicU64,
    pub(super) damaged: AtomicU64,
    pub(super) findings: Mutex<VecDeque<String>>,
}

pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Counters {
    /// Notes that a part of a block could not be read.
    pub(super) fn damage(&self, block: u64, error: &io::Error) {
        add(&self.damaged, 1);
        self.find(format!("block {block}: {error}; the rest is used"));
    }

    /// Notes that something could not be written.
    pub(super) fn failed(&self, what: &str, error: &io::Error) {
        add(&self.write_failures, 1);
        self.find(format!("cannot write {what}: {error}; it is tried again"));
    }

    pub(super) fn find(&self, text: String) {
        let mut findings = lock(&self.findings);
        if findings.back() == Some(&text) {
            return;
        }
        if findings.len() == NAMED {
            findings.pop_front();
        }
        findings.push_back(text);
    }
}

/// The store as it is now, and what happened since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Series that are live.
    pub live_series: usize,
    /// Blocks, the files that do not change.
    pub blocks: usize,
    /// Samples in all, those of rollups counted once.
    pub samples: u64,
    /// Bytes of blocks and of the log's current segment on disk.
    pub disk_bytes: u64,
    /// About what the store takes in memory.
    pub memory_bytes: usize,
    /// Samples taken.
    pub appended: u64,
    /// Samples refused: their series is forgotten, has one at that tick, or the time is absurd.
    pub refused: u64,
    /// Series refused because live ones take all the memory that they may.
    pub series_refused: u64,
    /// Ticks that were not later than the one before, stored after it.
    pub late_ticks: u64,
    /// Samples that are in memory, but not in the log, because it could not be written: lost if the agent dies now.
    pub unlogged: u64,
    /// Samples lost because no block could be written until memory was full.
    pub lost: u64,
    /// Writes that failed; each is tried again.
    pub write_failures: u64,
    /// Parts of blocks and of the log that could not be read.
    pub damaged: u64,
    /// The latest of what was found damaged or could not be written, in words.
    pub findings: Vec<String>,
}

/// What was found when the store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Blocks that were opened.
    pub blocks: usize,
    /// Samples that came back from the log.
    pub replayed: u64,
    /// Logs that end within a record, as a crash leaves them.
    pub torn: usize,
    /// Parts that could not be read.
    pub damaged: usize,
    /// Each in a line: what, where, and what became of it.
    pub findings: Vec<String>,
}

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In files of a directory, which is made if need be.
    Directory(PathBuf),
    /// In files of a directory that another process may be writing: nothing is changed.
    ReadOnly(PathBuf),
    /// Nowhere else but in memory, half of which blocks may take.
    Memory,
}

impl Place {
    pub(super) fn limit(&self, settings: &Settings) -> u64 {
        match self {
            Self::Memory => settings.max_bytes.min(settings.memory as u64 / 2),
            _ => settings.max_bytes,
        }
    }
}
