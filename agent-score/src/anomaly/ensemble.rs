//! A series and all detectors: what it says of each sample.

mod learn;
mod opinion;

use super::basic::{BASIC, Basic};
use super::change_point::{Cusum, SLACK, SLACK_OF_NARROWER};
use super::habit::Habits;
use super::holt_winters::HoltWinters;
use super::moving_average::Window;
use super::season::Seasons;
use super::tail::{Climbs, Tails, Tops};
use super::{
    Detector, Detectors, Direction, Millis, Scored, Settings, Verdict, WEEK, distance, is_value, scale,
    score, tame,
};
use opinion::Opinion;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// All detectors, and those that foretell a value.
const ALL: usize = Detector::ALL.len();
const FORECASTS: usize = BASIC + 1;
/// Samples as expected after which an anomaly is over: twice as many each time that it begins again within so many times these.
const CALM: u16 = 10;
const MOST_CALM: u16 = 160;
const AGAIN: f64 = 6.0;
/// Least samples after which what was an anomaly is the new normal, and those in which that is learned.
const ACCEPTED: u32 = 60;
const RELEARNING: u16 = 64;
/// Samples that what was usual is worth when something else is.
const SHAKEN: u32 = 16;
/// Steps without a value after which the latest values say nothing any more.
pub(super) const GAP: f64 = 10.0;
/// Samples after such a gap in which nobody compares with the latest values: of the first one alone nothing follows.
const FRESH: u8 = 8;
/// How far, in deviations, lies an event of a series that is mostly the same, and how many deviations an event is at most.
const FAR: f64 = 20.0;
const EVENT: f64 = 64.0;
/// Score of what would be an anomaly at another time of the day.
const USUAL: f32 = 0.49;
/// Who compares with the latest values.
const LATEST: [Detector; 3] = [
    Detector::MovingAverage,
    Detector::ExponentialSmoothing,
    Detector::HoltWinters,
];
/// Who does not, and foretells all the same.
const STEADY: [Detector; 2] = [Detector::ThreeSigma, Detector::Robust];
/// Least share of a detector in the false alarms, of that of the best, and the share of those that foretell nothing.
const LEAST: f32 = 0.05;
const CHANGES: f32 = 0.5;
/// Each alarm beyond those that are allowed makes the next by so much more difficult: four times as rare.
const CAUTION: f32 = 1.386;
const MOST_CAUTION: f32 = 4.0;
/// Form of the state. One of another form is refused: the series is learned anew.
const VERSION: u16 = 7;

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
    /// When the last one was over, and the samples that it takes.
    over: Option<Millis>,
    calming: u16,
    calm: u16,
    /// Samples of the anomaly, and those that are rare.
    lasting: u32,
    rare: u32,
    /// Samples of which nothing was learned: an edge of a season is being passed, or a habit.
    edge: u16,
    habits: Habits,
    relearning: u16,
    /// Why it is learned anew, for who asks at once: an anomaly lasted, or else the seasons are other ones.
    #[serde(skip)]
    lasted: bool,
    worth: u32,
    /// Samples until the latest values, after a gap, say something again.
    fresh: u8,
    has_negative: bool,
    /// How far what is mostly the same lies from it when it does not: 0 where it never does, or varies all the time.
    event: f64,
}

/// Of a Gaussian and of its absolute value.
const CHANGES_OF_GAUSSIAN: [Cusum; 2] = [Cusum::new(0.0, 0.8), Cusum::new(0.8, 0.48)];

