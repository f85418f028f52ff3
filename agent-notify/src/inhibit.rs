//! Alerts that make others needless: what depends on a peer need not be told of while the peer is down.

use crate::alert::Alert;
use crate::matcher::{Matcher, accepts};
use agent_store::labels::Labels;
use std::collections::{BTreeMap, BTreeSet};

/// An inhibition rule, as Alertmanager has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Inhibition {
    /// What must fire.
    pub source: Vec<Matcher>,
    /// What is not told of then.
    pub target: Vec<Matcher>,
    /// Labels that must be the same in both; one that both lack is the same.
    pub equal: Vec<String>,
}

/// What sources have in `equal`, and which they are.
type Sources = BTreeMap<Vec<String>, BTreeSet<Labels>>;

/// What fires now, arranged for the question whether it inhibits something.
pub struct Inhibited<'a> {
    rules: Vec<(&'a Inhibition, Sources)>,
}

impl Inhibition {
    fn key(&self, labels: &Labels) -> Vec<String> {
        self.equal
            .iter()
            .map(|name| labels.get(name).to_owned())
            .collect()
    }
}

impl<'a> Inhibited<'a> {
    /// From what fires.
    pub fn new(rules: &'a [Inhibition], firing: impl Iterator<Item = &'a Alert> + Clone) -> Self {
        let one = |rule: &'a Inhibition| {
            let mut sources = Sources::new();
            for alert in firing
                .clone()
                .filter(|alert| accepts(&rule.source, &alert.labels))
            {
                let same = sources.entry(rule.key(&alert.labels)).or_default();
                same.insert(alert.labels.clone());
            }
            (rule, sources)
        };
        Self {
            rules: rules.iter().map(one).collect(),
        }
    }

    /// Whether something that fires inhibits these labels. What is source and target of a rule is not inhibited by its like.
    pub fn is(&self, labels: &Labels) -> bool {
        self.rules.iter().any(|(rule, sources)| {
            if !accepts(&rule.target, labels) {
                return false;
            }
            let Some(sources) = sources.get(&rule.key(labels)) else {
                return false;
            };
            let is_source = accepts(&rule.source, labels);
            sources
                .iter()
                .any(|source| source != labels && !(is_source && accepts(&rule.target, source)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::parse;
    use std::sync::Arc;

    fn alert(labels: &[(&'static str, &'static str)]) -> Alert {
        Alert {
            labels: Labels::new(labels.iter().copied()),
            annotations: Arc::default(),
            active_at: 0,
            starts_at: 0,
            ends_at: None,
            generator_url: "".into(),
        }
    }

    #[test]
    fn a_source_inhibits_its_targets_and_neither_itself_nor_its_like() {
        let rules = [Inhibition {
            source: parse("severity=critical").unwrap(),
            target: parse("severity=~\"warning|critical\"").unwrap(),
            equal: vec!["peer".to_owned(), "zone".to_owned()],
        }];
        let firing = [
            alert(&[("alertname", "A"), ("severity", "critical"), ("peer", "db")]),
            alert(&[("alertname", "B"), ("severity", "warning"), ("peer", "db")]),
            alert(&[("alertname", "C"), ("severity", "critical"), ("peer", "db")]),
            alert(&[("alertname", "D"), ("severity", "warning"), ("peer", "web")]),
        ];
        let inhibited = Inhibited::new(&rules, firing.iter());
        let seen: Vec<bool> = firing.iter().map(|alert| inhibited.is(&alert.labels)).collect();
        assert_eq!(seen, [false, true, false, false]);
        let inhibited = Inhibited::new(&rules, [].iter());
        assert!(!inhibited.is(&firing[1].labels));
    }
}
