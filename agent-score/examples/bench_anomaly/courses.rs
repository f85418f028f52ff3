//! Series with the course of a day or of a week, at the agent's own interval: what is told where nothing happens, week by week, and
//! what is found of changes.

use super::{STEP, WEEK};
use agent_score::anomaly::{Series, Settings, Verdict};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::f64::consts::TAU;

/// Weeks, and those of which the rates are told one by one.
const WEEKS: usize = 8;
const EACH: usize = 3;
/// Monday, as the first of 1970 that was one.
const MONDAY: i64 = 1_760_313_600_000;
/// Days between two events.
const EVERY: f64 = 5.37;

/// A value has a usual for the time (in days), which goes with the day and the week, and noise of a deviation.
struct Course {
    name: &'static str,
    /// What is usual, and its deviation.
    usual: fn(f64) -> (f64, f64),
    /// How like the noise is to that of the value before.
    alike: f64,
}

/// From 0 at night to 1 in the hours of work.
fn open(day: f64) -> f64 {
    let hour = day.fract() * 24.0;
    1.0 / (1.0 + (-(hour - 8.0) * 3.0).exp()) / (1.0 + ((hour - 18.0) * 3.0).exp())
}

fn office(day: f64) -> f64 {
    let part = if day as u32 % 7 < 5 { 8.0 } else { 0.5 };
    1e5 * (2.0 + part * open(day))
}

fn wave(day: f64) -> f64 {
    (TAU * day).sin()
}

const COURSES: [Course; 14] = [
    Course::new("flat", |_| (100.0, 1.0), 0.0),
    Course::new("day of 20 deviations", |day| (100.0 + 20.0 * wave(day), 1.0), 0.0),
    Course::new("the same, alike", |day| (100.0 + 20.0 * wave(day), 1.0), 0.9),
    Course::new("day of 4, alike", |day| (100.0 + 4.0 * wave(day), 1.0), 0.9),
    Course::new(
        "in proportion",
        |day| in_proportion(1e6 * (1.0 + 0.8 * wave(day)), 0.15),
        0.0,
    ),
    Course::new(
        "the same, alike",
        |day| in_proportion(1e6 * (1.0 + 0.8 * wave(day)), 0.15),
        0.9,
    ),
    Course::new("of the spread alone", |day| (100.0, 2.0 + wave(day)), 0.0),
    Course::new("hours of work", |day| in_proportion(office(day), 0.1), 0.0),
    Course::new("the same, alike", |day| in_proportion(office(day), 0.1), 0.9),
    Course::new(
        "growth and day",
        |day| (100.0 + 50.0 * day + 20.0 * wave(day), 1.0),
        0.9,
    ),
    Course::new("growth alone", |day| (100.0 + 20.0 * day, 1.0), 0.0),
    Course::new(
        "a job of two hours",
        |day| (if day.fract() < 1.0 / 12.0 { 50.0 } else { 10.0 }, 1.0),
        0.0,
    ),
    Course::new(
        "a job of half an hour",
        |day| (if day.fract() < 1.0 / 48.0 { 50.0 } else { 10.0 }, 1.0),
        0.0,
    ),
    Course::new(
        "the same, alike",
        |day| (if day.fract() < 1.0 / 48.0 { 50.0 } else { 10.0 }, 1.0),
        0.98,
    ),
];

const fn in_proportion(usual: f64, part: f64) -> (f64, f64) {
    (usual, usual * part)
}

impl Course {
    const fn new(name: &'static str, usual: fn(f64) -> (f64, f64), alike: f64) -> Self {
        Self { name, usual, alike }
    }
}

/// What is changed: the deviations that are added, the factor of the noise, and for how many samples.
#[derive(Clone, Copy)]
struct Event(f64, f64, usize);

const SPIKE: Event = Event(8.0, 1.0, 1);
const SHIFT: Event = Event(5.0, 1.0, 90);
const WIDE: Event = Event(0.0, 4.0, 180);

/// The samples of the events that were found, counted from their beginning, how many there were, and the alarms of each week that are of none.
fn observe(course: &Course, seed: u64, event: Option<Event>) -> (Vec<usize>, usize, [usize; WEEKS]) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut series = Series::new(Settings::new(STEP as f64));
    let (week, every) = (WEEK / STEP, (EVERY * 86_400.0) as usize / STEP);
    let (mut delays, mut planted, mut wrong) = (Vec::new(), 0, [0; WEEKS]);
    let (mut noise, mut last, mut is_found) = (0.0, None, false);
    for sample in 0..WEEKS * week {
        let (u, v) = (
            random.random_range(f64::MIN_POSITIVE..1.0),
            random.random_range(0.0..TAU),
        );
        let gaussian = (-2.0 * f64::ln(u)).sqrt() * f64::cos(v);
        noise = course.alike * noise + (1.0 - course.alike * course.alike).sqrt() * gaussian;
        let (usual, deviation) = (course.usual)((sample * STEP) as f64 / 86_400.0);
        let after = sample % every;
        let (off, wide, within, near) = match event {
            Some(Event(off, wide, length)) if sample >= EACH * week => {
                planted += usize::from(after == 0);
                is_found &= after > 0;
                if after < length {
                    (off, wide, true, true)
                } else {
                    (0.0, 1.0, false, after < length + 180)
                }
            }
            _ => (0.0, 1.0, false, false),
        };
        let value = usual + deviation * (wide * noise + off);
        let scored = series.observe(MONDAY + (sample * STEP) as i64 * 1000, value);
        if within && scored.verdict == Verdict::Anomaly && !is_found {
            is_found = true;
            delays.push(after);
        }
        if scored.since.is_some() && scored.since != last && !near {
            wrong[sample / week] += 1;
        }
        last = scored.since.or(last);
    }
    (delays, planted, wrong)
}

/// What is told of each, of so many series.
pub fn run(count: usize, seed: u64) {
    println!(
        "with a course, a sample each {STEP} s, {count} series each: false alarms in week 1, 2, 3 and those after; found of changes from week {} on:",
        EACH + 1
    );
    for (n, course) in COURSES.iter().enumerate() {
        let seeds = || (0..count).map(|round| seed + 90_000 + (round * 10 + n) as u64);
        let mut weeks = [0; WEEKS];
        for (_, _, wrong) in seeds().map(|seed| observe(course, seed, None)) {
            weeks.iter_mut().zip(wrong).for_each(|(all, one)| *all += one);
        }
        let (each, rest) = weeks.split_at(EACH);
        let per = |alarms: usize, weeks: usize| alarms as f64 / (count * weeks) as f64;
        let mut line: String = each
            .iter()
            .map(|alarms| format!("{:6.1}", per(*alarms, 1)))
            .collect();
        line += &format!("{:6.2}  ", per(rest.iter().sum(), rest.len()));
        for (name, event) in [("spikes", SPIKE), ("shifts", SHIFT), ("spreads", WIDE)] {
            let (mut delays, mut all) = (Vec::new(), 0);
            for (found, planted, _) in seeds().map(|seed| observe(course, seed, Some(event))) {
                delays.extend(found);
                all += planted;
            }
            delays.sort_unstable();
            let delay = delays.get(delays.len() / 2).map_or(0, |d| d * STEP);
            line += &format!("  {name} {:.2} {delay:4} s", delays.len() as f64 / all as f64);
        }
        println!("  {:<22}{line}", course.name);
    }
}
