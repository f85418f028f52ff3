//! Cause and symptom: which of what is not healthy is so by itself, and which because of another, by who talks to whom.
//!
//! Who is not healthy together with most that it talks to, while these are healthy elsewhere, is the cause: a peer that all its
//! users suffer from, a subject that suffers at all its peers, a zone whose peers all suffer. Where two talk to nobody else,
//! nobody can say. The loopback is no elsewhere: it is well whatever has become of the way out.

use std::collections::{BTreeMap, BTreeSet};

/// Who is not healthy.
pub const ILL: &str = "geophone_health_state >= 1";
/// Who talks to whom.
pub const TALKS: &str = "sum by (subject, peer) (rate(geophone_tcp_segments_total[1m])) > 0";
/// Where the peers are.
pub const LIES: &str = "count by (peer, peer_zone, peer_region) (geophone_tcp_connections)";

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
}

impl Topology {
    /// A row of [`TALKS`]. Who has no name has no health: that he is not ill says nothing.
    pub fn talks(&mut self, subject: &str, peer: &str) {
        if !subject.is_empty() && !peer.is_empty() {
            self.talks.insert((subject.to_owned(), peer.to_owned()));
        }
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

    fn is_explained(&self, kind: &str, name: &str) -> bool {
        self.because.contains_key(&entity(kind, name))
    }

    /// Whether everybody suffers everywhere: then it is what all have in common, this machine or its way out.
    fn everything(&mut self, node: &str) -> bool {
        let far = self.topology.talks.iter().filter(|(_, peer)| peer != LOOPBACK);
        let (subjects, peers): (BTreeSet<&String>, BTreeSet<&String>) =
            far.map(|(subject, peer)| (subject, peer)).unzip();
        let all = subjects.len() >= 2
            && peers.len() >= 2
            && subjects.iter().all(|name| self.is_ill("subject", name))
            && peers.iter().all(|name| self.is_ill("peer", name));
        if all {
            let cause = entity("node", node);
            let others: Vec<Entity> = self.ill.iter().filter(|one| **one != cause).cloned().collect();
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
            let (suffer, well): (Vec<&str>, Vec<&str>) =
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
            let only_here: Vec<Entity> = suffer
                .iter()
                .filter(|user| self.far_peers_of(user).iter().all(|other| *other == peer.1))
                .map(|user| entity("subject", user))
                .collect();
            if !guilty.is_empty() && suffer.len() == guilty.len() && (suffer.len() == 1) {
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
mod tests {
    use super::*;

    fn topology(talks: &[(&str, &str)]) -> Topology {
        let talks = talks.iter();
        Topology {
            talks: talks.map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
            places: BTreeSet::new(),
        }
    }

    fn ill(all: &[(&str, &str)]) -> BTreeSet<Entity> {
        all.iter().map(|(kind, name)| entity(kind, name)).collect()
    }

    fn list(all: &[(&str, &str)]) -> Vec<Entity> {
        ill(all).into_iter().collect()
    }

    #[test]
    fn a_peer_that_all_its_users_suffer_from_is_the_cause() {
        let topology = topology(&[
            ("web", "db"),
            ("web", "cache"),
            ("shop", "db"),
            ("shop", "cache"),
            ("cron", "cache"),
        ]);
        let ill = ill(&[("peer", "db"), ("subject", "web"), ("subject", "shop")]);
        let roles = roles(&ill, &topology, "n");
        let users = list(&[("subject", "shop"), ("subject", "web")]);
        assert_eq!(roles[&entity("peer", "db")], Role::Cause(users));
        let db = Role::Symptom(list(&[("peer", "db")]));
        assert_eq!(roles[&entity("subject", "web")], db);
        assert_eq!(roles[&entity("subject", "shop")], db);
    }

    #[test]
    fn a_subject_that_suffers_everywhere_is_the_cause() {
        let topology = topology(&[("web", "db"), ("web", "cache"), ("shop", "db"), ("shop", "cache")]);
        let ill = ill(&[("peer", "db"), ("peer", "cache"), ("subject", "web")]);
        let roles = roles(&ill, &topology, "n");
        let both = list(&[("peer", "cache"), ("peer", "db")]);
        assert_eq!(roles[&entity("subject", "web")], Role::Cause(both));
        assert_eq!(
            roles[&entity("peer", "db")],
            Role::Symptom(list(&[("subject", "web")]))
        );
    }

    #[test]
    fn a_peer_whose_only_user_is_well_elsewhere_is_the_cause() {
        let topology = topology(&[("web", "db"), ("web", "cache"), ("shop", "cache")]);
        let roles = roles(&ill(&[("peer", "db"), ("subject", "web")]), &topology, "n");
        assert_eq!(
            roles[&entity("peer", "db")],
            Role::Cause(list(&[("subject", "web")]))
        );
        assert_eq!(
            roles[&entity("subject", "web")],
            Role::Symptom(list(&[("peer", "db")]))
        );
    }

    #[test]
    fn two_that_talk_to_nobody_else_cannot_be_told_apart() {
        let topology = topology(&[("web", "db"), ("shop", "cache")]);
        let roles = roles(&ill(&[("peer", "db"), ("subject", "web")]), &topology, "n");
        assert_eq!(
            roles[&entity("peer", "db")],
            Role::Unclear(list(&[("subject", "web")]))
        );
        assert_eq!(
            roles[&entity("subject", "web")],
            Role::Unclear(list(&[("peer", "db")]))
        );
    }

    #[test]
    fn one_of_many_that_has_trouble_with_a_peer_is_not_told_from_it() {
        let topology = topology(&[("a", "db"), ("b", "db"), ("c", "db"), ("a", "cache")]);
        let roles = roles(&ill(&[("peer", "db"), ("subject", "a")]), &topology, "n");
        assert_eq!(
            roles[&entity("peer", "db")],
            Role::Unclear(list(&[("subject", "a")]))
        );
    }

    #[test]
    fn who_suffers_alone_is_its_own_cause() {
        let topology = topology(&[("web", "db"), ("shop", "db")]);
        let roles = roles(&ill(&[("subject", "web")]), &topology, "n");
        assert_eq!(roles[&entity("subject", "web")], Role::Cause(Vec::new()));
        let roles = super::roles(&ill(&[("peer", "db")]), &topology, "n");
        assert_eq!(roles[&entity("peer", "db")], Role::Cause(Vec::new()));
    }

    #[test]
    fn a_zone_whose_peers_all_suffer_is_the_cause() {
        let mut topology = topology(&[("web", "db"), ("web", "cache"), ("web", "mail"), ("shop", "mail")]);
        let places = [("zone", "a", "db"), ("zone", "a", "cache"), ("zone", "b", "mail")];
        topology.places = places
            .map(|(kind, place, peer)| (entity(kind, place), peer.to_owned()))
            .into();
        let ill = ill(&[("peer", "db"), ("peer", "cache"), ("subject", "web")]);
        let roles = roles(&ill, &topology, "n");
        let zone = Role::Symptom(list(&[("zone", "a")]));
        for (kind, name) in [("peer", "db"), ("peer", "cache"), ("subject", "web")] {
            assert_eq!(roles[&entity(kind, name)], zone, "{name}");
        }
        let all = list(&[("peer", "cache"), ("peer", "db"), ("subject", "web")]);
        assert_eq!(roles[&entity("zone", "a")], Role::Cause(all));
    }

    /// Cause: peers of one zone are ill, all that there are but for the loopback, which lies in this machine's own zone. Seen: nobody
    /// says that it is the zone.
    #[test]
    fn the_loopback_is_no_other_zone() {
        let mut topology = topology(&[
            ("web", "db"),
            ("web", "cache"),
            ("web", "loopback"),
            ("cron", "loopback"),
        ]);
        for (peer, zone) in [("db", "b"), ("cache", "b"), ("loopback", "a")] {
            topology.lies(peer, zone, "");
        }
        let ill = ill(&[("peer", "db"), ("peer", "cache"), ("subject", "web")]);
        let roles = roles(&ill, &topology, "n");
        let both = list(&[("peer", "cache"), ("peer", "db")]);
        // One subject at all that is far: it or its way out.
        assert_eq!(roles[&entity("subject", "web")], Role::Cause(both));
        assert!(!roles.contains_key(&entity("zone", "b")), "{roles:?}");
    }

    #[test]
    fn who_is_well_at_the_loopback_only_is_well_nowhere_else() {
        let topology = topology(&[("web", "db"), ("web", "loopback"), ("shop", "cache")]);
        let roles = roles(&ill(&[("peer", "db"), ("subject", "web")]), &topology, "n");
        assert_eq!(
            roles[&entity("peer", "db")],
            Role::Unclear(list(&[("subject", "web")]))
        );
    }

    /// Cause: what listens on this machine is ill, and so are all who use it, also who is well at a peer far away. Seen: it is the cause
    /// as any other peer would be.
    #[test]
    fn the_loopback_can_be_a_cause() {
        let topology = topology(&[
            ("web", "loopback"),
            ("web", "db"),
            ("shop", "loopback"),
            ("cron", "db"),
        ]);
        let ill = ill(&[("peer", "loopback"), ("subject", "web"), ("subject", "shop")]);
        let roles = roles(&ill, &topology, "n");
        let users = list(&[("subject", "shop"), ("subject", "web")]);
        assert_eq!(roles[&entity("peer", "loopback")], Role::Cause(users));
    }

    /// Cause: the way out has failed, while all talk to themselves as well, one does so only, and some rows have no name. Seen: the node.
    #[test]
    fn where_everybody_suffers_everywhere_it_is_the_node() {
        let mut topology = topology(&[
            ("web", "db"),
            ("web", "loopback"),
            ("shop", "cache"),
            ("cron", "loopback"),
        ]);
        topology.talks("", "db");
        topology.talks("cron", "");
        let all = [
            ("peer", "cache"),
            ("peer", "db"),
            ("subject", "shop"),
            ("subject", "web"),
        ];
        let roles = roles(&ill(&all), &topology, "n");
        assert_eq!(roles[&entity("node", "n")], Role::Cause(list(&all)));
        assert_eq!(
            roles[&entity("peer", "db")],
            Role::Symptom(list(&[("node", "n")]))
        );
    }
}
