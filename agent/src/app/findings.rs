//! What the live view shows of alerts, anomalies and health.

use crate::alert::Rules;
use crate::alert::view::AlertView;
use crate::memory::{self, Memory};
use crate::score::Anomalies;
use crate::ui::view::{Finding, Judges};
use agent_score::watch::Anomaly;
use agent_store::labels::{Labels, NAME};
use agent_store::promql::{self, Options, Sample, Value};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// What is known of the health of everybody, as the rules have recorded it.
const HEALTH: &str = "{__name__=~\"geophone_health_(score|state|confidence|factor|failed|role)\"}";
/// Entities that are shown, the worst first.
const ENTITIES: usize = 200;
/// Rules, and watches, that could not be evaluated and are named one by one.
const ERRORS: usize = 10;
/// It may take so long; the screen does not wait for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who can be asked; `None` where nothing is remembered, so that nothing is judged.
pub fn judges(
    memory: Option<&Arc<Memory>>,
    rules: Option<&Arc<Rules>>,
    anomalies: Option<&Arc<Anomalies>>,
) -> Option<Judges> {
    let (memory, rules, anomalies) = (memory?.clone(), rules.cloned(), anomalies.cloned());
    Some(Judges::new(move || {
        let mut all = rules.as_ref().map(|rules| alerts(rules)).unwrap_or_default();
        if let Some(anomalies) = &anomalies {
            all.extend(anomalies.active().iter().map(|anomaly| of_anomaly(anomaly)));
            all.extend(errors(anomalies.failed(), "watch"));
        }
        match health(&memory) {
            Ok(found) => all.extend(found),
            Err(why) => all.push(Finding::error("health", why)),
        }
        all
    }))
}

fn shown(labels: &BTreeMap<String, String>, but: &[&str]) -> String {
    let pairs = labels.iter().filter(|(name, _)| !but.contains(&name.as_str()));
    let pairs: Vec<String> = pairs.map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(" ")
}

fn alerts(rules: &Rules) -> Vec<Finding> {
    let groups = rules.view();
    let all = groups.iter().flat_map(|group| group.alerts());
    let one = |alert: &AlertView| {
        let severity = alert.labels.get("severity").map_or("", String::as_str);
        let since = humantime::parse_rfc3339(&alert.active_at).ok();
        let since = since.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let more = ["summary", "description", "runbook_url"];
        let more = more.iter().filter_map(|name| alert.annotations.get(*name));
        Finding {
            kind: "alert".to_owned(),
            state: match alert.state {
                "firing" => severity.to_owned(),
                other => other.to_owned(),
            },
            name: alert.labels.get("alertname").cloned().unwrap_or_default(),
            of: shown(&alert.labels, &["alertname", "severity", "instance", "job"]),
            since: since.map(|since| since.as_secs_f64()),
            value: alert.value.parse().ok(),
            more: more.cloned().collect(),
        }
    };
    let found: Vec<Finding> = all.map(one).collect();
    let rules = groups.iter().flat_map(|group| &group.rules);
    let failed = rules.filter(|rule| !rule.last_error.is_empty());
    let failed = failed.map(|rule| (rule.name.clone(), rule.last_error.clone()));
    found
        .into_iter()
        .chain(errors(failed.collect(), "rule"))
        .collect()
}

/// Those that could not be evaluated, and why.
fn errors(failed: Vec<(String, String)>, what: &str) -> Vec<Finding> {
    let more = failed.len().saturating_sub(ERRORS);
    let shown = failed.into_iter().take(ERRORS);
    let mut all: Vec<Finding> = shown
        .map(|(name, why)| Finding::error(&format!("{what} {name}"), why))
        .collect();
    if more > 0 {
        all.push(Finding::error(what, format!("and {more} more")));
    }
    all
}

fn of_anomaly(anomaly: &Anomaly) -> Finding {
    let mut more = vec![anomaly.to_string()];
    more.extend(anomaly.evidence.iter().map(ToString::to_string));
    more.extend(anomaly.left_out());
    Finding {
        kind: "anomaly".to_owned(),
        state: anomaly.direction.name().to_owned(),
        name: anomaly.watch.clone(),
        of: shown(&anomaly.labels, &[]),
        since: Some(anomaly.since),
        value: Some(anomaly.value),
        more,
    }
}

/// Of an entity: score, confidence, state, and its factors.
#[derive(Default)]
struct Entity {
    score: Option<f64>,
    confidence: Option<f64>,
    state: f64,
    factors: String,
    /// Factors that make it critical by themselves.
    failed: Vec<String>,
    /// Cause or symptom, if it is not healthy.
    role: String,
}

