//! Anomalies of a series.
//!
//! Each detector says how far a value lies from what it expected, in units of its own usual error. What that is worth is
//! learned from the series itself: the tail of each detector's errors is fitted (tail.rs), so that a distance becomes the
//! probability of one as large. The ensemble shares the false alarms that the user allows among the detectors, the better
//! a forecaster the larger its share, and a value is an anomaly if one of them finds it rarer than its share. However the
//! detectors depend on each other, the sum of the shares bounds the rate.
//!
//! A sample costs O(1) in time, and a series a fixed amount of memory.

pub mod bank;
pub mod ensemble;
pub mod forest;

mod autocorrelation;
mod basic;
mod change_point;
mod exponential;
mod habit;
mod holt_winters;
mod moving_average;
mod robust;
mod season;
mod tail;
#[cfg(test)]
mod tests;
mod three_sigma;
mod width;

pub use bank::Bank;
pub use ensemble::Series;
pub use forest::{Forest, LagForest};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970.
pub type Millis = i64;

/// What can be asked whether a value is an anomaly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Detector {
    /// Distance from the mean, in standard deviations.
    ThreeSigma,
    /// Distance from the mean of the last values.
    MovingAverage,
    /// Distance from the median, in median absolute deviations.
    Robust,
    /// Distance from an exponentially smoothed level.
    ExponentialSmoothing,
    /// Distance from level, trend and season.
    HoltWinters,
    /// A mean that has moved: small differences of one sign that add up.
    ChangePoint,
    /// A spread that has changed, in either direction.
    Spread,
    /// How easily a moment is told apart from the others by several signals, or by the values before it. It is none of the
    /// ensemble's: see [`Scored::corroborate`].
    IsolationForest,
}

impl Detector {
    /// Those of the ensemble.
    pub const ALL: [Self; 7] = [
        Self::ThreeSigma,
        Self::MovingAverage,
        Self::Robust,
        Self::ExponentialSmoothing,
        Self::HoltWinters,
        Self::ChangePoint,
        Self::Spread,
    ];

    /// As users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ThreeSigma => "three-sigma",
            Self::MovingAverage => "moving-average",
            Self::Robust => "robust",
            Self::ExponentialSmoothing => "exponential-smoothing",
            Self::HoltWinters => "holt-winters",
            Self::ChangePoint => "change-point",
            Self::Spread => "spread",
            Self::IsolationForest => "isolation-forest",
        }
    }

    /// The ensemble's, and the forest.
    pub fn every() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().chain([Self::IsolationForest])
    }

    /// That of a name.
    pub fn of(name: &str) -> Option<Self> {
        Self::every().find(|d| d.name() == name)
    }
}

/// Some detectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detectors(u8);

impl Detectors {
    /// Those of the ensemble.
    pub const ALL: Self = Self((1 << Detector::ALL.len()) - 1);
    /// None.
    pub const NONE: Self = Self(0);

    /// With one more.
    #[must_use]
    pub const fn with(self, one: Detector) -> Self {
        Self(self.0 | 1 << one as u8)
    }

    /// Whether it is among them.
    pub const fn has(self, one: Detector) -> bool {
        self.0 >> one as u8 & 1 == 1
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = Detector> {
        Detector::every().filter(move |d| self.has(*d))
    }
}

impl From<Detector> for Detectors {
    fn from(one: Detector) -> Self {
        Self::NONE.with(one)
    }
}

/// What is said of a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Too little has been seen.
    #[default]
    Learning,
    /// As expected.
    Normal,
    /// Rarer than the allowed false alarms explain.
    Anomaly,
    /// No value, or a late one.
    Missing,
}

impl Verdict {
    /// As users read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Learning => "learning",
            Self::Normal => "normal",
            Self::Anomaly => "anomaly",
            Self::Missing => "missing",
        }
    }
}

/// What is unusual about a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Too high.
    #[default]
    Up,
    /// Too low.
    Down,
    /// It varies more than it did.
    Wider,
    /// It varies less than it did.
    Narrower,
}

impl Direction {
    /// As users read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Wider => "wider",
            Self::Narrower => "narrower",
        }
    }

    const fn of(detector: Detector, up: bool) -> Self {
        match (detector, up) {
            (Detector::Spread, true) => Self::Wider,
            (Detector::Spread, false) => Self::Narrower,
            (_, true) => Self::Up,
            (_, false) => Self::Down,
        }
    }
}

/// What the detectors make of a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Scored {
    /// What it is.
    pub verdict: Verdict,
    /// From 0 to 1; from 0.5 on it is an anomaly.
    pub score: f32,
    /// What is unusual about it.
    pub direction: Direction,
    /// Which detectors find it too rare.
    pub agreeing: Detectors,
    /// The value that was expected.
    pub expected: f64,
    /// What is below is not as expected.
    pub lower: f64,
    /// What is above is not as expected.
    pub upper: f64,
    /// When the anomaly began, if there is one.
    pub since: Option<Millis>,
}

