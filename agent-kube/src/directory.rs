//! Whose an address is: the service that has it, or one of whose endpoints has it. Pure: objects in, changes of names out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Most addresses that are known.
pub const MAX_ADDRESSES: usize = 16_384;
/// Most objects that may name one address; one that more name has no name.
const MAX_CLAIMS: usize = 16;
/// Most claims of all.
const MAX_ALL_CLAIMS: usize = 2 * MAX_ADDRESSES;
/// Most zones.
const MAX_ZONES: usize = 256;
/// Most pods of the own node that are known to be behind services, each once for each of its slices.
pub const MAX_MEMBERS: usize = 4096;
/// So many nodes of a zone are asked where it is, if they do not say.
const MAX_TRIED: usize = 16;

/// Which kind of object names an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum By {
    /// A service.
    Service,
    /// An EndpointSlice.
    Slice,
}

/// What an object says of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// `namespace/name` of the service.
    pub service: Arc<str>,
    /// Whether the service has no address of its own. One that has names its endpoints rather.
    pub is_headless: bool,
    /// Zone of the endpoint; empty = not known, or the service's own address.
    pub zone: Arc<str>,
    /// Node of the endpoint; empty = not known.
    pub node: Arc<str>,
    /// UID of the pod behind it; empty = none.
    pub pod: Arc<str>,
    /// `namespace/name` of that pod.
    pub pod_name: Arc<str>,
}

impl Claim {
    fn namespace(&self) -> Option<&str> {
        self.service.split_once('/').map(|(namespace, _)| namespace)
    }
}

/// Whom a connection to a service really reaches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// `namespace/name` of the service.
    pub service: Arc<str>,
    /// `namespace/name` of the pod; the address of an endpoint that is no pod.
    pub pod: Arc<str>,
    /// Zone; empty = not known.
    pub zone: Arc<str>,
    /// Region of the zone; empty = not known.
    pub region: Arc<str>,
}

/// Whose an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `namespace/name` of the service.
    pub service: Arc<str>,
    /// Zone; empty = not known.
    pub zone: Arc<str>,
    /// Region of the zone; empty = not known.
    pub region: Arc<str>,
}

type Key = (By, Arc<str>);

/// What an object names.
#[derive(Debug, Default)]
struct Object {
    taken: Vec<IpAddr>,
    /// Where others are already.
    refused: HashSet<IpAddr>,
    /// That it was last seen in.
    listing: u64,
}

/// Addresses by the objects that name them.
#[derive(Debug, Default)]
pub struct Directory {
    /// By kind and UID.
    objects: HashMap<Key, Object>,
    claims: HashMap<IpAddr, Vec<(Key, Claim)>>,
    /// How many there are.
    all: usize,
    /// Addresses that more objects name than are kept, and of the kinds that were refused the listing that has shown it: whoever
    /// of them came first would else be taken for the one that has it. Only a listing of the same kind takes that back.
    crowded: HashMap<IpAddr, [Option<u64>; 2]>,
    /// How many refused ones objects remember.
    waiting: usize,
    /// Of services and of slices, which are listed apart.
    listings: [u64; 2],
    /// Whether some of them found no room since their last listing.
    starved: [bool; 2],
    /// Whether one of them was refused an address that is crowded no more.
    relieved: [bool; 2],
    zones: BTreeMap<Arc<str>, Zone>,
    /// The own node, whose pods are [`Self::members`]; empty = nobody asks for them.
    pub node: Arc<str>,
    /// By UID of a slice.
    members: HashMap<Arc<str>, Members>,
    /// What may have changed since it was told.
    dirty: BTreeSet<IpAddr>,
    told: HashMap<IpAddr, Target>,
    /// Addresses that found no room, or that more objects name than are kept.
    pub refused: u64,
    /// Zones that found no room: their peers have no region.
    pub refused_zones: u64,
    /// Members that found no room.
    pub refused_members: u64,
}

/// Who is behind a service, by one of its slices.
#[derive(Debug)]
struct Members {
    service: Arc<str>,
    /// UIDs of pods of the own node.
    pods: Vec<Arc<str>>,
}

