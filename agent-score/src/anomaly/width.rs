//! How wide a season's times are: what varies more by day than by night is judged by night as it varies by night. The deviations
//! from what is foretold are learned for each part of the season, and the width of a time is how they compare with all.

use super::season::{Meeting, Place};
use serde::{Deserialize, Serialize};

/// What a sample must gain by it, as a logarithm of likelihood (of Laplace's distribution), before it is used, and below which it is
/// used no more. A course of the spread of a third up and down gains 0.03; one that is none loses by what was learned of noise.
const GAINS: f64 = 0.03;
const FAILS: f64 = 0.0;
/// How far a time is believed to differ from all.
const MOST: f64 = 20.0;

/// The deviations of a season's parts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Width {
    /// Mean absolute deviations, and their average.
    parts: Vec<f32>,
    average: f64,
    meeting: Meeting,
    gained: f64,
    pub(super) used: bool,
}

impl Width {
    pub(super) fn new(parts: usize) -> Self {
        Self {
            parts: vec![0.0; parts],
            average: 0.0,
            meeting: Meeting::default(),
            gained: 0.0,
            used: false,
        }
    }

    /// By how much a time is wider than all are.
    pub(super) fn between(&self, place: Place) -> f64 {
        if self.average > 0.0 {
            (place.of(|part| self.part(part)) / self.average).clamp(1.0 / MOST, MOST)
        } else {
            1.0
        }
    }

    /// Learns a deviation; `usual` is the weight that a part has in a cycle, `gain` the part of a difference that is learned in one. From
    /// the second cycle on it is judged what is gained, of which a sample counts for `counts`.
    pub(super) fn learn(
        &mut self,
        place: Place,
        deviation: f64,
        (usual, gain): (f64, f64),
        counts: Option<f64>,
    ) {
        for (part, sum, weight) in self.meeting.go(place, self.parts.len()).into_iter().flatten() {
            self.adopt(part, sum, weight, usual, gain);
        }
        self.meeting.add(place, deviation);
        if let Some(counts) = counts
            && self.average > 0.0
        {
            let width = self.between(place);
            let gained = deviation / self.average * (1.0 - 1.0 / width) - width.ln();
            self.gained += (gained - self.gained) * counts;
        }
    }

    /// Whether it is worth its use.
    pub(super) fn judge(&mut self) {
        self.used = self.gained > if self.used { FAILS } else { GAINS };
    }

    /// One that was never met, or never varied, is as wide as all.
    fn part(&self, part: usize) -> f64 {
        let value = self.parts.get(part).map_or(0.0, |value| f64::from(*value));
        if value > 0.0 { value } else { self.average }
    }

    fn adopt(&mut self, part: usize, sum: f64, weight: f64, usual: f64, gain: f64) {
        let before = self.part(part);
        if let Some(value) = self.parts.get_mut(part) {
            // Of what is met for less than half of its time little is known.
            let change = gain * (sum - weight * before) / weight.max(0.5 * usual);
            *value = (before + change) as f32;
        }
        let known = self.parts.iter().filter(|part| **part > 0.0);
        let (count, sum) = known.fold((0.0, 0.0), |(n, sum), part| (n + 1.0, sum + f64::from(*part)));
        self.average = if count > 0.0 { sum / count } else { 0.0 };
    }
}
