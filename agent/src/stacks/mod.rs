//! Stacks: how the kernel is enabled to take them, what their addresses are called, and how they are kept.
//!
//! The collector's thread hands samples on and never waits: `stacks` (worker.rs) looks at processes, loads tables and
//! gives each address its file; `names` (below) gives functions their names. Both are of low priority.

pub mod arena;
pub mod image;
pub mod loader;
pub mod maps;
pub mod names;
pub mod pprof;
mod ranges;
pub mod render;
pub mod store;
pub mod symtab;
pub mod table;
pub mod worker;

use crate::error::{Context as _, Result};
use agent_common::profile::sample;
use names::Names;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use store::{Place, Query, Store};

/// So long a question waits for names; what has none by then is shown by its address.
const PATIENCE: Duration = Duration::from_secs(30);
/// Functions and stacks of a summary.
const SHOWN: usize = 40;

/// How a profile is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// profile.proto, gzipped: `go tool pprof`, speedscope, Parca, Pyroscope.
    #[default]
    Pprof,
    /// A line for each stack.
    Folded,
    /// A flamegraph.
    Svg,
    /// The busiest functions and stacks.
    Json,
}

impl Format {
    /// As HTTP calls it.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Pprof => "application/octet-stream",
            Self::Folded => "text/plain; charset=utf-8",
            Self::Svg => "image/svg+xml",
            Self::Json => "application/json",
        }
    }

    /// By the ending of a file's name.
    pub fn of(path: &std::path::Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let endings = [
            (".pb.gz", Self::Pprof),
            (".pprof", Self::Pprof),
            (".folded", Self::Folded),
            (".svg", Self::Svg),
            (".json", Self::Json),
        ];
        endings
            .into_iter()
            .find(|(ending, _)| name.ends_with(ending))
            .map(|(_, format)| format)
    }
}

/// Counted by the threads, exported by the probe.
#[derive(Debug, Default)]
pub struct Counts {
    /// Samples that were given to the thread that loads tables.
    pub given: AtomicU64,
    /// Those that it is done with.
    pub taken: AtomicU64,
    /// Processes that were looked at.
    pub looked: AtomicU64,
    /// Times that the reader of symbols had to be given up.
    pub failures: AtomicU64,
}

/// Kinds of sample ([`agent_common::profile::sample`]).
pub type Kinds = [bool; sample::COUNT];

/// The samples of the last hour, and the way to their names.
pub struct Stacks {
    /// Those that are taken.
    pub kinds: Kinds,
    store: Mutex<Store>,
    loader: Mutex<loader::Stats>,
    /// What the threads count.
    pub counts: Counts,
    asks: mpsc::Sender<Ask>,
}

/// Places that somebody wants the names of, and where to say that they are there.
type Ask = (Vec<Place>, mpsc::Sender<()>);

impl Stacks {
    /// With so many bytes for samples of some kinds; starts the thread that gives names.
    pub fn start(budget: usize, kinds: Kinds) -> Result<Arc<Self>> {
        let (asks, asked) = mpsc::channel();
        let stacks = Arc::new(Self {
            kinds,
            store: Mutex::new(Store::new(budget)),
            loader: Mutex::default(),
            counts: Counts::default(),
            asks,
        });
        let weak = Arc::downgrade(&stacks);
        std::thread::Builder::new()
            .name("names".into())
            .spawn(move || name(&weak, &asked))
            .context("starting the thread that gives names")?;
        Ok(stacks)
    }

    /// The samples.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        // A panic of another thread leaves counts that are a sample behind, and nothing worse.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the loader holds.
    pub fn loader(&self) -> loader::Stats {
        *self.loader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, stats: loader::Stats) {
        *self.loader.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    /// Samples that wait for the tables of their processes.
    pub fn waiting(&self) -> u64 {
        let taken = self.counts.taken.load(Ordering::Relaxed);
        self.counts.given.load(Ordering::Relaxed).saturating_sub(taken)
    }

    /// Answers a question. Waits for names: not for the collector's thread, nor for one that serves others.
    pub fn answer(&self, query: &Query, format: Format) -> Result<Vec<u8>> {
        let nameless = {
            let store = self.store();
            let rows = store.query(query);
            let frames: HashSet<u32> = rows.iter().flat_map(|row| row.frames.iter().copied()).collect();
            store.nameless(frames)
        };
        let (done, named) = mpsc::channel();
        if !nameless.is_empty() && self.asks.send((nameless, done)).is_ok() {
            let _ = named.recv_timeout(PATIENCE);
        }
        let store = self.store();
        let rows = store.query(query);
        Ok(match format {
            Format::Pprof => pprof::encode(&store, &rows, query)?,
            Format::Folded => render::folded(&store, &rows).into_bytes(),
            Format::Svg => render::svg(&render::folded(&store, &rows), query.sample)?.into_bytes(),
            Format::Json => {
                serde_json::to_vec(&render::summary(&store, &rows, query.sample, SHOWN)).context("JSON")?
            }
        })
    }
}

/// Gives names at the end of each slice, and whenever somebody asks.
fn name(stacks: &Weak<Stacks>, asked: &mpsc::Receiver<Ask>) {
    crate::bpf::host::low_priority(10);
    let mut names = Names::new();
    loop {
        let asker = match asked.recv_timeout(Duration::from_nanos(store::SLICE)) {
            Ok(ask) => Some(ask),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let Some(stacks) = stacks.upgrade() else { return };
        let places = match &asker {
            Some((places, _)) => places.clone(),
            None => stacks.store().nameless_all(),
        };
        let found = names.of(&places, |id| stacks.store().binary(id).cloned());
        let mut store = stacks.store();
        for (place, name) in found {
            store.name(place, &name);
        }
        drop(store);
        names.rest();
        stacks.counts.failures.store(names.failures, Ordering::Relaxed);
        if let Some((_, asker)) = asker {
            // Who asked may have gone.
            let _ = asker.send(());
        }
    }
}
