//! Probe `tunnel`: what passes through the tunnels of this machine, and how well the way between their ends is.
//!
//! | program | hook | gives |
//! |---|---|---|
//! | `tunnel_ingress` | tcx ingress of the underlay devices, before 6.6 clsact | packets, bytes, sequence numbers, handshakes, RTT |
//! | `tunnel_egress` | the same, egress | the same of what is sent |
//!
//! Devices that carry a tunnel are looked for every few seconds; where there is none, nothing is attached. A VXLAN,
//! GRE, IPIP … device names its way, or its forwarding table or WireGuard's peers do; ends that these have yet to learn are
//! looked for on the default routes. tun and xfrm devices name none, so every device that holds an address is watched. A bound UDP socket of a well-known port is a tunnel of its own, whoever keeps it.

mod ask;
pub mod corpus;
mod devices;
mod drops;
mod ends;
mod exported;
mod health;
mod inner;
mod links;
pub mod metrics;
mod netns;
mod pairs;
mod table;
mod windows;

pub(super) use ask::addresses;
pub(super) use ask::default_routes;
pub(super) use devices::named;
pub use metrics::METRICS;

use super::watch::{self, LOOK, Underlay};
use super::{Context, Fill, Probe};
use crate::aggregate::{Family, Labels, Series, Value};
use crate::bpf::KernelMap;
use crate::bpf::sys::MappedArray;
use crate::bpf::tc::Way;
use crate::bpf::{Engine, Hook, Sizes, Spec, State};
use crate::config::Glob;
use crate::error::{Context as _, Result};
use crate::record::Source;
use crate::records::Record;
use agent_common::account::program;
use agent_common::tunnel::{InnerCell, TunnelCells, TunnelKey, TunnelState, relief};
use ends::Ends;
use netns::{Looking, Namespace};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;
use table::{Maps, Table, Told};

/// Facts: whether the governor has had the programs taken off, and the table when a recording may begin.
const PAUSED: &str = "tunnel paused";
const TABLE: &str = "tunnel table";
/// What happens: devices are looked for, and the governor changes its mind.
const LOOKED: &str = "tunnel looked";
const RELIEVED: &str = "tunnel relieved";
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

/// By [`Underlay::program`]; those for other namespaces stand behind those for the agent's own.
static SPECS: [Spec; 2 * OWN] = [
    spec("tunnel_ingress", program::TUNNEL_INGRESS, Way::Ingress),
    spec("tunnel_egress", program::TUNNEL_EGRESS, Way::Egress),
    spec("tunnel_ingress_ip", program::TUNNEL_INGRESS, Way::Ingress),
    spec("tunnel_egress_ip", program::TUNNEL_EGRESS, Way::Egress),
    spec("tunnel_ingress_netns", program::TUNNEL_INGRESS, Way::Ingress),
    spec("tunnel_egress_netns", program::TUNNEL_EGRESS, Way::Egress),
    spec("tunnel_ingress_ip_netns", program::TUNNEL_INGRESS, Way::Ingress),
    spec("tunnel_egress_ip_netns", program::TUNNEL_EGRESS, Way::Egress),
];
const OWN: usize = 4;

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Options {
    /// As if there were a tunnel of unknown way.
    pub always: bool,
    /// Devices that are watched in any case.
    pub devices: Vec<Glob>,
    /// Other network namespaces to look at.
    pub namespaces: Vec<Glob>,
    /// UDP ports that carry tunnels, by kind.
    pub ports: BTreeMap<u16, u8>,
    /// Most pairs inside of a tunnel that have series of their own.
    pub inner_pairs: usize,
    /// Most tunnels that have series of their own.
    pub max_tunnels: usize,
}

/// The programs, each loaded when the first device needs it.
#[derive(Default)]
struct Programs {
    loaded: HashMap<&'static str, State>,
    /// Where the entries of other namespaces jump to.
    jumps: Option<KernelMap>,
    complained: bool,
}

