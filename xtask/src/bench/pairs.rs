//! The comparison: pairs of measurements, without and with the subject, in alternating order.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::child::pause;
use super::load::{Load, Work};
use super::proc::{Disturbance, Window};
use super::stats::{Estimate, estimate, median};
use super::subject::{Beside, Place, Subject, Usage};
use crate::shell::say;

/// How to compare.
pub struct Method {
    /// Pairs that must be undisturbed.
    pub pairs: usize,
    /// Length of one measurement, seconds.
    pub seconds: u64,
    /// Rejected pairs that are made good, for each subject.
    pub retries: usize,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// What was done.
    pub work: Work,
    /// What disturbed it.
    pub disturbance: Disturbance,
    /// What the subject used.
    pub usage: Option<Usage>,
}

/// Two measurements.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    /// Without the subject.
    pub base: Side,
    /// With it.
    pub with: Side,
    /// Neither was disturbed.
    pub clean: bool,
}

impl Pair {
    fn ratio(&self, of: impl Fn(&Work) -> Option<f64>) -> Option<f64> {
        Some(of(&self.with.work)? / of(&self.base.work)?)
    }
}

/// What came out for one subject under one workload.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Workload.
    pub workload: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// Subject.
    pub subject: &'static str,
    /// The most that its CPU per operation may be.
    pub target: Option<f64>,
    /// CPU µs per operation without the subject.
    pub base_micros: f64,
    /// CPU per operation, with ÷ without.
    pub cpu: Option<Estimate>,
    /// The same of the cheapest measurement with and the cheapest without: less moved by noise that only adds.
    pub cpu_of_best: f64,
    /// Operations a second, without.
    pub base_rate: f64,
    /// Operations a second, with ÷ without.
    pub rate: Option<Estimate>,
    /// Median latency without, µs.
    pub base_p50: Option<f64>,
    /// Median latency, with ÷ without.
    pub p50: Option<Estimate>,
    /// 99th percentile of the latency, with ÷ without.
    pub p99: Option<Estimate>,
    /// CPU of the subject, seconds per second.
    pub subject_cpu: f64,
    /// Its largest memory.
    pub usage: Usage,
    /// Undisturbed pairs.
    pub clean: usize,
    /// Pairs that were rejected.
    pub rejected: usize,
    /// Too few pairs were undisturbed: all were taken.
    pub disturbed: bool,
    /// The measurements.
    pub pairs: Vec<Pair>,
}

fn measure(load: &mut Load, subject: Option<Subject>, place: &Place, seconds: u64) -> Result<Side> {
    let mut beside = subject.map(|s| Beside::start(s, place)).transpose()?;
    let mut known = load.pids();
    known.extend(beside.as_ref().map(Beside::pid));
    let (window, mark) = (Window::open(known), beside.as_ref().map(Beside::mark));
    let work = load.run(seconds)?;
    let disturbance = window.close(work.client_cpu);
    let usage = match (&mut beside, &mark) {
        (Some(beside), Some(mark)) => Some(beside.usage(mark)?),
        _ => None,
    };
    if let Some(beside) = beside {
        beside.stop()?;
    }
    Ok(Side {
        work,
        disturbance,
        usage,
    })
}

/// Waits until the machine is quiet, as long as patience lasts.
pub fn wait_for_quiet(patience: &mut Duration, known: impl Fn() -> Vec<u32>) -> Result<()> {
    let mut told = false;
    while !patience.is_zero() {
        let start = Instant::now();
        let window = Window::open(known());
        pause(Duration::from_secs(1))?;
        let seen = window.close(0.0);
        if seen.is_small() {
            return Ok(());
        }
        *patience = patience.saturating_sub(start.elapsed());
        if !told {
            say(format_args!(
                "waiting for others to be done: {:.0} % of a CPU foreign, {:.1} % stolen",
                seen.foreign * 100.0,
                seen.steal * 100.0
            ));
            told = true;
        }
    }
    Ok(())
}

