//! Levels and slopes that change, and what only looks as if they did.

use super::*;

const QUARTER: Millis = HOUR / 4;
/// Noise, how it follows itself, and half the height of a course of the day.
const NOISES: [(f64, f64, f64); 5] = [
    (0.0, 0.0, 0.0),
    (0.2, 0.0, 0.0),
    (0.2, 0.0, 2.0),
    (0.5, 0.8, 0.0),
    (0.3, 0.8, 3.0),
];

fn quarters(days: f64, mut value: impl FnMut(f64) -> f64) -> Vec<(Millis, f64)> {
    let all = 0..(days * 96.0) as Millis;
    all.map(|i| (START + i * QUARTER, value(i as f64 / 96.0)))
        .collect()
}

fn noisy(
    seed: u64,
    days: f64,
    (noise, follow, course): (f64, f64, f64),
    value: impl Fn(f64) -> f64,
) -> Vec<(Millis, f64)> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut left = 0.0;
    quarters(days, |day| {
        left = follow * left + gaussian(&mut random);
        value(day) + noise * left + course * (TAU * day).sin()
    })
}

/// What is said of it under each noise.
fn each(days: f64, value: impl Fn(f64) -> f64, check: impl Fn(&str, f64, Result<Capacity, NotEnough>)) {
    for (i, noise) in NOISES.into_iter().enumerate() {
        let series = noisy(i as u64, days, noise, &value);
        check(&format!("{noise:?}"), noise.2, forecast_use(&series, 100.0, 1.0));
    }
}

/// That a limit is reached after so many days, at the peak of the course, within the interval or nearly so.
fn is_reached(of: &str, found: &Capacity, per_day: f64, middle: f64) {
    let best = found.best().unwrap();
    let Some(Exhaustion::In {
        days,
        earliest,
        latest,
    }) = best.exhaustion
    else {
        panic!("{of}: {best:?}");
    };
    let close = 0.1 * middle + 0.1;
    let latest = latest.unwrap_or(f64::INFINITY);
    assert!(
        (days - middle).abs() < 2.0 * close,
        "{of}: {days} and not {middle}"
    );
    assert!(
        earliest - close < middle && middle < latest + close,
        "{of}: {middle} is not in {best:?}"
    );
    assert!(
        (best.per_day.value - per_day).abs() < 0.2 * per_day,
        "{of}: {best:?}"
    );
}

/// Cause: a disk that has grown by 4 a day to 95 was cleaned to 20 three hours ago. Seen: nothing is foretold of it, and why; and of one
/// that was cleaned half a day ago neither.
#[test]
fn who_was_cleaned_a_moment_ago_has_no_trend_yet() {
    let lately = |day: f64| {
        if day < 14.875 { 35.5 + 4.0 * day } else { 20.0 }
    };
    each(15.0, lately, |of, _, found| {
        let why = found.unwrap_err().to_string();
        assert_eq!(why, "not enough data since it changed: seen 0.1 of 1 day", "{of}");
    });
    each(30.0, cleaned, |of, _, found| {
        let why = found.unwrap_err().to_string();
        assert!(
            why.starts_with("not enough data since it changed: seen 0."),
            "{of}: {why}"
        );
    });
}

/// It goes on as before, from a lower level.
fn cleaned(day: f64) -> f64 {
    if day < 29.5 {
        60.0 + 1.2 * day
    } else {
        20.0 + 1.2 * (day - 29.5)
    }
}

/// Cause: the same, one and a half and seven days later. Seen: what is used now, as far as can be seen no end after two days, and
/// after eight the right one.
#[test]
fn who_was_cleaned_starts_from_there() {
    each(31.5, cleaned, |of, course, found| {
        let found = found.unwrap();
        let best = found.best().unwrap();
        assert!((found.now - 22.4).abs() < 2.0 + course, "{of}: {found:?}");
        assert!((found.changed.unwrap() - 2.0).abs() < 0.1, "{of}: {found:?}");
        let Some(Exhaustion::NotWithin { days, earliest }) = best.exhaustion else {
            panic!("{of}: {best:?}");
        };
        assert!(
            days < 21.0 && earliest.is_none_or(|days| days > 10.0),
            "{of}: {best:?}"
        );
    });
    each(37.5, cleaned, |of, course, found| {
        is_reached(of, &found.unwrap(), 1.2, (100.0 - 29.6 - course) / 1.2);
    });
}

