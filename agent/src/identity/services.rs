//! Peers after Kubernetes' services.

use super::{Change, Peer, Peers};
use crate::bpf::Engine;
use crate::record::Source;
use agent_kube::{Kubernetes, Target};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// The fact that says which peers have come since the start.
const ADDED_PEERS: &str = "added_peers";
/// What the kernel could not take is given to it again after so many ticks.
const AGAIN: u32 = 30;

/// Who says whose an address is.
pub struct Services {
    kubernetes: Option<Kubernetes>,
    /// What the kernel's trie did not take: such an address has the name of the prefix that covers it.
    failed: HashMap<IpAddr, Option<Target>>,
    /// Addresses whose loss has been counted: they are `other`, or the trie has not taken them.
    counted: [HashSet<IpAddr>; 2],
    /// Ticks until what failed is tried again.
    left: u32,
    is_told: bool,
}

impl Services {
    /// Nobody without Kubernetes.
    pub fn new(kubernetes: Option<Kubernetes>) -> Self {
        Self {
            kubernetes,
            failed: HashMap::new(),
            counted: Default::default(),
            left: AGAIN,
            is_told: false,
        }
    }

    /// Names the addresses that have changed, here and in the kernel's trie. A connection that is open keeps the peer that it
    /// began with. A recording is told of new peers, and of all when it `is_due`; a replay is told them by it.
    pub fn follow(
        &mut self,
        peers: &mut Peers,
        mut engine: Option<&mut Engine>,
        source: &Source,
        is_due: bool,
    ) {
        if let Source::Recorded(past) = source {
            if let Some(added) = past.fact(ADDED_PEERS) {
                peers.restore(added);
            }
            return;
        }
        let Some(kubernetes) = &self.kubernetes else {
            return;
        };
        let before = peers.added().len();
        let mut take = |change: Change| match engine.as_deref_mut() {
            Some(engine) => engine.change_peer(change).map_err(|e| e.to_string()),
            None => Ok(()),
        };
        self.change(peers, kubernetes.changes(), &mut take);
        let added = peers.added();
        if added.len() != before || is_due && before > 0 {
            source.tell(ADDED_PEERS, || {
                added.iter().map(|peer| &**peer).collect::<Vec<_>>()
            });
        }
    }

    /// `take` writes to the kernel's trie. Names that it does not take are counted, and taken away here as well.
    fn change(
        &mut self,
        peers: &mut Peers,
        changes: Vec<(IpAddr, Option<Target>)>,
        take: &mut dyn FnMut(Change) -> Result<(), String>,
    ) {
        self.left = self.left.saturating_sub(1);
        let mut all = HashMap::new();
        if self.left == 0 {
            (all, self.left) = (std::mem::take(&mut self.failed), AGAIN);
        }
        for (address, target) in changes {
            self.failed.remove(&address);
            all.insert(address, target);
        }
        if all.is_empty() {
            return;
        }
        let (mut others, mut lost, mut unnamed) = (0, 0, 0);
        let mut trouble = None;
        let [is_other, is_refused] = &mut self.counted;
        // Those that go first: they make room for those that come.
        let (come, go): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, target)| target.is_some());
        for (address, target) in go.into_iter().chain(come) {
            let refused = peers.refused();
            let change = peers.name(address, target.as_ref().map(peer));
            others += count(is_other, address, peers.refused() > refused);
            let taken = change.map_or(Ok(()), &mut *take);
            lost += count(is_refused, address, taken.is_err() && target.is_some());
            let Err(e) = taken else { continue };
            (unnamed, trouble) = (unnamed + 1, Some(e));
            if target.is_some() {
                // Here and there the same; what it was before is nobody's either.
                if let Some(change) = peers.name(address, None) {
                    let _ = take(change);
                }
                self.failed.insert(address, target);
            } else {
                lost += 1;
            }
        }
        if let Some(e) = trouble {
            if !std::mem::replace(&mut self.is_told, true) {
                tracing::error!(
                    "{e}; {unnamed} addresses of services have no names for now, and are tried again"
                );
            }
        } else if self.failed.is_empty() {
            self.is_told = false;
        }
        if let Some(kubernetes) = &self.kubernetes {
            for (what, count) in [("peers", others), ("trie", lost)] {
                if count > 0 {
                    kubernetes.refuse(what, count);
                }
            }
        }
    }
}

/// 1 if this address is lost and was not before. Trying again is no other loss.
fn count(counted: &mut HashSet<IpAddr>, address: IpAddr, is_lost: bool) -> u64 {
    if is_lost {
        u64::from(counted.insert(address))
    } else {
        counted.remove(&address);
        0
    }
}

