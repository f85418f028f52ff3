//! Idle, a hundred thousand connections, fifty thousand records a second, and the ring alone.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::child::{Child, Program, pause};
use super::metrics::Page;
use super::proc::{Disturbance, Memory, Window, cpus, memory};
use super::roles::raise_files;
use super::stats::{median, quantile};
use super::subject::{Beside, Place, Subject, Usage};

/// What a subject uses when nothing happens.
#[derive(Clone, Debug, Serialize)]
pub struct Idle {
    /// Subject.
    pub subject: &'static str,
    /// What it used; CPU by its threads' own accounts.
    pub usage: Usage,
    /// What others did meanwhile: traffic of theirs is not idleness.
    pub disturbance: Disturbance,
    /// CPU seconds a second of its programs, as geophone states it.
    pub programs_cpu: f64,
    /// Length.
    pub seconds: u64,
}

/// Measures idleness.
pub fn idle(subject: Subject, place: &Place, seconds: u64) -> Result<Idle> {
    let mut beside = Beside::start(subject, place)?;
    let before = beside.page()?;
    let (window, mark) = (Window::open([beside.pid()]), beside.mark());
    pause(Duration::from_secs(seconds))?;
    let (usage, disturbance) = (beside.usage(&mark)?, window.close(0.0));
    let name = "geophone_program_run_seconds_total";
    let programs_cpu = (beside.page()?.sum(name) - before.sum(name)) / seconds as f64;
    beside.stop()?;
    Ok(Idle {
        subject: subject.name(),
        usage,
        disturbance,
        programs_cpu,
        seconds,
    })
}

/// Losses between two pages: (lost events by reason, unaccounted events at the end).
fn losses(before: &Page, after: &Page) -> (f64, f64) {
    let name = "geophone_events_dropped_total";
    let unaccounted: f64 = after
        .by("geophone_events_unaccounted", "probe")
        .values()
        .map(|v| v.abs())
        .sum();
    (after.sum(name) - before.sum(name), unaccounted)
}

/// What many connections cost.
#[derive(Clone, Debug, Serialize)]
pub struct Connections {
    /// Asked for.
    pub wanted: usize,
    /// Open at last; each has two ends on this machine, and geophone sees both.
    pub reached: usize,
    /// Processes that hold them.
    pub processes: usize,
    /// Why there are not more.
    pub error: Option<String>,
    /// Live connections by geophone's count.
    pub seen: f64,
    /// Messages a second over all of them meanwhile.
    pub messages: u64,
    /// CPU seconds a second while they were opened.
    pub opening_cpu: f64,
    /// What was used while they were open.
    pub usage: Usage,
    /// CPU seconds a second of the programs, as stated.
    pub programs_cpu: f64,
    /// Longest scrape, ms.
    pub slowest_scrape: f64,
    /// Memory after all were closed.
    pub after: Memory,
    /// Events lost while they were opened and open.
    pub lost_open: f64,
    /// Events lost, those at the end included, when all are closed at once.
    pub lost: f64,
    /// Events unaccounted for.
    pub unaccounted: f64,
    /// Lost events by reason.
    pub reasons: BTreeMap<String, f64>,
}

/// Opens connections beside the agent and looks what it uses.
pub fn connections(place: &Place, wanted: usize, seconds: u64) -> Result<Connections> {
    let each = usize::try_from(raise_files().saturating_sub(100) / 2).unwrap_or(wanted);
    let processes = wanted.div_ceil(each.max(1)).min(200);
    let messages = 5000;
    let mut beside = Beside::start(Subject::Geophone, place)?;
    let before = beside.page()?;
    let opening = beside.mark();
    let mut holders: Vec<Child> = Vec::new();
    for i in 0..processes {
        let count = (wanted - i * each).min(each);
        let words = [
            "connections".to_owned(),
            (i + 1).to_string(),
            count.to_string(),
            (messages / processes as u64).to_string(),
        ];
        holders.push(Program::role(words)?.start(&place.scratch)?);
    }
    let (mut reached, mut error) = (0, None);
    for holder in &mut holders {
        holder.wait_until(Duration::from_secs(180), |h| h.output().contains('\n'))?;
        let text = holder.output();
        let v: Value =
            serde_json::from_str(text.lines().next().unwrap_or_default()).context("connections")?;
        reached += v.get("reached").and_then(Value::as_u64).unwrap_or(0) as usize;
        let why = v.get("error").and_then(Value::as_str).map(str::to_owned);
        error = error.or(why);
    }
    let opening_cpu = beside.usage(&opening)?.cpu;
    // Two sweeps, so that every connection has been seen by one.
    pause(Duration::from_secs(3))?;
    let run = "geophone_program_run_seconds_total";
    let (mark, programs) = (beside.mark(), beside.page()?.sum(run));
    pause(Duration::from_secs(seconds))?;
    let usage = beside.usage(&mark)?;
    let page = beside.page()?;
    let programs_cpu = (page.sum(run) - programs) / seconds as f64;
    let seen = page.sum("geophone_tcp_connections");
    let lost_open = losses(&before, &page).0;
    for holder in &mut holders {
        holder.stop();
    }
    pause(Duration::from_secs(8))?;
    let (end, after) = (beside.page()?, memory(beside.pid()));
    let (lost, unaccounted) = losses(&before, &end);
    let slowest_scrape = usage.scrape_millis.max(quantile(&beside.scrapes(), 1.0));
    beside.stop()?;
    Ok(Connections {
        wanted,
        reached,
        processes,
        error,
        seen,
        messages,
        opening_cpu,
        usage,
        programs_cpu,
        slowest_scrape,
        after,
        lost_open,
        lost,
        unaccounted,
        reasons: end.by("geophone_events_dropped_total", "reason"),
    })
}

