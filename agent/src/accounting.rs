//! The law of conservation: `seen = filtered + sampled + delivered + in flight + Σ dropped{reason}` for each probe.

use crate::aggregate::{Family, Kind, Labels, Metric, Series, Stability, Value, label};
use crate::bpf::Engine;
use agent_common::account::{Account, reason};
use std::collections::HashMap;
use std::mem::offset_of;
use std::sync::Arc;

/// Events by what became of them.
pub static EVENTS: Metric = Metric {
    name: "geophone_events_total",
    otlp: "geophone.events",
    unit: "{event}",
    kind: Kind::Counter,
    help: "Events of a probe: seen = filtered + sampled + delivered + in_flight + dropped. overflowed is a part of delivered: counted under other",
    labels: &[&label::PROBE, &label::STAGE],
    stability: Stability::Stable,
};
/// Events lost.
pub static DROPPED: Metric = Metric {
    name: "geophone_events_dropped_total",
    otlp: "geophone.events.dropped",
    unit: "{event}",
    kind: Kind::Counter,
    help: "Events that were lost, by where and why",
    labels: &[&label::PROBE, &label::STAGE, &label::REASON],
    stability: Stability::Stable,
};
/// Events on their way.
pub static IN_FLIGHT: Metric = Metric {
    name: "geophone_events_in_flight",
    otlp: "geophone.events.in_flight",
    unit: "{event}",
    kind: Kind::Gauge,
    help: "Events in the ring buffer or in a running program",
    labels: &[&label::PROBE],
    stability: Stability::Stable,
};
/// Events that the law does not explain.
pub static UNACCOUNTED: Metric = Metric {
    name: "geophone_events_unaccounted",
    otlp: "geophone.events.unaccounted",
    unit: "{event}",
    kind: Kind::Gauge,
    help: "Events seen that are in no other stage, the smallest of five seconds; anything but 0 is a fault of geophone",
    labels: &[&label::PROBE],
    stability: Stability::Stable,
};

/// All of them.
pub const METRICS: &[&Metric] = &[&EVENTS, &DROPPED, &IN_FLIGHT, &UNACCOUNTED];

/// What userspace did with the records of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Decoded and handed on.
    pub delivered: u64,
    /// Of no known kind, of another layout, or malformed.
    pub refused: u64,
}

/// Sums over a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Runs that the kernel skipped: the program was already running on that CPU.
    pub skipped: u64,
    /// Kernel side.
    pub kernel: Account,
    /// User side.
    pub records: Records,
}

impl Sums {
    /// Records that are in the ring.
    pub fn waiting(&self) -> u64 {
        self.kernel
            .emitted
            .saturating_sub(self.records.delivered + self.records.refused)
    }

    /// Events seen that are in no stage: those of programs that run just now, or a fault. An event that came to its
    /// end between the two readings is in a stage and not among the seen: it takes nothing away.
    pub fn residue(&self) -> u64 {
        self.kernel.seen.saturating_sub(self.known())
    }

    fn known(&self) -> u64 {
        let k = &self.kernel;
        k.filtered + k.sampled + k.aggregated + k.emitted + k.dropped.iter().sum::<u64>()
    }

    /// Events that have reached the probe: what is in a stage has been seen.
    pub fn seen(&self) -> u64 {
        self.kernel.seen.max(self.known()) + self.skipped
    }
}

/// Reads the accounts of some programs, row by row: `seen` first, its outcomes right behind it.
pub fn read(engine: &Engine, programs: &[usize]) -> Account {
    let mut sum = Account::default();
    let cpus = engine.cpus as usize;
    for row in programs
        .iter()
        .flat_map(|p| (0..cpus).map(move |cpu| p * cpus + cpu))
    {
        let word = |byte: usize| engine.accounts.u64_at(row, byte);
        sum.seen += word(offset_of!(Account, seen));
        sum.filtered += word(offset_of!(Account, filtered));
        sum.sampled += word(offset_of!(Account, sampled));
        sum.aggregated += word(offset_of!(Account, aggregated));
        sum.emitted += word(offset_of!(Account, emitted));
        sum.overflowed += word(offset_of!(Account, overflowed));
        for (i, dropped) in sum.dropped.iter_mut().enumerate() {
            *dropped += word(offset_of!(Account, dropped) + 8 * i);
        }
    }
    sum
}

