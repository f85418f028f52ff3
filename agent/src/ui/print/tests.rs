use super::*;
use crate::records::{DroppedPacket, Flow, Record, TunnelChange};
use crate::ui::view::{Account, Counter, Coverage, DropRow, Loss, PairRow, View};

fn flow(remote: &str) -> Record {
    Record::Flow(Box::new(Flow {
        time: 3661.5,
        event: "failed".into(),
        state: "SYN_SENT".into(),
        role: "client".into(),
        error: "timed_out".into(),
        subject: "curl\u{1b}[31m".into(),
        process: "curl".into(),
        pid: 77,
        local: ([10, 0, 0, 4], 40_000).into(),
        remote: remote.parse().unwrap(),
        peer: "public".into(),
        peer_region: String::new(),
        peer_zone: String::new(),
        duration: None,
        connect: None,
        rtt: Some(0.0123),
        rtt_min: None,
        rtt_var: None,
        bytes_received: 0,
        bytes_sent: 1234,
        segments_received: 0,
        segments_sent: 4,
        retransmits: 3,
        spurious: 0,
        cwnd: 1,
        cookie: 5,
        trace_id: String::new(),
    }))
}

#[test]
fn lines_stand_under_their_headings() {
    let header = flow_header();
    let line = line(&flow("203.0.113.9:443"));
    let at = |text: &str, word: &str| width(text.split_once(word).unwrap().0);
    assert_eq!(at(&header, "SUBJECT"), at(&line, "curl\u{fffd}[31m"));
    assert_eq!(at(&header, "LOCAL"), at(&line, "10.0.0.4:40000"));
    assert_eq!(at(&header, "REMOTE"), at(&line, "203.0.113.9:443"));
    assert_eq!(at(&header, "PROCESS"), at(&line, "curl[77]"));
    assert!(line.starts_with("01:01:01.500  timeout   client"), "{line}");
    assert!(line.contains("12.3ms   75.0%        0   1.23kB"), "{line}");
    let long = "[2001:db8:85a3::8a2e:370:7334]:65535";
    assert!(super::line(&flow(long)).contains(long));
    let drop = Record::Drop(Box::new(DroppedPacket {
        time: 0.0,
        reason: "NO_SOCKET".into(),
        location: "udp_unicast_rcv_skb+0x1f".into(),
        protocol: "udp".into(),
        direction: "receive".into(),
        device: String::new(),
        subject: String::new(),
        source: Some(([10, 0, 0, 1], 53).into()),
        destination: None,
        bytes: 60,
    }));
    let line = super::line(&drop);
    assert_eq!(at(&drop_header(), "SOURCE"), at(&line, "10.0.0.1:53 → ?"));
    assert_eq!(at(&drop_header(), "LOCATION"), at(&line, "udp_unicast"));
    let change = Record::Tunnel(Box::new(TunnelChange {
        r#type: "vxlan".into(),
        id: "42".into(),
        local: "10.0.0.1".into(),
        remote: "10.0.0.2".into(),
        before: "up".into(),
        state: "down".into(),
        reason: "no_answer".into(),
        ..TunnelChange::default()
    }));
    let line = super::line(&change);
    assert_eq!(at(&tunnel_header(), "STATE"), at(&line, "up → down"));
    assert_eq!(at(&tunnel_header(), "REASON"), at(&line, "no_answer"));
}

#[test]
fn tables_align_and_cut_nothing() {
    let long = format!("why {}", "because it was so ".repeat(20));
    let rows = [
        vec!["tcp_probe".into(), "7".into(), "ok".into()],
        vec!["日本".into(), "1234".into(), long.clone()],
    ];
    let text = table(&["PROGRAM", ">RUNS", "NOTE"], &rows);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "PROGRAM    RUNS  NOTE");
    assert_eq!(lines[1], "tcp_probe     7  ok");
    assert_eq!(lines[2], format!("日本       1234  {}", long.trim_end()));
}

