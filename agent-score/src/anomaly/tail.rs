//! How rare an error of a detector is, by the errors that it made before.
//!
//! Peaks over threshold (Siffer et al., KDD 2017), with constant memory and runs of samples taken for one: the 98 % quantile of each side is followed by
//! stochastic approximation, and a generalised Pareto distribution is fitted, by likelihood, to what lies beyond. Of a Gaussian,
//! of latencies and of counts one learns from some thousand samples how far apart are those that come once a week.
//! By moments, tails without a fourth one seemed too light: of 10,000 samples of Student's t with three degrees of freedom
//! they made 7.5 times the alarms that were asked for, where this makes fewer than 4 (tests/tails.rs).

use serde::{Deserialize, Serialize};

/// Share of a side's samples that lie beyond its top.
const BEYOND: f32 = 0.02;
/// Surprise at the top: 2 % of one of two sides.
const AT_TOP: f32 = 4.605;
/// Samples that the start is worth, when the distribution beyond the top is fitted: its shape, and its scale.
const PRIOR: f32 = 30.0;
const PRIOR_SCALE: f32 = 10.0;
/// Beyond so many the older ones fade.
const REMEMBERED: f32 = 500.0;
/// Shapes that are believed: from a tail that ends sooner than the exponential to one without a variance. Sums of what is
/// bounded and falls on average have exponential tails (Lundberg), whatever the noise.
const LEAST: f32 = -0.1;
const MOST: f32 = 0.5;
const MOST_OF_SUMS: f32 = 0.1;
/// Climbs beyond the top that it takes before they are thought to be something else: days.
const EVIDENCE: f32 = 100.0;
/// By how much further a sum is thought to climb while none beyond the top has been seen, beside what was presumed. What is like
/// the value before climbs ten times as far as independent noise, and it takes hours until that is seen.
const DOUBT_OF_SUMS: f32 = 4.0;
/// Least part of a top by which it follows.
const SLOWEST: f32 = 0.004;
/// Samples after which the older ones fade, where climbs are counted, and the least share of them that is believed.
const OFTEN: f32 = 8192.0;
const SELDOM: f32 = 1e-3;
/// By how many of its standard errors the shape is taken for larger than it was found to be: one that is too low makes more
/// alarms than one that is too high saves. Simulated with this, noise (Gaussian, exponential, lognormal, Student's t) had 0.3
/// to 1.0 times the rate that was asked for after 500 exceedances, and t with three degrees of freedom 8 times after ten.
const DOUBT: f32 = 0.5;

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

