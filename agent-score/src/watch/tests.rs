//! Causes and what must be said of them: queries are answered by a test.

mod entities;
mod shipped;
mod told;

use super::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const START: Millis = 1_760_000_000_000;
const STEP: Millis = 10_000;

const SETTINGS: Settings = Settings {
    interval: STEP,
    alarms_per_week: 1.0,
    learning: 32,
    accept_after: 300 * STEP,
    most_series: 10,
    most_entities: 0,
};

fn definition(zero: bool) -> Definition {
    Definition {
        name: "w".to_owned(),
        expr: "x".to_owned(),
        unit: Unit::PerSecond,
        least: 1.0,
        zero,
    }
}

fn labels(name: &str) -> Labels {
    Labels::new([
        ("__name__", "x"),
        ("job", "geophone"),
        ("instance", "n1"),
        ("a", name),
    ])
}

impl Watcher {
    /// Verdicts and causes.
    pub(crate) fn evaluate(&mut self, at: Millis, ask: &mut Ask, cpu: Option<&mut Cpu>) -> Round {
        let round = self.verdicts(at, ask);
        self.explain(round, ask, cpu)
    }
}

/// A watcher and its time. Of what is asked for as evidence there is nothing.
struct Fed {
    watcher: Watcher,
    at: Millis,
    random: StdRng,
}

impl Fed {
    fn new(settings: Settings, zero: bool) -> Self {
        Self {
            watcher: Watcher::new(settings, vec![definition(zero)]),
            at: START,
            random: StdRng::seed_from_u64(1),
        }
    }

    fn say(&mut self, values: &[(&str, f64)]) -> Round {
        self.at += STEP;
        let values: Vec<(Labels, f64)> = values
            .iter()
            .map(|(name, value)| (labels(name), *value))
            .collect();
        self.watcher.evaluate(
            self.at,
            &mut |query| Ok(if query == "x" { values.clone() } else { Vec::new() }),
            None,
        )
    }

    fn usual(&mut self, rounds: usize) -> usize {
        let mut begun = 0;
        for _ in 0..rounds {
            let value = 100.0 + self.random.random_range(-1.0..1.0);
            begun += self.say(&[("one", value)]).begun.len();
        }
        begun
    }
}

#[test]
fn an_anomaly_begins_is_told_and_is_over() {
    let mut fed = Fed::new(SETTINGS, false);
    assert_eq!(fed.usual(20), 0);
    assert_eq!(
        (fed.watcher.counts().learning, fed.watcher.counts().judged),
        (1, 0)
    );
    assert_eq!(fed.usual(180), 0);
    assert_eq!(
        (fed.watcher.counts().learning, fed.watcher.counts().judged),
        (0, 1)
    );
    let round = fed.say(&[("one", 150.0)]);
    let [told] = &round.begun[..] else {
        panic!("{round:?}");
    };
    assert_eq!((told.watch.as_str(), told.labels["a"].as_str()), ("w", "one"));
    assert_eq!(told.labels.len(), 1, "what all series have says nothing");
    assert_eq!((told.value, told.since), (150.0, fed.at as f64 / 1e3));
    assert!(
        told.upper.unwrap() < 150.0 && told.lower.unwrap() > 50.0,
        "{told:?}"
    );
    assert!(fed.say(&[("one", 170.0)]).begun.is_empty(), "it is the same one");
    let worst = fed.watcher.anomaly(told.id).unwrap();
    assert_eq!((worst.value, worst.until), (170.0, None));
    let mut ended = Vec::new();
    for _ in 0..12 {
        ended.extend(fed.say(&[("one", 100.2)]).ended);
    }
    assert_eq!(ended.len(), 1);
    assert!(
        ended[0].until.is_some() && ended[0].over.contains("usual"),
        "{ended:?}"
    );
}

