//! The dashboards of the metrics that docs/metrics.md lists, which is made from the declarations.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at what it does not expect"
)]

mod declared;

use agent_dashboards::{Dashboard, Kind, Metric, RECORDED, Style, WATCHES, check, dashboards};
use declared::{declared, root};
use promql_parser::parser::{self, Expr, LabelModifier};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

fn made() -> &'static [Dashboard] {
    static MADE: OnceLock<Vec<Dashboard>> = OnceLock::new();
    MADE.get_or_init(|| good(Style::default()))
}

fn good(style: Style) -> Vec<Dashboard> {
    dashboards(&declared(), style).unwrap_or_else(|faults| panic!("{}", faults.join("\n")))
}

#[test]
fn they_ask_for_what_there_is_native_and_classic() {
    assert!(declared().len() > 100);
    for classic in [false, true] {
        let boards = good(Style { classic });
        assert_eq!(boards.len(), 7);
        let queries = boards.iter().flat_map(|board| &board.queries);
        let buckets = queries.filter(|query| query.expr.contains("_bucket")).count();
        assert_eq!(buckets > 0, classic);
    }
}

#[test]
fn each_metric_is_shown_somewhere() {
    let boards = made();
    let shown: BTreeSet<String> = boards
        .iter()
        .flat_map(|board| &board.queries)
        .flat_map(|query| check::names(&query.expr))
        .collect();
    let hidden: Vec<String> = declared()
        .into_iter()
        .map(|metric| metric.name)
        .filter(|name| !shown.contains(name))
        .collect();
    assert!(hidden.is_empty(), "in no dashboard: {hidden:?}");
}

/// Panels that fill the area between two of their targets, with the row that hides them.
fn bands(board: &Dashboard) -> Vec<(&Value, &Value)> {
    let rows = board.json["panels"].as_array().unwrap().iter();
    let inside = rows.flat_map(|row| {
        row["panels"]
            .as_array()
            .into_iter()
            .flatten()
            .map(move |p| (row, p))
    });
    inside
        .filter(|(_, panel)| panel.to_string().contains("fillBelowTo"))
        .collect()
}

/// The value that a panel gives to a field of this name.
fn overridden<'a>(panel: &'a Value, field: &str, property: &str) -> Option<&'a Value> {
    let all = panel["fieldConfig"]["overrides"].as_array()?;
    let own = all
        .iter()
        .find(|one| one["matcher"]["id"] == "byName" && one["matcher"]["options"] == field)?;
    let mut properties = own["properties"].as_array()?.iter();
    properties
        .find(|one| one["id"] == property)
        .map(|one| &one["value"])
}

/// What is watched is drawn with the band of the very same series: between the two targets that Grafana knows by their legends, and
/// once for each value of a variable by which all three are narrowed, or else one band would lie over another.
#[test]
fn bands_are_of_what_they_lie_around() {
    let mut watched = BTreeSet::new();
    for board in made() {
        for (row, panel) in bands(board) {
            let targets = panel["targets"].as_array().unwrap();
            let [value, upper, lower] = targets.as_slice() else {
                panic!("{panel}")
            };
            let [value, upper, lower] = [value, upper, lower].map(|target| {
                let legend = target["legendFormat"].as_str().unwrap();
                (legend, target["expr"].as_str().unwrap())
            });
            let fill = overridden(panel, upper.0, "custom.fillBelowTo");
            assert_eq!(fill, Some(&Value::from(lower.0)), "{panel}");
            for (legend, opacity) in [(upper.0, 15), (lower.0, 0)] {
                let seen = overridden(panel, legend, "custom.fillOpacity");
                assert_eq!(seen, Some(&Value::from(opacity)), "{legend}: {panel}");
            }
            let selector = |expr: &str| expr.split_once('{').unwrap().1.to_owned();
            for ((_, expr), (start, name)) in [
                (value, ("max by (instance) (", "value")),
                (upper, ("max(", "upper")),
                (lower, ("min(", "lower")),
            ] {
                assert!(
                    expr.starts_with(&format!("{start}geophone_anomaly_{name}{{")),
                    "{expr}"
                );
                assert_eq!(selector(expr), selector(value.1));
            }
            assert_eq!(row["collapsed"], true, "{row}");
            if let Some(variable) = row["repeat"].as_str() {
                let narrowed = format!("{variable}=~\"${variable}\"");
                assert!(value.1.contains(&narrowed), "not by {variable}: {}", value.1);
                let variables = board.json["templating"]["list"].as_array().unwrap();
                assert!(
                    variables.iter().any(|one| one["name"] == variable),
                    "no ${variable}"
                );
                assert!(
                    row["title"].as_str().unwrap().contains(&format!("${variable}")),
                    "{row}"
                );
            }
            let (_, rest) = value.1.split_once("watch=\"").unwrap();
            watched.insert(rest.split('"').next().unwrap().to_owned());
        }
    }
    let all: BTreeSet<String> = WATCHES.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert_eq!(
        watched, all,
        "each watch has a band, and no band is of anything else"
    );
}

