//! The store as a whole: what goes in comes out, after whatever happens in between.

mod crash;
mod exchange;
mod keep;
mod rise;
mod roundtrip;
mod work;

use super::*;
pub(super) use crate::series::Free;
use crate::series::{Bounds, Comparison, Matcher, Refusal, Series, Source};

/// 2023-11-14T22:00:00Z: the beginning of two hours.
pub(super) const START: Millis = 1_699_999_200_000;

/// Nothing happens unless the test says so.
pub(super) fn quiet() -> Settings {
    Settings {
        worker: false,
        ..Settings::default()
    }
}

pub(super) fn memory() -> Store {
    Store::open(Place::Memory, quiet()).unwrap().0
}

pub(super) fn open(directory: &std::path::Path) -> (Store, Report) {
    Store::open(Place::Directory(directory.to_owned()), quiet()).unwrap()
}

pub(super) fn labels(name: &str, at: usize) -> Labels {
    Labels::new([
        ("__name__", name.to_owned()),
        ("instance", "here".to_owned()),
        ("peer", format!("peer-{at:04}")),
    ])
}

pub(super) fn select(store: &Store, matchers: &[Matcher]) -> Vec<Series> {
    let mut found = store.select(matchers, Millis::MIN, Millis::MAX, &Free).unwrap();
    found.sort_by(|a, b| a.labels.cmp(&b.labels));
    found
}

/// The value of series `at` at tick `tick`: counters, constants and noise.
pub(super) fn value(at: usize, tick: usize) -> f64 {
    match at % 3 {
        0 => (tick * (at + 1)) as f64,
        1 => at as f64,
        _ => ((tick * 7919 + at) % 101) as f64 / 8.0,
    }
}

/// Appends ticks `from..to` to `n` series, a second apart.
pub(super) fn fill(store: &Store, n: usize, from: usize, to: usize) {
    let refs: Vec<SeriesRef> = (0..n)
        .map(|at| store.register(&labels("x", at)).unwrap())
        .collect();
    for tick in from..to {
        let samples: Vec<_> = refs
            .iter()
            .enumerate()
            .map(|(at, series)| (*series, Value::Float(value(at, tick))))
            .collect();
        store.append(START + tick as Millis * 1000, &samples);
    }
}

/// Asserts that the store has ticks `from..to` of `n` series, each once and in order.
pub(super) fn assert_filled(store: &Store, n: usize, from: usize, to: usize) {
    let found = select(store, &[Matcher::equal("__name__", "x")]);
    assert_eq!(found.len(), if from == to { 0 } else { n });
    let times: Vec<Millis> = (from..to).map(|tick| START + tick as Millis * 1000).collect();
    for (at, series) in found.iter().enumerate() {
        assert_eq!(series.labels, labels("x", at));
        assert_eq!(series.samples.floats.times, times);
        assert!(
            series
                .samples
                .floats
                .values
                .iter()
                .zip(from..)
                .all(|(v, tick)| *v == value(at, tick))
        );
    }
}
