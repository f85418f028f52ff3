//! The queries that agents watch for anomalies, and export with the band in which each value was expected.

/// Name, unit (`s`, `ratio`, `1/s`, `B/s`) and labels of what is watched unless the configuration says otherwise.
pub const WATCHES: &[(&str, &str, &[&str])] = &[
    ("tcp_rtt_median", "s", &["peer"]),
    ("tcp_rtt_p99", "s", &["peer"]),
    ("tcp_retransmit_ratio", "ratio", &["peer"]),
    ("tcp_opened", "1/s", &["peer"]),
    ("tcp_failed", "1/s", &["peer"]),
    ("tcp_resets", "1/s", &["peer"]),
    ("tcp_bytes", "B/s", &["peer", "direction"]),
    ("drops", "1/s", &["reason"]),
    ("dns_failure_ratio", "ratio", &["server"]),
    ("dns_lookup_median", "s", &["server"]),
    ("dns_timeouts", "1/s", &["server"]),
    (
        "tunnel_loss_ratio",
        "ratio",
        &["type", "id", "local", "remote", "netns"],
    ),
    ("node_pressure", "ratio", &["resource"]),
    ("netdev_bytes", "B/s", &["device", "direction"]),
    ("netdev_faults", "1/s", &["device", "direction"]),
];

/// Whether a metric has, beside its own labels, those of the series that is watched.
pub fn has_labels_of_watched(metric: &str) -> bool {
    let names = [
        "value",
        "lower",
        "upper",
        "score",
        "active",
        "since_timestamp_seconds",
    ];
    metric
        .strip_prefix("geophone_anomaly_")
        .is_some_and(|rest| names.contains(&rest))
}

/// Grafana's name of a watch's unit.
pub fn unit(of_watch: &str) -> &'static str {
    match of_watch {
        "s" => "s",
        "ratio" => "percentunit",
        "B/s" => "Bps",
        _ => "cps",
    }
}
