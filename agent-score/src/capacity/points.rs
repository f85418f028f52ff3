//! A series that is as coarse as it is long, so that weeks of it fit into a few kilobytes.

use super::DAY;
use crate::anomaly::Millis;
use std::collections::VecDeque;

/// More points than this are merged by two: fits take half as many.
const MOST: usize = 1024;
/// The step of a new series.
const FINEST: Millis = 60_000;
/// Of a counter that was not seen for longer, the rate of that time is not known: it may have begun anew.
const GAP: Millis = 600_000;

/// What becomes of the samples of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Their mean.
    Mean,
    /// The largest: of what is full for moments only.
    Largest,
    /// Growth of a counter in a second.
    Rate,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    /// The step's number since 1970.
    step: Millis,
    /// Samples; of a rate, seconds.
    weight: f64,
    /// Their sum, or the largest; of a rate, the growth.
    value: f64,
}

impl Point {
    fn take(&mut self, reduce: Reduce, other: Self) {
        self.weight += other.weight;
        self.value = match reduce {
            Reduce::Largest => self.value.max(other.value),
            Reduce::Mean | Reduce::Rate => self.value + other.value,
        };
    }

    fn value(&self, reduce: Reduce) -> f64 {
        match reduce {
            Reduce::Largest => self.value,
            Reduce::Mean | Reduce::Rate => self.value / self.weight,
        }
    }
}

/// The series.
#[derive(Clone, Debug)]
pub struct Points {
    reduce: Reduce,
    step: Millis,
    points: VecDeque<Point>,
    /// When the latest number came.
    last: Option<Millis>,
    /// What it was; none after the end of a series. The growth of a counter since then counts.
    before: Option<f64>,
    /// The latest minute, and the one before it, however coarse the rest is.
    recent: [Option<Point>; 2],
}

impl Points {
    /// None yet.
    pub fn new(reduce: Reduce) -> Self {
        Self {
            reduce,
            step: FINEST,
            points: VecDeque::new(),
            last: None,
            before: None,
            recent: [None; 2],
        }
    }

    /// Takes a sample. One that is not later than the one before is left out, and so is one that is no number.
    pub fn add(&mut self, at: Millis, value: f64) {
        if self.last.is_some_and(|last| at <= last) {
            return;
        }
        if !value.is_finite() {
            self.before = None;
            return;
        }
        let before = self.last.replace(at).zip(self.before.replace(value));
        let (weight, value) = match (self.reduce, before) {
            (Reduce::Mean | Reduce::Largest, _) => (1.0, value),
            (Reduce::Rate, Some((last, before))) if at - last <= GAP => {
                let growth = if value < before { value } else { value - before };
                ((at - last) as f64 / 1000.0, growth)
            }
            (Reduce::Rate, _) => return,
        };
        let point = |step| Point {
            step: at.div_euclid(step),
            weight,
            value,
        };
        match &mut self.recent[0] {
            Some(recent) if recent.step == at.div_euclid(FINEST) => recent.take(self.reduce, point(FINEST)),
            recent => {
                let before = recent.replace(point(FINEST));
                self.recent[1] = before;
            }
        }
        push(&mut self.points, self.reduce, point(self.step));
        while self.points.len() > MOST {
            self.coarsen();
        }
    }

    fn coarsen(&mut self) {
        self.step *= 2;
        let mut merged = VecDeque::with_capacity(MOST + 1);
        for point in self.points.drain(..) {
            let step = point.step.div_euclid(2);
            push(&mut merged, self.reduce, Point { step, ..point });
        }
        self.points = merged;
    }

    /// Forgets what was before a time.
    pub fn forget(&mut self, before: Millis) {
        while self
            .points
            .front()
            .is_some_and(|point| (point.step + 1) * self.step <= before)
        {
            self.points.pop_front();
        }
    }

    /// When the latest number was taken.
    pub fn last(&self) -> Option<Millis> {
        self.last
    }

