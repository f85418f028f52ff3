//! Plain text for pipes, logs and the end of a run.

use super::top::tabs::agent::coverage;
use super::top::tabs::flows::{lasted, process, retransmitted, word};
use super::units::{bytes, clock, count, fit, percent, seconds, span, width};
use super::view::{Latency, PairRow, View};
use crate::aggregate::labels::clean;
use crate::records::{DroppedPacket, Flow, Record};
use std::fmt::Write as _;
use std::net::SocketAddr;

/// Pairs and drop reasons in a summary.
const TOP: usize = 10;

/// A table with two spaces between columns and none at the end of a line. A heading that begins with `>` aligns its
/// column to the right. Control characters become `�`; nothing is cut.
pub fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let titles: Vec<String> = headers
        .iter()
        .map(|h| h.trim_start_matches('>').to_owned())
        .collect();
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| harmless(cell)).collect())
        .collect();
    let lines: Vec<&Vec<String>> = std::iter::once(&titles).chain(&rows).collect();
    let wide = |i: usize| {
        lines
            .iter()
            .filter_map(|l| l.get(i))
            .map(|cell| width(cell))
            .max()
            .unwrap_or(0)
    };
    let wides: Vec<usize> = (0..headers.len()).map(wide).collect();
    let mut out = String::new();
    for line in lines {
        let cells: Vec<String> = line
            .iter()
            .zip(headers)
            .zip(&wides)
            .map(|((cell, header), wide)| fit(cell, *wide, header.starts_with('>')))
            .collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    out
}

/// Cleans word by word: only a word of more than 128 bytes is cut.
fn harmless(text: &str) -> String {
    text.split_inclusive(' ').map(clean).collect()
}

/// What was seen, in one page: at the end of `--for 30s`.
pub fn summary(view: &View) -> String {
    let mut out = String::new();
    let place: Vec<&str> = [view.host.as_str(), &view.region, &view.zone]
        .into_iter()
        .filter(|t| !t.is_empty())
        .collect();
    let _ = writeln!(
        out,
        "geophone on {} for {}\n",
        clean(&place.join(" ")),
        span(view.uptime)
    );
    connections(view, &mut out);
    drops(view, &mut out);
    let _ = writeln!(out, "{}", accounts(view));
    let _ = write!(out, "{}", cost(view));
    out
}

fn connections(view: &View, out: &mut String) {
    let total = since_start(&view.total);
    match &total {
        Some(l) => {
            let _ = writeln!(
                out,
                "RTT  p50 {}  p90 {}  p95 {}  p99 {}  p99.9 {}  of {} samples",
                seconds(l.p50),
                seconds(l.p90),
                seconds(l.p95),
                seconds(l.p99),
                seconds(l.p999),
                count(l.count as f64)
            );
        }
        None => out.push_str("RTT  no sample\n"),
    }
    let t = Totals::of(&view.total);
    let _ = writeln!(
        out,
        "TCP  {} connections live, {} opened, {} failed, {} retransmitted, {} resets\n     {} in, {} out\n",
        view.total.connections,
        count(t.opened),
        count(t.failed),
        t.ratio(),
        count(t.resets),
        bytes(t.received),
        bytes(t.sent)
    );
    if view.pairs.is_empty() {
        return;
    }
    let mut pairs: Vec<&PairRow> = view.pairs.iter().collect();
    pairs.sort_by(|a, b| {
        let traffic = |p| Totals::of(p).received + Totals::of(p).sent;
        traffic(b).total_cmp(&traffic(a))
    });
    let rows: Vec<Vec<String>> = pairs.iter().take(TOP).map(|p| pair(p)).collect();
    let headers = [
        ">IN", ">OUT", ">CONNS", ">p50", ">p99", ">RETR", ">FAIL", ">RST", "SUBJECT", "PEER",
    ];
    out.push_str(&table(&headers, &rows));
    let more = pairs.len().saturating_sub(TOP) + view.pairs_omitted;
    if more > 0 {
        let _ = writeln!(out, "and {more} more");
    }
    out.push('\n');
}

fn since_start(p: &PairRow) -> Option<Latency> {
    Latency::of(&p.rtt_since_start.histogram(), None)
}

fn pair(p: &PairRow) -> Vec<String> {
    let t = Totals::of(p);
    let l = since_start(p);
    let of = |value: fn(&Latency) -> f64| l.as_ref().map_or("–".into(), |l| seconds(value(l)));
    let name = |text: &str| {
        if text.is_empty() {
            "–".into()
        } else {
            text.to_owned()
        }
    };
    vec![
        bytes(t.received),
        bytes(t.sent),
        count(p.connections as f64),
        of(|l| l.p50),
        of(|l| l.p99),
        t.ratio(),
        count(t.failed),
        count(t.resets),
        if p.overflow {
            "(other)".into()
        } else {
            name(&p.subject)
        },
        name(&p.peer),
    ]
}

