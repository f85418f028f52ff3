//! `cargo test`, with its results counted while it prints them.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Notes, Outcome};
use crate::shell::{brief, capture, cargo_tested, shown};

/// Unit tests of the workspace, as whoever this is.
pub fn unit(filter: &[String]) -> Result<Outcome> {
    counted(
        cargo_tested("test")?
            .args([
                "--locked",
                "--workspace",
                "--exclude",
                "tests",
                "--no-fail-fast",
                "--",
                // A test that cannot run here says so and passes.
                "--show-output",
            ])
            .args(filter),
    )
}

/// A line of `cargo --message-format=json`.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    executable: Option<PathBuf>,
    #[serde(default)]
    target: Option<Target>,
    #[serde(default)]
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// The test programs that a `cargo test --no-run` with messages in JSON builds: name and path.
pub fn programs(command: &mut Command) -> Result<Vec<(String, PathBuf)>> {
    let text = capture(command)?;
    let messages = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.profile.as_ref().is_some_and(|profile| profile.test));
    Ok(messages
        .filter_map(|message| Some((message.target?.name, message.executable?)))
        .collect())
}

/// Runs test programs, shows what they print and adds up what they count.
pub fn counted(command: &mut Command) -> Result<Outcome> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{}`", shown(command)))?;
    let (mut passed, mut failed, mut notes) = (0, 0, Notes::default());
    for line in BufReader::new(child.stdout.take().context("no pipe")?).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some((held, broken)) = counts(&line) {
            passed += held;
            failed += broken;
        }
        notes.skipped.extend(skipped(&line));
    }
    let status = child.wait()?;
    Ok(if status.success() && failed == 0 && notes.skipped.is_empty() {
        Outcome::Passed(passed)
    } else if status.success() && failed == 0 {
        Outcome::Tried(passed, notes)
    } else {
        // What does not compile, or dies, counts as one.
        Outcome::Failed(
            passed,
            failed.max(1),
            format!("`{}` ended with {status}", brief(command)),
        )
    })
}

/// Reads `test result: ok. 5 passed; 0 failed; …`.
pub fn counts(line: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix("test result: ")?;
    let (_, rest) = rest.split_once(". ")?;
    let number = |word: &str| {
        let part = rest.split("; ").find(|part| part.ends_with(word))?;
        part.split(' ').next()?.parse().ok()
    };
    Some((number(" passed")?, number(" failed")?))
}

/// What a test says that could not run: `SKIPPED: no promtool here`.
fn skipped(line: &str) -> Option<String> {
    let why = line.strip_prefix("SKIPPED")?;
    Some(why.trim_start_matches([':', ' ']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::{counts, skipped};

    #[test]
    fn reads_libtest() {
        let line =
            "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(counts(line), Some((5, 0)));
        assert_eq!(
            counts("test result: FAILED. 5 passed; 2 failed; 0 ignored"),
            Some((5, 2))
        );
        assert_eq!(counts("test a ... ok"), None);
        assert_eq!(skipped("SKIPPED: no promtool"), Some("no promtool".to_owned()));
        assert_eq!(skipped("test what_is_SKIPPED ... ok"), None);
    }
}
