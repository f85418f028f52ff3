//! OTLP profiles: each ten seconds of stacks once.

mod dictionary;
mod encode;
#[cfg(test)]
mod tests;

use super::client::Collector;
use super::{OtlpSettings, Signal, lane};
use crate::aggregate::Snapshot;
use crate::export::push::queue::{Batch, Queue};
use crate::export::push::{Lane, Stats, timer};
use crate::stacks::build_id;
use crate::stacks::store::{Query, SLICE};
use crate::stacks::{PATIENCE, Stacks};
use anyhow::Result;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Ten seconds are sent when they have been over for so long: samples wait for the tables of their process.
const GRACE: Duration = Duration::from_secs(2);
/// So long names are waited for when the agent ends.
const HURRY: Duration = Duration::from_secs(1);

/// An exporter of profiles, ready to run.
pub struct Exporter(Lane<Collector>);

impl Exporter {
    /// `None` if there is no endpoint, or profiles are not to be sent. Must be called in a tokio runtime, after rustls has
    /// its provider.
    pub fn new(settings: &OtlpSettings) -> Result<Option<Self>> {
        if !settings.profiles {
            return Ok(None);
        }
        Ok(lane(settings, Signal::Profiles)?.map(Self))
    }

    /// Where it counts.
    pub fn stats(&self) -> Arc<Stats> {
        self.0.stats()
    }

    /// Exports until `shutdown` resolves, then what is left, and ends within five seconds.
    pub async fn run(
        self,
        stacks: Arc<Stacks>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        shutdown: impl Future<Output = ()>,
    ) {
        let mut timer = timer(Duration::from_nanos(SLICE));
        let taken = Taken {
            stacks,
            snapshots,
            kernel: build_id::kernel(),
        };
        self.0
            .run(async |queue: &Queue| {
                let mut shutdown = std::pin::pin!(shutdown);
                let mut taken = Some(taken);
                loop {
                    let last = tokio::select! {
                        _ = timer.tick() => false,
                        () = &mut shutdown => true,
                    };
                    let Some(mut these) = taken.take() else { return };
                    // Names are waited for, and a thousand stacks take milliseconds.
                    let making = tokio::task::spawn_blocking(move || {
                        let batches = these.batches(last);
                        (these, batches)
                    });
                    let Ok((these, batches)) = making.await else {
                        return;
                    };
                    batches.into_iter().for_each(|batch| queue.push(batch));
                    if last {
                        return;
                    }
                    taken = Some(these);
                }
            })
            .await;
    }
}

/// The stacks, and what more has to be known.
struct Taken {
    stacks: Arc<Stacks>,
    /// The last one says where the machine is by now.
    snapshots: watch::Receiver<Arc<Snapshot>>,
    kernel: String,
}

impl Taken {
    /// Those that are over and have not been sent; `last` = all that are left.
    fn batches(&mut self, last: bool) -> Vec<Batch> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let until = if last {
            i64::MAX as u64
        } else {
            now.saturating_sub(GRACE).as_nanos() as u64
        };
        let windows = self.stacks.store().seal(until);
        let kinds = self.stacks.taken();
        let mut batches = Vec::with_capacity(windows.len());
        let machine = self.snapshots.borrow().resource.clone();
        for window in windows {
            let query = |kind: &u8| Query {
                from: window.from,
                to: window.to,
                sample: *kind,
                ..Query::default()
            };
            let patience = if last { HURRY } else { PATIENCE };
            self.stacks
                .name(&kinds.iter().map(query).collect::<Vec<_>>(), patience);
            let store = self.stacks.store();
            let batch = encode::encode(&store, &kinds, window, &machine, &self.kernel);
            if !batch.is_empty() {
                batches.push(batch);
            }
        }
        batches
    }
}
