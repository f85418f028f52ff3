//! Holt-Winters, additive: level and damped trend of what the seasons leave. The seasons are those of [`super::season`],
//! which all detectors of a series share.

use super::{SIGMA, tame};
use serde::{Deserialize, Serialize};

const LEVEL: f64 = 0.2;
const TREND: f64 = 0.02;
const DAMPED: f64 = 0.98;

/// The state.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct HoltWinters {
    level: f64,
    trend: f64,
    error: f32,
}

impl HoltWinters {
    pub(super) fn expected(&self) -> f64 {
        self.level + DAMPED * self.trend
    }

    pub(super) fn sigma(&self) -> f64 {
        SIGMA * f64::from(self.error)
    }

    /// Begins at a value, as after a gap; the usual error stays.
    pub(super) fn restart(&mut self, value: f64) {
        (self.level, self.trend) = (value, 0.0);
    }

    pub(super) fn learn(&mut self, value: f64, gain: f64, width: f64) {
        let expected = self.expected();
        let tamed = tame(value - expected, self.sigma() * width);
        self.level = expected + tamed * LEVEL.max(gain);
        self.trend = DAMPED * self.trend + TREND * LEVEL * tamed;
        self.error += ((tamed.abs() / width - f64::from(self.error)) * gain) as f32;
    }
}
