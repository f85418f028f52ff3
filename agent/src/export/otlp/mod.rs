//! OTLP metrics and profiles, pushed over gRPC or HTTP.
//!
//! A timer encodes the latest snapshot, or the latest ten seconds of stacks, and puts it into a bounded queue; a sender takes
//! it from there. Whatever the collector does holds up the sender only.

pub mod client;
pub mod encode;
pub mod previous;
pub mod profiles;
pub mod queue;
pub mod reply;
pub mod sender;
pub mod settings;
pub mod signal;
pub mod stats;
pub mod tls;

#[cfg(test)]
mod peer_tests;

pub use settings::OtlpSettings;
pub use signal::Signal;
pub use stats::{METRICS, Stats, StatsCollect};

use crate::aggregate::Snapshot;
use crate::export::spare::Spare;
use anyhow::Result;
use client::Client;
use queue::Queue;
use reqwest::Url;
use sender::Sender;
use settings::Temporality;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// For what is left at shutdown.
const FLUSH: Duration = Duration::from_secs(5);

/// The way of a signal to the collector.
struct Lane {
    settings: OtlpSettings,
    signal: Signal,
    url: Url,
    client: Client,
    stats: Arc<Stats>,
}

impl Lane {
    /// Checks the settings and reads their files, so that what is wrong with them is known at once. `None` if there is
    /// no endpoint. Must be called in a tokio runtime, after rustls has its provider.
    fn new(settings: &OtlpSettings, signal: Signal) -> Result<Option<Self>> {
        settings.validate()?;
        let Some(url) = settings.url(signal)? else {
            return Ok(None);
        };
        let client = Client::new(settings, &url, signal)?;
        Ok(Some(Self {
            settings: settings.clone(),
            signal,
            url,
            client,
            stats: Arc::default(),
        }))
    }

    /// Sends what `feed` puts into the queue; ends within five seconds after it.
    async fn run(self, feed: impl AsyncFnOnce(&Queue)) {
        let queue = Queue::new(self.settings.queue_size, self.stats.clone());
        let (hurry, hurried) = watch::channel(false);
        let mut sender = Sender {
            settings: &self.settings,
            url: &self.url,
            signal: self.signal,
            stats: &self.stats,
            client: Some(self.client),
            hurry: hurried,
            failing: false,
        };
        {
            let sending = sender.run(&queue);
            let feeding = async {
                feed(&queue).await;
                queue.close();
                hurry.send_replace(true);
                tokio::time::sleep(FLUSH).await;
            };
            // The sender ends first, when all is sent; or the five seconds are over.
            tokio::select! {
                () = sending => {}
                () = feeding => {}
            }
        }
        queue.abandon();
    }
}

/// A timer with a random start: agents that were started together do not send together.
fn timer(period: Duration) -> Interval {
    let first = Instant::now() + period.mul_f64(rand::random_range(0.1..=1.0));
    let mut timer = interval_at(first, period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

/// An exporter of metrics, ready to run.
pub struct Exporter(Lane);

impl Exporter {
    /// `None` if there is no endpoint. Must be called in a tokio runtime, after rustls has its provider.
    pub fn new(settings: &OtlpSettings) -> Result<Option<Self>> {
        Ok(Lane::new(settings, Signal::Metrics)?.map(Self))
    }

    /// Where it counts.
    pub fn stats(&self) -> Arc<Stats> {
        self.0.stats.clone()
    }

    /// Exports until `shutdown` resolves, then the latest snapshot once more, and ends within five seconds.
    pub async fn run(
        self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        shutdown: impl Future<Output = ()>,
    ) {
        let mut last = None;
        let spare = Spare::default();
        let mut timer = timer(self.0.settings.interval);
        let temporality = self.0.settings.temporality;
        self.0
            .run(async |queue: &Queue| {
                let mut shutdown = std::pin::pin!(shutdown);
                loop {
                    tokio::select! {
                        _ = timer.tick() => {}
                        () = &mut shutdown => break,
                    }
                    export(queue, temporality, &mut snapshots, &mut last, &spare);
                }
                export(queue, temporality, &mut snapshots, &mut last, &spare);
            })
            .await;
    }
}

/// Encodes the latest snapshot, unless it has been exported.
fn export(
    queue: &Queue,
    temporality: Temporality,
    snapshots: &mut watch::Receiver<Arc<Snapshot>>,
    last: &mut Option<Arc<Snapshot>>,
    spare: &Spare,
) {
    let snapshot = snapshots.borrow_and_update().clone();
    if snapshot.tick == 0 || last.as_ref().is_some_and(|l| l.tick == snapshot.tick) {
        return;
    }
    let batch = encode::encode(&snapshot, temporality, last.as_deref(), spare);
    if !batch.is_empty() {
        queue.push(batch);
    }
    *last = Some(snapshot);
}
