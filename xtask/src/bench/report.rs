//! The table, and the judgement on it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use super::columns::{columns, row};
use super::packets::Packets;
use super::pairs::Comparison;
use super::price::Price;
use super::replay::Replay;
use super::scale::{Connections, Idle, Ring, Sustained};
use super::stacks::Stacks;
use super::stats::Estimate;
use super::store::Store;
use super::subject::Usage;

/// Everything that was measured.
#[derive(Serialize)]
pub struct Results {
    /// Where and with what.
    pub machine: Value,
    /// Workloads with and without.
    pub comparisons: Vec<Comparison>,
    /// Nothing going on.
    pub idle: Vec<Idle>,
    /// Programs one by one.
    pub prices: Vec<Price>,
    /// Many connections.
    pub connections: Option<Connections>,
    /// Many records.
    pub sustained: Option<Sustained>,
    /// The ring alone.
    pub ring: Option<Ring>,
    /// Packets one by one.
    pub packets: Option<Packets>,
    /// What stacks cost.
    pub stacks: Option<Stacks>,
    /// The store beside others.
    pub store: Option<Store>,
    /// What `geophone bench-encode` says: milliseconds to encode 10k series, by format.
    pub exposition: Option<Value>,
    /// Replay of a recording.
    pub replay: Option<Replay>,
}

impl Results {
    /// Nothing measured yet.
    pub fn new(machine: Value) -> Self {
        Self {
            machine,
            comparisons: Vec::new(),
            idle: Vec::new(),
            prices: Vec::new(),
            connections: None,
            sustained: None,
            ring: None,
            packets: None,
            stacks: None,
            store: None,
            exposition: None,
            replay: None,
        }
    }
}

const MIB: f64 = 1_048_576.0;

fn percent(cpu: f64) -> String {
    format!("{:.2}", cpu * 100.0)
}

fn ratio(estimate: Option<Estimate>) -> String {
    estimate.map_or_else(
        || "-".into(),
        |e| format!("{:.3} [{:.2} {:.2}]", e.median, e.low, e.high),
    )
}

fn memory(usage: &Usage) -> String {
    let m = usage.memory;
    format!("{:.0}/{:.0}", m.rss as f64 / MIB, m.peak as f64 / MIB)
}

/// All tables as text.
pub fn table(results: &Results) -> String {
    let mut out = String::new();
    let m = |name: &str| {
        let value = results.machine.get(name).cloned().unwrap_or_default();
        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
    };
    let _ = writeln!(
        out,
        "\n{} · commit {} · kernel {} · {} × {} · load {} · tracing programs of others: {}",
        m("agent_version"),
        m("commit"),
        m("kernel"),
        m("cpus"),
        m("cpu"),
        m("load_before"),
        m("tracing_programs_of_others"),
    );
    comparisons(results, &mut out);
    idle(results, &mut out);
    prices(results, &mut out);
    scale(results, &mut out);
    if let Some((head, rows)) = results.packets.as_ref().map(Packets::table) {
        out.push_str(&head);
        out.push_str(&columns(&rows));
    }
    if let Some(stacks) = &results.stacks {
        out.push_str("\nStacks; agent CPU is all of it, with what reads symbols\n");
        out.push_str(&columns(&stacks.table()));
        out.push_str(&stacks.text());
    }
    if let Some(store) = &results.store {
        out.push_str("\nThe store\n");
        out.push_str(&columns(&store.table()));
        out.push_str(&store.text());
    }
    if let Some(exposition) = &results.exposition {
        let _ = writeln!(
            out,
            "\nExposition of 10k series, milliseconds by format: {exposition}"
        );
    }
    out.extend(results.replay.iter().map(Replay::text));
    out.push_str("\nTargets\n");
    out.push_str(&columns(&judgements(results)));
    out
}

fn comparisons(results: &Results, out: &mut String) {
    if results.comparisons.is_empty() {
        return;
    }
    out.push_str(
        "\nWith ÷ without: median [95 % interval]. CPU is that of both ends of the workload per operation.\n",
    );
    let mut rows = vec![row([
        "workload",
        "beside it",
        "base µs",
        "× CPU",
        "of best",
        "base/s",
        "× rate",
        "× p50",
        "× p99",
        "CPU %",
        "RSS/peak MiB",
        "maps",
        "level",
        "pairs",
        "rejected",
    ])];
    for c in &results.comparisons {
        rows.push(vec![
            c.workload.into(),
            c.subject.into(),
            format!("{:.2}", c.base_micros),
            ratio(c.cpu),
            format!("{:.3}", c.cpu_of_best),
            format!("{:.0}", c.base_rate),
            ratio(c.rate),
            ratio(c.p50),
            ratio(c.p99),
            percent(c.subject_cpu),
            memory(&c.usage),
            format!("{:.1}", c.usage.maps / MIB),
            format!("{:.0}", c.usage.level),
            format!("{}{}", c.clean, if c.disturbed { "!" } else { "" }),
            c.rejected.to_string(),
        ]);
    }
    out.push_str(&columns(&rows));
    if results.comparisons.iter().any(|c| c.disturbed) {
        out.push_str("! too few pairs were undisturbed; the rejected ones are in the figures\n");
    }
}

