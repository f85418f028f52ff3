//! The snapshot as JSON, both ways: the API writes it, `geophone top` reads it.

use crate::aggregate::{HistogramValue, Series, Snapshot, Value};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotView<'a> {
    /// Counts from 1.
    pub tick: u64,
    /// Seconds since the Unix epoch.
    pub time: f64,
    /// When the agent started, seconds since the Unix epoch.
    pub start: f64,
    /// Name of the machine.
    pub host: Cow<'a, str>,
    /// Its region; empty = not known.
    pub region: Cow<'a, str>,
    /// Its availability zone; empty = not known.
    pub zone: Cow<'a, str>,
    /// All families.
    pub families: Vec<FamilyView<'a>>,
}

/// A metric and its series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FamilyView<'a> {
    /// Prometheus name.
    pub name: Cow<'a, str>,
    /// `counter`, `gauge` or `histogram`.
    pub kind: Cow<'a, str>,
    /// UCUM unit.
    pub unit: Cow<'a, str>,
    /// Its series.
    pub series: Vec<SeriesView<'a>>,
}

/// A series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeriesView<'a> {
    /// Prometheus labels.
    pub labels: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    /// It takes what found no room of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overflow: bool,
    /// Its value.
    pub value: ValueView,
}

/// A value. JSON has no NaN and no infinities: they are null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ValueView {
    /// Of a histogram.
    Histogram(HistogramView),
    /// A whole number.
    Count(u64),
    /// Any other number.
    Number(Option<f64>),
}

/// What a histogram says in short. Quantiles are null while it is empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistogramView {
    /// Number of values.
    pub count: u64,
    /// Their sum in seconds.
    pub sum: f64,
    /// The smallest.
    pub min: Option<f64>,
    /// The largest.
    pub max: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// 90th percentile.
    pub p90: Option<f64>,
    /// 95th percentile.
    pub p95: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
    /// 99.9th percentile.
    #[serde(rename = "p99.9")]
    pub p999: Option<f64>,
}

impl<'a> From<&'a Snapshot> for SnapshotView<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        let families = snapshot.families.iter().map(|family| FamilyView {
            name: family.metric.name.into(),
            kind: family.metric.kind.name().into(),
            unit: family.metric.unit.into(),
            series: family.series.iter().map(SeriesView::from).collect(),
        });
        Self {
            tick: snapshot.tick,
            time: snapshot.unix_nanos as f64 / 1e9,
            start: snapshot.start_unix_nanos as f64 / 1e9,
            host: snapshot.resource.host.as_str().into(),
            region: snapshot.resource.region.as_str().into(),
            zone: snapshot.resource.zone.as_str().into(),
            families: families.collect(),
        }
    }
}

impl<'a> From<&'a Series> for SeriesView<'a> {
    fn from(series: &'a Series) -> Self {
        let labels = &series.labels;
        Self {
            labels: labels
                .values
                .iter()
                .map(|(l, v)| (l.prometheus.into(), v.as_str().into()))
                .collect(),
            overflow: labels.overflow,
            value: match &series.value {
                Value::Counter(v) => ValueView::Count(*v),
                Value::CounterF(v) | Value::Gauge(v) => ValueView::Number(v.is_finite().then_some(*v)),
                Value::Histogram(h) => ValueView::Histogram(h.as_ref().into()),
            },
        }
    }
}

impl From<&HistogramValue> for HistogramView {
    fn from(h: &HistogramValue) -> Self {
        Self {
            count: h.count,
            sum: h.sum,
            min: h.min,
            max: h.max,
            p50: h.quantile(0.5),
            p90: h.quantile(0.9),
            p95: h.quantile(0.95),
            p99: h.quantile(0.99),
            p999: h.quantile(0.999),
        }
    }
}
