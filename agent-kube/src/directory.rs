//! Whose an address is: the service that has it, or one of whose endpoints has it, else the pod. Pure: objects in, changes of names
//! out.

use crate::zones::Zones;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Most addresses that are known.
pub const MAX_ADDRESSES: usize = 16_384;
/// As long as there are fewer, pods get one that nobody has: services, who come first, have the rest for themselves.
pub const MAX_BY_PODS: usize = MAX_ADDRESSES / 4 * 3;
/// Most objects that may name one address; one that more name has no name.
const MAX_CLAIMS: usize = 16;
/// Most claims of all.
const MAX_ALL_CLAIMS: usize = 2 * MAX_ADDRESSES;
/// Most pods of the own node that are known to be behind services, each once for each of its slices.
pub const MAX_MEMBERS: usize = 4096;

/// Which kind of object names an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum By {
    /// A service.
    Service,
    /// An EndpointSlice.
    Slice,
    /// A pod: it names what no service does.
    Pod,
}

impl By {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Service, Self::Slice, Self::Pod];

    /// Most addresses of all of which it may take one more.
    fn most(self) -> usize {
        match self {
            Self::Service | Self::Slice => MAX_ADDRESSES,
            Self::Pod => MAX_BY_PODS,
        }
    }

    /// Most claims of all of which it may make one more.
    fn most_claims(self) -> usize {
        2 * self.most()
    }
}

