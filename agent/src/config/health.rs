//! Settings of the health scores.

use agent_score::health::Weights;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Health of subjects, peers, zones, regions and this node, 0 to 100, by rules that `geophone health --rules` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthSettings {
    /// Whether the rules are evaluated. They need the store.
    pub enabled: bool,
    /// What each factor counts.
    pub weights: HealthWeights,
}

/// What each factor counts in a score; 0 = it is not looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthWeights {
    /// Round-trip time against its own median of the last day.
    #[schemars(range(min = 0, max = 1000))]
    pub latency: u32,
    /// Segments sent again, of those sent.
    #[schemars(range(min = 0, max = 1000))]
    pub loss: u32,
    /// Connections that failed, of those that were tried.
    #[schemars(range(min = 0, max = 1000))]
    pub errors: u32,
    /// Windows and queues that are full; of the node, what can run out.
    #[schemars(range(min = 0, max = 1000))]
    pub saturation: u32,
    /// Tunnels that are up.
    #[schemars(range(min = 0, max = 1000))]
    pub availability: u32,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            weights: HealthWeights::default(),
        }
    }
}

impl Default for HealthWeights {
    fn default() -> Self {
        let weights = Weights::default();
        Self {
            latency: weights.latency,
            loss: weights.loss,
            errors: weights.errors,
            saturation: weights.saturation,
            availability: weights.availability,
        }
    }
}

impl HealthSettings {
    /// As the rules have them.
    pub fn weights(&self) -> Weights {
        let weights = &self.weights;
        Weights {
            latency: weights.latency,
            loss: weights.loss,
            errors: weights.errors,
            saturation: weights.saturation,
            availability: weights.availability,
        }
    }
}
