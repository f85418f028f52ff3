//! Who is told that something has begun is told that it is over, and learns why it has begun.

use super::*;
use crate::watch::evidence::ASKED;
use std::collections::BTreeSet;

fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("s{i:03}")).collect()
}

/// Many series that are learned, and then a round in which all of them jump.
fn jumped(count: usize) -> (Fed, Vec<String>, Round) {
    let settings = Settings {
        most_series: count,
        ..SETTINGS
    };
    let (mut fed, names) = (Fed::new(settings, false), names(count));
    for _ in 0..60 {
        assert!(say(&mut fed, &names, 100.0).begun.is_empty());
    }
    let round = say(&mut fed, &names, 300.0);
    (fed, names, round)
}

fn say(fed: &mut Fed, names: &[String], level: f64) -> Round {
    let values: Vec<(&str, f64)> = names
        .iter()
        .map(|name| (name.as_str(), level + fed.random.random_range(-1.0..1.0)))
        .collect();
    fed.say(&values)
}

/// Cause: more anomalies begin at once than can be asked about. Seen: the rest is told in the next looks, asked for the moment at
/// which it began; nothing is told twice.
#[test]
fn those_that_find_no_time_wait_for_their_evidence() {
    let (mut fed, names, round) = jumped(2 * ASKED + 3);
    let count = names.len();
    assert_eq!((round.found, round.begun.len()), (count, ASKED));
    let began = fed.at;
    assert_eq!(fed.watcher.anomalies().count(), count, "the API has them all");
    let waiting = fed
        .watcher
        .anomalies()
        .filter(|one| one.evidence_missing != NO_STACKS);
    assert_eq!(waiting.count(), count - ASKED);
    let mut told: BTreeSet<u64> = round.begun.iter().map(|one| one.id).collect();
    for wanted in [ASKED, 3, 0] {
        fed.at += STEP;
        let ago = format!("offset {}ms", fed.at - began);
        let mut asked = 0;
        let round = fed.watcher.evaluate(
            fed.at,
            &mut |query| {
                if query == "x" {
                    return Err("no".to_owned());
                }
                asked += usize::from(query.contains(&ago));
                let drops = query.contains("geophone_drops_packets_total") && query.contains(&ago);
                let reason = Labels::new([("reason", "FULL")]);
                Ok(drops.then_some((reason, 50.0)).into_iter().collect())
            },
            None,
        );
        assert_eq!((round.found, round.begun.len()), (0, wanted));
        // Nine questions each, of then and of before it.
        assert_eq!(asked, 9 * wanted);
        for one in &round.begun {
            assert!(told.insert(one.id), "told twice: {one:?}");
            assert_eq!(
                (one.evidence.len(), one.evidence_missing.as_str()),
                (1, NO_STACKS)
            );
        }
    }
    assert_eq!(told.len(), count);
}

/// Cause: two anomalies begin at once, of a series with a subject and of one without. Seen: what the CPUs did is
/// asked once for each subject, told with the rest, and once more after twenty seconds: for all the time since.
#[test]
fn what_the_cpus_did_is_looked_for_at_once_and_once_more() {
    let mut fed = Fed::new(SETTINGS, false);
    let subject = Labels::new([("subject", "shop")]);
    let mut rounds = Vec::new();
    for round in 0..70 {
        fed.at += STEP;
        let noise = fed.random.random_range(-1.0..1.0);
        let value = |is_high: bool| noise + if is_high { 300.0 } else { 100.0 };
        let values = vec![
            (labels("one"), value(round >= 60)),
            (subject.clone(), value(round >= 60)),
        ];
        let mut asked = Vec::new();
        let mut cpu = |[before, now]: [Span; 2], subject: &str| {
            assert_eq!((before.to, before.to - before.from), (now.from, 600_000));
            asked.push((subject.to_owned(), now.to - now.from));
            vec![Evidence {
                what: format!("{} ms", now.to - now.from),
                windows: Some(Windows::default()),
                ..Evidence::default()
            }]
        };
        let mut ask = |query: &str| Ok(if query == "x" { values.clone() } else { Vec::new() });
        let begun = fed.watcher.evaluate(fed.at, &mut ask, Some(&mut cpu)).begun;
        asked.sort();
        if !asked.is_empty() {
            rounds.push((round, asked));
        }
        assert!(
            begun
                .iter()
                .all(|one| one.evidence.len() == 1 && one.evidence[0].what == "10000 ms")
        );
    }
    let [(60, first), (62, again)] = &rounds[..] else {
        panic!("{rounds:?}")
    };
    let of = |subject: &str, time| (subject.to_owned(), time);
    assert_eq!(first, &[of("", 10_000), of("shop", 10_000)]);
    assert_eq!(again, &[of("", 30_000), of("shop", 30_000)]);
    for anomaly in fed.watcher.anomalies() {
        assert_eq!(
            (anomaly.evidence.len(), anomaly.evidence[0].what.as_str()),
            (1, "30000 ms")
        );
        assert_eq!(anomaly.evidence_missing, "", "it was looked for everywhere");
    }
}

