//! What is no line and no level: curves, saws, what wanders, what is full.

use super::*;

/// The end of what is seen of a resource of 100.
fn end_of(series: &[(Millis, f64)]) -> Exhaustion {
    let found = forecast_use(series, 100.0, 1.0).unwrap();
    found.best().unwrap().exhaustion.unwrap()
}

/// Cause: what doubles in three days, without noise, a day before it is full. Seen: that it is full in a day or two, not in 39.
#[test]
fn what_doubles_is_a_line_only_now() {
    let series = hourly(30, |day| 80.0 * 2_f64.powf((day - 30.0) / 3.0));
    let end = end_of(&series);
    let Exhaustion::In { days, latest, .. } = end else {
        panic!("{end:?}");
    };
    assert!(days < 2.0 && latest.is_some_and(|latest| latest < 4.0), "{end:?}");
}

/// Cause: what has wandered for four weeks has risen by 20 a day for a day and a bit. Seen: that, as a rule, and when it is full.
#[test]
fn what_wanders_farther_than_ever_is_a_trend() {
    let rounds = 40;
    let seen = (0..rounds).filter(|seed| {
        let mut random = StdRng::seed_from_u64(*seed);
        let mut noise = wanders(&mut random, 0.98);
        let series = hourly(30, |day| 40.0 + 20.0 * (day - 28.8).max(0.0) + 2.0 * noise());
        let found = forecast_use(&series, 100.0, 1.0);
        found.is_ok_and(|found| (10.0..30.0).contains(&found.best().unwrap().per_day.value))
    });
    let seen = seen.count();
    assert!(seen > 34, "{seen} of {rounds}");
}

/// Cause: a level under noise that follows itself, and a small growth under noise that does not. Seen: no day on which the one is full by
/// its trend, but when it may be at the earliest; one of the other.
#[test]
fn noise_is_not_told_when_it_is_full() {
    let rounds = 40;
    let (mut told, mut may) = (0, 0);
    for seed in 0..rounds {
        let mut random = StdRng::seed_from_u64(seed);
        let mut noise = wanders(&mut random, 0.9);
        match end_of(&hourly(30, |_| 80.0 + 5.0 * noise())) {
            Exhaustion::NotWithin { earliest, .. } => may += u32::from(earliest.is_some()),
            _ => told += 1,
        }
        let mut random = StdRng::seed_from_u64(seed);
        let growth = end_of(&hourly(30, |day| 60.0 + 0.2 * day + 2.0 * gaussian(&mut random)));
        assert!(matches!(growth, Exhaustion::In { .. }), "{growth:?}");
    }
    assert!(told <= 2 && may > rounds as u32 / 2, "{told} {may}");
}

/// Cause: what lies at its limit under noise, hour by hour for ten days, and what comes near it on a straight line. Seen: the one is full
/// in nearly all of them, not in every second; the other has the day that it has.
#[test]
fn what_is_full_is_full_in_each_hour() {
    let mut random = StdRng::seed_from_u64(1);
    let mut noise = wanders(&mut random, 0.5);
    let series = hourly(20, |_| (99.5 + noise()).min(100.0));
    let hours = 240..480;
    let full = hours.filter(|hour| end_of(&series[..*hour]) == Exhaustion::Reached);
    let full = full.count();
    assert!(full > 220, "{full} of 240");
    let near = end_of(&hourly(30, |day| 99.3 + 0.01 * (day - 30.0)));
    assert!(
        matches!(near, Exhaustion::In { days, .. } if days > 60.0),
        "{near:?}"
    );
}

/// Cause: a log that grows by 30 in five days and is rotated, after the second time, and when the third does not come. Seen: no day
/// on which it is full at the latest; that there is one as soon as it is farther than it ever was.
#[test]
fn what_was_cleaned_twice_may_be_so_again() {
    let mut random = StdRng::seed_from_u64(1);
    let mut noise = move || 0.5 * gaussian(&mut random);
    let saw = hourly(18, |day| {
        let since = if day < 10.0 { day % 5.0 } else { day - 10.0 };
        40.0 + 6.0 * since + noise()
    });
    let at = |day: usize| end_of(&saw[..day * 24]);
    for day in [12, 13, 14] {
        let end = at(day);
        assert!(
            matches!(end, Exhaustion::In { latest: None, .. }),
            "{day}: {end:?}"
        );
    }
    let end = at(17);
    assert!(matches!(end, Exhaustion::In { latest: Some(_), .. }), "{end:?}");
    // Cleaned once, who knows.
    let end = at(9);
    assert!(matches!(end, Exhaustion::In { latest: Some(_), .. }), "{end:?}");
}

/// Cause: what warms up from 20 to 70 in two days, seen from the second on; and what grows more slowly than it did but is full
/// soon. Seen: no day on which the first is full at the latest; one of the other.
#[test]
fn what_warms_up_comes_to_rest() {
    let mut random = StdRng::seed_from_u64(1);
    let mut noise = move || 0.5 * gaussian(&mut random);
    let warm = hourly(12, |day| 20.0 + 50.0 * (1.0 - (-day).exp()) + noise());
    for day in [2, 3, 4, 6, 12] {
        let end = end_of(&warm[..day * 24]);
        assert!(
            matches!(
                end,
                Exhaustion::In { latest: None, .. } | Exhaustion::NotWithin { .. }
            ),
            "{day}: {end:?}"
        );
    }
    let slower = hourly(10, |day| 20.0 + 9.0 * day - 0.2 * day * day + noise());
    let end = end_of(&slower);
    assert!(matches!(end, Exhaustion::In { latest: Some(_), .. }), "{end:?}");
}
