//! Probe `node`: what the machine has and how much of it is used, from /proc once a second. No program.
//!
//! One metric for all that can run out, by resource: one rule then watches, and one forecast answers, for every one of
//! them.

mod sockets;
#[cfg(test)]
mod tests;

use super::{Context, Probe};
use crate::aggregate::{Family, Kind, Label, Labels, Metric, Series, Stability, Value, label};
use crate::error::{Error, Result};
use crate::mountinfo;
use crate::record::Source;
use serde::{Deserialize, Serialize};
use sockets::Sockets;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const RESOURCE_DEVICE: &[&Label] = &[&label::RESOURCE, &label::MOUNT_DEVICE];
const RESOURCE_KIND: &[&Label] = &[&label::RESOURCE, &label::PRESSURE];

/// Used.
pub static USED: Metric = Metric {
    name: "geophone_node_used",
    otlp: "geophone.node.usage",
    unit: "1",
    kind: Kind::Gauge,
    help: "What is in use of a resource: cores (cpu), bytes (memory, swap, tcp_memory, filesystem), else pieces: inodes, \
           conntrack entries, orphans and time_wait of TCP, file_descriptors, threads, neighbours, connections that wait in a \
           listen_queue, ephemeral_ports of TCP that the busiest destination takes of one local address",
    labels: RESOURCE_DEVICE,
    stability: Stability::Experimental,
};
/// Limit.
pub static LIMIT: Metric = Metric {
    name: "geophone_node_limit",
    otlp: "geophone.node.limit",
    unit: "1",
    kind: Kind::Gauge,
    help: "How much of it there is, in the same unit: geophone_node_used / geophone_node_limit is the utilization",
    labels: RESOURCE_DEVICE,
    stability: Stability::Experimental,
};
/// Pressure.
pub static PRESSURE: Metric = Metric {
    name: "geophone_node_pressure_seconds_total",
    otlp: "geophone.node.pressure.time",
    unit: "s",
    kind: Kind::Counter,
    help: "Time in which some tasks, or all that were not idle (full), waited for the resource (/proc/pressure)",
    labels: RESOURCE_KIND,
    stability: Stability::Experimental,
};

/// All of them.
pub const METRICS: &[&Metric] = &[&USED, &LIMIT, &PRESSURE];

/// Ticks from one look at file systems to the next: a node of many containers has a thousand mounts. Limits of the kernel's are
/// read as often: hardly anybody ever sets them.
const FILE_SYSTEMS_EVERY: u64 = 10;

/// What the configuration says.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Most file systems, and most listen queues, with series of their own, the fullest first.
    pub max_devices: usize,
}

