//! Whose an address is: the service that has it, or one of whose endpoints has it. Pure: objects in, changes of names out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// Most addresses that are known.
pub const MAX_ADDRESSES: usize = 16_384;
/// Most objects that may name one address.
const MAX_CLAIMS: usize = 16;
/// Most zones.
const MAX_ZONES: usize = 256;

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

/// Addresses by the objects that name them.
#[derive(Debug, Default)]
pub struct Directory {
    /// By kind and UID: the addresses that it names, and the listing that it was last seen in.
    objects: HashMap<Key, (Vec<IpAddr>, u64)>,
    claims: HashMap<IpAddr, Vec<(Key, Claim)>>,
    /// Of services and of slices, which are listed apart.
    listings: [u64; 2],
    zones: BTreeMap<Arc<str>, Zone>,
    /// What may have changed since it was told.
    dirty: BTreeSet<IpAddr>,
    told: HashMap<IpAddr, Target>,
    /// Addresses that found no room.
    pub refused: u64,
}

#[derive(Debug)]
struct Zone {
    /// One of its nodes, whose labels have the region.
    node: Arc<str>,
    region: Option<Arc<str>>,
}

impl Directory {
    /// All of this kind will be named anew.
    pub fn list(&mut self, by: By) {
        self.listings[by as usize] += 1;
    }

    /// All have been named: those that were not are gone.
    pub fn listed(&mut self, by: By) {
        let listing = self.listings[by as usize];
        let of_before = |(key, (_, seen)): (&Key, &(Vec<IpAddr>, u64))| {
            (key.0 == by && *seen < listing).then(|| key.1.clone())
        };
        let gone: Vec<Arc<str>> = self.objects.iter().filter_map(of_before).collect();
        for uid in gone {
            self.set(by, &uid, Vec::new());
        }
    }

    /// An object is there, or has changed; without claims it is gone, or names nothing.
    pub fn set(&mut self, by: By, uid: &str, claims: Vec<Claim>) {
        let key: Key = (by, uid.into());
        let (before, _) = self.objects.remove(&key).unwrap_or_default();
        for address in before {
            if let Some(known) = self.claims.get_mut(&address) {
                known.retain(|(of, _)| *of != key);
                if known.is_empty() {
                    self.claims.remove(&address);
                }
            }
            self.dirty.insert(address);
        }
        let mut taken = Vec::new();
        for claim in claims {
            let is_known = self.claims.contains_key(&claim.address);
            let known = self.claims.get(&claim.address).map_or(0, Vec::len);
            if known >= MAX_CLAIMS || !is_known && self.claims.len() >= MAX_ADDRESSES {
                self.refused += 1;
                continue;
            }
            self.meet(&claim);
            self.dirty.insert(claim.address);
            taken.push(claim.address);
            let claims = self.claims.entry(claim.address).or_default();
            claims.push((key.clone(), claim));
        }
        if !taken.is_empty() {
            self.objects.insert(key, (taken, self.listings[by as usize]));
        }
    }

    /// A node through which the region of a zone can be learnt that is not known: zone and node.
    pub fn unknown_zone(&self) -> Option<(Arc<str>, Arc<str>)> {
        let mut unknown = self.zones.iter().filter(|(_, zone)| zone.region.is_none());
        unknown
            .next()
            .map(|(name, zone)| (name.clone(), zone.node.clone()))
    }

    /// What the node said; `None` = it is not there, and the zone waits for another one's name.
    pub fn set_region(&mut self, zone: &str, region: Option<&str>) {
        let Some(region) = region else {
            self.zones.remove(zone);
            return;
        };
        if let Some(known) = self.zones.get_mut(zone) {
            known.region = Some(region.into());
        }
        let of_zone = self
            .claims
            .iter()
            .filter(|(_, claims)| claims.iter().any(|(_, claim)| *claim.zone == *zone));
        self.dirty.extend(of_zone.map(|(address, _)| *address));
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
        let claims = self.claims.get(address)?;
        let first = claims.iter().min_by_key(|((by, _), claim)| {
            // `db` rather than `db-metrics`.
            (*by, claim.is_headless, claim.service.len(), claim.service.clone())
        });
        let (_, claim) = first?;
        // Several have one address if it is the node's, as of pods in its network and of load balancers without addresses of
        // their own: what else is there is none of theirs.
        let agrees = |other: &Claim| {
            other.service == claim.service || (other.pod == claim.pod && !claim.pod.is_empty())
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
        let has_place = !claim.zone.is_empty() && !claim.node.is_empty();
        if has_place && !self.zones.contains_key(&claim.zone) && self.zones.len() < MAX_ZONES {
            let zone = Zone {
                node: claim.node.clone(),
                region: None,
            };
            self.zones.insert(claim.zone.clone(), zone);
        }
    }
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