fn health(memory: &Memory) -> Result<Vec<Finding>, String> {
    let (store, limits) = (memory.store(), memory.limits(PATIENCE));
    let answer = promql::instant(HEALTH, memory::now(), &Options::default(), store, &limits);
    let Value::Vector(_, elements) = answer.map_err(|error| error.to_string())?.value else {
        return Ok(Vec::new());
    };
    let values = elements.iter().filter_map(|element| match &element.sample {
        Sample::Float(value) => Some((&element.labels, *value)),
        Sample::Histogram(_) => None,
    });
    let mut all: Vec<Finding> = entities(values).into_iter().filter_map(finding).collect();
    all.sort_by(|a, b| a.value.unwrap_or(100.0).total_cmp(&b.value.unwrap_or(100.0)));
    all.truncate(ENTITIES);
    Ok(all)
}

fn entities<'a>(values: impl Iterator<Item = (&'a Labels, f64)>) -> BTreeMap<(String, String), Entity> {
    let mut all: BTreeMap<(String, String), Entity> = BTreeMap::new();
    for (labels, value) in values {
        let key = (labels.get("entity").to_owned(), labels.get("name").to_owned());
        let entity = all.entry(key).or_default();
        match labels.get(NAME) {
            "geophone_health_score" => entity.score = Some(value),
            "geophone_health_confidence" => entity.confidence = Some(value),
            "geophone_health_state" => entity.state = value,
            "geophone_health_role" => entity.role = labels.get("role").to_owned(),
            "geophone_health_failed" => entity.failed.push(labels.get("factor").to_owned()),
            _ => {
                let _ = write!(entity.factors, " {} {value:.2},", labels.get("factor"));
            }
        }
    }
    all
}

fn finding(((entity, name), one): ((String, String), Entity)) -> Option<Finding> {
    let score = one.score?;
    let known = one.confidence.map_or_else(String::new, |share| {
        format!("{:.0} % of what the score is made of is known", share * 100.0)
    });
    let state = match one.state {
        2.0.. => "critical",
        1.0.. => "degraded",
        _ => "healthy",
    };
    let mut more = vec![
        known,
        format!(
            "factors, 1 is as it should be:{}",
            one.factors.trim_end_matches(',')
        ),
    ];
    if !one.failed.is_empty() {
        let failed = one.failed.join(", ");
        more.push(format!(
            "critical whatever the score is: {failed} at its worst for minutes"
        ));
    }
    match one.role.as_str() {
        "" => {}
        "unclear" => more.push("cause or symptom: not to be told apart".to_owned()),
        role => more.push(format!("it is a {role}")),
    }
    more.push(format!("why: geophone health {entity}/{name}"));
    Some(Finding {
        kind: "health".to_owned(),
        state: state.to_owned(),
        name: entity.clone(),
        of: name.clone(),
        since: None,
        value: Some(score),
        more,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_could_not_be_evaluated_are_named_up_to_a_limit() {
        let failed = (0..ERRORS + 3).map(|i| (format!("r{i}"), "too many".to_owned()));
        let all = errors(failed.collect(), "rule");
        assert_eq!((all.len(), all[0].name.as_str()), (ERRORS + 1, "rule r0"));
        assert_eq!((all[0].kind.as_str(), all[0].of.as_str()), ("error", "too many"));
        assert_eq!(all[ERRORS].of, "and 3 more");
        assert_eq!(errors(Vec::new(), "rule"), []);
    }

    #[test]
    fn scores_come_with_what_they_are_made_of() {
        let of = |metric: &str, more: &[(&str, &str)]| {
            let own = [(NAME, metric), ("entity", "peer"), ("name", "db")];
            Labels::new(own.into_iter().chain(more.iter().copied()))
        };
        let series = [
            (of("geophone_health_score", &[]), 62.5),
            (of("geophone_health_state", &[]), 1.0),
            (of("geophone_health_confidence", &[]), 0.7),
            (of("geophone_health_factor", &[("factor", "errors")]), 1.0),
            (of("geophone_health_factor", &[("factor", "loss")]), 0.25),
            (of("geophone_health_failed", &[("factor", "loss")]), 1.0),
            (of("geophone_health_role", &[("role", "cause")]), 1.0),
        ];
        let all = entities(series.iter().map(|(labels, value)| (labels, *value)));
        let all: Vec<Finding> = all.into_iter().filter_map(finding).collect();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].state.as_str(), all[0].value), ("degraded", Some(62.5)));
        assert_eq!(
            all[0].more[..4],
            [
                "70 % of what the score is made of is known",
                "factors, 1 is as it should be: errors 1.00, loss 0.25",
                "critical whatever the score is: loss at its worst for minutes",
                "it is a cause"
            ]
        );
        // A state without a score is one of before.
        let gone = [(of("geophone_health_state", &[]), 2.0)];
        let gone = entities(gone.iter().map(|(labels, value)| (labels, *value)));
        assert_eq!(gone.into_iter().filter_map(finding).count(), 0);
    }
}
