//! Probe `profile`: where the time goes.
//!
//! | program | hook | gives |
//! |---|---|---|
//! | `profile_cpu` | perf_event/cpu-clock of each CPU | kernel and user stack of what runs |
//! | `profile_drop` | tp_btf/kfree_skb | stacks of packets that are dropped |
//! | `profile_retransmit` | tp_btf/tcp_retransmit_skb | stacks of segments that are sent again |
//! | `profile_fault` | perf_event/page-faults of each CPU | stacks at every so many page faults |
//! | `profile_block`, `_issue`, `_done` | tp_btf/block_io_start (before 6.5 block_rq_issue), block_rq_complete | who asks for disk I/O, and how long it takes |
//! | `profile_off`, `profile_on` | tp_btf/sched_switch, sched_exit_tp; before 6.15 kprobe/finish_task_switch | stack of what was off its CPU |
//! | `profile_waker` | tp_btf/sched_waking | stack of who ended a wait |
//! | `profile_lock_begin`, `_end` | tp_btf/contention_begin, _end | stack of what waited for a lock of the kernel |
//! | `profile_exec` | tp_btf/sched_process_exec | the mappings of a process are void |
//! | `profile_exit` | tp_btf/sched_process_exit | so are those of one that has ended |
//!
//! Records are only decoded here; what is done with them is in `stacks/`.

mod counted;
mod label;
mod metrics;
mod specs;
mod told;
mod waits;

pub use metrics::METRICS;

use super::{Context, Probe};
use crate::aggregate::Family;
use crate::aggregate::labels::text;
use crate::bpf::shards::Shards;
use crate::bpf::sys::MappedArray;
use crate::bpf::{State, clock, host};
use crate::error::Result;
use crate::record::Source;
use crate::records::Record;
use crate::stacks::loader::{self, Loader, Maps};
use crate::stacks::names;
use crate::stacks::python::{Lost, layouts::Layouts};
use crate::stacks::store::Who;
use crate::stacks::tap::Tap;
use crate::stacks::worker::{self, Feed, Message, Sample};
use crate::stacks::{Kinds, Stacks};
use agent_common::account::program;
use agent_common::profile::{Range, StackHead, end, python, sample, thinned_from};
use agent_common::wire::{Wire as _, kind};
use counted::Counted;
use label::Labeller;
use metrics::{
    BINARIES, CPUS, LOOKED, LOST, NAME_FAILURES, OPEN_FILES, PROCESSES, PYTHON_LOST, PYTHON_STACKS, ROWS,
    SAMPLES, STACKS, STORE_BYTES, SYMBOLIZER_FAILURES, TABLE_BYTES, TABLE_FAILURES, TABLES,
};
use specs::{BLOCK, CPU, EXEC, EXIT, MORE};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use told::Told;
use waits::Waits;

/// So long the end of a recording waits for the last samples, and for their names.
const LAST: Duration = Duration::from_secs(10);
/// The setting of probe `profile` that has each kind of sample taken.
pub const SETTINGS: [&str; sample::COUNT] = [
    "hz",
    "off_cpu",
    "locks",
    "faults",
    "block_io",
    "drops",
    "retransmits",
];

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Stacks per second and CPU.
    pub hz: u32,
    /// Page faults that are one sample.
    pub fault_period: u64,
    /// Bytes for the samples.
    pub store_bytes: usize,
    /// What is sampled.
    pub kinds: Kinds,
    /// Shorter times off a CPU are not told.
    pub off_cpu_threshold: Duration,
    /// Whether those who end a wait are told with it.
    pub waker: bool,
    /// Shorter waits for locks are not told.
    pub lock_threshold: Duration,
    /// Where functions get their names.
    pub names: names::Options,
}

/// The probe.
pub struct Profile {
    options: Options,
    stacks: Option<Arc<Stacks>>,
    worker: Option<Feed>,
    attached: bool,
    waits: Option<Waits>,
    /// Events of each kind and CPU in this second, and how many rows that is.
    events: Option<(MappedArray, usize)>,
    labeller: Labeller,
    level: u32,
    hz: u32,
    cpus: usize,
    /// What is exported, as it was at the latest tick.
    counted: Counted,
    told: Told,
}

impl Profile {
    /// A probe that is not attached yet.
    pub fn new(options: Options) -> Self {
        Self {
            hz: options.hz,
            options,
            stacks: None,
            worker: None,
            attached: false,
            waits: None,
            events: None,
            labeller: Labeller::default(),
            level: 0,
            cpus: 0,
            counted: Counted::default(),
            told: Told::default(),
        }
    }
}

impl Profile {
    /// Brings what is exported up to date.
    fn count(&mut self, source: &Source) {
        if let Some(stacks) = &self.stacks
            && source.past().is_none()
        {
            self.counted.update(stacks);
        }
        self.counted.cpus = self.cpus;
        if let Some(counted) = source.ask("profile", || self.counted.clone()) {
            self.counted = counted;
        }
    }

