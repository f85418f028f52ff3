//! OTLP metrics, profiles, logs and traces, pushed over gRPC or HTTP.
//!
//! A timer encodes the latest snapshot, or the latest ten seconds of stacks, and logs and spans are sent as they come; the rest is `push`'s.

pub mod client;
pub mod encode;
pub mod logs;
mod message;
pub mod previous;
pub mod profiles;
pub mod reply;
pub mod settings;
pub mod signal;
pub mod traces;

#[cfg(test)]
mod peer_tests;

pub use settings::OtlpSettings;
pub use signal::Signal;

use super::push::queue::Queue;
use super::push::{Lane, Stats, timer};
use crate::aggregate::Snapshot;
use crate::export::spare::Spare;
use anyhow::Result;
use client::Collector;
use settings::Temporality;
use std::sync::Arc;
use tokio::sync::watch;

/// Checks the settings and reads their files, so that what is wrong with them is known at once. `None` if there is no
/// endpoint. Must be called in a tokio runtime, after rustls has its provider.
fn lane(settings: &OtlpSettings, signal: Signal) -> Result<Option<Lane<Collector>>> {
    settings.validate()?;
    let Some(url) = settings.url(signal)? else {
        return Ok(None);
    };
    let delivery = settings.delivery(url);
    let collector = Collector::new(settings, &delivery, signal);
    Lane::new(delivery, collector).map(Some)
}

/// An exporter of metrics, ready to run.
pub struct Exporter {
    lane: Lane<Collector>,
    settings: OtlpSettings,
}

impl Exporter {
    /// `None` if there is no endpoint. Must be called in a tokio runtime, after rustls has its provider.
    pub fn new(settings: &OtlpSettings) -> Result<Option<Self>> {
        Ok(lane(settings, Signal::Metrics)?.map(|lane| Self {
            lane,
            settings: settings.clone(),
        }))
    }

    /// Where it counts.
    pub fn stats(&self) -> Arc<Stats> {
        self.lane.stats()
    }

    /// Exports until `shutdown` resolves, then the latest snapshot once more, and ends within five seconds.
    pub async fn run(
        self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        shutdown: impl Future<Output = ()>,
    ) {
        let mut last = None;
        let spare = Spare::default();
        let mut timer = timer(self.settings.interval);
        let temporality = self.settings.temporality;
        self.lane
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
