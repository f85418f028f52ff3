//! Watched series: what is asked for in PromQL again and again, judged by the ensemble, and told when it is an anomaly.
//!
//! Pure: who evaluates the queries is given, and so is the time. A watch is a query; each series that it comes to has a
//! baseline of its own, found by its labels. The entities (peers, subjects) have a forest each besides, over their signals together.

mod anomaly;
mod baseline;
mod cpu;
mod defaults;
mod entities;
mod evidence;
mod room;
mod signals;
#[cfg(test)]
mod tests;
mod unit;
mod waiting;

pub use anomaly::{Anomaly, Labelled};
pub use baseline::{Fault, Report};
pub use cpu::{Profile, Used, changes};
pub use defaults::defaults;
pub use entities::ENTITY_WATCH;
pub use evidence::{Evidence, Span, Windows};
pub use unit::Unit;
pub use waiting::NO_STACKS;

use crate::anomaly::{Millis, Scored, Series, Settings as Judged, Verdict};
use agent_store::labels::{Labels, NAME};
use anomaly::{Kept, labelled};
use entities::Entities;
use evidence::Inquiry;
use room::Room;
use std::collections::BTreeMap;
use std::sync::Arc;
use waiting::Waiting;

/// Labels that all series of a node have: they say nothing here.
const OF_THE_NODE: [&str; 3] = [NAME, "job", "instance"];
/// Evaluations without a value after which an anomaly is over.
const GONE: Millis = 10;
/// A series that has had no value for so long gives way to a new one where there is no room, and is forgotten at last: a week
/// and a day, so that what comes once a week is known.
const GIVES_WAY: Millis = 3_600_000;
const FORGOTTEN: Millis = 8 * 86_400_000;

/// What is watched, and what of it matters.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Its name: the value of the label `watch`.
    pub name: String,
    /// The query, in PromQL; each series of its result is watched.
    pub expr: String,
    /// Unit of its values.
    pub unit: Unit,
    /// Changes up to this are none, however rare; in that unit.
    pub least: f64,
    /// Whether a series that the query does not have is 0: one that comes later then has been 0 before.
    pub zero: bool,
}

/// What holds for all watches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Milliseconds from one evaluation to the next.
    pub interval: Millis,
    /// False alarms that are allowed in a week, for each series.
    pub alarms_per_week: f64,
    /// Evaluations before anything is said of a series.
    pub learning: u32,
    /// Milliseconds after which what was an anomaly is the new normal.
    pub accept_after: Millis,
    /// Most series.
    pub most_series: usize,
    /// Most entities with a forest.
    pub most_entities: usize,
}

impl Settings {
    fn judged(&self, least: f64) -> Judged {
        Judged {
            alarms_per_week: self.alarms_per_week,
            learning: self.learning,
            accept_after: self.accept_after as f64 / 1e3,
            least,
            ..Judged::new(self.interval as f64 / 1e3)
        }
    }
}

/// Answers a query at the time of the evaluation: labels and values, or why there is no answer.
pub type Ask<'a> = dyn FnMut(&str) -> Result<Vec<(Labels, f64)>, String> + 'a;

/// Answers what the CPUs did in the second of two spans and not in the first, above all for a subject if it is not empty: the
/// [`changes`] of what was sampled then; nothing if too little was.
pub type Cpu<'a> = dyn FnMut([Span; 2], &str) -> Vec<Evidence> + 'a;

/// A series that is watched, and what was said of it last.
#[derive(Clone, Debug)]
pub struct Watched {
    state: Box<Series>,
    /// Its latest value; NaN = none yet.
    pub value: f64,
    /// What was said of it.
    pub latest: Scored,
    /// When it was evaluated.
    pub at: Millis,
    /// When the query had it last.
    seen: Millis,
    /// Its anomaly, by number.
    active: Option<u64>,
}

impl Watched {
    fn new(state: Box<Series>, at: Millis) -> Self {
        Self {
            state,
            value: f64::NAN,
            latest: Scored::default(),
            at,
            seen: at,
            active: None,
        }
    }

    /// How much of what must be seen has been; 1 = it is judged.
    pub fn learned(&self) -> f32 {
        self.state.learned()
    }

