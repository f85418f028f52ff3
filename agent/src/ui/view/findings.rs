//! What the agent makes of what it sees: alerts, anomalies, scores.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Finding {
    /// `alert`, `anomaly` or `health`.
    pub kind: String,
    /// What it says of it: an alert's severity, `pending`, an anomaly's direction, `healthy`, `degraded` or `critical`.
    pub state: String,
    /// The alert's name, the watch, `score`.
    pub name: String,
    /// Of what: labels, or an entity.
    pub of: String,
    /// Since when, seconds since the Unix epoch; `None` = it has no beginning.
    pub since: Option<f64>,
    /// The value, or the score.
    pub value: Option<f64>,
    /// More, a line each.
    pub more: Vec<String>,
}

/// Tells all findings of now. Nothing is computed while nobody asks.
#[derive(Clone)]
pub struct Judges(Arc<dyn Fn() -> Vec<Finding> + Send + Sync>);

impl std::fmt::Debug for Judges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Judges")
    }
}

impl Judges {
    /// Of whoever knows them.
    pub fn new(ask: impl Fn() -> Vec<Finding> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    /// What they say.
    pub fn ask(&self) -> Vec<Finding> {
        (self.0)()
    }
}
