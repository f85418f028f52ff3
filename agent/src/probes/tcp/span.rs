//! Connections as spans: what the kernel chose is told, and is an exemplar of the histograms that it was counted in.

use super::flow;
use crate::aggregate::Exemplar;
use crate::probes::Context;
use crate::records::Flow;
use agent_common::tcp::{CLIENT, FlowRecord, PairKey, series};
use agent_common::trace::{span_id, trace_id, why};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Spans that may wait for their names, or for the exporter, if no more may be told in a second.
const WAITING: u64 = 4096;

/// What the configuration says.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Share of the connections that chance tells, 0 to 1.
    pub share: f64,
    /// Tell those that end with an error in any case.
    pub errors: bool,
    /// Tell those whose handshake or one of whose round trips took at least so long; 0 = no such.
    pub slow: Duration,
    /// Most spans a second.
    pub per_second: u64,
}

/// A connection that has ended.
#[derive(Clone, Debug)]
pub struct Span {
    /// Id of the trace: the same at both ends.
    pub trace_id: u128,
    /// Id of the span.
    pub span_id: u64,
    /// The span of the client, in that of a server.
    pub parent: Option<u64>,
    /// Why it is told: `chance`, `error` or `slow`.
    pub why: &'static str,
    /// When it began: a client's SYN, a server's accepted handshake; ns since the Unix epoch.
    pub start: u64,
    /// When it was established, ns since the Unix epoch; `None` = never.
    pub established: Option<u64>,
    /// When it ended, ns since the Unix epoch.
    pub end: u64,
    /// Largest of the round-trip times that were counted, s.
    pub rtt_max: Option<f64>,
    /// The connection.
    pub flow: Flow,
}

/// Spans that could not wait any longer.
#[derive(Clone, Default)]
pub struct Lost(Arc<AtomicU64>);

impl Lost {
    /// How many there were since the last call.
    pub fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// Where spans come out.
pub struct Spans {
    /// The spans, as they end.
    pub spans: mpsc::Receiver<Box<Span>>,
    /// Those that found no room.
    pub lost: Lost,
}

/// A value for a histogram of a pair.
pub struct Placed {
    /// Row of the pair.
    pub slot: u32,
    /// Whose it must be still.
    pub key: PairKey,
    /// Which histogram: [`series`].
    pub series: usize,
    /// The value.
    pub exemplar: Exemplar,
}

/// Makes spans of records, once the names of their subjects are final.
pub struct Maker {
    sender: mpsc::Sender<Box<Span>>,
    lost: Lost,
    most: usize,
    waiting: Vec<FlowRecord>,
}

impl Maker {
    /// And where they come out.
    pub fn new(per_second: u64) -> (Self, Spans) {
        let most = per_second.max(WAITING) as usize;
        let (sender, spans) = mpsc::channel(most);
        let lost = Lost::default();
        let maker = Self {
            sender,
            lost: lost.clone(),
            most,
            waiting: Vec::new(),
        };
        (maker, Spans { spans, lost })
    }

    /// Takes a record that the kernel chose.
    pub fn take(&mut self, r: FlowRecord) {
        if self.waiting.len() < self.most {
            self.waiting.push(r);
        } else {
            self.lost.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells those whose subjects have their names, as their rows do, and gives the exemplars for these.
    pub fn tick(&mut self, context: &mut Context<'_>) -> Vec<Placed> {
        let mut placed = Vec::new();
        for r in std::mem::take(&mut self.waiting) {
            if !context.last && !context.identity.subject(&r.subject, &r.comm).fixed {
                self.waiting.push(r);
                continue;
            }
            let span = span(&r, context);
            let ids = (span.trace_id, span.span_id, span.end);
            if self.sender.try_send(Box::new(span)).is_err() {
                // An exemplar would lead nowhere.
                self.lost.0.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            placed.extend(exemplars(&r, ids));
        }
        placed
    }
}

fn exemplars(r: &FlowRecord, (trace_id, span_id, end): (u128, u64, u64)) -> impl Iterator<Item = Placed> {
    let values = [(series::CONNECT, r.connect), (series::RTT, r.rtt_max)];
    let (slot, subject, peer) = (r.slot, r.subject, r.peer);
    let told = values.into_iter().filter(|(_, micros)| *micros != 0);
    told.map(move |(series, micros)| Placed {
        slot,
        key: PairKey {
            subject,
            peer,
            pad: 0,
        },
        series,
        exemplar: Exemplar {
            value: f64::from(micros) / 1e6,
            unix_nanos: end,
            placed: 0,
            trace_id,
            span_id,
        },
    })
}

fn span(r: &FlowRecord, context: &mut Context<'_>) -> Span {
    let end = r.time.wrapping_add(context.boot_to_unix);
    let established = (r.established == 1).then(|| end - r.duration.min(end));
    let start = match established {
        Some(at) => at - (u64::from(r.connect) * 1000).min(at),
        None => end - r.duration.min(end),
    };
    // Where nobody answered there is no other end to agree with, and 32 bits are too few to be alone.
    let seed = flow::seed(r).unwrap_or_else(|| u64::from(r.isn) << 32 ^ r.time.rotate_left(24) ^ r.cookie);
    let flow = flow::flow(r, context);
    // The client's end is told as well where chance decides, which decides alike there; not by whoever is outside of what is
    // known, and an error or a slow answer may be this end's alone.
    let is_both =
        r.traced == why::CHANCE && established.is_some() && r.role != CLIENT && flow.peer != "public";
    Span {
        trace_id: trace_id(seed),
        span_id: span_id(seed, r.role),
        parent: is_both.then(|| span_id(seed, CLIENT)),
        why: why::NAMES.get(r.traced as usize).copied().unwrap_or_default(),
        start,
        established,
        end,
        rtt_max: (r.rtt_max != 0).then(|| f64::from(r.rtt_max) / 1e6),
        flow,
    }
}
