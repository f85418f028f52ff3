//! Ends of a span say what all of its samples say.

use super::*;
use crate::histogram::Histogram;
use crate::promql::{Answer, Options, instant};
use crate::series::{Matcher, STALE};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;

/// A store that knows no ends.
struct Whole<'a>(&'a Store);

impl Source for Whole<'_> {
    fn select(
        &self,
        matchers: &[Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
    ) -> Result<Vec<Series>, Refusal> {
        self.0.select(matchers, from, to, bounds)
    }
}

fn ask(source: &dyn Source, query: &str, at: Millis) -> Answer {
    instant(query, at, &Options::default(), source, &Free).unwrap()
}

fn grown(rng: &mut StdRng, of: &Histogram) -> Histogram {
    let mut of = of.clone();
    for _ in 0..rng.random_range(0..4) {
        let index = rng.random_range(-8..8);
        match of.positive.binary_search_by_key(&index, |(at, _)| *at) {
            Ok(at) => of.positive[at].1 += 1.0,
            Err(at) => of.positive.insert(at, (index, 1.0)),
        }
        of.count += 1.0;
        of.sum += 0.5;
    }
    of.zero_count += 1.0;
    of.count += 1.0;
    of
}

#[test]
fn rates_are_the_same_by_their_ends() {
    let mut rng = StdRng::seed_from_u64(7);
    let store = memory();
    let names: Vec<Labels> = (0..6)
        .map(|n| Labels::new([("__name__", "h"), ("n", &n.to_string())]))
        .collect();
    let series: Vec<_> = names
        .iter()
        .map(|labels| store.register(labels).unwrap())
        .collect();
    let new = || Histogram {
        schema: 3,
        zero_threshold: 1e-9,
        ..Histogram::default()
    };
    let mut now: Vec<Histogram> = names.iter().map(|_| new()).collect();
    let counters: Vec<_> = (0..4)
        .map(|n| {
            store
                .register(&Labels::new([("__name__", "f"), ("n", &n.to_string())]))
                .unwrap()
        })
        .collect();
    let mut counts = [0.0f64; 4];
    let mut by_ends = 0;
    for second in 0..2000i64 {
        let mut samples = Vec::new();
        for (at, held) in now.iter_mut().enumerate() {
            *held = grown(&mut rng, held);
            // The first two only grow; others begin anew, end, lose resolution or are not there.
            let what = if at < 2 { 0 } else { rng.random_range(0..400) };
            match what {
                1 => *held = new(),
                2 => held.schema = 5 - held.schema,
                3 => {
                    held.positive.pop();
                }
                _ => {}
            }
            let value = if what == 4 {
                Histogram { sum: STALE, ..new() }
            } else {
                held.clone()
            };
            if what != 5 {
                samples.push((series[at], Value::Histogram(Arc::new(value))));
            }
        }
        for (at, count) in counts.iter_mut().enumerate() {
            *count += f64::from(rng.random_range(0..3));
            let what = if at == 0 { 0 } else { rng.random_range(0..400) };
            let value = match what {
                1 => {
                    *count = 0.5;
                    *count
                }
                2 => STALE,
                3 => f64::NAN,
                _ => *count,
            };
            if what != 4 {
                samples.push((counters[at], Value::Float(value)));
            }
        }
        store.append(second * 1000, &samples);
        if second % 300 == 299 {
            store.flush();
        }
        if second % 600 == 599 {
            store.maintain();
        }
        if second % 37 == 0 && second > 0 {
            for query in [
                "rate(h[5m])",
                "increase(h{n=~\"0|1\"}[10m])",
                "rate(h{n=\"1\"}[20m] offset 1m)",
                "histogram_count(sum(rate(h[1m])))",
                "rate(f[5m])",
                "increase(f[1m])",
                "rate(f{n=\"0\"}[20m] offset 30s)",
                "f",
                "timestamp(f) or h",
                "f offset 7m",
            ] {
                let at = second * 1000;
                let (ends, whole) = (ask(&store, query, at), ask(&Whole(&store), query, at));
                // As text: NaN is no other's equal.
                assert_eq!(format!("{ends:?}"), format!("{whole:?}"), "{query} at {second}");
            }
            for name in ["f", "h"] {
                let only = [Matcher::equal("__name__", name), Matcher::equal("n", "0")];
                let (from, to) = ((second - 300) * 1000, second * 1000);
                by_ends += usize::from(store.rises(&only, from, to, &Free).unwrap().is_some());
            }
        }
    }
    assert_eq!(by_ends, 2 * 54, "what only grows is known by its ends, always");
}
