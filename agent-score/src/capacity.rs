//! Where a trend leads: what a series will be in some days, and when it reaches a limit.
//!
//! Three fits, from the plain to the careful: least squares, Theil and Sen's median of slopes, which outliers do not move, and
//! least squares of what the course of the day, or that of the week, leaves. Errors that follow each other are worth fewer samples than they
//! are: the intervals are widened by their autocorrelation.

mod course;
mod points;

pub use points::{Points, Reduce};

use crate::anomaly::Millis;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF as _, StudentsT};
use std::fmt;

/// Days that are foretold.
pub const DAYS: [f64; 3] = [30.0, 60.0, 90.0];
/// Nothing is foretold beyond so many times the time that was seen.
const REACH: f64 = 10.0;
/// Fewer points make no trend.
const LEAST: usize = 20;
/// Points that are fitted: means of as many spans of time, so that the pairs of them can be counted.
const POINTS: usize = 512;
/// 95 % of a Gaussian, two-sided.
const NORMAL: f64 = 1.96;
const DAY: f64 = 86_400_000.0;
/// Latest points whose median says where it is now.
const LATEST: usize = 5;

/// How a trend is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The line with the least squares of its errors.
    LeastSquares,
    /// The median of the slopes between all pairs of points.
    TheilSen,
    /// Least squares, without the course of the day or of the week.
    Seasonal,
}

impl Method {
    /// As users read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LeastSquares => "least-squares",
            Self::TheilSen => "theil-sen",
            Self::Seasonal => "seasonal",
        }
    }
}

/// A value with the interval in which 19 of 20 lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The middle.
    pub value: f64,
    /// The lower end.
    pub lower: f64,
    /// The upper end.
    pub upper: f64,
}

/// When a limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exhaustion {
    /// It is reached already.
    Reached,
    /// In so many days.
    In {
        /// By the trend.
        days: f64,
        /// At the earliest.
        earliest: f64,
        /// At the latest; none if it may also never be.
        latest: Option<f64>,
    },
    /// Not by the trend within what can be seen.
    NotWithin {
        /// So many days are what can be seen.
        days: f64,
        /// At the earliest, where that is within them.
        earliest: Option<f64>,
    },
}

/// What a fit foretells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Which fit.
    pub method: Method,
    /// Growth in a day.
    pub per_day: Interval,
    /// Share of the variance that it explains.
    pub r_squared: f64,
    /// Values at the end of [`DAYS`]; none where too little was seen.
    pub values: Vec<Option<Interval>>,
    /// When the limit is reached, if there is one.
    pub exhaustion: Option<Exhaustion>,
}

/// The forecasts of a series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// Days that were seen.
    pub days: f64,
    /// The value of now: the trusted fit's end, as far off it as the latest points are.
    pub now: f64,
    /// All fits.
    pub forecasts: Vec<Forecast>,
    /// The one to be trusted: with the course of the day or week if there is one, robust if outliers moved the plain one.
    pub trusted: Method,
}

impl Capacity {
    /// The forecast that is to be trusted.
    pub fn best(&self) -> Option<&Forecast> {
        self.forecasts.iter().find(|f| f.method == self.trusted)
    }
}

/// Too little to see a trend in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NotEnough {
    /// So many values at different times.
    Values(usize),
    /// Too short a time, in days.
    Days {
        /// From the first to the last value.
        seen: f64,
        /// Of which so many are needed.
        needed: f64,
    },
}

impl fmt::Display for NotEnough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Values(values) => write!(
                f,
                "not enough data: {values} values at different times, of which {LEAST} are needed"
            ),
            Self::Days { seen, needed } => {
                let days = if *needed == 1.0 { "day" } else { "days" };
                // Rounded down: 0.99 days are not "1.0 of 1".
                let seen = (seen * 10.0).floor() / 10.0;
                write!(f, "not enough data: seen {seen:.1} of {needed} {days}")
            }
        }
    }
}

/// Days before the last point, and the value.
type Point = (f64, f64);

