//! A snapshot with one of each, for the tests of every exporter.

use crate::aggregate::{
    Exemplar, Family, HistogramValue, Kind, Label, Labels, Metric, Resource, Series, Snapshot, Stability,
    Value, label,
};
use std::sync::Arc;

/// Labels of the test metrics.
pub const LABELS: &[&Label] = &[&label::SUBJECT, &label::PEER];
/// When the agent started.
pub const START: u64 = 1_700_000_000_000_000_000;

macro_rules! metric {
    ($name:ident, $prometheus:literal, $otlp:literal, $unit:literal, $kind:ident, $help:literal) => {
        /// A test metric.
        pub static $name: Metric = Metric {
            name: $prometheus,
            otlp: $otlp,
            unit: $unit,
            kind: Kind::$kind,
            help: $help,
            labels: LABELS,
            stability: Stability::Stable,
        };
    };
}
metric!(
    BYTES,
    "geophone_test_bytes_total",
    "geophone.test.bytes",
    "By",
    Counter,
    "Bytes that were tested"
);
metric!(
    RUN,
    "geophone_test_run_seconds_total",
    "geophone.test.run",
    "s",
    Counter,
    "Time \"spent\" in C:\\tests"
);
metric!(
    LEVEL,
    "geophone_test_level",
    "geophone.test.level",
    "1",
    Gauge,
    "How far it is"
);
metric!(
    RTT,
    "geophone_test_rtt_seconds",
    "geophone.test.rtt",
    "s",
    Histogram,
    "Round trips"
);

/// Labels that a hostile container would choose.
pub fn labels(i: usize) -> Arc<Labels> {
    let subject = format!("docker/a\"b\\c\n{i}");
    Arc::new(Labels::new(
        LABELS,
        &[&subject, "eu-west"],
        i == 0,
        START + i as u64,
    ))
}

/// An exemplar that was placed so many ns after the start.
pub fn exemplar(value: f64, placed: u64) -> Exemplar {
    Exemplar {
        value,
        unix_nanos: START + 1_250_000_000,
        placed: START + placed,
        trace_id: 0xabc,
        span_id: 0xdef,
    }
}

/// A snapshot of one histogram with two exemplars, taken so many ns after the start.
pub fn exemplified(at: u64) -> Snapshot {
    let mut value = histogram(0);
    for exemplar in [exemplar(0.9, 5), exemplar(5e6, 20)] {
        value.keep(exemplar);
    }
    Snapshot {
        tick: 1 + at,
        unix_nanos: START + at,
        families: vec![Family {
            metric: &RTT,
            series: vec![Series {
                labels: labels(1),
                value: Value::Histogram(Arc::new(value)),
            }],
        }],
        ..Snapshot::default()
    }
}

/// A histogram with values in scattered cells.
pub fn histogram(i: u64) -> HistogramValue {
    let mut out = HistogramValue::default();
    for cell in [0, 1, 2, 9, 80, 81, 83, 90, 160, 216, 217, 223] {
        out.add_cell(cell, 1 + (cell as u64 * 7 + i) % 5);
    }
    out.sum = 12.5 + i as f64;
    (out.min, out.max) = (Some(0.0), Some(230.0));
    out
}

/// `n` series of each kind.
pub fn snapshot(n: usize, tick: u64) -> Snapshot {
    let family = |metric, value: &dyn Fn(u64) -> Value| Family {
        metric,
        series: (0..n)
            .map(|i| Series {
                labels: labels(i),
                value: value(i as u64 * 10 + tick),
            })
            .collect(),
    };
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    Snapshot {
        tick,
        unix_nanos: now.as_nanos() as u64,
        start_unix_nanos: START,
        resource: Arc::new(Resource {
            host: "host-1".into(),
            region: "eu".into(),
            zone: String::new(),
            attributes: vec![("deployment.environment.name".into(), "test".into())],
        }),
        families: vec![
            family(&BYTES, &|i| Value::Counter(1_000 + i)),
            family(&RUN, &|i| Value::CounterF(0.25 + i as f64)),
            family(&LEVEL, &|i| {
                Value::Gauge(if i == 11 {
                    f64::NEG_INFINITY
                } else {
                    1.5 - i as f64
                })
            }),
            family(&RTT, &|i| Value::Histogram(Arc::new(histogram(i)))),
        ],
    }
}
