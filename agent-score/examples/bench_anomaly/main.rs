//! The anomaly benchmark: labelled series, what each detector makes of them, and what it costs.
//!
//! `cargo run --release -p agent-score --example bench_anomaly [-- --seed N] [--quick] [--only DETECTOR|ensemble]
//! [--courses] [--cost] [--peers PYTHON]`. Parameters were
//! chosen on seeds below 1000; the seeds it is judged on by default are others. `--peers` compares
//! the last round with scikit-learn's IsolationForest and river's HalfSpaceTrees, by a Python that has both.

#![allow(clippy::print_stdout, clippy::indexing_slicing, reason = "a benchmark")]

mod cost;
mod courses;
mod generate;
mod judge;
mod peers;

use agent_score::anomaly::{Detector, Detectors, LagForest, Series, Settings, Verdict};
use generate::{KINDS, Kind, Labelled, NOISES, Noise};
use judge::{Tally, judge};

/// Samples of a series with events, and of one without: a day.
const SAMPLES: usize = 45_000;
const QUIET: usize = 86_400;
/// Seconds of a week, and of the agent's step from one sample to the next.
const WEEK: usize = 7 * QUIET;
const STEP: usize = 10;
/// Samples before anything is judged where there are events. Where there are none all is, as a user sees it.
const JUDGED: usize = 2_000;

fn main() {
    let mut seed = 1_000_000;
    let (mut quick, mut courses_only, mut only, mut python) = (false, false, None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seed" => seed = arguments.next().and_then(|s| s.parse().ok()).unwrap_or(seed),
            "--quick" => quick = true,
            "--peers" => python = arguments.next(),
            "--only" => only = arguments.next(),
            "--cost" => return cost::run(),
            "--courses" => courses_only = true,
            other => println!("{other}: not known"),
        }
    }
    let rounds = if quick { 4 } else { 12 };
    if courses_only {
        return courses::run(rounds / 2, seed);
    }
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
    let ours = |detectors| move |series: &Labelled| score(series, detectors, 1);
    if let Some(only) = only {
        let Some(detector) = Detector::of(&only) else {
            report("ensemble", &all, ours(Detectors::ALL));
            return quiet(rounds, seed);
        };
        return report(&only, &all, ours(detector.into()));
    }
    report("ensemble", &all, ours(Detectors::ALL));
    quiet(rounds, seed);
    for detector in Detector::ALL {
        report(detector.name(), &all, ours(detector.into()));
    }
    report("isolation-forest", &all, forest);
    courses::run(rounds / 4, seed);
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

/// Which samples, so many seconds apart, the detectors find to be anomalies.
fn score(series: &Labelled, detectors: Detectors, step: usize) -> Vec<bool> {
    let mut state = Series::new(Settings {
        detectors,
        ..Settings::new(step as f64)
    });
    let anomaly = |(t, v): (usize, &f64)| state.observe(start(t * step), *v).verdict == Verdict::Anomaly;
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
            let from = if series.kind == Kind::None { 0 } else { JUDGED };
            judge(series, from, |t| found[t])
        })
        .collect();
    print(name, all, &tallies);
}

fn sum<'a>(parts: impl Iterator<Item = &'a Tally>) -> Tally {
    let mut sum = Tally::default();
    parts.for_each(|part| sum.add(part));
    sum
}

/// What was found, by kind of event and by noise.
fn print(name: &str, all: &[Labelled], tallies: &[Tally]) {
    let of = |of: &dyn Fn(&Labelled) -> bool| {
        let those = all.iter().zip(tallies).filter(|(s, _)| of(s));
        sum(those.map(|(_, t)| t))
    };
    let total = of(&|_| true);
    let recall: Vec<String> = KINDS
        .iter()
        .filter(|k| **k != Kind::Gap)
        .map(|kind| {
            let tally = of(&|s| s.kind == *kind);
            format!("{kind:?} {:.2} ({:.0} s)", tally.recall(), tally.delay())
        })
        .collect();
    println!(
        "{name}: precision {:.3}, recall {:.3}, F1 {:.3}\n  recall: {}",
        total.precision(),
        total.recall(),
        total.f1(),
        recall.join(", "),
    );
    println!(
        "  {:<11} {:>9}  {:>11} {:>11} {:>11}   false alarms a day: {:>9} {:>9} {:>9}",
        "", "precision", "spikes", "shifts", "drifts", "first day", "gaps", "events"
    );
    let row = |name: &str, noise: Option<Noise>| {
        let is = |s: &Labelled| noise.is_none_or(|noise| s.noise == noise);
        let kind = |kind| of(&|s| is(s) && s.kind == kind);
        let found = |k| {
            let tally = kind(k);
            format!("{:.2} {:>4.0} s", tally.recall(), tally.delay())
        };
        println!(
            "  {name:<11} {:>9.2}  {:>11} {:>11} {:>11}   {:>29.2} {:>9.2} {:>9.2}",
            of(&is).precision(),
            found(Kind::Spike),
            found(Kind::Shift),
            found(Kind::Drift),
            kind(Kind::None).wrong_per_day(),
            kind(Kind::Gap).wrong_per_day(),
            of(&|s| is(s) && !matches!(s.kind, Kind::None | Kind::Gap)).wrong_per_day(),
        );
    };
    for noise in NOISES {
        row(&format!("{noise:?}"), Some(noise));
    }
    row("all", None);
}

/// Weeks in which nothing happens, of a sample a second and of one in ten.
fn quiet(count: usize, seed: u64) {
    weeks(count, seed, 1);
    weeks(count, seed, STEP);
}

/// What is told in a week in which nothing happens, where one alarm is allowed: for each series of each noise. With a sample a second
/// and twelve series it takes half a minute, with one in ten a tenth of that.
fn weeks(count: usize, seed: u64, step: usize) {
    let allowed = Settings::new(step as f64).alarms_per_week;
    println!(
        "false alarms in a week where nothing happens, a sample each {step} s, {count} series each, {allowed} allowed:"
    );
    let mut line = String::new();
    let mut total = 0;
    for (n, noise) in NOISES.into_iter().enumerate() {
        let alarms = |round: usize| {
            let seed = seed + 70_000 + (round * 10 + n) as u64;
            let series = generate::series(noise, Kind::None, WEEK / step, seed);
            let found = score(&series, Detectors::ALL, step);
            judge(&series, 0, |t| found[t]).wrong
        };
        let alarms: Vec<usize> = (0..count).map(alarms).collect();
        let all: usize = alarms.iter().sum();
        let most = alarms.iter().max().copied().unwrap_or_default();
        total += all;
        line += &format!("{noise:?} {:.2} (at most {most}), ", all as f64 / count as f64);
    }
    println!("  {line}all {:.2}", total as f64 / (count * NOISES.len()) as f64);
}
