//! The commands of stacks.

use super::{time, writable};
use crate::stacks::query::{Below, MOMENTS, moment};
use crate::stacks::{Format, now};
use agent_common::profile::sample;
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `geophone profile`.
#[derive(Debug, Args)]
pub struct Profile {
    /// Look so long
    #[arg(long = "for", value_name = "TIME", value_parser = time, default_value = "10s")]
    pub duration: Duration,
    /// Do not look, but ask the running agent for what it has seen in the last TIME, e.g. 10m; it keeps an hour
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with_all = ["duration", "hz", "own"])]
    pub last: Option<Duration>,
    /// The same from a time on: 2026-01-31T12:00:00Z, seconds since 1970, or how long ago, e.g. 10m
    #[arg(long, value_name = "TIME", value_parser = instant, conflicts_with_all = ["duration", "hz", "own", "last"])]
    pub from: Option<String>,
    /// Until this time, now if it is not given
    #[arg(long, value_name = "TIME", value_parser = instant, requires = "from")]
    pub to: Option<String>,
    /// Whose time
    #[command(flatten)]
    pub whose: Whose,
    /// What is looked at
    #[command(flatten)]
    pub kind: SampleKind,
    /// With --off-cpu: who ended each wait, on top of what waited, behind `--`; looks itself even if an agent runs
    #[arg(long, requires = "off_cpu", conflicts_with_all = ["last", "from"])]
    pub waker: bool,
    /// Of the CPU's time: stacks per second and CPU; takes them itself even if an agent runs [default: that of the agent, else 99]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=999), conflicts_with = "SampleKind")]
    pub hz: Option<u32>,
    /// Write to this file: .pb.gz for pprof, .folded, .svg for a flamegraph, .json. Without it a table is shown
    #[arg(long, short, value_name = "FILE", value_parser = profile_file)]
    pub output: Option<PathBuf>,
    /// Do not look for a running agent
    #[arg(long)]
    pub own: bool,
}

/// `geophone diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// The one before: a file (.folded, .pb.gz), or a window of the running agent, FROM..TO, e.g. 10m..5m
    #[arg(value_name = "A")]
    pub before: String,
    /// The one after, e.g. 5m..now
    #[arg(value_name = "B")]
    pub after: String,
    /// Of windows, what is looked at
    #[command(flatten)]
    pub kind: SampleKind,
    /// Of windows, whose time
    #[command(flatten)]
    pub whose: Whose,
    /// Write to this file: .svg for a differential flamegraph, .folded, .json. Without it a table is shown
    #[arg(long, short, value_name = "FILE", value_parser = diff_file)]
    pub output: Option<PathBuf>,
}

/// Whose stacks.
#[derive(Clone, Debug, Default, Args)]
pub struct Whose {
    /// Only this process
    #[arg(long)]
    pub pid: Option<u32>,
    /// Only processes of this name
    #[arg(long, value_name = "NAME")]
    pub comm: Option<String>,
    /// Only this container, unit or process
    #[arg(long, value_name = "NAME")]
    pub subject: Option<String>,
    /// Only this cgroup and those below it; * stands for any text
    #[arg(long, value_name = "PATH", value_parser = cgroup)]
    pub cgroup: Option<String>,
}

impl Whose {
    /// Whether anything is left out.
    pub fn any(&self) -> bool {
        self.pid.is_some() || self.comm.is_some() || self.subject.is_some() || self.cgroup.is_some()
    }
}

/// What `geophone profile` looks at.
#[derive(Clone, Copy, Debug, Default, Args)]
#[group(multiple = false)]
pub struct SampleKind {
    /// Instead of the CPU's time: threads that were off their CPU, and why
    #[arg(long)]
    pub off_cpu: bool,
    /// Threads that had to wait for a lock
    #[arg(long)]
    pub locks: bool,
    /// Page faults, where memory is touched for the first time
    #[arg(long)]
    pub faults: bool,
    /// Requests to disks: who asks for them, by the time that they take
    #[arg(long)]
    pub block: bool,
    /// Dropped packets: where the kernel gives them up, and why
    #[arg(long)]
    pub drops: bool,
    /// TCP segments that are sent again, and why
    #[arg(long)]
    pub retransmits: bool,
}

impl SampleKind {
    /// As [`sample`] numbers them.
    pub fn number(self) -> u8 {
        let kinds = [
            (self.off_cpu, sample::OFF_CPU),
            (self.locks, sample::LOCK),
            (self.faults, sample::FAULT),
            (self.block, sample::BLOCK_IO),
            (self.drops, sample::DROP),
            (self.retransmits, sample::RETRANSMIT),
        ];
        let asked = kinds.into_iter().find(|(asked, _)| *asked);
        asked.map_or(sample::CPU, |(_, kind)| kind)
    }
}

/// A moment, as it is asked for.
pub(super) fn instant(text: &str) -> Result<String, String> {
    match moment(text, now()) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(MOMENTS.to_owned()),
    }
}

fn cgroup(text: &str) -> Result<String, String> {
    text.parse::<Below>().map(|_| text.to_owned())
}

/// A file whose name says how stacks are written to it.
pub(super) fn profile_file(text: &str) -> Result<PathBuf, String> {
    match Format::of(Path::new(text)) {
        Some(_) => writable(text),
        None => Err("its name ends in none of .pb.gz .folded .svg .json".to_owned()),
    }
}

fn diff_file(text: &str) -> Result<PathBuf, String> {
    match Format::of(Path::new(text)) {
        Some(Format::Svg | Format::Folded | Format::Json) => writable(text),
        _ => Err("its name ends in none of .svg .folded .json".to_owned()),
    }
}
