//! The kernel's rows, and the series that they add up to.

use super::{LOOKUP, QUERIES, REPEATED, TIMEOUTS, TRUNCATED, encode};
use crate::aggregate::{Family, HistogramValue, Labels, Metric, Series, Value};
use crate::bpf::KernelMap;
use crate::identity::Name;
use crate::probes::tcp::flow::address;
use crate::probes::totals::Totals;
use crate::probes::{Context, histograms};
use agent_common::dns::{DnsAnswerKey, DnsCounters, DnsServerKey, rcode_name, transport};
use agent_common::histogram::Histogram;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Rows of processes are given back after this many ticks without a change.
const PROCESS_IDLE: u32 = 60;
/// Rows of cgroups are given back after this many ticks.
const CGROUP_IDLE: u32 = 600;

/// Who asks whom, as a series.
struct Pair {
    name: (Name, String),
    overflow: bool,
    labels: Arc<Labels>,
    answers: Vec<Answers>,
    queries: [(Arc<Labels>, u64); transport::COUNT],
    repeated: u64,
    truncated: u64,
    timeouts: u64,
}

/// Answers of one rcode, as a series.
struct Answers {
    /// `None`: of any, in what has no room of its own.
    rcode: Option<u8>,
    labels: Arc<Labels>,
    latency: Arc<HistogramValue>,
}

/// A row of the kernel as last read.
struct Row<T> {
    last: T,
    total: usize,
    idle: u32,
}

impl Pair {
    fn new(name: Option<(Name, String)>, overflow: bool, series_start: u64) -> Self {
        let other = || (Name::plain("other"), "other".to_owned());
        let name = name.filter(|_| !overflow).unwrap_or_else(other);
        let (subject, server) = &name;
        let labels = |metric: &Metric, third: &str| {
            Arc::new(Labels::of(
                metric.labels,
                &[&subject.label, server, third],
                &subject.further,
                overflow,
                series_start,
            ))
        };
        Self {
            overflow,
            labels: labels(&TIMEOUTS, ""),
            answers: Vec::new(),
            queries: transport::NAMES.map(|protocol| (labels(&QUERIES, protocol), 0)),
            repeated: 0,
            truncated: 0,
            timeouts: 0,
            name,
        }
    }

    fn latency(&mut self, rcode: u8, series_start: u64) -> &mut Arc<HistogramValue> {
        let rcode = (!self.overflow).then_some(rcode);
        let known = self.answers.iter().position(|a| a.rcode == rcode);
        let at = known.unwrap_or_else(|| {
            let name = match rcode {
                None => "other".to_owned(),
                Some(rcode) => rcode_name(rcode).map_or_else(|| format!("RCODE_{rcode}"), str::to_owned),
            };
            let (subject, server) = &self.name;
            let values = [&subject.label, server, &name].map(String::as_str);
            let further = &subject.further;
            self.answers.push(Answers {
                rcode,
                labels: Arc::new(Labels::of(
                    LOOKUP.labels,
                    &values,
                    further,
                    self.overflow,
                    series_start,
                )),
                latency: Arc::default(),
            });
            self.answers.len() - 1
        });
        &mut self.answers[at].latency
    }
}

/// Rows and series.
pub struct Table {
    pairs: Totals<(Name, String), Pair>,
    counted: HashMap<DnsServerKey, Row<DnsCounters>>,
    answered: HashMap<DnsAnswerKey, Row<Histogram>>,
}

impl Table {
    /// At most `most` series: a pair is about five, and one more for each rcode.
    pub fn new(most: usize) -> Self {
        Self {
            pairs: Totals::new((most / 5).saturating_sub(1)),
            counted: HashMap::new(),
            answered: HashMap::new(),
        }
    }

    /// The series of a pair; `None`: its subject has no final name yet.
    pub fn pair(&mut self, key: &DnsServerKey, context: &mut Context<'_>) -> Option<usize> {
        self.named(key, &[0; 16], context)
    }

    fn named(&mut self, key: &DnsServerKey, comm: &[u8; 16], context: &mut Context<'_>) -> Option<usize> {
        let name = if *key == DnsServerKey::NOBODY {
            None
        } else {
            let subject = context.identity.subject(&key.subject, comm);
            if !subject.fixed && !context.last {
                return None;
            }
            Some((subject.name(), address(key.server, 0).ip().to_string()))
        };
        let start = context.series_start;
        Some(
            self.pairs
                .place(name.clone(), context.now, |other| Pair::new(name, other, start)),
        )
    }

