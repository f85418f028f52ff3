//! Which pairs inside of a tunnel have series: the busiest of about the last minute.
//!
//! Counters never jump. A series begins at 0 and grows by what its pair carries while it has it; when it loses it, it ends,
//! and what it counted ends with it. `other` grows by what the tunnel carries and no series is given. So over any time the
//! growth of all series together is that of the tunnel's inner bytes.

use super::exported::end;
use super::metrics::{DIRECTIONS, INNER_PAIR};
use crate::aggregate::Labels;
use crate::identity::{Peer, Peers};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Series end after this many ticks without a packet.
const IDLE: u32 = 600;
/// Ticks of the time over which pairs are compared.
const WINDOW: u64 = 64;
/// One series of a tunnel may change hands every so many ticks, so that as few end as are of use.
const ROUND: u32 = 10;
/// So many times as busy must be who takes the series of another.
const MARGIN: u64 = 2;

/// How busy a pair is: the bytes of all ticks, those of each older tick weighing a little less; nearly so many ticks'
/// worth as [`WINDOW`] has.
pub(super) fn lately(before: u64, delta: [u64; 2]) -> u64 {
    (before - before.div_ceil(WINDOW)).saturating_add(delta[0].saturating_add(delta[1]))
}

/// On our side, on the other.
type Ends = ([u8; 16], [u8; 16]);

/// A pair that has series of its own.
pub struct Pair {
    /// The peer of the remote address: its id and its names.
    pub peer: (u32, Arc<Peer>),
    /// Inner bytes received, sent.
    pub bytes: [u64; 2],
    /// Labels of both.
    pub labels: [Arc<Labels>; 2],
}

#[derive(Default)]
struct Talker {
    busy: u64,
    /// Since the last tick.
    delta: [u64; 2],
    /// Ticks without a packet.
    idle: u32,
    /// The kernel has it.
    here: bool,
    series: Option<Pair>,
}

/// Ends; busy, idle, and the bytes and the beginning of its series, ns since the epoch.
type One = (Ends, u64, u32, Option<([u64; 2], u64)>);

/// What a recording knows of the pairs of a tunnel.
#[derive(Serialize, Deserialize)]
pub(super) struct Told {
    all: Vec<One>,
    given: [u64; 2],
    other: [u64; 2],
    ticks: u32,
}

/// The pairs of a tunnel.
#[derive(Default)]
pub struct Pairs {
    all: BTreeMap<Ends, Talker>,
    /// Bytes that series were given, ended ones as well.
    given: [u64; 2],
    other: [u64; 2],
    ticks: u32,
}

impl Pairs {
    /// What is known of them, for a recording.
    pub(super) fn told(&self) -> Told {
        let series = |pair: &Pair| (pair.bytes, pair.labels[0].start_unix_nanos);
        let all = self.all.iter();
        Told {
            all: all
                .map(|(ends, t)| (*ends, t.busy, t.idle, t.series.as_ref().map(series)))
                .collect(),
            given: self.given,
            other: self.other,
            ticks: self.ticks,
        }
    }

    /// Of a recording; `tunnel` are the values of the tunnel's labels.
    pub(super) fn resumed(told: Told, tunnel: &[String], peers: &Peers) -> Self {
        let one = |(ends, busy, idle, series): One| {
            let series = series.map(|(bytes, start)| Pair {
                bytes,
                ..Pair::new(tunnel, &ends, peers, start)
            });
            let talker = Talker {
                busy,
                idle,
                here: true,
                series,
                ..Talker::default()
            };
            (ends, talker)
        };
        Self {
            all: told.all.into_iter().map(one).collect(),
            given: told.given,
            other: told.other,
            ticks: told.ticks,
        }
    }

    /// A new tick.
    pub(super) fn begin(&mut self) {
        for talker in self.all.values_mut() {
            (talker.busy, talker.delta, talker.here) = (0, [0; 2], false);
            talker.idle += 1;
        }
    }

    /// A row of the kernel's, of which a pair may have several.
    pub(super) fn take(&mut self, ends: Ends, delta: [u64; 2], busy: u64) {
        let talker = self.all.entry(ends).or_default();
        talker.here = true;
        talker.busy = talker.busy.saturating_add(busy);
        if delta != [0; 2] {
            talker.idle = 0;
            talker.delta = [0, 1].map(|d: usize| talker.delta[d] + delta[d]);
        }
    }

