//! What was good and what was bad over time: shares, budgets and burn rates over any span, when the objective was not met,
//! and when it would have been told. Over what the rules recorded it says what the rules say.

use crate::rules::{Burn, RATES, burns};
use agent_store::series::Millis;

/// Bad times that are closer than this are one.
const APART: Millis = RATES;

/// What there was up to a time since the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tick {
    /// Until when, in milliseconds since 1970.
    pub at: Millis,
    /// What was bad, in events or seconds.
    pub bad: f64,
    /// All of it.
    pub total: f64,
    /// For how many seconds it is known.
    pub seconds: f64,
}

/// Sums over a span.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// What was bad.
    pub bad: f64,
    /// All of it.
    pub total: f64,
    /// Seconds of which it is known.
    pub seconds: f64,
}

impl Sums {
    /// The share that was good; `None` if there was nothing.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        (self.total > 0.0).then(|| (1.0 - self.bad / self.total).clamp(0.0, 1.0))
    }

    /// How fast a budget burns: 1 uses it up exactly within the window.
    #[must_use]
    pub fn burn(&self, budget: f64) -> Option<f64> {
        self.share().map(|share| (1.0 - share) / budget)
    }
}

/// A time in which more was bad than the objective allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Violation {
    /// Since when: where the first tick begins.
    pub start: Millis,
    /// Until when.
    pub end: Millis,
    /// Whether it was still so when the data ended.
    pub lasts: bool,
    /// The greatest burn rate, over five minutes.
    pub worst: f64,
    /// When that was.
    pub worst_at: Millis,
    /// What was bad in it.
    pub bad: f64,
}

/// A time in which a budget burned fast enough to be told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Told {
    /// Which of the alerts.
    pub burn: Burn,
    /// Where the tick begins at whose end it would have fired.
    pub start: Millis,
    /// Until when.
    pub end: Millis,
}

/// Good and bad over time.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    times: Vec<Millis>,
    /// Of all ticks before each one and with it; one more, for none.
    sums: Vec<Sums>,
    /// How far a burn rate of the moment looks back: not at all if the ticks do so themselves.
    back: Millis,
}

impl Ledger {
    /// Of ticks, later and later; one that is not later than the one before, or whose numbers are none, is left out. `back`:
    /// how far a burn rate of the moment looks back, 0 where ticks are rates of five minutes already.
    pub fn new(ticks: impl IntoIterator<Item = Tick>, back: Millis) -> Self {
        let mut ledger = Self {
            times: Vec::new(),
            sums: vec![Sums::default()],
            back,
        };
        let mut all = Sums::default();
        for tick in ticks {
            let finite = [tick.bad, tick.total, tick.seconds]
                .iter()
                .all(|number| number.is_finite());
            if !finite || ledger.times.last().is_some_and(|last| *last >= tick.at) {
                continue;
            }
            all.bad += tick.bad;
            all.total += tick.total;
            all.seconds += tick.seconds;
            ledger.times.push(tick.at);
            ledger.sums.push(all);
        }
        ledger
    }

    /// First and last time; `None` if there is nothing.
    #[must_use]
    pub fn span(&self) -> Option<(Millis, Millis)> {
        Some((*self.times.first()?, *self.times.last()?))
    }

    /// Sums from a time to another, both included: a window that ends with a tick begins a millisecond after the one before
    /// its first.
    #[must_use]
    pub fn sums(&self, from: Millis, to: Millis) -> Sums {
        let before = |time: Millis| self.times.partition_point(|at| *at < time);
        let (begin, end) = (before(from), before(to.saturating_add(1)));
        let at = |place: usize| self.sums.get(place).copied().unwrap_or_default();
        let (begin, end) = (at(begin.min(end)), at(end));
        Sums {
            bad: end.bad - begin.bad,
            total: end.total - begin.total,
            seconds: end.seconds - begin.seconds,
        }
    }

    /// Where the tick of this time begins: not before the one before it.
    fn began(&self, at: Millis) -> Millis {
        let length = (self.sums(at, at).seconds * 1000.0).round() as Millis;
        let before = self.times.partition_point(|time| *time < at).checked_sub(1);
        let before = before.and_then(|place| self.times.get(place));
        at.saturating_sub(length.max(0))
            .max(before.copied().unwrap_or(Millis::MIN))
    }