#[derive(Debug)]
struct Zone {
    /// The one of its nodes that is asked next, whose labels have the region; `None` = nobody is to be asked.
    ask: Option<Arc<str>>,
    /// Those that did not say, or are gone.
    tried: Vec<Arc<str>>,
    /// What is known until another answer comes.
    region: Option<Arc<str>>,
}

impl Directory {
    /// All of this kind will be named anew.
    pub fn list(&mut self, by: By) {
        self.listings[by as usize] += 1;
        self.starved[by as usize] = false;
        self.relieved[by as usize] = false;
    }

    /// Whether there is room again for what found none: then it has to be listed anew. Says so once.
    pub fn has_room_again(&mut self, by: By) -> bool {
        let has_eighth = |count: usize, most: usize| count <= most - most / 8;
        let is_enough = has_eighth(self.claims.len(), MAX_ADDRESSES) && has_eighth(self.all, MAX_ALL_CLAIMS);
        let is_relieved = std::mem::take(&mut self.relieved[by as usize]);
        is_relieved || is_enough && std::mem::take(&mut self.starved[by as usize])
    }

    /// All have been named: those that were not are gone.
    pub fn listed(&mut self, by: By) {
        let listing = self.listings[by as usize];
        let of_before =
            |(key, object): (&Key, &Object)| (key.0 == by && object.listing < listing).then(|| key.1.clone());
        let gone: Vec<Arc<str>> = self.objects.iter().filter_map(of_before).collect();
        for uid in gone {
            self.set(by, &uid, Vec::new());
        }
        let dirty = &mut self.dirty;
        self.crowded.retain(|address, seen| {
            seen[by as usize] = seen[by as usize].filter(|seen| *seen == listing);
            let stays = *seen != [None; 2];
            if !stays {
                dirty.insert(*address);
            }
            stays
        });
    }

    /// An object is there, or has changed; without claims it is gone, or names nothing.
    pub fn set(&mut self, by: By, uid: &str, claims: Vec<Claim>) {
        let key: Key = (by, uid.into());
        let before = self.objects.remove(&key).unwrap_or_default();
        self.waiting -= before.refused.len();
        for address in &before.taken {
            if let Some(known) = self.claims.get_mut(address) {
                let count = known.len();
                known.retain(|(of, _)| *of != key);
                self.all -= count - known.len();
                if known.is_empty() {
                    self.claims.remove(address);
                }
            }
            self.dirty.insert(*address);
        }
        let has_members = by == By::Slice && self.set_members(&key.1, &claims);
        let mut object = Object {
            listing: self.listings[by as usize],
            ..Object::default()
        };
        for claim in claims {
            let is_known = self.claims.contains_key(&claim.address);
            let known = self.claims.get(&claim.address).map_or(0, Vec::len);
            let is_full = !is_known && self.claims.len() >= MAX_ADDRESSES || self.all >= MAX_ALL_CLAIMS;
            if known >= MAX_CLAIMS || is_full {
                self.refused += 1;
                self.starved[by as usize] |= is_full;
                if is_known {
                    self.crowd(claim.address, by);
                    if self.waiting < MAX_ALL_CLAIMS && object.refused.insert(claim.address) {
                        self.waiting += 1;
                    }
                }
                continue;
            }
            self.all += 1;
            self.meet(&claim);
            self.dirty.insert(claim.address);
            object.taken.push(claim.address);
            let claims = self.claims.entry(claim.address).or_default();
            claims.push((key.clone(), claim));
        }
        self.relieve(by, &before, &object);
        if !object.taken.is_empty() || !object.refused.is_empty() || has_members {
            self.objects.insert(key, object);
        }
    }

