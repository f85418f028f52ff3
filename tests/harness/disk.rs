//! Disks whose requests are counted.

use super::agent::Scratch;
use super::command;
use anyhow::{Context as _, Result};
use std::path::Path;

/// In the order of the kernel's columns; each has requests, merges, sectors, ms.
pub const OPERATIONS: [&str; 3] = ["read", "write", "discard"];

/// A loop device on a file; both go with their owner.
#[derive(Debug)]
pub struct Loop {
    /// `/dev/loopN`.
    pub path: String,
    _scratch: Scratch,
}

impl Loop {
    /// Of so many bytes, all zero.
    pub fn new(size: u64) -> Result<Self> {
        let scratch = Scratch::new()?;
        let file = scratch.path("disk");
        std::fs::File::create(&file)?.set_len(size)?;
        Self::on(&file, scratch)
    }

    /// On a file that is there.
    pub fn on(file: &Path, scratch: Scratch) -> Result<Self> {
        let path = command::run(&format!("losetup --find --show {}", file.display()))?;
        Ok(Self {
            path: path.trim().to_owned(),
            _scratch: scratch,
        })
    }

    /// `loopN`.
    pub fn name(&self) -> &str {
        self.path.trim_start_matches("/dev/")
    }

    /// What the kernel has counted: (requests, sectors, ms) of each of [`OPERATIONS`], and flushes.
    pub fn truth(&self) -> Result<([[u64; 3]; 3], u64)> {
        let text = std::fs::read_to_string("/proc/diskstats")?;
        let words: Vec<&str> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|words| words.get(2) == Some(&self.name()))
            .context("no such disk")?;
        let column = |n: usize| -> Result<u64> { Ok(words.get(2 + n).context("no such column")?.parse()?) };
        let of = |first: usize| -> Result<[u64; 3]> {
            Ok([column(first)?, column(first + 2)?, column(first + 3)?])
        };
        Ok(([of(1)?, of(5)?, of(12)?], column(16)?))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = command::run(&format!("losetup -d {}", self.path));
    }
}
