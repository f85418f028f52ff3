//! What is shown: rates, percentiles and rows, ready to print. Also the body of `GET /api/v1/view`.
//!
//! A [`ViewBuilder`] makes a [`View`] of each snapshot. It remembers what rates need: the counters before, a minute of
//! histograms in steps of ten seconds, and sixty points of history.

mod agent;
mod builder;
mod findings;
mod lookups;
mod meter;
mod pairs;
#[cfg(test)]
mod shots;
mod stacks;
mod tables;
#[cfg(test)]
mod tests;
mod timing;
mod tunnels;

pub use builder::{PAIRS, ViewBuilder};
pub use findings::{Finding, Judges};
pub use lookups::{DnsRow, UdpRow};
pub use stacks::{Hot, HotRow, Watch};
pub use timing::{Distribution, Latency};
pub use tunnels::{InnerPair, TunnelRow};

use serde::{Deserialize, Serialize};

/// Points of history, one a second.
pub const HISTORY: usize = 60;

/// One second of the machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct View {
    /// Host name.
    pub host: String,
    /// Own region; empty = not known.
    pub region: String,
    /// Own zone; empty = not known.
    pub zone: String,
    /// Number of the snapshot.
    pub tick: u64,
    /// When it was taken, seconds since the Unix epoch.
    pub time: f64,
    /// Seconds since the agent started.
    pub uptime: f64,
    /// Seconds since the snapshot before, to which rates refer; `None` = there was none, and rates are zero.
    pub interval: Option<f64>,
    /// All pairs together. Its histograms are exact sums.
    pub total: PairRow,
    /// Who talks to whom, the busiest of the last minute first.
    pub pairs: Vec<PairRow>,
    /// All pairs together by the region of the peer, in the order of their names. Histograms are exact sums.
    pub regions: Vec<PairRow>,
    /// Pairs that are in `total` but not in `pairs`.
    pub pairs_omitted: usize,
    /// Dropped packets by cause, the most frequent first.
    pub drops: Vec<DropRow>,
    /// Dropped packets per second, all causes.
    pub drops_rate: f64,
    /// Dropped packets since the start.
    pub drops_total: u64,
    /// Dropped packets per second, history.
    pub drops_history: Vec<f64>,
    /// Network interfaces, by name.
    pub devices: Vec<DeviceRow>,
    /// Tunnels, those that are not well first, then the busiest.
    pub tunnels: Vec<TunnelRow>,
    /// Lookups, the busiest first; `None` = probe `dns` is off.
    pub dns: Option<Vec<DnsRow>>,
    /// Datagrams, the busiest first; `None` = probe `udp` is off.
    pub udp: Option<Vec<UdpRow>>,
    /// Hot functions and subjects; `None` = probe `profile` is off.
    pub stacks: Option<Hot>,
    /// Alerts, anomalies and scores; `None` = nothing is remembered, so nothing is judged.
    pub findings: Option<Vec<Finding>>,
    /// What the agent costs.
    pub cost: Cost,
    /// What became of every event, by probe.
    pub accounts: Vec<Account>,
    /// How the agent's totals compare with the kernel's own counters.
    pub coverage: Vec<Coverage>,
    /// What became of every program at load.
    pub verdicts: Vec<Verdict>,
}

/// Connections of one subject with one peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PairRow {
    /// Who.
    pub subject: String,
    /// To whom.
    pub peer: String,
    /// Region of the peer.
    pub peer_region: String,
    /// Zone of the peer.
    pub peer_zone: String,
    /// Takes all pairs that found no room of their own.
    pub overflow: bool,
    /// Live connections.
    pub connections: u64,
    /// Round-trip time.
    pub rtt: Option<Latency>,
    /// Difference of consecutive round-trip times of a connection.
    pub jitter: Option<Latency>,
    /// SYN sent to established.
    pub connect: Option<Latency>,
    /// Established to accepted.
    pub accept: Option<Latency>,
    /// Round-trip times since the start of the series.
    pub rtt_since_start: Distribution,
    /// Retransmitted share of the segments sent in the last ten seconds; `None` = none sent.
    pub retransmit_ratio: Option<f64>,
    /// Payload bytes received per second.
    pub receive_rate: f64,
    /// Payload bytes sent per second.
    pub transmit_rate: f64,
    /// Payload bytes per second, both directions, history.
    pub history: Vec<f64>,
    /// Connections opened per second.
    pub opened_rate: f64,
    /// Attempts failed per second.
    pub failed_rate: f64,
    /// Resets per second, both directions.
    pub resets_rate: f64,
    /// Resets since the start.
    pub resets: u64,
    /// Routers on the way, as seen last; `None` = not known.
    pub hops: Option<u8>,
    /// Path MTU in bytes, as seen last; `None` = not known.
    pub mtu: Option<u32>,
    /// Every counter of the pair that is not zero.
    pub counters: Vec<Counter>,
}

