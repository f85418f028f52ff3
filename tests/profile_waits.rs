//! Probe `profile`: threads off their CPU, and threads that wait for locks.

use anyhow::{Context as _, Result, bail, ensure};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tests::harness::agent::{Scratch, binary, clean};
use tests::harness::stacks::{Busy, Folded, cc, is};
use tests::harness::{Agent, Setup, Snapshot, command, near, unique};
use tests::need_root;

/// Works for 35 ms and sleeps for 15, sixty times; says how long that took and how much of it was work, and stays.
const SEVENTY: &str = "#include <stdio.h>\n#include <time.h>\n#include <unistd.h>\n\
     static double now(clockid_t c) { struct timespec t; clock_gettime(c, &t); return t.tv_sec + t.tv_nsec / 1e9; }\n\
     __attribute__((noinline)) double work(void) { double end = now(CLOCK_THREAD_CPUTIME_ID) + 0.035; \
     while (now(CLOCK_THREAD_CPUTIME_ID) < end) ; return end; }\n\
     __attribute__((noinline)) int doze(void) { usleep(15000); return 1; }\n\
     int main(void) { usleep(500000); double wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_THREAD_CPUTIME_ID); int n = 0; \
     for (int i = 0; i < 60; i++) { n += work() > 0; n += doze(); } \
     printf(\"%f %f\\n\", now(CLOCK_MONOTONIC) - wall, now(CLOCK_THREAD_CPUTIME_ID) - cpu); fflush(stdout); \
     for (;;) pause(); return n; }\n";

/// Threads that wait, each for something else; a file to write to is the argument. After six seconds nobody begins anything.
const WAITERS: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile int over; static int lines[2], ends[2], file; static char *page;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
#define WAITS __attribute__((noinline)) void
WAITS sleeper(void) { usleep(10000); __asm__ volatile(""); }
WAITS piper(void) { char c; if (read(lines[0], &c, 1) != 1) exit(1); __asm__ volatile(""); }
WAITS feeder(void) { usleep(10000); if (write(lines[1], "x", 1) != 1) exit(1); __asm__ volatile(""); }
WAITS hearer(void) { char c; recv(ends[0], &c, 1, 0); __asm__ volatile(""); }
WAITS poller(void) { int e = epoll_create1(0); struct epoll_event v; epoll_wait(e, &v, 1, 10); close(e); }
WAITS holder(void) { usleep(10000); __asm__ volatile(""); }
WAITS fighter(void) { pthread_mutex_lock(&mutex); holder(); pthread_mutex_unlock(&mutex); }
WAITS writer(void) { if (pwrite(file, page, 48 << 20, 0) < 0) exit(1); __asm__ volatile(""); }
WAITS burner(void) { for (volatile long i = 0; i < 1000000; i++) ; }
static void *run(void *what) { void (*f)(void) = what; while (!over) f(); for (;;) pause(); return 0; }
int main(int n, char **words) {
    struct timeval t = { 0, 10000 };
    if (pipe(lines) || socketpair(AF_UNIX, SOCK_DGRAM, 0, ends)) return 1;
    setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    file = open(words[n - 1], O_RDWR | O_CREAT, 0600); page = calloc(48, 1 << 20);
    void (*all[])(void) = { sleeper, feeder, piper, hearer, poller, fighter, fighter, fighter, writer, writer, burner, burner };
    pthread_t thread;
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) if (pthread_create(&thread, 0, run, all[i])) return 1;
    for (long i = sysconf(_SC_NPROCESSORS_ONLN); i > 0; i--) if (pthread_create(&thread, 0, run, burner)) return 1;
    sleep(6); over = 1; for (;;) pause();
}
"#;

fn agent() -> Result<Agent> {
    Setup::new()
        .set("probes.profile.enabled", "true")
        .set("probes.profile.off_cpu", "true")
        .set("probes.profile.locks", "true")
        .start()
}

/// What the agent has seen of a process since it began.
fn seen(agent: &Agent, kind: &str, pid: u32) -> Result<Folded> {
    let path = format!("/api/v1/profile?type={kind}&pid={pid}&from=1h&format=folded");
    let answer = agent.get(&path, "*/*")?;
    ensure!(answer.status == 200, "{path}: {}", answer.text());
    Folded::parse(&answer.text())
}

/// The same, when the agent is done with all that the kernel has told it.
fn settled(agent: &Agent, kind: &str, pid: u32) -> Result<Folded> {
    let (start, mut last) = (Instant::now(), 0);
    loop {
        std::thread::sleep(Duration::from_secs(2));
        let folded = seen(agent, kind, pid)?;
        if folded.total() == last && last > 0 {
            return Ok(folded);
        }
        ensure!(
            start.elapsed() < Duration::from_secs(90),
            "still {last} µs of {kind}"
        );
        last = folded.total();
    }
}

fn label(stack: &[String]) -> &str {
    stack.last().map_or("", |last| last.trim_matches(['[', ']']))
}

