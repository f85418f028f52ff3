//! From snapshots to views.

use super::agent::{self, Own};
use super::lookups::{Datagrams, Lookups};
use super::meter::Clock;
use super::pairs::{self, Pair};
use super::tables::{DROPS, Devices, Drops};
use super::tunnels::Tunnels;
use super::{Judges, PairRow, Verdict, View, Watch};
use crate::aggregate::Snapshot;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

/// Most pairs in a view; all of them are in its total.
pub const PAIRS: usize = 500;

/// Makes a [`View`] of each snapshot.
#[derive(Debug, Default)]
pub struct ViewBuilder {
    /// Tick and time of the snapshot before.
    before: Option<(u64, u64)>,
    pairs: HashMap<String, Pair>,
    total: Pair,
    /// What is told of no pair, because labels of it are left out: it is in the total.
    of_no_pair: HashMap<String, Pair>,
    regions: BTreeMap<String, Pair>,
    drops: Drops,
    devices: Devices,
    tunnels: Tunnels,
    lookups: Lookups,
    datagrams: Datagrams,
    own: Own,
    verdicts: Vec<Verdict>,
    stacks: Option<Watch>,
    judges: Option<Judges>,
}

impl ViewBuilder {
    /// A builder that has seen nothing; its first view has totals, but no rates.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the verdicts that all following views show.
    pub fn set_verdicts(&mut self, verdicts: Vec<Verdict>) {
        self.verdicts = verdicts;
    }

    /// Shows hot functions too.
    pub fn watch(&mut self, stacks: Option<Watch>) {
        self.stacks = stacks;
    }

    /// Shows alerts, anomalies and scores too.
    pub fn judge(&mut self, judges: Option<Judges>) {
        self.judges = judges;
    }

    /// Takes the next snapshot.
    pub fn push(&mut self, snapshot: &Snapshot) -> View {
        let clock = Clock::new(
            snapshot,
            self.before.replace((snapshot.tick, snapshot.unix_nanos)),
        );
        let uptime = snapshot.unix_nanos.saturating_sub(snapshot.start_unix_nanos) as f64 / 1e9;
        let (total, pairs, pairs_omitted) = self.connections(snapshot, &clock);
        let (drops, drops_rate, drops_total, drops_history) = self.drops.push(snapshot.family(DROPS), &clock);
        View {
            host: snapshot.resource.host.clone(),
            region: snapshot.resource.region.clone(),
            zone: snapshot.resource.zone.clone(),
            tick: snapshot.tick,
            time: clock.now,
            uptime,
            interval: clock.previous.map(|_| clock.seconds),
            total,
            pairs,
            regions: self.regions.values().map(|pair| pair.row(&clock)).collect(),
            pairs_omitted,
            drops,
            drops_rate,
            drops_total,
            drops_history,
            devices: self.devices.push(snapshot, &clock),
            tunnels: self.tunnels.push(snapshot, &clock),
            dns: self.lookups.push(snapshot, &clock),
            udp: self.datagrams.push(snapshot, &clock),
            stacks: self.stacks.as_ref().map(Watch::look),
            findings: self.judges.as_ref().map(Judges::ask),
            cost: self.own.cost(snapshot, uptime, &clock),
            accounts: self.own.accounts(snapshot, &clock),
            coverage: agent::coverage(snapshot),
            verdicts: self.verdicts.clone(),
        }
    }

    fn connections(&mut self, snapshot: &Snapshot, clock: &Clock) -> (PairRow, Vec<PairRow>, usize) {
        self.pairs.values_mut().for_each(Pair::begin);
        let (mut key, mut scratch) = (String::new(), String::new());
        let slots = snapshot
            .families
            .iter()
            .filter(|family| !family.series.is_empty());
        let mut families: Vec<_> = slots
            .filter_map(|family| Some((pairs::slot(family.metric.name)?, &family.series)))
            .collect();
        families.sort_by_key(|(slot, _)| slot.order());
        // Of a metric that does without other labels than the first, a series is of no pair, or of several.
        let left_out = families.first().map(|(_, series)| pairs::left_out(series));
        let (families, others): (Vec<_>, Vec<_>) = families
            .into_iter()
            .partition(|(_, series)| left_out == Some(pairs::left_out(series)));
        self.of_no_pair.values_mut().for_each(Pair::begin);
        for (slot, family) in others.into_iter().filter(|(slot, _)| !slot.is_way()) {
            for series in family {
                pairs::key(&series.labels, &mut key);
                let _ = write!(key, "{:?}", slot.order());
                let pair = self.of_no_pair.entry(key.clone());
                let pair = pair.or_insert_with(|| Pair::new(&series.labels));
                pair.take(slot, series, clock, &mut scratch);
            }
        }
        self.of_no_pair.retain(|_, pair| pair.touched);
        for (slot, family) in families {
            for series in family {
                pairs::key(&series.labels, &mut key);
                if !slot.is_way() && !self.pairs.contains_key(&key) {
                    self.pairs.insert(key.clone(), Pair::new(&series.labels));
                }
                if let Some(pair) = self.pairs.get_mut(&key) {
                    pair.take(slot, series, clock, &mut scratch);
                }
            }
        }
        self.pairs.retain(|_, pair| pair.touched);
        self.total.clear();
        self.regions.values_mut().for_each(Pair::clear);
        for pair in self.pairs.values_mut() {
            pair.finish(clock);
            self.total.absorb(pair);
            if !self.regions.contains_key(pair.region()) {
                let sum = Pair::of_region(pair.region());
                self.regions.insert(pair.region().to_owned(), sum);
            }
            if let Some(sum) = self.regions.get_mut(pair.region()) {
                sum.absorb(pair);
            }
        }
        for pair in self.of_no_pair.values_mut() {
            pair.finish(clock);
            self.total.absorb(pair);
        }
        self.total.finish(clock);
        self.regions.retain(|_, sum| sum.touched);
        self.regions.values_mut().for_each(|sum| sum.finish(clock));
        let mut order: Vec<_> = self.pairs.iter().collect();
        order.sort_by(|(a, x), (b, y)| y.activity().total_cmp(&x.activity()).then_with(|| a.cmp(b)));
        let rows = order
            .iter()
            .take(PAIRS)
            .map(|(_, pair)| pair.row(clock))
            .collect();
        (self.total.row(clock), rows, order.len().saturating_sub(PAIRS))
    }
}
