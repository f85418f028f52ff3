//! Stacks: how the kernel is enabled to take them, what their addresses are called, and how they are kept.
//!
//! The collector's thread hands samples on and never waits: `stacks` (worker.rs) looks at processes, loads tables and
//! gives each address its file; `names` (below) gives functions their names. Both are of low priority.

pub mod arena;
mod aside;
pub mod build_id;
mod cfi;
mod debug_files;
pub mod debuginfod;
mod dictionary;
pub mod diff;
pub mod elf;
pub mod frames;
pub mod image;
pub mod interpreters;
mod jit;
pub mod known;
pub mod loader;
pub mod maps;
pub mod names;
mod parts;
pub mod perf_map;
pub mod pprof;
pub mod python;
pub mod query;
mod ranges;
mod reasons;
pub mod render;
mod resolve;
pub mod stats;
pub mod store;
pub mod symbolizer;
pub mod symtab;
pub mod table;
pub mod tap;
mod wakers;
pub mod worker;

use crate::error::{Context as _, Result};
use agent_common::profile::sample;
use names::Names;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use store::{Place, Query, Row, Store, Window};

/// So long a question waits for names; what has none by then is shown by its address.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// So long a question waits for samples that are on their way to the store.
const CATCH_UP: Duration = Duration::from_secs(10);
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
    /// Waits whose waker was seen by the kernel side and is not known here.
    pub wakers: AtomicU64,
    /// Frames of Python without a name, by [`python::Lost::ALL`].
    pub python: [AtomicU64; python::Lost::ALL.len()],
}

/// Kinds of sample ([`agent_common::profile::sample`]).
pub type Kinds = [bool; sample::COUNT];

/// The samples of the last hour, and the way to their names.
pub struct Stacks {
    /// Those that are taken.
    pub kinds: Kinds,
    symbolize: bool,
    store: Mutex<Store>,
    loader: Mutex<loader::Stats>,
    failures: Mutex<names::Failures>,
    /// What the threads count.
    pub counts: Counts,
    asks: mpsc::Sender<Ask>,
    /// Names that are on their way for somebody who does not wait.
    hurried: Mutex<Option<mpsc::Receiver<()>>>,
}

/// Places that somebody wants the names of.
struct Ask {
    places: Vec<Place>,
    /// Whether to wait for names that are on their way.
    may_wait: bool,
    /// Where to say that they are there.
    done: mpsc::Sender<()>,
}

/// Names that are on their way are looked for so often.
const MOMENT: Duration = Duration::from_millis(250);

impl Stacks {
    /// With so many bytes for samples of some kinds; starts the thread that gives names.
    pub fn start(budget: usize, kinds: Kinds, options: names::Options) -> Result<Arc<Self>> {
        let (asks, asked) = mpsc::channel();
        let mut store = Store::new(budget);
        store.clear(now());
        let stacks = Arc::new(Self {
            kinds,
            symbolize: options.symbolize,
            store: Mutex::new(store),
            loader: Mutex::default(),
            failures: Mutex::default(),
            counts: Counts::default(),
            asks,
            hurried: Mutex::default(),
        });
        let weak = Arc::downgrade(&stacks);
        std::thread::Builder::new()
            .name("names".into())
            .spawn(move || name(&weak, &asked, options))
            .context("starting the thread that gives names")?;
        Ok(stacks)
    }

    /// Of a recording that began then, ns since the epoch: it is given samples and names, and asks nobody for any.
    pub fn recorded(budget: usize, kinds: Kinds, began: u64) -> Arc<Self> {
        let mut store = Store::new(budget);
        store.clear(began);
        Arc::new(Self {
            kinds,
            symbolize: false,
            store: Mutex::new(store),
            loader: Mutex::default(),
            failures: Mutex::default(),
            counts: Counts::default(),
            asks: mpsc::channel().0,
            hurried: Mutex::default(),
        })
    }

    /// Has what is in the store named, as far as that takes no longer.
    pub fn name_all(&self, patience: Duration) {
        let nameless = self.to_name(self.store().nameless_all());
        if let Some(named) = self.ask(nameless, false) {
            let _ = named.recv_timeout(patience);
        }
    }

