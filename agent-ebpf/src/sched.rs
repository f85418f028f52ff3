//! Probe `sched`: CPU time, switches and waits for a CPU of every subject. See agent/src/probes/sched.rs for what it exports.
//!
//! The kernel counts all of it by thread already; here it is only added up. A thread is looked at when it leaves its CPU:
//! what its counters have grown by since then is its subject's.

use crate::account::{self, add, bump, bump_own, exchange};
use crate::histogram;
use crate::kernel::{self, Ptr};
use crate::settings::SHARD_MASK;
use agent_common::account::{Account, program, reason};
use agent_common::sched::{KERNEL, SLOT_OTHER, SchedCells, SchedSubject, THREAD_BYTES, counter};
use agent_common::tcp::SubjectKey;
use aya_ebpf::{
    helpers::bpf_get_smp_processor_id,
    macros::{btf_tracepoint, map},
    maps::{Array, HashMap, Queue},
    programs::BtfTracePointContext,
};
use core::ffi::c_void;

const MMAPABLE: u32 = 1 << 10;
const NOEXIST: u64 = 1;
/// The thread has run for the last time.
const TASK_DEAD: u64 = 0x80;
const PF_KTHREAD: u32 = 0x0020_0000;

/// What has been counted of a thread.
#[repr(C)]
struct Thread {
    /// Its `css_set`: another one, another cgroup.
    cgroups: u64,
    /// Of the row, when the thread was given it.
    generation: u64,
    exec: u64,
    delay: u64,
    arrivals: u64,
    voluntary: u64,
    involuntary: u64,
    slot: u64,
}

const _: () = assert!(size_of::<Thread>() == THREAD_BYTES);

/// Threads by the address of their `task_struct`, which stays what it is through an exec. Preallocated: the lock of the
/// run queue is held here, so nothing may allocate.
#[map]
static SCHED_THREADS: HashMap<u64, Thread> = HashMap::with_max_entries(1, 0);

/// Subject → row.
#[map]
static SCHED_SUBJECTS: HashMap<SubjectKey, SchedSubject> = HashMap::with_max_entries(1, 0);

/// Rows that are free. Userspace fills it and gives back those of subjects that are gone.
#[map]
static SCHED_FREE: Queue<u32> = Queue::with_max_entries(1, 0);

/// Row `slot * shards + (cpu & SHARD_MASK)`.
#[map]
static SCHED_CELLS: Array<SchedCells> = Array::with_max_entries(1, MMAPABLE);

/// Since when threads are counted, ns since boot: what older ones had before is not ours.
#[map]
static SCHED_SINCE: Array<u64> = Array::with_max_entries(1, MMAPABLE);

/// A thread leaves its CPU. Interrupts are off: nothing else of this CPU counts in this program's account.
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let Some(account) = account::of(program::SCHED_SWITCH) else {
        return 0;
    };
    bump_own(&mut account.seen);
    let task: Ptr = ctx.arg(1);
    if kernel::task_tid(task) == 0 {
        // The CPU was idle.
        bump_own(&mut account.filtered);
        return 0;
    }
    let key = task as u64;
    let Some(thread) = thread(task, key, true) else {
        bump_own(&mut account.dropped[reason::MAP_FULL]);
        return 0;
    };
    match row(account, task, thread) {
        Some(cells) => {
            count(cells, task, thread);
            bump_own(&mut account.aggregated);
        }
        None => bump_own(&mut account.dropped[reason::MAP_FULL]),
    }
    if ctx.arg::<u64>(3) & TASK_DEAD != 0 {
        forget(task, key);
    }
    0
}

/// All threads: those that run have used time that no switch tells of yet. At the start, what each has used before.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub fn sched_sweep(ctx: *mut c_void) -> i32 {
    // SAFETY: the verifier checks iterator contexts at constant offsets.
    let task = unsafe { ctx.cast::<Ptr>().add(1).read_volatile() };
    if task.is_null() {
        return 0;
    }
    let Some(account) = account::of(program::SCHED_SWEEP) else {
        return 0;
    };
    bump(&mut account.seen);
    // One that has ended never leaves a CPU again, so nobody would forget it.
    if kernel::task_tid(task) == 0 || kernel::task_exit(task) != 0 {
        bump(&mut account.filtered);
        return 0;
    }
    let Some(thread) = thread(task, task as u64, false) else {
        bump(&mut account.filtered);
        return 0;
    };
    if kernel::task_on_cpu(task) == 0 {
        bump(&mut account.filtered);
        return 0;
    }
    match row(account, task, thread) {
        Some(cells) => {
            run_time(cells, task, thread);
            bump(&mut account.aggregated);
        }
        None => bump(&mut account.dropped[reason::MAP_FULL]),
    }
    0
}

/// What is known of a thread; of a new one that it has done nothing yet, or, if it is older than the probe, that all it has
/// done is known. Those that began later are left to [`sched_switch`].
#[inline(always)]
fn thread(task: Ptr, key: u64, young: bool) -> Option<&'static mut Thread> {
    let find = || {
        SCHED_THREADS.get_ptr_mut(key).map(|thread| {
            // SAFETY: valid for the program's run. A thread leaves one CPU at a time; what the sweep shares is exchanged.
            unsafe { &mut *thread }
        })
    };
    if let Some(thread) = find() {
        return Some(thread);
    }
    let since = SCHED_SINCE.get(0).copied().unwrap_or(0);
    let mut new = Thread {
        cgroups: 0,
        generation: 0,
        exec: 0,
        delay: 0,
        arrivals: 0,
        voluntary: 0,
        involuntary: 0,
        slot: SLOT_OTHER as u64,
    };
    if kernel::task_born(task) < since {
        new.exec = kernel::task_exec(task);
        new.delay = kernel::task_delay(task);
        new.arrivals = kernel::task_arrivals(task);
        new.voluntary = kernel::task_voluntary(task);
        new.involuntary = kernel::task_involuntary(task);
    } else if !young {
        return None;
    }
    // Another CPU may be first.
    let _ = SCHED_THREADS.insert(key, new, NOEXIST);
    find()
}

