//! Forests of peers and subjects: who has one, and what they add to what is said of the watched series.

use super::*;

/// Watches of two peers, and one of a subject that a user has made.
const WATCHES: [&str; 5] = [
    "tcp_rtt_median",
    "tcp_opened",
    "tcp_failed",
    "tcp_resets",
    "of_subject",
];
const FOREST: &str = "isolation-forest";

fn definitions() -> Vec<Definition> {
    let all = WATCHES.iter().map(|name| Definition {
        name: (*name).to_owned(),
        expr: (*name).to_owned(),
        least: 0.0,
        ..definition(false)
    });
    all.collect()
}

fn settings(most_entities: usize) -> Settings {
    Settings {
        alarms_per_week: 100.0,
        most_series: 100,
        most_entities,
        ..SETTINGS
    }
}

/// What there is at a moment, the same for all who ask.
#[derive(Clone, Default)]
struct Moment {
    /// Of each watch, by the value of the label `peer`; of the last one by that of `subject`.
    watched: Vec<Vec<(&'static str, f64)>>,
    /// Of each subject: CPU, run queue, bytes received and sent.
    subjects: Vec<(&'static str, [f64; 4])>,
}

impl Moment {
    fn answer(&self, query: &str) -> Vec<(Labels, f64)> {
        if let Some(place) = WATCHES.iter().position(|name| *name == query) {
            let label = if place == 4 { "subject" } else { "peer" };
            let values = self.watched.get(place).into_iter().flatten();
            return values
                .map(|(name, value)| (Labels::new([(label, *name)]), *value))
                .collect();
        }
        let direction = |place: usize| {
            move |(name, values): &(&'static str, [f64; 4])| {
                let direction = if place == 2 { "receive" } else { "transmit" };
                let labels = Labels::new([("subject", *name), ("direction", direction)]);
                (labels, values[place])
            }
        };
        let of = |place: usize| {
            let all = self.subjects.iter();
            all.map(move |(name, values)| (Labels::new([("subject", *name)]), values[place]))
                .collect()
        };
        if query.starts_with("sum by (subject) (rate(geophone_sched_cpu") {
            of(0)
        } else if query.contains("geophone_sched_runqueue") {
            of(1)
        } else if query.starts_with("sum by (subject, direction) (rate(geophone_tcp_bytes") {
            let both = [direction(2), direction(3)];
            both.iter().flat_map(|of| self.subjects.iter().map(of)).collect()
        } else {
            Vec::new()
        }
    }
}

/// Noise around a load that all signals share; one moment in so many has a tail.
fn usual(random: &mut StdRng) -> Moment {
    let mut about = |middle: f64| {
        let bell: f64 = (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0;
        let tail = if random.random_bool(0.01) { 2.0 } else { 1.0 };
        middle * (0.1 * bell * tail).exp()
    };
    let mut peers = |middle: f64| vec![("db", about(middle)), ("web", about(middle))];
    let mut watched = vec![peers(1e-3), peers(20.0), peers(1.0), peers(0.5)];
    watched.push(vec![("shop", about(7.0))]);
    let subjects = vec![("shop", [about(0.5), about(1e-3), about(1e6), about(1e5)])];
    Moment { watched, subjects }
}

/// Watchers with and without forests, over the same.
struct Both {
    with: Watcher,
    without: Watcher,
    at: Millis,
}

impl Both {
    fn new() -> Self {
        Self {
            with: Watcher::new(settings(4), definitions()),
            without: Watcher::new(settings(0), definitions()),
            at: START,
        }
    }

    /// What has begun, with and without.
    fn say(&mut self, moment: &Moment) -> [Vec<Anomaly>; 2] {
        self.at += STEP;
        [&mut self.with, &mut self.without].map(|watcher| {
            let round = watcher.evaluate(self.at, &mut |query| Ok(moment.answer(query)), None);
            assert!(round.failed.is_empty(), "{:?}", round.failed);
            round.begun
        })
    }
}

/// Cause: noise with tails, in which chance makes anomalies, for many are allowed; and then three signals of a peer, and all of a
/// subject, that leave what is usual. Seen: with forests there are the same anomalies as without, with the same scores, and the
/// forests are among those that find the last ones, from their beginning on.
#[test]
fn a_forest_agrees_and_makes_no_alarm() {
    let mut both = Both::new();
    let mut random = StdRng::seed_from_u64(7);
    let mut alarms = 0;
    for _ in 0..5000 {
        let [mut with, without] = both.say(&usual(&mut random));
        with.retain(|anomaly| anomaly.watch != ENTITY_WATCH);
        let said = |anomaly: &Anomaly| (anomaly.watch.clone(), anomaly.labels.clone(), anomaly.score);
        assert!(with.iter().map(said).eq(without.iter().map(said)));
        alarms += without.len();
    }
    assert!(alarms > 0, "nothing was compared");
    let mut moment = usual(&mut random);
    for values in moment.watched.iter_mut().take(3) {
        values[0].1 *= 20.0;
    }
    moment.watched[4][0].1 *= 20.0;
    moment.subjects[0].1 = [5.0, 0.1, 1e3, 1e8];
    let [mut with, without] = both.say(&moment);
    with.retain(|anomaly| anomaly.watch != ENTITY_WATCH);
    assert_eq!((with.len(), without.len()), (4, 4), "{with:?} {without:?}");
    let agrees = |detectors: &[String]| detectors.iter().any(|name| name == FOREST);
    for anomaly in &with {
        assert!(
            agrees(&anomaly.detectors) && agrees(&anomaly.detectors_first),
            "{anomaly:?}"
        );
    }
    assert!(without.iter().all(|anomaly| !agrees(&anomaly.detectors)));
}

/// Three subjects, and how many bytes each moves.
fn busy(bytes: [f64; 3]) -> Moment {
    let subjects = ["a", "b", "c"].into_iter().zip(bytes);
    Moment {
        subjects: subjects
            .map(|(name, bytes)| (name, [0.1, 1e-3, bytes, bytes]))
            .collect(),
        ..Moment::default()
    }
}

/// Cause: room for two of three; then the third becomes the busiest, and the agent is started anew. Seen: the busiest two have a
/// place, the third is counted and takes the place of who does least; one busy moment is not enough, and a restart changes nothing.
#[test]
fn the_busiest_have_a_forest() {
    let mut watcher = Watcher::new(settings(2), definitions());
    let mut at = START;
    let mut say = |watcher: &mut Watcher, moment: &Moment| {
        at += STEP;
        watcher.evaluate(at, &mut |query| Ok(moment.answer(query)), None);
        let all = watcher.entities().map(|(label, name, ..)| {
            assert_eq!(label, "subject");
            name.to_owned()
        });
        all.collect::<Vec<String>>()
    };
    let [usual, other] = [busy([1e6, 3e5, 1e4]), busy([1e6, 1e3, 1e7])];
    for _ in 0..100 {
        assert_eq!(say(&mut watcher, &usual), ["a", "b"]);
    }
    assert_eq!(watcher.counts().entities_refused, 1);
    assert_eq!(say(&mut watcher, &other), ["a", "b"], "a moment");
    let mut latest = Vec::new();
    for _ in 0..360 {
        latest = say(&mut watcher, &other);
    }
    assert_eq!(latest, ["a", "c"]);
    let mut again = Watcher::new(settings(2), definitions());
    again.restore(&watcher.save().unwrap()).unwrap();
    assert_eq!(say(&mut again, &usual), ["a", "c"]);
}

/// Cause: one question about subjects is not answered. Seen: it is told once and counted, and the rest is judged all the same.
#[test]
fn a_question_that_fails_is_told() {
    let mut watcher = Watcher::new(settings(2), definitions());
    let moment = busy([1e6, 1e5, 1e4]);
    for round in 0..2 {
        let told = watcher.evaluate(
            START + round * STEP,
            &mut |query| match query {
                query if query.contains("runqueue") => Err("no".to_owned()),
                query => Ok(moment.answer(query)),
            },
            None,
        );
        let name = "subject_runqueue_p99".to_owned();
        let wanted = [(name, "no".to_owned())];
        assert_eq!(told.failed, &wanted[usize::try_from(round).unwrap()..]);
        assert_eq!(watcher.entities().count(), 2);
    }
    assert_eq!((watcher.failures(), watcher.failed().count()), (2, 1));
}
