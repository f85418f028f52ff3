//! What the latest report says, as metrics.

use super::Live;
use crate::aggregate::{Collect, Family, Label, Labels, Metric, Series, Value, label, metrics};
use agent_store::series::Millis;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

static NAME: Label = Label {
    prometheus: "name",
    otlp: "geophone.capacity.name",
    help: "Which one of its kind: device, device and direction, address of a listen queue, map",
};

const OF: &[&Label] = &[&label::RESOURCE, &NAME];

metrics! {
    /// Utilization.
    UTILIZATION = "geophone_capacity_utilization_ratio", "geophone.capacity.utilization", "1", Gauge, OF,
        "Used of what there is, the mean of a minute, every capacity.interval; of listen queues the largest";
    /// Growth.
    GROWTH = "geophone_capacity_growth_per_day_ratio", "geophone.capacity.growth", "1", Gauge, OF,
        "Trend of a day as a share of what there is; no series while there is not enough data";
    /// Exhaustion.
    EXHAUSTION = "geophone_capacity_exhaustion_seconds", "geophone.capacity.exhaustion", "s", Gauge, OF,
        "Time until it is used up by its trend, 0 = it is; no series if that is not within what can be seen, or there may be no trend";
    /// At the earliest.
    EARLIEST = "geophone_capacity_exhaustion_earliest_seconds", "geophone.capacity.exhaustion.earliest", "s", Gauge, OF,
        "Lower end of the 95 % interval of geophone_capacity_exhaustion_seconds, also where only this end is within what can be seen";
    /// At the latest.
    LATEST = "geophone_capacity_exhaustion_latest_seconds", "geophone.capacity.exhaustion.latest", "s", Gauge, OF,
        "Upper end of the 95 % interval of geophone_capacity_exhaustion_seconds; no series if it may also never be";
    /// When.
    COMPUTED = "geophone_capacity_computed_timestamp_seconds", "geophone.capacity.computed", "s", Gauge, &[],
        "As of when the forecasts are, seconds since the Unix epoch";
    /// Time.
    SECONDS = "geophone_capacity_computation_seconds_total", "geophone.capacity.computation.time", "s", Counter, &[],
        "Time that forecasts took";
    /// Failures.
    FAILURES = "geophone_capacity_failures_total", "geophone.capacity.failures", "{computation}", Counter, &[],
        "Forecasts that failed; the log says why";
}

const DAY: f64 = 86_400.0;

/// Makes the families.
pub struct StatsCollect {
    live: Arc<Live>,
    none: Arc<Labels>,
    start: u64,
    /// As of when `families` are.
    at: Millis,
    labels: BTreeMap<(String, String), Arc<Labels>>,
    families: Vec<Family>,
}

impl StatsCollect {
    /// Of the running agent.
    pub fn new(live: Arc<Live>, start_unix_nanos: u64) -> Self {
        Self {
            live,
            none: Arc::new(Labels::new(&[], &[], false, start_unix_nanos)),
            start: start_unix_nanos,
            at: 0,
            labels: BTreeMap::new(),
            families: Vec::new(),
        }
    }

    /// The same series each second, until there is another report.
    fn renew(&mut self) {
        let at = self.at;
        let new = self
            .live
            .read(|latest| (latest.unix_millis != at).then(|| (latest.unix_millis, latest.report.clone())));
        let Some((at, report)) = new else { return };
        self.at = at;
        let resources = &report.resources;
        let mut known = std::mem::take(&mut self.labels);
        let mut all: [Vec<Series>; 5] = Default::default();
        for one in resources {
            let start = self.start;
            let key = (one.resource.clone(), one.name.clone());
            let labels = known
                .remove(&key)
                .unwrap_or_else(|| Arc::new(Labels::new(OF, &[&one.resource, &one.name], false, start)));
            let labels = &*self.labels.entry(key).or_insert(labels);
            let days = one.days();
            let values = [
                one.utilization,
                one.growth(),
                days.map(|(days, _)| days * DAY),
                one.earliest().map(|earliest| earliest * DAY),
                days.and_then(|(_, latest)| latest).map(|latest| latest * DAY),
            ];
            for (series, value) in all.iter_mut().zip(values) {
                series.extend(value.map(|value| Series {
                    labels: labels.clone(),
                    value: Value::Gauge(value),
                }));
            }
        }
        let metrics = [&UTILIZATION, &GROWTH, &EXHAUSTION, &EARLIEST, &LATEST];
        let families = metrics.into_iter().zip(all);
        self.families = families
            .map(|(metric, series)| Family { metric, series })
            .collect();
    }
}

impl Collect for StatsCollect {
    fn collect(&mut self, out: &mut Vec<Family>) {
        self.renew();
        out.extend(self.families.iter().cloned());
        let one = |metric: &'static Metric, value: Value| Family {
            metric,
            series: vec![Series {
                labels: self.none.clone(),
                value,
            }],
        };
        if self.at > 0 {
            out.push(one(&COMPUTED, Value::Gauge(self.at as f64 / 1e3)));
        }
        let seconds = self.live.nanos.load(Relaxed) as f64 / 1e9;
        out.push(one(&SECONDS, Value::CounterF(seconds)));
        out.push(one(&FAILURES, Value::Counter(self.live.failures.load(Relaxed))));
    }
}
