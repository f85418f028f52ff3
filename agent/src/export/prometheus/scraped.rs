//! What a series is called once it has left the agent: as a scrape would have labelled it, so that a query means the same
//! wherever it is asked.

use super::{TARGET_INFO, target_labels, text};
use crate::aggregate::{self, Kind, Metric, Snapshot, Stability};
use crate::memory::JOB;
use agent_store::labels::{Labels, NAME};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What Prometheus makes itself of each scrape.
static UP: Metric = Metric {
    name: "up",
    otlp: "",
    unit: "1",
    kind: Kind::Gauge,
    help: "Whether the agent runs; always 1",
    labels: &[],
    stability: Stability::Stable,
};

/// Labels that all series get: `job`, `instance`, and those that are configured besides.
pub struct Scraped(Vec<(Arc<str>, Arc<str>)>);

impl Scraped {
    /// `external` labels give way to those that a series has, as in Prometheus.
    pub fn new(instance: &str, external: &BTreeMap<String, String>) -> Self {
        let external = external
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let all = external.chain([("job", JOB), ("instance", instance)]);
        Self(all.map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// All labels of a series.
    pub fn labels(&self, metric: &Metric, labels: &aggregate::Labels) -> Labels {
        self.named(metric.name, None, labels)
    }

    /// Those of each classic series of a histogram.
    pub fn classic(&self, metric: &Metric, labels: &aggregate::Labels) -> Vec<Labels> {
        let names = text::classic_names();
        let named = |(suffix, bound)| self.named(&format!("{}{suffix}", metric.name), bound, labels);
        names.map(named).collect()
    }

    fn named(&self, name: &str, bound: Option<&str>, labels: &aggregate::Labels) -> Labels {
        let own = labels.values.iter();
        let own = own.map(|(label, value)| (label.prometheus, value.as_str()));
        let overflow = labels.overflow.then_some(("otel_metric_overflow", "true"));
        let own = own
            .chain(overflow)
            .chain(bound.map(|le| ("le", le)))
            .chain([(NAME, name)]);
        let own = own.map(|(name, value)| (Arc::from(name), Arc::from(value)));
        Labels::new(self.0.iter().cloned().chain(own))
    }

    /// The series that no family has, each of which is always 1.
    pub fn constant(&self, snapshot: &Snapshot) -> [(&'static Metric, Labels); 2] {
        let none = aggregate::Labels::new(&[], &[], false, snapshot.start_unix_nanos);
        [(&UP, none), (&TARGET_INFO, target_labels(snapshot))]
            .map(|(metric, labels)| (metric, self.labels(metric, &labels)))
    }
}
