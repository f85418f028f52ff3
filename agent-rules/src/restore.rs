//! Alerts go on where they were when the agent stopped: `ALERTS_FOR_STATE` says since when they were active.

use crate::alert::{ALERTS_FOR_STATE, Alert, State};
use agent_store::labels::NAME;
use agent_store::series::{Bounds, Matcher, Millis, Source, is_stale};

/// Prometheus' `--rules.alert.for-outage-tolerance`.
const TOLERANCE: Millis = 60 * 60 * 1000;
/// Prometheus' `--rules.alert.for-grace-period`: what was pending waits for so long at least, so that what was not seen meanwhile
/// can be; if its rule's `for` is shorter, for all of it again.
const GRACE: Millis = 10 * 60 * 1000;

/// An alert that has become active at `at` goes on where an earlier one left it. What fired fires on, whatever the `for`: Prometheus
/// lets one below the grace wait again, and who was told that it fires would take it for over meanwhile, and be told anew.
pub(crate) fn restore(alert: &mut Alert, hold: Millis, at: Millis, source: &dyn Source, bounds: &dyn Bounds) {
    let Some((since, down_at)) = remembered(alert, at, source, bounds) else {
        return;
    };
    let remaining = hold - (down_at - since);
    if remaining <= 0 {
        alert.active_at = since;
        alert.state = State::Firing;
        alert.fired_at = Some(since + hold);
    } else if hold >= GRACE {
        alert.active_at = match remaining < GRACE {
            true => at + GRACE - hold,
            false => since + (at - down_at),
        };
    }
}

/// Since when an alert was active, and when that was last said; `None` if it is not known to have been before `at`.
fn remembered(
    alert: &Alert,
    at: Millis,
    source: &dyn Source,
    bounds: &dyn Bounds,
) -> Option<(Millis, Millis)> {
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
    let is_known = !is_stale(value) && value.is_finite();
    is_known.then_some(((value * 1000.0) as Millis, down_at))
}
