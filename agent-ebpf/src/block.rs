//! Probe `block`: how long requests to block devices take. See agent/src/probes/block.rs for what it exports.

use crate::account::{self, add, bump};
use crate::histogram;
use crate::kernel::{self, Ptr};
use crate::settings::RQ_FLUSH_SEQ;
use agent_common::account::{program, reason};
use agent_common::block::{BlockCells, BlockKey, operation};
use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::{btf_tracepoint, map},
    maps::{Array, HashMap},
    programs::BtfTracePointContext,
};

const NO_PREALLOC: u32 = 1;

/// By disk and operation. The key of zeros is there from the start and takes what finds no room. Not preallocated: the
/// probe is off unless asked for.
#[map]
static BLOCK_IO: HashMap<BlockKey, BlockCells> = HashMap::with_max_entries(1024, NO_PREALLOC);

/// Nothing, too large for the stack.
#[map]
static BLOCK_EMPTY: Array<BlockCells> = Array::with_max_entries(1, 0);

/// The disk of a request, as the kernel numbers it; `None`: it is for no disk (a tape, a controller).
#[inline(always)]
pub fn device(rq: Ptr) -> Option<u32> {
    let disk = kernel::request_disk(rq);
    if disk.is_null() {
        return None;
    }
    Some(kernel::disk_major(disk) << 20 | kernel::disk_minor(disk))
}

/// Since a request began, ns; `None`: its queue keeps no statistics (queue/iostats), so that nobody has noted when. This
/// is the time that /proc/diskstats adds up.
#[inline(always)]
pub fn since(rq: Ptr) -> Option<u64> {
    let start = kernel::request_start(rq);
    if start == 0 {
        return None;
    }
    // SAFETY: no preconditions.
    Some(unsafe { bpf_ktime_get_ns() }.saturating_sub(start))
}

/// Whether a request ends with so many bytes. It may be a part of them, and the rest comes later.
#[inline(always)]
pub fn ends(rq: Ptr, bytes: u32) -> bool {
    bytes >= kernel::request_len(rq)
}

/// Requests that have been worked off, wholly or in part.
#[btf_tracepoint(function = "block_rq_complete")]
pub fn block_complete(ctx: BtfTracePointContext) -> i32 {
    let rq: Ptr = ctx.arg(0);
    let (status, bytes): (u8, u32) = (ctx.arg(1), ctx.arg(2));
    let Some(account) = account::of(program::BLOCK_COMPLETE) else {
        return 0;
    };
    bump(&mut account.seen);
    let (Some(operation), Some(device)) = (operation(kernel::request_op(rq)), device(rq)) else {
        bump(&mut account.filtered);
        return 0;
    };
    // A write that asks to be durable is flush, write, flush: the kernel tells the end of the write in the middle, then
    // that of all of it once more, without bytes. Only the latter is a request.
    let is_step = kernel::request_flags(rq) & RQ_FLUSH_SEQ.load() != 0 && operation != operation::FLUSH;
    let took = if is_step || !ends(rq, bytes) {
        None
    } else {
        since(rq)
    };
    if took.is_none() && bytes == 0 && status == 0 {
        bump(&mut account.filtered);
        return 0;
    }
    let key = BlockKey { device, operation };
    let Some(cells) = histogram::row(&BLOCK_IO, &BLOCK_EMPTY, &key, &BlockKey::OTHER, account) else {
        bump(&mut account.dropped[reason::MAP_FULL]);
        return 0;
    };
    if let Some(nanos) = took {
        // Rounded: hundreds of thousands of requests add up.
        let micros = (nanos + 500) / 1000;
        histogram::record(&mut cells.latency, micros.min(u32::MAX as u64) as u32);
    }
    if bytes != 0 {
        add(&mut cells.bytes, bytes as u64);
    }
    if status != 0 {
        bump(&mut cells.errors);
    }
    bump(&mut account.aggregated);
    0
}