/// Compares all subjects under one workload. The subjects take turns, so that what changes with time meets them all.
pub fn compare(
    load: &mut Load,
    subjects: &[Subject],
    place: &Place,
    method: &Method,
    patience: &mut Duration,
) -> Result<Vec<Comparison>> {
    // The first run is slower than all others.
    load.run(1)?;
    let mut pairs: Vec<Vec<Pair>> = vec![Vec::new(); subjects.len()];
    for round in 0..method.pairs + method.retries {
        for (subject, pairs) in subjects.iter().zip(&mut pairs) {
            if pairs.iter().filter(|p| p.clean).count() >= method.pairs {
                continue;
            }
            wait_for_quiet(patience, || load.pids())?;
            let (base, with);
            if round % 2 == 0 {
                base = measure(load, subject.base(), place, method.seconds)?;
                with = measure(load, Some(*subject), place, method.seconds)?;
            } else {
                with = measure(load, Some(*subject), place, method.seconds)?;
                base = measure(load, subject.base(), place, method.seconds)?;
            }
            let clean = base.disturbance.is_small() && with.disturbance.is_small();
            let pair = Pair { base, with, clean };
            say(format_args!(
                "{}, {}: {:.2} -> {:.2} µs a {}{}",
                load.kind().name(),
                subject.name(),
                pair.base.work.cost(),
                pair.with.work.cost(),
                load.kind().unit(),
                if clean { "" } else { " (disturbed)" }
            ));
            pairs.push(pair);
        }
    }
    let summaries = subjects.iter().zip(pairs);
    Ok(summaries
        .map(|(s, pairs)| summary(load, *s, pairs, method.pairs))
        .collect())
}

fn summary(load: &Load, subject: Subject, pairs: Vec<Pair>, wanted: usize) -> Comparison {
    let clean = pairs.iter().filter(|p| p.clean).count();
    let disturbed = clean < wanted;
    let used: Vec<&Pair> = pairs.iter().filter(|p| p.clean || disturbed).collect();
    let ratio = |of: &dyn Fn(&Work) -> Option<f64>| {
        estimate(&used.iter().filter_map(|p| p.ratio(of)).collect::<Vec<_>>())
    };
    let base = |of: &dyn Fn(&Work) -> f64| median(&used.iter().map(|p| of(&p.base.work)).collect::<Vec<_>>());
    let best = |side: &dyn Fn(&Pair) -> &Side| {
        let costs = used.iter().map(|p| side(p).work.cost());
        costs.fold(f64::INFINITY, f64::min)
    };
    let usages: Vec<&Usage> = used.iter().filter_map(|p| p.with.usage.as_ref()).collect();
    let largest = usages.iter().max_by_key(|u| u.memory.rss);
    let mut usage = largest.map(|u| (*u).clone()).unwrap_or_default();
    usage.memory.peak = usages.iter().map(|u| u.memory.peak).max().unwrap_or(0);
    usage.level = usages.iter().map(|u| u.level).fold(0.0, f64::max);
    let base_p50 = base(&|w| w.p50.unwrap_or(f64::NAN));
    Comparison {
        workload: load.kind().name(),
        unit: load.kind().unit(),
        subject: subject.name(),
        target: subject.target(),
        base_micros: base(&Work::cost),
        cpu: ratio(&|w| Some(w.cost())),
        cpu_of_best: best(&|p| &p.with) / best(&|p| &p.base),
        base_rate: base(&Work::rate),
        rate: ratio(&|w| Some(w.rate())),
        base_p50: (!base_p50.is_nan()).then_some(base_p50),
        p50: ratio(&|w| w.p50),
        p99: ratio(&|w| w.p99),
        subject_cpu: median(&usages.iter().map(|u| u.cpu).collect::<Vec<_>>()),
        usage,
        clean,
        rejected: pairs.len() - clean,
        disturbed,
        pairs,
    }
}
