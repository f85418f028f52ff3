//! What is left of a fault when it is over: the next one is to be told as well.

use super::*;

/// How a series of noise, of which `fault` says what is added, is judged after so many samples as usual.
fn observe(usual: u32, samples: u32, deviation: f64, fault: impl Fn(u32) -> f64) -> Vec<Scored> {
    let (mut random, mut series) = (random(51), Series::new(Settings::new(10.0)));
    let mut next = |sample: u32, fault: f64| {
        let value = 100.0 + deviation * gaussian(&mut random) + fault;
        series.observe(START + i64::from(sample) * 10_000, value)
    };
    for sample in 0..usual {
        next(sample, 0.0);
    }
    (0..samples)
        .map(|sample| next(usual + sample, fault(sample)))
        .collect()
}

/// Cause: a level that is another for half a minute to twenty minutes, and then is the old one. Seen: it is told from its beginning on,
/// and until eight minutes after its end at most. (By sums that stopped at nothing what had lasted ten minutes was told for forty
/// more.)
#[test]
fn an_anomaly_is_over_soon_after_its_fault() {
    for size in [8.0, 20.0, -20.0] {
        for length in [3, 12, 30, 60, 120] {
            // Of the first thousand samples alone nobody knows how rare eight deviations are.
            for usual in if size == 8.0 {
                [4000, 30_000]
            } else {
                [1000, 30_000]
            } {
                let all = observe(usual, 1000, 1.0, |at| if at < length { size } else { 0.0 });
                let of = |scored: &Scored| scored.verdict == Verdict::Anomaly;
                let first = all.iter().position(of);
                assert!(
                    first.is_some_and(|at| at < 4),
                    "{size} after {usual}: told from {first:?} on"
                );
                let last = all.iter().rposition(of).unwrap_or_default() as u32;
                assert!(
                    last < length + 45,
                    "{size} for {length} samples after {usual}: told until {last}"
                );
            }
        }
    }
}

/// Cause: a fault of a minute each ten minutes, for two hours. Seen: the band is that of what was seen, and another fault a day later is
/// told.
#[test]
fn many_faults_do_not_blind() {
    for usual in [10_000, 60_000] {
        let (of_faults, day) = (12 * 60, 8640);
        // Each as long after the one before as it happens: what comes each ten minutes is a season.
        let begins = [
            3,
            70,
            115,
            190,
            241,
            322,
            377,
            430,
            520,
            561,
            640,
            690,
            of_faults + day,
        ];
        let fault = |at: u32| {
            let is = begins.iter().any(|begin| (*begin..begin + 6).contains(&at));
            if is { 20.0 } else { 0.0 }
        };
        let all = observe(usual, of_faults + day + 6, 1.0, fault);
        let upper = |at: u32| all[(of_faults + at) as usize].upper;
        assert!(
            upper(360) < 130.0,
            "an hour later usual is what lies below {}",
            upper(360)
        );
        let found = all[(of_faults + day) as usize..]
            .iter()
            .any(|s| s.verdict == Verdict::Anomaly);
        assert!(found, "a day later another is not told");
    }
}

/// Cause: a series that does not vary has another value, which it keeps. Seen: one anomaly, and it is up,
/// or down.
#[test]
fn another_value_is_one_anomaly() {
    for (change, direction) in [
        (2.0, Direction::Up),
        (-100.0, Direction::Down),
        (1e6, Direction::Up),
    ] {
        let all = observe(4000, 4000, 0.0, |_| change);
        let mut begins: Vec<_> = all
            .iter()
            .filter_map(|s| s.since.map(|since| (since, s.direction)))
            .collect();
        begins.dedup_by_key(|(since, _)| *since);
        assert_eq!(begins.len(), 1, "{change}: {begins:?}");
        assert_eq!(begins[0].1, direction);
    }
}

/// Cause: a value far off now and then, in one of twenty samples, where there was none before. Seen: no anomaly is of it for more than an
/// hour, and after two days it is usual.
#[test]
fn now_and_then_is_usual_after_a_while() {
    let mut random = random(52);
    let off: Vec<bool> = (0..17_280).map(|_| random.random::<f64>() < 0.05).collect();
    let all = observe(
        10_000,
        17_280,
        1.0,
        |at| if off[at as usize] { 30.0 } else { 0.0 },
    );
    let begins = |all: &[Scored]| {
        let mut begins: Vec<_> = all.iter().filter_map(|s| s.since).collect();
        begins.dedup();
        begins
    };
    let longest = all
        .iter()
        .enumerate()
        .filter_map(|(i, s)| Some(START + (10_000 + i as i64) * 10_000 - s.since?));
    assert!(longest.max() < Some(3_700_000), "{:?}", begins(&all));
    let late = begins(&all[8640..]).len();
    assert!(late <= 2, "{late} anomalies on the second day");
}
