//! Who is behind a service: what NAT has made of connections to services' addresses, as the kernel's connection tracking has it.
//!
//! A socket knows the address that it was given, and so does the row that counts what it does. kube-proxy's NAT, in the node's
//! network namespace, sends it to an endpoint, and only the table of connections knows to which. It is looked through now and then.

use crate::aggregate::labels::clean;
use crate::aggregate::{Collect, Family, Label, Labels, Series, Value, label, metrics};
use crate::error::{Error, Result};
use crate::rtnetlink::{self, Failure};
use agent_kube::{Backend, Kubernetes};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use nix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(10);
/// And so many times the CPU time that a look takes, which is a third of a percent of a CPU at most,
const SHARE: u32 = 300;
/// but no longer than this.
const LONGEST: Duration = Duration::from_secs(300);
/// Most pairs of service and endpoint of a look: of more nothing is said.
const MAX_PAIRS: usize = 65_536;
/// One of them is there where connections are tracked.
const TRACKED: [&str; 2] = [
    "/proc/thread-self/net/stat/nf_conntrack",
    "/proc/sys/net/netfilter/nf_conntrack_count",
];

metrics! {
    /// Connections.
    CONNECTIONS = "geophone_kubernetes_backend_connections", "geophone.kubernetes.backend.connections", "{connection}", Gauge,
        &[&label::PEER, &BACKEND, &label::PEER_REGION, &label::PEER_ZONE],
        "Established TCP connections through this node to a service's address, by the endpoint that NAT has sent them to, at the last \
         look at the kernel's connection tracking (each 10 s, where it is large up to each 5 minutes; there is none of a look that is \
         twice as old); with kubernetes.peers";
    /// Looks.
    LOOKS = "geophone_kubernetes_backend_looks_total", "geophone.kubernetes.backend.looks", "{look}", Counter, &[&label::OUTCOME],
        "Looks at the kernel's connection tracking: done; untracked, where the kernel tracks no connections; or failed. \
         After the last two there is no geophone_kubernetes_backend_connections";
}

static BACKEND: Label = Label {
    prometheus: "backend",
    otlp: "geophone.kubernetes.backend",
    help: "The endpoint that a connection really reaches: namespace and name of the pod, or its address if it is none",
};

/// Of service and endpoint, how many connections there are.
type Pairs = HashMap<(IpAddr, IpAddr), u64>;

/// How a look has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Untracked,
    Failed,
}

const OUTCOMES: [&str; 3] = ["done", "untracked", "failed"];

/// What the last look has seen.
#[derive(Default)]
struct Seen {
    /// Of a look that nobody has asked for yet.
    connections: Option<HashMap<Backend, u64>>,
    /// When it is too old; `None` = there is nothing.
    until: Option<Instant>,
    looks: [u64; 3],
}

impl Seen {
    fn end(&mut self, outcome: Outcome, connections: HashMap<Backend, u64>, until: Instant) {
        self.looks[outcome as usize] += 1;
        self.connections = Some(connections);
        self.until = (outcome == Outcome::Done).then_some(until);
    }
}

/// Why a look has failed, and what can be done.
#[derive(Debug)]
struct Trouble {
    why: Error,
    remedy: &'static str,
}

impl From<Error> for Trouble {
    fn from(why: Error) -> Self {
        Self { why, remedy: "" }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self {
            remedy: if failure.is_not_permitted() {
                "; give the process CAP_NET_ADMIN"
            } else {
                ""
            },
            why: Error::new(format_args!("connection tracking: {failure}")),
        }
    }
}

/// Looks, and tells what it sees.
pub struct Backends {
    seen: Arc<Mutex<Seen>>,
    /// Most series.
    most: usize,
    labels: HashMap<Backend, Arc<Labels>>,
    other: Arc<Labels>,
    outcomes: [Arc<Labels>; 3],
    /// Of the last look.
    series: Vec<Series>,
    start: u64,
}

