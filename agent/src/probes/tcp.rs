//! Probe `tcp`: latency, loss and life of every TCP connection, by who talks to whom.
//!
//! | program | hook | gives |
//! |---|---|---|
//! | `tcp_probe` | tp_btf/tcp_probe | RTT and jitter histograms, flush of counters once a second per connection |
//! | `tcp_state` | tp_btf/inet_sock_set_state | connections by role and outcome, connect latency, record at close |
//! | `tcp_retransmit`, `tcp_synack` | tp_btf/tcp_retransmit_* | retransmits by type |
//! | `tcp_send_reset`, `tcp_receive_reset` | tp_btf/tcp_*_reset | resets by direction |
//! | `tcp_sweep` | iterator, every 10 s | what silent connections still owe, records of long ones, listeners' drops |
//! | `tcp_accept2`, `tcp_accept4` | fexit/inet_csk_accept | accept latency, where functions can be traced |
//! | `tcp_sockops` | sock_ops at the root of cgroup2 | fallback for all of it where the kernel has no types |
//! | `tcp_adopt` | iterator, at start | connections and listeners that are older than the agent |

pub mod metrics;

pub use metrics::METRICS;

use super::slots::{PairSeries, Row};
use super::{Context, Probe};
use crate::aggregate::Family;
use crate::bpf::fields::Group;
use crate::bpf::{Engine, Hook, Spec, State, sys};
use crate::error::{Context as _, Result};
use crate::identity::Peers;
use crate::records::{Flow, Record};
use agent_common::account::program;
use agent_common::tcp::{
    END_REASONS, FlowRecord, PairKey, PairValue, ROLES, SLOT_OTHER, counter, end_reason,
};
use agent_common::wire::{Wire, kind};
use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, MapData, Queue};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

const SOCKETS: &[Group] = &[Group::Sock, Group::Tcp];
const SOCKETS_AND_TASKS: &[Group] = &[Group::Sock, Group::Tcp, Group::Task];

const fn spec(
    name: &'static str,
    account: usize,
    hook: Hook,
    needs: &'static [Group],
    required: bool,
    remedy: &'static str,
) -> Spec {
    Spec {
        name,
        probe: "tcp",
        account,
        hook,
        needs,
        required,
        remedy,
    }
}

/// RTT source of choice.
pub static RTT: Spec = spec(
    "tcp_probe",
    program::TCP_PROBE,
    Hook::TpBtf("tcp_probe"),
    SOCKETS_AND_TASKS,
    true,
    "needs a kernel with BTF (CONFIG_DEBUG_INFO_BTF) and the tcp_probe tracepoint (4.16)",
);

/// The others, in the order of attaching: those that find old sockets first, then those that count.
pub static SPECS: [Spec; 7] = [
    spec(
        "tcp_adopt",
        program::TCP_ADOPT,
        Hook::IterFiles,
        SOCKETS_AND_TASKS,
        false,
        "without it connections older than the agent are adopted at their first packet, without a process",
    ),
    spec(
        "tcp_state",
        program::TCP_STATE,
        Hook::TpBtf("inet_sock_set_state"),
        SOCKETS_AND_TASKS,
        true,
        "needs a kernel with BTF and the inet_sock_set_state tracepoint (4.16)",
    ),
    spec(
        "tcp_retransmit",
        program::TCP_RETRANSMIT,
        Hook::TpBtf("tcp_retransmit_skb"),
        SOCKETS,
        true,
        "needs a kernel with BTF and the tcp_retransmit_skb tracepoint (4.15)",
    ),
    spec(
        "tcp_synack",
        program::TCP_SYNACK,
        Hook::TpBtf("tcp_retransmit_synack"),
        SOCKETS,
        false,
        "without it retransmitted SYN-ACKs are not counted",
    ),
    spec(
        "tcp_send_reset",
        program::TCP_SEND_RESET,
        Hook::TpBtf("tcp_send_reset"),
        &[Group::Sock, Group::Tcp, Group::Skb, Group::Dev],
        false,
        "without it sent resets are not counted",
    ),
    spec(
        "tcp_receive_reset",
        program::TCP_RECEIVE_RESET,
        Hook::TpBtf("tcp_receive_reset"),
        SOCKETS,
        false,
        "without it received resets are not counted",
    ),
    spec(
        "tcp_sweep",
        program::TCP_SWEEP,
        Hook::IterMap("CONNECTIONS"),
        SOCKETS,
        false,
        "without it silent connections report at their close only, and long ones are not told",
    ),
];