    /// The number of its anomaly, if it has one.
    pub const fn active(&self) -> Option<u64> {
        self.active
    }
}

struct Watch {
    definition: Definition,
    settings: Judged,
    series: BTreeMap<Labels, Watched>,
    /// What has been 0 all the time.
    zero: Option<Box<Series>>,
    /// Why the latest evaluation failed.
    failed: Option<String>,
}

/// How many series there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Series of which nothing is said yet.
    pub learning: usize,
    /// Series that are judged.
    pub judged: usize,
    /// Series that the latest evaluation had and for which there was no room.
    pub refused: usize,
    /// Entities with a forest.
    pub entities: usize,
    /// Entities for which there was none.
    pub entities_refused: usize,
}

/// What an evaluation came to.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// How many anomalies have begun.
    pub found: usize,
    /// Those that are told to have begun: now, or some looks ago where there was no evidence yet.
    pub begun: Vec<Anomaly>,
    /// Those that are over, or of which nothing will be told any more. Each was in `begun` of this round or of one before.
    pub ended: Vec<Anomaly>,
    /// Watches whose query failed that had not failed before, and why.
    pub failed: Vec<(String, String)>,
    /// Evidence was looked for, so what is known of anomalies is more than the verdicts said.
    pub is_explained: bool,
    /// Numbers of those that have begun.
    new: Vec<u64>,
}

/// All watches.
pub struct Watcher {
    settings: Settings,
    watches: Vec<Watch>,
    entities: Entities,
    kept: Kept,
    waiting: Waiting,
    /// Since when there have been samples without a gap, and the time of the latest.
    since: Option<Millis>,
    seen: Millis,
    /// The interval in which an evaluation was due last, by number.
    slot: Option<Millis>,
    /// The latest evaluation, be it an earlier agent's.
    latest: Millis,
    refused: usize,
    failures: u64,
}

impl Watcher {
    /// Of these watches; nothing is known yet.
    pub fn new(settings: Settings, definitions: Vec<Definition>) -> Self {
        let watches = definitions.into_iter().map(|definition| {
            let settings = settings.judged(definition.least);
            Watch {
                zero: definition.zero.then(|| Box::new(Series::new(settings))),
                settings,
                definition,
                series: BTreeMap::new(),
                failed: None,
            }
        });
        Self {
            watches: watches.collect(),
            entities: Entities::new(settings.judged(0.0), settings.most_entities, settings.interval),
            settings,
            kept: Kept::default(),
            waiting: Waiting::default(),
            since: None,
            seen: 0,
            slot: None,
            latest: 0,
            refused: 0,
            failures: 0,
        }
    }

    /// Whether an evaluation is due, now that there are samples of this time, and how many have been missed. None is before there
    /// have been samples for a whole window: counters begin anew with an agent, and of a part of a window a rate is a part of the
    /// truth. What an earlier agent stored in it, or this one before a gap, is no better.
    pub fn due(&mut self, at: Millis) -> Option<u64> {
        let window = defaults::window(self.settings.interval);
        let goes_on = (0..window).contains(&(at - self.seen));
        let since = self.since.filter(|_| goes_on).unwrap_or(at);
        (self.since, self.seen) = (Some(since), at);
        let slot = at.div_euclid(self.settings.interval.max(1));
        if at - since < window || self.slot == Some(slot) {
            return None;
        }
        let before = self.slot.replace(slot);
        // The clock may have been set back: waiting until it has caught up would be silence.
        Some(before.map_or(0, |before| (slot - before - 1).max(0).unsigned_abs()))
    }

