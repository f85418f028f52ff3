//! What the programs cost by the kernel's own statistics, in a pass of its own, and whether geophone's statement of its
//! cost agrees with it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::child::{Program, pause};
use super::load::Load;
use super::metrics::Page;
use super::proc::{Disturbance, Window, program_ids};
use super::subject::{Beside, Place, Subject};

/// Dispatch of a BTF tracepoint, which the statistics do not see, ns (measured: research/performance.md 1.1).
pub const DISPATCH_NANOS: f64 = 48.0;

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The kernel's statistics; as they were before when this goes.
pub struct Statistics(String);

impl Statistics {
    /// Switches them on.
    pub fn on() -> Result<Self> {
        let before = std::fs::read_to_string(SWITCH).context(SWITCH)?;
        std::fs::write(SWITCH, "1").context(SWITCH)?;
        Ok(Self(before))
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _ = std::fs::write(SWITCH, self.0.trim());
    }
}

/// A program's statistics.
#[derive(Clone, Debug, Default)]
struct Counted {
    name: String,
    kind: String,
    nanos: f64,
    runs: f64,
}

fn programs() -> Result<BTreeMap<u32, Counted>> {
    let text = Program::new(["bpftool", "prog", "show", "-j"]).finish()?;
    let list: Vec<Value> = serde_json::from_str(&text).context("bpftool prog show")?;
    let read = |v: &Value| {
        let number = |name: &str| v.get(name).and_then(Value::as_f64).unwrap_or(0.0);
        let text = |name: &str| v.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let counted = Counted {
            name: text("name"),
            kind: text("type"),
            nanos: number("run_time_ns"),
            runs: number("run_cnt"),
        };
        Some((u32::try_from(v.get("id")?.as_u64()?).ok()?, counted))
    };
    Ok(list.iter().filter_map(read).collect())
}

/// eBPF programs of tracing kinds on this machine: the agents of others, when there are none of ours.
pub fn tracing_programs() -> usize {
    let is_tracing = |p: &Counted| {
        [
            "tracing",
            "raw_tracepoint",
            "tracepoint",
            "perf_event",
            "sock_ops",
        ]
        .contains(&p.kind.as_str())
    };
    programs().map_or(0, |all| all.values().filter(|p| is_tracing(p)).count())
}

/// Run time of an empty program as the statistics see it, ns: the agent's own empty program, run by bpftool.
fn floor(id: u32, scratch: &Path) -> Result<f64> {
    let packet = scratch.join("packet");
    std::fs::write(&packet, [0u8; 64]).context("packet")?;
    let (id_text, packet) = (id.to_string(), packet.display().to_string());
    let words = [
        "bpftool", "prog", "run", "id", &id_text, "data_in", &packet, "repeat", "1000000",
    ];
    let count = || -> Result<Counted> { Ok(programs()?.remove(&id).unwrap_or_default()) };
    let before = count()?;
    Program::new(words).finish()?;
    let after = count()?;
    Ok((after.nanos - before.nanos) / (after.runs - before.runs).max(1.0))
}

/// What a program costs.
#[derive(Clone, Debug, Serialize)]
pub struct ProgramPrice {
    /// Its name, as the kernel cuts it.
    pub name: String,
    /// Runs a second.
    pub runs_per_second: f64,
    /// ns a run by the statistics.
    pub gross: f64,
    /// ns a run without the floor: the body.
    pub net: f64,
    /// CPU seconds a second, body and dispatch.
    pub cpu: f64,
    /// ns a run that geophone states, dispatch included.
    pub stated: f64,
}

/// What the kernel says and what geophone says.
#[derive(Clone, Debug, Serialize)]
pub struct Price {
    /// Workload.
    pub workload: &'static str,
    /// Run time of an empty program, ns.
    pub floor: f64,
    /// Dispatch that was added, ns.
    pub dispatch: f64,
    /// Programs that ran, the dearest first.
    pub programs: Vec<ProgramPrice>,
    /// CPU seconds a second of the programs, measured: body and dispatch. Iterators run in the agent's own time and
    /// are not counted twice.
    pub programs_cpu: f64,
    /// CPU seconds a second of the agent's threads, measured.
    pub agent_cpu: f64,
    /// The same as stated by geophone.
    pub stated_programs_cpu: f64,
    /// The same as stated by geophone.
    pub stated_agent_cpu: f64,
    /// Stated ÷ measured, all in all.
    pub ratio: f64,
    /// Step of the governor at the end.
    pub level: f64,
    /// Operations a second of the workload, for scale.
    pub rate: f64,
    /// CPU seconds a second of both its ends, programs and all.
    pub load_cpu: f64,
    /// What disturbed the pass.
    pub disturbance: Disturbance,
    /// Length of the pass.
    pub seconds: f64,
}

const RUN: &str = "geophone_program_run_seconds_total";
const RUNS: &str = "geophone_program_runs_total";

/// A page of a tick that has just been; the metrics change once a second.
fn fresh(beside: &Beside) -> Result<Page> {
    let first = beside.page()?.sum("geophone_agent_cpu_seconds_total");
    let end = Instant::now() + Duration::from_millis(1500);
    loop {
        let page = beside.page()?;
        if page.sum("geophone_agent_cpu_seconds_total") > first || Instant::now() > end {
            return Ok(page);
        }
        pause(Duration::from_millis(10))?;
    }
}

/// Measures with a workload, or idle without.
pub fn measure(load: Option<&mut Load>, subject: Subject, place: &Place, seconds: u64) -> Result<Price> {
    measure_and(load, subject, place, seconds, |_| {})
}