/// Cause: a growth that ended ten days ago, at 85. Seen: it does not grow.
#[test]
fn what_has_stopped_growing_does_not_grow() {
    each(
        30.0,
        |day| 25.0 + 3.0 * day.min(20.0),
        |of, course, found| {
            let found = found.unwrap();
            let best = found.best().unwrap();
            assert!(best.per_day.value.abs() < 0.15, "{of}: {best:?}");
            let Some(Exhaustion::NotWithin { earliest, .. }) = best.exhaustion else {
                panic!("{of}: {best:?}");
            };
            assert!(earliest.is_none_or(|days| days > 60.0), "{of}: {best:?}");
            let value = best.values[0].unwrap();
            assert!(
                value.lower < 85.0 + course
                    && 85.0 - course < value.upper
                    && (value.value - 85.0).abs() < 4.0,
                "{of}: {value:?}"
            );
        },
    );
}

/// Cause: a jump to 90 a day ago, and since then 4 a day. Seen: it is exhausted in two days, not in half a year.
#[test]
fn a_jump_that_grows_is_foretold_after_a_day() {
    let jumps = |day: f64| {
        if day < 29.0 {
            50.0
        } else {
            90.0 + 4.0 * (day - 29.0)
        }
    };
    each(30.1, jumps, |of, course, found| {
        let found = found.unwrap();
        assert!((found.now - 94.4).abs() < 1.5 + course, "{of}: {found:?}");
        let best = found.best().unwrap();
        let Some(Exhaustion::In {
            days,
            earliest,
            latest,
        }) = best.exhaustion
        else {
            panic!("{of}: {best:?}");
        };
        let truth = (5.6 - course) / 4.0;
        assert!((days - truth).abs() < 0.5, "{of}: {days} and not {truth}");
        assert!(
            earliest < truth + 0.1 && latest.is_none_or(|latest| latest > truth - 0.1),
            "{of}: {best:?}"
        );
    });
}

/// Cause: what was flat has grown by 6 a day for five days, or by 3 for ten. Seen: the slope of now, and the end that it has.
#[test]
fn what_has_begun_to_grow_is_foretold_as_it_grows_now() {
    each(
        30.0,
        |day| 40.0 + 6.0 * (day - 25.0).max(0.0),
        |of, course, found| {
            is_reached(of, &found.unwrap(), 6.0, (30.0 - course) / 6.0);
        },
    );
    each(
        30.0,
        |day| 20.0 + 3.0 * (day - 20.0).max(0.0),
        |of, course, found| {
            let found = found.unwrap();
            is_reached(of, &found, 3.0, (50.0 - course) / 3.0);
            assert!((found.days - 30.0).abs() < 0.1 && (found.changed.unwrap() - 10.0).abs() < 0.7);
        },
    );
}

/// Cause: a slope that changed five days ago, under noise that follows itself, many times. Seen: the interval of the end holds the truth
/// nearly as often as it promises.
#[test]
fn intervals_since_a_change_hold_what_they_promise() {
    let (mut held, rounds) = (0, 100);
    for seed in 0..rounds {
        let series = noisy(seed, 30.0, (0.5, 0.8, 0.0), |day| {
            40.0 + 6.0 * (day - 25.0).max(0.0)
        });
        let found = forecast_use(&series, 100.0, 1.0).unwrap();
        if let Some(Exhaustion::In { earliest, latest, .. }) = found.best().unwrap().exhaustion {
            held += u32::from(earliest <= 5.0 && latest.is_none_or(|latest| 5.0 <= latest));
        }
    }
    assert!(held >= 75, "{held} of {rounds}");
}

/// Cause: a jump over the limit half a day ago. Seen: it is exhausted, however short a time that is.
#[test]
fn what_is_full_is_full_however_short_a_time() {
    each(
        30.0,
        |day| if day < 29.5 { 50.0 } else { 110.0 },
        |of, _, found| {
            let found = found.unwrap();
            assert_eq!(
                found.best().unwrap().exhaustion,
                Some(Exhaustion::Reached),
                "{of}"
            );
        },
    );
}

