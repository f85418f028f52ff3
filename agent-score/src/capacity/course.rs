//! Courses that come again: of the day, and of the week where weekends are not as other days are.

use super::{DAY, Fit, Point, median};
use crate::anomaly::Millis;

/// Parts of a day.
pub(super) const PARTS: usize = 24;
/// A course must be seen so often before it is known, and in every second of its parts.
pub(super) const CYCLES: f64 = 3.0;
/// Part of the variance about the trend that a course must explain; of the week's, of what that of the day leaves.
const EXPLAINS: f64 = 0.25;

/// What a course leaves.
struct Course {
    fit: Fit,
    /// Share of the errors that it explains.
    explained: f64,
}

/// Least squares of what the course leaves, of the week if that explains more than the day's, and whether it explains enough to
/// be trusted. `end` is the day of the last point since 1970.
pub(super) fn fit(points: &[Point], end: f64) -> Option<(Fit, bool)> {
    let day = Course::of(points, end, 1)?;
    let more = |week: &Course| week.explained - day.explained > EXPLAINS * (1.0 - day.explained).max(0.0);
    let chosen = Course::of(points, end, 7).filter(more).unwrap_or(day);
    Some((chosen.fit, chosen.explained > EXPLAINS))
}

/// A course as it is seen also while the trend changes: that of a day is what parts its hours from the day around them.
#[derive(Clone, Debug)]
pub(super) struct Usual {
    /// Days.
    length: usize,
    parts: Vec<f64>,
}

impl Usual {
    /// That of the week if it explains more than the day's; none if neither explains enough.
    pub fn of(points: &[Point], end: f64) -> Option<Self> {
        let off = off(points, end, 1)?;
        let mut usual = Self::least(&off, 1);
        let mut explained = usual.explains(&off);
        if let Some(off) = self::off(points, end, 7) {
            let week = Self::least(&off, 7);
            let (day, more) = (usual.explains(&off), week.explains(&off));
            if more - day > EXPLAINS * (1.0 - day).max(0.0) {
                (usual, explained) = (week, more);
            }
        }
        (explained > EXPLAINS).then_some(usual)
    }

    /// A median of the cycles: what jumped in one of them is no course.
    fn least(off: &[Point], length: usize) -> Self {
        let mut parts = vec![Vec::new(); PARTS * length];
        off.iter()
            .for_each(|(day, off)| parts[part(*day, length)].push(*off));
        let middle = |part: &mut Vec<f64>| if part.is_empty() { 0.0 } else { median(part) };
        let parts = parts.iter_mut().map(middle).collect();
        Self { length, parts }
    }

    /// Share that it explains of what lies off, less what as many parts explain of noise.
    fn explains(&self, off: &[Point]) -> f64 {
        let all: f64 = off.iter().map(|(_, off)| off.abs()).sum();
        let left = off
            .iter()
            .map(|(day, off)| (off - self.parts[part(*day, self.length)]).abs());
        let by_chance = self.parts.len() as f64 / off.len().max(1) as f64;
        1.0 - (left.sum::<f64>() / all.max(f64::MIN_POSITIVE)).powi(2) - by_chance
    }

    /// A series without it.
    pub fn taken_off(&self, series: &[(Millis, f64)]) -> Vec<(Millis, f64)> {
        let course = |at: Millis| self.parts[part(at as f64 / DAY, self.length)];
        series
            .iter()
            .map(|(at, value)| (*at, value - course(*at)))
            .collect()
    }

    /// Least squares of what it has left, where too little was seen to find a course in it.
    pub fn fit(&self, rest: &[Point]) -> Option<Fit> {
        if often_enough(rest, self.length) {
            return None;
        }
        let mut fit = Fit::least_squares(rest);
        fit.peak = self.parts.iter().copied().fold(0.0, f64::max);
        fit.trough = self.parts.iter().copied().fold(0.0, f64::min);
        Some(fit)
    }
}

/// By how much each lies off the mean of the so many days around it, by the day since 1970; none where too little was seen.
fn off(points: &[Point], end: f64, length: usize) -> Option<Vec<Point>> {
    let (first, last) = (points.first()?.0, points.last()?.0);
    let half = length as f64 / 2.0;
    let (mut from, mut to, mut sum) = (0, 0, 0.0);
    let mut all = Vec::with_capacity(points.len());
    for p in points {
        while points.get(to).is_some_and(|next| next.0 <= p.0 + half) {
            sum += points[to].1;
            to += 1;
        }
        while points[from].0 < p.0 - half {
            sum -= points[from].1;
            from += 1;
        }
        // At the ends half of what is around it is missing.
        if p.0 - half >= first && p.0 + half <= last {
            all.push((end + p.0, p.1 - sum / (to - from) as f64));
        }
    }
    often_enough(points, length).then_some(all)
}

/// Whether a course of so many days can be seen.
fn often_enough(points: &[Point], length: usize) -> bool {
    let days = points.first().map_or(0.0, |first| -first.0);
    days >= CYCLES * length as f64 && (points.len() as f64) >= days * PARTS as f64 / 2.0
}

/// Of a course of so many days, the part in which a day since 1970 is.
fn part(day: f64, length: usize) -> usize {
    (day.rem_euclid(length as f64) * PARTS as f64) as usize % (PARTS * length)
}

impl Course {
    /// Of so many days; none where they were not seen often enough.
    fn of(points: &[Point], end: f64, length: usize) -> Option<Self> {
        if !often_enough(points, length) {
            return None;
        }
        let count = PARTS * length;
        let part = |p: &Point| part(end + p.0, length);
        let mut fit = Fit::least_squares(points);
        let all: f64 = points.iter().map(|p| (p.1 - fit.line(p.0)).powi(2)).sum();
        let mut course = Vec::new();
        // Trend and course are in each other's way only where the cycles are not whole: twice is enough.
        for _ in 0..2 {
            let mut sums = vec![(0.0, 0.0); count];
            for p in points {
                let (sum, seen) = &mut sums[part(p)];
                *sum += p.1 - fit.line(p.0);
                *seen += 1.0;
            }
            let mean = |(sum, seen)| if seen > 0.0 { sum / seen } else { 0.0 };
            course = sums.into_iter().map(mean).collect::<Vec<f64>>();
            let rest: Vec<Point> = points.iter().map(|p| (p.0, p.1 - course[part(p)])).collect();
            fit = Fit::least_squares(&rest);
        }
        fit.peak = course.iter().copied().fold(0.0, f64::max);
        fit.trough = course.iter().copied().fold(0.0, f64::min);
        let error = |p: &Point| (p.1 - course[part(p)] - fit.line(p.0)).powi(2);
        let left: f64 = points.iter().map(error).sum();
        let mean = super::mean(points.iter().map(|p| p.1));
        let variance: f64 = points.iter().map(|p| (p.1 - mean).powi(2)).sum();
        fit.r_squared = if variance > 0.0 {
            1.0 - left / variance
        } else {
            1.0
        };
        // A course of so many parts explains as many of n points of noise: that is taken off.
        let by_chance = count as f64 / points.len() as f64;
        // As do the errors that are left, which are greater where nobody was fitted to them.
        let wider = (1.0 - by_chance).max(0.1).sqrt().recip();
        fit.scale *= wider;
        fit.slope_error *= wider;
        let explained = 1.0 - left / all.max(f64::MIN_POSITIVE) - by_chance;
        Some(Self { fit, explained })
    }
}
