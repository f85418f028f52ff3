use super::*;
use crate::config::{StoreKind, StoreSettings};
use agent_store::labels::Labels;
use agent_store::store::Value;
use std::sync::Arc;

#[derive(prost::Message)]
struct Answer {
    #[prost(message, repeated, tag = "1")]
    results: Vec<Found>,
}

#[derive(prost::Message)]
struct Found {
    #[prost(message, repeated, tag = "1")]
    series: Vec<TimeSeries>,
}

#[derive(prost::Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Pair>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    histograms: Vec<Native>,
}

#[derive(prost::Message)]
struct Pair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(prost::Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

#[derive(prost::Message)]
struct Native {
    #[prost(double, optional, tag = "2")]
    count: Option<f64>,
    #[prost(double, tag = "3")]
    sum: f64,
    #[prost(sint32, tag = "4")]
    schema: i32,
    #[prost(double, optional, tag = "7")]
    zero_count: Option<f64>,
    #[prost(message, repeated, tag = "8")]
    negative_spans: Vec<Span>,
    #[prost(double, repeated, tag = "10")]
    negative_counts: Vec<f64>,
    #[prost(message, repeated, tag = "11")]
    positive_spans: Vec<Span>,
    #[prost(double, repeated, tag = "13")]
    positive_counts: Vec<f64>,
    #[prost(int64, tag = "15")]
    timestamp: i64,
}

#[derive(prost::Message)]
struct Span {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

fn expand(spans: &[Span], counts: &[f64]) -> Vec<(i32, f64)> {
    let (mut index, mut counts, mut out) = (0, counts.iter(), Vec::new());
    for span in spans {
        index += span.offset;
        for _ in 0..span.length {
            out.push((index, *counts.next().unwrap()));
            index += 1;
        }
    }
    assert!(counts.next().is_none());
    out
}

fn matcher(kind: i32, name: &str, value: &str) -> LabelMatcher {
    let (name, value) = (name.to_owned(), value.to_owned());
    LabelMatcher { kind, name, value }
}

fn query(from: i64, to: i64, matchers: Vec<LabelMatcher>) -> Query {
    Query { from, to, matchers }
}

fn packed(request: &Request) -> Vec<u8> {
    let plain = request.encode_to_vec();
    snap::raw::Encoder::new().compress_vec(&plain).unwrap()
}

fn ask(memory: &Memory, queries: Vec<Query>, accepted: Vec<i32>) -> Result<Vec<Found>, String> {
    let body = packed(&Request { queries, accepted });
    let body = answer(memory, &body).map_err(|e| e.to_string())?;
    let plain = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
    Ok(Answer::decode(plain.as_slice()).unwrap().results)
}

fn native() -> Histogram {
    Histogram {
        schema: 3,
        zero_threshold: 1e-9,
        zero_count: 2.0,
        count: 16.0,
        sum: 5.5,
        positive: vec![(-7, 1.0), (-6, 2.0), (4, 3.0)],
        negative: vec![(1, 8.0)],
        is_gauge: false,
    }
}

const START: Millis = 1_700_000_000_000;

/// Ten seconds of two counters, and a histogram that ends in the fifth.
fn memory(samples: u32, series: u32) -> Memory {
    let settings = StoreSettings {
        kind: StoreKind::Memory,
        query_samples: samples,
        query_series: series,
        ..StoreSettings::default()
    };
    let memory = Memory::open(&settings).unwrap().unwrap();
    let store = memory.store();
    let register = |pairs: &[(&str, &str)]| store.register(&Labels::new(pairs.iter().copied())).unwrap();
    let a = register(&[("__name__", "bytes_total"), ("peer", "a\"\\b")]);
    let b = register(&[("__name__", "bytes_total"), ("peer", "c")]);
    let h = register(&[("__name__", "rtt_seconds")]);
    for i in 0..10 {
        let mut tick = vec![(a, Value::Float(i as f64)), (b, Value::Float(2.0 * i as f64))];
        match i {
            0..5 => tick.push((h, Value::Histogram(Arc::new(native())))),
            5 => tick.push((h, Value::Float(STALE))),
            _ => {}
        }
        store.append(START + i * 1000, &tick);
    }
    memory
}

#[test]
fn each_query_gets_its_series_whole() {
    let memory = memory(1_000, 1_000);
    let bytes = vec![
        matcher(0, "__name__", "bytes_total"),
        matcher(0, "peer", "a\"\\b"),
    ];
    let queries = vec![
        query(START + 2_000, START + 4_000, bytes),
        query(
            0,
            i64::MAX / 2,
            vec![matcher(2, "__name__", "rtt.*"), matcher(1, "x", "y")],
        ),
        query(0, START - 1, vec![matcher(3, "__name__", "")]),
    ];
    let results = ask(&memory, queries, vec![1, 0]).unwrap();
    assert_eq!(
        results.iter().map(|r| r.series.len()).collect::<Vec<_>>(),
        [1, 1, 0]
    );
    let bytes = &results[0].series[0];
    let labels: Vec<_> = bytes
        .labels
        .iter()
        .map(|l| (l.name.as_str(), l.value.as_str()))
        .collect();
    assert_eq!(labels, [("__name__", "bytes_total"), ("peer", "a\"\\b")]);
    let samples: Vec<_> = bytes
        .samples
        .iter()
        .map(|s| (s.timestamp - START, s.value))
        .collect();
    assert_eq!(samples, [(2_000, 2.0), (3_000, 3.0), (4_000, 4.0)]);
    let rtt = &results[1].series[0];
    assert!(rtt.samples.is_empty());
    assert_eq!(rtt.histograms.len(), 6);
    let (last, ended) = (&rtt.histograms[4], &rtt.histograms[5]);
    let want = native();
    assert_eq!(
        (last.count, last.sum, last.schema, last.zero_count),
        (Some(16.0), 5.5, 3, Some(2.0))
    );
    assert_eq!(expand(&last.positive_spans, &last.positive_counts), want.positive);
    assert_eq!(last.positive_spans.len(), 2, "runs, not single buckets");
    assert_eq!(expand(&last.negative_spans, &last.negative_counts), want.negative);
    assert_eq!(last.timestamp, START + 4_000);
    assert!(is_stale(ended.sum) && ended.timestamp == START + 5_000);
}

#[test]
fn what_is_too_much_or_senseless_is_named() {
    let all = || vec![query(0, i64::MAX / 2, vec![matcher(2, "__name__", ".+")])];
    for (samples, series, want) in [
        (10, 1_000, "store.query_samples 10"),
        (1_000, 2, "store.query_series 2"),
    ] {
        let error = ask(&memory(samples, series), all(), vec![]).unwrap_err();
        assert!(error.contains(want), "{error}");
    }
    let memory = memory(1_000, 1_000);
    for (matcher, want) in [
        (matcher(2, "peer", "a("), "parse"),
        (matcher(9, "peer", "a"), "no type 9 of matchers"),
        (matcher(0, "a-b", "a"), "\"a-b\" is no name of a label"),
    ] {
        let error = ask(&memory, vec![query(0, 1, vec![matcher])], vec![]).unwrap_err();
        assert!(error.contains(want) && !error.contains('\n'), "{error}");
    }
    let error = ask(&memory, all(), vec![1]).unwrap_err();
    assert!(error.contains("type SAMPLES"), "{error}");
    // Says that it is 4 GiB long.
    for body in [
        &b"\xff\xff\xff\xff\x0f"[..],
        b"",
        b"\x05rubbish",
        &packed(&Request::default())[1..],
    ] {
        let error = answer(&memory, body).unwrap_err();
        assert!(matches!(error, Error::BadData(_)), "{body:?}: {error}");
    }
}