    /// Whether a kind of sample is taken.
    pub fn takes(&self, sample: u8) -> bool {
        self.kinds.get(usize::from(sample)) == Some(&true)
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

    /// What could not be named.
    pub fn failures(&self) -> names::Failures {
        *self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, stats: loader::Stats) {
        *self.loader.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    /// Samples that wait for the tables of their processes.
    pub fn waiting(&self) -> u64 {
        let taken = self.counts.taken.load(Ordering::Relaxed);
        self.counts.given.load(Ordering::Relaxed).saturating_sub(taken)
    }

    /// Kinds of sample that are taken, by their numbers.
    pub fn taken(&self) -> Vec<u8> {
        let numbered = self.kinds.iter().zip(0..);
        numbered
            .filter(|(taken, _)| **taken)
            .map(|(_, kind)| kind)
            .collect()
    }

    /// Waits until what some questions are about has names: not for the collector's thread, nor for one that serves others.
    pub fn name(&self, queries: &[Query], patience: Duration) {
        let nameless = {
            let store = self.store();
            let rows = queries.iter().flat_map(|query| store.query(query));
            let frames: HashSet<u32> = rows.flat_map(|row| row.all().collect::<Vec<_>>()).collect();
            self.to_name(store.nameless(frames))
        };
        let named = self.ask(nameless, true);
        if let Some(named) = named {
            let _ = named.recv_timeout(patience);
        }
    }

    /// Has names made; what is returned says when they are there.
    fn ask(&self, places: Vec<Place>, may_wait: bool) -> Option<mpsc::Receiver<()>> {
        let (done, named) = mpsc::channel();
        let ask = Ask {
            places,
            may_wait,
            done,
        };
        (!ask.places.is_empty() && self.asks.send(ask).is_ok()).then_some(named)
    }

    /// Waits until the samples that were given so far are in the store, but not for long: those of a process that is looked
    /// at for the first time wait for its tables.
    pub fn catch_up(&self, patience: Duration) {
        let (start, given) = (Instant::now(), self.counts.given.load(Ordering::Relaxed));
        while self.counts.taken.load(Ordering::Relaxed) < given && start.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Has names made for what a question is about, and does not wait for them.
    pub fn hurry_names(&self, query: &Query) {
        let mut hurried = self.hurried.lock().unwrap_or_else(PoisonError::into_inner);
        // One at a time: a live view asks each second, and names may take longer.
        if hurried
            .as_ref()
            .is_some_and(|h| h.try_recv() == Err(mpsc::TryRecvError::Empty))
        {
            return;
        }
        let nameless = {
            let store = self.store();
            let frames: HashSet<u32> = store.query(query).iter().flat_map(Row::all).collect();
            self.to_name(store.nameless(frames))
        };
        *hurried = self.ask(nameless, false);
    }

    /// Has what ran in a window named (of so many entries, the youngest), as far as that takes no longer.
    pub fn name_used(&self, window: Window, most: usize, patience: Duration) {
        let nameless = {
            let store = self.store();
            self.to_name(store.nameless(store.used_frames(window, most)))
        };
        if let Some(named) = self.ask(nameless, false) {
            let _ = named.recv_timeout(patience);
        }
    }

    /// Without symbolization files are left to whoever reads the answers; the kernel's own names need no other process.
    fn to_name(&self, mut places: Vec<Place>) -> Vec<Place> {
        if !self.symbolize {
            places.retain(|place| !matches!(place, Place::Binary(..)));
        }
        places
    }

    /// Gives places the names that there are; returns which.
    fn give(&self, names: &mut Names, places: &[Place]) -> HashSet<Place> {
        let found = names.of(places, |id| self.store().binary(id).cloned());
        let mut store = self.store();
        for (place, name) in &found {
            store.name(*place, name);
        }
        found.into_iter().map(|(place, _)| place).collect()
    }

    /// Answers a question. Waits for names, as [`Self::name`] does.
    pub fn answer(&self, query: &Query, format: Format) -> Result<Vec<u8>> {
        let asked = now();
        self.catch_up(CATCH_UP);
        self.name(std::slice::from_ref(query), PATIENCE);
        self.answer_at(asked, query, format)
    }

    /// Answers as of then, ns since the Unix epoch, with what there is.
    pub fn answer_at(&self, asked: u64, query: &Query, format: Format) -> Result<Vec<u8>> {
        let store = self.store();
        let rows = store.query(query);
        let window = store.window(query, asked);
        Ok(match format {
            Format::Pprof => pprof::encode(&store, &rows, query.sample, window)?,
            Format::Folded => render::folded(&store, &rows).into_bytes(),
            Format::Svg => render::svg(&render::folded(&store, &rows), query.sample, window)?.into_bytes(),
            Format::Json => serde_json::to_vec(&render::summary(&store, &rows, query.sample, window, SHOWN))
                .context("JSON")?,
        })
    }
}

/// ns since the Unix epoch.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Gives names at the end of each slice, and whenever somebody asks.
fn name(stacks: &Weak<Stacks>, asked: &mpsc::Receiver<Ask>, options: names::Options) {
    crate::bpf::host::low_priority(10);
    let mut names = Names::new(options);
    let slice = Duration::from_nanos(store::SLICE);
    let mut next = Instant::now() + slice;
    let mut waiting: Vec<(Instant, Ask)> = Vec::new();
    loop {
        let pause = next.saturating_duration_since(Instant::now());
        let pause = if waiting.is_empty() {
            pause
        } else {
            pause.min(MOMENT)
        };
        match asked.recv_timeout(pause) {
            Ok(ask) => waiting.push((Instant::now(), ask)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let Some(stacks) = stacks.upgrade() else { return };
        for (since, mut ask) in std::mem::take(&mut waiting) {
            let named = stacks.give(&mut names, &ask.places);
            ask.places.retain(|place| !named.contains(place));
            if ask.may_wait && since.elapsed() < PATIENCE && names.may_come(&ask.places) {
                waiting.push((since, ask));
            } else {
                // Who asked may have gone.
                let _ = ask.done.send(());
            }
        }
        if Instant::now() >= next {
            let places = stacks.to_name(stacks.store().nameless_all());
            stacks.give(&mut names, &places);
            names.rest();
            next = Instant::now() + slice;
        }
        *stacks.failures.lock().unwrap_or_else(PoisonError::into_inner) = names.failures();
    }
}
