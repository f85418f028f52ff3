//! Probe `sched`: who runs, who waits for a CPU, who gives it up.
//!
//! | program | hook | gives |
//! |---|---|---|
//! | `sched_switch` | tp_btf/sched_switch | all of it, as a thread leaves its CPU |
//! | `sched_sweep` | iter/task | the CPU time of threads that have not left it yet |
//!
//! The kernel counts by thread (`/proc/PID/schedstat`, `status`); what a thread's counters have grown by is added to its
//! subject's row. Waits are the kernel's `run_delay`, so no wake-up is looked at.

use super::slots::Reading;
use super::totals::{OTHER, Totals};
use super::{Context, Fill, Probe, entries, relieve_packets};
use crate::aggregate::{Family, HistogramValue, Kind, Labels, Metric, Series, Stability, Value, label};
use crate::bpf::KernelMap;
use crate::bpf::fields::Group;
use crate::bpf::sys::MappedArray;
use crate::bpf::{Hook, Sizes, Spec, State};
use crate::error::{Context as _, Result};
use crate::governor::MAX_LEVEL;
use crate::identity::Name;
use agent_common::account::program;
use agent_common::histogram::Histogram;
use agent_common::sched::{KERNEL, SLOT_OTHER, SLOTS, SchedCells, SchedSubject, THREAD_BYTES, counter};
use agent_common::tcp::SubjectKey;
use agent_common::wire::Wire as _;
use nix::time::{ClockId, clock_gettime};
use std::mem::offset_of;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rows of processes are given back after this many ticks without a switch: most of them are gone.
const IDLE: u32 = 60;
/// As [`IDLE`], for a cgroup: they come and go more slowly.
const CGROUP_IDLE: u32 = 600;
/// The walk over all threads takes this share of the time at most, as 1 in n.
const SWEEP_SHARE: u32 = 300;

static PROGRAMS: [Spec; 2] = [
    Spec {
        name: "sched_sweep",
        probe: "sched",
        account: program::SCHED_SWEEP,
        hook: Hook::IterTasks,
        needs: &[Group::Task, Group::Sched],
        required: false,
        remedy: "without it the CPU time of a thread comes when it leaves its CPU, and that of before the agent is counted once",
    },
    Spec {
        name: "sched_switch",
        probe: "sched",
        account: program::SCHED_SWITCH,
        hook: Hook::TpBtf("sched_switch"),
        needs: &[Group::Task, Group::Sched],
        required: true,
        remedy: "needs BTF and a kernel with CONFIG_SCHEDSTATS or CONFIG_TASK_DELAY_ACCT",
    },
];

/// Waits.
pub static RUNQUEUE: Metric = Metric {
    name: "geophone_sched_runqueue_seconds",
    otlp: "geophone.sched.runqueue.time",
    unit: "s",
    kind: Kind::Histogram,
    help: "From when a thread could have run until it did; told when it leaves the CPU again",
    labels: &[&label::SUBJECT],
    stability: Stability::Experimental,
};
/// Switches.
pub static SWITCHES: Metric = Metric {
    name: "geophone_sched_switches_total",
    otlp: "geophone.sched.switches",
    unit: "{switch}",
    kind: Kind::Counter,
    help: "Times that a thread left its CPU: voluntary = it waits for something, involuntary = another one's turn has come",
    labels: &[&label::SUBJECT, &label::SWITCH],
    stability: Stability::Experimental,
};
/// CPU time.
pub static CPU: Metric = Metric {
    name: "geophone_sched_cpu_seconds_total",
    otlp: "geophone.sched.cpu.time",
    unit: "s",
    kind: Kind::Counter,
    help: "Time that threads were on a CPU, user and kernel together",
    labels: &[&label::SUBJECT],
    stability: Stability::Experimental,
};

/// All of them.
pub const METRICS: &[&Metric] = &[&RUNQUEUE, &SWITCHES, &CPU];

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most series; what is beyond goes to `other`.
    pub max_series: usize,
}

/// A row of the kernel's, as last read.
struct Row {
    /// Whose it is; `None` = nobody's, or `other`.
    key: Option<SubjectKey>,
    total: usize,
    counters: [u64; counter::COUNT],
    wait: Reading,
    idle: u32,
}

struct Total {
    labels: Arc<Labels>,
    switches: [Arc<Labels>; 2],
    counters: [u64; counter::COUNT],
    wait: Arc<HistogramValue>,
}

struct Maps {
    subjects: KernelMap,
    threads: KernelMap,
    free: KernelMap,
    cells: MappedArray,
    since: MappedArray,
    shards: usize,
}

/// The probe.
pub struct Sched {
    maps: Option<Maps>,
    rows: Vec<Row>,
    /// Rows that nobody can find any more; handed out a tick later, when whoever had just found one is done.
    retired: Vec<usize>,
    totals: Totals<Name, Total>,
    next_sweep: Instant,
    suspended: bool,
}

