//! Where the programs of the initial file system come from: this machine, or packages of another architecture.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::cross::debian::{Debian, unpack};
use crate::shell::{capture, say};
use crate::toolchain::find;

/// The packages that have the programs which the guest script calls.
const PACKAGES: [&str; 12] = [
    "busybox-static",
    "bash",
    "coreutils",
    "iproute2",
    "ethtool",
    "iperf3",
    "iputils-ping",
    "nftables",
    "bpftool",
    "wireguard-tools",
    "perl-base",
    "runc",
];
/// Where a library may lie in them, and the loader.
const LIBRARIES: [&str; 4] = [
    "lib/aarch64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib",
    "lib",
];
/// Where they go to: the loader looks there.
const PLACE: &str = "lib/aarch64-linux-gnu";
const LOADER: &str = "ld-linux-aarch64.so.1";

/// Programs and their libraries.
pub enum Userland {
    /// This machine's.
    Here,
    /// What is unpacked in this directory, of another architecture.
    Foreign(Arch, PathBuf),
}

impl Userland {
    /// Of an architecture: its packages are fetched once and kept in `dir`.
    pub fn of(arch: Arch, dir: &Path) -> Result<Self> {
        if !arch.is_foreign() {
            return Ok(Self::Here);
        }
        let root = dir.join("root");
        if !root.is_dir() {
            say(format_args!(
                "fetching the programs of the virtual machine (kept in {})",
                root.display()
            ));
            let part = dir.join("root.part");
            if part.exists() {
                fs::remove_dir_all(&part)?;
            }
            for package in Debian::of(arch)?.closure(&PACKAGES)? {
                unpack(&package, &part)?;
            }
            fs::rename(&part, &root)?;
        }
        Ok(Self::Foreign(arch, root))
    }

    /// Whether it has systemd, too: among what is fetched of another architecture there is none.
    pub fn has_systemd(&self) -> bool {
        matches!(self, Self::Here)
    }

    /// A program by name.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        match self {
            Self::Here => find(name).with_context(|| format!("no {name}: run `cargo xtask setup test`")),
            Self::Foreign(_, root) => ["bin", "sbin", "usr/bin", "usr/sbin"]
                .iter()
                .map(|dir| root.join(dir).join(name))
                .find(|file| file.is_file())
                .with_context(|| {
                    format!(
                        "no {name} in {}: remove it to have it fetched anew",
                        root.display()
                    )
                }),
        }
    }

    /// Copies the libraries of a program, and its loader, to where it looks for them.
    pub fn libraries(&self, program: &Path, stage: &Path) -> Result<()> {
        match self {
            Self::Here => libraries_here(program, stage),
            Self::Foreign(arch, root) => libraries_of(*arch, root, program, stage),
        }
    }

    /// Takes debug information off the agent.
    pub fn strip(&self) -> Command {
        match self {
            Self::Here => Command::new("strip"),
            Self::Foreign(arch, _) => Command::new(format!("{}strip", arch.tools())),
        }
    }
}

fn libraries_here(program: &Path, stage: &Path) -> Result<()> {
    let text = capture(Command::new("ldd").arg(program))?;
    for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let copy = stage.join(library.trim_start_matches('/'));
        if !copy.exists() {
            let parent = copy.parent().context("a library without a directory")?;
            fs::create_dir_all(parent)?;
            fs::copy(library, &copy).with_context(|| format!("cannot copy {library}"))?;
        }
    }
    Ok(())
}

/// By what each file says that it needs: its own loader cannot be asked here.
fn libraries_of(arch: Arch, root: &Path, program: &Path, stage: &Path) -> Result<()> {
    fs::create_dir_all(stage.join(PLACE))?;
    let (mut wanted, mut seen) = (vec![program.to_owned()], BTreeSet::new());
    while let Some(file) = wanted.pop() {
        let text = capture(
            Command::new(format!("{}readelf", arch.tools()))
                .arg("--dynamic")
                .arg(&file),
        )?;
        let needed = text
            .lines()
            .filter(|line| line.contains("(NEEDED)"))
            .filter_map(|line| line.split_once('[')?.1.split_once(']'));
        for (name, _) in needed {
            if !seen.insert(name.to_owned()) {
                continue;
            }
            let places = LIBRARIES.iter().map(|dir| root.join(dir).join(name));
            let Some(library) = places.into_iter().find(|path| path.is_file()) else {
                bail!(
                    "{} needs {name}, which is not in {}",
                    file.display(),
                    root.display()
                );
            };
            let place = if name == LOADER { "lib" } else { PLACE };
            let copy = stage.join(place).join(name);
            if !copy.exists() {
                fs::copy(&library, copy)?;
            }
            wanted.push(library);
        }
    }
    // Named by the program itself and not among what it needs.
    let loader = stage.join("lib").join(LOADER);
    if !seen.is_empty() && !loader.exists() {
        let places = LIBRARIES.iter().map(|dir| root.join(dir).join(LOADER));
        let found = places.into_iter().find(|path| path.is_file());
        fs::copy(found.with_context(|| format!("no {LOADER}"))?, loader)?;
    }
    Ok(())
}
