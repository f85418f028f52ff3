//! What a recording says of itself.

use super::Meta;
use crate::bpf::host;
use crate::config::{Config, LabelRule};
use crate::error::{Context as _, Result};
use crate::probes::unix_nanos;
use agent_common::wire::LAYOUT;
use serde::Deserialize as _;
use serde_json::Value;

/// Settings that decide what is read and how it is named. None of them is a secret.
const SETTINGS: [&str; 7] = [
    "region",
    "zone",
    "attributes",
    "peers",
    "probes",
    "limits",
    "labels",
];

/// Leaves the settings that a recording has.
pub(super) fn only_recorded(settings: &mut Value) {
    if let Value::Object(all) = settings {
        all.retain(|key, _| SETTINGS.contains(&key.as_str()));
    }
}

/// Leaves the rules for labels that name what this version has, and says how many others there were.
pub(super) fn only_known_rules(settings: &mut Value) -> usize {
    let Some(rules) = settings.get_mut("labels").and_then(Value::as_array_mut) else {
        return 0;
    };
    let all = rules.len();
    rules.retain(|rule| LabelRule::deserialize(rule).is_ok_and(|rule| rule.is_known()));
    all - rules.len()
}

impl Meta {
    /// Of a recording that begins now.
    pub fn now(config: &Config) -> Result<Self> {
        let mut settings = serde_json::to_value(config).context("settings")?;
        only_recorded(&mut settings);
        Ok(Self {
            geophone: env!("CARGO_PKG_VERSION").into(),
            layout: LAYOUT,
            kernel: host::kernel_release(),
            host: config.host_name(),
            start_unix_nanos: unix_nanos(),
            settings,
            left_out: Vec::new(),
        })
    }
}
