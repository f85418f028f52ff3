//! Seasons: the day, the week, and a period that the series itself shows. What a season explains is taken off before the
//! detectors look; one that explains nothing is learned all the same, but not used.

use super::autocorrelation::Search;
use super::width::Width;
use super::{DAY, Millis, WEEK};
use serde::{Deserialize, Serialize};

/// Parts of a season, for each of which a value is learned; between them it is interpolated.
const DAY_PARTS: usize = 96;
/// The week of a series without a course of the day, and of one with: what is left of a morning that only workdays have is as narrow.
const WEEK_PARTS: usize = 84;
const DAYS_PARTS: usize = 7 * DAY_PARTS;
const FOUND_PARTS: usize = 64;
/// Part of the variance that a season must explain before it is used, and below which it is used no more.
const EXPLAINS: f64 = 0.3;
const FAILS: f64 = 0.1;
/// Part of a difference that is learned in a cycle, once there have been some.
const PER_CYCLE: f64 = 0.3;
/// Samples that a cycle must have.
const LEAST_SAMPLES: f64 = 4.0;
/// A cycle is learned before a season is used, and another proves it, or of a long one so many seconds: with a week that is used from its
/// ninth day on hours of work had 18 alarms in the third, with one that waits for its fifteenth 32.
const PROOF: f64 = 2.0 * DAY;
/// Cycles by which it is judged whether it explains anything, before it is used and after.
const JUDGED: f64 = 2.0;
const JUDGED_IN_USE: f64 = 7.0;
/// By how many deviations a course changes within two parts where it has an edge.
const EDGE: f64 = 8.0;
/// Part of a cycle that the average of the one before is worth.
const REMEMBERED: f64 = 0.1;
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
    /// Cycles before it is used.
    proven: f64,
    /// What the parts are counted from, and their average. Neither follows the cycle: of a mean that does, each part would be
    /// learned without what the mean had taken of it.
    mean: f64,
    centre: f64,
    meeting: Meeting,
    /// How far the values of this cycle lie from mean and parts on average, and would without growth: a straight line has no season,
    /// though each cycle of it is like the one before.
    ahead: f64,
    before: f64,
    /// How far they lie from the line on average.
    beside: f64,
    /// Variances one step ahead: about a level, about a line, and about the season.
    plain: [f64; 2],
    left: f64,
    used: bool,
    width: Width,
}

/// The two parts that a time lies between, and how far it is on the way to the second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    first: usize,
    second: usize,
    way: f64,
}

impl Place {
    pub(super) fn between(self, parts: &[f32]) -> f64 {
        self.of(|part| parts.get(part).map_or(0.0, |v| f64::from(*v)))
    }

    pub(super) fn of(self, value: impl Fn(usize) -> f64) -> f64 {
        let (a, b) = (value(self.first), value(self.second));
        a + (b - a) * self.way
    }
}

/// The first of the two parts that the time lies between, and what is being learned of both: sums, and their weights.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Meeting {
    first: usize,
    sums: [f64; 2],
    weights: [f64; 2],
}

impl Meeting {
    pub(super) fn add(&mut self, place: Place, value: f64) {
        for (side, weight) in [1.0 - place.way, place.way].into_iter().enumerate() {
            self.sums[side] += value * weight;
            self.weights[side] += weight;
        }
    }

