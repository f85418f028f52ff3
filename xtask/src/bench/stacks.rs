//! What stacks cost: the agent's CPU time and memory with them, a sample's in the kernel, and how soon a new program's are
//! whole.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::child::{Child, Program, pause};
use super::columns::row;
use super::load::{Kind, Load};
use super::price::{self, Price};
use super::proc::{memory, tree};
use super::stats::{median, quantile};
use super::subject::{Beside, Place, Subject};
use crate::toolchain::find;

/// Processes whose memory is looked at.
const PROCESSES: usize = 200;
/// Programs that are started one after the other.
const NEW: usize = 15;
/// Stacks a second when a new program's are looked at: a tick is a millisecond.
const FINE: u32 = 997;

const MIB: f64 = 1_048_576.0;

/// At a rate, under a load.
#[derive(Clone, Debug, Serialize)]
pub struct Steady {
    /// Samples a second and CPU; 0 = no stacks are taken.
    pub hz: u32,
    /// Its figures.
    pub price: Price,
    /// Share of the stacks that are whole.
    pub whole: f64,
}

/// Many processes.
#[derive(Clone, Debug, Serialize)]
pub struct Many {
    /// Those that the kernel can unwind.
    pub processes: f64,
    /// rustc, and with it libLLVM, was among them.
    pub llvm: bool,
    /// Files whose tables are held.
    pub binaries: f64,
    /// Bytes of all tables.
    pub tables: f64,
    /// Resident memory of the agent at the end.
    pub agent: u64,
    /// Most resident memory of the agent and of the process that reads symbols together.
    pub peak: u64,
    /// CPU seconds a second meanwhile: everything is new.
    pub cpu: f64,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Stacks {
    /// nginx and wrk.
    pub steady: Vec<Steady>,
    /// Memory.
    pub many: Many,
    /// Milliseconds of a new program with a libc of its own until its stacks are whole.
    pub ready: Vec<f64>,
}

/// Measures everything but the cost of a request.
pub fn measure(place: &Place, seconds: u64) -> Result<Stacks> {
    let mut load = Load::start(Kind::KeepAlive, &place.scratch)?;
    let mut steady = Vec::new();
    for hz in [0, 49, 99] {
        let subject = if hz == 0 {
            Subject::Unbounded
        } else {
            Subject::Stacks { hz }
        };
        let mut whole = f64::NAN;
        let price = price::measure_and(Some(&mut load), subject, place, seconds, |page| {
            let ends = page.by("geophone_profile_stacks_total", "end");
            whole = ends.get("complete").copied().unwrap_or(0.0) / ends.values().sum::<f64>();
        })?;
        steady.push(Steady { hz, price, whole });
    }
    drop(load);
    Ok(Stacks {
        steady,
        many: many(place, seconds)?,
        ready: ready(place)?,
    })
}

/// Two hundred processes that are busy now and then, and a compiler.
fn many(place: &Place, seconds: u64) -> Result<Many> {
    let mut others: Vec<Child> = Vec::new();
    for _ in 0..PROCESSES {
        others.push(Program::role(["drowsy"])?.nice().start(&place.scratch)?);
    }
    let rustc = find("rustc");
    if let Some(rustc) = &rustc {
        let script = "while :; do echo 'pub fn f(a: &mut Vec<String>) { a.sort(); a.dedup() }' | \
                      \"$0\" --crate-type lib -O -o \"$1\" - ; done";
        let out = place.scratch.join("librust.rlib");
        let words = [
            "sh".as_ref(),
            "-c".as_ref(),
            script.as_ref(),
            rustc.as_os_str(),
            out.as_os_str(),
        ];
        others.push(Program::new(words).nice().start(&place.scratch)?);
    }
    let beside = Beside::start(Subject::Stacks { hz: 99 }, place)?;
    let (mark, start) = (beside.cpu(), Instant::now());
    let mut peak = 0;
    while start.elapsed() < Duration::from_secs(seconds.max(20)) {
        pause(Duration::from_millis(200))?;
        peak = peak.max(tree(beside.pid()).into_iter().map(|pid| memory(pid).rss).sum());
    }
    let cpu = (beside.cpu() - mark) / start.elapsed().as_secs_f64();
    let page = beside.page()?;
    let found = Many {
        processes: page.sum("geophone_profile_processes"),
        llvm: rustc.is_some(),
        binaries: page.sum("geophone_profile_binaries"),
        tables: page.sum("geophone_profile_table_bytes"),
        agent: memory(beside.pid()).rss,
        peak,
        cpu,
    };
    beside.stop()?;
    for mut other in others {
        other.kill();
    }
    Ok(found)
}

/// Starts a program that is busy at once and has a libc that nobody has seen, and counts the ticks whose stacks are cut.
fn ready(place: &Place) -> Result<Vec<f64>> {
    let maps = std::fs::read_to_string("/proc/self/maps").context("/proc/self/maps")?;
    let libc = maps.lines().filter_map(|line| line.get(line.find('/')?..));
    let libc = libc
        .into_iter()
        .find(|path| path.ends_with("/libc.so.6"))
        .context("no libc.so.6")?;
    let beside = Beside::start(Subject::Stacks { hz: FINE }, place)?;
    let mut found = Vec::new();
    for i in 0..NEW {
        let own = place.scratch.join(format!("libc-{i}"));
        std::fs::create_dir_all(&own).context("a directory")?;
        std::fs::copy(libc, own.join("libc.so.6")).context("libc.so.6")?;
        let path = format!("LD_LIBRARY_PATH={}", own.display());
        let me = std::env::current_exe().context("own path")?;
        let words = [
            path.as_ref(),
            me.as_os_str(),
            "bench".as_ref(),
            "role".as_ref(),
            "spin".as_ref(),
        ];
        let words = std::iter::once("env".as_ref()).chain(words);
        let mut child = Program::new(words).start(&place.scratch)?;
        pause(Duration::from_millis(700))?;
        let folded = beside.get(&format!("/api/v1/profile?pid={}&format=folded", child.pid()))?;
        child.kill();
        let own = folded.lines().filter(|line| line.starts_with("xtask;"));
        let count = |line: &str| line.rsplit_once(' ').and_then(|(_, n)| n.parse::<f64>().ok());
        let all: f64 = own.clone().filter_map(count).sum();
        let cut: f64 = own
            .filter(|line| line.starts_with("xtask;[cut: "))
            .filter_map(count)
            .sum();
        if all >= 50.0 {
            found.push(cut * 1e3 / f64::from(FINE));
        }
    }
    beside.stop()?;
    Ok(found)
}

impl Stacks {
    /// Rows of tables: steady state, memory and time.
    pub fn table(&self) -> Vec<Vec<String>> {
        let mut rows = vec![row([
            "nginx keep-alive",
            "samples/s",
            "whole %",
            "agent CPU %",
            "ns a sample",
            "foreign %",
        ])];
        for s in &self.steady {
            let sample = s.sample();
            rows.push(vec![
                if s.hz == 0 {
                    "no stacks".into()
                } else {
                    format!("{} Hz", s.hz)
                },
                sample.map_or("-".into(), |p| format!("{:.0}", p.runs_per_second)),
                if s.hz == 0 {
                    "-".into()
                } else {
                    format!("{:.2}", s.whole * 100.0)
                },
                format!("{:.2}", s.price.agent_cpu * 100.0),
                sample.map_or("-".into(), |p| format!("{:.0}", p.net)),
                format!("{:.0}", s.price.disturbance.foreign * 100.0),
            ]);
        }
        rows
    }

