//! What the flight recorder says of itself.

use super::Tape;
use crate::aggregate::{Collect, Family, Kind, Labels, Metric, Series, Stability, Value};
use std::sync::Arc;

/// Bytes written.
pub static BYTES: Metric = Metric {
    name: "geophone_record_bytes_total",
    otlp: "geophone.record.io",
    unit: "By",
    kind: Kind::Counter,
    help: "Bytes that the flight recorder has written",
    labels: &[],
    stability: Stability::Experimental,
};
/// Ticks lost.
pub static LOST: Metric = Metric {
    name: "geophone_record_lost_total",
    otlp: "geophone.record.lost",
    unit: "{second}",
    kind: Kind::Counter,
    help: "Seconds that did not get to the flight recorder's disk",
    labels: &[],
    stability: Stability::Experimental,
};

/// All of them.
pub const METRICS: &[&Metric] = &[&BYTES, &LOST];

/// Says what a tape has written.
pub struct StatsCollect {
    tape: Arc<Tape>,
    labels: Arc<Labels>,
}

impl StatsCollect {
    /// Of a tape.
    pub fn new(tape: Arc<Tape>, start_unix_nanos: u64) -> Self {
        Self {
            tape,
            labels: Arc::new(Labels::new(&[], &[], false, start_unix_nanos)),
        }
    }
}

impl Collect for StatsCollect {
    fn collect(&mut self, out: &mut Vec<Family>) {
        let written = self.tape.written();
        for (metric, value) in [(&BYTES, written.bytes), (&LOST, written.lost)] {
            out.push(Family {
                metric,
                series: vec![Series {
                    labels: self.labels.clone(),
                    value: Value::Counter(value),
                }],
            });
        }
    }
}
