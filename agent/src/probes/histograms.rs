//! Histograms that the kernel keeps by key in a hash.

use crate::aggregate::HistogramValue;
use crate::bpf::KernelMap;
use crate::error::Result;
use agent_common::histogram::{CELLS, Histogram};
use agent_common::wire::Wire;
use bytes::Buf as _;

/// One in which nothing has happened.
pub const EMPTY: Histogram = Histogram {
    cells: [0; CELLS],
    sum_micros: 0,
    min_complement: 0,
    max_micros: 0,
};

/// All of a hash.
pub fn entries<K: Wire>(map: &KernelMap) -> Result<Vec<(K, Histogram)>> {
    let mut found = Vec::new();
    map.for_each(K::SIZE, size_of::<Histogram>(), |key, value| {
        found.extend(K::decode(key).zip(decode(value)));
    })?;
    Ok(found)
}

/// A histogram as the kernel has it.
pub fn decode(mut bytes: &[u8]) -> Option<Histogram> {
    if bytes.len() != size_of::<Histogram>() {
        return None;
    }
    Some(Histogram {
        cells: {
            let mut cells = [0; CELLS];
            cells.fill_with(|| bytes.get_u32_ne());
            cells
        },
        sum_micros: bytes.get_u64_ne(),
        min_complement: bytes.get_u32_ne(),
        max_micros: bytes.get_u32_ne(),
    })
}

/// Adds to a total what has come since the last reading.
pub fn grow(total: &mut HistogramValue, last: &Histogram, now: &Histogram) {
    for (cell, (now, last)) in now.cells.iter().zip(&last.cells).enumerate() {
        let delta = now.wrapping_sub(*last);
        if delta != 0 {
            total.add_cell(cell, u64::from(delta));
        }
    }
    total.sum += now.sum_micros.wrapping_sub(last.sum_micros) as f64 / 1e6;
    let (low, high) = (
        f64::from(!now.min_complement) / 1e6,
        f64::from(now.max_micros) / 1e6,
    );
    total.min = Some(total.min.map_or(low, |m| m.min(low)));
    total.max = Some(total.max.map_or(high, |m| m.max(high)));
}