/// How far they climb: the narrower has the greater slack.
fn climbs() -> [Climbs; ALL - FORECASTS] {
    [Climbs::new(4.0, 4.0), Climbs::new(4.0, 1.0)]
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
            over: None,
            calming: CALM,
            calm: 0,
            lasting: 0,
            rare: 0,
            edge: 0,
            habits: Habits::default(),
            relearning: 0,
            lasted: false,
            worth: 0,
            fresh: 0,
            has_negative: false,
            event: 0.0,
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

    /// Takes a value and says what it is. One that is no number, or is late, is missing.
    pub fn observe(&mut self, at: Millis, value: f64) -> Scored {
        let elapsed = self.last.map_or(0.0, |last| at.saturating_sub(last) as f64 / 1e3);
        let gap = GAP * self.settings.step;
        // What is older by more is no late value: the clock has been set back.
        let is_late = self.last.is_some() && elapsed <= 0.0 && elapsed >= -gap;
        if !is_value(value) || is_late {
            return Scored {
                verdict: Verdict::Missing,
                expected: f64::NAN,
                lower: f64::NAN,
                upper: f64::NAN,
                ..Scored::default()
            };
        }
        self.last = Some(at);
        self.fade(elapsed.max(0.0));
        let (season, width, is_edge) = self.season(at, value);
        let rest = value - season;
        if elapsed < 0.0 {
            (self.since, self.over) = (None, None);
        }
        // Over an edge nobody followed.
        let is_past_edge = !is_edge && f64::from(self.edge) > GAP;
        if self.basic.seen == 0 || elapsed.abs() > gap || is_past_edge {
            self.basic.restart(rest);
            self.holt_winters.restart(rest);
            self.changes.iter_mut().for_each(Cusum::restart);
            self.fresh = FRESH;
        }
        let forecasts = self.forecasts(width);
        let mut opinion = self.opinion(&forecasts, rest, is_edge);
        // One for both: an alarm raises it, and what one that foretells has told does not lie in its band.
        let bar = self.bar();
        let mut scored = self.judge(at, rest, bar, &mut opinion);
        self.stop(bar, &opinion);
        self.band(&mut scored, bar, &forecasts, &opinion, season);
        self.learn(at, (value, rest, width), &opinion, &forecasts);
        scored
    }

    /// What the season takes off a value, how wide its time is, and whether that is an edge of the season.
    fn season(&self, at: Millis, value: f64) -> (f64, f64, bool) {
        if !self.settings.detectors.has(Detector::HoltWinters) {
            return (0.0, 1.0, false);
        }
        let width = self.seasons.width(at);
        if self.relearning > 0 {
            // How far apart the sides of an edge lie is not known.
            return (self.seasons.value(at), width, false);
        }
        let (middle, sigma) = self.basic.steady();
        let (season, is_edge) = self.seasons.near(at, value - middle, sigma * width);
        (season, width, is_edge)
    }

    /// Old alarms count less and less.
    fn fade(&mut self, elapsed: f64) {
        let left = (-elapsed / WEEK).exp() as f32;
        self.alarms *= left;
        self.alone.iter_mut().for_each(|alone| *alone *= left);
        self.event *= f64::from(left * left);
    }

    /// Alarms beyond those that are allowed, and below.
    fn beyond(&self) -> f32 {
        self.alarms - self.settings.alarms_per_week as f32
    }

    /// What surprise makes an anomaly. That which there is does not count against itself.
    fn bar(&self) -> f32 {
        let own = f32::from(u8::from(self.since.is_some()));
        self.settings.bar() + CAUTION * (self.beyond() - own).clamp(0.0, MOST_CAUTION)
    }

    /// What it is by what the detectors say, the season's edges, the habits, and the anomaly that there is.
    fn judge(&mut self, at: Millis, rest: f64, bar: f32, opinion: &mut Opinion) -> Scored {
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
            if self.relearning == 0 {
                self.changes.iter_mut().for_each(Cusum::restart);
            }
            return scored;
        }
        let is_rare = most >= bar;
        if is_rare && !opinion.is_edge && self.settings.step <= Habits::STEP {
            let off = rest - self.basic.steady().0;
            opinion.habit = self.habits.reach(at, off);
            self.habits.learn(at, off);
        }
        if opinion.is_edge || opinion.habit.is_some() {
            // It says nothing, neither of what is nor of an anomaly that there is.
            if is_rare {
                (scored.score, scored.agreeing) = (USUAL, Detectors::NONE);
                self.changes.iter_mut().for_each(Cusum::restart);
            }
            scored.verdict = Verdict::Normal;
            return scored;
        }
        let is_usual = match self.since {
            Some(since) => self.go_on(is_rare, (at, at.saturating_sub(since)), rest),
            None => false,
        };
        if is_usual {
            (scored.score, scored.agreeing) = (USUAL, Detectors::NONE);
        } else if is_rare && self.since.is_none() && self.relearning == 0 {
            self.begin(at, agreeing);
        }
        scored.verdict = if is_rare && !is_usual {
            Verdict::Anomaly
        } else {
            Verdict::Normal
        };
        scored.since = self.since.filter(|_| is_rare);
        scored
    }

    /// Sums stop where they have made an anomaly.
    fn stop(&mut self, bar: f32, opinion: &Opinion) {
        for (i, (changes, climbs)) in self.changes.iter_mut().zip(&self.climbs).enumerate() {
            let (share, alone) = (opinion.share[FORECASTS + i], self.alone[FORECASTS + i]);
            if opinion.surprise[FORECASTS + i] + share >= bar {
                changes.stop([0, 1].map(|side| climbs.level(side, bar - share, alone)));
            }
        }
    }

    fn begin(&mut self, at: Millis, agreeing: Detectors) {
        self.since = Some(at);
        (self.calm, self.lasting, self.rare) = (0, 0, 0);
        let soon = AGAIN * f64::from(self.calming) * self.settings.step * 1e3;
        self.calming = if self
            .over
            .is_some_and(|over| (at.saturating_sub(over) as f64) < soon)
        {
            (2 * self.calming).min(MOST_CALM)
        } else {
            CALM
        };
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

    /// Says whether a value that is rare is usual by now: what comes now and then for so long is how it is. It is learned as such, and the
    /// anomaly is over.
    fn go_on(&mut self, is_rare: bool, (at, lasts): (Millis, Millis), rest: f64) -> bool {
        let calm = self.calm;
        self.lasting = self.lasting.saturating_add(1);
        self.rare = self.rare.saturating_add(u32::from(is_rare));
        self.calm = if is_rare { 0 } else { calm + 1 };
        let lasts = self.lasting >= ACCEPTED && lasts as f64 >= 1e3 * self.settings.accept_after;
        let comes_and_goes = lasts && self.rare < self.lasting / 2 && is_rare && calm >= CALM;
        if self.calm >= self.calming || comes_and_goes {
            (self.since, self.over) = (None, Some(at));
        } else if lasts && self.rare >= self.lasting / 2 {
            self.accept(rest);
        }
        if comes_and_goes {
            self.calming = CALM;
        }
        comes_and_goes
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
