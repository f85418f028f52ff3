use super::*;

fn row(name: &str, labels: &[(&str, &str)], value: f64) -> Row {
    let name = [("__name__", name)];
    let pairs = name.iter().chain(labels).copied();
    let metric: BTreeMap<&str, &str> = pairs.collect();
    serde_json::from_value(json!({"metric": metric, "value": [0.0, value.to_string()]})).unwrap()
}

#[test]
fn each_lost_point_has_its_reason() {
    let web = [("entity", "subject"), ("name", "web")];
    let of = |factor: &'static str| [("entity", "subject"), ("name", "web"), ("factor", factor)];
    let rows = [
        row("geophone_health_score", &web, 55.0),
        row("geophone_health_confidence", &web, 0.8),
        row("geophone_health_state", &web, 2.0),
        row("geophone_health_trend", &web, -12.0),
        row("geophone_health_baseline", &of("latency"), 0.01),
        row("geophone_health_factor", &of("latency"), 0.0),
        row("geophone_health_signal", &of("latency"), 0.2),
        row("geophone_health_factor", &of("loss"), 0.5),
        row("geophone_health_signal", &of("loss"), 0.0071),
        row("geophone_health_factor", &of("errors"), 1.0),
        row("geophone_health_failed", &of("loss"), 1.0),
        row(
            "geophone_health_depends_on",
            &[("subject", "web"), ("peer", "db")],
            3.0,
        ),
        row(
            "geophone_health_state",
            &[("entity", "peer"), ("name", "db")],
            1.0,
        ),
        row(
            "geophone_health_factor",
            &[("entity", "peer"), ("name", "db"), ("factor", "loss")],
            0.9,
        ),
        row(
            "geophone_health_score",
            &[("entity", "peer"), ("name", "db")],
            88.0,
        ),
        row("", &[("as", "talks"), ("subject", "web"), ("peer", "db")], 3.0),
        row("", &[("as", "talks"), ("subject", "web"), ("peer", "mail")], 3.0),
        row("", &[("as", "lies"), ("peer", "db"), ("peer_zone", "a")], 1.0),
        row(
            "geophone_health_signal",
            &[("entity", "peer"), ("name", "quiet"), ("factor", "latency")],
            0.1,
        ),
    ];
    let found = read(&rows);
    assert_eq!(found.len(), 2, "who has no factor has no score");
    let config = Config::default();
    let text = found[0].explain(&config);
    // Of 70 points that are known, 25 and half of 25.
    let wanted = [
        "subject web: 55.0 of 100, critical, confidence 80 %",
        "  -35.7  latency: median round-trip time 200.000 ms, usual 10.000 ms (good up to 16.000 ms, worst from 60.000 ms)",
        "  -17.9  loss: 0.71 % of the segments are sent again (good up to 0.1 %, worst from 5 %)",
        "  critical whatever the score is: loss at its worst for minutes",
        "  not known, which costs confidence only: saturation",
        "  trend of the last hour: -12.0 points an hour",
        "  talks to what is not healthy: peer db",
        "  symptom: look at peer db first",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), wanted);
    assert!(found[0].row(&config)[6].starts_with("latency"));
    let peer = found[1].explain(&config);
    assert!(peer.ends_with("  cause: it explains subject web\n"), "{peer}");
    assert_eq!(found[1].json(&config)["with"][0]["name"], "web");
}

/// Cause: a node is full of each kind of thing in turn. Seen: the sentence names that thing and how full it is.
#[test]
fn what_the_node_is_full_of_is_named() {
    let node = [("entity", "node"), ("name", "n"), ("factor", "saturation")];
    for (labels, value, wanted) in [
        (
            &[("resource", "filesystem"), ("device", "vda1")][..],
            0.97,
            "filesystem vda1 is at 97 %",
        ),
        (
            &[("device", "eth0"), ("direction", "transmit")],
            0.97,
            "eth0 transmits at 97 % of its speed",
        ),
        (
            &[("resource", "cpu"), ("kind", "some")],
            0.9,
            "tasks wait for cpu 90 % of the time",
        ),
        (
            &[("resource", "memory"), ("kind", "full")],
            0.85,
            "all tasks wait for memory 17 % of the time, which counts five times",
        ),
        (
            &[("resource", "io"), ("kind", "full")],
            1.0,
            "all tasks wait for io 20 or more % of the time, which counts five times",
        ),
    ] {
        let labels = [&[("as", "fullest")], labels].concat();
        let rows = [
            row("geophone_health_factor", &node, 0.1),
            row("geophone_health_signal", &node, value),
            row("", &labels, value),
        ];
        let text = read(&rows)[0].explain(&Config::default());
        let wanted = format!(
            "saturation: {} % (good up to 80 %, worst from 98 %); fullest: {wanted}\n",
            percent(value)
        );
        assert!(text.contains(&wanted), "{text}");
    }
}
