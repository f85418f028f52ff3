//! Counting what became of events.

use crate::settings::NCPU;
use agent_common::account::{Account, program};
use aya_ebpf::{helpers::bpf_get_smp_processor_id, macros::map, maps::Array};
use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd, atomic_xchg};

const MMAPABLE: u32 = 1 << 10;

/// Row `program * NCPU + cpu`; userspace reads it through a mapping. An array is never evicted.
#[map]
static ACCOUNTS: Array<Account> = Array::with_max_entries(program::COUNT as u32, MMAPABLE);

/// The account of a program on this CPU.
#[inline(always)]
pub fn of(program: usize) -> Option<&'static mut Account> {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    ACCOUNTS.get_ptr_mut(program as u32 * NCPU.load() + cpu).map(|p| {
        // SAFETY: a non-null map value stays valid for the program's run; all writes to it are atomic, or see `add_own`.
        unsafe { &mut *p }
    })
}

/// Atomic add. A locked add to a line that only this CPU touches costs 4 ns here. A plain one would lose counts: a
/// program that runs in process context can be interrupted on the same CPU by another that adds to the same row.
#[inline(always)]
pub fn add(counter: &mut u64, n: u64) {
    // SAFETY: the reference is valid and aligned.
    unsafe {
        atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, n);
    }
}

/// Atomic add of one.
#[inline(always)]
pub fn bump(counter: &mut u64) {
    add(counter, 1);
}

/// A plain add, which costs nothing. Only in programs that run with bottom halves off, as those of a device's packets
/// do, and to a row that no other CPU writes to: then nothing comes between the load and the store.
#[inline(always)]
pub fn add_own(counter: &mut u64, n: u64) {
    let counter = core::ptr::from_mut(counter);
    // SAFETY: the reference is valid and aligned. Volatile: whoever reads the mapping never sees half a count.
    unsafe { counter.write_volatile(counter.read_volatile().wrapping_add(n)) };
}

/// A plain add of one.
#[inline(always)]
pub fn bump_own(counter: &mut u64) {
    add_own(counter, 1);
}

/// Atomic add of one to a 32-bit cell, which may wrap.
#[inline(always)]
pub fn bump32(counter: &mut u32) {
    // SAFETY: as above.
    unsafe {
        atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(counter, 1);
    }
}

/// Atomic exchange. `exchange(last, now)` by two flushers at once still splits the growth without loss or double
/// counting: the differences telescope.
#[inline(always)]
pub fn exchange(cell: &mut u64, value: u64) -> u64 {
    // SAFETY: as above.
    unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(cell, value) }
}

/// Atomically from one value to another; whether it was the one.
#[inline(always)]
pub fn replace(cell: &mut u64, from: u64, to: u64) -> bool {
    // SAFETY: as above.
    unsafe { atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(cell, from, to).1 }
}

/// Atomic exchange of 32 bits.
#[inline(always)]
pub fn exchange32(cell: &mut u32, value: u32) -> u32 {
    // SAFETY: as above.
    unsafe { atomic_xchg::<u32, { AtomicOrdering::SeqCst }>(cell, value) }
}
