//! Reconciliation with the kernel's own counters of the agent's network namespace.

use crate::aggregate::{Family, Kind, Labels, Metric, Series, Stability, Value, label};
use crate::bpf::Engine;
use crate::bpf::sys::MappedArray;
use agent_common::tcp::home;
use std::sync::Arc;

/// Coverage.
pub static COVERAGE: Metric = Metric {
    name: "geophone_coverage_ratio",
    otlp: "geophone.coverage",
    unit: "1",
    kind: Kind::Gauge,
    help: "What geophone counted divided by what the kernel counted (/proc/net/snmp) in the agent's network namespace, since the start",
    labels: &[&label::METRIC],
    stability: Stability::Stable,
};

/// All of them.
pub const METRICS: &[&Metric] = &[&COVERAGE];

/// (name, counter of the programs, column of /proc/net/snmp).
const PAIRS: [(&str, usize, &str); 5] = [
    ("tcp_segments_transmit", home::SEGMENTS_OUT, "OutSegs"),
    ("tcp_retransmits", home::RETRANSMITS, "RetransSegs"),
    ("tcp_resets_transmit", home::RESETS_OUT, "OutRsts"),
    ("tcp_active_opens", home::ACTIVE_OPENS, "ActiveOpens"),
    ("tcp_passive_opens", home::PASSIVE_OPENS, "PassiveOpens"),
];

/// Both counts of each pair, ours and the kernel's, at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading([(u64, u64); PAIRS.len()]);

impl Reading {
    /// The present ones. Right after a sweep no socket owes anything; a second later busy ones do.
    pub fn take(home: &MappedArray, cpus: u32) -> Self {
        let text = std::fs::read_to_string("/proc/self/net/snmp").unwrap_or_default();
        Self(PAIRS.map(|(_, counter, column)| {
            let ours = (0..cpus as usize).map(|cpu| home.u64_at(cpu, 8 * counter)).sum();
            (ours, snmp(&text, column).unwrap_or(0))
        }))
    }
}

/// Compares since its creation.
pub struct Coverage {
    base: Reading,
    labels: [Arc<Labels>; PAIRS.len()],
    ratios: [Option<f64>; PAIRS.len()],
}

impl Coverage {
    /// Begins to compare now: the programs must be attached.
    pub fn new(engine: &Engine, unix_nanos: u64) -> Self {
        Self {
            base: Reading::take(&engine.home, engine.cpus),
            labels: PAIRS
                .map(|(name, ..)| Arc::new(Labels::new(COVERAGE.labels, &[name], false, unix_nanos))),
            ratios: [None; PAIRS.len()],
        }
    }

    /// Takes a reading that was made at the end of a sweep.
    pub fn update(&mut self, now: &Reading) {
        for ((ratio, base), now) in self.ratios.iter_mut().zip(self.base.0).zip(now.0) {
            let (ours, kernels) = (now.0.wrapping_sub(base.0), now.1.wrapping_sub(base.1));
            *ratio = (kernels > 0).then(|| ours as f64 / kernels as f64);
        }
    }

    /// Appends the family; what the kernel has not counted yet has no ratio.
    pub fn collect(&self, out: &mut Vec<Family>) {
        let series = self
            .labels
            .iter()
            .zip(self.ratios)
            .filter_map(|(labels, ratio)| {
                Some(Series {
                    labels: labels.clone(),
                    value: Value::Gauge(ratio?),
                })
            })
            .collect();
        out.push(Family {
            metric: &COVERAGE,
            series,
        });
    }
}

/// A column of the `Tcp:` lines.
fn snmp(text: &str, column: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|l| l.starts_with("Tcp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    names
        .split_whitespace()
        .zip(values.split_whitespace())
        .find(|(n, _)| *n == column)?
        .1
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name() {
        let text = "Ip: a b\nIp: 1 2\nTcp: RtoMin MaxConn OutSegs\nTcp: 200 -1 77\n";
        assert_eq!(snmp(text, "OutSegs"), Some(77));
        assert_eq!(snmp(text, "MaxConn"), None);
        assert_eq!(snmp("", "OutSegs"), None);
    }
}
