//! Exponential smoothing, at the speed that has foretold the series best.

use super::{SIGMA, tame};
use serde::{Deserialize, Serialize};

/// Parts of an error by which the level follows: noise around a level, a level that moves, a value much like the last.
const SPEEDS: [f64; 3] = [0.03, 0.2, 0.8];

/// A level and its mean absolute error for each speed.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Exponential {
    levels: [f64; 3],
    errors: [f32; 3],
}

impl Exponential {
    fn best(&self) -> usize {
        let [slow, middle, fast] = self.errors;
        if slow <= middle && slow <= fast {
            0
        } else {
            1 + usize::from(fast < middle)
        }
    }

    /// Level and standard deviation of what has done best.
    pub(super) fn expected(&self) -> (f64, f64) {
        let best = self.best();
        (self.levels[best], SIGMA * f64::from(self.errors[best]))
    }

    /// Begins at a value, as after a gap; the usual errors stay.
    pub(super) fn restart(&mut self, value: f64) {
        self.levels = [value; 3];
    }

    #[inline]
    pub(super) fn learn(&mut self, value: f64, gain: f64, width: f64) {
        for ((level, error), speed) in self.levels.iter_mut().zip(&mut self.errors).zip(SPEEDS) {
            let tamed = tame(value - *level, SIGMA * f64::from(*error) * width);
            *level += tamed * speed.max(gain);
            *error += ((tamed.abs() / width - f64::from(*error)) * gain) as f32;
        }
    }
}
