//! From one region to others: what the way between them does to connections.

use super::overview::loss;
use super::{PROFILES, SERVICES};
use crate::maker::{Maker, places, rare, share, variable};
use crate::panel::{Board, Show};

/// The dashboard.
pub fn board(m: &mut Maker) -> Board {
    m.scope(&["instance", "peer_region", "peer_zone"]);
    let mut panels = vec![m.row("Round trips")];
    panels.push(m.heat("Round trips", "geophone_tcp_rtt_seconds", ""));
    let median = m.quantile(0.5, "geophone_tcp_rtt_seconds", "", &["peer_region"]);
    let before = median.replace("[$__rate_interval]", "[$__rate_interval] offset 1d");
    let targets = [
        ("{{peer_region}}", median),
        ("{{peer_region}} a day before", before),
    ];
    panels.push(m.graph("Round trip, median", &targets).size(12, 9));
    let last = m.quantile(
        0.99,
        "geophone_tcp_rtt_seconds",
        "",
        &["peer_region", "peer_zone"],
    );
    panels.push(m.graph(
        "Round trip by zone, p99",
        &[("{{peer_region}} {{peer_zone}}", last)],
    ));
    let jitter = m.quantile(0.99, "geophone_tcp_jitter_seconds", "", &["peer_region"]);
    panels.push(m.graph("Jitter, p99", &[("{{peer_region}}", jitter)]));
    let connect = m.quantile(0.99, "geophone_tcp_connect_seconds", "", &["peer_region"]);
    panels.push(m.graph("Time to connect, p99", &[("{{peer_region}}", connect)]));

    panels.push(m.row("Loss"));
    let (again, sent) = loss(m, &["peer_region"]);
    let lost = m.graph("Segments sent again", &[("{{peer_region}}", rare(&again, &sent))]);
    panels.push(lost.unit("percentunit").limits(0.005, 0.02));
    let kinds = m.rate("geophone_tcp_retransmits_total", "", &["type"]);
    panels.push(m.panel(
        Show::Stack,
        "By what made the kernel do it",
        &[("{{type}}", kinds)],
    ));
    let needless = m.rate("geophone_tcp_spurious_retransmits_total", "", &["peer_region"]);
    panels.push(m.graph("Sent again needlessly", &[("{{peer_region}}", needless)]));
    let marks = m.rate("geophone_path_ecn_ce_total", "", &["peer_region", "direction"]);
    panels.push(m.graph("Congestion marks", &[("{{peer_region}} {{direction}}", marks)]));
    let opened = m.rate(
        "geophone_tcp_connections_total",
        r#"role="client",outcome=~"opened|failed""#,
        &["peer_region"],
    );
    let failed = m.rate(
        "geophone_tcp_connections_total",
        r#"role="client",outcome="failed""#,
        &["peer_region"],
    );
    let failures = m.graph(
        "Connections that fail",
        &[("{{peer_region}}", rare(&failed, &opened))],
    );
    panels.push(failures.unit("percentunit"));
    let errors = m.rate(
        "geophone_tcp_connections_total",
        r#"outcome="failed""#,
        &["error"],
    );
    panels.push(m.panel(Show::Stack, "Why they fail", &[("{{error}}", errors)]));

    panels.push(m.row("The way"));
    let hops = m.value("max", "geophone_path_hops", "", &["peer_region", "peer"]);
    panels.push(m.graph("Routers on the way", &[("{{peer_region}} {{peer}}", hops)]));
    let changes = m.rate("geophone_path_route_changes_total", "", &["peer_region"]);
    panels.push(m.graph("Changes of the route", &[("{{peer_region}}", changes)]));
    let mtu = m.value("min", "geophone_path_mtu_bytes", "", &["peer_region", "peer"]);
    panels.push(m.graph("Path MTU", &[("{{peer_region}} {{peer}}", mtu)]));
    let by = ["instance", "peer", "remote", "hop"];
    let probes = m.value("sum", "geophone_path_hop_recent_probes", "", &by);
    let gone = m.value("sum", "geophone_path_hop_recent_lost", "", &by);
    let rtt = m.value("max", "geophone_path_hop_recent_rtt_seconds", "", &by);
    let who = m.value(
        "max",
        "geophone_path_hop_info",
        "",
        &["instance", "peer", "remote", "hop", "address"],
    );
    let targets = [
        ("answers", who),
        ("round trip", rtt),
        ("lost", share(&gone, &probes)),
    ];
    let trace = m.panel(Show::Table, "Traces, hop by hop", &targets).size(24, 9);
    panels.push(trace.units(&[("answers", "short"), ("round trip", "s"), ("lost", "percentunit")]));
    let hop = m.quantile(0.9, "geophone_path_hop_rtt_seconds", "", &["remote", "hop"]);
    panels.push(m.graph("Hops of traces, p90", &[("{{remote}} hop {{hop}}", hop)]));
    let sent = m.rate("geophone_path_hop_probes_total", "", &["remote", "hop"]);
    let lost = m.rate("geophone_path_hop_lost_total", "", &["remote", "hop"]);
    panels.push(
        m.graph(
            "Probes without an answer",
            &[("{{remote}} hop {{hop}}", rare(&lost, &sent))],
        )
        .unit("percentunit"),
    );
    let changes = m.rate("geophone_path_trace_changes_total", "", &["remote"]);
    let errors = m.rate("geophone_path_trace_errors_total", "", &["remote"]);
    let foreign = m.rate("geophone_path_trace_foreign_answers_total", "", &["remote"]);
    let targets = [
        ("{{remote}} changed", changes),
        ("{{remote}} failed", errors),
        ("{{remote}} foreign answers", foreign),
    ];
    panels.push(m.graph("Traces", &targets));
    let forwarded = m.quantile(
        0.99,
        "geophone_path_forwarded_rtt_seconds",
        "",
        &["device", "side", "peer_region"],
    );
    panels.push(m.graph(
        "Forwarded connections, p99",
        &[("{{device}} {{side}} {{peer_region}}", forwarded)],
    ));

    panels.push(m.row("Who"));
    let bytes = m.rate("geophone_tcp_bytes_total", "", &["direction"]);
    panels.push(m.graph("Traffic", &[("{{direction}}", bytes)]));
    let open = m.value("sum", "geophone_tcp_connections", "", &["peer_region"]);
    panels.push(m.panel(Show::Stack, "Connections", &[("{{peer_region}}", open)]));
    let resets = m.rate("geophone_tcp_resets_total", "", &["direction"]);
    panels.push(m.graph("Resets", &[("{{direction}}", resets)]));
    let by = ["subject", "peer", "peer_region"];
    let (again, sent) = loss(m, &by);
    let rtt = m.quantile(0.99, "geophone_tcp_rtt_seconds", "", &by);
    let open = m.value("sum", "geophone_tcp_connections", "", &by);
    let targets = [
        ("p99", rtt),
        ("sent again", rare(&again, &sent)),
        ("connections", open),
    ];
    let pairs = m.panel(Show::Table, "Pairs", &targets).size(24, 9);
    panels.push(
        pairs
            .units(&[
                ("p99", "s"),
                ("sent again", "percentunit"),
                ("connections", "short"),
            ])
            .link("subject", SERVICES, &["subject"])
            .link("subject", PROFILES, &["subject"])
            .link("peer", SERVICES, &["subject", "peer"]),
    );
    let mut variables = places();
    variables.push(variable(
        "peer_region",
        "To region",
        r#"geophone_tcp_connections{instance=~"$instance"}"#,
    ));
    variables.push(variable(
        "peer_zone",
        "To zone",
        r#"geophone_tcp_connections{instance=~"$instance",peer_region=~"$peer_region"}"#,
    ));
    Board {
        name: "geophone-region",
        title: "geophone / Region",
        about: "From the nodes of a region to peers in others: latency, loss, and the way between",
        variables,
        panels,
    }
}