/// What an object says of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// `namespace/name` of the service, or of a pod's workload.
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
    /// Of pods that say of one address that it is theirs, the greatest has it: whether nobody ends it, and when it was made.
    pub rank: (bool, u64),
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
    /// `namespace/name` of the service, or of the endpoint's pod; of a pod behind none that of its workload, or its own.
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
    crowded: HashMap<IpAddr, [Option<u64>; By::ALL.len()]>,
    /// How many refused ones objects remember.
    waiting: usize,
    /// Of each kind, which are listed apart.
    listings: [u64; By::ALL.len()],
    /// Whether some of them found no room since their last listing.
    starved: [bool; By::ALL.len()],
    /// Whether one of them was refused an address that is crowded no more.
    relieved: [bool; By::ALL.len()],
    pub(crate) zones: Zones,
    /// Whether a pod is called by its own name rather than its workload's.
    pub names_pods: bool,
    /// Whether an endpoint is called by its pod's name rather than its service's.
    pub names_endpoints: bool,
    /// The own node, whose pods are [`Self::members`]; empty = nobody asks for them.
    pub node: Arc<str>,
    /// By UID of a slice.
    members: HashMap<Arc<str>, Members>,
    /// What may have changed since it was told.
    dirty: BTreeSet<IpAddr>,
    told: HashMap<IpAddr, Target>,
    /// Addresses that found no room, or that more objects name than are kept.
    pub refused: u64,
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
        let is_enough = has_eighth(self.claims.len(), by.most()) && has_eighth(self.all, by.most_claims());
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
            let stays = *seen != [None; By::ALL.len()];
            if !stays {
                dirty.insert(*address);
            }
            stays
        });
    }

    /// An object is there, or has changed; without claims it is gone, or names nothing.
    pub fn set(&mut self, by: By, uid: &str, claims: Vec<Claim>) {
        let key: Key = (by, uid.into());
        if by == By::Pod && self.says_the_same(&key, &claims) {
            return;
        }
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
            let is_full = !is_known && self.claims.len() >= by.most() || self.all >= by.most_claims();
            if known >= MAX_CLAIMS || is_full {
                self.refused += 1;
                self.starved[by as usize] |= is_full;
                // Without a pod's word its address is still its service's.
                if is_known && (by != By::Pod || known >= MAX_CLAIMS) {
                    self.crowd(claim.address, by);
                    if self.waiting < MAX_ALL_CLAIMS && object.refused.insert(claim.address) {
                        self.waiting += 1;
                    }
                }
                continue;
            }
            self.all += 1;
            self.zones.meet(&claim);
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

    /// Whether a pod says what it has said before, as most of its updates do: then nothing is touched.
    fn says_the_same(&mut self, key: &Key, claims: &[Claim]) -> bool {
        let Some(object) = self.objects.get_mut(key) else {
            return claims.is_empty();
        };
        let is_known = |claim: &Claim| {
            let known = self.claims.get(&claim.address).into_iter().flatten();
            known.into_iter().any(|(of, said)| of == key && said == claim)
        };
        let is_same = object.refused.is_empty()
            && object.taken.len() == claims.len()
            && object
                .taken
                .iter()
                .zip(claims)
                .all(|(address, claim)| *address == claim.address)
            && claims.iter().all(is_known);
        if is_same {
            object.listing = self.listings[key.0 as usize];
        }
        is_same
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
            for kind in By::ALL {
                // What an older listing has shown is shown or taken back by the one under way.
                let is_crowded = seen[kind as usize] == Some(self.listings[kind as usize]);
                if is_crowded && (has_room || is_gone && kind == by) {
                    self.relieved[kind as usize] = true;
                }
            }
        }
    }

    /// A node that is to be asked for the region of a zone: zone and node.
    pub fn unknown_zone(&self, last: &str) -> Option<(Arc<str>, Arc<str>)> {
        self.zones.unknown(last)
    }

    /// What the node said; `None` = it is not there, or in another zone: then another one of the zone is asked.
    pub fn set_region(&mut self, name: &str, region: Option<&str>) {
        let claims = self.claims.values().flatten().map(|(_, claim)| claim);
        if !self.zones.set_region(name, region, claims) {
            return;
        }
        let zones = &self.zones;
        let is_there = |(_, claim): &(Key, Claim)| *zones.of(claim) == *name;
        let of_zone = self
            .claims
            .iter()
            .filter(|(_, claims)| claims.iter().any(is_there));
        self.dirty.extend(of_zone.map(|(address, _)| *address));
    }

    /// Asks for the region of each zone anew, of nodes that are there by now, and forgets zones that nobody is in.
    pub fn renew_zones(&mut self) {
        self.zones
            .renew(self.claims.values().flatten().map(|(_, claim)| claim));
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
        Some(Backend {
            service: endpoint.service.clone(),
            pod: match &endpoint.pod_name {
                name if name.is_empty() => to.to_string().into(),
                name => name.clone(),
            },
            zone: endpoint.zone.clone(),
            region: self.zones.region(&endpoint.zone),
        })
    }

    /// What has changed since the last call: addresses, and whose they are now; `None` = nobody's.
    pub fn take(&mut self) -> Vec<(IpAddr, Option<Target>)> {
        let moved = self.zones.moved();
        if !moved.is_empty() {
            let is_there = |(_, claim): &(Key, Claim)| claim.zone.is_empty() && moved.contains(&claim.node);
            let there = self
                .claims
                .iter()
                .filter(|(_, claims)| claims.iter().any(is_there));
            self.dirty.extend(there.map(|(address, _)| *address));
        }
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
        let pod = claims
            .iter()
            .filter(|((by, _), _)| *by == By::Pod)
            .map(|(_, claim)| claim);
        // An address may be another pod's before the one that had it is gone.
        let pod = pod.max_by_key(|claim| (claim.rank, &claim.pod));
        // A pod has services in its namespace only; who says otherwise may write EndpointSlices in his own.
        let is_possible = |claim: &Claim| pod.is_none_or(|pod| pod.namespace() == claim.namespace());
        let services = || {
            claims
                .iter()
                .filter(|((by, _), claim)| *by != By::Pod && is_possible(claim))
        };
        let first = services().min_by_key(|((by, _), claim)| {
            // `db` rather than `db-metrics`.
            (*by, claim.is_headless, claim.service.len(), claim.service.clone())
        });
        // Several have one address if it is the node's, as of pods in its network and of load balancers without addresses of
        // their own: what else is there is none of theirs. Of another's pod one may know the UID as well.
        let agree = |claim: &Claim, other: &Claim| {
            let is_same_pod = other.pod == claim.pod && !claim.pod.is_empty();
            other.service == claim.service || is_same_pod && other.namespace() == claim.namespace()
        };
        let service = first.map(|(_, claim)| claim);
        let service = service.filter(|claim| services().all(|(_, other)| agree(claim, other)));
        let claim = service.or(pod)?;
        let is_named = !claim.pod_name.is_empty();
        let name = match service {
            None if self.names_pods => &claim.pod_name,
            Some(_) if self.names_endpoints && is_named => &claim.pod_name,
            _ => &claim.service,
        };
        let zone = self.zones.of(claim);
        Some(Target {
            service: name.clone(),
            region: self.zones.region(&zone),
            zone,
        })
    }
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "directory_pods_tests.rs"]
mod pods_tests;
