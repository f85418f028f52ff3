//! What the agent remembers: every series of every snapshot, in a store that is asked in PromQL.
//!
//! Series carry the labels that they would have from a scrape, `job` and `instance` among them, so that a query means the
//! same here and on a Prometheus that scrapes a fleet.

mod metrics;
mod record;
#[cfg(test)]
mod tests;

pub use metrics::{METRICS, StatsCollect};

use crate::aggregate::Snapshot;
use crate::capacity;
use crate::config::{HumanDuration, StoreKind, StoreSettings};
use crate::error::{Context as _, Error, Result};
use agent_store::labels::Labels;
use agent_store::series::{Bounds, Millis, Refusal, Series};
use agent_store::store::{Place, Settings, Stats, Store, Value};
pub use record::Recorder;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// `job` of the agent's own series: that of the scrape configurations we ship.
pub const JOB: &str = "geophone";

/// The wall clock as the store counts it.
pub fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

/// An open store.
pub struct Memory {
    store: Store,
    settings: StoreSettings,
    /// Where it is written to; `None` = it is not on disk, or is only read.
    directory: Option<PathBuf>,
    /// Snapshots that came while an earlier one was still being stored.
    missed: AtomicU64,
    /// Samples of rules, for the next tick.
    kept: Mutex<BTreeMap<Labels, Value>>,
}

impl Memory {
    /// Opens the store that the agent writes to. `None` = nothing is remembered.
    pub fn open(settings: &StoreSettings) -> Result<Option<Self>> {
        Self::open_for(settings, Duration::ZERO)
    }

    /// The same, with what objectives add up kept for so long, and not shorter than what trends are made of.
    pub fn open_for(settings: &StoreSettings, objectives: Duration) -> Result<Option<Self>> {
        let at = |place| Self::keeping(place, settings, objectives);
        let on_disk = || at(Place::Directory(settings.directory.clone()));
        match settings.kind {
            StoreKind::Auto => on_disk()
                .or_else(|error| {
                    tracing::warn!(
                        "{error}; kept in memory until the agent ends. store.kind says where, or none"
                    );
                    at(Place::Memory)
                })
                .map(Some),
            StoreKind::None => Ok(None),
            StoreKind::Memory => at(Place::Memory).map(Some),
            StoreKind::Disk => on_disk().map(Some),
        }
    }

    /// Opens a store to read it; an agent may be writing to it.
    pub fn read(directory: &Path, settings: &StoreSettings) -> Result<Self> {
        if !directory.is_dir() {
            return Err(Error::new(format_args!(
                "--store {}: no such directory",
                directory.display()
            )));
        }
        Self::at(Place::ReadOnly(directory.to_owned()), settings)
    }

    /// Opens a store to write to it, keeping what `objectives` need for so long; no agent may be using it.
    pub fn write(directory: &Path, settings: &StoreSettings, objectives: Duration) -> Result<Self> {
        Self::keeping(Place::Directory(directory.to_owned()), settings, objectives)
    }

    /// Opens a store to fill it from a recording, however old that is.
    pub fn replayed(place: Place, settings: &StoreSettings) -> Result<Self> {
        let ages = HumanDuration::from_secs(100 * 366 * 86_400);
        let settings = StoreSettings {
            // How fast the machine is must not decide what is said.
            query_timeout: HumanDuration::from_secs(3600),
            retention: ages,
            downsampled_retention: ages,
            ..settings.clone()
        };
        Self::at(place, &settings)
    }

    fn at(place: Place, settings: &StoreSettings) -> Result<Self> {
        Self::keeping(place, settings, Duration::ZERO)
    }