/// Accept-queue wait, where the kernel lets functions be traced: since 6.10, and before.
pub static ACCEPT: [Spec; 2] = [
    spec(
        "tcp_accept2",
        program::TCP_ACCEPT,
        Hook::Fexit("inet_csk_accept"),
        SOCKETS,
        false,
        "without it geophone_tcp_accept_seconds is empty",
    ),
    spec(
        "tcp_accept4",
        program::TCP_ACCEPT,
        Hook::Fexit("inet_csk_accept"),
        SOCKETS,
        false,
        "without it geophone_tcp_accept_seconds is empty",
    ),
];

/// What stands in for the others on a kernel without types.
pub static FALLBACK: Spec = spec(
    "tcp_sockops",
    program::TCP_SOCKOPS,
    Hook::SockOps,
    &[],
    false,
    "needs a cgroup2 hierarchy, mounted or mountable",
);

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

/// Switches, as in agent-ebpf/src/settings.rs.
const RTT_SAMPLE_MASK: u32 = 0;
const FLOW_RECORDS: u32 = 1;
const SWEEP_SAMPLES: u32 = 2;

/// Rows of processes are given back after this many seconds without a connection or a change.
const RECYCLE_AFTER: u32 = 30;

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Send flow records.
    pub flows: bool,
    /// Time between sweeps.
    pub sweep_interval: Duration,
    /// Where RTT comes from.
    pub source: Source,
    /// Most series of pairs in userspace; what is beyond goes to `other`.
    pub max_pairs: usize,
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
    rows: Vec<Option<Row>>,
    /// Rows taken out of the table one sweep ago, to be handed out again.
    retired: Vec<u32>,
    pairs: Vec<PairSeries>,
    by_name: HashMap<(String, u32), usize>,
    last_sweep: Option<Instant>,
    table_seen: u64,
    probing: bool,
    fallback: bool,
    /// (RTT source, kind of sample) in force.
    source: Option<(&'static str, &'static str)>,
}

struct Maps {
    pairs: MapData,
    free: Queue<MapData, u32>,
    switches: aya::maps::Array<MapData, u64>,
    /// Programs that are loaded later need its descriptor.
    _peers: LpmTrie<MapData, [u8; 16], u32>,
}

