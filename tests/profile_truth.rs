//! Probe `profile`: stacks of every kind of program, and what others say of the same.

use anyhow::{Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tests::harness::agent::{Agent, Scratch};
use tests::harness::programs::{self, Running};
use tests::harness::stacks::{Busy, Folded, busy};
use tests::harness::{Setup, Snapshot, command, equal};
use tests::need_root;

/// Functions on the way, outermost first.
const SPINNING: &[&str] = &["_start", "main", "spinning_for", "spinning", "spinning_leaf"];

/// Cause: programs of nine kinds side by side. Seen: each one's stacks, whole and by their names; of the one that has more
/// frames than a record holds, that it has.
#[test]
fn programs_of_every_kind() -> Result<()> {
    need_root!("cc", "c++", "python3", "unshare");
    let scratch = Scratch::new()?;
    let start: [fn(&Scratch) -> Result<Running>; 8] = [
        programs::plain,
        programs::frame_pointers,
        programs::stripped,
        programs::signals,
        programs::deep,
        programs::contained,
        programs::cpp,
        programs::python,
    ];
    let agent = sampling("997")?;
    let running: Vec<Running> = start.iter().map(|start| start(&scratch)).collect::<Result<_>>()?;
    right_in_a_window(&agent, |folded| {
        let (mut native, mut whole) = (0, 0.0);
        for program in &running {
            let seen = folded(&program.name)?;
            let uncut = judge(program.kind, &seen).map_err(|e| {
                e.context(format!(
                    "{}: {} samples\n{}",
                    program.kind,
                    seen.total(),
                    seen.show()
                ))
            })?;
            if program.kind != "deep" {
                native += seen.total();
                whole += uncut * seen.total() as f64;
            }
        }
        let whole = whole / native as f64;
        println!("all: {native} samples, {whole:.4} whole");
        ensure!(whole >= 0.99, "{whole} of {native} are whole");
        Ok(())
    })
}

/// An error unless the stacks of a kind of program are right; returns how many are whole.
fn judge(kind: &str, seen: &Folded) -> Result<f64> {
    let (total, uncut) = (seen.total(), seen.uncut());
    let share = |functions: &[&str]| seen.through(functions) as f64 / total.max(1) as f64;
    println!("{kind}: {total} samples, {uncut:.4} whole");
    ensure!(total >= 200, "too few");
    let right = match kind {
        "plain" | "frame pointers" | "contained" => share(SPINNING) > 0.97 && seen.whole() > 0.98,
        "signals" => {
            let handled = share(&[
                "_start",
                "main",
                "spinning_for",
                "handler",
                "handled",
                "handled_leaf",
            ]);
            let spinning = |s: &[String]| SPINNING.iter().all(|f| s.iter().any(|frame| frame == f));
            let outside = seen.count(|s| spinning(s) && s.iter().all(|frame| frame != "handler"));
            let others = outside as f64 / total as f64;
            println!("  {handled:.3} in the handler, {others:.3} outside");
            handled > 0.2 && others > 0.2 && handled + others > 0.95
        }
        // It has no names, but as many frames as the same program with names.
        "stripped" => seen.count(|stack| (6..=8).contains(&stack.len())) as f64 > 0.95 * total as f64,
        "deep" => {
            let deep = seen.count(|s| s.get(1).is_some_and(|f| f == "[cut: too_deep]") && s.len() >= 130);
            return if deep as f64 > 0.99 * total as f64 {
                Ok(0.0)
            } else {
                bail!("{deep} were too deep")
            };
        }
        "c++" => {
            let thrown = share(&[
                "_start",
                "main",
                "catching(long)",
                "thrower(long, long*)",
                "_Unwind_RaiseException",
            ]);
            let virtually = share(&["virtually(Shape*, long)", "Circle::area(long)", "leaf(long)"]);
            println!("  {thrown:.3} thrown, {virtually:.3} virtually");
            thrown > 0.05 && virtually > 0.2
        }
        "python" => share(&["_start"]) > 0.97,
        _ => false,
    };
    ensure!(right && uncut >= 0.97, "{uncut} whole");
    Ok(uncut)
}

/// An agent that takes stacks so often a second.
fn sampling(hz: &str) -> Result<Agent> {
    Setup::new()
        .set("probes.profile.enabled", "true")
        .set("probes.profile.hz", hz)
        .start()
}

fn seconds() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// Looks at the samples of five seconds by the name of a process, until `check` is content: when processes are new their
/// tables are still to be made, on a busy machine for seconds.
fn right_in_a_window(
    agent: &Agent,
    check: impl Fn(&dyn Fn(&str) -> Result<Folded>) -> Result<()>,
) -> Result<()> {
    let mut outcome = Ok(());
    for _ in 0..10 {
        let from = seconds()?;
        std::thread::sleep(Duration::from_secs(5));
        outcome = check(&|name| {
            let path = format!("/api/v1/profile?from={from}&comm={name}&format=folded");
            let answer = agent.get(&path, "*/*")?;
            ensure!(answer.status == 200, "{path}: {}", answer.text());
            Folded::parse(&answer.text())
        });
        match &outcome {
            Ok(()) => break,
            Err(e) => println!("not yet: {e:#}"),
        }
    }
    outcome
}

/// Cause: the same seconds of the same program, seen by perf, which unwinds copies of the stack by DWARF. Seen: the same ways
/// by the same names, in the same shares.
#[test]
fn perf_says_the_same() -> Result<()> {
    need_root!("perf");
    let scratch = Scratch::new()?;
    let (program, name) = busy(&scratch)?;
    let agent = sampling("997")?;
    let running = Busy::start(Command::new(&program).arg("600"))?;
    let pid = running.0.id().to_string();
    right_in_a_window(&agent, |folded| {
        ensure!(folded(&name)?.whole() > 0.97, "the process is new");
        Ok(())
    })?;
    let data = scratch.path("perf.data");
    let from = seconds()?;
    let record = [
        "record",
        "-q",
        "-e",
        "cpu-clock",
        "-F",
        "997",
        "--call-graph",
        "dwarf,8192",
        "-p",
        &pid,
        "-o",
    ];
    command::output(
        Command::new("perf")
            .args(record)
            .arg(&data)
            .args(["--", "sleep", "5"]),
    )?;
    let path = format!("/api/v1/profile?from={from}&comm={name}&format=folded");
    let ours = ways(&Folded::parse(&agent.get(&path, "*/*")?.text())?.0);
    let script = ["script", "--no-inline", "-F", "comm,ip,sym", "-i"];
    let text = command::output(Command::new("perf").args(script).arg(&data))?;
    let theirs = ways(&by_perf(&text));
    println!("geophone: {ours:?}\nperf: {theirs:?}");
    let difference: f64 = ours
        .keys()
        .chain(theirs.keys())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(|way| (ours.get(way).unwrap_or(&0.0) - theirs.get(way).unwrap_or(&0.0)).abs())
        .sum();
    println!("half of the difference: {:.4}", difference / 2.0);
    ensure!(difference / 2.0 < 0.05, "{ours:?}\n{theirs:?}");
    let large = |ways: &BTreeMap<String, f64>| -> Vec<String> {
        ways.iter()
            .filter(|(_, share)| **share > 0.02)
            .map(|(way, _)| way.clone())
            .collect()
    };
    ensure!(large(&ours).len() == 3, "{ours:?}");
    equal("ways", large(&ours), large(&theirs))
}

/// Stacks of `perf script`, as [`Folded`] has them.
fn by_perf(text: &str) -> Vec<(Vec<String>, u64)> {
    let stack = |lines: &str| {
        let mut lines = lines.lines();
        let mut stack = vec![lines.next().unwrap_or_default().trim().to_owned()];
        let frames: Vec<&str> = lines
            .filter_map(|line| line.trim().split_once(' '))
            .map(|(_, f)| f)
            .collect();
        stack.extend(frames.into_iter().rev().map(str::to_owned));
        (stack, 1)
    };
    text.split("\n\n")
        .filter(|part| part.lines().count() > 1)
        .map(stack)
        .collect()
}

/// The program's own functions, outermost first, by their last names, and their share.
fn ways(stacks: &[(Vec<String>, u64)]) -> BTreeMap<String, f64> {
    let total: u64 = stacks.iter().map(|(_, n)| n).sum();
    let mut ways = BTreeMap::new();
    for (stack, n) in stacks {
        let last = |frame: &String| {
            let frame = frame.split("::h").next().unwrap_or_default();
            frame.rsplit("::").next().unwrap_or_default().to_owned()
        };
        let own = |frame: &String| {
            ["busy_", "seventy_", "twenty_"]
                .iter()
                .any(|own| frame.starts_with(own))
        };
        let way: Vec<String> = stack.iter().skip(1).map(last).filter(own).collect();
        *ways.entry(way.join(" ")).or_insert(0.0) += *n as f64 / total as f64;
    }
    ways
}

/// Cause: 500 programs a second, of 500 files, each of which lives for a moment. Seen: every tick is accounted for, the agent
/// takes a bounded part of a CPU, no descriptor of them is left when it is over, and tables stay within their budget.
#[test]
fn a_storm_of_processes_leaves_nothing() -> Result<()> {
    need_root!("cc");
    let scratch = Scratch::new()?;
    let files = programs::many(&scratch, 500)?;
    let agent = Setup::new()
        .set("probes.profile.enabled", "true")
        .set("probes.profile.hz", "199")
        .set("probes.profile.table_memory", "128MiB")
        .start()?;
    // Of the storm's files: others come and go on this machine meanwhile.
    let open = || -> Result<usize> {
        let files = std::fs::read_dir(format!("/proc/{}/fd", agent.pid()))?.flatten();
        let target = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        let ours = |path: &std::path::PathBuf| path.to_string_lossy().contains("/brief");
        Ok(target.filter(ours).count())
    };
    let cpu = |s: &Snapshot| s.number("geophone_agent_cpu_seconds_total", &[]);
    let before = agent.after(2)?;
    let start = Instant::now();
    let started = programs::storm(&scratch, &files, 500, 5)?;
    let took = start.elapsed().as_secs_f64();
    let after = agent.after(1)?;
    let used = (cpu(&after)? - cpu(&before)?) / start.elapsed().as_secs_f64();
    let most = open()?;
    println!(
        "{started} processes in {took:.1} s; the agent took {used:.3} of a CPU and has {most} of their files open"
    );
    drop(files);
    ensure!(started >= 1000, "only {started}");
    ensure!(most > 20, "only {most} of them were looked at");
    ensure!(used < 0.5, "{used} of a CPU");
    let start = Instant::now();
    while open()? > 0 {
        let waited = start.elapsed();
        ensure!(
            waited < Duration::from_secs(90),
            "{} of their files are open",
            open()?
        );
        std::thread::sleep(Duration::from_secs(1));
    }
    println!("closed after {:.0} s", start.elapsed().as_secs_f64());
    let last = agent.after(2)?;
    let (tables, budget) = (
        last.number("geophone_profile_table_bytes", &[])?,
        129.0 * 1048576.0,
    );
    ensure!(tables <= budget, "{tables} bytes of tables");
    agent.settles(Snapshot::lawful)
}
