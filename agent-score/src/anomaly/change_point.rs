//! Change points: two-sided CUSUM (Page, 1954), of the values and of how far they lie from their median.

use super::SIGMA;
use serde::{Deserialize, Serialize};

/// What is taken off each time, in standard deviations: half of the smallest change that is looked for.
pub(super) const SLACK: f32 = 0.5;
/// The same of a spread that narrows: whatever widened it, told or not, has widened what it is compared with, and for half an
/// hour all that is usual lies a third below.
pub(super) const SLACK_OF_NARROWER: f32 = 1.0;
/// No single value counts for more, so that an outlier is no change.
const MOST: f32 = 3.0;
/// Least deviation of a signal, of which that of noise is 1: of what does not vary the errors of rounding are no changes.
const LEAST: f32 = 0.1;
/// A sum stops here, and [`BEYOND`] above what makes an anomaly: then it has been told, and when the change is over so is the anomaly
/// (without, what had lasted ten minutes was told for forty more).
const FULL: f32 = 1000.0;
const BEYOND: f32 = 4.0;

/// The two sums of a signal, and its mean and deviation.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Cusum {
    mean: f32,
    deviation: f32,
    up: f32,
    down: f32,
}

impl Cusum {
    /// Of a signal with this mean and mean absolute deviation, as far as is known beforehand.
    pub(super) const fn new(mean: f32, deviation: f32) -> Self {
        Self {
            mean,
            deviation,
            up: 0.0,
            down: 0.0,
        }
    }

    /// Adds a value; `slack` is taken off of what lies below.
    pub(super) fn add(&mut self, value: f32, gain: f32, slack: f32) {
        let residual = value - self.mean;
        let unit = (SIGMA as f32 * self.deviation).max(LEAST);
        let z = (residual / unit).clamp(-MOST, MOST);
        self.up = (self.up + z - SLACK).clamp(0.0, FULL);
        self.down = (self.down - z - slack).clamp(0.0, FULL);
        self.mean += z * unit * gain;
        self.deviation += ((z * unit).abs() - self.deviation) * gain;
    }

    /// The larger sum, negative if it is that of what lies below.
    pub(super) fn sum(&self) -> f32 {
        if self.up >= self.down { self.up } else { -self.down }
    }

    /// What makes an anomaly above, and below.
    pub(super) fn stop(&mut self, [up, down]: [f32; 2]) {
        self.up = self.up.min(up + BEYOND);
        self.down = self.down.min(down + BEYOND);
    }

    /// Begins anew: after a gap, and when what it has told is the new normal.
    pub(super) fn restart(&mut self) {
        (self.up, self.down) = (0.0, 0.0);
    }
}
