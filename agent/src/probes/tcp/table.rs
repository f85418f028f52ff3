//! The pair table: which row belongs to whom, and the series that the rows add up to.

use super::span::Placed;
use crate::aggregate::{Exemplar, Further};
use crate::bpf::Engine;
use crate::bpf::KernelMap;
use crate::error::Result;
use crate::identity::Name;
use crate::probes::Context;
use crate::probes::slots::{PairSeries, Row, clear_extremes};
use crate::probes::totals::{OTHER, Totals};
use agent_common::tcp::{PairKey, PairValue, SLOT_OTHER, counter};
use agent_common::wire::Wire as _;
use std::sync::Arc;
use std::time::Instant;

/// Rows of processes are given back after this many ticks without a connection or a change.
const PROCESS_IDLE: u32 = 30;
/// Rows of cgroups are given back after this many ticks: a workload that comes back finds its own again.
const CGROUP_IDLE: u32 = 600;

/// Rows and series.
pub struct Table {
    rows: Vec<Option<Row>>,
    /// Rows taken out of the kernel's table one sweep ago, to be handed out again.
    retired: Vec<u32>,
    /// Series, by subject and peer.
    pub pairs: Totals<(Name, u32), PairSeries>,
    /// A row has no name yet.
    pending: bool,
}

impl Table {
    /// A table of `slots` rows that add up to at most `most` series.
    pub fn new(slots: usize, most: usize, now: Instant, unix_nanos: u64) -> Self {
        let mut rows: Vec<Option<Row>> = Vec::new();
        rows.resize_with(slots, || None);
        if let Some(row) = rows.get_mut(SLOT_OTHER as usize) {
            *row = Some(Row::new(None, OTHER));
        }
        let mut pairs = Totals::new(most.saturating_sub(1));
        pairs.place(None, now, |_| {
            PairSeries::new(["other", "other", "", ""], &Further::default(), true, unix_nanos)
        });
        Self {
            rows,
            retired: Vec::new(),
            pairs,
            pending: false,
        }
    }

    /// Learns of new rows from the kernel's table. A row whose owner has no final name yet is not read: what it counts
    /// waits in the kernel, and a connection is opened and closed under one name.
    pub fn refresh(&mut self, map: &KernelMap, context: &mut Context<'_>) -> Result<()> {
        let mut found = Vec::new();
        map.for_each(PairKey::SIZE, PairValue::SIZE, |key, value| {
            found.extend(PairKey::decode(key).zip(PairValue::decode(value)));
        })?;
        self.pending = false;
        for gone in map.vanished::<PairKey>() {
            let mut rows = self.rows.iter_mut().flatten();
            if let Some(row) = rows.find(|row| row.key == Some(gone)) {
                row.key = None;
            }
        }
        for (key, value) in found {
            let slot = value.slot as usize;
            if self
                .rows
                .get(slot)
                .and_then(Option::as_ref)
                .is_some_and(|row| row.key == Some(key))
            {
                continue;
            }
            let subject = context.identity.subject(&key.subject, &value.comm);
            if !subject.fixed && !context.last {
                self.pending = true;
                continue;
            }
            let series = self.series(&subject.name(), key.peer, context);
            match self.rows.get_mut(slot) {
                // The row had another owner: what it counted for him has been read and stays with him.
                Some(Some(row)) => {
                    row.key = Some(key);
                    row.series = series;
                }
                Some(row) => *row = Some(Row::new(Some(key), series)),
                None => {}
            }
        }
        Ok(())
    }

    fn series(&mut self, subject: &Name, peer: u32, context: &Context<'_>) -> usize {
        let name = (subject.clone(), peer);
        self.pairs.place(Some(name), context.now, |_| {
            let to = context.peers.get(peer);
            PairSeries::new(
                [&subject.label, &to.name, &to.region, &to.zone],
                &subject.further,
                false,
                context.series_start,
            )
        })
    }

    /// Whether some row counts that nobody has been named for.
    pub fn unknown(&self, engine: &Engine) -> bool {
        if self.pending {
            return true;
        }
        let shards = engine.sizes.shards as usize;
        let touched = |slot: usize| -> u64 {
            (slot * shards..(slot + 1) * shards)
                .flat_map(|row| {
                    [
                        counter::ATTACHED,
                        counter::RESETS_OUT,
                        counter::RETRANSMITS + 3,
                        counter::LISTEN_DROPS,
                    ]
                    .map(|c| engine.cells.u64_at(row, 8 * c))
                })
                .fold(0, u64::wrapping_add)
        };
        self.rows.iter().enumerate().skip(1).any(|(slot, row)| match row {
            None => touched(slot) != 0,
            Some(row) => row.key.is_none() && touched(slot) != row.touched(),
        })
    }

    /// Reads all rows that belong to somebody.
    pub fn read(&mut self, engine: &Engine) {
        let shards = engine.sizes.shards as usize;
        for (slot, row) in self.rows.iter_mut().enumerate() {
            let Some(row) = row
                .as_mut()
                .filter(|row| row.key.is_some() || slot == SLOT_OTHER as usize)
            else {
                continue;
            };
            if let Some(series) = self.pairs.get_mut(row.series) {
                row.read(&engine.cells, slot, shards, series);
            }
        }
    }

    /// Puts an exemplar into its histogram, if the row still is whose it was.
    pub fn place(&mut self, placed: &Placed, unix_nanos: u64) {
        let Some(Some(row)) = self.rows.get(placed.slot as usize) else {
            return;
        };
        if placed.slot != SLOT_OTHER && row.key.as_ref() != Some(&placed.key) {
            return;
        }
        let histograms = self.pairs.get_mut(row.series).map(|pair| &mut pair.histograms);
        if let Some(histogram) = histograms.and_then(|all| all.get_mut(placed.series)) {
            Arc::make_mut(histogram).keep(Exemplar {
                placed: unix_nanos,
                ..placed.exemplar
            });
        }
    }

    /// Ends of connections that were established so far.
    pub fn opened(&self) -> u64 {
        let both = |pair: &PairSeries| {
            pair.counters[counter::OPENED].wrapping_add(pair.counters[counter::OPENED + 1])
        };
        self.pairs.iter().map(both).fold(0, u64::wrapping_add)
    }

    /// Rows that are somebody's, or were until a sweep ago.
    pub fn used(&self) -> usize {
        let rows = self.rows.iter().flatten();
        rows.filter(|row| row.key.is_some()).count() + self.retired.len()
    }

    /// Gives rows back whose owners are gone, and lets series end that nothing adds to.
    pub fn recycle(&mut self, now: Instant, engine: &Engine, map: &KernelMap, free: &mut KernelMap) {
        for slot in self.retired.drain(..) {
            if let Err(e) = free.push(slot) {
                tracing::warn!("probe tcp: row {slot} is lost: {e}");
            }
        }
        let mut used = Vec::new();
        for (slot, row) in self.rows.iter_mut().enumerate() {
            let Some(row) = row else { continue };
            let Some(key) = row.key else { continue };
            let patience = if key.subject.tgid == 0 {
                CGROUP_IDLE
            } else {
                PROCESS_IDLE
            };
            if row.idle < patience || row.attached() != 0 {
                used.push(row.series);
                continue;
            }
            let mut bytes = Vec::with_capacity(PairKey::SIZE);
            key.encode(&mut bytes);
            if map.remove(&bytes).is_ok() {
                // A program may have found the row just before: it is handed out one sweep later.
                self.retired.push(slot as u32);
                row.key = None;
                clear_extremes(&engine.cells, slot, engine.sizes.shards as usize);
            }
        }
        self.pairs.end(now, used);
    }
}
