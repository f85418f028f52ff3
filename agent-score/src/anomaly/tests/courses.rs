//! What has a course of the day or of the week, at the agent's own interval, for weeks.

use super::super::season::Seasons;
use super::*;
use std::f64::consts::TAU;

/// A series with a course: what is usual at a time (in days), and how far values lie from it.
#[derive(Clone)]
struct Course {
    usual: fn(f64) -> f64,
    /// Part of the usual, or the deviation itself.
    relative: bool,
    deviation: f64,
    /// How like a value is to the one before.
    alike: f64,
    noise: f64,
    random: StdRng,
}

impl Course {
    fn new(usual: fn(f64) -> f64, alike: f64, seed: u64) -> Self {
        Self {
            usual,
            relative: false,
            deviation: 1.0,
            alike,
            noise: 0.0,
            random: random(seed),
        }
    }

    /// The next value, of which the noise is so many times the usual and `off` deviations are added.
    fn next(&mut self, day: f64, wide: f64, off: f64) -> f64 {
        self.noise = self.alike * self.noise + (1.0 - self.alike.powi(2)).sqrt() * gaussian(&mut self.random);
        let usual = (self.usual)(day);
        let deviations = wide * self.noise + off;
        if self.relative {
            usual * (self.deviation * deviations).exp()
        } else {
            usual + self.deviation * deviations
        }
    }
}

/// A Thursday, as the first one.
const BEGIN: Millis = START / 604_800_000 * 604_800_000;

fn at(sample: u32, step: f64) -> (Millis, f64) {
    let seconds = f64::from(sample) * step;
    (BEGIN + (seconds * 1e3) as Millis, seconds / DAY)
}

/// How many anomalies begin in so many weeks after the first `learning`, and what has been learned then.
fn alarms(mut course: Course, step: f64, learning: u32, weeks: u32) -> (u32, Series, Course) {
    let mut series = Series::new(Settings::new(step));
    let week = (WEEK / step) as u32;
    let (mut alarms, mut last) = (0, None);
    for sample in 0..(learning + weeks) * week {
        let (at, day) = at(sample, step);
        let since = series.observe(at, course.next(day, 1.0, 0.0)).since;
        alarms += u32::from(sample >= learning * week && since.is_some() && since != last);
        last = since.or(last);
    }
    (alarms, series, course)
}

/// After how many samples a change is told, if it is.
fn found(
    (series, course): (&Series, &Course),
    (step, first): (f64, u32),
    wide: f64,
    off: f64,
    most: u32,
) -> Option<u32> {
    let (mut series, mut course) = (series.clone(), course.clone());
    (0..most).find(|sample| {
        let (at, day) = at(first + sample, step);
        series.observe(at, course.next(day, wide, off)).verdict == Verdict::Anomaly
    })
}

/// Cause: a course of the day, four weeks, a sample each ten seconds, of independent noise and of noise that is like the value
/// before it. Seen: at most the one alarm a week that is allowed, after the first; and all the same an outlier at once, and that
/// the level has moved, or the spread, within minutes.
#[test]
fn a_course_of_the_day_gives_no_false_alarms() {
    let step = 10.0;
    let courses = [
        Course::new(|day| 100.0 + 20.0 * (TAU * day).sin(), 0.0, 31),
        Course::new(|day| 100.0 + 4.0 * (TAU * day).sin(), 0.9, 32),
    ];
    for (i, course) in courses.into_iter().enumerate() {
        let (alarms, series, course) = alarms(course, step, 1, 3);
        assert!(alarms <= 3, "course {i}: {alarms} alarms in three weeks");
        assert_eq!(series.seasons().collect::<Vec<_>>(), [DAY]);
        let now = (step, 4 * 60_480);
        let known = (&series, &course);
        assert_eq!(found(known, now, 1.0, 8.0, 1), Some(0), "course {i}: an outlier");
        let moved = found(known, now, 1.0, 5.0, 90);
        assert!(moved.is_some(), "course {i}: the level");
        let wider = found(known, now, 4.0, 0.0, 180);
        assert!(wider.is_some(), "course {i}: the spread");
    }
}

