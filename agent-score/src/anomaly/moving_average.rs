//! Moving average: the mean of the last values.

use super::{SIGMA, tame};
use serde::{Deserialize, Serialize};

/// Values in the window.
const LENGTH: usize = 32;

/// The last values, beside an origin near them, so that single precision does.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Window([f32; LENGTH]);

/// The state.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct MovingAverage {
    origin: f64,
    sum: f32,
    at: u16,
    filled: u16,
    deviation: f32,
}

impl MovingAverage {
    pub(super) fn expected(&self) -> f64 {
        self.origin + f64::from(self.sum) / f64::from(self.filled.max(1))
    }

    pub(super) fn sigma(&self) -> f64 {
        SIGMA * f64::from(self.deviation)
    }

    /// Forgets the values, as after a gap, but not how far they usually lie from their mean.
    pub(super) fn restart(&mut self) {
        (self.at, self.filled, self.sum) = (0, 0, 0.0);
    }

    #[inline]
    pub(super) fn learn(&mut self, window: &mut Window, value: f64, gain: f64, width: f64) {
        if self.filled == 0 {
            self.origin = value;
        }
        let expected = self.expected();
        let residual = value - expected;
        let tamed = tame(residual, self.sigma() * width);
        self.deviation += ((tamed.abs() / width - f64::from(self.deviation)) * gain) as f32;
        let value = (expected + tamed - self.origin) as f32;
        let slot = &mut window.0[usize::from(self.at) % LENGTH];
        if usize::from(self.filled) == LENGTH {
            self.sum -= *slot;
        } else {
            self.filled += 1;
        }
        *slot = value;
        self.sum += value;
        self.at += 1;
        if usize::from(self.at) == LENGTH {
            self.at = 0;
            self.rebase(window);
        }
    }

    /// Once a window the origin goes with the values and the sum is taken anew, so that no rounding adds up.
    fn rebase(&mut self, window: &mut Window) {
        let filled = usize::from(self.filled);
        let shift = (self.expected() - self.origin) as f32;
        self.origin += f64::from(shift);
        self.sum = 0.0;
        for value in window.0.iter_mut().take(filled) {
            *value -= shift;
            self.sum += *value;
        }
    }
}
