//! What else was other than before when an anomaly began: of peers, subjects and reasons those that have changed most.

use super::anomaly::{Labelled, labelled, text};
use super::{Ask, Cpu, Unit};
use crate::anomaly::Millis;
use agent_store::labels::Labels;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// Changes of a kind that are told, and those of an anomaly: more than there are kinds.
const OF_A_KIND: usize = 3;
const MOST: usize = 12;
/// Anomalies of one evaluation for which different questions are asked, so that it ends in time; others wait for the next.
pub(super) const ASKED: usize = 8;
/// The baseline: what was before, at most so long, and so much shorter where histograms are read.
const BEFORE: Millis = 600_000;
const BEFORE_SHORT: Millis = 60_000;

/// Something that has changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// What it is, e.g. `drops`.
    pub what: String,
    /// Unit of the values.
    pub unit: Unit,
    /// Of whom, or why.
    pub labels: Labelled,
    /// What it was before, on average; `None` = it was not there.
    pub before: Option<f64>,
    /// What it was when the anomaly began; `None` = it was not there any more.
    pub now: Option<f64>,
    /// Of what is sampled, the windows that are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<Windows>,
}

/// Two windows that are compared: when each begins and is over, seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Windows {
    /// The time before the anomaly.
    pub before: [f64; 2],
    /// Its beginning.
    pub now: [f64; 2],
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show =
            |value: Option<f64>| value.map_or_else(|| "none".to_owned(), |value| self.unit.show(value));
        let [now, before] = [self.now, self.before].map(show);
        write!(f, "{} {}: ", self.what, text(&self.labels))?;
        match &self.windows {
            None => write!(f, "{now}, before {before}"),
            Some(windows) => {
                let [is, was] = [windows.now, windows.before].map(|[from, to]| to - from);
                write!(f, "{now} in {is:.0} s, before {before} in {was:.0} s")
            }
        }
    }
}

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it begins.
    pub from: Millis,
    /// When it is over.
    pub to: Millis,
}

/// Whether a count is what chance makes of the one that was expected.
pub(super) fn is_chance(expected: f64, count: f64) -> bool {
    (count - expected).abs() < 4.0 * expected.max(1.0).sqrt()
}

/// A question, with `$M` where matchers go and `$W` for the window.
struct Question {
    what: &'static str,
    unit: Unit,
    query: &'static str,
    /// Labels of the anomaly's series that its metric has as well.
    matched: &'static [&'static str],
    /// A change is at least this large, and by this factor; counts have to be rare besides.
    least: f64,
    factor: f64,
    before: Millis,
}

const QUESTIONS: [Question; 9] = [
    Question {
        what: "drops",
        unit: Unit::PerSecond,
        query: "sum by (reason, device, direction) (rate(geophone_drops_packets_total$M$W))",
        matched: &["reason", "device", "subject"],
        least: 0.3,
        factor: 2.0,
        before: BEFORE,
    },
    Question {
        what: "retransmits",
        unit: Unit::PerSecond,
        query: "sum by (peer, subject, type) (rate(geophone_tcp_retransmits_total$M$W))",
        matched: &["peer", "subject"],
        least: 0.3,
        factor: 2.0,
        before: BEFORE,
    },
    Question {
        what: "failed connections",
        unit: Unit::PerSecond,
        query: "sum by (peer, subject, error) (rate(geophone_tcp_connections_total$M$W))",
        matched: &["peer", "subject"],
        least: 0.1,
        factor: 2.0,
        before: BEFORE,
    },
    Question {
        what: "resets",
        unit: Unit::PerSecond,
        query: "sum by (peer, subject, direction) (rate(geophone_tcp_resets_total$M$W))",
        matched: &["peer", "subject"],
        least: 0.3,
        factor: 2.0,
        before: BEFORE,
    },
    Question {
        what: "round-trip time",
        unit: Unit::Seconds,
        query: "histogram_quantile(0.5, sum by (peer, subject) (rate(geophone_tcp_rtt_seconds$M$W)))",
        matched: &["peer", "subject"],
        least: 0.001,
        factor: 1.5,
        before: BEFORE_SHORT,
    },
    Question {
        what: "bytes",
        unit: Unit::BytesPerSecond,
        query: "sum by (peer, subject, direction) (rate(geophone_tcp_bytes_total$M$W))",
        matched: &["peer", "subject", "direction"],
        least: 10_000.0,
        factor: 2.0,
        before: BEFORE,
    },
    Question {
        what: "DNS answers",
        unit: Unit::PerSecond,
        query: "sum by (server, rcode) (histogram_count(rate(geophone_dns_lookup_seconds$M$W)))",
        matched: &["server", "subject"],
        least: 0.3,
        factor: 2.0,
        before: BEFORE_SHORT,
    },
    Question {
        what: "DNS timeouts",
        unit: Unit::PerSecond,
        query: "sum by (server, subject) (rate(geophone_dns_timeouts_total$M$W))",
        matched: &["server", "subject"],
        least: 0.1,
        factor: 2.0,
        before: BEFORE,
    },
    Question {
        what: "packets lost in tunnels",
        unit: Unit::PerSecond,
        query: "sum by (type, id, remote) (rate(geophone_tunnel_lost_packets_total$M$W))",
        matched: &["type", "id", "remote", "local"],
        least: 0.3,
        factor: 2.0,
        before: BEFORE,
    },
];

