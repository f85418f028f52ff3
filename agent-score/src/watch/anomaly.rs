//! An anomaly as it is told, and those that are kept.

use super::{Definition, Evidence, Unit};
use crate::anomaly::{Detector, Direction, Millis, Scored};
use agent_store::labels::Labels;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

/// Anomalies that are kept.
const KEPT: usize = 256;

/// Labels as they are told.
pub type Labelled = BTreeMap<String, String>;

/// A series, or an entity, that is not as it usually is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// Its number.
    pub id: u64,
    /// Name of the watch; `entity` = several signals of one entity together.
    pub watch: String,
    /// Unit of the values.
    pub unit: Unit,
    /// Labels of the series.
    pub labels: Labelled,
    /// The first sample of it, seconds since the Unix epoch.
    pub since: f64,
    /// When it was over; `None` = it is not.
    pub until: Option<f64>,
    /// Why it is over; empty = it is not.
    pub over: String,
    /// `up`, `down`, `wider` or `narrower`, at the beginning.
    pub direction: Direction,
    /// Which detectors found it, at any time.
    pub detectors: Vec<String>,
    /// Those that found it when it began: they stay as they are, also after a restart.
    #[serde(default)]
    pub detectors_first: Vec<String>,
    /// The highest score.
    pub score: f32,
    /// The value that had it.
    pub value: f64,
    /// The value that was expected at the beginning, and between which others it would have been as usual; `None` = there is no
    /// such value.
    pub expected: Option<f64>,
    /// See `expected`.
    pub lower: Option<f64>,
    /// See `expected`.
    pub upper: Option<f64>,
    /// What else was other than before in that moment: the largest change of each kind before the rest, of both what shares a label
    /// with the anomaly before what does not.
    pub evidence: Vec<Evidence>,
    /// Changes that were found besides and are not told.
    #[serde(default)]
    pub evidence_left_out: usize,
    /// Why there is no evidence, or not all of it; empty = it was looked for everywhere.
    pub evidence_missing: String,
    /// Of an agent that takes stacks: the arguments of `geophone diff` that show what the CPU did then and did not before;
    /// empty = no stacks are taken.
    pub profile: Vec<String>,
}

fn seconds(at: Millis) -> f64 {
    at as f64 / 1e3
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

impl Anomaly {
    pub(super) fn new(definition: &Definition, labels: Labelled, value: f64, scored: &Scored) -> Self {
        let mut new = Self {
            watch: definition.name.clone(),
            unit: definition.unit,
            labels,
            since: seconds(scored.since.unwrap_or_default()),
            direction: scored.direction,
            expected: finite(scored.expected),
            lower: finite(scored.lower),
            upper: finite(scored.upper),
            evidence_missing: "it has not been looked for yet".to_owned(),
            ..Self::default()
        };
        new.update(value, scored);
        new
    }

    /// Whether this says more of it than is known.
    fn learns(&self, scored: &Scored) -> bool {
        let is_new = |detector: Detector| !self.detectors.iter().any(|known| known == detector.name());
        self.is_more(scored) || scored.agreeing.iter().any(is_new)
    }

    /// Whether it is the same, and farther off: the way back from a rise that has lasted is a fall, and may be the rarer.
    fn is_more(&self, scored: &Scored) -> bool {
        scored.score > self.score && scored.direction == self.direction
    }

    pub(super) fn update(&mut self, value: f64, scored: &Scored) {
        if self.is_more(scored) {
            (self.score, self.value) = (scored.score, value);
        }
        for detector in scored.agreeing.iter().map(Detector::name) {
            if !self.detectors.iter().any(|known| known == detector) {
                self.detectors.push(detector.to_owned());
            }
        }
    }

    /// As it is told to begin, also when it is over by then.
    pub(super) fn as_it_began(&self) -> Self {
        Self {
            until: None,
            over: String::new(),
            ..self.clone()
        }
    }

    /// `watch of a=b, c=d`.
    pub fn series(&self) -> String {
        match self.labels.is_empty() {
            true => self.watch.clone(),
            false => format!("{} of {}", self.watch, text(&self.labels)),
        }
    }

    /// That there is more evidence than is told, if there is.
    pub fn left_out(&self) -> Option<String> {
        let count = self.evidence_left_out;
        (count > 0).then(|| format!("and {count} more that changed less, or share nothing with it"))
    }

    /// Between which values it would have been as usual.
    pub fn usual(&self) -> String {
        let show = |value| self.unit.show(value);
        match (self.lower, self.upper) {
            (Some(lower), Some(upper)) => format!("{} to {}", show(lower), show(upper)),
            _ => self.expected.map_or_else(String::new, show),
        }
    }
}

/// A sentence.
impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is = if self.until.is_some() { "was" } else { "is" };
        write!(f, "{} {is} {}", self.series(), self.unit.show(self.value))?;
        let usual = self.usual();
        if !usual.is_empty() {
            write!(f, " where {usual} is usual")?;
        }
        write!(
            f,
            "{}",
            match self.direction {
                Direction::Wider => ", and varies more than it did",
                Direction::Narrower => ", and varies less than it did",
                Direction::Up | Direction::Down => "",
            }
        )?;
        match self.detectors.is_empty() {
            true => write!(f, " (score {:.2})", self.score),
            false => write!(f, " ({}, score {:.2})", self.detectors.join(", "), self.score),
        }
    }
}

