//! Stacks of who ends a wait: in the context of whoever lets a thread go on, before it is back on a CPU.
//!
//! A stack is only taken if the wait has been long enough to be told, so the price of all others is one look-up. The record
//! of the waiter, which comes later, names that of its waker by a number that no other wait of the thread has.

use super::off_cpu::{PROFILE_OFF, clock, shortest};
use super::{Sample, take};
use crate::account::{self, bump};
use crate::kernel::{self, Ptr};
use agent_common::account::program;
use agent_common::profile::{detail, limit, off, sample};
use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_task_pt_regs, macros::btf_tracepoint,
    programs::BtfTracePointContext,
};

/// A thread is to go on. The lock of its wake-ups is held, so nobody else ends the same wait.
#[btf_tracepoint(function = "sched_waking")]
pub fn profile_waker(ctx: BtfTracePointContext) -> i32 {
    let Some(account) = account::of(program::PROFILE_WAKER) else {
        return 0;
    };
    bump(&mut account.seen);
    let task: Ptr = ctx.arg(0);
    let left = PROFILE_OFF.get_ptr_mut(task as u64).map(|left| {
        // SAFETY: valid for the program's run; the thread does not come back before this is over.
        unsafe { &mut *left }
    });
    // A thread of the kernel, one that is still there, or one that only waits for its turn.
    let Some(left) = left.filter(|left| left.time != 0 && left.why == off::BLOCKED) else {
        bump(&mut account.filtered);
        return 0;
    };
    let now = clock();
    // SAFETY: the task is the tracepoint's, and does not run.
    let regs = unsafe { bpf_task_pt_regs(task as *mut _) } as Ptr;
    let kind = if kernel::is_futex(regs) {
        limit::FUTEX
    } else {
        limit::OFF_CPU
    };
    if now.wrapping_sub(left.time) < shortest(kind) {
        bump(&mut account.filtered);
        return 0;
    }
    let number = now as u32 | 1;
    left.why |= number as u64;
    let sample = Sample {
        program: program::PROFILE_WAKER,
        kind: sample::WAKER,
        value: 0,
        detail: detail(number, kernel::task_tid(task)),
        user: None,
        whose: None,
    };
    take(account, ctx.as_ptr(), sample);
    0
}
