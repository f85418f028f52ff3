//! Where a trend leads: what a series will be in some days, and when it reaches a limit.
//!
//! Three fits, from the plain to the careful: least squares, Theil and Sen's median of slopes, which outliers do not move, and
//! least squares of what the course of the day, or that of the week, leaves. Errors that follow each other are worth fewer samples than they
//! are: the intervals are widened by their autocorrelation. Where level or slope changed, only what is since then is fitted.

mod bend;
mod breaks;
mod calm;
mod course;
mod fit;
mod moved;
mod points;

pub use points::{Points, Reduce};

use crate::anomaly::Millis;
use fit::Fit;
use serde::{Deserialize, Serialize};
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
    /// Not by the trend within what can be seen; or by one of which it is not known whether it is any.
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
    /// Days since its level or slope changed last, if it did. The fits are of these.
    #[serde(default)]
    pub changed: Option<f64>,
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
    /// Level or slope changed too short a time ago: what was before says nothing of where it leads now.
    Since {
        /// Values at different times since then.
        values: usize,
        /// Days since then.
        seen: f64,
        /// Of which so many are needed.
        needed: f64,
    },
}

impl fmt::Display for NotEnough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Values(_) | Self::Days { .. } => f.write_str("not enough data: ")?,
            Self::Since { .. } => f.write_str("not enough data since it changed: ")?,
        }
        match self {
            Self::Days { seen, needed } | Self::Since { seen, needed, .. } if seen < needed => {
                let days = if *needed == 1.0 { "day" } else { "days" };
                // Rounded down: 0.99 days are not "1.0 of 1".
                let seen = (seen * 10.0).floor() / 10.0;
                write!(f, "seen {seen:.1} of {needed} {days}")
            }
            Self::Days { .. } => Ok(()),
            Self::Values(values) | Self::Since { values, .. } => write!(
                f,
                "{values} values at different times, of which {LEAST} are needed"
            ),
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
    let finite = series.iter().filter(|(_, value)| value.is_finite());
    let series: Vec<(Millis, f64)> = finite.copied().collect();
    let points = reduced(&series, POINTS);
    let (Some(first), true) = (points.first(), points.len() >= LEAST) else {
        return Err(NotEnough::Values(points.len()));
    };
    let days = -first.0;
    if days < least {
        let needed = least;
        return Err(NotEnough::Days { seen: days, needed });
    }
    let step = step(&series);
    let hours = in_parts(&series, days);
    let usual = course::Usual::of(&hours, end(&series));
    let rest = usual.as_ref().map(|usual| usual.taken_off(&series));
    let rest = rest.as_deref().unwrap_or(&series);
    let enough = least.max(LEAST as f64 * days / series.len() as f64);
    let Some(change) = breaks::last(rest, days, limit, enough) else {
        let rises = |fit: &Fit, limit: f64| rises || fit.level <= limit;
        let mut fits = Fits::of(&series, &points, &hours);
        fits.all.iter_mut().for_each(|(_, fit)| fit.round(step, days));
        return Ok(fits.capacity(&points, days, limit, &rises));
    };
    // What was usual is what was before as well.
    let level = mean(points.iter().map(|p| p.1));
    let rises = |_: &Fit, limit: f64| rises || level <= limit;
    let since = |series: &[(Millis, f64)]| -> Vec<(Millis, f64)> {
        series
            .iter()
            .filter(|(at, _)| *at >= change.first)
            .copied()
            .collect()
    };
    let (series, seen) = (since(&series), change.days);
    let points = reduced(&series, POINTS);
    let not_enough = NotEnough::Since {
        values: points.len(),
        seen,
        needed: least,
    };
    if points.len() <= 2 {
        return Err(not_enough);
    }
    let mut fits = Fits::of(&series, &points, &in_parts(&series, seen));
    if let Some(fit) = usual.and_then(|usual| usual.fit(&since(rest))) {
        fits.all.truncate(2);
        fits.all.push((Method::Seasonal, fit));
        fits.trusted = Method::Seasonal;
    }
    for (_, fit) in &mut fits.all {
        fit.round(step, seen);
        fit.widen(change.noise, seen);
    }
    let mut found = fits.capacity(&points, seen, limit, &rises);
    // What was cleaned twice may be so again before it is full: a log that is rotated each week alerted for three of them.
    for found in &mut found.forecasts {
        if let Some(Exhaustion::In { latest, .. }) = &mut found.exhaustion
            && found.per_day.value * change.again < 0.0
        {
            *latest = None;
        }
    }
    found.days = days;
    found.changed = Some(seen);
    // What is full is full, however short a time it has been so.
    let is_full = limit.is_some_and(|limit| level <= limit && found.now >= limit - fit::NEAR * limit.abs())
        && (found.best()).is_some_and(|best| best.exhaustion == Some(Exhaustion::Reached));
    if (points.len() < LEAST || seen < least) && !is_full {
        return Err(not_enough);
    }
    Ok(found)
}

