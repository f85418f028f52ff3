//! What the kernel says of one cgroup, and which cgroups there are. Whoever may create a cgroup chooses its name, not what its files say.

use crate::identity::cgroup::{Kind, parse};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
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
    /// Those above it that have a limit of memory or tasks, which it shares with all that are below them.
    pub above: Vec<PathBuf>,
    /// A pod outlives its containers: who was killed in them is read of the pod, and nothing else.
    pub is_pod: bool,
    /// Whether it is in one.
    pub in_pod: bool,
}

/// What there is at a time.
#[derive(Debug, Default)]
pub struct Found {
    pub groups: Vec<Group>,
    /// Ids of all directories: what was one of them is not new, whatever it was then.
    pub all: BTreeSet<u64>,
}

/// Used, and the limit of it.
type Use = (f64, Option<f64>);

/// Bytes that cannot be had back by forgetting what was read from files long ago, as the kubelet counts.
fn memory(path: &Path) -> Option<Use> {
    let current = number(path, "memory.current")?;
    let stat = text(path, "memory.stat").unwrap_or_default();
    let files = field(&stat, "inactive_file").unwrap_or(0) as f64;
    Some(((current - files).max(0.0), number(path, "memory.max")))
}

fn tasks(path: &Path) -> Option<Use> {
    Some((number(path, "pids.current")?, number(path, "pids.max")))
}

/// Quota and period, µs; or max.
fn cores(path: &Path) -> Option<f64> {
    let text = text(path, "cpu.max")?;
    let mut words = text.split_whitespace().map(str::parse::<f64>);
    Some(words.next()?.ok()? / words.next()?.ok()?)
}

/// What is read of a cgroup. What its kernel or its controllers do not tell is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Bytes and tasks: its own, and those of each above it with a limit.
    pub memory: Vec<Use>,
    pub tasks: Vec<Use>,
    /// Its own quota.
    pub cores: Option<f64>,
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
    let kills = || field(&text(path, "memory.events")?, "oom_kill");
    if group.is_pod {
        return Some(Reading {
            oom_kills: kills(),
            ..Reading::default()
        });
    }
    let levels = |of: fn(&Path) -> Option<Use>| -> Vec<Use> {
        let above = group.above.iter().filter_map(|path| of(path));
        of(path)
            .into_iter()
            .chain(above.filter(|(_, limit)| limit.is_some()))
            .collect()
    };
    let waits = WAITS.map(|(resource, kind)| {
        let text = text(path, &format!("{resource}.pressure"))?;
        let line = text.lines().find(|line| line.starts_with(kind))?;
        line.rsplit_once("total=")?.1.parse().ok()
    });
    Some(Reading {
        memory: levels(memory),
        tasks: levels(tasks),
        cores: cores(path),
        files: open_files(path, proc),
        cpu: field(&cpu, "usage_usec"),
        throttled: field(&cpu, "throttled_usec"),
        oom_kills: if group.in_pod { None } else { kills() },
        waits,
    })
}

/// Processes of a cgroup and of those below it.
fn processes(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![path.to_owned()];
    while let Some(path) = todo.pop() {
        let text = text(&path, "cgroup.procs").unwrap_or_default();
        // 0 = it is not of our namespace of processes.
        let own = text.lines().filter(|pid| *pid != "0").map(str::to_owned);
        found.extend(own.take(PROCESSES - found.len()));
        if found.len() == PROCESSES {
            break;
        }
        let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        todo.extend(below.map(|entry| entry.path()));
    }
    found
}

/// See [`Reading::files`]. The size of `/proc/PID/fd` is their number, which costs a look and no list.
fn open_files(path: &Path, proc: &Path) -> Option<(f64, f64)> {
    let found = processes(path).into_iter().filter_map(|pid| {
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

/// A directory that is to be looked into.
struct Place {
    path: PathBuf,
    above: Vec<PathBuf>,
    in_pod: bool,
    /// The container or unit that it is in: its name, and where it stands in what was found.
    whole: Option<(String, usize)>,
}

/// The cgroups below a root that subjects are made of, by the names that sockets have by them: containers and units, and others that
/// have none below. One in which there are others, as in a user's manager, is none itself.
pub fn walk(root: &Path) -> Found {
    let mut found = Found::default();
    // Of those that have others in them.
    let mut divided = BTreeSet::new();
    let mut todo = vec![Place {
        path: root.to_owned(),
        above: Vec::new(),
        in_pod: false,
        whole: None,
    }];
    while let Some(place) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&place.path) else {
            continue;
        };
        let dirs = entries
            .flatten()
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        for entry in dirs {
            if found.all.len() >= MOST {
                return found;
            }
            let (id, path) = (entry.ino(), entry.path());
            found.all.insert(id);
            let workload = path
                .strip_prefix(root)
                .ok()
                .and_then(|relative| parse(relative.as_os_str().as_bytes()));
            let Some(workload) = workload else { continue };
            let kind = workload.kind;
            let is_pod = kind == Kind::Pod;
            // A directory has two links and one for each below it.
            let is_leaf = entry.metadata().is_ok_and(|metadata| metadata.nlink() == 2);
            let is_whole = matches!(kind, Kind::Container | Kind::Unit);
            let known = place.whole.as_ref().filter(|(name, _)| *name == workload.name);
            let mut whole = known.cloned();
            if whole.is_none() && (is_whole || is_pod || is_leaf && place.whole.is_none()) {
                divided.extend(place.whole.as_ref().map(|(_, at)| *at));
                whole = is_whole.then_some((workload.name, found.groups.len()));
                found.groups.push(Group {
                    id,
                    path: path.clone(),
                    above: place.above.clone(),
                    is_pod,
                    in_pod: place.in_pod,
                });
            }
            if is_leaf {
                continue;
            }
            let mut above = place.above.clone();
            let is_limited = |file| number(&path, file).is_some();
            if whole.is_none() && (is_limited("memory.max") || is_limited("pids.max")) {
                above.push(path.clone());
            }
            todo.push(Place {
                path,
                above,
                in_pod: place.in_pod || is_pod,
                whole: whole.or(place.whole.clone()),
            });
        }
    }
    let mut at = 0..;
    found
        .groups
        .retain(|_| at.next().is_none_or(|at| !divided.contains(&at)));
    found
}

/// What a counter has grown by since it was read last.
pub fn grown(now: Option<u64>, before: Option<u64>) -> u64 {
    now.zip(before)
        .map_or(0, |(now, before)| now.saturating_sub(before))
}

/// Of several cgroups of one subject, and of what is above them: of a resource the one that is fullest of those with a limit; where
/// there is none, all together.
#[derive(Debug, Default)]
pub struct Uses(BTreeMap<&'static str, (f64, Option<f64>)>);

impl Uses {
    /// Adds one.
    pub fn add(&mut self, resource: &'static str, used: f64, limit: Option<f64>) {
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