fn peer(target: &Target) -> Peer {
    Peer {
        name: target.service.to_string(),
        region: target.region.to_string(),
        zone: target.zone.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn target(service: &str) -> Option<Target> {
        Some(Target {
            service: service.into(),
            zone: "z".into(),
            region: "r".into(),
        })
    }

    #[test]
    fn a_full_trie_loses_names_but_counts_them_and_tries_again() {
        let kubernetes = Kubernetes::of([]);
        let mut services = Services::new(Some(kubernetes.clone()));
        let mut peers = Peers::new(&[], "", "").unwrap();
        let mut trie: HashSet<[u8; 16]> = HashSet::new();
        let mut room = 2;
        let at = |n: u8| IpAddr::from([10, 0, 0, n]);
        let mut step = |services: &mut Services, room: usize, changes: Vec<(IpAddr, Option<Target>)>| {
            let mut take = |change: Change| match change {
                Change::Put(p) if trie.len() < room || trie.contains(&p.address) => {
                    trie.insert(p.address);
                    Ok(())
                }
                Change::Put(_) => Err("map PEERS: no space".to_owned()),
                Change::Remove(p) => trie
                    .remove(&p.address)
                    .then_some(())
                    .ok_or("not there".to_owned()),
            };
            services.change(&mut peers, changes, &mut take);
            let named = |n| peers.get(peers.lookup(at(n))).name.clone();
            ([named(1), named(2), named(3)], trie.len())
        };
        let changes = vec![(at(1), target("a")), (at(2), target("b"))];
        assert_eq!(
            step(&mut services, room, changes),
            (["a", "b", "private"].map(str::to_owned), 2)
        );
        // One goes and one comes, in whatever order: there is room.
        let changes = vec![(at(3), target("c")), (at(1), None)];
        assert_eq!(
            step(&mut services, room, changes),
            (["private", "b", "c"].map(str::to_owned), 2)
        );
        assert!(!kubernetes.status().refused.contains_key("trie"));
        let (names, len) = step(&mut services, room, vec![(at(1), target("a"))]);
        assert_eq!((names, len), (["private", "b", "c"].map(str::to_owned), 2));
        assert_eq!(kubernetes.status().refused["trie"], 1);
        // It is tried again, and is the same loss; so it is with another name.
        for _ in 0..2 * AGAIN {
            step(&mut services, room, Vec::new());
        }
        step(&mut services, room, vec![(at(1), target("a2"))]);
        step(&mut services, room, vec![(at(1), target("a"))]);
        assert_eq!(kubernetes.status().refused["trie"], 1);
        room = 3;
        for _ in 0..AGAIN {
            step(&mut services, room, Vec::new());
        }
        let (names, _) = step(&mut services, room, Vec::new());
        assert_eq!(names, ["a", "b", "c"].map(str::to_owned));
        assert_eq!(kubernetes.status().refused["trie"], 1);
        // It goes and is lost anew.
        step(&mut services, 2, vec![(at(1), None)]);
        step(&mut services, 2, vec![(at(1), target("a"))]);
        assert_eq!(kubernetes.status().refused["trie"], 2);
    }

    #[test]
    fn when_there_are_too_many_peers_the_rest_is_other() {
        let kubernetes = Kubernetes::of([]);
        let mut services = Services::new(Some(kubernetes.clone()));
        let mut peers = Peers::new(&[], "", "").unwrap();
        let at = |n: u32| IpAddr::from((0x0a00_0000 + n).to_be_bytes());
        let many = 65_600;
        let changes = (0..many).map(|n| (at(n), target(&format!("s{n}")))).collect();
        services.change(&mut peers, changes, &mut |_| Ok(()));
        assert_eq!(peers.all().len(), 65_536);
        let others = (0..many)
            .filter(|n| peers.get(peers.lookup(at(*n))).name == "other")
            .count();
        // There are five without them: nobody, loopback, private, public, and other itself.
        assert_eq!(others, 65_600 - (65_536 - 5));
        assert_eq!(kubernetes.status().refused["peers"], others as u64);
        // One of them with another name is the same loss.
        let one = (0..many).find(|n| peers.get(peers.lookup(at(*n))).name == "other");
        let again = vec![(at(one.unwrap()), target("another"))];
        services.change(&mut peers, again, &mut |_| Ok(()));
        assert_eq!(kubernetes.status().refused["peers"], others as u64);
    }
}