fn since_boot() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

fn encoded(key: &SubjectKey) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SubjectKey::SIZE);
    key.encode(&mut bytes);
    bytes
}

impl Sched {
    /// A probe that is not attached yet.
    pub fn new(options: Options) -> Self {
        let row = || Row {
            key: None,
            total: OTHER,
            counters: [0; counter::COUNT],
            wait: Reading::new(),
            idle: 0,
        };
        Self {
            maps: None,
            rows: std::iter::repeat_with(row).take(SLOTS as usize).collect(),
            retired: Vec::new(),
            // Four of each, a histogram among them.
            totals: Totals::new((options.max_series / 4).saturating_sub(1)),
            next_sweep: Instant::now(),
            suspended: false,
        }
    }

    /// The series of a subject; `None` is `other`.
    fn total(&mut self, name: Option<Name>, context: &Context<'_>) -> usize {
        self.totals.place(name.clone(), context.now, |other| {
            let Name { label: name, further } =
                name.filter(|_| !other).unwrap_or_else(|| Name::plain("other"));
            let labels = |declared, values: &[&str]| {
                let start = context.series_start;
                Arc::new(Labels::of(declared, values, &further, other, start))
            };
            Total {
                labels: labels(CPU.labels, &[&name]),
                switches: ["voluntary", "involuntary"].map(|kind| labels(SWITCHES.labels, &[&name, kind])),
                counters: [0; counter::COUNT],
                wait: Arc::default(),
            }
        })
    }

    /// Learns whose the rows are. One whose owner has no final name yet is not read: what it counts waits in the kernel.
    fn refresh(&mut self, context: &mut Context<'_>) -> Result<()> {
        let Some(maps) = &self.maps else { return Ok(()) };
        for gone in maps.subjects.vanished::<SubjectKey>() {
            if let Some(row) = self.rows.iter_mut().find(|row| row.key == Some(gone)) {
                row.key = None;
            }
        }
        for (key, value) in entries::<SubjectKey, SchedSubject>(&maps.subjects)? {
            let slot = value.slot as usize;
            if self.rows.get(slot).is_none_or(|row| row.key == Some(key)) {
                continue;
            }
            let name = if key == KERNEL {
                Name::plain("kernel")
            } else {
                // What the kernel says is the name before an exec, unless the process has ended.
                let mut subject = context.identity.subject(&key, &[0; 16]);
                if subject.process.is_empty() {
                    subject = context.identity.subject(&key, &value.comm);
                }
                if !subject.fixed && !context.last {
                    continue;
                }
                subject.name()
            };
            let total = self.total(Some(name), context);
            if let Some(row) = self.rows.get_mut(slot) {
                row.key = Some(key);
                row.total = total;
                row.idle = 0;
            }
        }
        Ok(())
    }

    /// Adds what is new of all rows that are somebody's.
    fn read(&mut self) {
        let Some(maps) = &self.maps else { return };
        for (slot, row) in self.rows.iter_mut().enumerate() {
            if row.key.is_none() && slot != SLOT_OTHER as usize {
                continue;
            }
            let Some(total) = self.totals.get_mut(row.total) else {
                continue;
            };
            let rows = slot * maps.shards..(slot + 1) * maps.shards;
            let mut changed = false;
            for (i, (last, total)) in row.counters.iter_mut().zip(&mut total.counters).enumerate() {
                let at = offset_of!(SchedCells, counters) + 8 * i;
                let now = rows
                    .clone()
                    .fold(0u64, |sum, row| sum.wrapping_add(maps.cells.u64_at(row, at)));
                // Two that add a thread's time at once may be seen half done: the rest comes with the next reading.
                let grown = now.wrapping_sub(*last);
                if grown != 0 && grown < u64::MAX / 2 {
                    *total += grown;
                    *last = now;
                    changed = true;
                }
            }
            changed |= row
                .wait
                .read(&maps.cells, rows, offset_of!(SchedCells, wait), &mut total.wait);
            row.idle = if changed { 0 } else { row.idle.saturating_add(1) };
        }
    }

    /// Gives rows back whose subjects have been still. One that moves again finds itself another.
    fn recycle(&mut self, now: Instant) {
        let Some(maps) = &mut self.maps else { return };
        let retired = std::mem::take(&mut self.retired);
        if !retired.is_empty() {
            // Those in `other` may look again.
            advance(maps, SLOT_OTHER as usize);
        }
        for slot in retired {
            advance(maps, slot);
            let extremes = offset_of!(SchedCells, wait) + offset_of!(Histogram, min_complement);
            for row in slot * maps.shards..(slot + 1) * maps.shards {
                maps.cells.set_u64(row, extremes, 0);
            }
            if let Err(e) = maps.free.push(slot as u32) {
                tracing::warn!("probe sched: row {slot} is lost: {e}");
            }
            if let Some(row) = self.rows.get_mut(slot) {
                row.key = None;
            }
        }
        for (slot, row) in self.rows.iter().enumerate() {
            let Some(key) = row.key else { continue };
            let patience = if key.tgid == 0 { CGROUP_IDLE } else { IDLE };
            if row.idle >= patience && maps.subjects.remove(&encoded(&key)).is_ok() {
                self.retired.push(slot);
            }
        }
        let used = self.rows.iter().filter(|row| row.key.is_some());
        self.totals.end(now, used.map(|row| row.total));
    }

