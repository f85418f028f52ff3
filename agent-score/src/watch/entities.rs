//! Entities, peers and subjects: a forest over the signals of each, whose score says how unusual they are together, and which agrees, or
//! does not, where a watched series of the entity is an anomaly. By itself it makes one only where more than one false alarm a week is
//! allowed, for its score has a greatest value.

use super::signals::{Asked, Key, Kind, Signals, shares, there};
use super::{Anomaly, Ask, Definition, FORGOTTEN, Kept, Round, Unit, Watch};
use crate::anomaly::{Forest, Millis, Scored, Settings as Judged, Verdict};
use agent_store::labels::Labels;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Name of the watch that their anomalies have.
pub const ENTITY_WATCH: &str = "entity";
/// Signals as usual after which an anomaly is over.
const CALM: u8 = 10;
/// Who has had no signal for so long gives way to another …
const GIVES_WAY: Millis = 3_600_000;
/// … and who is so many times less busy than another, over so long, does as well.
const BUSIER: f64 = 4.0;
const BUSY: f64 = 3600.0;
/// Work of so little is none.
const IDLE: f64 = 1e-6;

/// What has been learned of one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entity {
    forest: Forest<8>,
    seen: Millis,
    /// Signals that it had.
    there: usize,
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
    asked: Asked,
    /// The latest evaluation.
    at: Millis,
    pub(super) all: BTreeMap<Key, Entity>,
    /// How busy each is, those for which there is no room included: shares of what all of its kind do, fading.
    pub(super) work: BTreeMap<Key, f64>,
    /// Those that the latest evaluation had and for which there was no room.
    pub refused: usize,
}

impl Entities {
    /// At most so many; a moment comes each `interval`.
    pub fn new(settings: Judged, most: usize, interval: Millis) -> Self {
        Self {
            settings,
            most,
            asked: Asked::new(interval),
            at: 0,
            all: BTreeMap::new(),
            work: BTreeMap::new(),
            refused: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Questions whose latest answer there was none, and why.
    pub fn failed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.asked.failed()
    }

    /// Those that the latest evaluation had, or whose anomaly is not over: label, name, score, anomaly.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str, &Scored, Option<u64>)> {
        let all = self
            .all
            .iter()
            .filter(|(_, entity)| entity.seen == self.at || entity.active.is_some());
        all.map(|((kind, name), entity)| (kind.label(), name.as_str(), &entity.latest, entity.active))
    }

    /// Judges this moment of each. Answers how many questions were not answered.
    pub fn observe(&mut self, at: Millis, watches: &[Watch], ask: &mut Ask, round: &mut Round) -> u64 {
        self.at = at;
        self.refused = 0;
        if self.most == 0 {
            return 0;
        }
        let (signals, failures) = self.asked.signals(at, watches, ask, round);
        self.make_room(at, &signals);
        for (key, signals) in &signals {
            match self.all.get_mut(key) {
                Some(entity) => entity.observe(&self.settings, at, signals),
                None => self.refused += 1,
            }
        }
        failures
    }

    /// Adds what the forests of those that a series is of have said of this moment.
    pub fn corroborate(&self, labels: &Labels, scored: &mut Scored) {
        let keys = Kind::ALL.into_iter().filter_map(|kind| kind.key(labels));
        let entities = keys.filter_map(|key| self.all.get(&key));
        for entity in entities.filter(|entity| entity.seen == self.at) {
            scored.corroborate(&entity.latest);
        }
    }

    /// Tells which of their own anomalies begin and which are over.
    pub fn judge(&mut self, at: Millis, kept: &mut Kept, begun: &mut Vec<u64>, round: &mut Round) {
        for ((kind, name), entity) in self.all.iter_mut().filter(|(_, entity)| entity.seen == at) {
            entity.judge((kind.label(), name), at, kept, begun, round);
        }
    }

    /// Ends the anomalies of those that have had no signal for longer than `gone`, and forgets at last who they were.
    pub fn end(&mut self, at: Millis, gone: Millis, kept: &mut Kept, round: &mut Round) {
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

    /// Places for those that are there now, the busiest first. Who has one keeps it, for a forest is learned in hours: unless it
    /// has had no signal for long, or is much less busy than who has none.
    fn make_room(&mut self, at: Millis, signals: &BTreeMap<Key, Signals>) {
        self.measure(signals);
        let work = |key: &Key| self.work.get(key).copied().unwrap_or_default();
        let new = signals.keys().filter(|key| !self.all.contains_key(*key));
        let mut new: Vec<(f64, &Key)> = new.map(|key| (work(key), key)).collect();
        new.sort_by(|a, b| b.0.total_cmp(&a.0));
        let old = self.all.iter().filter(|(_, entity)| entity.active.is_none());
        let old = old.map(|(key, entity)| (at - entity.seen <= GIVES_WAY, work(key), key.clone()));
        let mut old: Vec<(bool, f64, Key)> = old.collect();
        old.sort_by(|a, b| b.0.cmp(&a.0).then(b.1.total_cmp(&a.1)));
        for (busy, key) in new {
            if self.all.len() >= self.most {
                let gives_way = old.pop_if(|(is_there, of_old, _)| !*is_there || busy > BUSIER * *of_old);
                let Some((.., old)) = gives_way else { return };
                self.all.remove(&old);
            }
            self.all.insert(key.clone(), Entity::new(at));
        }
    }

    /// How busy each is.
    fn measure(&mut self, signals: &BTreeMap<Key, Signals>) {
        let gain = (self.settings.step / BUSY).min(1.0);
        for work in self.work.values_mut() {
            *work -= *work * gain;
        }
        for (key, share) in shares(signals) {
            *self.work.entry(key.clone()).or_default() += share * gain;
        }
        self.work.retain(|_, work| *work > IDLE);
    }
}

impl Entity {
    fn new(at: Millis) -> Self {
        Self {
            forest: Forest::default(),
            seen: at,
            there: 0,
            latest: Scored::default(),
            since: None,
            calm: 0,
            active: None,
        }
    }

    fn observe(&mut self, settings: &Judged, at: Millis, signals: &Signals) {
        (self.seen, self.there) = (at, there(signals));
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
        (label, name): (&str, &str),
        at: Millis,
        kept: &mut Kept,
        begun: &mut Vec<u64>,
        round: &mut Round,
    ) {
        match (self.active, self.since) {
            (None, Some(_)) => {
                let definition = Definition {
                    name: ENTITY_WATCH.to_owned(),
                    expr: String::new(),
                    unit: Unit::Number,
                    least: 0.0,
                    zero: false,
                };
                let labels = [(label.to_owned(), name.to_owned())].into();
                let told = Anomaly::new(&definition, labels, self.there as f64, &self.latest);
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
        let mut entities = Entities::new(Judged::new(10.0), 4, 10_000);
        let number = kept.add(Anomaly::default());
        let mut entity = Entity::new(1000);
        (entity.active, entity.since) = (Some(number), Some(1000));
        entities.all.insert((Kind::Subject, "db".to_owned()), entity);
        entities.end(1000 + 50, 100, &mut kept, &mut round);
        assert!(round.ended.is_empty() && entities.iter().count() == 1);
        entities.end(1000 + 101, 100, &mut kept, &mut round);
        assert_eq!(round.ended.len(), 1);
        assert_eq!(entities.iter().count(), 0, "no score of who has no signal");
        entities.end(1000 + FORGOTTEN, 100, &mut kept, &mut round);
        assert_eq!(entities.len(), 0);
    }
}