/// The row of a thread's subject; another one than last time if it has changed its cgroup, or if the row has changed hands.
#[inline(always)]
fn row(account: &mut Account, task: Ptr, thread: &mut Thread) -> Option<&'static mut SchedCells> {
    let set = kernel::task_cgroups(task);
    let row = cells(thread.slot as u32)?;
    if thread.cgroups == set as u64 && thread.generation == row.generation {
        return Some(row);
    }
    let slot = slot(account, task, set);
    let row = cells(slot)?;
    thread.cgroups = set as u64;
    thread.generation = row.generation;
    thread.slot = slot as u64;
    Some(row)
}

#[inline(always)]
fn cells(slot: u32) -> Option<&'static mut SchedCells> {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    let mask = SHARD_MASK.load();
    SCHED_CELLS
        .get_ptr_mut(slot * (mask + 1) + (cpu & mask))
        .map(|p| {
            // SAFETY: valid for the program's run; counters are only added to atomically.
            unsafe { &mut *p }
        })
}

#[inline(always)]
fn count(cells: &mut SchedCells, task: Ptr, thread: &mut Thread) {
    run_time(cells, task, thread);
    let grown = |now: u64, last: &mut u64| {
        let grown = now.wrapping_sub(*last);
        *last = now;
        grown
    };
    let voluntary = grown(kernel::task_voluntary(task), &mut thread.voluntary);
    if voluntary != 0 {
        add(&mut cells.counters[counter::VOLUNTARY], voluntary);
    }
    let involuntary = grown(kernel::task_involuntary(task), &mut thread.involuntary);
    if involuntary != 0 {
        add(&mut cells.counters[counter::INVOLUNTARY], involuntary);
    }
    let delay = grown(kernel::task_delay(task), &mut thread.delay);
    // Of several waits only the sum would be known: that happens where the probe was away for a while.
    if grown(kernel::task_arrivals(task), &mut thread.arrivals) == 1 {
        let micros = (delay + 500) / 1000;
        let micros = if micros > u32::MAX as u64 {
            u32::MAX
        } else {
            micros as u32
        };
        histogram::record(&mut cells.wait, micros);
    }
}

/// Two that add at once share the growth between them; see [`exchange`].
#[inline(always)]
fn run_time(cells: &mut SchedCells, task: Ptr, thread: &mut Thread) {
    let now = kernel::task_exec(task);
    let last = exchange(&mut thread.exec, now);
    add(&mut cells.counters[counter::CPU], now.wrapping_sub(last));
}

/// Whose thread it is: its cgroup's, where cgroups say nothing its process's; all of the kernel's are one.
#[inline(always)]
fn subject(task: Ptr, set: Ptr) -> SubjectKey {
    if kernel::task_flags(task) & PF_KTHREAD != 0 {
        return KERNEL;
    }
    let cgroup = kernel::css_cgroup(set);
    if cgroup > 1 {
        return SubjectKey {
            cgroup,
            ..SubjectKey::NOBODY
        };
    }
    SubjectKey {
        cgroup,
        start: kernel::task_start(task),
        tgid: kernel::task_tgid(task),
        netns: 0,
    }
}

/// The row of a subject, a new one if need be, [`SLOT_OTHER`] if there is none left.
#[inline(always)]
fn slot(account: &mut Account, task: Ptr, set: Ptr) -> u32 {
    let key = subject(task, set);
    if let Some(known) = SCHED_SUBJECTS.get_ptr(key) {
        // SAFETY: valid for the program's run; `slot` never changes once written.
        return unsafe { (*known).slot };
    }
    let Ok(Some(free)) = SCHED_FREE.pop() else {
        bump(&mut account.overflowed);
        return SLOT_OTHER;
    };
    let new = SchedSubject {
        slot: free,
        pad: 0,
        comm: kernel::task_comm(task),
    };
    if SCHED_SUBJECTS.insert(key, new, NOEXIST).is_ok() {
        return free;
    }
    // Another CPU was first, or the table is full: the row goes back.
    let _ = SCHED_FREE.push(free, 0);
    if let Some(known) = SCHED_SUBJECTS.get_ptr(key) {
        // SAFETY: as above.
        return unsafe { (*known).slot };
    }
    bump(&mut account.overflowed);
    SLOT_OTHER
}

/// The thread has ended. A process that is gone before anybody asks for its name had it from its parent until its exec.
#[inline(always)]
fn forget(task: Ptr, key: u64) {
    let _ = SCHED_THREADS.remove(key);
    if kernel::task_tid(task) != kernel::task_tgid(task) {
        return;
    }
    let subject = subject(task, kernel::task_cgroups(task));
    if subject.tgid != 0
        && let Some(known) = SCHED_SUBJECTS.get_ptr_mut(subject)
    {
        // SAFETY: valid for the program's run; whoever reads half a name reads it again.
        unsafe { (*known).comm = kernel::task_comm(task) };
    }
}
