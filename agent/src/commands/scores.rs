//! What a recording comes to when it is scored as the agent scores what it sees: health, and what is not as usual. Each
//! evaluation is made at the second of the recording at which an agent would have made it.

use super::anomalies;
use super::store::moment;
use crate::aggregate::{Collect as _, Family};
use crate::alert::Rules;
use crate::config::Config;
use crate::error::{Context as _, Result};
use crate::memory::Memory;
use crate::score::{self, Anomalies};
use crate::ui::print::table;
use agent_store::labels::Labels;
use agent_store::promql::{self, Options, Value};
use agent_store::series::{Free, Millis};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Names of states, by their numbers.
const STATES: [&str; 3] = ["healthy", "degraded", "critical"];
/// Scores that lie further apart than this have nothing to do with each other: the entity was gone.
const GAP: Millis = 5 * 60 * 1000;
/// One that has had no score for so long when the last were made is gone: four evaluations of the quickest rules.
const GONE: Millis = 60 * 1000;

/// What evaluates.
pub(super) struct Scores {
    rules: Option<Arc<Rules>>,
    anomalies: Option<Arc<Anomalies>>,
    collect: Option<score::StatsCollect>,
}

/// What was said.
pub(super) struct Report {
    span: (Millis, Millis),
    /// When scores were made last, of anybody.
    scored: Millis,
    /// By kind and name.
    health: BTreeMap<(String, String), Health>,
    anomalies: Option<serde_json::Value>,
}

/// Scores of one subject, peer, zone, region or node.
#[derive(Default)]
struct Health {
    scores: Vec<(Millis, f64)>,
    states: Vec<(Millis, f64)>,
}

/// A time in which it was not healthy.
#[derive(Debug, PartialEq)]
struct Episode {
    from: Millis,
    /// `None` = it still was at the end.
    to: Option<Millis>,
    /// The worst.
    state: usize,
    lowest: f64,
}

impl Scores {
    /// As the configuration asks for health, objectives and watches. `baseline`: what an agent has learned; without it everything
    /// is learned of the recording.
    pub fn new(config: &Config, memory: &Arc<Memory>, began: u64, baseline: Option<&Path>) -> Result<Self> {
        let mut config = config.clone();
        // Files of rules are asked for by themselves.
        config.rules.files.clear();
        let anomalies = Anomalies::replayed(&config, memory, began, baseline)?;
        Ok(Self {
            rules: Rules::open(&config, Some(memory), None),
            collect: anomalies
                .clone()
                .map(|anomalies| score::StatsCollect::new(anomalies, began)),
            anomalies,
        })
    }

    /// Adds the series of the latest evaluation, in the order of their labels.
    pub fn add(&mut self, families: &mut Vec<Family>) {
        let told = families.len();
        if let Some(collect) = &mut self.collect {
            collect.collect(families);
        }
        for family in families.iter_mut().skip(told) {
            family.series.sort_by(|a, b| a.labels.text.cmp(&b.labels.text));
        }
    }

    /// Evaluates what is due at a time of the recording.
    pub fn evaluate(&self, at: Millis) {
        if let Some(rules) = &self.rules {
            rules.evaluate(at);
        }
        if let Some(anomalies) = &self.anomalies {
            anomalies.evaluate(at);
        }
    }

    /// What was said until the end.
    pub fn report(&self, memory: &Memory) -> Result<Report> {
        let span = memory.store().info().span.unwrap_or_default();
        let mut health: BTreeMap<(String, String), Health> = BTreeMap::new();
        for (labels, points) in whole(memory, "geophone_health_score", span)? {
            health.entry(key(&labels)).or_default().scores = points;
        }
        for (labels, points) in whole(memory, "geophone_health_state", span)? {
            health.entry(key(&labels)).or_default().states = points;
        }
        health.retain(|_, health| !health.scores.is_empty());
        let last = health.values().filter_map(|health| health.states.last());
        Ok(Report {
            span,
            scored: last.map(|(at, _)| *at).max().unwrap_or_default(),
            health,
            anomalies: self.anomalies.as_ref().map(|anomalies| anomalies.view(false)),
        })
    }
}

fn key(labels: &Labels) -> (String, String) {
    (labels.get("entity").to_owned(), labels.get("name").to_owned())
}

/// Samples of a series: when, and what.
type Points = Vec<(Millis, f64)>;

/// All samples of a metric.
fn whole(memory: &Memory, metric: &str, (from, to): (Millis, Millis)) -> Result<Vec<(Labels, Points)>> {
    let query = format!("{metric}[{}ms]", to - from + 1000);
    let answer = promql::instant(&query, to, &Options::default(), memory.store(), &Free).context(metric)?;
    let Value::Matrix(all) = answer.value else {
        return Ok(Vec::new());
    };
    let points = |series: agent_store::series::Series| {
        let floats = series.samples.floats;
        let points = floats.times.into_iter().zip(floats.values);
        (series.labels, points.collect())
    };
    Ok(all.into_iter().map(points).collect())
}

