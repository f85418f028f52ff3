//! Prometheus' remote write, versions 1 and 2: the series that a scrape would get, pushed.

mod client;
mod encode;
mod message;
mod settings;
#[cfg(test)]
mod tests;

pub use settings::RemoteWriteSettings;

use super::push::queue::Queue;
use super::push::{Lane, Stats, timer};
use crate::aggregate::Snapshot;
use anyhow::Result;
use client::Receiver;
use encode::Encoder;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Value of the label `exporter`.
pub const EXPORTER: &str = settings::NAME;

/// An exporter, ready to run.
pub struct Exporter {
    lane: Lane<Receiver>,
    interval: Duration,
    encoder: Encoder,
}

impl Exporter {
    /// Checks the settings and reads their files; `None` if there is no URL. Must be called in a tokio runtime, after rustls
    /// has its provider.
    pub fn new(settings: &RemoteWriteSettings, instance: &str) -> Result<Option<Self>> {
        settings.validate()?;
        let Some(delivery) = settings.delivery()? else {
            return Ok(None);
        };
        let receiver = Receiver::new(&delivery, settings.protocol);
        Ok(Some(Self {
            lane: Lane::new(delivery, receiver)?,
            interval: settings.interval,
            encoder: Encoder::new(settings, instance),
        }))
    }

    /// Where it counts.
    pub fn stats(&self) -> Arc<Stats> {
        self.lane.stats()
    }

    /// Exports until `shutdown` resolves, then the latest snapshot once more and that all series have ended; over within five
    /// seconds.
    pub async fn run(
        self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        shutdown: impl Future<Output = ()>,
    ) {
        let (mut encoder, mut timer, mut last) = (self.encoder, timer(self.interval), 0);
        self.lane
            .run(async |queue: &Queue| {
                let mut shutdown = std::pin::pin!(shutdown);
                loop {
                    let over = tokio::select! {
                        _ = timer.tick() => false,
                        () = &mut shutdown => true,
                    };
                    let snapshot = snapshots.borrow_and_update().clone();
                    let mut batch = Vec::new();
                    if snapshot.tick > last {
                        last = snapshot.tick;
                        batch = encoder.encode(&snapshot);
                    }
                    if over {
                        batch.extend(encoder.end());
                    }
                    if !batch.is_empty() {
                        queue.push(batch);
                    }
                    if over {
                        return;
                    }
                }
            })
            .await;
    }
}
