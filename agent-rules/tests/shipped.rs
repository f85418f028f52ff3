//! The rules that we ship, docs/rules: promtool takes them and their tests, and each has what an alert needs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at what it does not expect"
)]

use agent_rules::file::{GroupFile, RuleFile};
use agent_rules::{Environment, Group, Health, Results, Settings, State, load};
use agent_store::histogram::Histogram;
use agent_store::labels::Labels;
use agent_store::promql::{Options, instant};
use agent_store::series::{Bounds, Free, Matcher, Millis, Refusal, Series, Source};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn files(directory: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(docs().join(directory)).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|file| file.is_file()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Those that a node evaluates, and those that it does only where it is asked to.
fn all() -> Vec<PathBuf> {
    [files("rules"), files("rules/optional")].concat()
}

fn groups(files: &[PathBuf]) -> Vec<GroupFile> {
    files
        .iter()
        .flat_map(|file| load(file).unwrap_or_else(|faults| panic!("{faults:?}")))
        .collect()
}

fn text(file: &str) -> String {
    std::fs::read_to_string(docs().join(file)).unwrap()
}

#[test]
fn promtool_takes_the_rules_and_their_tests() {
    if Command::new("promtool").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no promtool here; `cargo xtask setup test` installs it");
        return;
    }
    let run = |what: &str, files: Vec<PathBuf>| {
        let output = Command::new("promtool")
            .args([what, "rules"])
            .args(files)
            .output()
            .unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    };
    run("check", all());
    run("test", files("rules/tests"));
}

#[test]
fn an_alert_has_severity_words_a_runbook_and_a_test() {
    let (runbooks, mut alerts) = (text("runbooks.md"), 0);
    let optional = files("rules/optional").len();
    let tests: String = files("rules/tests")
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    for rule in groups(&all()).iter().flat_map(|group| &group.rules) {
        let Some(alert) = &rule.alert else { continue };
        alerts += 1;
        let name = &rule.name;
        let severity = rule
            .labels
            .iter()
            .find(|(label, _)| label == "severity")
            .map(|(_, text)| text.source.as_str());
        assert!(
            matches!(severity, Some("info" | "warning" | "critical")),
            "{name}: severity"
        );
        let annotation = |wanted: &str| {
            let found = alert.annotations.iter().find(|(name, _)| name == wanted);
            found
                .map(|(_, text)| text.source.clone())
                .unwrap_or_else(|| panic!("{name}: no {wanted}"))
        };
        assert!(!annotation("summary").is_empty() && !annotation("description").is_empty());
        let anchor = format!("docs/runbooks.md#{}", name.to_lowercase());
        assert!(
            annotation("runbook_url").ends_with(&anchor),
            "{name}: runbook_url"
        );
        assert!(
            runbooks.contains(&format!("\n### {name}\n")),
            "{name}: no page in docs/runbooks.md"
        );
        assert!(
            tests.contains(&format!("- name: {name}\n")),
            "{name}: no test in docs/rules/tests"
        );
    }
    assert!(alerts >= 25, "{alerts}");
    // Those that are optional are one a file.
    let alerts = alerts - optional;
    for page in ["rules.md", "../README.md"] {
        assert!(
            text(page).contains(&format!("has {alerts} alerts")),
            "{page}: {alerts}"
        );
    }
}

/// Notes which names are asked for.
#[derive(Default)]
struct Asked(Mutex<BTreeSet<String>>);

impl Source for Asked {
    fn select(
        &self,
        matchers: &[Matcher],
        _: Millis,
        _: Millis,
        _: &dyn Bounds,
    ) -> Result<Vec<Series>, Refusal> {
        let named = matchers.iter().filter(|matcher| matcher.label == "__name__");
        for matcher in named {
            if let agent_store::series::Comparison::Equal(name) = &matcher.comparison {
                self.0.lock().unwrap().insert(name.clone());
            }
        }
        Ok(Vec::new())
    }
}

#[test]
fn what_rules_ask_for_is_documented() {
    let (documented, slos) = (text("metrics.md"), text("slo.md"));
    let health = text("../deploy/prometheus/health.yaml");
    let groups = groups(&all());
    let rules: Vec<&RuleFile> = groups.iter().flat_map(|group| &group.rules).collect();
    for rule in &rules {
        let asked = Asked::default();
        instant(&rule.expr, 0, &Options::default(), &asked, &Free).unwrap();
        let asked = asked.0.into_inner().unwrap();
        assert!(
            !asked.is_empty() || rule.name == "GeophoneWatchdog",
            "{}: asks for nothing",
            rule.name
        );
        for name in asked {
            let metric = ["_bucket", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(&name);
            let known = metric == "up"
                || documented.contains(&format!("| `{metric}` |"))
                || health.contains(&format!("- record: {metric}\n"))
                || metric
                    .strip_prefix("geophone_slo_")
                    .is_some_and(|series| slos.contains(&format!("`{series}")))
                || rules
                    .iter()
                    .any(|other| other.alert.is_none() && other.name == name);
            assert!(known, "{}: {name} is in no docs/metrics.md", rule.name);
        }
    }
}

/// Cause: native histograms of slow round trips, as geophone's own store has them and promtool 2.42 cannot. Seen: the alert.
#[test]
fn latency_rules_work_on_native_histograms() {
    let settings = agent_store::store::Settings {
        worker: false,
        ..agent_store::store::Settings::default()
    };
    let (store, _) = agent_store::store::Store::open(agent_store::store::Place::Memory, settings).unwrap();
    let labels = [
        ("__name__", "geophone_tcp_rtt_seconds"),
        ("instance", "n1"),
        ("subject", "shop"),
        ("peer", "db"),
    ];
    let series = store.register(&Labels::new(labels)).unwrap();
    let settings = Settings::default();
    let bounds = || -> Box<dyn Bounds> { Box::new(Free) };
    let fired = RefCell::new(Vec::new());
    let mut groups: Vec<Group> = groups(&files("rules"))
        .into_iter()
        .map(|group| Group::new(group, false))
        .collect();
    let mut results = Results::default();
    for minute in 0..20 {
        let count = f64::from(minute * 60);
        // Bucket 0 of schema 3 ends at 1 s.
        let histogram = Histogram {
            schema: 3,
            count,
            sum: count,
            positive: vec![(0, count)],
            ..Histogram::default()
        };
        let at = Millis::from(minute) * 60_000;
        store.append(
            at,
            &[(series, agent_store::store::Value::Histogram(Arc::new(histogram)))],
        );
        let environment = Environment {
            source: &store,
            bounds: &bounds,
            settings: &settings,
        };
        for group in &mut groups {
            group.evaluate(at, &environment, &mut results);
            for rule in &group.rules {
                assert_eq!(rule.health, Health::Ok, "{}", rule.file.name);
                let firing = rule.alerts().filter(|alert| alert.state == State::Firing);
                fired
                    .borrow_mut()
                    .extend(firing.map(|alert| alert.labels.get("alertname").to_owned()));
            }
        }
    }
    let fired: BTreeSet<String> = fired.into_inner().into_iter().collect();
    assert_eq!(fired.into_iter().collect::<Vec<_>>(), ["GeophoneRttHigh"]);
}