impl Scored {
    /// Adds the voice of a forest, which has judged the same moment, to that of the ensemble.
    ///
    /// The forest has no share of the false alarms. It is asked only of what the ensemble finds to be an anomaly by itself, and what
    /// it says changes who agrees and nothing else: neither the verdict, nor the score, nor what the series learns. So with a
    /// forest there are the same alarms as without, and their rate is the ensemble's.
    ///
    /// It agrees where at most one moment in two hundred is as isolated. That is a lower bar than the ensemble's, so it means something
    /// only beside it: that not this signal alone is other than usual. Simulated with eight independent signals (Gaussian, and with heavy
    /// tails) it agreed in 0.5 % of all moments, with 4 and 9 % of the false alarms, and of changes with 3 % of those of one signal,
    /// 24 to 40 % of two, 99 to 100 % of three and more.
    pub const fn corroborate(&mut self, forest: &Self) {
        if matches!(self.verdict, Verdict::Anomaly) && forest.agreeing.has(Detector::IsolationForest) {
            self.agreeing = self.agreeing.with(Detector::IsolationForest);
        }
    }
}

/// What holds for a series.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Seconds from one sample to the next.
    pub step: f64,
    /// False alarms that are allowed in a week.
    pub alarms_per_week: f64,
    /// Who is asked.
    pub detectors: Detectors,
    /// Samples before anything is said.
    pub learning: u32,
    /// Seconds after which what was an anomaly, for half of them at least, is the new normal; with fewer than 60 samples it is not.
    pub accept_after: f64,
    /// A value that lies no farther than this from what a detector expects is none to it, however rare; in the unit of the
    /// series.
    pub least: f64,
}

impl Settings {
    /// One false alarm a week, all detectors, samples `step` seconds apart, 256 of them to learn and 300 to accept what lasts,
    /// however small a change.
    pub const fn new(step: f64) -> Self {
        Self {
            step,
            alarms_per_week: 1.0,
            detectors: Detectors::ALL,
            learning: 256,
            accept_after: 300.0 * step,
            least: 0.0,
        }
    }

    /// Samples before a distance means something: those of the first would be taken for a tail.
    pub(crate) const fn settled(&self) -> u32 {
        let part = self.learning / 4;
        if part < basic::SETTLED {
            part
        } else {
            basic::SETTLED
        }
    }

    /// How surprising a value must be: minus the logarithm of the probability that each sample may be a false alarm. It
    /// is a thousandth at most: of a series with few samples a week fewer false alarms are made than are allowed.
    pub(crate) fn bar(&self) -> f32 {
        let rate = (self.alarms_per_week.max(0.0) / self.samples()).clamp(1e-12, MOST_OFTEN);
        -(rate.ln() as f32)
    }

    /// The alarms a week at which the bar is so low, infinity where it never is.
    pub(crate) fn alarms_at(&self, bar: f32) -> f64 {
        let rate = (-f64::from(bar)).exp();
        if rate > MOST_OFTEN {
            f64::INFINITY
        } else {
            rate * self.samples()
        }
    }

    /// In a week.
    fn samples(&self) -> f64 {
        WEEK / self.step.max(1e-3)
    }
}

/// Share of the samples that may be false alarms, at most.
const MOST_OFTEN: f64 = 1e-3;
/// Seconds of a day and of a week.
const DAY: f64 = 86_400.0;
const WEEK: f64 = 7.0 * DAY;

/// The largest value, with either sign, that can be judged: deviations are kept in single precision.
pub const LARGEST: f64 = 1e30;

/// Whether it can be judged.
fn is_value(value: f64) -> bool {
    value.abs() <= LARGEST
}

/// From 0 to 1, a half where the surprise reaches the bar.
fn score(surprise: f32, bar: f32) -> f32 {
    let surprise = surprise.clamp(0.0, 1e6);
    surprise / (surprise + bar)
}

/// A residual as it is learned: beyond four times the usual it counts by its logarithm, so that an outlier moves a
/// baseline little, and a baseline that is wrong by orders of magnitude still gets there.
fn tame(residual: f64, scale: f64) -> f64 {
    let limit = 4.0 * scale;
    if scale <= 0.0 || residual.abs() <= limit {
        residual
    } else {
        (limit + scale * (residual.abs() / limit).ln()).copysign(residual)
    }
}

/// A usual distance, as it is reckoned with: what varies by less than a millionth of itself does not vary.
fn scale(sigma: f64, expected: f64) -> f64 {
    sigma.max(1e-6 * expected.abs()).max(1e-300)
}

/// A distance in units of the usual one.
fn distance(residual: f64, scale: f64) -> f32 {
    (residual / scale).clamp(-1e6, 1e6) as f32
}

/// Standard deviation of a Gaussian whose mean absolute deviation is 1.
const SIGMA: f64 = 1.2533;