    /// Gives a stack to the thread that makes places of addresses.
    fn hand_on(&mut self, sample: Sample) {
        let (Some(worker), Some(stacks)) = (&self.worker, &self.stacks) else {
            return;
        };
        match worker.try_send(Message::Sample(Box::new(sample))) {
            Ok(()) => {
                stacks.counts.given.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => self.counted.backlog += 1,
        }
    }
}

impl Probe for Profile {
    fn name(&self) -> &'static str {
        "profile"
    }

    fn accounts(&self) -> &'static [usize] {
        &[
            program::PROFILE_CPU,
            program::PROFILE_EXEC,
            program::PROFILE_EXIT,
            program::PROFILE_DROP,
            program::PROFILE_RETRANSMIT,
            program::PROFILE_FAULT,
            program::PROFILE_BLOCK,
            program::PROFILE_BLOCK_DONE,
            program::PROFILE_OFF,
            program::PROFILE_ON,
            program::PROFILE_WAKER,
            program::PROFILE_LOCK_BEGIN,
            program::PROFILE_LOCK_END,
        ]
    }

    fn kinds(&self) -> &'static [u8] {
        &[kind::STACK]
    }

    fn stacks(&self) -> Option<Arc<Stacks>> {
        self.stacks.clone()
    }

    fn attach(&mut self, context: &mut Context<'_>) -> Result<()> {
        self.told.start = context.series_start;
        let Some(engine) = context.engine.as_deref_mut() else {
            return Ok(());
        };
        let most_open = host::more_files() / 2;
        // Who ends must be forgotten before anybody is known.
        let follows = [&EXEC, &EXIT].map(|spec| engine.attach(spec));
        if follows.iter().any(|state| *state != State::Attached) {
            engine.leave_off(&CPU, "processes that end or become others cannot be followed");
            return Ok(());
        }
        // Loading needs the maps' descriptors, which the loader takes away.
        let kinds = self.options.kinds;
        let is_wanted = |kind: u8| kinds.get(usize::from(kind)) == Some(&true);
        self.attached = is_wanted(sample::CPU) && engine.attach(&CPU) == State::Attached;
        let mut any = self.attached;
        for (_, spec) in MORE.iter().filter(|(kind, _)| is_wanted(*kind)) {
            any |= engine.attach(spec) == State::Attached;
        }
        if is_wanted(sample::BLOCK_IO) {
            any |= BLOCK.iter().any(|spec| engine.attach(spec) == State::Attached);
        }
        self.waits = Waits::attach(engine, &self.options)?;
        if !any && self.waits.is_none() {
            return Ok(());
        }
        let rows = sample::COUNT * engine.cpus as usize;
        self.events = Some((engine.take_array("PROFILE_EVENTS", 8, rows)?, rows));
        if context.source.past().is_some() {
            // It knows what the processes were and what their functions were called.
            self.stacks = Some(Stacks::recorded(
                self.options.store_bytes,
                self.options.kinds,
                context.series_start,
            ));
            return Ok(());
        }
        self.labeller = Labeller::new(engine.drop_reasons.clone());
        let shards = engine.sizes.unwind_shards as usize;
        let maps = Maps {
            processes: engine.take_data("PROCESSES")?,
            ranges: engine.take_array("RANGES", Range::SIZE, loader::RANGES as usize)?,
            shards: Shards::new(engine.take_data("UNWIND_SHARDS")?, shards),
            layouts: Layouts::new(engine.take_data("PYTHON_LAYOUTS")?),
        };
        let stacks = Stacks::start(
            self.options.store_bytes,
            self.options.kinds,
            self.options.names.clone(),
        )?;
        self.worker = Some(worker::start(
            stacks.clone(),
            Loader::new(maps, shards, most_open),
        )?);
        stacks.store().tap = context.source.tape().map(|_| Tap::default());
        self.stacks = Some(stacks);
        if self.attached {
            self.cpus = engine.follow_cpus(CPU.name, clock::period(self.hz));
        }
        Ok(())
    }

    fn record(&mut self, _: u8, bytes: &[u8], context: &mut Context<'_>) -> Option<Option<Record>> {
        let head = bytes.get(..StackHead::SIZE).and_then(StackHead::decode)?;
        let count = usize::from(head.kernel) + 2 * usize::from(head.python) + usize::from(head.user);
        let words = bytes.get(StackHead::SIZE..StackHead::SIZE + count * 8)?;
        let frames = words
            .chunks_exact(8)
            .filter_map(|word| Some(u64::from_ne_bytes(word.try_into().ok()?)))
            .collect();
        let time = head.time.wrapping_add(context.boot_to_unix);
        // It is no sample by itself, and goes where that of the wait will go.
        if head.sample == sample::WAKER {
            let who = Who::default();
            self.hand_on(Sample {
                frames,
                who,
                time,
                head,
            });
            return Some(None);
        }
        let counted = &mut self.counted;
        let by_sample = counted.samples.get_mut(usize::from(head.sample))?;
        let by_end = counted.ends.get_mut(usize::from(head.end))?;
        *counted.python_ends.get_mut(usize::from(head.python_end))? += 1;
        *by_sample += 1;
        *by_end += 1;
        let subject = context.identity.subject(&head.subject, &head.comm);
        let process = match text(&head.comm) {
            // What happens to a packet in a softirq is nobody's process.
            name if name.is_empty() => subject.label.as_str().into(),
            name => name.into(),
        };
        let sample = Sample {
            frames,
            who: Who {
                subject: subject.label.as_str().into(),
                process,
                pid: head.subject.tgid,
                thread: text(&head.thread).into(),
                container: subject.container_id.as_str().into(),
                cgroup: subject.cgroup.as_str().into(),
                sample: head.sample,
                label: self.labeller.label(&head, context.peers).into(),
            },
            time,
            head,
        };
        self.hand_on(sample);
        Some(None)
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        let source = context.source;
        if let Some(engine) = context.engine.as_deref_mut()
            && source.past().is_none()
        {
            if self.attached {
                self.cpus = engine.follow_cpus(CPU.name, clock::period(self.hz));
            }
            engine.follow_cpus("profile_fault", self.options.fault_period << self.level);
        }
        if let Some((events, rows)) = &self.events {
            for row in 0..*rows {
                events.set_u64(row, 0, thinned_from(self.level));
            }
        }
        if context.last
            && let Some(worker) = &self.worker
        {
            let (done, finished) = mpsc::channel();
            if worker.try_send(Message::Sync(done)).is_ok() {
                let _ = finished.recv_timeout(LAST);
            }
        }
        if let Some(stacks) = &self.stacks {
            keep(stacks, source, context.last);
        }
        self.count(source);
    }

    fn relieve(&mut self, level: u32, _: &mut Context<'_>) {
        // Each sample says how long a time it stands for: shares stay true.
        self.level = level.min(10);
        self.hz = (self.options.hz >> self.level).max(1);
        if let Some(waits) = &self.waits {
            waits.limit(&self.options, self.level);
        }
    }

    fn collect(&mut self, out: &mut Vec<Family>) {
        let told = &mut self.told;
        let named = |names: &[&'static str], values: &[u64]| -> Vec<(&'static str, u64)> {
            names.iter().copied().zip(values.iter().copied()).collect()
        };
        let counted = &self.counted;
        let taken: Vec<(&str, u64)> = named(&sample::NAMES, &counted.samples)
            .into_iter()
            .zip(self.options.kinds)
            .filter_map(|(series, is_taken)| is_taken.then_some(series))
            .collect();
        out.push(told.counters(&SAMPLES, &taken));
        out.push(told.counters(&STACKS, &named(&end::NAMES, &counted.ends)));
        let mut ends = named(&python::NAMES, &counted.python_ends);
        ends.remove(usize::from(python::NONE));
        out.push(told.counters(&PYTHON_STACKS, &ends));
        out.push(told.gauge(&CPUS, counted.cpus));
        if self.stacks.is_none() {
            return;
        }
        out.push(told.counters(
            &LOST,
            &[
                ("backlog", counted.backlog),
                ("memory", counted.forgotten),
                ("waker", counted.wakers),
            ],
        ));
        let lost = Lost::ALL.iter().map(|why| why.name()).zip(counted.python);
        out.push(told.counters(&PYTHON_LOST, &lost.collect::<Vec<_>>()));
        let (stats, failures) = (counted.loader, counted.failures);
        out.push(told.gauge(&PROCESSES, stats.processes));
        out.push(told.counters(&LOOKED, &[("", counted.looked)]));
        out.push(told.gauge(&BINARIES, stats.binaries));
        out.push(told.gauge(&OPEN_FILES, stats.open));
        out.push(told.counters(&TABLES, &[("", stats.tables)]));
        out.push(told.counters(
            &TABLE_FAILURES,
            &[("no_room", stats.refused), ("malformed", stats.faulty)],
        ));
        out.push(told.gauge(&ROWS, stats.rows));
        out.push(told.gauge(&TABLE_BYTES, stats.bytes));
        out.push(told.gauge(&STORE_BYTES, counted.store_bytes));
        out.push(told.counters(&SYMBOLIZER_FAILURES, &[("", failures.symbolizer)]));
        out.push(told.counters(
            &NAME_FAILURES,
            &[
                ("perf_map", failures.perf_maps),
                ("perf_map_line", failures.perf_map_lines),
                ("debuginfod", failures.debuginfod),
                ("cache", failures.cache),
            ],
        ));
    }
}

/// Writes down what has come into the store since, or takes it from a recording.
fn keep(stacks: &Stacks, source: &Source, last: bool) {
    match source {
        Source::Kernel => {}
        Source::Recording(tape) => {
            if last {
                // The machine has no time for the thread that takes them.
                tape.left_out(stacks.waiting());
                if tape.listens() {
                    stacks.name_all(LAST);
                }
            }
            let mut store = stacks.store();
            let tapped = store.tap.as_mut().map(Tap::take).unwrap_or_default();
            tape.stacks(&tapped, &store);
        }
        Source::Recorded(past) => {
            let mut store = stacks.store();
            for recalled in past.stacks() {
                recalled.fill(&mut store);
            }
        }
    }
}
