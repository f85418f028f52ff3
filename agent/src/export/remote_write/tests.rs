//! What is written, read by the official definitions.

mod decoded;

use super::client::judge;
use super::encode::Encoder;
use super::message::{Message, Point, Row};
use super::settings::{Histograms, RemoteWriteSettings};
use crate::aggregate::{Snapshot, Value};
use crate::export::prometheus;
use crate::export::push::http::Answer;
use crate::export::push::reply::Reply;
use crate::export::testing::{BYTES, RTT, START, exemplified, histogram, snapshot};
use agent_store::labels::Labels;
use agent_store::series::STALE;
use decoded::{Histogram, Series, decode};
use reqwest::header::HeaderMap;
use std::collections::BTreeMap;

fn encoder(protocol: u8) -> Encoder {
    let external = [("dc", "fra"), ("peer", "gives way")];
    let external: BTreeMap<_, _> = external.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
    let settings = RemoteWriteSettings {
        protocol,
        external_labels: external,
        ..RemoteWriteSettings::default()
    };
    Encoder::new(&settings, "host-1")
}

fn encoded(
    protocol: u8,
    encoder: &mut Encoder,
    snapshot: &Snapshot,
) -> BTreeMap<Vec<(String, String)>, Series> {
    let parts = encoder.encode(snapshot);
    let all = parts.iter().flat_map(|part| decode(protocol, part));
    all.map(|series| (series.labels.clone(), series)).collect()
}

fn labels(name: &str, i: usize) -> Vec<(String, String)> {
    let subject = format!("docker/a\"b\\c\u{fffd}{i}");
    let pairs = [
        ("__name__", name),
        ("dc", "fra"),
        ("instance", "host-1"),
        ("job", "geophone"),
        ("peer", "eu-west"),
        ("subject", &subject),
    ];
    pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).into()
}

#[test]
fn series_come_back_as_they_were() {
    for protocol in [1, 2] {
        let snapshot = snapshot(3, 4);
        let time = (snapshot.unix_nanos / 1_000_000) as i64;
        let all = encoded(protocol, &mut encoder(protocol), &snapshot);
        // Three of four families, up and target_info.
        assert_eq!(all.len(), 14);
        let bytes = &all[&labels("geophone_test_bytes_total", 2)];
        assert_eq!(
            (bytes.samples[0].value, bytes.samples[0].timestamp),
            (1_024.0, time)
        );
        let overflow = all
            .keys()
            .filter(|l| l.contains(&("otel_metric_overflow".into(), "true".into())));
        assert_eq!(overflow.count(), 4);
        let rtt = &all[&labels("geophone_test_rtt_seconds", 1)].histograms[0];
        let want = histogram(14);
        assert_eq!((rtt.count, rtt.zero_count), (Some(want.count), Some(want.zero)));
        assert_eq!((rtt.sum, rtt.schema, rtt.timestamp), (want.sum, 3, time));
        assert!(rtt.zero_threshold > 0.0);
        assert_eq!(expand(rtt), cells(&want.cells));
        if protocol == 1 {
            continue;
        }
        let started = (START + 2) as i64 / 1_000_000;
        assert_eq!((bytes.samples[0].start, rtt.start), (started, started));
        let metadata = |name, i| all[&labels(name, i)].metadata.clone().unwrap();
        let told = |kind, help: &str, unit: &str| (kind, help.to_owned(), unit.to_owned());
        assert_eq!(metadata(BYTES.name, 1), told(1, BYTES.help, "bytes"));
        assert_eq!(metadata("geophone_test_level", 1), told(2, "How far it is", ""));
        assert_eq!(metadata(RTT.name, 1), told(3, RTT.help, "seconds"));
        assert_eq!(all[&labels("geophone_test_level", 1)].samples[0].start, 0);
    }
}

/// By native index, which is one more than that of the cell.
fn cells(cells: &[u64]) -> Vec<(i32, i64)> {
    let all = (-159..).zip(cells).map(|(index, count)| (index, *count as i64));
    all.filter(|(_, count)| *count > 0).collect()
}

fn expand(h: &Histogram) -> Vec<(i32, i64)> {
    let (mut index, mut count, mut deltas, mut out) = (0, 0, h.deltas.iter(), Vec::new());
    for span in &h.spans {
        index += span.offset;
        for _ in 0..span.length {
            count += deltas.next().unwrap();
            out.push((index, count));
            index += 1;
        }
    }
    assert!(deltas.next().is_none());
    out.retain(|(_, count)| *count > 0);
    out
}

fn stale(series: &Series) -> bool {
    let number = series.samples.first().map(|s| s.value);
    let histogram = series.histograms.first().map(|h| h.sum);
    number.or(histogram).unwrap().to_bits() == STALE.to_bits()
}

