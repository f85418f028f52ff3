//! Probe `tcp`: latency, loss and life of every TCP connection, by who talks to whom.
//!
//! | program | hook | gives |
//! |---|---|---|
//! | `tcp_probe` | tp_btf/tcp_probe | RTT and jitter histograms, flush of counters once a second per connection |
//! | `tcp_state` | tp_btf/inet_sock_set_state | connections by role and outcome, connect latency, record at close |
//! | `tcp_retransmit`, `tcp_synack` | tp_btf/tcp_retransmit_* | retransmits by type |
//! | `tcp_send_reset`, `tcp_receive_reset` | tp_btf/tcp_*_reset | resets by direction |
//! | `tcp_sweep` | iterator, every 10 s | what silent connections still owe, records of long ones, listeners' drops |
//! | `tcp_sweep_files` | iterator, every 10 s | the same by way of all open files, where maps cannot be gone through |
//! | `tcp_accept2`, `tcp_accept4` | fexit/inet_csk_accept | accept latency, where functions can be traced |
//! | `tcp_sockops` | sock_ops at the root of cgroup2 | fallback for all of it where the kernel has no types |
//! | `tcp_adopt` | iterator, at start | connections and listeners that are older than the agent |

pub mod flow;
pub mod metrics;
pub mod span;
pub mod specs;
mod table;

pub use metrics::METRICS;

use super::{Context, Fill, Probe};
use crate::aggregate::{Family, Labels};
use crate::bpf::KernelMap;
use crate::bpf::sys::MappedArray;
use crate::bpf::{Engine, Sizes, State, host};
use crate::coverage::Reading;
use crate::error::{Context as _, Result};
use crate::records::Record;
use agent_common::account::program;
use agent_common::tcp::{FlowRecord, switch};
use agent_common::trace;
use agent_common::wire::{Wire, kind};
use specs::{ACCEPT, FALLBACK, RTT, SPECS, SWEEP};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use table::Table;

const ACCOUNTS: &[usize] = &[
    program::TCP_PROBE,
    program::TCP_STATE,
    program::TCP_RETRANSMIT,
    program::TCP_SYNACK,
    program::TCP_SEND_RESET,
    program::TCP_RECEIVE_RESET,
    program::TCP_SWEEP,
    program::TCP_ADOPT,
    program::TCP_ACCEPT,
    program::TCP_SOCKOPS,
];

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Send flow records while somebody listens.
    pub flows: bool,
    /// Send them in any case.
    pub flows_always: bool,
    /// Time between sweeps.
    pub sweep_interval: Duration,
    /// Where RTT comes from.
    pub source: Source,
    /// Most series of pairs in userspace; what is beyond goes to `other`.
    pub max_pairs: usize,
    /// Show what probe `path` has seen of the connections.
    pub paths: bool,
    /// Tell connections that end as spans.
    pub spans: Option<span::Options>,
}

/// Where RTT comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The per-segment tracepoint, and sock_ops where it cannot be had.
    Auto,
    /// sock_ops, for everything.
    SockOps,
    /// The sweep only: one sample of each connection every ten seconds, nothing per segment.
    Sweep,
}

/// The probe.
pub struct Tcp {
    options: Options,
    maps: Option<Maps>,
    table: Option<Table>,
    /// When the last sweep began.
    last_sweep: Option<Instant>,
    /// How long it took.
    sweep_took: Duration,
    sweeping: Option<JoinHandle<std::io::Result<(Duration, Reading)>>>,
    swept: bool,
    /// What was counted at the end of the last sweep, until somebody takes it.
    reading: Option<Reading>,
    table_seen: u64,
    probing: bool,
    fallback: bool,
    /// (RTT source, kind of sample) in force.
    source: Option<(&'static str, &'static str)>,
    /// Ends of connections, as last read, and what their storage has cost, s.
    opened: u64,
    storage: f64,
    labels: Arc<Labels>,
    /// Makes spans, once somebody takes them.
    maker: Option<span::Maker>,
    /// Spans that may be told in a second are written here.
    tokens: Option<MappedArray>,
    /// The governor's.
    level: u32,
}

