//! Samples into the cells of a histogram.

use crate::account::{add, bump32};
use agent_common::histogram::{CELLS, Histogram, cell, from_micros};

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
