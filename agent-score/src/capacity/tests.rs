//! Trends that are known, and what is foretold of them.

use super::fit::quantile;
use super::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::f64::consts::TAU;

mod changes;
mod errors;
mod shapes;

const HOUR: Millis = 3_600_000;
const START: Millis = 1_760_000_000_000;

fn gaussian(random: &mut StdRng) -> f64 {
    let u: f64 = random.random_range(f64::MIN_POSITIVE..1.0);
    (-2.0 * u.ln()).sqrt() * (TAU * random.random::<f64>()).cos()
}

/// Noise that follows itself, of a standard deviation of 1.
fn wanders(random: &mut StdRng, follow: f64) -> impl FnMut() -> f64 {
    let mut left = gaussian(random);
    move || {
        let now = left;
        left = follow * left + (1.0 - follow * follow).sqrt() * gaussian(random);
        now
    }
}

fn hourly(days: usize, mut value: impl FnMut(f64) -> f64) -> Vec<(Millis, f64)> {
    let hours = 0..days as Millis * 24;
    hours
        .map(|h| (START + h * HOUR, value(h as f64 / 24.0)))
        .collect()
}

/// Against tables, between whose whole numbers it is smooth: points are worth any number.
#[test]
fn the_quantile_is_that_of_the_tables() {
    let tables = [
        (2.0, 4.3027),
        (3.0, 3.1824),
        (5.0, 2.5706),
        (10.0, 2.2281),
        (30.0, 2.0423),
        (1000.0, 1.9623),
    ];
    for (freedom, expected) in tables {
        assert!(
            (quantile(freedom) - expected).abs() < 1e-4,
            "{freedom}: {}",
            quantile(freedom)
        );
    }
    let all: Vec<f64> = (200..200_000)
        .map(|hundredths| quantile(f64::from(hundredths) / 100.0))
        .collect();
    assert!(
        all.windows(2)
            .all(|two| two[0] >= two[1] && two[0] - two[1] < 0.03)
    );
}

#[test]
fn a_line_is_foretold_exactly() {
    let series = hourly(20, |day| 10.0 + 2.0 * day);
    let found = forecast(&series, Some(100.0)).unwrap();
    let now = 10.0 + 2.0 * (20.0 - 1.0 / 24.0);
    for f in &found.forecasts {
        assert!(
            (f.per_day.value - 2.0).abs() < 1e-6 && f.r_squared > 0.999,
            "{f:?}"
        );
        let values: Vec<f64> = f.values.iter().map(|v| v.unwrap().value).collect();
        for (value, days) in values.iter().zip(DAYS) {
            assert!((value - now - 2.0 * days).abs() < 0.1, "{f:?}");
        }
        let Some(Exhaustion::In { days, .. }) = f.exhaustion else {
            panic!("{f:?}");
        };
        assert!((days - (100.0 - now) / 2.0).abs() < 0.1, "{f:?}");
    }
    assert!((found.now - now).abs() < 0.1);
}

/// Cause: trends under noise, independent and autocorrelated, many times. Seen: 19 of 20 true values lie in the intervals,
/// or not many fewer, and the intervals are not so wide that anything would.
#[test]
fn intervals_hold_what_they_promise() {
    for (follow, least) in [(0.0, 0.90), (0.8, 0.80)] {
        let (mut held, mut held_end, mut width) = (0, 0, 0.0);
        let rounds = 200;
        for seed in 0..rounds {
            let mut random = StdRng::seed_from_u64(seed);
            let mut noise = 0.0;
            let mut next = |random: &mut StdRng| {
                noise = follow * noise + gaussian(random);
                noise
            };
            let series = hourly(15, |day| 50.0 + 0.5 * day + next(&mut random));
            // The one fit that is asked here, as `forecast` makes it: the others take most of the time.
            let points = reduced(&series, POINTS);
            let fit = Fit::least_squares(&points);
            let limit = Some((80.0, true));
            let f = fit.forecast(Method::LeastSquares, -points[0].0, limit, fit.now(&points));
            let value = f.values[0].unwrap();
            // Thirty days later nothing is left of the noise of then.
            let independent = gaussian(&mut random) / (1.0f64 - follow * follow).sqrt();
            let after = 50.0 + 0.5 * (45.0 - 1.0 / 24.0) + independent;
            held += u32::from(value.lower <= after && after <= value.upper);
            width += value.upper - value.lower;
            let truth = 60.0 - 15.0 + 1.0 / 24.0;
            if let Some(Exhaustion::In { earliest, latest, .. }) = f.exhaustion {
                held_end += u32::from(earliest <= truth && latest.is_none_or(|l| truth <= l));
            }
        }
        let share = |held: u32| f64::from(held) / rounds as f64;
        assert!(
            share(held) >= least && share(held_end) >= least,
            "{follow}: {held} {held_end} of {rounds}"
        );
        assert!(width / (rounds as f64) < 25.0, "{width}");
    }
}

