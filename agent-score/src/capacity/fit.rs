//! A line through points, and what it foretells.

use super::breaks::Noise;
use super::{DAYS, Exhaustion, Forecast, Interval, LATEST, Method, NORMAL, Point, REACH, mean, median};
use statrs::distribution::{ContinuousCDF as _, StudentsT};

/// What lies within its errors of a limit, and within this part of that, has reached it.
pub(super) const NEAR: f64 = 0.01;
/// Standard deviation of a Gaussian whose absolute values have a median of 1.
const GAUSSIAN: f64 = 1.4826;

/// A line with what is known of its errors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fit {
    /// Of the points: the mean time and the line there.
    pub centre: f64,
    pub level: f64,
    pub slope: f64,
    /// Standard deviation of the points about the line, and standard error of the slope.
    pub scale: f64,
    pub slope_error: f64,
    /// Standard deviation of a value about the line: points are means of them.
    pub spread: f64,
    /// Points, as far as they are worth one, and quantile of their t distribution.
    pub worth: f64,
    pub quantile: f64,
    pub r_squared: f64,
    /// What the course of the day or week adds to the trend at its highest and at its lowest.
    pub peak: f64,
    pub trough: f64,
    /// Standard error of both.
    pub peak_error: f64,
}

impl Fit {
    pub fn least_squares(points: &[Point]) -> Self {
        let centre = mean(points.iter().map(|p| p.0));
        let level = mean(points.iter().map(|p| p.1));
        let sum = |of: &dyn Fn(&Point) -> f64| points.iter().map(of).sum::<f64>();
        let squares = sum(&|p| (p.0 - centre).powi(2));
        let slope = sum(&|p| (p.0 - centre) * (p.1 - level)) / squares;
        let mut fit = Self::of(points, centre, level, slope);
        let errors = sum(&|p| (p.1 - fit.line(p.0)).powi(2));
        fit.scale = (errors / (points.len() as f64 - 2.0)).sqrt();
        // The line takes away as much as two of those points that they are worth.
        fit.scale /= (1.0 - 2.0 / fit.worth).max(0.25).sqrt();
        fit.spread = fit.scale;
        fit.slope_error = fit.scale / squares.sqrt() * (points.len() as f64 / fit.worth).sqrt();
        fit
    }

    /// Slope with Kendall's interval, errors by their median.
    pub fn theil_sen(points: &[Point]) -> Self {
        let n = points.len() as f64;
        let mut slopes: Vec<f64> = Vec::with_capacity(points.len() * points.len() / 2);
        for (i, a) in points.iter().enumerate() {
            slopes.extend(points.iter().skip(i + 1).map(|b| (b.1 - a.1) / (b.0 - a.0)));
        }
        let middle = slopes.len() as f64 / 2.0;
        // Three of a hundred thousand are asked for: they need not all be in order.
        let mut at = |place: f64| {
            let place = (place.max(0.0) as usize).min(slopes.len() - 1);
            *slopes.select_nth_unstable_by(place, f64::total_cmp).1
        };
        let slope = at(middle);
        let centre = mean(points.iter().map(|p| p.0));
        let mut levels: Vec<f64> = points.iter().map(|p| p.1 - slope * (p.0 - centre)).collect();
        let level = median(&mut levels);
        let mut fit = Self::of(points, centre, level, slope);
        let mut errors: Vec<f64> = levels.iter().map(|l| (l - level).abs()).collect();
        fit.scale = GAUSSIAN * median(&mut errors);
        fit.spread = fit.scale;
        let reach = NORMAL * (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0 * n / fit.worth).sqrt() / 2.0;
        fit.slope_error = (at(middle + reach) - at(middle - reach)) / (2.0 * NORMAL);
        fit
    }

    /// Takes its errors for as large as they were before it: a few quiet days do not promise more of them.
    pub fn widen(&mut self, noise: Noise, days: f64) {
        // Their size is known by all that are: of a day alone, which is worth one or two, anything would be believed.
        self.quantile = quantile(self.worth.max(noise.worth) - 2.0);
        self.scale = self.scale.max(noise.scale);
        self.spread = self.spread.max(self.scale);
        // Of a line over so many days.
        self.slope_error = self.slope_error.max((12.0 * noise.daily / days.powi(3)).sqrt());
        if noise.daily > 0.0 {
            self.worth = self
                .worth
                .min((self.scale * self.scale * days / noise.daily).max(1.0));
        }
    }

    /// Takes its errors for no smaller than those of what was rounded to whole steps before it was seen for so many days.
    pub fn round(&mut self, step: f64, days: f64) {
        let error = step / 12_f64.sqrt();
        self.scale = self.scale.max(error);
        self.spread = self.spread.max(error);
        self.slope_error = self.slope_error.max(step / days);
    }

    /// Takes for what a value may lie off it what those lie off it of which its points are means: of noise in 30 days of 10 minutes
    /// each 48 of 100 lay within what the means do.
    pub fn of_values(&mut self, rest: impl ExactSizeIterator<Item = Point>) {
        let squares = rest.map(|p| (p.1 - self.line(p.0)).powi(2));
        self.spread = self.scale.max(mean(squares).sqrt());
    }

