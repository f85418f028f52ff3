//! Peers after Kubernetes' services.

use super::{Peer, Peers};
use crate::bpf::Engine;
use crate::record::Source;
use agent_kube::{Kubernetes, Target};

/// The fact that says which peers have come since the start.
const ADDED_PEERS: &str = "added_peers";

/// Who says whose an address is.
pub struct Services(Option<Kubernetes>);

impl Services {
    /// Nobody without Kubernetes.
    pub fn new(kubernetes: Option<Kubernetes>) -> Self {
        Self(kubernetes)
    }

    /// Names the addresses that have changed, here and in the kernel's trie. A connection that is open keeps the peer that it
    /// began with. A recording is told of new peers, and of all when it `is_due`; a replay is told them by it.
    pub fn follow(&self, peers: &mut Peers, mut engine: Option<&mut Engine>, source: &Source, is_due: bool) {
        if let Source::Recorded(past) = source {
            if let Some(added) = past.fact(ADDED_PEERS) {
                peers.restore(added);
            }
            return;
        }
        let Some(kubernetes) = &self.0 else { return };
        let (before, mut failed) = (peers.added().len(), None);
        for (address, target) in kubernetes.changes() {
            let change = peers.name(address, target.as_ref().map(peer));
            if let (Some(change), Some(engine)) = (change, engine.as_deref_mut()) {
                failed = engine.change_peer(change).err().or(failed);
            }
        }
        if let Some(e) = failed {
            tracing::error!("{e}; addresses of services have no names");
        }
        let added = peers.added();
        if added.len() != before || is_due && before > 0 {
            source.tell(ADDED_PEERS, || {
                added.iter().map(|peer| &**peer).collect::<Vec<_>>()
            });
        }
    }
}

fn peer(target: &Target) -> Peer {
    Peer {
        name: target.service.to_string(),
        region: target.region.to_string(),
        zone: target.zone.to_string(),
    }
}
