//! Labels that a subject has beside its name: what Kubernetes says of it, as far as a setting asks for it.

use super::metric::{Label, label};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// All labels that may be further ones.
pub static FURTHER: &[&Label] = &[
    &label::K8S_NAMESPACE,
    &label::K8S_DEPLOYMENT,
    &label::K8S_REPLICA_SET,
    &label::K8S_REPLICATION_CONTROLLER,
    &label::K8S_STATEFUL_SET,
    &label::K8S_DAEMON_SET,
    &label::K8S_JOB,
    &label::K8S_CRON_JOB,
    &label::K8S_POD,
    &label::K8S_CONTAINER,
];

/// Labels with their values, none of which is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<(String, String)>", into = "Vec<(String, String)>")]
pub struct Further(Arc<Vec<(&'static Label, String)>>);

impl Further {
    /// In the order of their names, so that equal ones are equal.
    pub fn new(values: impl IntoIterator<Item = (&'static Label, String)>) -> Self {
        let mut values: Vec<_> = values
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .collect();
        values.sort_by_key(|(label, _)| label.prometheus);
        Self(Arc::new(values))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &(&'static Label, String)> {
        self.0.iter()
    }
}

impl From<Further> for Vec<(String, String)> {
    fn from(further: Further) -> Self {
        let named = further
            .iter()
            .map(|(label, value)| (label.prometheus.to_owned(), value.clone()));
        named.collect()
    }
}

impl From<Vec<(String, String)>> for Further {
    /// Of a recording: what this version does not know is left out.
    fn from(recorded: Vec<(String, String)>) -> Self {
        Self::new(recorded.into_iter().filter_map(|(name, value)| {
            let label = FURTHER.iter().find(|label| label.prometheus == name)?;
            Some((*label, value))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_written_down_by_name_and_read_again() {
        let further = Further::new([
            (&label::K8S_POD, "web-1".to_owned()),
            (&label::K8S_NAMESPACE, "shop".to_owned()),
            (&label::K8S_JOB, String::new()),
        ]);
        let json = serde_json::to_string(&further).unwrap();
        assert_eq!(
            json,
            r#"[["k8s_namespace_name","shop"],["k8s_pod_name","web-1"]]"#
        );
        assert_eq!(serde_json::from_str::<Further>(&json).unwrap(), further);
        let strange = r#"[["k8s_moon_name","x"]]"#;
        assert_eq!(
            serde_json::from_str::<Further>(strange).unwrap(),
            Further::default()
        );
    }
}
