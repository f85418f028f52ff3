//! Isolation Forest (Liu, Ting and Zhou, 2008) over several signals of one entity, streaming: a reservoir of what was
//! seen, and trees of which the oldest is grown anew from it in turn.
//!
//! All trees are complete and of one depth, in flat arrays, so that a walk has neither branches nor pointers; where a
//! branch ends early, all that lies below it has its length. A forest over eight signals is 260 KiB; serialised it is its
//! reservoir, 32 KiB.
//!
//! What lies far out is no easier to isolate than what lies just outside: the score has a greatest value, and the usual
//! scores come near it. So by itself it finds an anomaly only where more false alarms than one a week are allowed. What it is
//! for is to agree with who finds one: see [`Scored::corroborate`].

use super::ensemble::GAP;
use super::tail::{Tails, Tops};
use super::{Detector, Detectors, Direction, Millis, Scored, Settings, Verdict, is_value, score};
use serde::{Deserialize, Serialize};

const TREES: usize = 100;
/// Samples that a tree is grown from, and its depth: log2 of them.
const SAMPLES: usize = 256;
const DEPTH: u32 = 8;
const INNER: usize = (1 << DEPTH) - 1;
const LEAVES: usize = 1 << DEPTH;
/// Samples from which the trees take theirs.
const RESERVOIR: usize = 1024;
/// Samples after which a tree is grown anew.
const TURN: u32 = 16;
/// Samples whose scores are learned before anything is said.
const LEARNING: u32 = 512;
/// How surprising a moment must be for the forest to agree with who finds an anomaly in it: one in two hundred is, minus the
/// logarithm of that.
const AGREES: f32 = 5.298;

/// A forest over `N` signals, 256 at most.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Forest<const N: usize> {
    /// Points, one behind the other.
    reservoir: Vec<f32>,
    /// The mean of each signal, for one that is missing.
    means: Vec<f64>,
    seen: u32,
    random: Random,
    tops: Tops,
    tails: Tails,
    #[serde(skip)]
    trees: Vec<Tree>,
    #[serde(skip)]
    oldest: usize,
}

/// Of each inner node the signal that is compared, and the threshold: what is smaller goes left.
#[derive(Clone, Debug)]
struct Tree {
    thresholds: [f32; INNER],
    signals: [u8; INNER],
    lengths: [f32; LEAVES],
}

impl<const N: usize> Default for Forest<N> {
    fn default() -> Self {
        Self {
            reservoir: Vec::new(),
            means: vec![0.0; N],
            seen: 0,
            random: Random(0x9e37_79b9_7f4a_7c15),
            tops: Tops::new(0.6),
            tails: Tails::default(),
            trees: Vec::new(),
            oldest: 0,
        }
    }
}

impl<const N: usize> Forest<N> {
    /// Takes the signals of a moment, NaN where there is none, and says what they are. There is no expected value. It is
    /// among those that agree from one moment in two hundred on, also where that is no anomaly.
    pub fn observe(&mut self, settings: &Settings, at: Millis, signals: &[f64; N]) -> Scored {
        let mut scored = Scored {
            expected: f64::NAN,
            lower: f64::NAN,
            upper: f64::NAN,
            ..Scored::default()
        };
        if signals.iter().all(|s| !is_value(*s)) {
            scored.verdict = Verdict::Missing;
            return scored;
        }
        self.replant();
        self.seen = self.seen.saturating_add(1);
        let gain = 1.0 / f64::from(self.seen.min(2048));
        let mut point = [0.0; N];
        for ((place, signal), mean) in point.iter_mut().zip(signals).zip(&mut self.means) {
            if is_value(*signal) {
                *mean += (signal - *mean) * gain;
                *place = *signal as f32;
            } else {
                *place = *mean as f32;
            }
        }
        if let Some(isolation) = self.isolation(&point) {
            let n = self.judged();
            let bar = settings.bar();
            let surprise = self.tails.surprise(&self.tops, isolation, n);
            scored.score = score(surprise, bar);
            scored.direction = Direction::Wider;
            if n > LEARNING {
                scored.verdict = Verdict::Normal;
                if surprise >= AGREES {
                    scored.agreeing = Detectors::from(Detector::IsolationForest);
                }
                if surprise >= bar {
                    scored.verdict = Verdict::Anomaly;
                    scored.since = Some(at);
                }
            }
            self.tails.learn(&self.tops, isolation, bar, n);
            self.tops.learn(isolation, n);
        }
        self.learn(&point);
        scored
    }

