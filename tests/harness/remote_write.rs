//! A receiver of remote write that holds the sender to every rule of its specification: Debian has none of version 2.
//!
//! Sources: remote_write_spec_2_0 (2.0-rc.4) and prompb/io/prometheus/write/v2/types.proto of Prometheus.

use anyhow::{Context as _, Result, ensure};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// `io.prometheus.write.v2.Request`.
#[derive(Message)]
struct Request {
    #[prost(string, repeated, tag = "4")]
    symbols: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Message)]
struct TimeSeries {
    #[prost(uint32, repeated, tag = "1")]
    labels_refs: Vec<u32>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    histograms: Vec<Histogram>,
    #[prost(message, optional, tag = "5")]
    metadata: Option<Metadata>,
    #[prost(int64, tag = "6")]
    reserved: i64,
}

#[derive(Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
    #[prost(int64, tag = "3")]
    start_timestamp: i64,
}

#[derive(Message)]
struct Metadata {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint32, tag = "3")]
    help_ref: u32,
    #[prost(uint32, tag = "4")]
    unit_ref: u32,
}

#[derive(Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    count_int: Option<u64>,
    #[prost(double, tag = "3")]
    sum: f64,
    #[prost(sint32, tag = "4")]
    schema: i32,
    #[prost(double, tag = "5")]
    zero_threshold: f64,
    #[prost(uint64, optional, tag = "6")]
    zero_count_int: Option<u64>,
    #[prost(message, repeated, tag = "11")]
    positive_spans: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "12")]
    positive_deltas: Vec<i64>,
    #[prost(int64, tag = "15")]
    timestamp: i64,
    #[prost(int64, tag = "17")]
    start_timestamp: i64,
}

#[derive(Message)]
struct BucketSpan {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

/// The value by which a sender says that a series has ended.
const STALE: u64 = 0x7ff0_0000_0000_0002;

/// The latest of a series.
#[derive(Clone, Debug)]
pub struct Latest {
    /// A number, or the count of a histogram.
    pub value: f64,
    /// When.
    pub timestamp: i64,
    /// When it began; 0 = not said.
    pub start: i64,
    /// Type, help and unit.
    pub metadata: (i32, String, String),
    /// It has ended.
    pub stale: bool,
}

/// What came.
#[derive(Debug, Default)]
pub struct Seen {
    /// By labels.
    pub series: BTreeMap<Vec<(String, String)>, Latest>,
    /// Requests.
    pub requests: usize,
    /// Samples and histograms of the requests that were taken.
    pub taken: u64,
    /// What broke a rule.
    pub wrong: Vec<String>,
}

/// What to answer to a request of so many samples and histograms, the first being number 0: status, header lines, and how much
/// of it is taken.
pub type Script = fn(usize, [u64; 2]) -> (u16, String, u64);

/// As the specification wants it.
pub fn obedient(_: usize, [samples, histograms]: [u64; 2]) -> (u16, String, u64) {
    (204, written(samples, histograms), samples + histograms)
}

/// The headers that say what was written.
pub fn written(samples: u64, histograms: u64) -> String {
    let header = |what, count| format!("X-Prometheus-Remote-Write-{what}-Written: {count}\r\n");
    header("Samples", samples) + &header("Histograms", histograms) + &header("Exemplars", 0)
}

/// A receiver at work.
#[derive(Debug)]
pub struct Receiver {
    /// What to give as `export.remote_write.url`.
    pub url: String,
    seen: Arc<Mutex<Seen>>,
}

impl Receiver {
    /// Of version 2.
    pub fn start(script: Script) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}/api/v1/write", listener.local_addr()?);
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = shared.clone();
                std::thread::spawn(move || serve(stream, &seen, script));
            }
        });
        Ok(Self { url, seen })
    }

    /// What has come so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Seen>, script: Script) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let (mut head, mut length) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            let lower = line.to_ascii_lowercase();
            if let Some(n) = lower.strip_prefix("content-length:") {
                length = n.trim().parse()?;
            }
            head.push(lower);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let (status, headers) = {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let number = seen.requests;
            seen.requests += 1;
            let counts = check_head(&head).and_then(|()| take(&body, &mut seen));
            match counts {
                Ok(counts) => {
                    let (status, headers, taken) = script(number, counts);
                    seen.taken += taken;
                    (status, headers)
                }
                Err(e) => {
                    seen.wrong.push(format!("{e:#}"));
                    (400, String::new())
                }
            }
        };
        write!(
            writer,
            "HTTP/1.1 {status} X\r\n{headers}Content-Length: 0\r\n\r\n"
        )?;
    }
}

