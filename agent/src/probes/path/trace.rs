//! One trace of an address, and what it says of the way. Runs on the probe's own thread.

use super::Options;
use super::target::Target;
use crate::config::PathProtocol;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use trippy_core::{Builder, MultipathStrategy, Port, PortDirection, ProbeStatus, Protocol, Round};

/// Rounds of a trace: packets that each hop gets.
const ROUNDS: usize = 3;
/// Longest way that is followed.
pub const LONGEST: u8 = 32;
/// Hops in a row that may stay silent before a trace gives up: bounds the packets to an address that does not answer.
const SILENT: u8 = 8;
/// Routers that are remembered of one hop.
const SIDE_BY_SIDE: usize = 4;

/// What one hop answered in a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// Who answered; empty = nobody.
    pub addresses: BTreeSet<IpAddr>,
    /// Packets that should have ended here.
    pub sent: u64,
    /// Round-trip times of those that were answered.
    pub answered: Vec<Duration>,
}

/// The way as one trace has found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Hops, the first router first.
    pub hops: Vec<Hop>,
    /// The last hop is the target itself.
    pub reached: bool,
}

/// One answer or none: (place on the way, who, how long it took).
type Reply = (u8, Option<(IpAddr, Duration)>);

/// Traces a target, whose way had `known` hops so far: about two seconds, at most 7.
pub fn trace(target: &Target, options: &Options, number: u16, known: usize) -> Result<Trace, String> {
    let own = (std::process::id() as u16).wrapping_add(number);
    let (protocol, strategy, ports) = match options.protocol {
        PathProtocol::Udp => (
            Protocol::Udp,
            MultipathStrategy::Paris,
            // Out of the way of the ephemeral ports; the same as long as the agent runs.
            PortDirection::FixedBoth(Port(20_000 + own % 10_000), Port(options.port)),
        ),
        PathProtocol::Icmp => (Protocol::Icmp, MultipathStrategy::Classic, PortDirection::None),
        PathProtocol::Tcp => (
            Protocol::Tcp,
            MultipathStrategy::Classic,
            PortDirection::FixedDest(Port(options.port)),
        ),
    };
    let rounds: RefCell<Vec<Vec<Reply>>> = RefCell::default();
    Builder::new(target.address)
        .protocol(protocol)
        .multipath_strategy(strategy)
        .port_direction(ports)
        .trace_identifier(own)
        .max_rounds(Some(ROUNDS))
        .max_ttl(LONGEST)
        .max_inflight(SILENT)
        .min_round_duration(Duration::from_millis(500))
        .max_round_duration(Duration::from_secs(2))
        .build()
        .and_then(|tracer| tracer.run_with(|round| rounds.borrow_mut().push(replies(round))))
        .map_err(|e| e.to_string())?;
    Ok(digest(target.address, &rounds.into_inner(), known))
}

fn replies(round: &Round<'_>) -> Vec<Reply> {
    round
        .probes
        .iter()
        .filter_map(|probe| match probe {
            ProbeStatus::Complete(p) => {
                let took = p.received.duration_since(p.sent).unwrap_or_default();
                Some((p.ttl.0, Some((p.host, took))))
            }
            ProbeStatus::Awaited(p) => Some((p.ttl.0, None)),
            ProbeStatus::Failed(p) => Some((p.ttl.0, None)),
            ProbeStatus::NotSent | ProbeStatus::Skipped => None,
        })
        .collect()
}

/// The rounds of a trace taken together. The way ends where the target first answered; where it never did, at the last
/// router that has, or where it ended so far: what was sent there is lost.
fn digest(target: IpAddr, rounds: &[Vec<Reply>], known: usize) -> Trace {
    let all = || rounds.iter().flatten();
    let by_target = |(ttl, reply): &Reply| reply.filter(|(host, _)| *host == target).map(|_| *ttl);
    let arrived = all().filter_map(by_target).min();
    let answered = all().filter(|(_, reply)| reply.is_some()).map(|(ttl, _)| *ttl);
    let last = match arrived {
        Some(ttl) => usize::from(ttl),
        None => usize::from(answered.max().unwrap_or(0)).max(known),
    };
    let mut hops = vec![Hop::default(); last.min(usize::from(LONGEST))];
    for (ttl, reply) in all() {
        let Some(hop) = usize::from(*ttl).checked_sub(1).and_then(|i| hops.get_mut(i)) else {
            continue;
        };
        hop.sent += 1;
        if let Some((host, took)) = reply {
            hop.answered.push(*took);
            if hop.addresses.len() < SIDE_BY_SIDE {
                hop.addresses.insert(*host);
            }
        }
    }
    Trace {
        hops,
        reached: arrived.is_some(),
    }
}

