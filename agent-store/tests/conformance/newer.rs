//! What Prometheus 2.42 does not know or does otherwise (docs/promql.md), and what concerns only us: by hand.

use crate::data::{self, START};
use crate::memory::{Free, Memory};
use agent_store::promql::{Answer, Options, Sample, Value, Version, instant, range};
use agent_store::series::{Bounds, Matcher, Millis, Refusal, Series, Source};
use std::sync::atomic::{AtomicUsize, Ordering};

const AT: Millis = START + 1_800_000;

fn two() -> Options {
    Options {
        version: Version::Two,
        ..Options::default()
    }
}

fn ask(query: &str) -> Answer {
    let memory = Memory(data::all());
    instant(query, AT, &two(), &memory, &Free).unwrap_or_else(|error| panic!("{query}: {error}"))
}

/// As by the upgrade guide of Prometheus 3: a window and the lookback do not have their start.
#[test]
fn a_window_of_three_has_no_start() {
    let memory = Memory(data::all());
    let count = |query: &str, version, at| {
        let options = Options {
            version,
            ..Options::default()
        };
        match instant(query, at, &options, &memory, &Free).unwrap().value {
            Value::Vector(_, elements) => elements.first().map(|element| match element.sample {
                Sample::Float(value) => value,
                Sample::Histogram(_) => panic!("{query}"),
            }),
            _ => panic!("{query}"),
        }
    };
    // Samples are 15 s apart, and one is at the query's time.
    let query = "sort_desc(count_over_time(level[1m]))";
    let (two, three) = (count(query, Version::Two, AT), count(query, Version::Three, AT));
    assert_eq!((two, three), (Some(5.0), Some(4.0)));
    let subquery = "sort_desc(count_over_time(level[1m:10s]))";
    assert_eq!(count(subquery, Version::Two, AT), Some(7.0));
    assert_eq!(count(subquery, Version::Three, AT), Some(6.0));
    let last = START + data::LASTS;
    let of = |version, at| count("sort_desc(count(level))", version, at);
    assert!(of(Version::Two, last + 300_000).is_some());
    assert_eq!(of(Version::Three, last + 300_000), None);
    assert!(of(Version::Three, last + 299_999).is_some());
}

/// The values of an instant vector of floats, in its order.
fn floats(query: &str) -> Vec<f64> {
    let Value::Vector(_, elements) = ask(query).value else {
        panic!("{query} is no vector")
    };
    elements
        .into_iter()
        .map(|element| match element.sample {
            Sample::Float(value) => value,
            Sample::Histogram(value) => panic!("{query}: {value:?}"),
        })
        .collect()
}

/// Two queries with the same floats, at least one.
fn same(a: &str, b: &str) {
    let (left, right) = (floats(a), floats(b));
    assert!(
        !left.is_empty() && left.len() == right.len(),
        "{a}: {left:?}; {b}: {right:?}"
    );
    for (x, y) in left.iter().zip(&right) {
        assert!(
            (x - y).abs() <= 1e-12 * x.abs().max(y.abs()),
            "{a}: {left:?}; {b}: {right:?}"
        );
    }
}

/// The steps of the subqueries below are 10 s off the samples.
#[test]
fn histograms_can_be_computed_with() {
    same(
        "histogram_avg(rpc_seconds)",
        "histogram_sum(rpc_seconds) / histogram_count(rpc_seconds)",
    );
    same(
        "histogram_count(rpc_seconds * 3)",
        "histogram_count(rpc_seconds) * 3",
    );
    same("histogram_sum(2 * rpc_seconds)", "histogram_sum(rpc_seconds) * 2");
    same("histogram_sum(rpc_seconds / 4)", "histogram_sum(rpc_seconds) / 4");
    same("histogram_count(-balance)", "-histogram_count(balance)");
    same(
        "histogram_count(rpc_seconds - rpc_seconds offset 5m)",
        "histogram_count(rpc_seconds) - histogram_count(rpc_seconds offset 5m)",
    );
    same(
        "histogram_sum(avg(rpc_seconds))",
        "avg(histogram_sum(rpc_seconds))",
    );
    same(
        "histogram_sum(sum_over_time(rpc_seconds[2m59s]))",
        "sum_over_time(histogram_sum(rpc_seconds)[3m:15s] offset -10s)",
    );
    same(
        "histogram_count(avg_over_time(balance[2m59s]))",
        "avg_over_time(histogram_count(balance)[3m:15s] offset -10s)",
    );
    same(
        "histogram_sum(last_over_time(rpc_seconds[2m59s]))",
        "histogram_sum(rpc_seconds)",
    );
    same("histogram_stddev(balance) ^ 2", "histogram_stdvar(balance)");
    // Values spread evenly over -10..10 have a variance of 100/3; a bucket's mean is off by a part of its width.
    let variance = floats("histogram_stdvar(balance)")[0];
    assert!((variance - 100.0 / 3.0).abs() < 2.0, "{variance}");
    assert_eq!(floats("resets(rpc_seconds{job=\"api\"}[1h])"), [1.0]);
    assert!(floats("rpc_seconds > 1").is_empty() && floats("abs(rpc_seconds)").is_empty());
    let unequal = "rpc_seconds == rpc_seconds offset 5m";
    assert!(floats(&format!("histogram_count({unequal})")).is_empty());
    assert_eq!(floats("count(rpc_seconds == rpc_seconds)"), [3.0]);
}

