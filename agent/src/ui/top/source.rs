//! Where views and records come from: this process.

use crate::aggregate::Snapshot;
use crate::records::Record;
use crate::stacks::Stacks;
use crate::ui::view::{Judges, Verdict, View, ViewBuilder, Watch};
use std::future::Future;
use std::sync::Arc;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;

/// Most records that one update carries.
const BATCH: usize = 256;

/// News.
#[derive(Debug)]
pub enum Update {
    /// The next second.
    View(Box<View>),
    /// Events that were told.
    Records(Vec<Record>),
    /// There is nobody to ask: one line that says so. The next view takes it back.
    Gone(String),
}

/// Where updates come from.
pub trait Source: Send + 'static {
    /// The next update; `None` = there will be none.
    fn next(&mut self) -> impl Future<Output = Option<Update>> + Send;
}

/// The agent in this process.
#[derive(Debug)]
pub struct LocalSource {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    records: Option<broadcast::Receiver<Arc<Record>>>,
    builder: ViewBuilder,
}

impl LocalSource {
    /// From the channels that the ticker and the decoder fill. A snapshot of tick 0 is none yet.
    pub fn new(
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        records: broadcast::Receiver<Arc<Record>>,
    ) -> Self {
        if snapshots.borrow().tick > 0 {
            snapshots.mark_changed();
        }
        Self {
            snapshots,
            records: Some(records),
            builder: ViewBuilder::new(),
        }
    }

    /// The same, with hot functions to show.
    pub fn with_stacks(mut self, stacks: Option<Arc<Stacks>>) -> Self {
        self.builder.watch(stacks.map(Watch::new));
        self
    }

    /// The same, with alerts, anomalies and scores to show.
    pub fn with_judges(mut self, judges: Option<Judges>) -> Self {
        self.builder.judge(judges);
        self
    }

    /// The same, with the programs' verdicts to show.
    pub fn with_verdicts(mut self, verdicts: Vec<Verdict>) -> Self {
        self.builder.set_verdicts(verdicts);
        self
    }
}

impl Source for LocalSource {
    async fn next(&mut self) -> Option<Update> {
        loop {
            tokio::select! {
                changed = self.snapshots.changed() => {
                    changed.ok()?;
                    let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
                    if snapshot.tick > 0 {
                        return Some(Update::View(Box::new(self.builder.push(&snapshot))));
                    }
                }
                records = batch(&mut self.records) => match records {
                    Some(records) => return Some(Update::Records(records)),
                    None => self.records = None,
                },
            }
        }
    }
}

/// Waits for one record and takes those behind it. A reader that is too slow loses the oldest: they are only shown.
async fn batch(records: &mut Option<broadcast::Receiver<Arc<Record>>>) -> Option<Vec<Record>> {
    let Some(receiver) = records else {
        return std::future::pending().await;
    };
    let first = loop {
        match receiver.recv().await {
            Ok(record) => break record,
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    };
    let mut batch = vec![Record::clone(&first)];
    while batch.len() < BATCH
        && let Ok(record) = receiver.try_recv()
    {
        batch.push(Record::clone(&record));
    }
    Some(batch)
}
