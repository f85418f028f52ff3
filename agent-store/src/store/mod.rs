//! The store: 24 hours of every series at one second, then ten seconds, in a directory or in memory.
//!
//! `append` takes a tick's samples into the `head` and the `log`. Every ten minutes the head is frozen and becomes a
//! `block`; twelve blocks become one of two hours; after a day a block is rolled up (`rollup`), after fifteen it goes, but for the few series that are to last (`retain`).
//! The log is the work of one thread, blocks and tidying that of another: a slow disk cannot delay a tick, nor a long merge
//! the log.
//!
//! *Time.* Ticks are stored in the order in which they came, each later than the one before. A tick that is not later (the
//! clock was set back) is stored after the last one by half of what the clock moved since, at least 1 ms and at most half a
//! second, until the clock has caught up: nothing is reordered or lost, and at one tick a second rates are wrong by two at
//! most. Such ticks are counted. A leap forward of more than an hour ages nothing until it has lasted for ten minutes. The
//! store adds no markers: who appends tells the end of a series by [`STALE`](crate::series::STALE).

mod block;
mod bytes;
mod codec;
mod exchange;
mod gather;
mod head;
mod inspect;
mod live;
mod log;
mod logfile;
mod open;
mod retain;
mod rewrite;
mod rise;
mod rollup;
mod select;
mod settings;
mod stats;
#[cfg(test)]
mod tests;
mod text;
mod upkeep;
mod worker;

pub use exchange::Imported;
pub use head::{SeriesRef, Value};
pub use inspect::{BlockInfo, Info, Verified};
pub use rollup::ROLLUP;
pub use settings::Settings;
pub use stats::{Place, Report, Stats};

use crate::labels::Labels;
use crate::series::Millis;
use block::read::Block;
use head::Frozen;
use live::Live;
use logfile::LogFile;
use open::Found;
use stats::{Counters, add};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use worker::Worker;

/// What the log may hold unwritten, while the disk is full or stands still.
const UNWRITTEN: usize = 8 << 20;
/// A clock that is so far behind the store is told.
const LATE: Millis = 60 * 60 * 1000;
/// Times beyond this are not times: 29 000 years from 1970.
const ABSURD: u64 = 1 << 50;

/// A store; see the module. Dropping it writes what is left.
pub struct Store {
    inner: Arc<Inner>,
    worker: Option<Worker>,
}

/// What is no longer live: it is replaced as a whole, so a query keeps what it began with.
#[derive(Clone, Default)]
struct View {
    frozen: Vec<Arc<Frozen>>,
    /// Ordered by where they begin.
    blocks: Vec<Arc<Block>>,
}

struct Inner {
    settings: Settings,
    place: Place,
    /// `None`: in memory.
    directory: Option<PathBuf>,
    /// Locked as long as it is open.
    _lock: Option<File>,
    live: RwLock<Live>,
    view: RwLock<Arc<View>>,
    log_file: Mutex<LogFile>,
    /// What the log file could not write.
    waiting: AtomicUsize,
    /// What the log's segment takes on disk: who asks must not wait for `log_file`, which a slow disk holds.
    segment_bytes: AtomicU64,
    next_block: AtomicU64,
    /// One tidies up at a time.
    upkeep: Mutex<upkeep::Upkeep>,
    counters: Counters,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Opens a store. What is damaged is left out and told in the report; an error is a line that says what, where, and what
    /// helps.
    pub fn open(place: Place, settings: Settings) -> Result<(Self, Report), String> {
        let mut found = Found {
            last: Millis::MIN,
            settled: Millis::MIN,
            ..Found::default()
        };
        let mut held = None;
        let directory = match &place {
            Place::Memory => None,
            Place::Directory(directory) => {
                std::fs::create_dir_all(directory).map_err(|error| {
                    format!(
                        "cannot make the store's directory {}: {error}",
                        directory.display()
                    )
                })?;
                held = Some(open::lock(directory)?);
                Some(directory.clone())
            }
            Place::ReadOnly(directory) => Some(directory.clone()),
        };
        let read_only = matches!(place, Place::ReadOnly(_));
        if let Some(directory) = &directory {
            found = open::read(directory, read_only)
                .map_err(|error| format!("cannot read the store in {}: {error}", directory.display()))?;
        }
        let counters = Counters::default();
        add(&counters.damaged, found.report.damaged as u64);
        for finding in &found.report.findings {
            counters.find(finding.clone());
        }
        let logged = directory.is_some() && !read_only;
        let inner = Arc::new(Inner {
            live: RwLock::new(Live::new(
                found.head,
                logged,
                found.first_log,
                found.next_log,
                found.last,
                found.settled,
            )),
            view: RwLock::new(Arc::new(View {
                frozen: found.frozen,
                blocks: found.blocks,
            })),
            log_file: Mutex::default(),
            waiting: AtomicUsize::new(0),
            segment_bytes: AtomicU64::new(0),
            next_block: AtomicU64::new(found.next_block),
            upkeep: Mutex::default(),
            counters,
            directory,
            _lock: held,
            place,
            settings,
        });
        let worker = (inner.settings.worker && !read_only)
            .then(|| Worker::start(&inner, worker::UPKEEP))
            .transpose()?;
        Ok((Self { inner, worker }, found.report))
    }

