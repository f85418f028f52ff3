//! The loop that everything hangs on: drain the ring, tick once a second, hand out a snapshot.
//!
//! A thread of its own, so that no exporter, scraper or screen can hold it up. It waits on the ring with a timeout of
//! a tenth of a second, or a quarter while nobody listens; the kernel wakes it earlier when a quarter of the ring is full or a
//! record is urgent.

use crate::accounting::{self, Books, Records, Sums};
use crate::aggregate::{Collect, Family, Fold, Resource, Snapshot};
use crate::bpf::{Engine, Sizes, State, Verdict};
use crate::config::LabelRule;
use crate::coverage::Coverage;
use crate::error::{Error, Result};
use crate::identity::Peers;
use crate::identity::names::Names;
use crate::parts::Parts;
use crate::price::Price;
use crate::probes::Probe;
use crate::probes::tcp::{span::Spans, specs};
use crate::record::{Source, Step};
use crate::records::{Changes, Record, RouteChange};
use crate::ring::Ring;
use crate::stacks::Stacks;
use agent_common::account::{Account, SyntheticRecord, program};
use agent_common::wire::{Header, LAYOUT, Wire as _, kind};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, watch};

/// While somebody waits for records.
const POLL: Duration = Duration::from_millis(100);
/// While nobody does: each time costs some 10 µs of an idle processor.
const CALM: Duration = Duration::from_millis(250);
const TICK: Duration = Duration::from_secs(1);
/// Records drained before the clock is looked at again, so that a flood cannot hold up the tick.
const BURST: usize = 65_536;

/// What a collector is made of.
pub struct Setup {
    /// The probes, in their order.
    pub probes: Vec<Box<dyn Probe>>,
    /// Sizes of the maps; `None` = no probe needs programs.
    pub sizes: Option<Sizes>,
    /// Kernel types to use instead of the running kernel's.
    pub btf: Option<PathBuf>,
    /// Names of peers.
    pub peers: Peers,
    /// Names of containers.
    pub names: Names,
    /// What the series are about.
    pub resource: Resource,
    /// Labels that they do without.
    pub labels: Vec<LabelRule>,
    /// Share of the machine that may be used; 0 = no limit.
    pub budget: f64,
    /// Where all that is learnt comes from.
    pub source: Source,
}

/// What others may know of a running collector.
#[derive(Clone, Default)]
pub struct Shared {
    /// Verdicts on the programs.
    pub verdicts: Arc<RwLock<Vec<Verdict>>>,
    /// Why there is no kernel side; empty = there is.
    pub engine_error: Arc<RwLock<String>>,
    /// The latest changes of routes, oldest first.
    pub routes: Arc<RwLock<VecDeque<RouteChange>>>,
    /// What the agent itself tells: changes of tunnels.
    pub changes: Arc<Changes>,
}

/// Changes of routes that are kept.
const ROUTES: usize = 256;

impl Shared {
    fn keep(&self, change: RouteChange) {
        if let Ok(mut routes) = self.routes.write() {
            if routes.len() == ROUTES {
                routes.pop_front();
            }
            routes.push_back(change);
        }
    }
}

/// Where it hands its results.
pub struct Outputs {
    /// Snapshots.
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    /// Told events.
    pub records: broadcast::Sender<Arc<Record>>,
    /// Further families: exporters', API's.
    pub collects: Vec<Box<dyn Collect>>,
    /// Set to stop.
    pub stop: Arc<AtomicBool>,
    /// Kept up to date.
    pub shared: Shared,
}

/// The loop's state.
pub struct Collector {
    probes: Vec<Box<dyn Probe>>,
    /// By kind of record, which of them takes it; `u8::MAX` = none.
    takers: Box<[u8; 256]>,
    parts: Parts,
    /// Why there is no kernel side.
    pub engine_error: String,
    ring: Ring,
    records: [Records; program::COUNT],
    refused: Records,
    books: Books,
    coverage: Option<Coverage>,
    /// What the agent itself costs: a replay is none.
    price: Option<Price>,
    /// What all series are about.
    pub resource: Arc<Resource>,
    fold: Fold,
    start_unix_nanos: u64,
    last_unix_nanos: u64,
    tick: u64,
}