    /// Evaluates all watches. What is to be told of them comes by [`Watcher::explain`], which may take its time when much is unusual at once.
    pub fn verdicts(&mut self, at: Millis, ask: &mut Ask) -> Round {
        self.since.get_or_insert(at);
        let mut round = Round::default();
        let mut room = Room::new(self);
        let mut begun = Vec::new();
        for place in 0..self.watches.len() {
            let Some(watch) = self.watches.get_mut(place) else {
                continue;
            };
            let answer = ask(&watch.definition.expr).and_then(single);
            match answer {
                Ok(values) => {
                    watch.failed = None;
                    self.take(place, values, at, &mut room);
                }
                Err(why) => {
                    self.failures += 1;
                    if watch.failed.as_ref() != Some(&why) {
                        round.failed.push((watch.definition.name.clone(), why.clone()));
                    }
                    watch.failed = Some(why);
                }
            }
        }
        self.refused = room.refused;
        self.failures += self.entities.observe(at, &self.watches, ask, &mut round);
        for place in 0..self.watches.len() {
            self.judge(place, at, &mut begun, &mut round);
        }
        self.entities.judge(at, &mut self.kept, &mut begun, &mut round);
        let gone = GONE * self.settings.interval;
        self.entities.end(at, gone, &mut self.kept, &mut round);
        round.found = begun.len();
        round.new = begun;
        self.latest = at;
        round
    }

    /// Looks for the causes of what the verdicts have found, and says what is to be told. `cpu`: of an agent that samples what the
    /// CPUs do.
    pub fn explain(&mut self, mut round: Round, ask: &mut Ask, cpu: Option<&mut Cpu>) -> Round {
        let at = self.latest;
        let mut inquiry = Inquiry::new(at, self.since.unwrap_or(at), self.settings.interval);
        for number in std::mem::take(&mut round.new) {
            self.waiting.add(number, at);
            if cpu.is_some()
                && let Some(anomaly) = self.kept.get_mut(number)
            {
                anomaly.profile = inquiry.profile(anomaly.since);
            }
        }
        round.is_explained = !self.waiting.is_empty();
        round.begun = self.waiting.look(&mut inquiry, &mut self.kept, ask, cpu);
        round.ended.extend(self.kept.given_up(at));
        for over in &round.ended {
            round.begun.extend(self.waiting.take(over));
        }
        round
    }

    /// There will be no more evaluations: what has not been told yet. If nobody goes on with what was learned, all that is not
    /// over is over with it.
    pub fn close(&mut self, goes_on: bool) -> Round {
        let mut round = Round {
            begun: self.waiting.all(&mut self.kept),
            ..Round::default()
        };
        if !goes_on {
            self.kept.give_up(
                |_| true,
                self.latest,
                "the agent has ended, and what it had learned with it",
            );
        }
        round.ended.extend(self.kept.given_up(self.latest));
        round
    }

    /// Takes the values of a watch.
    fn take(&mut self, place: usize, values: BTreeMap<Labels, f64>, at: Millis, room: &mut Room) {
        let mut new = Vec::new();
        if let Some(watch) = self.watches.get_mut(place) {
            if let Some(zero) = &mut watch.zero {
                // What is there and no number is not 0.
                let absent = watch
                    .series
                    .iter_mut()
                    .filter(|(labels, _)| !values.contains_key(*labels));
                absent.for_each(|(_, series)| series.observe(at, 0.0, false));
                zero.observe(at, 0.0);
            }
            for (labels, value) in values {
                match watch.series.get_mut(&labels) {
                    Some(series) => series.observe(at, value, true),
                    None => new.push((labels, value)),
                }
            }
        }
        for (labels, value) in new {
            if !room.take(self, at) {
                continue;
            }
            let Some(watch) = self.watches.get_mut(place) else {
                continue;
            };
            let state = match &watch.zero {
                // It has seen this moment as 0 already; a series takes a moment only once.
                Some(zero) => zero.clone(),
                None => Box::new(Series::new(watch.settings)),
            };
            let mut series = Watched::new(state, at);
            series.observe(at + Millis::from(watch.zero.is_some()), value, true);
            series.at = at;
            watch.series.insert(labels, series);
        }
    }

