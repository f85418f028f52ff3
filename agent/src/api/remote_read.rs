//! Prometheus' remote read: another Prometheus has all that the store holds of a selector, and evaluates itself.
//!
//! Only answers of type SAMPLES: those of chunks are for stores that hold chunks as Prometheus encodes them.
//!
//! Source: prompb/remote.proto and types.proto of Prometheus.

use super::promql::evaluated;
use super::routes::App;
use crate::export::wire::{close, close_small, double, labels, open, open_small, uint, zigzag};
use crate::memory::Memory;
use agent_store::histogram::Histogram;
use agent_store::promql::{Error, selector};
use agent_store::series::{Bounds as _, Matcher, Millis, STALE, Series, Source as _, is_stale};
use axum::body::Bytes;
use axum::extract::State as From;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use prost::Message as _;
use std::fmt::Write as _;

/// Where it is asked.
pub(super) const PATH: &str = "/api/v1/read";
/// Longest question once it is unpacked.
const LONGEST_QUESTION: usize = 256 << 10;
/// Queries in one question: Prometheus asks one.
const MOST_QUERIES: usize = 64;
/// Longest answer before it is packed: about 3.5 million samples.
const LONGEST_ANSWER: usize = 64 << 20;
/// The type of answers that we give.
const SAMPLES: i32 = 0;

#[derive(prost::Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    queries: Vec<Query>,
    #[prost(int32, repeated, tag = "2")]
    accepted: Vec<i32>,
}

#[derive(prost::Message)]
struct Query {
    #[prost(int64, tag = "1")]
    from: i64,
    #[prost(int64, tag = "2")]
    to: i64,
    #[prost(message, repeated, tag = "3")]
    matchers: Vec<LabelMatcher>,
}

#[derive(prost::Message)]
struct LabelMatcher {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    value: String,
}

pub(super) async fn read(From(app): From<App>, body: Bytes) -> Response {
    match evaluated(&app, move |memory| answer(memory, &body)).await {
        Ok(body) => {
            let headers = [
                (header::CONTENT_TYPE, "application/x-protobuf"),
                (header::CONTENT_ENCODING, "snappy"),
            ];
            (StatusCode::OK, headers, body).into_response()
        }
        Err(refusal) => refusal,
    }
}

fn bad<T>(why: impl std::fmt::Display) -> Result<T, Error> {
    Err(Error::BadData(format!("remote read: {why}")))
}

fn decode(body: &[u8]) -> Result<Request, Error> {
    match snap::raw::decompress_len(body) {
        Ok(0..=LONGEST_QUESTION) => {}
        Ok(length) => {
            return bad(format_args!(
                "the question has {length} bytes, more than {LONGEST_QUESTION}"
            ));
        }
        Err(e) => return bad(format_args!("the question is not packed by snappy: {e}")),
    }
    let unpacked = snap::raw::Decoder::new().decompress_vec(body);
    let unpacked = unpacked.or_else(|e| bad(format_args!("the question is not packed by snappy: {e}")))?;
    Request::decode(unpacked.as_slice()).or_else(|e| bad(format_args!("the question is no ReadRequest: {e}")))
}

fn answer(memory: &Memory, body: &[u8]) -> Result<Vec<u8>, Error> {
    let request = decode(body)?;
    if !request.accepted.is_empty() && !request.accepted.contains(&SAMPLES) {
        return bad("answers are of type SAMPLES, and the client does not accept these");
    }
    let limits = memory.limits(memory.timeout());
    let mut out = Vec::new();
    if request.queries.len() > MOST_QUERIES {
        return bad(format_args!(
            "the question has {} queries, more than {MOST_QUERIES}",
            request.queries.len()
        ));
    }
    for query in &request.queries {
        // Who finds nothing is not asked for its time by the store.
        limits.take(0, 0)?;
        let matchers = matchers(&query.matchers)?;
        let mut all = memory.store().select(&matchers, query.from, query.to, &limits)?;
        all.sort_by(|a, b| a.labels.cmp(&b.labels));
        let result = open(&mut out, 1);
        for series in &all {
            write(series, &mut out);
            if out.len() > LONGEST_ANSWER {
                return Err(Error::Execution(format!(
                    "remote read: the answer is longer than {} MiB; ask for fewer series or a shorter time",
                    LONGEST_ANSWER >> 20
                )));
            }
            limits.take(0, 0)?;
        }
        close(&mut out, result);
    }
    snap::raw::Encoder::new()
        .compress_vec(&out)
        .map_err(|e| Error::Internal(format!("remote read: {e}")))
}