fn idle(results: &Results, out: &mut String) {
    if results.idle.is_empty() {
        return;
    }
    out.push_str("\nIdle, scraped once a second\n");
    let mut rows = vec![row([
        "",
        "",
        "CPU %",
        "programs %",
        "RSS/peak MiB",
        "own",
        "file",
        "maps",
        "series",
        "scrape ms",
        "foreign %",
    ])];
    for i in &results.idle {
        rows.push(vec![
            i.subject.into(),
            format!("{} s", i.seconds),
            percent(i.usage.cpu),
            percent(i.programs_cpu),
            memory(&i.usage),
            format!("{:.1}", i.usage.memory.anonymous as f64 / MIB),
            format!("{:.1}", i.usage.memory.file as f64 / MIB),
            format!("{:.1}", i.usage.maps / MIB),
            i.usage.series.to_string(),
            format!("{:.2}", i.usage.scrape_millis),
            percent(i.disturbance.foreign),
        ]);
    }
    out.push_str(&columns(&rows));
}

fn prices(results: &Results, out: &mut String) {
    for p in &results.prices {
        let _ = writeln!(
            out,
            "\nPrograms, {}: {:.0} operations/s, empty program {:.1} ns, dispatch {:.0} ns added, level {:.0}, \
             foreign {} %{}",
            p.workload,
            p.rate,
            p.floor,
            p.dispatch,
            p.level,
            percent(p.disturbance.foreign),
            if p.disturbance.is_small() {
                ""
            } else {
                " (disturbed)"
            }
        );
        let mut rows = vec![row([
            "program",
            "",
            "runs/s",
            "gross ns",
            "net ns",
            "stated ns",
            "CPU %",
        ])];
        for program in &p.programs {
            rows.push(vec![
                program.name.clone(),
                String::new(),
                format!("{:.0}", program.runs_per_second),
                format!("{:.1}", program.gross),
                format!("{:.1}", program.net),
                format!("{:.1}", program.stated),
                percent(program.cpu),
            ]);
        }
        out.push_str(&columns(&rows));
        let _ = writeln!(
            out,
            "measured: programs {} % + agent {} %; stated: {} % + {} %; stated ÷ measured {:.2}",
            percent(p.programs_cpu),
            percent(p.agent_cpu),
            percent(p.stated_programs_cpu),
            percent(p.stated_agent_cpu),
            p.ratio
        );
    }
}

fn scale(results: &Results, out: &mut String) {
    if let Some(c) = &results.connections {
        let _ = writeln!(
            out,
            "\nConnections: {} of {} open in {} processes{}; geophone sees {:.0} ends, {} messages/s\n\
             CPU {} % (opening {} %), programs {} %; RSS/peak {} MiB, maps {:.1} MiB, after closing {:.0} MiB; \
             scrape {:.2} ms, slowest {:.2} ms; lost {:.0} while open, {:.0} in all, unaccounted {:.0} {:?}",
            c.reached,
            c.wanted,
            c.processes,
            c.error.as_ref().map_or(String::new(), |e| format!(" ({e})")),
            c.seen,
            c.messages,
            percent(c.usage.cpu),
            percent(c.opening_cpu),
            percent(c.programs_cpu),
            memory(&c.usage),
            c.usage.maps / MIB,
            c.after.rss as f64 / MIB,
            c.usage.scrape_millis,
            c.slowest_scrape,
            c.lost_open,
            c.lost,
            c.unaccounted,
            some(&c.reasons),
        );
    }
    if let Some(s) = &results.sustained {
        let _ = writeln!(
            out,
            "\nSustained: {:.0} flow records/s of {:.0} for {:.0} s, {:.0} in all; geophone counted {:.0} closed ends; \
             lost {:.0}, unaccounted {:.0} {:?}\nCPU {} %, programs {} %, RSS/peak {} MiB, level {:.0}",
            s.reached,
            s.wanted,
            s.seconds,
            s.records,
            s.counted,
            s.lost,
            s.unaccounted,
            some(&s.reasons),
            percent(s.usage.cpu),
            percent(s.programs_cpu),
            memory(&s.usage),
            s.usage.level,
        );
    }
    if let Some(r) = &results.ring {
        let _ = writeln!(
            out,
            "\nRing: {} × {} records; produce {:.1} ns (best {:.1}), drain {:.1} ns (best {:.1}); dropped {:.0}, \
             unaccounted {:.0}",
            r.runs,
            r.records,
            r.produce_nanos,
            r.produce_best,
            r.drain_nanos,
            r.drain_best,
            r.dropped,
            r.unaccounted
        );
    }
}

fn some(reasons: &BTreeMap<String, f64>) -> Vec<String> {
    let lost = reasons.iter().filter(|(_, v)| **v > 0.0);
    lost.map(|(k, v)| format!("{k}={v:.0}")).collect()
}