/// Who has no TCP connection can be chosen as well: the variable takes subjects of several metrics, each of which has them.
#[test]
fn every_subject_can_be_chosen() {
    let mut seen = 0;
    for board in made() {
        let variables = board.json["templating"]["list"].as_array().unwrap();
        let Some(subject) = variables.iter().find(|one| one["name"] == "subject") else {
            continue;
        };
        seen += 1;
        let query = subject["query"]["query"].as_str().unwrap();
        let (_, rest) = query.split_once("geophone_(").unwrap();
        let names: Vec<&str> = rest.split_once(')').unwrap().0.split('|').collect();
        assert!(
            names.contains(&"tcp_connections") && names.contains(&"cgroup_used"),
            "{query}"
        );
        for name in names {
            let metric = declared()
                .into_iter()
                .find(|metric| metric.name == format!("geophone_{name}"));
            assert!(
                metric.is_some_and(|metric| metric.labels.iter().any(|label| label == "subject")),
                "{name}"
            );
        }
    }
    assert_eq!(seen, 2);
}

/// An alert of a region has no node, and one of a node has no region: with all nodes chosen, which Grafana writes one by one, both
/// are shown.
#[test]
fn alerts_without_a_node_are_not_hidden() {
    let asked = made().iter().flat_map(|board| &board.queries);
    let asked: Vec<&str> = asked
        .map(|query| query.expr.as_str())
        .filter(|expr| expr.contains("ALERTS{"))
        .collect();
    assert!(asked.len() >= 3);
    for expr in asked {
        for label in ["instance", "region"] {
            assert!(expr.contains(&format!("{label}=~\"${label}|\"")), "{expr}");
        }
    }
}

#[test]
fn what_is_new_has_a_place() {
    let mut metrics = declared();
    let new = |name: &str, kind, labels: &[&str]| Metric {
        name: name.to_owned(),
        kind,
        unit: "s".to_owned(),
        labels: labels.iter().map(|&label| label.to_owned()).collect(),
        help: "New".to_owned(),
    };
    metrics.extend([
        new("geophone_new_total", Kind::Counter, &[]),
        new("geophone_new", Kind::Gauge, &["a", "b", "c"]),
        new("geophone_new_seconds", Kind::Histogram, &["a"]),
        new("geophone_new_timestamp_seconds", Kind::Gauge, &["a"]),
    ]);
    let boards = dashboards(&metrics, Style::default()).unwrap();
    let queries = &boards.last().unwrap().queries;
    let found = |expr: &str| queries.iter().any(|query| query.expr.contains(expr));
    assert!(
        found("sum by (instance) (rate(geophone_new_total{"),
        "{queries:?}"
    );
    assert!(found("max by (a, b, instance) (geophone_new{"));
    assert!(found(
        "histogram_quantile(0.99, sum by (a, instance) (rate(geophone_new_seconds{"
    ));
    // How long ago, and not the seconds since 1970.
    assert!(found(
        "time() - max by (a, instance) (geophone_new_timestamp_seconds{"
    ));
}