    /// Tells what has begun and what is over, and forgets what has not been there for long.
    fn judge(&mut self, place: usize, at: Millis, begun: &mut Vec<u64>, round: &mut Round) {
        let Some(watch) = self.watches.get_mut(place) else {
            return;
        };
        let gone = GONE * self.settings.interval;
        watch.series.retain(|labels, series| {
            let is_new = series.at == at && series.latest.verdict == Verdict::Anomaly;
            if is_new {
                self.entities.corroborate(labels, &mut series.latest);
            }
            if series.active.is_none() && is_new {
                let told = Anomaly::new(&watch.definition, labelled(labels), series.value, &series.latest);
                let number = self.kept.add(told);
                series.active = Some(number);
                begun.push(number);
            } else if let Some(number) = series.active {
                let ended = if series.state.is_relearning() {
                    Some(if series.state.has_lasted() {
                        "it has lasted so long that it is the new normal"
                    } else {
                        "it has other seasons than were known, and what is usual is learned anew"
                    })
                } else if series.state.since().is_none() {
                    Some("it is as usual again")
                } else if at - series.at > gone {
                    series.state.end();
                    Some("there is no value any more")
                } else {
                    None
                };
                if series.at == at {
                    self.kept.update(number, series.value, &series.latest);
                }
                if let Some(why) = ended {
                    series.active = None;
                    round.ended.extend(self.kept.end(number, at, why));
                }
            }
            series.active.is_some() || at - series.seen < FORGOTTEN
        });
    }

    /// Every series that is known, with its watch.
    pub fn series(&self) -> impl Iterator<Item = (&Definition, &Labels, &Watched)> {
        self.watches.iter().flat_map(|watch| {
            let series = watch.series.iter();
            series.map(|(labels, series)| (&watch.definition, labels, series))
        })
    }

    /// When it was evaluated last; 0 = never.
    pub const fn latest(&self) -> Millis {
        self.latest
    }

    /// How many series there are.
    pub fn counts(&self) -> Counts {
        let all = self.watches.iter().flat_map(|watch| watch.series.values());
        let (mut learning, mut judged) = (0, 0);
        for series in all {
            if series.learned() < 1.0 {
                learning += 1;
            } else {
                judged += 1;
            }
        }
        Counts {
            learning,
            judged,
            refused: self.refused,
            entities: self.entities.len(),
            entities_refused: self.entities.refused,
        }
    }

    /// Evaluations of a watch that failed.
    pub const fn failures(&self) -> u64 {
        self.failures
    }

    /// Watches, and questions about entities, whose latest evaluation failed, and why.
    pub fn failed(&self) -> impl Iterator<Item = (&str, &str)> {
        let watches = self.watches.iter();
        let watches =
            watches.filter_map(|watch| Some((watch.definition.name.as_str(), watch.failed.as_deref()?)));
        watches.chain(self.entities.failed())
    }

    /// The latest anomalies, oldest first: up to 256.
    pub fn anomalies(&self) -> impl Iterator<Item = &Arc<Anomaly>> {
        self.kept.iter()
    }

    /// One of them.
    pub fn anomaly(&self, number: u64) -> Option<&Anomaly> {
        self.kept.get(number)
    }

    /// Anomalies that were forgotten before they were over, because too many came after them.
    pub const fn forgotten(&self) -> u64 {
        self.kept.forgotten
    }

    /// Scores of the entities: the label that names it, `peer` or `subject`, its name, its score, and its anomaly.
    pub fn entities(&self) -> impl Iterator<Item = (&'static str, &str, &Scored, Option<u64>)> {
        self.entities.iter()
    }
}

impl Watched {
    /// A value, or 0 where the query has none.
    fn observe(&mut self, at: Millis, value: f64, is_there: bool) {
        let scored = self.state.observe(at, value);
        if scored.verdict == Verdict::Missing {
            return;
        }
        (self.value, self.latest, self.at) = (value, scored, at);
        if is_there {
            self.seen = at;
        }
    }
}

/// The series of an answer by their labels, without those that all have.
fn single(answer: Vec<(Labels, f64)>) -> Result<BTreeMap<Labels, f64>, String> {
    let mut all = BTreeMap::new();
    for (labels, value) in answer {
        let own = labels
            .iter()
            .filter(|(name, _)| !OF_THE_NODE.contains(&name.as_ref()));
        let own = Labels::new(own.map(|(name, value)| (name.clone(), value.clone())));
        if all.insert(own.clone(), value).is_some() {
            return Err(format!(
                "two series differ in nothing but __name__, job or instance: {}; aggregate them, e.g. sum by (…)",
                anomaly::text(&labelled(&own))
            ));
        }
    }
    Ok(all)
}
