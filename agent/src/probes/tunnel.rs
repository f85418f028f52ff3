//! Probe `tunnel`: what passes through the tunnels of this machine, and how well the way between their ends is.
//!
//! | program | hook | gives |
//! |---|---|---|
//! | `tunnel_ingress` | tcx ingress of the underlay devices, before 6.6 clsact | packets, bytes, sequence numbers, handshakes, RTT |
//! | `tunnel_egress` | the same, egress | the same of what is sent |
//!
//! Devices that carry a tunnel are looked for every few seconds; where there is none, nothing is attached. A VXLAN,
//! GRE, IPIP … device names its way; WireGuard, tun and xfrm devices do not, so every device that holds an address is
//! watched. A bound UDP socket of a well-known port is a tunnel of its own, whoever keeps it.

mod devices;
mod exported;
mod health;
mod inner;
pub mod metrics;
mod table;
mod windows;

pub use metrics::METRICS;

use super::{Context, Probe};
use crate::aggregate::{Family, Labels, Metric, Series, Value};
use crate::bpf::sys::{self, MappedArray};
use crate::bpf::tc::{self, Attachment, Way};
use crate::bpf::{Engine, Hook, Spec, State};
use crate::config::Glob;
use crate::error::{Context as _, Result};
use crate::rtnetlink::Rtnetlink;
use agent_common::account::program;
use agent_common::tunnel::{InnerCell, TunnelCells, TunnelState};
use aya::maps::{MapData, Queue};
use devices::{Found, Underlay};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use table::{Maps, Table};

/// Devices are looked for so often, and programs that somebody has detached are found within this time.
const LOOK: Duration = Duration::from_secs(3);
const WAYS: [Way; 2] = [Way::Ingress, Way::Egress];
const REMEDY: &str =
    "tunnels are not seen; give the process CAP_NET_ADMIN, or set probes.tunnel.enabled to false";

const fn spec(name: &'static str, account: usize, way: Way) -> Spec {
    Spec {
        name,
        probe: "tunnel",
        account,
        hook: Hook::Tc(way),
        needs: &[],
        required: false,
        remedy: REMEDY,
    }
}

static SPECS: [Spec; 4] = [
    spec("tunnel_ingress", program::TUNNEL_INGRESS, Way::Ingress),
    spec("tunnel_egress", program::TUNNEL_EGRESS, Way::Egress),
    spec("tunnel_ingress_ip", program::TUNNEL_INGRESS, Way::Ingress),
    spec("tunnel_egress_ip", program::TUNNEL_EGRESS, Way::Egress),
];

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Options {
    /// As if there were a tunnel of unknown way.
    pub always: bool,
    /// Devices that are watched in any case.
    pub devices: Vec<Glob>,
    /// UDP ports that carry tunnels, by kind.
    pub ports: BTreeMap<u16, u8>,
    /// Most pairs inside of a tunnel that have series of their own.
    pub inner_pairs: usize,
    /// Most tunnels that have series of their own.
    pub max_tunnels: usize,
}

/// A device that is watched, or should be.
struct Watch {
    underlay: Underlay,
    /// By [`WAYS`].
    attached: [Option<Attachment>; 2],
    /// When each was last seen attached.
    seen: [Instant; 2],
    gaps: [u64; 2],
    gap_seconds: [f64; 2],
    labels: [Arc<Labels>; 2],
    complained: bool,
}

/// The probe.
pub struct Tunnel {
    options: Options,
    maps: Option<Maps>,
    ports: Option<MapData>,
    /// Programs that are loaded later need their descriptors.
    _kept: Vec<MapData>,
    table: Option<Table>,
    written: BTreeMap<u16, u8>,
    watches: BTreeMap<u32, Watch>,
    loaded: HashMap<&'static str, State>,
    /// Held while no other agent of this namespace runs.
    alone: Option<std::os::unix::net::UnixListener>,
    last_look: Option<Instant>,
    unix_nanos: u64,
    start: u64,
    failing: bool,
    count: Option<Arc<Labels>>,
}

