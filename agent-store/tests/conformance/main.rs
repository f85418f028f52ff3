//! The same series in a real Prometheus, in memory and in the store, the same queries to all, the same answers. What differs,
//! and why, is in docs/promql.md.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at what it does not expect"
)]

mod compare;
mod data;
mod memory;
mod newer;
mod prometheus;
mod queries;

use agent_store::promql::{Answer, Error, Options, Value, Version, instant, json, range};
use agent_store::series::{Millis, Source};
use compare::compare;
use memory::{Free, Memory};
use prometheus::Prometheus;

enum When {
    At(Millis),
    Range(Millis, Millis, Millis),
}

/// Instants and ranges within the hour of data, at its ends and beyond, on samples and between them.
const WHEN: [When; 6] = [
    When::At(data::START + 1_800_000),
    When::At(data::START + 2_231_413),
    When::At(data::START + 3_700_000),
    When::At(data::START - 1000),
    When::Range(data::START - 120_000, data::START + 3_960_000, 60_000),
    When::Range(data::START + 1_400_500, data::START + 2_300_000, 13_000),
];

/// Ranges that are refused before anything is evaluated.
const REFUSED: [(&str, When); 5] = [
    ("level", When::Range(data::START, data::START - 1, 1000)),
    ("level", When::Range(data::START, data::START + 1000, 0)),
    ("level", When::Range(data::START, data::START + 11_001_000, 1000)),
    ("level[1m]", When::Range(data::START, data::START + 1000, 1000)),
    ("\"text\"", When::Range(data::START, data::START + 1000, 1000)),
];

fn seconds(time: Millis) -> String {
    format!("{}.{:03}", time.div_euclid(1000), time.rem_euclid(1000))
}

fn ours(query: &str, when: &When, source: &dyn Source) -> (u16, String, bool) {
    let options = Options {
        version: Version::Two,
        ..Options::default()
    };
    let result: Result<Answer, Error> = match when {
        When::At(at) => instant(query, *at, &options, source, &Free),
        When::Range(from, to, step) => range(query, *from, *to, *step, &options, source, &Free),
    };
    let ordered = matches!(
        &result,
        Ok(Answer {
            value: Value::Vector(..),
            ..
        })
    );
    let ordered = ordered
        && ["sort", "topk", "bottomk"]
            .iter()
            .any(|name| query.starts_with(name));
    match result {
        Ok(answer) => (200, json::answer(&answer), ordered),
        Err(error) => (error.status(), json::error(&error), false),
    }
}

fn theirs(query: &str, when: &When, prometheus: &Prometheus) -> (u16, String) {
    let query = ("query", query.to_owned());
    match when {
        When::At(at) => prometheus.ask("/api/v1/query", &[query, ("time", seconds(*at))]),
        When::Range(from, to, step) => {
            let times = [
                ("start", seconds(*from)),
                ("end", seconds(*to)),
                ("step", seconds(*step)),
            ];
            prometheus.ask("/api/v1/query_range", &[vec![query], times.to_vec()].concat())
        }
    }
}

/// Says how the answers to a query differ.
fn difference(query: &str, when: &When, source: &dyn Source, prometheus: &Prometheus) -> Option<String> {
    let (status, body, ordered) = ours(query, when, source);
    let (wanted_status, wanted) = theirs(query, when, prometheus);
    let why = if status == wanted_status {
        compare(&body, &wanted, ordered).err()?
    } else {
        format!("status {status}, not {wanted_status}")
    };
    let brief = |text: &str| text.chars().take(600).collect::<String>();
    Some(format!(
        "{query}: {why}\n  ours   {}\n  theirs {}",
        brief(&body),
        brief(&wanted)
    ))
}

#[test]
fn answers_are_those_of_prometheus() {
    let Some(prometheus) = Prometheus::start() else {
        eprintln!("SKIPPED: no prometheus here; `cargo xtask setup test` installs it");
        return;
    };
    let memory = Memory(data::all());
    prometheus.fill(&memory.0);
    let store = memory::store(&memory.0);
    let sources: [(&str, &dyn Source); 2] = [("memory", &memory), ("store", &store)];
    let queries = queries::all();
    let mut different = Vec::new();
    let cases = queries
        .iter()
        .flat_map(|query| WHEN.iter().map(move |when| (query.as_str(), when)));
    let cases = cases.chain(REFUSED.iter().map(|(query, when)| (*query, when)));
    for (query, when) in cases {
        for (name, source) in sources {
            different
                .extend(difference(query, when, source, &prometheus).map(|why| format!("{name}: {why}")));
        }
    }
    assert!(
        different.is_empty(),
        "{} differences in {} queries:\n{}",
        different.len(),
        queries.len(),
        different.join("\n")
    );
}
