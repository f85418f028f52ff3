use super::*;
use crate::aggregate::{Family, HistogramValue, Labels};
use crate::probes::tunnel::metrics::PEER_INFO;
use crate::ui::view::{Counter, Distribution, TunnelRow};
use std::sync::Arc;

fn latency(p50: f64) -> Option<Latency> {
    Some(Latency {
        p50,
        p99: 3.0 * p50,
        count: 10,
        age: Some(0.0),
        ..Latency::default()
    })
}

fn since_start(micros: u32, samples: u64) -> Distribution {
    let mut h = HistogramValue::default();
    h.add_cell(
        agent_common::histogram::cell(agent_common::histogram::from_micros(micros)),
        samples,
    );
    Distribution::from(&h)
}

fn pair(subject: &str, peer: &str, region: &str) -> PairRow {
    PairRow {
        subject: subject.into(),
        peer: peer.into(),
        peer_region: region.into(),
        connections: 2,
        rtt: latency(0.001),
        rtt_since_start: since_start(1000, 1000),
        retransmit_ratio: Some(0.0),
        receive_rate: 1000.0,
        counters: vec![Counter {
            name: "bytes".into(),
            kind: "receive".into(),
            total: 5000,
            rate: 1000.0,
        }],
        hops: Some(3),
        mtu: Some(1400),
        ..PairRow::default()
    }
}

fn topology() -> Topology {
    let bad = PairRow {
        retransmit_ratio: Some(0.05),
        ..pair("web \"x\" #1", "db", "eu")
    };
    let view = View {
        host: "h".into(),
        region: "us".into(),
        interval: Some(1.0),
        pairs: vec![bad, pair("cron", "db", "eu"), pair("cron", "public", "")],
        regions: vec![
            PairRow {
                subject: String::new(),
                peer: String::new(),
                ..pair("", "", "")
            },
            pair("", "", "eu"),
        ],
        ..View::default()
    };
    let change = RouteChange {
        peer: "db".into(),
        hops_before: Some(1),
        hops_after: Some(2),
        ..RouteChange::default()
    };
    Topology::new(&view, &Snapshot::default(), vec![change])
}

#[test]
fn nodes_are_there_once_and_edges_end_at_nodes() {
    let t = topology();
    let ids: Vec<&str> = t.nodes.iter().map(|n| n.id.as_str()).collect();
    assert_eq!(
        ids,
        [
            "subject:cron",
            "subject:web \"x\" #1",
            "peer:db|eu|",
            "peer:public||",
            "region:eu",
            "region:us"
        ]
    );
    assert!(
        t.edges
            .iter()
            .all(|e| t.get(&e.from).is_some() && t.get(&e.to).is_some())
    );
    assert_eq!(t.get("peer:db|eu|").unwrap().region.as_deref(), Some("region:eu"));
    let [bad, good, _] = t.edges.as_slice() else {
        panic!()
    };
    assert_eq!(bad.quality.state, State::Degraded);
    assert_eq!(
        bad.quality.reasons,
        ["5% retransmitted".replace("5%", &crate::ui::units::percent(0.05))]
    );
    assert_eq!(
        (good.quality.state, good.quality.bytes_received),
        (State::Ok, 5000)
    );
    assert_eq!((good.hops, good.mtu), (Some(3), Some(1400)));
    assert_eq!(
        t.regions.iter().map(|r| r.to.as_str()).collect::<Vec<_>>(),
        ["", "eu"]
    );
    // What the API says is what the command reads.
    let text = serde_json::to_string(&t).unwrap();
    assert_eq!(serde_json::from_str::<Topology>(&text).unwrap(), t);
}

#[test]
fn thresholds() {
    let degraded = |change: fn(&mut PairRow)| {
        let mut row = pair("a", "b", "c");
        change(&mut row);
        judge(&row).0 == State::Degraded
    };
    assert!(!degraded(|_| ()));
    assert!(!degraded(|p| p.retransmit_ratio = Some(0.0099)));
    assert!(degraded(|p| p.retransmit_ratio = Some(0.01)));
    assert!(degraded(|p| p.failed_rate = 0.5));
    assert!(degraded(|p| p.rtt = latency(0.0022)));
    // Twice, but a millisecond is not reached; or too few samples to know what is usual.
    assert!(!degraded(|p| {
        p.rtt = latency(0.0003);
        p.rtt_since_start = since_start(100, 1000);
    }));
    assert!(!degraded(|p| {
        p.rtt = latency(0.1);
        p.rtt_since_start = since_start(1000, 99);
    }));
    assert!(!degraded(|p| p.rtt = None));
}

