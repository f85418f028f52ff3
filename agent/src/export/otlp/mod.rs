//! OTLP metrics, pushed over gRPC or HTTP.
//!
//! A timer encodes the latest snapshot and puts it into a bounded queue; a sender takes it from there. Whatever the
//! collector does holds up the sender only.

pub mod client;
pub mod encode;
pub mod previous;
pub mod queue;
pub mod reply;
pub mod sender;
pub mod settings;
pub mod stats;
pub mod tls;

#[cfg(test)]
mod peer_tests;

pub use settings::OtlpSettings;
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
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// For what is left at shutdown.
const FLUSH: Duration = Duration::from_secs(5);

/// An exporter, ready to run.
pub struct Exporter {
    settings: OtlpSettings,
    url: Url,
    client: Client,
    stats: Arc<Stats>,
}

impl Exporter {
    /// Checks the settings and reads their files, so that what is wrong with them is known at once. `None` if there is
    /// no endpoint. Must be called in a tokio runtime, after rustls has its provider.
    pub fn new(settings: &OtlpSettings) -> Result<Option<Self>> {
        settings.validate()?;
        let Some(url) = settings.url()? else {
            return Ok(None);
        };
        let client = Client::new(settings, &url)?;
        Ok(Some(Self {
            settings: settings.clone(),
            url,
            client,
            stats: Arc::default(),
        }))
    }

    /// Where it counts.
    pub fn stats(&self) -> Arc<Stats> {
        self.stats.clone()
    }

    /// Exports until `shutdown` resolves, then the latest snapshot once more, and ends within five seconds.
    pub async fn run(
        self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        shutdown: impl Future<Output = ()>,
    ) {
        let Self {
            settings,
            url,
            client,
            stats,
        } = self;
        let queue = Queue::new(settings.queue_size, stats.clone());
        let (hurry, hurried) = watch::channel(false);
        let mut sender = Sender {
            settings: &settings,
            url: &url,
            stats: &stats,
            client: Some(client),
            hurry: hurried,
            failing: false,
        };
        let mut last = None;
        let spare = Spare::default();
        // A random start: agents that were started together do not send together.
        let first = Instant::now() + settings.interval.mul_f64(rand::random_range(0.1..=1.0));
        let mut timer = interval_at(first, settings.interval);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        {
            let sending = sender.run(&queue);
            let ticking = async {
                let mut shutdown = std::pin::pin!(shutdown);
                loop {
                    tokio::select! {
                        _ = timer.tick() => {}
                        () = &mut shutdown => break,
                    }
                    export(&queue, settings.temporality, &mut snapshots, &mut last, &spare);
                }
                export(&queue, settings.temporality, &mut snapshots, &mut last, &spare);
                queue.close();
                hurry.send_replace(true);
                tokio::time::sleep(FLUSH).await;
            };
            // The sender ends first, when all is sent; or the five seconds are over.
            tokio::select! {
                () = sending => {}
                () = ticking => {}
            }
        }
        queue.abandon();
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
