//! Debian's packages of another architecture: fetched with lists of their own and unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::shell::{capture, run, say};
use crate::vm;

/// The archive as a machine of the architecture would see it that has no package yet.
pub struct Debian {
    arch: Arch,
    dir: PathBuf,
}

impl Debian {
    /// Its lists are fetched if there are none.
    pub fn of(arch: Arch) -> Result<Self> {
        let dir = vm::directory().join(arch.name()).join("apt");
        let debian = Self { arch, dir };
        if !debian.dir.join("lists/lock").exists() {
            debian.refresh()?;
        }
        Ok(debian)
    }

    /// Fetches the lists anew.
    pub fn refresh(&self) -> Result<()> {
        for name in ["lists/partial", "archives/partial"] {
            let dir = self.dir.join(name);
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        say(format_args!("apt-get update, of {} alone", self.arch.name()));
        run(self.apt("apt-get").arg("update"))
    }

    /// What a package depends on, as `apt-cache depends` says it.
    pub fn depends(&self, package: &str) -> Result<String> {
        capture(self.apt("apt-cache").args(["depends", package]))
    }

    /// Fetches one package into a directory that has none; returns the file.
    pub fn download(&self, package: &str, into: &Path) -> Result<PathBuf> {
        run(self.apt("apt-get").args(["download", package]).current_dir(into))?;
        let files = packages(into)?;
        files
            .into_iter()
            .next()
            .with_context(|| format!("apt-get download {package} left no package"))
    }

    /// Fetches packages and all that they depend on.
    pub fn closure(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        run(self
            .apt("apt-get")
            .args(["install", "--download-only"])
            .args(names))?;
        packages(&self.dir.join("archives"))
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let state = |option: &str, path: &str| format!("{option}={}", self.dir.join(path).display());
        let options = [
            format!("APT::Architecture={}", self.arch.name()),
            format!("APT::Architectures={}", self.arch.name()),
            // As root, apt would warn that its own user cannot write here.
            "APT::Sandbox::User=root".into(),
            "APT::Get::Assume-Yes=1".into(),
            "APT::Install-Recommends=0".into(),
            "Acquire::Languages=none".into(),
            state("Dir::State", ""),
            state("Dir::State::lists", "lists"),
            "Dir::State::status=/dev/null".into(),
            state("Dir::Cache", ""),
            state("Dir::Cache::archives", "archives"),
        ];
        command.arg("-q");
        for option in options {
            command.args(["-o", &option]);
        }
        command
    }
}

/// Unpacks a package.
pub fn unpack(package: &Path, root: &Path) -> Result<()> {
    run(Command::new("dpkg").arg("-x").arg(package).arg(root))
}

fn packages(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let files = entries.flatten().map(|entry| entry.path());
    Ok(files
        .filter(|path| path.extension() == Some("deb".as_ref()))
        .collect())
}
