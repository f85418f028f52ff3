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

    /// What is so many times as wide as usual says the less of the mean.
    #[inline]
    pub(super) fn learn(&mut self, value: f64, gain: f64, width: f64) {
        let residual = value - self.mean;
        let tamed = tame(residual, self.sigma() * width);
        self.mean += tamed * gain / (width * width).max(1.0);
        self.deviation += ((tamed.abs() / width - f64::from(self.deviation)) * gain) as f32;
    }
}
