//! Labels that are left out: series that differ in nothing else become one, before anybody sees them, so that scrapes, OTLP,
//! remote write, the store and all that asks it agree.
//!
//! A sum must not fall when one of its parts ends, and its parts may begin anew. So what is added is what each part has grown
//! by, and a sum keeps what parts that have ended have given.

use super::{Family, HistogramValue, Kind, Label, Labels, Metric, Series, Value, metrics};
use crate::config::LabelRule;
use std::collections::HashMap;
use std::sync::Arc;

/// Gauges that say how much is there: of two series the sum is there. The sum of others (ages, shares, states, extremes) is
/// nothing, and whichever of them one took would be the wrong one for somebody; they keep their labels.
pub const ADD_UP: &[&str] = &[
    "geophone_tcp_connections",
    "geophone_block_in_flight",
    "geophone_kubernetes_backend_connections",
];

/// Counters that somebody else keeps: they are not zero when a series of them begins, for an interface may be renamed, or come
/// from another network namespace. One that comes later is counted from then on: what it had counted before was not seen to
/// happen. All others are the agent's own, and begin at zero.
const NOT_FROM_ZERO: &[&str] = &[
    "geophone_netdev_bytes_total",
    "geophone_netdev_packets_total",
    "geophone_netdev_errors_total",
    "geophone_netdev_drops_total",
];

static METRIC: Label = Label {
    prometheus: "metric",
    otlp: "geophone.metric",
    help: "Metric whose series have become fewer",
};

metrics! {
    /// Series that are part of others.
    FOLDED = "geophone_folded_series", "geophone.folded.series", "{series}", Gauge, &[&METRIC],
        "Series that are part of another one, because labels leaves out what tells them apart; there are so many fewer";
}

impl Metric {
    /// Whether the sum of two of its values is one of its values.
    pub fn adds_up(&self) -> bool {
        self.kind != Kind::Gauge || ADD_UP.contains(&self.name)
    }
}

/// Leaves labels out.
#[derive(Default)]
pub struct Fold {
    rules: Vec<LabelRule>,
    /// By address.
    metrics: HashMap<usize, Plan>,
    start: u64,
    tick: u64,
}

/// What is done to a metric.
struct Plan {
    /// Names of the labels that it loses; empty = it stays as it is.
    without: Vec<&'static str>,
    /// Whether a part that comes later has counted before.
    is_not_from_zero: bool,
    /// Its own series, by the address of their labels.
    parts: HashMap<usize, Part>,
    sums: HashMap<u64, Sum>,
    /// Sums by their labels.
    by_text: HashMap<String, u64>,
    next: u64,
    /// Labels of its series of [`FOLDED`].
    told: Arc<Labels>,
}

struct Part {
    /// Held, so that no others can be at their address.
    labels: Arc<Labels>,
    sum: u64,
    last: Value,
    tick: u64,
}

struct Sum {
    labels: Arc<Labels>,
    value: Value,
    tick: u64,
}

impl Fold {
    /// By these rules: a series keeps a label if all rules for its metric let it. The agent started at `start`, ns since the epoch.
    pub fn new(rules: &[LabelRule], start: u64) -> Self {
        Self {
            rules: rules.to_vec(),
            start,
            ..Self::default()
        }
    }

    /// Does it to what a tick has come to.
    pub fn apply(&mut self, families: &mut Vec<Family>) {
        if self.rules.is_empty() {
            return;
        }
        self.tick += 1;
        let mut fewer = Vec::new();
        for family in families.iter_mut() {
            let address = std::ptr::from_ref(family.metric).addr();
            let plan = self
                .metrics
                .entry(address)
                .or_insert_with(|| Plan::new(family.metric, &self.rules, self.start));
            if plan.without.is_empty() {
                continue;
            }
            let before = family.series.len();
            family.series = plan.fold(std::mem::take(&mut family.series), self.tick);
            fewer.push(Series {
                labels: plan.told.clone(),
                value: Value::Gauge((before - family.series.len()) as f64),
            });
        }
        for plan in self.metrics.values_mut() {
            plan.forget(self.tick);
        }
        families.push(Family {
            metric: &FOLDED,
            series: fewer,
        });
    }
}

impl Plan {
    fn new(metric: &'static Metric, rules: &[LabelRule], start: u64) -> Self {
        let asked = || rules.iter().filter(|rule| rule.metrics.matches(metric.name));
        let keeps = |label: &&str| asked().all(|rule| rule.keeps(label));
        let without = if metric.adds_up() {
            crate::config::labels_of(metric)
                .filter(|label| !keeps(label))
                .collect()
        } else {
            Vec::new()
        };
        Self {
            without,
            is_not_from_zero: NOT_FROM_ZERO.contains(&metric.name),
            parts: HashMap::new(),
            sums: HashMap::new(),
            by_text: HashMap::new(),
            next: 0,
            told: Arc::new(Labels::new(FOLDED.labels, &[metric.name], false, start)),
        }
    }

