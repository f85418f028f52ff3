//! The stages that are one check each.

use std::fs;

use anyhow::{Context, Result, bail};

use super::Outcome;
use crate::shell::{cargo, metadata, root, run, target_dir};
use crate::toolchain;

/// Every file as rustfmt would write it.
pub fn format() -> Result<Outcome> {
    Ok(Outcome::of(run(cargo().args(["fmt", "--all", "--check"]))))
}

/// No lint of the host's side.
pub fn clippy() -> Result<Outcome> {
    let mut command = cargo();
    command.args([
        "clippy",
        // Build scripts and macros are those of the released agent.
        "--release",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    Ok(Outcome::of(run(&mut command)))
}

/// No lint of the eBPF crate on its own target.
///
/// This is what `cargo clippy` does, without looking for a `cargo-clippy` on the path: that may be another toolchain's.
pub fn clippy_ebpf() -> Result<Outcome> {
    let (Ok(compiler), Ok(linker)) = (toolchain::compiler(), toolchain::linker()) else {
        bail!("no eBPF toolchain: run `cargo xtask setup`");
    };
    let driver = compiler.rustc.with_file_name("clippy-driver");
    if !driver.is_file() {
        return Ok(Outcome::Skipped(format!(
            "no clippy beside {}",
            compiler.rustc.display()
        )));
    }
    let target = target_dir()?.join("ebpf");
    let mut command = toolchain::cargo(&compiler, &linker, root(), "check", &target);
    command
        .env("RUSTC_WORKSPACE_WRAPPER", driver)
        .env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__")
        .env("CLIPPY_CONF_DIR", root());
    Ok(Outcome::of(run(&mut command)))
}

/// Documentation without a broken link.
pub fn rustdoc() -> Result<Outcome> {
    let mut command = cargo();
    command
        .args(["doc", "--release", "--locked", "--workspace", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings");
    Ok(Outcome::of(run(&mut command)))
}

/// Licences, banned crates, sources.
pub fn deny() -> Result<Outcome> {
    if toolchain::find("cargo-deny").is_none() {
        return Ok(Outcome::Skipped(
            "cargo-deny is not installed; `cargo xtask deny` installs and runs it".into(),
        ));
    }
    Ok(Outcome::of(crate::deny::check_offline()))
}

/// Every manifest inherits the workspace's lints.
pub fn manifests() -> Result<Outcome> {
    let mut without = Vec::new();
    for package in metadata()?.packages {
        let text = fs::read_to_string(&package.manifest_path)
            .with_context(|| format!("cannot read {}", package.manifest_path.display()))?;
        if !inherits_lints(&text) {
            without.push(package.name);
        }
    }
    if !without.is_empty() {
        bail!(
            "no `[lints] workspace = true` in the Cargo.toml of {}",
            without.join(", ")
        );
    }
    Ok(Outcome::Passed(1))
}

fn inherits_lints(manifest: &str) -> bool {
    let lines = manifest
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    let section = lines
        .skip_while(|line| *line != "[lints]")
        .skip(1)
        .take_while(|line| !line.starts_with('['));
    section
        .map(|line| line.replace(' ', ""))
        .any(|line| line == "workspace=true")
}

#[cfg(test)]
mod tests {
    use super::inherits_lints;

    #[test]
    fn sees_lints() {
        assert!(inherits_lints(
            "[package]\nname = \"a\"\n\n[lints]\n# so that\nworkspace = true\n"
        ));
        assert!(!inherits_lints(
            "[package]\nversion.workspace = true\n[lints.rust]\na = \"warn\"\n"
        ));
        assert!(!inherits_lints("[lints]\n[dependencies]\nworkspace = true\n"));
    }
}
