//! Stacks at page faults: where memory is touched that is not there yet, which is when it is really used.

use super::{Sample, chance, registers, take};
use crate::account::{self, bump};
use agent_common::account::program;
use agent_common::profile::{fault, sample};
use aya_ebpf::{EbpfContext as _, macros::perf_event, programs::PerfEventContext};

/// Every so many faults that need no disk, and every one that does.
#[perf_event]
pub fn profile_fault(ctx: PerfEventContext) -> u32 {
    let Some(account) = account::of(program::PROFILE_FAULT) else {
        return 0;
    };
    bump(&mut account.seen);
    let (period, user) = registers(&ctx);
    // Which event it is, only the period tells: those that need the disk are taken one by one.
    let is_major = period == 1;
    let shift = if is_major { chance(sample::FAULT) } else { Some(0) };
    let Some(shift) = shift else {
        bump(&mut account.sampled);
        return 0;
    };
    let sample = Sample {
        program: program::PROFILE_FAULT,
        kind: sample::FAULT,
        value: period << shift,
        detail: if is_major { fault::MAJOR } else { fault::MINOR },
        user,
        whose: None,
    };
    take(account, ctx.as_ptr(), sample);
    0
}