/// Counters of a pair since the start.
struct Totals {
    received: f64,
    sent: f64,
    segments: f64,
    retransmits: f64,
    opened: f64,
    failed: f64,
    resets: f64,
}

impl Totals {
    fn of(p: &PairRow) -> Self {
        let sum = |name: &str, kind: &str| {
            let all = p
                .counters
                .iter()
                .filter(|c| c.name == name && c.kind.starts_with(kind));
            all.map(|c| c.total).sum::<u64>() as f64
        };
        Self {
            received: sum("bytes", "receive"),
            sent: sum("bytes", "transmit"),
            segments: sum("segments", "transmit"),
            retransmits: sum("retransmits", ""),
            opened: sum("connections", "opened"),
            failed: sum("connections", "failed"),
            resets: sum("resets", ""),
        }
    }

    fn ratio(&self) -> String {
        if self.segments > 0.0 {
            percent(self.retransmits / self.segments)
        } else {
            "–".into()
        }
    }
}

fn drops(view: &View, out: &mut String) {
    if view.drops_total == 0 {
        out.push_str("no packet dropped\n\n");
        return;
    }
    let mut causes: Vec<_> = view.drops.iter().filter(|d| d.total > 0).collect();
    causes.sort_by_key(|d| std::cmp::Reverse(d.total));
    let rows: Vec<Vec<String>> = causes
        .iter()
        .take(TOP)
        .map(|d| {
            let cells = [&d.reason, &d.protocol, &d.device, &d.direction, &d.subject];
            let cells = cells
                .into_iter()
                .map(|c| if c.is_empty() { "–".into() } else { c.clone() });
            std::iter::once(count(d.total as f64)).chain(cells).collect()
        })
        .collect();
    out.push_str(&table(
        &[">DROPPED", "REASON", "PROTOCOL", "DEVICE", "DIRECTION", "SUBJECT"],
        &rows,
    ));
    if causes.len() > TOP {
        let _ = writeln!(out, "and {} causes more", causes.len() - TOP);
    }
    out.push('\n');
}

/// One line: what became of all events.
pub fn accounts(view: &View) -> String {
    let seen: u64 = view.accounts.iter().map(|a| a.seen).sum();
    let lost: u64 = view.accounts.iter().map(|a| a.lost()).sum();
    let missing: f64 = view.accounts.iter().map(|a| a.unaccounted.abs()).sum();
    let mut out = match (seen, lost, missing) {
        (0, ..) => return "no event".into(),
        (_, 0, 0.0) => format!("{seen} events: all accounted, none lost"),
        (_, _, 0.0) => format!("{seen} events: all accounted, {lost} lost"),
        _ => format!("{seen} events: {missing:.0} UNACCOUNTED, {lost} lost"),
    };
    let losses = view
        .accounts
        .iter()
        .flat_map(|a| a.dropped.iter().map(move |l| (a, l)));
    let losses: Vec<String> = losses
        .map(|(a, l)| format!("{} {}: {} at {}", l.total, a.probe, l.reason, l.stage))
        .collect();
    if !losses.is_empty() {
        let _ = write!(out, " ({})", clean(&losses.join(", ")));
    }
    let covered: Vec<String> = view
        .coverage
        .iter()
        .map(|c| format!("{} {}", clean(&c.metric), coverage(c.ratio)))
        .collect();
    if !covered.is_empty() {
        let _ = write!(out, "\nof the kernel's own counters: {}", covered.join(", "));
    }
    out
}

fn cost(view: &View) -> String {
    let c = &view.cost;
    let share = |s: f64| {
        if view.uptime > 0.0 {
            percent(s / view.uptime)
        } else {
            "–".into()
        }
    };
    let mut out = format!(
        "agent: CPU {} of a core ({:.2} s)",
        share(c.cpu_seconds),
        c.cpu_seconds
    );
    if c.bpf_seconds > 0.0 {
        let _ = write!(
            out,
            ", BPF programs {} ({:.2} s)",
            share(c.bpf_seconds),
            c.bpf_seconds
        );
    }
    if let Some(rss) = c.memory_bytes {
        let _ = write!(out, ", RSS {}", bytes(rss));
    }
    if c.map_bytes > 0.0 {
        let _ = write!(out, ", maps {}", bytes(c.map_bytes));
    }
    if let Some(level) = c.governor_level.filter(|l| *l > 0.0) {
        let _ = write!(out, ", sampling lowered by {level:.0} steps");
    }
    out.push('\n');
    out
}

/// Least widths of the columns of a flow; `true` = to the right. What varies most stands last.
const FLOW: [(usize, bool); 14] = [
    (12, false),
    (8, false),
    (7, false),
    (7, true),
    (7, true),
    (7, true),
    (6, true),
    (7, true),
    (7, true),
    (20, false),
    (21, false),
    (21, false),
    (12, false),
    (0, false),
];
const DROP: [(usize, bool); 9] = [
    (12, false),
    (24, false),
    (8, false),
    (8, false),
    (10, false),
    (6, true),
    (20, false),
    (44, false),
    (0, false),
];