    /// Samples that were judged by trees.
    fn judged(&self) -> u32 {
        self.seen.saturating_sub(SAMPLES as u32).max(1)
    }

    /// From 0 to 1, how few cuts isolate a point; nothing while there are no trees.
    pub fn isolation(&self, point: &[f32; N]) -> Option<f32> {
        if self.trees.is_empty() {
            return None;
        }
        let mut sum = 0.0;
        // Four at a time: the walks do not depend on each other, and the processor makes them side by side.
        let (fours, rest) = self.trees.as_chunks::<4>();
        for trees in fours {
            let mut at = [0; 4];
            for _ in 0..DEPTH {
                for (at, tree) in at.iter_mut().zip(trees) {
                    *at = tree.next(*at, point);
                }
            }
            for (at, tree) in at.into_iter().zip(trees) {
                sum += tree.length(at);
            }
        }
        for tree in rest {
            let end = (0..DEPTH).fold(0, |at, _| tree.next(at, point));
            sum += tree.length(end);
        }
        let mean = sum / self.trees.len() as f32;
        Some((-mean / usual_length(SAMPLES)).exp2())
    }

    /// Grows the trees as soon as there is enough to grow them from: once, and after a restart.
    fn replant(&mut self) {
        if self.trees.is_empty() && self.reservoir.len() >= SAMPLES * N {
            for _ in 0..TREES {
                let tree = self.grow();
                self.trees.push(tree);
            }
        }
    }

    fn learn(&mut self, point: &[f32; N]) {
        if self.reservoir.len() < RESERVOIR * N {
            self.reservoir.extend_from_slice(point);
        } else {
            // Each sample takes the place of one by chance: the older, the fewer are left.
            let place = self.random.below(RESERVOIR) * N;
            if let Some(old) = self.reservoir.get_mut(place..place + N) {
                old.copy_from_slice(point);
            }
        }
        if !self.trees.is_empty() && self.seen.is_multiple_of(TURN) {
            let tree = self.grow();
            if let Some(old) = self.trees.get_mut(self.oldest) {
                *old = tree;
            }
            self.oldest = (self.oldest + 1) % TREES;
        }
    }

    fn grow(&mut self) -> Tree {
        let mut tree = Tree {
            thresholds: [0.0; INNER],
            signals: [0; INNER],
            lengths: [0.0; LEAVES],
        };
        let (points, _) = self.reservoir.as_chunks::<N>();
        let count = points.len();
        let mut chosen: Vec<usize> = (0..count).collect();
        for i in 0..SAMPLES.min(count) {
            let other = i + self.random.below(count - i);
            chosen.swap(i, other);
        }
        chosen.truncate(SAMPLES);
        tree.split(points, &mut chosen, &mut self.random, 0, 0);
        tree
    }
}

/// Values that are taken for the signals of one moment.
const LAGS: usize = 8;
const NOTHING: [f64; LAGS] = [f64::NAN; LAGS];

/// A forest over one series: its last values are the signals.
#[derive(Clone, Debug)]
pub struct LagForest {
    settings: Settings,
    forest: Forest<LAGS>,
    /// The latest is the last; NaN where there was none.
    last: [f64; LAGS],
    /// When there was a value.
    at: Option<Millis>,
    since: Option<Millis>,
}