    fn keeping(place: Place, settings: &StoreSettings, objectives: Duration) -> Result<Self> {
        let mut lasting = agent_slo::rules::events().to_vec();
        let mut keep_lasting = objectives;
        if let Some((names, weeks)) = capacity::lasting(settings) {
            lasting.extend(names.map(str::to_owned));
            keep_lasting = keep_lasting.max(weeks);
        }
        let wanted = Settings {
            lasting,
            keep_lasting,
            sync_interval: settings.sync_interval.get(),
            keep: settings.retention.get(),
            keep_rollups: settings.downsampled_retention.get(),
            max_bytes: settings.size.get(),
            memory: usize::try_from(settings.memory.get()).unwrap_or(usize::MAX),
            ..Settings::default()
        };
        let directory = match &place {
            Place::Directory(directory) => Some(directory.clone()),
            _ => None,
        };
        let (store, report) = Store::open(place, wanted).context("store")?;
        for finding in &report.findings {
            tracing::warn!("store: {finding}");
        }
        Ok(Self {
            store,
            settings: settings.clone(),
            directory,
            missed: AtomicU64::new(0),
            kept: Mutex::default(),
        })
    }

    /// The store itself.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The directory that it is written to, which no other agent has; `None` if it is in memory.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// What it holds and what happened.
    pub fn stats(&self) -> Stats {
        self.store.stats()
    }

    /// Snapshots that were not stored, because an earlier one took too long.
    pub fn missed(&self) -> u64 {
        self.missed.load(Relaxed)
    }

    /// Keeps what rules came to until the next snapshot is stored, together with it: a store's ticks come one after the other.
    pub fn keep(&self, results: Vec<Series>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for Series { labels, samples } in results {
            let float = samples.floats.values.last().map(|value| Value::Float(*value));
            let histogram = samples.histograms.values.last();
            let value = float.or_else(|| histogram.map(|value| Value::Histogram(value.clone())));
            kept.extend(value.map(|value| (labels, value)));
        }
    }

    /// Longest time of a query.
    pub fn timeout(&self) -> Duration {
        self.settings.query_timeout.get()
    }

    /// The bounds of a query that begins now.
    pub fn limits(&self, timeout: Duration) -> Limits {
        Limits {
            deadline: Instant::now() + timeout,
            most_samples: u64::from(self.settings.query_samples),
            most_series: u64::from(self.settings.query_series),
            samples: AtomicU64::new(0),
            series: AtomicU64::new(0),
        }
    }

    /// Stores a snapshot and what rules came to since the last; answers when it was made.
    pub fn step(&self, recorder: &mut Recorder, snapshot: &Snapshot) -> Millis {
        let kept = std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        recorder.add(kept, &self.store);
        recorder.record(snapshot, &self.store)
    }

    /// Stores each snapshot, and says to `stored` at which time, until the sender is gone; at the end, says of every series of the snapshots that it has ended. Blocks: for a thread
    /// that may, so that a slow store delays neither a tick nor an answer.
    pub fn record(
        &self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        instance: &str,
        stored: &watch::Sender<Millis>,
        runtime: &tokio::runtime::Handle,
    ) {
        let mut recorder = Recorder::new(instance);
        let mut last = 0;
        while runtime.block_on(snapshots.changed()).is_ok() {
            let snapshot = snapshots.borrow_and_update().clone();
            if snapshot.tick <= last {
                continue;
            }
            if last > 0 {
                self.missed.fetch_add(snapshot.tick - last - 1, Relaxed);
            }
            last = snapshot.tick;
            stored.send_replace(self.step(&mut recorder, &snapshot));
        }
        recorder.end(&self.store);
        self.store.sync();
    }
}

/// What one query may take.
pub struct Limits {
    deadline: Instant,
    most_samples: u64,
    most_series: u64,
    samples: AtomicU64,
    series: AtomicU64,
}

impl Bounds for Limits {
    fn take(&self, series: usize, samples: usize) -> std::result::Result<(), Refusal> {
        if Instant::now() >= self.deadline {
            return Err(Refusal::TimedOut);
        }
        let grown = |counter: &AtomicU64, more: usize| {
            let more = more as u64;
            counter.fetch_add(more, Relaxed).saturating_add(more)
        };
        if grown(&self.series, series) > self.most_series {
            return Err(Refusal::TooMany(format!(
                "more than store.query_series {}",
                self.most_series
            )));
        }
        if grown(&self.samples, samples) > self.most_samples {
            return Err(Refusal::TooMany(format!(
                "more than store.query_samples {}",
                self.most_samples
            )));
        }
        Ok(())
    }
}
