//! Round-trip times of what a host forwards, on the devices that the configuration names.
//!
//! | program | hook | gives |
//! |---|---|---|
//! | `path_ingress` | tcx ingress of these devices, before 6.6 clsact | TCP timestamps that come in |
//! | `path_egress` | the same, egress | those that go out |
//!
//! A gateway that ends no connection still sees each connection's timestamps go one way and their echoes come back. Where
//! they come back from is the side: beyond the device, or behind us. Together they are the round-trip time of the ends.

use super::metrics::{FORWARDED, WATCH};
use crate::aggregate::{Family, HistogramValue, Labels, Series, Value};
use crate::bpf::KernelMap;
use crate::bpf::tc::{Place, Way};
use crate::bpf::{Engine, Hook, Spec, State};
use crate::config::Glob;
use crate::error::{Context as _, Result};
use crate::probes::totals::Totals;
use crate::probes::watch::{self, LOOK, Means, WAYS, Watch};
use crate::probes::{Context, histograms, tunnel};
use crate::record::Source;
use crate::rtnetlink::Rtnetlink;
use agent_common::account::program;
use agent_common::histogram::Histogram;
use agent_common::path::ForwardedKey;
use agent_common::tunnel::{direction, relief};
use agent_common::wire::Wire as _;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Instant;

/// Accounts of the programs.
pub const ACCOUNTS: &[usize] = &[program::PATH_INGRESS, program::PATH_EGRESS];
/// Rows are given back after this many ticks without a sample.
const IDLE: u32 = 600;
/// Facts: the devices that are wanted, and whether the governor has had the programs taken off.
const DEVICES: &str = "path devices";
const PAUSED: &str = "path paused";
/// What happens when it looks which devices there are.
const LOOKED: &str = "path looked";
const REMEDY: &str = "round-trip times of forwarded connections are missing; give the process CAP_NET_ADMIN, or empty \
                      probes.path.forwarded.devices";

const fn spec(name: &'static str, account: usize, way: Way) -> Spec {
    Spec {
        name,
        probe: "path",
        account,
        hook: Hook::Tc(way),
        needs: &[],
        required: false,
        remedy: REMEDY,
    }
}

static SPECS: [Spec; 4] = [
    spec("path_ingress", program::PATH_INGRESS, Way::Ingress),
    spec("path_egress", program::PATH_EGRESS, Way::Egress),
    spec("path_ingress_ip", program::PATH_INGRESS, Way::Ingress),
    spec("path_egress_ip", program::PATH_EGRESS, Way::Egress),
];

/// A row of the kernel as last read.
struct Row {
    last: Histogram,
    total: usize,
    idle: u32,
}

/// A series.
struct Total {
    labels: Arc<Labels>,
    rtt: Arc<HistogramValue>,
}

/// The programs, and what they have seen.
pub struct Forwarded {
    patterns: Vec<Glob>,
    /// By interface index.
    watches: BTreeMap<u32, Watch>,
    loaded: HashMap<&'static str, State>,
    /// The governor has had the programs taken off.
    paused: bool,
    /// Held while no other agent of this namespace runs.
    alone: Option<UnixListener>,
    rows_map: KernelMap,
    own_map: KernelMap,
    own: BTreeSet<[u8; 16]>,
    rows: HashMap<ForwardedKey, Row>,
    /// By device, side and peer.
    totals: Totals<(String, u32, u32), Total>,
    last_look: Option<Instant>,
    failing: bool,
}

impl Forwarded {
    /// Attaches to the devices that are there now.
    pub fn start(
        patterns: &[Glob],
        most: usize,
        engine: &mut Engine,
        source: &Source,
        (now, start): (Instant, u64),
    ) -> Result<Self> {
        let rows_map = engine.take_data("PATH_FORWARDED")?;
        // The row that takes what finds no room; see agent-ebpf/src/path.rs.
        rows_map
            .update(&[0; ForwardedKey::SIZE], &[0; size_of::<Histogram>()])
            .context("map PATH_FORWARDED")?;
        let mut out = Self {
            patterns: patterns.to_vec(),
            watches: BTreeMap::new(),
            loaded: HashMap::new(),
            paused: false,
            alone: if source.past().is_none() {
                watch::alone("path")
            } else {
                None
            },
            rows_map,
            own_map: engine.take_data("PATH_OWN")?,
            own: BTreeSet::new(),
            rows: HashMap::new(),
            totals: Totals::new(most),
            last_look: None,
            failing: false,
        };
        for spec in SPECS.iter().take(WAYS.len()) {
            engine.know(spec);
        }
        out.verdicts(engine);
        out.look(engine, source, now, start);
        Ok(out)
    }

