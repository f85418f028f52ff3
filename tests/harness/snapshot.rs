//! What the agent says, parsed from /api/v1/snapshot.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// One series.
#[derive(Clone, Debug)]
pub struct Series {
    /// Prometheus labels; an empty label is not there.
    pub labels: BTreeMap<String, String>,
    /// It takes what found no row of its own.
    pub overflow: bool,
    /// A number, or an object for a histogram.
    pub value: Value,
}

impl Series {
    /// A label; empty when it is not there.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// A histogram in short.
#[derive(Clone, Copy, Debug)]
pub struct Histogram {
    /// Number of values.
    pub count: u64,
    /// Sum in seconds.
    pub sum: f64,
    /// Median in seconds.
    pub p50: f64,
    /// 99th percentile in seconds.
    pub p99: f64,
}

/// One picture.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Counts from 1.
    pub tick: u64,
    /// When it was made, in seconds since the Unix epoch.
    pub time: f64,
    families: BTreeMap<String, Vec<Series>>,
}

/// Label and value that a series must have; an empty value: must not have the label.
pub type Filter<'a> = &'a [(&'a str, &'a str)];

impl Snapshot {
    /// From the API's JSON.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let json: Value = serde_json::from_slice(bytes).context("snapshot")?;
        let mut families = BTreeMap::new();
        for family in json["families"].as_array().context("no families")? {
            let name = family["name"].as_str().context("no name")?.to_owned();
            let series = family["series"].as_array().context("no series")?.iter().map(|s| {
                let labels = s["labels"].as_object().into_iter().flatten();
                Series {
                    labels: labels
                        .map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()))
                        .collect(),
                    overflow: s["overflow"] == true,
                    value: s["value"].clone(),
                }
            });
            let series: Vec<Series> = series.collect();
            let distinct: BTreeSet<_> = series.iter().map(|s| (&s.labels, s.overflow)).collect();
            ensure!(
                distinct.len() == series.len(),
                "{name}: two series with equal labels"
            );
            families.insert(name, series);
        }
        Ok(Self {
            tick: json["tick"].as_u64().context("no tick")?,
            time: json["time"].as_f64().context("no time")?,
            families,
        })
    }

    /// The series of a metric that pass the filter.
    pub fn series(&self, name: &str, filter: Filter<'_>) -> Vec<&Series> {
        self.families
            .get(name)
            .into_iter()
            .flatten()
            .filter(|s| filter.iter().all(|(label, value)| s.label(label) == *value))
            .collect()
    }

    /// Their sum; histograms by their count.
    pub fn sum(&self, name: &str, filter: Filter<'_>) -> u64 {
        self.series(name, filter)
            .iter()
            .map(|s| match &s.value {
                Value::Object(h) => h.get("count").and_then(Value::as_u64).unwrap_or(0),
                v => v.as_u64().unwrap_or_else(|| v.as_f64().unwrap_or(0.0) as u64),
            })
            .sum()
    }

    /// The only series that passes the filter, as a number.
    pub fn number(&self, name: &str, filter: Filter<'_>) -> Result<f64> {
        let series = self.series(name, filter);
        ensure!(series.len() == 1, "{name} {filter:?}: {} series", series.len());
        series
            .first()
            .and_then(|s| s.value.as_f64())
            .with_context(|| format!("{name} {filter:?}: no number"))
    }

    /// The only histogram that passes the filter.
    pub fn histogram(&self, name: &str, filter: Filter<'_>) -> Result<Histogram> {
        let series = self.series(name, filter);
        ensure!(series.len() == 1, "{name} {filter:?}: {} series", series.len());
        let value = &series.first().context("none")?.value;
        let part = |key: &str| value[key].as_f64().with_context(|| format!("{name}: no {key}"));
        Ok(Histogram {
            count: value["count"].as_u64().context("no count")?,
            sum: part("sum")?,
            p50: part("p50")?,
            p99: part("p99")?,
        })
    }

    /// All values that a label has in a metric.
    pub fn values(&self, name: &str, label: &str) -> BTreeSet<String> {
        self.series(name, &[])
            .iter()
            .map(|s| s.label(label).to_owned())
            .collect()
    }

    /// The law of conservation: seen = filtered + sampled + delivered + in flight + Σ dropped, for each probe, and
    /// nothing unaccounted.
    pub fn lawful(&self) -> Result<()> {
        let events = "geophone_events_total";
        let probes = self.values(events, "probe");
        ensure!(!probes.is_empty(), "no probe keeps books");
        for probe in &probes {
            let own = [("probe", probe.as_str())];
            let stage = |stage: &str| self.sum(events, &[("probe", probe), ("stage", stage)]) as i128;
            let flight = self.number("geophone_events_in_flight", &own)? as i128;
            let unaccounted = self.number("geophone_events_unaccounted", &own)?;
            let dropped = self.sum("geophone_events_dropped_total", &own) as i128;
            let known = stage("filtered") + stage("sampled") + stage("delivered") + flight + dropped;
            ensure!(
                known == stage("seen") && unaccounted == 0.0,
                "probe {probe}: seen {} but filtered {} + sampled {} + delivered {} + in flight {flight} + dropped {dropped} = {known}; unaccounted {unaccounted}",
                stage("seen"),
                stage("filtered"),
                stage("sampled"),
                stage("delivered"),
            );
        }
        Ok(())
    }
}
