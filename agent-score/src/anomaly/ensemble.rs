//! A series and all detectors: what it says of each sample.

use super::basic::{BASIC, Basic};
use super::change_point::{Cusum, SLACK, SLACK_OF_NARROWER};
use super::holt_winters::HoltWinters;
use super::moving_average::Window;
use super::season::Seasons;
use super::tail::{Climbs, Tails, Tops};
use super::{
    Detector, Detectors, Direction, Millis, Scored, Settings, Verdict, WEEK, distance, is_value, score, tame,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// All detectors, and those that foretell a value.
const ALL: usize = Detector::ALL.len();
const FORECASTS: usize = BASIC + 1;
/// Samples as expected after which an anomaly is over.
const CALM: u16 = 10;
/// Least samples after which what was an anomaly is the new normal, and those in which that is learned.
const ACCEPTED: u16 = 60;
const RELEARNING: u16 = 64;
/// Steps without a value after which the latest values say nothing any more.
pub(super) const GAP: f64 = 10.0;
/// Samples after such a gap in which nobody compares with the latest values: of the first one alone nothing follows.
const FRESH: u8 = 8;
/// Who compares with the latest values.
const LATEST: [Detector; 3] = [
    Detector::MovingAverage,
    Detector::ExponentialSmoothing,
    Detector::HoltWinters,
];
/// Least share of a detector in the false alarms, of that of the best, and the share of those that foretell nothing.
const LEAST: f32 = 0.05;
const CHANGES: f32 = 0.5;
/// Each alarm beyond those that are allowed makes the next by so much more difficult: four times as rare.
const CAUTION: f32 = 1.386;
const MOST_CAUTION: f32 = 8.0;
/// Form of the state. One of another form is refused: the series is learned anew.
const VERSION: u16 = 5;

/// What has been learned of a series. Serialised it is a baseline that outlives a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    version: Version,
    settings: Settings,
    last: Option<Millis>,
    basic: Basic,
    window: Window,
    holt_winters: HoltWinters,
    changes: [Cusum; 2],
    /// Of what foretells: where the tails begin, those of [`Basic`] aside, and the tails; of the sums both in one.
    top: Tops,
    tails: [Tails; FORECASTS],
    climbs: [Climbs; ALL - FORECASTS],
    seasons: Seasons,
    /// Alarms of the last week, the older fading: all, and those that a detector gave alone.
    alarms: f32,
    alone: [f32; ALL],
    since: Option<Millis>,
    calm: u16,
    lasting: u16,
    relearning: u16,
    /// Why it is learned anew, for who asks at once: an anomaly lasted, or else the seasons are other ones.
    #[serde(skip)]
    lasted: bool,
    worth: u32,
    /// Samples until the latest values, after a gap, say something again.
    fresh: u8,
    has_negative: bool,
}

/// Of a Gaussian and of its absolute value.
const CHANGES_OF_GAUSSIAN: [Cusum; 2] = [Cusum::new(0.0, 0.8), Cusum::new(0.8, 0.48)];

/// How far they climb: the narrower has the greater slack.
fn climbs() -> [Climbs; ALL - FORECASTS] {
    [Climbs::new(4.0, 4.0), Climbs::new(4.0, 1.0)]
}

/// What the detectors say of a value.
struct Opinion {
    surprise: [f32; ALL],
    /// Logarithm of each one's share in the false alarms.
    share: [f32; ALL],
    distances: [f32; ALL],
}

impl Series {
    /// One of which nothing is known.
    pub fn new(settings: Settings) -> Self {
        Self {
            version: Version,
            settings,
            last: None,
            basic: Basic::default(),
            window: Window::default(),
            holt_winters: HoltWinters::default(),
            changes: CHANGES_OF_GAUSSIAN,
            top: Tops::new(2.5),
            tails: Default::default(),
            climbs: climbs(),
            seasons: Seasons::new(settings.step),
            alarms: 0.0,
            alone: [0.0; ALL],
            since: None,
            calm: 0,
            lasting: 0,
            relearning: 0,
            lasted: false,
            worth: 0,
            fresh: 0,
            has_negative: false,
        }
    }