impl Health {
    fn lowest(&self) -> Option<(Millis, f64)> {
        let scores = self.scores.iter().copied();
        scores.min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The times in which it was not healthy; `scored`: when anybody was scored last. Who is gone by then is not ill any more.
    fn episodes(&self, scored: Millis) -> Vec<Episode> {
        let mut all: Vec<Episode> = Vec::new();
        let mut before = None;
        for (at, state) in &self.states {
            let state = if state.is_finite() { *state as usize } else { 0 };
            let goes_on = before.is_some_and(|before| at - before <= GAP);
            let open = all.last_mut().filter(|last| last.to.is_none());
            match (open, before) {
                (Some(last), _) if goes_on && state > 0 => last.state = last.state.max(state),
                (Some(last), Some(before)) => {
                    last.to = Some(if goes_on { *at } else { before });
                    if state > 0 {
                        all.push(Episode::new(*at, state));
                    }
                }
                _ if state > 0 => all.push(Episode::new(*at, state)),
                _ => {}
            }
            before = Some(*at);
        }
        if let (Some(last), Some(before)) = (all.last_mut(), before)
            && last.to.is_none()
            && scored - before > GONE
        {
            last.to = Some(before);
        }
        for episode in &mut all {
            // The score of the moment in which it is well again is none of it; that after which there is none is.
            let (from, to) = (episode.from, episode.to);
            let is_gone =
                to.is_some_and(|to| self.states.iter().any(|(at, state)| *at == to && *state > 0.0));
            let inside = |at: &Millis| *at >= from && to.is_none_or(|to| *at < to || is_gone && *at == to);
            let scores = self
                .scores
                .iter()
                .filter(|(at, _)| inside(at))
                .map(|(_, score)| *score);
            episode.lowest = scores.fold(f64::NAN, f64::min);
        }
        all
    }
}

impl Episode {
    const fn new(from: Millis, state: usize) -> Self {
        Self {
            from,
            to: None,
            state,
            lowest: f64::NAN,
        }
    }