/// Cause: hours of work, of which the weekend has none, and noise in proportion; a sample each half a minute, seven weeks. Seen:
/// one alarm a week after the first three, in which the week has to be learned.
#[test]
fn hours_of_work_give_no_false_alarms() {
    let course = Course {
        relative: true,
        deviation: 0.1,
        ..Course::new(
            |day| {
                let hour = day.fract() * 24.0;
                let open = 1.0 / (1.0 + (-(hour - 8.0) * 3.0).exp()) / (1.0 + ((hour - 18.0) * 3.0).exp());
                let part = if day as u32 % 7 < 5 { 8.0 } else { 0.5 };
                1e5 * (2.0 + part * open)
            },
            0.9,
            33,
        )
    };
    let (alarms, series, _) = alarms(course, 30.0, 3, 4);
    assert!(alarms <= 4, "{alarms} alarms in four weeks");
    assert_eq!(series.seasons().collect::<Vec<_>>(), [DAY, WEEK]);
}

/// Cause: a course of the day and nothing else. Seen: after two weeks it is taken off, all but a hundredth, where about a mean that
/// follows the cycle a twelfth of it is left.
#[test]
fn a_season_is_taken_off_whole() {
    let mut seasons = Seasons::new(60.0);
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for sample in 0..15 * 1440 {
        let (at, day) = at(sample, 60.0);
        let value = 100.0 + 20.0 * (TAU * day).sin();
        if day >= 14.0 {
            let rest = value - seasons.value(at);
            (low, high) = (low.min(rest), high.max(rest));
        }
        seasons.learn(at, value, (0.0, 14.0), None);
    }
    assert_eq!(seasons.used().collect::<Vec<_>>(), [DAY]);
    let left = (high - low) / 2.0;
    assert!(left < 0.2, "of 20 there are {left} left");
}

/// Cause: the course of the day is known. Seen: what is left is another series, and it is learned before it is judged.
#[test]
fn another_season_is_another_series() {
    let mut course = Course::new(|day| 100.0 + 20.0 * (TAU * day).sin(), 0.0, 35);
    let mut series = Series::new(Settings::new(60.0));
    let mut sample = 0;
    while series.seasons().next().is_none() {
        assert!(sample < 3 * 1440, "no season after three days");
        let (at, day) = at(sample, 60.0);
        series.observe(at, course.next(day, 1.0, 0.0));
        sample += 1;
    }
    assert!(series.is_relearning() && !series.has_lasted() && series.learned() < 0.1);
    let learning = (0..1000).take_while(|more| {
        let (at, day) = at(sample + more, 60.0);
        series.observe(at, course.next(day, 1.0, 0.0)).verdict == Verdict::Learning
    });
    assert_eq!(learning.count(), 64);
    for more in 65..1000 {
        let (at, day) = at(sample + more, 60.0);
        series.observe(at, course.next(day, 1.0, 0.0));
    }
    let (at, day) = at(sample + 1000, 60.0);
    let scored = series.observe(at, course.next(day, 1.0, 0.0));
    assert!((scored.expected - (course.usual)(day)).abs() < 2.0, "{scored:?}");
}

/// Cause: noise in proportion to the course of the day, and a job each night, of half an hour; four weeks. Seen: no more than the one
/// alarm a week that is allowed after the first; and by night what lies as far off as by day it may is told at once. (As if all
/// hours were as wide there were three a week, and a third of the outliers was found; the edges of the job were told each night.)
#[test]
fn what_is_usual_by_day_is_not_by_night() {
    let step = 30.0;
    let in_proportion = Course {
        relative: true,
        deviation: 0.15,
        ..Course::new(|day| 1e6 * (1.0 + 0.8 * (TAU * day).sin()), 0.0, 41)
    };
    let job = |alike, seed| {
        Course::new(
            |day| if day.fract() < 1.0 / 48.0 { 50.0 } else { 10.0 },
            alike,
            seed,
        )
    };
    for (i, course) in [in_proportion, job(0.0, 42), job(0.95, 43)]
        .into_iter()
        .enumerate()
    {
        let (alarms, series, course) = alarms(course, step, 1, 3);
        assert!(alarms <= 4, "course {i}: {alarms} alarms in three weeks");
        // At the narrowest of the one, and in the middle of the quiet time of the other.
        let night = 4 * 20_160 + 2160;
        let found = found((&series, &course), (step, night), 1.0, 8.0, 1);
        assert_eq!(found, Some(0), "course {i}: an outlier");
    }
}

