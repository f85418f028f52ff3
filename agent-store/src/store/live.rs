//! Head, log and clock: what a tick changes, under one lock.

use super::head::{Frozen, Head, SeriesRef, Value};
use super::log::Log;
use super::settings::{BLOCK, MERGED};
use crate::series::Millis;

/// Nine tenths of the ticks of a block at one second.
const WORTH: usize = 540;

pub(super) struct Live {
    pub(super) head: Head,
    /// `None`: in memory, or read-only.
    pub(super) log: Option<Log>,
    /// The first segment of the log that the head is from.
    first_log: u64,
    /// The time of the last tick as stored, and as the clock had it.
    pub(super) last: Millis,
    seen: Millis,
    /// The time from which age is counted: the last, unless that is a leap which nothing has confirmed.
    settled: Millis,
    /// Ticks since such a leap.
    beyond: u32,
    /// Whether it was told that the clock is far behind.
    pub(super) told: bool,
}

/// Late ticks are stored no further apart than this: half of what is between ticks at one second.
const LATE_STEP: Millis = 500;
/// A clock that leaps further than this may be wrong, and must not age what there is...
const LEAP: Millis = 60 * 60 * 1000;
/// ...until it has gone on from there for so many ticks.
const CONFIRMED: u32 = 600;

impl Live {
    pub(super) fn new(
        head: Head,
        logged: bool,
        first_log: u64,
        next_log: u64,
        last: Millis,
        settled: Millis,
    ) -> Self {
        Self {
            head,
            log: logged.then(|| Log::new(next_log)),
            first_log,
            last,
            seen: last,
            settled,
            beyond: 0,
            told: false,
        }
    }

    /// The time at which a tick is stored, and whether that is not its own.
    pub(super) fn time(&mut self, tick: Millis) -> (Millis, bool) {
        let moved = tick.saturating_sub(self.seen);
        self.seen = tick;
        let late = tick <= self.last;
        self.last = if late {
            // A clock that is set right in two steps moves far between two late ticks, and is not to be half followed.
            self.last + (moved / 2).clamp(1, LATE_STEP)
        } else {
            tick
        };
        if self.settled == Millis::MIN || self.last - self.settled <= LEAP {
            (self.settled, self.beyond) = (self.last, 0);
        } else if !late {
            self.beyond += 1;
            if self.beyond >= CONFIRMED {
                self.settled = self.last;
            }
        }
        (self.last, late)
    }

    /// Whether the head ends before this time.
    pub(super) fn due(&self, time: Millis, most: usize) -> bool {
        let Some(first) = self.head.axis.first() else {
            return false;
        };
        let in_next = |span| first.div_euclid(span) != time.div_euclid(span);
        // Few ticks are not worth a block: of samples at ten seconds one has two hours.
        in_next(BLOCK) && self.head.axis.len() >= WORTH || in_next(MERGED) || self.head.sample_bytes > most
    }

    /// Takes a tick; tells how many samples were refused.
    pub(super) fn append(&mut self, time: Millis, samples: &[(SeriesRef, Value)]) -> u64 {
        self.head.tick(time);
        let mut refused = Vec::new();
        for (at, (series, value)) in samples.iter().enumerate() {
            if !self.head.push(*series, value) {
                refused.push(at);
            }
        }
        if let Some(log) = &mut self.log {
            let head = &self.head;
            if refused.is_empty() {
                log.tick(time, samples, |series| head.labels(series));
            } else {
                // What the head refused must not come back from the log under another series.
                let taken: Vec<_> = samples
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| refused.binary_search(at).is_err())
                    .map(|(_, sample)| sample.clone())
                    .collect();
                log.tick(time, &taken, |series| head.labels(series));
            }
        }
        refused.len() as u64
    }

    /// Takes what the head holds, and begins a segment of the log.
    pub(super) fn freeze(&mut self) -> Option<Frozen> {
        if self.head.axis.is_empty() {
            return None;
        }
        let logs = self
            .log
            .as_ref()
            .map_or((1, 0), |log| (self.first_log, log.segment));
        if let Some(log) = &mut self.log {
            log.rotate();
            self.first_log = log.segment;
        }
        Some(self.head.freeze(logs))
    }

    /// The time from which age is counted.
    pub(super) fn newest(&self) -> Millis {
        self.settled
    }
}

/// The time from which age is counted in what was stored: the last that no leap comes before.
pub(super) fn settled(ends: impl Iterator<Item = (Millis, Millis)>) -> Millis {
    let mut spans: Vec<(Millis, Millis)> = ends.collect();
    spans.sort_unstable();
    let mut settled = Millis::MIN;
    for (from, to) in spans {
        if settled != Millis::MIN && from - settled > LEAP {
            break;
        }
        settled = settled.max(to);
    }
    settled
}
