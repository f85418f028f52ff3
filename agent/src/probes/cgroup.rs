//! Probe `cgroup`: what each subject may use, how much of it is used, and how long it waits, as its cgroups say. No program.
//!
//! All cgroups are read once in an interval, some in each tick. Only those of version 2 say all this.

mod read;
#[cfg(test)]
mod tests;

use super::totals::Totals;
use super::{Context, Probe};
use crate::aggregate::{Family, Kind, Label, Labels, Metric, Series, Value, label};
use crate::error::Result;
use crate::identity::{Name, find_cgroup2_root};
use agent_common::tcp::SubjectKey;
use nix::time::{ClockId, clock_gettime};
use read::{Group, Reading, Uses, WAITS, grown};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SUBJECT_RESOURCE: &[&Label] = &[&label::SUBJECT, &label::RESOURCE];

/// Used.
pub static USED: Metric = Metric::experimental(
    "geophone_cgroup_used",
    "geophone.cgroup.usage",
    "1",
    Kind::Gauge,
    SUBJECT_RESOURCE,
    "What the subject uses: bytes of memory (without what was read from files long ago, as the kubelet counts), tasks, and \
     file_descriptors of the process that is nearest to its own limit (from 256 on, Linux 6.2). Of several cgroups with a limit, \
     those above its own included: of the one that is fullest",
);
/// Limit.
pub static LIMIT: Metric = Metric::experimental(
    "geophone_cgroup_limit",
    "geophone.cgroup.limit",
    "1",
    Kind::Gauge,
    SUBJECT_RESOURCE,
    "What it may use, in the same unit; cpu: cores, the quotas of its own cgroups together. No series = no limit",
);
/// CPU.
pub static CPU: Metric = Metric::experimental(
    "geophone_cgroup_cpu_seconds_total",
    "geophone.cgroup.cpu.time",
    "s",
    Kind::Counter,
    &[&label::SUBJECT],
    "Time that its tasks were on a CPU, user and kernel together",
);
/// Throttling.
pub static THROTTLED: Metric = Metric::experimental(
    "geophone_cgroup_throttled_seconds_total",
    "geophone.cgroup.cpu.throttled.time",
    "s",
    Kind::Counter,
    &[&label::SUBJECT],
    "Time for which its tasks were kept from the CPUs because the quota was used up, added up over CPUs",
);
/// OOM kills.
pub static OOM_KILLS: Metric = Metric::experimental(
    "geophone_cgroup_oom_kills_total",
    "geophone.cgroup.oom_kills",
    "{process}",
    Kind::Counter,
    &[&label::SUBJECT],
    "Processes that the kernel has killed for want of memory. In a pod all are seen; of a unit that goes with the one that was killed none is",
);
/// Pressure.
pub static PRESSURE: Metric = Metric::experimental(
    "geophone_cgroup_pressure_seconds_total",
    "geophone.cgroup.pressure.time",
    "s",
    Kind::Counter,
    &[&label::SUBJECT, &label::RESOURCE, &label::PRESSURE],
    "Time in which all of its tasks that were not idle (full) waited for the resource: cpu (its quota as well), memory, io; or some of them for cpu. Of several cgroups from reading to reading the one that waited most",
);

/// All of them.
pub const METRICS: &[&Metric] = &[&USED, &LIMIT, &CPU, &THROTTLED, &OOM_KILLS, &PRESSURE];

/// Reading takes this share of a CPU, as 1 in n: of very many cgroups each is read less often; but so often that a rate of a minute
/// means something.
const SHARE: u32 = 1000;
const LONGEST: Duration = Duration::from_secs(30);
/// Series that a subject typically has.
const SERIES: usize = 8;
/// The fact that says what was read in a tick.
const FACT: &str = "cgroups";

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Options {
    /// From one reading of a cgroup to the next.
    pub interval: Duration,
    /// Most series; what is beyond goes to `other`.
    pub max_series: usize,
}

