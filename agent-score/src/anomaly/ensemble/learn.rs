//! What a series learns of a value, and what it forgets.

use super::*;

impl Series {
    pub(super) fn learn(
        &mut self,
        at: Millis,
        (value, rest, width): (f64, f64, f64),
        opinion: &Opinion,
        forecasts: &[(f64, f64); FORECASTS],
    ) {
        let distances = &opinion.distances;
        let is_edge = opinion.is_edge || opinion.habit.is_some();
        self.edge = if is_edge { self.edge.saturating_add(1) } else { 0 };
        // What belongs to an anomaly, or to a normal that is not known yet, does not say where the usual ends. Of an
        // anomaly the first value does: it may have been none. But not of one after the other: they would teach that anything is usual.
        let (n, bar) = (self.judged(), self.settings.bar());
        let is_usual = self.relearning == 0 && !is_edge;
        let may_be_none = |since| since == at && self.beyond() <= 1.0;
        if n > 0 && is_usual && self.since.is_none_or(may_be_none) {
            for (i, z) in distances.iter().enumerate().take(FORECASTS) {
                let tops = *self.tops(i);
                self.tails[i].learn(&tops, *z, bar, n);
            }
            for (climbs, sum) in self.climbs.iter_mut().zip(&distances[FORECASTS..]) {
                climbs.learn(*sum, bar);
            }
            self.worth = (self.worth + 1).min(n);
            let worth = self.worth;
            let all = self.basic.tops.iter_mut().chain([&mut self.top]);
            all.zip(distances).for_each(|(tops, z)| tops.learn(*z, worth));
        }
        self.has_negative |= value < 0.0;
        if !is_edge {
            self.learn_event(rest);
            self.basic.learn(&mut self.window, rest, width);
            self.holt_winters.learn(rest, self.basic.gain(), width);
        }
        let is_fresh = self.fresh > 0;
        if is_fresh && !is_edge {
            self.fresh -= 1;
            if self.fresh == 0 {
                let mean = self.basic.moving_average.expected();
                self.basic.exponential.restart(mean);
                self.holt_winters.restart(mean);
            }
        }
        if self.settings.detectors.has(Detector::HoltWinters) {
            let (middle, sigma) = forecasts[Detector::Robust as usize];
            let unit = if sigma > 1e-299 { sigma } else { 1.0 };
            let season = value - rest;
            let tamed = if self.seasons.has_course() {
                season + middle + tame(rest - middle, unit)
            } else {
                // Before the first is known its own course lies far from the middle, and would be learned as it is tamed.
                let (near, error) = forecasts[Detector::ExponentialSmoothing as usize];
                near + tame(value - near, error.max(unit * 1e-3))
            };
            // How wide it is now is told by who foretells best.
            let (best, error) = (forecasts.iter())
                .min_by(|a, b| a.1.total_cmp(&b.1))
                .copied()
                .unwrap_or((middle, sigma));
            let deviation = (!is_fresh && !is_edge).then(|| tame(rest - best, error).abs());
            if self.seasons.learn(at, tamed, (middle, unit), deviation) {
                self.begin_anew(value - self.seasons.value(at));
            }
        }
    }

    /// Learns how far what is mostly the same changes when it does. Between rare events their part in every deviation fades until
    /// each seems to be beyond all measure: errors of which one comes in an hour would be told each time, or a hundred a week.
    pub(super) fn learn_event(&mut self, rest: f64) {
        // The first of all lies far from nothing.
        if self.judged() == 0 || self.relearning > 0 {
            return;
        }
        let Basic {
            three_sigma, robust, ..
        } = &self.basic;
        let size = (rest - robust.median).abs();
        let least = FAR * robust.sigma(three_sigma.deviation);
        if size > scale(least, robust.median) && robust.is_constant(three_sigma.deviation) {
            let ratio = size / self.event;
            // Of one that was beyond all others nobody is to be blind for others.
            self.event = if ratio.is_finite() && ratio > 1.0 / 16.0 {
                self.event * ratio.clamp(0.25, 4.0).powf(0.25)
            } else {
                size
            };
        }
    }

    /// What is now is the new normal, and no anomaly; the tops of the tails are worth so many samples.
    pub(super) fn accept(&mut self, rest: f64) {
        self.learn_anew(rest, SHAKEN);
        self.lasted = true;
        self.worth = self.worth.min(4 * u32::from(RELEARNING));
    }

    /// Other seasons are taken off, and what is left is another series: how rare what is says nothing of it either.
    pub(super) fn begin_anew(&mut self, rest: f64) {
        self.learn_anew(rest, 0);
        self.lasted = false;
        self.basic.tops = [Tops::new(2.5); BASIC];
        self.top = Tops::new(2.5);
        self.tails = Default::default();
        self.climbs = climbs();
        self.worth = 0;
        self.alone = [0.0; ALL];
    }

    pub(super) fn learn_anew(&mut self, rest: f64, worth: u32) {
        self.since = None;
        self.event = 0.0;
        self.relearning = RELEARNING;
        self.basic.begin_anew(rest, worth);
        self.holt_winters.restart(rest);
        self.fresh = FRESH;
        self.changes = CHANGES_OF_GAUSSIAN;
    }
}