/// Cause: a crash while some wait for their evidence. Seen: they are told to have begun afterwards, those told before are not told
/// again, and each is over once.
#[test]
fn those_that_waited_when_it_crashed_are_told_afterwards() {
    let (fed, names, round) = jumped(ASKED + 3);
    let told: BTreeSet<u64> = round.begun.iter().map(|one| one.id).collect();
    let settings = Settings {
        most_series: names.len(),
        ..SETTINGS
    };
    let mut watcher = Watcher::new(settings, vec![definition(false)]);
    watcher.restore(&fed.watcher.save().unwrap()).unwrap();
    let mut again = Fed { watcher, ..fed };
    let mut rounds = vec![say(&mut again, &names, 300.0)];
    let late: BTreeSet<u64> = rounds[0].begun.iter().map(|one| one.id).collect();
    assert_eq!((told.len(), late.len()), (ASKED, 3));
    assert!(told.is_disjoint(&late));
    rounds.extend((0..40).map(|_| say(&mut again, &names, 100.0)));
    assert_eq!(rounds.iter().map(|round| round.begun.len()).sum::<usize>(), 3);
    let over: BTreeSet<u64> = rounds
        .iter()
        .flat_map(|round| &round.ended)
        .map(|one| one.id)
        .collect();
    assert_eq!(over, told.union(&late).copied().collect());
    // What was told is not told again after the next restart either.
    let mut watcher = Watcher::new(settings, vec![definition(false)]);
    watcher.restore(&again.watcher.save().unwrap()).unwrap();
    assert!(watcher.close(true).begun.is_empty());
}

/// Cause: no question about evidence is answered. Seen: it is tried again twice, then the anomaly is told with the reason.
#[test]
fn what_is_not_answered_is_asked_again_and_then_told_without() {
    let mut fed = Fed::new(SETTINGS, false);
    fed.usual(100);
    let mut rounds = Vec::new();
    for _ in 0..4 {
        fed.at += STEP;
        rounds.push(fed.watcher.evaluate(
            fed.at,
            &mut |query| match query {
                "x" => Ok(vec![(labels("one"), 300.0)]),
                _ => Err("too late".to_owned()),
            },
            None,
        ));
    }
    let told: Vec<usize> = rounds.iter().map(|round| round.begun.len()).collect();
    assert_eq!(told, [0, 0, 1, 0]);
    assert_eq!(rounds[0].found, 1);
    assert_eq!(rounds[2].begun[0].evidence_missing, "too late");
}

/// Cause: an anomaly of a peer, and five changes of eight kinds, those of drops, which have no peer, a hundred times as large as most. Seen:
/// the largest of each kind, those of peers first and then by size; behind them the rest of the peers'; and how many there are more.
#[test]
fn what_says_most_is_told_first_and_the_rest_is_counted() {
    let mut fed = Fed::new(SETTINGS, false);
    let mut begun = Vec::new();
    for round in 0..=60 {
        fed.at += STEP;
        let value = if round == 60 { 300.0 } else { 100.0 } + fed.random.random_range(-1.0..1.0);
        let mut ask = |query: &str| {
            if query == "x" {
                return Ok(vec![(Labels::new([("peer", "db")]), value)]);
            }
            let size = match query {
                query if query.contains("offset") => return Ok(Vec::new()),
                query if query.contains("geophone_drops") => 5000.0,
                query if query.contains("bytes") => 1e6,
                _ => 50.0,
            };
            let which = ["a", "b", "c", "d", "e"].into_iter().zip(1_u8..);
            let one = |(name, i): (&str, u8)| (Labels::new([("which", name)]), size * f64::from(i));
            Ok(which.map(one).collect())
        };
        begun.extend(fed.watcher.evaluate(fed.at, &mut ask, None).begun);
    }
    let [told] = &begun[..] else { panic!("{begun:?}") };
    let kinds: Vec<&str> = told.evidence.iter().map(|one| one.what.as_str()).collect();
    let wanted = [
        "failed connections",
        "retransmits",
        "resets",
        "bytes",
        "drops",
        "DNS timeouts",
        "DNS answers",
        "packets lost in tunnels",
        "failed connections",
        "failed connections",
        "retransmits",
        "resets",
    ];
    assert_eq!(kinds, wanted);
    assert_eq!(told.evidence[0].labels["which"], "e");
    let missing = told.evidence_missing.as_str();
    assert_eq!((told.evidence_left_out, missing), (28, NO_STACKS));
    assert!(told.left_out().is_some_and(|more| more.contains("28 more")));
}