/// A counter of a pair.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counter {
    /// What: `retransmits`, `segments`, `bytes` …
    pub name: String,
    /// Which: `fast`, `receive`, `client failed refused` …
    pub kind: String,
    /// Since the start of the series.
    pub total: u64,
    /// Per second.
    pub rate: f64,
}

/// Packets dropped for one cause.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DropRow {
    /// Kernel's reason.
    pub reason: String,
    /// Protocol.
    pub protocol: String,
    /// Network interface.
    pub device: String,
    /// `receive`, `transmit` or empty.
    pub direction: String,
    /// Who, where known.
    pub subject: String,
    /// Packets per second.
    pub rate: f64,
    /// Packets since the start.
    pub total: u64,
    /// Seconds since the last one; `None` = before this view began.
    pub age: Option<f64>,
    /// Packets per second, history.
    pub history: Vec<f64>,
}

/// One direction of a network interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lane {
    /// Bytes per second.
    pub bytes_rate: f64,
    /// Packets per second.
    pub packets_rate: f64,
    /// Errors per second.
    pub errors_rate: f64,
    /// Drops per second.
    pub drops_rate: f64,
    /// Bytes since the start.
    pub bytes: u64,
    /// Packets since the start.
    pub packets: u64,
    /// Errors since the start.
    pub errors: u64,
    /// Drops since the start.
    pub drops: u64,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRow {
    /// Its name.
    pub device: String,
    /// What comes in.
    pub receive: Lane,
    /// What goes out.
    pub transmit: Lane,
    /// Bytes per second that the link carries; `None` = not known.
    pub speed: Option<f64>,
    /// Bytes per second, both directions, history.
    pub history: Vec<f64>,
}

/// What the agent costs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cost {
    /// CPU seconds per second in userspace, as a share of one core; of the whole life in the first view.
    pub cpu: Option<f64>,
    /// CPU seconds since the start.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub memory_bytes: Option<f64>,
    /// Memory of all BPF maps.
    pub map_bytes: f64,
    /// CPU seconds per second in BPF programs, as a share of one core.
    pub bpf: f64,
    /// CPU seconds in BPF programs since the start.
    pub bpf_seconds: f64,
    /// Programs, the most expensive first.
    pub programs: Vec<ProgramRow>,
    /// Steps by which the governor has lowered sampling; `None` = no governor.
    pub governor_level: Option<f64>,
}

/// Run time of a BPF program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgramRow {
    /// Its name.
    pub program: String,
    /// CPU seconds per second, as a share of one core.
    pub cpu: f64,
    /// Runs per second.
    pub runs_rate: f64,
    /// CPU seconds since the start.
    pub seconds: f64,
    /// Runs since the start.
    pub runs: u64,
    /// ns per run: of the last interval, or since the start if it did not run.
    pub nanos_per_run: Option<f64>,
}

/// `seen = filtered + sampled + delivered + in_flight + Σ dropped`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Account {
    /// Probe.
    pub probe: String,
    /// Events that reached its programs.
    pub seen: u64,
    /// None of the probe's business.
    pub filtered: u64,
    /// Left out on purpose.
    pub sampled: u64,
    /// Arrived in series.
    pub delivered: u64,
    /// Still on the way.
    pub in_flight: u64,
    /// Lost, where and why.
    pub dropped: Vec<Loss>,
    /// What the law leaves over.
    pub unaccounted: f64,
    /// Events per second.
    pub rate: f64,
}

/// Events lost at one place for one reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Loss {
    /// Where.
    pub stage: String,
    /// Why.
    pub reason: String,
    /// How many since the start.
    pub total: u64,
    /// Per second.
    pub rate: f64,
}

impl Account {
    /// Events lost, all reasons.
    pub fn lost(&self) -> u64 {
        self.dropped.iter().map(|l| l.total).sum()
    }
}

/// Own total by the kernel's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Coverage {
    /// What is compared.
    pub metric: String,
    /// Agent's total / kernel's total.
    pub ratio: f64,
}

/// What became of a program at load.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdict {
    /// Its name.
    pub program: String,
    /// `attached`, `unsupported`, `broken` or `off`.
    pub state: String,
    /// Where it is attached, or why not and what would help.
    pub note: String,
}