/// What came of looking for evidence.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// What has changed, and how many changes more there are.
    Found(Vec<Evidence>, usize),
    /// A question was not answered.
    Failed(String),
    /// So many were asked in this evaluation that this one has to wait.
    Later,
}

/// Looks for evidence for the anomalies of one evaluation: what two of them ask is asked once.
pub(super) struct Inquiry {
    at: Millis,
    since: Millis,
    window: Millis,
    answers: HashMap<String, Answer>,
    asked: usize,
    /// What the CPUs did, by when anomalies began, until when, and of which subject they are: it is the same for all of these.
    profiles: HashMap<(Millis, Millis, String), Vec<Evidence>>,
}

impl Inquiry {
    /// At this time; since then there have been samples.
    pub fn new(at: Millis, since: Millis, interval: Millis) -> Self {
        Self {
            at,
            since,
            window: super::defaults::window(interval),
            answers: HashMap::new(),
            asked: 0,
            profiles: HashMap::new(),
        }
    }

    /// Arguments of `geophone diff`: the time before the first sample's window, and that window with most of a minute behind it.
    pub fn profile(&self, since: f64) -> Vec<String> {
        let begin = since - self.window as f64 / 1e3;
        let window = |from: f64, to: f64| format!("{from:.0}..{to:.0}");
        vec![
            window(begin - BEFORE as f64 / 1e3, begin),
            window(begin, since + 50.0),
        ]
    }

    /// What had changed when a series of these labels began to be an anomaly.
    pub fn gather(
        &mut self,
        labels: &Labelled,
        began: Millis,
        ask: &mut Ask,
        cpu: Option<&mut Cpu>,
    ) -> Answer {
        let key = format!("{began} {labels:?}");
        if let Some(answer) = self.answers.get(&key) {
            return answer.clone();
        }
        if self.asked >= ASKED {
            return Answer::Later;
        }
        self.asked += 1;
        let answer = match self.ask(labels, began, ask) {
            Ok((mut evidence, left_out)) => {
                // Of what comes behind the first sample there is nothing yet.
                let sampled = cpu.and_then(|cpu| self.cpu(labels, began, began, cpu));
                evidence.extend(sampled.unwrap_or_default());
                Answer::Found(evidence, left_out)
            }
            Err(why) => Answer::Failed(why),
        };
        self.answers.insert(key, answer.clone());
        answer
    }

    /// What the CPUs did from the window of the first sample of an anomaly on until then. `None`: so many were asked in this
    /// evaluation that this one has to wait.
    pub fn cpu(
        &mut self,
        labels: &Labelled,
        began: Millis,
        until: Millis,
        cpu: &mut Cpu,
    ) -> Option<Vec<Evidence>> {
        let subject = labels.get("subject").cloned().unwrap_or_default();
        let is_full = self.profiles.len() >= ASKED;
        match self.profiles.entry((began, until, subject.clone())) {
            Entry::Occupied(known) => Some(known.get().clone()),
            Entry::Vacant(_) if is_full => None,
            Entry::Vacant(place) => {
                let begin = began - self.window;
                let span = |from, to| Span { from, to };
                let found = cpu([span(begin - BEFORE, begin), span(begin, until)], &subject);
                Some(place.insert(found).clone())
            }
        }
    }

    /// When it is.
    pub const fn at(&self) -> Millis {
        self.at
    }

    fn ask(&self, labels: &Labelled, began: Millis, ask: &mut Ask) -> Result<(Vec<Evidence>, usize), String> {
        // How long there had been anything before.
        let known = (began - self.since - self.window).max(2 * self.window);
        let ago = (self.at - began).max(0);
        let (mut all, mut found) = (Vec::new(), 0);
        for question in &QUESTIONS {
            let now = ask(&question.filled(labels, self.window, ago))?;
            let before = question.before.min(known);
            let before = ask(&question.filled(labels, before, ago + self.window))?;
            let changed = question.changes(now, before, self.window as f64 / 1e3);
            found += changed.len();
            let is_near = labels
                .keys()
                .any(|name| question.matched.contains(&name.as_str()));
            let told = changed.into_iter().take(OF_A_KIND).enumerate();
            all.extend(told.map(|(place, (size, evidence))| (place == 0, is_near, size, evidence)));
        }
        // The largest of each kind first, or why segments are lost would be hidden behind what follows of it; of these, and of the
        // rest, what shares a label with the anomaly.
        all.sort_by(|a, b| (b.0, b.1).cmp(&(a.0, a.1)).then(b.2.total_cmp(&a.2)));
        all.truncate(MOST);
        let told: Vec<Evidence> = all.into_iter().map(|(.., evidence)| evidence).collect();
        let left_out = found - told.len();
        Ok((told, left_out))
    }
}

