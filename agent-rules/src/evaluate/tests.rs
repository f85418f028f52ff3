use super::{Environment, Group, Health, Settings};
use crate::alert::State;
use crate::file::parse;
use crate::results::Results;
use agent_store::labels::Labels;
use agent_store::series::{Bounds, Free, Matcher, Millis, STALE, Series, Source, is_stale};
use agent_store::store::{Place, Settings as StoreSettings, Store, Value};

const MINUTE: Millis = 60_000;

fn store() -> Store {
    let settings = StoreSettings {
        worker: false,
        ..StoreSettings::default()
    };
    Store::open(Place::Memory, settings).unwrap().0
}

fn add(store: &Store, at: Millis, samples: &[(&str, &str, f64)]) {
    let samples: Vec<_> = samples
        .iter()
        .map(|(name, a, value)| {
            let labels = Labels::new([("__name__", *name), ("a", *a)]);
            (store.register(&labels).unwrap(), Value::Float(*value))
        })
        .collect();
    store.append(at, &samples);
}

fn group(rules: &str, restore: bool) -> Group {
    Group::new(parse("r.yaml", rules).unwrap().remove(0), restore)
}

fn evaluate(group: &mut Group, at: Millis, store: &Store, results: &mut Results) {
    let bounds = || -> Box<dyn Bounds> { Box::new(Free) };
    let environment = Environment {
        source: store,
        bounds: &bounds,
        settings: &Settings::default(),
    };
    group.evaluate(at, &environment, results);
}

fn bad(group: &Group, at: usize) -> &str {
    match &group.rules[at].health {
        Health::Bad(why) => why,
        other => panic!("{other:?}"),
    }
}

fn put(store: &Store, series: &[Series]) {
    let at = series[0].samples.floats.times[0];
    let samples = series.iter().map(|series| {
        let value = series.samples.floats.values[0];
        (store.register(&series.labels).unwrap(), Value::Float(value))
    });
    let samples: Vec<_> = samples.collect();
    store.append(at, &samples);
}

#[test]
fn a_rule_that_fails_says_why_and_the_next_goes_on() {
    let store = store();
    add(&store, 0, &[("x", "1", 1.0), ("x", "2", 2.0)]);
    let mut group = group(
        "groups:\n- name: g\n  limit: 1\n  rules:\n  - {record: r, expr: x}\n  - {alert: A, expr: x}\n  \
         - {record: s, expr: x, labels: {a: same}}\n  - {alert: B, expr: x, labels: {a: same}}\n  \
         - {record: t, expr: 'x * on() x'}\n  - {record: last, expr: sum(x)}\n",
        false,
    );
    let mut results = Results::default();
    evaluate(&mut group, 0, &store, &mut results);
    assert_eq!(bad(&group, 0), "exceeded limit of 1 with 2 series");
    assert_eq!(bad(&group, 1), "exceeded limit of 1 with 2 alerts");
    assert_eq!(group.rules[1].alerts().count(), 0);
    assert!(bad(&group, 2).contains("same labelset after applying rule labels"));
    assert!(bad(&group, 3).contains("same labelset after applying alert labels"));
    assert!(bad(&group, 4).contains("many-to-many"), "{}", bad(&group, 4));
    assert_eq!(group.rules[5].health, Health::Ok);
    assert_eq!(results.len(), 1);
}

#[test]
fn a_series_that_a_rule_no_longer_has_ends() {
    let store = store();
    add(&store, 0, &[("x", "1", 1.0), ("x", "2", 2.0)]);
    add(&store, MINUTE, &[("x", "1", 1.0), ("x", "2", STALE)]);
    let mut group = group("groups:\n- name: g\n  rules:\n  - {record: r, expr: x}\n", false);
    let mut results = Results::default();
    evaluate(&mut group, 0, &store, &mut results);
    evaluate(&mut group, MINUTE, &store, &mut results);
    let found = results
        .select(&[Matcher::equal("a", "2")], 0, MINUTE, &Free)
        .unwrap();
    let floats = &found[0].samples.floats;
    assert_eq!(floats.times, [0, MINUTE]);
    assert!(is_stale(floats.values[1]));
    results.forget(MINUTE);
    assert_eq!(results.len(), 2);
}

