//! Robust: median and median absolute deviation, each followed by stochastic approximation: a step up if a value lies
//! above, a step down if it lies below, whatever its distance.

use serde::{Deserialize, Serialize};

/// Samples from which on it walks by itself; up to then it is where mean and deviation are.
const SEEDED: u32 = 32;
/// Least part of the mean deviation that the median one is.
const LEAST: f32 = 0.01;

/// The state.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Robust {
    pub median: f64,
    mad: f32,
}

impl Robust {
    /// Standard deviation of a Gaussian with this deviation. Where more than half of the values are the same, the median
    /// deviation is none; then a part of the mean one counts (Iglewicz and Hoaglin).
    pub(super) fn sigma(&self, deviation: f32) -> f64 {
        f64::from((1.4826 * self.mad).max(0.25 * deviation))
    }

    /// Whether most values are the same; `deviation` is the mean one.
    pub(super) fn is_constant(&self, deviation: f32) -> bool {
        self.mad <= 2.0 * LEAST * deviation
    }

    /// The `n`th value, which is so many times as wide as usual; `mean` and `deviation` are those of all so far.
    #[inline]
    pub(super) fn learn(&mut self, value: f64, n: u32, gain: f64, width: f64, (mean, deviation): (f64, f32)) {
        if n <= SEEDED {
            (self.median, self.mad) = (mean, 0.8453 * deviation);
            return;
        }
        let residual = value - self.median;
        let mad = f64::from(self.mad);
        // The best gains for a Gaussian; what is wider says less of the median, and of what is narrower a step is one of its own size.
        let step = sign(residual.abs() - mad * width);
        self.median += 1.86 * gain * mad * width.min(1.0 / width) * sign(residual);
        self.mad = (mad * (1.0 + 1.17 * gain * step)) as f32;
        self.mad = self.mad.max(LEAST * deviation);
    }
}

fn sign(x: f64) -> f64 {
    f64::from(i8::from(x > 0.0) - i8::from(x < 0.0))
}