    fn fold(&mut self, series: Vec<Series>, tick: u64) -> Vec<Series> {
        self.meet(&series, tick);
        let mut order = Vec::new();
        for Series { labels, value } in series {
            let Some(part) = self.parts.get_mut(&Arc::as_ptr(&labels).addr()) else {
                continue;
            };
            let Some(sum) = self.sums.get_mut(&part.sum) else {
                continue;
            };
            if sum.tick != tick {
                sum.tick = tick;
                order.push(part.sum);
                if let Value::Gauge(there) = &mut sum.value {
                    *there = 0.0;
                }
            }
            sum.value.grow(&part.last, &value);
            (part.last, part.tick) = (value, tick);
        }
        let sums = order.iter().filter_map(|id| self.sums.get(id));
        sums.map(|sum| Series {
            labels: sum.labels.clone(),
            value: sum.value.clone(),
        })
        .collect()
    }

    /// Finds the sums of series that are new. A sum began with the first of those that it is made of.
    fn meet(&mut self, series: &[Series], tick: u64) {
        let mut begun: HashMap<String, u64> = HashMap::new();
        let mut new = Vec::new();
        for one in self.unknown(series, tick) {
            let rest = one.labels.without(&self.without, one.labels.start_unix_nanos);
            let start = begun.entry(rest.text.clone()).or_insert(u64::MAX);
            *start = (*start).min(rest.start_unix_nanos);
            new.push((one, rest));
        }
        for (one, rest) in new {
            let sum = match self.by_text.get(&rest.text) {
                Some(id) => *id,
                None => {
                    let start = begun.get(&rest.text).copied().unwrap_or(rest.start_unix_nanos);
                    self.next += 1;
                    let sum = Sum {
                        labels: Arc::new(rest.without(&[], start)),
                        value: one.value.nothing(),
                        tick: 0,
                    };
                    self.sums.insert(self.next, sum);
                    self.by_text.insert(rest.text, self.next);
                    self.next
                }
            };
            let last = if self.is_not_from_zero && tick > 1 {
                one.value.clone()
            } else {
                one.value.nothing()
            };
            let part = Part {
                labels: one.labels.clone(),
                sum,
                last,
                tick,
            };
            self.parts.insert(Arc::as_ptr(&one.labels).addr(), part);
        }
    }

    /// Those that are no parts yet. Where labels were made anew, of a series that is what it was, the part is what it was too.
    fn unknown<'a>(&mut self, series: &'a [Series], tick: u64) -> Vec<&'a Series> {
        let mut unknown = Vec::new();
        for one in series {
            match self.parts.get_mut(&Arc::as_ptr(&one.labels).addr()) {
                Some(part) => part.tick = tick,
                None => unknown.push(one),
            }
        }
        if unknown.is_empty() {
            return unknown;
        }
        let name = |labels: &'_ Labels| (labels.text.clone(), labels.start_unix_nanos);
        let absent = self.parts.iter().filter(|(_, part)| part.tick != tick);
        let mut absent: HashMap<(String, u64), usize> = absent
            .map(|(address, part)| (name(&part.labels), *address))
            .collect();
        unknown.retain(|one| {
            let Some(mut part) = absent
                .remove(&name(&one.labels))
                .and_then(|address| self.parts.remove(&address))
            else {
                return true;
            };
            (part.labels, part.tick) = (one.labels.clone(), tick);
            self.parts.insert(Arc::as_ptr(&one.labels).addr(), part);
            false
        });
        unknown
    }

    /// Forgets what this tick did not have. A sum ends with the last of its parts.
    fn forget(&mut self, tick: u64) {
        self.parts.retain(|_, part| part.tick == tick);
        let sums = &mut self.sums;
        self.by_text.retain(|_, id| {
            let lives = sums.get(id).is_some_and(|sum| sum.tick == tick);
            if !lives {
                sums.remove(id);
            }
            lives
        });
    }
}

impl Value {
    /// Where it began.
    fn nothing(&self) -> Self {
        match self {
            Self::Counter(_) => Self::Counter(0),
            Self::CounterF(_) => Self::CounterF(0.0),
            Self::Gauge(_) => Self::Gauge(0.0),
            Self::Histogram(_) => Self::Histogram(Arc::default()),
        }
    }

    /// Adds what a part has grown by since it was `before`, all of it if it has begun anew, and of a gauge what it is.
    fn grow(&mut self, before: &Self, now: &Self) {
        match (self, before, now) {
            (Self::Counter(sum), Self::Counter(before), Self::Counter(now)) => {
                *sum += now.checked_sub(*before).unwrap_or(*now);
            }
            (Self::CounterF(sum), Self::CounterF(before), Self::CounterF(now)) => {
                *sum += if now >= before { now - before } else { *now };
            }
            (Self::Gauge(sum), _, Self::Gauge(now)) => *sum += now,
            (Self::Histogram(sum), Self::Histogram(before), Self::Histogram(now)) => {
                if Arc::ptr_eq(before, now) || before == now {
                    return;
                }
                let mut grown = if now.count >= before.count {
                    now.since(before)
                } else {
                    HistogramValue::clone(now)
                };
                (grown.min, grown.max) = (now.min, now.max);
                Arc::make_mut(sum).add(&grown);
            }
            // A metric is of one kind.
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
