//! A device that is watched: the programs on it, and when somebody has taken them off.

use super::devices::Underlay;
use super::{WAYS, metrics};
use crate::aggregate::Labels;
use crate::bpf::Engine;
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
    pub gaps: [u64; 2],
    pub gap_seconds: [f64; 2],
    pub labels: [Arc<Labels>; 2],
    complained: bool,
}

impl Watch {
    pub fn new(underlay: Underlay, netns: &str, now: Instant, unix_nanos: u64) -> Self {
        let labels = |direction: &str| {
            let values = [underlay.name.as_str(), direction, netns];
            Arc::new(Labels::new(metrics::WATCHED.labels, &values, false, unix_nanos))
        };
        Self {
            labels: metrics::DIRECTIONS.map(labels),
            underlay,
            attached: [None, None],
            seen: [now; 2],
            gaps: [0; 2],
            gap_seconds: [0.0; 2],
            complained: false,
        }
    }

    /// Sees to it that a program is attached. Returns whether anything has changed. `alone`: what a dead agent has left
    /// is nobody else's.
    pub fn keep(
        &mut self,
        engine: &mut Engine,
        program: &'static str,
        place: Place,
        alone: bool,
        now: Instant,
    ) -> bool {
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
        } else if alone {
            tc::remove_stale(device, place.way, program);
        }
        match engine.attach_to_device(program, device, place) {
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
            self.gaps[i] += 1;
            self.gap_seconds[i] += seconds;
            tracing::warn!(
                "probe tunnel: somebody has detached {program} from {device}; attached again, up to {seconds:.0} s are \
                 missing"
            );
        }
        if self.attached[i].is_some() {
            self.seen[i] = now;
        }
        true
    }
}
