//! `promtool` over the rules of every template: whether it takes them, and whether budgets, burn rates and alerts come to what
//! they should.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at what it does not expect"
)]

mod available;
mod nan;
mod slow;

use agent_slo::{Definition, Slo, Template, Window, rules};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

fn promtool(what: &str, file: &Path) -> Option<Result<String, String>> {
    let run = Command::new("promtool").args([what, "rules"]).arg(file).output();
    let Ok(output) = run else {
        println!("SKIPPED: promtool is not installed");
        return None;
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Some(if output.status.success() {
        Ok(said)
    } else {
        Err(said)
    })
}

/// Each template over each kind of window, and what else a definition can say.
fn all() -> Vec<Slo> {
    let mut all = Vec::new();
    for template in Template::ALL {
        for window in ["30d", "7d", "1h", "6h", "day", "week", "month"] {
            all.push(Definition {
                name: format!("{}-{window}", template.name()),
                template: Some(template),
                window: window.to_owned(),
                filter: "instance=~\"a|b\\\\.c\"".to_owned(),
                description: "{{ $labels.peer }} \"quoted\"\nand more: # {{".to_owned(),
                service: "shop".to_owned(),
                labels: BTreeMap::from([("team".to_owned(), "{{ x }} \\ \"".to_owned())]),
                ..Definition::default()
            });
        }
    }
    let with = |name: &str, change: &dyn Fn(&mut Definition)| {
        let mut one = Definition {
            name: name.to_owned(),
            ..Definition::default()
        };
        change(&mut one);
        one
    };
    all.push(with("histogram", &|d| {
        d.histogram = Some("http_seconds{job=\"a\"}".to_owned());
        d.below = Some(1.0);
    }));
    all.push(with("value", &|d| {
        d.value = Some("up # a comment".to_owned());
        d.at_least = Some(1.0);
        d.objective = 90.0;
        d.description = "\u{7f}\u{85}\u{9f}\u{2028}\u{ffff}".to_owned();
    }));
    all.push(with("own-window", &|d| {
        d.total = Some("sum by (job) (\n  rate(requests_total[$window])\n)".to_owned());
        d.good =
            Some("sum by (job) (rate(requests_total{code!~\"5..\",path=\"/é\"}[{{.window}}]))".to_owned());
    }));
    all.push(with("fast", &|d| {
        d.total = Some("sum(requests_total)".to_owned());
        d.bad = Some("sum(requests_total{code=~\"5..\"})".to_owned());
        d.interval = "1s".to_owned();
    }));
    all.iter().map(|one| Slo::new(one).unwrap()).collect()
}

#[test]
fn promtool_takes_the_rules_of_everything() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("slo.yaml");
    std::fs::write(&path, rules::write(&all()).unwrap()).unwrap();
    let Some(answer) = promtool("check", &path) else {
        return;
    };
    let said = answer.unwrap();
    assert!(said.contains("SUCCESS"), "{said}");
}

/// A test file over these rules: series with values a minute, and what must be so at a time.
fn judged(slo: &Slo, series: &[(&str, &str)], at: &str, samples: &[(&str, f64)], alerts: &[&str]) {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(
        home.path().join("slo.yaml"),
        rules::write(std::slice::from_ref(slo)).unwrap(),
    )
    .unwrap();
    let mut test = format!(
        "rule_files: [slo.yaml]\nevaluation_interval: {}s\ntests:\n- interval: {}s\n  input_series:\n",
        slo.interval / 1000,
        slo.interval / 2000
    );
    for (series, values) in series {
        test += &format!("  - series: '{series}'\n    values: '{values}'\n");
    }
    test += "  promql_expr_test:\n";
    for (expr, value) in samples {
        // Rates of counters that are read every 15 s: to a thousandth.
        test += &format!(
            "  - expr: 'count(abs({expr} - {value}) <= {})'\n    eval_time: {at}\n    exp_samples: [{{labels: '{{}}', value: 1}}]\n",
            value.abs().max(1e-6) * 1e-3
        );
    }
    let shown: Vec<String> = alerts
        .iter()
        .map(|factor| format!("{{factor=\"{factor}\"}}"))
        .collect();
    test += &format!(
        "  - expr: 'sum by (factor) (ALERTS{{alertname=\"GeophoneSloBurn\",alertstate=\"firing\"}})'\n    eval_time: {at}\n    exp_samples:\n"
    );
    for factor in shown {
        test += &format!("    - {{labels: '{factor}', value: 1}}\n");
    }
    let path = home.path().join("test.yaml");
    std::fs::write(&path, &test).unwrap();
    if let Some(Err(said)) = promtool("test", &path) {
        panic!("{}: {said}\n{test}", slo.name);
    }
}

