//! The end-to-end tests: many test programs side by side where they only wait, two where they need a CPU, alone where they
//! measure the machine, and once more what has failed.
//!
//! A machine that others share disturbs a measurement now and then. A test that fails is therefore run once more, by
//! itself; one that then holds is named in the summary, so that nobody takes it for one that always does.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::cargo_test::{counts, programs};
use super::{Notes, Outcome};
use crate::shell::{cargo, metadata, root, say};

/// Test programs at a time. Those that are neither `alone` nor `pairs` wait most of the time: for timers, servers, the next tick.
const LANES: usize = 6;

/// The longest that a test program may take: some minutes are usual.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// A test program, or some tests of it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Program {
    name: String,
    path: PathBuf,
    /// Only these tests; empty = all
    tests: Vec<String>,
    /// but these.
    skip: Vec<String>,
}

/// What a test program came to.
#[derive(Default)]
struct Ended {
    program: Program,
    passed: u64,
    /// Names of tests; empty if not all of those that failed are known, as when the program died.
    failed: Vec<String>,
    /// What those that failed have printed, shortened.
    reasons: String,
    /// All of them held.
    ok: bool,
    /// It came to an end of its own: no signal, no time limit.
    ended: bool,
    took: Duration,
}

impl Ended {
    /// What a program has printed that was run.
    fn read(printed: &str) -> Self {
        let verdict = printed.lines().rev().find_map(counts);
        let failed = printed.lines().filter_map(|line| {
            let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
            Some(name.to_owned())
        });
        let mut failed: Vec<String> = failed.collect();
        // What it prints itself may stand in the way of a name.
        if verdict.map(|(_, broken)| broken) != Some(failed.len() as u64) {
            failed.clear();
        }
        Self {
            passed: verdict.map_or(0, |(held, _)| held),
            failed,
            reasons: reasons(printed),
            ..Self::default()
        }
    }
}

/// Runs them against the released agent.
pub fn run(agent: &Path, filter: &[String]) -> Result<Outcome> {
    let order = order()?;
    let all: Vec<Program> = programs(cargo().args([
        "test",
        "--locked",
        "--release",
        // They wait, and are many: half the time to compile and link them.
        "--config",
        "profile.release.package.tests.opt-level=1",
        "--package",
        "tests",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]))?
    .into_iter()
    .map(|(name, path)| Program {
        name,
        path,
        ..Program::default()
    })
    .collect();
    let Classes { alone, pairs, others } = order.classes(all, filter.is_empty())?;
    let list = tempfile::NamedTempFile::new().context("a temporary file")?;
    let place = Place {
        agent,
        filter,
        skipped: list.path(),
    };
    let mut ended = Vec::new();
    for (programs, lanes) in [(others, LANES), (pairs, 2), (alone, 1)] {
        let start = Instant::now();
        ended.extend(place.side_by_side(programs, lanes)?);
        let took = start.elapsed().as_secs();
        say(format_args!("{lanes} at a time: {took} s"));
    }

    let mut passed: u64 = ended.iter().map(|e| e.passed).sum();
    let (mut broken, mut reasons, mut notes) = (Vec::new(), String::new(), Notes::default());
    for first in ended.iter().filter(|e| !e.ok) {
        // Of one that died without a verdict nothing can be named: all of it runs again.
        let mut program = first.program.clone();
        if !first.failed.is_empty() {
            program.tests.clone_from(&first.failed);
        }
        let again = place.one(&program)?;
        passed += again.passed;
        let of = &first.program.name;
        let tests = match first.failed.as_slice() {
            [] => vec![of.clone()],
            failed => failed.iter().map(|test| format!("{of}::{test}")).collect(),
        };
        // One that had no end of its own, or of which the second run left something out, is no matter of chance.
        if again.ok && first.ended && again.passed >= first.failed.len().max(1) as u64 {
            notes.unstable.extend(tests);
        } else {
            broken.extend(tests);
            reasons += &again.reasons;
        }
    }
    ended.sort_by_key(|e| std::cmp::Reverse(e.took));
    let longest = ended.iter().fold(String::new(), |mut text, e| {
        let _ = write!(text, " {} {:.0} s,", e.program.name, e.took.as_secs_f64());
        text
    });
    say(format_args!("they took:{}", longest.trim_end_matches(',')));
    let skipped = std::fs::read_to_string(list.path()).unwrap_or_default();
    notes.skipped.extend(skipped.lines().map(str::to_owned));
    notes.skipped.sort();
    notes.skipped.dedup();
    Ok(if !broken.is_empty() {
        Outcome::Failed(
            passed,
            broken.len() as u64,
            // Once more at the very end: what a run prints is too long to be kept whole everywhere.
            format!("twice: {}\n{reasons}", broken.join(", ")),
        )
    } else if notes.skipped.is_empty() && notes.unstable.is_empty() {
        Outcome::Passed(passed)
    } else {
        Outcome::Tried(passed, notes)
    })
}

