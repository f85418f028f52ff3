//! What a recording says of itself.

use super::Meta;
use crate::bpf::host;
use crate::config::Config;
use crate::error::{Context as _, Result};
use crate::probes::unix_nanos;
use agent_common::wire::LAYOUT;
use serde_json::Value;

/// Settings that decide what is read and how it is named. None of them is a secret.
const SETTINGS: [&str; 6] = ["region", "zone", "attributes", "peers", "probes", "limits"];

/// Leaves the settings that a recording has.
pub(super) fn only_recorded(settings: &mut Value) {
    if let Value::Object(all) = settings {
        all.retain(|key, _| SETTINGS.contains(&key.as_str()));
    }
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
