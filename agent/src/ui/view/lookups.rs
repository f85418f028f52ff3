//! Lookups and datagrams, by what the probes `dns` and `udp` export.

use super::Lane;
use super::meter::{Clock, Meter, label, number};
use crate::aggregate::{HistogramValue, Snapshot, Value};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Lookups of one subject at one server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsRow {
    /// Who asks.
    pub subject: String,
    /// Address of the server.
    pub server: String,
    /// Queries per second, repeated ones included.
    pub queries_rate: f64,
    /// Queries since the start.
    pub queries: u64,
    /// Median time until the answer since the start, s.
    pub p50: Option<f64>,
    /// 99th percentile of it, s.
    pub p99: Option<f64>,
    /// Answers since the start, by their codes.
    pub answers: BTreeMap<String, u64>,
    /// Queries per second that had no answer.
    pub timeouts_rate: f64,
    /// Such queries since the start.
    pub timeouts: u64,
    /// Queries that were sent again since the start.
    pub repeated: u64,
    /// Answers that were cut since the start.
    pub truncated: u64,
}

impl DnsRow {
    /// Share of the answers that had a code; `None` = there was no answer.
    pub fn share(&self, rcode: &str) -> Option<f64> {
        let all: u64 = self.answers.values().sum();
        (all > 0).then(|| self.answers.get(rcode).copied().unwrap_or(0) as f64 / all as f64)
    }
}

/// Datagrams of one subject.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UdpRow {
    /// Who.
    pub subject: String,
    /// What came; of errors and drops it knows nothing.
    pub receive: Lane,
    /// What was sent.
    pub transmit: Lane,
}

#[derive(Debug, Default)]
struct Asked {
    row: DnsRow,
    queries: BTreeMap<String, Meter>,
    timeouts: Meter,
    latency: HistogramValue,
    touched: bool,
}

/// All lookups.
#[derive(Debug, Default)]
pub(super) struct Lookups(BTreeMap<[String; 2], Asked>);

impl Lookups {
    /// Takes a snapshot; the busiest come first. `None`: the probe is off.
    pub fn push(&mut self, snapshot: &Snapshot, clock: &Clock) -> Option<Vec<DnsRow>> {
        snapshot.family("geophone_dns_queries_total")?;
        for asked in self.0.values_mut() {
            (asked.touched, asked.latency) = (false, HistogramValue::default());
            asked.row.answers.clear();
        }
        for family in &snapshot.families {
            let Some(name) = family.metric.name.strip_prefix("geophone_dns_") else {
                continue;
            };
            for series in &family.series {
                let of = |name| label(&series.labels, name);
                if of("server").is_empty() {
                    continue;
                }
                let key = ["subject", "server"].map(|l| of(l).to_owned());
                let asked = self.0.entry(key).or_default();
                asked.touched = true;
                let value = number(series);
                match (name, &series.value) {
                    ("queries_total", _) => {
                        let meter = asked.queries.entry(of("protocol").to_owned()).or_default();
                        meter.update(value, &series.labels, clock);
                    }
                    ("timeouts_total", _) => asked.timeouts.update(value, &series.labels, clock),
                    ("repeated_queries_total", _) => asked.row.repeated = value as u64,
                    ("truncated_total", _) => asked.row.truncated = value as u64,
                    ("lookup_seconds", Value::Histogram(h)) => {
                        asked.latency.add(h);
                        asked.row.answers.insert(of("rcode").to_owned(), h.count);
                    }
                    _ => {}
                }
            }
        }
        self.0.retain(|_, asked| asked.touched);
        let mut rows: Vec<DnsRow> = self.0.iter().map(|(key, asked)| asked.row(key, clock)).collect();
        rows.sort_by(|a, b| {
            let rate = b.queries_rate.total_cmp(&a.queries_rate);
            rate.then(b.queries.cmp(&a.queries))
        });
        Some(rows)
    }
}

impl Asked {
    fn row(&self, [subject, server]: &[String; 2], clock: &Clock) -> DnsRow {
        let queries = self.queries.values();
        DnsRow {
            subject: subject.clone(),
            server: server.clone(),
            queries_rate: queries.clone().map(|m| m.rate(clock)).sum::<f64>().max(0.0),
            queries: queries.map(|m| m.total as u64).sum(),
            p50: self.latency.quantile(0.5),
            p99: self.latency.quantile(0.99),
            timeouts_rate: self.timeouts.rate(clock),
            timeouts: self.timeouts.total as u64,
            ..self.row.clone()
        }
    }
}

/// By direction: datagrams, bytes.
#[derive(Debug, Default)]
struct Sender([[Meter; 2]; 2], bool);

/// All datagrams.
#[derive(Debug, Default)]
pub(super) struct Datagrams(BTreeMap<String, Sender>);

impl Datagrams {
    /// Takes a snapshot; who moves most comes first. `None`: the probe is off.
    pub fn push(&mut self, snapshot: &Snapshot, clock: &Clock) -> Option<Vec<UdpRow>> {
        self.0.values_mut().for_each(|s| s.1 = false);
        for (i, metric) in ["geophone_udp_datagrams_total", "geophone_udp_bytes_total"]
            .into_iter()
            .enumerate()
        {
            for series in &snapshot.family(metric)?.series {
                let Sender(meters, touched) = self.0.entry(series.labels.subject().to_owned()).or_default();
                *touched = true;
                let direction = usize::from(label(&series.labels, "direction") == "transmit");
                meters[direction][i].update(number(series), &series.labels, clock);
            }
        }
        self.0.retain(|_, Sender(_, touched)| *touched);
        let lane = |[datagrams, bytes]: &[Meter; 2]| Lane {
            bytes_rate: bytes.rate(clock),
            packets_rate: datagrams.rate(clock),
            bytes: bytes.total as u64,
            packets: datagrams.total as u64,
            ..Lane::default()
        };
        let row = |(subject, Sender([receive, transmit], _)): (&String, &Sender)| UdpRow {
            subject: subject.clone(),
            receive: lane(receive),
            transmit: lane(transmit),
        };
        let mut rows: Vec<UdpRow> = self.0.iter().map(row).collect();
        let rate = |row: &UdpRow| row.receive.packets_rate + row.transmit.packets_rate;
        rows.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
        Some(rows)
    }
}

#[cfg(test)]
#[path = "lookups_tests.rs"]
mod tests;
