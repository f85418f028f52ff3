//! Three sigma: the mean and the mean absolute deviation of all that was seen, the older fading.

use super::{SIGMA, tame};
use serde::{Deserialize, Serialize};

/// The state.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct ThreeSigma {
    pub mean: f64,
    pub deviation: f32,
}

impl ThreeSigma {
    pub(super) fn sigma(&self) -> f64 {
        SIGMA * f64::from(self.deviation)
    }

    #[inline]
    pub(super) fn learn(&mut self, value: f64, gain: f64) {
        let residual = value - self.mean;
        let tamed = tame(residual, self.sigma());
        self.mean += tamed * gain;
        self.deviation += ((tamed.abs() - f64::from(self.deviation)) * gain) as f32;
    }
}
