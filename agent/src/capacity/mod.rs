//! Capacity: where everything that can run out is going, from what the store remembers.
//!
//! Computed every few minutes, and when it is asked for. What was read once is kept, a few kilobytes a series.

mod history;
mod metrics;
pub mod report;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod words;

pub use metrics::{METRICS, StatsCollect};
pub use report::{Report, Resource};

use crate::config::{Config, StoreSettings};
use crate::error::{Error, Result};
use crate::memory::Memory;
use agent_store::series::Millis;
use history::History;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// What may have a course of the week is kept for so long: three weeks must be seen of one before it is known, and who began in
/// the middle of one has a fourth.
const WEEKS: Duration = Duration::from_hours(30 * 24);
/// The metrics of it: what the node uses, and its interfaces. They are few, whoever lives on it.
const LASTING: [&str; 2] = ["geophone_node_used", "geophone_netdev_bytes_total"];

/// A report that is younger answers as well as a new one.
const FRESH: Duration = Duration::from_secs(10);
/// So long after the start the first is made: weeks of the past are read for it.
const FIRST: Duration = Duration::from_secs(30);

/// The latest report.
struct Latest {
    report: Arc<Report>,
    made: Instant,
    unix_millis: Millis,
}

/// The capacity of the running agent.
pub struct Live {
    memory: Arc<Memory>,
    settings: StoreSettings,
    history: Mutex<History>,
    latest: RwLock<Option<Latest>>,
    nanos: AtomicU64,
    failures: AtomicU64,
}

impl Live {
    /// Of the agent's own series; `None` if nothing is remembered or it is off.
    pub fn new(config: &Config, memory: Option<&Arc<Memory>>) -> Option<Arc<Self>> {
        let memory = memory.filter(|_| config.capacity.enabled)?;
        let history = History::new(Some(config.host_name()), keep(&config.store));
        Some(Arc::new(Self {
            memory: memory.clone(),
            settings: config.store.clone(),
            history: Mutex::new(history),
            latest: RwLock::default(),
            nanos: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }))
    }

    /// The latest report, made anew if it is older than some seconds. Blocks.
    pub fn report(&self) -> Result<Arc<Report>> {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fresh) =
            self.read(|latest| (latest.made.elapsed() < FRESH).then(|| latest.report.clone()))
        {
            return Ok(fresh);
        }
        let began = Instant::now();
        let at = self.memory.store().last();
        if at <= 0 {
            return Err(Error::new(
                "capacity: nothing is remembered yet, ask again in a second",
            ));
        }
        let made = history
            .read(&self.memory, at, retention(&self.settings))
            .map(|()| Arc::new(report::report(&history, at)));
        let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Relaxed);
        if made.is_err() {
            self.failures.fetch_add(1, Relaxed);
        }
        let report = made?;
        let mut latest = self.latest.write().unwrap_or_else(PoisonError::into_inner);
        *latest = Some(Latest {
            report: report.clone(),
            made: Instant::now(),
            unix_millis: at,
        });
        Ok(report)
    }

    fn read<T>(&self, take: impl FnOnce(&Latest) -> Option<T>) -> Option<T> {
        let latest = self.latest.read().unwrap_or_else(PoisonError::into_inner);
        latest.as_ref().and_then(take)
    }

    /// Makes reports until the agent ends.
    pub async fn run(self: Arc<Self>, interval: Duration, over: impl Future<Output = ()>) {
        tokio::pin!(over);
        let mut wait = FIRST.min(interval);
        loop {
            tokio::select! {
                () = &mut over => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = interval;
            let this = self.clone();
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || this.report()).await {
                tracing::warn!("{error}");
            }
        }
    }
}

/// Of a store on disk, as of its latest sample.
pub fn of_store(directory: &Path, settings: &StoreSettings) -> Result<Report> {
    let memory = Memory::read(directory, settings)?;
    let Some((first, last)) = memory.store().info().span else {
        return Err(Error::new(format_args!(
            "--store {}: no samples",
            directory.display()
        )));
    };
    let mut history = History::new(None, keep(settings).min(last - first));
    history.read(&memory, last, retention(settings))?;
    Ok(report::report(&history, last))
}

fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX / 4)
}

fn retention(settings: &StoreSettings) -> Millis {
    millis(settings.retention.get())
}

/// How far back there is anything.
fn keep(settings: &StoreSettings) -> Millis {
    let rollups = millis(settings.downsampled_retention.get());
    let weeks = lasting(settings).map_or(0, |(_, weeks)| millis(weeks));
    retention(settings).max(rollups).max(weeks)
}

/// The metrics that outlast all others, and how long they are kept; none where ten seconds are not kept in one, for then each
/// second would be.
pub fn lasting(settings: &StoreSettings) -> Option<([&'static str; 2], Duration)> {
    let has_rollups = settings.downsampled_retention.get() > settings.retention.get();
    has_rollups.then_some((LASTING, WEEKS))
}
