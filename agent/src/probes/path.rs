//! Probe `path`: the way to the peers.
//!
//! | source | gives | costs |
//! |---|---|---|
//! | `tcp_probe`, where it flushes counters (once a second per connection at most) | hop count, path MTU, congestion marks, changes of the route | no hook, no packet |
//! | programs on devices that the configuration names; see `forwarded` | round-trip times of connections that are only forwarded | a look at each packet of these devices |
//! | a thread that sends probes, to peers that the configuration names | latency and loss of each hop, who the routers are | three packets a hop and interval, all of one flow |
//!
//! The passive part lies in the rows of the pairs: `other` takes what finds no row, as for everything else there. A
//! route change is a change *inside one connection*, seen twice: connections to the same peer may go different ways for
//! good (several addresses, routers that balance by flow), and that is none. What a change of the way leaves at the same
//! hop count only the active part can see.

mod active;
mod forwarded;
mod history;
mod metrics;
mod packet;
mod sockets;
pub mod target;
mod trace;

pub use metrics::{METRICS, passive};

use super::{Context, Probe};
use crate::aggregate::Family;
use crate::config::{Glob, PathProtocol};
use crate::error::Result;
use crate::probes::tcp::flow::address;
use crate::records::{Record, RouteChange};
use active::Active;
use agent_common::path::{RouteRecord, hops};
use agent_common::wire::{Wire as _, kind};
use forwarded::Forwarded;
use std::time::Duration;
use target::Target;

/// Route changes of a second that are told apart; those beyond are told together.
const APART: usize = 32;

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses to which probes are sent; empty = none are.
    pub targets: Vec<Target>,
    /// Time between two traces of a target.
    pub interval: Duration,
    /// What is sent.
    pub protocol: PathProtocol,
    /// Destination port.
    pub port: u16,
    /// Devices on which forwarded connections are measured.
    pub devices: Vec<Glob>,
    /// Most series of those; what is beyond goes to `other`.
    pub max_series: usize,
}

/// The probe.
pub struct Path {
    active: Option<Active>,
    forwarded: Option<Forwarded>,
    options: Options,
    /// Changes since the last tick. When a router fails, all connections change at once: they are told by pair.
    changes: Vec<RouteChange>,
}

impl Path {
    /// A probe that does nothing yet.
    pub fn new(options: Options) -> Self {
        Self {
            active: None,
            forwarded: None,
            options,
            changes: Vec::new(),
        }
    }

    fn note(&mut self, change: RouteChange) {
        let same = |c: &&mut RouteChange| {
            c.subject == change.subject
                && c.peer == change.peer
                && (c.hops_before, c.hops_after) == (change.hops_before, change.hops_after)
        };
        if let Some(known) = self.changes.iter_mut().find(same) {
            known.connections += change.connections;
        } else if self.changes.len() < APART {
            self.changes.push(change);
        } else if let Some(other) = self.changes.iter_mut().find(|c| c.peer == "other") {
            other.connections += change.connections;
        } else {
            self.changes.push(RouteChange {
                subject: "other".into(),
                peer: "other".into(),
                peer_region: String::new(),
                peer_zone: String::new(),
                remote: None,
                hops_before: None,
                hops_after: None,
                ..change
            });
        }
    }
}

impl Probe for Path {
    fn name(&self) -> &'static str {
        "path"
    }

    fn accounts(&self) -> &'static [usize] {
        if self.forwarded.is_some() {
            forwarded::ACCOUNTS
        } else {
            &[]
        }
    }

    fn attach(&mut self, context: &mut Context<'_>) -> Result<()> {
        if !self.options.targets.is_empty() {
            let active = Active::start(&self.options, context.source, context.series_start)?;
            self.active = Some(active);
        }
        let begin = (context.now, context.series_start);
        if let Some(engine) = context.engine.as_deref_mut()
            && !self.options.devices.is_empty()
        {
            let (devices, most) = (&self.options.devices, self.options.max_series);
            self.forwarded = Some(Forwarded::start(devices, most, engine, context.source, begin)?);
        }
        Ok(())
    }

    fn kinds(&self) -> &'static [u8] {
        &[kind::ROUTE]
    }

    fn record(&mut self, _kind: u8, bytes: &[u8], context: &mut Context<'_>) -> Option<Option<Record>> {
        let r = RouteRecord::decode(bytes)?;
        let peer = context.peers.get(r.peer);
        let change = RouteChange {
            time: r.time.wrapping_add(context.boot_to_unix) as f64 / 1e9,
            source: "passive".into(),
            subject: context.identity.subject(&r.subject, &r.comm).label.clone(),
            peer: peer.name.clone(),
            peer_region: peer.region.clone(),
            peer_zone: peer.zone.clone(),
            remote: Some(address(r.remote, 0).ip()),
            connections: 1,
            hops_before: Some(hops(r.before)),
            hops_after: Some(hops(r.after)),
            before: Vec::new(),
            after: Vec::new(),
        };
        self.note(change);
        // Told at the next tick, with those of the same second.
        Some(None)
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        if let Some(active) = &mut self.active {
            self.changes
                .extend(active.take(context.source, context.series_start));
        }
        if let Some(forwarded) = &mut self.forwarded {
            forwarded.tick(context);
        }
    }

    fn route_changes(&mut self) -> Vec<RouteChange> {
        let changes = std::mem::take(&mut self.changes);
        for change in &changes {
            tracing::info!("{change}");
        }
        changes
    }

    fn relieve(&mut self, level: u32, context: &mut Context<'_>) {
        if let Some(forwarded) = &mut self.forwarded {
            forwarded.relieve(level, context);
        }
    }

    fn collect(&mut self, out: &mut Vec<Family>) {
        if let Some(active) = &self.active {
            metrics::active(active, out);
        }
        if let Some(forwarded) = &self.forwarded {
            forwarded.collect(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(peer: usize) -> RouteChange {
        RouteChange {
            source: "passive".into(),
            subject: "s".into(),
            peer: format!("p{peer}"),
            connections: 1,
            hops_before: Some(1),
            hops_after: Some(2),
            ..RouteChange::default()
        }
    }

    #[test]
    fn a_storm_of_changes_is_told_in_few_records_and_none_is_lost() {
        let mut path = Path::new(Options {
            targets: Vec::new(),
            interval: Duration::from_secs(60),
            protocol: PathProtocol::Udp,
            port: 33_434,
            devices: Vec::new(),
            max_series: 16,
        });
        for i in 0..10_000 {
            path.note(change(i % 100));
        }
        let told = path.route_changes();
        assert_eq!(told.len(), APART + 1);
        let connections: u64 = told.iter().map(|c| c.connections).sum();
        assert_eq!(connections, 10_000);
        assert!(path.route_changes().is_empty());
    }
}
