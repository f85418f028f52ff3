//! What can run out of sockets, as the kernel's socket diagnosis has it: places in listen queues, and ephemeral ports.
//!
//! Both are of the agent's network namespace.

use super::Uses;
use crate::error::Result;
use crate::rtnetlink;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::{Duration, Instant};

/// Listen queues are looked at so often.
const QUEUES_EVERY: Duration = Duration::from_secs(10);
/// All sockets are at most so often, and so much seldomer than that takes: a microsecond each.
const PORTS_EVERY: Duration = Duration::from_secs(30);
const SHARE: u32 = 500;

/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
// TCP states, as include/net/tcp_states.h numbers them.
const LISTEN: u32 = 1 << 10;
/// Established to time_wait, close_wait, last_ack and closing: what a connect() has taken a port for.
const CONNECTED: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 11;

/// What is asked of a socket.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Found {
    local: SocketAddr,
    remote: SocketAddr,
    /// Of one that listens: connections that wait to be accepted, and how many may.
    waiting: u32,
    most: u32,
}

/// `struct inet_diag_msg`: what may be read of it.
fn read(body: &[u8]) -> Option<Found> {
    let word = |at: usize| body.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let port = |at: usize| body.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes);
    let address = |at: usize| {
        let bytes: [u8; 16] = body.get(at..at + 16)?.try_into().ok()?;
        if i32::from(*body.first()?) == libc::AF_INET6 {
            // A connection of IPv4 on a socket of IPv6 takes the same ports.
            return Some(IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical());
        }
        let [a, b, c, d, ..] = bytes;
        Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
    };
    Some(Found {
        local: SocketAddr::new(address(8)?, port(4)?),
        remote: SocketAddr::new(address(24)?, port(6)?),
        waiting: word(56)?,
        most: word(60)?,
    })
}

/// All TCP sockets in these states.
fn dump(states: u32, mut each: impl FnMut(Found)) -> Result<()> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        // `struct inet_diag_req_v2`
        let mut request = [0; 56];
        request[0] = family as u8;
        request[1] = libc::IPPROTO_TCP as u8;
        request[4..8].copy_from_slice(&states.to_ne_bytes());
        rtnetlink::ask(
            NETLINK_SOCK_DIAG,
            BY_FAMILY,
            NLM_F_REQUEST | NLM_F_DUMP,
            &request,
            |kind, body| {
                if kind == BY_FAMILY {
                    read(body).into_iter().for_each(&mut each);
                }
                true
            },
        )?;
    }
    Ok(())
}

/// What was found last.
#[derive(Default)]
pub struct Sockets {
    queues: Uses,
    queues_at: Option<Instant>,
    ports: Option<(f64, Option<f64>)>,
    /// When it is time for the next look.
    ports_at: Option<Instant>,
}

impl Sockets {
    /// Looks again at what is due; of listen queues `most`, those in which somebody waits first. Without socket diagnosis in the
    /// kernel there is nothing.
    pub fn uses(&mut self, proc: &Path, most: usize) -> Uses {
        let now = Instant::now();
        if self
            .queues_at
            .is_none_or(|at| now.duration_since(at) >= QUEUES_EVERY)
        {
            self.queues_at = Some(now);
            let mut found = Vec::new();
            let listening = dump(LISTEN, |one| found.push(one));
            self.queues = listening.map_or_else(|_| Uses::new(), |()| queues(&found, most));
        }
        if self.ports_at.is_none_or(|at| now >= at) {
            self.ports = range(proc).and_then(|(range, limit)| {
                let mut busy = Busiest::new(range);
                dump(CONNECTED, |one| busy.add(&one)).ok()?;
                Some((f64::from(busy.most), Some(limit)))
            });
            self.ports_at = Some(now + PORTS_EVERY.max(now.elapsed() * SHARE));
        }
        let mut uses = self.queues.clone();
        uses.extend(
            self.ports
                .map(|ports| (("ephemeral_ports", String::new()), ports)),
        );
        uses
    }
}

