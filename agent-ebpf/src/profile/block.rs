//! Stacks of who asks for disk I/O, and how long it took.
//!
//! The stack is taken when the request is made, in the thread that asks, and kept until it is worked off.

use super::{Sample, Stack, chance, make};
use crate::account::{self, bump};
use crate::block;
use crate::emit::emit_made;
use crate::kernel::{self, Ptr};
use crate::settings::{FRAME_MASK, RQ_FLUSH_SEQ};
use agent_common::account::{program, reason};
use agent_common::block::operation;
use agent_common::profile::{StackHead, detail, sample};
use aya_ebpf::{
    EbpfContext as _,
    macros::{btf_tracepoint, map},
    maps::HashMap,
    programs::BtfTracePointContext,
};

const NO_PREALLOC: u32 = 1;

/// What open requests are for, by their address. One that never ends (it was merged into another) goes when its address is
/// used again; there are only so many.
#[map]
static PROFILE_REQUESTS: HashMap<u64, Stack> = HashMap::with_max_entries(1024, NO_PREALLOC);

/// A request begins.
#[btf_tracepoint(function = "block_io_start")]
pub fn profile_block(ctx: BtfTracePointContext) -> i32 {
    begin(&ctx)
}

/// Before 6.5 only when it is handed to the driver, which need not be in the thread that asks.
#[btf_tracepoint(function = "block_rq_issue")]
pub fn profile_block_issue(ctx: BtfTracePointContext) -> i32 {
    begin(&ctx)
}

#[inline(always)]
fn begin(ctx: &BtfTracePointContext) -> i32 {
    let rq: Ptr = ctx.arg(0);
    let Some(account) = account::of(program::PROFILE_BLOCK) else {
        return 0;
    };
    bump(&mut account.seen);
    let (Some(operation), Some(device)) = (operation(kernel::request_op(rq)), block::device(rq)) else {
        bump(&mut account.filtered);
        return 0;
    };
    let Some(shift) = chance(sample::BLOCK_IO) else {
        let _ = PROFILE_REQUESTS.remove(rq as u64);
        bump(&mut account.sampled);
        return 0;
    };
    let sample = Sample {
        program: program::PROFILE_BLOCK_DONE,
        kind: sample::BLOCK_IO,
        value: 0,
        detail: detail(device, operation),
        user: None,
        whose: None,
    };
    let Some((stack, _)) = make(account, ctx.as_ptr(), sample) else {
        return 0;
    };
    // How many it stands for, until it is known what.
    stack.head.value = shift as u64;
    if PROFILE_REQUESTS.insert(rq as u64, &*stack, 0).is_ok() {
        bump(&mut account.aggregated);
    } else {
        bump(&mut account.dropped[reason::MAP_FULL]);
    }
    0
}

/// A request ends: only now it is known how long it took.
#[btf_tracepoint(function = "block_rq_complete")]
pub fn profile_block_done(ctx: BtfTracePointContext) -> i32 {
    let rq: Ptr = ctx.arg(0);
    let bytes: u32 = ctx.arg(2);
    let Some(account) = account::of(program::PROFILE_BLOCK_DONE) else {
        return 0;
    };
    bump(&mut account.seen);
    let key = rq as u64;
    let Some(stack) = PROFILE_REQUESTS.get_ptr_mut(key) else {
        bump(&mut account.filtered);
        return 0;
    };
    // A part of it; see `block::block_complete`.
    let is_step = kernel::request_flags(rq) & RQ_FLUSH_SEQ.load() != 0;
    if is_step || !block::ends(rq, bytes) {
        bump(&mut account.filtered);
        return 0;
    }
    // SAFETY: valid for the program's run; a request ends once.
    let head = unsafe { &mut (*stack).head };
    // Masked by a constant that only the verifier knows: that of 6.1 does not keep what is compared within bounds up to the
    // helper. `make` has let nothing longer pass.
    let frames = (head.kernel as u32 + 2 * head.python as u32 + head.user as u32) & FRAME_MASK.load();
    match block::since(rq) {
        Some(took) => {
            let len = size_of::<StackHead>() as u32 + frames * size_of::<u64>() as u32;
            head.value = took << (head.value & 31);
            emit_made(account, stack.cast_const().cast(), len, false);
        }
        None => bump(&mut account.filtered),
    }
    let _ = PROFILE_REQUESTS.remove(key);
    0
}
