//! Courses that come again: of the day, and of the week where weekends are not as other days are.

use super::{DAY, Fit, POINTS, Point, before, end, median, reduced};
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
    /// Days, and what is added in each part of them.
    length: usize,
    parts: Vec<f64>,
    /// Share of the errors that it explains.
    explained: f64,
}

/// Least squares of what the course leaves, of the week if that explains more than the day's, and whether it explains enough to
/// be trusted. `points` are what a series is reduced to.
pub(super) fn fit(series: &[(Millis, f64)], points: &[Point]) -> Option<(Fit, bool)> {
    let end = end(series);
    let day = Course::of(points, end, 1)?;
    let more = |week: &Course| week.explained - day.explained > EXPLAINS * (1.0 - day.explained).max(0.0);
    let chosen = Course::of(points, end, 7).filter(more).unwrap_or(day);
    let mut fit = chosen.fit;
    let off = |(p, (at, _)): (Point, &(Millis, f64))| (p.0, p.1 - chosen.parts[part(*at, chosen.length)]);
    fit.of_values(before(series, end).zip(series).map(off));
    Some((fit, chosen.explained > EXPLAINS))
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
    pub fn of(points: &[Point], end: Millis) -> Option<Self> {
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
    fn least(off: &[(Millis, f64)], length: usize) -> Self {
        let mut parts = vec![Vec::new(); PARTS * length];
        off.iter()
            .for_each(|(at, off)| parts[part(*at, length)].push(*off));
        let middle = |part: &mut Vec<f64>| if part.is_empty() { 0.0 } else { median(part) };
        let parts = parts.iter_mut().map(middle).collect();
        Self { length, parts }
    }

    /// Share that it explains of what lies off, less what as many parts explain of noise.
    fn explains(&self, off: &[(Millis, f64)]) -> f64 {
        let all: f64 = off.iter().map(|(_, off)| off.abs()).sum();
        let left = off
            .iter()
            .map(|(at, off)| (off - self.parts[part(*at, self.length)]).abs());
        let by_chance = self.parts.len() as f64 / off.len().max(1) as f64;
        1.0 - (left.sum::<f64>() / all.max(f64::MIN_POSITIVE)).powi(2) - by_chance
    }

    /// A series without it.
    pub fn taken_off(&self, series: &[(Millis, f64)]) -> Vec<(Millis, f64)> {
        let course = |at: Millis| self.parts[part(at, self.length)];
        series
            .iter()
            .map(|(at, value)| (*at, value - course(*at)))
            .collect()
    }

    /// Least squares of what it has left, where too little was seen to find a course in it.
    pub fn fit(&self, rest: &[(Millis, f64)]) -> Option<Fit> {
        let points = reduced(rest, POINTS);
        if often_enough(&points, self.length) {
            return None;
        }
        let mut fit = Fit::least_squares(&points);
        fit.of_values(before(rest, end(rest)));
        fit.peak = self.parts.iter().copied().fold(0.0, f64::max);
        fit.trough = self.parts.iter().copied().fold(0.0, f64::min);
        Some(fit)
    }
}

/// By how much each lies off the mean of the so many days around it; none where too little was seen.
fn off(points: &[Point], end: Millis, length: usize) -> Option<Vec<(Millis, f64)>> {
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
            all.push((when(p, end), p.1 - sum / (to - from) as f64));
        }
    }
    often_enough(points, length).then_some(all)
}

/// Whether a course of so many days can be seen.
fn often_enough(points: &[Point], length: usize) -> bool {
    let days = points.first().map_or(0.0, |first| -first.0);
    days >= CYCLES * length as f64 && (points.len() as f64) >= days * PARTS as f64 / 2.0
}

/// When a point is, to the millisecond: by fractions of a day two of three whole hours of a month fell into the part before theirs.
fn when(point: &Point, end: Millis) -> Millis {
    end.saturating_add((point.0 * DAY).round() as Millis)
}

/// Of a course of so many days, the part in which a time is.
fn part(at: Millis, length: usize) -> usize {
    const LONG: Millis = DAY as Millis / PARTS as Millis;
    at.div_euclid(LONG).rem_euclid((PARTS * length) as Millis) as usize
}

/// How high a course of so many days is at its highest, or of `sign` -1 at its lowest. The highest of 168 means of four has that noise which
/// made it so: of every second cycle it says where that is, and of the others how high.
fn highest(rest: &[Point], end: Millis, length: usize, sign: f64) -> f64 {
    let mut halves = vec![[(0.0, 0.0); 2]; PARTS * length];
    for p in rest {
        let at = when(p, end);
        let cycle = at.div_euclid(DAY as Millis * length as Millis);
        let (sum, seen) = &mut halves[part(at, length)][cycle.rem_euclid(2) as usize];
        *sum += sign * p.1;
        *seen += 1.0;
    }
    let both = halves.iter().filter(|[a, b]| a.1 > 0.0 && b.1 > 0.0);
    let means: Vec<[f64; 2]> = both.map(|both| both.map(|(sum, seen)| sum / seen)).collect();
    let of = |half: usize| {
        let most = means.iter().max_by(|a, b| a[half].total_cmp(&b[half]));
        most.map_or(0.0, |most| most[1 - half])
    };
    f64::midpoint(of(0), of(1))
}

impl Course {
    /// Of so many days; none where they were not seen often enough.
    fn of(points: &[Point], end: Millis, length: usize) -> Option<Self> {
        if !often_enough(points, length) {
            return None;
        }
        let count = PARTS * length;
        let part = |p: &Point| part(when(p, end), length);
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
        let rest: Vec<Point> = points.iter().map(|p| (p.0, p.1 - fit.line(p.0))).collect();
        let highest = |sign: f64| sign * highest(&rest, end, length, sign).max(0.0);
        (fit.peak, fit.trough) = (highest(1.0), highest(-1.0));
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
        // A part is a mean of as many as there are cycles.
        fit.peak_error = fit.scale / (-points[0].0 / length as f64).sqrt();
        let explained = 1.0 - left / all.max(f64::MIN_POSITIVE) - by_chance;
        Some(Self {
            fit,
            length,
            parts: course,
            explained,
        })
    }
}
