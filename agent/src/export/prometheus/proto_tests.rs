use super::*;
use crate::export::testing::{RTT, START, exemplified, histogram, labels, snapshot};
use prost::Message as _;

#[derive(prost::Message)]
struct MetricFamily {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    help: String,
    #[prost(int32, tag = "3")]
    kind: i32,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Sample>,
}

#[derive(prost::Message)]
struct Sample {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Simple>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Simple>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(prost::Message)]
struct LabelPair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(prost::Message)]
struct Simple {
    #[prost(double, tag = "1")]
    value: f64,
}

#[derive(prost::Message)]
struct Histogram {
    #[prost(uint64, tag = "1")]
    sample_count: u64,
    #[prost(double, tag = "2")]
    sample_sum: f64,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, tag = "5")]
    schema: i32,
    #[prost(double, tag = "6")]
    zero_threshold: f64,
    #[prost(uint64, tag = "7")]
    zero_count: u64,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<Span>,
    #[prost(sint64, repeated, tag = "13")]
    positive_delta: Vec<i64>,
    #[prost(message, repeated, tag = "16")]
    exemplars: Vec<TheExemplar>,
}

#[derive(prost::Message)]
struct TheExemplar {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(double, tag = "2")]
    value: f64,
    #[prost(message, optional, tag = "3")]
    timestamp: Option<Timestamp>,
}

#[derive(prost::Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(prost::Message)]
struct Bucket {
    #[prost(uint64, tag = "1")]
    cumulative_count: u64,
    #[prost(double, tag = "2")]
    upper_bound: f64,
    #[prost(message, optional, tag = "3")]
    exemplar: Option<TheExemplar>,
}

#[derive(prost::Message)]
struct Span {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

fn decode(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let mut out = Vec::new();
    encode(snapshot, &mut out);
    let mut rest = out.as_slice();
    let mut families = Vec::new();
    while !rest.is_empty() {
        families.push(MetricFamily::decode_length_delimited(&mut rest).unwrap());
    }
    families
}

/// Counts by native index, as Prometheus expands spans and deltas.
fn expand(h: &Histogram) -> Vec<(i32, u64)> {
    let (mut index, mut count, mut deltas, mut out) = (0, 0, h.positive_delta.iter(), Vec::new());
    for span in &h.positive_span {
        index += span.offset;
        for _ in 0..span.length {
            count += deltas.next().unwrap();
            out.push((index, count as u64));
            index += 1;
        }
    }
    assert!(deltas.next().is_none());
    out.retain(|(_, count)| *count > 0);
    out
}

#[test]
fn families_come_back_as_they_were() {
    let families = decode(&snapshot(3, 0));
    let names: Vec<_> = families.iter().map(|f| (f.name.as_str(), f.kind)).collect();
    assert_eq!(
        names,
        [
            ("target_info", 1),
            ("geophone_test_bytes_total", 0),
            ("geophone_test_run_seconds_total", 0),
            ("geophone_test_level", 1),
            ("geophone_test_rtt_seconds", 4),
        ]
    );
    assert_eq!(families[4].help, "Round trips");
    assert_eq!(families[1].metric[2].counter.as_ref().unwrap().value, 1_020.0);
    assert_eq!(families[3].metric[2].gauge.as_ref().unwrap().value, 1.5 - 20.0);
    let labels: Vec<_> = families[1].metric[0]
        .label
        .iter()
        .map(|l| (l.name.as_str(), l.value.as_str()))
        .collect();
    assert_eq!(
        labels,
        [
            ("subject", "docker/a\"b\\c\u{fffd}0"),
            ("peer", "eu-west"),
            ("otel_metric_overflow", "true")
        ]
    );
}

#[test]
fn native_and_classic_buckets_hold_the_same_totals() {
    let want = histogram(10);
    let families = decode(&snapshot(2, 0));
    let got = families[4].metric[1].histogram.as_ref().unwrap();
    assert_eq!(
        (got.sample_count, got.sample_sum, got.zero_count),
        (want.count, want.sum, want.zero)
    );
    assert_eq!((got.schema, got.zero_threshold), (3, 2f64.powi(-128)));
    let native: Vec<(i32, u64)> = want
        .cells
        .iter()
        .enumerate()
        .filter(|(_, c)| **c > 0)
        .map(|(i, c)| (i as i32 - 159, *c))
        .collect();
    assert_eq!(expand(got), native);
    assert_eq!(got.bucket.len(), 29);
    for bucket in &got.bucket {
        // A cell belongs to a bound when its own upper bound, 2^(index/8), does not pass it.
        let below: u64 = native
            .iter()
            .filter(|(index, _)| f64::from(*index) / 8.0 <= bucket.upper_bound.log2())
            .map(|(_, c)| c)
            .sum();
        assert_eq!(
            bucket.cumulative_count,
            want.zero + below,
            "le {}",
            bucket.upper_bound
        );
    }
    assert_eq!(got.bucket[28].cumulative_count, got.sample_count);
}

#[test]
fn an_empty_histogram_is_still_a_native_one() {
    let series = crate::aggregate::Series {
        labels: labels(1),
        value: Value::Histogram(std::sync::Arc::new(HistogramValue::default())),
    };
    let snapshot = Snapshot {
        families: vec![Family {
            metric: &RTT,
            series: vec![series],
        }],
        ..Snapshot::default()
    };
    let families = decode(&snapshot);
    let got = families[1].metric[0].histogram.as_ref().unwrap();
    assert!(got.positive_span.is_empty() && got.positive_delta.is_empty() && got.zero_threshold > 0.0);
}

#[test]
fn exemplars_are_in_their_buckets_and_in_the_histogram() {
    let families = decode(&exemplified(30));
    let got = families[1].metric[0].histogram.as_ref().unwrap();
    let seen = |one: &TheExemplar| {
        let labels = one.label.iter().map(|l| format!("{}={}", l.name, l.value));
        let time = one.timestamp.as_ref().unwrap();
        (
            labels.collect::<Vec<_>>().join(" "),
            one.value,
            time.seconds,
            time.nanos,
        )
    };
    let ids = format!("trace_id={:032x} span_id={:016x}", 0xabc, 0xdef);
    let seconds = (START / 1_000_000_000) as i64 + 1;
    let want = [0.9, 5e6].map(|value| (ids.clone(), value, seconds, 250_000_000));
    assert_eq!(got.exemplars.iter().map(seen).collect::<Vec<_>>(), want);
    let buckets = got
        .bucket
        .iter()
        .filter_map(|b| b.exemplar.as_ref().map(|one| (b.upper_bound, seen(one))));
    let [first, second] = want;
    assert_eq!(
        buckets.collect::<Vec<_>>(),
        [(1.0, first), (f64::INFINITY, second)]
    );
    // What comes after them is read as before.
    assert_eq!(got.bucket[28].cumulative_count, got.sample_count);
}
