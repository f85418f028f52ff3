mod again;
mod times;

use super::*;
use crate::matcher::parse;
use crate::route::Route;
use crate::silence::Silence;
use std::collections::BTreeMap;
use std::slice::from_ref as just;
use std::sync::Arc;

const SECOND: Millis = 1000;
const MINUTE: Millis = 60 * SECOND;
/// When it all begins.
const T: Millis = 1_700_000_000_000;

fn alert(name: &str, peer: &str, at: Millis) -> Alert {
    Alert {
        labels: Labels::new([("alertname", name), ("peer", peer)]),
        annotations: Arc::new(BTreeMap::new()),
        active_at: at,
        starts_at: at,
        ends_at: None,
        generator_url: "".into(),
    }
}

fn over(alert: &Alert, at: Millis) -> Alert {
    Alert {
        ends_at: Some(at),
        ..alert.clone()
    }
}

fn receiver(name: &str, resolved: &[bool]) -> Receiver {
    let places = resolved.iter().enumerate().map(|(at, resolved)| Integration {
        name: format!("webhook[{at}]"),
        send_resolved: *resolved,
        forgets: false,
    });
    Receiver {
        name: name.to_owned(),
        integrations: places.collect(),
    }
}

fn route(receiver: &str) -> Route {
    Route {
        receiver: Some(receiver.to_owned()),
        group_by: Some(vec!["alertname".to_owned()]),
        group_wait: Some(30 * SECOND),
        group_interval: Some(MINUTE),
        repeat_interval: Some(60 * MINUTE),
        ..Route::default()
    }
}

fn with(route: &Route, receivers: Vec<Receiver>, inhibitions: Vec<Inhibition>) -> Dispatcher {
    let settings = Settings {
        resolve_timeout: 5 * MINUTE,
        deduplication_window: 5 * MINUTE,
        external_url: "http://h".to_owned(),
    };
    let routes = Some(Routes::new(route).unwrap());
    Dispatcher::new(
        routes,
        receivers,
        inhibitions,
        settings,
        Incidents::new(5 * MINUTE),
    )
}

fn one() -> Dispatcher {
    with(&route("ops"), vec![receiver("ops", &[true])], Vec::new())
}

/// What was told, in short: of each entry its place, and its alerts with + and -.
fn told(entries: &[Entry]) -> Vec<String> {
    let one = |alert: &Alert| {
        let sign = if alert.is_firing() { '+' } else { '-' };
        format!("{sign}{}", alert.labels.get("peer"))
    };
    let all = entries.iter().map(|entry| {
        let alerts: Vec<String> = entry.notification.alerts.iter().map(one).collect();
        format!("{}: {}", entry.integration, alerts.join(" "))
    });
    all.collect()
}

fn step(dispatcher: &mut Dispatcher, now: Millis, alerts: &[Alert]) -> Vec<String> {
    told(&entries(dispatcher, now, alerts, &Silences::default()))
}