/// Most lines of a program that say why it failed.
const REASONS: usize = 60;

/// The last lines of what failed tests have printed; of a program that died, of all that it has printed.
fn reasons(printed: &str) -> String {
    let lines: Vec<&str> = printed.lines().filter(|line| !line.trim().is_empty()).collect();
    let is_head = |line: &&str| *line == "failures:";
    let begin = lines.iter().position(is_head).map_or(0, |head| head + 1);
    let end = lines.iter().rposition(is_head).filter(|end| *end >= begin);
    let told = &lines[begin..end.unwrap_or(lines.len())];
    let told = &told[told.len().saturating_sub(REASONS)..];
    told.iter().fold(String::new(), |text, line| text + line + "\n")
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
                ended.push(self.one(&program)?);
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

    /// Runs one. What it prints is shown when it has ended, in one piece.
    fn one(&self, program: &Program) -> Result<Ended> {
        let mut command = Command::new(&program.path);
        command.arg("--test-threads=1");
        if program.tests.is_empty() && program.skip.is_empty() {
            command.args(self.filter);
        } else {
            command.arg("--exact").args(&program.tests);
            command.args(program.skip.iter().flat_map(|test| ["--skip", test]));
        }
        say(format_args!("running {}", program.name));
        let start = Instant::now();
        // A file and not a pipe: what the test has started may hold it longer than the test lives.
        let mut output = tempfile::tempfile().context("a temporary file")?;
        let mut child = command
            .current_dir(root().join("tests"))
            .env("GEOPHONE_BIN", self.agent)
            .env("TESTS_SKIPPED", self.skipped)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot run {}", program.path.display()))?;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if start.elapsed() > LONGEST {
                say(format_args!(
                    "{} has no end: killed after {LONGEST:?}",
                    program.name
                ));
                child.kill()?;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        let mut bytes = Vec::new();
        output.rewind()?;
        output.read_to_end(&mut bytes)?;
        let printed = String::from_utf8_lossy(&bytes);
        print!("\n     Running {}\n{printed}", program.name);
        // A test of a name that is wrong is none, which libtest takes for success.
        let verdict = printed.lines().rev().find_map(counts);
        let is_complete = |(held, _)| held >= program.tests.len() as u64;
        Ok(Ended {
            ok: status.success() && verdict.is_some_and(is_complete),
            ended: status.code().is_some(),
            took: start.elapsed(),
            program: program.clone(),
            ..Ended::read(&printed)
        })
    }
}

/// `package.metadata.e2e` of tests/Cargo.toml.
#[derive(Deserialize)]
struct Order {
    /// Programs, or `program::test`, that need the machine for themselves.
    alone: Vec<String>,
    /// Those that need a CPU, and can have it with another beside them.
    pairs: Vec<String>,
    /// Of the others those that take longest: they begin first, so that no lane is still at one when the others are done.
    long: Vec<String>,
}

/// How many run beside each other.
#[derive(Debug, Default)]
struct Classes {
    alone: Vec<Program>,
    pairs: Vec<Program>,
    others: Vec<Program>,
}

