use super::super::ViewBuilder;
use super::super::shots::{EPOCH, Shot, of};
use crate::aggregate::Value;

/// Cause: some metrics do without a label that others have. Seen: no pair that is none, in rows and sums.
#[test]
fn pairs_are_of_what_has_the_same_labels() {
    let shot = |second: u64, rule: &str| {
        let mut shot = Shot::at(second);
        for zone in ["a", "b"] {
            let labels = [("subject", "web"), ("peer", "db"), ("peer_zone", zone)];
            let directed = [labels[0], labels[1], labels[2], ("direction", "receive")];
            let rtt = Value::Histogram(std::sync::Arc::new(of(&[(1000, second)])));
            shot = shot
                .add("geophone_path_hops", &labels, Value::Gauge(3.0))
                .add("geophone_tcp_connections", &labels, Value::Gauge(2.0))
                .add(
                    "geophone_tcp_bytes_total",
                    &directed,
                    Value::Counter(second * 100),
                )
                .add("geophone_tcp_jitter_seconds", &labels, rtt);
        }
        // A way that nobody is on.
        let labels = [("subject", "old"), ("peer", "db"), ("peer_zone", "a")];
        let mut snapshot = shot.add("geophone_path_hops", &labels, Value::Gauge(9.0)).0;
        for family in &mut snapshot.families {
            if !rule.is_empty() && family.metric.name.starts_with(rule) {
                let mut sum = family.series[0].clone();
                sum.labels = std::sync::Arc::new(sum.labels.without(&["peer_zone"], EPOCH));
                family.series = vec![sum];
            }
        }
        snapshot
    };
    for (rule, rows, hops, jitter) in [
        ("", 2, Some(3), true),
        ("geophone_tcp_jitter_seconds", 2, Some(3), false),
        ("geophone_tcp_", 1, None, true),
    ] {
        let mut builder = ViewBuilder::new();
        builder.push(&shot(1, rule));
        let view = builder.push(&shot(2, rule));
        assert_eq!(view.pairs.len(), rows, "{rule}: {:?}", view.pairs);
        for pair in &view.pairs {
            assert_eq!(
                (pair.subject.as_str(), pair.receive_rate),
                ("web", 100.0),
                "{rule}"
            );
            assert_eq!((pair.hops, pair.jitter.is_some()), (hops, jitter), "{rule}");
        }
        assert_eq!(view.total.connections as usize, 2 * rows, "{rule}");
    }
    // Of no pair, and yet in the sum.
    let mut builder = ViewBuilder::new();
    builder.push(&shot(1, "geophone_tcp_bytes_total"));
    let view = builder.push(&shot(2, "geophone_tcp_bytes_total"));
    assert_eq!((view.pairs.len(), view.total.receive_rate), (2, 100.0));
}
