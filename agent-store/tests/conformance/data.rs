//! An hour of made-up series with all that goes wrong in real ones.

use agent_store::histogram::Histogram;
use agent_store::labels::Labels;
use agent_store::series::{Column, Millis, STALE, Samples, Series};
use std::sync::Arc;

/// When it begins.
pub const START: Millis = 1_600_000_000_000;
/// Between two samples.
const STEP: Millis = 15_000;
const COUNT: i64 = 240;
/// From the first sample to the last.
pub const LASTS: Millis = (COUNT - 1) * STEP;

/// Numbers that look random and are the same at every run (xorshift).
pub struct Numbers(pub u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Less than `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn unit(&mut self) -> f64 {
        self.below(1 << 40) as f64 / (1_u64 << 40) as f64
    }
}

fn series(name: &str, labels: &[(&str, &str)], points: Vec<(Millis, f64)>) -> Series {
    let (times, values) = points.into_iter().unzip();
    let labels = labels.iter().copied().chain([("__name__", name)]);
    let floats = Column { times, values };
    Series {
        labels: Labels::new(labels),
        samples: Samples {
            floats,
            ..Samples::default()
        },
    }
}

fn every_step(mut value: impl FnMut(i64) -> Option<f64>) -> Vec<(Millis, f64)> {
    (0..COUNT)
        .filter_map(|at| Some((START + at * STEP, value(at)?)))
        .collect()
}

/// All of it.
pub fn all() -> Vec<Series> {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut all = counters(&mut numbers);
    all.extend(gauges(&mut numbers));
    all.extend(odd());
    all.extend(classic(&mut numbers));
    all.extend(native(&mut numbers));
    all
}

fn counters(numbers: &mut Numbers) -> Vec<Series> {
    let mut all = Vec::new();
    for (at, (job, instance, code)) in [
        ("api", "a:1", "200"),
        ("api", "a:1", "500"),
        ("api", "b:1", "200"),
        ("api", "b:1", "500"),
        ("web", "c:2", "200"),
        ("web", "c:2", "404"),
        ("web", "d:2", "200"),
        ("db", "e:3", "200"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut total = numbers.below(1000) as f64;
        let points = every_step(|step| {
            total += numbers.below(50 + at as u64 * 10) as f64;
            match (at, step) {
                // Resets: to 0, and to something lower.
                (0, 60 | 150) => total = 0.0,
                (2, 100) => total /= 3.0,
                // A gap, an end that is marked and begins again, a late beginning.
                (3, 80..=130) => return None,
                (4, 120) => return Some(STALE),
                (4, 121..=140) => return None,
                (5, 0..=90) => return None,
                (6, 170) => return Some(STALE),
                (6, 171..) => return None,
                _ => {}
            }
            Some(total)
        });
        all.push(series(
            "http_requests_total",
            &[("job", job), ("instance", instance), ("code", code)],
            points,
        ));
    }
    for (job, team, limit) in [
        ("api", "blue", 4000.0),
        ("web", "red", 2500.5),
        ("batch", "red", 1.0),
    ] {
        all.push(series("job_limit", &[("job", job)], every_step(|_| Some(limit))));
        all.push(series(
            "job_owner",
            &[("job", job), ("team", team)],
            every_step(|_| Some(1.0)),
        ));
    }
    all.push(series(
        "job_owner",
        &[("job", "db"), ("team", "blue")],
        every_step(|_| Some(1.0)),
    ));
    all.push(series(
        "job_owner",
        &[("job", "db"), ("team", "green")],
        every_step(|_| Some(2.0)),
    ));
    all
}

fn gauges(numbers: &mut Numbers) -> Vec<Series> {
    let mut all = Vec::new();
    for (at, room) in ["attic", "cellar", "hall", "kitchen"].into_iter().enumerate() {
        let mut value = 15.0 + at as f64;
        // Scrapes that are never quite in time.
        let points = every_step(|_| {
            value += numbers.unit() - 0.5;
            Some(value)
        });
        let points = points
            .into_iter()
            .map(|(time, value)| (time + 1 + numbers.below(900) as i64, value));
        let labels = [("room", room), ("floor", if at < 2 { "x10" } else { "x9" })];
        all.push(series("temperature_celsius", &labels, points.collect()));
    }
    let points = every_step(|step| Some(if step % 40 < 25 { 3.0 } else { -2.5 * step as f64 }));
    all.push(series("level", &[("tank", "a")], points));
    all.push(series(
        "level",
        &[("tank", "b")],
        every_step(|step| (step % 7 != 0).then_some((step % 12) as f64)),
    ));
    all.push(series(
        "level",
        &[("tank", "c")],
        every_step(|step| (step % 30 == 0).then_some(step as f64 / 9.0)),
    ));
    let huge = every_step(|step| Some(if step % 2 == 0 { f64::MAX } else { f64::MAX / 2.0 }));
    all.push(series("huge", &[("a", "1")], huge.clone()));
    all.push(series("huge", &[("a", "2")], huge));
    all.push(series(
        "clock_seconds",
        &[],
        every_step(|step| Some(1e9 + step as f64 * 1e6)),
    ));
    all
}

fn odd() -> Vec<Series> {
    let inf = f64::INFINITY;
    type Kind = (&'static str, fn(i64) -> f64);
    let values: [Kind; 7] = [
        ("nan", |_| f64::NAN),
        ("inf", |_| f64::INFINITY),
        ("ninf", |_| f64::NEG_INFINITY),
        ("mixed", |step| {
            [1.0, f64::NAN, -3.0, f64::INFINITY, f64::NEG_INFINITY, 0.0][step as usize % 6]
        }),
        ("zero", |step| if step % 2 == 0 { 0.0 } else { -0.0 }),
        ("constant", |_| 42.0),
        ("tiny", |step| 1e-300 * (step as f64 + 1.0)),
    ];
    let mut all: Vec<Series> = values
        .into_iter()
        .map(|(kind, value)| series("odd", &[("kind", kind)], every_step(|step| Some(value(step)))))
        .collect();
    all.push(series(
        "odd_total",
        &[("kind", "inf")],
        every_step(|step| Some(if step < 100 { step as f64 } else { inf })),
    ));
    all
}

fn classic(numbers: &mut Numbers) -> Vec<Series> {
    let bounds = ["0.005", "0.01", "0.05", "0.1", "0.5", "1", "2.5", "+Inf"];
    let mut all = Vec::new();
    for job in ["api", "web"] {
        let mut counts = [0.0; 8];
        let mut sum = 0.0;
        let mut points: Vec<Vec<(Millis, f64)>> = vec![Vec::new(); 10];
        for step in 0..COUNT {
            let time = START + step * STEP;
            if job == "web" && step == 130 {
                (counts, sum) = ([0.0; 8], 0.0);
            }
            for (at, count) in counts.iter_mut().enumerate() {
                let seen = numbers.below(9) as f64;
                *count += seen;
                sum += seen * 0.01 * (at + 1) as f64;
            }
            let mut total = 0.0;
            for (at, count) in counts.iter().enumerate() {
                total += count;
                points[at].push((time, total));
            }
            points[8].push((time, total));
            points[9].push((time, sum));
        }
        let mut points = points.into_iter();
        for (bound, points) in bounds.iter().zip(&mut points) {
            all.push(series(
                "latency_seconds_bucket",
                &[("job", job), ("le", bound)],
                points,
            ));
        }
        all.push(series(
            "latency_seconds_count",
            &[("job", job)],
            points.next().unwrap(),
        ));
        all.push(series(
            "latency_seconds_sum",
            &[("job", job)],
            points.next().unwrap(),
        ));
    }
    all.push(series("bad_bucket", &[("le", "x")], every_step(|_| Some(1.0))));
    all.push(series("open_bucket", &[("le", "1")], every_step(|_| Some(1.0))));
    all
}

fn native(numbers: &mut Numbers) -> Vec<Series> {
    let mut all = Vec::new();
    for (job, schema, threshold) in [("api", 3, 0.001), ("web", 1, 0.001), ("db", 3, 0.007_812_5)] {
        let mut histogram = Histogram {
            schema,
            zero_threshold: threshold,
            ..Histogram::default()
        };
        let mut column = Column::default();
        for step in 0..COUNT {
            if (job, step) == ("api", 110) {
                histogram = Histogram {
                    schema,
                    zero_threshold: threshold,
                    ..Histogram::default()
                };
            }
            if (job, step) == ("db", 150) {
                // A version of the program with a lower resolution: a new beginning as well.
                histogram = Histogram {
                    schema: 0,
                    zero_threshold: threshold,
                    ..Histogram::default()
                };
            }
            for _ in 0..numbers.below(20) {
                observe(&mut histogram, numbers.unit() * numbers.unit() * 4.0);
            }
            if job == "web" && (60..90).contains(&step) {
                continue;
            }
            column.times.push(START + step * STEP);
            column.values.push(Arc::new(histogram.clone()));
        }
        all.push(native_series("rpc_seconds", job, column));
    }
    let mut column = Column::default();
    let mut histogram = Histogram {
        schema: 2,
        zero_threshold: 0.01,
        ..Histogram::default()
    };
    for step in 0..COUNT {
        for _ in 0..numbers.below(30) {
            observe(&mut histogram, numbers.unit() * 20.0 - 10.0);
        }
        column.times.push(START + step * STEP);
        column.values.push(Arc::new(histogram.clone()));
    }
    all.push(native_series("balance", "bank", column));
    all
}

fn native_series(name: &str, job: &str, histograms: Column<Arc<Histogram>>) -> Series {
    let labels = Labels::new([("__name__", name), ("job", job)]);
    Series {
        labels,
        samples: Samples {
            histograms,
            ..Samples::default()
        },
    }
}

fn observe(histogram: &mut Histogram, value: f64) {
    histogram.count += 1.0;
    histogram.sum += value;
    if value.abs() <= histogram.zero_threshold {
        histogram.zero_count += 1.0;
        return;
    }
    let index = (value.abs().log2() * f64::from(histogram.schema).exp2()).ceil() as i32;
    let buckets = if value > 0.0 {
        &mut histogram.positive
    } else {
        &mut histogram.negative
    };
    match buckets.binary_search_by_key(&index, |bucket| bucket.0) {
        Ok(at) => buckets[at].1 += 1.0,
        Err(at) => buckets.insert(at, (index, 1.0)),
    }
}