impl Order {
    /// Sorts the programs. Those that are not to be split run whole where the first of their tests does.
    fn classes(&self, all: Vec<Program>, split: bool) -> Result<Classes> {
        let named = |list: &[String], program: &Program| -> Option<Vec<String>> {
            if list.contains(&program.name) {
                return Some(Vec::new());
            }
            let of = |name: &String| Some(name.strip_prefix(&program.name)?.strip_prefix("::")?.to_owned());
            let tests: Vec<String> = list.iter().filter_map(of).collect();
            (!tests.is_empty()).then_some(tests)
        };
        for name in self.alone.iter().chain(&self.pairs).chain(&self.long) {
            let of = name.split("::").next().unwrap_or(name);
            if all.iter().all(|program| program.name != of) {
                bail!("tests/Cargo.toml: metadata.e2e names {name}, which is no test");
            }
        }
        let mut classes = Classes::default();
        for mut program in all {
            let lists = [
                (&self.alone, &mut classes.alone),
                (&self.pairs, &mut classes.pairs),
            ];
            let mut is_left = true;
            for (list, class) in lists {
                let Some(tests) = named(list, &program).filter(|_| is_left) else {
                    continue;
                };
                is_left = split && !tests.is_empty();
                if is_left {
                    program.skip.extend(tests.iter().cloned());
                    class.push(Program {
                        tests,
                        skip: Vec::new(),
                        ..program.clone()
                    });
                } else {
                    class.push(program.clone());
                }
            }
            if is_left {
                classes.others.push(program);
            }
        }
        let place = |list: &[String], program: &Program| {
            let is_it = |name: &String| name.split("::").next() == Some(&*program.name);
            list.iter().position(is_it).unwrap_or(list.len())
        };
        classes.pairs.sort_by_key(|program| place(&self.pairs, program));
        classes.others.sort_by_key(|program| place(&self.long, program));
        Ok(classes)
    }
}

fn order() -> Result<Order> {
    let tests = metadata()?.packages.into_iter().find(|p| p.name == "tests");
    let tests = tests.context("the workspace has no package `tests`")?;
    let order = tests.metadata["e2e"].clone();
    serde_json::from_value(order).context("tests/Cargo.toml: package.metadata.e2e")
}

#[cfg(test)]
mod tests {
    use super::{Ended, Order, Program, REASONS, reasons};

    #[test]
    fn the_last_lines_say_why() {
        let told = "test b ... FAILED\n\nfailures:\n\n---- b stdout ----\nbudget: 1 %\nError: level 0\n\n\nfailures:\n    b\n\n\
                    test result: FAILED. 0 passed; 1 failed; 0 ignored\n";
        assert_eq!(reasons(told), "---- b stdout ----\nbudget: 1 %\nError: level 0\n");
        assert_eq!(reasons("test a ... \n"), "test a ... \n", "it died");
        assert_eq!(reasons(&"line\n".repeat(2 * REASONS)).lines().count(), REASONS);
    }

    /// Cause: a program of which one test measures the machine and one needs a CPU. Seen: each test is in one class; with a filter the
    /// program stays whole; a name that is none is refused.
    #[test]
    fn tests_of_one_program_are_in_classes_of_their_own() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let program = |name: &str, tests: &[&str], skip: &[&str]| Program {
            name: name.to_owned(),
            tests: list(tests),
            skip: list(skip),
            ..Program::default()
        };
        let order = Order {
            alone: list(&["node::all", "sched"]),
            pairs: list(&["node::cpu", "chain"]),
            long: list(&["dns"]),
        };
        let all = || ["chain", "node", "sched", "api", "dns"].map(|name| program(name, &[], &[]));
        let split = order.classes(all().to_vec(), true).unwrap();
        assert_eq!(
            split.alone,
            [program("node", &["all"], &[]), program("sched", &[], &[])]
        );
        assert_eq!(
            split.pairs,
            [program("node", &["cpu"], &[]), program("chain", &[], &[])]
        );
        let others = [
            program("dns", &[], &[]),
            program("node", &[], &["all", "cpu"]),
            program("api", &[], &[]),
        ];
        assert_eq!(split.others, others);
        let whole = order.classes(all().to_vec(), false).unwrap();
        assert_eq!(
            whole.alone,
            [program("node", &[], &[]), program("sched", &[], &[])]
        );
        assert_eq!((whole.pairs.len(), whole.others.len()), (1, 2));
        assert!(order.classes(all()[1..].to_vec(), true).is_err(), "chain is none");
    }

    #[test]
    fn only_what_is_known_to_have_failed_is_named() {
        let told = "test a ... ok\ntest b ... FAILED\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\n";
        let ended = Ended::read(told);
        assert_eq!((ended.passed, ended.failed), (1, vec!["b".to_owned()]));
        let died = "test a ... FAILED\ntest b ... ";
        assert!(Ended::read(died).failed.is_empty(), "b is not known to have held");
        let garbled =
            "test a ... noise FAILED\ntest b ... FAILED\ntest result: FAILED. 0 passed; 2 failed; 0\n";
        assert!(Ended::read(garbled).failed.is_empty());
    }
}