    /// Once a second.
    pub fn tick(&mut self, context: &mut Context<'_>) {
        let (now, start) = (context.now, context.series_start);
        let due = self.last_look.is_none_or(|t| now.duration_since(t) >= LOOK) && !context.last;
        let due = context.source.happened(LOOKED, due);
        if let Some(engine) = context.engine.as_deref_mut()
            && due
        {
            self.look(engine, context.source, now, start);
        }
        if self.loaded.is_empty() {
            return;
        }
        for key in self.rows_map.vanished::<ForwardedKey>() {
            self.rows.remove(&key);
        }
        match histograms::entries::<ForwardedKey>(&self.rows_map) {
            Ok(found) => {
                for (key, value) in found {
                    self.read(key, value, context);
                }
            }
            Err(e) => tracing::warn!("probe path: {e}"),
        }
        self.recycle(now);
    }

    /// The governor asks for less work: the programs look at every packet, as those of tunnels do.
    pub fn relieve(&mut self, level: u32, context: &mut Context<'_>) {
        let paused = level >= relief::OFF;
        if paused != self.paused
            && let Some(engine) = context.engine.as_deref_mut()
        {
            self.paused = paused;
            context.source.tell(PAUSED, || paused);
            self.look(engine, context.source, context.now, context.series_start);
            context.source.happened(LOOKED, true);
        }
    }

    /// Looks which devices and addresses there are.
    fn look(&mut self, engine: &mut Engine, source: &Source, now: Instant, start: u64) {
        self.last_look = Some(now);
        match self.find(engine, source, now, start) {
            Ok(changed) => {
                self.failing = false;
                if changed {
                    self.verdicts(engine);
                }
            }
            Err(e) if !std::mem::replace(&mut self.failing, true) => {
                tracing::warn!("probe path: {e}; trying again every {} s", LOOK.as_secs());
            }
            Err(_) => {}
        }
    }

    /// Puts the programs where they belong. Returns whether anything has changed.
    fn find(&mut self, engine: &mut Engine, source: &Source, now: Instant, start: u64) -> Result<bool> {
        let wanted = if let Source::Recorded(past) = source {
            self.paused = past.fact(PAUSED).unwrap_or(false);
            past.fact(DEVICES).unwrap_or_default()
        } else {
            let rtnetlink = Rtnetlink::open()?;
            // Before the programs: what begins or ends here is not theirs.
            self.write_own(&rtnetlink)?;
            tunnel::named(&rtnetlink, &self.patterns)?
        };
        source.tell(DEVICES, || &wanted);
        let before = self.watches.len();
        // A device that is gone, or of another kind now, takes its links with it.
        self.watches
            .retain(|index, watch| wanted.get(index) == Some(&watch.underlay));
        let mut changed = self.watches.len() != before;
        for (index, underlay) in wanted {
            let watch = self.watches.entry(index).or_insert_with(|| {
                changed = true;
                Watch::new(underlay, "", &WATCH, now, start)
            });
            if self.paused {
                changed |= watch.pause(now);
                continue;
            }
            for way in WAYS {
                let Some(spec) = SPECS.get(watch.underlay.program(way)) else {
                    continue;
                };
                let state = self.loaded.entry(spec.name).or_insert_with(|| {
                    engine.verdicts.retain(|v| v.program != spec.name);
                    engine.attach(spec)
                });
                if *state != State::Attached {
                    continue;
                }
                let mut means = Means {
                    probe: "path",
                    engine,
                    // An echo whose value went by unseen finds nothing.
                    blind: &mut || (),
                    alone: self.alone.is_some(),
                    now,
                };
                let place = Place {
                    ifindex: index,
                    way,
                    netns: 0,
                };
                changed |= watch.keep(&mut means, spec.name, place);
            }
        }
        Ok(changed)
    }

