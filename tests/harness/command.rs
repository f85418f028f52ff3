//! Running other programs.

use anyhow::{Context as _, Result, ensure};
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// What a program printed; its failure is an error that shows what it said.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {shown}"))?;
    ensure!(
        out.status.success(),
        "{shown}: {}: {}{}",
        out.status,
        String::from_utf8_lossy(&out.stderr),
        String::from_utf8_lossy(&out.stdout)
    );
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs a line of words, split at white space.
pub fn run(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    output(Command::new(words.next().unwrap_or_default()).args(words))
}

/// True if a program of that name can be run.
pub fn present(name: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|dir| dir.join(name).is_file())
    })
}

/// `promtool check metrics` must not complain about an exposition.
pub fn promtool(exposition: &str) -> Result<()> {
    if !present("promtool") {
        super::skipped("promtool: there is none");
        return Ok(());
    }
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("no pipe")?
        .write_all(exposition.as_bytes())?;
    let out = child.wait_with_output()?;
    ensure!(
        out.status.success() && out.stderr.is_empty(),
        "promtool: {}: {}",
        out.status,
        said(&out)
    );
    Ok(())
}

/// All that a program said.
pub fn said(out: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&out.stderr),
        String::from_utf8_lossy(&out.stdout)
    )
}
