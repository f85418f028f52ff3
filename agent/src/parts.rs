//! What the probes use: the kernel side, and who is who.

use crate::aggregate::{Family, Resource};
use crate::bpf::Engine;
use crate::identity::losses::Losses;
use crate::identity::names::Names;
use crate::identity::place::Place;
use crate::identity::services::Services;
use crate::identity::{Identity, Peers};
use crate::probes::{Context, DeviceDrops};
use crate::record::{Clock, Source};
use std::time::Instant;

/// What the probes use.
pub struct Parts {
    /// The kernel side, if there is one.
    pub engine: Option<Engine>,
    /// Who.
    pub identity: Identity,
    /// To whom.
    pub peers: Peers,
    services: Services,
    place: Option<Place>,
    losses: Losses,
    device_drops: DeviceDrops,
    /// Where all of it comes from.
    pub source: Source,
}

impl Parts {
    /// With these names of containers and peers; it starts at `start`, ns since the epoch.
    pub fn new(engine: Option<Engine>, names: Names, peers: Peers, source: Source, start: u64) -> Self {
        Self {
            losses: Losses::new(start),
            engine,
            services: Services::new(names.kubernetes.clone()),
            place: names.place.clone(),
            identity: Identity::of(names, &source),
            peers,
            device_drops: DeviceDrops::default(),
            source,
        }
    }

    /// Names peers after services, as far as that has changed; tells a recording all that is known if it `is_due`.
    pub fn follow_services(&mut self, is_due: bool) {
        let engine = self.engine.as_mut();
        self.services
            .follow(&mut self.peers, engine, &self.source, is_due);
    }

    /// What all series are about from now on, if the node is somewhere else than before.
    pub fn moved(&mut self, before: &Resource) -> Option<Resource> {
        let now = self.place.as_ref()?.moved(before)?;
        tracing::info!(
            "kubernetes: this node is in region {:?}, zone {:?} from now on",
            now.region,
            now.zone
        );
        self.peers.move_host(&now.region, &now.zone);
        Some(now)
    }

    /// What they say of themselves; a replay, which names nobody, says nothing.
    pub fn collect(&mut self, now: Instant, out: &mut Vec<Family>) {
        if self.source.past().is_none() {
            self.losses.collect(&mut self.identity, now, out);
        }
    }

    /// What a probe is called with at this time; its new series began at `series_start`, ns since the epoch.
    pub fn context(&mut self, clock: &Clock, series_start: u64) -> Context<'_> {
        Context {
            engine: self.engine.as_mut(),
            identity: &mut self.identity,
            peers: &self.peers,
            now: clock.now,
            series_start,
            listened: false,
            last: false,
            device_drops: &mut self.device_drops,
            unix_nanos: clock.unix_nanos,
            boot_to_unix: clock.boot_to_unix,
            source: &self.source,
        }
    }
}