#[test]
fn functions_of_later_versions() {
    assert_eq!(floats("mad_over_time(odd{kind=\"constant\"}[5m])"), [0.0]);
    assert_eq!(floats("mad_over_time(clock_seconds[1m])"), [1e6]);
    same(
        "double_exponential_smoothing(temperature_celsius[5m], 0.5, 0.3)",
        "holt_winters(temperature_celsius[5m], 0.5, 0.3)",
    );
    let labels = |query: &str, name: &str| {
        let Value::Vector(_, elements) = ask(query).value else {
            panic!("{query} is no vector")
        };
        elements
            .iter()
            .map(|element| element.labels.get(name).to_owned())
            .collect::<Vec<_>>()
    };
    let floors = labels("sort_by_label(temperature_celsius, \"floor\", \"room\")", "room");
    assert_eq!(floors, ["hall", "kitchen", "attic", "cellar"], "x9 is before x10");
    let floors = labels(
        "sort_by_label_desc(temperature_celsius, \"floor\", \"room\")",
        "room",
    );
    assert_eq!(floors, ["cellar", "attic", "kitchen", "hall"]);
}

#[test]
fn what_differs_from_2_42() {
    // @ fixes the window of predict_linear at all steps: the line is the same, only further away.
    let memory = Memory(data::all());
    let query = "predict_linear(clock_seconds[5m] @ 1600001800, 0)";
    let answer = range(query, AT, AT + 60_000, 15_000, &two(), &memory, &Free).unwrap();
    let Value::Matrix(series) = answer.value else {
        panic!("no matrix")
    };
    let values = &series[0].samples.floats.values;
    assert_eq!(values.len(), 5);
    for (step, value) in values.iter().enumerate() {
        let wanted = 1e9 + 120e6 + step as f64 * 1e6;
        assert!((value - wanted).abs() < 1e-3, "{value} is not {wanted}");
    }
    assert!(floats("stddev(odd{kind=\"inf\"})")[0].is_nan());
}

#[test]
fn what_is_doubtful_is_said_beside_the_answer() {
    let warnings = |query: &str| ask(query).warnings;
    assert_eq!(
        warnings("quantile(2, level)"),
        ["PromQL warning: quantile value should be between 0 and 1, got 2"]
    );
    assert_eq!(warnings("sum({__name__=~\"rpc_seconds|level\"})").len(), 1);
    assert!(warnings("histogram_quantile(0.5, bad_bucket)")[0].contains("malformed value of \"x\""));
    assert!(warnings("sum(level)").is_empty());
}

/// Counts how often it is asked.
struct Counted(Memory, AtomicUsize);

impl Source for Counted {
    fn select(
        &self,
        m: &[Matcher],
        from: Millis,
        to: Millis,
        b: &dyn Bounds,
    ) -> Result<Vec<Series>, Refusal> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.select(m, from, to, b)
    }
}

#[test]
fn a_selector_is_asked_for_once_whatever_the_steps() {
    let source = Counted(Memory(data::all()), AtomicUsize::new(0));
    let query = "sum(rate(http_requests_total[5m])) + max_over_time(rate(level[1m])[10m:10s])";
    range(query, START, START + 3_600_000, 1000, &two(), &source, &Free).unwrap();
    assert_eq!(source.1.load(Ordering::Relaxed), 2);
}

