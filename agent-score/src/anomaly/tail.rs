//! How rare an error of a detector is, by the errors that it made before.
//!
//! Peaks over threshold (Siffer et al., KDD 2017), with constant memory and runs of samples taken for one: the 98 % quantile of each side is followed by
//! stochastic approximation, and a generalised Pareto distribution is fitted, by moments, to what lies beyond. Of a Gaussian,
//! of latencies and of counts one learns from some thousand samples how far apart are those that come once a week.

use serde::{Deserialize, Serialize};

/// Share of a side's samples that lie beyond its top.
const BEYOND: f32 = 0.02;
/// Surprise at the top: 2 % of one of two sides.
const AT_TOP: f32 = 4.605;
/// Samples that the start is worth, when the distribution beyond the top is fitted.
const PRIOR: f32 = 40.0;
/// Beyond so many the older ones fade.
const REMEMBERED: f32 = 500.0;
/// Shapes that are believed: from a tail that ends a little sooner than the exponential to one without a variance.
const SHAPES: (f32, f32) = (-0.05, 0.45);

/// Where the tail of each side begins; it is read for each sample.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Tops {
    /// Above and below.
    top: [f32; 2],
    /// Share of the samples that lie above.
    share: f32,
}

/// What is known of the two tails; it is read when a sample lies in one of them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Tails([Tail; 2]);

/// Moments of what lies beyond the top, in units of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Tail {
    mean: f32,
    square: f32,
    seen: f32,
    /// The largest of the run of samples beyond the top that is under way, and the number of its last.
    peak: f32,
    last: u32,
}

impl Tops {
    /// That of a distance, or a sum, of which 2 % usually lie beyond `top`.
    pub(super) const fn new(top: f32) -> Self {
        Self {
            top: [top; 2],
            share: 0.5,
        }
    }

    /// How a distance compares with the top of its side.
    pub(super) fn ratio(&self, z: f32) -> f32 {
        z.abs() / self.top[usize::from(z < 0.0)]
    }

    /// Whether a distance lies beyond the top of its side.
    pub(super) fn is_beyond(&self, z: f32) -> bool {
        z.abs() > self.top[usize::from(z < 0.0)]
    }

    /// Learns a distance, the `n`th. Nothing is learned of what is exactly as expected.
    pub(super) fn learn(&mut self, z: f32, n: u32) {
        let n = n as f32;
        self.share += (f32::from(u8::from(z > 0.0)) - self.share) * (1.0 / n.clamp(2.0, 1024.0));
        if z == 0.0 {
            return;
        }
        let side = usize::from(z < 0.0);
        // Robbins and Monro; the density of a Gaussian at its top makes 8 of the gain. Beyond a thousand samples of the
        // side it stays: 2 % of the top are then its standard deviation.
        let seen = n * self.of(side);
        let gain = if seen > 2000.0 {
            0.004
        } else {
            (8.0 / seen.max(16.0)).max(0.004)
        };
        let top = &mut self.top[side];
        *top *= if z.abs() > *top {
            1.0 + gain * (1.0 - BEYOND)
        } else {
            1.0 - gain * BEYOND
        };
        *top = top.max(1e-6);
    }

    fn of(&self, side: usize) -> f32 {
        if side == 0 { self.share } else { 1.0 - self.share }
    }
}

impl Default for Tails {
    /// A tail that is a little heavier than an exponential one.
    fn default() -> Self {
        let mean = 0.2;
        Self(
            [Tail {
                mean,
                square: 2.67 * mean * mean,
                seen: 0.0,
                peak: 0.0,
                last: 0,
            }; 2],
        )
    }
}

impl Tails {
    /// Minus the logarithm of the probability of a distance as large as this on its side.
    pub(super) fn surprise(&self, tops: &Tops, z: f32, n: u32) -> f32 {
        let side = usize::from(z < 0.0);
        let ratio = tops.ratio(z);
        if ratio <= 1.0 {
            return ratio * AT_TOP;
        }
        base(tops, side, n) + self.0[side].surprise(ratio - 1.0)
    }

    /// How far above or below 0 the surprise is as large as this.
    pub(super) fn level(&self, tops: &Tops, side: usize, surprise: f32, n: u32) -> f32 {
        let rest = (surprise - base(tops, side, n)).max(0.0);
        tops.top[side] * (1.0 + self.0[side].excess(rest))
    }

    /// Learns what lies beyond the top, of each run its largest: the others say nothing new, and a sum that climbs would
    /// teach, step by step, that climbing is usual. Of an anomaly it is little more than what makes one.
    pub(super) fn learn(&mut self, tops: &Tops, z: f32, bar: f32, n: u32) {
        let side = usize::from(z < 0.0);
        let ratio = tops.ratio(z);
        if ratio <= 1.0 {
            return;
        }
        let most = (bar - base(tops, side, n)).max(0.0) + 1.0;
        let tail = &mut self.0[side];
        if n - tail.last.min(n) > 1 && tail.peak > 0.0 {
            tail.learn(tail.at_most(most));
            tail.peak = 0.0;
        }
        tail.peak = tail.peak.max(ratio - 1.0);
        tail.last = n;
    }
}

/// Surprise at the top of a side: sides that are seldom taken are surprising by themselves.
fn base(tops: &Tops, side: usize, n: u32) -> f32 {
    -(BEYOND * tops.of(side).max(1.0 / n.max(2) as f32)).ln()
}

impl Tail {
    fn shape_and_scale(&self) -> (f32, f32) {
        let variance = (self.square - self.mean * self.mean).max(1e-12);
        let shape = 0.5 * (1.0 - self.mean * self.mean / variance);
        let shape = shape.clamp(SHAPES.0, SHAPES.1);
        (shape, (self.mean * (1.0 - shape)).max(1e-6))
    }

    fn surprise(&self, excess: f32) -> f32 {
        let (shape, scale) = self.shape_and_scale();
        let x = excess / scale;
        if shape.abs() < 1e-3 {
            return x;
        }
        let inner = 1.0 + shape * x;
        if inner <= 0.0 {
            return 1e6;
        }
        (inner.ln() / shape).min(1e6)
    }

    fn excess(&self, surprise: f32) -> f32 {
        let (shape, scale) = self.shape_and_scale();
        if shape.abs() < 1e-3 {
            scale * surprise
        } else {
            scale * ((shape * surprise).min(60.0).exp() - 1.0) / shape
        }
    }

    /// The peak, or the excess that is as surprising as this if that is less.
    fn at_most(&self, surprise: f32) -> f32 {
        let (shape, scale) = self.shape_and_scale();
        // Mostly it is far below, and no exponential need be taken: the line of shape 0 lies below the curves of all greater.
        if shape >= 0.0 && self.peak <= scale * surprise {
            self.peak
        } else {
            self.peak.min(self.excess(surprise))
        }
    }

    fn learn(&mut self, excess: f32) {
        let weight = 1.0 / (PRIOR + self.seen);
        self.mean += (excess - self.mean) * weight;
        self.square += (excess * excess - self.square) * weight;
        self.seen = (self.seen + 1.0).min(REMEMBERED);
    }
}