impl Programs {
    /// The program for the packets of a device, if it could be loaded.
    fn ready(
        &mut self,
        engine: &mut Engine,
        underlay: &Underlay,
        way: Way,
        netns: u16,
    ) -> Option<&'static str> {
        let jump = underlay.program(way);
        let spec = SPECS.get(if netns == 0 { jump } else { OWN + jump })?;
        let state = *self.loaded.entry(spec.name).or_insert_with(|| {
            engine.verdicts.retain(|v| v.program != spec.name);
            engine.attach(spec)
        });
        if state != State::Attached {
            return None;
        }
        if netns != 0
            && let Err(e) = engine.enter_by(spec.name, netns, jump as u32, self.jumps.as_ref()?)
        {
            if !std::mem::replace(&mut self.complained, true) {
                tracing::warn!("probe tunnel: other network namespaces are not seen: {e}");
            }
            return None;
        }
        Some(spec.name)
    }
}

/// The probe.
pub struct Tunnel {
    options: Options,
    maps: Option<Maps>,
    ports: Option<KernelMap>,
    table: Option<Table>,
    written: BTreeMap<u16, u8>,
    /// The first is the agent's own.
    namespaces: Vec<Namespace>,
    last_number: u16,
    /// The governor has had the programs taken off.
    paused: bool,
    /// What the programs are to leave out; see [`relief`].
    relief: Option<MappedArray>,
    programs: Programs,
    last_look: Option<Instant>,
    unix_nanos: u64,
    start: u64,
    count: Option<Arc<Labels>>,
    drops: drops::Drops,
    /// Changes of state that nobody has taken yet.
    changes: Vec<Record>,
}

