//! What a sample costs.

use super::generate::{Kind, NOISES, series};
use agent_score::anomaly::{Bank, Forest, Series, Settings};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// One that has lived three days of a course, a sample each minute.
fn daily() -> Series {
    let mut series = Series::new(Settings::new(60.0));
    for minute in 0..3 * 1440 {
        series.observe(super::start(minute * 60), usual(minute));
    }
    series
}

fn usual(minute: usize) -> f64 {
    let noise = (minute * 7919 % 101) as f64 / 50.0;
    100.0 + 20.0 * (std::f64::consts::TAU * minute as f64 / 1440.0).sin() + noise
}

/// What a sample of such a one costs, in nanoseconds.
fn of_a_day(series: &Series) -> f64 {
    let mut all = vec![series.clone(); 2000];
    let mut best = Duration::MAX;
    for minute in 3 * 1440..4 * 1440 {
        let value = usual(minute);
        let begin = Instant::now();
        for state in &mut all {
            black_box(state.observe(super::start(minute * 60), value));
        }
        best = best.min(begin.elapsed());
    }
    best.as_nanos() as f64 / all.len() as f64
}

/// By how much more memory is resident with each of five thousand of them.
fn bytes(series: &Series) -> usize {
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok());
        pages.unwrap_or(0_usize) * 4096
    };
    let before = resident();
    let all = black_box(vec![series.clone(); 5000]);
    resident().saturating_sub(before) / all.len()
}

/// The best of some rounds, in nanoseconds of a sample, and the bytes of a series.
pub fn run() {
    let inputs: Vec<_> = NOISES
        .iter()
        .map(|n| series(*n, Kind::Spike, 60_000, 7).values)
        .collect();

    let mut ensembles: Vec<Series> = (0..2000).map(|_| Series::new(Settings::new(1.0))).collect();
    let mut best = Duration::MAX;
    for tick in 0..2_000 {
        let begin = Instant::now();
        for (i, state) in ensembles.iter_mut().enumerate() {
            black_box(state.observe(super::start(tick), inputs[i % inputs.len()][tick + i]));
        }
        if tick > 1000 {
            best = best.min(begin.elapsed());
        }
    }
    // Before what is freed is used again.
    let daily = daily();
    let sizes = [&ensembles[0], &daily].map(bytes);
    println!(
        "ensemble: {:.0} ns a sample, {} bytes a series; with the course of a day {:.0} ns and {}",
        best.as_nanos() as f64 / 2000.0,
        sizes[0],
        of_a_day(&daily),
        sizes[1],
    );

    let mut bank = Bank::new(Settings::new(1.0), 100_000);
    let (mut best, mut found) = (Duration::MAX, Vec::new());
    let mut values = vec![0.0; bank.len()];
    for tick in 0..400 {
        for (i, value) in values.iter_mut().enumerate() {
            *value = inputs[i % inputs.len()][(tick + i) % 50_000];
        }
        let begin = Instant::now();
        bank.observe(&values, &mut found);
        if tick > 300 {
            best = best.min(begin.elapsed());
        }
    }
    println!(
        "bank: {:.2} ms for {} series, {} bytes a series",
        best.as_secs_f64() * 1e3,
        bank.len(),
        Bank::SIZE
    );

    let mut forest = Forest::<8>::default();
    let settings = Settings::new(1.0);
    let point = |t: usize| std::array::from_fn(|i| inputs[i % inputs.len()][t + i * 100]);
    for t in 0..3000 {
        forest.observe(&settings, super::start(t), &point(t));
    }
    let points: Vec<[f32; 8]> = (0..1000).map(|t| point(t).map(|v| v as f32)).collect();
    let mut best = Duration::MAX;
    for _ in 0..200 {
        let begin = Instant::now();
        for point in &points {
            black_box(forest.isolation(point));
        }
        best = best.min(begin.elapsed());
    }
    let mut whole = Duration::MAX;
    for round in 0..20 {
        let begin = Instant::now();
        for t in 0..1000 {
            black_box(forest.observe(&settings, super::start(3000 + round * 1000 + t), &point(t)));
        }
        whole = whole.min(begin.elapsed());
    }
    println!(
        "isolation forest: {:.2} µs to score, {:.2} µs with learning, a vector of 8 signals",
        best.as_secs_f64() * 1e3,
        whole.as_secs_f64() * 1e3
    );
}
