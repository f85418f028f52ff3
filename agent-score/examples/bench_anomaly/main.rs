//! The anomaly benchmark: labelled series, what each detector makes of them, and what it costs.
//!
//! `cargo run --release -p agent-score --example bench_anomaly [-- --seed N] [--quick] [--only DETECTOR]
//! [--peers PYTHON]`. Parameters were
//! chosen on seeds below 1000; the seeds it is judged on by default are others. `--peers` compares
//! the last round with scikit-learn's IsolationForest and river's HalfSpaceTrees, by a Python that has both.

#![allow(clippy::print_stdout, clippy::indexing_slicing, reason = "a benchmark")]

mod cost;
mod generate;
mod judge;
mod peers;

use agent_score::anomaly::{Detector, Detectors, LagForest, Series, Settings, Verdict};
use generate::{KINDS, Kind, Labelled, NOISES};
use judge::{Tally, judge};

/// Samples of a series with events, and of one without: a day.
const SAMPLES: usize = 45_000;
const QUIET: usize = 86_400;
/// Samples before anything is judged.
const JUDGED: usize = 2_000;

fn main() {
    let mut seed = 1_000_000;
    let (mut quick, mut only, mut python) = (false, None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seed" => seed = arguments.next().and_then(|s| s.parse().ok()).unwrap_or(seed),
            "--quick" => quick = true,
            "--peers" => python = arguments.next(),
            "--only" => only = arguments.next(),
            "--cost" => return cost::run(),
            other => println!("{other}: not known"),
        }
    }
    let rounds = if quick { 4 } else { 12 };
    let mut all = Vec::new();
    for round in 0..rounds {
        for (n, noise) in NOISES.into_iter().enumerate() {
            for (k, kind) in KINDS.into_iter().enumerate() {
                all.push(generate::series(
                    noise,
                    kind,
                    SAMPLES,
                    seed + (round * 100 + n * 10 + k) as u64,
                ));
            }
            all.push(generate::series(
                noise,
                Kind::None,
                QUIET,
                seed + 50_000 + (round * 10 + n) as u64,
            ));
        }
    }
    println!(
        "{} series, {} samples",
        all.len(),
        all.iter().map(|s| s.values.len()).sum::<usize>()
    );
    if only.is_some() {
        let detectors = only
            .as_deref()
            .and_then(Detector::of)
            .map_or(Detectors::ALL, Detectors::from);
        return report("chosen", &all, |series| score(series, detectors));
    }
    let ours = |detectors| move |series: &Labelled| score(series, detectors);
    report("ensemble", &all, ours(Detectors::ALL));
    for detector in Detector::ALL {
        report(detector.name(), &all, ours(detector.into()));
    }
    report("isolation-forest", &all, forest);
    if let Some(python) = python {
        let one = all.split_off(all.len() - all.len() / rounds);
        println!("\nof {} of these series:", one.len());
        report("ensemble", &one, ours(Detectors::ALL));
        if let Err(e) = peers::run(&python, &one) {
            println!("no comparison: {e}");
        }
    }
    cost::run();
}

/// Which samples the detectors find to be anomalies.
fn score(series: &Labelled, detectors: Detectors) -> Vec<bool> {
    let mut state = Series::new(Settings {
        detectors,
        ..Settings::new(1.0)
    });
    let anomaly = |(t, v): (usize, &f64)| state.observe(start(t), *v).verdict == Verdict::Anomaly;
    series.values.iter().enumerate().map(anomaly).collect()
}

fn start(t: usize) -> i64 {
    1_760_000_000_000 + t as i64 * 1000
}

fn forest(series: &Labelled) -> Vec<bool> {
    let mut state = LagForest::new(Settings::new(1.0));
    let anomaly = |(t, v): (usize, &f64)| state.observe(start(t), *v).verdict == Verdict::Anomaly;
    series.values.iter().enumerate().map(anomaly).collect()
}

/// Prints what was found, by kind of event.
fn report(name: &str, all: &[Labelled], anomalies: impl Fn(&Labelled) -> Vec<bool>) {
    let tallies: Vec<Tally> = all
        .iter()
        .map(|series| {
            let found = anomalies(series);
            judge(series, JUDGED, |t| found[t])
        })
        .collect();
    print(name, all, &tallies);
}

fn print(name: &str, all: &[Labelled], tallies: &[Tally]) {
    let sum = |of: &dyn Fn(&Labelled) -> bool| {
        let mut sum = Tally::default();
        all.iter()
            .zip(tallies)
            .filter(|(s, _)| of(s))
            .for_each(|(_, t)| sum.add(t));
        sum
    };
    let total = sum(&|_| true);
    let recall: Vec<String> = KINDS
        .iter()
        .filter(|k| **k != Kind::Gap)
        .map(|kind| {
            let tally = sum(&|s| s.kind == *kind);
            format!("{kind:?} {:.2} ({:.0} s)", tally.recall(), tally.delay())
        })
        .collect();
    let quiet: Vec<String> = NOISES
        .iter()
        .map(|noise| format!("{noise:?} {:.2}", sum(&|s| s.noise == *noise).wrong_per_day()))
        .collect();
    println!(
        "{name}: precision {:.3}, recall {:.3}, F1 {:.3}, false alarms a day {:.3} (gaps {:.3}, no event {:.3})\n  recall: {}\n  false alarms a day: {}",
        total.precision(),
        total.recall(),
        total.f1(),
        total.wrong_per_day(),
        sum(&|s| s.kind == Kind::Gap).wrong_per_day(),
        sum(&|s| s.kind == Kind::None).wrong_per_day(),
        recall.join(", "),
        quiet.join(", "),
    );
}
