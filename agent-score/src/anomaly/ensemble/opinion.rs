//! What the detectors say of a value, and between which values they would say nothing.

use super::*;

/// What the detectors say of a value.
pub(super) struct Opinion {
    pub(super) surprise: [f32; ALL],
    /// Logarithm of each one's share in the false alarms.
    pub(super) share: [f32; ALL],
    pub(super) distances: [f32; ALL],
    /// Whether the season has an edge there: then it is as near as it may be, and nothing is learned of how far it is.
    pub(super) is_edge: bool,
    /// How far from the middle is usual at this time of the day.
    pub(super) habit: Option<f64>,
}

impl Series {
    /// What each detector that foretells expects, and its usual error at a time that is so wide.
    pub(super) fn forecasts(&self, width: f64) -> [(f64, f64); FORECASTS] {
        let [a, b, c, d] = self.basic.expected();
        let e = (self.holt_winters.expected(), self.holt_winters.sigma());
        let least = self.event / EVENT;
        [a, b, c, d, e].map(|(expected, sigma)| (expected, scale(sigma.max(least) * width, expected)))
    }

    pub(super) fn tops(&self, detector: usize) -> &Tops {
        match self.basic.tops.get(detector) {
            Some(tops) => tops,
            None => &self.top,
        }
    }

    pub(super) fn opinion(
        &mut self,
        forecasts: &[(f64, f64); FORECASTS],
        rest: f64,
        is_edge: bool,
    ) -> Opinion {
        let mut distances = [0.0; ALL];
        for (z, (expected, sigma)) in distances.iter_mut().zip(forecasts) {
            *z = distance(rest - expected, *sigma);
        }
        if self.fresh > 0 || is_edge {
            for detector in LATEST {
                distances[detector as usize] = 0.0;
            }
        }
        // Changes are seen best against what moves least.
        let z = distances[Detector::Robust as usize];
        let gain = self.basic.gain() as f32;
        if !is_edge {
            self.changes[0].add(z, gain, SLACK);
            self.changes[1].add(z.abs(), gain, SLACK_OF_NARROWER);
        }
        distances[Detector::ChangePoint as usize] = self.changes[0].sum();
        distances[Detector::Spread as usize] = self.changes[1].sum();

        let mut opinion = Opinion {
            surprise: [0.0; ALL],
            share: self.shares(forecasts),
            distances,
            is_edge,
            habit: None,
        };
        // What foretells nothing looks at what moves least.
        let steady = forecasts[Detector::Robust as usize];
        for (detector, surprise) in opinion.surprise.iter_mut().enumerate() {
            let (expected, _) = *forecasts.get(detector).unwrap_or(&steady);
            if self.settings.least > 0.0 && (rest - expected).abs() <= self.settings.least {
                continue;
            }
            let z = distances[detector];
            *surprise = match self.tails.get(detector) {
                Some(tails) => tails.surprise(self.tops(detector), z, self.judged()),
                None => self.climbs[detector - FORECASTS].surprise(z, self.alone[detector]),
            };
        }
        opinion
    }

    /// How the false alarms are shared out: by the inverse square of the errors, as forecasts are combined (Bates and
    /// Granger), less for one that gives alarms that no other gives.
    pub(super) fn shares(&self, forecasts: &[(f64, f64); FORECASTS]) -> [f32; ALL] {
        let least = forecasts.iter().map(|f| f.1).fold(f64::INFINITY, f64::min);
        let mut shares = [CHANGES; ALL];
        for (share, (_, sigma)) in shares.iter_mut().zip(forecasts) {
            let ratio = (least / sigma) as f32;
            *share = (ratio * ratio).max(LEAST);
        }
        for (detector, (share, alone)) in Detector::ALL.into_iter().zip(shares.iter_mut().zip(self.alone)) {
            *share /= 1.0 + alone;
            if !self.settings.detectors.has(detector) {
                *share = 0.0;
            }
        }
        let sum: f32 = shares.iter().sum();
        shares.map(|share| (share / sum.max(1e-6)).max(1e-12).ln())
    }

    /// Between which values no detector that foretells would find an anomaly. After a sudden change they may agree on none:
    /// then it is the band of the robust one, which is that of before.
    pub(super) fn band(
        &self,
        scored: &mut Scored,
        bar: f32,
        forecasts: &[(f64, f64); FORECASTS],
        Opinion {
            share,
            is_edge,
            habit,
            ..
        }: &Opinion,
        season: f64,
    ) {
        let (mut lower, mut upper) = (f64::NEG_INFINITY, f64::INFINITY);
        let (mut expected, mut weights) = (0.0, 0.0);
        let mut robust = None;
        let is_only = !STEADY.iter().any(|steady| self.settings.detectors.has(*steady));
        for (i, (detector, (middle, sigma))) in Detector::ALL.into_iter().zip(forecasts).enumerate() {
            let says_nothing = (self.fresh > 0 || *is_edge) && !is_only && LATEST.contains(&detector);
            if !self.settings.detectors.has(detector) || says_nothing {
                continue;
            }
            let weight = f64::from(share[i].exp());
            expected += weight * middle;
            weights += weight;
            let [up, down] = [0, 1].map(|side| {
                let level = self.tails[i].level(self.tops(i), side, bar - share[i], self.judged());
                (f64::from(level) * sigma).max(self.settings.least)
            });
            lower = lower.max(middle - down);
            upper = upper.min(middle + up);
            if robust.is_none() || detector == Detector::Robust {
                robust = Some((middle - down, middle + up));
            }
        }
        let Some(robust) = robust else {
            // Only changes are looked for: there is no band.
            (scored.expected, scored.lower, scored.upper) =
                (self.basic.robust.median + season, f64::NAN, f64::NAN);
            return;
        };
        if lower > upper {
            (lower, upper) = robust;
        }
        if let Some(reach) = habit {
            let reach = self.basic.steady().0 + reach;
            (lower, upper) = (lower.min(reach), upper.max(reach));
        }
        scored.expected = expected / weights + season;
        scored.upper = upper + season;
        scored.lower = lower + season;
        if !self.has_negative {
            scored.lower = scored.lower.max(0.0);
            scored.upper = scored.upper.max(scored.lower);
        }
    }
}
