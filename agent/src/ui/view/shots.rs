//! Snapshots made by hand.

use crate::aggregate::{
    Family, HistogramValue, Kind, Label, Labels, Metric, Resource, Series, Snapshot, Stability, Value,
};
use agent_common::histogram::{cell, from_micros};
use std::sync::Arc;

pub(super) const EPOCH: u64 = 1_700_000_000_000_000_000;
pub(super) const SECOND: u64 = 1_000_000_000;

/// A snapshot in the making.
pub(super) struct Shot(pub(super) Snapshot);

impl Shot {
    /// At a second after the agent's start.
    pub(super) fn at(second: u64) -> Self {
        Self(Snapshot {
            tick: second,
            unix_nanos: EPOCH + second * SECOND,
            start_unix_nanos: EPOCH,
            resource: Arc::new(Resource {
                host: "h".into(),
                region: "eu".into(),
                ..Default::default()
            }),
            families: Vec::new(),
        })
    }

    pub(super) fn add(self, metric: &str, labels: &[(&'static str, &str)], value: Value) -> Self {
        self.add_since(metric, labels, value, EPOCH)
    }

    pub(super) fn add_since(
        mut self,
        metric: &str,
        labels: &[(&'static str, &str)],
        value: Value,
        start: u64,
    ) -> Self {
        let declared: Vec<&'static Label> = labels
            .iter()
            .map(|(name, _)| {
                &*Box::leak(Box::new(Label {
                    prometheus: name,
                    otlp: name,
                    help: "",
                }))
            })
            .map(|l| match l.prometheus {
                "subject" => &crate::aggregate::label::SUBJECT,
                "peer" => &crate::aggregate::label::PEER,
                _ => l,
            })
            .collect();
        let values: Vec<&str> = labels.iter().map(|(_, v)| *v).collect();
        let series = Series {
            labels: Arc::new(Labels::new(&declared, &values, false, start)),
            value,
        };
        match self.0.families.iter_mut().find(|f| f.metric.name == metric) {
            Some(family) => family.series.push(series),
            None => {
                let metric = Box::leak(Box::new(Metric {
                    name: String::leak(metric.to_owned()),
                    otlp: "",
                    unit: "",
                    kind: Kind::Counter,
                    help: "",
                    labels: &[],
                    stability: Stability::Stable,
                }));
                self.0.families.push(Family {
                    metric,
                    series: vec![series],
                });
            }
        }
        self
    }

    pub(super) fn rtt(self, subject: &str, h: &HistogramValue) -> Self {
        self.add(
            "geophone_tcp_rtt_seconds",
            &[("subject", subject), ("peer", "db")],
            Value::Histogram(Arc::new(h.clone())),
        )
    }

    pub(super) fn bytes(self, subject: &str, direction: &str, v: u64) -> Self {
        let labels = [("subject", subject), ("peer", "db"), ("direction", direction)];
        self.add("geophone_tcp_bytes_total", &labels, Value::Counter(v))
    }
}

pub(super) fn of(samples: &[(u32, u64)]) -> HistogramValue {
    let mut h = HistogramValue::default();
    for &(micros, n) in samples {
        h.add_cell(cell(from_micros(micros)), n);
        let v = f64::from(micros) / 1e6;
        h.sum += v * n as f64;
        h.min = Some(h.min.map_or(v, |m| m.min(v)));
        h.max = Some(h.max.map_or(v, |m| m.max(v)));
    }
    h
}