/// A ratio is decided only where its whole interval is on one side, and the machine was quiet.
fn verdict(c: &Comparison, target: f64, e: Estimate) -> &'static str {
    if c.disturbed {
        "undecided (disturbed)"
    } else if e.high <= target {
        "yes"
    } else if e.low > target {
        "NO"
    } else {
        "undecided"
    }
}

fn judgements(results: &Results) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = vec![row(["", "", "target", "reached", ""])];
    let compared = results.comparisons.iter();
    for (c, target) in compared.clone().filter_map(|c| Some((c, c.target?))) {
        let p50 = c.p50.filter(|_| c.workload == "ping-pong busy");
        for (what, found) in [("CPU per operation", c.cpu), ("p50", p50)] {
            if let Some(e) = found {
                let which = format!("{}, {}", c.workload, c.subject);
                let (most, verdict) = (format!("<= {target:.2}"), verdict(c, target, e));
                rows.push(row([what, &which, &most, &ratio(found), verdict]));
            }
        }
    }
    let mut judge = |what: &str, which: &str, target: &str, reached: String, good: bool| {
        let verdict = if good { "yes" } else { "NO" };
        rows.push(row([what, which, target, &reached, verdict]));
    };
    // With stacks it is judged in the steady state.
    let is_stacks = |c: &&Comparison| c.subject.starts_with("stacks");
    for c in compared.filter(|c| c.target.is_some() && !is_stacks(c)) {
        let which = format!("{}, {}", c.workload, c.subject);
        let used = format!("{} %", percent(c.subject_cpu));
        judge(
            "agent CPU",
            &which,
            "<= 0.3 % of a core",
            used,
            c.subject_cpu <= 0.003,
        );
    }
    for i in results.idle.iter().filter(|i| i.subject == "geophone") {
        let used = format!("{} %", percent(i.usage.cpu));
        judge(
            "agent CPU",
            "idle",
            "<= 0.3 % of a core",
            used,
            i.usage.cpu <= 0.003,
        );
        held(&mut judge, "idle", 40.0, &i.usage);
    }
    for (what, which, target, nanos) in results.packets.iter().flat_map(Packets::judged) {
        let reached = format!("{nanos:.0} ns");
        judge(
            what,
            &which,
            &format!("<= {target:.0} ns"),
            reached,
            nanos <= target,
        );
    }
    let stacks = results.stacks.iter().flat_map(Stacks::judged);
    let prices = results.prices.iter().flat_map(Price::judged);
    let store = results.store.iter().flat_map(Store::judged);
    for (what, which, target, reached, good) in prices.chain(stacks).chain(store) {
        judge(what, &which, &target, reached, good);
    }
    if let Some(c) = &results.connections {
        let used = format!("{} %", percent(c.usage.cpu));
        judge(
            "agent CPU",
            "100k connections",
            "<= 0.3 % of a core",
            used,
            c.usage.cpu <= 0.003,
        );
        held(&mut judge, "100k connections", 150.0, &c.usage);
        judge(
            "lost",
            "100k connections",
            "0",
            format!("{:.0}", c.lost),
            c.lost == 0.0,
        );
        judge(
            "unaccounted",
            "100k connections",
            "0",
            format!("{:.0}", c.unaccounted),
            c.unaccounted == 0.0,
        );
    }
    if let Some(s) = &results.sustained {
        let rate = format!("{:.0}", s.reached);
        judge(
            "records/s",
            "sustained",
            ">= 50000",
            rate,
            s.reached >= s.wanted * 0.98,
        );
        judge("lost", "sustained", "0", format!("{:.0}", s.lost), s.lost == 0.0);
        judge(
            "unaccounted",
            "sustained",
            "0",
            format!("{:.0}", s.unaccounted),
            s.unaccounted == 0.0,
        );
    }
    results.replay.iter().for_each(|replay| replay.judge(&mut judge));
    if let Some(r) = &results.ring {
        let millions = |nanos: f64| format!("{:.1} M/s", 1e3 / nanos);
        judge(
            "ring, produce",
            "",
            ">= 5 M/s",
            millions(r.produce_nanos),
            r.produce_nanos <= 200.0,
        );
        judge(
            "ring, drain",
            "",
            ">= 10 M/s",
            millions(r.drain_nanos),
            r.drain_nanos <= 100.0,
        );
        judge(
            "ring, lost",
            "",
            "0",
            format!("{:.0}", r.dropped + r.unaccounted),
            r.dropped + r.unaccounted == 0.0,
        );
    }
    rows
}

/// Memory with the maps counted in.
fn held(judge: &mut impl FnMut(&str, &str, &str, String, bool), which: &str, target: f64, usage: &Usage) {
    let all = usage.memory.with_maps(usage.maps) / MIB;
    let target_text = format!("<= {target:.0} MiB");
    let reached = format!("{all:.1} MiB");
    judge(
        "memory, maps included",
        which,
        &target_text,
        reached,
        all <= target,
    );
}