/// Cgroups as they were read in a tick: id, whether it was made since the agent began, and `None` where it is gone.
type Batch = Vec<(u64, bool, Option<Reading>)>;

/// A cgroup, as last read.
struct Row {
    /// Of which series; `None` = it has no final name yet.
    total: Option<usize>,
    /// It was read since its name was asked for: names come late where Kubernetes does.
    is_read: bool,
    /// It was read since it was last added up.
    is_fresh: bool,
    reading: Reading,
    /// What its counters were when they were last added up. Of one that came after the agent nothing.
    added: Reading,
}

struct Total {
    /// By resource, made when it is first seen.
    resources: BTreeMap<&'static str, Arc<Labels>>,
    wait_labels: [Arc<Labels>; 4],
    plain: Arc<Labels>,
    name: Name,
    start: u64,
    uses: Uses,
    cores: Option<f64>,
    /// µs, µs, processes.
    cpu: Option<u64>,
    throttled: Option<u64>,
    oom_kills: Option<u64>,
    waits: Waits,
}

/// For how long the cgroups of a subject waited: from reading to reading as long as the one that waited most. Their sum is no share of
/// time: five containers that wait a twentieth of it each would be one that waits a quarter.
#[derive(Default)]
struct Waits {
    /// µs.
    micros: [Option<u64>; 4],
    /// Those read since the last that came a second time, and the most that one of them has waited more, which `micros` has already.
    seen: BTreeSet<u64>,
    most: [u64; 4],
}

impl Waits {
    fn begin(&mut self) {
        self.seen.clear();
        self.most = [0; 4];
    }

    fn add(&mut self, id: u64, now: &Reading, before: &Reading) {
        if self.seen.contains(&id) {
            self.begin();
        }
        self.seen.insert(id);
        let both = now.waits.iter().zip(&before.waits);
        for ((micros, most), (now, before)) in self.micros.iter_mut().zip(&mut self.most).zip(both) {
            // What is not told is not 0.
            if now.is_some() {
                let more = grown(*now, *before);
                *micros = Some(micros.unwrap_or(0) + more.saturating_sub(*most));
                *most = more.max(*most);
            }
        }
    }
}

/// CPU time of the calling thread.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// The probe.
pub struct Cgroup {
    options: Options,
    root: Option<PathBuf>,
    proc: PathBuf,
    /// Those that are to be read in this round.
    todo: Vec<Group>,
    /// When this round began, and when the next may.
    round: Option<(Instant, Instant)>,
    /// Directories that there were in the round before, and that there are in this one. One that was there has counted then.
    before: BTreeSet<u64>,
    all: BTreeSet<u64>,
    is_first: bool,
    /// CPU time of reading in this round so far.
    took: Duration,
    rows: BTreeMap<u64, Row>,
    totals: Totals<Name, Total>,
}

impl Cgroup {
    /// A probe that has read nothing yet.
    pub fn new(options: Options) -> Self {
        Self::at(options, find_cgroup2_root().ok(), Path::new("/proc"))
    }

    fn at(options: Options, root: Option<PathBuf>, proc: &Path) -> Self {
        Self {
            totals: Totals::new((options.max_series / SERIES).max(1)),
            options,
            root,
            proc: proc.to_owned(),
            todo: Vec::new(),
            round: None,
            before: BTreeSet::new(),
            all: BTreeSet::new(),
            is_first: true,
            took: Duration::ZERO,
            rows: BTreeMap::new(),
        }
    }

