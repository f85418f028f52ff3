//! `cargo xtask run`: from a fresh clone to the live view.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{Group, How, setup};
use crate::shell::{cargo, is_root, run as call, shown, target_dir};

/// Sets up, builds and starts the agent in place of xtask, so that signals and the exit code are its own.
pub fn run(how: How, args: &[String]) -> Result<()> {
    if !is_root() && !how.no_install {
        bail!("eBPF needs root: run `sudo -E env \"PATH=$PATH\" cargo xtask run`");
    }
    setup(&[Group::Build], how)?;
    let agent = build_release()?;
    let mut command = Command::new(&agent);
    command.args(["run", "--live"]).args(args);
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run `{}`", shown(&command)))
}

/// Builds the agent as it is released; returns the binary.
pub fn build_release() -> Result<PathBuf> {
    call(cargo().args(["build", "--release", "--locked", "--package", "agent"]))?;
    Ok(target_dir()?.join("release/geophone"))
}