    /// The series of these labels, for appending; `None`, and counted, when live series take all the memory that they may.
    pub fn register(&self, labels: &Labels) -> Option<SeriesRef> {
        let series = write(&self.inner.live)
            .head
            .series(labels, self.inner.settings.memory / 4);
        if series.is_none() {
            add(&self.inner.counters.series_refused, 1);
        }
        series
    }

    /// Takes a tick: each series once, best in the order in which they were registered.
    pub fn append(&self, tick: Millis, samples: &[(SeriesRef, Value)]) {
        self.inner.append(tick, samples);
    }

    /// When the latest tick was stored; the clock may be behind.
    pub fn last(&self) -> Millis {
        read(&self.inner.live).last
    }

    /// Writes and syncs the log.
    pub fn sync(&self) {
        self.inner.sync();
    }

    /// Writes the blocks that are due, merges, rolls up and removes.
    pub fn maintain(&self) {
        self.inner.maintain();
    }

    /// Makes a block of what is live, without waiting for it to be due.
    pub fn flush(&self) {
        self.inner.freeze(&mut write(&self.inner.live));
        self.inner.maintain();
    }

    /// What it holds and what happened.
    pub fn stats(&self) -> Stats {
        self.inner.stats()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.stop();
        }
        self.inner.sync();
    }
}

impl Inner {
    fn view(&self) -> Arc<View> {
        read(&self.view).clone()
    }

    fn append(&self, tick: Millis, samples: &[(SeriesRef, Value)]) {
        let mut live = write(&self.live);
        if tick.unsigned_abs() > ABSURD {
            add(&self.counters.refused, samples.len() as u64);
            return;
        }
        let (time, late) = live.time(tick);
        add(&self.counters.late_ticks, late.into());
        if late && time - tick > LATE && !live.told {
            live.told = true;
            self.counters.find(format!(
                "the clock is {} s behind the newest sample: samples are stored after that until it has caught up; to begin \
                 anew, stop the agent and move the store's directory away",
                (time - tick) / 1000
            ));
        }
        if live.due(time, self.settings.memory / 4) {
            self.freeze(&mut live);
        }
        let refused = live.append(time, samples);
        add(&self.counters.refused, refused);
        add(&self.counters.appended, samples.len() as u64 - refused);
        if live
            .log
            .as_ref()
            .is_some_and(|log| log.queued() + self.waiting.load(Ordering::Relaxed) > UNWRITTEN)
            && let Some(log) = &mut live.log
        {
            add(&self.counters.unlogged, log.give_up());
        }
    }

    /// Freezes the head. If blocks cannot be written, the oldest of what waits for it goes, so that memory has an end.
    fn freeze(&self, live: &mut Live) {
        let Some(frozen) = live.freeze() else { return };
        let mut view = write(&self.view);
        let mut next = View::clone(&view);
        next.frozen.push(Arc::new(frozen));
        let mut bytes: usize = next.frozen.iter().map(|frozen| frozen.bytes).sum();
        while bytes > self.settings.memory / 4 && next.frozen.len() > 1 {
            let oldest = next.frozen.remove(0);
            bytes -= oldest.bytes;
            add(&self.counters.lost, oldest.samples);
            self.counters.find(format!(
                "no block could be written until memory was full: {} samples are lost",
                oldest.samples
            ));
        }
        *view = Arc::new(next);
    }

    fn stats(&self) -> Stats {
        let (live_series, head_bytes, head_samples) = {
            let live = read(&self.live);
            (
                live.head.series_count(),
                live.head.sample_bytes + live.head.label_bytes,
                live.head.samples(),
            )
        };
        let view = self.view();
        let counters = &self.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let frozen: usize = view.frozen.iter().map(|frozen| frozen.bytes).sum();
        let blocks: usize = view.blocks.iter().map(|block| block.memory()).sum();
        Stats {
            live_series,
            blocks: view.blocks.len(),
            samples: head_samples
                + view.frozen.iter().map(|frozen| frozen.samples).sum::<u64>()
                + view.blocks.iter().map(|block| block.summary.samples).sum::<u64>(),
            disk_bytes: view.blocks.iter().map(|block| block.size).sum::<u64>() + get(&self.segment_bytes),
            memory_bytes: head_bytes + frozen + blocks + self.waiting.load(Ordering::Relaxed),
            appended: get(&counters.appended),
            refused: get(&counters.refused),
            series_refused: get(&counters.series_refused),
            late_ticks: get(&counters.late_ticks),
            unlogged: get(&counters.unlogged),
            lost: get(&counters.lost),
            write_failures: get(&counters.write_failures),
            damaged: get(&counters.damaged),
            findings: lock(&counters.findings).iter().cloned().collect(),
        }
    }
}
