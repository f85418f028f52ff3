//! How fast the agent replays a recording, on one CPU: all of it runs on one thread.

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::child::Program;
use super::stats::{median, quantile};
use super::subject::Place;

/// Events a second of one core that a replay is to reach.
const TARGET: f64 = 5e6;

/// Medians of some runs.
#[derive(Clone, Debug, Serialize)]
pub struct Replay {
    /// Runs, each of which is the best of three.
    runs: usize,
    /// Events a second.
    per_second: f64,
    /// The best run.
    best: f64,
    /// Bytes of an event before it is packed.
    bytes_per_event: f64,
}

/// Has the agent measure it.
pub fn measure(place: &Place, runs: usize) -> Result<Replay> {
    let agent = place.agent.display().to_string();
    let program = Program::new([agent.as_str(), "bench-replay", "--rounds", "3"]);
    let mut all: Vec<Value> = Vec::new();
    for _ in 0..runs.max(1) {
        all.push(serde_json::from_str(&program.finish()?).context("geophone bench-replay")?);
    }
    let values = |name: &str| -> Vec<f64> {
        let found = all.iter().map(|v| v.get(name).and_then(Value::as_f64));
        found.map(|v| v.unwrap_or(f64::NAN)).collect()
    };
    let rates = values("events_per_second");
    Ok(Replay {
        runs: all.len(),
        per_second: median(&rates),
        best: quantile(&rates, 1.0),
        bytes_per_event: median(&values("bytes_per_event")),
    })
}

impl Replay {
    /// As text.
    pub fn text(&self) -> String {
        format!(
            "\nReplay of flow and drop records: {:.2} M events a second and core, median of {}; best {:.2} M; {:.0} bytes each\n",
            self.per_second / 1e6,
            self.runs,
            self.best / 1e6,
            self.bytes_per_event
        )
    }

    /// Beside its target.
    pub fn judge(&self, judge: &mut impl FnMut(&str, &str, &str, String, bool)) {
        let reached = format!("{:.2} M", self.per_second / 1e6);
        judge(
            "replay, decode",
            "",
            "≥ 5 M/s",
            reached,
            self.per_second >= TARGET,
        );
    }
}
