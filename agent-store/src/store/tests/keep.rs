//! How long samples stay, and what becomes of them.

use super::*;
use std::time::Duration;

#[test]
fn samples_are_rolled_up_and_then_removed() {
    let settings = Settings {
        keep: Duration::from_hours(2),
        keep_rollups: Duration::from_hours(8),
        ..quiet()
    };
    let (store, _) = Store::open(Place::Memory, settings).unwrap();
    for hour in 0..12 {
        fill(&store, 6, hour * 3600, (hour + 1) * 3600);
        store.maintain();
    }
    let newest = 12 * 3600 - 1;
    let plain = select(&store, &[Matcher::equal("peer", "peer-0000")]);
    let floats = &plain[0].samples.floats;
    let first = (floats.times[0] - START) / 1000;
    assert!(
        (newest - 10 * 3600..=newest - 8 * 3600 + 10).contains(&first),
        "{first}"
    );
    // The last of each step at its own time, then all.
    assert_eq!(first % 10, 9);
    assert_eq!(floats.times[1] - floats.times[0], 10_000);
    assert_eq!(
        floats.times[floats.times.len() - 1] - floats.times[floats.times.len() - 2],
        1000
    );
    for (time, v) in floats.times.iter().zip(&floats.values) {
        assert_eq!(*v, value(0, ((time - START) / 1000) as usize));
    }
    let ask = |which: &str| {
        let found = select(
            &store,
            &[Matcher::equal("peer", "peer-0002"), Matcher::equal(ROLLUP, which)],
        );
        assert_eq!(found[0].labels.get(ROLLUP), which);
        found[0].samples.floats.clone()
    };
    let (min, max, sum, count) = (ask("min"), ask("max"), ask("sum"), ask("count"));
    let of_step = |time: Millis| {
        let last = ((time - START) / 1000) as usize;
        (last - 9..=last).map(|tick| value(2, tick)).collect::<Vec<_>>()
    };
    for at in 0..100 {
        let values = of_step(min.times[at]);
        assert_eq!(
            min.values[at],
            values.iter().copied().fold(f64::INFINITY, f64::min)
        );
        assert_eq!(
            max.values[at],
            values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
        );
        assert_eq!(sum.values[at], values.iter().sum::<f64>());
        assert_eq!(count.values[at], 10.0);
    }
    assert_eq!(count.values.last(), Some(&1.0));
    assert_eq!(
        count.values.iter().sum::<f64>(),
        (newest + 1 - (first - 9)) as f64
    );
    let refusal = store.select(&[Matcher::equal(ROLLUP, "median")], 0, 1, &Free);
    let error = crate::promql::Error::from(refusal.unwrap_err());
    assert_eq!(
        (error.status(), error.to_string().as_str()),
        (
            400,
            "__rollup__=\"median\": there are last, min, max, sum and count"
        )
    );
}

/// One series in ten lasts for a day; the others go after two, by age or because there is no room.
#[test]
fn a_few_series_are_kept_for_longer_than_all_others() {
    for (keep_rollups, max_bytes) in [(0, 1 << 30), (3, 1 << 30), (20, 20_000)] {
        let settings = Settings {
            keep: Duration::from_hours(2),
            keep_rollups: Duration::from_hours(keep_rollups),
            lasting: vec!["lasts".to_owned(), "never there".to_owned()],
            keep_lasting: Duration::from_hours(24),
            max_bytes,
            ..quiet()
        };
        let home = tempfile::tempdir().unwrap();
        let open = || {
            Store::open(Place::Directory(home.path().to_owned()), settings.clone())
                .unwrap()
                .0
        };
        let mut store = open();
        let ticks = |from: usize, to: usize, store: &Store| {
            let series = store.register(&labels("lasts", 0)).unwrap();
            let others: Vec<SeriesRef> = (0..10)
                .map(|at| store.register(&labels("x", at)).unwrap())
                .collect();
            for tick in (from..to).step_by(10) {
                let mut samples: Vec<_> = others
                    .iter()
                    .enumerate()
                    .map(|(at, other)| (*other, Value::Float(((tick * 7919 + at) % 9973) as f64)))
                    .collect();
                // Each half minute, as an objective's events come.
                if tick % 30 == 0 {
                    samples.push((series, Value::Float(tick as f64)));
                }
                store.append(START + tick as Millis * 1000, &samples);
            }
        };
        for hour in 0..30 {
            ticks(hour * 3600, (hour + 1) * 3600, &store);
            store.maintain();
            if hour == 12 {
                drop(store);
                store = open();
            }
        }
        let floats = |name: &str| {
            select(&store, &[Matcher::equal("__name__", name)])[0]
                .samples
                .floats
                .clone()
        };
        let (all, some) = (floats("lasts"), floats("x"));
        let hours = |column: &crate::series::Column<f64>| {
            (column.times[column.times.len() - 1] - column.times[0]) / 3_600_000
        };
        assert!((23..29).contains(&hours(&all)), "{} h of what lasts", hours(&all));
        assert!(
            hours(&some) < 20,
            "{} h of all others: {:?}",
            hours(&some),
            store.info().blocks
        );
        // What shares a block stays with it, at most for a day. None is missing, and none is there twice.
        let first = ((all.times[0] - START) / 1000) as usize;
        let values: Vec<f64> = (first..30 * 3600).step_by(30).map(|tick| tick as f64).collect();
        assert_eq!(all.values, values);
        let stats = store.stats();
        assert_eq!((stats.damaged, stats.write_failures), (0, 0), "{stats:?}");
        let (blocks, bytes) = (store.info().blocks.len(), stats.disk_bytes);
        assert!(
            blocks < 40 && bytes < max_bytes + 1_000_000,
            "{blocks} blocks, {bytes} bytes"
        );
    }
}