#[test]
fn a_table_of_tunnels_has_no_column_that_says_nothing() {
    use crate::ui::view::{InnerPair, TunnelRow};
    let mut row = TunnelRow {
        kind: "vxlan".into(),
        id: "7".into(),
        local: "10.0.0.1".into(),
        remote: "10.0.0.2".into(),
        state: "unknown".into(),
        reason: "not_watched".into(),
        ..TunnelRow::default()
    };
    let text = tunnels(std::slice::from_ref(&row), false);
    let headings = text.lines().next().unwrap();
    assert_eq!(
        headings.split_whitespace().collect::<Vec<_>>().join(" "),
        "TYPE ID LOCAL REMOTE STATE RX/s TX/s RX TX"
    );
    assert!(text.contains("unknown not_watched"), "{text}");
    assert!(width(headings) <= 80, "{text}");
    (row.rtt_remote, row.sequenced, row.netns) = (Some(0.01), Some(5), "blue".into());
    row.device_drops.insert("vxlan7 NETFILTER_DROP".into(), 3);
    row.pairs.push(InnerPair {
        local: "192.168.0.1".into(),
        remote: "192.168.0.2".into(),
        bytes_rate: [1000.0, 0.0],
        bytes: [5000, 1],
    });
    let text = tunnels(&[row.clone(), row], true);
    for heading in ["RTT", "LOST", "NETNS", "DROPS"] {
        assert!(text.contains(heading), "{heading}: {text}");
    }
    assert!(!text.contains("HANDSHAKE"), "{text}");
    assert_eq!(
        text.matches("vxlan 7 10.0.0.1 10.0.0.2  192.168.0.1   192.168.0.2")
            .count(),
        2,
        "{text}"
    );
}

#[test]
fn a_summary_says_what_was_seen_and_what_was_not() {
    let counter = |name: &str, kind: &str, total| Counter {
        name: name.into(),
        kind: kind.into(),
        total,
        rate: 0.0,
    };
    let row = PairRow {
        subject: "nginx".into(),
        peer: "public".into(),
        connections: 3,
        rtt_since_start: crate::ui::view::Distribution {
            first: 80,
            cells: vec![10],
            ..Default::default()
        },
        counters: vec![
            counter("retransmits", "fast", 5),
            counter("segments", "transmit", 1000),
            counter("bytes", "receive", 2_000_000),
            counter("connections", "opened client", 4),
            counter("connections", "failed client refused", 1),
        ],
        ..Default::default()
    };
    let mut view = View {
        host: "h".into(),
        uptime: 30.0,
        total: row.clone(),
        pairs: vec![row],
        ..Default::default()
    };
    view.accounts = vec![Account {
        probe: "tcp".into(),
        seen: 1200,
        ..Default::default()
    }];
    view.cost.cpu_seconds = 0.06;
    let text = summary(&view);
    for wanted in [
        "geophone on h for 30s",
        "RTT  p50 1.0",
        "3 live, 4 opened, 1 failed, 0.50% retransmitted, 0 resets\n     2.00MB in, 0 out",
        "2.00MB",
        "nginx → public",
        "no packet dropped",
        "1200 events: all accounted, none lost",
        "agent: CPU 0.20% of a core (0.06 s)",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
    }
    view.accounts[0].dropped.push(Loss {
        stage: "ring".into(),
        reason: "ring_full".into(),
        total: 7,
        rate: 0.0,
    });
    view.accounts[0].unaccounted = -2.0;
    view.coverage = vec![Coverage {
        metric: "segments".into(),
        ratio: 0.9994,
    }];
    view.drops_total = 8;
    view.drops = vec![DropRow {
        reason: "NO_SOCKET".into(),
        total: 8,
        ..Default::default()
    }];
    let text = summary(&view);
    assert!(
        text.contains("1200 events: 2 UNACCOUNTED, 7 lost\n  lost 7 of tcp: ring_full at ring"),
        "{text}"
    );
    assert!(
        text.contains("of the kernel's own counters:\n  segments 99.9%") && text.contains("8  NO_SOCKET"),
        "{text}"
    );
    assert!(summary(&View::default()).contains("no event"));
}