/// What the kernel spends on the storage of one end of a connection outside of our programs, ns: where it copies that of the
/// listener to the new socket, and where it frees it with the socket. By stacks at 999 Hz of a program that opens and
/// closes connections to itself, beside the same without an agent: 0.54 and 0.86 µs for both ends (6.18).
const STORAGE_NANOS: f64 = 700.0;

struct Maps {
    pairs: KernelMap,
    free: KernelMap,
    switches: KernelMap,
}

impl Tcp {
    /// A probe that is not attached yet.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            maps: None,
            table: None,
            last_sweep: None,
            sweep_took: Duration::ZERO,
            sweeping: None,
            swept: false,
            reading: None,
            table_seen: u64::MAX,
            probing: false,
            fallback: false,
            source: None,
            opened: 0,
            storage: 0.0,
            labels: Arc::new(Labels::new(&[], &[], false, 0)),
            maker: None,
            tokens: None,
            level: 0,
        }
    }

    fn prepare(&mut self, engine: &mut Engine, now: Instant, unix_nanos: u64) -> Result<()> {
        let free = engine.take_data("FREE_SLOTS")?;
        for slot in 1..engine.sizes.slots {
            free.push(slot).context("map FREE_SLOTS")?;
        }
        let pairs = engine.take_data("PAIRS")?;
        let switches = engine.take_data("SWITCHES")?;
        let always = self.options.flows && self.options.flows_always;
        switches
            .set(switch::FLOW_RECORDS, u64::from(always))
            .context("map SWITCHES")?;
        if let Some(spans) = &self.options.spans {
            let errors = if spans.errors { trace::flag::ERRORS } else { 0 };
            let slow = u64::try_from(spans.slow.as_micros()).unwrap_or(u64::MAX);
            for (switch, value) in [
                (switch::TRACE_THRESHOLD, trace::threshold(spans.share)),
                (switch::TRACE_SLOW, slow),
                (switch::TRACES, trace::flag::ON | errors),
            ] {
                switches.set(switch, value).context("map SWITCHES")?;
            }
            self.tokens = Some(engine.take_array("TRACE_TOKENS", 8, 1)?);
        }
        self.maps = Some(Maps {
            pairs,
            free,
            switches,
        });
        self.table = Some(Table::new(
            engine.sizes.slots as usize,
            self.options.max_pairs,
            now,
            unix_nanos,
        ));
        Ok(())
    }

    /// Sweeps on a thread of its own, because a sweep over many sockets also fills the ring, which the caller drains.
    /// `swept` is true in the tick that finds it done. With so many sockets that it takes long, it is done less often:
    /// it may use a third of a percent of a CPU.
    fn sweep(&mut self, context: &Context<'_>) {
        self.swept = false;
        if let Some(thread) = self.sweeping.take_if(|t| t.is_finished() || context.last) {
            match thread.join() {
                Ok(result) => self.take_sweep(result),
                Err(_panic) => tracing::error!("probe tcp: the sweep has panicked"),
            }
        }
        let interval = self.options.sweep_interval.max(self.sweep_took * 300);
        let due = self
            .last_sweep
            .is_none_or(|t| context.now.duration_since(t) >= interval);
        if self.sweeping.is_some() || !(due || context.last) {
            return;
        }
        self.last_sweep = Some(context.now);
        let Some(engine) = context.engine.as_deref() else {
            return;
        };
        let Some(iterator) = specs::sweep(engine) else {
            // Without an iterator there is nothing to wait for.
            self.swept = true;
            return;
        };
        let (home, cpus) = (engine.home.clone(), engine.cpus);
        let run = move || {
            let start = Instant::now();
            iterator
                .run()
                .map(|()| (start.elapsed(), Reading::take(&home, cpus)))
        };
        if context.last {
            self.take_sweep(run());
            return;
        }
        match std::thread::Builder::new().name("sweep".into()).spawn(run) {
            Ok(thread) => self.sweeping = Some(thread),
            Err(e) => tracing::warn!("probe tcp: sweep: {e}"),
        }
    }

    /// Spans of this second, fewer by half with each level of the governor.
    fn fill_tokens(&self) {
        let (Some(tokens), Some(spans)) = (&self.tokens, &self.options.spans) else {
            return;
        };
        // Nobody takes them: a replay.
        let wanted = if self.maker.is_some() { spans.per_second } else { 0 };
        tokens.set_u64(0, 0, wanted >> self.level.min(16));
    }

    fn take_sweep(&mut self, result: std::io::Result<(Duration, Reading)>) {
        match result {
            Ok((took, reading)) => {
                self.sweep_took = took;
                self.reading = Some(reading);
                self.swept = true;
            }
            Err(e) => tracing::warn!("probe tcp: sweep: {e}"),
        }
    }

    /// Says where RTT comes from now; lets the sweep take the samples while nothing else does.
    fn settle_source(&mut self) {
        self.source = Some(match (self.probing, self.fallback) {
            (true, _) => ("tcp_probe", "raw"),
            // "bpf: add RTT to the sock_ops callback": the sample is its first argument.
            (_, true) if host::kernel_at_least(6, 10) => ("sock_ops", "raw"),
            (_, true) => ("sock_ops", "smoothed"),
            _ => ("sweep", "raw"),
        });
        let alone = u64::from(!self.probing && !self.fallback);
        if let Some(maps) = &mut self.maps
            && let Err(e) = maps.switches.set(switch::SWEEP_SAMPLES, alone)
        {
            tracing::warn!("probe tcp: {e}");
        }
    }
}

