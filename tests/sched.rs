//! Probe `sched`.

use anyhow::{Context as _, Result, ensure};
use std::process::Command;
use tests::harness::agent::{PATIENCE, Scratch};
use tests::harness::stacks::{Busy, cc};
use tests::harness::{Agent, Setup, Snapshot, equal, near, unique};
use tests::need_root;

const CPU: &str = "geophone_sched_cpu_seconds_total";
const SWITCHES: &str = "geophone_sched_switches_total";
const RUNQUEUE: &str = "geophone_sched_runqueue_seconds";

/// Two threads a CPU that work for 20 ms and sleep for one, 25 times, and then do nothing; so does the first, from the
/// start, and so it is the one that can be asked.
const CROWD: &str = "#include <pthread.h>\n#include <time.h>\n#include <unistd.h>\n#include <stdlib.h>\n\
     static double now(clockid_t c) { struct timespec t; clock_gettime(c, &t); return t.tv_sec + t.tv_nsec / 1e9; }\n\
     static void *work(void *p) { for (int i = 0; i < 25; i++) { \
     double end = now(CLOCK_THREAD_CPUTIME_ID) + 0.02; while (now(CLOCK_THREAD_CPUTIME_ID) < end) ; usleep(1000); } \
     for (;;) pause(); return p; }\n\
     int main(void) { int n = 2 * sysconf(_SC_NPROCESSORS_ONLN); pthread_t t; \
     for (int i = 0; i < n; i++) if (pthread_create(&t, 0, work, 0)) exit(1); for (;;) pause(); }\n";

/// What the kernel has counted of a process, all its threads together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Truth {
    cpu: f64,
    waited: f64,
    arrivals: u64,
    voluntary: u64,
    involuntary: u64,
}

fn truth(pid: u32) -> Result<Truth> {
    let mut sum = Truth::default();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.path();
        let text = std::fs::read_to_string(thread.join("schedstat"))?;
        let mut words = text.split_ascii_whitespace();
        let mut word = || -> Result<u64> { Ok(words.next().context("schedstat is short")?.parse()?) };
        sum.cpu += word()? as f64 / 1e9;
        sum.waited += word()? as f64 / 1e9;
        sum.arrivals += word()?;
        let status = std::fs::read_to_string(thread.join("status"))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            Ok(line.context("no such line")?.trim().parse()?)
        };
        sum.voluntary += field("voluntary_ctxt_switches:")?;
        sum.involuntary += field("nonvoluntary_ctxt_switches:")?;
    }
    Ok(sum)
}

fn agent() -> Result<Agent> {
    Setup::new().set("probes.sched.enabled", "true").start()
}

/// Waits until all threads of the crowd have done their work.
fn done(pid: u32) -> Result<Truth> {
    let start = std::time::Instant::now();
    let mut last = truth(pid)?;
    loop {
        std::thread::sleep(std::time::Duration::from_millis(500));
        let now = truth(pid)?;
        if now == last && now.voluntary > 25 {
            return Ok(now);
        }
        ensure!(start.elapsed() < 3 * PATIENCE, "still at work: {now:?}");
        last = now;
    }
}

fn compare(s: &Snapshot, name: &str, truth: &Truth) -> Result<()> {
    s.lawful()?;
    let own = [("subject", name)];
    let switches = |kind| s.sum(SWITCHES, &[("subject", name), ("switch", kind)]);
    equal("voluntary switches", switches("voluntary"), truth.voluntary)?;
    equal("involuntary switches", switches("involuntary"), truth.involuntary)?;
    near("CPU time", s.number(CPU, &own)?, truth.cpu, 0.001)?;
    let waits = s.histogram(RUNQUEUE, &own)?;
    equal("waits", waits.count, truth.arrivals)?;
    near("time waited", waits.sum, truth.waited, 0.02)
}

/// Cause: twice as many threads as CPUs. Seen: switches, waits, the time waited and the time used are what the kernel has in
/// /proc/PID/status and schedstat.
#[test]
fn a_crowd_is_counted_as_the_kernel_counts_it() -> Result<()> {
    need_root!("cc");
    let scratch = Scratch::new()?;
    let name = unique("c");
    let program = cc(&scratch, &name, CROWD, &["-pthread"])?;
    let agent = agent()?;
    let crowd = Busy::start(&mut Command::new(&program))?;
    let truth = done(crowd.0.id())?;
    println!("{truth:?}");
    ensure!(
        truth.waited > 0.5 && truth.involuntary > 20,
        "nobody had to wait: {truth:?}"
    );
    agent.settles(|s| compare(s, &name, &truth))?;
    // The threads end, the row with them; the counts stay.
    drop(crowd);
    let s = agent.after(2)?;
    let switches = s.sum(SWITCHES, &[("subject", name.as_str())]);
    ensure!(
        switches >= truth.voluntary + truth.involuntary,
        "{switches} after the end"
    );
    s.lawful()
}

/// Cause: a thread that never leaves its CPU of its own will, older than the agent. Seen: its CPU time as it passes, and
/// nothing of what it had used before.
#[test]
fn what_runs_is_seen_while_it_runs() -> Result<()> {
    need_root!("cc");
    let scratch = Scratch::new()?;
    let name = unique("r");
    let program = cc(&scratch, &name, "int main(void) { for (;;) ; }\n", &[])?;
    let running = Busy::start(&mut Command::new(&program))?;
    let pid = running.0.id();
    std::thread::sleep(std::time::Duration::from_secs(2));
    let before = truth(pid)?;
    let agent = agent()?;
    let first = truth(pid)?;
    for _ in 0..3 {
        let earlier = truth(pid)?;
        let s = agent.after(2)?;
        let seen = s.number(CPU, &[("subject", name.as_str())])?;
        let now = truth(pid)?;
        println!("{seen} of {before:?} {first:?} {now:?}");
        // The agent began to count between the first two readings; its snapshot is of between the other two.
        let (least, most) = (earlier.cpu - first.cpu, now.cpu - before.cpu);
        ensure!(
            seen >= least - 0.02 && seen <= most + 0.02,
            "{seen} s, the truth is {least} to {most}"
        );
    }
    Ok(())
}

/// Cause: processes that live for a moment, more of them than there are rows. Seen: switches of all of them by their own
/// names or in `other`, and none of the law broken.
#[test]
fn short_lives_have_their_names() -> Result<()> {
    need_root!("cc");
    let scratch = Scratch::new()?;
    let name = unique("l");
    let program = cc(
        &scratch,
        &name,
        "#include <unistd.h>\nint main(void) { usleep(2000); }\n",
        &[],
    )?;
    let agent = agent()?;
    for _ in 0..700 {
        ensure!(Command::new(&program).status()?.success());
    }
    agent.settles(|s| {
        s.lawful()?;
        let switches = |name| s.sum(SWITCHES, &[("subject", name), ("switch", "voluntary")]);
        let (own, other) = (switches(name.as_str()), switches("other"));
        // Each sleeps once, and leaves its CPU for ever once.
        ensure!(
            own > 200 && own + other >= 1400,
            "{own} by name, {other} in other"
        );
        let lost = s.sum("geophone_events_dropped_total", &[("probe", "sched")]);
        equal("lost", lost, 0)
    })
}

/// Cause: the default configuration. Seen: nothing at the switches.
#[test]
fn off_unless_asked_for() -> Result<()> {
    need_root!();
    let agent = Agent::start()?;
    ensure!(!agent.attached("sched_")?, "sched is attached");
    Ok(())
}
