//! What is watched if nothing else is asked for.
//!
//! Counters as rates and histograms as quantiles, over a window as long as the interval, so that one value says nothing of the
//! next; by peer, not by pair: a peer has enough traffic for its quantiles to mean something. Where there is too little, there
//! is no value.

use super::{Definition, Unit};
use crate::anomaly::Millis;

/// The shortest window of a rate over samples that come each second.
const SHORTEST: Millis = 3_000;

/// The window of rates, for this interval.
pub(super) fn window(interval: Millis) -> Millis {
    interval.max(SHORTEST)
}

/// The watches, for this interval in milliseconds.
pub fn defaults(interval: Millis) -> Vec<Definition> {
    let window = format!("[{}ms]", window(interval));
    let all = [
        // A millisecond more is nothing to a network. Below some segments a second there is no median to speak of.
        (
            "tcp_rtt_median",
            "histogram_quantile(0.5, sum by (peer) (rate(geophone_tcp_rtt_seconds$W))) \
             and on (peer) sum by (peer) (rate(geophone_tcp_segments_total{direction=\"receive\"}$W)) > 2",
            Unit::Seconds,
            0.001,
            false,
        ),
        (
            "tcp_rtt_p99",
            "histogram_quantile(0.99, sum by (peer) (rate(geophone_tcp_rtt_seconds$W))) \
             and on (peer) sum by (peer) (rate(geophone_tcp_segments_total{direction=\"receive\"}$W)) > 20",
            Unit::Seconds,
            0.005,
            false,
        ),
        // Below a hundredth TCP hardly notices.
        (
            "tcp_retransmit_ratio",
            "(sum by (peer) (rate(geophone_tcp_retransmits_total$W)) \
             or 0 * sum by (peer) (rate(geophone_tcp_segments_total{direction=\"transmit\"}$W))) \
             / (sum by (peer) (rate(geophone_tcp_segments_total{direction=\"transmit\"}$W)) > 5)",
            Unit::Ratio,
            0.01,
            false,
        ),
        // That there is traffic with a new peer is no anomaly of it: what it usually is, is learned first.
        (
            "tcp_opened",
            "sum by (peer) (rate(geophone_tcp_connections_total{outcome=\"opened\"}$W))",
            Unit::PerSecond,
            2.0,
            false,
        ),
        (
            "tcp_failed",
            "sum by (peer) (rate(geophone_tcp_connections_total{outcome=\"failed\"}$W))",
            Unit::PerSecond,
            0.5,
            true,
        ),
        (
            "tcp_resets",
            "sum by (peer) (rate(geophone_tcp_resets_total$W))",
            Unit::PerSecond,
            1.0,
            true,
        ),
        (
            "tcp_bytes",
            "sum by (peer, direction) (rate(geophone_tcp_bytes_total$W))",
            Unit::BytesPerSecond,
            125_000.0,
            false,
        ),
        (
            "drops",
            "sum by (reason) (rate(geophone_drops_packets_total$W))",
            Unit::PerSecond,
            1.0,
            true,
        ),
        (
            "dns_failure_ratio",
            "(sum by (server) (histogram_count(rate(geophone_dns_lookup_seconds{rcode!~\"NOERROR|NXDOMAIN\"}$W))) \
             or 0 * sum by (server) (histogram_count(rate(geophone_dns_lookup_seconds$W)))) \
             / (sum by (server) (histogram_count(rate(geophone_dns_lookup_seconds$W))) > 0.5)",
            Unit::Ratio,
            0.05,
            false,
        ),
        (
            "dns_lookup_median",
            "histogram_quantile(0.5, sum by (server) (rate(geophone_dns_lookup_seconds$W))) \
             and on (server) sum by (server) (histogram_count(rate(geophone_dns_lookup_seconds$W))) > 0.5",
            Unit::Seconds,
            0.005,
            false,
        ),
        (
            "dns_timeouts",
            "sum by (server) (rate(geophone_dns_timeouts_total$W))",
            Unit::PerSecond,
            0.3,
            true,
        ),
        (
            "tunnel_loss_ratio",
            "max by (type, id, local, remote, netns) (geophone_tunnel_loss_ratio)",
            Unit::Ratio,
            0.005,
            false,
        ),
        (
            "node_pressure",
            "sum by (resource) (rate(geophone_node_pressure_seconds_total{kind=\"some\"}$W))",
            Unit::Ratio,
            0.1,
            false,
        ),
        (
            "netdev_bytes",
            "sum by (device, direction) (rate(geophone_netdev_bytes_total$W))",
            Unit::BytesPerSecond,
            125_000.0,
            false,
        ),
        (
            "netdev_faults",
            "sum by (device, direction) (rate(geophone_netdev_errors_total$W)) \
             + sum by (device, direction) (rate(geophone_netdev_drops_total$W))",
            Unit::PerSecond,
            1.0,
            false,
        ),
    ];
    all.into_iter()
        .map(|(name, expr, unit, least, zero)| Definition {
            name: name.to_owned(),
            expr: expr.replace("$W", &window),
            unit,
            least,
            zero,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{Settings, Watcher};
    use agent_store::labels::Labels;

    /// Cause: a peer that was never there opens connections and moves bytes as the others do, but also resets them.
    /// Seen: only the resets are an anomaly.
    #[test]
    fn a_new_peer_is_none_but_its_faults_are() {
        let settings = Settings {
            interval: 10_000,
            alarms_per_week: 1.0,
            learning: 30,
            accept_after: 3_000_000,
            most_series: 100,
            most_entities: 0,
        };
        let watched = ["tcp_opened", "tcp_bytes", "tcp_resets"];
        let all = defaults(settings.interval).into_iter();
        let definitions = all.filter(|one| watched.contains(&one.name.as_str())).collect();
        let mut watcher = Watcher::new(settings, definitions);
        let mut begun = Vec::new();
        for round in 0..200 {
            let at = 1_760_000_000_000 + round * settings.interval;
            let peers: &[&str] = if round < 150 { &["old"] } else { &["old", "new"] };
            let answers = watcher.evaluate(
                at,
                &mut |query| {
                    let value = match query {
                        query if query.contains("resets") => 20.0,
                        query if query.contains("bytes") => 5e6,
                        _ => 30.0,
                    };
                    let value = value * (1.0 + 0.01 * (round % 7) as f64);
                    let one = |peer: &&str| (Labels::new([("peer", *peer)]), value);
                    Ok(peers.iter().map(one).collect())
                },
                None,
            );
            begun.extend(
                answers
                    .begun
                    .into_iter()
                    .filter(|one| one.labels["peer"] == "new"),
            );
        }
        let begun: Vec<&str> = begun.iter().map(|one| one.watch.as_str()).collect();
        assert_eq!(begun, ["tcp_resets"]);
    }
}
