//! Many series, sampled together, by the four cheapest detectors.

use super::basic::{BASIC, Basic, SETTLED};
use super::moving_average::Window;
use super::tail::Tails;
use super::{Detector, Detectors, Direction, Settings, is_value, score};
use serde::{Deserialize, Serialize};
use std::num::NonZero;
use std::sync::{Mutex, PoisonError};

/// Samples before anything is said.
const LEARNING: u32 = 256;

/// Threads that look at them at most …
const MOST_THREADS: usize = 4;
/// … and series for one, below which starting another takes longer.
const A_SHARE: usize = 8192;

/// A value that is rarer than is allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Which series.
    pub series: usize,
    /// As that of [`super::Scored`].
    pub score: f32,
    /// Above or below.
    pub direction: Direction,
    /// Who found it.
    pub agreeing: Detectors,
}

/// Their state: what is read for each sample, what for one of them in turn, what when a sample is rare.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bank {
    settings: Settings,
    basic: Vec<Basic>,
    windows: Vec<Window>,
    tails: Vec<[Tails; BASIC]>,
}

impl Bank {
    /// Bytes of a series.
    pub const SIZE: usize = size_of::<Basic>() + size_of::<Window>() + size_of::<[Tails; BASIC]>();

    /// So many series.
    pub fn new(settings: Settings, series: usize) -> Self {
        Self {
            settings,
            basic: vec![Basic::default(); series],
            windows: vec![Window::default(); series],
            tails: vec![Default::default(); series],
        }
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.basic.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.basic.is_empty()
    }

    /// Takes a value of each series, NaN where there is none, and says which are anomalies. Values beyond the series that
    /// there are make new ones.
    pub fn observe(&mut self, values: &[f64], found: &mut Vec<Found>) {
        if values.len() > self.len() {
            self.basic.resize_with(values.len(), Basic::default);
            self.windows.resize_with(values.len(), Window::default);
            self.tails.resize_with(values.len(), Default::default);
        }
        let bar = self.settings.bar();
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let share = values.len().div_ceil(threads.min(MOST_THREADS)).max(A_SHARE);
        let basic = self.basic.chunks_mut(share).enumerate();
        let parts = basic.zip(self.windows.chunks_mut(share).zip(self.tails.chunks_mut(share)));
        let parts: Vec<Mutex<Part<'_>>> = parts
            .zip(values.chunks(share))
            .map(|(((n, basic), (windows, tails)), values)| {
                Mutex::new(Part {
                    first: n * share,
                    basic,
                    windows,
                    tails,
                    values,
                })
            })
            .collect();
        let observe =
            |part: &Mutex<Part<'_>>| part.lock().unwrap_or_else(PoisonError::into_inner).observe(bar);
        std::thread::scope(|scope| {
            let others = parts.iter().skip(1).map(|part| {
                let thread = std::thread::Builder::new().spawn_scoped(scope, || observe(part));
                thread.map_err(|_none| part)
            });
            let others: Vec<_> = others.collect();
            found.extend(parts.first().map(observe).unwrap_or_default());
            for other in others {
                found.extend(match other {
                    Ok(thread) => thread.join().unwrap_or_default(),
                    Err(part) => observe(part),
                });
            }
        });
    }
}

/// Series that one thread looks at.
struct Part<'a> {
    /// Number of the first.
    first: usize,
    basic: &'a mut [Basic],
    windows: &'a mut [Window],
    tails: &'a mut [[Tails; BASIC]],
    values: &'a [f64],
}

impl Part<'_> {
    fn observe(&mut self, bar: f32) -> Vec<Found> {
        let mut found = Vec::new();
        let all = self.basic.iter_mut().zip(&mut *self.windows);
        for (series, ((basic, window), &value)) in all.zip(self.values).enumerate() {
            if !is_value(value) {
                continue;
            }
            let distances = basic.distances(value);
            let (n, mut rare) = (basic.judged(SETTLED), false);
            if n > 0 {
                for (tops, z) in basic.tops.iter_mut().zip(distances) {
                    rare |= tops.is_beyond(z);
                    tops.learn(z, n);
                }
            }
            if rare && let Some(tails) = self.tails.get_mut(series) {
                found.extend(judge(self.first + series, basic, tails, distances, bar));
            }
            basic.learn(window, value, 1.0);
        }
        found
    }
}

/// A value that lies in a tail. Each detector has a quarter of the false alarms.
#[cold]
fn judge(
    series: usize,
    basic: &Basic,
    tails: &mut [Tails; BASIC],
    distances: [f32; BASIC],
    bar: f32,
) -> Option<Found> {
    let bar = bar + (BASIC as f32).ln();
    let n = basic.judged(SETTLED);
    let (mut most, mut found) = (0.0, None);
    let mut agreeing = Detectors::NONE;
    for (((tails, tops), z), detector) in tails
        .iter_mut()
        .zip(&basic.tops)
        .zip(distances)
        .zip(Detector::ALL)
    {
        if !tops.is_beyond(z) {
            continue;
        }
        let surprise = tails.surprise(tops, z, n);
        tails.learn(tops, z, bar, n);
        if surprise >= bar {
            agreeing = agreeing.with(detector);
        }
        if surprise > most {
            most = surprise;
            found = Some(Direction::of(detector, z > 0.0));
        }
    }
    (basic.seen >= LEARNING && most >= bar).then_some(Found {
        series,
        score: score(most, bar),
        direction: found.unwrap_or_default(),
        agreeing,
    })
}