/// Cause: a job of five minutes each night, of which a day knows too little to have a course; three weeks. Seen: it is told for some nights
/// and not after; at another time, or four times as high, it is, and when it has not been for ten days.
#[test]
fn a_job_of_minutes_is_a_habit() {
    let step = 10.0;
    let job = |day: f64| (0.1..0.1 + 1.0 / 288.0).contains(&day.fract());
    let mut series = Series::new(Settings::new(step));
    let mut random = random(44);
    let mut say = |series: &mut Series, sample: u32, job: f64| {
        let (at, _) = at(sample, step);
        series.observe(at, 10.0 + 40.0 * job + gaussian(&mut random))
    };
    let mut told = Vec::new();
    for sample in 0..21 * 8640 {
        let (_, day) = at(sample, step);
        let scored = say(&mut series, sample, f64::from(u8::from(job(day))));
        if scored.verdict == Verdict::Anomaly && job(day) && told.last() != Some(&(day as u32)) {
            told.push(day as u32);
        }
        if scored.verdict == Verdict::Normal && job(day) && day > 10.0 {
            let (lower, upper) = (scored.lower, scored.upper);
            assert!(
                lower < 50.0 && upper > 50.0 && scored.score < 0.5,
                "{day}: {scored:?}"
            );
        }
    }
    assert!(told.len() >= 3 && told.last() <= Some(&4), "{told:?}");
    let night = 21 * 8640 + 864;
    for (sample, job, verdict) in [
        (night + 4000, 1.0, Verdict::Anomaly),
        (night + 8640 + 10, 4.0, Verdict::Anomaly),
        (night + 8640 + 20, 1.0, Verdict::Normal),
        (night + 12 * 8640, 1.0, Verdict::Anomaly),
    ] {
        let mut series = series.clone();
        for before in 21 * 8640..sample {
            say(&mut series, before, 0.0);
        }
        assert_eq!(
            say(&mut series, sample, job).verdict,
            verdict,
            "sample {sample}, {job}"
        );
    }
}

/// Cause: a course of the day, also a steep one, and a heartbeat each ten minutes, which stops. Seen: that it stops is told within the hour,
/// and on the steepest slope that the level is another.
#[test]
fn no_slope_and_no_other_season_is_an_edge() {
    let step = 10.0;
    let with_heartbeat = Course::new(
        |day| 100.0 + 6.0 * (TAU * day).sin() + 10.0 * (TAU * day * 144.0).sin(),
        0.0,
        45,
    );
    let steep = Course::new(|day| 500.0 + 200.0 * (TAU * day).sin(), 0.0, 46);
    let (_, series, course) = alarms(with_heartbeat, step, 2, 0);
    assert_eq!(series.seasons().collect::<Vec<_>>(), [600.0, DAY]);
    let now = (step, 2 * 60_480);
    let stopped = Course {
        usual: |day| 100.0 + 6.0 * (TAU * day).sin(),
        ..course
    };
    let found_at = found((&series, &stopped), now, 1.0, 0.0, 360);
    assert!(found_at.is_some(), "nobody misses the heartbeat");
    let (_, series, course) = alarms(steep, step, 2, 0);
    let moved = found((&series, &course), now, 1.0, 8.0, 90);
    assert!(moved.is_some(), "the level, where it is steep");
}