/// Cause: a program that works for 70 % of its time. Seen: the rest, within five points, and of it only sleep and waiting for
/// its turn.
#[test]
fn what_is_left_of_seventy_percent() -> Result<()> {
    use std::io::{BufRead as _, BufReader};
    need_root!("cc");
    let scratch = Scratch::new()?;
    let program = cc(&scratch, &unique("o"), SEVENTY, &[])?;
    let agent = agent()?;
    let mut child = Busy(Command::new(&program).stdout(Stdio::piped()).spawn()?);
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().context("no output")?).read_line(&mut line)?;
    let (wall, cpu) = line.trim().split_once(' ').context("no answer")?;
    let (wall, cpu): (f64, f64) = (wall.parse()?, cpu.parse()?);
    // The sample of the last sleep is on its way.
    agent.after(2)?;
    let folded = settled(&agent, "off_cpu", child.0.id())?;
    // Before it begins it sleeps for half a second.
    let off = folded.total() as f64 / 1e6 - 0.5;
    let (share, truth) = (off / wall, 1.0 - cpu / wall);
    println!("{off} s of {wall}: {share}, the truth is {truth}");
    ensure!(
        (share - truth).abs() < 0.05,
        "{share} of the time, the truth is {truth}\n{}",
        folded.show()
    );
    let asleep = folded.count(|s| label(s) == "sleep") as f64 / 1e6;
    ensure!(asleep > 1.35, "{asleep} s of 1.4 asleep\n{}", folded.show());
    let others = folded.count(|s| !matches!(label(s), "sleep" | "runqueue"));
    ensure!(
        (others as f64) < 0.05 * folded.total() as f64,
        "{}",
        folded.show()
    );
    Ok(())
}

/// A thread that reads from a pipe what another one writes there, each ten milliseconds.
const FEEDER: &str = r#"
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
static int lines[2];
#define WAITS __attribute__((noinline)) void
WAITS piper(void) { char c; if (read(lines[0], &c, 1) != 1) exit(1); __asm__ volatile(""); }
WAITS feeder(void) { usleep(10000); if (write(lines[1], "x", 1) != 1) exit(1); __asm__ volatile(""); }
static void *reads(void *none) { for (;;) piper(); return none; }
int main(void) {
    pthread_t thread;
    if (pipe(lines) || pthread_create(&thread, 0, reads, 0)) return 1;
    for (;;) feeder();
}
"#;

/// Cause: a thread that waits for another one's write, which sleeps until a timer. Seen: on top of the one's wait who wrote,
/// and on top of the other's an interrupt; without the setting nobody. Each wake-up is accounted for.
#[test]
fn who_ended_a_wait() -> Result<()> {
    need_root!("cc");
    let scratch = Scratch::new()?;
    let name = unique("k");
    let options = ["-pthread", "-fno-optimize-sibling-calls"];
    let program = cc(&scratch, &name, FEEDER, &options)?;
    let running = Busy::start(&mut Command::new(&program))?;
    let pid = running.0.id();
    let parts = |stack: &[String]| -> Option<(Vec<String>, Vec<String>)> {
        let at = stack.iter().position(|frame| frame == "--")?;
        let (wait, waker) = stack.split_at_checked(at)?;
        Some((wait.to_vec(), waker.to_vec()))
    };
    let is_in = |stack: &[String], function: &str| stack.iter().any(|frame| is(frame, function));
    let agent = Setup::new()
        .set("probes.profile.enabled", "true")
        .set("probes.profile.off_cpu", "true")
        .set("probes.profile.off_cpu_waker", "true")
        .start()?;
    agent.after(8)?;
    let folded = seen(&agent, "off_cpu", pid)?;
    println!("{}", folded.show());
    for (function, waker, by) in [
        ("piper", "feeder", &*name),
        ("feeder", "hrtimer_wakeup_[k]", "[interrupt]"),
    ] {
        // The stack of a waker has the function that it woke from as well.
        let waits = |stack: &[String]| {
            let wait = parts(stack).map_or_else(|| stack.to_vec(), |(wait, _)| wait);
            is_in(&wait, function)
        };
        let all = folded.count(|stack| waits(stack) && !stack.iter().any(|f| f == "[runqueue]"));
        let right = folded.count(|stack| {
            parts(stack).is_some_and(|(wait, told)| {
                is_in(&wait, function) && is_in(&told, waker) && told.last().is_some_and(|last| last == by)
            })
        });
        ensure!(all > 3_000_000, "{all} µs in {function}\n{}", folded.show());
        ensure!(
            right as f64 > 0.95 * all as f64,
            "{function}: {right} of {all} µs were ended by {waker}\n{}",
            folded.show()
        );
    }
    agent.settles(Snapshot::lawful)?;
    agent.stop()?;
    let agent = self::agent()?;
    agent.after(3)?;
    let folded = seen(&agent, "off_cpu", pid)?;
    let told = folded.count(|stack| parts(stack).is_some());
    ensure!(folded.total() > 0 && told == 0, "{}", folded.show());
    Ok(())
}