/// Lets so many samples pass.
struct Few(AtomicUsize);

impl Bounds for Few {
    fn take(&self, _: usize, samples: usize) -> Result<(), Refusal> {
        let left = self.0.load(Ordering::Relaxed).checked_sub(samples);
        self.0.store(left.unwrap_or(0), Ordering::Relaxed);
        left.map(|_| ())
            .ok_or_else(|| Refusal::TooMany("5000 samples".to_owned()))
    }
}

#[test]
fn a_query_that_is_too_large_ends() {
    let memory = Memory(data::all());
    let ask = |query: &str| {
        let bounds = Few(AtomicUsize::new(5_000));
        instant(query, AT, &two(), &memory, &bounds).map_err(|error| (error.status(), error.to_string()))
    };
    assert!(ask("sum(rate(http_requests_total[5m]))").is_ok());
    // A year of milliseconds: refused before it is made.
    for query in [
        "sum_over_time(vector(1)[1y:1ms])",
        "count_over_time(level[1d:1s])",
        "{__name__=~\".+\"}[1h]",
    ] {
        let (status, text) = ask(query).unwrap_err();
        assert_eq!(status, 422, "{text}");
        assert!(
            text.contains("too many samples") && text.contains("5000 samples"),
            "{text}"
        );
    }
    let late = range("level", START, START + 20_000, 1, &two(), &memory, &Free).unwrap_err();
    assert!(
        late.to_string()
            .contains("exceeded maximum resolution of 11,000 points")
    );
}

#[test]
fn what_is_hostile_ends_in_an_answer_or_in_an_error() {
    let memory = Memory(data::all());
    // As deep as the parser lets a query be, on the stack of a thread.
    let deep = [
        "-".repeat(1990) + "1",
        "(".repeat(1990) + "1" + &")".repeat(1990),
        "level + ".repeat(990) + "level",
        "abs(".repeat(990) + "level" + &")".repeat(990),
        "sum_over_time(".repeat(490) + "level" + &"[1m:1m])".repeat(490),
        "sum(".repeat(990) + "level" + &")".repeat(990),
    ];
    for query in &deep {
        let answer = instant(query, AT, &two(), &memory, &Few(AtomicUsize::new(1_000_000)));
        assert!(
            answer.is_ok() || answer.is_err_and(|error| error.status() == 422),
            "{query}"
        );
    }
    for query in [
        "level[1y] offset -290y",
        "level @ 9e9",
        "level offset 290y",
        "rate(level[290y] @ -9e9)",
    ] {
        for at in [0, i64::MAX, i64::MIN, 1 << 53, -1 << 53] {
            let _ = instant(query, at, &two(), &memory, &Few(AtomicUsize::new(1_000_000)));
            let _ = range(
                query,
                at,
                at,
                1,
                &two(),
                &memory,
                &Few(AtomicUsize::new(1_000_000)),
            );
        }
    }
}

#[test]
fn a_query_that_was_cut_and_pasted_at_random_never_panics() {
    let memory = Memory(data::all());
    let queries = crate::queries::all();
    let mut numbers = data::Numbers(0x1234_5678_90ab_cdef);
    let mut pick = |limit: usize| numbers.below(limit as u64) as usize;
    let pieces = [
        "\u{1F600}",
        "\"",
        "\\u",
        "{",
        "]",
        "(",
        "@",
        " offset ",
        "-",
        "5m",
        "1e999",
        "0x",
        "`",
        "\0",
        "=~",
        "\"[\"",
    ];
    for _ in 0..3000 {
        let mut query: Vec<char> = queries[pick(queries.len())].chars().collect();
        let at = pick(query.len() + 1);
        if pick(2) == 0 {
            let other: Vec<char> = queries[pick(queries.len())].chars().collect();
            query.truncate(at);
            query.extend(other.iter().skip(pick(other.len() + 1)));
        } else {
            query.splice(at..at, pieces[pick(pieces.len())].chars());
        }
        let query: String = query.into_iter().collect();
        let bounds = Few(AtomicUsize::new(1_000_000));
        if let Err(error) = instant(&query, AT, &two(), &memory, &bounds) {
            assert_ne!(error.status(), 500, "{query}: {error}");
        }
    }
}
