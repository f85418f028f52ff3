//! What alarms are worth, by the events that are known.

use super::generate::{Event, Labelled};

/// Samples without alarm after which the next is another.
const CALM: usize = 10;

/// What was found and what was not.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub events: usize,
    pub found: usize,
    /// Samples from the beginning of each found event.
    pub delays: Vec<usize>,
    pub wrong: usize,
    /// Samples that belong to no event.
    pub quiet: usize,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.found += other.found;
        self.delays.extend(&other.delays);
        self.wrong += other.wrong;
        self.quiet += other.quiet;
    }

    pub fn recall(&self) -> f64 {
        self.found as f64 / self.events as f64
    }

    pub fn precision(&self) -> f64 {
        self.found as f64 / (self.found + self.wrong) as f64
    }

    pub fn f1(&self) -> f64 {
        2.0 * self.found as f64 / (self.events + self.found + self.wrong) as f64
    }

    pub fn delay(&self) -> f64 {
        let mut delays = self.delays.clone();
        delays.sort_unstable();
        delays.get(delays.len() / 2).map_or(f64::NAN, |d| *d as f64)
    }

    /// At a sample a second.
    pub fn wrong_per_day(&self) -> f64 {
        self.wrong as f64 / self.quiet as f64 * 86_400.0
    }
}

/// Judges a series by the samples, from `from` on, that were told to be anomalies.
pub fn judge(series: &Labelled, from: usize, is_anomaly: impl Fn(usize) -> bool) -> Tally {
    let events = &series.events;
    let mut found = vec![None; events.len()];
    let mut tally = Tally {
        events: events.len(),
        ..Tally::default()
    };
    let within = |t: usize| {
        let of = |e: &Event| (e.start..e.after).contains(&t);
        events.iter().position(of)
    };
    let mut last = None;
    for t in from..series.values.len() {
        let event = within(t);
        tally.quiet += usize::from(event.is_none());
        if !is_anomaly(t) {
            continue;
        }
        let is_new = last.is_none_or(|last| t - last > CALM);
        last = Some(t);
        match event {
            Some(i) => {
                if t < events[i].end + 2 {
                    found[i].get_or_insert(t - events[i].start);
                }
            }
            None => tally.wrong += usize::from(is_new),
        }
    }
    tally.delays = found.into_iter().flatten().collect();
    tally.found = tally.delays.len();
    tally
}
