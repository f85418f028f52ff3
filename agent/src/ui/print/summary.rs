//! One page at the end of a run.

use super::table;
use crate::aggregate::labels::clean;
use crate::ui::top::tabs::agent::coverage;
use crate::ui::units::{bytes, count, percent, seconds, span};
use crate::ui::view::{Latency, PairRow, View};
use std::fmt::Write as _;

/// Pairs and drop reasons that are shown.
const TOP: usize = 10;

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
        "TCP  {} live, {} opened, {} failed, {} retransmitted, {} resets\n     {} in, {} out\n",
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
        ">IN",
        ">OUT",
        ">CONNS",
        ">p50",
        ">p99",
        ">RETR",
        ">FAIL",
        ">RST",
        "SUBJECT → PEER",
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
        format!(
            "{} → {}",
            if p.overflow {
                "(other)".into()
            } else {
                name(&p.subject)
            },
            name(&p.peer)
        ),
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
    for account in &view.accounts {
        for l in &account.dropped {
            let text = format!("{} of {}: {} at {}", l.total, account.probe, l.reason, l.stage);
            let _ = write!(out, "\n  lost {}", clean(&text));
        }
    }
    let covered: Vec<String> = view
        .coverage
        .iter()
        .map(|c| format!("{} {}", clean(&c.metric), coverage(c.ratio)))
        .collect();
    if !covered.is_empty() {
        let _ = write!(
            out,
            "\ncoverage of the kernel's own counters:\n  {}",
            covered.join(", ")
        );
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
        let _ = write!(out, "\n       RSS {}", bytes(rss));
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
