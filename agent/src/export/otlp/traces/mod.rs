//! OTLP traces: connections that have ended, as spans of the service whose they were.
//!
//! Source: <https://github.com/open-telemetry/opentelemetry-proto/tree/v1.7.0/opentelemetry/proto/trace/v1>; attributes by the semantic
//! conventions (`network.*`, `server.*`, `client.*`, `process.pid`, `error.type`), and those of our metrics.

pub mod settings;
mod span;

use super::client::Collector;
use super::{OtlpSettings, Signal, lane};
use crate::aggregate::{Resource as Machine, Snapshot};
use crate::export::push::queue::Queue;
use crate::export::push::{Lane, Part, Stats};
use crate::probes::tcp::span::{Span, Spans};
use anyhow::Result;
use prost::Message as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Spans of a request: each has about a kilobyte, and collectors refuse more than 4 MiB by default.
const SPANS: usize = 1000;
/// So long spans are collected, as OpenTelemetry's own processors do it.
const COLLECTED: Duration = Duration::from_secs(5);

/// An exporter of traces, ready to run.
pub struct Exporter(Lane<Collector>);

impl Exporter {
    /// `None` if there is no endpoint, or traces are not to be sent. Must be called in a tokio runtime, after rustls has its
    /// provider.
    pub fn new(settings: &OtlpSettings) -> Result<Option<Self>> {
        if !settings.traces.enabled {
            return Ok(None);
        }
        Ok(lane(settings, Signal::Traces)?.map(Self))
    }

    /// Where it counts.
    pub fn stats(&self) -> Arc<Stats> {
        self.0.stats()
    }

    /// Exports until `shutdown` resolves, then what is left, and ends within five seconds.
    pub async fn run(
        self,
        spans: Spans,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        shutdown: impl Future<Output = ()>,
    ) {
        let Spans { mut spans, lost } = spans;
        let stats = self.stats();
        self.0
            .run(async |queue: &Queue| {
                let mut shutdown = std::pin::pin!(shutdown);
                let mut over = false;
                while !over {
                    let mut told = Vec::new();
                    let mut due = std::pin::pin!(tokio::time::sleep(COLLECTED));
                    while told.len() < SPANS && !over {
                        tokio::select! {
                            taken = spans.recv_many(&mut told, SPANS) => over = taken == 0,
                            () = &mut due => break,
                            () = &mut shutdown => over = true,
                        }
                    }
                    while over && let Ok(span) = spans.try_recv() {
                        told.push(span);
                    }
                    stats.never_queued(lost.take());
                    // Where the machine is by now.
                    let machine = snapshots.borrow().resource.clone();
                    let parts: Vec<Part> = told.chunks(SPANS).map(|some| part(some, &machine)).collect();
                    if !parts.is_empty() {
                        queue.push(parts);
                    }
                }
            })
            .await;
    }
}

/// A request of these.
fn part(spans: &[Box<Span>], machine: &Machine) -> Part {
    Part {
        body: span::request(spans, machine).encode_to_vec().into(),
        points: spans.len() as u64,
    }
}
