//! What goes in comes out: from the head, from blocks, from merged ones, and by every kind of selector.

use super::*;
use crate::histogram::Histogram;
use regex::Regex;
use std::sync::Arc;

#[test]
fn samples_come_back_from_head_frozen_block_and_merged_block() {
    let store = memory();
    fill(&store, 40, 0, 500);
    assert_filled(&store, 40, 0, 500);
    store.inner.freeze(&mut write(&store.inner.live));
    fill(&store, 40, 500, 1500);
    assert_filled(&store, 40, 0, 1500);
    assert_eq!(store.inner.view().frozen.len(), 2);
    store.maintain();
    assert_eq!((store.inner.view().frozen.len(), store.stats().blocks), (0, 2));
    assert_filled(&store, 40, 0, 1500);
    fill(&store, 40, 1500, 7300);
    store.maintain();
    assert_eq!(store.stats().blocks, 1);
    assert_filled(&store, 40, 0, 7300);
    assert_eq!(store.stats().samples, 40 * 7300);
}

#[test]
fn a_span_is_cut_at_both_ends_wherever_samples_are() {
    let store = memory();
    fill(&store, 3, 0, 8000);
    store.maintain();
    for (from, to) in [(0, 0), (599, 600), (100, 7350), (7199, 7201), (7900, 7999)] {
        let at = |tick: usize| START + tick as Millis * 1000;
        let found = store
            .select(&[Matcher::equal("peer", "peer-0002")], at(from), at(to), &Free)
            .unwrap();
        assert_eq!(
            found[0].samples.floats.times,
            (from..=to).map(at).collect::<Vec<_>>()
        );
        assert!(
            found[0]
                .samples
                .floats
                .values
                .iter()
                .zip(from..)
                .all(|(v, tick)| *v == value(2, tick))
        );
    }
    assert!(
        store
            .select(&[], START - 10, START - 1, &Free)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn selectors_mean_what_prometheus_says() {
    let check = |store: &Store| {
        let matcher = |label: &str, comparison| Matcher {
            label: label.into(),
            comparison,
        };
        let regex = |pattern: &str| Regex::new(&format!("^(?:{pattern})$")).unwrap();
        let count = |matchers: &[Matcher]| {
            let found = select(store, matchers);
            assert_eq!(
                found
                    .iter()
                    .map(|s| s.labels.clone())
                    .collect::<std::collections::BTreeSet<_>>(),
                store
                    .series(matchers, Millis::MIN, Millis::MAX, &Free)
                    .unwrap()
                    .into_iter()
                    .collect()
            );
            found.len()
        };
        let name = Matcher::equal("__name__", "x");
        assert_eq!(count(std::slice::from_ref(&name)), 200);
        assert_eq!(count(&[]), 201);
        assert_eq!(count(&[name.clone(), Matcher::equal("peer", "peer-0007")]), 1);
        assert_eq!(count(&[name.clone(), Matcher::equal("peer", "nobody")]), 0);
        assert_eq!(count(&[Matcher::equal("zone", "")]), 200);
        assert_eq!(count(&[Matcher::equal("peer", "")]), 1);
        assert_eq!(
            count(&[matcher("peer", Comparison::NotEqual("peer-0007".into()))]),
            200
        );
        assert_eq!(count(&[matcher("zone", Comparison::NotEqual(String::new()))]), 1);
        assert_eq!(
            count(&[matcher("peer", Comparison::Matches(regex("peer-00[0-4].")))]),
            50
        );
        assert_eq!(
            count(&[matcher("peer", Comparison::Matches(regex("peer-00[0-4].|")))]),
            51
        );
        assert_eq!(
            count(&[name, matcher("peer", Comparison::MatchesNot(regex(".*[13579]")))]),
            100
        );
        assert_eq!(count(&[matcher("peer", Comparison::MatchesNot(regex(".+")))]), 1);
        let all = (Millis::MIN, Millis::MAX);
        assert_eq!(
            store.words(None, &[], all, &Free).unwrap(),
            ["__name__", "instance", "peer", "zone"]
        );
        assert_eq!(store.words(Some("peer"), &[], all, &Free).unwrap().len(), 200);
        assert_eq!(
            store
                .words(Some("zone"), &[Matcher::equal("__name__", "y")], all, &Free)
                .unwrap(),
            ["north"]
        );
    };
    let store = memory();
    let other = store
        .register(&Labels::new([("__name__", "y"), ("zone", "north")]))
        .unwrap();
    store.append(START - 1000, &[(other, Value::Float(1.0))]);
    fill(&store, 200, 0, 3);
    check(&store);
    store.inner.freeze(&mut write(&store.inner.live));
    check(&store);
    store.maintain();
    check(&store);
}

/// Cause: series of metrics whose names begin alike, some with a label that is ordered before the name, one without a name. Seen: of a
/// metric all of its series are found and no others, wherever they are.
#[test]
fn a_metric_is_found_whatever_other_labels_it_has() {
    let store = memory();
    let all: [&[(&str, &str)]; 7] = [
        &[("Area", "a"), ("__name__", "x")],
        &[("Area", "b"), ("__name__", "w")],
        &[("__name__", "w"), ("zone", "z")],
        &[("__name__", "x")],
        &[("__name__", "x"), ("zone", "z")],
        &[("__name__", "xy")],
        &[("zone", "x")],
    ];
    let samples = all.map(|labels| {
        let labels = Labels::new(labels.iter().copied());
        (store.register(&labels).unwrap(), Value::Float(1.0))
    });
    store.append(START, &samples);
    let check = |store: &Store| {
        let count = |name: &str| select(store, &[Matcher::equal("__name__", name)]).len();
        assert_eq!(["x", "w", "xy", "v", "z"].map(count), [3, 2, 1, 0, 0]);
    };
    check(&store);
    store.inner.freeze(&mut write(&store.inner.live));
    check(&store);
    store.maintain();
    check(&store);
}

#[test]
fn histograms_gaps_and_a_change_of_kind_come_back() {
    let store = memory();
    let series = store.register(&labels("latency", 0)).unwrap();
    let histogram = |tick: usize| {
        Arc::new(Histogram {
            schema: 3,
            count: tick as f64,
            sum: tick as f64 / 10.0,
            positive: vec![(tick as i32 % 7, 1.0), (20, tick as f64)],
            ..Histogram::default()
        })
    };
    for tick in 0..3000 {
        let value = match tick {
            _ if tick % 11 == 0 => continue,
            0..100 => Value::Float(1.5),
            _ => Value::Histogram(histogram(tick / 2)),
        };
        store.append(START + tick as Millis * 1000, &[(series, value)]);
    }
    let before = select(&store, &[]);
    assert_eq!(before[0].samples.floats.times.len(), 90);
    assert_eq!(before[0].samples.histograms.times.len(), 2900 - 263);
    store.flush();
    assert_eq!(select(&store, &[]), before);
    assert!(
        store.stats().disk_bytes < 3000 * 8,
        "{}",
        store.stats().disk_bytes
    );
}

#[test]
fn a_clock_that_is_set_back_neither_reorders_nor_loses() {
    let store = memory();
    let series = store.register(&labels("x", 0)).unwrap();
    let mut sent = 0;
    let mut tick = |time: Millis| {
        store.append(time, &[(series, Value::Float(f64::from(sent)))]);
        sent += 1;
    };
    (0..100).for_each(|at| tick(START + at * 1000));
    tick(START + 99_000);
    // Half an hour back, and on for an hour and a half.
    (0..5400).for_each(|at| tick(START - 1_800_000 + at * 1000));
    store.append(Millis::MAX, &[(series, Value::Float(0.0))]);
    let check = |store: &Store| {
        let found = &select(store, &[])[0].samples.floats;
        assert_eq!(found.values, (0..5501).map(f64::from).collect::<Vec<_>>());
        assert!(found.times.is_sorted_by(|a, b| a < b));
        // The clock has caught up: times are right again.
        assert_eq!(found.times.last(), Some(&(START + 3_599_000)));
    };
    check(&store);
    store.flush();
    check(&store);
    let stats = store.stats();
    assert!((3600..4000).contains(&stats.late_ticks), "{}", stats.late_ticks);
    assert_eq!(stats.refused, 1);
}

#[test]
fn a_clock_that_is_set_right_in_two_steps_puts_nothing_into_the_future() {
    let store = memory();
    let series = store.register(&labels("x", 0)).unwrap();
    let tick = |time: Millis| store.append(time, &[(series, Value::Float(1.0))]);
    // A day ahead; then two days back, and half of that forth.
    let day = 86_400_000;
    tick(START + day);
    tick(START - day);
    tick(START);
    (1..10).for_each(|at| tick(START + at * 1000));
    let times = &select(&store, &[])[0].samples.floats.times;
    assert_eq!(times.last(), Some(&(START + day + 1 + 10 * 500)));
}

#[test]
fn absurd_times_are_refused() {
    let store = memory();
    let series = store.register(&labels("x", 0)).unwrap();
    [Millis::MIN, Millis::MIN + 1, Millis::MAX]
        .iter()
        .for_each(|time| store.append(*time, &[(series, Value::Float(1.0))]));
    assert_eq!((store.stats().refused, store.stats().samples), (3, 0));
}

#[test]
fn a_series_is_taken_once_a_tick_and_a_forgotten_one_is_refused() {
    let store = memory();
    let gone = store.register(&labels("gone", 0)).unwrap();
    store.append(START, &[(gone, Value::Float(1.0)), (gone, Value::Float(2.0))]);
    assert_eq!(store.stats().refused, 1);
    fill(&store, 1, 1, 2500);
    let other = store.register(&labels("other", 0)).unwrap();
    assert_eq!((gone.slot, store.stats().live_series), (other.slot, 2));
    store.append(
        START + 2_500_000,
        &[(gone, Value::Float(3.0)), (other, Value::Float(4.0))],
    );
    assert_eq!(store.stats().refused, 2);
    assert_eq!(
        select(&store, &[Matcher::equal("__name__", "other")])[0]
            .samples
            .floats
            .values,
        [4.0]
    );
    assert_eq!(
        select(&store, &[Matcher::equal("__name__", "gone")])[0]
            .samples
            .floats
            .values,
        [1.0]
    );
}

#[test]
fn bounds_are_asked_before_samples_are_read() {
    struct Few;
    impl Bounds for Few {
        fn take(&self, _: usize, samples: usize) -> Result<(), Refusal> {
            if samples > 50 {
                Err(Refusal::TooMany("50 samples".into()))
            } else {
                Ok(())
            }
        }
    }
    let store = memory();
    fill(&store, 1, 0, 100);
    let ask = || store.select(&[], Millis::MIN, Millis::MAX, &Few);
    assert_eq!(ask().unwrap_err(), Refusal::TooMany("50 samples".into()));
    let cheap = || {
        // Of what is not read nothing is counted: all names, and the last half of the samples.
        let names = store.series(&[], Millis::MIN, Millis::MAX, &Few);
        assert_eq!(names.unwrap(), [labels("x", 0)]);
        let words = store.words(
            None,
            &[Matcher::equal("peer", "peer-0000")],
            (START, Millis::MAX),
            &Few,
        );
        assert_eq!(words.unwrap().len(), 3);
        let half = store.select(&[], START + 50_000, Millis::MAX, &Few).unwrap();
        let column = &half[0].samples.floats;
        assert_eq!((column.times.len(), column.values.len()), (50, 50));
        assert!(column.values.capacity() < 60 && column.times.capacity() < 60);
    };
    cheap();
    store.flush();
    assert_eq!(ask().unwrap_err(), Refusal::TooMany("50 samples".into()));
    cheap();
}

#[test]
fn a_series_in_head_and_block_counts_once() {
    struct Count(AtomicUsize);
    impl Bounds for Count {
        fn take(&self, series: usize, _: usize) -> Result<(), Refusal> {
            self.0.fetch_add(series, Ordering::Relaxed);
            Ok(())
        }
    }
    let store = memory();
    fill(&store, 3, 0, 10);
    store.flush();
    fill(&store, 4, 10, 20);
    let bounds = Count(AtomicUsize::new(0));
    let found = store.series(&[], Millis::MIN, Millis::MAX, &bounds).unwrap();
    assert_eq!((found.len(), bounds.0.into_inner()), (4, 4));
}

#[test]
fn a_query_whose_time_is_over_stops_between_columns() {
    struct Over(AtomicUsize);
    impl Bounds for Over {
        fn take(&self, _: usize, _: usize) -> Result<(), Refusal> {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                0..3 => Ok(()),
                _ => Err(Refusal::TimedOut),
            }
        }
    }
    let store = memory();
    fill(&store, 300, 0, 10);
    store.flush();
    // Once for the block, then for 128 columns each.
    let ask = |to| store.select(&[], START, START + to, &Over(Default::default()));
    assert_eq!(ask(0).unwrap_err(), Refusal::TimedOut);
    assert!(
        store
            .select(
                &[Matcher::equal("peer", "peer-0001")],
                START,
                START,
                &Over(Default::default())
            )
            .is_ok()
    );
}