#[test]
fn an_offset_moves_the_query_not_the_alert() {
    let store = store();
    add(&store, 0, &[("x", "1", 1.0)]);
    add(&store, MINUTE, &[("x", "1", 2.0)]);
    let mut group = group(
        "groups:\n- name: g\n  query_offset: 1m\n  rules:\n  - {record: r, expr: x}\n  - {alert: A, expr: x}\n",
        false,
    );
    let mut results = Results::default();
    evaluate(&mut group, MINUTE, &store, &mut results);
    let found = results
        .select(&[Matcher::equal("__name__", "r")], 0, MINUTE, &Free)
        .unwrap();
    let floats = &found[0].samples.floats;
    assert_eq!((floats.times[0], floats.values[0]), (0, 1.0));
    assert_eq!(group.rules[1].alerts().next().unwrap().active_at, MINUTE);
}

/// Evaluates a rule of this `for` in minutes each minute for a while, stops, and goes on after `down` minutes with what was stored.
/// When does the alert fire after that, and since when is it said to be active, in minutes from the first evaluation?
fn fires_after(hold: Millis, pending: Millis, down: Millis, ended: bool) -> Option<(Millis, Millis)> {
    let wait = if hold > 0 {
        format!(", for: {hold}m")
    } else {
        String::new()
    };
    let rules = format!("groups:\n- name: g\n  rules:\n  - {{alert: A, expr: 'x > 0'{wait}}}\n");
    let store = store();
    let mut first = group(&rules, true);
    for minute in 0..=pending {
        add(&store, minute * MINUTE, &[("x", "1", 1.0)]);
        let mut results = Results::default();
        evaluate(&mut first, minute * MINUTE, &store, &mut results);
        let mut series = results.take();
        for one in &mut series {
            one.samples.floats.times[0] += 1;
            if ended && minute == pending {
                one.samples.floats.values[0] = STALE;
            }
        }
        put(&store, &series);
    }
    let mut second = group(&rules, true);
    (pending + down..300).find_map(|minute| {
        add(&store, minute * MINUTE, &[("x", "1", 1.0)]);
        evaluate(&mut second, minute * MINUTE, &store, &mut Results::default());
        let alert = second.rules[0].alerts().next()?;
        // What is appended twice at a time is stored a millisecond later.
        let since = (alert.active_at + MINUTE / 2) / MINUTE;
        (alert.state == State::Firing).then_some((minute, since))
    })
}

#[test]
fn alerts_go_on_after_a_restart() {
    // It fired: it does at once, whatever its `for`, or without one.
    for hold in [20, 5, 0] {
        assert_eq!(fires_after(hold, 25, 5, false), Some((30, 0)), "{hold}");
    }
    // Eight minutes were left: the grace of ten is waited for.
    assert_eq!(fires_after(20, 12, 5, false), Some((27, 7)));
    // Fifteen were left: the time in which nobody looked is not counted.
    assert_eq!(fires_after(20, 5, 10, false), Some((30, 10)));
    // Two of less than the grace: all of it again.
    assert_eq!(fires_after(5, 3, 5, false), Some((13, 8)));
    // It had ended, or that is too long ago: it begins anew.
    assert_eq!(fires_after(20, 25, 5, true), Some((50, 30)));
    assert_eq!(fires_after(20, 25, 90, false), Some((135, 115)));
}