/// Cause: a period is found in the middle of an anomaly that is seconds old. Seen: it is told to be over for that reason, the series is
/// learned for as long as nothing is said of it, and the next anomaly begins when it does.
#[test]
fn who_has_another_season_is_learned_anew() {
    // Periods enough for a wave to be as usual.
    let settings = Settings {
        learning: 256,
        ..SETTINGS
    };
    let seasonal = |fed: &mut Fed, round: usize| {
        let value = 100.0 + 40.0 * (round as f64 / 30.0 * std::f64::consts::TAU).sin();
        let value = value + fed.random.random_range(-1.0..1.0);
        fed.say(&[("one", value)])
    };
    let has_season = |fed: &Fed| {
        let mut all = fed.watcher.series();
        all.any(|(.., series)| series.state.seasons().count() > 0)
    };
    let mut fed = Fed::new(settings, false);
    let found = (0..50_000).find(|round| {
        seasonal(&mut fed, *round);
        has_season(&fed)
    });
    let found = found.unwrap();
    // What an anomaly does to what is learned may move that by some rounds.
    let (mut fed, round) = (1..40)
        .find_map(|back| {
            let mut fed = Fed::new(settings, false);
            (0..found - back).for_each(|round| drop(seasonal(&mut fed, round)));
            assert_eq!(fed.say(&[("one", 3000.0)]).begun.len(), 1, "{found}");
            let mut rounds = found - back + 1..found + 40;
            let (ended, round) =
                rounds.find_map(|round| Some((seasonal(&mut fed, round).ended.pop()?, round)))?;
            ended.over.contains("other seasons").then_some((fed, round))
        })
        .unwrap();
    assert!(has_season(&fed));
    let mut rounds = round + 1..;
    let learns = |fed: &Fed| fed.watcher.counts().learning == 1;
    assert!(learns(&fed), "{:?}", fed.watcher.counts());
    let learned = (&mut rounds).take_while(|round| {
        assert_eq!(seasonal(&mut fed, *round).found, 0);
        learns(&fed)
    });
    // A season of the spread may be found some samples after that of the values.
    assert!((63..128).contains(&learned.count()));
    let next = fed.say(&[("one", 3000.0)]).begun;
    assert_eq!(next[0].since, fed.at as f64 / 1e3, "{next:?}");
}

#[test]
fn what_comes_to_be_was_zero_before() {
    let mut fed = Fed::new(SETTINGS, true);
    for _ in 0..40 {
        assert!(fed.say(&[("one", 5.0)]).begun.is_empty());
    }
    let round = fed.say(&[("one", 5.0), ("new", 30.0)]);
    assert_eq!(round.begun.len(), 1, "{round:?}");
    assert_eq!(round.begun[0].labels["a"], "new");
    // Its end is the value 0, though the query has nothing.
    let ended: usize = (0..12).map(|_| fed.say(&[("one", 5.0)]).ended.len()).sum();
    assert_eq!(ended, 1);
    // And what never was there goes on being no series.
    assert_eq!(fed.watcher.series().count(), 2);
    let mut other = Fed::new(SETTINGS, false);
    for _ in 0..40 {
        other.say(&[("one", 5.0)]);
    }
    assert!(
        other.say(&[("new", 30.0)]).begun.is_empty(),
        "of this nothing is known"
    );
}

/// Cause: no value, no number, an error, in the middle of what is usual and of an anomaly. Seen: nothing of it is an anomaly, and an
/// anomaly that nobody sees any more is over.
#[test]
fn what_is_no_number_is_not_zero() {
    let mut fed = Fed::new(SETTINGS, true);
    fed.usual(60);
    fed.say(&[("one", f64::NAN)]);
    let (.., series) = fed.watcher.series().next().unwrap();
    assert!(series.value > 90.0, "{}", series.value);
    fed.say(&[]);
    let (.., series) = fed.watcher.series().next().unwrap();
    assert_eq!(series.value, 0.0, "it was not there");
}

#[test]
fn gaps_are_no_anomalies() {
    let mut fed = Fed::new(SETTINGS, false);
    fed.usual(100);
    assert!(fed.say(&[]).begun.is_empty());
    assert!(fed.say(&[("one", f64::NAN)]).begun.is_empty());
    fed.at += STEP;
    let round = fed.watcher.evaluate(fed.at, &mut |_| Err("no".to_owned()), None);
    assert_eq!(round.failed, [("w".to_owned(), "no".to_owned())]);
    fed.at += STEP;
    let again = fed.watcher.evaluate(fed.at, &mut |_| Err("no".to_owned()), None);
    assert!(again.failed.is_empty(), "it is told once");
    assert_eq!((fed.watcher.failures(), fed.watcher.failed().count()), (2, 1));
    assert_eq!(fed.usual(50), 0);
    assert_eq!(fed.watcher.failed().count(), 0);
    assert_eq!(fed.say(&[("one", 200.0)]).begun.len(), 1);
    let ended: Vec<Anomaly> = (0..12).flat_map(|_| fed.say(&[]).ended).collect();
    assert!(ended[0].over.contains("no value"), "{ended:?}");
    assert_eq!(fed.usual(20), 0);
    let (_, _, series) = fed.watcher.series().next().unwrap();
    assert_eq!(series.active(), None);
}

