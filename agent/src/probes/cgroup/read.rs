//! What the kernel says of one cgroup, and which cgroups there are. Whoever may create a cgroup chooses its name, not what its files say.

use crate::identity::cgroup::{Kind, parse};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Directories that a walk looks into.
const MOST: usize = 65_536;
/// Processes of a cgroup whose files are counted.
const PROCESSES: usize = 1024;
/// A process with fewer open files is far from every limit: the usual one is 1024.
const MANY: u64 = 256;
/// What is waited for, and who waits. That some wait for memory or a disk while others go on is usual.
pub const WAITS: [(&str, &str); 4] = [
    ("cpu", "some"),
    ("cpu", "full"),
    ("memory", "full"),
    ("io", "full"),
];

/// A cgroup that a subject is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its id: the inode number of its directory.
    pub id: u64,
    pub path: PathBuf,
    /// The least of what those above it may use: bytes of memory, tasks, cores.
    pub above: Limits,
}

/// What may be used; none = no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<f64>,
    pub tasks: Option<f64>,
    pub cores: Option<f64>,
}

impl Limits {
    fn of(path: &Path) -> Self {
        // Quota and period, µs; or max.
        let cores = text(path, "cpu.max").and_then(|text| {
            let mut words = text.split_whitespace().map(str::parse::<f64>);
            Some(words.next()?.ok()? / words.next()?.ok()?)
        });
        Self {
            memory: number(path, "memory.max"),
            tasks: number(path, "pids.max"),
            cores,
        }
    }

    /// Both hold.
    fn and(self, other: Self) -> Self {
        let least = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::min);
        Self {
            memory: least(self.memory, other.memory),
            tasks: least(self.tasks, other.tasks),
            cores: least(self.cores, other.cores),
        }
    }
}

/// What is read of a cgroup. What its kernel or its controllers do not tell is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    pub limits: Limits,
    /// Bytes that cannot be had back by forgetting what was read from files long ago, as the kubelet counts.
    pub memory: Option<f64>,
    pub tasks: Option<f64>,
    /// Open files of the process that is nearest to its own limit, and that limit. Needs Linux 6.2.
    pub files: Option<(f64, f64)>,
    /// Counters: µs on a CPU; µs in which tasks that could run had used up the quota; tasks killed for want of memory.
    pub cpu: Option<u64>,
    pub throttled: Option<u64>,
    pub oom_kills: Option<u64>,
    /// Counters, µs: of [`WAITS`].
    pub waits: [Option<u64>; 4],
}

fn text(path: &Path, file: &str) -> Option<String> {
    std::fs::read_to_string(path.join(file)).ok()
}

/// A number; `max` is none.
fn number(path: &Path, file: &str) -> Option<f64> {
    text(path, file)?.trim().parse().ok()
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(own, _)| *own == name)?.1.trim().parse().ok()
}

/// What a cgroup says now; `None` = it is not there any more.
pub fn read(group: &Group, proc: &Path) -> Option<Reading> {
    let path = group.path.as_path();
    // Each cgroup has it, without any controller. Its directory may be another one's by now.
    let cpu = text(path, "cpu.stat")?;
    let id = std::fs::metadata(path).ok()?.ino();
    (id == group.id).then_some(())?;
    let stat = text(path, "memory.stat").unwrap_or_default();
    let memory = number(path, "memory.current");
    let files = field(&stat, "inactive_file").unwrap_or(0) as f64;
    let events = text(path, "memory.events").unwrap_or_default();
    let waits = WAITS.map(|(resource, kind)| {
        let text = text(path, &format!("{resource}.pressure"))?;
        let line = text.lines().find(|line| line.starts_with(kind))?;
        line.rsplit_once("total=")?.1.parse().ok()
    });
    Some(Reading {
        limits: Limits::of(path).and(group.above),
        memory: memory.map(|current| (current - files).max(0.0)),
        tasks: number(path, "pids.current"),
        files: open_files(path, proc),
        cpu: field(&cpu, "usage_usec"),
        throttled: field(&cpu, "throttled_usec"),
        oom_kills: field(&events, "oom_kill"),
        waits,
    })
}

/// See [`Reading::files`]. The size of `/proc/PID/fd` is their number, which costs a look and no list.
fn open_files(path: &Path, proc: &Path) -> Option<(f64, f64)> {
    let text = text(path, "cgroup.procs")?;
    // 0 = it is not of our namespace of processes.
    let processes = text.lines().take(PROCESSES).filter(|pid| *pid != "0");
    let found = processes.filter_map(|pid| {
        let home = proc.join(pid);
        let open = std::fs::metadata(home.join("fd")).ok()?.size();
        (open >= MANY).then_some(())?;
        let limits = std::fs::read_to_string(home.join("limits")).ok()?;
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))?;
        let limit: f64 = line.split_whitespace().next()?.parse().ok()?;
        (limit > 0.0).then_some((open as f64, limit))
    });
    found.max_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)))
}

/// The cgroups below a root that subjects are made of: containers and units, whatever is below them, and others that have none below.
pub fn walk(root: &Path) -> Vec<Group> {
    let mut found = Vec::new();
    let mut seen = 0;
    let mut todo = vec![(root.to_owned(), Limits::default())];
    while let Some((directory, above)) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        let above = if directory == root {
            above
        } else {
            above.and(Limits::of(&directory))
        };
        for entry in entries
            .flatten()
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        {
            seen += 1;
            if seen > MOST {
                return found;
            }
            let (id, path) = (entry.ino(), entry.path());
            let Ok(relative) = path.strip_prefix(root) else {
                continue;
            };
            let kind = parse(relative.as_os_str().as_bytes()).map(|workload| workload.kind);
            let is_whole = match kind {
                Some(Kind::Container | Kind::Unit) => true,
                // A directory has two links and one for each below it; file systems that count otherwise have one.
                _ => entry.metadata().is_ok_and(|metadata| metadata.nlink() == 2),
            };
            if is_whole {
                found.push(Group { id, path, above });
            } else {
                todo.push((path, above));
            }
        }
    }
    found
}

/// What a counter has grown by since it was read last.
pub fn grown(now: Option<u64>, before: Option<u64>) -> u64 {
    now.zip(before)
        .map_or(0, |(now, before)| now.saturating_sub(before))
}

/// Of several cgroups of one subject: of a resource the one that is fullest of those with a limit; of those without, all together.
#[derive(Debug, Default)]
pub struct Uses(BTreeMap<&'static str, (f64, Option<f64>)>);

impl Uses {
    /// Adds one.
    pub fn add(&mut self, resource: &'static str, used: Option<f64>, limit: Option<f64>) {
        let Some(used) = used else { return };
        let known = self.0.entry(resource).or_insert((0.0, limit));
        match (known.1, limit) {
            (Some(most), Some(limit)) if used / limit.max(1.0) >= known.0 / most.max(1.0) => {
                *known = (used, Some(limit));
            }
            (None, Some(limit)) => *known = (used, Some(limit)),
            (None, None) => known.0 += used,
            (Some(_), _) => {}
        }
    }

    /// Resource; used, and its limit.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, f64, Option<f64>)> {
        self.0
            .iter()
            .map(|(resource, (used, limit))| (*resource, *used, *limit))
    }
}