fn of(template: Template, objective: f64) -> Slo {
    Slo::new(&Definition {
        name: "s".to_owned(),
        template: Some(template),
        objective,
        by: Some(vec!["peer".to_owned()]),
        ..Definition::default()
    })
    .unwrap()
}

/// Ten failures and ninety successes a quarter minute against 99 %: the budget burns ten times too fast.
#[test]
fn failures_burn_the_budget() {
    let series = [
        (
            "geophone_tcp_connections_total{role=\"client\",outcome=\"failed\",peer=\"db\"}",
            "0+10x480",
        ),
        (
            "geophone_tcp_connections_total{role=\"client\",outcome=\"opened\",peer=\"db\"}",
            "0+90x480",
        ),
        (
            "geophone_tcp_connections_total{role=\"server\",outcome=\"opened\",peer=\"db\"}",
            "0+500x480",
        ),
    ];
    let samples = [
        ("geophone_slo_sli_ratio{slo=\"s\",window=\"5m\",peer=\"db\"}", 0.9),
        ("geophone_slo_sli_ratio{slo=\"s\",window=\"1h\"}", 0.9),
        ("geophone_slo_sli_ratio{slo=\"s\",window=\"30d\"}", 0.9),
        ("geophone_slo_burn_rate{slo=\"s\",window=\"1h\"}", 10.0),
        ("geophone_slo_burn_rate{slo=\"s\",window=\"3d\"}", 10.0),
        ("geophone_slo_budget_consumed_ratio", 10.0),
        ("geophone_slo_budget_remaining_ratio", -9.0),
        ("geophone_slo_objective_ratio", 0.99),
        // 4,800 s of 30 days, seen every 240 s.
        (
            "(geophone_slo_coverage_ratio > bool 0.00175) * (geophone_slo_coverage_ratio < bool 0.00186)",
            1.0,
        ),
    ];
    judged(
        &of(Template::ConnectSuccess, 99.0),
        &series,
        "80m",
        &samples,
        &["1", "3", "6"],
    );
    // Of shorter windows the same share of the budget is less time: 2 % of a week's within an hour, a tenth of a day's.
    for (window, alerts) in [
        ("28d", &["1", "2.8", "5.6"][..]),
        ("7d", &["1", "1.4", "3.36"]),
        ("1d", &["1", "2.4"]),
        ("1h", &["1", "1.2"]),
    ] {
        let slo = Slo {
            window: Window::parse(window).unwrap(),
            ..of(Template::ConnectSuccess, 99.0)
        };
        judged(&slo, &series, "80m", &samples[..2], alerts);
    }
}

/// What never fails has no series of failures; what no longer fails burns nothing over the short windows.
#[test]
fn no_failure_is_no_alert() {
    let opened = (
        "geophone_tcp_connections_total{role=\"client\",outcome=\"opened\",peer=\"db\"}",
        "0+90x480",
    );
    let samples = [
        ("geophone_slo_sli_ratio{slo=\"s\",window=\"30d\"}", 1.0),
        ("geophone_slo_budget_remaining_ratio", 1.0),
        ("1 + geophone_slo_burn_rate{slo=\"s\",window=\"1h\"}", 1.0),
    ];
    judged(
        &of(Template::ConnectSuccess, 99.0),
        &[opened],
        "80m",
        &samples,
        &[],
    );
    let once = (
        "geophone_tcp_connections_total{role=\"client\",outcome=\"failed\",peer=\"db\"}",
        "0+90x40 3600x440",
    );
    let samples = [("1 + geophone_slo_burn_rate{slo=\"s\",window=\"5m\"}", 1.0)];
    judged(
        &of(Template::ConnectSuccess, 99.0),
        &[opened, once],
        "60m",
        &samples,
        &["1", "3"],
    );
}

