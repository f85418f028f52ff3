//! The exporter against real peers on loopback: well-behaved, busy, broken, hostile.

mod grpc;
mod http;

use super::*;
use crate::export::push::sender::Sender;
use crate::export::push::settings::Retry;
use crate::export::push::stats::{Outcome, Reason};
use crate::export::push::{FLUSH, Part};
use crate::export::testing::snapshot;
use crate::export::testing_tls::{Directory, install_crypto};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use settings::Protocol;
use std::time::Duration;
use tokio::time::Instant;

/// Far more than a reply takes, also on a busy machine.
const SLOW: Duration = Duration::from_secs(5);
/// For peers that do not reply.
const IMPATIENT: Duration = Duration::from_millis(300);

fn settings(endpoint: String, protocol: Protocol) -> OtlpSettings {
    let milliseconds = Duration::from_millis;
    OtlpSettings {
        endpoint: Some(endpoint),
        protocol,
        timeout: SLOW,
        retry: Retry {
            initial: milliseconds(20),
            max: milliseconds(100),
            max_elapsed: Duration::from_secs(20),
        },
        ..OtlpSettings::default()
    }
}

/// Data points of the test snapshot.
const POINTS: u64 = 12;

fn parts() -> Vec<Part> {
    encode::encode(&snapshot(3, 1), Temporality::Cumulative, None, &Spare::default())
}

/// Sends one batch and waits for its fate.
async fn send(settings: &OtlpSettings) -> Arc<Stats> {
    install_crypto();
    settings.validate().unwrap();
    let url = settings.url(Signal::Metrics).unwrap().unwrap();
    let stats = Arc::new(Stats::default());
    let queue = Queue::new(8, stats.clone());
    queue.push(parts());
    queue.close();
    let (_hurry, hurry) = watch::channel(false);
    let delivery = settings.delivery(url);
    let collector = Collector::new(settings, &delivery, Signal::Metrics);
    let mut sender = Sender::new(&delivery, &collector, None, &stats, hurry);
    sender.run(&queue).await;
    let dropped = [
        Reason::QueueFull,
        Reason::Permanent,
        Reason::Expired,
        Reason::Partial,
        Reason::Shutdown,
    ];
    let dropped: u64 = dropped.iter().map(|r| stats.total_dropped(*r)).sum();
    assert_eq!(stats.total_sent() + dropped, POINTS, "nothing is lost unsaid");
    assert_eq!((stats.total_begun(), stats.total_in_flight()), (POINTS, 0));
    stats
}

fn all_sent(stats: &Stats) -> bool {
    stats.total_sent() == POINTS && stats.batches(Outcome::Sent) == 1
}

/// The total of a counter over all its series, and of the histogram's counts.
fn totals(request: &ExportMetricsServiceRequest) -> (i64, u64) {
    use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
    let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
    let Some(Data::Sum(bytes)) = &metrics[0].data else {
        panic!()
    };
    let Some(Data::ExponentialHistogram(rtt)) = &metrics[3].data else {
        panic!()
    };
    let bytes = bytes
        .data_points
        .iter()
        .map(|p| if let Some(Value::AsInt(v)) = p.value { v } else { 0 })
        .sum();
    (bytes, rtt.data_points.iter().map(|p| p.count).sum())
}

fn expected_totals() -> (i64, u64) {
    let rtt = [1, 11, 21]
        .iter()
        .map(|i| crate::export::testing::histogram(*i).count)
        .sum();
    (3_000 + 1 + 11 + 21, rtt)
}

fn headers_file(directory: &Directory) -> Option<std::path::PathBuf> {
    Some(directory.write("headers", "Authorization: Bearer t0ken\n"))
}

/// A port on which nobody listens.
async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn a_dead_collector_expires() {
    for protocol in [Protocol::Grpc, Protocol::Http] {
        let mut settings = settings(nobody().await, protocol);
        // A retry takes milliseconds; on a machine that is busy otherwise one may take hundreds.
        settings.retry.max_elapsed = Duration::from_secs(1);
        let stats = send(&settings).await;
        assert_eq!(
            (
                stats.total_dropped(Reason::Expired),
                stats.batches(Outcome::Dropped)
            ),
            (POINTS, 1)
        );
        assert!(stats.retries() >= 2, "{protocol:?} {}", stats.retries());
    }
}

#[tokio::test]
async fn the_last_snapshot_is_sent_at_shutdown_and_only_once() {
    install_crypto();
    let peer = http::Peer::start(vec![], None).await;
    let exporter = Exporter::new(&settings(peer.url(), Protocol::Http))
        .unwrap()
        .unwrap();
    let stats = exporter.stats();
    let (_sender, snapshots) = watch::channel(Arc::new(snapshot(3, 1)));
    exporter.run(snapshots, std::future::ready(())).await;
    assert!(all_sent(&stats));
    assert_eq!(peer.requests().len(), 1);
}

#[tokio::test]
async fn a_hanging_collector_holds_up_neither_ticks_nor_shutdown() {
    install_crypto();
    let peer = http::Peer::start(vec![http::Act::Hang; 100], None).await;
    let mut settings = settings(peer.url(), Protocol::Http);
    settings.interval = Duration::from_secs(1);
    settings.queue_size = 1;
    settings.timeout = Duration::from_secs(60);
    settings.retry.max_elapsed = Duration::from_secs(3600);
    let exporter = Exporter::new(&settings).unwrap().unwrap();
    let stats = exporter.stats();
    let (sender, snapshots) = watch::channel(Arc::new(snapshot(3, 1)));
    let begin = Instant::now();
    let shutdown = async {
        for tick in 2..=5 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            sender.send_replace(Arc::new(snapshot(3, tick)));
        }
    };
    exporter.run(snapshots, shutdown).await;
    assert!(
        begin.elapsed() < FLUSH + Duration::from_secs(4),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(stats.total_sent(), 0);
    let (full, shutdown) = (
        stats.total_dropped(Reason::QueueFull),
        stats.total_dropped(Reason::Shutdown),
    );
    // One in hand, one in the queue; what came between made room.
    assert_eq!(shutdown, 2 * POINTS);
    assert!(full >= POINTS && full.is_multiple_of(POINTS), "{full}");
}

#[tokio::test]
async fn no_endpoint_is_no_exporter_and_missing_files_are_known_at_once() {
    install_crypto();
    assert!(Exporter::new(&OtlpSettings::default()).unwrap().is_none());
    for protocol in [Protocol::Grpc, Protocol::Http] {
        let mut settings = settings("https://localhost:1".into(), protocol);
        settings.tls.ca_file = Some("/nowhere/ca.pem".into());
        let error = format!("{:#}", Exporter::new(&settings).err().unwrap());
        assert!(
            error.starts_with("otlp.tls.ca_file /nowhere/ca.pem: No such file"),
            "{error}"
        );
        settings.tls.ca_file = Some("/etc/hostname".into());
        let error = format!("{:#}", Exporter::new(&settings).err().unwrap());
        assert!(error.contains("give certificates as PEM"), "{error}");
        settings.tls.ca_file = None;
        settings.headers_file = Some("/dev/null".into());
        let error = format!("{:#}", Exporter::new(&settings).err().unwrap());
        assert!(error.contains("/dev/null: not a regular file"), "{error}");
    }
}