    /// The burn rate of a moment.
    fn moment(&self, at: Millis, budget: f64) -> Option<f64> {
        // After the end of the tick so far back, which is of the time before.
        let from = if self.back > 0 { at - self.back + 1 } else { at };
        self.sums(from, at).burn(budget)
    }

    fn within(&self, from: Millis, to: Millis) -> impl Iterator<Item = Millis> {
        self.times
            .iter()
            .copied()
            .filter(move |at| (from..=to).contains(at))
    }

    /// When the burn rate of the moment was above 1, from a time to another.
    #[must_use]
    pub fn violations(&self, from: Millis, to: Millis, budget: f64) -> Vec<Violation> {
        let mut found: Vec<Violation> = Vec::new();
        let last = self.within(from, to).last();
        for at in self.within(from, to) {
            let Some(burn) = self.moment(at, budget).filter(|burn| *burn > 1.0 + 1e-9) else {
                continue;
            };
            match found.last_mut().filter(|one| self.began(at) - one.end <= APART) {
                Some(one) => {
                    one.end = at;
                    if burn > one.worst {
                        (one.worst, one.worst_at) = (burn, at);
                    }
                }
                None => found.push(Violation {
                    start: at,
                    end: at,
                    lasts: false,
                    worst: burn,
                    worst_at: at,
                    bad: 0.0,
                }),
            }
        }
        for one in &mut found {
            one.bad = self.sums(one.start, one.end).bad;
            one.lasts = Some(one.end) == last;
            one.start = self.began(one.start);
        }
        found
    }