    /// Lengths of the seasons that it was found to have, in seconds.
    pub fn seasons(&self) -> impl Iterator<Item = f64> {
        self.seasons.used()
    }

    /// How much of what must be seen has been: below 1 nothing is said yet.
    pub fn learned(&self) -> f32 {
        let again = 1.0 - f32::from(self.relearning) / f32::from(RELEARNING);
        (self.basic.seen as f32 / self.settings.learning.max(1) as f32).min(again)
    }

    /// Since when there is an anomaly: it is over only after some samples as expected.
    pub const fn since(&self) -> Option<Millis> {
        self.since
    }

    /// Whether what is usual is being learned anew.
    pub const fn is_relearning(&self) -> bool {
        self.relearning > 0
    }

    /// Whether that is so because an anomaly lasted, and not because its seasons are other ones now.
    pub const fn has_lasted(&self) -> bool {
        self.lasted
    }

    /// The anomaly is over, whatever comes next; for a series that has no values any more.
    pub const fn end(&mut self) {
        self.since = None;
    }

    /// Other settings for what has been learned. `false` where the step is another one: then it has to be learned anew.
    #[must_use]
    pub fn set(&mut self, settings: Settings) -> bool {
        let same = self.settings.step.to_bits() == settings.step.to_bits();
        self.settings = settings;
        same
    }

    /// Samples whose distances meant something.
    fn judged(&self) -> u32 {
        self.basic.judged(self.settings.settled())
    }

    /// Takes a value and says what it is. One that is no number, or not later than the last, is missing.
    pub fn observe(&mut self, at: Millis, value: f64) -> Scored {
        if !is_value(value) || self.last.is_some_and(|last| at <= last) {
            return Scored {
                verdict: Verdict::Missing,
                expected: f64::NAN,
                lower: f64::NAN,
                upper: f64::NAN,
                ..Scored::default()
            };
        }
        let elapsed = self.last.map_or(0.0, |last| (at - last) as f64 / 1e3);
        self.last = Some(at);
        self.fade(elapsed);
        let season = if self.settings.detectors.has(Detector::HoltWinters) {
            self.seasons.value(at)
        } else {
            0.0
        };
        let rest = value - season;
        if self.basic.seen == 0 || elapsed > GAP * self.settings.step {
            self.basic.restart(rest);
            self.holt_winters.restart(rest);
            self.changes.iter_mut().for_each(Cusum::restart);
            self.fresh = FRESH;
        }
        let forecasts = self.forecasts();
        let opinion = self.opinion(&forecasts, rest);
        // One for both: an alarm raises it, and what is told as an anomaly does not lie in its own band.
        let bar = self.bar();
        let mut scored = self.verdict(at, bar, &opinion);
        self.band(&mut scored, bar, &forecasts, &opinion.share, season);
        self.learn(at, value, rest, &opinion.distances, &forecasts);
        scored
    }

    /// Old alarms count less and less.
    fn fade(&mut self, elapsed: f64) {
        let left = (-elapsed / WEEK).exp() as f32;
        self.alarms *= left;
        self.alone.iter_mut().for_each(|alone| *alone *= left);
    }

    /// What each detector that foretells expects, and its usual error.
    fn forecasts(&self) -> [(f64, f64); FORECASTS] {
        let [a, b, c, d] = self.basic.expected();
        [
            a,
            b,
            c,
            d,
            (self.holt_winters.expected(), self.holt_winters.sigma()),
        ]
    }

    fn tops(&self, detector: usize) -> &Tops {
        match self.basic.tops.get(detector) {
            Some(tops) => tops,
            None => &self.top,
        }
    }

