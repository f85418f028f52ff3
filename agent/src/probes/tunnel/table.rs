//! The tunnels: rows of the kernel's table, and the series that they add up to.

use super::ends::Ends;
use super::exported::{Tunnel, one_way, values};
use super::inner::Inner;
use super::netns::Namespace;
use super::pairs::Pair;
use super::windows::{Missing, Windows};
use crate::bpf::KernelMap;
use crate::bpf::sys::MappedArray;
use crate::error::{Context as _, Result};
use crate::probes::Context;
use crate::probes::slots::Reading;
use crate::record::Source;
use crate::records::TunnelChange;
use agent_common::histogram::Histogram;
use agent_common::tunnel::{
    SLOT_OTHER, TunnelCells, TunnelKey, TunnelState, TunnelValue, counter, direction, series,
};
use agent_common::wire::Wire as _;
use std::collections::{BTreeMap, HashMap};
use std::mem::offset_of;

mod resume;
#[cfg(test)]
mod tests;

pub use resume::Told;

/// Rows are given back after this many ticks without a packet.
const IDLE: u32 = 600;
/// Rows that were given back are looked for again so often.
const SWEEP: u32 = 10;
/// Fact: when windows were last given up since nobody watched, and what they missed.
const BLIND: &str = "tunnel blind";
/// What happens: rows are given back.
const SWEPT: &str = "tunnel swept";

/// Where the programs count.
pub struct Maps {
    /// Tunnel → slot.
    pub tunnels: KernelMap,
    /// Slots that are free.
    pub free: KernelMap,
    /// Rows of counters.
    pub cells: MappedArray,
    /// Rows of rare state.
    pub states: MappedArray,
    /// One word; each CPU forgets the tunnel of its last packet when it changes.
    pub epoch: MappedArray,
    /// Sequence windows.
    pub windows: KernelMap,
    /// Inner pairs.
    pub inner: MappedArray,
    /// Cells of it.
    pub inner_cells: usize,
    /// Other ends.
    pub ends: Ends,
    /// Shards of a row.
    pub shards: usize,
}

struct Row {
    key: Option<TunnelKey>,
    series: usize,
    counters: [u64; counter::COUNT],
    histograms: [Reading; series::COUNT],
    idle: u32,
    since: u64,
    /// Missing in its windows.
    open: u64,
    /// It is out of `TUNNELS`, so that nothing finds it any more.
    retired: bool,
}

impl Row {
    fn new(key: Option<TunnelKey>, series: usize, since: u64) -> Self {
        Self {
            key,
            series,
            counters: [0; counter::COUNT],
            histograms: std::array::from_fn(|_| Reading::new()),
            idle: 0,
            since,
            open: 0,
            retired: false,
        }
    }
}

/// All tunnels.
pub struct Table {
    rows: Vec<Option<Row>>,
    /// The first is `other`.
    pub tunnels: Vec<Option<Tunnel>>,
    by_values: HashMap<[String; 6], usize>,
    windows: Windows,
    inner: Inner,
    most: usize,
    most_pairs: usize,
    ticks: u32,
    /// Names of network namespaces, by number.
    namespaces: HashMap<u16, String>,
    /// When nobody had watched, and what windows missed then, by slot.
    blind: (u64, BTreeMap<u32, u64>),
}

impl Table {
    /// A table of `slots` rows, of at most `most` tunnels with `most_pairs` inner pairs each.
    pub fn new(slots: usize, most: usize, most_pairs: usize, unix_nanos: u64) -> Self {
        let mut rows: Vec<Option<Row>> = Vec::new();
        rows.resize_with(slots, || None);
        if let Some(row) = rows.get_mut(SLOT_OTHER as usize) {
            *row = Some(Row::new(None, 0, 0));
        }
        let mut other: [String; 6] = Default::default();
        other[0] = "other".to_owned();
        Self {
            rows,
            tunnels: vec![Some(Tunnel::new(other, 0, 0, true, unix_nanos))],
            by_values: HashMap::new(),
            windows: Windows::default(),
            inner: Inner::default(),
            most,
            most_pairs,
            ticks: 0,
            namespaces: HashMap::new(),
            blind: (0, BTreeMap::new()),
        }
    }

