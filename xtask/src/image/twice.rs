//! The eBPF object, built in this directory and in another one: it must be the same to the byte.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};

use super::layout::sha256;
use crate::shell::{capture, root, run, say, target_dir};
use crate::toolchain;

/// Builds it twice, each from nothing but the source, and compares; takes a minute of CPU time for either.
pub fn check() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let copy = scratch.path().join("source");
    let files = capture(Command::new("git").args(["ls-files", "-z"]).current_dir(root()))?;
    for file in files.split('\0').filter(|file| !file.is_empty()) {
        let (from, to) = (root().join(file), copy.join(file));
        // What the sources have no more, or what leads to a directory, is of no use to the build.
        if !from.is_file() {
            continue;
        }
        fs::create_dir_all(to.parent().context("a file without a directory")?)?;
        fs::copy(&from, &to).with_context(|| file.to_owned())?;
    }
    let here = object(root(), &target_dir()?.join("ebpf-twice"))?;
    let there = object(&copy, &scratch.path().join("target"))?;
    ensure!(
        here == there,
        "the eBPF object is {here} here and {there} in another directory"
    );
    say(format_args!(
        "the eBPF object is sha256:{here}, here and in another directory"
    ));
    Ok(())
}

/// The object's SHA-256.
fn object(source: &Path, target: &Path) -> Result<String> {
    let told = |why: String| anyhow!("{why}: run `cargo xtask setup`");
    let compiler = toolchain::compiler().map_err(told)?;
    let linker = toolchain::linker().map_err(told)?;
    run(toolchain::cargo(&compiler, &linker, source, "build", target).arg("--quiet"))?;
    let built = toolchain::object(target);
    Ok(sha256(
        &fs::read(&built).with_context(|| built.display().to_string())?,
    ))
}
