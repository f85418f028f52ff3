//! Samples into the cells of a histogram.

use crate::account::{add, bump, bump32};
use agent_common::account::Account;
use agent_common::histogram::{CELLS, Histogram, cell, from_micros};
use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap},
};

const NOEXIST: u64 = 1;

/// An empty histogram, too large for the stack.
#[map]
static EMPTY_HISTOGRAM: Array<Histogram> = Array::with_max_entries(1, 0);

/// Adds a value in µs.
#[inline(always)]
pub fn record(histogram: &mut Histogram, micros: u32) {
    let index = cell(from_micros(micros));
    if index < CELLS {
        // SAFETY: checked above; indexing would emit a panic path, which does not load.
        bump32(unsafe { histogram.cells.get_unchecked_mut(index) });
    }
    add(&mut histogram.sum_micros, micros as u64);
    // Plain stores: two CPUs may race, and then the lesser extreme of one moment is lost until the next.
    let complement = !micros;
    if complement > histogram.min_complement {
        histogram.min_complement = complement;
    }
    if micros > histogram.max_micros {
        histogram.max_micros = micros;
    }
}

/// The histogram of a key, a new one if need be; that of `other`, which is there from the start, if there is no room.
#[inline(always)]
pub fn of<K>(
    map: &'static HashMap<K, Histogram>,
    key: &K,
    other: &K,
    account: &mut Account,
) -> Option<&'static mut Histogram> {
    row(map, &EMPTY_HISTOGRAM, key, other, account)
}

/// As [`of`], for rows that hold a histogram and more; `empty` holds one in which nothing has happened.
#[expect(
    clippy::mut_from_ref,
    reason = "the memory is the kernel's, whoever holds the map"
)]
#[inline(always)]
pub fn row<K, V>(
    map: &'static HashMap<K, V>,
    empty: &'static Array<V>,
    key: &K,
    other: &K,
    account: &mut Account,
) -> Option<&'static mut V> {
    let find = |key: &K| {
        map.get_ptr_mut(key).map(|value| {
            // SAFETY: valid for the program's run; only added to atomically.
            unsafe { &mut *value }
        })
    };
    if let Some(value) = find(key) {
        return Some(value);
    }
    if let Some(empty) = empty.get(0) {
        // Another CPU may be first.
        let _ = map.insert(key, empty, NOEXIST);
    }
    if let Some(value) = find(key) {
        return Some(value);
    }
    bump(&mut account.overflowed);
    find(other)
}