    /// The value of the latest whole minute, or of the one that has just begun.
    pub fn now(&self) -> Option<f64> {
        let [latest, before] = self.recent;
        // A minute with a hole before it says nothing of now.
        let before = before.filter(|before| latest.is_some_and(|latest| latest.step - before.step == 1));
        before.or(latest).map(|point| point.value(self.reduce))
    }

    /// Growth in a day, from the first point to the latest: no trend, but cheap. None of a single point.
    pub fn growth(&self) -> Option<f64> {
        let (first, last) = (self.points.front()?, self.points.back()?);
        let days = ((last.step - first.step) * self.step) as f64 / DAY;
        (days > 0.0).then(|| (last.value(self.reduce) - first.value(self.reduce)) / days)
    }

    /// The points, each at the middle of its step.
    pub fn series(&self) -> Vec<(Millis, f64)> {
        let middle = |point: &Point| point.step * self.step + self.step / 2;
        let points = self.points.iter();
        points
            .map(|point| (middle(point), point.value(self.reduce)))
            .collect()
    }
}

fn push(points: &mut VecDeque<Point>, reduce: Reduce, point: Point) {
    match points.back_mut() {
        Some(last) if last.step >= point.step => last.take(reduce, point),
        _ => points.push_back(point),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Millis = 1_760_000_040_000;

    #[test]
    fn weeks_are_a_thousand_points_and_keep_mean_and_trend() {
        let mut points = Points::new(Reduce::Mean);
        let samples = 15 * 8640;
        for i in 0..samples {
            points.add(START + i * 10_000, i as f64);
        }
        let series = points.series();
        assert!((MOST / 2..=MOST).contains(&series.len()), "{}", series.len());
        let (first, last) = (series[1], series[series.len() - 2]);
        let slope = (last.1 - first.1) / (last.0 - first.0) as f64;
        assert!((slope * 10_000.0 - 1.0).abs() < 1e-9, "{slope}");
        let growth = points.growth().unwrap();
        assert!((growth / 8640.0 - 1.0).abs() < 0.01, "{growth}");
        assert!((points.now().unwrap() - samples as f64).abs() < 12.0);
        points.forget(START + 10 * 86_400_000);
        let first = points.series()[0].0;
        assert!((first - START - 10 * 86_400_000).abs() < 3_600_000);
    }

    #[test]
    fn a_counter_is_its_rate_and_may_begin_anew() {
        let mut points = Points::new(Reduce::Rate);
        for (at, value) in [(0, 5.0), (10, 105.0), (20, 205.0), (30, 40.0), (40, 140.0)] {
            points.add(START + at * 1000, value);
        }
        // Of 40 s: twice 100, 40 since it began anew, and 100.
        assert_eq!(points.now(), Some(340.0 / 40.0));
        // An hour later nobody knows what was between.
        points.add(START + 3_600_000, 9e9);
        assert_eq!((points.series().len(), points.growth()), (1, None));
        points.add(START + 3_610_000, 9e9 + 10.0);
        assert_eq!(points.now(), Some(1.0));
        points.add(START + 3_620_000, f64::NAN);
        points.add(START + 3_630_000, 0.0);
        points.add(START + 3_640_000, 70.0);
        assert_eq!(
            points.now(),
            Some(80.0 / 20.0),
            "the end of a series is no growth"
        );
    }

    #[test]
    fn a_moment_is_not_lost_in_a_mean() {
        let mut points = Points::new(Reduce::Largest);
        for i in 0..100_000 {
            points.add(START + i * 1000, if i == 500 { 9.0 } else { 1.0 });
        }
        let largest = points.series().iter().map(|p| p.1).fold(0.0, f64::max);
        assert_eq!((largest, points.now()), (9.0, Some(1.0)));
        points.add(START, 50.0);
        assert_eq!(points.now(), Some(1.0), "what is not later is left out");
    }
}