impl Collector {
    /// Loads and attaches everything that this machine allows. Never fails: what does not work has a verdict.
    pub fn new(setup: Setup) -> Self {
        let source = setup.source;
        let clock = source.clock();
        let start = clock.unix_nanos;
        let (mut engine, mut engine_error) = (None, String::new());
        if let Some(sizes) = setup.sizes {
            let loaded = match &source {
                Source::Recorded(past) => Engine::recorded(past),
                _ => Engine::load(setup.btf, sizes, &source),
            };
            match loaded {
                Ok(e) => engine = Some(e),
                Err(e) => {
                    engine_error = e.to_string();
                    source.tell("engine_error", || &engine_error);
                }
            }
        }
        if let Some(Err(e)) = engine.as_mut().map(|e| e.write_peers(setup.peers.prefixes())) {
            tracing::error!("{e}; peers have no names");
        }
        let floor = engine.as_mut().and_then(Engine::calibrate).unwrap_or(0.0);
        let mut parts = Parts::new(engine, setup.names, setup.peers, source, start);
        parts.follow_services(false);
        let mut probes = setup.probes;
        let mut context = parts.context(&clock, start);
        probes.retain_mut(|probe| match probe.attach(&mut context) {
            Ok(()) => true,
            Err(e) => {
                tracing::error!("probe {}: {e}; the probe is off", probe.name());
                false
            }
        });
        let engine = &mut parts.engine;
        let programs = engine.as_ref().map(Engine::programs).unwrap_or_default();
        let is_live = parts.source.past().is_none();
        let price = is_live.then(|| Price::new(floor, programs, setup.budget, start));
        if let Some(engine) = engine {
            engine.settle();
        }
        let ring = Ring::new(engine.as_mut(), parts.source.clone());
        // The counters that are reconciled are those of the tracepoints.
        let counts = |e: &&Engine| {
            is_live
                && e.verdicts
                    .iter()
                    .any(|v| v.program == "tcp_state" && v.state == State::Attached)
        };
        let coverage = engine.as_ref().filter(counts).map(|e| {
            // What old sockets have sent since they were adopted is in the kernel's counters already.
            let _ = specs::sweep(e).map(|sweep| sweep.run());
            Coverage::new(e, start)
        });
        parts.source.end(Step::Attach, &clock, &[]);
        Self {
            takers: takers(&probes),
            probes,
            parts,
            engine_error,
            ring,
            records: [Records::default(); program::COUNT],
            refused: Records::default(),
            books: Books::new(start),
            coverage,
            price,
            resource: Arc::new(setup.resource),
            fold: Fold::new(&setup.labels, start),
            start_unix_nanos: start,
            last_unix_nanos: start,
            tick: 0,
        }
    }

    /// Verdicts on all programs.
    pub fn verdicts(&self) -> Vec<Verdict> {
        self.parts
            .engine
            .as_ref()
            .map(|e| e.verdicts.clone())
            .unwrap_or_default()
    }

    /// The stacks that a probe takes.
    pub fn stacks(&self) -> Option<Arc<Stacks>> {
        self.probes.iter().find_map(|p| p.stacks())
    }

    /// The connections that a probe tells as spans, for who asks first.
    pub fn spans(&mut self) -> Option<Spans> {
        self.probes.iter_mut().find_map(|p| p.spans())
    }

    /// The kernel side, if there is one.
    pub fn engine(&mut self) -> Option<&mut Engine> {
        self.parts.engine.as_mut()
    }

    /// Takes what is in the ring, at most 65,536 records; returns how many. Without `listened` they are counted only.
    pub fn drain(&mut self, listened: bool, mut tell: impl FnMut(Record)) -> usize {
        let clock = self.parts.source.clock();
        let mut context = self.parts.context(&clock, self.last_unix_nanos);
        context.listened = listened;
        let (probes, records, refused) = (&mut self.probes, &mut self.records, &mut self.refused);
        let takers = &self.takers;
        let n = self.ring.take(BURST, |bytes| {
            let header = bytes.get(..Header::SIZE).and_then(Header::decode);
            let account = header.and_then(|h| records.get_mut(h.program as usize));
            let (Some(h), Some(account)) = (header, account) else {
                refused.refused += 1;
                return;
            };
            if h.layout != LAYOUT || h.len as usize > bytes.len() {
                account.refused += 1;
                return;
            }
            let body = bytes.get(..h.len as usize).unwrap_or_default();
            let taker = takers[usize::from(h.kind)];
            let record = probes
                .get_mut(usize::from(taker))
                .and_then(|p| p.record(h.kind, body, &mut context));
            match record {
                Some(record) => {
                    account.delivered += 1;
                    if let Some(record) = record {
                        tell(record);
                    }
                }
                None => account.refused += 1,
            }
        });
        self.parts.source.end(Step::Drain, &clock, &[]);
        n
    }