#[test]
fn a_series_that_leaves_ends_once_and_all_end_at_the_end() {
    for protocol in [1, 2] {
        let mut encoder = encoder(protocol);
        let first = snapshot(3, 1);
        encoder.encode(&first);
        let mut second = Snapshot {
            tick: 2,
            ..first.clone()
        };
        for family in &mut second.families {
            family.series.truncate(2);
        }
        // Made anew, and yet the same series.
        let again = crate::export::testing::labels(1);
        second.families[0].series[1].labels = again.clone();
        let all = encoded(protocol, &mut encoder, &second);
        assert_eq!(all.values().filter(|s| stale(s)).count(), 4);
        for name in ["geophone_test_bytes_total", "geophone_test_rtt_seconds"] {
            assert!(stale(&all[&labels(name, 2)]) && !stale(&all[&labels(name, 1)]));
        }
        let third = Snapshot {
            tick: 3,
            ..second.clone()
        };
        let all = encoded(protocol, &mut encoder, &third);
        assert_eq!((all.len(), all.values().filter(|s| stale(s)).count()), (10, 0));
        let end = encoder.end();
        let all: Vec<Series> = end.iter().flat_map(|part| decode(protocol, part)).collect();
        assert_eq!((all.len(), all.iter().filter(|s| stale(s)).count()), (10, 10));
        assert!(encoder.end().is_empty());
    }
}

/// Cause: the machine is in another zone from the second snapshot on. Seen: `target_info` of the new one, the end of the old one, once;
/// `up` goes on.
#[test]
fn where_the_machine_is_follows_it() {
    let mut encoder = encoder(2);
    let mut snapshot = snapshot(1, 1);
    let named = |all: &BTreeMap<Vec<(String, String)>, Series>, name: &str| -> Vec<bool> {
        let own = all
            .iter()
            .filter(|(labels, _)| labels.contains(&("__name__".to_owned(), name.to_owned())));
        own.map(|(_, series)| stale(series)).collect()
    };
    for (zone, ended) in [("a", 0), ("b", 1), ("b", 0)] {
        std::sync::Arc::make_mut(&mut snapshot.resource).zone = zone.to_owned();
        snapshot.tick += 1;
        let all = encoded(2, &mut encoder, &snapshot.clone());
        let info = named(&all, "target_info");
        assert_eq!(
            (info.len(), info.iter().filter(|stale| **stale).count()),
            (1 + ended, ended),
            "{zone}"
        );
        assert_eq!(named(&all, "up"), [false]);
    }
}

#[test]
fn a_large_message_is_cut_and_each_part_stands_for_itself() {
    let identity = |i: usize| Labels::new([("__name__", "x".to_owned()), ("i", i.to_string())]);
    for protocol in [1, 2] {
        let mut message = Message::limited(protocol, 1_000);
        for i in 0..500 {
            message.push(&Row {
                metric: &BYTES,
                identity: &identity(i),
                start: 1,
                time: 2,
                point: Point::Number(i as f64),
                exemplars: Vec::new(),
            });
        }
        let parts = message.finish();
        assert!(parts.len() > 10, "{}", parts.len());
        let values = parts.iter().flat_map(|part| decode(protocol, part));
        let values: Vec<f64> = values.map(|s| s.samples[0].value).collect();
        assert_eq!(values, (0..500).map(f64::from).collect::<Vec<_>>());
    }
}

#[test]
fn an_answer_is_believed_as_far_as_the_protocol_goes() {
    let answer = |status, headers: &[(&'static str, &str)], body: &str| Answer {
        status,
        headers: headers
            .iter()
            .map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()))
            .collect::<HeaderMap>(),
        body: Some(body.as_bytes().to_vec()),
    };
    let samples = "x-prometheus-remote-write-samples-written";
    let histograms = "x-prometheus-remote-write-histograms-written";
    let rejected = |reply| match reply {
        Reply::Accepted { rejected, .. } => Some(rejected),
        _ => None,
    };
    for (protocol, status, headers, want) in [
        (1, 200, &[][..], Some(0)),
        (1, 204, &[(samples, "3")], Some(0)),
        (2, 204, &[(samples, "7"), (histograms, "3")], Some(0)),
        (2, 204, &[(samples, "10")], Some(0)),
        (2, 204, &[(samples, "99999999999999999999")], None),
        (2, 204, &[(samples, "7"), (histograms, "1")], Some(2)),
        (2, 204, &[(samples, "0"), (histograms, "0")], Some(10)),
        (2, 204, &[], None),
        (2, 400, &[(samples, "4")], Some(6)),
        (2, 400, &[(samples, "0")], None),
        (1, 400, &[(samples, "4")], None),
    ] {
        let reply = judge(&answer(status, headers, ""), protocol, 10);
        assert_eq!(rejected(reply.clone()), want, "{protocol} {status} {headers:?}");
        assert!(!matches!(reply, Reply::Retry { .. }));
    }
    for status in 100..600 {
        for protocol in [1, 2] {
            let reply = judge(&answer(status, &[("retry-after", "7")], ""), protocol, 10);
            let again = status == 429 || status >= 500;
            assert_eq!(
                matches!(reply, Reply::Retry { after: Some(_), .. }),
                again,
                "{status}"
            );
        }
    }
    for (protocol, status, want) in [
        (1, 400, "HTTP 400 out of order sample"),
        (2, 415, "set remote_write.protocol: 1"),
        (2, 200, "set remote_write.protocol: 1"),
        (1, 302, "redirects are not followed"),
    ] {
        match judge(&answer(status, &[], "out of order sample\nsecond"), protocol, 10) {
            Reply::Permanent { cause } => {
                assert!(cause.contains(want) && !cause.contains("second"), "{cause}")
            }
            reply => panic!("{status}: {reply:?}"),
        }
    }
}