#[test]
fn what_lasts_has_half_of_the_room_at_most() {
    let settings = Settings {
        keep: Duration::from_hours(1),
        keep_rollups: Duration::ZERO,
        lasting: vec!["x".to_owned()],
        keep_lasting: Duration::from_hours(1000),
        max_bytes: 400_000,
        ..quiet()
    };
    let (store, _) = Store::open(Place::Memory, settings).unwrap();
    for hour in 0..40 {
        fill(&store, 6, hour * 3600, (hour + 1) * 3600);
        store.maintain();
    }
    let blocks = store.info().blocks;
    let bytes: u64 = blocks.iter().map(|block| block.bytes).sum();
    assert!((100_000..=400_000).contains(&bytes), "{bytes}");
}

#[test]
fn size_has_an_end() {
    let settings = Settings {
        max_bytes: 60_000,
        ..quiet()
    };
    let home = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(Place::Directory(home.path().to_owned()), settings).unwrap();
    fill(&store, 60, 0, 20_000);
    store.maintain();
    let stats = store.stats();
    assert!(stats.disk_bytes < 160_000, "{stats:?}");
    let found = select(&store, &[]);
    assert_eq!(found[0].samples.floats.times.last(), Some(&(START + 19_999_000)));
    assert!(found[0].samples.floats.times[0] > START);
}

#[test]
fn series_that_come_and_go_leave_memory_and_then_the_disk() {
    let settings = Settings {
        keep: Duration::from_hours(1),
        keep_rollups: Duration::ZERO,
        ..quiet()
    };
    let (store, _) = Store::open(Place::Memory, settings).unwrap();
    let mut most = 0;
    // 12 new series a second, which is a million a day; each lives for ten seconds.
    let mut living = std::collections::VecDeque::new();
    for tick in 0..9000usize {
        living.extend((0..12).map(|at| store.register(&labels("flow", tick * 12 + at)).unwrap()));
        if living.len() > 120 {
            living.drain(..12);
        }
        let samples: Vec<_> = living
            .iter()
            .map(|series| (*series, Value::Float(tick as f64)))
            .collect();
        store.append(START + tick as Millis * 1000, &samples);
        if tick % 60 == 0 {
            store.maintain();
            most = most.max(store.stats().live_series);
        }
    }
    store.flush();
    // Thirty minutes of births, and who lives.
    assert!(most <= 12 * 1800 + 132, "{most}");
    let stats = store.stats();
    assert_eq!((stats.refused, stats.series_refused, stats.lost), (0, 0, 0));
    // Of nine thousand seconds an hour is left, and what shares a block with it.
    assert!(
        store.info().series < 12 * (3600 + 1200 + 7200),
        "{}",
        store.info().series
    );
    assert!(select(&store, &[Matcher::equal("peer", "peer-0005")]).is_empty());
    assert_eq!(
        select(&store, &[Matcher::equal("peer", "peer-100000")])[0]
            .samples
            .floats
            .times
            .len(),
        10
    );
}

#[test]
fn a_clock_that_leaps_into_the_future_and_back_removes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let years = 10 * 365 * 86_400_000;
    let (store, _) = open(home.path());
    fill(&store, 2, 0, 1000);
    let series = store.register(&labels("x", 0)).unwrap();
    (0..100).for_each(|at| store.append(START + years + at, &[(series, Value::Float(1.0))]));
    store.flush();
    drop(store);
    let (store, _) = open(home.path());
    fill(&store, 2, 1000, 2000);
    store.flush();
    let stats = store.stats();
    assert_eq!((stats.samples, stats.late_ticks), (4100, 1000), "{stats:?}");
    assert!(stats.findings[0].starts_with("the clock is 315"), "{stats:?}");
    let found = select(&store, &[Matcher::equal("peer", "peer-0001")]);
    assert_eq!(
        found[0].samples.floats.values,
        (0..2000).map(|tick| value(1, tick)).collect::<Vec<_>>()
    );
    drop(store);
    // One that stays there is believed.
    let (store, _) = open(home.path());
    (0..700).for_each(|at| {
        let series = store.register(&labels("x", 0)).unwrap();
        store.append(START + 2 * years + at * 1000, &[(series, Value::Float(1.0))]);
    });
    store.flush();
    assert_eq!(store.stats().samples, 700);
}
