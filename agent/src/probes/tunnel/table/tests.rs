use super::*;
use crate::probes::tunnel::health::{NOT_WATCHED, State};
use agent_common::tunnel::{class, kind};

/// A table with one tunnel, and a clock.
struct World {
    table: Table,
    now: u64,
}

impl World {
    fn new(kind: u8) -> Self {
        let mut table = Table::new(8, 8, 5, 0);
        let values = ["vxlan", "7", "10.0.0.1", "10.0.0.2", "", ""].map(str::to_owned);
        table.tunnels.push(Some(Tunnel::new(values, kind, 0, false, 0)));
        Self { table, now: 1 }
    }

    fn tunnel(&mut self) -> &mut Tunnel {
        self.table.tunnels[1].as_mut().unwrap()
    }

    /// A second in which so much came and went; the changes that were told of it.
    fn second(&mut self, watched: bool, packets: [u64; 2]) -> Vec<[String; 3]> {
        self.now += 1_000_000_000;
        let now = self.now;
        let tunnel = self.tunnel();
        tunnel.watched = watched;
        for (d, n) in packets.into_iter().enumerate() {
            tunnel.counters[counter::PACKETS + d * class::COUNT] += n;
        }
        let told = self.table.judge(now);
        told.into_iter().map(|c| [c.before, c.state, c.reason]).collect()
    }

    fn seconds(&mut self, n: usize, watched: bool, packets: [u64; 2]) -> Vec<[String; 3]> {
        (0..n).flat_map(|_| self.second(watched, packets)).collect()
    }
}

fn change(before: &str, state: &str, reason: &str) -> [String; 3] {
    [before, state, reason].map(str::to_owned)
}

/// Cause: the governor takes the programs off and gives them back. Told: one change each way, and what was before is
/// neither shown nor held against the tunnel.
#[test]
fn what_nobody_watches_is_unknown_and_comes_back() {
    let mut w = World::new(kind::VXLAN);
    assert_eq!(w.seconds(9, true, [5, 5]), [change("unknown", "up", "")]);
    assert_eq!(
        w.seconds(100, false, [0, 0]),
        [change("up", "unknown", NOT_WATCHED)]
    );
    assert_eq!(w.tunnel().health.now, (State::Unknown, NOT_WATCHED));
    // Watched again: nothing is told until there is something to tell.
    assert!(w.seconds(30, true, [0, 0]).is_empty());
    assert_eq!(w.tunnel().health.now, (State::Unknown, ""));
    assert_eq!(w.seconds(3, true, [5, 5]), [change("unknown", "up", "")]);
    assert_eq!(w.tunnel().changes, [1, 2, 0, 0]);
}

/// Cause: it dies while nobody watches. Told: that it is down, as soon as the silence is watched.
#[test]
fn what_died_unwatched_is_found_dead() {
    let mut w = World::new(kind::VXLAN);
    w.seconds(9, true, [5, 5]);
    w.seconds(60, false, [0, 0]);
    assert!(w.seconds(3, true, [0, 5]).is_empty());
    assert_eq!(w.second(true, [0, 5]), [change("unknown", "down", "no_answer")]);
    assert_eq!(w.second(false, [0, 0]), [change("down", "unknown", NOT_WATCHED)]);
}

/// Cause: numbers are missing at the moment when the programs go. Told: no loss afterwards.
#[test]
fn loss_of_before_is_not_told_afterwards() {
    let mut w = World::new(kind::GRE);
    w.seconds(5, true, [5, 5]);
    w.tunnel().counters[counter::SEQUENCE] = 100;
    w.tunnel().lost = 50;
    w.seconds(2, false, [0, 0]);
    assert_eq!(w.seconds(5, true, [5, 5]), [change("unknown", "up", "")]);
}

/// Cause: a packet is counted between the two readings that overhead is the difference of. Seen: it does not fall, and goes on
/// when there is more of it.
#[test]
fn overhead_does_not_fall_by_a_packet() {
    let mut world = World::new(kind::VXLAN);
    let told = [
        (1000, 900, 100),
        (1000, 950, 100),
        (1050, 950, 100),
        (1200, 1070, 130),
    ];
    for (outer, inner, overhead) in told {
        let tunnel = world.tunnel();
        (
            tunnel.counters[counter::BYTES],
            tunnel.counters[counter::INNER_BYTES],
        ) = (outer, inner);
        let mut out = Vec::new();
        crate::probes::tunnel::metrics::collect(&mut world.table.tunnels, 0, &mut out);
        let name = "geophone_tunnel_overhead_bytes_total";
        let family = out.iter().find(|family| family.metric.name == name).unwrap();
        let received = family.series.iter().find(|s| s.labels.text.contains("receive"));
        let value = &received.unwrap().value;
        assert!(
            matches!(value, crate::aggregate::Value::Counter(n) if *n == overhead),
            "{value:?}"
        );
    }
}