/// Cause: more anomalies than are kept, of which all end. Seen: each is told to have begun, then to be over, once; also those that
/// were given up before anybody had looked for evidence.
#[test]
fn who_is_told_that_one_has_begun_is_told_that_it_is_over() {
    let (mut fed, names, first) = jumped(300);
    let mut rounds = vec![first];
    rounds.extend((0..4).map(|_| say(&mut fed, &names, 300.0)));
    let given_up: Vec<&Anomaly> = rounds.iter().flat_map(|round| &round.ended).collect();
    assert_eq!(given_up.len(), 300 - 256, "{given_up:?}");
    assert!(given_up.iter().all(|one| one.over.contains("too many")));
    assert_eq!(fed.watcher.forgotten(), 44);
    let dangling = fed.watcher.series().filter_map(|(.., series)| series.active());
    assert_eq!(
        dangling
            .filter(|number| fed.watcher.anomaly(*number).is_none())
            .count(),
        44
    );
    rounds.extend((0..40).map(|_| say(&mut fed, &names, 100.0)));
    rounds.push(fed.watcher.close(true));
    let (mut open, mut over) = (BTreeSet::new(), BTreeSet::new());
    for round in &rounds {
        for one in &round.begun {
            assert!(one.until.is_none() && open.insert(one.id), "{one:?}");
        }
        for one in &round.ended {
            assert!(one.until.is_some() && !one.over.is_empty(), "{one:?}");
            assert!(open.contains(&one.id) && over.insert(one.id), "{one:?}");
        }
    }
    assert!(open.len() >= 300, "{}", open.len());
    assert_eq!(open, over);
}

/// Cause: a restart after which the series is not watched any more, or at another interval, or that nobody survives. Seen: its
/// anomaly is told to be over, once.
#[test]
fn what_a_restart_gives_up_is_told_to_be_over() {
    let mut fed = Fed::new(SETTINGS, false);
    fed.usual(100);
    let id = fed.say(&[("one", 300.0)]).begun[0].id;
    let bytes = fed.watcher.save().unwrap();
    let other = Definition {
        expr: "y".to_owned(),
        ..definition(false)
    };
    let slower = Settings {
        interval: 2 * STEP,
        ..SETTINGS
    };
    let none = Settings {
        most_series: 0,
        ..SETTINGS
    };
    for (settings, definition, why) in [
        (SETTINGS, other, "not watched any more"),
        (slower, definition(false), "another one now"),
        (none, definition(false), "not watched any more"),
    ] {
        let mut watcher = Watcher::new(settings, vec![definition]);
        let _ = watcher.restore(&bytes);
        let round = watcher.evaluate(fed.at + STEP, &mut |_| Ok(Vec::new()), None);
        assert_eq!((round.begun.len(), round.ended.len()), (0, 1), "{round:?}");
        let over = &round.ended[0];
        assert_eq!((over.id, over.until), (id, Some(fed.at as f64 / 1e3)));
        assert!(over.over.contains(why), "{over:?}");
        let again = watcher.evaluate(fed.at + 4 * STEP, &mut |_| Ok(Vec::new()), None);
        assert!(again.ended.is_empty(), "{again:?}");
    }
    let again = Watcher::new(SETTINGS, vec![definition(false)]);
    let mut again = Fed {
        watcher: again,
        ..fed
    };
    again.watcher.restore(&bytes).unwrap();
    assert!(again.watcher.close(true).ended.is_empty(), "it goes on");
    let over = again.watcher.close(false).ended;
    assert!(
        over.len() == 1 && over[0].over.contains("the agent has ended"),
        "{over:?}"
    );
    assert!(again.watcher.anomaly(id).unwrap().until.is_some());
}