impl Tunnel {
    /// A probe that is not attached yet.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            maps: None,
            ports: None,
            _kept: Vec::new(),
            table: None,
            written: BTreeMap::new(),
            watches: BTreeMap::new(),
            loaded: HashMap::new(),
            alone: None,
            last_look: None,
            unix_nanos: 0,
            start: 0,
            failing: false,
            count: None,
        }
    }

    fn prepare(&mut self, engine: &mut Engine, unix_nanos: u64) -> Result<()> {
        let (tunnels, shards) = (engine.sizes.tunnels, engine.sizes.shards);
        let mut free: Queue<MapData, u32> =
            Queue::try_from(engine.take_map("TUNNEL_FREE")?).context("map TUNNEL_FREE")?;
        for slot in 1..tunnels {
            free.push(slot, 0).context("map TUNNEL_FREE")?;
        }
        let cells = engine.take_data("TUNNEL_CELLS")?;
        let states = engine.take_data("TUNNEL_STATES")?;
        let epoch = engine.take_data("TUNNEL_EPOCH")?;
        let inner = engine.take_data("TUNNEL_INNER")?;
        let inner_cells = engine.sizes.tunnel_inner() as usize;
        self.maps = Some(Maps {
            cells: MappedArray::new(cells.fd(), size_of::<TunnelCells>(), (tunnels * shards) as usize)?,
            states: MappedArray::new(states.fd(), size_of::<TunnelState>(), tunnels as usize)?,
            epoch: MappedArray::new(epoch.fd(), 8, 1)?,
            tunnels: engine.take_data("TUNNELS")?,
            windows: engine.take_data("TUNNEL_WINDOWS")?,
            inner: MappedArray::new(inner.fd(), size_of::<InnerCell>(), inner_cells)?,
            inner_cells,
            free,
            shards: shards as usize,
        });
        self.ports = Some(engine.take_data("TUNNEL_PORTS")?);
        self._kept = vec![cells, states, epoch, inner];
        self.table = Some(Table::new(
            tunnels as usize,
            self.options.max_tunnels,
            self.options.inner_pairs,
            unix_nanos,
        ));
        Ok(())
    }

    /// Looks which devices carry tunnels now, and puts the programs where they belong.
    fn look(&mut self, engine: &mut Engine, context_now: Instant, series_start: u64) -> Result<()> {
        let rtnetlink = Rtnetlink::open()?;
        let o = &self.options;
        let found = devices::find(&rtnetlink, &o.ports, &o.devices, o.always)?;
        self.write_ports(&found)?;
        let before = self.watches.len();
        // A device that is gone, or of another kind now, takes its links with it.
        self.watches
            .retain(|index, watch| found.underlays.get(index) == Some(&watch.underlay));
        let mut changed = self.watches.len() != before;
        for (index, underlay) in found.underlays {
            let watch = self.watches.entry(index).or_insert_with(|| {
                changed = true;
                Watch::new(underlay, context_now, series_start)
            });
            for (i, way) in WAYS.into_iter().enumerate() {
                let program = watch.underlay.program(way);
                let state = self.loaded.entry(program).or_insert_with(|| {
                    engine.verdicts.retain(|v| v.program != program);
                    SPECS
                        .iter()
                        .find(|s| s.name == program)
                        .map_or(State::Broken, |spec| engine.attach(spec))
                });
                if *state == State::Attached {
                    let alone = self.alone.is_some();
                    changed |= watch.keep(engine, index, i, program, way, alone, context_now);
                }
            }
        }
        if changed {
            self.verdicts(engine);
        }
        Ok(())
    }

    /// Writes the table of ports, if it has changed.
    fn write_ports(&mut self, found: &Found) -> Result<()> {
        let mut ports = self.options.ports.clone();
        ports.extend(&found.ports);
        if ports == self.written {
            return Ok(());
        }
        let Some(map) = &self.ports else { return Ok(()) };
        let mut table = vec![0u8; 1 << 16];
        for (port, kind) in &ports {
            if let Some(place) = table.get_mut(usize::from(*port)) {
                *place = *kind;
            }
        }
        sys::update(map.fd().as_fd(), &0u32.to_ne_bytes(), &table).context("map TUNNEL_PORTS")?;
        self.written = ports;
        Ok(())
    }

    /// Says of each program on which devices it is.
    fn verdicts(&self, engine: &mut Engine) {
        for spec in &SPECS {
            let Hook::Tc(way) = spec.hook else { continue };
            if !matches!(self.loaded.get(spec.name), None | Some(State::Attached)) {
                continue;
            }
            let on: Vec<&str> = self
                .watches
                .values()
                .filter(|w| w.underlay.program(way) == spec.name)
                .filter(|w| w.attached[way as usize].is_some())
                .map(|w| w.underlay.name.as_str())
                .collect();
            let main = spec.name == "tunnel_ingress" || spec.name == "tunnel_egress";
            if !on.is_empty() {
                engine.on_devices(spec, &on);
            } else if main || self.loaded.contains_key(spec.name) {
                engine.verdicts.retain(|v| v.program != spec.name);
                let reason = if self.watches.is_empty() {
                    "no tunnel on this machine; looked for every 3 s"
                } else {
                    "no such device carries a tunnel"
                };
                engine.leave_off(spec, reason);
            }
        }
    }
}