/// Two spaces between columns. A longer cell pushes the rest out: no address is ever cut.
fn columns<const N: usize>(widths: [(usize, bool); N], cells: [&str; N]) -> String {
    let cells = cells.map(|cell| if cell.is_empty() { "–" } else { cell });
    let fitted = widths
        .iter()
        .zip(cells)
        .map(|((wide, right), cell)| fit(cell, width(cell).max(*wide), *right));
    fitted.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

/// Heading of [`flow_line`]s.
pub fn flow_header() -> String {
    columns(
        FLOW,
        [
            "TIME UTC", "EVENT", "ROLE", "LASTED", "CONNECT", "RTT", "RETR", "IN", "OUT", "SUBJECT", "LOCAL",
            "REMOTE", "PEER", "PROCESS",
        ],
    )
}

/// Heading of [`drop_line`]s.
pub fn drop_header() -> String {
    columns(
        DROP,
        [
            "TIME UTC",
            "REASON",
            "PROTOCOL",
            "DEVICE",
            "DIRECTION",
            "BYTES",
            "SUBJECT",
            "SOURCE → DESTINATION",
            "LOCATION",
        ],
    )
}

/// A connection in one line. A dropped packet is told by [`drop_line`].
pub fn flow_line(record: &Record) -> String {
    match record {
        Record::Flow(flow) => of_flow(flow),
        Record::Drop(drop) => of_drop(drop),
    }
}

/// A dropped packet in one line. A connection is told by [`flow_line`].
pub fn drop_line(record: &Record) -> String {
    flow_line(record)
}

fn of_flow(f: &Flow) -> String {
    let time = |v: Option<f64>| v.map(seconds).unwrap_or_default();
    columns(
        FLOW,
        [
            &clock(f.time),
            &clean(word(f)),
            &clean(&f.role),
            &f.duration.map(lasted).unwrap_or_default(),
            &time(f.connect),
            &time(f.rtt),
            &retransmitted(f).map(percent).unwrap_or_default(),
            &bytes(f.bytes_received as f64),
            &bytes(f.bytes_sent as f64),
            &clean(&f.subject),
            &f.local.to_string(),
            &f.remote.to_string(),
            &clean(&f.peer),
            &clean(&process(f)),
        ],
    )
}

fn of_drop(d: &DroppedPacket) -> String {
    let address = |a: Option<SocketAddr>| a.map_or("?".into(), |a| a.to_string());
    let way = match (d.source, d.destination) {
        (None, None) => String::new(),
        (source, destination) => format!("{} → {}", address(source), address(destination)),
    };
    columns(
        DROP,
        [
            &clock(d.time),
            &clean(&d.reason),
            &clean(&d.protocol),
            &clean(&d.device),
            &clean(&d.direction),
            &d.bytes.to_string(),
            &clean(&d.subject),
            &way,
            &clean(&d.location),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::view::{Account, Counter, Coverage, DropRow, Loss};

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
        }))
    }

    #[test]
    fn lines_stand_under_their_headings() {
        let header = flow_header();
        let line = flow_line(&flow("203.0.113.9:443"));
        let at = |text: &str, word: &str| width(text.split_once(word).unwrap().0);
        assert_eq!(at(&header, "SUBJECT"), at(&line, "curl\u{fffd}[31m"));
        assert_eq!(at(&header, "LOCAL"), at(&line, "10.0.0.4:40000"));
        assert_eq!(at(&header, "REMOTE"), at(&line, "203.0.113.9:443"));
        assert_eq!(at(&header, "PROCESS"), at(&line, "curl[77]"));
        assert!(line.starts_with("01:01:01.500  timeout   client"), "{line}");
        assert!(line.contains("12.3ms   75.0%        0   1.23kB"), "{line}");
        let long = "[2001:db8:85a3::8a2e:370:7334]:65535";
        assert!(flow_line(&flow(long)).contains(long));
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
        let line = drop_line(&drop);
        assert_eq!(at(&drop_header(), "SOURCE"), at(&line, "10.0.0.1:53 → ?"));
        assert_eq!(at(&drop_header(), "LOCATION"), at(&line, "udp_unicast"));
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
            "3 connections live, 4 opened, 1 failed, 0.50% retransmitted, 0 resets\n     2.00MB in, 0 out",
            "2.00MB",
            "nginx    public",
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
            text.contains("1200 events: 2 UNACCOUNTED, 7 lost (7 tcp: ring_full at ring)"),
            "{text}"
        );
        assert!(
            text.contains("of the kernel's own counters: segments 99.9%") && text.contains("8  NO_SOCKET"),
            "{text}"
        );
        assert!(summary(&View::default()).contains("no event"));
    }
}