fn entries(dispatcher: &mut Dispatcher, now: Millis, alerts: &[Alert], silences: &Silences) -> Vec<Entry> {
    dispatcher.observe(now, alerts, &Edges::default());
    dispatcher.due(now, silences)
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_group_waits_then_tells_then_tells_what_changes_then_repeats() {
    let mut it = one();
    let (a, b, c) = (
        alert("A", "1", T),
        alert("A", "2", T + SECOND),
        alert("A", "3", T + MINUTE),
    );
    assert_eq!(step(&mut it, T, just(&a)), NOTHING);
    assert_eq!(it.next(), Some(T + 30 * SECOND));
    assert_eq!(step(&mut it, T + 29 * SECOND, &[a.clone(), b.clone()]), NOTHING);
    assert_eq!(
        step(&mut it, T + 30 * SECOND, &[a.clone(), b.clone()]),
        ["0: +1 +2"]
    );
    assert_eq!(it.next(), Some(T + 90 * SECOND));
    // A third comes, one ends: both are told when the interval is over.
    let all = [over(&a, T + 70 * SECOND), b.clone(), c.clone()];
    assert_eq!(step(&mut it, T + 89 * SECOND, &all), NOTHING);
    assert_eq!(step(&mut it, T + 90 * SECOND, &all), ["0: +2 +3 -1"]);
    // Nothing changes: nothing is told until it is time to repeat.
    let all = [b.clone(), c.clone()];
    let last = T + 90 * SECOND;
    for minute in 1..60 {
        assert_eq!(step(&mut it, last + minute * MINUTE, &all), NOTHING, "{minute}");
    }
    assert_eq!(step(&mut it, last + 60 * MINUTE, &all), ["0: +2 +3"]);
    let all = [
        over(&b, last + 60 * MINUTE + SECOND),
        over(&c, last + 61 * MINUTE),
    ];
    assert_eq!(step(&mut it, last + 61 * MINUTE, &all), ["0: -2 -3"]);
    assert_eq!(step(&mut it, last + 62 * MINUTE, &all), NOTHING);
    assert_eq!(it.next(), None);
    assert_eq!(step(&mut it, last + 70 * MINUTE, &[]), NOTHING);
    assert!(it.alerts.is_empty() && it.groups.is_empty());
}

#[test]
fn what_ends_before_it_is_told_is_not_told() {
    let mut it = one();
    let a = alert("A", "1", T);
    assert_eq!(step(&mut it, T, just(&a)), NOTHING);
    assert_eq!(step(&mut it, T + 30 * SECOND, &[over(&a, T + SECOND)]), NOTHING);
    assert_eq!(it.next(), None);
}

#[test]
fn what_comes_and_goes_is_told_once_in_a_window() {
    let mut it = one();
    let a = alert("A", "1", T);
    step(&mut it, T, just(&a));
    let first = T + 30 * SECOND;
    assert_eq!(step(&mut it, first, just(&a)), ["0: +1"]);
    // Gone and back between two looks: nobody hears of it.
    step(&mut it, first + 10 * SECOND, &[over(&a, first + 10 * SECOND)]);
    assert_eq!(
        step(&mut it, first + MINUTE, &[alert("A", "1", first + 20 * SECOND)]),
        NOTHING
    );
    let end = over(&a, first + 70 * SECOND);
    assert_eq!(step(&mut it, first + 2 * MINUTE, just(&end)), ["0: -1"]);
    // Back within five minutes since it was told, gone again: nothing. Back, and it stays: told when they are over.
    let back = alert("A", "1", first + 150 * SECOND);
    for second in (150..220).step_by(10) {
        assert_eq!(step(&mut it, first + second * SECOND, just(&back)), NOTHING);
    }
    step(
        &mut it,
        first + 220 * SECOND,
        &[over(&back, first + 220 * SECOND)],
    );
    let again = alert("A", "1", first + 230 * SECOND);
    let mut seen = Vec::new();
    for second in (230..400).step_by(10) {
        for one in step(&mut it, first + second * SECOND, just(&again)) {
            seen.push((second, one));
        }
    }
    let [(when, what)] = &seen[..] else {
        panic!("{seen:?}")
    };
    assert!((300..=360).contains(when) && what == "0: +1", "{seen:?}");
}

#[test]
fn another_that_fires_is_told_with_one_that_was_held_back() {
    let mut it = one();
    let a = alert("A", "1", T);
    step(&mut it, T, just(&a));
    assert_eq!(step(&mut it, T + 30 * SECOND, just(&a)), ["0: +1"]);
    assert_eq!(
        step(&mut it, T + 90 * SECOND, &[over(&a, T + 80 * SECOND)]),
        ["0: -1"]
    );
    let (again, b) = (
        alert("A", "1", T + 100 * SECOND),
        alert("A", "2", T + 100 * SECOND),
    );
    let all = [again, b];
    assert_eq!(step(&mut it, T + 100 * SECOND, &all), NOTHING);
    assert_eq!(step(&mut it, T + 130 * SECOND, &all), ["0: +1 +2"]);
}

#[test]
fn places_that_want_no_end_get_none() {
    let mut it = with(&route("ops"), vec![receiver("ops", &[true, false])], Vec::new());
    let (a, b) = (alert("A", "1", T), alert("A", "2", T));
    step(&mut it, T, &[a.clone(), b.clone()]);
    let both = step(&mut it, T + 30 * SECOND, &[a.clone(), b.clone()]);
    assert_eq!(both, ["0: +1 +2", "1: +1 +2"]);
    let all = [over(&a, T + 40 * SECOND), b.clone()];
    assert_eq!(step(&mut it, T + 90 * SECOND, &all), ["0: +2 -1"]);
    let all = [over(&b, T + 100 * SECOND)];
    assert_eq!(step(&mut it, T + 150 * SECOND, &all), ["0: -2"]);
    // Back long after: a new alert to both.
    let later = T + 20 * MINUTE;
    let again = alert("A", "1", later);
    step(&mut it, later, just(&again));
    assert_eq!(step(&mut it, later + 30 * SECOND, &[again]), ["0: +1", "1: +1"]);
}

#[test]
fn groups_are_told_apart_and_routes_may_go_on() {
    let mut top = route("all");
    top.routes = vec![
        Route {
            goes_on: true,
            matchers: parse("peer=1").unwrap(),
            receiver: Some("one".to_owned()),
            ..Route::default()
        },
        Route {
            group_by: Some(vec!["...".to_owned()]),
            receiver: Some("rest".to_owned()),
            ..Route::default()
        },
    ];
    let receivers = ["all", "one", "rest"].map(|name| receiver(name, &[true]));
    let mut it = with(&top, receivers.to_vec(), Vec::new());
    let all = [alert("A", "1", T), alert("A", "2", T), alert("B", "1", T)];
    step(&mut it, T, &all);
    let entries = entries(&mut it, T + 30 * SECOND, &all, &Silences::default());
    let mut seen: Vec<(String, String)> = entries
        .iter()
        .map(|entry| {
            (
                entry.notification.receiver.clone(),
                entry.notification.group_key.clone(),
            )
        })
        .collect();
    seen.sort();
    let keys = [
        ("one", "{}/{peer=\"1\"}:{alertname=\"A\"}"),
        ("one", "{}/{peer=\"1\"}:{alertname=\"B\"}"),
        ("rest", "{}/{}:{alertname=\"A\", peer=\"1\"}"),
        ("rest", "{}/{}:{alertname=\"A\", peer=\"2\"}"),
        ("rest", "{}/{}:{alertname=\"B\", peer=\"1\"}"),
    ];
    let keys = keys.map(|(receiver, key)| (receiver.to_owned(), key.to_owned()));
    assert_eq!(seen, keys);
}

#[test]
fn silences_and_inhibitions_mute_what_fires_and_no_end() {
    let inhibition = Inhibition {
        source: parse("alertname=Source").unwrap(),
        target: parse("alertname=A").unwrap(),
        equal: vec!["peer".to_owned()],
    };
    let mut it = with(&route("ops"), vec![receiver("ops", &[true])], vec![inhibition]);
    let mut silences = Silences::default();
    let silence = Silence {
        id: "s".to_owned(),
        matchers: parse("peer=2").unwrap(),
        starts_at: T,
        ends_at: T + 3 * MINUTE,
        updated_at: T,
        created_by: "me".to_owned(),
        comment: "why".to_owned(),
    };
    silences.add(silence, T).unwrap();
    let all = [
        alert("A", "1", T),
        alert("A", "2", T),
        alert("A", "3", T),
        alert("Source", "3", T),
    ];
    entries(&mut it, T, &all, &silences);
    let states: Vec<&str> = it.states(T, &silences).iter().map(|(_, state)| *state).collect();
    assert_eq!(states, ["", "silenced", "inhibited", ""]);
    let first = entries(&mut it, T + 30 * SECOND, &all, &silences);
    assert_eq!(told(&first), ["0: +1", "0: +3"]);
    assert_eq!(first[1].notification.group_labels.get("alertname"), "Source");
    // The source ends: what it inhibited is told. The silence is over a little later.
    let all = [
        alert("A", "1", T),
        alert("A", "2", T),
        alert("A", "3", T),
        over(&alert("Source", "3", T), T + MINUTE),
    ];
    assert_eq!(
        told(&entries(&mut it, T + 90 * SECOND, &all, &silences)),
        ["0: +1 +3", "0: -3"]
    );
    let all = &all[..3];
    assert_eq!(told(&entries(&mut it, T + 150 * SECOND, all, &silences)), NOTHING);
    assert_eq!(
        told(&entries(&mut it, T + 210 * SECOND, all, &silences)),
        ["0: +1 +2 +3"]
    );
    // Silenced after it was told: no word of it while it fires, and its end all the same.
    let silence = Silence {
        id: "t".to_owned(),
        matchers: parse("alertname=A").unwrap(),
        starts_at: T,
        ends_at: T + 600 * MINUTE,
        updated_at: T,
        created_by: "me".to_owned(),
        comment: "why".to_owned(),
    };
    silences.add(silence, T + 220 * SECOND).unwrap();
    for minute in 4..90 {
        assert_eq!(
            told(&entries(
                &mut it,
                T + minute * MINUTE + 30 * SECOND,
                all,
                &silences
            )),
            NOTHING
        );
    }
    let end = [over(&all[0], T + 90 * MINUTE), all[1].clone(), all[2].clone()];
    assert_eq!(
        told(&entries(&mut it, T + 91 * MINUTE, &end, &silences)),
        ["0: -1"]
    );
}

#[test]
fn a_restart_tells_nothing_twice_and_forgets_no_end() {
    let mut it = with(&route("ops"), vec![receiver("ops", &[true, true])], Vec::new());
    let (a, b) = (alert("A", "1", T), alert("A", "2", T));
    step(&mut it, T, &[a.clone(), b.clone()]);
    let first = entries(
        &mut it,
        T + 30 * SECOND,
        &[a.clone(), b.clone()],
        &Silences::default(),
    );
    assert_eq!(told(&first), ["0: +1 +2", "1: +1 +2"]);
    // Killed before the second queue had it.
    let memo = first[0].memo.clone();
    let again = || {
        let mut it = with(&route("ops"), vec![receiver("ops", &[true, true])], Vec::new());
        assert!(it.restore(T + 10 * MINUTE, vec![(0, 0, memo.clone())]).is_empty());
        it
    };
    let mut it = again();
    let now = T + 10 * MINUTE;
    // One fires since then, the other is not spoken of: it may still be pending.
    let later = alert("A", "1", now);
    assert_eq!(step(&mut it, now + SECOND, just(&later)), NOTHING);
    assert_eq!(step(&mut it, now + 30 * SECOND, just(&later)), ["1: +1"]);
    for second in (90..300).step_by(10) {
        assert_eq!(
            step(&mut it, now + second * SECOND, just(&later)),
            NOTHING,
            "{second}"
        );
    }
    let end: Vec<String> = (300..400)
        .step_by(10)
        .flat_map(|second| step(&mut it, now + second * SECOND, just(&later)))
        .collect();
    assert_eq!(end, ["0: +1 -2"]);
    // The other way: nothing fires any more. The second place is not told of it as if it did.
    let mut it = again();
    let end: Vec<String> = (0..400)
        .step_by(10)
        .flat_map(|second| step(&mut it, now + second * SECOND, &[]))
        .collect();
    assert_eq!(end, ["0: -1 -2"]);
    // Another configuration: no route leads there.
    let mut it = with(
        &route("other"),
        vec![receiver("ops", &[true]), receiver("other", &[true])],
        Vec::new(),
    );
    assert_eq!(it.restore(now, vec![(0, 0, memo.clone())]), just(&memo));
    // What was told to one route before a restart is new to another that takes it now.
    let mut top = route("ops");
    top.routes = vec![Route {
        matchers: parse("peer=1").unwrap(),
        receiver: Some("ops".to_owned()),
        ..Route::default()
    }];
    let mut it = with(&top, vec![receiver("ops", &[true])], Vec::new());
    assert!(it.restore(now, vec![(0, 0, memo.clone())]).is_empty());
    let seen: Vec<String> = (0..60)
        .step_by(10)
        .flat_map(|second| step(&mut it, now + second * SECOND, &[a.clone(), b.clone()]))
        .collect();
    assert_eq!(seen, ["0: +1"]);
}

#[test]
fn a_clock_that_is_set_back_holds_nothing_up() {
    let mut it = one();
    let a = alert("A", "1", T);
    step(&mut it, T, just(&a));
    assert_eq!(step(&mut it, T + 30 * SECOND, just(&a)), ["0: +1"]);
    let back = T - 600 * MINUTE;
    let b = alert("A", "2", back);
    assert_eq!(step(&mut it, back, &[a.clone(), b.clone()]), NOTHING);
    assert_eq!(step(&mut it, back + MINUTE, &[a, b]), ["0: +1 +2"]);
}

/// Cause: an alert that was told and was over comes again, alone, after the clock was set back by two hours. Seen: it is held back for
/// the deduplication window, not for two hours, and what goes on firing is told again after the interval.
#[test]
fn what_was_told_at_a_later_time_is_told_again() {
    let mut it = one();
    let a = alert("A", "1", T);
    step(&mut it, T, just(&a));
    assert_eq!(step(&mut it, T + 30 * SECOND, just(&a)), ["0: +1"]);
    let gone = over(&a, T + MINUTE);
    assert_eq!(step(&mut it, T + 2 * MINUTE, just(&gone)), ["0: -1"]);
    let back = T - 120 * MINUTE;
    let again = alert("A", "1", back);
    step(&mut it, back, just(&again));
    assert_eq!(step(&mut it, back + 2 * MINUTE, just(&again)), NOTHING);
    assert_eq!(step(&mut it, back + 6 * MINUTE, just(&again)), ["0: +1"]);
    assert_eq!(step(&mut it, back + 67 * MINUTE, just(&again)), ["0: +1"]);
}

#[test]
fn one_incident_is_one_notification() {
    let mut top = route("ops");
    top.group_by = Some(vec!["incident".to_owned()]);
    let mut it = with(&top, vec![receiver("ops", &[true])], Vec::new());
    let edges = Edges::new([(
        (crate::incident::Kind::Subject, "shop".to_owned()),
        (crate::incident::Kind::Peer, "1".to_owned()),
    )]);
    let mut slow = alert("Slow", "", T + SECOND);
    slow.labels = Labels::new([("alertname", "Slow"), ("subject", "shop")]);
    let all = [alert("Loss", "1", T), slow, alert("Loss", "2", T)];
    it.observe(T + SECOND, &all, &edges);
    let mut entries = it.due(T + 31 * SECOND, &Silences::default());
    assert_eq!(entries.len(), 2);
    entries.sort_by_key(|entry| entry.notification.alerts.len());
    assert_eq!(entries[1].notification.alerts.len(), 2);
    let id = it.incidents().of(all[0].fingerprint()).to_owned();
    assert_eq!(entries[1].notification.group_labels.get("incident"), id);
    assert_eq!(it.incidents().all().len(), 2);
}

#[test]
fn without_receivers_there_are_incidents_all_the_same() {
    let settings = Settings {
        resolve_timeout: MINUTE,
        ..Settings::default()
    };
    let mut it = Dispatcher::new(None, Vec::new(), Vec::new(), settings, Incidents::new(MINUTE));
    let a = alert("A", "1", T);
    assert_eq!(step(&mut it, T, just(&a)), NOTHING);
    assert_eq!((it.next(), it.incidents().all().len()), (None, 1));
    step(&mut it, T + SECOND, &[over(&a, T + SECOND)]);
    assert!(it.alerts.is_empty());
    assert_eq!(it.incidents().all()[0].ended_at, Some(T + SECOND));
}

/// A place that takes what it is not told again for over: at each look, and it knows for how long that holds.
#[test]
fn a_place_that_forgets_is_told_at_each_look() {
    let mut both = receiver("ops", &[true, true]);
    both.integrations[1].forgets = true;
    let mut dispatcher = with(&route("ops"), vec![both], Vec::new());
    let down = alert("Down", "a", T);
    let mut all = Vec::new();
    for minute in 0..4 {
        let now = T + 30 * SECOND + minute * MINUTE;
        dispatcher.observe(now, just(&down), &Edges::default());
        all.extend(dispatcher.due(now, &Silences::default()));
    }
    assert_eq!(told(&all), ["0: +a", "1: +a", "1: +a", "1: +a"]);
    let lasts: Vec<Millis> = all.iter().map(|entry| entry.notification.lasts).collect();
    assert_eq!(lasts, [0, 4 * MINUTE, 4 * MINUTE, 4 * MINUTE]);
}