impl Watch {
    fn new(underlay: Underlay, now: Instant, unix_nanos: u64) -> Self {
        let labels = |direction: &str| {
            Arc::new(Labels::new(
                metrics::WATCHED.labels,
                &[&underlay.name, direction],
                false,
                unix_nanos,
            ))
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

    /// Sees to it that a program is attached. Returns whether anything has changed.
    #[expect(
        clippy::too_many_arguments,
        reason = "one caller, and each is a different thing"
    )]
    fn keep(
        &mut self,
        engine: &mut Engine,
        ifindex: u32,
        i: usize,
        program: &'static str,
        way: Way,
        alone: bool,
        now: Instant,
    ) -> bool {
        let device = &self.underlay.name;
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
            tc::remove_stale(device, way, program);
        }
        match engine.attach_to_device(program, device, ifindex, way) {
            Ok(attachment) => {
                self.attached[i] = Some(attachment);
                self.complained = false;
            }
            Err(e) if !std::mem::replace(&mut self.complained, true) => {
                tracing::warn!("probe tunnel: {e}; trying again every {} s", LOOK.as_secs());
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

/// A name that only one process of the network namespace can hold, and that goes with it.
fn alone() -> Option<std::os::unix::net::UnixListener> {
    use std::os::linux::net::SocketAddrExt as _;
    let name = std::os::unix::net::SocketAddr::from_abstract_name("geophone-tunnel").ok()?;
    std::os::unix::net::UnixListener::bind_addr(&name).ok()
}

impl Probe for Tunnel {
    fn name(&self) -> &'static str {
        "tunnel"
    }

    fn accounts(&self) -> &'static [usize] {
        &[program::TUNNEL_INGRESS, program::TUNNEL_EGRESS]
    }

    fn attach(&mut self, context: &mut Context<'_>) -> Result<()> {
        let start = context.series_start;
        let now = context.now;
        let Some(engine) = context.engine.as_deref_mut() else {
            return Ok(());
        };
        self.start = start;
        self.count = Some(Arc::new(Labels::new(metrics::TUNNELS.labels, &[], false, start)));
        self.prepare(engine, start)?;
        self.alone = alone();
        for spec in SPECS.iter().take(2) {
            engine.know(spec);
        }
        self.verdicts(engine);
        self.last_look = Some(now);
        if let Err(e) = self.look(engine, now, start) {
            self.failing = true;
            tracing::warn!("probe tunnel: {e}; trying again every {} s", LOOK.as_secs());
        }
        Ok(())
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        let (now, start) = (context.now, context.series_start);
        let due = self
            .last_look
            .is_none_or(|t| now.duration_since(t) >= LOOK && !context.last);
        if due && let Some(engine) = context.engine.as_deref_mut() {
            self.last_look = Some(now);
            match self.look(engine, now, start) {
                Ok(()) => self.failing = false,
                Err(e) if !std::mem::replace(&mut self.failing, true) => {
                    tracing::warn!("probe tunnel: {e}; trying again every {} s", LOOK.as_secs());
                }
                Err(_) => {}
            }
        }
        // While nothing was ever attached there is nothing to read.
        if self.loaded.is_empty() {
            return;
        }
        self.unix_nanos = super::unix_nanos();
        let (Some(maps), Some(table)) = (&mut self.maps, &mut self.table) else {
            return;
        };
        match table.tick(maps, context, self.unix_nanos) {
            Ok(changes) => {
                for change in changes {
                    if let Some(Some(tunnel)) = table.tunnels.get(change.tunnel) {
                        tell(tunnel, change.before);
                    }
                }
            }
            Err(e) => tracing::warn!("probe tunnel: {e}"),
        }
    }

    fn collect(&mut self, out: &mut Vec<Family>) {
        let (Some(table), Some(count)) = (&mut self.table, &self.count) else {
            return;
        };
        metrics::collect(&mut table.tunnels, self.unix_nanos, out);
        out.push(Family {
            metric: &metrics::TUNNELS,
            series: vec![Series {
                labels: count.clone(),
                value: Value::Gauge(table.used() as f64),
            }],
        });
        type Read = fn(&Watch, usize) -> Value;
        let watched: [(&'static Metric, Read); 3] = [
            (&metrics::WATCHED, |w, i| {
                Value::Gauge(f64::from(u8::from(w.attached[i].is_some())))
            }),
            (&metrics::GAPS, |w, i| Value::Counter(w.gaps[i])),
            (&metrics::GAP_SECONDS, |w, i| Value::CounterF(w.gap_seconds[i])),
        ];
        for (metric, read) in watched {
            let series = self
                .watches
                .values()
                .flat_map(|w| {
                    (0..2).map(move |i| Series {
                        labels: w.labels[i].clone(),
                        value: read(w, i),
                    })
                })
                .collect();
            out.push(Family { metric, series });
        }
    }
}

/// Writes a change of state to the log.
fn tell(tunnel: &exported::Tunnel, before: (health::State, &'static str)) {
    let [kind, id, local, remote, _] = &tunnel.values;
    let (state, reason) = tunnel.health.now;
    let name = format!("{kind} {id} {local} → {remote}");
    let text = format!(
        "tunnel {name}: {} → {}{}{reason}",
        before.0.as_str(),
        state.as_str(),
        if reason.is_empty() { "" } else { ": " }
    );
    match state {
        health::State::Down | health::State::Degraded => tracing::warn!("{text}"),
        _ => tracing::info!("{text}"),
    }
}