impl Tunnel {
    /// A probe that is not attached yet.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            maps: None,
            ports: None,
            table: None,
            written: BTreeMap::new(),
            namespaces: Vec::new(),
            last_number: 0,
            paused: false,
            relief: None,
            programs: Programs::default(),
            last_look: None,
            unix_nanos: 0,
            start: 0,
            count: None,
            drops: drops::Drops::default(),
            changes: Vec::new(),
        }
    }

    fn prepare(&mut self, engine: &mut Engine, unix_nanos: u64) -> Result<()> {
        let (tunnels, shards) = (engine.sizes.tunnels, engine.sizes.shards);
        let free = engine.take_data("TUNNEL_FREE")?;
        for slot in 1..tunnels {
            free.push(slot).context("map TUNNEL_FREE")?;
        }
        let inner_cells = engine.sizes.tunnel_inner() as usize;
        let rows = (tunnels * shards) as usize;
        self.maps = Some(Maps {
            cells: engine.take_array("TUNNEL_CELLS", size_of::<TunnelCells>(), rows)?,
            states: engine.take_array("TUNNEL_STATES", size_of::<TunnelState>(), tunnels as usize)?,
            epoch: engine.take_array("TUNNEL_EPOCH", 8, 1)?,
            tunnels: engine.take_data("TUNNELS")?,
            windows: engine.take_data("TUNNEL_WINDOWS")?,
            inner: engine.take_array("TUNNEL_INNER", size_of::<InnerCell>(), inner_cells)?,
            inner_cells,
            free,
            ends: Ends::new(engine.take_data("TUNNEL_ENDS")?),
            shards: shards as usize,
        });
        self.relief = Some(engine.take_array("TUNNEL_RELIEF", 8, 1)?);
        self.programs.jumps = Some(engine.take_data("TUNNEL_JUMPS")?);
        self.ports = Some(engine.take_data("TUNNEL_PORTS")?);
        self.table = Some(Table::new(
            tunnels as usize,
            self.options.max_tunnels,
            self.options.inner_pairs,
            unix_nanos,
        ));
        Ok(())
    }

    /// Looks for tunnels in all namespaces.
    fn look(&mut self, context: &mut Context<'_>) {
        let (now, series_start, unix_nanos) = (context.now, context.series_start, context.unix_nanos);
        let (peers, source) = (context.peers, context.source);
        let Some(engine) = context.engine.as_deref_mut() else {
            return;
        };
        let mut changed = netns::refresh(
            &self.options.namespaces,
            &mut self.namespaces,
            &mut self.last_number,
            source,
        );
        if changed {
            let there: Vec<u16> = self.namespaces.iter().map(|n| n.number).collect();
            engine.leave_entries(&there);
            self.drops.keep(&self.namespaces);
            if let Some(table) = &mut self.table {
                table.name(&self.namespaces);
            }
        }
        let (maps, table) = (&self.maps, &mut self.table);
        let mut looking = Looking {
            options: &self.options,
            source,
            programs: &mut self.programs,
            engine,
            paused: self.paused,
            blind: &mut || blind(maps.as_ref(), table.as_mut(), source, unix_nanos),
            now,
            unix_nanos: series_start,
        };
        for namespace in &mut self.namespaces {
            match namespace.look(&mut looking) {
                Ok((tunnels, news)) => {
                    namespace.failing = false;
                    changed |= news;
                    self.drops.set(namespace, &tunnels, peers);
                }
                Err(e) if !std::mem::replace(&mut namespace.failing, true) => {
                    let name = Some(&namespace.name).filter(|name| !name.is_empty());
                    let place = name.map_or("own", String::as_str);
                    tracing::warn!(
                        "probe tunnel: network namespace {place}: {e}; trying again every {} s",
                        LOOK.as_secs()
                    );
                }
                Err(_) => {}
            }
        }
        let ends = self.namespaces.iter().flat_map(|n| &n.ends).copied().collect();
        if let Some(maps) = &mut self.maps {
            maps.ends.set(ends);
        }
        if let Err(e) = self.write_ports() {
            tracing::warn!("probe tunnel: {e}");
        }
        if changed {
            self.verdicts(engine);
        }
    }

    /// Writes the table of ports, if it has changed.
    fn write_ports(&mut self) -> Result<()> {
        let mut ports = self.options.ports.clone();
        ports.extend(self.namespaces.iter().flat_map(|n| &n.ports));
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
        map.update(&0u32.to_ne_bytes(), &table)
            .context("map TUNNEL_PORTS")?;
        self.written = ports;
        Ok(())
    }

    /// Reads what the programs have counted.
    fn read(&mut self, context: &Context<'_>) {
        self.unix_nanos = context.unix_nanos;
        let (Some(maps), Some(table)) = (&mut self.maps, &mut self.table) else {
            return;
        };
        let source = context.source;
        if let Some(told) = source.resume::<Told>(TABLE)
            && table.resume(told, maps, context)
        {
            return;
        }
        let namespaces = &self.namespaces;
        let watched = |key: &TunnelKey| {
            let namespace = namespaces.iter().find(|n| n.number == key.netns)?;
            let watch = namespace.watches.get(&key.ifindex)?;
            Some(watch.attached.iter().any(Option::is_some))
        };
        match table.tick(maps, context, watched) {
            // What a recording has was told when it was made.
            Ok(_) if source.past().is_some() => {}
            Ok(changes) => {
                for change in &changes {
                    match change.state.as_str() {
                        "down" | "degraded" => tracing::warn!("{change}"),
                        _ => tracing::info!("{change}"),
                    }
                }
                let records = changes.into_iter().map(|change| Record::Tunnel(Box::new(change)));
                self.changes.extend(records);
            }
            Err(e) => tracing::warn!("probe tunnel: {e}"),
        }
        if source.is_due(context.now) {
            source.tell(TABLE, || table.told(context.unix_nanos));
        }
    }

    /// Takes the programs off, or puts them back.
    fn pause(&mut self, paused: bool, context: &mut Context<'_>) {
        if paused == self.paused || context.engine.is_none() {
            self.paused = paused;
            return;
        }
        self.paused = paused;
        let (source, unix_nanos) = (context.source, context.unix_nanos);
        // Nothing of what was there before is the beginning of what comes now.
        if !paused {
            blind(self.maps.as_ref(), self.table.as_mut(), source, unix_nanos);
        }
        self.look(context);
        if paused {
            blind(self.maps.as_ref(), self.table.as_mut(), source, unix_nanos);
        }
    }

    /// Says of each program on which devices it is.
    fn verdicts(&self, engine: &mut Engine) {
        let on = |i: usize, way: Way| {
            let watches = self
                .namespaces
                .iter()
                .flat_map(|n| n.watches.values().map(move |w| (n, w)));
            watches
                .filter(|(n, w)| {
                    let place = if n.number == 0 { 0 } else { OWN } + w.underlay.program(way);
                    place == i && w.attached[way as usize].is_some()
                })
                .map(|(n, w)| n.device(&w.underlay))
                .collect()
        };
        let nothing = if self.paused {
            "the CPU budget is spent"
        } else if self.namespaces.iter().all(|n| n.watches.is_empty()) {
            "no tunnel on this machine; looked for every 3 s"
        } else {
            "no such device carries a tunnel"
        };
        watch::verdicts(engine, &SPECS, &self.programs.loaded, on, nothing);
    }
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
        let Some(engine) = context.engine.as_deref_mut() else {
            return Ok(());
        };
        self.start = start;
        self.count = Some(Arc::new(Labels::new(metrics::TUNNELS.labels, &[], false, start)));
        self.prepare(engine, start)?;
        match context.source.past() {
            // It may begin in the middle.
            Some(past) => self.paused = past.fact(PAUSED).unwrap_or(false),
            None => self.namespaces = vec![Namespace::own()],
        }
        for spec in SPECS.iter().take(2) {
            engine.know(spec);
        }
        self.verdicts(engine);
        self.last_look = Some(context.now);
        self.look(context);
        Ok(())
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        let due = self
            .last_look
            .is_none_or(|t| now.duration_since(t) >= LOOK && !context.last);
        if context.source.happened(LOOKED, due && context.engine.is_some()) {
            self.last_look = Some(now);
            self.look(context);
        }
        self.drops.tick(context.device_drops, context.series_start);
        // While nothing was ever attached there is nothing to read.
        if !self.programs.loaded.is_empty() {
            self.read(context);
        }
        if let Some(past) = context.source.past()
            && past.happened(RELIEVED)
        {
            self.pause(past.fact(PAUSED).unwrap_or(false), context);
        }
    }

    fn relieve(&mut self, level: u32, context: &mut Context<'_>) {
        if let Some(map) = &self.relief {
            map.set_u64(0, 0, u64::from(level));
        }
        let paused = level >= relief::OFF;
        if paused != self.paused {
            context.source.tell(PAUSED, || paused);
            context.source.happened(RELIEVED, true);
            self.pause(paused, context);
        }
    }

    fn changes(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.changes)
    }

    fn fill(&self, sizes: &Sizes) -> Vec<Fill> {
        let fill = |table: &Table| Fill {
            map: "TUNNELS",
            used: table.used(),
            // `other` has one.
            most: sizes.tunnels as usize - 1,
        };
        self.table.iter().map(fill).collect()
    }

    fn collect(&mut self, out: &mut Vec<Family>) {
        let (Some(table), Some(count)) = (&mut self.table, &self.count) else {
            return;
        };
        self.drops.collect(out);
        metrics::collect(&mut table.tunnels, self.unix_nanos, out);
        out.push(Family {
            metric: &metrics::TUNNELS,
            series: vec![Series {
                labels: count.clone(),
                value: Value::Gauge(table.used() as f64),
            }],
        });
        let watches = self.namespaces.iter().flat_map(|n| n.watches.values());
        watch::collect(&metrics::WATCH, watches, out);
    }
}

/// What went by unseen says nothing of loss and life.
fn blind(maps: Option<&Maps>, table: Option<&mut Table>, source: &Source, unix_nanos: u64) {
    if let (Some(maps), Some(table)) = (maps, table)
        && let Err(e) = table.blind(maps, source, unix_nanos)
    {
        tracing::warn!("probe tunnel: {e}");
    }
}