/// The generalised Pareto distribution of what lies beyond the top, in units of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Tail {
    shape: f32,
    /// Scale times (1 + shape): what can be learned beside the shape, as neither error moves the other (Cox and Reid, 1987).
    size: f32,
    seen: f32,
    /// The greatest shape that is believed before much was seen.
    most: f32,
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
            SLOWEST
        } else {
            (8.0 / seen.max(16.0)).max(SLOWEST)
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
        Self(
            [Tail {
                shape: 0.2,
                size: 0.19,
                seen: 0.0,
                most: MOST,
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

/// What is known of a sum that climbs and falls back to nothing: how often it does, and how far. One climb is one event,
/// however long: samples of the same one say the same. (By samples, an hour of them raised the top tenfold; then what was the
/// usual lay far below, and what was rare seemed so near.)
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Climbs {
    /// Above and below, of what 2 % reach.
    top: [f32; 2],
    /// Climbs in a sample.
    often: [f32; 2],
    /// Climbs, and samples, that have been learned.
    climbs: [f32; 2],
    samples: f32,
    tails: [Tail; 2],
    /// The highest of the climb that is under way; below nothing it is one of the lower side.
    peak: f32,
}

impl Climbs {
    /// Those of a sum of which 2 % usually reach one of these, above and below. That of Gaussian steps with slack 0.5 has by
    /// Lundberg's bound a quarter of its top for a scale.
    pub(super) fn new(above: f32, below: f32) -> Self {
        let Tails([tail, _]) = Tails::default();
        let tail = Tail {
            shape: 0.0,
            size: 0.3,
            most: MOST_OF_SUMS,
            ..tail
        };
        Self {
            top: [above, below],
            often: [0.1; 2],
            climbs: [0.0; 2],
            samples: 64.0,
            tails: [tail; 2],
            peak: 0.0,
        }
    }

    /// Minus the logarithm of the probability that a climb reaches this, in a sample. `alone` are the alarms that it gave
    /// without any that foretells: until its tail is known, each says that it climbs twice as far as it was taken for.
    pub(super) fn surprise(&self, sum: f32, alone: f32) -> f32 {
        let side = usize::from(sum < 0.0);
        let ratio = sum.abs() / self.top[side];
        if ratio <= 1.0 {
            return ratio * AT_TOP;
        }
        self.base(side) + self.tails[side].surprise((ratio - 1.0) / self.doubt(side, alone))
    }

    /// How far above or below nothing a sum is as surprising as this.
    pub(super) fn level(&self, side: usize, surprise: f32, alone: f32) -> f32 {
        let rest = (surprise - self.base(side)).max(0.0);
        self.top[side] * (1.0 + self.doubt(side, alone) * self.tails[side].excess(rest))
    }

    fn doubt(&self, side: usize, alone: f32) -> f32 {
        let seen = self.tails[side].seen;
        let known = PRIOR / (PRIOR + seen);
        (1.0 + DOUBT_OF_SUMS / (1.0 + seen).sqrt()) * (alone * known).exp2()
    }

    /// Surprise at the top. What climbs very seldom need not be told because it does.
    fn base(&self, side: usize) -> f32 {
        -(BEYOND * self.often[side].max(SELDOM)).ln()
    }

    /// Learns a sum: of each climb, when it is over, the highest.
    pub(super) fn learn(&mut self, sum: f32, bar: f32) {
        let goes_on = sum * self.peak > 0.0;
        if !goes_on && self.peak != 0.0 {
            self.finish(bar);
        }
        self.samples = (self.samples + 1.0).min(OFTEN);
        for (side, often) in self.often.iter_mut().enumerate() {
            let begins = !goes_on && sum != 0.0 && side == usize::from(sum < 0.0);
            *often += (f32::from(u8::from(begins)) - *often) / self.samples;
        }
        if !goes_on || sum.abs() > self.peak.abs() {
            self.peak = sum;
        }
    }

    fn finish(&mut self, bar: f32) {
        let side = usize::from(self.peak < 0.0);
        let ratio = self.peak.abs() / self.top[side];
        let most = (bar - self.base(side)).max(0.0) + 1.0;
        let climbs = self.climbs[side] + 1.0;
        if ratio > 1.0 {
            let tail = &mut self.tails[side];
            tail.peak = ratio - 1.0;
            tail.learn(tail.at_most(most));
            tail.peak = 0.0;
        }
        let gain = (8.0 / climbs.max(16.0)).max(SLOWEST);
        self.top[side] *= if ratio > 1.0 {
            1.0 + gain * (1.0 - BEYOND)
        } else {
            1.0 - gain * BEYOND
        };
        self.top[side] = self.top[side].max(1e-6);
        self.climbs[side] = climbs;
    }
}

/// Surprise at the top of a side: sides that are seldom taken are surprising by themselves.
fn base(tops: &Tops, side: usize, n: u32) -> f32 {
    -(BEYOND * tops.of(side).max(1.0 / n.max(2) as f32)).ln()
}

impl Tail {
    /// The greatest shape that is believed. Where a level wanders, most climbs are of noise and few of the wandering, and both
    /// together have a heavier tail than either.
    fn most(&self) -> f32 {
        self.most + (MOST - self.most) * (self.seen - EVIDENCE).max(0.0) / REMEMBERED
    }

    /// Shape and scale as they are reckoned with: what is not known yet may be heavier than what was seen.
    fn cautious(&self) -> (f32, f32) {
        let error = (1.0 + self.shape) / (PRIOR + self.seen).sqrt();
        let shape = (self.shape + DOUBT * error).min(self.most());
        (shape, self.size / (1.0 + shape))
    }

    fn surprise(&self, excess: f32) -> f32 {
        let (shape, scale) = self.cautious();
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
        let (shape, scale) = self.cautious();
        if shape.abs() < 1e-3 {
            scale * surprise
        } else {
            scale * ((shape * surprise).min(60.0).exp() - 1.0) / shape
        }
    }

    /// The peak, or the excess that is as surprising as this if that is less.
    fn at_most(&self, surprise: f32) -> f32 {
        let (shape, scale) = self.cautious();
        // Mostly it is far below, and no exponential need be taken: the line of shape 0 lies below the curves of all greater.
        if shape >= 0.0 && self.peak <= scale * surprise {
            self.peak
        } else {
            self.peak.min(self.excess(surprise))
        }
    }

    /// A step of the likelihood's natural gradient: as exact as the fit of all at once would be (Amari, 1998), and what one
    /// value can do grows with its logarithm only.
    fn learn(&mut self, excess: f32) {
        let shape = if self.shape.abs() < 0.02 { 0.02 } else { self.shape };
        let x = excess * (1.0 + shape) / self.size;
        let inner = (1.0 + shape * x).max(0.05);
        let part = x / inner;
        let of_scale = (1.0 + shape) * part - 1.0;
        let of_shape = (inner.ln() / shape - (1.0 + shape) * part) / shape;
        let step = (1.0 + shape) * ((1.0 + shape) * of_shape - of_scale);
        self.shape += (step / (PRIOR + self.seen)).clamp(-0.1, 0.1);
        let before = self.size;
        let step = (1.0 + 2.0 * shape) * of_scale;
        self.size = (self.size * (1.0 + (step / (PRIOR_SCALE + self.seen)).min(0.5))).max(1e-6);
        // What is presumed of the shape goes with the size: a side that reaches far beyond its top has likelier a heavy
        // tail, and the size is known from ten values, the shape from a hundred.
        self.shape += (self.size - before) * PRIOR / (PRIOR + self.seen);
        self.shape = self.shape.clamp(LEAST, self.most());
        self.seen = (self.seen + 1.0).min(REMEMBERED);
    }
}