#[test]
fn loss_latency_lookups_and_tunnels() {
    let loss = [
        (
            "geophone_tcp_segments_total{direction=\"transmit\",peer=\"db\"}",
            "0+1000x480",
        ),
        (
            "geophone_tcp_segments_total{direction=\"receive\",peer=\"db\"}",
            "0+1000x480",
        ),
        (
            "geophone_tcp_retransmits_total{type=\"fast\",peer=\"db\"}",
            "0+1x480",
        ),
        (
            "geophone_tcp_retransmits_total{type=\"timeout\",peer=\"db\"}",
            "0+1x480",
        ),
    ];
    let samples = [
        ("geophone_slo_sli_ratio{window=\"30d\",peer=\"db\"}", 0.998),
        ("geophone_slo_budget_remaining_ratio", 0.8),
    ];
    judged(&of(Template::PeerLoss, 99.0), &loss, "80m", &samples, &[]);
    // 125 ms is the bound of an octave.
    let latency = [
        (
            "geophone_tcp_rtt_seconds_bucket{le=\"0.0625\",peer=\"db\"}",
            "0+40x480",
        ),
        (
            "geophone_tcp_rtt_seconds_bucket{le=\"0.125\",peer=\"db\"}",
            "0+90x480",
        ),
        (
            "geophone_tcp_rtt_seconds_bucket{le=\"0.25\",peer=\"db\"}",
            "0+100x480",
        ),
        (
            "geophone_tcp_rtt_seconds_bucket{le=\"+Inf\",peer=\"db\"}",
            "0+100x480",
        ),
        ("geophone_tcp_rtt_seconds_count{peer=\"db\"}", "0+100x480"),
    ];
    judged(
        &of(Template::PeerLatency, 95.0),
        &latency,
        "80m",
        &[("geophone_slo_sli_ratio{window=\"30d\"}", 0.9)],
        &["1"],
    );
    // Between two bounds: a quarter of what lies between them.
    let between = Slo::new(&Definition {
        name: "s".to_owned(),
        template: Some(Template::PeerLatency),
        below: Some(0.078_125),
        objective: 95.0,
        by: Some(vec!["peer".to_owned()]),
        ..Definition::default()
    });
    judged(
        &between.unwrap(),
        &latency,
        "80m",
        &[("geophone_slo_sli_ratio{window=\"30d\"}", 0.525)],
        &["1", "3", "6"],
    );
    let lookups = [
        (
            "geophone_dns_lookup_seconds_count{rcode=\"NOERROR\",server=\"s\"}",
            "0+93x480",
        ),
        (
            "geophone_dns_lookup_seconds_count{rcode=\"NXDOMAIN\",server=\"s\"}",
            "0+4x480",
        ),
        (
            "geophone_dns_lookup_seconds_count{rcode=\"SERVFAIL\",server=\"s\"}",
            "0+1x480",
        ),
        ("geophone_dns_timeouts_total{server=\"s\"}", "0+2x480"),
    ];
    let dns = Slo::new(&Definition {
        name: "s".to_owned(),
        template: Some(Template::Dns),
        by: Some(vec!["server".to_owned()]),
        ..Definition::default()
    });
    judged(
        &dns.unwrap(),
        &lookups,
        "80m",
        &[("geophone_slo_sli_ratio{window=\"30d\",server=\"s\"}", 0.97)],
        &["1", "14.4", "3", "6"],
    );
    // Down for 20 minutes of 80; of what is not known nothing is said.
    let tunnels = [
        ("geophone_tunnel_state{id=\"7\",state=\"up\"}", "1x160 0x80 1x240"),
        (
            "geophone_tunnel_state{id=\"7\",state=\"down\"}",
            "0x160 1x80 0x240",
        ),
        ("geophone_tunnel_state{id=\"7\",state=\"degraded\"}", "0x480"),
        (
            "geophone_tunnel_state{id=\"8\",state=\"unknown\",reason=\"not_watched\"}",
            "1x480",
        ),
    ];
    let tunnel = Slo::new(&Definition {
        name: "s".to_owned(),
        template: Some(Template::TunnelAvailability),
        by: Some(vec!["id".to_owned()]),
        objective: 90.0,
        window: "1d".to_owned(),
        ..Definition::default()
    });
    let samples = [
        ("geophone_slo_total_events{id=\"7\"}", 30.0),
        ("absent(geophone_slo_total_events{id=\"8\"})", 1.0),
        (
            "sum_over_time(geophone_slo_bad_events{id=\"7\"}[80m]) + 30 * (1 - 80 / 80)",
            1200.0,
        ),
    ];
    // Of the last half hour a third was down still.
    judged(&tunnel.unwrap(), &tunnels, "80m", &samples, &["1"]);
}

