//! Settings of the forecasts.

use super::units::HumanDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where everything that can run out is going: `geophone capacity` and its metrics. They need the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CapacitySettings {
    /// Whether forecasts are made.
    pub enabled: bool,
    /// How often, besides when they are asked for.
    #[schemars(extend("x-minimum" = "10s", "x-maximum" = "1d"))]
    pub interval: HumanDuration,
}

impl Default for CapacitySettings {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: HumanDuration::from_secs(300),
        }
    }
}