    /// Adds what is new in a row of counters.
    pub fn counters(&mut self, key: DnsServerKey, value: &DnsCounters, context: &mut Context<'_>) {
        const NOTHING: DnsCounters = DnsCounters {
            queries: [0; transport::COUNT],
            repeated: 0,
            truncated: 0,
            comm: [0; 16],
        };
        let (last, total) = match self.counted.get(&key) {
            Some(row) => (row.last, row.total),
            None if value.queries == NOTHING.queries && value.truncated == 0 => return,
            None => match self.named(&key, &value.comm, context) {
                Some(total) => (NOTHING, total),
                None => return,
            },
        };
        if let Some(pair) = self.pairs.get_mut(total) {
            for (i, (_, n)) in pair.queries.iter_mut().enumerate() {
                *n += value.queries[i].wrapping_sub(last.queries[i]);
            }
            pair.repeated += value.repeated.wrapping_sub(last.repeated);
            pair.truncated += value.truncated.wrapping_sub(last.truncated);
        }
        let row = self.counted.entry(key).or_insert(Row {
            last: NOTHING,
            total,
            idle: 0,
        });
        row.idle = if row.last == *value { row.idle + 1 } else { 0 };
        row.last = *value;
    }

    /// Adds what is new in a histogram.
    pub fn answers(&mut self, key: DnsAnswerKey, value: Histogram, context: &mut Context<'_>) {
        if !self.answered.contains_key(&key) {
            if value.cells == histograms::EMPTY.cells {
                return;
            }
            let Some(total) = self.pair(&key.pair, context) else {
                return;
            };
            let last = histograms::EMPTY;
            self.answered.insert(key, Row { last, total, idle: 0 });
        }
        let Some(row) = self.answered.get_mut(&key) else {
            return;
        };
        if row.last.cells == value.cells {
            row.idle += 1;
            return;
        }
        row.idle = 0;
        if let Some(pair) = self.pairs.get_mut(row.total) {
            let latency = pair.latency(key.rcode, context.series_start);
            histograms::grow(Arc::make_mut(latency), &row.last, &value);
        }
        row.last = value;
    }

    /// A query of this pair has had no answer.
    pub fn timed_out(&mut self, pair: usize) {
        if let Some(pair) = self.pairs.get_mut(pair) {
            pair.timeouts += 1;
        }
    }

    /// Forgets rows that are gone.
    pub fn forget(&mut self, servers: &[DnsServerKey], answers: &[DnsAnswerKey]) {
        for key in servers {
            self.counted.remove(key);
        }
        for key in answers {
            self.answered.remove(key);
        }
    }

    /// Gives back the rows in which nothing has happened for a while, and lets series end that none adds to.
    pub fn recycle(&mut self, now: Instant, servers: &KernelMap, answers: &KernelMap) {
        let patience = |key: &DnsServerKey| match key.subject.tgid {
            _ if *key == DnsServerKey::NOBODY => u32::MAX,
            0 => CGROUP_IDLE,
            _ => PROCESS_IDLE,
        };
        self.counted
            .retain(|key, row| row.idle < patience(key) || servers.remove(&encode(key)).is_err());
        self.answered
            .retain(|key, row| row.idle < patience(&key.pair) || answers.remove(&encode(key)).is_err());
        let counted = self.counted.values().map(|row| row.total);
        let answered = self.answered.values().map(|row| row.total);
        self.pairs.end(now, counted.chain(answered));
    }

    /// Appends the families.
    pub fn collect(&self, out: &mut Vec<Family>) {
        let series = |labels: &Arc<Labels>, value: Value| Series {
            labels: labels.clone(),
            value,
        };
        out.push(Family {
            metric: &LOOKUP,
            series: self
                .pairs
                .iter()
                .flat_map(|p| &p.answers)
                .map(|a| series(&a.labels, Value::Histogram(a.latency.clone())))
                .collect(),
        });
        out.push(Family {
            metric: &QUERIES,
            series: self
                .pairs
                .iter()
                .flat_map(|p| &p.queries)
                .map(|(labels, n)| series(labels, Value::Counter(*n)))
                .collect(),
        });
        type Count = fn(&Pair) -> u64;
        let counts: [(&'static Metric, Count); 3] = [
            (&REPEATED, |p| p.repeated),
            (&TIMEOUTS, |p| p.timeouts),
            (&TRUNCATED, |p| p.truncated),
        ];
        out.extend(counts.map(|(metric, of)| {
            Family {
                metric,
                series: self
                    .pairs
                    .iter()
                    .map(|p| series(&p.labels, Value::Counter(of(p))))
                    .collect(),
            }
        }));
    }
}
