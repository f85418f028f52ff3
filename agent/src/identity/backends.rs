//! Who is behind a service: what NAT has made of connections to services' addresses, as the kernel's connection tracking has it.
//!
//! A socket knows the address that it was given, and so does the row that counts what it does. kube-proxy's NAT, in the node's
//! network namespace, sends it to an endpoint, and only the table of connections knows to which. It is looked through now and then.

use crate::aggregate::{Collect, Family, Label, Labels, Series, Value, label, metrics};
use crate::error::{Error, Result};
use crate::rtnetlink;
use agent_kube::{Backend, Kubernetes};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(10);
/// And so many times what a look takes, which is a third of a percent of a CPU at most.
const SHARE: u32 = 300;
/// Most connections of a look: of more nothing is said.
const MAX_CONNECTIONS: usize = 262_144;

metrics! {
    /// Connections.
    CONNECTIONS = "geophone_kubernetes_backend_connections", "geophone.kubernetes.backend.connections", "{connection}", Gauge,
        &[&label::PEER, &BACKEND, &label::PEER_REGION, &label::PEER_ZONE],
        "Established TCP connections through this node to a service's address, by the endpoint that NAT has sent them to, at the last \
         look at the kernel's connection tracking (each 10 s, or more seldom where it is large); with kubernetes.peers";
    /// Looks.
    LOOKS = "geophone_kubernetes_backend_looks_total", "geophone.kubernetes.backend.looks", "{look}", Counter, &[&label::OUTCOME],
        "Looks at the kernel's connection tracking: done, or failed, after which there is no geophone_kubernetes_backend_connections";
}

static BACKEND: Label = Label {
    prometheus: "backend",
    otlp: "geophone.kubernetes.backend",
    help: "The endpoint that a connection really reaches: namespace and name of the pod, or its address if it is none",
};

/// What the last look has seen.
#[derive(Default)]
struct Seen {
    connections: HashMap<Backend, u64>,
    done: u64,
    failed: u64,
}

/// Looks, and tells what it sees.
pub struct Backends {
    seen: Arc<Mutex<Seen>>,
    /// Most series.
    most: usize,
    labels: HashMap<Backend, Arc<Labels>>,
    other: Arc<Labels>,
    outcomes: [Arc<Labels>; 2],
    start: u64,
}

