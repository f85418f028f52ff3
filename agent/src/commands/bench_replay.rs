//! `geophone bench-replay`: how fast a recording is replayed. Flow and drop records, a hundred thousand a second, are unpacked,
//! checked, decoded, given to their probe and counted.

use crate::aggregate::Value;
use crate::app;
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::identity::Peers;
use crate::record::format::{self, Step, bytes, tag, varint};
use crate::record::{Meta, Replay};
use agent_common::account::program;
use agent_common::drops::DropRecord;
use agent_common::tcp::FlowRecord;
use agent_common::wire::{Header, LAYOUT, Wire as _, kind};
use serde_json::json;
use std::path::Path;
use std::time::Instant;

/// Records of a second.
const EACH: u64 = 100_000;
/// Drains of a second, as an agent makes them.
const DRAINS: u64 = 10;

/// Numbers that look random (Marsaglia's xorshift).
struct Random(u64);

impl Random {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u8
    }
}

/// A record of which a third is noise, as addresses, times and counters are.
fn record(kind: u8, program: usize, size: usize, random: &mut Random) -> Vec<u8> {
    let header = Header {
        kind,
        program: program as u32,
        layout: LAYOUT,
        len: size as u16,
    };
    let mut out = Vec::with_capacity(size);
    header.encode(&mut out);
    out.resize(size, 0);
    for byte in out.iter_mut().skip(Header::SIZE).step_by(3) {
        *byte = random.byte();
    }
    out
}

fn step(frames: &mut Vec<u8>, step: Step, second: u64) {
    frames.push(tag::STEP);
    for number in [step.number(), second * 1_000_000_000, second * 1_000_000_000, 0] {
        varint(frames, number);
    }
}

/// A recording of so many seconds, and how long it is before it is packed.
fn recording(seconds: u64) -> Result<(Vec<u8>, usize)> {
    let config = Config::default();
    let peers = Peers::new(&[], "", "").context("peers")?;
    let mut file = format::head(&Meta::now(&config)?);
    let engine = json!({
        "cpus": 2, "accept_parameters": 2, "sizes": app::sizes(&config, &peers), "drop_reasons": {},
    });
    let mut frames = vec![tag::FACT];
    bytes(&mut frames, b"engine");
    bytes(&mut frames, engine.to_string().as_bytes());
    step(&mut frames, Step::Attach, 0);
    file.extend(format::chunk(&frames));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut raw = 0;
    for second in 1..=seconds {
        let mut frames = Vec::new();
        for _ in 0..DRAINS {
            let mut records = Vec::new();
            for i in 0..EACH / DRAINS {
                let (kind, program, size) = match i % 2 {
                    0 => (kind::TCP_FLOW, program::TCP_STATE, FlowRecord::SIZE),
                    _ => (kind::DROP, program::DROPS_KFREE, DropRecord::SIZE),
                };
                bytes(&mut records, &record(kind, program, size, &mut random));
            }
            frames.push(tag::RECORDS);
            bytes(&mut frames, &records);
            step(&mut frames, Step::Drain, second);
        }
        step(&mut frames, Step::Tick, second);
        raw += frames.len();
        file.extend(format::chunk(&frames));
    }
    Ok((file, raw))
}

/// Events that a replay has counted.
fn replayed(file: &[u8]) -> Result<u64> {
    let mut replay = Replay::new(file, Path::new("benchmark"))?;
    let mut delivered = 0;
    while let Some(snapshot) = replay.tick()? {
        let events = snapshot.family("geophone_events_total");
        let counted = events.iter().flat_map(|family| &family.series);
        let counted = counted.filter(|series| series.labels.text.contains("delivered"));
        delivered = counted
            .map(|series| match series.value {
                Value::Counter(count) => count,
                _ => 0,
            })
            .sum();
    }
    Ok(delivered)
}

/// Replays it some times; the best counts.
pub fn bench_replay(seconds: u64, rounds: u32) -> Result<serde_json::Value> {
    let (file, raw) = recording(seconds)?;
    let events = seconds * EACH;
    let mut best = f64::INFINITY;
    for _ in 0..rounds.max(1) {
        let start = Instant::now();
        let counted = replayed(&file)?;
        best = best.min(start.elapsed().as_secs_f64());
        if counted != events {
            return Err(Error::new(format_args!(
                "{counted} of {events} events were counted"
            )));
        }
    }
    Ok(json!({
        "events": events,
        "events_per_second": events as f64 / best,
        "bytes_per_event": raw as f64 / events as f64,
        "packed": file.len() as f64 / raw as f64,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_of_the_benchmark_is_counted() {
        let answer = bench_replay(2, 1).unwrap();
        assert_eq!(answer["events"], 200_000);
        assert!(answer["events_per_second"].as_f64().unwrap() > 1000.0);
    }
}