/// Fits a series and says where it leads. Values that are none are left out. A limit below what was usual is one that is
/// fallen to.
pub fn forecast(series: &[(Millis, f64)], limit: Option<f64>) -> Result<Capacity, NotEnough> {
    found(series, limit, false, 0.0)
}

/// The same of what is used of something: however much that is, the limit is above it. What was seen for fewer days than `least`
/// makes no trend: what goes up and down in a day has one in each of its hours.
pub fn forecast_use(series: &[(Millis, f64)], limit: f64, least: f64) -> Result<Capacity, NotEnough> {
    found(series, Some(limit), true, least)
}

fn found(
    series: &[(Millis, f64)],
    limit: Option<f64>,
    rises: bool,
    least: f64,
) -> Result<Capacity, NotEnough> {
    let points = reduced(series, POINTS);
    let (Some(first), true) = (points.first(), points.len() >= LEAST) else {
        return Err(NotEnough::Values(points.len()));
    };
    let days = -first.0;
    if days < least {
        let needed = least;
        return Err(NotEnough::Days { seen: days, needed });
    }
    let plain = Fit::least_squares(&points);
    let robust = Fit::theil_sen(&points);
    // From here on the errors of the trend of a fit are its own.
    let mut fits = vec![(Method::LeastSquares, plain), (Method::TheilSen, robust)];
    // A level that lasts to the end is no outlier.
    let is_left = (robust.now(&points) - robust.line(0.0)).abs() > 3.0 * robust.scale;
    let outliers = !is_left
        && ((plain.slope - robust.slope).abs() > NORMAL * robust.slope_error
            || plain.scale > 2.0 * robust.scale.max(1e-12 * plain.scale));
    let mut trusted = if outliers {
        Method::TheilSen
    } else {
        Method::LeastSquares
    };
    let end = series.iter().map(|(at, _)| *at).max().unwrap_or_default() as f64 / DAY;
    // A course is seen in parts of the day, however many days there are.
    let parts = ((days * course::PARTS as f64) as usize).min(series.len());
    if let Some((fit, explains)) = course::fit(&reduced(series, POINTS.max(parts)), end) {
        fits.push((Method::Seasonal, fit));
        if explains {
            trusted = Method::Seasonal;
        }
    }
    let forecasts: Vec<Forecast> = fits
        .iter()
        .map(|(method, fit)| {
            let rises = |limit: f64| rises || fit.level <= limit;
            let limit = limit.map(|limit| (limit, rises(limit)));
            fit.forecast(*method, days, limit, fit.now(&points))
        })
        .collect();
    let now = fits
        .iter()
        .find(|(method, _)| *method == trusted)
        .map_or(f64::NAN, |(_, fit)| fit.now(&points));
    Ok(Capacity {
        days,
        now,
        forecasts,
        trusted,
    })
}

/// Means over spans of equal length, in days before the last.
fn reduced(series: &[(Millis, f64)], count: usize) -> Vec<Point> {
    let values = || series.iter().filter(|(_, value)| value.is_finite());
    let times = || values().map(|(at, _)| *at);
    let (Some(first), Some(last)) = (times().min(), times().max()) else {
        return Vec::new();
    };
    let span = ((last - first) as f64 / count as f64).max(1.0);
    let mut sums = vec![(0.0, 0.0, 0.0); count];
    for (at, value) in values() {
        let place = ((at - first) as f64 / span) as usize;
        if let Some((n, time, sum)) = sums.get_mut(place.min(count - 1)) {
            *n += 1.0;
            *time += (at - last) as f64 / DAY;
            *sum += value;
        }
    }
    let filled = sums.into_iter().filter(|(n, ..)| *n > 0.0);
    filled.map(|(n, time, sum)| (time / n, sum / n)).collect()
}