impl Probe for Tcp {
    fn name(&self) -> &'static str {
        "tcp"
    }

    fn accounts(&self) -> &'static [usize] {
        ACCOUNTS
    }

    fn attach(&mut self, context: &mut Context<'_>) -> Result<()> {
        let (now, unix_nanos) = (context.now, context.series_start);
        self.labels = Arc::new(Labels::new(&[], &[], false, unix_nanos));
        let Some(engine) = context.engine.as_deref_mut() else {
            return Ok(());
        };
        self.prepare(engine, now, unix_nanos)?;
        // Old sockets first, so that the counting programs find them with their owners; then once more for those
        // that were opened in between.
        let mut states = false;
        if self.options.source != Source::SockOps {
            for spec in &SPECS {
                let state = engine.attach(spec);
                match spec.name {
                    "tcp_adopt" => drop(engine.run_iterator(spec.name)),
                    "tcp_state" => states = state == State::Attached,
                    _ => {}
                }
            }
            let [tracked, files] = &SWEEP;
            if engine.attach(tracked) == State::Attached {
                engine.leave_off(files, "not needed: tcp_sweep works");
            } else if host::own_process_ids().is_some() {
                // A sweep that sees hardly a socket would pass for one that sees all: coverage would be told, and wrong.
                engine.leave_off(
                    files,
                    "it would see the files of this container only: share the host's process ids (hostPID)",
                );
            } else {
                engine.attach(files);
            }
            let [two, four] = &ACCEPT;
            engine.attach(if engine.accept_parameters == 2 { two } else { four });
            if self.options.source == Source::Sweep {
                engine.leave_off(&RTT, "probes.tcp.rtt_source is sweep");
            } else {
                self.probing = engine.attach(&RTT) == State::Attached;
            }
            let _ = engine.run_iterator("tcp_adopt");
        }
        if states {
            engine.leave_off(&FALLBACK, "not needed: the tracepoints work");
        } else {
            self.fallback = engine.attach(&FALLBACK) == State::Attached;
        }
        self.settle_source();
        Ok(())
    }

    fn kinds(&self) -> &'static [u8] {
        &[kind::TCP_FLOW]
    }

    fn record(&mut self, _kind: u8, bytes: &[u8], context: &mut Context<'_>) -> Option<Option<Record>> {
        let r = FlowRecord::decode(bytes)?;
        if r.traced != trace::why::NOT
            && let Some(maker) = &mut self.maker
        {
            maker.take(r);
        }
        Some(
            context
                .listened
                .then(|| Record::Flow(Box::new(flow::flow(&r, context)))),
        )
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        self.fill_tokens();
        self.sweep(context);
        self.swept = context.source.happened("tcp_sweep", self.swept);
        let (Some(maps), Some(table)) = (&mut self.maps, &mut self.table) else {
            return;
        };
        let Some(seen) = context.engine.as_deref().map(table_changes) else {
            return;
        };
        let unknown = context.engine.as_deref().is_some_and(|e| table.unknown(e));
        if self.swept || unknown || seen != self.table_seen {
            self.table_seen = seen;
            if let Err(e) = table.refresh(&maps.pairs, context) {
                tracing::warn!("probe tcp: {e}");
            }
        }
        let Some(engine) = context.engine.as_deref() else {
            return;
        };
        table.read(engine);
        if let Some(maker) = &mut self.maker {
            // Their values have been counted by now.
            for placed in maker.tick(context) {
                table.place(&placed, context.unix_nanos);
            }
        }
        let Some(engine) = context.engine.as_deref() else {
            return;
        };
        // Less than before: a series has ended.
        let opened = table.opened();
        self.storage += opened.saturating_sub(self.opened) as f64 * STORAGE_NANOS / 1e9;
        self.opened = opened;
        if self.swept {
            table.recycle(context.now, engine, &maps.pairs, &mut maps.free);
        }
    }

    fn listen(&mut self, listened: bool, _context: &mut Context<'_>) {
        let on = self.options.flows && (listened || self.options.flows_always);
        if let Some(maps) = &mut self.maps
            && let Err(e) = maps.switches.set(switch::FLOW_RECORDS, u64::from(on))
        {
            tracing::warn!("probe tcp: flow records: {e}");
        }
    }

    fn spans(&mut self) -> Option<span::Spans> {
        let per_second = self.options.spans.as_ref()?.per_second;
        if self.fallback {
            tracing::warn!(
                "export.otlp.traces: no connection is told as a span, as tcp_state could not be attached; geophone check \
                 says why"
            );
        }
        let (maker, spans) = span::Maker::new(per_second);
        self.maker = Some(maker);
        Some(spans)
    }

    fn settled(&mut self) -> Option<Reading> {
        self.reading.take()
    }

    fn relieve(&mut self, level: u32, context: &mut Context<'_>) {
        self.level = level;
        let mask = (1u64 << level.min(6)) - 1;
        if let Some(maps) = &mut self.maps
            && let Err(e) = maps.switches.set(switch::RTT_SAMPLE_MASK, mask)
        {
            tracing::warn!("probe tcp: sampling rate: {e}");
        }
        let Some(engine) = context.engine.as_deref_mut() else {
            return;
        };
        if level > 6 {
            if engine.suspend(&RTT, "the CPU budget is spent; RTT comes from the sweep") {
                self.probing = false;
            }
        } else if self.options.source == Source::Auto && engine.resume(&RTT) {
            self.probing = true;
        }
        self.settle_source();
    }

    fn kernel_seconds(&self) -> f64 {
        self.storage
    }

    fn fill(&self, sizes: &Sizes) -> Vec<Fill> {
        let fill = |table: &Table| Fill {
            map: "PAIRS",
            used: table.used(),
            // `other` has one.
            most: sizes.slots as usize - 1,
        };
        self.table.iter().map(fill).collect()
    }

    fn collect(&mut self, out: &mut Vec<Family>) {
        if let Some(table) = &mut self.table {
            metrics::collect(&mut table.pairs, out);
            if self.options.paths {
                super::path::passive(&mut table.pairs, out);
            }
        }
        out.push(metrics::source_info(self.source));
        out.push(metrics::storage(self.storage, &self.labels));
    }
}

/// Runs of the programs that can make a row.
fn table_changes(engine: &Engine) -> u64 {
    [
        program::TCP_STATE,
        program::TCP_SYNACK,
        program::TCP_SEND_RESET,
        program::TCP_RECEIVE_RESET,
        program::TCP_SWEEP,
        program::TCP_SOCKOPS,
    ]
    .iter()
    .flat_map(|p| (0..engine.cpus as usize).map(move |cpu| p * engine.cpus as usize + cpu))
    .map(|row| engine.accounts.u64_at(row, 0))
    .sum()
}
