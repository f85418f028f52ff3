//! Where zones and nodes are, as far as endpoints and the nodes themselves say it. Pure.

use crate::directory::Claim;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Most zones.
pub(crate) const MAX_ZONES: usize = 256;
/// Most nodes whose zone is known: Kubernetes is made for 5,000.
const MAX_NODES: usize = 8192;
/// So many nodes of a zone are asked where it is, if they do not say.
const MAX_TRIED: usize = 16;

/// Zones by name, and those of nodes.
#[derive(Debug, Default)]
pub(crate) struct Zones {
    zones: BTreeMap<Arc<str>, Zone>,
    /// The zone of a node, as its endpoints say; `None` = they say several.
    nodes: HashMap<Arc<str>, Option<Arc<str>>>,
    /// Nodes that are elsewhere than was known.
    moved: HashSet<Arc<str>>,
    /// Zones that found no room: their peers have no region.
    pub refused: u64,
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

impl Zones {
    /// An endpoint says in which zone its node is.
    pub fn meet(&mut self, claim: &Claim) {
        if claim.zone.is_empty() || claim.node.is_empty() {
            return;
        }
        self.place(claim);
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
            None => self.refused += 1,
        }
    }

    /// Whoever writes EndpointSlices may say anything: a node that is said to be in two zones is in none, until all agree again.
    fn place(&mut self, claim: &Claim) {
        let has_room = self.nodes.len() < MAX_NODES;
        match self.nodes.entry(claim.node.clone()) {
            Entry::Occupied(mut known) => {
                if known.get().as_ref().is_some_and(|zone| *zone != claim.zone) {
                    known.insert(None);
                    self.moved.insert(claim.node.clone());
                }
            }
            Entry::Vacant(place) if has_room => {
                place.insert(Some(claim.zone.clone()));
                self.moved.insert(claim.node.clone());
            }
            Entry::Vacant(_) => {}
        }
    }

    /// The zone of whom a claim names: its own, else that of its node; empty = not known.
    pub fn of(&self, claim: &Claim) -> Arc<str> {
        if !claim.zone.is_empty() || claim.node.is_empty() {
            return claim.zone.clone();
        }
        self.nodes.get(&claim.node).cloned().flatten().unwrap_or_default()
    }

    /// The region of a zone; empty = not known.
    pub fn region(&self, zone: &str) -> Arc<str> {
        let zone = self.zones.get(zone);
        zone.and_then(|zone| zone.region.clone()).unwrap_or_default()
    }

    /// Nodes that are elsewhere than was known at the last call.
    pub fn moved(&mut self) -> HashSet<Arc<str>> {
        std::mem::take(&mut self.moved)
    }

    /// A node that is to be asked for the region of a zone: zone and node. Each zone in turn: after the one that was asked last.
    pub fn unknown(&self, last: &str) -> Option<(Arc<str>, Arc<str>)> {
        let is_after = |name: &&Arc<str>| ***name > *last;
        let open = |(name, zone): (&Arc<str>, &Zone)| Some((name.clone(), zone.ask.clone()?));
        let mut after = self.zones.iter().filter(|(name, _)| is_after(name));
        after.find_map(open).or_else(|| self.zones.iter().find_map(open))
    }

    /// What the node said; `None` = it is not there, or in another zone: then another one of the zone is asked. Returns whether the
    /// zone has another region than it had.
    pub fn set_region<'a>(
        &mut self,
        name: &str,
        region: Option<&str>,
        mut claims: impl Iterator<Item = &'a Claim>,
    ) -> bool {
        let Some(zone) = self.zones.get_mut(name) else {
            return false;
        };
        let Some(region) = region else {
            zone.tried.extend(zone.ask.take());
            if zone.tried.len() < MAX_TRIED {
                let is_other = |claim: &&Claim| {
                    *claim.zone == *name && !claim.node.is_empty() && !zone.tried.contains(&claim.node)
                };
                zone.ask = claims.find(is_other).map(|claim| claim.node.clone());
            }
            return false;
        };
        (zone.ask, zone.tried) = (None, Vec::new());
        if zone.region.as_deref() == Some(region) {
            return false;
        }
        zone.region = Some(region.into());
        true
    }

    /// Asks for the region of each zone anew, of nodes that are there by now, and forgets zones and nodes that nobody is in.
    pub fn renew<'a>(&mut self, claims: impl Iterator<Item = &'a Claim>) {
        let before = std::mem::take(&mut self.nodes);
        let moved = std::mem::take(&mut self.moved);
        let mut nodes: BTreeMap<&Arc<str>, &Arc<str>> = BTreeMap::new();
        for claim in claims.filter(|claim| !claim.zone.is_empty() && !claim.node.is_empty()) {
            nodes.entry(&claim.zone).or_insert(&claim.node);
            self.place(claim);
        }
        self.moved = moved;
        let all = before.keys().chain(self.nodes.keys());
        let is_elsewhere = |node: &&Arc<str>| before.get(*node) != self.nodes.get(*node);
        self.moved.extend(all.filter(is_elsewhere).cloned());
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

    /// How many there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.zones.len()
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
