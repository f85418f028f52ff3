//! Rows of the kernel's pair table, and the series that they add up to.

use crate::aggregate::{Further, HistogramValue, Labels, label};
use crate::bpf::sys::MappedArray;
use agent_common::histogram::{CELLS, Histogram};
use agent_common::tcp::{PairCells, PairKey, counter, series};
use std::mem::offset_of;
use std::sync::Arc;

/// Last reading of one row, all shards added. Cells wrap; differences do not care.
pub struct Row {
    /// Who and to whom; `None` for `other`.
    pub key: Option<PairKey>,
    /// Index of the series that it adds to.
    pub series: usize,
    counters: [u64; counter::COUNT],
    histograms: Vec<Reading>,
    /// Ticks without any change.
    pub idle: u32,
}

/// Last reading of a kernel histogram.
#[derive(Clone)]
pub struct Reading {
    cells: Box<[u32; CELLS]>,
    sum: u64,
}

/// What a pair of labels has added up to.
pub struct PairSeries {
    /// Labels subject, peer, peer_region, peer_zone.
    pub labels: Arc<Labels>,
    /// The same with further label values: (which metric's, index of the value).
    pub variants: Vec<((usize, usize), Arc<Labels>)>,
    /// See [`counter`].
    pub counters: [u64; counter::COUNT],
    /// See [`series`].
    pub histograms: [Arc<HistogramValue>; series::COUNT],
    /// The way to the connection that was looked at last: a packed [`agent_common::path::Seen`].
    pub path: u64,
}

impl PairSeries {
    /// A new series; its counters start at zero now.
    pub fn new(values: [&str; 4], further: &Further, overflow: bool, unix_nanos: u64) -> Self {
        let declared = [
            &label::SUBJECT,
            &label::PEER,
            &label::PEER_REGION,
            &label::PEER_ZONE,
        ];
        Self {
            labels: Arc::new(Labels::of(&declared, &values, further, overflow, unix_nanos)),
            variants: Vec::new(),
            counters: [0; counter::COUNT],
            histograms: std::array::from_fn(|_| Arc::default()),
            path: 0,
        }
    }
}

/// Forgets the smallest and largest values of a row and the way to its connections: they were its last owner's.
pub fn clear_extremes(cells: &MappedArray, slot: usize, shards: usize) {
    for row in slot * shards..(slot + 1) * shards {
        cells.set_u64(row, offset_of!(PairCells, path), 0);
        for i in 0..series::COUNT {
            // Both are one word.
            cells.set_u64(row, histogram_at(i) + offset_of!(Histogram, min_complement), 0);
        }
    }
}

const fn histogram_at(index: usize) -> usize {
    offset_of!(PairCells, histograms) + index * size_of::<Histogram>()
}

impl Row {
    /// A row that has been read to be all zero.
    pub fn new(key: Option<PairKey>, series: usize) -> Self {
        Self {
            key,
            series,
            counters: [0; counter::COUNT],
            histograms: vec![Reading::new(); series::COUNT],
            idle: 0,
        }
    }

    /// Sockets that still point to the row.
    pub fn attached(&self) -> u64 {
        self.counters[counter::ATTACHED].saturating_sub(self.counters[counter::RELEASED])
    }

    /// The counters by which a row without an owner shows that it has one, as last read.
    pub fn touched(&self) -> u64 {
        [
            counter::ATTACHED,
            counter::RESETS_OUT,
            counter::RETRANSMITS + 3,
            counter::LISTEN_DROPS,
        ]
        .map(|c| self.counters[c])
        .into_iter()
        .fold(0, u64::wrapping_add)
    }

    /// Adds what is new to a series. Returns whether anything was.
    pub fn read(&mut self, cells: &MappedArray, slot: usize, shards: usize, into: &mut PairSeries) -> bool {
        let rows = slot * shards..(slot + 1) * shards;
        let mut changed = false;
        for (i, (last, total)) in self.counters.iter_mut().zip(&mut into.counters).enumerate() {
            let now = rows
                .clone()
                .fold(0u64, |sum, row| sum.wrapping_add(cells.u64_at(row, 8 * i)));
            if now != *last {
                *total = total.wrapping_add(now.wrapping_sub(*last));
                *last = now;
                changed = true;
            }
        }
        // The latest is the largest, of shards and of rows.
        let path = rows
            .clone()
            .map(|row| cells.u64_at(row, offset_of!(PairCells, path)))
            .max();
        into.path = into.path.max(path.unwrap_or(0));
        for (i, (last, total)) in self.histograms.iter_mut().zip(&mut into.histograms).enumerate() {
            changed |= last.read(cells, rows.clone(), histogram_at(i), total);
        }
        self.idle = if changed { 0 } else { self.idle.saturating_add(1) };
        changed
    }
}

impl Reading {
    /// One that has been read to be all zero.
    pub fn new() -> Self {
        Self {
            cells: Box::new([0; CELLS]),
            sum: 0,
        }
    }

    /// Adds what is new, of all `rows`, to `total`. The histogram begins `at` bytes from the start of a row.
    pub fn read(
        &mut self,
        cells: &MappedArray,
        rows: std::ops::Range<usize>,
        at: usize,
        total: &mut Arc<HistogramValue>,
    ) -> bool {
        let word = |row: usize, byte: usize| cells.u64_at(row, at + byte);
        let sum = rows.clone().fold(0u64, |s, row| {
            s.wrapping_add(word(row, offset_of!(Histogram, sum_micros)))
        });
        let zero = rows
            .clone()
            .fold(0u32, |s, row| s.wrapping_add(cells.u32_at(row, at)));
        // Every value but zero moves the sum, so an unmoved sum and zero cell mean that nothing happened.
        if sum == self.sum && self.cells.first() == Some(&zero) {
            return false;
        }
        let total = Arc::make_mut(total);
        for (cell, last) in self.cells.iter_mut().enumerate() {
            let now = rows
                .clone()
                .fold(0u32, |s, row| s.wrapping_add(cells.u32_at(row, at + 4 * cell)));
            let delta = now.wrapping_sub(*last);
            if delta != 0 {
                total.add_cell(cell, u64::from(delta));
                *last = now;
            }
        }
        total.sum += sum.wrapping_sub(self.sum) as f64 / 1e6;
        self.sum = sum;
        for row in rows {
            let low = cells.u32_at(row, at + offset_of!(Histogram, min_complement));
            let high = cells.u32_at(row, at + offset_of!(Histogram, max_micros));
            if low != 0 || high != 0 {
                let (low, high) = (f64::from(!low) / 1e6, f64::from(high) / 1e6);
                total.min = Some(total.min.map_or(low, |m| m.min(low)));
                total.max = Some(total.max.map_or(high, |m| m.max(high)));
            }
        }
        true
    }
}
