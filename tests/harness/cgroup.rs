//! Cgroups of version 2.

use super::serial;
use anyhow::{Context as _, Result};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A cgroup that goes with its owner.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// One of this name, in a parent that nobody else uses. A name may be a path.
    pub fn new(name: impl AsRef<OsStr>) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let root = mounts
            .lines()
            .map(|l| l.split(' ').collect::<Vec<_>>())
            .find(|words| words.get(2) == Some(&"cgroup2"))
            .and_then(|words| words.get(1).map(PathBuf::from))
            .context("no cgroup2 is mounted")?;
        let parent = root.join(format!("geophone-test-{}-{}", std::process::id(), serial()));
        let path = parent.join(name.as_ref());
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its processes have been killed, but may not be quite gone.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // And those that were made for it. A directory that another one uses is not empty.
        for parent in self.0.ancestors().skip(1) {
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
    }
}
