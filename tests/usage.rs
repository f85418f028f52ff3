//! The command line: what it refuses, what it prints, how it ends, and that nothing stays behind.

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tests::harness::agent::{PATIENCE, Scratch, binary, clean};
use tests::harness::cli::{geophone, one_line, says};
use tests::harness::command::said;
use tests::harness::{Agent, Scene, Setup, Snapshot, equal};
use tests::need_root;

/// Arguments, variables of the environment, words of the complaint.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a [&'a str]);

/// Cause: a flag that there is not, values that are none, flags that exclude each other, variables. Said: which it was, in
/// one line, by the name under which it was given; exit status 2.
#[test]
fn wrong_usage() -> Result<()> {
    let cases: &[Case<'_>] = &[
        (&["run", "--lisen", "127.0.0.1:1"], &[], &["--lisen", "--listen"]),
        (&["run", "--for", "soon"], &[], &["--for", "10s"]),
        (&["run", "--for", "0s"], &[], &["--for", "out of range"]),
        (&["run", "--for", "9000000y"], &[], &["--for", "out of range"]),
        (&["run", "--listen", "here"], &[], &["--listen: ", "api.listen"]),
        (
            &["run", "--listen", "0.0.0.0:9779"],
            &[],
            &["--listen: ", "api.tls"],
        ),
        (&["run", "--log", "loud"], &[], &["--log: ", "loud", "debug"]),
        (&["run", "--set", "zone"], &[], &["--set", "KEY=VALUE"]),
        (
            &["run", "--set", "budget.cpu_percent=-1"],
            &[],
            &["--set budget.cpu_percent: ", "out of range"],
        ),
        (
            &["run", "--config", "/nowhere.yaml"],
            &[],
            &["--config /nowhere.yaml: no such file"],
        ),
        (
            &["run"],
            &[("GEOPHONE_CONFIG", "/nowhere.yaml")],
            &["GEOPHONE_CONFIG /nowhere.yaml: no such file"],
        ),
        (
            &["run"],
            &[("GEOPHONE_LOG__LEVEL", "loud")],
            &["GEOPHONE_LOG__LEVEL: ", "log.level"],
        ),
        (
            &["run", "--summary-json", "/nowhere/x"],
            &[],
            &["--summary-json", "/nowhere"],
        ),
        (&["tunnels", "--pairs", "--follow"], &[], &["--pairs", "--follow"]),
        (&["profile", "-o", "x.pdf"], &[], &["--output", "x.pdf", ".svg"]),
        (
            &["profile", "-o", "/nowhere/x.svg"],
            &[],
            &["--output", "no directory /nowhere"],
        ),
        (&["profile", "--last", "5m", "--own"], &[], &["--last", "--own"]),
        (
            &["profile", "--hz", "99", "--off-cpu"],
            &[],
            &["--hz", "--off-cpu"],
        ),
        (&["profile", "--from", "yesterday"], &[], &["--from", "10m"]),
        (
            &["profile", "--from", "5m", "--to", "10m"],
            &[],
            &["--from 5m", "10m"],
        ),
        (&["profile", "--to", "5m"], &[], &["--from"]),
        (&["diff", "a.folded"], &[], &["<B>"]),
        (&["diff", "5m..now", "now..5m"], &[], &["now..5m", "end"]),
        (&["diff", "Cargo.toml", "Cargo.toml"], &[], &["Cargo.toml", "5m"]),
        (&["topology", "--format", "xml"], &[], &["--format", "mermaid"]),
        (&["top"], &[], &["top", "terminal"]),
    ];
    for (arguments, variables, words) in cases {
        let out = clean(binary())
            .args(*arguments)
            .envs(variables.iter().copied())
            .output()?;
        let line = one_line(&out).with_context(|| format!("{arguments:?}"))?;
        ensure!(line.starts_with("geophone: "), "{line}");
        says(&line, words)?;
        equal("exit status", out.status.code(), Some(2)).context(line)?;
    }
    Ok(())
}

/// Cause: nobody reads what it prints. Seen: it ends, and does not panic; streams end even if nothing more happens.
#[test]
fn a_closed_output() -> Result<()> {
    need_root!();
    for arguments in [
        &["config", "default"][..],
        &["config", "schema"],
        &["docs", "config"],
        &["completions", "bash"],
        &["check"],
        &["run", "--for", "1s"],
        &["--help"],
        &["flows", "--own", "--set", "probes.tcp.enabled=false"],
    ] {
        let mut child = clean(binary())
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        drop(child.stdout.take());
        let out = ends(child).with_context(|| format!("{arguments:?}"))?;
        ensure!(out.status.code() != Some(101), "{arguments:?}: {}", said(&out));
        ensure!(!said(&out).contains("panicked"), "{arguments:?}: {}", said(&out));
    }
    Ok(())
}

/// Waits for the end of a program; what goes on is ended, and is an error.
fn ends(mut child: Child) -> Result<Output> {
    let start = Instant::now();
    while child.try_wait()?.is_none() {
        if start.elapsed() > PATIENCE {
            child.kill()?;
            bail!("it goes on: {}", said(&child.wait_with_output()?));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(child.wait_with_output()?)
}

/// Cause: the configuration that it prints itself. Said: it is valid.
#[test]
fn its_own_defaults_are_valid() -> Result<()> {
    let scratch = Scratch::new()?;
    let file = scratch.write("default.yaml", geophone(&["config", "default"])?.stdout)?;
    let out = geophone(&["config", "validate", &file.to_string_lossy()])?;
    ensure!(out.status.success(), "{}", said(&out));
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
    let json = Snapshot::parse(&fs::read(&file)?)?;
    let sent = [("subject", scene.client.name()), ("direction", "transmit")];
    equal("bytes", json.sum("geophone_tcp_bytes_total", &sent), 300 * 60_000)
}

/// Cause: `flows --json` and `drops --json` of an agent of their own. Seen: each connection, each drop, one JSON a line.
#[test]
fn streams_of_their_own() -> Result<()> {
    need_root!();
    let mut scene = Scene::echo()?;
    let [flows, drops] = ["flows", "drops"].map(|what| {
        clean(binary())
            .args([what, "--json", "--own", "--for", "8s"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    });
    let (flows, drops) = (flows?, drops?);
    std::thread::sleep(Duration::from_secs(4));
    let to = std::slice::from_ref(&scene.at);
    scene.client.storm(to, 12, 1, 100)?;
    scene.client.udp(&scene.net.b.at(7002), 30, 64)?;
    for (what, child, count) in [("flows", flows, 12), ("drops", drops, 30)] {
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
