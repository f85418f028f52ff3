//! Peers: a forest over the signals of each, whose score says how unusual they are together. It has a greatest value, so that it
//! makes an anomaly only where more than one false alarm a week is allowed.

use super::{Anomaly, Definition, FORGOTTEN, Kept, Round, Unit, Watch};
use crate::anomaly::{Forest, Millis, Scored, Settings as Judged, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The label that names an entity.
pub const ENTITY: &str = "peer";
/// Name of the watch that its anomalies have.
pub const ENTITY_WATCH: &str = "entity";
/// Watches whose series are its signals, and the label that tells two of one apart.
const SIGNALS: [(&str, &str); 8] = [
    ("tcp_rtt_median", ""),
    ("tcp_rtt_p99", ""),
    ("tcp_retransmit_ratio", ""),
    ("tcp_opened", ""),
    ("tcp_failed", ""),
    ("tcp_resets", ""),
    ("tcp_bytes", "receive"),
    ("tcp_bytes", "transmit"),
];
type Signals = [f64; SIGNALS.len()];
/// Signals as usual after which an anomaly is over.
const CALM: u8 = 10;
/// Who has had no signal for so long gives way to another.
const GIVES_WAY: Millis = 3_600_000;

/// What has been learned of one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entity {
    forest: Forest<{ SIGNALS.len() }>,
    seen: Millis,
    #[serde(skip)]
    latest: Scored,
    since: Option<Millis>,
    calm: u8,
    pub(super) active: Option<u64>,
}

/// All of them.
pub(super) struct Entities {
    settings: Judged,
    most: usize,
    /// The latest evaluation.
    at: Millis,
    pub(super) all: BTreeMap<String, Entity>,
    /// Those that the latest evaluation had and for which there was no room.
    pub refused: usize,
}

impl Entities {
    pub fn new(settings: Judged, most: usize) -> Self {
        Self {
            settings,
            most,
            at: 0,
            all: BTreeMap::new(),
            refused: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Those that the latest evaluation had, or whose anomaly is not over.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Scored, Option<u64>)> {
        let all = self
            .all
            .iter()
            .filter(|(_, entity)| entity.seen == self.at || entity.active.is_some());
        all.map(|(name, entity)| (name.as_str(), &entity.latest, entity.active))
    }

    pub fn evaluate(
        &mut self,
        at: Millis,
        watches: &[Watch],
        kept: &mut Kept,
        begun: &mut Vec<u64>,
        round: &mut Round,
    ) {
        self.refused = 0;
        if self.most == 0 {
            return;
        }
        let signals = signals(at, watches);
        let names: BTreeSet<&String> = signals.keys().collect();
        self.make_room(at, &names);
        for (name, signals) in &signals {
            if !self.all.contains_key(name) {
                if self.all.len() >= self.most {
                    self.refused += 1;
                    continue;
                }
                self.all.insert(name.clone(), Entity::new(at));
            }
            if let Some(entity) = self.all.get_mut(name) {
                entity.observe(&self.settings, at, signals);
                entity.judge(name, at, signals, kept, begun, round);
            }
        }
    }

    /// Ends the anomalies of those that have had no signal for longer than `gone`, and forgets at last who they were.
    pub fn end(&mut self, at: Millis, gone: Millis, kept: &mut Kept, round: &mut Round) {
        self.at = at;
        self.all.retain(|_, entity| {
            let unseen = at - entity.seen;
            if unseen > gone
                && let Some(number) = entity.active.take()
            {
                entity.since = None;
                round
                    .ended
                    .extend(kept.end(number, at, "there is no value any more"));
            }
            unseen < FORGOTTEN
        });
    }

    /// Those that have had no signal for long give way to who comes.
    fn make_room(&mut self, at: Millis, names: &BTreeSet<&String>) {
        let new = names.iter().filter(|name| !self.all.contains_key(**name)).count();
        let mut excess = (self.all.len() + new).saturating_sub(self.most);
        self.all.retain(|_, entity| {
            let gives_way = excess > 0 && entity.active.is_none() && at - entity.seen > GIVES_WAY;
            excess -= usize::from(gives_way);
            !gives_way
        });
    }
}

/// What there is of each entity: NaN where there is nothing. Who has fewer than half of the signals is none.
fn signals(at: Millis, watches: &[Watch]) -> BTreeMap<String, Signals> {
    let mut all: BTreeMap<String, Signals> = BTreeMap::new();
    for watch in watches {
        for (labels, series) in &watch.series {
            let name = labels.get(ENTITY);
            let direction = labels.get("direction");
            let place = SIGNALS
                .iter()
                .position(|(of, which)| *of == watch.definition.name && *which == direction);
            let (Some(place), false) = (place, name.is_empty() || series.at != at) else {
                continue;
            };
            let signals = all.entry(name.to_owned()).or_insert([f64::NAN; SIGNALS.len()]);
            if let Some(signal) = signals.get_mut(place) {
                *signal = series.value;
            }
        }
    }
    all.retain(|_, signals| signals.iter().filter(|s| s.is_finite()).count() >= SIGNALS.len() / 2);
    all
}

impl Entity {
    fn new(at: Millis) -> Self {
        Self {
            forest: Forest::default(),
            seen: at,
            latest: Scored::default(),
            since: None,
            calm: 0,
            active: None,
        }
    }

