use super::*;
use crate::aggregate::Series;
use crate::export::testing::{LABELS, START, histogram, snapshot};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogramDataPoint, Metric as OtlpMetric, NumberDataPoint, metric::Data, number_data_point,
};
use prost::Message as _;
use std::sync::Arc;

fn decode(parts: &[Part]) -> Vec<OtlpMetric> {
    let mut out = Vec::new();
    for part in parts {
        let mut request = ExportMetricsServiceRequest::decode(part.body.clone()).unwrap();
        assert_eq!(request.resource_metrics.len(), 1);
        let mut resource = request.resource_metrics.remove(0);
        assert!(resource.resource.is_some());
        let scope = resource.scope_metrics.remove(0);
        assert_eq!(scope.scope.unwrap().name, "geophone");
        let points: usize = scope.metrics.iter().map(points).sum();
        assert_eq!(part.points, points as u64);
        out.extend(scope.metrics);
    }
    out
}

fn points(metric: &OtlpMetric) -> usize {
    match metric.data.as_ref().unwrap() {
        Data::Gauge(g) => g.data_points.len(),
        Data::Sum(s) => s.data_points.len(),
        Data::ExponentialHistogram(h) => h.data_points.len(),
        other => panic!("{other:?}"),
    }
}

fn sum(metric: &OtlpMetric) -> (&[NumberDataPoint], i32, bool) {
    let Some(Data::Sum(s)) = &metric.data else {
        panic!("{metric:?}")
    };
    (&s.data_points, s.aggregation_temporality, s.is_monotonic)
}

fn histograms(metric: &OtlpMetric) -> (&[ExponentialHistogramDataPoint], i32) {
    let Some(Data::ExponentialHistogram(h)) = &metric.data else {
        panic!("{metric:?}")
    };
    (&h.data_points, h.aggregation_temporality)
}

fn attributes(point: &NumberDataPoint) -> Vec<String> {
    point.attributes.iter().map(|a| a.key.clone()).collect()
}

#[test]
fn the_official_types_read_every_field() {
    let snapshot = snapshot(2, 1);
    let metrics = decode(&encode(
        &snapshot,
        Temporality::Cumulative,
        None,
        &Spare::default(),
    ));
    let names: Vec<_> = metrics
        .iter()
        .map(|m| (m.name.as_str(), m.unit.as_str()))
        .collect();
    assert_eq!(
        names,
        [
            ("geophone.test.bytes", "By"),
            ("geophone.test.run", "s"),
            ("geophone.test.level", "1"),
            ("geophone.test.rtt", "s")
        ]
    );
    assert_eq!(metrics[0].description, "Bytes that were tested");
    let (bytes, temporality, monotonic) = sum(&metrics[0]);
    assert_eq!((temporality, monotonic), (2, true));
    assert_eq!(bytes[1].value, Some(number_data_point::Value::AsInt(1_011)));
    assert_eq!(
        (bytes[1].start_time_unix_nano, bytes[1].time_unix_nano),
        (START + 1, snapshot.unix_nanos)
    );
    assert_eq!(
        attributes(&bytes[0]),
        ["geophone.subject", "geophone.peer", "otel.metric.overflow"]
    );
    assert_eq!(attributes(&bytes[1]), ["geophone.subject", "geophone.peer"]);
    assert_eq!(
        sum(&metrics[1]).0[0].value,
        Some(number_data_point::Value::AsDouble(1.25))
    );
    let Some(Data::Gauge(level)) = &metrics[2].data else {
        panic!()
    };
    assert_eq!(
        level.data_points[1].value,
        Some(number_data_point::Value::AsDouble(f64::NEG_INFINITY))
    );

    let want = histogram(11);
    let (points, temporality) = histograms(&metrics[3]);
    let got = &points[1];
    assert_eq!((temporality, got.scale, got.zero_threshold), (2, 3, 0.0));
    assert_eq!(
        (got.count, got.sum, got.zero_count),
        (want.count, Some(want.sum), want.zero)
    );
    assert_eq!((got.min, got.max), (Some(0.0), Some(230.0)));
    let positive = got.positive.as_ref().unwrap();
    assert_eq!(positive.offset, FIRST_INDEX);
    assert_eq!(positive.bucket_counts, want.cells);
    assert!(got.negative.is_none() && got.attributes.len() == 2);
}

#[test]
fn empty_ends_of_histograms_are_not_sent() {
    let mut out = Vec::new();
    positive(&mut out, &[0, 0, 3, 0, 1, 0]);
    let point = ExponentialHistogramDataPoint::decode(out.as_slice()).unwrap();
    let buckets = point.positive.unwrap();
    assert_eq!(
        (buckets.offset, buckets.bucket_counts),
        (FIRST_INDEX + 2, vec![3, 0, 1])
    );
    positive(&mut Vec::new(), &[0, 0]);
}

#[test]
fn the_resource_says_who_we_are_and_can_be_overridden() {
    let mut snapshot = snapshot(1, 1);
    Arc::get_mut(&mut snapshot.resource)
        .unwrap()
        .attributes
        .push(("service.name".into(), "mine".into()));
    let parts = encode(&snapshot, Temporality::Cumulative, None, &Spare::default());
    let request = ExportMetricsServiceRequest::decode(parts[0].body.clone()).unwrap();
    let attributes = &request.resource_metrics[0].resource.as_ref().unwrap().attributes;
    let keys: Vec<_> = attributes.iter().map(|a| a.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "service.version",
            "host.name",
            "cloud.region",
            "os.type",
            "deployment.environment.name",
            "service.name"
        ]
    );
}