    /// The same where outliers do not count.
    pub fn of_most_values(&mut self, rest: impl ExactSizeIterator<Item = Point>) {
        let mut off: Vec<f64> = rest.map(|p| (p.1 - self.line(p.0)).abs()).collect();
        self.spread = self.scale.max(GAUSSIAN * median(&mut off));
    }

    /// All but the errors.
    fn of(points: &[Point], centre: f64, level: f64, slope: f64) -> Self {
        let line = |p: &Point| level + slope * (p.0 - centre);
        let errors: Vec<f64> = points.iter().map(|p| p.1 - line(p)).collect();
        let left: f64 = errors.iter().map(|e| e * e).sum();
        let mean = mean(points.iter().map(|p| p.1));
        let all: f64 = points.iter().map(|p| (p.1 - mean).powi(2)).sum();
        let worth = worth(&errors);
        Self {
            centre,
            level,
            slope,
            scale: 0.0,
            slope_error: 0.0,
            spread: 0.0,
            worth,
            quantile: quantile(worth - 2.0),
            r_squared: if all > 0.0 { 1.0 - left / all } else { 1.0 },
            peak: 0.0,
            trough: 0.0,
            peak_error: 0.0,
        }
    }

    pub fn line(&self, days: f64) -> f64 {
        self.level + self.slope * (days - self.centre)
    }

    /// The end of the line, and by how much the latest points lie off it.
    pub fn now(&self, points: &[Point]) -> f64 {
        let latest = points.iter().rev().take(LATEST);
        let mut off: Vec<f64> = latest.map(|p| p.1 - self.line(p.0)).collect();
        self.line(0.0) + median(&mut off)
    }

    /// Standard error of the line there.
    fn error(&self, days: f64) -> f64 {
        let level = self.scale * self.scale / self.worth;
        (level + ((days - self.centre) * self.slope_error).powi(2)).sqrt()
    }

    /// Of a limit, and whether it is risen to.
    pub fn forecast(&self, method: Method, seen: f64, limit: Option<(f64, bool)>, now: f64) -> Forecast {
        let around = |value: f64, error: f64| Interval {
            value,
            lower: value - self.quantile * error,
            upper: value + self.quantile * error,
        };
        let values = DAYS.iter().map(|&days| {
            // A value lies about the line as those that were seen did.
            let mut foretold = around(self.line(days), self.error(days).hypot(self.spread));
            foretold.upper += self.peak;
            foretold.lower += self.trough;
            (days <= REACH * seen).then_some(foretold)
        });
        Forecast {
            method,
            per_day: around(self.slope, self.slope_error),
            r_squared: self.r_squared,
            values: values.collect(),
            exhaustion: limit.map(|limit| self.exhaustion(limit, now, REACH * seen)),
        }
    }

    fn exhaustion(&self, (limit, rises): (f64, bool), now: f64, reach: f64) -> Exhaustion {
        let (sign, extreme) = if rises {
            (1.0, self.peak)
        } else {
            (-1.0, -self.trough)
        };
        // Above zero where the limit is passed, with so many standard errors in favour of it.
        let passed = |days: f64, favour: f64| {
            let error = self.error(days).hypot(self.peak_error);
            sign * (self.line(days) - limit) + extreme + favour * self.quantile * error
        };
        // What has filled up lies about the limit as it lay about its line, but not farther off: else each sample is another verdict.
        let near = (2.0 * self.spread).min(NEAR * limit.abs());
        if passed(0.0, 0.0) >= -near || sign * (now - limit) >= -near {
            return Exhaustion::Reached;
        }
        let when = |favour: f64| {
            let (mut before, mut after) = (0.0, reach);
            if passed(after, favour) < 0.0 {
                return None;
            }
            for _ in 0..60 {
                let middle = f64::midpoint(before, after);
                if passed(middle, favour) < 0.0 {
                    before = middle;
                } else {
                    after = middle;
                }
            }
            Some(after)
        };
        // Where the trend may as well be none, noise says when: no day of its is worth more than the first on which it may be.
        let grows = sign * self.slope > self.quantile * self.slope_error;
        let latest = when(-1.0);
        match when(0.0).filter(|_| grows || latest.is_some()) {
            None => Exhaustion::NotWithin {
                days: reach,
                earliest: when(1.0),
            },
            Some(days) => Exhaustion::In {
                days,
                earliest: when(1.0).unwrap_or(days),
                latest,
            },
        }
    }
}

/// How many independent errors those about a line are worth (Bartlett): such as follow each other are worth fewer.
pub(super) fn worth(errors: &[f64]) -> f64 {
    let n = errors.len() as f64;
    let all: f64 = errors.iter().map(|e| e * e).sum();
    let next: f64 = errors.iter().zip(errors.iter().skip(1)).map(|(a, b)| a * b).sum();
    // A line takes away what they have in common (Kendall): of three days of a correlation of 0.9, 83 % of the intervals held.
    let follow = (next / all.max(f64::MIN_POSITIVE) + 2.0 / n) / (1.0 - 4.0 / n).max(0.1);
    let follow = follow.clamp(0.0, 0.98);
    (n * (1.0 - follow) / (1.0 + follow)).max(4.0)
}

/// The 97.5 % quantile of Student's t with so many degrees of freedom.
pub(super) fn quantile(freedom: f64) -> f64 {
    let student = StudentsT::new(0.0, 1.0, freedom.max(2.0));
    student.map_or(NORMAL, |student| student.inverse_cdf(0.975))
}