    fn observe(&mut self, settings: &Judged, at: Millis, signals: &Signals) {
        self.seen = at;
        self.latest = self.forest.observe(settings, at, signals);
        if self.latest.verdict == Verdict::Anomaly {
            self.since = self.since.or(Some(at));
            self.calm = 0;
        } else {
            self.calm = self.calm.saturating_add(1);
            self.since = self.since.filter(|_| self.calm < CALM);
        }
        self.latest.since = self.since;
    }

    fn judge(
        &mut self,
        name: &str,
        at: Millis,
        signals: &Signals,
        kept: &mut Kept,
        begun: &mut Vec<u64>,
        round: &mut Round,
    ) {
        match (self.active, self.since) {
            (None, Some(_)) => {
                let there = signals.iter().filter(|signal| signal.is_finite()).count();
                let definition = Definition {
                    name: ENTITY_WATCH.to_owned(),
                    expr: String::new(),
                    unit: Unit::Number,
                    least: 0.0,
                    zero: false,
                };
                let labels = [(ENTITY.to_owned(), name.to_owned())].into();
                let mut told = Anomaly::new(&definition, labels, there as f64, &self.latest);
                told.detectors.push("isolation-forest".to_owned());
                let number = kept.add(told);
                self.active = Some(number);
                begun.push(number);
            }
            (Some(number), Some(_)) => {
                let value = kept.get(number).map_or(f64::NAN, |anomaly| anomaly.value);
                kept.update(number, value, &self.latest);
            }
            (Some(number), None) => {
                self.active = None;
                round.ended.extend(kept.end(number, at, "it is as usual again"));
            }
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anomaly_of_who_is_gone_is_over() {
        let (mut kept, mut round) = (Kept::default(), Round::default());
        let mut entities = Entities::new(Judged::new(10.0), 4);
        let number = kept.add(Anomaly::default());
        let mut entity = Entity::new(1000);
        (entity.active, entity.since) = (Some(number), Some(1000));
        entities.all.insert("db".to_owned(), entity);
        entities.end(1000 + 50, 100, &mut kept, &mut round);
        assert!(round.ended.is_empty() && entities.iter().count() == 1);
        entities.end(1000 + 101, 100, &mut kept, &mut round);
        assert_eq!(round.ended.len(), 1);
        assert_eq!(entities.iter().count(), 0, "no score of who has no signal");
        entities.end(1000 + FORGOTTEN, 100, &mut kept, &mut round);
        assert_eq!(entities.len(), 0);
    }
}
