//! The one way into the ring buffer.

use crate::account::{add, bump};
use crate::settings::{NCPU, RING_HIGH_WATER};
use agent_common::account::{Account, reason};
use agent_common::wire::{Header, LAYOUT, Wire};
use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{bpf_get_smp_processor_id, generated::bpf_ringbuf_output},
    macros::map,
    maps::{Array, RingBuf},
};

/// All records of all probes; resized at load.
#[map]
static RECORDS: RingBuf = RingBuf::with_byte_size(1 << 16, 0);

/// Records past the high-water mark that wake the reader.
const CROSSING: u64 = 4;

/// Header of a record.
#[inline(always)]
pub fn header<T: Wire>(kind: u8, program: usize) -> Header {
    Header {
        kind,
        layout: LAYOUT,
        len: T::SIZE as u16,
        program: program as u32,
    }
}

/// Reserves a record, lets `fill` write every field, submits it without a wake-up (a wake-up for each record cost
/// 4 µs here against 0.2 µs) unless much is waiting, and counts what became of it.
#[inline(always)]
pub fn emit<T: Wire + 'static>(account: &mut Account, fill: impl FnOnce(*mut T)) {
    bump(&mut account.seen);
    let Some(mut entry) = RECORDS.reserve::<T>(0) else {
        bump(&mut account.dropped[reason::RING_FULL]);
        return;
    };
    fill(entry.as_mut_ptr());
    let above = RECORDS
        .query(BPF_RB_AVAIL_DATA.into())
        .wrapping_sub(RING_HIGH_WATER.load());
    // Only the records that cross the mark wake the reader, not all that come after: a wake-up is an interrupt. Several,
    // because two CPUs that cross at once each see the other's record as well.
    let flags = if above < CROSSING * (T::SIZE as u64 + 8) {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    };
    entry.submit(flags.into());
    bump(&mut account.emitted);
}

/// As [`emit`] for a record of `len` bytes that is made already, and whose event has been counted as seen; `urgent` ones
/// wake the reader.
#[inline(always)]
pub fn emit_made(account: &mut Account, record: *const u8, len: u32, urgent: bool) {
    let above = RECORDS
        .query(BPF_RB_AVAIL_DATA.into())
        .wrapping_sub(RING_HIGH_WATER.load());
    let flags = if urgent || above < CROSSING * (len as u64 + 8) {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    };
    // SAFETY: the verifier checks that `record` has `len` bytes.
    let failed = unsafe {
        bpf_ringbuf_output(
            (&raw const RECORDS).cast_mut().cast(),
            record.cast_mut().cast(),
            len as u64,
            flags.into(),
        )
    };
    if failed == 0 {
        bump(&mut account.emitted);
    } else {
        bump(&mut account.dropped[reason::RING_FULL]);
    }
}

/// Takes one of the records that this CPU may still send; userspace fills the tokens up every second, so that no clock is
/// read here.
#[inline(always)]
pub fn take_token(tokens: &Array<u64>) -> bool {
    // SAFETY: no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    if cpu >= NCPU.load() {
        return false;
    }
    match tokens.get_ptr_mut(cpu) {
        Some(tokens) => {
            // SAFETY: valid for the program's run. A race on one CPU's tokens grants one record more or less.
            let tokens = unsafe { &mut *tokens };
            let any = *tokens != 0;
            *tokens -= any as u64;
            any
        }
        None => false,
    }
}

/// The same of one word for all CPUs, for what is rare and must not depend on which of them it came to; below 0 where several took
/// the last.
#[inline(always)]
pub fn take_shared_token(tokens: &Array<u64>) -> bool {
    let Some(tokens) = tokens.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: valid for the program's run; all writes are atomic, or userspace's, which fills it up.
    let tokens = unsafe { &mut *tokens };
    let any = *tokens as i64 > 0;
    if any {
        add(tokens, u64::MAX);
    }
    any
}
