//! Keeps the CPU budget. Over it for three seconds, one step down; under half of it for thirty, one step up.
//!
//! | level | what is given up |
//! |---|---|
//! | 0 | nothing |
//! | 1–6 | RTT and jitter of one in 2, 4 … 64 acknowledgements, chosen by chance, and zero windows only when seen by one of them; all other counters stay exact; drop records halved each time |
//! | 7 | the per-segment hook itself: RTT comes from the sweep, counters with it |
//! | 8 | the hooks of dns and udp at every packet and of sched at every switch, where these probes are on: their series stand still |
//!
//! Of tunnels: 1–3 take the RTT inside of one timestamp value in 16 · 2ⁿ instead of 16, 4 of none, from 5 on all inner pairs
//! are `other`, and 7 takes the programs off their devices; what then goes by is a gap and no loss. So it does with those of path.
//!
//! First what can be had otherwise, at a lower rate; last what cannot.

use crate::aggregate::{Family, Kind, Labels, Metric, Series, Stability, Value};
use std::sync::Arc;

/// Level in force.
pub static LEVEL: Metric = Metric {
    name: "geophone_governor_level",
    otlp: "geophone.governor.level",
    unit: "1",
    kind: Kind::Gauge,
    help: "What is given up to keep the CPU budget: 0 = nothing, 1-6 = RTT of every 2^level-th segment, in steps also RTT and pairs inside tunnels, 7 = the per-segment hook and the programs of tunnels, 8 = those of dns, udp and sched",
    labels: &[],
    stability: Stability::Stable,
};
/// Share of the machine that is used.
pub static USED: Metric = Metric {
    name: "geophone_governor_cpu_ratio",
    otlp: "geophone.governor.cpu",
    unit: "1",
    kind: Kind::Gauge,
    help: "CPU of the agent and of its programs in the last second, as a share of the whole machine",
    labels: &[],
    stability: Stability::Stable,
};
/// The budget.
pub static BUDGET: Metric = Metric {
    name: "geophone_governor_budget_ratio",
    otlp: "geophone.governor.budget",
    unit: "1",
    kind: Kind::Gauge,
    help: "CPU that the agent and its programs may use, as a share of the whole machine; 0 = not limited",
    labels: &[],
    stability: Stability::Stable,
};

/// All of them.
pub const METRICS: &[&Metric] = &[&LEVEL, &USED, &BUDGET];

/// The last step.
pub const MAX_LEVEL: u32 = 8;
const DOWN_AFTER: u32 = 3;
const UP_AFTER: u32 = 30;

/// See the module.
pub struct Governor {
    budget: f64,
    level: u32,
    over: u32,
    under: u32,
    used: f64,
    labels: Arc<Labels>,
}

impl Governor {
    /// `budget` is a share of the whole machine, 0.005 = half a percent; 0 = no limit.
    pub fn new(budget: f64, unix_nanos: u64) -> Self {
        Self {
            budget,
            level: 0,
            over: 0,
            under: 0,
            used: 0.0,
            labels: Arc::new(Labels::new(&[], &[], false, unix_nanos)),
        }
    }

    /// Takes the share used in the last second. Returns the new level when it changes.
    pub fn tick(&mut self, used: f64) -> Option<u32> {
        self.used = used;
        if self.budget <= 0.0 {
            return None;
        }
        self.over = if used > self.budget { self.over + 1 } else { 0 };
        self.under = if used < self.budget / 2.0 {
            self.under + 1
        } else {
            0
        };
        if self.over >= DOWN_AFTER && self.level < MAX_LEVEL {
            self.over = 0;
            self.level += 1;
            return Some(self.level);
        }
        if self.under >= UP_AFTER && self.level > 0 {
            self.under = 0;
            self.level -= 1;
            return Some(self.level);
        }
        None
    }

    /// Appends the families.
    pub fn collect(&self, out: &mut Vec<Family>) {
        for (metric, value) in [
            (&LEVEL, f64::from(self.level)),
            (&USED, self.used),
            (&BUDGET, self.budget),
        ] {
            out.push(Family {
                metric,
                series: vec![Series {
                    labels: self.labels.clone(),
                    value: Value::Gauge(value),
                }],
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_down_quickly_and_up_slowly() {
        let mut g = Governor::new(0.005, 0);
        assert_eq!([0.01, 0.01, 0.01].map(|u| g.tick(u)), [None, None, Some(1)]);
        assert_eq!(
            [0.01, 0.004, 0.01, 0.01, 0.01].map(|u| g.tick(u)),
            [None, None, None, None, Some(2)]
        );
        let ups: Vec<_> = (0..60).filter_map(|_| g.tick(0.001)).collect();
        assert_eq!(ups, [1, 0]);
        for _ in 0..100 {
            g.tick(1.0);
        }
        assert_eq!(g.level, MAX_LEVEL);
    }

    #[test]
    fn no_budget_no_limit() {
        let mut g = Governor::new(0.0, 0);
        assert!((0..100).all(|_| g.tick(1.0).is_none()));
    }
}