impl Backends {
    /// Starts a thread that looks for as long as this is there.
    pub fn start(kubernetes: Kubernetes, most: usize, start_unix_nanos: u64) -> Result<Self> {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let own = Self::of(seen.clone(), most, start_unix_nanos);
        let thread = std::thread::Builder::new().name("conntrack".into());
        let look = move || {
            let mut is_told = false;
            // Nobody has it but this: the other one is gone.
            while Arc::strong_count(&seen) > 1 {
                let begun = cpu();
                let mut pairs = Pairs::new();
                let looked = read(&mut pairs);
                let (outcome, behind) = match looked {
                    Ok(Outcome::Done) => (Outcome::Done, shown(kubernetes.behind(&pairs))),
                    Ok(outcome) => (outcome, HashMap::new()),
                    Err(Trouble { why, remedy }) => {
                        if !is_told {
                            tracing::warn!("{why}; which endpoints are behind services is not known{remedy}");
                        }
                        (Outcome::Failed, HashMap::new())
                    }
                };
                is_told = outcome == Outcome::Failed;
                drop(pairs);
                let pause = pause(cpu().saturating_sub(begun));
                locked(&seen).end(outcome, behind, Instant::now() + 2 * pause);
                std::thread::sleep(pause);
            }
        };
        thread
            .spawn(look)
            .map_err(|e| Error::new(format_args!("starting a thread: {e}")))?;
        Ok(own)
    }

    fn of(seen: Arc<Mutex<Seen>>, most: usize, start: u64) -> Self {
        let outcome = |outcome| Arc::new(Labels::new(LOOKS.labels, &[outcome], false, start));
        Self {
            seen,
            most,
            labels: HashMap::new(),
            other: Arc::new(Labels::new(CONNECTIONS.labels, &["other", "other"], true, start)),
            outcomes: OUTCOMES.map(outcome),
            series: Vec::new(),
            start,
        }
    }