#[test]
fn outliers_do_not_move_the_robust_fit() {
    let mut random = StdRng::seed_from_u64(1);
    let series = hourly(20, |day| {
        let outlier = if day > 17.0 && random.random_bool(0.2) {
            300.0
        } else {
            0.0
        };
        20.0 + day + 0.5 * gaussian(&mut random) + outlier
    });
    let found = forecast(&series, None).unwrap();
    assert_eq!(found.trusted, Method::TheilSen);
    let slope = |method| {
        found
            .forecasts
            .iter()
            .find(|f| f.method == method)
            .unwrap()
            .per_day
            .value
    };
    assert!(
        (slope(Method::TheilSen) - 1.0).abs() < 0.1,
        "{}",
        slope(Method::TheilSen)
    );
    assert!((slope(Method::LeastSquares) - 1.0).abs() > 0.5);
}

/// Cause: a growth of 1 a day below a course of the day of ±30. Seen: the season is trusted, its slope is right within
/// a narrow interval, and the limit is reached at the peak of a day, not at its mean.
#[test]
fn the_course_of_the_day_is_taken_off() {
    let mut random = StdRng::seed_from_u64(2);
    let series = hourly(14, |day| {
        50.0 + day + 30.0 * (TAU * day).sin() + gaussian(&mut random)
    });
    let found = forecast(&series, Some(110.0)).unwrap();
    assert_eq!(found.trusted, Method::Seasonal);
    let best = found.best().unwrap();
    assert!(
        (best.per_day.value - 1.0).abs() < 0.1 && best.r_squared > 0.95,
        "{best:?}"
    );
    assert!(best.per_day.upper - best.per_day.lower < 0.2, "{best:?}");
    let Some(Exhaustion::In { days, .. }) = best.exhaustion else {
        panic!("{best:?}");
    };
    assert!((days - 16.0).abs() < 2.0, "{days}");
}

#[test]
fn it_says_when_it_cannot_say() {
    let mut series = hourly(1, |_| 1.0);
    series.truncate(10);
    series.extend([(START + 100 * HOUR, f64::NAN)]);
    let error = forecast(&series, None).unwrap_err();
    assert_eq!(error, NotEnough::Values(10));
    assert!(error.to_string().contains("not enough data"));
    // Four days say something of forty, and nothing of sixty.
    let found = forecast(&hourly(4, |day| day), Some(1000.0)).unwrap();
    let known: Vec<bool> = found.forecasts[0].values.iter().map(Option::is_some).collect();
    assert_eq!(known, [true, false, false]);
    assert!(matches!(found.forecasts[0].exhaustion, Some(Exhaustion::NotWithin { days, .. }) if days < 40.0));
}

/// Cause: a morning on which use rises. Seen: no trend of it, and why; a day of the same has one.
#[test]
fn a_morning_is_no_trend_of_what_is_used() {
    let hours = |count: i64| -> Vec<(Millis, f64)> {
        let tenths = (0..=count * 10).map(|i| (START + i * HOUR / 10, i as f64 / 10.0));
        tenths.collect()
    };
    let error = forecast_use(&hours(8), 100.0, 1.0).unwrap_err();
    assert_eq!(error.to_string(), "not enough data: seen 0.3 of 1 day");
    let error = forecast_use(&hours(71), 100.0, 3.0).unwrap_err();
    assert_eq!(error.to_string(), "not enough data: seen 2.9 of 3 days");
    forecast_use(&hours(25), 100.0, 1.0).unwrap();
    forecast_use(&hours(73), 100.0, 3.0).unwrap();
}

#[test]
fn limits_are_reached_from_both_sides() {
    let exhaustion = |slope: f64, limit: f64| {
        let series = hourly(30, |day| 50.0 + slope * (day - 30.0));
        forecast(&series, Some(limit)).unwrap().forecasts[0]
            .exhaustion
            .unwrap()
    };
    let days = |e| match e {
        Exhaustion::In { days, .. } => days.round(),
        _ => f64::NAN,
    };
    assert_eq!(days(exhaustion(1.0, 60.0)), 10.0);
    assert_eq!(days(exhaustion(-1.0, 40.0)), 10.0);
    assert_eq!(exhaustion(1.0, 40.0), Exhaustion::Reached);
    for (slope, limit) in [(-1.0, 100.0), (0.0, 60.0)] {
        let never = exhaustion(slope, limit);
        assert!(
            matches!(never, Exhaustion::NotWithin { earliest: None, .. }),
            "{never:?}"
        );
    }
}

/// Cause: three days of a growth under noise whose trend is at the limit in 39 days, where 30 can be seen, up and down. Seen: not
/// within these, and when it is reached at the earliest, as the steepest growth of the interval says.
#[test]
fn the_early_end_is_told_where_the_trend_reaches_nothing() {
    for sign in [1.0, -1.0] {
        let noise = |day: f64| {
            if (day * 24.0).round() % 2.0 == 0.0 {
                2.0
            } else {
                -2.0
            }
        };
        let series = hourly(3, |day| sign * (50.0 + day + noise(day)));
        let found = forecast(&series, Some(sign * 92.0)).unwrap();
        let plain = &found.forecasts[0];
        let Some(Exhaustion::NotWithin { days, earliest }) = plain.exhaustion else {
            panic!("{plain:?}");
        };
        let steepest = plain.per_day.lower.abs().max(plain.per_day.upper.abs());
        let wanted = (92.0 - 53.0) / steepest;
        let earliest = earliest.unwrap();
        assert!((days - 29.6).abs() < 0.1 && earliest < days, "{plain:?}");
        assert!((earliest - wanted).abs() < 0.1 * wanted, "{wanted}: {plain:?}");
    }
}

