//! Looks for a period: by the autocorrelation of the last values, taken at ever coarser steps.
//!
//! One lag is computed with each sample, so that no sample pays for all of them.

use serde::{Deserialize, Serialize};

/// Points that are kept, and lags that are looked at.
const POINTS: usize = 256;
const LAGS: usize = POINTS / 2;
/// Correlation that a period must reach, and by how much it must exceed that between the periods.
const STRONG: f32 = 0.3;
const RISE: f32 = 0.3;
/// Steps are doubled up to so many; then it begins again.
const COARSEST: u32 = 1 << 12;

/// The state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Search {
    /// Samples of a point.
    step: u32,
    /// The point that is made: samples and their sum.
    taken: u32,
    sum: f32,
    /// The latest is the last. Not part of a baseline: a search begins again.
    #[serde(skip)]
    points: Vec<f32>,
    #[serde(skip)]
    correlations: Vec<f32>,
}

impl Search {
    pub(super) const fn new() -> Self {
        Self {
            step: 1,
            taken: 0,
            sum: 0.0,
            points: Vec::new(),
            correlations: Vec::new(),
        }
    }

    /// Takes a value, in units of the usual deviation, and says a period in samples when it has found one.
    pub(super) fn add(&mut self, value: f32) -> Option<f64> {
        self.sum += value;
        self.taken += 1;
        if self.taken >= self.step {
            if self.points.len() == POINTS {
                self.points.rotate_left(1);
                self.points.pop();
            }
            self.points.push(self.sum / self.taken as f32);
            (self.taken, self.sum) = (0, 0.0);
        }
        if self.points.len() < POINTS {
            return None;
        }
        let lag = self.correlations.len();
        self.correlations.push(correlation(&self.points, lag));
        if self.correlations.len() < LAGS {
            return None;
        }
        let found = period(&self.correlations).map(|p| p * f64::from(self.step));
        self.correlations.clear();
        if found.is_some() || self.step >= COARSEST {
            *self = Self::new();
        } else {
            self.step *= 2;
            self.points = self
                .points
                .chunks_exact(2)
                .map(|p| f32::midpoint(p[0], p[1]))
                .collect();
        }
        found
    }
}

/// The unnormalised covariance at a lag, about the mean.
fn correlation(points: &[f32], lag: usize) -> f32 {
    let mean = points.iter().sum::<f32>() / points.len() as f32;
    let later = points.iter().skip(lag);
    points
        .iter()
        .zip(later)
        .map(|(a, b)| (a - mean) * (b - mean))
        .sum::<f32>()
        / (points.len() - lag) as f32
}

/// The lag of the first strong peak, made more exact by its multiples. One without a multiple is left to the next step.
fn period(covariances: &[f32]) -> Option<f64> {
    let zero = *covariances.first().filter(|c| **c > 1e-9)?;
    let r: Vec<f32> = covariances.iter().map(|c| c / zero).collect();
    let peak = |at: usize| r[at] >= r[at - 1] && r[at] >= r[at + 1];
    let mut valley = f32::INFINITY;
    let strongest = r.iter().skip(2).copied().fold(0.0, f32::max);
    let mut first = None;
    for at in 2..r.len() / 2 {
        valley = valley.min(r[at - 1]);
        // Noise makes small peaks on the way to the great one.
        if peak(at) && r[at] > STRONG && r[at] > 0.8 * strongest && r[at] - valley > RISE {
            first = Some(at);
            break;
        }
    }
    let mut best = top(&r, first?);
    let mut times = 2.0;
    // The n-th multiple is known as exactly as the first, so the period n times as exactly.
    loop {
        let near = (best * times).round() as usize;
        let reach = 1 + (best / 8.0) as usize;
        if near + reach + 1 >= r.len() {
            return Some(best);
        }
        let at = (near - reach..=near + reach).max_by(|a, b| r[*a].total_cmp(&r[*b]))?;
        if r[at] < STRONG / 2.0 || at == near - reach || at == near + reach {
            return Some(best);
        }
        best = top(&r, at) / times;
        times += 1.0;
    }
}

/// Where the parabola through a peak and its neighbours has its top.
fn top(r: &[f32], at: usize) -> f64 {
    let (a, b, c) = (r[at - 1], r[at], r[at + 1]);
    let bend = a - 2.0 * b + c;
    let shift = if bend < 0.0 { 0.5 * (a - c) / bend } else { 0.0 };
    at as f64 + f64::from(shift.clamp(-0.5, 0.5))
}
