//! The probes: what each attaches, how its data is read, and the metrics that it owns.
//!
//! A probe is one file here, one in agent-ebpf, one in agent-common and one in tests, all of its name. [`METRICS`] and
//! [`crate::app::probes()`] are the ordered lists to which a new one is added.

pub mod block;
pub mod cgroup;
pub mod dns;
pub mod drops;
pub mod netdev;
pub mod node;
pub mod path;
pub mod profile;
pub mod sched;
pub mod tcp;
pub mod tunnel;
pub mod udp;

mod histograms;
mod slots;
mod totals;
mod watch;

use crate::aggregate::{Family, Metric};
use crate::bpf::KernelMap;
use crate::bpf::{Engine, Sizes, Spec};
use crate::coverage::Reading;
use crate::error::Result;
use crate::governor::MAX_LEVEL;
use crate::identity::{Identity, Peers};
use crate::record::Source;
use crate::records::{Record, RouteChange};
use crate::stacks::Stacks;
use agent_common::wire::Wire;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What a probe may use while it works.
pub struct Context<'a> {
    /// The kernel side; `None` = it could not be had, and only probes without programs work.
    pub engine: Option<&'a mut Engine>,
    /// Names of subjects.
    pub identity: &'a mut Identity,
    /// Names of peers.
    pub peers: &'a Peers,
    /// Now.
    pub now: Instant,
    /// When the last tick was, ns since the Unix epoch: a series that is found now was zero then.
    pub series_start: u64,
    /// Somebody listens to told events.
    pub listened: bool,
    /// This is the last tick.
    pub last: bool,
    /// What the kernel gave up on each device; probe `drops` writes it, others read it.
    pub device_drops: &'a mut DeviceDrops,
    /// Now, ns since the Unix epoch.
    pub unix_nanos: u64,
    /// To be added to a time since boot to get a time since the epoch, ns.
    pub boot_to_unix: u64,
    /// Where what is asked of the kernel comes from.
    pub source: &'a Source,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// The map.
    pub map: &'static str,
    /// Entries that are somebody's.
    pub used: usize,
    /// How many there may be.
    pub most: usize,
}

/// Packets by reason; by network namespace (its inode) and interface index.
pub type DeviceDrops = HashMap<(u32, u32), BTreeMap<String, u64>>;

/// A probe.
pub trait Probe: Send {
    /// Its one name.
    fn name(&self) -> &'static str;

    /// Attaches its programs, best first; each ends in a verdict, none is fatal.
    fn attach(&mut self, context: &mut Context<'_>) -> Result<()>;

    /// Takes a record of one of its kinds. `None` = malformed; the caller counts it. Nothing is made of a good one
    /// while nobody listens.
    fn record(&mut self, _kind: u8, _bytes: &[u8], _context: &mut Context<'_>) -> Option<Option<Record>> {
        None
    }

    /// Kinds of record that it takes.
    fn kinds(&self) -> &'static [u8] {
        &[]
    }

    /// Once a second: reads the kernel's maps.
    fn tick(&mut self, context: &mut Context<'_>);

    /// Changes of routes since the last call. Taken once a second, after the tick.
    fn route_changes(&mut self) -> Vec<RouteChange> {
        Vec::new()
    }

    /// Records of what has happened since the last call that no program tells. Taken once a second, after the tick.
    fn changes(&mut self) -> Vec<Record> {
        Vec::new()
    }

    /// Somebody has begun to listen to told events, or nobody does any more.
    fn listen(&mut self, _listened: bool, _context: &mut Context<'_>) {}

    /// Our counters beside the kernel's at a moment when all of ours were up to date, if there was one since the last
    /// call.
    fn settled(&mut self) -> Option<Reading> {
        None
    }

    /// The connections that it tells as spans, for who asks first.
    fn spans(&mut self) -> Option<tcp::span::Spans> {
        None
    }

    /// The stacks that it takes.
    fn stacks(&self) -> Option<Arc<Stacks>> {
        None
    }

    /// CPU seconds of the kernel for it that are in no program's time.
    fn kernel_seconds(&self) -> f64 {
        0.0
    }

    /// How full those of its maps are whose size is set.
    fn fill(&self, _sizes: &Sizes) -> Vec<Fill> {
        Vec::new()
    }

    /// Appends its families.
    fn collect(&mut self, out: &mut Vec<Family>);

    /// The governor asks for less work: 0 = all of it. Levels are described in `governor.rs`.
    fn relieve(&mut self, _level: u32, _context: &mut Context<'_>) {}

    /// Accounts (`agent_common::account::program`) of its programs.
    fn accounts(&self) -> &'static [usize] {
        &[]
    }
}

/// All entries of a hash.
fn entries<K: Wire, V: Wire>(map: &KernelMap) -> Result<Vec<(K, V)>> {
    let mut found = Vec::new();
    map.for_each(K::SIZE, V::SIZE, |key, value| {
        found.extend(K::decode(key).zip(V::decode(value)));
    })?;
    Ok(found)
}

/// Metrics of all probes, for the documentation and the checks.
pub const METRICS: &[&[&Metric]] = &[
    tcp::METRICS,
    drops::METRICS,
    dns::METRICS,
    udp::METRICS,
    netdev::METRICS,
    node::METRICS,
    cgroup::METRICS,
    tunnel::METRICS,
    path::METRICS,
    block::METRICS,
    sched::METRICS,
    profile::METRICS,
];

/// Puts programs that look at every packet away while the CPU budget has no room for them, the last first, and back.
/// Returns whether they have just been put away.
fn relieve_packets(level: u32, programs: &[Spec], context: &mut Context<'_>) -> bool {
    let Some(engine) = context.engine.as_deref_mut() else {
        return false;
    };
    if level < MAX_LEVEL {
        for spec in programs {
            engine.resume(spec);
        }
        return false;
    }
    let why = "the CPU budget is spent; the probe's series stand still";
    let mut away = false;
    for spec in programs.iter().rev() {
        away |= engine.suspend(spec, why);
    }
    away
}

/// Now, ns since the Unix epoch.
pub fn unix_nanos() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64)
}