#[test]
fn a_large_snapshot_is_sent_in_parts_that_lose_nothing() {
    let snapshot = snapshot(50, 1);
    let whole = decode(&encode(
        &snapshot,
        Temporality::Cumulative,
        None,
        &Spare::default(),
    ));
    let parts = encode_limited(&snapshot, Temporality::Cumulative, None, &Spare::default(), 3_000);
    assert!(parts.len() > 5 && parts.iter().all(|p| p.body.len() < 4_500));
    let total: u64 = parts.iter().map(|p| p.points).sum();
    assert_eq!(total, 200);
    let mut joined: Vec<OtlpMetric> = Vec::new();
    for metric in decode(&parts) {
        match joined.last_mut() {
            Some(last) if last.name == metric.name => {
                match (last.data.as_mut().unwrap(), metric.data.unwrap()) {
                    (Data::Sum(a), Data::Sum(b)) => a.data_points.extend(b.data_points),
                    (Data::Gauge(a), Data::Gauge(b)) => a.data_points.extend(b.data_points),
                    (Data::ExponentialHistogram(a), Data::ExponentialHistogram(b)) => {
                        a.data_points.extend(b.data_points)
                    }
                    _ => panic!(),
                }
            }
            _ => joined.push(metric),
        }
    }
    assert_eq!(joined, whole);
}

#[test]
fn deltas_add_up_to_the_total() {
    let (first, second) = (snapshot(3, 1), {
        let mut s = snapshot(3, 4);
        s.unix_nanos = s.unix_nanos.max(START) + 10;
        // A series has moved to another place and the labels are other objects: it is still the same series.
        for family in &mut s.families {
            family.series.rotate_left(1);
        }
        s
    });
    let one = decode(&encode(&first, Temporality::Delta, None, &Spare::default()));
    let two = decode(&encode(
        &second,
        Temporality::Delta,
        Some(&first),
        &Spare::default(),
    ));
    let (a, temporality, _) = sum(&one[0]);
    assert_eq!((temporality, a[1].start_time_unix_nano), (1, START + 1));
    assert_eq!(a[1].value, Some(number_data_point::Value::AsInt(1_011)));
    let (b, ..) = sum(&two[0]);
    // Series 1 is now at place 0.
    assert_eq!(b[0].value, Some(number_data_point::Value::AsInt(3)));
    assert_eq!(
        (b[0].start_time_unix_nano, b[0].time_unix_nano),
        (first.unix_nanos, second.unix_nanos)
    );
    assert_eq!(
        sum(&two[1]).0[0].value,
        Some(number_data_point::Value::AsDouble(3.0))
    );
    let (h, temporality) = histograms(&two[3]);
    assert_eq!((temporality, h[0].min, h[0].sum), (1, None, Some(3.0)));
    let want = histogram(14).since(&histogram(11));
    assert_eq!((h[0].count, h[0].zero_count), (want.count, want.zero));
    let Some(Data::Gauge(level)) = &two[2].data else {
        panic!()
    };
    assert_eq!(
        level.data_points[0].value,
        Some(number_data_point::Value::AsDouble(1.5 - 14.0))
    );
}

#[test]
fn a_series_that_began_anew_is_counted_from_zero() {
    let first = snapshot(1, 1);
    let mut second = snapshot(1, 2);
    let labels = Labels::new(LABELS, &["docker/a\"b\\c\n0", "eu-west"], true, START + 99);
    assert_eq!(labels.text, first.families[0].series[0].labels.text);
    second.families[0].series = vec![Series {
        labels: Arc::new(labels),
        value: Value::Counter(5),
    }];
    let metrics = decode(&encode(
        &second,
        Temporality::Delta,
        Some(&first),
        &Spare::default(),
    ));
    let (points, ..) = sum(&metrics[0]);
    assert_eq!(points[0].value, Some(number_data_point::Value::AsInt(5)));
    assert_eq!(points[0].start_time_unix_nano, START + 99);
}

#[test]
fn nothing_to_say_is_no_request() {
    assert!(
        encode(
            &Snapshot::default(),
            Temporality::Cumulative,
            None,
            &Spare::default()
        )
        .is_empty()
    );
}

#[test]
fn a_used_buffer_makes_no_difference() {
    let (large, small) = (snapshot(50, 1), snapshot(3, 2));
    let spare = Spare::default();
    let fresh = decode(&encode(&small, Temporality::Cumulative, None, &Spare::default()));
    let used = encode(&large, Temporality::Cumulative, None, &spare);
    let at = used[0].body.as_ptr();
    drop(used);
    let again = encode(&small, Temporality::Cumulative, None, &spare);
    assert_eq!(again[0].body.as_ptr(), at);
    assert_eq!(decode(&again), fresh);
}

#[test]
fn an_exemplar_is_sent_once() {
    use crate::export::testing::exemplified;
    let seen = |at, before: Option<u64>, temporality| {
        let before = before.map(exemplified);
        let parts = encode(&exemplified(at), temporality, before.as_ref(), &Spare::default());
        let metrics = decode(&parts);
        let (points, _) = histograms(&metrics[0]);
        points[0].exemplars.clone()
    };
    for temporality in [Temporality::Cumulative, Temporality::Delta] {
        let all = seen(30, None, temporality);
        // Of a difference only what was counted in it: the second lies beyond all that was.
        assert_eq!(all.len(), if temporality == Temporality::Delta { 1 } else { 2 });
        assert_eq!(all[0].trace_id, 0xabc_u128.to_be_bytes());
        assert_eq!(all[0].span_id, 0xdef_u64.to_be_bytes());
        assert_eq!(all[0].time_unix_nano, START + 1_250_000_000);
    }
    // The first was there in the export before.
    assert_eq!(seen(30, Some(10), Temporality::Cumulative).len(), 1);
    assert!(seen(30, Some(20), Temporality::Cumulative).is_empty());
}