/// Cause: ninety days with a course of the day. Seen: it is taken off as in fourteen, and the limit is reached at a peak.
#[test]
fn the_course_of_the_day_is_seen_in_many_days_as_well() {
    let mut random = StdRng::seed_from_u64(2);
    let series = hourly(90, |day| {
        50.0 + 0.2 * day + 30.0 * (TAU * day).sin() + gaussian(&mut random)
    });
    let found = forecast(&series, Some(110.0)).unwrap();
    assert_eq!(found.trusted, Method::Seasonal);
    let seasonal = found
        .forecasts
        .iter()
        .find(|f| f.method == Method::Seasonal)
        .unwrap();
    assert!((seasonal.per_day.value - 0.2).abs() < 0.02, "{seasonal:?}");
    // At 68 now, and at 98 by day: 110 by day is 60 days off.
    let Some(Exhaustion::In { days, .. }) = seasonal.exhaustion else {
        panic!("{seasonal:?}");
    };
    assert!((days - 60.0).abs() < 8.0, "{seasonal:?}");
}

/// Cause: five weeks in which weekends have a third of the use of a working day's noon, and which end with a weekend. Seen: the
/// growth is right and its interval a tenth of that of least squares, and the limit is reached at the noon of a working day.
#[test]
fn the_course_of_the_week_is_taken_off() {
    let mut random = StdRng::seed_from_u64(2);
    // 1970 began with a Thursday.
    let weekday = |day: f64| (START as f64 / DAY + day + 3.0).rem_euclid(7.0) as usize;
    let last = (28..36).find(|end| weekday(f64::from(*end)) == 0).unwrap();
    let series = hourly(last as usize, |day| {
        let busy = if weekday(day) < 5 { 40.0 } else { 0.0 };
        let noon = -(TAU * (START as f64 / DAY + day)).cos();
        30.0 + 0.2 * day + busy + busy / 4.0 * noon + gaussian(&mut random)
    });
    let found = forecast(&series, Some(100.0)).unwrap();
    assert_eq!(found.trusted, Method::Seasonal);
    let best = found.best().unwrap();
    assert!((best.per_day.value - 0.2).abs() < 0.05, "{best:?}");
    let plain = &found.forecasts[0];
    let width = |of: &Forecast| of.per_day.upper - of.per_day.lower;
    assert!(width(plain) > 10.0 * width(best), "{plain:?} {best:?}");
    // At most 30 + 0.2 days + 50.
    let Some(Exhaustion::In { days, .. }) = best.exhaustion else {
        panic!("{best:?}");
    };
    let expected = 100.0 - f64::from(last);
    assert!((days - expected).abs() < 15.0, "{days} and not {expected}");
}

/// Cause: noise for a month, with a course of the day and without. Seen: no course of the week is read into it.
#[test]
fn noise_has_no_week() {
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let noise = hourly(30, |_| gaussian(&mut random));
        assert_ne!(
            forecast(&noise, None).unwrap().trusted,
            Method::Seasonal,
            "{seed}"
        );
        let daily = hourly(30, |day| 3.0 * (TAU * day).sin() + gaussian(&mut random));
        let points = reduced(&daily, 720);
        let (fit, explains) = course::fit(&daily, &points).unwrap();
        // That of a week's hour is a mean of four, and so is a noise of 0.5.
        assert!(explains && fit.peak < 4.0, "{seed}: {fit:?}");
    }
}

/// Cause: a level that has lasted for three days, after another for 27. Seen: that is where it is now, and the limit below it
/// is reached.
#[test]
fn a_level_that_lasts_is_where_it_is() {
    let series = hourly(30, |day| if day < 27.0 { 40.0 } else { 97.0 });
    let found = forecast(&series, Some(95.0)).unwrap();
    assert!((found.now - 97.0).abs() < 1.0, "{found:?}");
    for f in &found.forecasts {
        assert_eq!(f.exhaustion, Some(Exhaustion::Reached), "{f:?}");
    }
}

/// Cause: more is used than there is, since the middle of the time. Seen: of what is used it is exhausted; of any series the limit
/// is one that is far away below.
#[test]
fn more_than_there_is_is_no_way_down() {
    let series = hourly(30, |day| 110.0 + day);
    let of = |found: Result<Capacity, NotEnough>| found.unwrap().forecasts[0].exhaustion.unwrap();
    assert_eq!(of(forecast_use(&series, 100.0, 1.0)), Exhaustion::Reached);
    assert!(matches!(
        of(forecast(&series, Some(100.0))),
        Exhaustion::NotWithin { .. }
    ));
}