/// Cause: steady trends under noise of all kinds: that follows itself, with a course of the day, with outliers and bursts. Seen: they have
/// no break, or hardly ever.
#[test]
fn noise_is_no_change() {
    type Value = Box<dyn FnMut(&mut StdRng, f64) -> f64>;
    let follows = |follow: f64| -> Value {
        let mut left = 0.0;
        Box::new(move |random, day| {
            left = follow * left + gaussian(random);
            day + left
        })
    };
    let kinds: [(&str, &dyn Fn() -> Value); 8] = [
        ("white", &|| follows(0.0)),
        ("follows itself", &|| follows(0.8)),
        ("follows itself closely", &|| follows(0.95)),
        ("a walk", &|| follows(1.0)),
        ("heavy tails", &|| {
            Box::new(|random, _| gaussian(random) / gaussian(random).abs().max(1e-3))
        }),
        ("course", &|| {
            Box::new(|random, day| day + 10.0 * (TAU * day).sin() + gaussian(random))
        }),
        ("outliers", &|| {
            Box::new(|random, day| {
                let off = if random.random_bool(0.05) { 100.0 } else { 0.0 };
                day + gaussian(random) + off
            })
        }),
        ("bursts", &|| {
            let mut lasts = 0;
            Box::new(move |random, day| {
                if lasts == 0 && random.random_bool(0.005) {
                    lasts = 16;
                }
                lasts = i32::max(lasts - 1, 0);
                day + gaussian(random) + if lasts > 0 { 30.0 } else { 0.0 }
            })
        }),
    ];
    for (name, kind) in kinds {
        for days in [15.0, 30.0] {
            let changes = (0..30).filter(|seed| {
                let (mut random, mut value) = (StdRng::seed_from_u64(*seed), kind());
                let series = quarters(days, |day| value(&mut random, day));
                let found = forecast_use(&series, 1000.0, 1.0);
                !found.is_ok_and(|found| found.changed.is_none())
            });
            let changes = changes.count();
            assert!(changes <= 3, "{name}: {changes} of 30 in {days} days");
        }
    }
}

/// Cause: what fills up and is cleaned each day, each three, six or seven days, or after as many as it happens to take; and what is
/// counted in pieces and grows by one now and then. Seen: that is how it is, and nothing is exhausted.
#[test]
fn what_comes_again_and_again_is_no_change() {
    for every in [1.0, 3.0, 6.0, 7.0] {
        let saw = |day: f64| 30.0 + 54.0 * ((day + 1.0) % every) / every;
        each(30.0, saw, |of, _, found| {
            let found = found.unwrap();
            assert_eq!(found.changed, None, "each {every} days, {of}: {found:?}");
            let exhaustion = found.best().unwrap().exhaustion;
            assert!(
                matches!(exhaustion, Some(Exhaustion::NotWithin { .. })),
                "each {every} days, {of}: {exhaustion:?}"
            );
        });
    }
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut used, mut top) = (30.0, 80.0);
        let series = quarters(30.0, |_| {
            used += 0.2 * random.random::<f64>();
            if used > top {
                (used, top) = (30.0, random.random_range(70.0..90.0));
            }
            used
        });
        assert_eq!(forecast_use(&series, 100.0, 1.0).unwrap().changed, None, "{seed}");
    }
    for days in [15.0, 30.0] {
        let stairs = quarters(days, |day| (day / 4.0).floor());
        assert_eq!(forecast_use(&stairs, 100.0, 1.0).unwrap().changed, None, "{days}");
    }
}

/// Cause: what was cleaned each five days, and is not any more. Seen: as soon as it is farther than it ever was, that it grows.
#[test]
fn what_is_not_cleaned_any_more_grows() {
    let saw = |day: f64| {
        if day < 25.0 {
            10.0 + 4.0 * (day % 5.0)
        } else {
            10.0 + 4.0 * (day - 25.0)
        }
    };
    each(37.0, saw, |of, course, found| {
        is_reached(of, &found.unwrap(), 4.0, (42.0 - course) / 4.0);
    });
}

/// Cause: a fifth of a day at 80 in the middle of a growth from 20 on. Seen: the growth is that of all days.
#[test]
fn what_comes_back_is_an_episode() {
    let burst = |day: f64| 20.0 + day + if (14.0..14.2).contains(&day) { 60.0 } else { 0.0 };
    each(30.0, burst, |of, course, found| {
        let found = found.unwrap();
        assert_eq!(found.changed, None, "{of}: {found:?}");
        is_reached(of, &found, 1.0, 50.0 - course);
    });
}

/// Cause: two days of a course of the day, where none can be seen yet. Seen: its slopes are no change; a jump of the level is one.
#[test]
fn in_two_days_only_a_jump_is_a_change() {
    let course = quarters(2.0, |day| 40.0 + 10.0 * (TAU * day).sin());
    assert_eq!(forecast_use(&course, 100.0, 1.0).unwrap().changed, None);
    let jump = quarters(2.5, |day| if day < 1.0 { 80.0 } else { 20.0 + 0.5 * day });
    let found = forecast_use(&jump, 100.0, 1.0).unwrap();
    assert!((found.changed.unwrap() - 1.5).abs() < 0.03, "{found:?}");
}