/// Labels by which the series of a query differ; none where that is not written in it.
fn differ_by(expr: &Expr) -> Vec<&str> {
    match expr {
        // These take some of the series, as they are.
        Expr::Aggregate(some) if matches!(some.op.to_string().as_str(), "topk" | "bottomk") => {
            differ_by(&some.expr)
        }
        Expr::Aggregate(all) => match &all.modifier {
            Some(LabelModifier::Include(by)) => by.labels.iter().map(String::as_str).collect(),
            _ => Vec::new(),
        },
        Expr::Binary(binary) => [&binary.lhs, &binary.rhs]
            .map(|side| differ_by(side))
            .into_iter()
            .find(|by| !by.is_empty())
            .unwrap_or_default(),
        Expr::Call(call) => call
            .args
            .args
            .iter()
            .map(|arg| differ_by(arg))
            .find(|by| !by.is_empty())
            .unwrap_or_default(),
        Expr::Paren(paren) => differ_by(&paren.expr),
        Expr::Unary(unary) => differ_by(&unary.expr),
        _ => Vec::new(),
    }
}

/// Two lines of a graph never have the same name: each label by which they differ is in it.
#[test]
fn lines_are_told_apart() {
    let mut seen = 0;
    for board in made() {
        let panels = board.json["panels"].as_array().unwrap().iter();
        let all = panels
            .flat_map(|panel| std::iter::once(panel).chain(panel["panels"].as_array().into_iter().flatten()));
        for panel in all.filter(|panel| panel["type"] == "timeseries") {
            for target in panel["targets"].as_array().unwrap() {
                let (expr, legend) = (&target["expr"], target["legendFormat"].as_str().unwrap());
                let tree = parser::parse(&check::plain(expr.as_str().unwrap(), |_| "x".to_owned())).unwrap();
                for label in differ_by(&tree) {
                    seen += 1;
                    assert!(
                        legend.contains(&format!("{{{{{label}}}}}")),
                        "{}: {}: {label} is not in {legend:?}: {expr}",
                        board.name,
                        panel["title"]
                    );
                }
            }
        }
    }
    assert!(seen > 200, "{seen}");
}

#[test]
fn what_is_missing_is_told() {
    let mut metrics = declared();
    metrics.retain(|metric| metric.name != "geophone_tunnel_state");
    for metric in &mut metrics {
        metric.labels.retain(|label| label != "rcode");
    }
    let faults = dashboards(&metrics, Style::default()).unwrap_err().join("\n");
    assert!(
        faults.contains("geophone_tunnel_state: no such metric"),
        "{faults}"
    );
    assert!(
        faults.contains("geophone_dns_lookup_seconds: no label rcode"),
        "{faults}"
    );
}

/// What rules record must be recorded by rules, with those labels.
#[test]
fn the_rules_record_it() {
    let read = |file: &str| std::fs::read_to_string(root().join("deploy/prometheus").join(file)).unwrap();
    let rules = read("fleet.yaml") + &read("health.yaml");
    // Those of objectives are made for each.
    let objectives = std::fs::read_to_string(root().join("agent-slo/src/rules.rs")).unwrap();
    for (name, _) in RECORDED.iter().filter(|(name, _)| name.starts_with("geophone")) {
        let is_recorded = match name.strip_prefix("geophone_slo_") {
            Some(own) => objectives.contains(&format!("\"{own}\"")),
            None => rules.contains(&format!("record: {name}\n")),
        };
        assert!(is_recorded, "{name}: no rule records it");
    }
}

#[test]
fn panels_have_places_and_names_of_their_own() {
    let mut uids = BTreeSet::new();
    for board in made() {
        assert_eq!(board.json["uid"], board.name);
        assert!(uids.insert(board.name.as_str()), "{}: twice", board.name);
        let mut taken: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for panel in board.json["panels"].as_array().unwrap() {
            let (id, at) = (panel["id"].as_u64().unwrap(), &panel["gridPos"]);
            let inside = panel["panels"].as_array().into_iter().flatten();
            for id in inside.map(|inside| inside["id"].as_u64().unwrap()).chain([id]) {
                assert!(ids.insert(id), "{}: {id} is there twice", board.name);
            }
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| at[side].as_u64().unwrap());
            assert!(x + w <= 24, "{}: {panel}", board.name);
            for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                let other = taken.insert(place, id);
                assert!(
                    other.is_none(),
                    "{}: panels {id} and {other:?} overlap",
                    board.name
                );
            }
            if panel["type"] != "row" {
                assert!(
                    panel["title"] == "" || !panel["description"].as_str().unwrap().is_empty(),
                    "{panel}"
                );
            }
        }
    }
}

