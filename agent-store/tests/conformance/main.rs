//! The same series in a real Prometheus and in memory, the same queries to both, the same answers. What differs, and why,
//! is in docs/promql.md.

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

use agent_store::promql::{Answer, Error, Options, Value, instant, json, range};
use agent_store::series::Millis;
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

fn seconds(time: Millis) -> String {
    format!("{}.{:03}", time.div_euclid(1000), time.rem_euclid(1000))
}

fn ours(query: &str, when: &When, memory: &Memory) -> (u16, String, bool) {
    let options = Options::default();
    let result: Result<Answer, Error> = match when {
        When::At(at) => instant(query, *at, &options, memory, &Free),
        When::Range(from, to, step) => range(query, *from, *to, *step, &options, memory, &Free),
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

#[test]
fn answers_are_those_of_prometheus() {
    let Some(prometheus) = Prometheus::start() else {
        eprintln!("SKIPPED: no prometheus here; `cargo xtask setup test` installs it");
        return;
    };
    let memory = Memory(data::all());
    prometheus.fill(&memory.0);
    let queries = queries::all();
    let mut different = Vec::new();
    for query in &queries {
        for (at, when) in WHEN.iter().enumerate() {
            let (status, body, ordered) = ours(query, when, &memory);
            let (wanted_status, wanted) = theirs(query, when, &prometheus);
            let difference = if status == wanted_status {
                compare(&body, &wanted, ordered).err()
            } else {
                Some(format!("status {status}, not {wanted_status}"))
            };
            if let Some(why) = difference {
                let brief = |text: &str| text.chars().take(600).collect::<String>();
                different.push(format!(
                    "{query} [{at}]: {why}\n  ours   {}\n  theirs {}",
                    brief(&body),
                    brief(&wanted)
                ));
                break;
            }
        }
    }
    assert!(
        different.is_empty(),
        "{} of {} queries differ:\n{}",
        different.len(),
        queries.len(),
        different.join("\n")
    );
}