impl Tcp {
    /// A probe that is not attached yet.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            maps: None,
            rows: Vec::new(),
            retired: Vec::new(),
            pairs: Vec::new(),
            by_name: HashMap::new(),
            last_sweep: None,
            table_seen: u64::MAX,
            probing: false,
            fallback: false,
            source: None,
        }
    }

    fn prepare(&mut self, engine: &mut Engine, peers: &Peers, unix_nanos: u64) -> Result<()> {
        let mut trie: LpmTrie<MapData, [u8; 16], u32> =
            LpmTrie::try_from(engine.take_map("PEERS")?).context("map PEERS")?;
        for prefix in peers.prefixes() {
            trie.insert(&Key::new(prefix.prefix_len, prefix.address), prefix.peer, 0)
                .context("map PEERS")?;
        }
        let mut free: Queue<MapData, u32> =
            Queue::try_from(engine.take_map("FREE_SLOTS")?).context("map FREE_SLOTS")?;
        for slot in 1..engine.sizes.slots {
            free.push(slot, 0).context("map FREE_SLOTS")?;
        }
        let pairs = engine.take_data("PAIRS")?;
        let mut switches: aya::maps::Array<MapData, u64> =
            aya::maps::Array::try_from(engine.take_map("SWITCHES")?).context("map SWITCHES")?;
        switches
            .set(FLOW_RECORDS, u64::from(self.options.flows), 0)
            .context("map SWITCHES")?;
        self.maps = Some(Maps {
            pairs,
            free,
            switches,
            _peers: trie,
        });
        self.rows.resize_with(engine.sizes.slots as usize, || None);
        self.pairs
            .push(PairSeries::new(["other", "other", "", ""], true, unix_nanos));
        if let Some(row) = self.rows.get_mut(SLOT_OTHER as usize) {
            *row = Some(Row::new(None, [0; 16], 0));
        }
        Ok(())
    }

    /// Says where RTT comes from now; lets the sweep take the samples while nothing else does.
    fn settle_source(&mut self) {
        self.source = Some(match (self.probing, self.fallback) {
            (true, _) => ("tcp_probe", "raw"),
            (_, true) => ("sock_ops", "raw since 6.10, else smoothed"),
            _ => ("sweep", "raw"),
        });
        let alone = u64::from(!self.probing && !self.fallback);
        if let Some(maps) = &mut self.maps
            && let Err(e) = maps.switches.set(SWEEP_SAMPLES, alone, 0)
        {
            tracing::warn!("probe tcp: {e}");
        }
    }

    /// Learns of new rows. Reads the whole table, but only when a program has run that can make one.
    fn refresh(&mut self, context: &mut Context<'_>) {
        let Some(maps) = &self.maps else { return };
        let mut found = Vec::new();
        let result = sys::for_each(
            maps.pairs.fd().as_fd(),
            PairKey::SIZE,
            PairValue::SIZE,
            |key, value| {
                if let (Some(key), Some(value)) = (PairKey::decode(key), PairValue::decode(value)) {
                    found.push((key, value));
                }
            },
        );
        if let Err(e) = result {
            tracing::warn!("probe tcp: {e}");
            return;
        }
        for (key, value) in found {
            let slot = value.slot as usize;
            let known = self
                .rows
                .get(slot)
                .and_then(Option::as_ref)
                .is_some_and(|row| row.key == Some(key));
            let subject = context.identity.subject(&key.subject, &value.comm);
            if known && subject.fixed {
                continue;
            }
            let peer = context.peers.get(key.peer).clone();
            let name = (subject.label.clone(), key.peer);
            let series = match self.by_name.get(&name) {
                Some(&series) => series,
                None if self.pairs.len() >= self.options.max_pairs => 0,
                None => {
                    let values = [subject.label.as_str(), &peer.name, &peer.region, &peer.zone];
                    self.pairs
                        .push(PairSeries::new(values, false, context.unix_nanos));
                    self.by_name.insert(name, self.pairs.len() - 1);
                    self.pairs.len() - 1
                }
            };
            match self.rows.get_mut(slot) {
                Some(Some(row)) if known => row.series = series,
                // The row had another owner: what it has counted so far was read and stays with him.
                Some(Some(row)) => {
                    row.key = Some(key);
                    row.comm = value.comm;
                    row.series = series;
                }
                Some(row) => *row = Some(Row::new(Some(key), value.comm, series)),
                None => {}
            }
        }
    }

    fn recycle(&mut self) {
        let Some(maps) = &mut self.maps else { return };
        for slot in self.retired.drain(..) {
            let _ = maps.free.push(slot, 0);
        }
        for (slot, row) in self.rows.iter_mut().enumerate() {
            let Some(r) = row else { continue };
            let Some(key) = r.key.filter(|k| k.subject.tgid != 0) else {
                continue;
            };
            if r.idle >= RECYCLE_AFTER && r.attached() == 0 {
                let mut bytes = Vec::with_capacity(PairKey::SIZE);
                key.encode(&mut bytes);
                if sys::remove(maps.pairs.fd().as_fd(), &bytes).is_ok() {
                    // A program may have found the row just before: it is handed out one sweep later.
                    self.retired.push(slot as u32);
                    r.key = None;
                }
            }
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
        let unix_nanos = context.unix_nanos;
        let Some(engine) = context.engine.as_deref_mut() else {
            return Ok(());
        };
        self.prepare(engine, context.peers, unix_nanos)?;
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

    fn record(&mut self, _kind: u8, bytes: &[u8], context: &mut Context<'_>) -> Option<Record> {
        let r = FlowRecord::decode(bytes)?;
        Some(Record::Flow(Box::new(flow(&r, context))))
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        let sweep = self
            .last_sweep
            .is_none_or(|t| context.now.duration_since(t) >= self.options.sweep_interval);
        if sweep {
            self.last_sweep = Some(context.now);
            if let Some(Err(e)) = context
                .engine
                .as_deref()
                .and_then(|e| e.run_iterator("tcp_sweep"))
            {
                tracing::warn!("probe tcp: sweep: {e}");
            }
        }
        let seen = context.engine.as_deref().map_or(0, table_changes);
        if sweep || seen != self.table_seen {
            self.table_seen = seen;
            self.refresh(context);
        }
        let Some(engine) = context.engine.as_deref() else {
            return;
        };
        let shards = engine.sizes.shards as usize;
        for (slot, row) in self.rows.iter_mut().enumerate() {
            if let Some(row) = row
                && let Some(series) = self.pairs.get_mut(row.series)
            {
                row.read(&engine.cells, slot, shards, series);
            }
        }
        if sweep {
            self.recycle();
        }
    }

    fn relieve(&mut self, level: u32, context: &mut Context<'_>) {
        let mask = (1u64 << level.min(6)) - 1;
        if let Some(maps) = &mut self.maps
            && let Err(e) = maps.switches.set(RTT_SAMPLE_MASK, mask, 0)
        {
            tracing::warn!("probe tcp: sampling rate: {e}");
        }
        let Some(engine) = context.engine.as_deref_mut() else {
            return;
        };
        if level > 6 && self.probing {
            engine.detach(&RTT);
            engine.leave_off(&RTT, "the CPU budget is spent; RTT comes from the sweep");
            self.probing = false;
        } else if level <= 6
            && self.options.source == Source::Auto
            && !self.probing
            && engine
                .verdicts
                .iter()
                .any(|v| v.program == RTT.name && v.state == State::Off)
        {
            engine.unsettle();
            engine.verdicts.retain(|v| v.program != RTT.name);
            self.probing = engine.attach(&RTT) == State::Attached;
            engine.settle();
        } else {
            return;
        }
        self.settle_source();
    }

    fn collect(&mut self, out: &mut Vec<Family>) {
        metrics::collect(&mut self.pairs, out);
        out.push(metrics::source_info(self.source));
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

fn flow(r: &FlowRecord, context: &mut Context<'_>) -> Flow {
    let subject = context.identity.subject(&r.subject, &r.comm);
    let peer = context.peers.get(r.peer);
    let micros = |v: u32| (v != 0 && v != u32::MAX).then(|| f64::from(v) / 1e6);
    let event = match (r.state, r.established) {
        (7, 1) => "closed",
        (7, _) => "failed",
        _ => "open",
    };
    let process = std::ffi::CStr::from_bytes_until_nul(&r.comm).map_or_else(
        |_| String::from_utf8_lossy(&r.comm).into_owned(),
        |s| s.to_string_lossy().into_owned(),
    );
    Flow {
        time: r.time.wrapping_add(context.boot_to_unix) as f64 / 1e9,
        event: event.into(),
        state: state_name(r.old_state).into(),
        role: ROLES.get(r.role as usize).copied().unwrap_or("unknown").into(),
        error: END_REASONS
            .get(end_reason(r.error))
            .copied()
            .unwrap_or("other")
            .into(),
        subject: subject.label.clone(),
        process: crate::aggregate::labels::clean(&process),
        pid: r.subject.tgid,
        local: address(r.local, r.local_port),
        remote: address(r.remote, r.remote_port),
        peer: peer.name.clone(),
        peer_region: peer.region.clone(),
        peer_zone: peer.zone.clone(),
        duration: (r.duration != 0).then(|| r.duration as f64 / 1e9),
        connect: micros(r.connect),
        rtt: micros(r.srtt),
        rtt_min: micros(r.rtt_min),
        rtt_var: micros(r.rtt_var),
        bytes_received: r.bytes_in,
        bytes_sent: r.bytes_out,
        segments_received: r.segments_in,
        segments_sent: r.segments_out,
        retransmits: r.retransmits,
        spurious: r.spurious,
        cwnd: r.cwnd,
        cookie: r.cookie,
    }
}

/// An address of the kernel side: IPv4 leaves its mapping.
pub fn address(bytes: [u8; 16], port: u16) -> SocketAddr {
    let v6 = Ipv6Addr::from(bytes);
    SocketAddr::new(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4), port)
}

/// Name of a TCP state, as include/net/tcp_states.h has it.
pub const fn state_name(state: u8) -> &'static str {
    match state {
        1 => "ESTABLISHED",
        2 => "SYN_SENT",
        3 => "SYN_RECV",
        4 => "FIN_WAIT1",
        5 => "FIN_WAIT2",
        6 => "TIME_WAIT",
        7 => "CLOSE",
        8 => "CLOSE_WAIT",
        9 => "LAST_ACK",
        10 => "LISTEN",
        11 => "CLOSING",
        _ => "UNKNOWN",
    }
}

const _: () = assert!(counter::LISTEN_DROPS < counter::COUNT);
