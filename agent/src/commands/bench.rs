//! What `cargo xtask bench` and the tests ask of the agent itself.

use crate::aggregate::{Family, Labels, Resource, Series, Snapshot, Value};
use crate::app;
use crate::bpf::Engine;
use crate::config::Config;
use crate::error::{Context as _, Result};
use crate::export::otlp::encode as otlp;
use crate::export::otlp::settings::Temporality;
use crate::export::prometheus::{self, Format};
use crate::export::spare::Spare;
use crate::identity::Peers;
use crate::probes::tcp::metrics::BYTES;
use crate::probes::tunnel::corpus;
use crate::record::Source;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// `geophone bench-encode`: milliseconds to encode a snapshot of counters in each format, best of fifty.
pub fn bench_encode(series: u32) -> serde_json::Value {
    let row = |i: u32| {
        let (subject, peer) = (format!("subject-{}", i / 100), format!("peer-{}", i % 100));
        let values = [
            "transmit",
            subject.as_str(),
            peer.as_str(),
            "eu-central-1",
            "eu-central-1a",
        ];
        Series {
            labels: Arc::new(Labels::new(BYTES.labels, &values, false, 1)),
            value: Value::Counter(u64::from(i) * 1_000_003),
        }
    };
    let snapshot = Snapshot {
        tick: 1,
        unix_nanos: 2,
        start_unix_nanos: 1,
        resource: Arc::new(Resource::default()),
        families: vec![Family {
            metric: &BYTES,
            series: (0..series).map(row).collect(),
        }],
    };
    let best = |encode: &mut dyn FnMut() -> usize| {
        let mut best = Duration::MAX;
        let mut bytes = 0;
        for _ in 0..50 {
            let start = Instant::now();
            bytes = std::hint::black_box(encode());
            best = best.min(start.elapsed());
        }
        serde_json::json!({ "milliseconds": best.as_secs_f64() * 1e3, "bytes": bytes })
    };
    // As the exporters do it: what was sent gives its memory to the next.
    let spare = Spare::default();
    let expose = |format| {
        let mut size = 0;
        best(&mut || {
            let mut body = spare.take(size);
            prometheus::encode(&snapshot, format, &mut body);
            size = body.len();
            spare.lend(body).len()
        })
    };
    serde_json::json!({
        "series": series,
        "openmetrics": expose(Format::OpenMetrics),
        "protobuf": expose(Format::Protobuf),
        "otlp": best(&mut || otlp::encode(&snapshot, Temporality::Cumulative, None, &spare).iter().map(|p| p.body.len()).sum()),
    })
}

/// `geophone bench-ring`: fills the ring and drains it in turns, and says what each side costs.
pub fn bench_ring(config: &Config, btf: Option<PathBuf>, records: u64) -> Result<ExitCode> {
    let mut collector = app::collector(config, btf)?;
    let (mut produced, mut drained, mut delivered) = (Duration::ZERO, Duration::ZERO, 0u64);
    let batch = u32::try_from(config.limits.ring_bytes.get() / 160)
        .unwrap_or(10_000)
        .max(64);
    let mut sent = 0u64;
    while sent < records {
        let engine = collector.engine().context("no eBPF; see geophone check")?;
        let start = Instant::now();
        engine
            .test_run("synthetic", batch)
            .context("the generator does not run; see geophone check")?;
        produced += start.elapsed();
        sent += u64::from(batch);
        let start = Instant::now();
        loop {
            let n = collector.drain_synthetic();
            delivered += n as u64;
            if n == 0 {
                break;
            }
        }
        drained += start.elapsed();
    }
    let sums = collector.synthetic();
    let rate = |n: u64, t: Duration| n as f64 / t.as_secs_f64();
    let found = serde_json::json!({
        "sent": sent,
        "delivered": delivered,
        "dropped_ring_full": sums.dropped[agent_common::account::reason::RING_FULL],
        "unaccounted": sums.seen as i64 - (sums.emitted + sums.dropped.iter().sum::<u64>()) as i64,
        "produce_per_second": rate(sent, produced),
        "drain_per_second": rate(delivered, drained),
        "produce_nanos": produced.as_nanos() as f64 / sent as f64,
        "drain_nanos": drained.as_nanos() as f64 / delivered as f64,
    });
    super::say(&found.to_string()).map(|()| ExitCode::SUCCESS)
}

/// `geophone test-corpus`: the corpus of packets through the loaded programs; fails if they and the parser differ.
pub fn test_corpus(config: &Config, btf: Option<PathBuf>) -> Result<ExitCode> {
    let peers = Peers::new(&config.peers, &config.region, &config.zone).context("peers")?;
    let mut engine = Engine::load(btf, app::sizes(config, &peers), &Source::Kernel)?;
    let found = corpus::run(&mut engine, app::tunnels(config))?;
    super::say(&found.to_string())?;
    Ok(if found["different"] == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