/// The same, and shows the last page of metrics.
pub fn measure_and(
    mut load: Option<&mut Load>,
    subject: Subject,
    place: &Place,
    seconds: u64,
    show: impl FnOnce(&Page),
) -> Result<Price> {
    let statistics = Statistics::on()?;
    let beside = Beside::start(subject, place)?;
    let ids = program_ids(beside.pid());
    let own = |all: BTreeMap<u32, Counted>| -> BTreeMap<u32, Counted> {
        all.into_iter().filter(|(id, _)| ids.contains(id)).collect()
    };
    let calibrate = own(programs()?).into_iter().find(|(_, p)| p.name == "floor");
    let (id, _) = calibrate.context("the agent has no program `floor`")?;
    let floor = floor(id, &place.scratch)?;
    // The agent measures its programs for the first time under load, before the window.
    if let Some(load) = &mut load {
        // Stacks have their names after two slices of ten seconds.
        load.run(if matches!(subject, Subject::Stacks { .. }) {
            22
        } else {
            2
        })?;
    }
    let (page, before, cpu, start) = (fresh(&beside)?, own(programs()?), beside.cpu(), Instant::now());
    let mut known = load.as_ref().map_or_else(Vec::new, |l| l.pids());
    known.push(beside.pid());
    let (window, mut rate, mut clients, mut load_cpu) = (Window::open(known), 0.0, 0.0, 0.0);
    match &mut load {
        Some(load) => {
            let work = load.run(seconds)?;
            (rate, clients) = (work.rate(), work.client_cpu);
            load_cpu = work.cpu / work.seconds;
        }
        None => pause(Duration::from_secs(seconds))?,
    }
    let disturbance = window.close(clients);
    let (page_after, after, cpu_after) = (fresh(&beside)?, own(programs()?), beside.cpu());
    let seconds = start.elapsed().as_secs_f64();
    show(&page_after);
    drop(statistics);
    let (runs, runs_before) = (page_after.by(RUNS, "program"), page.by(RUNS, "program"));
    let (time, time_before) = (page_after.by(RUN, "program"), page.by(RUN, "program"));
    let mut found = Vec::new();
    let mut programs_cpu = 0.0;
    for (id, p) in &after {
        let zero = Counted::default();
        let b = before.get(id).unwrap_or(&zero);
        let (n, nanos) = (p.runs - b.runs, p.nanos - b.nanos);
        if n <= 0.0 || p.name == "floor" {
            continue;
        }
        let is_iterator = ["tcp_sweep", "tcp_sweep_files", "tcp_adopt"].contains(&p.name.as_str());
        let net = nanos / n - floor;
        let cpu = n * (net.max(0.0) + if is_iterator { 0.0 } else { DISPATCH_NANOS }) / 1e9 / seconds;
        if !is_iterator {
            programs_cpu += cpu;
        }
        let delta = |after: &BTreeMap<String, f64>, before: &BTreeMap<String, f64>| -> f64 {
            let full = after.iter().find(|(name, _)| name.starts_with(&p.name));
            full.map_or(0.0, |(name, v)| v - before.get(name).copied().unwrap_or(0.0))
        };
        found.push(ProgramPrice {
            name: p.name.clone(),
            runs_per_second: n / seconds,
            gross: nanos / n,
            net,
            cpu,
            stated: delta(&time, &time_before) * 1e9 / delta(&runs, &runs_before),
        });
    }
    found.sort_by(|a, b| b.cpu.total_cmp(&a.cpu));
    let stated = |name: &str| (page_after.sum(name) - page.sum(name)) / seconds;
    let agent_cpu = (cpu_after - cpu) / seconds;
    let (stated_programs_cpu, stated_agent_cpu) = (stated(RUN), stated("geophone_agent_cpu_seconds_total"));
    let price = Price {
        workload: load.map_or("idle", |l| l.kind().name()),
        floor,
        dispatch: DISPATCH_NANOS,
        programs: found,
        programs_cpu,
        agent_cpu,
        stated_programs_cpu,
        stated_agent_cpu,
        ratio: (stated_programs_cpu + stated_agent_cpu) / (programs_cpu + agent_cpu),
        level: page_after.sum("geophone_governor_level"),
        rate,
        load_cpu,
        disturbance,
        seconds,
    };
    beside.stop()?;
    Ok(price)
}

impl Price {
    /// What the programs whose names begin so add to the workload's CPU per operation, as a ratio: where that is less than one
    /// measurement differs from the next, pairs cannot tell it, and this can. What they leave of the caches is not in it.
    fn added(&self, names: &str) -> Option<f64> {
        let programs = self.programs.iter().filter(|p| p.name.starts_with(names));
        let own: f64 = programs.map(|p| p.cpu).sum();
        (own > 0.0 && self.load_cpu > own).then(|| self.load_cpu / (self.load_cpu - own))
    }

    /// What is held against a target: what, which, target, reached, whether it is.
    pub fn judged(&self) -> Vec<(&'static str, String, String, String, bool)> {
        let mut rows = vec![(
            "stated ÷ measured cost",
            self.workload.to_owned(),
            "0.8 .. 1.2".to_owned(),
            format!("{:.2}", self.ratio),
            (0.8..=1.2).contains(&self.ratio),
        )];
        rows.extend(self.added("tunnel").map(|added| {
            (
                "CPU per operation",
                format!("{}, tunnel's programs by their own time", self.workload),
                "<= 1.02".to_owned(),
                format!("{added:.3}"),
                added <= 1.02,
            )
        }));
        rows
    }
}