    /// Makes the series of a look.
    fn show(&mut self, connections: HashMap<Backend, u64>) {
        let mut connections: Vec<(Backend, u64)> = connections.into_iter().collect();
        // Those with the most have series of their own; among equals always the same.
        connections.sort_unstable_by(|(a, more), (b, less)| less.cmp(more).then_with(|| a.cmp(b)));
        let rest: u64 = connections.iter().skip(self.most).map(|(_, count)| count).sum();
        connections.truncate(self.most);
        let (mut before, start) = (std::mem::take(&mut self.labels), self.start);
        self.series.clear();
        for (of, count) in connections {
            let new = || {
                let values = [&*of.service, &of.pod, &of.region, &of.zone];
                Arc::new(Labels::new(CONNECTIONS.labels, &values, false, start))
            };
            let labels = before.remove(&of).unwrap_or_else(new);
            self.series.push(Series {
                labels: labels.clone(),
                value: Value::Gauge(count as f64),
            });
            self.labels.insert(of, labels);
        }
        if rest > 0 {
            self.series.push(Series {
                labels: self.other.clone(),
                value: Value::Gauge(rest as f64),
            });
        }
    }
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// CPU time of this thread: what it waits for costs nobody anything.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// After a look that took so much of it.
fn pause(cpu: Duration) -> Duration {
    cpu.saturating_mul(SHARE).clamp(INTERVAL, LONGEST)
}

/// As labels show them: what they cut off makes no two of them.
fn shown(all: HashMap<Backend, u64>) -> HashMap<Backend, u64> {
    let cut = |text: &mut Arc<str>| {
        let clean = clean(text);
        if *clean != **text {
            *text = clean.into();
        }
    };
    let mut out = HashMap::with_capacity(all.len());
    for (mut of, count) in all {
        [&mut of.service, &mut of.pod, &mut of.zone, &mut of.region]
            .into_iter()
            .for_each(cut);
        *out.entry(of).or_default() += count;
    }
    out
}

impl Collect for Backends {
    fn collect(&mut self, out: &mut Vec<Family>) {
        let (news, until, looks) = {
            let mut seen = locked(&self.seen);
            (seen.connections.take(), seen.until, seen.looks)
        };
        if let Some(connections) = news {
            self.show(connections);
        }
        let is_fresh = until.is_some_and(|until| Instant::now() < until);
        let series = if is_fresh { self.series.clone() } else { Vec::new() };
        let looks = self.outcomes.iter().zip(looks).map(|(labels, count)| Series {
            labels: labels.clone(),
            value: Value::Counter(count),
        });
        let looks = looks.collect();
        out.extend([
            Family {
                metric: &CONNECTIONS,
                series,
            },
            Family {
                metric: &LOOKS,
                series: looks,
            },
        ]);
    }
}

/// Whether connections are tracked here. Asking for them would have the kernel load what is not there.
fn is_tracked(places: [&Path; 2]) -> Result<bool> {
    for place in places {
        match std::fs::metadata(place) {
            Ok(_) => return Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(Error::new(format_args!("{}: {e}", place.display()))),
        }
    }
    Ok(false)
}

/// Established connections of this network namespace that go elsewhere than they were sent, by both.
fn read(out: &mut Pairs) -> std::result::Result<Outcome, Trouble> {
    const NETLINK_NETFILTER: isize = 12;
    const CT_GET: u16 = 1 << 8 | 1;
    const CT_NEW: u16 = 1 << 8;
    if !is_tracked(TRACKED.map(Path::new))? {
        return Ok(Outcome::Untracked);
    }
    // Any family; since Linux 5.17 the kernel leaves out what it has not sent elsewhere, before all is looked through here.
    let mut body = vec![0; 4];
    for kind in [kind::STATUS, kind::STATUS_MASK] {
        body.extend(8u16.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(DESTINATION_CHANGED.to_be_bytes());
    }
    rtnetlink::ask_for_all(
        NETLINK_NETFILTER,
        CT_GET,
        NLM_F_REQUEST | NLM_F_DUMP,
        &body,
        |kind, body| {
            if kind == CT_NEW
                && let Some(pair) = body.get(4..).and_then(parse)
            {
                *out.entry(pair).or_default() += 1;
            }
            out.len() <= MAX_PAIRS
        },
    )?;
    if out.len() > MAX_PAIRS {
        return Err(Error::new(format_args!(
            "connection tracking: more than {MAX_PAIRS} pairs of service and endpoint"
        ))
        .into());
    }
    Ok(Outcome::Done)
}

/// Kinds of attributes of include/uapi/linux/netfilter/nfnetlink_conntrack.h.
mod kind {
    pub const ORIGINAL: u16 = 1;
    pub const REPLY: u16 = 2;
    pub const STATUS: u16 = 3;
    pub const PROTOCOL_INFO: u16 = 4;
    pub const STATUS_MASK: u16 = 26;
    /// Of a tuple.
    pub const ADDRESSES: u16 = 1;
    /// Of the addresses.
    pub const SOURCE: [u16; 2] = [1, 3];
    pub const DESTINATION: [u16; 2] = [2, 4];
    /// Of what a protocol knows.
    pub const TCP: u16 = 1;
    pub const TCP_STATE: u16 = 1;
}

/// IPS_DST_NAT.
const DESTINATION_CHANGED: u32 = 1 << 5;
/// TCP_CONNTRACK_ESTABLISHED.
const ESTABLISHED: u8 = 3;

/// Whom a connection was sent to and whom it reaches, if it is an established one of TCP that NAT sends elsewhere.
fn parse(body: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let status = find(body, &[kind::STATUS])?;
    let status = u32::from_be_bytes(status.try_into().ok()?);
    let state = find(
        find(find(body, &[kind::PROTOCOL_INFO])?, &[kind::TCP])?,
        &[kind::TCP_STATE],
    )?;
    if status & DESTINATION_CHANGED == 0 || state != [ESTABLISHED] {
        return None;
    }
    let end = |tuple: u16, end: &[u16]| address(find(find(find(body, &[tuple])?, &[kind::ADDRESSES])?, end)?);
    Some((
        end(kind::ORIGINAL, &kind::DESTINATION)?,
        end(kind::REPLY, &kind::SOURCE)?,
    ))
}

/// The first attribute of one of these kinds.
fn find<'a>(mut attributes: &'a [u8], kinds: &[u16]) -> Option<&'a [u8]> {
    const HEADER: usize = 4;
    // Two bits say how it is to be read.
    const KIND: u16 = 0x3fff;
    loop {
        let half = |at: usize| Some(u16::from_ne_bytes(attributes.get(at..at + 2)?.try_into().ok()?));
        let (length, kind) = (usize::from(half(0)?), half(2)? & KIND);
        let own = attributes.get(HEADER..length)?;
        if kinds.contains(&kind) {
            return Some(own);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|v6| Ipv6Addr::from(v6).into())
}

#[cfg(test)]
#[path = "backends_tests.rs"]
mod tests;