impl Backends {
    /// Starts a thread that looks for as long as this is there.
    pub fn start(kubernetes: Kubernetes, most: usize, start_unix_nanos: u64) -> Result<Self> {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let own = Self::of(seen.clone(), most, start_unix_nanos);
        let thread = std::thread::Builder::new().name("conntrack".into());
        let look = move || {
            let (mut is_told, mut connections) = (false, Vec::new());
            // Nobody has it but this: the other one is gone.
            while Arc::strong_count(&seen) > 1 {
                let begun = Instant::now();
                connections.clear();
                let done = read(&mut connections);
                let behind = kubernetes.behind(&connections);
                {
                    let mut seen = locked(&seen);
                    seen.done += u64::from(done.is_ok());
                    seen.failed += u64::from(done.is_err());
                    seen.connections = if done.is_ok() { behind } else { HashMap::new() };
                }
                if let Err(e) = done
                    && !std::mem::replace(&mut is_told, true)
                {
                    tracing::warn!(
                        "{e}; which endpoints are behind services is not known; give the process CAP_NET_ADMIN"
                    );
                }
                std::thread::sleep(INTERVAL.max(begun.elapsed() * SHARE));
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
            outcomes: ["done", "failed"].map(outcome),
            start,
        }
    }
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collect for Backends {
    fn collect(&mut self, out: &mut Vec<Family>) {
        let (mut connections, looks) = {
            let seen = locked(&self.seen);
            let all: Vec<(Backend, u64)> = seen.connections.iter().map(|(of, n)| (of.clone(), *n)).collect();
            (all, [seen.done, seen.failed])
        };
        // Those with the most have series of their own; among equals always the same.
        connections.sort_unstable_by(|(a, more), (b, less)| less.cmp(more).then_with(|| a.cmp(b)));
        let rest: u64 = connections.iter().skip(self.most).map(|(_, count)| count).sum();
        connections.truncate(self.most);
        self.labels
            .retain(|known, _| connections.iter().any(|(of, _)| of == known));
        let start = self.start;
        let mut series: Vec<Series> = connections
            .into_iter()
            .map(|(of, count)| {
                let new = || {
                    let values = [&*of.service, &of.pod, &of.region, &of.zone];
                    Arc::new(Labels::new(CONNECTIONS.labels, &values, false, start))
                };
                Series {
                    labels: self.labels.entry(of.clone()).or_insert_with(new).clone(),
                    value: Value::Gauge(count as f64),
                }
            })
            .collect();
        if rest > 0 {
            series.push(Series {
                labels: self.other.clone(),
                value: Value::Gauge(rest as f64),
            });
        }
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

/// Established connections of this network namespace that go elsewhere than they were sent, by both.
fn read(out: &mut Vec<(IpAddr, IpAddr)>) -> Result<()> {
    const NETLINK_NETFILTER: isize = 12;
    const CT_GET: u16 = 1 << 8 | 1;
    const CT_NEW: u16 = 1 << 8;
    // Asking would have the kernel load what is not there: then nothing is tracked either.
    let count = std::fs::read_to_string("/proc/thread-self/net/stat/nf_conntrack");
    if count.is_err() {
        return Ok(());
    }
    // Any family; since Linux 5.17 the kernel leaves out what it has not sent elsewhere, before all is looked through here.
    let mut body = vec![0; 4];
    for kind in [kind::STATUS, kind::STATUS_MASK] {
        body.extend(8u16.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(DESTINATION_CHANGED.to_be_bytes());
    }
    let mut is_whole = true;
    rtnetlink::ask(
        NETLINK_NETFILTER,
        CT_GET,
        NLM_F_REQUEST | NLM_F_DUMP,
        &body,
        |kind, body| {
            if kind == CT_NEW {
                out.extend(body.get(4..).and_then(parse));
            }
            is_whole = out.len() <= MAX_CONNECTIONS;
            is_whole
        },
    )
    .map_err(|e| Error::new(format_args!("connection tracking: {e}")))?;
    if is_whole {
        Ok(())
    } else {
        Err(Error::new(format_args!(
            "connection tracking: more than {MAX_CONNECTIONS} connections to services"
        )))
    }
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
mod tests {
    use super::*;

    fn attribute(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut out = ((body.len() + 4) as u16).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(body);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn connection(status: u32, state: u8) -> Vec<u8> {
        const NESTED: u16 = 1 << 15;
        let tuple = |kind: u16, ends: [[u8; 4]; 2]| {
            let addresses = [attribute(1, &ends[0]), attribute(2, &ends[1])].concat();
            let protocol = [attribute(1, &[6]), attribute(2, &[1, 2])].concat();
            let both = [
                attribute(NESTED | 1, &addresses),
                attribute(NESTED | 2, &protocol),
            ]
            .concat();
            attribute(NESTED | kind, &both)
        };
        let tcp = attribute(NESTED | 1, &[attribute(1, &[state]), attribute(2, &[7])].concat());
        [
            tuple(1, [[10, 244, 0, 5], [10, 96, 0, 10]]),
            tuple(2, [[10, 244, 1, 7], [10, 244, 0, 5]]),
            attribute(3, &status.to_be_bytes()),
            attribute(NESTED | 4, &tcp),
            attribute(7, &[0, 0, 0, 9]),
        ]
        .concat()
    }

    #[test]
    fn established_connections_that_nat_sends_elsewhere() {
        let (service, pod) = (IpAddr::from([10, 96, 0, 10]), IpAddr::from([10, 244, 1, 7]));
        let whole = connection(0x1ae, 3);
        assert_eq!(parse(&whole), Some((service, pod)));
        assert_eq!(parse(&connection(0x18e, 3)), None, "not sent elsewhere");
        assert_eq!(parse(&connection(0x1ae, 7)), None, "over");
        // Whatever is cut off or lies about its length is no connection, and no end is missed.
        for cut in 0..whole.len() - 8 {
            let _ = parse(&whole[..cut]);
            let mut lie = whole.clone();
            lie[cut] = 0xff;
            let _ = parse(&lie);
            lie[cut] = 0;
            let _ = parse(&lie);
        }
        assert_eq!(parse(&[0, 0, 3, 0]), None);
        assert_eq!(parse(&[]), None);
    }

    #[test]
    fn those_with_the_most_have_series_and_the_rest_is_other() {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let mut backends = Backends::of(seen.clone(), 2, 1);
        let mut look = |counts: &[(&str, u64)]| {
            let backend = |pod: &str| Backend {
                service: "shop/db".into(),
                pod: pod.into(),
                zone: "eu-1a".into(),
                region: "".into(),
            };
            locked(&seen).connections = counts.iter().map(|(pod, n)| (backend(pod), *n)).collect();
            let mut out = Vec::new();
            backends.collect(&mut out);
            let shown = out[0].series.iter().map(|series| match series.value {
                Value::Gauge(count) => format!("{} {count}", series.labels.text),
                _ => unreachable!(),
            });
            (shown.collect::<Vec<_>>(), backends.labels.len())
        };
        let own = |pod: &str, n: u64| format!("peer=\"shop/db\",backend=\"{pod}\",peer_zone=\"eu-1a\" {n}");
        let other = |n| format!("peer=\"other\",backend=\"other\",otel_metric_overflow=\"true\" {n}");
        assert_eq!(
            look(&[("b", 1), ("a", 1), ("c", 5), ("d", 1)]).0,
            [own("c", 5), own("a", 1), other(2)]
        );
        assert_eq!(look(&[("d", 1)]), (vec![own("d", 1)], 1));
        assert_eq!(look(&[]), (vec![], 0));
    }
}
