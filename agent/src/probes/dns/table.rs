//! The kernel's rows, and the series that they add up to.

use super::{LOOKUP, QUERIES, REPEATED, TIMEOUTS, TRUNCATED, encode};
use crate::aggregate::{Family, HistogramValue, Labels, Metric, Series, Value};
use crate::bpf::sys;
use crate::probes::Context;
use crate::probes::tcp::flow::address;
use agent_common::dns::{DnsAnswerKey, DnsCounters, DnsServerKey, rcode_name, transport};
use agent_common::histogram::{CELLS, Histogram};
use aya::maps::MapData;
use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::sync::Arc;

/// Rows of processes are given back after this many ticks without a change.
const PROCESS_IDLE: u32 = 60;
/// Rows of cgroups are given back after this many ticks.
const CGROUP_IDLE: u32 = 600;

/// Who asks whom, as a series.
struct Pair {
    name: [String; 2],
    overflow: bool,
    labels: Arc<Labels>,
    queries: [(Arc<Labels>, u64); transport::COUNT],
    repeated: u64,
    truncated: u64,
    timeouts: u64,
}

/// A row of the kernel as last read.
struct Row<T> {
    last: T,
    total: usize,
    idle: u32,
}

/// Rows and series.
pub struct Table {
    most: usize,
    pairs: Vec<Pair>,
    by_name: HashMap<[String; 2], usize>,
    lookups: Vec<(Arc<Labels>, Arc<HistogramValue>)>,
    /// By pair and rcode.
    by_rcode: HashMap<(usize, u8), usize>,
    counted: HashMap<DnsServerKey, Row<DnsCounters>>,
    answered: HashMap<DnsAnswerKey, Row<Histogram>>,
}

impl Table {
    /// At most `most` series.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            pairs: Vec::new(),
            by_name: HashMap::new(),
            lookups: Vec::new(),
            by_rcode: HashMap::new(),
            counted: HashMap::new(),
            answered: HashMap::new(),
        }
    }

    /// The series of a pair; `None`: its subject has no final name yet.
    pub fn pair(&mut self, key: &DnsServerKey, context: &mut Context<'_>) -> Option<usize> {
        self.named(key, &[0; 16], context)
    }

    fn named(&mut self, key: &DnsServerKey, comm: &[u8; 16], context: &mut Context<'_>) -> Option<usize> {
        let other = || ["other".to_owned(), "other".to_owned()];
        let mut name = if *key == DnsServerKey::NOBODY {
            other()
        } else {
            let subject = context.identity.subject(&key.subject, comm);
            if !subject.fixed && !context.last {
                return None;
            }
            [subject.label.clone(), address(key.server, 0).ip().to_string()]
        };
        if let Some(&index) = self.by_name.get(&name) {
            return Some(index);
        }
        // A pair is about five series, and one more for each rcode.
        let overflow = name == other() || 5 * (self.pairs.len() + 1) >= self.most;
        if overflow {
            name = other();
            if let Some(&index) = self.by_name.get(&name) {
                return Some(index);
            }
        }
        let [subject, server] = name.each_ref().map(String::as_str);
        let labels = |metric: &Metric, third: &str| {
            Arc::new(Labels::new(
                metric.labels,
                &[subject, server, third],
                overflow,
                context.series_start,
            ))
        };
        self.pairs.push(Pair {
            overflow,
            labels: labels(&TIMEOUTS, ""),
            queries: transport::NAMES.map(|protocol| (labels(&QUERIES, protocol), 0)),
            repeated: 0,
            truncated: 0,
            timeouts: 0,
            name: name.clone(),
        });
        self.by_name.insert(name, self.pairs.len() - 1);
        Some(self.pairs.len() - 1)
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
            if value.cells == [0; CELLS] {
                return;
            }
            let Some(pair) = self.pair(&key.pair, context) else {
                return;
            };
            let total = self.lookup(pair, key.rcode, context.series_start);
            let last = Histogram {
                cells: [0; CELLS],
                sum_micros: 0,
                min_complement: 0,
                max_micros: 0,
            };
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
        if let Some((_, total)) = self.lookups.get_mut(row.total) {
            let total = Arc::make_mut(total);
            for (cell, (now, last)) in value.cells.iter().zip(&row.last.cells).enumerate() {
                let delta = now.wrapping_sub(*last);
                if delta != 0 {
                    total.add_cell(cell, u64::from(delta));
                }
            }
            total.sum += value.sum_micros.wrapping_sub(row.last.sum_micros) as f64 / 1e6;
            let (low, high) = (
                f64::from(!value.min_complement) / 1e6,
                f64::from(value.max_micros) / 1e6,
            );
            total.min = Some(total.min.map_or(low, |m| m.min(low)));
            total.max = Some(total.max.map_or(high, |m| m.max(high)));
        }
        row.last = value;
    }

    fn lookup(&mut self, pair: usize, rcode: u8, series_start: u64) -> usize {
        if let Some(&index) = self.by_rcode.get(&(pair, rcode)) {
            return index;
        }
        let Some(of) = self.pairs.get(pair) else { return 0 };
        let name = if of.overflow {
            "other".to_owned()
        } else {
            rcode_name(rcode).map_or_else(|| format!("RCODE_{rcode}"), str::to_owned)
        };
        let [subject, server] = of.name.each_ref().map(String::as_str);
        let labels = Labels::new(
            LOOKUP.labels,
            &[subject, server, &name],
            of.overflow,
            series_start,
        );
        // All that other pairs were answered is one series.
        if let Some(index) = self.lookups.iter().position(|(l, _)| l.text == labels.text) {
            self.by_rcode.insert((pair, rcode), index);
            return index;
        }
        self.lookups.push((Arc::new(labels), Arc::default()));
        self.by_rcode.insert((pair, rcode), self.lookups.len() - 1);
        self.lookups.len() - 1
    }

    /// A query of this pair has had no answer.
    pub fn timed_out(&mut self, pair: usize) {
        if let Some(pair) = self.pairs.get_mut(pair) {
            pair.timeouts += 1;
        }
    }

    /// Gives back the rows in which nothing has happened for a while.
    pub fn recycle(&mut self, servers: &MapData, answers: &MapData) {
        let patience = |key: &DnsServerKey| match key.subject.tgid {
            _ if *key == DnsServerKey::NOBODY => u32::MAX,
            0 => CGROUP_IDLE,
            _ => PROCESS_IDLE,
        };
        self.counted.retain(|key, row| {
            row.idle < patience(key) || sys::remove(servers.fd().as_fd(), &encode(key)).is_err()
        });
        self.answered.retain(|key, row| {
            row.idle < patience(&key.pair) || sys::remove(answers.fd().as_fd(), &encode(key)).is_err()
        });
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
                .lookups
                .iter()
                .map(|(labels, value)| series(labels, Value::Histogram(value.clone())))
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
