//! What the flight recorder says of itself.

use super::Flight;
use crate::aggregate::{Collect, Family, Label, Labels, Metric, Series, Value, metrics};
use std::sync::Arc;

static OUTCOME: Label = Label {
    prometheus: "outcome",
    otlp: "geophone.outcome",
    help: "What became of it: written, or lost; of a dump, written or failed",
};
static WHAT: Label = Label {
    prometheus: "what",
    otlp: "geophone.record.what",
    help: "ring: the last minutes; dumps: what alerts have dumped",
};

metrics! {
    /// Ticks.
    TICKS = "geophone_record_ticks_total", "geophone.record.ticks", "{tick}", Counter, &[&OUTCOME],
        "Seconds that the flight recorder has written to disk, and those that it could not; with geophone_record_ticks_waiting all that there were";
    /// Ticks on their way.
    WAITING = "geophone_record_ticks_waiting", "geophone.record.ticks.waiting", "{tick}", Gauge, &[],
        "Seconds that the disk has still to take; 32 at most";
    /// Bytes.
    BYTES = "geophone_record_bytes_total", "geophone.record.io", "By", Counter, &[],
        "Bytes that the flight recorder has written";
    /// Disk.
    DISK = "geophone_record_disk_bytes", "geophone.record.size", "By", Gauge, &[&WHAT],
        "Bytes on disk; each is at most half of record.flight.max_size";
    /// Records.
    LEFT_OUT = "geophone_record_left_out_total", "geophone.record.left_out", "{record}", Counter, &[],
        "Records beyond the megabyte a second that the flight recorder takes; a replay's counters have them all the same";
    /// Dumps.
    DUMPS = "geophone_record_dumps_total", "geophone.record.dumps", "{dump}", Counter, &[&OUTCOME],
        "Dumps that alerts have made";
}

/// Ticks from one look at the directory to the next.
const LOOK: u64 = 10;

/// Makes the families.
pub struct StatsCollect {
    flight: Arc<Flight>,
    none: Arc<Labels>,
    ticks: [Arc<Labels>; 2],
    dumps: [Arc<Labels>; 2],
    places: [Arc<Labels>; 2],
    on_disk: (u64, u64),
    tick: u64,
}

impl StatsCollect {
    /// Of a flight recorder.
    pub fn new(flight: Arc<Flight>, start_unix_nanos: u64) -> Self {
        let new = |declared, value: &[&str]| Arc::new(Labels::new(declared, value, false, start_unix_nanos));
        Self {
            flight,
            none: new(&[], &[]),
            ticks: ["written", "lost"].map(|outcome| new(TICKS.labels, &[outcome])),
            dumps: ["written", "failed"].map(|outcome| new(DUMPS.labels, &[outcome])),
            places: ["ring", "dumps"].map(|what| new(DISK.labels, &[what])),
            on_disk: (0, 0),
            tick: 0,
        }
    }
}

impl Collect for StatsCollect {
    fn collect(&mut self, out: &mut Vec<Family>) {
        if self.tick.is_multiple_of(LOOK) {
            self.on_disk = self.flight.on_disk();
        }
        self.tick += 1;
        let stats = self.flight.stats();
        let (written, failed) = self.flight.dumps();
        let mut family = |metric: &'static Metric, series: &[(&Arc<Labels>, Value)]| {
            let series = series.iter().map(|(labels, value)| Series {
                labels: (*labels).clone(),
                value: value.clone(),
            });
            out.push(Family {
                metric,
                series: series.collect(),
            });
        };
        let count = Value::Counter;
        family(
            &TICKS,
            &[
                (&self.ticks[0], count(stats.written.ticks)),
                (&self.ticks[1], count(stats.lost)),
            ],
        );
        family(&WAITING, &[(&self.none, Value::Gauge(stats.waiting as f64))]);
        family(&BYTES, &[(&self.none, count(stats.written.bytes))]);
        family(
            &DISK,
            &[
                (&self.places[0], Value::Gauge(self.on_disk.0 as f64)),
                (&self.places[1], Value::Gauge(self.on_disk.1 as f64)),
            ],
        );
        family(&LEFT_OUT, &[(&self.none, count(stats.records_left_out))]);
        family(
            &DUMPS,
            &[(&self.dumps[0], count(written)), (&self.dumps[1], count(failed))],
        );
    }
}
