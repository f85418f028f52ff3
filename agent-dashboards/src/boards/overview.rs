//! All regions and nodes on one page: is anything wrong, where, and what is it.

use super::{AGENT, NODE, PROFILES, REGION, SERVICES, TUNNELS};
use crate::maker::{Maker, places, rare, share};
use crate::panel::{Board, Panel, Show};

/// The dashboard.
pub fn board(m: &mut Maker) -> Board {
    m.scope(&["region", "instance"]);
    let mut panels = vec![m.row("Now")];

    // A node that is rolled out has two pods for a while.
    let nodes = m.recorded("count", "target_info", r#"job="geophone""#, &["instance"]);
    let nodes = m.stat("Nodes", format!("count({nodes})"));
    panels.push(nodes.about("Agents that tell"));
    let regions = m.recorded(
        "count",
        "target_info",
        r#"job="geophone",region!="""#,
        &["region"],
    );
    panels.push(
        m.stat("Regions", format!("count({regions})"))
            .about("Regions that agents say they are in"),
    );
    let connections = m.value("sum", "geophone_tcp_connections", "", &[]);
    panels.push(m.stat("Connections", connections));
    let rtt = m.quantile(0.99, "geophone_tcp_rtt_seconds", "", &[]);
    panels.push(m.stat("Round trip, p99", rtt));
    let (again, sent) = loss(m, &[]);
    panels.push(
        m.stat("Sent again", rare(&again, &sent))
            .unit("percentunit")
            .limits(0.005, 0.02),
    );
    let drops = m.rate("geophone_drops_packets_total", "", &[]);
    panels.push(m.stat("Drops", drops));
    let firing = m.recorded(
        "count",
        "ALERTS",
        r#"alertname=~"Geophone.+",alertstate="firing""#,
        &[],
    );
    let firing = m
        .stat("Alerts", format!("{firing} or vector(0)"))
        .limits(1.0, 5.0);
    panels.push(firing.about("Alerts of geophone's rules that fire"));
    let unaccounted = m.value("", "geophone_events_unaccounted", "", &[]);
    panels.push(
        m.stat("Unaccounted", format!("max(abs({unaccounted}))"))
            .limits(1.0, 1.0),
    );

    panels.push(m.row("Regions"));
    for (title, metric, unit, limits) in [
        (
            "Round trip from region to region, median",
            "geophone:region_rtt_seconds:p50_5m",
            "s",
            None,
        ),
        ("Round trip, p99", "geophone:region_rtt_seconds:p99_5m", "s", None),
        (
            "Segments sent again",
            "geophone:region_retransmits:ratio_5m",
            "percentunit",
            Some((0.005, 0.02)),
        ),
        (
            "Connections that fail",
            "geophone:region_connect_failures:ratio_5m",
            "percentunit",
            Some((0.01, 0.2)),
        ),
    ] {
        let expr = m.recorded("max", metric, "", &["region", "peer_region"]);
        let panel = m.panel(Show::Matrix, title, &[("", expr)]).unit(unit).size(12, 7);
        let panel = panel.about("Rows: where the agents are. Columns: where their peers are");
        panels.push(match limits {
            Some((yellow, red)) => panel.limits(yellow, red),
            None => panel,
        });
    }
    let health = m.recorded("", "geophone:region_health_score:avg", "", &[]);
    panels.push(
        m.graph("Health by region", &[("{{region}}", health)])
            .about("Mean score of its nodes, of 100")
            .leads(NODE, &["region"]),
    );
    let bytes = m.recorded(
        "sum",
        "geophone:region_bytes:rate5m",
        r#"direction="transmit""#,
        &["region", "peer_region"],
    );
    panels.push(
        m.graph("Traffic", &[("{{region}} → {{peer_region}}", bytes)])
            .unit("Bps")
            .about("Payload sent")
            .leads(REGION, &["region", "peer_region"]),
    );
    let nodes = m.recorded("sum", "geophone:region_nodes:count", "", &["region"]);
    panels.push(
        m.graph("Nodes", &[("{{region}}", nodes)])
            .about("Agents that tell")
            .leads(AGENT, &["region"]),
    );

    panels.push(m.row("What is wrong"));
    let alerts = m.recorded(
        "",
        "ALERTS",
        r#"alertname=~"Geophone.+",alertstate="firing""#,
        &[],
    );
    let alerts = m.panel(Show::Table, "Alerts that fire", &[("firing", alerts)]);
    panels.push(
        alerts
            .about("Of geophone's rules")
            .link("instance", NODE, &["instance"])
            .link("instance", PROFILES, &["instance"]),
    );
    let factor = m.recorded(
        "min",
        "geophone_health_factor",
        "",
        &["instance", "entity", "name", "factor"],
    );
    let worst = m.panel(
        Show::Table,
        "Least healthy",
        &[("factor's value", format!("bottomk(15, {factor} < 0.9)"))],
    );
    panels.push(
        worst
            .about("From 1, as good as it should be, to 0; `geophone health` says why")
            .unit("percentunit")
            .link("instance", NODE, &["instance"])
            .link("instance", PROFILES, &["instance"]),
    );
    let unusual = m.value("", "geophone_anomaly_active", "", &[]);
    let unusual = m.panel(Show::Table, "Unusual", &[("unusual", format!("{unusual} == 1"))]);
    let mut unusual = unusual
        .about("What is not as it usually is: `geophone anomalies` on the node says what else changed then")
        .link("instance", NODE, &["instance"])
        .link("instance", PROFILES, &["instance"])
        .size(24, 7);
    // Each has the labels of the series that is unusual, and is drawn with its band where these are chosen.
    let labelled: [(_, _, &[_]); 5] = [
        ("peer", SERVICES, &["instance", "peer"]),
        ("server", SERVICES, &["instance", "server"]),
        ("remote", TUNNELS, &["instance", "remote"]),
        ("device", NODE, &["instance", "device"]),
        ("reason", NODE, &["instance", "reason"]),
    ];
    for (label, board, labels) in labelled {
        unusual = unusual.link(label, board, labels);
    }
    panels.push(unusual);
    let by = ["instance", "subject", "peer"];
    let slow = m.quantile(0.99, "geophone_tcp_rtt_seconds", "", &by);
    let slow = m.panel(
        Show::Table,
        "Slowest pairs",
        &[("p99", format!("topk(15, {slow})"))],
    );
    panels.push(of_subject(slow));
    let (again, sent) = loss(m, &by);
    let lossy = format!("topk(15, {} > 0)", share(&again, &sent));
    let lossy = m.panel(Show::Table, "Pairs that lose most", &[("sent again", lossy)]);
    panels.push(of_subject(lossy).unit("percentunit").limits(0.005, 0.02));

    let incidents = m.value(
        "min",
        "geophone_incident_start_time_seconds",
        "",
        &["instance", "cause", "severity"],
    );
    let incidents = m.panel(
        Show::Table,
        "Incidents",
        &[("open for", format!("time() - {incidents}"))],
    );
    panels.push(
        incidents
            .unit("s")
            .about("Alerts of one cause, by the first of them: `geophone alerts incidents` on the node has the others")
            .link("instance", NODE, &["instance"])
            .link("instance", PROFILES, &["instance"]),
    );
    let left = m.recorded("min", "geophone_slo_budget_remaining_ratio", "", &["slo"]);
    let objective = m.recorded("max", "geophone_slo_objective_ratio", "", &["slo"]);
    let fast = m.recorded("max", "geophone_slo_burn_rate", r#"window="1h""#, &["slo"]);
    let slow = m.recorded("max", "geophone_slo_burn_rate", r#"window="1d""#, &["slo"]);
    let known = m.recorded("min", "geophone_slo_coverage_ratio", "", &["slo"]);
    let objectives = m.panel(
        Show::Table,
        "Objectives",
        &[
            ("budget left", left),
            ("objective", objective),
            ("burns, 1 h", fast),
            ("burns, 1 d", slow),
            ("known", known),
        ],
    );
    panels.push(
        objectives
            .unit("percentunit")
            .units(&[("burns, 1 h", "short"), ("burns, 1 d", "short")])
            .about("Error budgets; they burn at 1 where they last just as long as their window. `geophone slo rules` records them"),
    );

    panels.push(m.row("Over time"));
    panels.push(m.heat("Round trips", "geophone_tcp_rtt_seconds", ""));
    let by_region = m.recorded(
        "count",
        "ALERTS",
        r#"alertname=~"Geophone.+",alertstate="firing""#,
        &["alertname"],
    );
    panels.push(
        m.panel(Show::Stack, "Alerts", &[("{{alertname}}", by_region)])
            .size(12, 9)
            .about("That fire, by name"),
    );
    let reasons = m.rate("geophone_drops_packets_total", "", &["reason"]);
    panels.push(
        m.panel(
            Show::Stack,
            "Drops",
            &[("{{reason}}", format!("topk(10, {reasons})"))],
        )
        .size(12, 8)
        .leads(NODE, &["reason"]),
    );
    let cpu = m.value("max", "geophone_governor_cpu_ratio", "", &["instance"]);
    let cpu = m
        .graph(
            "Price of the agents",
            &[("{{instance}}", format!("topk(10, {cpu})"))],
        )
        .unit("percentunit");
    panels.push(cpu.size(12, 8).leads(AGENT, &["instance"]));
    Board {
        name: "geophone-overview",
        title: "geophone / Overview",
        about: "Regions, health, alerts, the slowest and the most lossy: where to begin",
        variables: places(),
        panels,
    }
}

/// A table of pairs on the nodes, and where to look further at one.
fn of_subject(table: Panel) -> Panel {
    table
        .link("subject", SERVICES, &["instance", "subject"])
        .link("subject", PROFILES, &["instance", "subject"])
        .link("peer", SERVICES, &["instance", "subject", "peer"])
}

/// Segments that were sent again, and all that were sent.
pub(super) fn loss(m: &mut Maker, by: &[&str]) -> (String, String) {
    let again = m.rate("geophone_tcp_retransmits_total", "", by);
    let sent = m.rate("geophone_tcp_segments_total", r#"direction="transmit""#, by);
    (again, sent)
}