    /// If the time has come to another of so many parts: what was seen around those that it has left, which is learned all at once, so
    /// that a cycle makes the whole shape. Part, sum and weight.
    pub(super) fn go(&mut self, place: Place, parts: usize) -> [Option<(usize, f64, f64)>; 2] {
        let Self { first, sums, weights } = *self;
        if first == place.first {
            return [None; 2];
        }
        let second = (first + 1) % parts;
        *self = Self {
            first: place.first,
            ..Self::default()
        };
        let mut left = [(first, 0), (second, 1)].map(|(part, side)| Some((part, sums[side], weights[side])));
        if place.first == second {
            (self.sums[0], self.weights[0]) = (sums[1], weights[1]);
            left[1] = None;
        }
        left
    }
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
            proven: 1.0 + (PROOF / period).min(1.0),
            mean: 0.0,
            centre: 0.0,
            meeting: Meeting::default(),
            ahead: 0.0,
            before: 0.0,
            beside: 0.0,
            plain: [0.0; 2],
            left: 0.0,
            used: false,
            width: Width::new(parts),
        }
    }

    /// Milliseconds of a part.
    fn part(&self) -> Millis {
        ((self.period / self.parts.len() as f64 * 1e3) as Millis).max(1)
    }

    fn cycles(&self) -> f64 {
        self.samples as f64 / self.per_cycle
    }

    fn place(&self, at: Millis) -> Place {
        let parts = self.parts.len();
        let place = (at as f64 / 1e3).rem_euclid(self.period) / self.period * parts as f64;
        let first = place as usize % parts;
        Place {
            first,
            second: (first + 1) % parts,
            way: place.fract(),
        }
    }

    fn is_used(&self) -> bool {
        self.used || self.width.used
    }

    /// What is to be taken off.
    fn value(&self, at: Millis) -> f64 {
        if self.used {
            self.place(at).between(&self.parts) - self.centre
        } else {
            0.0
        }
    }

    fn width(&self, at: Millis) -> f64 {
        if self.width.used {
            self.width.between(self.place(at))
        } else {
            1.0
        }
    }

    /// Learns a value, and how far it lies from what was foretold, if that means anything.
    fn learn(&mut self, at: Millis, value: f64, deviation: Option<f64>) {
        let (cycles, since) = (self.cycles(), self.samples as f64 % self.per_cycle + 1.0);
        self.samples += 1;
        let place = self.place(at);
        if self.samples == 1 {
            self.mean = value;
        }
        let usual = self.per_cycle / self.parts.len() as f64;
        let gain = (1.0 / (1.0 + cycles.floor())).max(PER_CYCLE);
        for (part, sum, weight) in self.meeting.go(place, self.parts.len()).into_iter().flatten() {
            // Of what is met for less than half of its time little is known.
            self.adopt(part, gain * sum / weight.max(0.5 * usual));
        }
        let error = value - self.mean - place.between(&self.parts);
        self.meeting.add(place, error);
        // What a sample counts for, once there is something to be judged. One that is used is judged by more cycles: at the weekend a
        // day of work is of no use.
        let cycles_judged = if self.is_used() { JUDGED_IN_USE } else { JUDGED };
        let counts = (cycles >= 1.0)
            .then(|| 1.0 / (self.samples as f64 - self.per_cycle).clamp(1.0, cycles_judged * self.per_cycle));
        if let Some(counts) = counts {
            let earlier = if cycles < 2.0 {
                0.0
            } else {
                REMEMBERED * self.per_cycle
            };
            self.ahead += (error - self.ahead) / (since + earlier);
            let growth = self.ahead - self.before;
            let level = value - self.mean - self.centre - self.ahead;
            let line = value - self.mean - self.ahead - growth * (since / self.per_cycle - 0.5);
            self.beside += (line - self.beside) / (since + earlier);
            let line = line - self.beside;
            for (plain, error) in self.plain.iter_mut().zip([level, line]) {
                *plain += (error * error - *plain) * counts;
            }
            let left = error - self.ahead;
            self.left += (left * left - self.left) * counts;
        }
        if let Some(deviation) = deviation {
            self.width.learn(place, deviation, (usual, gain), counts);
        }
        if cycles >= self.proven {
            let plain = self.plain[0].min(self.plain[1]);
            let explained = if plain > 0.0 { 1.0 - self.left / plain } else { 0.0 };
            self.used = explained > if self.used { FAILS } else { EXPLAINS };
            self.width.judge();
        }
        if self.samples.is_multiple_of(self.per_cycle.round() as u64) {
            self.before = (1.0 - gain) * self.ahead;
            self.recentre();
        }
    }

    fn adopt(&mut self, part: usize, change: f64) {
        let parts = self.parts.len() as f64;
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

    /// What is to be taken off so that what is left lies as near to its middle as it may, `wanted` being what would leave just that. Where a
    /// job of the night begins the course of a day has an edge, which its parts and clocks that differ make a slope of: there the
    /// value may be that of a part earlier or later. `unit` is the usual deviation. Says whether it is so. What is steep is no edge:
    /// between the parts of a straight line nothing is doubtful.
    pub(super) fn near(&self, at: Millis, wanted: f64, unit: f64) -> (f64, bool) {
        let now = self.value(at);
        let used = self.calendar.iter().filter(|season| season.used);
        // With a sample a part nothing lies between.
        let is_between = |part: &Millis| *part as f64 >= 2e3 * self.step;
        let Some(part) = used.clone().map(Season::part).max().filter(is_between) else {
            return (now, false);
        };
        // What is found has another phase by then.
        let found = self.found.as_ref().map_or(0.0, |season| season.value(at));
        let course = |at| found + used.clone().map(|season| season.value(at)).sum::<f64>();
        let first = at.saturating_sub(at.rem_euclid(part));
        let node = |n: Millis| course(first.saturating_add(n * part));
        let nodes = [node(-1), node(0), node(1), node(2)];
        let bend = |n: usize| (nodes[n - 1] - 2.0 * nodes[n] + nodes[n + 1]).abs();
        if bend(1).max(bend(2)) <= EDGE / 2.0 * unit {
            return (now, false);
        }
        // Between these it is a line.
        let (before, after) = (at.saturating_sub(part), at.saturating_add(part));
        let around = [course(before), nodes[1], nodes[2], course(after)];
        let (low, high) = (around.iter()).fold((now, now), |(low, high), v| (low.min(*v), high.max(*v)));
        if high - low > EDGE * unit {
            (wanted.clamp(low, high), (low..=high).contains(&wanted))
        } else {
            (now, false)
        }
    }

    /// By how much wider the values of this time lie than those of all times.
    pub(super) fn width(&self, at: Millis) -> f64 {
        self.all().map(|season| season.width(at)).product()
    }

    /// Lengths of the seasons that are used, in seconds.
    pub(super) fn used(&self) -> impl Iterator<Item = f64> {
        self.all().filter(|s| s.is_used()).map(|s| s.period)
    }

    /// Whether a course is taken off.
    pub(super) fn has_course(&self) -> bool {
        self.all().any(|s| s.used)
    }

    /// Learns a value; `middle` and `unit` are the usual rest and its deviation, and `deviation` is how far it lies from what was
    /// foretold. Says whether other seasons are used from now on.
    pub(super) fn learn(
        &mut self,
        at: Millis,
        value: f64,
        (middle, unit): (f64, f64),
        deviation: Option<f64>,
    ) -> bool {
        let given_up = (self.found.as_ref()).is_some_and(|s| !s.is_used() && s.cycles() > TRIAL);
        if given_up {
            self.found = None;
        }
        let rest = value - self.value(at);
        if self.found.is_none() {
            let period = self.search.add(((rest - middle) / unit.max(1e-300)) as f32);
            let period = period.map(|samples| rounded(samples * self.step));
            // The day and the week are learned anyhow.
            self.found = period
                .filter(|period| period / self.step >= LEAST_SAMPLES)
                .filter(|period| !near(*period, DAY, NEARLY) && !near(*period, WEEK, NEARLY))
                .map(|period| Season::new(period, self.step, FOUND_PARTS));
        }
        let width = self.width(at);
        let (mut others, mut more) = (false, false);
        for season in self.found.iter_mut().chain(&mut self.calendar) {
            // What is sampled twice a day has no course of the day.
            if season.per_cycle >= LEAST_SAMPLES {
                let was = (season.used, season.width.used);
                // Each learns what the others leave.
                let deviation = deviation.map(|deviation| deviation / width * season.width(at));
                season.learn(at, rest + season.value(at), deviation);
                let is = (season.used, season.width.used);
                let begins = is.0 && !was.0 || is.1 && !was.1;
                // A width ceases to be used when it makes no difference.
                others |= begins || was.0 && !is.0;
                more |= begins;
            }
        }
        if more {
            self.begin_anew();
        }
        others
    }

    /// Of what one season takes off from now on nothing is another's.
    fn begin_anew(&mut self) {
        let [day, week] = &mut self.calendar;
        if !day.is_used() && day.cycles() < 1.0 {
            *day = Season::new(DAY, self.step, DAY_PARTS);
        }
        if !week.is_used()
            && (week.cycles() < 1.0
                || day.is_used() && week.parts.len() < DAYS_PARTS.min(week.per_cycle.round() as usize))
        {
            *week = Season::new(
                WEEK,
                self.step,
                if day.is_used() { DAYS_PARTS } else { WEEK_PARTS },
            );
        }
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
