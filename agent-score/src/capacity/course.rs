//! Courses that come again: of the day, and of the week where weekends are not as other days are.

use super::{Fit, Point};

/// Parts of a day.
pub(super) const PARTS: usize = 24;
/// A course must be seen so often before it is known, and in every second of its parts.
const CYCLES: f64 = 3.0;
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

impl Course {
    /// Of so many days; none where they were not seen often enough.
    fn of(points: &[Point], end: f64, length: usize) -> Option<Self> {
        let days = -points.first()?.0;
        if days < CYCLES * length as f64 || (points.len() as f64) < days * PARTS as f64 / 2.0 {
            return None;
        }
        let count = PARTS * length;
        let part = |p: &Point| ((end + p.0).rem_euclid(length as f64) * PARTS as f64) as usize % count;
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