    /// Learns what the namespaces are called. Rows of those that are gone keep their names until they end.
    pub(super) fn name(&mut self, namespaces: &[Namespace]) {
        let names = namespaces.iter().map(|n| (n.number, n.name.clone()));
        self.namespaces.extend(names);
    }

    /// Nobody has watched for a while, or will. What went by unseen is neither lost nor unanswered.
    pub fn blind(&mut self, maps: &Maps, source: &Source, unix_nanos: u64) -> Result<()> {
        let is_again = self.blind.0 == unix_nanos;
        let missing = if let Some(past) = source.past() {
            // The agent has taken them out; what it read of them is told, once for all of a step.
            self.windows.forget();
            let told: (u64, BTreeMap<u32, u64>) = past.fact(BLIND).unwrap_or_default();
            if is_again || told.0 != unix_nanos {
                BTreeMap::new()
            } else {
                told.1
            }
        } else {
            self.windows.end(&maps.windows).context("TUNNEL_WINDOWS")?
        };
        if !is_again {
            self.blind = (unix_nanos, BTreeMap::new());
        }
        for (slot, missing) in &missing {
            *self.blind.1.entry(*slot).or_default() += missing;
        }
        source.tell(BLIND, || &self.blind);
        for (slot, row) in self.rows.iter().enumerate() {
            let Some(Some(tunnel)) = row.as_ref().and_then(|row| self.tunnels.get_mut(row.series)) else {
                continue;
            };
            tunnel.closed += missing.get(&(slot as u32)).copied().unwrap_or(0);
            tunnel.open = 0;
            tunnel.blind = unix_nanos;
            for i in 0..2 {
                maps.states
                    .set_u64(slot, offset_of!(TunnelState, initiation) + 8 * i, 0);
                maps.states
                    .set_u64(slot, offset_of!(TunnelState, unanswered) + 8 * i, 0);
            }
        }
        Ok(())
    }

    /// Reads everything; returns what has changed its state. `watched` says of a row whether a program is on its device;
    /// `None` = nothing is to be on it.
    pub fn tick(
        &mut self,
        maps: &mut Maps,
        context: &Context<'_>,
        watched: impl Fn(&TunnelKey) -> Option<bool>,
    ) -> Result<Vec<TunnelChange>> {
        let unix_nanos = context.unix_nanos;
        self.ticks += 1;
        self.refresh(maps, context)?;
        self.read(maps, context, unix_nanos, watched);
        // After the counters: what leaves a window meanwhile is in neither, until the next tick.
        let missing = self.windows.read(&maps.windows).context("TUNNEL_WINDOWS")?;
        self.lose(&missing);
        let rows = &self.rows;
        let tunnel = |slot: u32| {
            let row = rows.get(slot as usize)?.as_ref()?;
            row.key.is_some().then_some(row.series)
        };
        for tunnel in self.tunnels.iter_mut().flatten() {
            tunnel.pairs.begin();
        }
        self.inner.read(maps, &mut self.tunnels, tunnel);
        for tunnel in self.tunnels.iter_mut().flatten() {
            let carried = [0, 1].map(|d: usize| tunnel.counters[counter::INNER_BYTES + d]);
            let most = if tunnel.is_other() { 0 } else { self.most_pairs };
            let values = &tunnel.values;
            tunnel.pairs.settle(carried, most, |ends| {
                Pair::new(values, ends, context.peers, context.series_start)
            });
        }
        let changes = self.judge(unix_nanos);
        let is_due = self.ticks.is_multiple_of(SWEEP);
        if context.source.happened(SWEPT, is_due) {
            self.recycle(maps)?;
        }
        Ok(changes)
    }

