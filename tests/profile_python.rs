//! Probe `profile`: Python's own functions among those of C, in CPython 3.11 to 3.13.

use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::harness::agent::{Scratch, binary, clean};
use tests::harness::stacks::{Busy, Folded};
use tests::harness::{command, unique};
use tests::need_root;

/// What Python does with its time; the numbers of the lines are looked at. Its loops cost the same a turn however long they
/// are: no number is small enough to be one that is kept, none grows.
const WORK: &str = r#"import re, sys, threading, time
def leaf(n):
    x = 0
    for i in range(1000, 1000 + n):
        x = i & 7
    return x
def seventy():
    return inner(14000)
def inner(n):
    return leaf(n)
def twenty():
    return sum(generate(4))
def generate(k):
    for i in range(k):
        yield leaf(1000)
def key(x):
    return leaf(500)
def replace(match):
    leaf(500)
    return ""
class Work:
    def ten(self):
        sorted(range(2), key=key)
        re.sub("a", replace, "aa")
    def __init__(self):
        seventy(); twenty(); self.ten()
def main(seconds):
    end = time.time() + seconds
    while time.time() < end:
        Work()
main(600)
"#;

/// Versions whose frames are read, as far as they are installed: Debian's, and those of pyenv. Others are said to be missing.
fn pythons() -> Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::from(command::output(
        Command::new("/usr/bin/python3").args(["-c", "import sys; print(sys.executable, end='')"]),
    )?)];
    for version in ["3.11", "3.12", "3.13"] {
        let home = std::env::var("HOME").unwrap_or_default();
        let versions = std::fs::read_dir(format!("{home}/.pyenv/versions"))
            .into_iter()
            .flatten()
            .flatten();
        let of = |name: &str| {
            name.strip_prefix(version)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        let own = versions.map(|entry| entry.path()).find(|path| {
            path.file_name().is_some_and(|name| of(&name.to_string_lossy()))
                && path.join("bin/python3").exists()
        });
        match own {
            Some(path) => found.push(path.join("bin/python3")),
            None => println!("no python {version} but Debian's here"),
        }
    }
    Ok(found)
}

/// Eight seconds of one process: the samples and the loop beat.
fn seen(scratch: &Scratch, busy: &Busy) -> Result<Folded> {
    let pid = busy.0.id().to_string();
    Folded::take(scratch, &["--own", "--hz", "997", "--for", "8s", "--pid", &pid])
}

fn running(scratch: &Scratch, python: &Path, source: &str) -> Result<(Busy, String)> {
    let file = scratch.write(&format!("{}.py", unique("w")), source)?;
    let name = file
        .file_name()
        .context("no name")?
        .to_string_lossy()
        .into_owned();
    Ok((Busy::start(Command::new(python).arg(&file))?, name))
}

/// Cause: Python programs that spend 70, 20 and 10 % on three ways: of Python alone, by a generator that C code runs, and by
/// functions that C code calls back. Seen, in each version: these shares within three points, by function, file and first
/// line, Python's frames inside of the C frames that run them, every stack whole.
#[test]
fn shares_of_three_ways_through_python_and_c() -> Result<()> {
    need_root!("/usr/bin/python3");
    let scratch = Scratch::new()?;
    for python in pythons()? {
        let (busy, file) = running(&scratch, &python, WORK)?;
        let folded = seen(&scratch, &busy)?;
        let total = folded.total() as f64;
        println!(
            "{}: {total} samples, {:.4} whole",
            python.display(),
            folded.whole()
        );
        ensure!(total >= 1000.0, "only {total} samples\n{}", folded.show());
        let frame = |name: &str, line: u32| format!("{name} ({file}:{line})");
        let outer = [
            "_start".to_owned(),
            "PyEval_EvalCode".into(),
            "_PyEval_EvalFrameDefault".into(),
            frame("<module>", 1),
            frame("main", 27),
        ];
        let the_loop = || "_PyEval_EvalFrameDefault".to_owned();
        let ten = |way: &[String]| [&[frame("Work.ten", 22)], way].concat();
        let leaf = frame("leaf", 2);
        let ways = [
            (0.7, vec![frame("seventy", 7), frame("inner", 9), leaf.clone()]),
            (
                0.2,
                vec![
                    frame("twenty", 11),
                    the_loop(),
                    frame("generate", 13),
                    leaf.clone(),
                ],
            ),
            (0.05, ten(&[the_loop(), frame("key", 16), leaf.clone()])),
            (0.05, ten(&[the_loop(), frame("replace", 18), leaf.clone()])),
        ];
        for (truth, way) in ways {
            let way = [outer.as_slice(), &[frame("Work.__init__", 25)], &way].concat();
            let way: Vec<&str> = way.iter().map(String::as_str).collect();
            let share = folded.share(&way);
            println!("  {}: {share:.4}", way.last().copied().unwrap_or_default());
            ensure!(
                (share - truth).abs() <= 0.03,
                "{way:?}: {share}\n{}",
                folded.show()
            );
        }
        ensure!(folded.whole() >= 0.98, "{}\n{}", folded.whole(), folded.show());
        let lost = folded.count(|stack| stack.iter().any(|frame| frame.starts_with("[python: ")));
        ensure!(lost as f64 <= 0.01 * total, "{lost} lost\n{}", folded.show());
    }
    Ok(())
}

