//! How fast a recording is replayed: flow and drop records, a hundred thousand a second, unpacked, checked, decoded, given
//! to their probe and counted. `cargo run --release -p agent --example bench_replay`
#![expect(clippy::unwrap_used, reason = "a benchmark")]

use agent::aggregate::Value;
use agent::app;
use agent::config::Config;
use agent::identity::Peers;
use agent::record::format::{self, Step, bytes, tag, varint};
use agent::record::{Meta, Replay};
use agent_common::account::program;
use agent_common::drops::DropRecord;
use agent_common::tcp::FlowRecord;
use agent_common::wire::{Header, LAYOUT, Wire as _, kind};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use std::path::Path;
use std::time::Instant;

const SECONDS: u64 = 30;
const EACH: u64 = 100_000;

/// A record of which a third is noise, as addresses, times and counters are.
fn record(kind: u8, program: usize, size: usize, random: &mut StdRng) -> Vec<u8> {
    let header = Header {
        kind,
        program: u32::try_from(program).unwrap(),
        layout: LAYOUT,
        len: u16::try_from(size).unwrap(),
    };
    let mut out = Vec::new();
    header.encode(&mut out);
    out.resize(size, 0);
    for byte in out.iter_mut().skip(Header::SIZE).step_by(3) {
        *byte = random.random();
    }
    out
}

fn step(frames: &mut Vec<u8>, step: Step, second: u64) {
    frames.push(tag::STEP);
    for number in [step.number(), second * 1_000_000_000, second * 1_000_000_000, 0] {
        varint(frames, number);
    }
}

fn count(value: &Value) -> u64 {
    match value {
        Value::Counter(count) => *count,
        _ => 0,
    }
}

fn main() {
    let config = Config::default();
    let peers = Peers::new(&[], "", "").unwrap();
    let mut file = format::head(&Meta::now(&config).unwrap());
    let engine = json!({
        "cpus": 2, "accept_parameters": 2, "sizes": app::sizes(&config, &peers), "drop_reasons": {},
    });
    let mut frames = vec![tag::FACT];
    bytes(&mut frames, b"engine");
    bytes(&mut frames, engine.to_string().as_bytes());
    step(&mut frames, Step::Attach, 0);
    file.extend(format::chunk(&frames));
    let mut random = StdRng::seed_from_u64(1);
    let mut raw = 0;
    for second in 1..=SECONDS {
        let mut frames = Vec::new();
        for _ in 0..10 {
            let mut records = Vec::new();
            for i in 0..EACH / 10 {
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
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let mut replay = Replay::new(&file, Path::new("benchmark")).unwrap();
        let start = Instant::now();
        let mut delivered = 0;
        while let Some(snapshot) = replay.tick().unwrap() {
            let events = snapshot.family("geophone_events_total").unwrap();
            let counted = events
                .series
                .iter()
                .filter(|s| s.labels.text.contains("delivered"));
            delivered = counted.map(|s| count(&s.value)).sum();
        }
        assert_eq!(delivered, SECONDS * EACH);
        best = best.min(start.elapsed().as_secs_f64());
    }
    let events = (SECONDS * EACH) as f64;
    println!(
        "{}",
        json!({
            "events": events,
            "million_events_per_second": (events / best / 1e4).round() / 100.0,
            "bytes_per_event": raw as f64 / events,
            "packed": file.len() as f64 / raw as f64,
        })
    );
}