    /// Remembers whom of the own node a slice names, also where an address has no room for another claim: many a pod has the
    /// node's. Returns whether there are any.
    fn set_members(&mut self, uid: &Arc<str>, claims: &[Claim]) -> bool {
        self.members.remove(uid);
        let is_own =
            |claim: &&Claim| *claim.node == *self.node && !claim.node.is_empty() && !claim.pod.is_empty();
        let own: BTreeSet<&Arc<str>> = claims.iter().filter(is_own).map(|claim| &claim.pod).collect();
        let Some(first) = claims.first().filter(|_| !own.is_empty()) else {
            return false;
        };
        let held: usize = self.members.values().map(|members| members.pods.len()).sum();
        let pods: Vec<_> = own
            .iter()
            .take(MAX_MEMBERS - held)
            .map(|pod| (*pod).clone())
            .collect();
        self.refused_members += (own.len() - pods.len()) as u64;
        if pods.is_empty() {
            return false;
        }
        self.members.insert(
            uid.clone(),
            Members {
                service: first.service.clone(),
                pods,
            },
        );
        true
    }

    /// Services, as `namespace/name`, and the UIDs of the own node's pods behind them, as the slices say.
    pub fn members(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        let all = self.members.values();
        all.flat_map(|members| members.pods.iter().map(move |pod| (&members.service, pod)))
    }

    /// More name this address than are kept, one of this kind among them.
    fn crowd(&mut self, address: IpAddr, by: By) {
        // Of those that nobody claims any more there are few, unless somebody makes them.
        if self.crowded.len() >= 2 * MAX_ADDRESSES {
            let claims = &self.claims;
            self.crowded.retain(|address, _| claims.contains_key(address));
        }
        self.crowded.entry(address).or_default()[by as usize] = Some(self.listings[by as usize]);
        self.dirty.insert(address);
    }

    /// An object has changed: who was refused what it no longer names has to be named anew.
    fn relieve(&mut self, by: By, before: &Object, now: &Object) {
        for address in before.taken.iter().chain(&before.refused) {
            let Some(seen) = self.crowded.get(address) else {
                continue;
            };
            let has_room = self.claims.get(address).map_or(0, Vec::len) < MAX_CLAIMS;
            let is_gone = before.refused.contains(address) && !now.refused.contains(address);
            for kind in [By::Service, By::Slice] {
                // What an older listing has shown is shown or taken back by the one under way.
                let is_crowded = seen[kind as usize] == Some(self.listings[kind as usize]);
                if is_crowded && (has_room || is_gone && kind == by) {
                    self.relieved[kind as usize] = true;
                }
            }
        }
    }

    /// A node that is to be asked for the region of a zone: zone and node.
    pub fn unknown_zone(&self) -> Option<(Arc<str>, Arc<str>)> {
        let mut open = self.zones.iter();
        open.find_map(|(name, zone)| Some((name.clone(), zone.ask.clone()?)))
    }

    /// What the node said; `None` = it is not there, or in another zone: then another one of the zone is asked.
    pub fn set_region(&mut self, name: &str, region: Option<&str>) {
        let Some(zone) = self.zones.get_mut(name) else {
            return;
        };
        let Some(region) = region else {
            zone.tried.extend(zone.ask.take());
            if zone.tried.len() < MAX_TRIED {
                let claims = self.claims.values().flatten().map(|(_, claim)| claim);
                let mut others = claims.filter(|claim| *claim.zone == *name && !claim.node.is_empty());
                zone.ask = others
                    .find(|claim| !zone.tried.contains(&claim.node))
                    .map(|claim| claim.node.clone());
            }
            return;
        };
        (zone.ask, zone.tried) = (None, Vec::new());
        if zone.region.as_deref() == Some(region) {
            return;
        }
        zone.region = Some(region.into());
        let of_zone = self
            .claims
            .iter()
            .filter(|(_, claims)| claims.iter().any(|(_, claim)| *claim.zone == *name));
        self.dirty.extend(of_zone.map(|(address, _)| *address));
    }

    /// Asks for the region of each zone anew, of nodes that are there by now, and forgets zones that nobody is in.
    pub fn renew_zones(&mut self) {
        let mut nodes: BTreeMap<&Arc<str>, &Arc<str>> = BTreeMap::new();
        for (_, claim) in self.claims.values().flatten() {
            if !claim.zone.is_empty() && !claim.node.is_empty() {
                nodes.entry(&claim.zone).or_insert(&claim.node);
            }
        }
        self.zones.retain(|name, zone| {
            zone.tried.clear();
            zone.ask = nodes.get(name).map(|node| (*node).clone());
            zone.ask.is_some()
        });
        for (name, node) in nodes {
            if self.zones.len() < MAX_ZONES && !self.zones.contains_key(name) {
                self.zones.insert(name.clone(), Zone::new(node));
            }
        }
    }

