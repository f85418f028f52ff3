//! The end-to-end tests: two test programs side by side where they only wait, alone where they measure, and once more
//! what has failed.
//!
//! A machine that others share disturbs a measurement now and then. A test that fails is therefore run once more, by
//! itself; one that then holds is named in the summary, so that nobody takes it for one that always does.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cargo_test::{counts, programs};
use super::{Notes, Outcome};
use crate::shell::{cargo, metadata, root, say};

/// Test programs at a time. Those that are not `alone` wait most of the time: for timers, servers, the next tick.
const LANES: usize = 2;

/// A test program.
#[derive(Clone, Debug)]
struct Program {
    name: String,
    path: PathBuf,
}

/// What a test program came to.
struct Ended {
    program: Program,
    passed: u64,
    /// Names of tests; empty also if the program died.
    failed: Vec<String>,
    /// All of them held.
    ok: bool,
    took: Duration,
}

/// Runs them against the released agent.
pub fn run(agent: &Path, filter: &[String]) -> Result<Outcome> {
    let alone = alone()?;
    let all: Vec<Program> = programs(cargo().args([
        "test",
        "--locked",
        "--release",
        "--package",
        "tests",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]))?
    .into_iter()
    .map(|(name, path)| Program { name, path })
    .collect();
    if let Some(unknown) = alone.iter().find(|name| all.iter().all(|p| p.name != **name)) {
        bail!("tests/Cargo.toml: metadata.e2e.alone names {unknown}, which is no test");
    }
    let list = tempfile::NamedTempFile::new().context("a temporary file")?;
    let place = Place {
        agent,
        filter,
        skipped: list.path(),
    };
    let (measuring, waiting): (Vec<_>, Vec<_>) = all.into_iter().partition(|p| alone.contains(&p.name));
    let mut ended = place.side_by_side(waiting, LANES)?;
    ended.extend(place.side_by_side(measuring, 1)?);

    let mut passed: u64 = ended.iter().map(|e| e.passed).sum();
    let (mut broken, mut notes) = (Vec::new(), Notes::default());
    for first in ended.iter().filter(|e| !e.ok) {
        // Of one that died without a verdict nothing can be named: all of it runs again.
        let again = place.one(&first.program, &first.failed)?;
        passed += again.passed;
        let of = &first.program.name;
        let tests = match first.failed.as_slice() {
            [] => vec![of.clone()],
            failed => failed.iter().map(|test| format!("{of}::{test}")).collect(),
        };
        if again.ok {
            notes.unstable.extend(tests);
        } else {
            broken.extend(tests);
        }
    }
    ended.sort_by_key(|e| std::cmp::Reverse(e.took));
    let longest = ended.iter().take(8).fold(String::new(), |mut text, e| {
        let _ = write!(text, " {} {:.0} s,", e.program.name, e.took.as_secs_f64());
        text
    });
    say(format_args!("the longest:{}", longest.trim_end_matches(',')));
    let skipped = std::fs::read_to_string(list.path()).unwrap_or_default();
    notes.skipped.extend(skipped.lines().map(str::to_owned));
    notes.skipped.sort();
    notes.skipped.dedup();
    Ok(if !broken.is_empty() {
        Outcome::Failed(
            passed,
            broken.len() as u64,
            format!("twice: {}", broken.join(", ")),
        )
    } else if notes.skipped.is_empty() && notes.unstable.is_empty() {
        Outcome::Passed(passed)
    } else {
        Outcome::Tried(passed, notes)
    })
}

struct Place<'a> {
    agent: &'a Path,
    filter: &'a [String],
    /// Where tests write what they could not try.
    skipped: &'a Path,
}

impl Place<'_> {
    fn side_by_side(&self, programs: Vec<Program>, lanes: usize) -> Result<Vec<Ended>> {
        let queue = Mutex::new(VecDeque::from(programs));
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let lane = || -> Result<Vec<Ended>> {
            let mut ended = Vec::new();
            while let Some(program) = next() {
                ended.push(self.one(&program, &[])?);
            }
            Ok(ended)
        };
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
            let mut ended = Vec::new();
            for lane in running {
                match lane.join() {
                    Ok(part) => ended.extend(part?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok(ended)
        })
    }

    /// Runs one; only some of its tests, if any are named. What it prints is shown when it has ended, in one piece.
    fn one(&self, program: &Program, tests: &[String]) -> Result<Ended> {
        let mut command = Command::new(&program.path);
        command.arg("--test-threads=1");
        if tests.is_empty() {
            command.args(self.filter);
        } else {
            command.arg("--exact").args(tests);
        }
        let start = Instant::now();
        let out = command
            .current_dir(root().join("tests"))
            .env("GEOPHONE_BIN", self.agent)
            .env("TESTS_SKIPPED", self.skipped)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", program.path.display()))?;
        let printed = String::from_utf8_lossy(&out.stdout);
        let complaints = String::from_utf8_lossy(&out.stderr);
        print!("\n     Running {}\n{printed}{complaints}", program.name);
        let verdict = printed.lines().rev().find_map(counts);
        let failed = printed.lines().filter_map(|line| {
            let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
            Some(name.to_owned())
        });
        Ok(Ended {
            program: program.clone(),
            passed: verdict.map_or(0, |(held, _)| held),
            failed: failed.collect(),
            ok: out.status.success() && verdict.is_some(),
            took: start.elapsed(),
        })
    }
}

/// The tests that need the machine for themselves: `package.metadata.e2e.alone` of tests/Cargo.toml.
fn alone() -> Result<Vec<String>> {
    let tests = metadata()?.packages.into_iter().find(|p| p.name == "tests");
    let tests = tests.context("the workspace has no package `tests`")?;
    let alone = tests
        .metadata
        .pointer("/e2e/alone")
        .and_then(|list| list.as_array());
    let alone = alone.context("tests/Cargo.toml has no package.metadata.e2e.alone")?;
    Ok(alone
        .iter()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect())
}