impl Trace {
    /// Whether the way is another than `before`: at some hop both know, no router is the same; or the target is another
    /// number of hops away. Silence is no change.
    pub fn differs(&self, before: &Self) -> bool {
        let elsewhere = |(a, b): (&Hop, &Hop)| {
            !a.addresses.is_empty() && !b.addresses.is_empty() && a.addresses.is_disjoint(&b.addresses)
        };
        let farther = self.reached && before.reached && self.hops.len() != before.hops.len();
        farther || self.hops.iter().zip(&before.hops).any(elsewhere)
    }

    /// Takes from `before` what stayed silent now, so that a router that answers now and then stays known.
    pub fn remember(&mut self, before: &Self) {
        for (hop, old) in self.hops.iter_mut().zip(&before.hops) {
            if hop.addresses.is_empty() {
                hop.addresses.clone_from(&old.addresses);
            }
        }
        self.reached |= before.reached && self.hops.len() == before.hops.len();
    }

    /// Who answered at each hop, `*` = nobody.
    pub fn names(&self) -> Vec<String> {
        let name = |hop: &Hop| {
            let all: Vec<String> = hop.addresses.iter().map(IpAddr::to_string).collect();
            if all.is_empty() {
                "*".to_owned()
            } else {
                all.join("|")
            }
        };
        self.hops.iter().map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "10.9.9.9";

    fn traced(rounds: &[&[(u8, &str)]]) -> Trace {
        traced_again(rounds, 0)
    }

    fn traced_again(rounds: &[&[(u8, &str)]], known: usize) -> Trace {
        let reply = |(ttl, host): &(u8, &str)| {
            let host: Option<IpAddr> = host.parse().ok();
            (*ttl, host.map(|h| (h, Duration::from_millis(u64::from(*ttl)))))
        };
        let rounds: Vec<Vec<Reply>> = rounds.iter().map(|r| r.iter().map(reply).collect()).collect();
        digest(TARGET.parse().unwrap(), &rounds, known)
    }

    #[test]
    fn the_way_ends_where_the_target_first_answers() {
        // All probes of the first round are under way before the first answer comes.
        let first = [
            (1, "10.0.0.1"),
            (2, ""),
            (3, TARGET),
            (4, TARGET),
            (5, TARGET),
            (6, ""),
        ];
        let trace = traced(&[
            &first,
            &[(1, "10.0.0.1"), (2, "10.0.0.2"), (3, TARGET)],
            &[(1, ""), (2, ""), (3, TARGET)],
        ]);
        assert!(trace.reached);
        assert_eq!(trace.names(), ["10.0.0.1", "10.0.0.2", TARGET]);
        let counts: Vec<_> = trace.hops.iter().map(|h| (h.sent, h.answered.len())).collect();
        assert_eq!(counts, [(3, 2), (3, 1), (3, 3)]);
    }

    #[test]
    fn a_change_is_another_router_or_another_length_and_never_silence() {
        let before = traced(&[&[(1, "10.0.0.1"), (2, "10.0.0.2"), (3, TARGET)]]);
        let same = [
            traced(&[&[(1, "10.0.0.1"), (2, ""), (3, TARGET)]]),
            traced(&[&[(1, ""), (2, ""), (3, "")]]),
            traced(&[&[(1, "10.0.0.1"), (2, ""), (3, "")]]),
            // Two routers that share the load.
            traced(&[
                &[(1, "10.0.0.1"), (2, "10.0.0.7"), (3, TARGET)],
                &[(2, "10.0.0.2")],
            ]),
        ];
        assert!(same.iter().all(|t| !t.differs(&before)), "{same:?}");
        assert!(traced(&[&[(1, "10.0.0.1"), (2, "10.0.0.3"), (3, TARGET)]]).differs(&before));
        assert!(traced(&[&[(1, "10.0.0.1"), (2, TARGET)]]).differs(&before));
        assert!(
            traced(&[&[(1, "10.0.0.1"), (2, "10.0.0.2"), (3, "10.0.0.3"), (4, TARGET)]]).differs(&before)
        );
    }

    #[test]
    fn what_falls_silent_stays_known_and_its_packets_are_lost() {
        let before = traced(&[&[(1, "10.0.0.1"), (2, "10.0.0.2"), (3, TARGET)]]);
        let silent: &[_] = &[(1, "10.0.0.1"), (2, ""), (3, ""), (4, "")];
        let mut now = traced_again(&[silent, silent], 3);
        assert!(!now.reached && !now.differs(&before));
        now.remember(&before);
        assert_eq!(now.names(), before.names());
        assert!(now.reached);
        assert_eq!(
            now.hops
                .iter()
                .map(|h| (h.sent, h.answered.len()))
                .collect::<Vec<_>>(),
            [(2, 2), (2, 0), (2, 0)]
        );
    }
}
