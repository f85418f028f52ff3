//! Alerts go on where they were when the agent stopped: `ALERTS_FOR_STATE` says since when they were active.

use crate::alert::{ALERTS_FOR_STATE, Alert};
use agent_store::labels::NAME;
use agent_store::series::{Bounds, Matcher, Millis, Source, is_stale};

/// Prometheus' `--rules.alert.for-outage-tolerance`.
const TOLERANCE: Millis = 60 * 60 * 1000;
/// Prometheus' `--rules.alert.for-grace-period`: a rule whose `for` is shorter waits for all of it again, and one that fired
/// waits for this long at least, so that what was not seen meanwhile can be.
pub(crate) const GRACE: Millis = 10 * 60 * 1000;

/// Since when an alert that is active at `at` is taken to be, by what is remembered of it; `None` if nothing is.
pub(crate) fn active_at(
    alert: &Alert,
    hold: Millis,
    at: Millis,
    source: &dyn Source,
    bounds: &dyn Bounds,
) -> Option<Millis> {
    let labels = alert
        .labels
        .iter()
        .map(|(label, value)| Matcher::equal(label, value));
    let name = [Matcher::equal(NAME, ALERTS_FOR_STATE)];
    let matchers: Vec<Matcher> = labels.chain(name).collect();
    // One millisecond before: not what this evaluation has just said.
    let found = source.select(&matchers, at - TOLERANCE, at - 1, bounds).ok()?;
    // Labels that the alert does not have could be there as well.
    let exact = found
        .iter()
        .find(|series| series.labels.len() == alert.labels.len() + 1)?;
    let floats = &exact.samples.floats;
    let (down_at, value) = (*floats.times.last()?, *floats.values.last()?);
    if is_stale(value) || !value.is_finite() {
        return None;
    }
    let was_active_at = (value * 1000.0) as Millis;
    let remaining = hold - (down_at - was_active_at);
    Some(if remaining <= 0 {
        // It fired; it does again at the next evaluation.
        was_active_at
    } else if remaining < GRACE {
        at + GRACE - hold
    } else {
        was_active_at + (at - down_at)
    })
}