    /// What is due in this tick; all of it if it is the last.
    fn live(&mut self, now: Instant, is_last: bool) -> Batch {
        let Some(root) = self.root.clone() else {
            return Batch::new();
        };
        let start = cpu();
        let mut batch = Batch::new();
        let is_due = self.round.is_none_or(|(_, next)| now >= next);
        if self.todo.is_empty() && is_due || is_last {
            let pause = (self.took * SHARE).min(LONGEST).max(self.options.interval);
            self.is_first = self.round.is_none();
            self.round = Some((now, now + pause));
            self.took = Duration::ZERO;
            let found = read::walk(&root);
            (self.before, self.all) = (std::mem::take(&mut self.all), found.all);
            self.todo = found.groups;
            let there: BTreeSet<u64> = self.todo.iter().map(|group| group.id).collect();
            let gone = self.rows.keys().filter(|id| !there.contains(id));
            batch.extend(gone.map(|id| (*id, false, None)));
        }
        // All by the end of the interval; in the first round at once.
        let ticks = self.round.map_or(1, |(begun, _)| {
            let left = (begun + self.options.interval).saturating_duration_since(now);
            if self.is_first || is_last {
                1
            } else {
                left.as_secs().max(1)
            }
        });
        let count = self.todo.len().div_ceil(usize::try_from(ticks).unwrap_or(1));
        for group in self.todo.drain(self.todo.len() - count..) {
            let is_new = !self.is_first && !self.before.contains(&group.id);
            batch.push((group.id, is_new, read::read(&group, &self.proc)));
        }
        self.took += cpu().saturating_sub(start);
        batch
    }

    /// Takes what was read.
    fn take(&mut self, batch: Batch) {
        for (id, is_new, reading) in batch {
            let Some(reading) = reading else {
                let gone = self.rows.remove(&id).and_then(|row| row.total);
                if let Some(total) = gone.and_then(|at| self.totals.get_mut(at)) {
                    // Who comes in its place waits anew.
                    total.waits.begin();
                }
                continue;
            };
            match self.rows.get_mut(&id) {
                Some(row) => (row.reading, row.is_read, row.is_fresh) = (reading, true, true),
                None => {
                    let zero = Reading {
                        cpu: Some(0),
                        throttled: Some(0),
                        oom_kills: Some(0),
                        waits: [Some(0); 4],
                        ..Reading::default()
                    };
                    let added = if is_new { zero } else { reading.clone() };
                    self.rows.insert(
                        id,
                        Row {
                            total: None,
                            is_read: true,
                            is_fresh: true,
                            reading,
                            added,
                        },
                    );
                }
            }
        }
    }

    /// Names those that have no name yet, or another one than before: what they use from then on is that one's.
    fn name(&mut self, context: &mut Context<'_>) {
        for (id, row) in self.rows.iter_mut().filter(|(_, row)| row.is_read) {
            let key = SubjectKey {
                cgroup: *id,
                tgid: 0,
                start: 0,
                netns: 0,
            };
            let subject = context.identity.subject(&key, &[0; 16]);
            if subject.fixed || context.last {
                let start = context.series_start;
                let place = self.totals.place(Some(subject.name()), context.now, |other| {
                    let name = if other {
                        Name::plain("other")
                    } else {
                        subject.name()
                    };
                    Total::new(name, other, start)
                });
                row.total = Some(place);
                row.is_read = false;
            }
        }
    }

    /// Adds all up.
    fn add(&mut self, now: Instant) {
        for total in self.totals.iter_mut() {
            total.uses = Uses::default();
            total.cores = None;
        }
        for (id, row) in &mut self.rows {
            let Some(total) = row.total.and_then(|at| self.totals.get_mut(at)) else {
                continue;
            };
            total.add(&row.reading, &row.added);
            if std::mem::take(&mut row.is_fresh) {
                total.waits.add(*id, &row.reading, &row.added);
            }
            row.added = row.reading.clone();
        }
        let used: Vec<usize> = self.rows.values().filter_map(|row| row.total).collect();
        self.totals.end(now, used);
    }
}

