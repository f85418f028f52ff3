//! A device that is watched: the programs on it, and when somebody has taken them off.

use super::devices::Underlay;
use super::netns::Looking;
use super::{WAYS, metrics};
use crate::aggregate::Labels;
use crate::bpf::tc::{self, Attachment, Place};
use std::sync::Arc;
use std::time::Instant;

/// A device that is watched, or should be.
pub(super) struct Watch {
    pub underlay: Underlay,
    /// By [`WAYS`].
    pub attached: [Option<Attachment>; 2],
    /// When each was last seen attached.
    seen: [Instant; 2],
    /// By [`metrics::GAP_REASONS`] and [`WAYS`].
    pub gaps: [[Gap; 2]; 2],
    pub labels: [Arc<Labels>; 2],
    /// Taken off by the governor.
    off: [bool; 2],
    complained: bool,
}

/// Times without a program.
pub(super) struct Gap {
    pub count: u64,
    pub seconds: f64,
    pub labels: Arc<Labels>,
}

const DETACHED: usize = 0;
const GOVERNOR: usize = 1;

impl Watch {
    pub fn new(underlay: Underlay, netns: &str, now: Instant, unix_nanos: u64) -> Self {
        let labels = |direction: &str| {
            let values = [underlay.name.as_str(), direction, netns];
            Arc::new(Labels::new(metrics::WATCHED.labels, &values, false, unix_nanos))
        };
        let gap = |reason: &str, direction: &str| {
            let values = [underlay.name.as_str(), direction, netns, reason];
            Gap {
                count: 0,
                seconds: 0.0,
                labels: Arc::new(Labels::new(metrics::GAPS.labels, &values, false, unix_nanos)),
            }
        };
        Self {
            gaps: metrics::GAP_REASONS.map(|reason| metrics::DIRECTIONS.map(|d| gap(reason, d))),
            off: [false; 2],
            labels: metrics::DIRECTIONS.map(labels),
            underlay,
            attached: [None, None],
            seen: [now; 2],
            complained: false,
        }
    }

    /// Takes the programs off, if they are on, and counts the time without them. Returns whether anything has changed.
    pub fn pause(&mut self, now: Instant) -> bool {
        let mut changed = false;
        for i in 0..WAYS.len() {
            let gap = &mut self.gaps[GOVERNOR][i];
            if self.attached[i].take().is_some() {
                gap.count += 1;
                self.off[i] = true;
                changed = true;
            } else if self.off[i] {
                gap.seconds += now.duration_since(self.seen[i]).as_secs_f64();
            }
            self.seen[i] = now;
        }
        changed
    }

    /// Sees to it that a program is attached. Returns whether anything has changed. `alone`: what a dead agent has left
    /// is nobody else's.
    pub fn keep(
        &mut self,
        looking: &mut Looking<'_>,
        program: &'static str,
        place: Place,
        alone: bool,
    ) -> bool {
        let now = looking.now;
        let device = &self.underlay.name;
        let Some(i) = WAYS.iter().position(|way| *way == place.way) else {
            return false;
        };
        let mut lost = false;
        if let Some(attachment) = self.attached[i].take() {
            // What cannot be asked is taken for there: devices that are gone leave by the list of devices.
            if attachment.is_there().unwrap_or(true) {
                self.attached[i] = Some(attachment);
                self.seen[i] = now;
                return false;
            }
            attachment.forget();
            lost = true;
            // Before the first packet that is seen again.
            (looking.blind)();
        } else if alone {
            tc::remove_stale(device, place.way, program);
        }
        match looking.engine.attach_to_device(program, device, place) {
            Ok(attachment) => {
                self.attached[i] = Some(attachment);
                self.complained = false;
            }
            Err(e) if !std::mem::replace(&mut self.complained, true) => {
                tracing::warn!(
                    "probe tunnel: {e}; trying again every {} s",
                    super::LOOK.as_secs()
                );
            }
            Err(_) => {}
        }
        if lost {
            let seconds = now.duration_since(self.seen[i]).as_secs_f64();
            let gap = &mut self.gaps[DETACHED][i];
            (gap.count, gap.seconds) = (gap.count + 1, gap.seconds + seconds);
            tracing::warn!(
                "probe tunnel: somebody has detached {program} from {device}; attached again, up to {seconds:.0} s are \
                 missing"
            );
        }
        if self.attached[i].is_some() {
            if std::mem::take(&mut self.off[i]) {
                self.gaps[GOVERNOR][i].seconds += now.duration_since(self.seen[i]).as_secs_f64();
            }
            self.seen[i] = now;
        }
        true
    }
}