    /// Writes this host's addresses, as far as they have changed.
    fn write_own(&mut self, rtnetlink: &Rtnetlink) -> Result<()> {
        let own = tunnel::addresses(rtnetlink)?.into_iter().map(|(_, a)| match a {
            IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
            IpAddr::V6(a) => a.octets(),
        });
        let own: BTreeSet<[u8; 16]> = own.collect();
        for gone in self.own.difference(&own) {
            // One that is not there any more is as well.
            let _ = self.own_map.remove(gone);
        }
        for new in own.difference(&self.own) {
            self.own_map.update(new, &[1]).context("map PATH_OWN")?;
        }
        self.own = own;
        Ok(())
    }

    fn verdicts(&self, engine: &mut Engine) {
        let on = |i: usize, way: Way| {
            let watches = self.watches.values();
            watches
                .filter(|w| w.underlay.program(way) == i && w.attached[way as usize].is_some())
                .map(|w| w.underlay.name.clone())
                .collect()
        };
        let nothing = if self.paused {
            "the CPU budget is spent"
        } else if self.watches.is_empty() {
            "there is no device of probes.path.forwarded.devices; looked for every 3 s"
        } else {
            "no such device among them"
        };
        watch::verdicts(engine, &SPECS, &self.loaded, on, nothing);
    }

    fn read(&mut self, key: ForwardedKey, value: Histogram, context: &Context<'_>) {
        let (totals, watches) = (&mut self.totals, &self.watches);
        let row = self.rows.entry(key).or_insert_with(|| {
            // A device that is gone already has no name.
            let name = watches.get(&key.device).map(|w| w.underlay.name.as_str());
            let of = name.map(|device| (device.to_owned(), key.side, key.peer));
            let new = |other| Total::new(name, &key, other, context);
            Row {
                last: histograms::EMPTY,
                total: totals.place(of, context.now, new),
                idle: 0,
            }
        });
        if row.last.cells == value.cells {
            row.idle = row.idle.saturating_add(1);
            return;
        }
        row.idle = 0;
        if let Some(total) = totals.get_mut(row.total) {
            histograms::grow(Arc::make_mut(&mut total.rtt), &row.last, &value);
        }
        row.last = value;
    }

    /// Gives back rows that nothing adds to.
    fn recycle(&mut self, now: Instant) {
        self.rows.retain(|key, row| {
            let mut bytes = Vec::with_capacity(ForwardedKey::SIZE);
            key.encode(&mut bytes);
            *key == ForwardedKey::OTHER || row.idle < IDLE || self.rows_map.remove(&bytes).is_err()
        });
        self.totals.end(now, self.rows.values().map(|row| row.total));
    }

    /// Appends the families.
    pub fn collect(&self, out: &mut Vec<Family>) {
        let samples = self.totals.iter().filter(|t| t.rtt.count > 0);
        let series = samples.map(|t| Series {
            labels: t.labels.clone(),
            value: Value::Histogram(t.rtt.clone()),
        });
        out.push(Family {
            metric: &FORWARDED,
            series: series.collect(),
        });
        watch::collect(&WATCH, self.watches.values(), out);
    }
}

impl Total {
    fn new(device: Option<&str>, key: &ForwardedKey, other: bool, context: &Context<'_>) -> Self {
        let peer = context.peers.get(key.peer);
        let side = if key.side as usize == direction::INGRESS {
            "remote"
        } else {
            "local"
        };
        let values = match device.filter(|_| !other) {
            Some(device) => [device, side, &peer.name, &peer.region, &peer.zone],
            None => ["other", "", "other", "", ""],
        };
        Self {
            labels: Arc::new(Labels::new(
                FORWARDED.labels,
                &values,
                other,
                context.series_start,
            )),
            rtt: Arc::default(),
        }
    }
}