impl Total {
    fn new(name: Name, other: bool, start: u64) -> Self {
        let labels =
            |declared, values: &[&str]| Arc::new(Labels::of(declared, values, &name.further, other, start));
        Self {
            resources: BTreeMap::new(),
            wait_labels: WAITS
                .map(|(resource, kind)| labels(PRESSURE.labels, &[&name.label, resource, kind])),
            plain: labels(CPU.labels, &[&name.label]),
            name,
            start,
            uses: Uses::default(),
            cores: None,
            cpu: None,
            throttled: None,
            oom_kills: None,
            waits: Waits::default(),
        }
    }

    fn add(&mut self, now: &Reading, before: &Reading) {
        for (resource, uses) in [("memory", &now.memory), ("tasks", &now.tasks)] {
            for (used, limit) in uses {
                self.uses.add(resource, *used, *limit);
            }
        }
        if let Some((used, limit)) = now.files {
            self.uses.add("file_descriptors", used, Some(limit));
        }
        if let Some(cores) = now.cores {
            *self.cores.get_or_insert(0.0) += cores;
        }
        let counters = [
            (&mut self.cpu, now.cpu, before.cpu),
            (&mut self.throttled, now.throttled, before.throttled),
            (&mut self.oom_kills, now.oom_kills, before.oom_kills),
        ];
        for (total, now, before) in counters {
            // What is not told is not 0.
            if now.is_some() {
                *total = Some(total.unwrap_or(0) + grown(now, before));
            }
        }
    }

    fn labels(&mut self, resource: &'static str) -> Arc<Labels> {
        let (name, start, other) = (&self.name, self.start, self.plain.overflow);
        let values = [name.label.as_str(), resource];
        let make = || Arc::new(Labels::of(SUBJECT_RESOURCE, &values, &name.further, other, start));
        self.resources.entry(resource).or_insert_with(make).clone()
    }
}

impl Probe for Cgroup {
    fn name(&self) -> &'static str {
        "cgroup"
    }

    fn attach(&mut self, context: &mut Context<'_>) -> Result<()> {
        if context.source.past().is_none() && self.root.is_none() {
            tracing::info!(
                "probe cgroup: no cgroup2 is mounted: what subjects may use and wait for is not known"
            );
        }
        Ok(())
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        let source = context.source.clone();
        let (now, last) = (context.now, context.last);
        let batch = source.ask(FACT, || self.live(now, last));
        self.take(batch.unwrap_or_default());
        self.name(context);
        self.add(now);
    }

    fn collect(&mut self, out: &mut Vec<Family>) {
        let mut families: [Vec<Series>; 6] = Default::default();
        let [used, limits, cpu, throttled, oom_kills, pressure] = &mut families;
        let series = |labels: Arc<Labels>, value: Value| Series { labels, value };
        let seconds = |micros: u64| Value::CounterF(micros as f64 / 1e6);
        for total in self.totals.iter_mut() {
            let uses: Vec<_> = total.uses.iter().collect();
            for (resource, value, limit) in uses {
                let labels = total.labels(resource);
                used.push(series(labels.clone(), Value::Gauge(value)));
                limits.extend(limit.map(|limit| series(labels, Value::Gauge(limit))));
            }
            if let Some(cores) = total.cores {
                limits.push(series(total.labels("cpu"), Value::Gauge(cores)));
            }
            // What never happened has no series: of hundreds of units most never wait.
            let happened = |micros: Option<u64>| micros.filter(|micros| *micros > 0).map(seconds);
            let plain = &total.plain;
            cpu.extend(total.cpu.map(|n| series(plain.clone(), seconds(n))));
            throttled.extend(happened(total.throttled).map(|n| series(plain.clone(), n)));
            // A kill is to be seen in the rate: there is a nought before it.
            oom_kills.extend(total.oom_kills.map(|n| series(plain.clone(), Value::Counter(n))));
            for (labels, micros) in total.wait_labels.iter().zip(total.waits.micros) {
                pressure.extend(happened(micros).map(|n| series(labels.clone(), n)));
            }
        }
        for (metric, series) in METRICS.iter().zip(families) {
            out.push(Family { metric, series });
        }
    }
}