/// A storm of connections.
#[derive(Clone, Debug, Serialize)]
pub struct Sustained {
    /// Flow records a second that were wanted.
    pub wanted: f64,
    /// Flow records a second that the storm made: two for each connection.
    pub reached: f64,
    /// Flow records that the storm made.
    pub records: f64,
    /// Connections closed by geophone's count, both ends.
    pub counted: f64,
    /// Events lost.
    pub lost: f64,
    /// Events unaccounted for, the worst of the run.
    pub unaccounted: f64,
    /// What was used meanwhile.
    pub usage: Usage,
    /// CPU seconds a second of the programs, as stated.
    pub programs_cpu: f64,
    /// Length.
    pub seconds: f64,
    /// Lost events by reason.
    pub reasons: BTreeMap<String, f64>,
}

/// Opens and closes connections for a while.
pub fn sustained(place: &Place, records_per_second: u64, seconds: u64) -> Result<Sustained> {
    let mut beside = Beside::start(Subject::Telling, place)?;
    let before = beside.page()?;
    let mark = beside.mark();
    let storms = cpus().min(2);
    let rate = records_per_second / 2 / storms as u64;
    let words = ["storm".to_owned(), rate.to_string(), seconds.to_string()];
    let mut running: Vec<Child> = Vec::new();
    for _ in 0..storms {
        running.push(Program::role(words.clone())?.start(&place.scratch)?);
    }
    let (mut made, mut took) = (0.0, 0.0f64);
    for storm in &mut running {
        storm.wait_until(Duration::from_secs(seconds + 30), |s| s.output().contains('\n'))?;
        let v: Value = serde_json::from_str(&storm.output()).context("storm")?;
        let number = |name: &str| v.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN);
        made += number("connections");
        took = took.max(number("seconds"));
    }
    let usage = beside.usage(&mark)?;
    // A fault that stays is told after five ticks.
    let mut unaccounted: f64 = 0.0;
    let mut end = Page::default();
    for _ in 0..7 {
        pause(Duration::from_secs(1))?;
        end = beside.page()?;
        unaccounted = losses(&before, &end).1;
    }
    let delta = |name: &str| end.sum(name) - before.sum(name);
    let closed = |page: &Page| -> f64 {
        let by = page.by("geophone_tcp_connections_total", "outcome");
        by.iter()
            .filter(|(k, _)| *k != "opened" && *k != "adopted")
            .map(|(_, v)| v)
            .sum()
    };
    let result = Sustained {
        wanted: records_per_second as f64,
        reached: 2.0 * made / took,
        records: 2.0 * made,
        counted: closed(&end) - closed(&before),
        lost: losses(&before, &end).0,
        unaccounted,
        usage,
        programs_cpu: delta("geophone_program_run_seconds_total") / took,
        seconds: took,
        reasons: end.by("geophone_events_dropped_total", "reason"),
    };
    beside.stop()?;
    Ok(result)
}

/// The ring alone: medians of some runs.
#[derive(Clone, Debug, Serialize)]
pub struct Ring {
    /// Records of a run.
    pub records: u64,
    /// Runs.
    pub runs: usize,
    /// ns to put a record in, and the best.
    pub produce_nanos: f64,
    /// The best run.
    pub produce_best: f64,
    /// ns to take a record out and decode it.
    pub drain_nanos: f64,
    /// The best run.
    pub drain_best: f64,
    /// Records that did not fit, all runs.
    pub dropped: f64,
    /// Records that are nowhere, all runs.
    pub unaccounted: f64,
}

/// Encodes 10k series in each format.
pub fn exposition(place: &Place) -> Result<Value> {
    let agent = place.agent.display().to_string();
    let program = Program::new([agent.as_str(), "bench-encode"]);
    serde_json::from_str(&program.finish()?).context("geophone bench-encode")
}

/// Has the agent measure its ring.
pub fn ring(place: &Place, records: u64, runs: usize) -> Result<Ring> {
    ensure!(runs > 0, "no runs");
    let agent = place.agent.display().to_string();
    let program = Program::new([&agent, "bench-ring", "--records", &records.to_string()]);
    let mut all: Vec<Value> = Vec::new();
    for _ in 0..runs {
        all.push(serde_json::from_str(&program.finish()?).context("geophone bench-ring")?);
    }
    let values = |name: &str| -> Vec<f64> {
        all.iter()
            .map(|v| v.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN))
            .collect()
    };
    let (produce, drain) = (values("produce_nanos"), values("drain_nanos"));
    Ok(Ring {
        records,
        runs,
        produce_nanos: median(&produce),
        produce_best: quantile(&produce, 0.0),
        drain_nanos: median(&drain),
        drain_best: quantile(&drain, 0.0),
        dropped: values("dropped_ring_full").iter().sum(),
        unaccounted: values("unaccounted").iter().map(|v| v.abs()).sum(),
    })
}
