//! Queries that want too much: stack, time, memory, or times beyond all calendars.

use super::{Answer, Error, Options, instant, parse, range, selector};
use crate::labels::Labels;
use crate::series::{Bounds, Column, Matcher, Millis, Refusal, Samples, Series, Source};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Series `x` with four samples each, at 0, 15, 30 and 45 s.
struct Many(u32);

impl Source for Many {
    fn select(
        &self,
        _: &[Matcher],
        _: Millis,
        _: Millis,
        bounds: &dyn Bounds,
    ) -> Result<Vec<Series>, Refusal> {
        bounds.take(0, 0)?;
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
        Ok((0..self.0).map(series).collect())
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
    instant(query, at, &Options::default(), &Many(10), bounds)
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
                        &Many(10),
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

/// How often a query looks at the clock, over steps of 300 ms until the last samples are too old.
fn looks(query: &str, source: &Many) -> usize {
    let bounds = Counted::new(usize::MAX, usize::MAX);
    range(query, 0, 330_000, 300, &Options::default(), source, &bounds).unwrap();
    bounds.looks.load(Relaxed)
}

#[test]
fn windows_look_at_the_clock_for_what_they_hold() {
    // 2,400 windows of up to 7,200 samples: 16 times 2^20.
    let query = "count_over_time((count_over_time((vector(1))[2h:1s]))[40m:1s])";
    let bounds = Counted::new(usize::MAX, usize::MAX);
    assert!(ask(query, 0, &bounds).is_ok());
    let looked = bounds.looks.load(Relaxed);
    assert!((21..40).contains(&looked), "{looked}");
    let error = ask(query, 0, &Counted::new(usize::MAX, 15)).unwrap_err();
    assert_eq!(error.kind(), "timeout");
}

#[test]
fn aggregation_and_matching_look_at_the_clock_for_what_they_hold() {
    // 1,101 steps of a thousand series, each step on its own.
    let source = Many(1_000);
    let at_once = looks("sum(x)", &source);
    for query in ["stddev(x)", "avg(x)", "stdvar(x)"] {
        assert_eq!(looks(query, &source), at_once + 1, "{query}");
    }
    // Their parameter is looked at as well.
    for query in ["topk(1,x)", "bottomk by (a) (1,x)", "quantile(1,x)"] {
        assert_eq!(looks(query, &source), at_once + 2, "{query}");
    }
    assert!(looks("count_values(\"v\",x)", &source) > at_once + 60);
    assert_eq!(looks("x * on(a) x", &source), looks("x and on(a) x", &source) + 1);
    let crowded = "x * on() group_left() (x < 0 or on() x{a=\"1\"})";
    let bounds = Counted::new(usize::MAX, usize::MAX);
    let error = range(crowded, 0, 330_000, 300, &Options::default(), &source, &bounds).unwrap_err();
    assert!(error.to_string().contains("duplicate series"), "{error}");
}

#[test]
fn each_column_of_a_long_subquery_counts() {
    let deep = "sum_over_time((1+(1+(vector(1))))[200000s:1s])";
    for (samples, fits) in [(1_000_000, false), (2_000_000, true)] {
        let result = ask(deep, 0, &Counted::new(samples, usize::MAX));
        assert_eq!(result.as_ref().is_ok(), fits, "{result:?}");
        assert!(result.is_ok() || result.is_err_and(|error| error.status() == 422));
    }
    let over = |query: &str, samples: usize| {
        let bounds = Counted::new(samples, usize::MAX);
        range(
            query,
            0,
            11_000_000,
            1_000,
            &Options::default(),
            &Many(1),
            &bounds,
        )
    };
    assert!(
        over("1+(1+(vector(1)))", 0).is_ok(),
        "the steps of a query are few"
    );
    // A row for each value, of as many steps.
    assert_eq!(
        over("count_values(\"v\",vector(time()))", 1_000_000)
            .unwrap_err()
            .status(),
        422
    );
    assert!(over("count_values(\"v\",vector(1))", 0).is_ok());
}

#[test]
fn times_beyond_all_calendars_are_times_without_samples() {
    let far = "290000000y";
    let nested = |offset: &str| {
        let open = "max_over_time(".repeat(100);
        format!("{open}x{}", format!("[{far}:{far}]{offset})").repeat(100))
    };
    for query in [
        format!("x @ 9e15 offset -{far}"),
        format!("x @ -9e15 offset {far}"),
        format!("timestamp(x @ 9e300 offset -{far})"),
        format!("rate(x[{far}] offset {far})"),
        format!("rate(x[{far}] @ -9e15 offset {far})"),
        format!("rate(x[{far}] @ 9e15 offset -{far})"),
        format!("deriv(x[{far}:{far}] @ 9e15 offset -{far})"),
        format!("predict_linear(x[{far}:{far}] @ -9e15 offset {far}, 9e300)"),
        format!("x[{far}:{far}] offset {far}"),
        format!("absent_over_time(x[{far}] offset -{far})"),
        nested(""),
        nested(&format!(" offset {far}")),
        nested(&format!(" offset -{far}")),
        nested(&format!(" @ 9e15 offset -{far}")),
    ] {
        for at in [0, 1 << 53, -1 << 53] {
            let bounds = || Counted::new(1_000_000, usize::MAX);
            let once = ask(&query, at, &bounds());
            assert!(once.is_ok(), "{query}: {once:?}");
            let steps = range(&query, at, at, 1, &Options::default(), &Many(1), &bounds());
            assert!(steps.is_ok() || query.starts_with("x["), "{query}: {steps:?}");
        }
    }
}

#[test]
fn durations_that_do_not_fit_are_refused() {
    for query in [
        "x offset 1e30",
        "x offset -1e30",
        "x offset NaN",
        "x[1e30]",
        "x[99999999999999999999999999]",
        "x[5m:1e30]",
        "x offset 99999999999999999999999999y",
    ] {
        let error = ask(query, 0, &Counted::new(1_000_000, usize::MAX)).unwrap_err();
        assert_eq!(error.kind(), "bad_data", "{query}: {error}");
    }
}