#[test]
fn classic_buckets_are_those_of_the_exposition() {
    for protocol in [1, 2] {
        let settings = RemoteWriteSettings {
            protocol,
            histograms: Histograms::Classic,
            ..RemoteWriteSettings::default()
        };
        let mut encoder = Encoder::new(&settings, "host-1");
        let mut snapshot = snapshot(1, 1);
        let all = encoded(protocol, &mut encoder, &snapshot);
        assert_eq!(all.len(), 2 + 3 + 31);
        assert!(all.values().all(|s| s.histograms.is_empty()));
        let mut text = Vec::new();
        prometheus::encode(&snapshot, prometheus::Format::Text, &mut text);
        let text = String::from_utf8(text).unwrap();
        let mut compared = 0;
        for (labels, series) in &all {
            let get = |name: &str| labels.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
            let (name, le) = (get("__name__").unwrap(), get("le"));
            if let Some(suffix) = name.strip_prefix(RTT.name) {
                let le = le.map(|le| format!("le=\"{le}\"}} ")).unwrap_or_default();
                let line = text
                    .lines()
                    .find(|line| line.starts_with(&format!("{name}{{")) && line.contains(&le));
                let value: f64 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
                assert_eq!(series.samples[0].value, value, "{suffix} {le}");
                compared += 1;
            }
        }
        assert_eq!(compared, 31);
        // Each of them ends.
        snapshot.tick += 1;
        snapshot.families[3].series.clear();
        let all = encoded(protocol, &mut encoder, &snapshot);
        assert_eq!(all.values().filter(|s| stale(s)).count(), 31);
        assert!(all.values().all(|s| s.histograms.is_empty()));
    }
}

/// A histogram that has no value yet is one all the same.
#[test]
fn an_empty_histogram_has_its_counts() {
    let mut snapshot = snapshot(1, 1);
    snapshot.families[3].series[0].value = Value::Histogram(Default::default());
    for protocol in [1, 2] {
        let all = encoded(protocol, &mut encoder(protocol), &snapshot);
        let rtt = all.values().find(|s| !s.histograms.is_empty()).unwrap();
        assert_eq!(
            (rtt.histograms[0].count, rtt.histograms[0].zero_count),
            (Some(0), Some(0))
        );
        assert!(rtt.histograms[0].spans.is_empty());
    }
}

#[test]
fn exemplars_are_sent_once_with_the_series_that_counted_them() {
    let ids = [
        ("trace_id", format!("{:032x}", 0xabc)),
        ("span_id", format!("{:016x}", 0xdef)),
    ];
    let ids: Vec<_> = ids.map(|(n, v)| (n.to_owned(), v)).into();
    let time = (START / 1_000_000) as i64 + 1_250;
    for protocol in [1, 2] {
        for histograms in [Histograms::Native, Histograms::Classic] {
            let settings = RemoteWriteSettings {
                protocol,
                histograms,
                ..RemoteWriteSettings::default()
            };
            let mut encoder = Encoder::new(&settings, "host-1");
            let mut sent = |at| {
                let all = encoded(protocol, &mut encoder, &exemplified(at)).into_iter();
                let some = all.filter(|(_, series)| !series.exemplars.is_empty());
                let name = |labels: Vec<(String, String)>| {
                    let of = |key: &str| labels.iter().find(|l| l.0 == key).map_or("", |l| &l.1).to_owned();
                    (of("__name__"), of("le"))
                };
                some.map(|(labels, series)| (name(labels), series.exemplars))
                    .collect::<Vec<_>>()
            };
            let both = [(ids.clone(), 0.9, time), (ids.clone(), 5e6, time)];
            let named = |suffix: &str, le: &str| (format!("{}{suffix}", RTT.name), le.to_owned());
            let want = if histograms == Histograms::Native {
                vec![(named("", ""), both.to_vec())]
            } else {
                let [first, second] = both;
                vec![
                    (named("_bucket", "+Inf"), vec![second]),
                    (named("_bucket", "1.0"), vec![first]),
                ]
            };
            assert_eq!(sent(10), want, "{protocol} {histograms:?}");
            // The second is placed at 20.
            assert_eq!(sent(25).iter().map(|(_, e)| e.len()).sum::<usize>(), 1);
            assert!(sent(30).is_empty());
        }
    }
}
