//! Settings of the rules.

use super::units::HumanDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Rules of Prometheus, evaluated over what the agent remembers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RulesSettings {
    /// Rule files of Prometheus; of a directory, those in it that end in .yaml or .yml. One that has a mistake is left out,
    /// and the log says where it is. SIGHUP or POST /-/reload reads them again.
    pub files: Vec<PathBuf>,
    /// How often groups are evaluated that do not say it themselves.
    #[schemars(extend("x-minimum" = "1s", "x-maximum" = "1h"))]
    pub interval: HumanDuration,
    /// `$externalLabels` of templates, and labels that alerts get when they are sent. `instance` is the host's name, unless
    /// it is given here.
    pub external_labels: BTreeMap<String, String>,
    /// Alertmanagers that get the alerts, e.g. http://127.0.0.1:9093: those that fire each minute again, as from a Prometheus.
    /// They group, silence and notify.
    pub alertmanagers: Vec<String>,
    /// File with a bearer token for them.
    pub alertmanager_token_file: Option<PathBuf>,
    /// `$externalURL` of templates: where people find this agent's API; empty = http:// and the address that it listens on.
    pub external_url: String,
}

impl Default for RulesSettings {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            interval: HumanDuration::from_secs(15),
            external_labels: BTreeMap::new(),
            alertmanagers: Vec::new(),
            alertmanager_token_file: None,
            external_url: String::new(),
        }
    }
}