impl LagForest {
    /// One of which nothing is known.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            forest: Forest::default(),
            last: NOTHING,
            at: None,
            since: None,
        }
    }

    /// Takes a value and says whether it, with those before, lies apart.
    pub fn observe(&mut self, at: Millis, value: f64) -> Scored {
        let known = is_value(value);
        let elapsed = self.at.map_or(0.0, |last| (at - last) as f64 / 1e3);
        if elapsed > GAP * self.settings.step {
            self.last = NOTHING;
        }
        if known {
            self.at = Some(at);
        }
        self.last.rotate_left(1);
        self.last[LAGS - 1] = value;
        let signals = if known { &self.last } else { &NOTHING };
        let mut scored = self.forest.observe(&self.settings, at, signals);
        self.since = scored.since.and(self.since.or(scored.since));
        scored.since = self.since;
        scored
    }

    /// From how many alarms a week on it can find anything, by what it knows now: its score is greatest of a moment all of whose
    /// values lie beyond what was seen, on one side or the other. Infinity where it can at no number; `None` while it is learning.
    pub fn least_alarms(&self) -> Option<f64> {
        let beyond =
            |corner: u32| std::array::from_fn(|i| if corner >> i & 1 == 1 { f32::MAX } else { f32::MIN });
        let scores = (0..1 << LAGS).filter_map(|corner| self.forest.isolation(&beyond(corner)));
        let (most, n) = (scores.max_by(f32::total_cmp)?, self.forest.judged());
        let surprise = self.forest.tails.surprise(&self.forest.tops, most, n);
        (n > LEARNING).then(|| self.settings.alarms_at(surprise))
    }
}

impl Tree {
    #[inline]
    fn next<const N: usize>(&self, at: usize, point: &[f32; N]) -> usize {
        2 * at + 1 + usize::from(point[usize::from(self.signals[at])] >= self.thresholds[at])
    }

    fn length(&self, end: usize) -> f32 {
        self.lengths[end - INNER]
    }

    fn split<const N: usize>(
        &mut self,
        points: &[[f32; N]],
        chosen: &mut [usize],
        random: &mut Random,
        at: usize,
        depth: u32,
    ) {
        let cut = (depth < DEPTH && chosen.len() > 1)
            .then(|| cut(points, chosen, random))
            .flatten();
        let Some((signal, threshold)) = cut else {
            let length = depth as f32 + usual_length(chosen.len());
            // All leaves below it.
            let (mut first, mut last) = (at, at);
            while first < INNER {
                (first, last) = (2 * first + 1, 2 * last + 2);
            }
            self.lengths[first - INNER..=last - INNER].fill(length);
            return;
        };
        (self.signals[at], self.thresholds[at]) = (signal as u8, threshold);
        let mut left = 0;
        for i in 0..chosen.len() {
            if points[chosen[i]][signal] < threshold {
                chosen.swap(i, left);
                left += 1;
            }
        }
        let (below, above) = chosen.split_at_mut(left);
        self.split(points, below, random, 2 * at + 1, depth + 1);
        self.split(points, above, random, 2 * at + 2, depth + 1);
    }
}

/// A signal by chance, of those that differ, and a threshold by chance between its extremes.
fn cut<const N: usize>(points: &[[f32; N]], chosen: &[usize], random: &mut Random) -> Option<(usize, f32)> {
    let start = random.below(N);
    (0..N).map(|i| (start + i) % N).find_map(|signal| {
        let values = chosen.iter().map(|c| points[*c][signal]);
        let (low, high) = values.fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), v| {
            (l.min(v), h.max(v))
        });
        let threshold = low + (high - low) * random.unit();
        (low < high).then_some((signal, if threshold > low { threshold } else { high }))
    })
}

/// Mean length of a search without success in a binary tree of so many.
fn usual_length(count: usize) -> f32 {
    match count {
        0 | 1 => 0.0,
        2 => 1.0,
        n => {
            let n = n as f32;
            2.0 * ((n - 1.0).ln() + 0.577_215_7) - 2.0 * (n - 1.0) / n
        }
    }
}

/// xorshift64*: trees need no better chance, and a baseline is the same wherever it is read.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (((self.next() >> 32) * bound.max(1) as u64) >> 32) as usize
    }

    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }
}