    fn refresh(&mut self, maps: &Maps, context: &Context<'_>) -> Result<()> {
        // A replay that began later does not know how long nothing has passed.
        for key in maps.tunnels.vanished::<TunnelKey>() {
            let mut rows = self.rows.iter_mut().flatten();
            if let Some(row) = rows.find(|row| row.key == Some(key)) {
                row.retired = true;
            }
        }
        let mut found = Vec::new();
        maps.tunnels
            .for_each(TunnelKey::SIZE, TunnelValue::SIZE, |key, value| {
                found.extend(TunnelKey::decode(key).zip(TunnelValue::decode(value)))
            })
            .context("TUNNELS")?;
        for (key, value) in found {
            let slot = value.slot as usize;
            let known = self.rows.get(slot).and_then(Option::as_ref);
            if known.is_some_and(|row| row.key == Some(key)) {
                continue;
            }
            let since = value.since.wrapping_add(context.boot_to_unix);
            let series = self.series(&key, since, context);
            match self.rows.get_mut(slot) {
                // The row had another owner: what it counted for him has been read and stays with him.
                Some(Some(row)) => {
                    (row.key, row.series, row.idle, row.since) = (Some(key), series, 0, since);
                }
                Some(row) => *row = Some(Row::new(Some(key), series, since)),
                None => {}
            }
        }
        Ok(())
    }

    fn series(&mut self, key: &TunnelKey, since: u64, context: &Context<'_>) -> usize {
        let netns = self.namespaces.get(&key.netns).map_or("", String::as_str);
        let values = values(key, netns, context);
        if let Some(&index) = self.by_values.get(&values) {
            return index;
        }
        let tunnel = Tunnel::new(values.clone(), key.kind, since, false, context.series_start);
        let index = match self.tunnels.iter().position(Option::is_none) {
            Some(free) => free,
            None if self.tunnels.len() >= self.most => return 0,
            None => {
                self.tunnels.push(None);
                self.tunnels.len() - 1
            }
        };
        if let Some(place) = self.tunnels.get_mut(index) {
            *place = Some(tunnel);
        }
        self.by_values.insert(values, index);
        index
    }

    fn read(
        &mut self,
        maps: &Maps,
        context: &Context<'_>,
        unix_nanos: u64,
        watched: impl Fn(&TunnelKey) -> Option<bool>,
    ) {
        for tunnel in self.tunnels.iter_mut().flatten() {
            (tunnel.rows, tunnel.unanswered, tunnel.watched) = (0, [0; 2], false);
        }
        for (slot, row) in self.rows.iter_mut().enumerate() {
            let Some(row) = row else { continue };
            if row.key.is_none() && slot != SLOT_OTHER as usize {
                continue;
            }
            let Some(Some(tunnel)) = self.tunnels.get_mut(row.series) else {
                continue;
            };
            tunnel.rows += 1;
            let shards = slot * maps.shards..(slot + 1) * maps.shards;
            let mut changed = false;
            for (i, (last, total)) in row.counters.iter_mut().zip(&mut tunnel.counters).enumerate() {
                let at = offset_of!(TunnelCells, counters) + 8 * i;
                let now = shards
                    .clone()
                    .fold(0u64, |sum, row| sum.wrapping_add(maps.cells.u64_at(row, at)));
                if now != *last {
                    *total = total.wrapping_add(now.wrapping_sub(*last));
                    *last = now;
                    changed = true;
                }
            }
            let watched = row.key.as_ref().and_then(&watched);
            tunnel.watched |= watched == Some(true);
            if changed {
                row.idle = 0;
            } else if watched != Some(false) {
                // Nobody knows of the others whether they are.
                row.idle = row.idle.saturating_add(1);
            }
            if slot == SLOT_OTHER as usize {
                continue;
            }
            for (i, (last, total)) in row.histograms.iter_mut().zip(&mut tunnel.histograms).enumerate() {
                let at = offset_of!(TunnelState, histograms) + i * size_of::<Histogram>();
                last.read(&maps.states, slot..slot + 1, at, total);
            }
            let state = |at| maps.states.u64_at(slot, at);
            for (i, unanswered) in tunnel.unanswered.iter_mut().enumerate() {
                *unanswered += state(offset_of!(TunnelState, unanswered) + 8 * i);
            }
            let handshake = state(offset_of!(TunnelState, last_handshake));
            if handshake != 0 {
                tunnel.last_handshake = tunnel
                    .last_handshake
                    .max(handshake.wrapping_add(context.boot_to_unix));
            }
            let mtu = state(offset_of!(TunnelState, mtu));
            if mtu != 0 {
                tunnel.mtu = mtu;
            }
        }
        for tunnel in self.tunnels.iter_mut().flatten() {
            for d in [direction::INGRESS, direction::EGRESS] {
                // The counters of the last tick are still in `before`.
                if tunnel.packets(d) != tunnel.before.packets[d] {
                    tunnel.last_seen[d] = unix_nanos;
                }
            }
        }
    }