/// By way of a selector as it is written, so that regular expressions mean what they mean in one.
fn matchers(all: &[LabelMatcher]) -> Result<Vec<Matcher>, Error> {
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let mut text = String::from("{");
    for matcher in all {
        let Some(operator) = ["=", "!=", "=~", "!~"].get(matcher.kind as usize) else {
            return bad(format_args!("there is no type {} of matchers", matcher.kind));
        };
        if !agent_store::promql::is_label_name(&matcher.name) {
            return bad(format_args!("{:?} is no name of a label", matcher.name));
        }
        let value = matcher
            .value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        let _ = write!(text, "{}{operator}\"{value}\",", matcher.name);
    }
    text.push('}');
    selector(&text)
}

/// `TimeSeries timeseries = 1`.
fn write(series: &Series, out: &mut Vec<u8>) {
    let message = open(out, 1);
    labels(out, 1, &series.labels);
    let floats = &series.samples.floats;
    let histograms = &series.samples.histograms;
    let ended = Histogram {
        sum: STALE,
        ..Histogram::default()
    };
    let mut native: Vec<(Millis, &Histogram)> = histograms
        .times
        .iter()
        .zip(&histograms.values)
        .map(|(time, histogram)| (*time, histogram.as_ref()))
        .collect();
    for (time, value) in floats.times.iter().zip(&floats.values) {
        // The store has one mark for the end of any series; here a histogram ends by one of its own.
        if is_stale(*value) && !histograms.times.is_empty() {
            native.push((*time, &ended));
            continue;
        }
        let sample = open_small(out, 2);
        double(out, 1, *value);
        uint(out, 2, *time as u64);
        close_small(out, sample);
    }
    native.sort_by_key(|(time, _)| *time);
    for (time, histogram) in native {
        let sample = open_small(out, 4);
        float_histogram(histogram, time, out);
        close_small(out, sample);
    }
    close(out, message);
}

/// A histogram whose counts are doubles, as the store has them.
fn float_histogram(histogram: &Histogram, time: Millis, out: &mut Vec<u8>) {
    double(out, 2, histogram.count);
    double(out, 3, histogram.sum);
    uint(out, 4, zigzag(i64::from(histogram.schema)));
    double(out, 5, histogram.zero_threshold);
    double(out, 7, histogram.zero_count);
    for (spans, counts, buckets) in [(8, 10, &histogram.negative), (11, 13, &histogram.positive)] {
        let mut next = 0;
        for run in buckets.chunk_by(|a, b| a.0 + 1 == b.0) {
            let Some((first, _)) = run.first() else { continue };
            let span = open_small(out, spans);
            uint(out, 1, zigzag(i64::from(first - next)));
            uint(out, 2, run.len() as u64);
            close_small(out, span);
            next = first + run.len() as i32;
        }
        let packed = open_small(out, counts);
        buckets
            .iter()
            .for_each(|(_, count)| out.extend_from_slice(&count.to_le_bytes()));
        close_small(out, packed);
    }
    uint(out, 14, if histogram.is_gauge { 3 } else { 0 });
    uint(out, 15, time as u64);
}

#[cfg(test)]
#[path = "remote_read_tests.rs"]
mod tests;
