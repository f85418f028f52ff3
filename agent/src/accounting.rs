//! The law of conservation: `seen = filtered + sampled + delivered + in flight + Σ dropped{reason}` for each probe.

use crate::aggregate::{Family, Kind, Labels, Metric, Series, Stability, Value, label};
use crate::bpf::Engine;
use agent_common::account::{Account, reason};
use serde::{Deserialize, Serialize};
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
    help: "Events seen that are in no other stage (below 0: in more than one), the least of five seconds; anything but 0 is a fault of geophone",
    labels: &[&label::PROBE],
    stability: Stability::Stable,
};

/// All of them.
pub const METRICS: &[&Metric] = &[&EVENTS, &DROPPED, &IN_FLIGHT, &UNACCOUNTED];

/// What userspace did with the records of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

    /// Events seen that are in no stage. Above 0: programs that run just now; below 0: events that came to their end
    /// between the two readings; if it lasts, a fault.
    pub fn residue(&self) -> i64 {
        let k = &self.kernel;
        let known = k.filtered + k.sampled + k.aggregated + k.emitted + k.dropped.iter().sum::<u64>();
        k.seen.wrapping_sub(known) as i64
    }
}

/// The part of some residues that never went away: the least of them if all lie on one side of 0.
fn lasting(residues: &[i64]) -> i64 {
    let least = residues.iter().copied().min().unwrap_or(0);
    let most = residues.iter().copied().max().unwrap_or(0);
    least.max(0) + most.min(0)
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
    residues: HashMap<&'static str, [i64; 5]>,
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

    /// Appends the families. `strangers` are records that name no program, and so no probe.
    pub fn collect(&mut self, sums: &[(&'static str, Sums)], strangers: u64, out: &mut Vec<Family>) {
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
            let missing = lasting(residues);
            let passing = sum.residue() - missing;
            let running = passing.max(0) as u64;
            // What has come to its end since `seen` was read has been seen as well.
            let ended = passing.min(0).unsigned_abs();
            for (stage, value) in [
                ("seen", k.seen + ended + sum.skipped),
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
        let labels = self.labels(&DROPPED, "", "decode", "malformed");
        dropped.push(Series {
            labels,
            value: Value::Counter(strangers),
        });
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

    fn number(families: &[Family], name: &str) -> f64 {
        let family = families.iter().find(|f| f.metric.name == name).unwrap();
        match family.series[0].value {
            Value::Gauge(v) => v,
            Value::Counter(v) => v as f64,
            _ => panic!("no number"),
        }
    }

    /// (seen, in flight, unaccounted) once and after five more seconds of the same.
    fn books(seen: u64, aggregated: u64) -> [(f64, f64, f64); 2] {
        let mut books = Books::new(0);
        let mut sums = Sums::default();
        // All was well before.
        books.collect(&[("x", sums)], 0, &mut Vec::new());
        (sums.kernel.seen, sums.kernel.aggregated) = (seen, aggregated);
        let mut ask = |times| {
            let mut out = Vec::new();
            for _ in 0..times {
                out.clear();
                books.collect(&[("x", sums)], 0, &mut out);
            }
            let of = |name| number(&out, name);
            (of(EVENTS.name), of(IN_FLIGHT.name), of(UNACCOUNTED.name))
        };
        [ask(1), ask(5)]
    }

    #[test]
    fn a_lasting_residue_is_reported_and_a_passing_one_is_in_flight() {
        assert_eq!(books(100, 98), [(100.0, 2.0, 0.0), (100.0, 0.0, 2.0)]);
    }

    #[test]
    fn what_is_counted_twice_is_a_fault_as_well() {
        assert_eq!(books(98, 100), [(100.0, 0.0, 0.0), (98.0, 0.0, -2.0)]);
    }

    #[test]
    fn what_lasts_is_what_never_went_away() {
        assert_eq!(lasting(&[3, 2, 5]), 2);
        assert_eq!(lasting(&[-3, -2, -5]), -2);
        assert_eq!(lasting(&[3, -2, 5]), 0);
        assert_eq!(lasting(&[3, 0, 5]), 0);
    }
}