/// deploy/grafana is what `geophone dashboards -o deploy/grafana` writes, deploy/grafana-classic what it writes with `--classic`.
#[test]
fn deploy_has_them() {
    let classic = good(Style { classic: true });
    for (directory, boards) in [("deploy/grafana", made()), ("deploy/grafana-classic", &classic)] {
        let directory = root().join(directory);
        for board in boards {
            let file = directory.join(format!("{}.json", board.name));
            let there = std::fs::read_to_string(&file).unwrap_or_default();
            assert!(
                there == board.text(),
                "{}: run `cargo xtask docs`",
                file.display()
            );
        }
        let files = std::fs::read_dir(directory).unwrap();
        let json = files.filter(|file| {
            file.as_ref()
                .unwrap()
                .path()
                .extension()
                .is_some_and(|end| end == "json")
        });
        assert_eq!(json.count(), boards.len());
    }
}

/// Both kinds in one Grafana: no uid twice, and no link from one to the other.
#[test]
fn classic_boards_stand_beside_native_ones() {
    let classic = good(Style { classic: true });
    let uids: BTreeSet<&str> = made()
        .iter()
        .chain(&classic)
        .map(|board| board.json["uid"].as_str().unwrap())
        .collect();
    assert_eq!(uids.len(), 2 * classic.len());
    let links = |boards: &[Dashboard]| -> Vec<String> {
        let text: String = boards.iter().map(Dashboard::text).collect();
        text.split("\"/d/")
            .skip(1)
            .map(|rest| rest.split('?').next().unwrap().to_owned())
            .collect()
    };
    let (native, own) = (links(made()), links(&classic));
    assert!(!native.is_empty() && native.iter().all(|uid| !uid.ends_with("-classic")));
    assert_eq!(native.len(), own.len());
    assert!(
        own.iter()
            .all(|uid| uid.ends_with("-classic") && uids.contains(uid.as_str()))
    );
}

/// docs/queries.md: each query parses and names what there is, under a question, in the form that its section promises.
#[test]
fn the_questions_of_docs_ask_for_what_there_is() {
    let text = std::fs::read_to_string(root().join("docs/queries.md")).unwrap();
    let declared = declared();
    let mut all = BTreeSet::new();
    for section in text.split("\n## ").skip(1) {
        let classic = section.starts_with("Where histograms have buckets");
        for part in section.split("```promql\n").skip(1) {
            let query = part.split("\n```").next().unwrap();
            check::check(query, &declared).unwrap_or_else(|fault| panic!("{fault}"));
            let buckets = ["_seconds_bucket", "_seconds_sum", "_seconds_count"];
            let asks = buckets.iter().any(|end| query.contains(end));
            assert!(asks == classic && all.insert(query), "{query}");
        }
        let (questions, queries) = (
            section.matches("\n**").count(),
            section.matches("```promql").count(),
        );
        assert!(
            questions == queries && queries > 0,
            "{questions} questions, {queries} queries"
        );
    }
    assert!(all.len() >= 30, "{}", all.len());
}

/// Each alert of the fleet has a page, and a test by promtool.
#[test]
fn fleet_alerts_have_runbooks_and_tests() {
    let read = |file: &str| std::fs::read_to_string(root().join(file)).unwrap();
    let (rules, tests) = (
        read("deploy/prometheus/fleet.yaml"),
        read("deploy/prometheus/tests/fleet.yaml"),
    );
    let runbooks = read("docs/runbooks.md");
    let alerts: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(alerts.len() >= 5);
    for alert in alerts {
        assert!(runbooks.contains(&format!("\n### {alert}\n")), "{alert}: no page");
        assert!(
            rules.contains(&format!("runbooks.md#{}\n", alert.to_lowercase())),
            "{alert}: no runbook_url"
        );
        assert!(
            tests.contains(&format!("alertname: {alert}\n")),
            "{alert}: no test"
        );
    }
}
