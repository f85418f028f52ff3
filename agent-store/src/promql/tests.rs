//! Queries that want too much: stack, time, memory, or times beyond all calendars.

use super::{Answer, Error, Options, instant, parse, range, selector};
use crate::labels::Labels;
use crate::series::{Bounds, Column, Matcher, Millis, Refusal, Samples, Series, Source};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Ten series `x` with four samples each, at 0, 15, 30 and 45 s.
struct Ten;

impl Source for Ten {
    fn select(
        &self,
        _: &[Matcher],
        _: Millis,
        _: Millis,
        bounds: &dyn Bounds,
    ) -> Result<Vec<Series>, Refusal> {
        bounds.take(10, 40)?;
        let series = |at: u32| Series {
            labels: Labels::new([("__name__", "x".to_owned()), ("a", at.to_string())]),
            samples: Samples {
                floats: Column {
                    times: vec![0, 15_000, 30_000, 45_000],
                    values: vec![f64::from(at); 4],
                },
                ..Samples::default()
            },
        };
        Ok((0..10).map(series).collect())
    }

    fn series(
        &self,
        matchers: &[Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
    ) -> Result<Vec<Labels>, Refusal> {
        let all = self.select(matchers, from, to, bounds)?;
        Ok(all.into_iter().map(|one| one.labels).collect())
    }
}

/// So many samples, and so many looks at the clock.
struct Counted {
    samples: AtomicUsize,
    most_samples: usize,
    looks: AtomicUsize,
    most_looks: usize,
}

impl Counted {
    fn new(most_samples: usize, most_looks: usize) -> Self {
        let (samples, looks) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self {
            samples,
            most_samples,
            looks,
            most_looks,
        }
    }
}

impl Bounds for Counted {
    fn take(&self, _: usize, samples: usize) -> Result<(), Refusal> {
        if self.looks.fetch_add(1, Relaxed) >= self.most_looks {
            return Err(Refusal::TimedOut);
        }
        if self.samples.fetch_add(samples, Relaxed) + samples > self.most_samples {
            return Err(Refusal::TooMany("most".to_owned()));
        }
        Ok(())
    }
}

fn ask(query: &str, at: Millis, bounds: &dyn Bounds) -> Result<Answer, Error> {
    instant(query, at, &Options::default(), &Ten, bounds)
}

/// Runs on a thread with the stack that tokio and the standard library give one.
fn on_a_usual_stack(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    thread.spawn(work).unwrap().join().unwrap();
}

/// What nests, with what closes it.
const NESTS: [(&str, &str); 22] = [
    ("-", ""),
    ("(", ")"),
    ("-(", ")"),
    ("abs(", ")"),
    ("sort(", ")"),
    ("absent(", ")"),
    ("sum(", ")"),
    ("sum by (a) (", ")"),
    ("topk(1,", ")"),
    ("quantile(scalar(", "),x)"),
    ("clamp_max(", ",1)"),
    ("label_replace(", ",\"a\",\"$1\",\"b\",\"c\")"),
    ("histogram_quantile(1,", ")"),
    ("sum_over_time(", "[1m:1m])"),
    ("quantile_over_time(1,(-", ")[1m:1m])"),
    ("x<", ""),
    ("x^", ""),
    ("{\"m\"}<", ""),
    ("{\"m\"}==", ""),
    ("sum!=", ""),
    ("x @ 1 or (", ")"),
    ("x + on(a) group_left(b) (", ")"),
];

#[test]
fn what_nests_as_deep_as_may_be_has_room() {
    on_a_usual_stack(|| {
        for (open, close) in NESTS {
            let nested = |times: usize| open.repeat(times) + "x" + &close.repeat(times);
            // The most for the caller's stack, the least and the most for one of its own.
            for most in [100, 110, 2_000] {
                let fits = |times: &usize| parse::parts(&nested(*times)) <= most;
                let query = nested((1..=most).take_while(fits).last().unwrap());
                assert!(parse::parts(&query) + 12 > most, "{query}");
                for result in [
                    ask(&query, 60_000, &Counted::new(1_000_000, usize::MAX)),
                    range(
                        &query,
                        0,
                        60_000,
                        15_000,
                        &Options::default(),
                        &Ten,
                        &Counted::new(1_000_000, usize::MAX),
                    ),
                ] {
                    assert!(
                        result.as_ref().is_ok() || result.as_ref().is_err_and(|error| error.status() == 422),
                        "{query}: {result:?}"
                    );
                }
                assert!(selector(&query).is_err());
            }
            let error = ask(&nested(5_000), 0, &Counted::new(1_000_000, usize::MAX)).unwrap_err();
            assert!(error.to_string().contains("are the most"), "{open}: {error}");
        }
    });
}

#[test]
fn a_tree_that_is_dropped_for_an_error_has_room() {
    on_a_usual_stack(|| {
        for end in ["", "x)", "\"\"", "x[1m]", "y(1)", "`\\` `"] {
            for (open, _) in NESTS {
                let query = open.repeat(1_900 / parse::parts(open).max(1)) + end;
                assert!(ask(&query, 0, &Counted::new(1_000_000, usize::MAX)).is_err());
            }
        }
    });
}