/// The points in which a course of the day is looked for: it is seen in parts of a day, however many days there are.
fn in_parts(series: &[(Millis, f64)], days: f64) -> Vec<Point> {
    let parts = ((days * course::PARTS as f64) as usize).min(series.len());
    reduced(series, POINTS.max(parts))
}

/// All fits of the same points.
struct Fits {
    all: Vec<(Method, Fit)>,
    trusted: Method,
}

impl Fits {
    /// Of points, and of the same in parts of the day, to which a series is reduced.
    fn of(series: &[(Millis, f64)], points: &[Point], hours: &[Point]) -> Self {
        let mut plain = Fit::least_squares(points);
        let mut robust = Fit::theil_sen(points);
        let end = end(series);
        plain.of_values(before(series, end));
        robust.of_most_values(before(series, end));
        let mut all = vec![(Method::LeastSquares, plain), (Method::TheilSen, robust)];
        // A level that lasts to the end is no outlier.
        let is_left = (robust.now(points) - robust.line(0.0)).abs() > 3.0 * robust.scale;
        let outliers = !is_left
            && ((plain.slope - robust.slope).abs() > NORMAL * robust.slope_error
                || plain.scale > 2.0 * robust.scale.max(1e-12 * plain.scale));
        let mut trusted = if outliers {
            Method::TheilSen
        } else {
            Method::LeastSquares
        };
        if let Some((fit, explains)) = course::fit(series, hours) {
            all.push((Method::Seasonal, fit));
            if explains {
                trusted = Method::Seasonal;
            }
        }
        Self { all, trusted }
    }

    /// What they foretell of so many days that were seen, and whether a limit is one that is risen to.
    fn capacity(
        &self,
        points: &[Point],
        days: f64,
        limit: Option<f64>,
        rises: &dyn Fn(&Fit, f64) -> bool,
    ) -> Capacity {
        let rest = bend::rest(points);
        let forecasts = self.all.iter().map(|(method, fit)| {
            let limit = limit.map(|limit| (limit, rises(fit, limit)));
            let mut forecast = fit.forecast(*method, days, limit, fit.now(points));
            // What warms up is on its way to where it is warm: it has a line on every day of that, and alerted for the first three.
            if let (Some(rest), Some((limit, rises)), Some(Exhaustion::In { latest, .. })) =
                (rest, limit, &mut forecast.exhaustion)
                && if rises {
                    rest + fit.peak < limit
                } else {
                    rest + fit.trough > limit
                }
            {
                *latest = None;
            }
            forecast
        });
        let mut trusted = self.all.iter().filter(|(method, _)| *method == self.trusted);
        Capacity {
            days,
            changed: None,
            now: trusted.next().map_or(f64::NAN, |(_, fit)| fit.now(points)),
            forecasts: forecasts.collect(),
            trusted: self.trusted,
        }
    }
}

/// When the last of a series is.
fn end(series: &[(Millis, f64)]) -> Millis {
    series.iter().map(|(at, _)| *at).max().unwrap_or_default()
}

/// The finest step between values: what is counted in pieces has errors of a part of one, however straight its line. Zero of what only
/// jumped.
fn step(series: &[(Millis, f64)]) -> f64 {
    let mut values: Vec<f64> = series.iter().map(|(_, value)| *value).collect();
    values.sort_unstable_by(f64::total_cmp);
    values.dedup();
    if values.len() <= 2 {
        return 0.0;
    }
    let steps = values.windows(2).map(|two| two[1] - two[0]);
    steps.fold(f64::INFINITY, f64::min)
}

/// A series in days before its end.
fn before(series: &[(Millis, f64)], end: Millis) -> impl ExactSizeIterator<Item = Point> {
    series
        .iter()
        .map(move |(at, value)| ((at - end) as f64 / DAY, *value))
}

/// Means over spans of equal length, in days before the last.
fn reduced(series: &[(Millis, f64)], count: usize) -> Vec<Point> {
    let times = || series.iter().map(|(at, _)| *at);
    let (Some(first), Some(last)) = (times().min(), times().max()) else {
        return Vec::new();
    };
    let span = ((last - first) as f64 / count as f64).max(1.0);
    let mut sums = vec![(0.0, 0.0, 0.0); count];
    for (at, value) in series {
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

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

/// The median, which sorts the values to find it.
fn median(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod tests;