#[test]
fn what_finds_no_room_is_counted_and_who_is_gone_gives_way() {
    let mut fed = Fed::new(SETTINGS, false);
    let names: Vec<String> = (0..15).map(|i| format!("s{i:02}")).collect();
    let all: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), 1.0)).collect();
    fed.say(&all);
    let counts = fed.watcher.counts();
    assert_eq!((counts.learning, counts.refused), (10, 5));
    let mut known: Vec<String> = fed
        .watcher
        .series()
        .map(|(_, l, _)| l.get("a").to_owned())
        .collect();
    known.sort();
    assert_eq!(known, names[..10], "not by chance");
    // An hour later the first have not been there for long.
    for _ in 0..400 {
        fed.say(&all[2..]);
    }
    let counts = fed.watcher.counts();
    assert_eq!((counts.learning + counts.judged, counts.refused), (10, 3));
}

#[test]
fn two_series_of_the_same_labels_are_an_error() {
    let mut watcher = Watcher::new(SETTINGS, vec![definition(false)]);
    let twice = vec![
        (Labels::new([("instance", "a"), ("b", "c")]), 1.0),
        (Labels::new([("instance", "b"), ("b", "c")]), 1.0),
    ];
    let round = watcher.evaluate(START, &mut |_| Ok(twice.clone()), None);
    assert!(round.failed[0].1.contains("b=c"), "{round:?}");
}

/// Cause: a restart in the middle of an anomaly. Seen: nothing is learned anew, the anomaly goes on and ends, and what comes next
/// is judged as if there had been none.
#[test]
fn a_baseline_outlives_a_restart() {
    for zero in [false, true] {
        let mut fed = Fed::new(SETTINGS, zero);
        fed.usual(200);
        let number = fed.say(&[("one", 300.0)]).begun[0].id;
        let bytes = fed.watcher.save().unwrap();
        let mut again = Fed {
            watcher: Watcher::new(SETTINGS, vec![definition(zero)]),
            ..fed
        };
        let report = again.watcher.restore(&bytes).unwrap();
        assert_eq!(
            report,
            Report {
                series: 1,
                left_out: 0
            }
        );
        assert_eq!(again.watcher.counts().judged, 1);
        assert_eq!(again.watcher.anomaly(number).unwrap().until, None);
        let rounds: Vec<Round> = (0..12).map(|_| again.say(&[("one", 100.0)])).collect();
        assert!(rounds.iter().all(|round| round.begun.is_empty()));
        assert_eq!(rounds.iter().flat_map(|r| &r.ended).count(), 1);
        assert_eq!(again.say(&[("one", 300.0)]).begun[0].id, number + 1);
    }
}

#[test]
fn a_baseline_that_does_not_fit_is_learned_anew() {
    let mut fed = Fed::new(SETTINGS, false);
    fed.usual(100);
    fed.say(&[("one", 300.0)]);
    let bytes = fed.watcher.save().unwrap();
    let mut changed = definition(false);
    changed.expr = "y".to_owned();
    let mut other = Watcher::new(SETTINGS, vec![changed]);
    assert_eq!(
        other.restore(&bytes).unwrap(),
        Report {
            series: 0,
            left_out: 1
        }
    );
    assert!(
        other.anomalies().all(|a| a.until.is_some()),
        "nobody would end it"
    );
    let faster = Settings {
        interval: 1000,
        ..SETTINGS
    };
    let mut other = Watcher::new(faster, vec![definition(false)]);
    assert_eq!(other.restore(&bytes), Err(Fault::Interval(STEP)));
    // One of the form before is whole, and of no use.
    let mut older = bytes.clone();
    older[7] -= 1;
    let mut other = Watcher::new(SETTINGS, vec![definition(false)]);
    assert_eq!(other.restore(&older), Err(Fault::Foreign));
    for at in 0..bytes.len() {
        let mut other = Watcher::new(SETTINGS, vec![definition(false)]);
        assert!(other.restore(&bytes[..at]).is_err(), "cut at {at}");
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        assert!(other.restore(&flipped).is_err(), "flipped at {at}");
        assert_eq!(other.counts(), Counts::default());
    }
}

/// Cause: a sample each second, from the start on, behind a gap, and after the clock was set back. Seen: an evaluation an interval,
/// but none before there have been samples for as long as a rate looks back.
#[test]
fn evaluations_are_due_once_an_interval() {
    let mut fed = Fed::new(SETTINGS, false);
    let mut due = |from: Millis, to: Millis| -> Vec<(Millis, u64)> {
        let seconds = (from..=to).step_by(1000);
        let due = seconds.filter_map(|after| Some((after, fed.watcher.due(START + after)?)));
        due.collect()
    };
    assert_eq!(due(3_000, 31_000), [(13_000, 0), (20_000, 0), (30_000, 0)]);
    assert_eq!(due(40_000, 40_000), [(40_000, 0)], "nine seconds are no gap");
    assert_eq!(
        due(72_000, 91_000),
        [(82_000, 3), (90_000, 0)],
        "as many were missed"
    );
    assert_eq!(due(-50_000, -38_000), [(-40_000, 0)], "the clock was set back");
}
