//! Cause and symptom: which of what is not healthy is so by itself, and which because of another, by who talks to whom.
//!
//! Who is not healthy together with most that it talks to, while these are healthy elsewhere, is the cause: a peer that all its
//! users suffer from, a subject that suffers at all its peers, a zone whose peers all suffer. Where two talk to nobody else,
//! nobody can say. A zone, a region and the node are the sum of others: they suffer from those in them that are ill. But who
//! lacks something itself, such as memory, has that from nobody. The loopback is no elsewhere: it is well whatever has become of the way out.

use std::collections::{BTreeMap, BTreeSet};

/// Who is not healthy.
pub const ILL: &str = "geophone_health_state >= 1";
/// Who talks to whom.
pub const TALKS: &str = "sum by (subject, peer) (rate(geophone_tcp_segments_total[1m])) > 0";
/// Where the peers are.
pub const LIES: &str = "count by (peer, peer_zone, peer_region) (geophone_tcp_connections)";

/// Who has used up what it has itself, and loses more by that than by all else. Nothing else may be known of it, hence
/// `unless`.
pub const LACKS: &str = "(1 - geophone_health_factor{entity=~\"subject|node\",factor=\"saturation\"}) > 0 \
     unless on (instance, entity, name) \
     (sum by (instance, entity, name) (1 - geophone_health_factor{factor!=\"saturation\"}) \
     >= on (instance, entity, name) (1 - geophone_health_factor{entity=~\"subject|node\",factor=\"saturation\"}))";

/// The peer that is this machine.
const LOOPBACK: &str = "loopback";

/// Kind (`subject`, `peer`, `zone`, `region`, `node`) and name.
pub type Entity = (String, String);

/// Who talks to whom, and where the peers are.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// Subject and peer.
    pub talks: BTreeSet<(String, String)>,
    /// Place, a zone or a region, and peer.
    pub places: BTreeSet<(Entity, String)>,
    /// Who is ill by what it lacks itself.
    pub lacks: BTreeSet<Entity>,
}

impl Topology {
    /// A row of [`TALKS`]. Who has no name has no health: that he is not ill says nothing.
    pub fn talks(&mut self, subject: &str, peer: &str) {
        if !subject.is_empty() && !peer.is_empty() {
            self.talks.insert((subject.to_owned(), peer.to_owned()));
        }
    }

    /// A row of [`LACKS`].
    pub fn lacks(&mut self, kind: &str, name: &str) {
        self.lacks.insert(entity(kind, name));
    }

    /// A row of [`LIES`]; where it is not known, that is empty. The loopback lies in this machine's own places, and leads to none.
    pub fn lies(&mut self, peer: &str, zone: &str, region: &str) {
        for (kind, place) in [("zone", zone), ("region", region)] {
            if !place.is_empty() && !peer.is_empty() && peer != LOOPBACK {
                self.places.insert((entity(kind, place), peer.to_owned()));
            }
        }
    }
}

/// What an entity is that is not healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is so by itself; these suffer from it.
    Cause(Vec<Entity>),
    /// These are why.
    Symptom(Vec<Entity>),
    /// It may be the cause of these, or they of it.
    Unclear(Vec<Entity>),
}

impl Role {
    /// As it is shown.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cause(_) => "cause",
            Self::Symptom(_) => "symptom",
            Self::Unclear(_) => "unclear",
        }
    }
}

/// An entity.
pub fn entity(kind: &str, name: &str) -> Entity {
    (kind.to_owned(), name.to_owned())
}

struct Found<'a> {
    topology: &'a Topology,
    ill: &'a BTreeSet<Entity>,
    /// By what is ill because of it.
    because: BTreeMap<Entity, BTreeSet<Entity>>,
    unclear: BTreeMap<Entity, BTreeSet<Entity>>,
}

/// The role of each that is not healthy; `node` is this machine's name.
pub fn roles(ill: &BTreeSet<Entity>, topology: &Topology, node: &str) -> BTreeMap<Entity, Role> {
    let mut found = Found {
        topology,
        ill,
        because: BTreeMap::new(),
        unclear: BTreeMap::new(),
    };
    if !found.everything(node) {
        ["region", "zone"].iter().for_each(|kind| found.places(kind));
        found.peers();
        found.subjects();
        found.sums();
    }
    found.roles()
}