/// Resource and device; used, and the limit where there is one.
type Uses = BTreeMap<(&'static str, String), (f64, Option<f64>)>;

/// A device; used and limit of its bytes and its inodes.
type Disk = (String, [(f64, f64); 2]);

/// What is used of a resource, by its name, and the limit where there is one.
type Use = (Cow<'static, str>, f64, Option<f64>);

/// What is read in a tick, without the file systems.
#[derive(Default, Serialize, Deserialize)]
struct Seen {
    /// Clock ticks of all CPUs, idle and in all, and how many CPUs there are.
    cpu: Option<(u64, u64, u32)>,
    uses: Vec<Use>,
    /// Resource and kind; microseconds.
    pressure: Vec<(Cow<'static, str>, Cow<'static, str>, u64)>,
}

/// The resources but those of file systems.
const RESOURCES: [&str; 9] = [
    "memory",
    "swap",
    "tcp_memory",
    "tcp_orphans",
    "tcp_time_wait",
    "conntrack",
    "file_descriptors",
    "threads",
    "neighbours",
];
/// What a file system has.
const OF_FILE_SYSTEMS: [&str; 2] = ["filesystem", "inodes"];
/// What sockets.rs says.
const OF_SOCKETS: [&str; 2] = ["ephemeral_ports", "listen_queue"];
/// What is waited for.
const PRESSURES: [&str; 3] = ["cpu", "memory", "io"];
/// Who waits.
const KINDS: [&str; 2] = ["some", "full"];

/// The name of a list that is the same: a recording has names of its own.
fn own(list: &[&'static str], name: &str) -> Option<&'static str> {
    list.iter().find(|own| **own == name).copied()
}

/// The probe.
pub struct Node {
    options: Options,
    proc: PathBuf,
    /// Clock ticks of all CPUs, idle and in all, at the last tick.
    cpu: Option<(u64, u64)>,
    uses: Uses,
    /// Of them, those of file systems.
    file_systems: Uses,
    /// What is set by hand, by file; emptied with each look at file systems.
    limits: RefCell<BTreeMap<&'static str, Option<String>>>,
    /// `None` where not this machine's /proc is read.
    sockets: Option<Sockets>,
    ticks: u64,
    /// By resource and kind, microseconds.
    pressure: BTreeMap<(&'static str, &'static str), u64>,
    /// By resource and device, or kind of pressure. They are held as long as their series: who stores these knows them
    /// by the address.
    labels: BTreeMap<(&'static str, String), Arc<Labels>>,
    start: u64,
}

impl Node {
    /// A probe that has read nothing yet.
    pub fn new(options: Options) -> Self {
        Self {
            sockets: Some(Sockets::default()),
            ..Self::at(options, Path::new("/proc"))
        }
    }

    fn at(options: Options, proc: &Path) -> Self {
        Self {
            options,
            proc: proc.to_owned(),
            cpu: None,
            uses: Uses::new(),
            file_systems: Uses::new(),
            limits: RefCell::default(),
            sockets: None,
            ticks: 0,
            pressure: BTreeMap::new(),
            labels: BTreeMap::new(),
            start: 0,
        }
    }

    fn text(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.proc.join(path)).ok()
    }

    fn number(&self, path: &str) -> Option<f64> {
        self.text(path)?.trim().parse().ok()
    }

    /// A word of a setting.
    fn limit(&self, path: &'static str, place: usize) -> Option<f64> {
        let mut limits = self.limits.borrow_mut();
        let text = limits.entry(path).or_insert_with(|| self.text(path));
        word(text.as_deref()?, place)
    }

    /// Reads what there is; of a recording, what was read then.
    fn update(&mut self, source: &Source) {
        if self.ticks.is_multiple_of(FILE_SYSTEMS_EVERY) {
            self.limits.borrow_mut().clear();
        }
        let seen = source.ask("node", || self.seen()).unwrap_or_default();
        let mut uses = Uses::new();
        if let Some(found) = seen.cpu.and_then(|cpu| self.busy(cpu)) {
            uses.insert(("cpu", String::new()), found);
        }
        for (name, used, limit) in seen.uses {
            let name = own(&RESOURCES, &name);
            uses.extend(name.map(|name| ((name, String::new()), (used, limit))));
        }
        const FACT: &str = "node file systems";
        if let Source::Recorded(past) = source {
            self.file_systems = fullest(past.fact(FACT).unwrap_or_default(), self.options.max_devices);
        } else if self.ticks.is_multiple_of(FILE_SYSTEMS_EVERY) {
            let found = self.file_systems();
            source.tell(FACT, || &found);
            self.file_systems = fullest(found, self.options.max_devices);
        }
        self.ticks += 1;
        uses.extend(self.file_systems.clone());
        let live = || {
            let found = self
                .sockets
                .as_mut()
                .map(|s| s.uses(&self.proc, self.options.max_devices));
            let found = found.unwrap_or_default().into_iter();
            found
                .map(|((name, device), (used, limit))| (name.into(), device, used, limit))
                .collect()
        };
        let found: Vec<(Cow<'static, str>, String, f64, Option<f64>)> =
            source.ask("node sockets", live).unwrap_or_default();
        for (name, device, used, limit) in found {
            uses.extend(own(&OF_SOCKETS, &name).map(|name| ((name, device), (used, limit))));
        }
        self.uses = uses;
        for (resource, kind, micros) in seen.pressure {
            let names = own(&PRESSURES, &resource).zip(own(&KINDS, &kind));
            self.pressure.extend(names.map(|names| (names, micros)));
        }
    }

    fn seen(&self) -> Seen {
        let mut uses: Vec<Use> = Vec::new();
        let mut put = |resource, found: Option<(f64, Option<f64>)>| {
            uses.extend(found.map(|(used, limit)| (Cow::Borrowed(resource), used, limit)));
        };
        let memory = self.text("meminfo").unwrap_or_default();
        put("memory", part(&memory, "MemAvailable:", "MemTotal:"));
        put(
            "swap",
            part(&memory, "SwapFree:", "SwapTotal:").filter(|(_, total)| *total > Some(0.0)),
        );
        let sockets = self.text("net/sockstat").unwrap_or_default();
        let most = self.limit("sys/net/ipv4/tcp_mem", 2);
        let pages = after(&sockets, "TCP:", "mem").zip(page_size());
        put(
            "tcp_memory",
            pages.map(|(used, page)| (used * page, most.map(|most| most * page))),
        );
        put(
            "tcp_orphans",
            after(&sockets, "TCP:", "orphan")
                .map(|used| (used, self.limit("sys/net/ipv4/tcp_max_orphans", 0))),
        );
        put(
            "tcp_time_wait",
            after(&sockets, "TCP:", "tw")
                .map(|used| (used, self.limit("sys/net/ipv4/tcp_max_tw_buckets", 0))),
        );
        put(
            "conntrack",
            // A limit of 0 is none.
            self.number("sys/net/netfilter/nf_conntrack_count").map(|used| {
                let most = self.limit("sys/net/netfilter/nf_conntrack_max", 0);
                (used, most.filter(|most| *most > 0.0))
            }),
        );
        let files = self.text("sys/fs/file-nr").unwrap_or_default();
        // allocated, free (always 0), most; without a limit it is the largest number there is.
        put(
            "file_descriptors",
            word(&files, 0).map(|used| (used, word(&files, 2).filter(|most| *most < 9e18))),
        );
        let tasks = self
            .text("loadavg")
            .and_then(|text| text.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok());
        let most = [
            self.limit("sys/kernel/threads-max", 0),
            self.limit("sys/kernel/pid_max", 0),
        ];
        put(
            "threads",
            tasks.map(|used| (used, most.into_iter().flatten().reduce(f64::min))),
        );
        let neighbours = self.text("net/stat/arp_cache").and_then(|text| {
            let line = text.lines().nth(1)?;
            u32::from_str_radix(line.split_whitespace().next()?, 16).ok()
        });
        put(
            "neighbours",
            neighbours.map(|used| {
                (
                    f64::from(used),
                    self.limit("sys/net/ipv4/neigh/default/gc_thresh3", 0),
                )
            }),
        );
        Seen {
            cpu: self.cpu(),
            uses,
            pressure: self.pressures(),
        }
    }

    fn cpu(&self) -> Option<(u64, u64, u32)> {
        let text = self.text("stat")?;
        let mut lines = text.lines();
        let ticks: Vec<u64> = lines
            .next()?
            .split_whitespace()
            .skip(1)
            .filter_map(|word| word.parse().ok())
            .collect();
        // user nice system idle iowait irq softirq steal; guest times are in user and nice already.
        let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = *ticks.as_slice() else {
            return None;
        };
        let idle = idle + iowait;
        let all = idle + user + nice + system + irq + softirq + steal;
        let cores = lines.take_while(|line| line.starts_with("cpu")).count();
        Some((idle, all, cores as u32))
    }

    /// Cores that were busy since the last tick, and how many there are.
    fn busy(&mut self, (idle, all, cores): (u64, u64, u32)) -> Option<(f64, Option<f64>)> {
        let (idle_before, all_before) = self.cpu.replace((idle, all))?;
        let passed = all.saturating_sub(all_before);
        // The kernel's idle time may fall by a tick.
        let busy = passed.saturating_sub(idle.saturating_sub(idle_before));
        let cores = f64::from(cores);
        (passed > 0).then(|| (busy as f64 / passed as f64 * cores, Some(cores)))
    }

    /// File systems on block devices: one on a network may hang whoever asks for its size.
    fn file_systems(&self) -> Vec<Disk> {
        let text = std::fs::read(self.proc.join("self/mountinfo")).unwrap_or_default();
        let mut found = Vec::new();
        for (device, point) in mountinfo::on_block_devices(&text) {
            let Ok(seen) = nix::sys::statvfs::statvfs(&point) else {
                continue;
            };
            let size = seen.fragment_size() as f64;
            let (all, free, available) = (
                seen.blocks() as f64,
                seen.blocks_free() as f64,
                seen.blocks_available() as f64,
            );
            // As df has it: what is kept for root is neither used nor to be had.
            let used = all - free;
            let bytes = (used * size, (used + available) * size);
            let inodes = (
                seen.files().saturating_sub(seen.files_free()) as f64,
                seen.files() as f64,
            );
            found.push((device, [bytes, inodes]));
        }
        found
    }

    fn pressures(&self) -> Vec<(Cow<'static, str>, Cow<'static, str>, u64)> {
        let mut all = Vec::new();
        for resource in PRESSURES {
            let text = self.text(&format!("pressure/{resource}")).unwrap_or_default();
            for kind in KINDS {
                let line = text.lines().find(|line| line.starts_with(kind));
                let total = line.and_then(|line| line.rsplit_once("total=")?.1.parse().ok());
                all.extend(total.map(|total: u64| (resource.into(), kind.into(), total)));
            }
        }
        all
    }

    fn labels_of(
        &mut self,
        names: &'static [&'static Label],
        resource: &'static str,
        other: &str,
    ) -> Arc<Labels> {
        let key = (resource, other.to_owned());
        let start = self.start;
        let make = || Arc::new(Labels::new(names, &[resource, other], false, start));
        self.labels.entry(key).or_insert_with(make).clone()
    }
}

/// The fullest file systems.
fn fullest(mut found: Vec<Disk>, most: usize) -> Uses {
    let fill = |(_, [bytes, _]): &Disk| bytes.0 / bytes.1.max(1.0);
    found.sort_by(|a, b| fill(b).total_cmp(&fill(a)));
    let mut uses = Uses::new();
    for (device, parts) in found.into_iter().take(most) {
        for (resource, (used, limit)) in OF_FILE_SYSTEMS.into_iter().zip(parts) {
            if limit > 0.0 {
                uses.insert((resource, device.clone()), (used, Some(limit)));
            }
        }
    }
    uses
}

/// Total less free, and total, bytes: /proc/meminfo counts in KiB.
fn part(text: &str, free: &str, total: &str) -> Option<(f64, Option<f64>)> {
    let kib = |name: &str| text.lines().find_map(|line| word(line.strip_prefix(name)?, 0));
    let (free, total) = (kib(free)? * 1024.0, kib(total)? * 1024.0);
    Some((total - free, Some(total)))
}

fn word(text: &str, at: usize) -> Option<f64> {
    text.split_whitespace().nth(at)?.parse().ok()
}

/// The number behind a name in the line that starts with something.
fn after(text: &str, start: &str, name: &str) -> Option<f64> {
    let mut words = text
        .lines()
        .find_map(|line| line.strip_prefix(start))?
        .split_whitespace();
    words.find(|word| *word == name)?;
    words.next()?.parse().ok()
}

fn page_size() -> Option<f64> {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()?;
    Some(size as f64)
}

impl Probe for Node {
    fn name(&self) -> &'static str {
        "node"
    }

    fn attach(&mut self, context: &mut Context<'_>) -> Result<()> {
        self.start = context.series_start;
        if context.source.past().is_none() && self.text("stat").is_none() {
            return Err(Error::new(format_args!(
                "{}: not the kernel's /proc",
                self.proc.display()
            )));
        }
        self.update(context.source);
        Ok(())
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        self.update(context.source);
    }

    fn collect(&mut self, out: &mut Vec<Family>) {
        let uses = std::mem::take(&mut self.uses);
        let (mut used, mut limits) = (Vec::new(), Vec::new());
        for ((resource, device), (value, limit)) in &uses {
            let labels = self.labels_of(RESOURCE_DEVICE, resource, device);
            limits.extend(limit.map(|limit| Series {
                labels: labels.clone(),
                value: Value::Gauge(limit),
            }));
            used.push(Series {
                labels,
                value: Value::Gauge(*value),
            });
        }
        let kinds = std::mem::take(&mut self.pressure);
        let pressure = kinds.iter().map(|((resource, kind), micros)| Series {
            labels: self.labels_of(RESOURCE_KIND, resource, kind),
            value: Value::CounterF(*micros as f64 / 1e6),
        });
        let pressure = pressure.collect();
        self.labels.retain(|(resource, other), _| {
            uses.contains_key(&(*resource, other.clone()))
                || kinds.keys().any(|key| (key.0, key.1) == (*resource, &**other))
        });
        (self.uses, self.pressure) = (uses, kinds);
        for (metric, series) in [(&USED, used), (&LIMIT, limits), (&PRESSURE, pressure)] {
            out.push(Family { metric, series });
        }
    }
}
