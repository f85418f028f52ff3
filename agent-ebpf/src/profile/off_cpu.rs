//! Stacks of threads that were off their CPU.
//!
//! When a thread leaves its CPU nobody knows for how long, and a stack costs a hundred times the switch. So only the time
//! is noted; the stack is taken when the thread is back, in its own context: it is still where it waited.

use super::{Sample, take};
use crate::account::{self, bump};
use crate::kernel::{self, Ptr};
use agent_common::account::program;
use agent_common::account::reason;
use agent_common::profile::{limit, off, sample};
use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_ktime_get_ns, generated::bpf_get_current_task_btf, generated::bpf_task_pt_regs},
    macros::{btf_tracepoint, kprobe, map},
    maps::{Array, HashMap},
    programs::{BtfTracePointContext, ProbeContext},
};
use core::ffi::c_void;

const MMAPABLE: u32 = 1 << 10;
/// The thread has run for the last time.
const TASK_DEAD: u64 = 0x80;

/// When a thread left its CPU.
#[repr(C)]
pub struct Left {
    /// Monotonic clock, ns; 0 = it is back.
    pub time: u64,
    /// See [`off`].
    pub why: u64,
}

/// Threads by the address of their `task_struct`. Preallocated: the lock of the run queue is held here.
#[map]
pub static PROFILE_OFF: HashMap<u64, Left> = HashMap::with_max_entries(1, 0);

/// Shorter waits are not told, ns; see [`limit`].
#[map]
static PROFILE_LIMITS: Array<u64> = Array::with_max_entries(limit::COUNT, MMAPABLE);

/// The shortest wait of a kind that is told, ns.
#[inline(always)]
pub fn shortest(kind: u32) -> u64 {
    PROFILE_LIMITS.get(kind).copied().unwrap_or(u64::MAX)
}

/// The clock that waits are measured by, ns.
#[inline(always)]
pub fn clock() -> u64 {
    // SAFETY: no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// A thread leaves its CPU.
#[btf_tracepoint(function = "sched_switch")]
pub fn profile_off(ctx: BtfTracePointContext) -> i32 {
    let Some(account) = account::of(program::PROFILE_OFF) else {
        return 0;
    };
    bump(&mut account.seen);
    let task: Ptr = ctx.arg(1);
    let key = task as u64;
    let state: u64 = ctx.arg::<u64>(3) & 0xffff_ffff;
    // Threads of the kernel wait for work, and nobody wants to know how long.
    if kernel::is_kernel_thread(task) || state & TASK_DEAD != 0 {
        if state & TASK_DEAD != 0 {
            let _ = PROFILE_OFF.remove(key);
        }
        bump(&mut account.filtered);
        return 0;
    }
    let preempted = ctx.arg::<u64>(0) & 0xff != 0 || state == 0;
    let left = Left {
        time: clock(),
        why: if preempted { off::PREEMPTED } else { off::BLOCKED },
    };
    if let Some(known) = PROFILE_OFF.get_ptr_mut(key) {
        // SAFETY: valid for the program's run; a thread is in one place at a time.
        unsafe { *known = left };
    } else if PROFILE_OFF.insert(key, left, 0).is_err() {
        bump(&mut account.dropped[reason::MAP_FULL]);
        return 0;
    }
    bump(&mut account.aggregated);
    0
}

/// The end of `__schedule`, in the context of whoever runs now. Since 6.15.
#[btf_tracepoint(function = "sched_exit_tp")]
pub fn profile_on(ctx: BtfTracePointContext) -> i32 {
    back(ctx.as_ptr());
    0
}

/// Before there was such a tracepoint: what the new thread does first.
#[kprobe]
pub fn profile_on_kprobe(ctx: ProbeContext) -> u32 {
    back(ctx.as_ptr());
    0
}

#[inline(always)]
fn back(context: *mut c_void) {
    let Some(account) = account::of(program::PROFILE_ON) else {
        return;
    };
    bump(&mut account.seen);
    // SAFETY: no preconditions.
    let task = unsafe { bpf_get_current_task_btf() } as Ptr;
    let left = PROFILE_OFF.get_ptr_mut(task as u64).map(|left| {
        // SAFETY: valid for the program's run; a thread is in one place at a time.
        unsafe { &mut *left }
    });
    // A thread of the kernel, one that had not left, or one that left before anybody looked.
    let Some(left) = left.filter(|left| left.time != 0) else {
        bump(&mut account.filtered);
        return;
    };
    let (time, mut why) = (clock().wrapping_sub(left.time), left.why & off::WHY);
    let waker = left.why & !off::WHY;
    left.time = 0;
    // SAFETY: the task is the running one.
    let regs = unsafe { bpf_task_pt_regs(task as *mut _) } as Ptr;
    if why == off::BLOCKED && kernel::is_futex(regs) {
        why = off::FUTEX;
    }
    let kind = if why == off::FUTEX {
        limit::FUTEX
    } else {
        limit::OFF_CPU
    };
    if time < shortest(kind) {
        bump(&mut account.filtered);
        return;
    }
    let sample = Sample {
        program: program::PROFILE_ON,
        kind: if why == off::FUTEX && shortest(limit::OFF_CPU) == u64::MAX {
            sample::LOCK
        } else {
            sample::OFF_CPU
        },
        value: time,
        detail: why | waker,
        user: None,
        whose: None,
    };
    take(account, context, sample);
}
