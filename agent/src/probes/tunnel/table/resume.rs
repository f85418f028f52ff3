//! What a recording says of the table where it may begin: with it a replay goes on as the agent did.

use super::super::exported::{Before, Tunnel};
use super::super::health::Health;
use super::super::inner::{self, Inner};
use super::super::pairs::{self, Pairs};
use super::super::windows::{self, Windows};
use super::{Maps, Row, Table};
use crate::probes::Context;
use agent_common::histogram::Histogram;
use agent_common::tunnel::{TunnelKey, TunnelState};
use agent_common::wire::Wire as _;
use serde::{Deserialize, Serialize};
use std::mem::offset_of;

/// The table at the end of a tick. Histograms are not in it: what they were the recording says of their series.
#[derive(Serialize, Deserialize)]
pub struct Told {
    /// Of which tick, ns since the epoch.
    at: u64,
    ticks: u32,
    rows: Vec<RowTold>,
    tunnels: Vec<Option<TunnelTold>>,
    windows: windows::Told,
    inner: inner::Told,
}

#[derive(Serialize, Deserialize)]
struct RowTold {
    slot: usize,
    key: Option<Vec<u8>>,
    series: usize,
    counters: Vec<u64>,
    idle: u32,
    since: u64,
    open: u64,
    retired: bool,
}

#[derive(Serialize, Deserialize)]
struct TunnelTold {
    values: [String; 6],
    kind: u8,
    since: u64,
    start: u64,
    overflow: bool,
    counters: Vec<u64>,
    lost: u64,
    closed: u64,
    open: u64,
    last_seen: [u64; 2],
    last_handshake: u64,
    unanswered: [u64; 2],
    mtu: u64,
    health: Health,
    pairs: pairs::Told,
    changes: [u64; 4],
    before: Before,
    blind: u64,
    rows: u32,
    watched: bool,
}

impl Table {
    /// As it is after a tick of this time.
    pub fn told(&self, unix_nanos: u64) -> Told {
        let row = |(slot, row): (usize, &Option<Row>)| {
            let row = row.as_ref()?;
            let encoded = |key: &TunnelKey| {
                let mut bytes = Vec::with_capacity(TunnelKey::SIZE);
                key.encode(&mut bytes);
                bytes
            };
            Some(RowTold {
                slot,
                key: row.key.as_ref().map(encoded),
                series: row.series,
                counters: row.counters.to_vec(),
                idle: row.idle,
                since: row.since,
                open: row.open,
                retired: row.retired,
            })
        };
        let tunnel = |t: &Tunnel| TunnelTold {
            values: t.values.clone(),
            kind: t.kind,
            since: t.since,
            start: t.labels.start_unix_nanos,
            overflow: t.overflow,
            counters: t.counters.to_vec(),
            lost: t.lost,
            closed: t.closed,
            open: t.open,
            last_seen: t.last_seen,
            last_handshake: t.last_handshake,
            unanswered: t.unanswered,
            mtu: t.mtu,
            health: t.health.clone(),
            pairs: t.pairs.told(),
            changes: t.changes,
            before: t.before.clone(),
            blind: t.blind,
            rows: t.rows,
            watched: t.watched,
        };
        Told {
            at: unix_nanos,
            ticks: self.ticks,
            rows: self.rows.iter().enumerate().filter_map(row).collect(),
            tunnels: self.tunnels.iter().map(|t| t.as_ref().map(tunnel)).collect(),
            windows: self.windows.told(),
            inner: self.inner.told(),
        }
    }

    /// Goes on where the agent was. False: what was told is of another tick, or of another form.
    pub fn resume(&mut self, told: Told, maps: &Maps, context: &Context<'_>) -> bool {
        let fits = told.at == context.unix_nanos
            && told.tunnels.first().is_some_and(Option::is_some)
            && told.rows.iter().all(|row| row.slot < self.rows.len())
            && told.tunnels.len() <= self.most.max(1);
        if !fits {
            return false;
        }
        self.ticks = told.ticks;
        self.by_values.clear();
        self.windows = Windows::resumed(told.windows);
        self.inner = Inner::resumed(told.inner);
        let tunnels = told.tunnels.into_iter().enumerate();
        self.tunnels = tunnels
            .map(|(index, told)| {
                let tunnel = resumed(told?, context);
                if index > 0 {
                    self.by_values.insert(tunnel.values.clone(), index);
                }
                Some(tunnel)
            })
            .collect();
        self.rows.fill_with(|| None);
        for told in told.rows {
            let key = told.key.and_then(|key| TunnelKey::decode(&key));
            let mut row = Row::new(key, told.series, told.since);
            copy(&told.counters, &mut row.counters);
            (row.idle, row.open, row.retired) = (told.idle, told.open, told.retired);
            if let Some(Some(tunnel)) = self.tunnels.get_mut(row.series) {
                let (slot, histograms) = (told.slot, row.histograms.iter_mut());
                for (i, (last, total)) in histograms.zip(&mut tunnel.histograms).enumerate() {
                    let at = offset_of!(TunnelState, histograms) + i * size_of::<Histogram>();
                    last.read(&maps.states, slot..slot + 1, at, total);
                }
            }
            if let Some(place) = self.rows.get_mut(told.slot) {
                *place = Some(row);
            }
        }
        true
    }
}

fn resumed(told: TunnelTold, context: &Context<'_>) -> Tunnel {
    let pairs = Pairs::resumed(told.pairs, &told.values, context.peers);
    let mut tunnel = Tunnel::new(told.values, told.kind, told.since, told.overflow, told.start);
    copy(&told.counters, &mut tunnel.counters);
    Tunnel {
        lost: told.lost,
        closed: told.closed,
        open: told.open,
        last_seen: told.last_seen,
        last_handshake: told.last_handshake,
        unanswered: told.unanswered,
        mtu: told.mtu,
        health: told.health,
        pairs,
        changes: told.changes,
        before: told.before,
        blind: told.blind,
        rows: told.rows,
        watched: told.watched,
        ..tunnel
    }
}

/// A recording of another version may have more or fewer.
fn copy(told: &[u64], into: &mut [u64]) {
    into.iter_mut().zip(told).for_each(|(into, told)| *into = *told);
}