    /// The walk over all threads: at the start, and at each tick unless there are too many.
    fn sweep(&mut self, context: &mut Context<'_>) {
        let Some(engine) = context.engine.as_deref_mut() else {
            return;
        };
        if context.now < self.next_sweep && !context.last || self.suspended {
            return;
        }
        let start = Instant::now();
        let _ = engine.run_iterator(PROGRAMS[0].name);
        let pause = start.elapsed() * SWEEP_SHARE;
        // A tick is never exactly a second after the last.
        self.next_sweep = start + pause.saturating_sub(Duration::from_millis(500));
    }
}

/// Has all threads look anew for the row that they had.
fn advance(maps: &Maps, slot: usize) {
    for row in slot * maps.shards..(slot + 1) * maps.shards {
        let at = offset_of!(SchedCells, generation);
        maps.cells.set_u64(row, at, maps.cells.u64_at(row, at) + 1);
    }
}

impl Probe for Sched {
    fn name(&self) -> &'static str {
        "sched"
    }

    fn accounts(&self) -> &'static [usize] {
        &[program::SCHED_SWITCH, program::SCHED_SWEEP]
    }

    fn attach(&mut self, context: &mut Context<'_>) -> Result<()> {
        self.total(None, context);
        let Some(engine) = context.engine.as_deref_mut() else {
            return Ok(());
        };
        let shards = engine.sizes.shards as usize;
        let free = engine.take_data("SCHED_FREE")?;
        for slot in SLOT_OTHER + 1..SLOTS {
            free.push(slot).context("map SCHED_FREE")?;
        }
        // Loading needs the maps' descriptors: this one goes when all is attached.
        let since = engine.take_array("SCHED_SINCE", 8, 1)?;
        since.set_u64(0, 0, since_boot());
        let states = PROGRAMS.each_ref().map(|spec| engine.attach(spec));
        if states.contains(&State::Attached) {
            // What has run before is known before it is counted.
            let _ = engine.run_iterator(PROGRAMS[0].name);
        }
        self.maps = Some(Maps {
            subjects: engine.take_data("SCHED_SUBJECTS")?,
            threads: engine.take_data("SCHED_THREADS")?,
            free,
            cells: engine.take_array("SCHED_CELLS", size_of::<SchedCells>(), SLOTS as usize * shards)?,
            since,
            shards,
        });
        Ok(())
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        self.sweep(context);
        if let Err(e) = self.refresh(context) {
            tracing::warn!("probe sched: {e}");
        }
        self.read();
        self.recycle(context.now);
    }

    fn relieve(&mut self, level: u32, context: &mut Context<'_>) {
        let back = self.suspended && level < MAX_LEVEL;
        if let (true, Some(maps)) = (back, &self.maps) {
            // Nobody has seen who ended meanwhile: what was known of threads is forgotten, and all begin anew.
            maps.since.set_u64(0, 0, since_boot());
            if let Err(e) = maps.threads.clear(8, THREAD_BYTES) {
                tracing::warn!("probe sched: {e}");
            }
        }
        let away = relieve_packets(level, &PROGRAMS[1..], context);
        self.suspended = away || self.suspended && !back;
        if let (true, Some(engine)) = (back, context.engine.as_deref_mut()) {
            let _ = engine.run_iterator(PROGRAMS[0].name);
        }
    }

    fn fill(&self, _sizes: &Sizes) -> Vec<Fill> {
        vec![Fill {
            map: "SCHED_SUBJECTS",
            used: self.rows.iter().filter(|row| row.key.is_some()).count(),
            most: SLOTS as usize - 1,
        }]
    }

    fn collect(&mut self, out: &mut Vec<Family>) {
        let (mut wait, mut switches, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
        for total in self.totals.iter() {
            let [nanos, voluntary, involuntary] = total.counters;
            wait.push(Series {
                labels: total.labels.clone(),
                value: Value::Histogram(total.wait.clone()),
            });
            for (labels, n) in total.switches.iter().zip([voluntary, involuntary]) {
                switches.push(Series {
                    labels: labels.clone(),
                    value: Value::Counter(n),
                });
            }
            cpu.push(Series {
                labels: total.labels.clone(),
                value: Value::CounterF(nanos as f64 / 1e9),
            });
        }
        for (metric, series) in [(&RUNQUEUE, wait), (&SWITCHES, switches), (&CPU, cpu)] {
            out.push(Family { metric, series });
        }
    }
}