impl Found<'_> {
    fn is_ill(&self, kind: &str, name: &str) -> bool {
        self.ill.contains(&entity(kind, name))
    }

    fn users(&self, peer: &str) -> BTreeSet<&str> {
        let talks = self.topology.talks.iter().filter(|(_, to)| to == peer);
        talks.map(|(subject, _)| subject.as_str()).collect()
    }

    fn peers_of(&self, subject: &str) -> BTreeSet<&str> {
        let talks = self.topology.talks.iter().filter(|(of, _)| of == subject);
        talks.map(|(_, peer)| peer.as_str()).collect()
    }

    /// Those to which it has to leave the machine.
    fn far_peers_of(&self, subject: &str) -> BTreeSet<&str> {
        let mut peers = self.peers_of(subject);
        peers.remove(LOOPBACK);
        peers
    }

    fn explain(&mut self, symptom: Entity, cause: &Entity) {
        self.because.entry(symptom).or_default().insert(cause.clone());
    }

    fn lacks(&self, kind: &str, name: &str) -> bool {
        self.is_ill(kind, name) && self.topology.lacks.contains(&entity(kind, name))
    }

    /// What is to be looked at first of what it suffers from; itself if that is nothing.
    fn roots(&self, one: &Entity) -> BTreeSet<Entity> {
        let (mut roots, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut next = vec![one];
        while let Some(one) = next.pop() {
            match self.because.get(one) {
                _ if !seen.insert(one) => {}
                Some(causes) => next.extend(causes),
                None => {
                    roots.insert(one.clone());
                }
            }
        }
        roots
    }

    fn is_explained(&self, kind: &str, name: &str) -> bool {
        self.because.contains_key(&entity(kind, name))
    }

    /// Whether everybody suffers everywhere: then it is what all have in common, this machine or its way out.
    fn everything(&mut self, node: &str) -> bool {
        let talks = self.topology.talks.iter();
        let far = talks.filter(|(_, peer)| peer != LOOPBACK);
        let (subjects, peers): (BTreeSet<&String>, BTreeSet<&String>) =
            far.map(|(subject, peer)| (subject, peer)).unzip();
        let all = subjects.len() >= 2
            && peers.len() >= 2
            && subjects.iter().all(|name| self.is_ill("subject", name))
            && peers.iter().all(|name| self.is_ill("peer", name));
        if all {
            let cause = entity("node", node);
            // Who lacks something himself would be ill anyway.
            let others = self.ill.difference(&self.topology.lacks);
            let others: Vec<Entity> = others.filter(|one| **one != cause).cloned().collect();
            others.into_iter().for_each(|one| self.explain(one, &cause));
        }
        all
    }

    /// A place whose peers all suffer, while one elsewhere does not.
    fn places(&mut self, kind: &str) {
        let places: BTreeSet<&Entity> = self.topology.places.iter().map(|(place, _)| place).collect();
        for place in places.into_iter().filter(|(of, _)| of == kind) {
            let lie = |here: bool| {
                let places = self.topology.places.iter();
                let places = places.filter(move |(other, _)| other.0 == kind && (other == place) == here);
                places.map(|(_, peer)| peer.as_str()).collect::<BTreeSet<&str>>()
            };
            let (here, elsewhere) = (lie(true), lie(false));
            let suffers = |peer: &&str| self.is_ill("peer", peer);
            if here.len() < 2 || !here.iter().all(suffers) || elsewhere.iter().all(suffers) {
                continue;
            }
            for peer in here {
                if !self.is_explained("peer", peer) {
                    self.explain(entity("peer", peer), place);
                }
            }
        }
    }

    fn peers(&mut self) {
        let ill: Vec<Entity> = self
            .ill
            .iter()
            .filter(|(kind, _)| kind == "peer")
            .cloned()
            .collect();
        for peer in ill {
            if self.is_explained("peer", &peer.1) {
                continue;
            }
            let users = self.users(&peer.1);
            let (mut suffer, well): (Vec<&str>, Vec<&str>) =
                users.iter().partition(|user| self.is_ill("subject", user));
            // Who suffers everywhere suffers here as well.
            let everywhere = |user: &&&str| {
                let peers = self.far_peers_of(user);
                peers.len() >= 2 && peers.iter().all(|peer| self.is_ill("peer", peer))
            };
            let guilty: Vec<Entity> = suffer
                .iter()
                .filter(everywhere)
                .map(|user| entity("subject", user))
                .collect();
            // Who lacks something himself would be ill without this peer: that says nothing of it, unless nobody else suffers.
            let lonely = suffer.len() == 1;
            suffer.retain(|user| !self.lacks("subject", user));
            let guilty: Vec<Entity> = guilty
                .into_iter()
                .filter(|(_, user)| lonely || suffer.contains(&user.as_str()))
                .collect();
            let alone = lonely || suffer.len() == 1;
            let only_here: Vec<Entity> = suffer
                .iter()
                .filter(|user| self.far_peers_of(user).iter().all(|other| *other == peer.1))
                .map(|user| entity("subject", user))
                .collect();
            if !guilty.is_empty() && alone {
                guilty.iter().for_each(|cause| self.explain(peer.clone(), cause));
            } else if users.len() == 1 && only_here.len() == 1 || suffer.len() == 1 && well.len() >= 2 {
                // The two talk to nobody else, or one of many has trouble with it.
                let other = suffer.iter().map(|user| entity("subject", user)).collect();
                self.unclear.insert(peer, other);
            }
        }
    }

    fn subjects(&mut self) {
        let ill: Vec<Entity> = self
            .ill
            .iter()
            .filter(|(kind, _)| kind == "subject")
            .cloned()
            .collect();
        for subject in ill {
            // One ill peer of many is enough, as the others are well: only what it lacks itself it has from none.
            if self.lacks("subject", &subject.1) {
                continue;
            }
            let peers = self.peers_of(&subject.1);
            let ill: Vec<Entity> = peers
                .iter()
                .filter(|peer| self.is_ill("peer", peer))
                .map(|peer| entity("peer", peer))
                .collect();
            let causes: BTreeSet<Entity> = ill
                .iter()
                .filter(|peer| !self.unclear.contains_key(*peer))
                .flat_map(|peer| match self.because.get(peer) {
                    Some(place) => place.iter().cloned().collect(),
                    None => vec![peer.clone()],
                })
                .filter(|cause| *cause != subject)
                .collect();
            let unclear: BTreeSet<Entity> = ill
                .iter()
                .filter(|peer| {
                    self.unclear
                        .get(*peer)
                        .is_some_and(|with| with.contains(&subject))
                })
                .cloned()
                .collect();
            if !causes.is_empty() {
                causes
                    .iter()
                    .for_each(|cause| self.explain(subject.clone(), cause));
            } else if !unclear.is_empty() {
                self.unclear.insert(subject, unclear);
            }
        }
    }

    /// Zones and regions are what their peers are, the node is what all are that talk and are talked to: with one of them ill, they
    /// suffer from it, and with none they do by themselves. A place that is the cause itself suffers from nobody.
    fn sums(&mut self) {
        let causes: BTreeSet<&Entity> = self.because.values().flatten().collect();
        let sums = self.ill.iter().filter(|one| {
            let is_sum = matches!(one.0.as_str(), "zone" | "region" | "node");
            is_sum && !causes.contains(one) && !self.topology.lacks.contains(*one)
        });
        let suffer = |sum: &Entity| -> BTreeSet<Entity> {
            let is_in = |one: &&Entity| match (sum.0.as_str(), one.0.as_str()) {
                ("node", "peer") => true,
                // What a subject lacks itself is none of the connections that the node is the sum of.
                ("node", "subject") => !self.topology.lacks.contains(*one),
                ("zone" | "region", "peer") => self.topology.places.contains(&(sum.clone(), one.1.clone())),
                _ => false,
            };
            let ill = self.ill.iter().filter(is_in);
            ill.flat_map(|one| self.roots(one)).collect()
        };
        let sums: Vec<(Entity, BTreeSet<Entity>)> = sums.map(|sum| (sum.clone(), suffer(sum))).collect();
        for (sum, causes) in sums {
            causes.iter().for_each(|cause| self.explain(sum.clone(), cause));
        }
    }

    fn roles(self) -> BTreeMap<Entity, Role> {
        let causes = self.because.values().flatten();
        let all: BTreeSet<&Entity> = self.ill.iter().chain(causes).collect();
        let role = |one: &Entity| {
            if let Some(causes) = self.because.get(one) {
                return Role::Symptom(causes.iter().cloned().collect());
            }
            if let Some(with) = self.unclear.get(one) {
                return Role::Unclear(with.iter().cloned().collect());
            }
            let symptoms = self.because.iter().filter(|(_, causes)| causes.contains(one));
            Role::Cause(symptoms.map(|(symptom, _)| symptom.clone()).collect())
        };
        all.into_iter().map(|one| (one.clone(), role(one))).collect()
    }
}

#[cfg(test)]
mod tests;
