//! Building the agent for another architecture: by Debian's Rust, whose library for that one is taken out of its package.
//!
//! Nothing of the other architecture is installed on this machine; what is fetched is kept beside the kernels of `xtask vm`.

pub mod debian;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::shell::{capture, cargo, run, say, target_dir};
use crate::vm;
use debian::Debian;

/// How well it is optimized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// As it is released, without a library of the host's.
    Static,
    /// For a machine that is emulated: compiled in less time.
    Emulated,
}

/// Debian's compiler, which has the library of other architectures of the very same version.
const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";

/// Builds the agent; returns the binary.
pub fn build(arch: Arch, profile: Profile) -> Result<PathBuf> {
    let sysroot = sysroot(arch)?;
    let mut command = cargo();
    let target = arch.target();
    let variable = |what: &str| {
        let target = target.to_uppercase().replace('-', "_");
        format!("CARGO_TARGET_{target}_{what}")
    };
    let mut flags = format!("--sysroot={}", sysroot.display());
    let name = match profile {
        Profile::Static => {
            flags += " -Ctarget-feature=+crt-static";
            "release"
        }
        Profile::Emulated => "emulated",
    };
    let manifest = crate::shell::root().join("Cargo.toml");
    command = replaced(&command);
    command
        .args(["build", "--locked", "--package", "agent", "--bin", "geophone"])
        .args(["--profile", name, "--target", target])
        .arg("--manifest-path")
        .arg(manifest)
        .env("RUSTC", RUSTC)
        .env(variable("LINKER"), format!("{}gcc", arch.tools()))
        .env(variable("RUSTFLAGS"), flags);
    run(&mut command)?;
    Ok(target_dir()?.join(target).join(name).join("geophone"))
}

/// The same command by Debian's cargo, without what another toolchain's has set.
fn replaced(command: &Command) -> Command {
    let mut debian = Command::new(CARGO);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => debian.env(name, value),
            None => debian.env_remove(name),
        };
    }
    for name in [
        "CARGO",
        "LD_LIBRARY_PATH",
        "RUSTUP_TOOLCHAIN",
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
    ] {
        debian.env_remove(name);
    }
    debian.current_dir(crate::shell::root());
    debian
}

/// Where Rust's library for the architecture is, as the compiler looks for it: of the compiler's version, fetched once.
fn sysroot(arch: Arch) -> Result<PathBuf> {
    if !Path::new(RUSTC).is_file() || !Path::new(CARGO).is_file() {
        bail!("no {RUSTC} or {CARGO}: run `cargo xtask setup {}`", arch.name());
    }
    let version = capture(Command::new("dpkg-query").args(["-W", "-f", "${Version}", "rustc-web"]))?;
    let dir = vm::directory().join(arch.name()).join("rust").join(&version);
    let sysroot = dir.join("usr");
    if sysroot.join("lib/rustlib").join(arch.target()).is_dir() {
        return Ok(sysroot);
    }
    say(format_args!(
        "fetching Rust's library of {} (kept in {})",
        arch.name(),
        dir.display()
    ));
    let part = dir.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
    let package = Debian::of(arch)?.download(&format!("libstd-rust-web-dev={version}"), &part)?;
    let root = part.join("root");
    debian::unpack(&package, &root)?;
    fs::rename(&root, &dir).with_context(|| format!("cannot make {}", dir.display()))?;
    fs::remove_dir_all(&part)?;
    Ok(sysroot)
}
