//! `promtool test rules`.

use crate::STEP;
use crate::scenarios::Scenario;
use agent_rules::file;
use agent_store::labels::Labels;
use agent_store::promql::json;
use agent_store::series::Millis;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

/// Labels and annotations.
pub type Alert = (Labels, BTreeMap<String, String>);

/// What promtool is to find.
pub enum Expected {
    /// The alerts of a name that fire at a time.
    Alerts(Millis, String, Vec<Alert>),
    /// The samples of a name at a time.
    Samples(Millis, String, Vec<(Labels, f64)>),
}

pub struct Promtool;

/// JSON is YAML.
fn quoted(text: &str) -> String {
    let mut out = String::new();
    json::string(&mut out, text);
    out
}

fn selector(labels: &[(&str, &str)]) -> String {
    let name = labels
        .iter()
        .find(|(label, _)| *label == "__name__")
        .map_or("", |(_, name)| name);
    let pairs = labels.iter().filter(|(label, _)| *label != "__name__");
    let pairs: Vec<String> = pairs
        .map(|(label, value)| format!("{label}={}", go(value)))
        .collect();
    format!("{name}{{{}}}", pairs.join(","))
}

/// A string of PromQL.
fn go(text: &str) -> String {
    let text = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("\"{text}\"")
}

fn number(value: f64) -> String {
    if value.is_nan() {
        ".nan".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { ".inf" } else { "-.inf" }.to_owned()
    } else {
        format!("{value:e}")
    }
}

impl Promtool {
    pub fn find() -> Option<Self> {
        let version = Command::new("promtool").arg("--version").output();
        version.is_ok().then_some(Self)
    }

    /// What promtool says of these rules, if it does not agree.
    pub fn agrees(&self, scenario: &Scenario, rules: &str, expected: &[Expected]) -> Result<(), String> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("rules.yaml"), rules).unwrap();
        let test = directory.path().join("test.yaml");
        std::fs::write(&test, written(scenario, expected)).unwrap();
        let run = |what: [&str; 2], file: &str| {
            let output = Command::new("promtool")
                .args(what)
                .arg(directory.path().join(file))
                .output()
                .unwrap();
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            if output.status.success() {
                Ok(())
            } else {
                Err(said)
            }
        };
        run(["check", "rules"], "rules.yaml")?;
        run(["test", "rules"], "test.yaml")
    }
}

fn written(scenario: &Scenario, expected: &[Expected]) -> String {
    let groups = file::parse("rules.yaml", scenario.rules).unwrap();
    let groups: Vec<String> = groups.iter().map(|group| quoted(&group.name)).collect();
    // Without an order promtool takes any.
    let mut out = format!(
        "rule_files: [rules.yaml]\nevaluation_interval: 1m\ngroup_eval_order: [{}]\ntests:\n- interval: 1m\n",
        groups.join(", ")
    );
    out.push_str("  external_labels: {site: 'here & there'}\n  external_url: http://here.example:9090/p\n");
    out.push_str("  input_series:\n");
    for (labels, values) in &scenario.series {
        let series = quoted(&selector(labels));
        _ = writeln!(
            out,
            "  - series: {series}\n    values: {}",
            quoted(&values.join(" "))
        );
    }
    out.push_str("  alert_rule_test:\n");
    for one in expected {
        let Expected::Alerts(at, name, alerts) = one else {
            continue;
        };
        _ = writeln!(
            out,
            "  - eval_time: {}m\n    alertname: {name}\n    exp_alerts:",
            at / STEP
        );
        for (labels, annotations) in alerts {
            out.push_str("    - exp_labels: {");
            for (label, value) in labels.iter().filter(|(label, _)| &***label != "alertname") {
                _ = write!(out, "{label}: {}, ", quoted(value));
            }
            out.push_str("}\n      exp_annotations: {");
            for (name, value) in annotations {
                _ = write!(out, "{name}: {}, ", quoted(value));
            }
            out.push_str("}\n");
        }
    }
    out.push_str("  promql_expr_test:\n");
    for one in expected {
        let Expected::Samples(at, name, samples) = one else {
            continue;
        };
        _ = writeln!(
            out,
            "  - expr: {name}\n    eval_time: {}m\n    exp_samples:",
            at / STEP
        );
        for (labels, value) in samples {
            let labels: Vec<(&str, &str)> =
                labels.iter().map(|(label, value)| (&**label, &**value)).collect();
            let labels = quoted(&selector(&labels));
            _ = writeln!(out, "    - labels: {labels}\n      value: {}", number(*value));
        }
    }
    out
}
