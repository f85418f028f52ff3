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
/// A period that differs from the day by no more than this part of it is the day, found inexactly.
const NEARLY: f64 = 0.05;

/// A season of a known length.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Season {
    /// Seconds.
    period: f64,
    parts: Vec<f32>,
    samples: u64,
    per_cycle: f64,
    /// What the parts are counted from, and their average. Neither follows the cycle: of a mean that does, each part would be
    /// learned without what the mean had taken of it.
    mean: f64,
    centre: f64,
    meeting: Meeting,
    /// How far the values lie from mean and parts on average, as those of a series that grows do.
    ahead: f64,
    /// Variances, with the season and without, one step ahead.
    plain: f64,
    left: f64,
    used: bool,
}

/// The two parts that the time lies between, and what is being learned of them: errors, and their weights.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Meeting {
    first: usize,
    errors: [f64; 2],
    weights: [f64; 2],
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
            centre: 0.0,
            meeting: Meeting::default(),
            ahead: 0.0,
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

    fn between(&self, (first, second, way): (usize, usize, f64)) -> f64 {
        let [a, b] = [first, second].map(|part| self.parts.get(part).map_or(0.0, |v| f64::from(*v)));
        a + (b - a) * way
    }

    /// What is to be taken off.
    fn value(&self, at: Millis) -> f64 {
        if self.used {
            self.between(self.place(at)) - self.centre
        } else {
            0.0
        }
    }

    fn learn(&mut self, at: Millis, value: f64) {
        self.samples += 1;
        let place = self.place(at);
        let (first, _, way) = place;
        if self.samples == 1 {
            self.mean = value;
            self.meeting.first = first;
        }
        if first != self.meeting.first {
            self.leave(first);
        }
        let error = value - self.mean - self.between(place);
        for (side, weight) in [1.0 - way, way].into_iter().enumerate() {
            self.meeting.errors[side] += error * weight;
            self.meeting.weights[side] += weight;
        }
        let cycles = self.cycles();
        if cycles >= 1.0 {
            let gain = 1.0 / (self.samples as f64 - self.per_cycle).clamp(1.0, 2.0 * self.per_cycle);
            self.ahead += (error - self.ahead) * gain;
            let plain = value - self.mean - self.centre - self.ahead;
            let left = error - self.ahead;
            self.plain += (plain * plain - self.plain) * gain;
            self.left += (left * left - self.left) * gain;
        }
        if cycles >= CYCLES {
            let explained = if self.plain > 0.0 {
                1.0 - self.left / self.plain
            } else {
                0.0
            };
            self.used = explained > if self.used { FAILS } else { EXPLAINS };
        }
        if self.samples.is_multiple_of(self.per_cycle.round() as u64) {
            self.recentre();
        }
    }

    /// The time has come to another part: what was seen around those that it has left is learned, all at once, so that a
    /// cycle makes the whole shape.
    fn leave(&mut self, now: usize) {
        let parts = self.parts.len();
        let Meeting {
            first,
            errors,
            weights,
        } = self.meeting;
        let second = (first + 1) % parts;
        self.meeting = Meeting {
            first: now,
            ..Meeting::default()
        };
        self.adopt(first, errors[0], weights[0]);
        if now == second {
            (self.meeting.errors[0], self.meeting.weights[0]) = (errors[1], weights[1]);
        } else {
            self.adopt(second, errors[1], weights[1]);
        }
    }

    fn adopt(&mut self, part: usize, error: f64, weight: f64) {
        let parts = self.parts.len() as f64;
        // Of what is met for less than half of its time little is known.
        let usual = self.per_cycle / parts;
        let gain = (1.0 / (1.0 + self.cycles().floor())).max(PER_CYCLE);
        let change = gain * error / weight.max(0.5 * usual);
        if let Some(value) = self.parts.get_mut(part) {
            *value += change as f32;
            self.centre += change / parts;
        }
    }

    /// Once a cycle its average becomes the mean. What is taken off stays the same.
    fn recentre(&mut self) {
        let sum: f64 = self.parts.iter().map(|part| f64::from(*part)).sum();
        let average = sum / self.parts.len() as f64;
        self.mean += average;
        self.parts
            .iter_mut()
            .for_each(|part| *part = (f64::from(*part) - average) as f32);
        self.centre = 0.0;
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
        let given_up = self.found.as_ref().is_some_and(|s| !s.used && s.cycles() > TRIAL);
        if given_up {
            self.found = None;
        }
        let rest = value - self.value(at);
        if self.found.is_none() {
            let period = self.search.add((rest / unit.max(1e-300)) as f32);
            let period = period.map(|samples| rounded(samples * self.step));
            // The day and the week are learned anyhow.
            self.found = period
                .filter(|period| !near(*period, DAY, NEARLY) && !near(*period, WEEK, NEARLY))
                .map(|period| Season::new(period, self.step, FOUND_PARTS));
        }
        let (mut others, mut more) = (false, false);
        for season in self.found.iter_mut().chain(&mut self.calendar) {
            // What is sampled twice a day has no course of the day.
            if season.per_cycle >= 4.0 {
                let was = season.used;
                // Each learns what the others leave.
                season.learn(at, rest + season.value(at));
                others |= was != season.used;
                more |= season.used && !was;
            }
        }
        if more {
            // One that has not seen a cycle yet has begun one with what is another's.
            for season in &mut self.calendar {
                if !season.used && season.cycles() < 1.0 {
                    *season = Season::new(season.period, self.step, season.parts.len());
                }
            }
        }
        others
    }
}

/// Machines keep round times: a period within a hundredth of one is meant to be it.
fn rounded(period: f64) -> f64 {
    const ROUND: [f64; 20] = [
        5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0, 900.0, 1200.0, 1800.0, 3600.0, 7200.0,
        10_800.0, 14_400.0, 21_600.0, 43_200.0, DAY,
    ];
    let meant = |round: &f64| near(period, *round, 0.01);
    ROUND.into_iter().find(meant).unwrap_or(period)
}

fn near(period: f64, other: f64, part: f64) -> bool {
    (period / other - 1.0).abs() < part
}
