//! What the agent costs, and what it does about it.

use crate::aggregate::Family;
use crate::bpf::{Engine, host};
use crate::cost::Cost;
use crate::governor::Governor;
use crate::probes::Fill;
use std::time::Instant;

/// Cost and budget.
pub struct Price {
    cost: Cost,
    governor: Governor,
    /// When it was looked at last, and how many CPU seconds it was then.
    last: (Instant, f64),
    ticks: u64,
}

impl Price {
    /// Of these programs; `floor` is what an empty one takes, ns, and `budget` the share of the machine that may be used.
    pub fn new(floor: f64, programs: Vec<(&'static str, usize)>, budget: f64, start: u64) -> Self {
        Self {
            cost: Cost::new(floor, programs, start),
            governor: Governor::new(budget, start),
            last: (Instant::now(), 0.0),
            ticks: 0,
        }
    }

    /// To be called more often than once a second; whether it wants to be called soon.
    pub fn poll(&mut self, engine: &Engine) -> bool {
        self.cost.poll(engine, Instant::now())
    }

    /// Once a second; `beside` are CPU seconds that are in no program's time. The level if it is another from now on.
    pub fn tick(&mut self, engine: Option<&Engine>, beside: f64, now: Instant) -> Option<u32> {
        self.ticks += 1;
        self.cost.tick(engine);
        let total = self.cost.cpu + self.cost.program_seconds() + beside;
        let wall = now.duration_since(self.last.0).as_secs_f64();
        if wall <= 0.5 {
            return None;
        }
        let used = (total - self.last.1).max(0.0) / wall / f64::from(host::online_cpus());
        self.last = (now, total);
        // The first seconds are start-up.
        if self.ticks <= 3 {
            return None;
        }
        let level = self.governor.tick(used)?;
        tracing::warn!(
            "CPU budget: {:.2} % of the machine used; level {level} from now on",
            used * 100.0
        );
        Some(level)
    }

    /// Appends its families.
    pub fn collect(&mut self, engine: Option<&Engine>, fills: &[Fill], out: &mut Vec<Family>) {
        self.cost.collect(engine, fills, out);
        self.governor.collect(out);
    }
}