    fn opinion(&mut self, forecasts: &[(f64, f64); FORECASTS], rest: f64) -> Opinion {
        let mut distances = [0.0; ALL];
        for (z, (expected, sigma)) in distances.iter_mut().zip(forecasts) {
            *z = distance(rest - expected, *sigma, *expected);
        }
        if self.fresh > 0 {
            for detector in LATEST {
                distances[detector as usize] = 0.0;
            }
        }
        // Changes are seen best against what moves least.
        let z = distances[Detector::Robust as usize];
        let gain = self.basic.gain() as f32;
        distances[Detector::ChangePoint as usize] = self.changes[0].add(z, gain, SLACK);
        distances[Detector::Spread as usize] = self.changes[1].add(z.abs(), gain, SLACK_OF_NARROWER);

        let mut opinion = Opinion {
            surprise: [0.0; ALL],
            share: self.shares(forecasts),
            distances,
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
    fn shares(&self, forecasts: &[(f64, f64); FORECASTS]) -> [f32; ALL] {
        let least = forecasts.iter().map(|f| f.1).fold(f64::INFINITY, f64::min);
        let mut shares = [CHANGES; ALL];
        for (share, (_, sigma)) in shares.iter_mut().zip(forecasts) {
            let ratio = if *sigma > 0.0 { (least / sigma) as f32 } else { 1.0 };
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

    /// What surprise makes an anomaly.
    fn bar(&self) -> f32 {
        let beyond = self.alarms - self.settings.alarms_per_week as f32;
        self.settings.bar() + CAUTION * beyond.clamp(0.0, MOST_CAUTION)
    }

    fn verdict(&mut self, at: Millis, bar: f32, opinion: &Opinion) -> Scored {
        let (mut most, mut direction) = (0.0, Direction::Up);
        let mut agreeing = Detectors::NONE;
        for (i, detector) in Detector::ALL.into_iter().enumerate() {
            if !self.settings.detectors.has(detector) {
                continue;
            }
            if opinion.surprise[i] >= bar {
                agreeing = agreeing.with(detector);
            }
            let surprise = opinion.surprise[i] + opinion.share[i];
            // What lies above varies more as well: that it lies above says more.
            let says_more = detector != Detector::Spread || most < bar;
            if surprise > most && says_more {
                direction = Direction::of(detector, opinion.distances[i] > 0.0);
            }
            most = surprise.max(most);
        }
        let mut scored = Scored {
            score: score(most, bar),
            direction,
            agreeing,
            ..Scored::default()
        };
        if self.basic.seen < self.settings.learning || self.relearning > 0 {
            self.relearning = self.relearning.saturating_sub(1);
            return scored;
        }
        let is_rare = most >= bar;
        match self.since {
            None if is_rare => self.begin(at, agreeing),
            Some(since) => self.go_on(is_rare, at - since),
            None => {}
        }
        scored.verdict = if is_rare {
            Verdict::Anomaly
        } else {
            Verdict::Normal
        };
        scored.since = self.since.filter(|_| is_rare);
        scored
    }

    fn begin(&mut self, at: Millis, agreeing: Detectors) {
        self.since = Some(at);
        (self.calm, self.lasting) = (0, 0);
        self.alarms += 1.0;
        let foretells = agreeing.iter().filter(|d| (*d as usize) < FORECASTS).count();
        for detector in agreeing.iter() {
            // The sums, which are of the same errors, do not confirm each other.
            let is_sum = detector as usize >= FORECASTS;
            if foretells == usize::from(!is_sum) && (is_sum || agreeing.iter().count() == 1) {
                self.alone[detector as usize] += 1.0;
            }
        }
    }

    fn go_on(&mut self, is_rare: bool, lasts: Millis) {
        self.lasting = self.lasting.saturating_add(1);
        self.calm = if is_rare { 0 } else { self.calm + 1 };
        if self.calm >= CALM {
            self.since = None;
        } else if self.lasting >= ACCEPTED && lasts as f64 >= 1e3 * self.settings.accept_after {
            self.relearn();
        }
    }

    /// What is now is the new normal, and no anomaly; the tops of the tails are worth so many samples.
    fn relearn(&mut self) {
        self.since = None;
        (self.relearning, self.lasted) = (RELEARNING, true);
        self.basic.accept();
        self.changes.iter_mut().for_each(Cusum::restart);
        self.worth = self.worth.min(4 * u32::from(RELEARNING));
    }

    /// Other seasons are taken off, and what is left is another series: what was usual before, and how rare what, says nothing
    /// of it.
    fn begin_anew(&mut self, rest: f64) {
        self.since = None;
        (self.relearning, self.lasted) = (RELEARNING, false);
        self.basic.begin_anew(rest);
        self.holt_winters.restart(rest);
        self.fresh = FRESH;
        self.changes = CHANGES_OF_GAUSSIAN;
        self.top = Tops::new(2.5);
        self.tails = Default::default();
        self.climbs = climbs();
        self.worth = 0;
        self.alone = [0.0; ALL];
    }

    /// Between which values no detector that foretells would find an anomaly. After a sudden change they may agree on none:
    /// then it is the band of the robust one, which is that of before.
    fn band(
        &self,
        scored: &mut Scored,
        bar: f32,
        forecasts: &[(f64, f64); FORECASTS],
        share: &[f32; ALL],
        season: f64,
    ) {
        let (mut lower, mut upper) = (f64::NEG_INFINITY, f64::INFINITY);
        let (mut expected, mut weights) = (0.0, 0.0);
        let mut robust = None;
        for (i, (detector, (middle, sigma))) in Detector::ALL.into_iter().zip(forecasts).enumerate() {
            if !self.settings.detectors.has(detector) {
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
        scored.expected = expected / weights + season;
        scored.upper = upper + season;
        scored.lower = lower + season;
        if !self.has_negative {
            scored.lower = scored.lower.max(0.0);
        }
    }

    fn learn(
        &mut self,
        at: Millis,
        value: f64,
        rest: f64,
        distances: &[f32; ALL],
        forecasts: &[(f64, f64); FORECASTS],
    ) {
        // What belongs to an anomaly, or to a normal that is not known yet, does not say where the usual ends. Of an
        // anomaly the first value does: it may have been none.
        let (n, bar) = (self.judged(), self.bar());
        if n > 0 && self.relearning == 0 && self.since.is_none_or(|since| since == at) {
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
        self.basic.learn(&mut self.window, rest);
        self.holt_winters.learn(rest, self.basic.gain());
        if self.fresh > 0 {
            self.fresh -= 1;
            if self.fresh == 0 {
                let mean = self.basic.moving_average.expected();
                self.basic.exponential.restart(mean);
                self.holt_winters.restart(mean);
            }
        }
        if self.settings.detectors.has(Detector::HoltWinters) {
            let (middle, sigma) = forecasts[Detector::Robust as usize];
            let unit = if sigma > 0.0 { sigma } else { 1.0 };
            let season = value - rest;
            let tamed = if self.seasons.used().next().is_some() {
                season + middle + tame(rest - middle, unit)
            } else {
                // Before the first is known its own course lies far from the middle, and would be learned as it is tamed.
                let (near, error) = forecasts[Detector::ExponentialSmoothing as usize];
                near + tame(value - near, error.max(unit * 1e-3))
            };
            if self.seasons.learn(at, tamed, unit) {
                self.begin_anew(value - self.seasons.value(at));
            }
        }
    }
}

/// [`VERSION`], checked when it is read.
#[derive(Clone, Copy, Debug)]
struct Version;

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(VERSION)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u16::deserialize(deserializer)? {
            VERSION => Ok(Self),
            other => Err(de::Error::custom(format_args!(
                "a baseline of version {other}, where {VERSION} is known; leave it out and it is learned anew"
            ))),
        }
    }
}
