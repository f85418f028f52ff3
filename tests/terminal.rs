//! What people see: the live view in a real terminal, the summary, the streams, and that nothing stays behind.

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::harness::agent::{PATIENCE, Scratch, binary, clean};
use tests::harness::command::{output, said};
use tests::harness::stacks::{Busy, busy};
use tests::harness::{Agent, Scene, Setup, equal, unique};
use tests::need_root;

/// A terminal of 80 × 24, in a tmux server of its own.
struct Terminal(String);

impl Terminal {
    fn new() -> Result<Self> {
        let made = Self(unique("tm"));
        made.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
            "env PS1='READY>' sh",
        ])?;
        made.wait("READY>")?;
        Ok(made)
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        let mut command = clean("tmux");
        command.env_remove("TMUX").arg("-L").arg(&self.0).args(arguments);
        output(&mut command)
    }

    fn keys(&self, keys: &[&str]) -> Result<()> {
        self.tmux(&[&["send-keys"], keys].concat())?;
        Ok(())
    }

    fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    fn wait(&self, word: &str) -> Result<String> {
        self.until(word, |screen| screen.contains(word))
    }

    fn until(&self, what: &str, good: impl Fn(&str) -> bool) -> Result<String> {
        let start = Instant::now();
        loop {
            let screen = self.screen()?;
            if good(&screen) {
                return Ok(screen);
            }
            if start.elapsed() > PATIENCE {
                bail!("{what} does not come:\n{screen}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}

/// Cause: somebody watches a running agent. Seen: who talks, what is dropped, each tab; `q` leaves all as it was.
#[test]
fn top_in_a_terminal() -> Result<()> {
    need_root!("tmux");
    let mut scene = Scene::echo()?;
    let agent = Agent::start()?;
    let connection = scene.connect()?;
    scene.client.ping(connection, 200, 5000)?;
    scene.client.udp(&scene.net.b.at(7002), 300, 64)?;
    let terminal = Terminal::new()?;
    let command = format!("{} top --listen {}; echo LEFT $?", binary().display(), agent.at);
    terminal.keys(&["-l", &command])?;
    terminal.keys(&["Enter"])?;
    let first = terminal.until("the client", |s| {
        s.contains(scene.client.name()) && s.contains(scene.server.name())
    })?;
    ensure!(
        first.lines().count() <= 24 && first.lines().all(|l| l.chars().count() <= 80),
        "{first}"
    );
    ensure!(
        !first.contains("READY>"),
        "the old screen shows through:\n{first}"
    );
    terminal.keys(&["2"])?;
    let mut seen = BTreeSet::from([first]);
    let drops = terminal.wait("NO_SOCKET");
    for tab in ["1", "2", "3", "4", "5"] {
        terminal.keys(&[tab])?;
        std::thread::sleep(Duration::from_millis(1500));
        seen.insert(terminal.screen()?);
    }
    let all: String = seen.iter().cloned().collect();
    if drops.is_err() {
        ensure!(all.contains("NO_SOCKET"), "no drops in any tab:\n{all}");
    }
    ensure!(seen.len() >= 5, "tabs look alike:\n{all}");
    ensure!(!all.contains("panicked"), "{all}");
    // A smaller and a larger window.
    for (x, y) in [("40", "10"), ("200", "60"), ("80", "24")] {
        terminal.tmux(&["resize-window", "-x", x, "-y", y])?;
        std::thread::sleep(Duration::from_millis(700));
        ensure!(!terminal.screen()?.contains("LEFT"), "it has left at {x}×{y}");
    }
    terminal.keys(&["q"])?;
    let after = terminal.wait("LEFT 0")?;
    ensure!(after.contains("READY>"), "the old screen is not back:\n{after}");
    agent.after(1)?.lawful()
}

/// Cause: a busy program and an agent that takes stacks. Seen: program and function in the tab `Stacks`; its stack by Enter.
#[test]
fn hot_functions_in_a_terminal() -> Result<()> {
    need_root!("tmux");
    let scratch = Scratch::new()?;
    let (program, name) = busy(&scratch)?;
    let agent = Setup::new()
        .set("probes.profile.enabled", "true")
        .set("probes.profile.hz", "199")
        .start()?;
    let _busy = Busy::start(Command::new(&program).arg("120"))?;
    let terminal = Terminal::new()?;
    let command = format!("{} top --listen {}", binary().display(), agent.at);
    terminal.keys(&["-l", &command])?;
    terminal.keys(&["Enter"])?;
    let bar = terminal.wait(" Stacks")?;
    let before = bar.split(" Stacks").next().unwrap_or_default();
    let tab = before.rsplit(' ').next().unwrap_or_default().to_owned();
    terminal.keys(&[&tab])?;
    let seen = terminal.until("the busy program's functions", |s| {
        s.contains("ALL, 10 s, of a core") && s.matches(&name).count() > 1 && s.contains("busy_")
    })?;
    ensure!(
        seen.lines().count() <= 24 && seen.lines().all(|l| l.chars().count() <= 80),
        "{seen}"
    );
    terminal.keys(&["/"])?;
    terminal.keys(&["-l", &name])?;
    terminal.keys(&["Enter"])?;
    terminal.keys(&["Enter"])?;
    terminal.until("its stack", |s| {
        s.contains("its busiest stack") && s.contains("_start")
    })?;
    Ok(())
}

/// Cause: nobody runs an agent. Seen: top runs one of its own, and leaves nothing attached.
#[test]
fn top_of_its_own() -> Result<()> {
    need_root!("tmux");
    let mut scene = Scene::echo()?;
    let terminal = Terminal::new()?;
    let command = format!("{} top --own; echo LEFT $?", binary().display());
    terminal.keys(&["-l", &command])?;
    terminal.keys(&["Enter"])?;
    terminal.until("the view", |s| !s.contains("READY>") && s.contains("geophone"))?;
    let connection = scene.connect()?;
    scene.client.ping(connection, 100, 5000)?;
    terminal.wait(scene.client.name())?;
    terminal.keys(&["C-c"])?;
    terminal.wait("LEFT 0")?;
    Ok(())
}

/// Ids of the programs and maps that a process holds.
fn held(pid: u32) -> Result<BTreeSet<(String, String)>> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        for line in text.lines() {
            if let Some((key @ ("prog_id" | "map_id" | "link_id"), id)) = line.split_once(":\t") {
                ids.insert((key.trim_end_matches("_id").to_owned(), id.to_owned()));
            }
        }
    }
    Ok(ids)
}

/// Those of them that the kernel still has.
fn left(ids: &BTreeSet<(String, String)>) -> Vec<&(String, String)> {
    ids.iter()
        .filter(|(kind, id)| {
            Command::new("bpftool")
                .args([kind, "show", "id", id])
                .output()
                .is_ok_and(|out| out.status.success())
        })
        .collect()
}

/// Cause: the agent ends, by either signal or by force. Seen: no program, map or link is left.
#[test]
fn nothing_stays_attached() -> Result<()> {
    need_root!("bpftool");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mut agent = Agent::start()?;
        let ids = held(agent.pid().as_raw() as u32)?;
        let programs = ids.iter().filter(|(kind, _)| kind == "prog").count();
        ensure!(programs >= 8, "only {programs} programs: {ids:?}");
        equal("held", left(&ids).len(), ids.len())?;
        agent.signal(signal)?;
        let status = agent.wait(PATIENCE)?;
        ensure!(
            status.success() || signal == Signal::SIGKILL,
            "{signal}: {status}: {}",
            agent.log()
        );
        // The kernel lets go after a grace period.
        let start = Instant::now();
        while !left(&ids).is_empty() {
            ensure!(
                start.elapsed() < Duration::from_secs(10),
                "{signal} leaves {:?}",
                left(&ids)
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    Ok(())
}

/// Cause: `run --for`. Seen: it ends by itself, with a summary that names who talked, and the same in JSON.
#[test]
fn a_run_with_an_end() -> Result<()> {
    need_root!();
    let mut scene = Scene::alone("echo")?;
    let scratch = Scratch::new()?;
    let file = scratch.path("summary.json");
    let mut agent = Setup::new()
        .arg("--for")
        .arg("5s")
        .arg("--summary-json")
        .arg(&file)
        .start()?;
    // Enough to be among the first, whoever else talks.
    scene.exchange(1, 300, 60_000)?;
    let status = agent.wait(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", agent.log());
    let summary = agent.output();
    for word in [
        scene.client.name(),
        scene.server.name(),
        "loopback",
        "RTT",
        "all accounted",
    ] {
        ensure!(summary.contains(word), "no {word:?} in:\n{summary}");
    }
    ensure!(
        !summary.contains('\u{1b}'),
        "escapes where there is no terminal:\n{summary}"
    );
    let json = tests::harness::Snapshot::parse(&fs::read(&file)?)?;
    let sent = [("subject", scene.client.name()), ("direction", "transmit")];
    equal("bytes", json.sum("geophone_tcp_bytes_total", &sent), 300 * 60_000)
}

/// Cause: `flows --json` and `drops --json` of an agent of their own. Seen: each connection, each drop, one JSON a line.
#[test]
fn streams_of_their_own() -> Result<()> {
    need_root!();
    let mut scene = Scene::echo()?;
    for (what, count) in [("flows", 12), ("drops", 30)] {
        let child = clean(binary())
            .args([what, "--json", "--own", "--for", "8s"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()?;
        std::thread::sleep(Duration::from_secs(4));
        if what == "flows" {
            scene
                .client
                .storm(std::slice::from_ref(&scene.at), count, 1, 100)?;
        } else {
            scene.client.udp(&scene.net.b.at(7002), count, 64)?;
        }
        let out = child.wait_with_output()?;
        ensure!(out.status.success(), "{}", said(&out));
        let text = String::from_utf8(out.stdout)?;
        let mut found = 0;
        for line in text.lines() {
            let record: serde_json::Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            found += u64::from(match what {
                "flows" => record["process"] == scene.client.name() && record["event"] == "closed",
                _ => record["device"] == scene.net.b.device.as_str() && record["reason"] == "NO_SOCKET",
            });
        }
        equal(what, found, count)?;
    }
    Ok(())
}
