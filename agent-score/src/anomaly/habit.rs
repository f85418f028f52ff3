//! What happens each day at a time, and is over in minutes: a job of the night. Of the variance of a day it explains too little to be a
//! season, and it would be an anomaly each night.

use super::{DAY, Millis};
use serde::{Deserialize, Serialize};

/// Parts of the day: what is a quarter of an hour earlier or later is of the same time.
const PARTS: i64 = 96;
/// Days on which it must have happened before it is usual, and those that are counted at most.
const DAYS: i64 = 3;
const MOST_DAYS: i64 = 7;
/// How much farther than on the days before it may lie, and what is left of those each day.
const FARTHER: f64 = 1.5;
const LEFT: f32 = 0.8;
/// Times that are remembered.
const MOST: usize = 16;

/// A time of the day at which it is other than usual.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Habit {
    part: i64,
    is_up: bool,
    /// On so many days of late, the last of which was this.
    days: i64,
    day: i64,
    /// How far it lay.
    off: f32,
}

/// Those of a series.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Habits(Vec<Habit>);

fn time(at: Millis) -> (i64, i64) {
    let day = (DAY * 1e3) as Millis;
    (at.div_euclid(day), at.rem_euclid(day) * PARTS / day)
}

impl Habit {
    /// Days before this one on which it was there of late: those on which it was not count against it.
    fn days(&self, day: i64) -> i64 {
        self.days - (day.saturating_sub(self.day) - 1).abs()
    }

    fn is_near(&self, part: i64, is_up: bool) -> bool {
        let apart = (self.part - part).rem_euclid(PARTS);
        self.is_up == is_up && (apart <= 1 || apart == PARTS - 1)
    }
}

impl Habits {
    /// Seconds between two samples at most.
    pub(super) const STEP: f64 = DAY / PARTS as f64;

    /// How far from the middle, with its sign, a value may lie at this time, if this one does not lie farther.
    pub(super) fn reach(&self, at: Millis, off: f64) -> Option<f64> {
        let (day, part) = time(at);
        let those = self.0.iter().filter(|h| h.is_near(part, off > 0.0));
        let usual = those.filter(|h| h.days(day) >= DAYS);
        let most = usual.map(|h| FARTHER * f64::from(h.off)).reduce(f64::max)?;
        (off.abs() <= most).then_some(most.copysign(off))
    }

    /// Learns that a value is other than usual.
    pub(super) fn learn(&mut self, at: Millis, off: f64) {
        let (day, part) = time(at);
        let (is_up, size) = (off > 0.0, off.abs() as f32);
        if let Some(known) = self.0.iter_mut().find(|h| h.is_near(part, is_up)) {
            if day > known.day {
                known.days = (known.days(day).max(0) + 1).min(MOST_DAYS);
                (known.day, known.off) = (day, LEFT * known.off);
            }
            known.off = known.off.max(size);
            return;
        }
        let new = Habit {
            part,
            is_up,
            days: 1,
            day,
            off: size,
        };
        if self.0.len() < MOST {
            self.0.push(new);
        } else if let Some(least) = self.0.iter_mut().min_by_key(|h| h.days(day)) {
            *least = new;
        }
    }
}