    /// The tick is read: `carried` is what the tunnel has carried so far. At most `most` pairs have series, which `open`
    /// makes.
    pub(super) fn settle(&mut self, carried: [u64; 2], most: usize, open: impl Fn(&Ends) -> Pair) {
        self.ticks = self.ticks.wrapping_add(1);
        for talker in self.all.values_mut().filter(|t| t.idle >= IDLE) {
            talker.series = None;
        }
        self.all.retain(|_, t| t.here || t.series.is_some());
        self.choose(most, open);
        for (talker, pair) in self
            .all
            .values_mut()
            .filter_map(|t| Some((t.delta, t.series.as_mut()?)))
        {
            for (d, delta) in talker.into_iter().enumerate() {
                pair.bytes[d] += delta;
                self.given[d] += delta;
            }
        }
        for (d, carried) in carried.into_iter().enumerate() {
            // A cell may have been read a moment later than the tunnel's own bytes: then `other` waits for them.
            self.other[d] = self.other[d].max(carried.saturating_sub(self.given[d]));
        }
    }

    fn choose(&mut self, most: usize, open: impl Fn(&Ends) -> Pair) {
        let have = self.all.values().filter(|t| t.series.is_some()).count();
        let mut wait: Vec<(u64, Ends)> = self
            .all
            .iter()
            .filter(|(ends, t)| t.series.is_none() && t.busy > 0 && is_pair(ends))
            .map(|(ends, t)| (t.busy, *ends))
            .collect();
        wait.sort_unstable_by_key(|(busy, _)| Reverse(*busy));
        let mut wait = wait.into_iter();
        for (_, ends) in wait.by_ref().take(most.saturating_sub(have)) {
            self.give(&ends, &open);
        }
        if !self.ticks.is_multiple_of(ROUND) {
            return;
        }
        let quietest = self
            .all
            .iter()
            .filter(|(_, t)| t.series.is_some())
            .min_by_key(|(_, t)| t.busy)
            .map(|(ends, t)| (t.busy, *ends));
        if let (Some((busy, ends)), Some((least, last))) = (wait.next(), quietest)
            && busy > least.saturating_mul(MARGIN)
        {
            if let Some(talker) = self.all.get_mut(&last) {
                talker.series = None;
            }
            self.give(&ends, &open);
        }
    }

    fn give(&mut self, ends: &Ends, open: impl Fn(&Ends) -> Pair) {
        if let Some(talker) = self.all.get_mut(ends) {
            talker.series = Some(open(ends));
        }
    }

    /// Those that have series.
    pub fn series(&self) -> impl Iterator<Item = &Pair> {
        self.all.values().filter_map(|t| t.series.as_ref())
    }

    /// Inner bytes that no series was given.
    pub fn other(&self) -> [u64; 2] {
        self.other
    }
}

impl Pair {
    /// A series of a tunnel whose labels have these values, for a pair of which nothing is counted yet.
    pub(super) fn new(tunnel: &[String], (local, remote): &Ends, peers: &Peers, unix_nanos: u64) -> Self {
        let peer = peers.lookup_mapped(*remote);
        let (local, remote) = (end(*local, 0), end(*remote, 0));
        Self {
            peer: (peer, peers.get(peer).clone()),
            bytes: [0; 2],
            labels: DIRECTIONS.map(|direction| {
                let own = tunnel.iter().map(String::as_str);
                let values: Vec<&str> = own.chain([direction, &local, &remote]).collect();
                Arc::new(Labels::new(INNER_PAIR, &values, false, unix_nanos))
            }),
        }
    }
}