/// `a=b, c=d`.
pub(super) fn text(labels: &Labelled) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join(", ")
}

/// Labels of a series, as they are told.
pub(super) fn labelled(labels: &Labels) -> Labelled {
    let pairs = labels.iter();
    pairs
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

/// The latest anomalies, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    all: VecDeque<Arc<Anomaly>>,
    last: u64,
    /// Those that were forgotten before they were over.
    pub forgotten: u64,
    /// Those of which nobody will ever say that they are over, and who was told of them was not told this yet.
    given_up: Vec<Anomaly>,
}

impl Kept {
    /// What an earlier agent has kept.
    pub fn restored(all: Vec<Anomaly>) -> Self {
        Self {
            last: all.iter().map(|anomaly| anomaly.id).max().unwrap_or_default(),
            all: all.into_iter().map(Arc::new).collect(),
            ..Self::default()
        }
    }

    /// Keeps one more, and says its number. The oldest that is over gives way, or the oldest.
    pub fn add(&mut self, mut anomaly: Anomaly) -> u64 {
        if self.all.len() >= KEPT {
            let over = self.all.iter().position(|one| one.until.is_some());
            let gone = self.all.remove(over.unwrap_or(0));
            if let Some(gone) = gone.filter(|_| over.is_none()) {
                self.forgotten += 1;
                let mut gone = Arc::unwrap_or_clone(gone);
                "it still was when too many others had begun to tell of it any longer"
                    .clone_into(&mut gone.over);
                self.given_up.push(gone);
            }
        }
        self.last += 1;
        anomaly.id = self.last;
        anomaly.detectors_first.clone_from(&anomaly.detectors);
        self.all.push_back(Arc::new(anomaly));
        self.last
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Anomaly>> {
        self.all.iter()
    }

    fn place(&self, number: u64) -> Option<usize> {
        self.all.binary_search_by_key(&number, |anomaly| anomaly.id).ok()
    }

    pub fn get(&self, number: u64) -> Option<&Anomaly> {
        Some(self.all.get(self.place(number)?)?.as_ref())
    }

    pub fn is_open(&self, number: u64) -> bool {
        self.get(number).is_some_and(|anomaly| anomaly.until.is_none())
    }

    pub fn get_mut(&mut self, number: u64) -> Option<&mut Anomaly> {
        let place = self.place(number)?;
        self.all.get_mut(place).map(Arc::make_mut)
    }

    pub fn update(&mut self, number: u64, value: f64, scored: &Scored) {
        // Who reads it holds it: it is copied only if there is something to be said.
        if self.get(number).is_some_and(|anomaly| anomaly.learns(scored))
            && let Some(anomaly) = self.get_mut(number)
        {
            anomaly.update(value, scored);
        }
    }

    /// Of those that are not over and are these nobody will ever say that they are; they were seen until then.
    pub fn give_up(&mut self, is_one: impl Fn(u64) -> bool, at: Millis, why: &str) {
        for anomaly in &mut self.all {
            if anomaly.until.is_none() && is_one(anomaly.id) {
                let anomaly = Arc::make_mut(anomaly);
                anomaly.until = Some(seconds(at).max(anomaly.since));
                why.clone_into(&mut anomaly.over);
                self.given_up.push(anomaly.clone());
            }
        }
    }

    /// Those that were given up since this was asked last.
    pub fn given_up(&mut self, at: Millis) -> Vec<Anomaly> {
        let mut all = std::mem::take(&mut self.given_up);
        for anomaly in &mut all {
            anomaly.until.get_or_insert(seconds(at));
        }
        all
    }

    pub fn end(&mut self, number: u64, at: Millis, why: &str) -> Option<Anomaly> {
        let anomaly = self.get_mut(number)?;
        // The clock may have been set back.
        anomaly.until = Some(seconds(at).max(anomaly.since));
        why.clone_into(&mut anomaly.over);
        Some(anomaly.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_over_give_way_first() {
        let mut kept = Kept::default();
        for _ in 0..KEPT {
            kept.add(Anomaly::default());
        }
        kept.end(7, 5000, "over");
        assert_eq!(kept.add(Anomaly::default()), 257);
        assert!(kept.get(7).is_none() && kept.get(1).is_some());
        assert_eq!(kept.forgotten, 0);
        assert_eq!(kept.given_up(9000), []);
        kept.add(Anomaly::default());
        assert!(kept.get(1).is_none());
        assert_eq!((kept.forgotten, kept.iter().count()), (1, KEPT));
        // Who was told that it has begun is told that nothing more will be said of it, once.
        let given_up = kept.given_up(9000);
        assert_eq!(
            (given_up.len(), given_up[0].id, given_up[0].until),
            (1, 1, Some(9.0))
        );
        assert!(given_up[0].over.contains("too many"), "{given_up:?}");
        assert_eq!(kept.given_up(9000), []);
    }

    /// Cause: another detector finds it as well, later. Seen: those of the beginning are told apart, before and after a restart, and
    /// who has been told before keeps what he was told.
    #[test]
    fn the_detectors_of_the_beginning_stay() {
        let mut kept = Kept::default();
        let found = |name: &str| vec![name.to_owned()];
        let number = kept.add(Anomaly {
            detectors: found("robust"),
            ..Anomaly::default()
        });
        let told = kept.iter().next().unwrap().clone();
        kept.get_mut(number).unwrap().detectors.extend(found("change"));
        assert_eq!(told.detectors, found("robust"));
        let text = serde_json::to_string(kept.get(number).unwrap()).unwrap();
        let restored = Kept::restored(vec![serde_json::from_str(&text).unwrap()]);
        for kept in [&kept, &restored] {
            let anomaly = kept.get(number).unwrap();
            assert_eq!(
                (anomaly.detectors.len(), &anomaly.detectors_first),
                (2, &found("robust"))
            );
        }
    }

    #[test]
    fn it_is_told_in_a_sentence() {
        let anomaly = Anomaly {
            watch: "tcp_retransmit_ratio".to_owned(),
            unit: Unit::Ratio,
            labels: [("peer".to_owned(), "db".to_owned())].into(),
            detectors: vec!["robust".to_owned(), "three-sigma".to_owned()],
            score: 0.934,
            value: 0.125,
            lower: Some(0.0),
            upper: Some(0.012),
            ..Anomaly::default()
        };
        assert_eq!(
            anomaly.to_string(),
            "tcp_retransmit_ratio of peer=db is 12.5 % where 0 % to 1.2 % is usual (robust, three-sigma, score 0.93)"
        );
    }
}
