//! What the probe tells of itself. Labels are made once: whoever keeps something of a series knows it by their address.

use crate::aggregate::{Family, Labels, Metric, Series, Value};
use std::collections::HashMap;
use std::sync::Arc;

/// Its series, of metrics with one label or none.
#[derive(Default)]
pub(super) struct Told {
    /// When they began, ns since the epoch.
    pub(super) start: u64,
    labels: HashMap<(&'static str, String), Arc<Labels>>,
}

impl Told {
    fn labels(&mut self, metric: &'static Metric, value: &str) -> Arc<Labels> {
        let make = || {
            let values: &[&str] = if metric.labels.is_empty() { &[] } else { &[value] };
            Arc::new(Labels::new(metric.labels, values, false, self.start))
        };
        self.labels
            .entry((metric.name, value.to_owned()))
            .or_insert_with(make)
            .clone()
    }

    /// Counters by the value of their label.
    pub(super) fn counters(&mut self, metric: &'static Metric, values: &[(&str, u64)]) -> Family {
        let series = values.iter().map(|(name, n)| Series {
            labels: self.labels(metric, name),
            value: Value::Counter(*n),
        });
        Family {
            series: series.collect(),
            metric,
        }
    }

    /// A gauge without labels.
    pub(super) fn gauge(&mut self, metric: &'static Metric, value: usize) -> Family {
        let series = vec![Series {
            labels: self.labels(metric, ""),
            value: Value::Gauge(value as f64),
        }];
        Family { metric, series }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Options, Profile};
    use super::*;
    use crate::aggregate::Fold;
    use crate::config::Config;
    use crate::probes::Probe as _;

    /// Cause: a tick without stacks. Seen: the same series, by their addresses, and a sum over them that stays.
    #[test]
    fn a_series_is_the_same_in_the_next_tick() {
        let config = Config::parse(
            "f",
            "labels: [{metrics: geophone_profile_stacks_total, exclude: [end]}]",
        )
        .unwrap();
        let p = &config.probes.profile;
        let mut profile = Profile::new(Options {
            hz: p.hz,
            fault_period: u64::from(p.fault_period),
            store_bytes: 1 << 20,
            kinds: p.kinds(),
            names: p.names(),
            waker: p.off_cpu_waker,
            off_cpu_threshold: p.off_cpu_threshold.get(),
            lock_threshold: p.lock_threshold.get(),
        });
        profile.counted.ends.fill(5);
        let mut fold = Fold::new(&config.labels, 1);
        let mut tick = || {
            let mut out = Vec::new();
            profile.collect(&mut out);
            let labels: Vec<_> = out
                .iter()
                .flat_map(|f| f.series.iter().map(|s| s.labels.clone()))
                .collect();
            fold.apply(&mut out);
            let stacks = out
                .iter()
                .find(|f| f.metric.name == super::super::STACKS.name)
                .unwrap();
            match stacks.series[..] {
                [
                    Series {
                        value: Value::Counter(n),
                        ..
                    },
                ] => (labels, n),
                _ => panic!("{:?}", stacks.series),
            }
        };
        let ((first, before), (second, after)) = (tick(), tick());
        assert!(first.len() > 8 && first.iter().zip(&second).all(|(a, b)| Arc::ptr_eq(a, b)));
        assert!(before > 5 && before == after, "{before} {after}");
    }
}