/// Cause: daily values of a file, whose slope changed a month ago, or last week. Seen: the slope since then; that there are too few values.
#[test]
fn a_file_may_have_few_values() {
    let daily = |since: i64| -> Result<Capacity, NotEnough> {
        let day = |i: i64| (START + i * 24 * HOUR, 10.0 + 3.0 * (i - 90 + since).max(0) as f64);
        forecast(&(0..90).map(day).collect::<Vec<_>>(), Some(1000.0))
    };
    let found = daily(30).unwrap();
    assert!(
        (found.best().unwrap().per_day.value - 3.0).abs() < 0.1,
        "{found:?}"
    );
    let why = daily(8).unwrap_err().to_string();
    assert_eq!(
        why,
        "not enough data since it changed: 8 values at different times, of which 20 are needed"
    );
}

/// What was told before there were changes is read as it was.
#[test]
fn a_forecast_without_changes_is_read() {
    let found = forecast(&hourly(4, |day| day), None).unwrap();
    let mut json = serde_json::to_value(&found).unwrap();
    assert!(json.as_object_mut().unwrap().remove("changed").is_some());
    assert_eq!(serde_json::from_value::<Capacity>(json).unwrap(), found);
}

/// Cause: working days at 80 and weekends at 20, from each day of the week on, for a month. Seen: a course of the week, and no change.
#[test]
fn a_weekend_is_no_change() {
    for begin in 0..7 {
        let week = |day: f64| {
            if (day + f64::from(begin)).rem_euclid(7.0) < 5.0 {
                80.0
            } else {
                20.0
            }
        };
        each(30.0, week, |of, _, found| {
            let found = found.unwrap();
            assert_eq!(found.changed, None, "{begin}, {of}: {found:?}");
            assert_eq!(found.trusted, Method::Seasonal, "{begin}, {of}: {found:?}");
        });
    }
}

/// Cause: a machine that was away for two days, or for a week, has been back for four hours and fills. Seen: nothing is foretold, and for how
/// long it was seen since: what it was away is no time in which anything was.
#[test]
fn what_was_away_was_not_seen() {
    for (days, back) in [(1.0, 3.0), (8.0, 15.0)] {
        let end = back + 4.0 / 24.0;
        let value = |day: f64| {
            if day < days {
                60.0
            } else {
                20.0 + 24.0 * (day - back)
            }
        };
        for (i, noise) in NOISES.into_iter().enumerate() {
            let mut series = noisy(i as u64, end, noise, value);
            series.retain(|(at, _)| {
                let day = (at - START) as f64 / DAY;
                day < days || day >= back
            });
            let found = forecast_use(&series, 100.0, 1.0);
            let Err(NotEnough::Since { seen, .. }) = found else {
                panic!("{noise:?}: {found:?}");
            };
            assert!(seen < 0.25, "{noise:?}: {seen}");
        }
    }
}

/// Cause: twenty days of growth and ten of none, with a sample every so many minutes, as people export them, and noise. Seen: the change, and
/// that the limit is not reached.
#[test]
fn how_often_it_is_sampled_makes_no_odds() {
    for (minutes, seeds) in [(120, 12), (60, 24), (30, 12), (5, 3)] {
        for noise in [0.0, 0.02, 0.1, 0.3, 1.0] {
            for seed in 0..seeds {
                let mut random = StdRng::seed_from_u64(seed);
                let series: Vec<(Millis, f64)> = (0..30 * 24 * 60 / minutes)
                    .map(|i| {
                        let at = i * minutes * HOUR / 60;
                        let day = at as f64 / DAY;
                        (
                            START + at,
                            25.0 + 3.0 * day.min(20.0) + noise * gaussian(&mut random),
                        )
                    })
                    .collect();
                let found = forecast_use(&series, 100.0, 1.0).unwrap();
                let of = format!("{minutes} min, noise {noise}, seed {seed}");
                let changed = found.changed.unwrap_or_default();
                assert!((9.0..11.0).contains(&changed), "{of}: {changed}");
                let end = found.best().unwrap().exhaustion;
                assert!(matches!(end, Some(Exhaustion::NotWithin { .. })), "{of}: {end:?}");
            }
        }
    }
}