    /// Who is reached by a connection to a service's address that NAT sends `to` an endpoint; `None` = the one is no service's
    /// address, or the other none of its endpoints, or it may be one of several services.
    pub fn behind(&self, address: &IpAddr, to: &IpAddr) -> Option<Backend> {
        let of = |address, by| {
            let claims = self.claims.get(address).into_iter().flatten();
            claims.filter_map(move |((is, _), claim)| (*is == by).then_some(claim))
        };
        // Whoever came first of too many need not be the one that has it.
        if self.crowded.contains_key(address) || self.crowded.contains_key(to) {
            return None;
        }
        // Several services have one address if they differ by port, as behind one load balancer.
        let is_its = |claim: &&Claim| of(address, By::Service).any(|known| known.service == claim.service);
        let mut endpoints = of(to, By::Slice).filter(is_its);
        let endpoint = endpoints.next()?;
        if endpoints.any(|other| other.service != endpoint.service) {
            return None;
        }
        let region = self
            .zones
            .get(&endpoint.zone)
            .and_then(|zone| zone.region.clone());
        Some(Backend {
            service: endpoint.service.clone(),
            pod: match &endpoint.pod_name {
                name if name.is_empty() => to.to_string().into(),
                name => name.clone(),
            },
            zone: endpoint.zone.clone(),
            region: region.unwrap_or_default(),
        })
    }

    /// What has changed since the last call: addresses, and whose they are now; `None` = nobody's.
    pub fn take(&mut self) -> Vec<(IpAddr, Option<Target>)> {
        let mut changes = Vec::new();
        for address in std::mem::take(&mut self.dirty) {
            let target = self.find(&address);
            let before = match &target {
                Some(target) => self.told.insert(address, target.clone()),
                None => self.told.remove(&address),
            };
            if before != target {
                changes.push((address, target));
            }
        }
        changes
    }

    /// Addresses that are known.
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    fn find(&self, address: &IpAddr) -> Option<Target> {
        if self.crowded.contains_key(address) {
            return None;
        }
        let claims = self.claims.get(address)?;
        let first = claims.iter().min_by_key(|((by, _), claim)| {
            // `db` rather than `db-metrics`.
            (*by, claim.is_headless, claim.service.len(), claim.service.clone())
        });
        let (_, claim) = first?;
        // Several have one address if it is the node's, as of pods in its network and of load balancers without addresses of
        // their own: what else is there is none of theirs. A pod has services in its namespace only; who says otherwise may
        // write EndpointSlices in his own, and knows the UID of another's pod.
        let agrees = |other: &Claim| {
            let is_same_pod = other.pod == claim.pod && !claim.pod.is_empty();
            other.service == claim.service || is_same_pod && other.namespace() == claim.namespace()
        };
        if !claims.iter().all(|(_, other)| agrees(other)) {
            return None;
        }
        let region = self.zones.get(&claim.zone).and_then(|zone| zone.region.clone());
        Some(Target {
            service: claim.service.clone(),
            zone: claim.zone.clone(),
            region: region.unwrap_or_default(),
        })
    }

    fn meet(&mut self, claim: &Claim) {
        if claim.zone.is_empty() || claim.node.is_empty() {
            return;
        }
        let has_room = self.zones.len() < MAX_ZONES;
        match self.zones.get_mut(&claim.zone) {
            Some(zone) => {
                let is_wanted = zone.ask.is_none() && zone.region.is_none() && zone.tried.len() < MAX_TRIED;
                if is_wanted && !zone.tried.contains(&claim.node) {
                    zone.ask = Some(claim.node.clone());
                }
            }
            None if has_room => {
                self.zones.insert(claim.zone.clone(), Zone::new(&claim.node));
            }
            None => self.refused_zones += 1,
        }
    }
}

impl Zone {
    fn new(node: &Arc<str>) -> Self {
        Self {
            ask: Some(node.clone()),
            tried: Vec::new(),
            region: None,
        }
    }
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