/// Cause: Python in the first thread and in a second one, which C code has started, there code that was made at run time under names that no file has.
/// Seen: each thread's own functions, and the names as far as a line of text can hold them.
#[test]
fn threads_and_names_that_no_file_has() -> Result<()> {
    need_root!("/usr/bin/python3");
    let scratch = Scratch::new()?;
    let source = r#"import threading
def leaf(n):
    x = 0
    for i in range(n): x += i * i
    return x
def first():
    while True: leaf(2000)
made = {"leaf": leaf}
exec(compile("def second():\n  while True: leaf(2000)\n", "<a;b>", "exec"), made)
second = made["second"]
names = dict(co_name="n", co_qualname="we;ird\n\u540d \U0001f40d" + "x" * 5000)
second.__code__ = second.__code__.replace(**names)
threading.Thread(target=second, daemon=True).start()
first()
"#;
    for python in pythons()? {
        let (busy, file) = running(&scratch, &python, source)?;
        let folded = seen(&scratch, &busy)?;
        let total = folded.total() as f64;
        let leaf = format!("leaf ({file}:2)");
        let first = folded.share(&[
            "_start",
            &format!("<module> ({file}:1)"),
            &format!("first ({file}:6)"),
            &leaf,
        ]);
        let weird = folded.count(|stack| {
            let named = |frame: &String| {
                frame.starts_with("we ird\u{fffd}\u{540d} \u{1f40d}xxx") && frame.ends_with("xx… (<a b>:1)")
            };
            let at = stack.iter().position(named);
            let below = at.and_then(|at| stack.get(at + 1));
            at.is_some() && below.is_none_or(|f| *f == leaf) && stack.iter().any(|f| f == "thread_run")
                || at.is_some_and(|at| below.is_none_or(|f| *f == leaf) && at > 5)
        });
        println!("{}: {total} samples, {first:.3} and {weird}", python.display());
        ensure!(total >= 1000.0, "only {total} samples");
        // They take turns.
        ensure!(
            first > 0.3 && weird as f64 > 0.3 * total,
            "{first} {weird}\n{}",
            folded.show()
        );
    }
    Ok(())
}

/// Cause: a program of Perl and one of Python run. Seen by `check`: that the one's functions are in the stacks and the other
/// is an unsupported interpreter.
#[test]
fn interpreters_that_are_not_supported_are_said() -> Result<()> {
    need_root!("/usr/bin/python3", "perl");
    let perl = Busy::start(Command::new("perl").args(["-e", "sleep 60"]))?;
    let python = Busy::start(Command::new("/usr/bin/python3").args(["-c", "import time; time.sleep(60)"]))?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    let text = command::output(clean(binary()).args(["check", "--json"]))?;
    let report: serde_json::Value = serde_json::from_str(&text)?;
    let of = |pid: u32| -> Result<(String, bool)> {
        let all = report["interpreters"].as_array().context("no interpreters")?;
        let named = |i: &&serde_json::Value| {
            i["processes"]
                .as_array()
                .is_some_and(|p| p.iter().any(|id| id.as_u64() == Some(u64::from(pid))))
        };
        let found = all
            .iter()
            .find(named)
            .with_context(|| format!("{pid}: {all:?}"))?;
        Ok((
            found["name"].as_str().unwrap_or_default().to_owned(),
            found["supported"] == true,
        ))
    };
    let (name, supported) = of(perl.0.id())?;
    ensure!(name == "perl" && !supported, "{name} {supported}");
    let (name, supported) = of(python.0.id())?;
    ensure!(
        name.starts_with("python 3.11.") && supported,
        "{name} {supported}"
    );
    let shown = command::output(clean(binary()).args(["check"]))?;
    let line = shown.lines().find(|line| line.starts_with("perl "));
    ensure!(
        line.is_some_and(|l| l.contains("unsupported interpreter")),
        "{shown}"
    );
    Ok(())
}