/// Keeps the books of all probes.
#[derive(Default)]
pub struct Books {
    labels: HashMap<(&'static str, &'static str, &'static str), Arc<Labels>>,
    residues: HashMap<&'static str, [u64; 5]>,
    tick: usize,
    start: u64,
}

impl Books {
    /// Books that begin now.
    pub fn new(start_unix_nanos: u64) -> Self {
        Self {
            start: start_unix_nanos,
            ..Self::default()
        }
    }

    fn labels(
        &mut self,
        metric: &'static Metric,
        probe: &'static str,
        stage: &'static str,
        why: &'static str,
    ) -> Arc<Labels> {
        let start = self.start;
        self.labels
            .entry((probe, stage, why))
            .or_insert_with(|| Arc::new(Labels::new(metric.labels, &[probe, stage, why], false, start)))
            .clone()
    }

    /// Appends the families.
    pub fn collect(&mut self, sums: &[(&'static str, Sums)], out: &mut Vec<Family>) {
        self.tick += 1;
        let (mut events, mut dropped) = (Vec::new(), Vec::new());
        let (mut in_flight, mut unaccounted) = (Vec::new(), Vec::new());
        for (probe, sum) in sums {
            let k = &sum.kernel;
            let residues = self.residues.entry(probe).or_insert([0; 5]);
            let slot = self.tick % residues.len();
            if let Some(r) = residues.get_mut(slot) {
                *r = sum.residue();
            }
            // A residue that stays is a fault; one that comes and goes is a program caught at work.
            let missing = residues.iter().min().copied().unwrap_or(0);
            let running = sum.residue().saturating_sub(missing);
            for (stage, value) in [
                ("seen", sum.seen()),
                ("filtered", k.filtered),
                ("sampled", k.sampled),
                ("delivered", k.aggregated + sum.records.delivered),
                ("overflowed", k.overflowed),
            ] {
                let labels = self.labels(&EVENTS, probe, stage, "");
                events.push(Series {
                    labels,
                    value: Value::Counter(value),
                });
            }
            for (why, value) in reason::NAMES.into_iter().zip(k.dropped) {
                let labels = self.labels(&DROPPED, probe, "kernel", why);
                dropped.push(Series {
                    labels,
                    value: Value::Counter(value),
                });
            }
            let labels = self.labels(&DROPPED, probe, "kernel", "recursion");
            dropped.push(Series {
                labels,
                value: Value::Counter(sum.skipped),
            });
            let labels = self.labels(&DROPPED, probe, "decode", "malformed");
            dropped.push(Series {
                labels,
                value: Value::Counter(sum.records.refused),
            });
            let labels = self.labels(&IN_FLIGHT, probe, "", "");
            in_flight.push(Series {
                labels: labels.clone(),
                value: Value::Gauge((sum.waiting() + running) as f64),
            });
            unaccounted.push(Series {
                labels,
                value: Value::Gauge(missing as f64),
            });
        }
        out.push(Family {
            metric: &EVENTS,
            series: events,
        });
        out.push(Family {
            metric: &DROPPED,
            series: dropped,
        });
        out.push(Family {
            metric: &IN_FLIGHT,
            series: in_flight,
        });
        out.push(Family {
            metric: &UNACCOUNTED,
            series: unaccounted,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_residue_is_reported_and_a_passing_one_is_in_flight() {
        let mut books = Books::new(0);
        let mut sums = Sums::default();
        sums.kernel.seen = 100;
        sums.kernel.aggregated = 98;
        let value = |families: &[Family], name: &str| {
            let family = families.iter().find(|f| f.metric.name == name).unwrap();
            let Value::Gauge(v) = family.series[0].value else {
                panic!("not a gauge")
            };
            v
        };
        let mut out = Vec::new();
        books.collect(&[("x", sums)], &mut out);
        assert_eq!(
            (value(&out, IN_FLIGHT.name), value(&out, UNACCOUNTED.name)),
            (2.0, 0.0)
        );
        for _ in 0..5 {
            out.clear();
            books.collect(&[("x", sums)], &mut out);
        }
        assert_eq!(
            (value(&out, IN_FLIGHT.name), value(&out, UNACCOUNTED.name)),
            (0.0, 2.0)
        );
    }
}