/// Over the past all steps are evaluated at once; step by step the same must come out.
#[test]
fn the_past_is_what_step_by_step_would_have_been() {
    const RULES: &str = "groups:\n- name: g\n  interval: 15s\n  rules:\n  - {record: r, expr: 'sum(rate(x[1m]))'}\n  \
        - {alert: A, expr: 'r > 0.5', for: 1m, annotations: {v: '{{ $value }} {{ query \"r\" | first | value }}'}}\n  \
        - {alert: B, expr: 'ALERTS{alertname=\"A\",alertstate=\"firing\"}', keep_firing_for: 2m}\n  \
        - {alert: C, expr: 'x * on() x'}\n";
    let store = store();
    let mut total = 0.0;
    for second in 0..3600 {
        total += if (second / 300) % 3 == 1 { 1.0 } else { 0.25 };
        add(&store, second * 1000, &[("x", "1", total), ("x", "2", 1.0)]);
    }
    let bounds = || -> Box<dyn Bounds> { Box::new(Free) };
    let settings = Settings::default();
    let environment = Environment {
        source: &store,
        bounds: &bounds,
        settings: &settings,
    };
    let to = 3_700_000;
    let mut group = group(RULES, false);
    let mut results = Results::default();
    let mut fired = std::collections::BTreeSet::new();
    for at in (0..=to).step_by(15_000) {
        evaluate(&mut group, at, &store, &mut results);
        for alert in group.rules.iter().flat_map(super::Rule::alerts) {
            if let (Some(at), State::Firing) = (alert.fired_at, alert.state) {
                fired.insert((at, alert.labels.clone()));
            }
        }
    }
    // What an agent has recorded before is not taken for what these rules come to.
    add(&store, 3_600_000, &[("r", "old", 9.0), ("ALERTS", "1", 1.0)]);
    let groups = parse("r.yaml", RULES).unwrap();
    let past = super::past(groups, (0, to), MINUTE, &environment);
    let episodes = past.episodes.iter();
    let episodes: std::collections::BTreeSet<_> =
        episodes.map(|one| (one.fired_at, one.labels.clone())).collect();
    assert_eq!(episodes, fired);
    assert_eq!(episodes.len(), 8);
    assert!(past.episodes.iter().all(|one| one.resolved_at.is_some()));
    assert_eq!(
        past.episodes[0].annotations["v"]
            .split(' ')
            .collect::<std::collections::BTreeSet<_>>()
            .len(),
        1
    );
    assert_eq!(past.failed.keys().collect::<Vec<_>>(), ["C"]);
    let recorded = |from: &dyn Source| {
        from.select(&[Matcher::equal("__name__", "r")], 0, to, &Free)
            .unwrap()
    };
    // The mark of the end is NaN, which equals nothing.
    let shown = |series: Vec<Series>| format!("{series:?}");
    assert_eq!(shown(recorded(&past.recorded)), shown(recorded(&results)));
}

/// Cause: a rule of alerts of which one is tested with it and one is evaluated by the agent only. Seen: what the store has of the second
/// counts, what it has of the first does not.
#[test]
fn the_past_has_the_alerts_that_are_not_tested() {
    const RULES: &str = "groups:\n- name: g\n  interval: 15s\n  rules:\n  - {alert: Mine, expr: 'absent(x)'}\n  \
        - {alert: Both, expr: 'count by (alertname) (ALERTS{alertstate=\"firing\"})'}\n";
    let store = store();
    let names = ["Mine", "Theirs"].map(|name| {
        let labels = [
            ("__name__", "ALERTS"),
            ("alertname", name),
            ("alertstate", "firing"),
        ];
        store.register(&Labels::new(labels)).unwrap()
    });
    for second in 0..60 {
        add(&store, second * 1000, &[("x", "1", 1.0)]);
        store.append(
            second * 1000 + 1,
            &names.map(|series| (series, Value::Float(1.0))),
        );
    }
    let bounds = || -> Box<dyn Bounds> { Box::new(Free) };
    let settings = Settings::default();
    let environment = Environment {
        source: &store,
        bounds: &bounds,
        settings: &settings,
    };
    let past = super::past(parse("r.yaml", RULES).unwrap(), (0, 60_000), MINUTE, &environment);
    let seen: Vec<&str> = past
        .episodes
        .iter()
        .map(|one| one.labels.get("alertname"))
        .collect();
    assert_eq!((seen, past.failed.len()), (vec!["Both"], 0));
}

/// Cause: rules with `@ end()` and `@ start()` over a span in which a value rises at its middle. Seen: they fire from then on, as an agent
/// has them; the one had looked at the end of the span from its first step on, the other never got beyond it.
#[test]
fn the_past_does_not_look_into_the_future() {
    const RULES: &str = "groups:\n- name: g\n  interval: 1m\n  rules:\n  - {alert: End, expr: 'x @ end() > 0'}\n  \
        - {alert: Start, expr: 'max_over_time(x[1m] @ start()) > 0'}\n  - {alert: Now, expr: 'x > 0'}\n";
    let store = store();
    for minute in 0..60 {
        add(&store, minute * MINUTE, &[("x", "1", f64::from(minute >= 30))]);
    }
    let bounds = || -> Box<dyn Bounds> { Box::new(Free) };
    let settings = Settings::default();
    let environment = Environment {
        source: &store,
        bounds: &bounds,
        settings: &settings,
    };
    let past = super::past(
        parse("r.yaml", RULES).unwrap(),
        (0, 59 * MINUTE),
        MINUTE,
        &environment,
    );
    let fired: Vec<(&str, Millis)> = past
        .episodes
        .iter()
        .map(|one| (one.labels.get("alertname"), one.fired_at / MINUTE))
        .collect();
    assert_eq!(fired, [("End", 30), ("Now", 30), ("Start", 30)]);
}