    fn state(&self) -> &'static str {
        STATES.get(self.state).copied().unwrap_or("critical")
    }
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let mut rows = Vec::new();
        for ((kind, name), health) in &self.health {
            for episode in health.episodes(self.scored) {
                let lasting = |to: Millis| {
                    let seconds = Duration::from_secs((to - episode.from).unsigned_abs() / 1000);
                    humantime::format_duration(seconds).to_string()
                };
                let row = [
                    moment(episode.from),
                    episode.to.map_or_else(|| "still".to_owned(), lasting),
                    episode.state().to_owned(),
                    kind.clone(),
                    name.clone(),
                    format!("{:.1}", episode.lowest),
                ];
                rows.push(row.to_vec());
            }
        }
        rows.sort();
        let heads = ["SINCE", ">FOR", "STATE", "ENTITY", "NAME", ">LOWEST SCORE"];
        let mut parts = Vec::new();
        if !rows.is_empty() {
            parts.push(table(&heads, &rows).trim_end().to_owned());
        }
        let (from, to) = self.span;
        parts.push(format!(
            "{} times not healthy, of {} that were scored, from {} to {}",
            rows.len(),
            self.health.len(),
            moment(from),
            moment(to)
        ));
        let anomalies = self.anomalies.clone().map(anomalies::told);
        parts.extend(anomalies.and_then(Result::ok));
        parts.join("\n\n")
    }

    /// For programs.
    pub fn json(&self) -> serde_json::Map<String, serde_json::Value> {
        let health = self.health.iter().map(|((kind, name), health)| {
            let lowest = health.lowest();
            let episodes = health.episodes(self.scored);
            let episodes = episodes.iter().map(|episode| {
                json!({
                    "from": moment(episode.from), "to": episode.to.map(moment), "state": episode.state(),
                    "lowest": episode.lowest,
                })
            });
            json!({
                "entity": kind, "name": name,
                "lowest": lowest.map(|(_, score)| score), "lowest_at": lowest.map(|(at, _)| moment(at)),
                "last": health.scores.last().map(|(_, score)| score),
                "not_healthy": episodes.collect::<Vec<_>>(),
            })
        });
        let mut out = serde_json::Map::new();
        out.insert("from".into(), moment(self.span.0).into());
        out.insert("to".into(), moment(self.span.1).into());
        out.insert("health".into(), health.collect());
        out.insert("anomalies".into(), self.anomalies.clone().unwrap_or_default());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{self, Label, Series, Snapshot};
    use crate::api::json::SnapshotView;
    use crate::memory::Recorder;
    use crate::probes::tcp::metrics::{RETRANSMITS, SEGMENTS};
    use agent_store::store::Place;

    #[test]
    fn times_of_ill_health_end_when_it_is_well_again_or_gone() {
        let points = |values: &[(Millis, f64)]| values.iter().map(|(s, v)| (s * 1000, *v)).collect();
        let health = Health {
            states: points(&[(0, 0.0), (15, 1.0), (30, 2.0), (45, 0.0), (60, 1.0), (900, 1.0)]),
            scores: points(&[
                (0, 99.0),
                (15, 70.0),
                (30, 40.0),
                (45, 90.0),
                (60, 71.0),
                (900, 72.0),
            ]),
        };
        let one = |from: Millis, to: Option<Millis>, state, lowest| Episode {
            from: from * 1000,
            to: to.map(|to| to * 1000),
            state,
            lowest,
        };
        assert_eq!(health.lowest(), Some((30_000, 40.0)));
        let expected = [
            one(15, Some(45), 2, 40.0),
            one(60, Some(60), 1, 71.0),
            one(900, None, 1, 72.0),
        ];
        let found = health.episodes(905_000);
        assert_eq!(format!("{found:?}"), format!("{expected:?}"));
        // Others were scored for longer: it is not there any more, and not ill.
        let found = health.episodes(1_000_000);
        assert_eq!(
            format!("{:?}", found.last()),
            format!("{:?}", Some(one(900, Some(900), 1, 72.0)))
        );
    }

    const BEGAN: u64 = 1_700_000_000;

    /// Ten minutes in which a program talks to a peer; from the seventh on every tenth of its segments is sent again.
    fn scored() -> (Report, Arc<Memory>, Vec<String>) {
        let config = Config::parse("f", "anomaly: {interval: 10s, learning: 16}").unwrap();
        let memory = Memory::replayed(Place::Memory, &config.store).unwrap();
        let memory = Arc::new(memory);
        let mut scores = Scores::new(&config, &memory, BEGAN * 1_000_000_000, None).unwrap();
        let mut recorder = Recorder::new("h");
        let labels = [&SEGMENTS, &RETRANSMITS].map(|metric| {
            let value = |label: &&Label| match label.prometheus {
                "subject" => "web",
                "peer" => "db",
                "direction" => "transmit",
                _ => "",
            };
            let values: Vec<&str> = metric.labels.iter().map(value).collect();
            Arc::new(aggregate::Labels::new(metric.labels, &values, false, 1))
        });
        let (mut again, mut exported) = (0, Vec::new());
        for second in 1..=600 {
            again += if second > 360 { 10 } else { 0 };
            let family = |metric, i: usize, count| Family {
                metric,
                series: vec![Series {
                    labels: labels[i].clone(),
                    value: aggregate::Value::Counter(count),
                }],
            };
            let mut snapshot = Snapshot {
                tick: second,
                unix_nanos: (BEGAN + second) * 1_000_000_000,
                start_unix_nanos: BEGAN * 1_000_000_000,
                resource: Arc::default(),
                families: vec![family(&SEGMENTS, 0, 100 * second), family(&RETRANSMITS, 1, again)],
            };
            scores.add(&mut snapshot.families);
            exported.push(serde_json::to_string(&SnapshotView::from(&snapshot)).unwrap());
            scores.evaluate(memory.step(&mut recorder, &snapshot));
        }
        (scores.report(&memory).unwrap(), memory, exported)
    }

    #[test]
    fn a_recording_is_scored_at_its_own_time_and_twice_the_same() {
        let (report, memory, exported) = scored();
        let web = &report.health[&("subject".to_owned(), "web".to_owned())];
        let episodes = web.episodes(report.scored);
        let since = episodes[0].from / 1000 - BEGAN as Millis;
        assert!((361..=420).contains(&since), "{since} s");
        assert!(
            episodes[0].to.is_none() && episodes[0].lowest < 80.0,
            "{episodes:?}"
        );
        let text = report.text();
        assert!(
            text.contains("tcp_retransmit_ratio") && text.contains("web"),
            "{text}"
        );
        // As an agent would have them.
        let stored = whole(&memory, "geophone_anomaly_active", report.span).unwrap();
        assert!(!stored.is_empty());
        assert!(
            exported
                .iter()
                .all(|tick| !tick.contains("geophone_anomaly_cpu_seconds"))
        );
        let (again, _, same) = scored();
        assert_eq!((again.text(), again.json()), (text, report.json()));
        assert!(exported == same, "two replays differ in a tick");
    }
}