    /// Takes what is in the ring as the ring benchmark does: decoded and counted, handed to nobody.
    pub fn drain_synthetic(&mut self) -> usize {
        let mut n = 0;
        self.ring.take(usize::MAX, |bytes| {
            n +=
                usize::from(SyntheticRecord::decode(bytes).is_some_and(|r| r.header.kind == kind::SYNTHETIC));
        });
        n
    }

    /// Account of the ring benchmark's generator.
    pub fn synthetic(&self) -> Account {
        self.parts
            .engine
            .as_ref()
            .map(|e| accounting::read(e, &[program::SYNTHETIC]))
            .unwrap_or_default()
    }

    /// One tick, as everybody downstream sees it.
    fn snapshot(&mut self, collects: &mut [Box<dyn Collect>], last: bool) -> Snapshot {
        let mut snapshot = self.tick(collects, last);
        self.fold.apply(&mut snapshot.families);
        snapshot
    }

    /// One tick: reads the maps and makes a snapshot, with all labels. The `last` one brings everything up to date.
    pub fn tick(&mut self, collects: &mut [Box<dyn Collect>], last: bool) -> Snapshot {
        self.tick += 1;
        let clock = self.parts.source.clock();
        let unix_nanos = clock.unix_nanos;
        // What is new in this tick began after the last one.
        let series_start = std::mem::replace(&mut self.last_unix_nanos, unix_nanos);
        let is_due = self.parts.source.is_due(clock.now);
        if is_due {
            // What is told once may be forgotten by now.
            self.parts.identity.tell_all();
        }
        self.parts.follow_services(is_due);
        if let Some(now) = self.parts.moved(&self.resource) {
            self.resource = Arc::new(now);
        }
        let mut context = self.parts.context(&clock, series_start);
        context.last = last;
        for probe in &mut self.probes {
            probe.tick(&mut context);
        }
        let beside: f64 = self.probes.iter().map(|p| p.kernel_seconds()).sum();
        if let Some(price) = &mut self.price
            && let Some(level) = price.tick(context.engine.as_deref(), beside, clock.now)
        {
            for probe in &mut self.probes {
                probe.relieve(level, &mut context);
            }
        }
        let mut families: Vec<Family> = Vec::with_capacity(64);
        for probe in &mut self.probes {
            probe.collect(&mut families);
        }
        self.settle_records();
        if let Some(engine) = &self.parts.engine {
            let misses = self
                .parts
                .source
                .ask("recursion_misses", || engine.recursion_misses());
            let misses = misses.unwrap_or_default();
            let sums: Vec<(&'static str, Sums)> = self
                .probes
                .iter()
                .filter(|p| !p.accounts().is_empty())
                .map(|p| {
                    // Records are taken on this thread: what the kernel has sent since is in flight.
                    let mut records = Records::default();
                    let skipped = p.accounts().iter().filter_map(|a| misses.get(a)).sum();
                    for r in p.accounts().iter().filter_map(|&a| self.records.get(a)) {
                        records.delivered += r.delivered;
                        records.refused += r.refused;
                    }
                    (
                        p.name(),
                        Sums {
                            skipped,
                            kernel: accounting::read(engine, p.accounts()),
                            records,
                        },
                    )
                })
                .collect();
            self.books.collect(&sums, self.refused.refused, &mut families);
            if let Some(coverage) = &mut self.coverage {
                for reading in self.probes.iter_mut().filter_map(|p| p.settled()) {
                    coverage.update(&reading);
                }
                coverage.collect(&mut families);
            }
        }
        // What follows is the agent's own, and in no replay.
        let told = families.len();
        self.parts.collect(clock.now, &mut families);
        if let Some(price) = &mut self.price {
            let engine = self.parts.engine.as_ref();
            let fills = engine.iter().flat_map(|engine| {
                let probes = self.probes.iter();
                probes.flat_map(|probe| probe.fill(&engine.sizes))
            });
            price.collect(engine, &fills.collect::<Vec<_>>(), &mut families);
        }
        for collect in collects {
            collect.collect(&mut families);
        }
        let step = if last { Step::Last } else { Step::Tick };
        let told = families.get(..told).unwrap_or_default();
        self.parts.source.end(step, &clock, told);
        Snapshot {
            tick: self.tick,
            unix_nanos,
            start_unix_nanos: self.start_unix_nanos,
            resource: self.resource.clone(),
            families,
        }
    }

    /// Says what was counted of the records, for a replay that does not have them all.
    fn settle_records(&mut self) {
        let source = &self.parts.source;
        source.tell("records", || (self.records.as_slice(), self.refused));
        if let Source::Recorded(past) = source
            && past.lacks_records()
            && let Some((records, refused)) = past.fact::<(Vec<Records>, Records)>("records")
        {
            self.refused = refused;
            for (own, known) in self.records.iter_mut().zip(records) {
                *own = known;
            }
        }
    }

    /// Tells the probes whether somebody listens to told events.
    fn listen(&mut self, listened: bool) {
        let clock = self.parts.source.clock();
        let mut context = self.parts.context(&clock, self.last_unix_nanos);
        context.listened = listened;
        for probe in &mut self.probes {
            probe.listen(listened, &mut context);
        }
    }

    /// Runs until told to stop.
    pub fn run(mut self, mut outputs: Outputs) {
        let publish = |verdicts: Vec<Verdict>| {
            if let Ok(mut shared) = outputs.shared.verdicts.write() {
                *shared = verdicts;
            }
        };
        publish(self.verdicts());
        if let Ok(mut shared) = outputs.shared.engine_error.write() {
            shared.clone_from(&self.engine_error);
        }
        let mut next = Instant::now() + TICK;
        let mut more = false;
        let mut listened = false;
        let mut measuring = false;
        // A recording that somebody asked for is somebody who listens.
        let records_wanted = self.parts.source.tape().is_some_and(|tape| tape.listens());
        if records_wanted {
            self.listen(true);
        }
        while !outputs.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            if now < next && !more {
                let calm = !(listened || records_wanted || measuring);
                self.ring.wait((next - now).min(if calm { CALM } else { POLL }));
            }
            let records = &outputs.records;
            if listened != (records.receiver_count() > 0) {
                listened = !listened;
                self.listen(listened || records_wanted);
            }
            let drained = self.drain(listened, |record| {
                // Nobody listening is no loss: the event has been counted.
                let _ = records.send(Arc::new(record));
            });
            more = drained == BURST;
            if let (Some(engine), Some(price)) = (&self.parts.engine, &mut self.price) {
                measuring = price.poll(engine);
            }
            let now = Instant::now();
            if now >= next {
                let snapshot = self.snapshot(&mut outputs.collects, false);
                let _ = outputs.snapshots.send(Arc::new(snapshot));
                for change in self.probes.iter_mut().flat_map(|p| p.route_changes()) {
                    outputs.shared.keep(change);
                }
                for record in self.probes.iter_mut().flat_map(|p| p.changes()) {
                    outputs.shared.changes.tell(record);
                }
                if self.parts.engine.as_ref().is_some_and(Engine::verdicts_changed) {
                    publish(self.verdicts());
                }
                next += TICK;
                if next < now {
                    // The machine stood still: no ticks to make up for.
                    next = now + TICK;
                }
            }
        }
        // The last second counts as well. The programs still run: a flood would have no end.
        for _ in 0..16 {
            let drained = self.drain(listened, |record| {
                let _ = outputs.records.send(Arc::new(record));
            });
            if drained < BURST {
                break;
            }
        }
        let snapshot = self.snapshot(&mut outputs.collects, true);
        let _ = outputs.snapshots.send(Arc::new(snapshot));
    }

    /// Runs on a thread of its own. The thread makes the collector, so that all descriptors and mappings are its own.
    pub fn spawn(self, outputs: Outputs) -> Result<std::thread::JoinHandle<()>> {
        std::thread::Builder::new()
            .name("collector".into())
            .spawn(move || self.run(outputs))
            .map_err(|e| Error::new(format_args!("starting the collector's thread: {e}")))
    }
}

/// Which probe takes each kind of record, so that no probe is asked for each record.
fn takers(probes: &[Box<dyn Probe>]) -> Box<[u8; 256]> {
    let mut out = Box::new([u8::MAX; 256]);
    for (place, probe) in probes.iter().enumerate().rev() {
        for kind in probe.kinds() {
            out[usize::from(*kind)] = place as u8;
        }
    }
    out
}
