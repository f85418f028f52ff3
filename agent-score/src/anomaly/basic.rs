//! The four detectors that are cheap enough for every series: their state in two cache lines.

use super::exponential::Exponential;
use super::moving_average::{MovingAverage, Window};
use super::robust::Robust;
use super::tail::Tops;
use super::three_sigma::ThreeSigma;
use super::{distance, scale};
use serde::{Deserialize, Serialize};

/// How many they are: the first of [`super::Detector::ALL`].
pub(super) const BASIC: usize = 4;
/// Samples after which the older ones fade.
const MEMORY: u32 = 2048;
/// Samples before a distance means something, where there is time to learn.
pub(super) const SETTLED: u32 = 64;

/// What they have learned.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Basic {
    /// Samples, and those that the baseline is worth.
    pub seen: u32,
    worth: u32,
    pub three_sigma: ThreeSigma,
    pub moving_average: MovingAverage,
    pub robust: Robust,
    pub exponential: Exponential,
    pub tops: [Tops; BASIC],
}

impl Default for Basic {
    fn default() -> Self {
        Self {
            seen: 0,
            worth: 0,
            three_sigma: ThreeSigma::default(),
            moving_average: MovingAverage::default(),
            robust: Robust::default(),
            exponential: Exponential::default(),
            tops: [Tops::new(2.5); BASIC],
        }
    }
}

impl Basic {
    /// What each expects, and its usual error.
    pub(super) fn expected(&self) -> [(f64, f64); BASIC] {
        [
            (self.three_sigma.mean, self.three_sigma.sigma()),
            (self.moving_average.expected(), self.moving_average.sigma()),
            self.steady(),
            self.exponential.expected(),
        ]
    }

    /// What the robust one expects, which moves least.
    pub(super) fn steady(&self) -> (f64, f64) {
        (self.robust.median, self.robust.sigma(self.three_sigma.deviation))
    }

    /// How far a value lies from what each expects.
    #[inline]
    pub(super) fn distances(&self, value: f64) -> [f32; BASIC] {
        self.expected()
            .map(|(expected, sigma)| distance(value - expected, scale(sigma, expected)))
    }

    /// The part of an error that is learned now.
    pub(super) fn gain(&self) -> f64 {
        1.0 / f64::from(self.worth.max(1))
    }

    /// Samples whose distances meant something: all but the first `settled`.
    pub(super) fn judged(&self, settled: u32) -> u32 {
        self.seen.saturating_sub(settled)
    }

    /// Learns a value of a time that is so many times as wide as all are.
    #[inline]
    pub(super) fn learn(&mut self, window: &mut Window, value: f64, width: f64) {
        self.seen = self.seen.saturating_add(1);
        self.worth = (self.worth + 1).min(MEMORY);
        if self.seen == 1 {
            self.three_sigma.mean = value;
            self.exponential.restart(value);
        }
        let gain = self.gain();
        self.three_sigma.learn(value, gain, width);
        self.moving_average.learn(window, value, gain, width);
        self.exponential.learn(value, gain, width);
        let so_far = (self.three_sigma.mean, self.three_sigma.deviation);
        self.robust.learn(value, self.worth, gain, width, so_far);
    }

    /// After a gap: what has been of late says nothing any more.
    pub(super) fn restart(&mut self, value: f64) {
        self.moving_average.restart();
        self.exponential.restart(value);
    }

    /// What was usual does not hold any more: it is learned anew, and is worth so many samples.
    pub(super) fn begin_anew(&mut self, value: f64, worth: u32) {
        self.worth = self.worth.min(worth);
        self.three_sigma.mean = value;
        self.restart(value);
    }
}