/// Cause: the file is read again, with a rule as it was, one whose query is another, a new one, and one less. Seen: the first two
/// fire on, the third begins, and the series of the fourth end.
#[test]
fn a_file_that_is_read_again_changes_only_what_changed() {
    let store = store();
    let mut results = Results::default();
    let rules = |of_b: &str, last: &str| {
        format!(
            "groups:
- name: g
  rules:
  - {{alert: A, expr: x > 0, for: 2m}}
  - {{alert: B, expr: '{of_b}', for: 2m, labels: {{severity: info}}}}
  - {last}
"
        )
    };
    let mut old = group(&rules("x > 0", "{record: 'old:x', expr: x}"), false);
    for minute in 0..4 {
        add(&store, minute * MINUTE, &[("x", "1", 1.0)]);
        evaluate(&mut old, minute * MINUTE, &store, &mut results);
    }
    let state = |group: &Group, at: usize| group.rules[at].state();
    assert_eq!((state(&old, 0), state(&old, 1)), (State::Firing, State::Firing));
    let mut new = group(&rules("x > 0.5", "{alert: C, expr: x > 0, for: 2m}"), true);
    new.inherit(old, 3 * MINUTE + 1, &mut results);
    assert_eq!(new.evaluated_at, Some(3 * MINUTE));
    let active_at = |group: &Group, at: usize| group.rules[at].alerts().next().map(|alert| alert.active_at);
    assert_eq!((active_at(&new, 0), active_at(&new, 1)), (Some(0), Some(0)));
    add(&store, 4 * MINUTE, &[("x", "1", 1.0)]);
    evaluate(&mut new, 4 * MINUTE, &store, &mut results);
    assert_eq!((state(&new, 0), state(&new, 1)), (State::Firing, State::Firing));
    assert_eq!(new.rules[1].file.expr, "x > 0.5");
    assert_eq!(state(&new, 2), State::Pending);
    let ended = results
        .take()
        .into_iter()
        .find(|series| series.labels.name() == "old:x")
        .unwrap();
    let last = ended.samples.floats.values.last().copied().unwrap();
    assert!(is_stale(last) && ended.samples.floats.times.last() == Some(&(3 * MINUTE + 1)));
}

/// Cause: a rule asks what one before it has asked, and one between them has recorded that metric. Seen: what was asked of another
/// metric is not asked again, and what was recorded is seen.
#[test]
fn what_rules_share_is_asked_once_and_anew_where_it_has_changed() {
    struct Counted<'a>(&'a Store, std::sync::atomic::AtomicUsize);
    impl Source for Counted<'_> {
        fn select(
            &self,
            matchers: &[Matcher],
            from: Millis,
            to: Millis,
            bounds: &dyn Bounds,
        ) -> Result<Vec<Series>, agent_store::series::Refusal> {
            self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.0.select(matchers, from, to, bounds)
        }
    }
    let store = store();
    add(&store, 0, &[("x", "1", 1.0), ("r", "1", 5.0)]);
    add(&store, 1000, &[("x", "1", 3.0)]);
    let mut group = group(
        "groups:\n- name: g\n  rules:\n  - {record: before, expr: 'count_over_time(r[1m])'}\n  \
         - {record: one, expr: 'increase(x[1m])'}\n  - {record: two, expr: '2 * increase(x[1m])'}\n  \
         - {record: r, expr: 'vector(7)', labels: {a: '1'}}\n  - {record: after, expr: 'count_over_time(r[1m])'}\n",
        false,
    );
    let source = Counted(&store, 0.into());
    let bounds = || -> Box<dyn Bounds> { Box::new(Free) };
    let environment = Environment {
        source: &source,
        bounds: &bounds,
        settings: &Settings::default(),
    };
    let mut results = Results::default();
    group.evaluate(2000, &environment, &mut results);
    let value = |name: &str| {
        let found = results
            .select(&[Matcher::equal("__name__", name)], 0, 2000, &Free)
            .unwrap();
        found[0].samples.floats.values[0]
    };
    assert_eq!((value("before"), value("after")), (1.0, 2.0));
    assert_eq!(value("two"), 2.0 * value("one"));
    assert_eq!(source.1.into_inner(), 3, "r twice, x once");
}
