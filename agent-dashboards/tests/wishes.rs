//! Where panels lead on to, and dashboards as somebody wants them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at what it does not expect"
)]

mod declared;

use agent_dashboards::own::{self, Own};
use agent_dashboards::{Dashboard, Metric, Style, dashboards};
use declared::declared;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn made() -> (Vec<Metric>, Vec<Dashboard>) {
    let declared = declared();
    let made =
        dashboards(&declared, Style::default()).unwrap_or_else(|faults| panic!("{}", faults.join("\n")));
    (declared, made)
}

fn of(boards: Vec<Dashboard>, name: &str) -> Dashboard {
    boards.into_iter().find(|board| board.name == name).unwrap()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn panels(board: &Dashboard) -> impl Iterator<Item = &Value> {
    list(&board.json["panels"]).flat_map(|panel| std::iter::once(panel).chain(list(&panel["panels"])))
}

/// All links of a panel: beside its title, at its values, at its columns.
fn links(panel: &Value) -> Vec<&str> {
    let overrides = list(&panel["fieldConfig"]["overrides"]).flat_map(|one| list(&one["properties"]));
    let columns = overrides.filter(|property| property["id"] == "links");
    list(&panel["links"])
        .chain(list(&panel["fieldConfig"]["defaults"]["links"]))
        .chain(columns.flat_map(|property| list(&property["value"])))
        .map(|link| link["url"].as_str().unwrap())
        .collect()
}

fn variables(board: &Dashboard) -> BTreeSet<&str> {
    board.variables().into_iter().map(|(name, _)| name).collect()
}

/// Dashboard, variables that go along, and labels with the variable that each becomes: `instance=__field.labels.instance`.
fn parts(url: &str) -> (&str, Vec<&str>, Vec<(&str, &str)>) {
    let (board, query) = url.strip_prefix("/d/").unwrap().split_once('?').unwrap();
    let (mut along, mut labels) = (Vec::new(), Vec::new());
    for part in query.split('&') {
        if let Some(name) = part
            .strip_prefix("${")
            .and_then(|rest| rest.strip_suffix(":queryparam}"))
        {
            along.push(name);
        } else if let Some((name, label)) = part.strip_prefix("var-").and_then(|rest| rest.split_once("=${"))
        {
            labels.push((name, label.strip_suffix(":percentencode}").unwrap()));
        } else {
            assert!(
                ["${__url_time_range}", "from=${__from}", "to=${__to}"].contains(&part),
                "{part} of {url}"
            );
        }
    }
    (board, along, labels)
}

/// Cause: each link of each panel. Seen: its dashboard, the variables of both, and labels that the series that is clicked has.
#[test]
fn links_lead_to_what_there_is() {
    let (_, all) = made();
    let mut seen = 0;
    for board in &all {
        for panel in panels(board) {
            for url in links(panel) {
                if url.starts_with("${agent:raw}/api/v1/profile?") {
                    assert!(variables(board).contains("agent"), "{}: {url}", board.name);
                    continue;
                }
                let (to, along, labels) = parts(url);
                let to = all.iter().find(|board| board.name == to);
                let there = variables(to.unwrap_or_else(|| panic!("{url}: no such dashboard")));
                let what = format!("{}: {}: {url}", board.name, panel["title"]);
                assert!(along.contains(&"datasource"), "{what}");
                for name in along {
                    assert!(
                        there.contains(name) && variables(board).contains(name),
                        "{name} of {what}"
                    );
                }
                for (variable, label) in labels {
                    assert!(there.contains(variable), "{variable} of {what}");
                    let is_of = |target: &Value| {
                        let (expr, legend) = (
                            target["expr"].as_str().unwrap(),
                            target["legendFormat"].as_str().unwrap(),
                        );
                        match label.rsplit_once('.').unwrap() {
                            ("__field.labels", label) => {
                                legend.contains(&format!("{{{{{label}}}}}"))
                                    || legend.starts_with("expected at ")
                            }
                            ("__data.fields", label) => {
                                let by = expr
                                    .split_once("by (")
                                    .map(|(_, rest)| rest.split(')').next().unwrap());
                                by.is_none_or(|by| by.split(", ").any(|one| one == label))
                            }
                            // The heads of a matrix.
                            _ => label == "__field.name" && panel["type"] == "table",
                        }
                    };
                    let is_matrix = label == "__data.fields[0]";
                    assert!(
                        is_matrix || list(&panel["targets"]).all(is_of),
                        "{label} of {what}"
                    );
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 60, "{seen}");
}

/// Who uses CPU, waits for one or is slow leads to the stacks of that subject at that time, and so does each band of what was expected.
#[test]
fn profiles_are_a_click_away() {
    let (_, all) = made();
    let to_profiles = |panel: &Value| {
        let mut urls = links(panel).into_iter().map(str::to_owned);
        urls.find(|url| url.starts_with("/d/geophone-profiles?"))
    };
    for (board, title, label) in [
        ("geophone-services", "CPU time", "__field.labels.subject"),
        (
            "geophone-services",
            "Wait for a CPU, p99",
            "__field.labels.subject",
        ),
        ("geophone-services", "Round trip, p99", "__field.labels.subject"),
        (
            "geophone-services",
            "Each subject and each peer",
            "__data.fields.subject",
        ),
        ("geophone-overview", "Slowest pairs", "__data.fields.subject"),
        ("geophone-overview", "Unusual", "__data.fields.instance"),
        ("geophone-node", "Pressure", "__field.labels.instance"),
        ("geophone-node", "Waits for a CPU", "instance:queryparam}"),
    ] {
        let board = all.iter().find(|one| one.name == board).unwrap();
        let panel = panels(board).find(|panel| panel["title"] == title).unwrap();
        let url = to_profiles(panel).unwrap_or_else(|| panic!("{title} leads to no profile"));
        assert!(url.contains(&format!("${{{label}")), "{title}: {url}");
        assert!(url.ends_with("&from=${__from}&to=${__to}"), "{title}: {url}");
    }
    let bands = all
        .iter()
        .flat_map(panels)
        .filter(|panel| panel["type"] != "row" && panel.to_string().contains("fillBelowTo"));
    let bands: Vec<_> = bands.collect();
    assert!(bands.len() > 15);
    for band in bands {
        assert!(
            to_profiles(band).is_some_and(|url| url.contains("${__field.labels.instance:")),
            "{band}"
        );
        let ends = list(&band["fieldConfig"]["overrides"])
            .filter(|one| one["properties"] == json!([{ "id": "links", "value": [] }]));
        assert_eq!(ends.count(), 2, "the ends of a band are of no node: {band}");
    }
}

fn variable<'a>(board: &'a Dashboard, name: &str) -> &'a Value {
    list(&board.json["templating"]["list"])
        .find(|one| one["name"] == name)
        .unwrap()
}

#[test]
fn variables_begin_with_what_is_chosen() {
    let mut node = of(made().1, "geophone-node");
    node.choose("node", &["n1:9779", "n2:9779"]).unwrap();
    node.choose("region", &["eu"]).unwrap();
    node.choose("datasource", &["abc"]).unwrap();
    assert_eq!(
        variable(&node, "instance")["current"]["value"],
        json!(["n1:9779", "n2:9779"])
    );
    assert_eq!(variable(&node, "region")["current"]["text"], json!(["eu"]));
    assert_eq!(variable(&node, "datasource")["current"]["value"], "abc");
    let mut profiles = of(made().1, "geophone-profiles");
    profiles.choose("agent", &["http://127.0.0.1:9780"]).unwrap();
    let agent = variable(&profiles, "agent");
    for value in [
        &agent["query"],
        &agent["current"]["value"],
        &agent["options"][0]["value"],
    ] {
        assert_eq!(value, "http://127.0.0.1:9780");
    }
    node.choose("region", &["All"]).unwrap();
    assert_eq!(variable(&node, "region")["current"]["value"], json!(["$__all"]));
    for (name, values, said) in [
        (
            "peer",
            &["db"][..],
            "geophone-node has no such variable; there are datasource (Source), region (Region), instance (Node), device",
        ),
        ("region", &[""], "region: without a value"),
        ("region", &["a\nb"], "control character"),
        ("region", &["eu", "All"], "name no other beside it"),
        ("datasource", &["a", "b"], "one value, not 2"),
        ("datasource", &["All"], "one value, not all"),
    ] {
        let fault = node.choose(name, values).unwrap_err();
        assert!(fault.contains(said), "{fault}");
    }
    node.show_last("6h");
    node.refresh(None);
    node.step("1m");
    node.rename("Mine");
    node.set_uid("mine").unwrap();
    for (key, value) in [
        ("time", json!({ "from": "now-6h", "to": "now" })),
        ("refresh", json!("")),
        ("title", json!("Mine")),
        ("uid", json!("mine")),
    ] {
        assert_eq!(node.json[key], value);
    }
    assert_eq!(node.name, "mine");
    let targets: Vec<&Value> = panels(&node).flat_map(|panel| list(&panel["targets"])).collect();
    assert!(targets.len() > 50 && targets.iter().all(|target| target["interval"] == "1m"));
    assert!(panels(&node).all(|panel| panel.get("targets").is_none_or(Value::is_array)));
    assert!(node.set_uid("a b").unwrap_err().contains("letters, digits"));
}

fn one(title: &str, queries: &[&str]) -> Own {
    Own {
        title: title.to_owned(),
        queries: queries.iter().map(|&query| query.to_owned()).collect(),
    }
}

/// Cause: panels of one's own in a dashboard of ours, and in one of their own. Seen: at the end and in nobody's place, in the unit of
/// what they ask for, as a heatmap if that is a histogram.
#[test]
fn own_panels_have_a_place_and_a_unit() {
    let (declared, all) = made();
    let own = [
        one(
            "Web",
            &[
                r#"sum(rate(geophone_tcp_bytes_total{subject="web",instance=~"$instance"}[$__rate_interval]))"#,
            ],
        ),
        one(
            "Trips",
            &["sum(rate(geophone_tcp_rtt_seconds[$__rate_interval]))"],
        ),
        one("Both", &["geophone_tcp_connections", "node_load1 / 2"]),
    ];
    let (node, custom) = (of(all, "geophone-node"), own::custom(Style::default()));
    for mut board in [node, custom] {
        let (before, asked) = (list(&board.json["panels"]).count(), board.queries.len());
        board.add(&own, &declared).unwrap();
        let all: Vec<&Value> = list(&board.json["panels"]).collect();
        let number = |value: &Value| value.as_u64().unwrap();
        let ids: BTreeSet<u64> = panels(&board).map(|panel| number(&panel["id"])).collect();
        assert_eq!(ids.len(), panels(&board).count(), "an id twice");
        let (old, new) = all.split_at(before);
        let bottom = old
            .iter()
            .map(|panel| number(&panel["gridPos"]["y"]) + number(&panel["gridPos"]["h"]));
        let bottom = bottom.max().unwrap_or(0);
        assert!(new.iter().all(|panel| number(&panel["gridPos"]["y"]) >= bottom));
        let new = if before > 0 {
            assert_eq!(new[0]["title"], "Own");
            &new[1..]
        } else {
            new
        };
        let shown: Vec<_> = new
            .iter()
            .map(|panel| {
                (
                    panel["title"].as_str().unwrap(),
                    panel["type"].as_str().unwrap(),
                    panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("Web", "timeseries", "Bps"),
                ("Trips", "heatmap", "s"),
                ("Both", "timeseries", "short")
            ]
        );
        assert_eq!(new[2]["targets"][1]["expr"], "node_load1 / 2");
        assert_eq!(board.queries.len(), asked + 4);
    }
}

#[test]
fn own_queries_that_make_no_sense_are_refused() {
    let (declared, all) = made();
    let mut node = of(all, "geophone-node");
    for (query, said) in [
        (
            r#"sum(rate(x{a="$instance"}[$__rate_interval])))"#,
            "at character 46, `)`, in sum(rate(x{a=",
        ),
        ("sum(", "unclosed left parenthesis, in sum("),
        ("rate(x)", "expected type matrix"),
        (
            r#"x{peer=~"$peer"}"#,
            "$peer: geophone-node has no such variable; there are $datasource, $region, $instance, $device",
        ),
    ] {
        let fault = node.add(&[one("A", &[query])], &declared).unwrap_err();
        assert!(fault.contains(said), "{fault}");
    }
}

#[test]
fn what_own_queries_ask_for_in_vain_is_doubted() {
    let declared = declared();
    let doubts = |query: &str, classic| own::doubts(query, &declared, Style { classic }).join("; ");
    for (query, classic, said) in [
        (
            "rate(geophone_tcp_byte_total[5m])",
            false,
            "geophone_tcp_byte_total: geophone has no such metric",
        ),
        (
            "sum by (le) (rate(geophone_tcp_rtt_seconds_bucket[5m]))",
            false,
            "it is a native histogram, ask for geophone_tcp_rtt_seconds;",
        ),
        (
            "sum(rate(geophone_tcp_rtt_seconds[5m]))",
            true,
            "it has buckets, ask for geophone_tcp_rtt_seconds_bucket",
        ),
    ] {
        assert!(
            doubts(query, classic).contains(said),
            "{query}: {}",
            doubts(query, classic)
        );
        assert_eq!(
            doubts(query, !classic).is_empty(),
            !query.contains("byte_total"),
            "{query}"
        );
    }
    for query in [
        "node_load1",
        "geophone_tcp_connections",
        "geophone:region_nodes:count",
        "up",
    ] {
        assert_eq!(doubts(query, false), "");
    }
}