/// A line with what is known of its errors.
#[derive(Clone, Copy, Debug)]
struct Fit {
    /// Of the points: the mean time and the line there.
    centre: f64,
    level: f64,
    slope: f64,
    /// Standard deviation of the points about the line, and standard error of the slope.
    scale: f64,
    slope_error: f64,
    /// Points, as far as they are worth one, and quantile of their t distribution.
    worth: f64,
    quantile: f64,
    r_squared: f64,
    /// What the course of the day or week adds to the trend at its highest and at its lowest.
    peak: f64,
    trough: f64,
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

/// The median, which sorts the values to find it.
fn median(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

impl Fit {
    fn least_squares(points: &[Point]) -> Self {
        let centre = mean(points.iter().map(|p| p.0));
        let level = mean(points.iter().map(|p| p.1));
        let sum = |of: &dyn Fn(&Point) -> f64| points.iter().map(of).sum::<f64>();
        let squares = sum(&|p| (p.0 - centre).powi(2));
        let slope = sum(&|p| (p.0 - centre) * (p.1 - level)) / squares;
        let mut fit = Self::of(points, centre, level, slope);
        let errors = sum(&|p| (p.1 - fit.line(p.0)).powi(2));
        fit.scale = (errors / (points.len() as f64 - 2.0)).sqrt();
        fit.slope_error = fit.scale / squares.sqrt() * (points.len() as f64 / fit.worth).sqrt();
        fit
    }

    /// Slope with Kendall's interval, errors by their median.
    fn theil_sen(points: &[Point]) -> Self {
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
        fit.scale = 1.4826 * median(&mut errors);
        let reach = NORMAL * (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0 * n / fit.worth).sqrt() / 2.0;
        fit.slope_error = (at(middle + reach) - at(middle - reach)) / (2.0 * NORMAL);
        fit
    }

    /// All but the errors.
    fn of(points: &[Point], centre: f64, level: f64, slope: f64) -> Self {
        let line = |p: &Point| level + slope * (p.0 - centre);
        let errors: Vec<f64> = points.iter().map(|p| p.1 - line(p)).collect();
        let left: f64 = errors.iter().map(|e| e * e).sum();
        let mean = mean(points.iter().map(|p| p.1));
        let all: f64 = points.iter().map(|p| (p.1 - mean).powi(2)).sum();
        // Bartlett: errors that follow each other with this correlation are worth fewer.
        let next: f64 = errors.iter().zip(errors.iter().skip(1)).map(|(a, b)| a * b).sum();
        let follow = (next / left.max(f64::MIN_POSITIVE)).clamp(0.0, 0.98);
        let worth = (points.len() as f64 * (1.0 - follow) / (1.0 + follow)).max(4.0);
        Self {
            centre,
            level,
            slope,
            scale: 0.0,
            slope_error: 0.0,
            worth,
            quantile: quantile(worth - 2.0),
            r_squared: if all > 0.0 { 1.0 - left / all } else { 1.0 },
            peak: 0.0,
            trough: 0.0,
        }
    }

    fn line(&self, days: f64) -> f64 {
        self.level + self.slope * (days - self.centre)
    }

    /// The end of the line, and by how much the latest points lie off it.
    fn now(&self, points: &[Point]) -> f64 {
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
    fn forecast(&self, method: Method, seen: f64, limit: Option<(f64, bool)>, now: f64) -> Forecast {
        let around = |value: f64, error: f64| Interval {
            value,
            lower: value - self.quantile * error,
            upper: value + self.quantile * error,
        };
        let values = DAYS.iter().map(|&days| {
            // A value lies about the line as those that were seen did.
            let mut foretold = around(self.line(days), self.error(days).hypot(self.scale));
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
            sign * (self.line(days) - limit) + extreme + favour * self.quantile * self.error(days)
        };
        if passed(0.0, 0.0) >= 0.0 || sign * (now - limit) >= 0.0 {
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
        match when(0.0) {
            None => Exhaustion::NotWithin {
                days: reach,
                earliest: when(1.0),
            },
            Some(days) => Exhaustion::In {
                days,
                earliest: when(1.0).unwrap_or(days),
                latest: when(-1.0),
            },
        }
    }
}

/// The 97.5 % quantile of Student's t with so many degrees of freedom.
fn quantile(freedom: f64) -> f64 {
    let student = StudentsT::new(0.0, 1.0, freedom.max(2.0));
    student.map_or(NORMAL, |student| student.inverse_cdf(0.975))
}

#[cfg(test)]
mod tests;
