//! What the CPUs did when an anomaly began and had not done before, of the stacks that are taken.

use crate::stacks::store::{Query, Window};
use crate::stacks::{Stacks, now};
use agent_score::watch::{Evidence, Profile, Span, changes};
use std::time::{Duration, Instant};

/// Entries of the store that are read of the window, and of the time before it: at 19 Hz ten seconds of a hundred busy CPUs of which
/// no stack comes again, and thirty; four megabytes while they are added up.
const NOW: usize = 20_000;
const BEFORE: usize = 3 * NOW;
/// Functions of a stack whose names are made: more are told of none.
const NAMES: usize = 8;
/// All anomalies of an evaluation wait for names and samples so long together: it is to be told within two seconds.
pub(super) const PATIENCE: Duration = Duration::from_millis(800);
/// And for samples alone that are on their way.
const SAMPLES: Duration = Duration::from_millis(300);

/// The answer to [`agent_score::watch::Cpu`]; waits until then at most.
pub(super) fn changed(
    stacks: &Stacks,
    [before, began]: [Span; 2],
    subject: &str,
    until: Instant,
) -> Vec<Evidence> {
    let left = || until.saturating_duration_since(Instant::now());
    stacks.catch_up(SAMPLES.min(left()));
    let asked = now();
    // Whole slices: what they begin with is no longer of the time before.
    let known = |span: Span| {
        let nanos = |at: i64| u64::try_from(at).unwrap_or(0).saturating_mul(1_000_000);
        let query = Query {
            from: nanos(span.from),
            to: nanos(span.to),
            ..Query::default()
        };
        stacks.store().window(&query, asked)
    };
    let now = known(began);
    let before = Window {
        to: now.from,
        ..known(before)
    };
    stacks.name_used(now, NOW, left());
    // Names and numbers of stacks are those of one moment.
    let store = stacks.store();
    let [before, now] = [(before, BEFORE), (now, NOW)].map(|(window, most)| {
        let (window, used) = store.used(window, most);
        Profile {
            from: (window.from / 1_000_000) as i64,
            to: (window.to / 1_000_000) as i64,
            used,
        }
    });
    changes(&before, &now, subject, &|stack| store.stack_names(stack, NAMES))
}