    /// The rest in words.
    pub fn text(&self) -> String {
        let m = &self.many;
        format!(
            "{:.0} processes{}: RSS {:.0} MiB, with the reader of symbols {:.0} MiB at most, tables {:.1} MiB of {:.0} \
             files, CPU {:.2} % while all is new\n\
             a new program with a libc of its own: stacks whole after {:.0} ms (median of {}), at worst {:.0}\n\
             profile-bee and lightswitch are in no Debian archive and do not install here; measured before (other day, \
             same machine): 3.3 % of a core, 77 MiB, 47 µs a sample; 1.07 %, 50 MiB, 38 µs\n",
            m.processes,
            if m.llvm {
                ", a rustc with libLLVM among them"
            } else {
                " (no rustc here)"
            },
            m.agent as f64 / MIB,
            m.peak as f64 / MIB,
            m.tables / MIB,
            m.binaries,
            m.cpu * 100.0,
            median(&self.ready),
            self.ready.len(),
            quantile(&self.ready, 1.0),
        )
    }

    /// What is held against a target: what, which, target, reached, whether it is.
    pub fn judged(&self) -> Vec<(&'static str, String, String, String, bool)> {
        let mut out = Vec::new();
        for (hz, target) in [(99, 0.5), (49, 0.3)] {
            for s in self.steady.iter().filter(|s| s.hz == hz) {
                let used = s.price.agent_cpu * 100.0;
                let (which, most) = (format!("stacks at {hz} Hz"), format!("<= {target} % of a core"));
                out.push((
                    "agent CPU",
                    which.clone(),
                    most,
                    format!("{used:.2} %"),
                    used <= target,
                ));
                if let Some(p) = s.sample() {
                    let reached = format!("{:.1} µs", p.net / 1e3);
                    out.push(("a sample", which, "<= 5 µs".into(), reached, p.net <= 5000.0));
                }
            }
        }
        let peak = self.many.peak as f64 / MIB;
        let which = format!("{:.0} processes", self.many.processes);
        out.push((
            "RSS with stacks",
            which,
            "<= 120 MiB".into(),
            format!("{peak:.0} MiB"),
            peak <= 120.0,
        ));
        let ready = median(&self.ready);
        let which = "a new libc".to_owned();
        out.push((
            "whole stacks",
            which,
            "<= 20 ms".into(),
            format!("{ready:.0} ms"),
            ready <= 20.0,
        ));
        out
    }
}

impl Steady {
    fn sample(&self) -> Option<&price::ProgramPrice> {
        self.price
            .programs
            .iter()
            .find(|p| p.name.starts_with("profile_cpu"))
    }
}