/// Cause: threads that wait for each thing there is to wait for. Seen: the reason of each, under its function, and the locks
/// once more as locks: of the program and of the kernel.
#[test]
fn each_wait_has_its_reason() -> Result<()> {
    need_root!("cc");
    let scratch = Scratch::new()?;
    let program = cc(
        &scratch,
        &unique("w"),
        WAITERS,
        &["-pthread", "-fno-optimize-sibling-calls"],
    )?;
    let agent = agent()?;
    let waiters = Busy::start(Command::new(&program).arg(scratch.path("written")))?;
    let pid = waiters.0.id();
    done(pid)?;
    let folded = settled(&agent, "off_cpu", pid)?;
    agent.settles(Snapshot::lawful)?;
    for (function, reason) in [
        ("sleeper", "sleep"),
        ("piper", "pipe"),
        ("hearer", "network"),
        ("poller", "poll"),
        ("holder", "sleep"),
        ("burner", "runqueue"),
    ] {
        let of = |wanted: &dyn Fn(&str) -> bool| {
            folded.count(|s| s.iter().any(|f| is(f, function)) && wanted(label(s)))
        };
        // Whoever works may have to wait for his turn.
        let (right, all) = (
            of(&|l| l == reason),
            of(&|l| reason == "runqueue" || l != "runqueue"),
        );
        println!("{function}: {right} of {all} µs are {reason}");
        ensure!(
            right > 500_000 && right as f64 > 0.95 * all as f64,
            "{function}: {right} of {all} µs are {reason}\n{}",
            folded.show()
        );
    }
    let fights = |folded: &Folded, reason: &str| {
        folded.count(|s| {
            let has = |function: &str| s.iter().any(|f| is(f, function));
            has("fighter") && !has("holder") && label(s) == reason
        }) as f64
    };
    let locks = settled(&agent, "lock", pid)?;
    // One of the three holds the mutex, two wait.
    let (off, lock) = (fights(&folded, "lock"), fights(&locks, "futex"));
    println!("{off} µs off the CPU for a mutex, {lock} as lock");
    ensure!(off > 3e6, "{off} µs\n{}", folded.show());
    near("waits for the mutex, as locks", lock, off, 0.001)?;
    let of_kernel = locks.count(|s| s.iter().any(|f| is(f, "writer")) && label(s) == "rwsem for writing");
    println!("{of_kernel} µs for the file");
    ensure!(of_kernel > 100_000, "{of_kernel} µs\n{}", locks.show());
    Ok(())
}

/// Waits until no thread of a process runs any more.
fn done(pid: u32) -> Result<()> {
    let start = Instant::now();
    let switches = || -> Result<String> {
        let mut all = String::new();
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            all.push_str(&std::fs::read_to_string(thread?.path().join("schedstat"))?);
        }
        Ok(all)
    };
    std::thread::sleep(Duration::from_secs(6));
    let mut last = String::new();
    while start.elapsed() < Duration::from_secs(60) {
        let now = switches()?;
        if now == last {
            return Ok(());
        }
        last = now;
        std::thread::sleep(Duration::from_secs(1));
    }
    bail!("the threads do not come to rest")
}

/// Cause: `geophone profile --off-cpu` without an agent, and one that does not follow waits. Seen: the stacks by an own look,
/// and what to set.
#[test]
fn the_command_looks_by_itself() -> Result<()> {
    need_root!("cc");
    let scratch = Scratch::new()?;
    let name = unique("d");
    let source = "#include <unistd.h>\n__attribute__((noinline)) int doze(void) { usleep(20000); return 1; }\n\
         int main(void) { for (;;) doze(); }\n";
    let program = cc(&scratch, &name, source, &[])?;
    let agent = Setup::new().set("probes.profile.enabled", "true").start()?;
    let answer = agent.get("/api/v1/profile?type=off_cpu", "*/*")?;
    ensure!(
        answer.status == 404 && answer.text().contains("set probes.profile.off_cpu"),
        "{}",
        answer.text()
    );
    let _dozing = Busy::start(&mut Command::new(&program))?;
    let listen = agent.at.to_string();
    let take = |flags: &[&str], time: &str, file: &Path| -> Result<String> {
        command::output(
            clean(binary())
                .args(["profile", "--listen", &listen, "--for", time, "--comm", &name])
                .args(flags)
                .arg("-o")
                .arg(file),
        )?;
        Ok(std::fs::read_to_string(file)?)
    };
    let folded = Folded::parse(&take(&["--off-cpu"], "4s", &scratch.path("off.folded"))?)?;
    let asleep =
        folded.count(|s| s.iter().any(|f| is(f, "do_nanosleep_[k]")) && label(s) == "sleep") as f64 / 1e6;
    ensure!(asleep > 2.5, "{asleep} s\n{}", folded.show());
    ensure!(
        take(&["--locks"], "1s", &scratch.path("locks.folded"))?.is_empty(),
        "it waits for no lock"
    );
    Ok(())
}
