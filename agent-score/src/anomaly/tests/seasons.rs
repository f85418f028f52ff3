//! What comes again: the day, the week, a period that nobody named.

use super::super::season::Seasons;
use super::*;

/// Cause: a course of the day, every five minutes, two weeks. Seen: the day is found, and that noon's value at midnight is
/// an anomaly while it is none at noon.
#[test]
fn a_day_has_its_course() {
    let step = 300_000;
    let mut series = Series::new(Settings::new(300.0));
    let mut random = random(8);
    let usual = |at: Millis| 50.0 - 40.0 * (at as f64 / 86.4e6 * std::f64::consts::TAU).cos();
    let begin = START / 86_400_000 * 86_400_000;
    let mut at = begin;
    let mut late = 0;
    while at < begin + 14 * 86_400_000 {
        let scored = series.observe(at, usual(at) + gaussian(&mut random));
        late += i32::from(scored.verdict == Verdict::Anomaly && at > begin + 7 * 86_400_000);
        at += step;
    }
    assert!(late <= 1, "{late} false alarms in the second week");
    assert_eq!(series.seasons().collect::<Vec<_>>(), [DAY]);
    let mut noon = series.clone();
    let mut then = at;
    while then < at + 43_200_000 {
        noon.observe(then, usual(then) + gaussian(&mut random));
        then += step;
    }
    assert_eq!(noon.observe(then, 90.0).verdict, Verdict::Normal);
    let midnight = series.observe(at, 90.0);
    assert_eq!(
        (midnight.verdict, midnight.direction),
        (Verdict::Anomaly, Direction::Up)
    );
}

#[test]
fn a_period_is_found_by_autocorrelation() {
    for period in [17.0, 60.0, 97.0, 700.0] {
        let mut seasons = Seasons::new(1.0);
        let mut random = random(9);
        for t in 0..12_000 {
            let value = 2.0 * (f64::from(t) / period * std::f64::consts::TAU).sin() + gaussian(&mut random);
            seasons.learn(START + Millis::from(t) * 1000, value, (0.0, 1.7), None);
        }
        let found: Vec<f64> = seasons.used().collect();
        let [found] = found[..] else {
            panic!("{period}: {found:?}");
        };
        assert!((found / period - 1.0).abs() < 0.01, "{found} for {period}");
    }
}

#[test]
fn noise_has_no_period() {
    let mut seasons = Seasons::new(1.0);
    let mut random = random(10);
    let mut value = 0.0;
    let mut used = 0;
    for t in 0..40_000 {
        value = 0.9 * value + gaussian(&mut random);
        seasons.learn(START + t * 1000, value, (0.0, 2.3), None);
        used += seasons.used().count();
    }
    assert!(used < 400, "{used} samples with a season that is none");
}

/// 100 on working days and 40 at weekends, with a little noise. 1970 began with a Thursday.
fn working(at: Millis, random: &mut StdRng) -> f64 {
    let weekday = (at.div_euclid(86_400_000) + 3).rem_euclid(7);
    let level = if weekday < 5 { 100.0 } else { 40.0 };
    level + gaussian(random)
}

/// Cause: eight weeks, a sample an hour, with weekends. Seen: the week is found, and Monday's value on a Sunday is an
/// anomaly while Sunday's is none.
#[test]
fn a_week_has_its_course() {
    let mut series = Series::new(Settings::new(3600.0));
    let mut random = random(21);
    // A Monday at 0:00.
    let begin = START / 604_800_000 * 604_800_000 + 4 * 86_400_000;
    let hours = 8 * 168;
    for hour in 0..hours - 12 {
        let at = begin + hour * 3_600_000;
        series.observe(at, working(at, &mut random));
    }
    assert!(series.seasons().any(|season| season == WEEK));
    let sunday = begin + (hours - 12) * 3_600_000;
    let mut busy = series.clone();
    assert_eq!(series.observe(sunday, 40.0).verdict, Verdict::Normal);
    let busy = busy.observe(sunday, 100.0);
    assert_eq!((busy.verdict, busy.direction), (Verdict::Anomaly, Direction::Up));
}

/// Cause: two years, a value a day, with weekends. Seen: the week is found and nothing else; no weekend of the second year is an
/// anomaly, and a working day that is as a weekend is one.
#[test]
fn daily_values_have_their_week() {
    for hour in [0, 15] {
        let mut series = Series::new(Settings::new(86_400.0));
        let mut random = random(22);
        let begin = START / 604_800_000 * 604_800_000 + 4 * 86_400_000 + hour * 3_600_000;
        let mut wrong = 0;
        for day in 0..728 {
            let at = begin + day * 86_400_000;
            let scored = series.observe(at, working(at, &mut random));
            wrong += i32::from(day >= 364 && scored.verdict == Verdict::Anomaly);
        }
        assert_eq!(series.seasons().collect::<Vec<_>>(), [WEEK], "at {hour}:00");
        assert!(wrong <= 1, "at {hour}:00: {wrong} false alarms in a year");
        let monday = series.observe(begin + 728 * 86_400_000, 40.0);
        assert_eq!(
            (monday.verdict, monday.direction),
            (Verdict::Anomaly, Direction::Down),
            "at {hour}:00"
        );
    }
}
