//! Programs on devices that come and go: put where they are wanted, found when somebody has taken them off, put back, and
//! what went by unseen. For the probes that look at the packets of devices.

use crate::aggregate::{Family, Labels, Metric, Series, Value};
use crate::bpf::tc::{self, Attachment, Place, Way};
use crate::bpf::{Engine, Hook, Spec, State};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Devices are looked for so often, and programs that somebody has detached are found within this time.
pub const LOOK: Duration = Duration::from_secs(3);
/// Both ways of a packet.
pub const WAYS: [Way; 2] = [Way::Ingress, Way::Egress];
/// Their names, as exported.
const DIRECTIONS: [&str; 2] = ["receive", "transmit"];

/// A device whose packets are wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    /// Its name.
    pub name: String,
    /// Its packets begin with an Ethernet header, and not with that of IP.
    pub ethernet: bool,
}

impl Underlay {
    /// Which program is for its packets: index among those of a namespace.
    pub fn program(&self, way: Way) -> usize {
        way as usize + if self.ethernet { 0 } else { WAYS.len() }
    }
}

/// What is told of the devices. Labels are the device, the direction, of gaps the reason, and perhaps the namespace.
pub struct Metrics {
    /// 1 = watched.
    pub watched: &'static Metric,
    /// Times without a program.
    pub gaps: &'static Metric,
    /// How long these were.
    pub gap_seconds: &'static Metric,
}

/// Why a program was not there.
const REASONS: [&str; 2] = ["detached", "governor"];

/// With what programs are put on devices.
pub struct Means<'a> {
    /// Whose programs they are.
    pub probe: &'static str,
    /// The kernel side.
    pub engine: &'a mut Engine,
    /// To be called when something went by unseen, before it is seen again.
    pub blind: &'a mut dyn FnMut(),
    /// What a dead agent has left is nobody else's.
    pub alone: bool,
    /// Now.
    pub now: Instant,
}

/// A device that is watched, or should be.
pub struct Watch {
    /// The device.
    pub underlay: Underlay,
    /// By [`WAYS`].
    pub attached: [Option<Attachment>; 2],
    /// When each was last seen attached.
    seen: [Instant; 2],
    /// By [`REASONS`] and [`WAYS`].
    gaps: [[Gap; 2]; 2],
    labels: [Arc<Labels>; 2],
    /// Taken off by the governor.
    off: [bool; 2],
    complained: bool,
}

/// Times without a program.
struct Gap {
    count: u64,
    seconds: f64,
    labels: Arc<Labels>,
}

const DETACHED: usize = 0;
const GOVERNOR: usize = 1;

impl Watch {
    /// One that has no program yet. `netns` is the namespace as it is told.
    pub fn new(underlay: Underlay, netns: &str, metrics: &Metrics, now: Instant, unix_nanos: u64) -> Self {
        let labels = |direction: &str| {
            let values = [underlay.name.as_str(), direction, netns];
            Arc::new(Labels::new(metrics.watched.labels, &values, false, unix_nanos))
        };
        let gap = |reason: &str, direction: &str| {
            let values = [underlay.name.as_str(), direction, reason, netns];
            Gap {
                count: 0,
                seconds: 0.0,
                labels: Arc::new(Labels::new(metrics.gaps.labels, &values, false, unix_nanos)),
            }
        };
        Self {
            gaps: REASONS.map(|reason| DIRECTIONS.map(|d| gap(reason, d))),
            off: [false; 2],
            labels: DIRECTIONS.map(labels),
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

    /// Sees to it that a program is attached. Returns whether anything has changed.
    pub fn keep(&mut self, means: &mut Means<'_>, program: &'static str, place: Place) -> bool {
        let (probe, now) = (means.probe, means.now);
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
            (means.blind)();
        } else if means.alone {
            tc::remove_stale(device, place.way, program);
        }
        match means.engine.attach_to_device(program, device, place) {
            Ok(attachment) => {
                self.attached[i] = Some(attachment);
                self.complained = false;
            }
            Err(e) if !std::mem::replace(&mut self.complained, true) => {
                tracing::warn!("probe {probe}: {e}; trying again every {} s", LOOK.as_secs());
            }
            Err(_) => {}
        }
        if lost {
            let seconds = now.duration_since(self.seen[i]).as_secs_f64();
            let gap = &mut self.gaps[DETACHED][i];
            (gap.count, gap.seconds) = (gap.count + 1, gap.seconds + seconds);
            tracing::warn!(
                "probe {probe}: somebody has detached {program} from {device}; attached again, up to {seconds:.0} s are \
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

/// Appends what is told of devices.
pub fn collect<'a>(
    metrics: &Metrics,
    watches: impl Iterator<Item = &'a Watch> + Clone,
    out: &mut Vec<Family>,
) {
    let watched = |w: &Watch, i: usize| Series {
        labels: w.labels[i].clone(),
        value: Value::Gauge(f64::from(u8::from(w.attached[i].is_some()))),
    };
    out.push(Family {
        metric: metrics.watched,
        series: watches
            .clone()
            .flat_map(|w| [watched(w, 0), watched(w, 1)])
            .collect(),
    });
    type Read = fn(&Gap) -> Value;
    let gaps: [(&'static Metric, Read); 2] = [
        (metrics.gaps, |gap| Value::Counter(gap.count)),
        (metrics.gap_seconds, |gap| Value::CounterF(gap.seconds)),
    ];
    for (metric, read) in gaps {
        let series = watches
            .clone()
            .flat_map(|w| w.gaps.as_flattened())
            .map(|gap| Series {
                labels: gap.labels.clone(),
                value: read(gap),
            });
        out.push(Family {
            metric,
            series: series.collect(),
        });
    }
}

/// Says of each program on which devices it is, or by `nothing` why on none. `on` names those of a program, by its index.
pub fn verdicts(
    engine: &mut Engine,
    specs: &'static [Spec],
    loaded: &HashMap<&'static str, State>,
    on: impl Fn(usize, Way) -> Vec<String>,
    nothing: &str,
) {
    for (i, spec) in specs.iter().enumerate() {
        let Hook::Tc(way) = spec.hook else { continue };
        if !matches!(loaded.get(spec.name), None | Some(State::Attached)) {
            continue;
        }
        let on = on(i, way);
        if !on.is_empty() {
            engine.on_devices(spec, &on);
        } else if i < WAYS.len() || loaded.contains_key(spec.name) {
            engine.verdicts.retain(|v| v.program != spec.name);
            engine.leave_off(spec, nothing);
        }
    }
}

/// A name that only one process of the network namespace can hold, and that goes with it. Only clsact leaves something
/// behind that must not be taken for a dead agent's.
pub fn alone(probe: &str) -> Option<UnixListener> {
    if tc::mechanism() == "tcx" {
        return None;
    }
    use std::os::linux::net::SocketAddrExt as _;
    let name = SocketAddr::from_abstract_name(format!("geophone-{probe}")).ok()?;
    UnixListener::bind_addr(&name).ok()
}
