//! The agent as a command that ends, and what it says.

use super::agent::{binary, clean};
use super::command::said;
use anyhow::{Context as _, Result, ensure};
use std::process::Output;

/// Runs the agent's binary to its end.
pub fn geophone(arguments: &[&str]) -> Result<Output> {
    let mut command = clean(binary());
    command.args(arguments);
    command.output().context("set GEOPHONE_BIN")
}

/// The one line that a failure is to say, on standard error and nowhere else.
pub fn one_line(out: &Output) -> Result<String> {
    ensure!(!out.status.success(), "it did not fail: {}", said(out));
    ensure!(
        out.stdout.is_empty(),
        "it wrote to standard output: {}",
        said(out)
    );
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    let lines: Vec<&str> = text.lines().filter(|l| !l.is_empty()).collect();
    ensure!(lines.len() == 1, "{} lines: {text}", lines.len());
    Ok(text.trim().to_owned())
}

/// An error unless all the words are in the line.
pub fn says(line: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(line.contains(word), "no {word:?} in: {line}");
    }
    Ok(())
}
