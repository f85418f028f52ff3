//! What /proc says about processes and about the machine.

use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

use serde::Serialize;

/// CPU seconds of a process so far, over all its threads, in nanoseconds' resolution.
pub fn cpu_seconds(pid: u32) -> f64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0.0;
    };
    let of = |task: fs::DirEntry| -> Option<u64> {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    tasks.flatten().filter_map(of).sum::<u64>() as f64 / 1e9
}

/// A process and all that it has started.
pub fn tree(pid: u32) -> BTreeSet<u32> {
    let (mut found, mut new) = (BTreeSet::new(), vec![pid]);
    while let Some(pid) = new.pop() {
        if !found.insert(pid) {
            continue;
        }
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            new.extend(text.split_whitespace().filter_map(|p| p.parse::<u32>().ok()));
        }
    }
    found
}

/// Memory of a process, bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// Most that ever was resident.
    pub peak: u64,
    /// Resident and the process's own.
    pub anonymous: u64,
    /// Resident pages of files, and of eBPF maps that are mapped.
    pub file: u64,
    /// Of these, eBPF maps; a ring is mapped twice.
    pub mapped: u64,
}

impl Memory {
    /// Memory of the process and of its maps, nothing counted twice.
    pub fn with_maps(&self, maps: f64) -> f64 {
        self.rss.saturating_sub(self.mapped) as f64 + maps
    }
}

/// Resident memory of the eBPF maps that a process has mapped.
fn mapped(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let (mut is_map, mut kib) = (false, 0);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("Rss:"), Some(size)) if is_map => kib += size.parse::<u64>().unwrap_or(0),
            (Some(word), _) if !word.ends_with(':') => is_map = line.ends_with("bpf-map"),
            _ => {}
        }
    }
    kib * 1024
}

/// Memory of a process; zeros when it has gone.
pub fn memory(pid: u32) -> Memory {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| -> u64 {
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    };
    Memory {
        rss: field("VmRSS:"),
        peak: field("VmHWM:"),
        anonymous: field("RssAnon:"),
        file: field("RssFile:"),
        mapped: mapped(pid),
    }
}

/// Ids of the eBPF programs that a process holds.
pub fn program_ids(pid: u32) -> BTreeSet<u32> {
    let files = fs::read_dir(format!("/proc/{pid}/fdinfo"));
    let id = |file: fs::DirEntry| -> Option<u32> {
        let text = fs::read_to_string(file.path()).ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix("prog_id:"))?;
        line.trim().parse().ok()
    };
    files.into_iter().flatten().flatten().filter_map(id).collect()
}

/// CPUs of this machine.
pub fn cpus() -> usize {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let is_cpu = |l: &&str| l.starts_with("cpu") && !l.starts_with("cpu ");
    text.lines().filter(is_cpu).count().max(1)
}

/// Idle and stolen time of the whole machine, seconds.
fn idle_and_stolen() -> (f64, f64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let field = |i: usize| -> f64 {
        let ticks: Option<f64> = line.split_whitespace().nth(i).and_then(|v| v.parse().ok());
        ticks.unwrap_or(0.0) / 100.0
    };
    (field(4) + field(5), field(8))
}

/// What disturbed a measurement.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Disturbance {
    /// CPU time that the hypervisor took, as a share of the machine.
    pub steal: f64,
    /// CPUs that were busy with what is neither the workload nor what is measured.
    pub foreign: f64,
}

impl Disturbance {
    /// Whether the measurement may count.
    pub fn is_small(self) -> bool {
        self.steal <= 0.01 && self.foreign <= 0.10
    }
}

/// A stretch of time over which everything is counted.
pub struct Window {
    since: Instant,
    idle: f64,
    stolen: f64,
    known: Vec<(u32, f64)>,
}

impl Window {
    /// Begins; `known` are the processes that belong to the measurement. This one always does.
    pub fn open(known: impl IntoIterator<Item = u32>) -> Self {
        let mut pids: BTreeSet<u32> = known.into_iter().flat_map(tree).collect();
        pids.insert(std::process::id());
        let known = pids.into_iter().map(|pid| (pid, cpu_seconds(pid))).collect();
        let (idle, stolen) = idle_and_stolen();
        Self {
            since: Instant::now(),
            idle,
            stolen,
            known,
        }
    }

    /// Ends; `clients` is the CPU time of known processes that came and went.
    pub fn close(self, clients: f64) -> Disturbance {
        let (idle, stolen) = idle_and_stolen();
        let wall = self.since.elapsed().as_secs_f64();
        let cpus = cpus() as f64;
        let known: f64 = self
            .known
            .iter()
            .map(|(pid, before)| (cpu_seconds(*pid) - before).max(0.0))
            .sum();
        let stolen = stolen - self.stolen;
        let busy = wall * cpus - (idle - self.idle) - stolen;
        Disturbance {
            steal: stolen / (wall * cpus),
            foreign: (busy - known - clients) / wall,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_there_and_has_memory() {
        let me = std::process::id();
        assert!(tree(me).contains(&me));
        let memory = memory(me);
        assert!(memory.rss > 0 && memory.peak >= memory.rss);
        assert!(cpus() >= 1);
        assert!(program_ids(me).is_empty());
    }

    #[test]
    fn own_work_is_not_foreign() {
        let before = cpu_seconds(std::process::id());
        let start = Instant::now();
        while start.elapsed().as_millis() < 100 {
            std::hint::spin_loop();
        }
        assert!(cpu_seconds(std::process::id()) - before > 0.01);
    }
}