    fn lose(&mut self, missing: &HashMap<u32, Missing>) {
        self.tunnels.iter_mut().flatten().for_each(|t| t.open = 0);
        for (slot, row) in self.rows.iter_mut().enumerate() {
            let Some(row) = row.as_mut().filter(|row| row.key.is_some()) else {
                continue;
            };
            let missing = missing.get(&(slot as u32)).copied().unwrap_or_default();
            row.open = missing.open;
            if let Some(Some(tunnel)) = self.tunnels.get_mut(row.series) {
                tunnel.open += missing.open;
                tunnel.closed += missing.closed;
            }
        }
        for tunnel in self.tunnels.iter_mut().flatten() {
            let lost = tunnel.counters[counter::SEQUENCE + 1] + tunnel.open + tunnel.closed;
            // One that was given up may still come: then it is counted as reordered as well.
            tunnel.lost = tunnel.lost.max(lost);
        }
    }

    fn judge(&mut self, unix_nanos: u64) -> Vec<TunnelChange> {
        // Where each direction has an id of its own, the answer comes by another.
        let mut ends: HashMap<(u8, [String; 3]), [u64; 2]> = HashMap::new();
        let mut seen = Vec::with_capacity(self.tunnels.len());
        for tunnel in &mut self.tunnels {
            let Some(tunnel) = tunnel else {
                seen.push([0; 2]);
                continue;
            };
            let packets = [direction::INGRESS, direction::EGRESS].map(|d| tunnel.packets(d));
            let delta = [0, 1].map(|d: usize| packets[d].wrapping_sub(tunnel.before.packets[d]));
            tunnel.before.packets = packets;
            seen.push(delta);
            if one_way(tunnel.kind) {
                let sum = ends.entry(tunnel.ends()).or_default();
                (sum[0], sum[1]) = (sum[0] + delta[0], sum[1] + delta[1]);
            }
        }
        let mut changes = Vec::new();
        for (tunnel, seen) in self.tunnels.iter_mut().zip(seen).skip(1) {
            let Some(tunnel) = tunnel else { continue };
            let seen = if one_way(tunnel.kind) {
                ends.get(&tunnel.ends()).copied().unwrap_or(seen)
            } else {
                seen
            };
            let second = tunnel.second(seen, unix_nanos);
            changes.extend(tunnel.judge(&second, unix_nanos));
        }
        changes
    }

    /// Gives rows back that nothing passes any more; their series end with the last of their rows.
    fn recycle(&mut self, maps: &mut Maps) -> Result<()> {
        for (slot, row) in self.rows.iter_mut().enumerate() {
            let Some(row) = row.as_mut() else { continue };
            let Some(key) = row.key else { continue };
            if !row.retired {
                if row.idle < IDLE {
                    continue;
                }
                let mut bytes = Vec::with_capacity(TunnelKey::SIZE);
                key.encode(&mut bytes);
                if maps.tunnels.remove(&bytes).is_ok() {
                    maps.epoch.set_u64(0, 0, maps.epoch.u64_at(0, 0).wrapping_add(1));
                    // A program may have found the row just before: it is read on until the next sweep.
                    row.retired = true;
                }
                continue;
            }
            self.windows.remove(&maps.windows, slot as u32);
            if let Some(Some(tunnel)) = self.tunnels.get_mut(row.series) {
                tunnel.closed += std::mem::take(&mut row.open);
                tunnel.rows -= 1;
                if tunnel.rows == 0 {
                    let values = tunnel.values.clone();
                    self.by_values.remove(&values);
                    if let Some(place) = self.tunnels.get_mut(row.series) {
                        *place = None;
                    }
                }
            }
            (row.key, row.retired) = (None, false);
            maps.free.push(slot as u32).context("TUNNEL_FREE")?;
        }
        let keys = self.rows.iter().flatten().filter_map(|row| row.key.as_ref());
        maps.ends.sweep(keys)
    }

    /// Rows in use.
    pub fn used(&self) -> usize {
        self.rows.iter().flatten().filter(|row| row.key.is_some()).count()
    }
}