/// A string of PromQL.
fn quoted(value: &str) -> String {
    let escaped = value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("\"{escaped}\"")
}

impl Question {
    /// The query: of those labels that its metric has, over a window that ended so long ago.
    fn filled(&self, labels: &Labelled, window: Millis, ago: Millis) -> String {
        let own = labels
            .iter()
            .filter(|(name, _)| self.matched.contains(&name.as_str()));
        let mut matchers: Vec<String> = own
            .map(|(name, value)| format!("{name}={}", quoted(value)))
            .collect();
        if self.what == "failed connections" {
            matchers.push("outcome=\"failed\"".to_owned());
        }
        let window = format!("[{window}ms]");
        let window = match ago {
            0 => window,
            ago => format!("{window} offset {ago}ms"),
        };
        // The matchers last: a value may be anything.
        self.query
            .replace("$W", &window)
            .replace("$M", &format!("{{{}}}", matchers.join(",")))
    }

    /// What has changed, that which has changed by the largest factor first.
    fn changes(
        &self,
        now: Vec<(Labels, f64)>,
        before: Vec<(Labels, f64)>,
        window: f64,
    ) -> Vec<(f64, Evidence)> {
        let mut both: BTreeMap<Labels, [Option<f64>; 2]> = BTreeMap::new();
        for (side, values) in [before, now].into_iter().enumerate() {
            for (labels, value) in values.into_iter().filter(|(_, value)| value.is_finite()) {
                if let Some(place) = both.entry(labels).or_default().get_mut(side) {
                    *place = Some(value);
                }
            }
        }
        let is_rate = self.unit != Unit::Seconds;
        let mut changed: Vec<(f64, Evidence)> = both
            .into_iter()
            .filter_map(|(labels, [before, now])| {
                // A latency that nobody measured is not 0.
                let [was, is] = [before, now].map(|value| value.or(is_rate.then_some(0.0)));
                let (was, is) = (was?, is?);
                let (low, high) = (was.min(is), was.max(is));
                if high - low < self.least || high < self.factor * low {
                    return None;
                }
                if self.unit == Unit::PerSecond && is_chance(was * window, is * window) {
                    return None;
                }
                let size = (high + self.least) / (low + self.least);
                Some((
                    size,
                    Evidence {
                        what: self.what.to_owned(),
                        unit: self.unit,
                        labels: labelled(&labels),
                        before,
                        now,
                        windows: None,
                    },
                ))
            })
            .collect();
        changed.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal));
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_store::promql::{Options, instant};
    use agent_store::series::{Bounds, Free, Matcher, Refusal, Series, Source};

    struct Nothing;

    impl Source for Nothing {
        fn select(
            &self,
            _: &[Matcher],
            _: Millis,
            _: Millis,
            _: &dyn Bounds,
        ) -> Result<Vec<Series>, Refusal> {
            Ok(Vec::new())
        }
    }

    /// Cause: labels that are hostile, and every question. Seen: each is a query that can be evaluated.
    #[test]
    fn questions_are_queries() {
        let hostile = "a\"} or vector(1) # \\ \n ü $W $M \u{202e}";
        let names = ["peer", "subject", "reason", "device", "server", "remote"];
        let labels: Labelled = names
            .iter()
            .map(|name| ((*name).to_owned(), hostile.to_owned()))
            .collect();
        for question in &QUESTIONS {
            for ago in [0, 10_000] {
                let query = question.filled(&labels, 600_000, ago);
                let answer = instant(&query, 0, &Options::default(), &Nothing, &Free);
                assert!(answer.is_ok(), "{query}: {answer:?}");
            }
        }
    }

    #[test]
    fn what_has_changed_most_comes_first() {
        let series = |reason: &str, value: f64| (Labels::new([("reason", reason)]), value);
        let before = vec![
            series("A", 1000.0),
            series("B", 10.0),
            series("C", 5.0),
            series("E", 0.1),
        ];
        let now = vec![
            series("A", 1100.0),
            series("B", 40.0),
            series("D", 30.0),
            series("E", 0.4),
        ];
        let found = QUESTIONS[0].changes(now, before, 10.0);
        let told: Vec<String> = found.iter().map(|(_, evidence)| evidence.to_string()).collect();
        let wanted = [
            "drops reason=D: 30/s, before none",
            "drops reason=C: none, before 5/s",
            "drops reason=B: 40/s, before 10/s",
        ];
        assert_eq!(told, wanted, "neither what grew a little nor what chance does");
    }
}
