//! Seasons: the day, the week, and a period that the series itself shows. What a season explains is taken off before the
//! detectors look; one that explains nothing is learned all the same, but not used.

use super::autocorrelation::Search;
use super::{DAY, Millis, WEEK};
use serde::{Deserialize, Serialize};

/// Parts of a season, for each of which a value is learned; between them it is interpolated.
const DAY_PARTS: usize = 96;
const WEEK_PARTS: usize = 84;
const FOUND_PARTS: usize = 64;
/// Part of the variance that a season must explain before it is used, and below which it is used no more.
const EXPLAINS: f64 = 0.25;
const FAILS: f64 = 0.1;
/// Part of a difference that is learned in a cycle, once there have been some.
const PER_CYCLE: f64 = 0.3;
/// Cycles before a season is used: one to learn, one to prove.
const CYCLES: f64 = 2.0;
/// Cycles in which a season that was found has to prove itself before another is looked for.
const TRIAL: f64 = 6.0;

/// A season of a known length.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Season {
    /// Seconds.
    period: f64,
    parts: Vec<f32>,
    samples: u64,
    per_cycle: f64,
    mean: f64,
    /// Variances about the mean, with the season and without, one step ahead.
    plain: f64,
    left: f64,
    used: bool,
}

impl Season {
    fn new(period: f64, step: f64, parts: usize) -> Self {
        let per_cycle = (period / step).max(1.0);
        // No more parts than samples: between parts that are never met nothing can be interpolated.
        let parts = parts.min(per_cycle.round() as usize).max(2);
        Self {
            period,
            parts: vec![0.0; parts],
            samples: 0,
            per_cycle,
            mean: 0.0,
            plain: 0.0,
            left: 0.0,
            used: false,
        }
    }

    fn cycles(&self) -> f64 {
        self.samples as f64 / self.per_cycle
    }

    /// The two parts around a time, and how far it is on the way to the second.
    fn place(&self, at: Millis) -> (usize, usize, f64) {
        let parts = self.parts.len();
        let place = (at as f64 / 1e3).rem_euclid(self.period) / self.period * parts as f64;
        let first = place as usize % parts;
        (first, (first + 1) % parts, place.fract())
    }

    fn shape(&self, at: Millis) -> f64 {
        let (first, second, way) = self.place(at);
        let [a, b] = [first, second].map(|part| self.parts.get(part).map_or(0.0, |v| f64::from(*v)));
        a + (b - a) * way
    }

    /// What is to be taken off.
    fn value(&self, at: Millis) -> f64 {
        if self.used { self.shape(at) } else { 0.0 }
    }

    fn learn(&mut self, at: Millis, value: f64) {
        self.samples += 1;
        if self.samples == 1 {
            self.mean = value;
        }
        let cycles = self.cycles();
        let residual = value - self.mean;
        let error = residual - self.shape(at);
        // A cycle makes the mean, or the shape would be in it.
        self.mean += residual / (self.samples as f64).min(2.0 * self.per_cycle);
        let (first, second, way) = self.place(at);
        let met = self.per_cycle / self.parts.len() as f64;
        let part = (1.0 / (1.0 + cycles)).max(PER_CYCLE) / met.max(1.0);
        for (place, weight) in [(first, 1.0 - way), (second, way)] {
            if let Some(value) = self.parts.get_mut(place) {
                *value += (error * part * weight) as f32;
            }
        }
        if cycles >= 1.0 {
            let gain = 1.0 / (self.samples as f64 - self.per_cycle).clamp(1.0, 2.0 * self.per_cycle);
            self.plain += (residual * residual - self.plain) * gain;
            self.left += (error * error - self.left) * gain;
        }
        if cycles >= CYCLES {
            let explained = if self.plain > 0.0 {
                1.0 - self.left / self.plain
            } else {
                0.0
            };
            self.used = explained > if self.used { FAILS } else { EXPLAINS };
        }
    }
}

/// The seasons of a series.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Seasons {
    step: f64,
    search: Search,
    found: Option<Season>,
    calendar: [Season; 2],
}

impl Seasons {
    pub(super) fn new(step: f64) -> Self {
        Self {
            step,
            search: Search::new(),
            found: None,
            calendar: [
                Season::new(DAY, step, DAY_PARTS),
                Season::new(WEEK, step, WEEK_PARTS),
            ],
        }
    }

    fn all(&self) -> impl Iterator<Item = &Season> {
        self.found.iter().chain(&self.calendar)
    }

    /// What is to be taken off a value of this time.
    pub(super) fn value(&self, at: Millis) -> f64 {
        self.all().map(|season| season.value(at)).sum()
    }

    /// Lengths of the seasons that are used, in seconds.
    pub(super) fn used(&self) -> impl Iterator<Item = f64> {
        self.all().filter(|s| s.used).map(|s| s.period)
    }

    /// Learns a value; `unit` is the usual deviation. Says whether other seasons are used from now on.
    pub(super) fn learn(&mut self, at: Millis, value: f64, unit: f64) -> bool {
        let before = self.all().filter(|s| s.used).count();
        let mut rest = value;
        let given_up = self.found.as_ref().is_some_and(|s| !s.used && s.cycles() > TRIAL);
        if given_up {
            self.found = None;
        }
        match &mut self.found {
            Some(season) => {
                season.learn(at, rest);
                rest -= season.value(at);
            }
            None => {
                let known: f64 = self.calendar.iter().map(|s| s.value(at)).sum();
                let period = self.search.add(((value - known) / unit.max(1e-300)) as f32);
                self.found = period.map(|samples| {
                    let period = rounded(samples * self.step);
                    Season::new(period, self.step, FOUND_PARTS)
                });
            }
        }
        for season in &mut self.calendar {
            // What is sampled twice a day has no course of the day.
            if season.per_cycle >= 4.0 {
                season.learn(at, rest);
                rest -= season.value(at);
            }
        }
        self.all().filter(|s| s.used).count() != before
    }
}

/// Machines keep round times: a period within a hundredth of one is meant to be it.
fn rounded(period: f64) -> f64 {
    const ROUND: [f64; 20] = [
        5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0, 900.0, 1200.0, 1800.0, 3600.0, 7200.0,
        10_800.0, 14_400.0, 21_600.0, 43_200.0, DAY,
    ];
    let near = |round: &f64| (period / round - 1.0).abs() < 0.01;
    ROUND.into_iter().find(near).unwrap_or(period)
}