/// Two hosts, and not everybody.
fn is_pair((local, remote): &Ends) -> bool {
    [local, remote]
        .into_iter()
        .all(|a| match IpAddr::from(Ipv6Addr::from(*a)).to_canonical() {
            IpAddr::V4(a) => !(a.is_multicast() || a.is_broadcast() || a.is_unspecified()),
            IpAddr::V6(a) => !(a.is_multicast() || a.is_unspecified()),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pairs as the kernel would tell them, with what series have existed.
    #[derive(Default)]
    struct World {
        pairs: Pairs,
        busy: BTreeMap<u8, u64>,
        carried: [u64; 2],
    }

    fn ends(n: u8) -> Ends {
        let v4 = |last| std::net::Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().octets();
        (v4(1), v4(n))
    }

    fn open(ends: &Ends) -> Pair {
        Pair::new(
            &[const { String::new() }; 6],
            ends,
            &Peers::new(&[], "", "").unwrap(),
            0,
        )
    }

    impl World {
        /// A tick in which pairs received so much; the others that were met are still in the kernel.
        fn tick(&mut self, most: usize, bytes: &[(u8, u64)]) {
            for n in bytes.iter().map(|(n, _)| *n) {
                self.busy.entry(n).or_default();
            }
            self.pairs.begin();
            for (n, busy) in &mut self.busy {
                let delta = bytes.iter().filter(|(m, _)| m == n).map(|(_, b)| *b).sum();
                *busy = lately(*busy, [delta, 0]);
                self.carried[0] += delta;
                self.pairs.take(ends(*n), [delta, 0], *busy);
            }
            self.pairs.settle(self.carried, most, open);
        }

        fn bytes(&self, n: u8) -> Option<u64> {
            let talker = self.pairs.all.get(&ends(n))?;
            talker.series.as_ref().map(|pair| pair.bytes[0])
        }

        fn sum(&self) -> u64 {
            self.pairs.series().map(|p| p.bytes[0]).sum::<u64>() + self.pairs.other()[0]
        }
    }

    #[test]
    fn the_first_met_make_room_for_the_busiest() {
        let mut w = World::default();
        w.tick(2, &[(2, 100), (3, 100)]);
        assert_eq!((w.bytes(2), w.bytes(3)), (Some(100), Some(100)));
        for _ in 0..60 {
            let before = w.pairs.other()[0];
            w.tick(2, &[(2, 100), (3, 100), (4, 10_000), (5, 20_000)]);
            assert!(w.pairs.other()[0] >= before);
        }
        assert!(w.bytes(2).is_none() && w.bytes(3).is_none());
        assert!(w.bytes(4).is_some() && w.bytes(5).is_some());
        // Nothing was counted twice, and nothing of the ended series is in `other`.
        assert_eq!(
            w.sum() + (w.pairs.given[0] - w.bytes(4).unwrap() - w.bytes(5).unwrap()),
            w.carried[0]
        );
        let before = (w.sum(), w.carried[0]);
        w.tick(2, &[(2, 7), (4, 11), (5, 13), (6, 17)]);
        assert_eq!(
            w.sum() - before.0,
            w.carried[0] - before.1,
            "growth of all is that of the tunnel"
        );
    }

    #[test]
    fn series_do_not_change_hands_for_little() {
        let mut w = World::default();
        w.tick(1, &[(2, 1000)]);
        for i in 0..200 {
            w.tick(1, &[(2, 1000), (3, 1000 + 300 * (i % 3))]);
        }
        assert_eq!(w.bytes(2), Some(201_000));
        assert_eq!(w.sum(), w.carried[0]);
    }

    #[test]
    fn one_series_changes_hands_at_a_time() {
        let mut w = World::default();
        w.tick(5, &[(2, 1), (3, 1), (4, 1), (5, 1), (6, 1)]);
        let mut ended = 0;
        for _ in 0..20 {
            let before: Vec<u8> = (2..12).filter(|n| w.bytes(*n).is_some()).collect();
            w.tick(5, &[(7, 999), (8, 999), (9, 999), (10, 999), (11, 999)]);
            ended += before.iter().filter(|n| w.bytes(**n).is_none()).count();
        }
        assert_eq!(ended, 2);
    }

    #[test]
    fn a_series_that_comes_back_begins_anew() {
        let mut w = World::default();
        w.tick(1, &[(2, 500)]);
        for _ in 0..IDLE + 1 {
            w.tick(1, &[]);
        }
        assert_eq!(
            (w.bytes(2), w.pairs.other()[0]),
            (None, 0),
            "its history ends with it"
        );
        w.tick(1, &[(2, 3)]);
        assert_eq!((w.bytes(2), w.pairs.other()[0]), (Some(3), 0));
    }

    #[test]
    fn what_goes_to_everybody_holds_no_place() {
        let v4 = |a: [u8; 4]| std::net::Ipv4Addr::from(a).to_ipv6_mapped().octets();
        let here = v4([10, 0, 0, 1]);
        for to in [[224, 0, 0, 251], [255, 255, 255, 255], [0, 0, 0, 0]] {
            assert!(!is_pair(&(v4(to), here)) && !is_pair(&(here, v4(to))), "{to:?}");
        }
        let v6 = |a: &str| a.parse::<Ipv6Addr>().unwrap().octets();
        assert!(!is_pair(&(v6("fe80::1"), v6("ff02::fb"))));
        assert!(is_pair(&(v6("fe80::1"), v6("fe80::2"))) && is_pair(&ends(2)));
    }

    #[test]
    fn a_cell_that_is_ahead_of_the_tunnel_is_waited_for() {
        let mut pairs = Pairs::default();
        pairs.take(ends(2), [100, 0], 100);
        pairs.settle([40, 0], 1, open);
        assert_eq!(pairs.other(), [0, 0]);
        pairs.begin();
        pairs.take(ends(2), [0, 0], 99);
        pairs.settle([110, 0], 1, open);
        assert_eq!(pairs.other(), [10, 0]);
    }
}
