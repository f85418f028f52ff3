//! Told events as lines of JSON, for as long as the client listens.

use super::stats::Stats;
use crate::records::Record;
use axum::body::Bytes;
use futures::Stream;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};
use tokio::time::Instant;

/// Which records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Flows,
    Drops,
    Tunnels,
}

/// Lines are gathered up to this size while more are waiting: one write for many records.
const CHUNK: usize = 32 * 1024;

/// The lines, those of `kept` first. `keep` is held until the client has gone.
pub(super) fn lines<K: Send>(
    kept: VecDeque<Arc<Record>>,
    records: broadcast::Receiver<Arc<Record>>,
    wanted: Wanted,
    length: Option<Duration>,
    stats: Arc<Stats>,
    keep: K,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let end = length.and_then(|l| Instant::now().checked_add(l));
    let state = Lines {
        kept,
        records,
        wanted,
        end,
        stats,
        _keep: keep,
    };
    futures::stream::unfold(state, async |mut state| {
        let chunk = state.chunk().await?;
        Some((Ok(Bytes::from(chunk)), state))
    })
}

struct Lines<K> {
    kept: VecDeque<Arc<Record>>,
    records: broadcast::Receiver<Arc<Record>>,
    wanted: Wanted,
    end: Option<Instant>,
    stats: Arc<Stats>,
    _keep: K,
}

impl<K> Lines<K> {
    /// Waits for one record and takes what else is there; `None` at the end.
    async fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for record in std::mem::take(&mut self.kept) {
            self.write(&record, &mut out);
        }
        while out.is_empty() {
            let received = match self.end {
                Some(end) => tokio::time::timeout_at(end, self.records.recv()).await.ok()?,
                None => self.records.recv().await,
            };
            match received {
                Ok(record) => self.write(&record, &mut out),
                Err(RecvError::Lagged(count)) => self.lagged(count, &mut out),
                Err(RecvError::Closed) => return None,
            }
        }
        while out.len() < CHUNK {
            match self.records.try_recv() {
                Ok(record) => self.write(&record, &mut out),
                Err(TryRecvError::Lagged(count)) => self.lagged(count, &mut out),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        Some(out)
    }

    fn write(&self, record: &Record, out: &mut Vec<u8>) {
        let mine = match record {
            Record::Flow(_) => self.wanted == Wanted::Flows,
            Record::Drop(_) => self.wanted == Wanted::Drops,
            Record::Tunnel(_) => self.wanted == Wanted::Tunnels,
        };
        if mine && serde_json::to_writer(&mut *out, record).is_ok() {
            out.push(b'\n');
        }
    }

    /// Records of both kinds: which ones were missed is not known.
    fn lagged(&self, count: u64, out: &mut Vec<u8>) {
        self.stats.lagged(count);
        out.extend_from_slice(format!("{{\"kind\":\"lagged\",\"count\":{count}}}\n").as_bytes());
    }
}