/// From the first of the month on, and nothing of before. promtool begins at 1970-01-01T00:00:00Z.
#[test]
fn a_calendar_window_begins_anew() {
    let slo = Slo::new(&Definition {
        name: "s".to_owned(),
        template: Some(Template::PeerLoss),
        objective: 90.0,
        by: Some(vec!["peer".to_owned()]),
        window: "day".to_owned(),
        interval: "2m".to_owned(),
        ..Definition::default()
    });
    // Half is lost until 23:00, nothing afterwards.
    let series = [
        (
            "geophone_tcp_segments_total{direction=\"transmit\",peer=\"db\"}",
            "0+100x1500",
        ),
        (
            "geophone_tcp_retransmits_total{peer=\"db\"}",
            "0+50x1380 69000x120",
        ),
    ];
    let slo = slo.unwrap();
    let before = [
        // 23 of 23.9 hours.
        (
            "(geophone_slo_sli_ratio{window=\"day\"} > bool 0.515) * (geophone_slo_sli_ratio{window=\"day\"} < bool 0.523)",
            1.0,
        ),
        (
            "(geophone_slo_coverage_ratio > bool 0.99) * (geophone_slo_coverage_ratio <= bool 1)",
            1.0,
        ),
    ];
    judged(&slo, &series, "1434m", &before, &[]);
    let after = [
        ("geophone_slo_sli_ratio{window=\"day\"}", 1.0),
        ("geophone_slo_budget_remaining_ratio", 1.0),
        // Of the day that has just begun hardly anything is known.
        ("geophone_slo_coverage_ratio < bool 0.05", 1.0),
        (
            "(geophone_slo_sli_ratio{window=\"1d\"} > bool 0.5) * (geophone_slo_sli_ratio{window=\"1d\"} < bool 0.53)",
            1.0,
        ),
    ];
    judged(&slo, &series, "1460m", &after, &[]);
}

/// Groups of two objectives never have one name. Of a bound that no bucket has nothing is known, rather than that all is bad.
/// The budget of a time is that of the whole window from its beginning on.
#[test]
fn what_is_not_known_is_neither_good_nor_bad() {
    let new = |name: &str| {
        Slo::new(&Definition {
            name: name.to_owned(),
            template: Some(Template::PeerLoss),
            ..Definition::default()
        })
        .unwrap()
    };
    let text = rules::write(&[new("web"), new("web-slow")]).unwrap();
    assert_eq!(agent_rules::file::parse("slo.yaml", &text).unwrap().len(), 4);
    let histogram = Definition {
        name: "s".to_owned(),
        histogram: Some("http_seconds".to_owned()),
        below: Some(0.3),
        ..Definition::default()
    };
    let series = [
        ("http_seconds_bucket{le=\"0.25\"}", "0+90x100"),
        ("http_seconds_bucket{le=\"+Inf\"}", "0+90x100"),
        ("http_seconds_count", "0+90x100"),
    ];
    let unknown = [
        ("absent(geophone_slo_total_events)", 1.0),
        ("absent(geophone_slo_bad_events)", 1.0),
        ("absent(geophone_slo_covered_seconds)", 1.0),
    ];
    judged(&Slo::new(&histogram).unwrap(), &series, "20m", &unknown, &[]);
    // Failures without a total are no failures of anything.
    let failed = [(
        "geophone_tcp_retransmits_total{instance=\"n\",peer=\"db\"}",
        "0+9x100",
    )];
    judged(&new("s"), &failed, "20m", &unknown, &[]);
    // A bound that Go, and so Prometheus, writes with an exponent.
    let large = Definition {
        histogram: Some("sent_bytes".to_owned()),
        below: Some(1e6),
        ..histogram
    };
    let series = [
        ("sent_bytes_bucket{le=\"1e+06\"}", "0+30x100"),
        ("sent_bytes_bucket{le=\"+Inf\"}", "0+90x100"),
        ("sent_bytes_count", "0+90x100"),
    ];
    let third = [("geophone_slo_sli_ratio{window=\"30d\"}", 1.0 / 3.0)];
    judged(
        &Slo::new(&large).unwrap(),
        &series,
        "20m",
        &third,
        &["1", "3", "6", "14.4"],
    );
    let value = Definition {
        name: "s".to_owned(),
        value: Some("up".to_owned()),
        at_least: Some(1.0),
        window: "1h".to_owned(),
        objective: 50.0,
        ..Definition::default()
    };
    // Ten minutes of an hour are a third of what may be bad.
    let down = [("geophone_slo_budget_consumed_ratio", 1.0 / 3.0)];
    judged(
        &Slo::new(&value).unwrap(),
        &[("up", "0x39 1x40")],
        "18m",
        &down,
        &[],
    );
}