    /// When which alert would have fired, from a time to another, of an objective whose window reaches so far at most.
    #[must_use]
    pub fn told(&self, from: Millis, to: Millis, budget: f64, reach: Millis) -> Vec<Told> {
        let mut found: Vec<Told> = Vec::new();
        // What rules recorded is summed as they do it: with the tick at the beginning of the window. Of lines that one is of
        // the time before.
        let own = Millis::from(self.back > 0);
        for burn in burns(budget, reach) {
            let mut open: Option<Told> = None;
            for at in self.within(from, to) {
                let fast = |window: Millis| {
                    // The shortest window is the moment.
                    let rate = if window <= RATES {
                        self.moment(at, budget)
                    } else {
                        self.sums(at - window + own, at).burn(budget)
                    };
                    rate.is_some_and(|rate| rate > burn.factor)
                };
                if fast(burn.long) && fast(burn.short) {
                    let told = open.get_or_insert(Told {
                        burn,
                        start: self.began(at),
                        end: at,
                    });
                    told.end = at;
                } else {
                    found.extend(open.take());
                }
            }
            found.extend(open);
        }
        found.sort_by_key(|told| told.start);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::DAY;

    const MINUTE: Millis = 60_000;

    /// What rules recorded of a hundred events a minute, all of which are bad in one.
    fn recorded(back: Millis) -> Vec<Told> {
        let ticks = (1..=400).map(|minute| Tick {
            at: minute * MINUTE,
            bad: if minute == 100 { 100.0 } else { 0.0 },
            total: 100.0,
            seconds: 60.0,
        });
        Ledger::new(ticks, back).told(0, Millis::MAX, 1e-4, 30 * DAY)
    }

    #[test]
    fn windows_end_as_those_of_the_rules() {
        for (back, end) in [(0, 130), (RATES, 129)] {
            let told = recorded(back);
            let six = told.iter().find(|told| told.burn.factor == 6.0).unwrap();
            assert_eq!((six.start / MINUTE, six.end / MINUTE), (99, end), "{back}");
        }
    }

    #[test]
    fn an_hour_that_is_bad_lasts_an_hour() {
        let hour = 60 * MINUTE;
        let tick = |at: Millis, bad: f64| Tick {
            at,
            bad,
            total: 10.0,
            seconds: 3600.0,
        };
        // The third comes late: it is known for no longer than since the second.
        let lines = [
            tick(hour, 5.0),
            tick(2 * hour, 0.0),
            tick(2 * hour + MINUTE, 4.0),
            tick(9 * hour, 3.0),
            tick(10 * hour, 2.0),
        ];
        let found = Ledger::new(lines, hour).violations(0, Millis::MAX, 0.01);
        let spans: Vec<_> = found.iter().map(|one| (one.start, one.end, one.bad)).collect();
        assert_eq!(
            spans,
            [
                (0, hour, 5.0),
                (2 * hour, 2 * hour + MINUTE, 4.0),
                (8 * hour, 10 * hour, 5.0),
            ]
        );
    }

    /// A hundred events a minute, of which so many are bad.
    fn ledger(bad: impl Fn(Millis) -> f64, minutes: Millis) -> Ledger {
        let ticks = (1..=minutes).map(|minute| Tick {
            at: minute * MINUTE,
            bad: bad(minute),
            total: 100.0,
            seconds: 60.0,
        });
        Ledger::new(ticks, RATES)
    }

    #[test]
    fn nothing_that_lasts_empties_a_budget_unseen() {
        for days in [1, 7, 28, 30, 31] {
            let reach = days * DAY;
            for burn in [1.05, 1.3, 2.0, 13.0] {
                // A budget of a twentieth, and a hundred events a minute.
                let gone = (reach as f64 / burn / MINUTE as f64) as Millis;
                let told = ledger(|_| 5.0 * burn, gone).told(0, Millis::MAX, 0.05, reach);
                let first = told.first().map(|told| told.start / MINUTE);
                assert!(
                    first.is_some_and(|at| at < gone / 2),
                    "{days} d at {burn}: {first:?}"
                );
            }
            let slow = ledger(|_| 4.9, reach / MINUTE).told(0, Millis::MAX, 0.05, reach);
            assert_eq!(slow, [], "{days}");
        }
    }

    #[test]
    fn an_outage_is_one_violation_with_its_worst() {
        // Twenty minutes in which half fails, but for one, and a single failure later.
        let outage = |minute: Millis| match minute {
            110 => 0.0,
            112 => 80.0,
            100..120 => 50.0,
            300 => 1.0,
            _ => 0.0,
        };
        let ledger = ledger(outage, 600);
        let found = ledger.violations(0, Millis::MAX, 0.01);
        assert_eq!(found.len(), 1, "{found:?}");
        // 980 of 60,000 are bad: more than the whole budget of 600.
        assert_eq!(
            (found[0].start, found[0].bad, found[0].lasts),
            (99 * MINUTE, 980.0, false)
        );
        // The last bad minute leaves the five minutes at 124.
        assert_eq!(found[0].end, 123 * MINUTE);
        assert_eq!((found[0].worst.round(), found[0].worst_at), (56.0, 115 * MINUTE));
        let all = ledger.sums(0, 600 * MINUTE);
        assert_eq!((all.bad, all.total, all.seconds), (981.0, 60_000.0, 36_000.0));
        assert!((all.burn(0.01).unwrap() - 981.0 / 600.0).abs() < 1e-9);
    }

    #[test]
    fn alerts_need_both_windows() {
        let ledger = ledger(
            |minute| if (200..230).contains(&minute) { 100.0 } else { 0.0 },
            600,
        );
        let told = ledger.told(0, Millis::MAX, 0.01, 30 * 24 * 60 * MINUTE);
        let fast = told.iter().find(|told| told.burn.factor == 14.4).unwrap();
        // 14.4 % of an hour is 8.78 minutes of a hundred; the last of it is within five minutes until 233.
        assert_eq!((fast.start / MINUTE, fast.end / MINUTE), (207, 233));
        assert!(told.iter().all(|told| told.burn.factor != 14.4 || told == fast));
        // Of two hours a tenth of the budget within five minutes is 2.4 times too fast.
        let told = ledger.told(0, Millis::MAX, 0.01, 120 * MINUTE);
        let all: Vec<_> = told
            .iter()
            .map(|told| (told.burn.factor, told.start / MINUTE, told.end / MINUTE))
            .collect();
        // The last is over half an hour, of which one minute is three times what the budget allows.
        assert_eq!(all, [(2.4, 199, 233), (1.0, 199, 233)]);
    }

    #[test]
    fn what_is_not_known_is_in_nothing() {
        let tick = |at: Millis, bad: f64| Tick {
            at,
            bad,
            total: 10.0,
            seconds: 1.0,
        };
        let ledger = Ledger::new(
            [
                tick(1000, 1.0),
                tick(1000, 9.0),
                tick(2000, f64::NAN),
                tick(500, 3.0),
            ],
            0,
        );
        assert_eq!(
            ledger.sums(0, 5000),
            Sums {
                bad: 1.0,
                total: 10.0,
                seconds: 1.0
            }
        );
        assert_eq!(ledger.sums(5000, 0), Sums::default());
        assert_eq!(Ledger::default().sums(0, 1).share(), None);
        assert_eq!(Ledger::default().span(), None);
    }
}
