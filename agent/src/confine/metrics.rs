//! What the agent holds, and what it was refused.

use crate::aggregate::{Collect, Family, Label, Labels, Series, Value, metrics};
use crate::bpf::privileges;
use agent_confine::{Capability, syscalls};
use std::collections::BTreeMap;
use std::sync::Arc;

static CAPABILITY: Label = Label {
    prometheus: "capability",
    otlp: "geophone.capability",
    help: "Capability of Linux",
};
static CALL: Label = Label {
    prometheus: "syscall",
    otlp: "geophone.syscall",
    help: "System call, by name as far as the agent knows it; other: of one that ended the process that reads symbols, the name is not known",
};

metrics! {
    /// Capabilities.
    HELD = "geophone_agent_capabilities", "geophone.agent.capabilities", "{thread}", Gauge, &[&CAPABILITY],
        "Threads of the agent that have the capability, so that it can be used";
    /// The filter.
    FILTERED = "geophone_agent_unfiltered_threads", "geophone.agent.unfiltered_threads", "{thread}", Gauge, &[],
        "Threads of the agent on which the kernel filters no system calls (security.seccomp)";
    /// Refusals.
    REFUSED = "geophone_agent_refused_calls_total", "geophone.agent.refused_calls", "{call}", Counter, &[&CALL],
        "System calls that the agent's own filter has refused, to it or to its process that reads symbols: a fault of the agent, or somebody has taken it over";
}

/// Ticks between two looks at the threads.
const LOOK: u64 = 10;

/// Makes the families.
pub struct StatsCollect {
    start: u64,
    ticks: u64,
    held: BTreeMap<u8, u64>,
    unfiltered: u64,
    capabilities: BTreeMap<u8, Arc<Labels>>,
    calls: BTreeMap<i64, Arc<Labels>>,
    none: Arc<Labels>,
}

impl StatsCollect {
    /// Of this process.
    pub fn new(start_unix_nanos: u64) -> Self {
        Self {
            start: start_unix_nanos,
            ticks: 0,
            held: BTreeMap::new(),
            unfiltered: 0,
            capabilities: BTreeMap::new(),
            calls: BTreeMap::new(),
            none: Arc::new(Labels::new(&[], &[], false, start_unix_nanos)),
        }
    }

    fn look(&mut self) {
        self.held.clear();
        self.unfiltered = 0;
        for held in privileges::threads().values() {
            self.unfiltered += u64::from(!held.filtered);
            for capability in Capability::all(held.permitted) {
                *self.held.entry(capability.0).or_default() += 1;
            }
        }
    }
}

impl Collect for StatsCollect {
    fn collect(&mut self, out: &mut Vec<Family>) {
        if self.ticks.is_multiple_of(LOOK) {
            self.look();
        }
        self.ticks += 1;
        let start = self.start;
        let held = self.held.iter().map(|(number, threads)| {
            let labels = self.capabilities.entry(*number).or_insert_with(|| {
                let name = Capability(*number).name();
                Arc::new(Labels::new(HELD.labels, &[&name], false, start))
            });
            Series {
                labels: labels.clone(),
                value: Value::Gauge(*threads as f64),
            }
        });
        out.push(Family {
            metric: &HELD,
            series: held.collect(),
        });
        out.push(Family {
            metric: &FILTERED,
            series: vec![Series {
                labels: self.none.clone(),
                value: Value::Gauge(self.unfiltered as f64),
            }],
        });
        let refused = privileges::refused_calls().map(|(number, count)| {
            let labels = self.calls.entry(number).or_insert_with(|| {
                let name = match number {
                    privileges::OTHER => "other".to_owned(),
                    number => syscalls::name(number),
                };
                tracing::warn!(
                    "the agent's own filter has refused the system call {name}; if all is well with it, tell its makers, and \
                     set security.seccomp: false until then"
                );
                Arc::new(Labels::new(REFUSED.labels, &[&name], false, start))
            });
            Series {
                labels: labels.clone(),
                value: Value::Counter(count),
            }
        });
        out.push(Family {
            metric: &REFUSED,
            series: refused.collect(),
        });
    }
}
