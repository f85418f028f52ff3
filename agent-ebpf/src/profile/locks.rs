//! Stacks of threads that had to wait for a lock of the kernel.
//!
//! Locks that are spun for are left out: their time is CPU time, which is sampled anyway, and one of them guards the ring of
//! records, which a program may not ask for while it is held.

use super::off_cpu::{clock, shortest};
use super::{Sample, take};
use crate::account::{self, bump};
use agent_common::account::{program, reason};
use agent_common::profile::{contention, limit, sample};
use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::bpf_get_current_task_btf,
    macros::{btf_tracepoint, map},
    maps::HashMap,
    programs::BtfTracePointContext,
};

/// What a thread waits for.
#[repr(C)]
struct Wait {
    /// Address of the lock.
    lock: u64,
    /// Since when, monotonic clock, ns.
    time: u64,
    /// See [`contention`].
    flags: u64,
}

/// Threads that wait, by the address of their `task_struct`. Looking up takes no lock, which matters here: programs are
/// called at the end of any wait, whatever is held then.
#[map]
static PROFILE_WAITS: HashMap<u64, Wait> = HashMap::with_max_entries(1, 0);

#[inline(always)]
fn current() -> u64 {
    // SAFETY: no preconditions.
    unsafe { bpf_get_current_task_btf() as u64 }
}

/// A lock is not free.
#[btf_tracepoint(function = "contention_begin")]
pub fn profile_lock_begin(ctx: BtfTracePointContext) -> i32 {
    let Some(account) = account::of(program::PROFILE_LOCK_BEGIN) else {
        return 0;
    };
    bump(&mut account.seen);
    let (lock, flags): (u64, u64) = (ctx.arg(0), ctx.arg::<u64>(1) & 0xffff_ffff);
    if flags & contention::SPIN != 0 && flags & contention::MUTEX == 0 {
        bump(&mut account.filtered);
        return 0;
    }
    let key = current();
    // A mutex is first spun for and then slept for: one wait.
    if let Some(known) = PROFILE_WAITS.get_ptr(key)
        // SAFETY: valid for the program's run; a thread waits for one lock at a time.
        && unsafe { (*known).lock } == lock
    {
        bump(&mut account.filtered);
        return 0;
    }
    let wait = Wait {
        lock,
        time: clock(),
        flags,
    };
    if PROFILE_WAITS.insert(key, wait, 0).is_ok() {
        bump(&mut account.aggregated);
    } else {
        bump(&mut account.dropped[reason::MAP_FULL]);
    }
    0
}

/// It was had, or given up.
#[btf_tracepoint(function = "contention_end")]
pub fn profile_lock_end(ctx: BtfTracePointContext) -> i32 {
    let Some(account) = account::of(program::PROFILE_LOCK_END) else {
        return 0;
    };
    bump(&mut account.seen);
    let (lock, key): (u64, u64) = (ctx.arg(0), current());
    let known = PROFILE_WAITS.get_ptr(key).map(|known| {
        // SAFETY: as above.
        unsafe { ((*known).lock, (*known).time, (*known).flags) }
    });
    // A lock that is spun for, or a wait that had begun before anybody looked.
    let Some((_, since, flags)) = known.filter(|(known, ..)| *known == lock) else {
        bump(&mut account.filtered);
        return 0;
    };
    let _ = PROFILE_WAITS.remove(key);
    let time = clock().wrapping_sub(since);
    if time < shortest(limit::LOCK) {
        bump(&mut account.filtered);
        return 0;
    }
    let sample = Sample {
        program: program::PROFILE_LOCK_END,
        kind: sample::LOCK,
        value: time,
        detail: flags,
        user: None,
        whose: None,
    };
    take(account, ctx.as_ptr(), sample);
    0
}
