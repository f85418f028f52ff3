//! A node: its interfaces, its disks, what runs out on it, and what its kernel drops.

use super::PROFILES;
use crate::maker::{Maker, places, share, variable};
use crate::panel::{Board, Show};

/// The dashboard.
pub fn board(m: &mut Maker) -> Board {
    m.scope(&["instance", "device"]);
    let mut panels = vec![m.row("Health")];
    let score = m.recorded("min", "geophone_health_score", r#"entity="node""#, &["instance"]);
    panels.push(
        m.graph("Score", &[("{{instance}}", score)])
            .about("0 to 100; `geophone health` says why")
            .limits(90.0, 60.0),
    );
    let factor = m.recorded(
        "min",
        "geophone_health_factor",
        r#"entity="node""#,
        &["instance", "factor"],
    );
    let factor = m.graph("What costs it points", &[("{{instance}} {{factor}}", factor)]);
    panels.push(
        factor
            .unit("percentunit")
            .about("From 1, as good as it should be, to 0"),
    );
    let sure = m.recorded(
        "min",
        "geophone_health_confidence",
        r#"entity="node""#,
        &["instance"],
    );
    panels.push(
        m.graph("Confidence", &[("{{instance}}", sure)])
            .unit("percentunit")
            .about("How much of it is known"),
    );

    panels.push(m.row("What can run out"));
    let by = ["instance", "resource", "device"];
    let used = m.value("max", "geophone_node_used", "", &by);
    let limit = m.value("max", "geophone_node_limit", "", &by);
    let full = share(&used, &limit);
    let targets = [("of its limit", full.clone()), ("in use", used), ("limit", limit)];
    let table = m.panel(Show::Table, "Resources", &targets);
    panels.push(
        table
            .units(&[
                ("of its limit", "percentunit"),
                ("in use", "short"),
                ("limit", "short"),
            ])
            .unit("short"),
    );
    panels.push(
        m.graph(
            "Of their limit",
            &[("{{instance}} {{resource}} {{device}}", full)],
        )
        .unit("percentunit")
        .about("What is in use, of what there is")
        .size(12, 9),
    );
    let by = ["instance", "resource", "name"];
    let left = m.value("min", "geophone_capacity_exhaustion_seconds", "", &by);
    let latest = m.value("min", "geophone_capacity_exhaustion_latest_seconds", "", &by);
    let earliest = m.value("min", "geophone_capacity_exhaustion_earliest_seconds", "", &by);
    let targets = [
        ("{{instance}} {{resource}} {{name}}", left),
        ("{{instance}} {{resource}} {{name}} at the latest", latest),
        ("{{instance}} {{resource}} {{name}} at the earliest", earliest),
    ];
    panels.push(m.graph("Used up in", &targets));
    let used = m.value("max", "geophone_capacity_utilization_ratio", "", &by);
    let growth = m.value("max", "geophone_capacity_growth_per_day_ratio", "", &by);
    let targets = [
        ("{{instance}} {{resource}} {{name}} in use", used),
        ("{{instance}} {{resource}} {{name}} a day more", growth),
    ];
    panels.push(m.graph("Use and growth", &targets).unit("percentunit"));
    let pressure = m.rate(
        "geophone_node_pressure_seconds_total",
        "",
        &["instance", "resource", "kind"],
    );
    let pressure = m.graph("Pressure", &[("{{instance}} {{resource}} {{kind}}", pressure)]);
    panels.push(pressure.leads(PROFILES, &["instance"]));
    let waits = m.heat("Waits for a CPU", "geophone_sched_runqueue_seconds", "");
    panels.push(waits.size(8, 8).leads(PROFILES, &[]));
    let switches = m.rate("geophone_sched_switches_total", "", &["instance", "switch"]);
    let switches = m.graph("Switches", &[("{{instance}} {{switch}}", switches)]);
    panels.push(switches.leads(PROFILES, &["instance"]));

    panels.push(m.row("Interfaces"));
    let by = ["instance", "device", "direction"];
    let name = "{{instance}} {{device}} {{direction}}";
    let bytes = m.rate("geophone_netdev_bytes_total", "", &by);
    panels.push(m.graph("Bytes", &[(name, bytes)]));
    let packets = m.rate("geophone_netdev_packets_total", "", &by);
    panels.push(m.graph("Packets", &[(name, packets)]));
    let moved = m.rate("geophone_netdev_bytes_total", "", &by);
    let speed = m.value("max", "geophone_netdev_speed_bytes", "", &["instance", "device"]);
    let used = format!("{moved} / on (instance, device) group_left () ({speed} > 0)");
    panels.push(
        m.graph("Of the link's speed", &[(name, used)])
            .unit("percentunit"),
    );
    let errors = m.rate("geophone_netdev_errors_total", "", &by);
    panels.push(m.graph("Faulty packets", &[(name, errors)]));
    let drops = m.rate("geophone_netdev_drops_total", "", &by);
    panels.push(m.graph("Given up by drivers", &[(name, drops)]));
    let up = m.value("min", "geophone_netdev_up", "", &["instance", "device"]);
    panels.push(
        m.panel(Show::Table, "Up", &[("up", up)])
            .size(8, 8)
            .limits(1.0, 0.5),
    );

    panels.push(m.row("Dropped by the kernel"));
    let reasons = m.rate("geophone_drops_packets_total", "", &["reason"]);
    panels.push(m.panel(
        Show::Stack,
        "By reason",
        &[("{{reason}}", format!("topk(10, {reasons})"))],
    ));
    let devices = m.rate(
        "geophone_drops_packets_total",
        "",
        &["device", "direction", "protocol"],
    );
    let devices = format!("topk(10, {devices})");
    panels.push(m.panel(
        Show::Stack,
        "By interface",
        &[("{{device}} {{direction}} {{protocol}}", devices)],
    ));
    let bytes = m.rate("geophone_drops_bytes_total", "", &["reason"]);
    panels.push(m.panel(
        Show::Stack,
        "Bytes",
        &[("{{reason}}", format!("topk(10, {bytes})"))],
    ));

    panels.push(m.row("Disks"));
    panels.push(m.heat("Requests", "geophone_block_io_seconds", ""));
    let slow = m.quantile(
        0.99,
        "geophone_block_io_seconds",
        "",
        &["instance", "device", "operation"],
    );
    panels.push(
        m.graph(
            "Time of a request, p99",
            &[("{{instance}} {{device}} {{operation}}", slow)],
        )
        .size(12, 9),
    );
    let bytes = m.rate(
        "geophone_block_bytes_total",
        "",
        &["instance", "device", "operation"],
    );
    panels.push(m.graph("Bytes", &[("{{instance}} {{device}} {{operation}}", bytes)]));
    let many = m.count(
        "geophone_block_io_seconds",
        "",
        &["instance", "device", "operation"],
    );
    panels.push(
        m.graph("Requests", &[("{{instance}} {{device}} {{operation}}", many)])
            .unit("iops"),
    );
    let waiting = m.value("sum", "geophone_block_in_flight", "", &["instance", "device"]);
    panels.push(m.graph("In flight", &[("{{instance}} {{device}}", waiting)]));
    let errors = m.rate(
        "geophone_block_errors_total",
        "",
        &["instance", "device", "operation"],
    );
    panels.push(m.graph("Errors", &[("{{instance}} {{device}} {{operation}}", errors)]));
    let seen = m.value("min", "geophone_block_coverage_ratio", "", &["instance"]);
    panels.push(m.graph("Coverage", &[("{{instance}}", seen)]).unit("percentunit"));
    let watched = m.value(
        "min",
        "geophone_path_watched",
        "",
        &["instance", "device", "direction"],
    );
    let gaps = m.rate(
        "geophone_path_watch_gaps_total",
        "",
        &["instance", "device", "reason"],
    );
    let gone = m.rate(
        "geophone_path_watch_gap_seconds_total",
        "",
        &["instance", "device", "reason"],
    );
    let targets = [
        ("{{instance}} {{device}} {{direction}} watched", watched),
        ("{{instance}} {{device}} {{reason}} gaps", gaps),
        ("{{instance}} {{device}} {{reason}} time in gaps", gone),
    ];
    panels.push(m.graph("Watching forwarded connections", &targets).unit("short"));
    let bands = [
        ("Sent", "netdev_bytes", r#"direction="transmit""#),
        ("Received", "netdev_bytes", r#"direction="receive""#),
        (
            "Faults of sent packets",
            "netdev_faults",
            r#"direction="transmit""#,
        ),
        (
            "Faults of received packets",
            "netdev_faults",
            r#"direction="receive""#,
        ),
    ];
    let bands = bands.map(|(title, watch, matchers)| m.band(title, watch, matchers).size(6, 8));
    let row = m.row("Expected of interface $device");
    panels.push(row.hiding(Some("device"), bands.into()));
    m.scope(&["instance", "reason"]);
    let drops = m.band("Dropped by the kernel", "drops", "");
    let row = m.row("Expected of drops, $reason");
    panels.push(row.hiding(Some("reason"), vec![drops]));
    m.scope(&["instance"]);
    let bands = [
        ("Tasks that waited for a CPU", r#"resource="cpu""#),
        ("Tasks that waited for memory", r#"resource="memory""#),
        ("Tasks that waited for disks", r#"resource="io""#),
    ];
    let bands = bands.map(|(title, matchers)| m.band(title, "node_pressure", matchers));
    let row = m.row("Expected of pressure");
    panels.push(row.hiding(None, bands.into()));
    let mut variables = places();
    variables.push(variable(
        "device",
        "Device",
        r#"geophone_netdev_up{instance=~"$instance"}"#,
    ));
    variables.push(variable(
        "reason",
        "Reason of drops",
        r#"geophone_drops_packets_total{instance=~"$instance"}"#,
    ));
    Board {
        name: "geophone-node",
        title: "geophone / Node",
        about: "A node: health, what runs out on it, interfaces, drops, disks",
        variables,
        panels,
    }
}
