//! The command line: what it refuses, and how it ends.

use anyhow::{Context as _, Result, bail, ensure};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};
use tests::harness::agent::{PATIENCE, Scratch, binary, clean};
use tests::harness::cli::{geophone, one_line, says};
use tests::harness::command::said;
use tests::harness::equal;
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