/// Of sockets that share an address the fullest.
fn queues(found: &[Found], most: usize) -> Uses {
    let mut all: BTreeMap<SocketAddr, (u32, u32)> = BTreeMap::new();
    for one in found {
        let fill = |(waiting, most): (u32, u32)| f64::from(waiting) / f64::from(most.max(1));
        let known = all.entry(one.local).or_insert((one.waiting, one.most));
        if fill((one.waiting, one.most)) > fill(*known) {
            *known = (one.waiting, one.most);
        }
    }
    let mut all: Vec<(SocketAddr, (u32, u32))> = all.into_iter().collect();
    all.sort_by_key(|(address, (waiting, _))| (*waiting == 0, address.port(), *address));
    let all = all.into_iter().take(most);
    all.map(|(address, (waiting, most))| {
        let limit = (most > 0).then(|| f64::from(most));
        (("listen_queue", address.to_string()), (f64::from(waiting), limit))
    })
    .collect()
}

/// The range of ephemeral ports, and how many of it may be taken.
fn range(proc: &Path) -> Option<(RangeInclusive<u16>, f64)> {
    let text = |name: &str| std::fs::read_to_string(proc.join("sys/net/ipv4").join(name)).ok();
    let range = text("ip_local_port_range")?;
    let mut ends = range.split_whitespace().map(str::parse::<u16>);
    let (low, high) = (ends.next()?.ok()?, ends.next()?.ok()?);
    let reserved = text("ip_local_reserved_ports").unwrap_or_default();
    let reserved = reserved.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        (first.max(low) <= last.min(high)).then(|| f64::from(last.min(high) - first.max(low)) + 1.0)
    });
    let all = f64::from(high.checked_sub(low)?) + 1.0;
    Some((low..=high, all - reserved.sum::<f64>()))
}

/// Ports that connections to one address and port take of one local address: each such three has the whole range for itself.
struct Busiest {
    range: RangeInclusive<u16>,
    counts: HashMap<(IpAddr, SocketAddr), u32>,
    most: u32,
}

impl Busiest {
    fn new(range: RangeInclusive<u16>) -> Self {
        Self {
            range,
            counts: HashMap::new(),
            most: 0,
        }
    }

    fn add(&mut self, one: &Found) {
        if !self.range.contains(&one.local.port()) || one.remote.port() == 0 {
            return;
        }
        let count = self.counts.entry((one.local.ip(), one.remote)).or_default();
        *count += 1;
        self.most = self.most.max(*count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    /// Cause: a listener that accepts nobody, and five who connect. Seen: as many wait, and as many ports are taken.
    #[test]
    fn who_waits_is_in_the_queue_and_takes_a_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let clients: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut found = Vec::new();
        if let Err(why) = dump(LISTEN, |one| found.push(one)) {
            eprintln!("SKIPPED: no socket diagnosis here: {why}");
            return;
        }
        let queues = queues(&found, usize::MAX);
        let (waiting, most) = queues[&("listen_queue", address.to_string())];
        assert!(
            waiting == 5.0 && most.is_some_and(|most| most >= 5.0),
            "{queues:?}"
        );
        let mut busy = Busiest::new(1..=u16::MAX);
        dump(CONNECTED, |one| busy.add(&one)).unwrap();
        assert_eq!(busy.counts[&(address.ip(), address)], 5);
        drop(clients);
    }

    #[test]
    fn queues_with_somebody_in_them_come_first() {
        let one = |port: u16, waiting, most| Found {
            local: SocketAddr::from(([0, 0, 0, 0], port)),
            remote: SocketAddr::from(([0, 0, 0, 0], 0)),
            waiting,
            most,
        };
        let found = [
            one(1, 0, 8),
            one(2, 0, 8),
            one(3, 1, 8),
            one(3, 4, 8),
            one(3, 0, 8),
        ];
        let names: Vec<(String, f64)> = queues(&found, 2)
            .into_iter()
            .map(|((_, name), (waiting, _))| (name, waiting))
            .collect();
        let wanted = [("0.0.0.0:1", 0.0), ("0.0.0.0:3", 4.0)];
        assert_eq!(names, wanted.map(|(name, waiting)| (name.to_owned(), waiting)));
    }

    #[test]
    fn reserved_ports_are_none_that_can_be_had() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("sys/net/ipv4");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("ip_local_port_range"), "1000\t1099\n").unwrap();
        assert_eq!(range(home.path()), Some((1000..=1099, 100.0)));
        std::fs::write(
            directory.join("ip_local_reserved_ports"),
            "80,990-1009,1050,1090-2000\n",
        )
        .unwrap();
        assert_eq!(range(home.path()), Some((1000..=1099, 79.0)));
    }
}
