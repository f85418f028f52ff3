//! What is told of an anomaly where somebody else speaks of it: in a line of the log, or with its alert.

use crate::aggregate::labels::clean;
use agent_score::watch::{Anomaly, Evidence};

/// Evidence that is told in few words: of what is counted, and of what the CPUs did.
const COUNTED: usize = 3;
const SAMPLED: usize = 2;

/// The evidence that says most.
pub fn reasons(anomaly: &Anomaly) -> Vec<&Evidence> {
    let all = anomaly.evidence.iter();
    let (sampled, counted): (Vec<&Evidence>, Vec<&Evidence>) = all.partition(|one| one.windows.is_some());
    let counted = counted.into_iter().take(COUNTED);
    counted.chain(sampled.into_iter().take(SAMPLED)).collect()
}

/// Whether labels, those of an alert, are of the series `geophone_anomaly_active` that an anomaly has.
pub fn is_of<'a>(anomaly: &Anomaly, label: impl Fn(&str) -> &'a str) -> bool {
    let has = |name: &str, value: &str| label(name) == clean(value);
    let mut own = anomaly.labels.iter();
    label("watch") == anomaly.watch
        && own.all(|(name, value)| has(name, value) || has(&format!("exported_{name}"), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_score::watch::Windows;
    use std::collections::BTreeMap;

    #[test]
    fn an_alert_is_of_the_anomaly_whose_labels_it_has() {
        let anomaly = Anomaly {
            watch: "w".into(),
            labels: [("peer", "db"), ("change", "x")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..Anomaly::default()
        };
        let is = |labels: &[(&'static str, &'static str)]| {
            let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
            is_of(&anomaly, |name| labels.get(name).copied().unwrap_or_default())
        };
        let own = [
            ("watch", "w"),
            ("peer", "db"),
            ("exported_change", "x"),
            ("change", "up"),
        ];
        assert!(is(&own));
        assert!(!is(&own[..2]) && !is(&own[1..]));
        assert!(!is(&[("watch", "w"), ("peer", "web"), ("exported_change", "x")]));
    }

    #[test]
    fn what_the_cpus_did_is_told_behind_much_else() {
        let one = |what: &str, windows| Evidence {
            what: what.to_owned(),
            windows,
            ..Evidence::default()
        };
        let counted = ["a", "b", "c", "d"].map(|what| one(what, None));
        let sampled = ["e", "f", "g"].map(|what| one(what, Some(Windows::default())));
        let anomaly = Anomaly {
            evidence: counted.into_iter().chain(sampled).collect(),
            ..Anomaly::default()
        };
        let told: Vec<&str> = reasons(&anomaly).iter().map(|one| one.what.as_str()).collect();
        assert_eq!(told, ["a", "b", "c", "e", "f"]);
    }
}
