//! What a recording takes of the samples: each once, as it comes into the store.

use super::dictionary::Dictionary;
use super::store::{Count, Place, SECOND, Who};
use std::sync::Arc;

/// Different samples of a second that are taken; as many as a hundred busy CPUs have at 99 Hz.
const MOST: usize = 10_000;
/// Names that wait to be taken.
const NAMES: usize = 65_536;

/// A second, ns since the Unix epoch, who had a stack in it, and which.
type Sample = (u64, Who, Arc<[Place]>);

/// Samples and names that nobody has taken yet.
#[derive(Default)]
pub struct Tap {
    samples: Option<Dictionary<Sample>>,
    counts: Vec<Count>,
    names: Vec<(Place, Arc<str>)>,
    left_out: u64,
}

/// What came since the last time.
#[derive(Default)]
pub struct Tapped {
    /// Samples, alike ones added up.
    pub samples: Vec<(Sample, Count)>,
    /// Names that were found, whenever their places were seen.
    pub names: Vec<(Place, Arc<str>)>,
    /// Samples that were too many.
    pub left_out: u64,
}

impl Tap {
    pub(super) fn add(&mut self, time: u64, who: &Who, places: &[Place], count: Count) {
        let samples = self.samples.get_or_insert_with(Dictionary::new);
        let sample = (time - time % SECOND, who.clone(), places.into());
        if samples.values.len() >= MOST && samples.find(&sample).is_none() {
            self.left_out += count.samples;
            return;
        }
        let number = samples.number(sample) as usize;
        if self.counts.len() <= number {
            self.counts.resize(number + 1, Count::default());
        }
        if let Some(total) = self.counts.get_mut(number) {
            total.samples += count.samples;
            total.value += count.value;
        }
    }

    pub(super) fn name(&mut self, place: Place, name: &Arc<str>) {
        // A place that comes again is asked of the store.
        if self.names.len() < NAMES {
            self.names.push((place, name.clone()));
        }
    }

    /// Takes all.
    pub fn take(&mut self) -> Tapped {
        let samples = self.samples.take().map(|samples| samples.values);
        Tapped {
            samples: samples
                .unwrap_or_default()
                .into_iter()
                .zip(std::mem::take(&mut self.counts))
                .collect(),
            names: std::mem::take(&mut self.names),
            left_out: std::mem::take(&mut self.left_out),
        }
    }
}