fn check_head(head: &[String]) -> Result<()> {
    ensure!(
        head.first()
            .is_some_and(|l| l.starts_with("post /api/v1/write http/1.1")),
        "{head:?}"
    );
    for want in [
        "content-type: application/x-protobuf;proto=io.prometheus.write.v2.request",
        "content-encoding: snappy",
        "x-prometheus-remote-write-version: 2.0.0",
    ] {
        ensure!(head.iter().any(|line| line == want), "no {want} in {head:?}");
    }
    ensure!(
        head.iter().any(|line| line.starts_with("user-agent: geophone/")),
        "{head:?}"
    );
    Ok(())
}

/// Checks a request and takes note of it; how many samples and histograms there are.
fn take(body: &[u8], seen: &mut Seen) -> Result<[u64; 2]> {
    let body = snap::raw::Decoder::new().decompress_vec(body).context("snappy")?;
    let request = Request::decode(body.as_slice()).context("protobuf")?;
    let symbols = &request.symbols;
    ensure!(
        symbols.first().is_some_and(String::is_empty),
        "the first symbol is not empty"
    );
    let distinct: BTreeSet<_> = symbols.iter().collect();
    ensure!(distinct.len() == symbols.len(), "a symbol comes twice");
    let resolve = |at: u32| {
        symbols
            .get(at as usize)
            .cloned()
            .with_context(|| format!("no symbol {at}"))
    };
    let (mut counts, mut within) = ([0, 0], BTreeSet::new());
    for series in &request.timeseries {
        ensure!(series.labels_refs.len() % 2 == 0, "odd references");
        let words: Vec<String> = series
            .labels_refs
            .iter()
            .map(|at| resolve(*at))
            .collect::<Result<_>>()?;
        let labels: Vec<(String, String)> = words
            .chunks_exact(2)
            .map(|pair| (pair[0].clone(), pair[1].clone()))
            .collect();
        ensure!(
            labels.is_sorted_by(|a, b| a.0 < b.0),
            "not ordered, or twice: {labels:?}"
        );
        ensure!(
            labels.iter().all(|(n, v)| is_name(n) && !v.is_empty()),
            "{labels:?}"
        );
        ensure!(labels.iter().any(|(n, _)| n == "__name__"), "no name: {labels:?}");
        ensure!(within.insert(labels.clone()), "twice in a request: {labels:?}");
        ensure!(series.reserved == 0, "field 6 is reserved");
        let metadata = series.metadata.as_ref().context("no metadata")?;
        ensure!((1..=7).contains(&metadata.kind), "type {}", metadata.kind);
        let metadata = (
            metadata.kind,
            resolve(metadata.help_ref)?,
            resolve(metadata.unit_ref)?,
        );
        let latest = match (series.samples.as_slice(), series.histograms.as_slice()) {
            ([one], []) => Latest {
                value: one.value,
                timestamp: one.timestamp,
                start: one.start_timestamp,
                metadata,
                stale: one.value.to_bits() == STALE,
            },
            ([], [one]) => Latest {
                value: check_histogram(one).with_context(|| format!("{labels:?}"))?,
                timestamp: one.timestamp,
                start: one.start_timestamp,
                metadata,
                stale: one.sum.to_bits() == STALE,
            },
            _ => anyhow::bail!("neither one sample nor one histogram: {labels:?}"),
        };
        counts[usize::from(series.samples.is_empty())] += 1;
        ensure!(latest.start < latest.timestamp, "{latest:?}: {labels:?}");
        let before = seen.series.insert(labels.clone(), latest.clone());
        // The same once more is a repetition after an answer that asked for one.
        let older = before.filter(|before| before.timestamp > latest.timestamp);
        ensure!(older.is_none(), "back in time: {older:?}, {latest:?}: {labels:?}");
    }
    Ok(counts)
}

fn is_name(name: &str) -> bool {
    name.bytes()
        .enumerate()
        .all(|(i, b)| b == b'_' || b.is_ascii_alphabetic() || i > 0 && b.is_ascii_digit())
        && !name.is_empty()
}

/// The parts must add up; the count is the answer.
fn check_histogram(h: &Histogram) -> Result<f64> {
    let count = h.count_int.context("no count")?;
    let zero = h.zero_count_int.context("no zero count")?;
    ensure!((-4..=8).contains(&h.schema) && h.zero_threshold > 0.0, "{h:?}");
    ensure!(
        h.positive_spans.iter().skip(1).all(|span| span.offset >= 0),
        "{h:?}"
    );
    let length: u32 = h.positive_spans.iter().map(|span| span.length).sum();
    ensure!(length as usize == h.positive_deltas.len(), "{h:?}");
    let (mut bucket, mut sum) = (0_i64, 0_i64);
    for delta in &h.positive_deltas {
        bucket += delta;
        ensure!(bucket >= 0, "{h:?}");
        sum += bucket;
    }
    ensure!(
        sum as u64 + zero == count,
        "{} of {count}: {h:?}",
        sum as u64 + zero
    );
    Ok(count as f64)
}