#[test]
fn the_table_has_edges_regions_and_changes() {
    let text = table(&topology());
    for part in ["SUBJECT", "TO REGION", "1400", "degraded: ", "→ 2 hops"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert_eq!(
        text.lines().filter(|l| l.starts_with("cron")).count(),
        2,
        "{text}"
    );
}

#[test]
fn drawings_hold_names_as_text_and_nothing_else() {
    let t = topology();
    let text = dot(&t);
    assert!(text.contains("label=\"web \\\"x\\\" #1\""), "{text}");
    assert_eq!(text.matches(" -> ").count(), 3, "{text}");
    assert_eq!(text.matches("color=red").count() / 2, 1, "{text}");
    assert_eq!(text.matches('{').count(), text.matches('}').count());
    let text = mermaid(&t);
    assert!(text.starts_with("flowchart LR\n"));
    assert!(text.contains("[\"web #quot;x#quot; #35;1\"]"), "{text}");
    assert_eq!(text.matches(" -->|\"").count(), 3, "{text}");
    assert!(text.contains("linkStyle 0 stroke:red"), "{text}");
    assert_eq!(text.matches("subgraph ").count(), text.matches("  end\n").count());
}

#[test]
fn a_row_of_nothing_is_no_edge() {
    let nothing = PairRow {
        subject: "unknown".into(),
        ..PairRow::default()
    };
    let failed = PairRow {
        receive_rate: 1.0,
        ..pair("unknown", "", "")
    };
    let view = View {
        pairs: vec![nothing, pair("a", "db", "eu"), failed],
        ..View::default()
    };
    let t = Topology::new(&view, &Snapshot::default(), Vec::new());
    assert_eq!(t.edges.len(), 2, "{:?}", t.edges);
    assert_eq!(t.edges[1].quality.bytes_received, 5000);
}

#[test]
fn a_peer_is_reached_over_its_tunnels_and_is_no_better_than_they_are() {
    let row = |id: &str, state: &str, reason: &str| TunnelRow {
        kind: "vxlan".into(),
        id: id.into(),
        local: "10.0.0.1".into(),
        remote: "10.0.0.2".into(),
        state: state.into(),
        reason: reason.into(),
        ..TunnelRow::default()
    };
    let view = View {
        pairs: vec![
            pair("a", "db", "eu"),
            pair("a", "cache", "us"),
            pair("a", "public", ""),
        ],
        tunnels: vec![row("7", "up", ""), row("8", "down", "no_answer")],
        ..View::default()
    };
    let info = |id: &str, peer: &str, region: &str| Series {
        labels: Arc::new(Labels::new(
            PEER_INFO.labels,
            &["vxlan", id, "10.0.0.1", "10.0.0.2", "", "", peer, region, ""],
            false,
            0,
        )),
        value: Value::Gauge(1.0),
    };
    let snapshot = Snapshot {
        families: vec![Family {
            metric: &PEER_INFO,
            // The last is of another region's peer of that name.
            series: vec![
                info("7", "db", "eu"),
                info("8", "cache", "us"),
                info("8", "db", "us"),
            ],
        }],
        ..Snapshot::default()
    };
    let t = Topology::new(&view, &snapshot, Vec::new());
    let [db, cache, public] = t.edges.as_slice() else {
        panic!()
    };
    let over = |e: &Edge| e.tunnels.iter().map(Over::name).collect::<Vec<_>>();
    assert_eq!(over(db), ["vxlan 7 10.0.0.2"]);
    assert_eq!(
        (db.quality.state, cache.quality.state),
        (State::Ok, State::Degraded)
    );
    assert_eq!(cache.quality.reasons, ["tunnel vxlan 8 10.0.0.2 down: no_answer"]);
    assert!(public.tunnels.is_empty());
    for text in [table(&t), dot(&t), mermaid(&t)] {
        assert!(text.contains("vxlan 7 10.0.0.2 (up)"), "{text}");
    }
    let text = serde_json::to_string(&t).unwrap();
    assert_eq!(serde_json::from_str::<Topology>(&text).unwrap(), t);
    assert!(!table(&topology()).contains("TUNNEL"), "a column for nothing");
}
