//! What an alert is about, and what that depends on.

use agent_store::labels::Labels;
use std::collections::{BTreeMap, BTreeSet};

/// What can be the cause of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The rule itself, of alerts that name nothing else: two of them have nothing in common but the host, and that is no cause.
    Rule,
    /// This host, where health speaks of it.
    Node,
    /// What the host has of something: memory, connection tracking, a file system.
    Resource,
    /// An interface or a disk.
    Device,
    /// A tunnel.
    Tunnel,
    /// A region.
    Region,
    /// A zone.
    Zone,
    /// A peer.
    Peer,
    /// A name server.
    Server,
    /// A container, unit or process.
    Subject,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Node => "node",
            Self::Resource => "resource",
            Self::Device => "device",
            Self::Tunnel => "tunnel",
            Self::Region => "region",
            Self::Zone => "zone",
            Self::Peer => "peer",
            Self::Server => "server",
            Self::Subject => "subject",
        }
    }
}

/// One of these, with its name.
pub type Entity = (Kind, String);
/// All that an alert names.
pub type Place = BTreeSet<Entity>;

/// Labels that name something.
const LABELS: [(&str, Kind); 9] = [
    ("tunnel", Kind::Tunnel),
    ("region", Kind::Region),
    ("peer_region", Kind::Region),
    ("remote_region", Kind::Region),
    ("zone", Kind::Zone),
    ("peer_zone", Kind::Zone),
    ("peer", Kind::Peer),
    ("server", Kind::Server),
    ("subject", Kind::Subject),
];

/// What depends on what if one series names both. A tunnel and the region of its far end depend on each other: one may be down
/// because of the other, either way, and then the first is the cause.
const DEPENDS: [(Kind, Kind); 9] = [
    (Kind::Subject, Kind::Peer),
    (Kind::Subject, Kind::Server),
    (Kind::Peer, Kind::Zone),
    (Kind::Peer, Kind::Region),
    (Kind::Zone, Kind::Region),
    (Kind::Peer, Kind::Tunnel),
    (Kind::Peer, Kind::Device),
    (Kind::Tunnel, Kind::Device),
    (Kind::Tunnel, Kind::Region),
];

/// What labels name; `get` answers the value of one, empty if there is none. Of health's series `entity` says what `name` is.
pub fn named<'a>(get: impl Fn(&str) -> &'a str) -> Place {
    let join = |labels: &[&str]| {
        let values = labels.iter().map(|label| get(label));
        values
            .filter(|value| !value.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let plain = LABELS.iter().map(|(label, kind)| (*kind, get(label).to_owned()));
    let kinds = [Kind::Subject, Kind::Peer, Kind::Zone, Kind::Region, Kind::Node];
    let entity = kinds
        .into_iter()
        .find(|kind| kind.name() == get("entity"))
        .map(|kind| (kind, get("name").to_owned()));
    let mut all: Place = plain.chain(entity).collect();
    // A device of another namespace has the name of one of ours, often.
    if !get("device").is_empty() {
        all.insert((Kind::Device, join(&["device", "netns"])));
    }
    // `type` alone is a kind of retransmits; GRE and IPIP have no id, and of VXLANs many tunnels have the same.
    let ends = join(&["id", "local", "remote"]);
    if !ends.is_empty() && !get("type").is_empty() {
        all.insert((Kind::Tunnel, format!("{} {ends}", get("type"))));
    }
    // The device of a file system, the address of a queue, whose limit it is; forecasts call it `name`.
    if !get("resource").is_empty() {
        all.insert((Kind::Resource, join(&["resource", "device", "subject", "name"])));
    }
    all.retain(|(_, name)| !name.is_empty());
    all
}

/// What depends on what: subjects on the peers that they talk to, peers on their zones and regions, on tunnels and uplinks.
#[derive(Clone, Debug, Default)]
pub struct Edges {
    below: BTreeMap<Entity, Place>,
    /// Labels that all alerts have, such as the region of this host: they say nothing of what one is about.
    common: Labels,
}

impl Edges {
    /// From pairs: the first depends on the second.
    pub fn new(pairs: impl IntoIterator<Item = (Entity, Entity)>) -> Self {
        let mut edges = Self::default();
        pairs.into_iter().for_each(|(from, to)| edges.add(from, to));
        edges
    }

    /// Of alerts that all have these labels.
    pub fn with_common(common: Labels) -> Self {
        Self {
            common,
            ..Self::default()
        }
    }

    /// The first depends on the second.
    pub fn add(&mut self, from: Entity, to: Entity) {
        if from != to {
            self.below.entry(from).or_default().insert(to);
        }
    }

    /// What a series says by naming all this.
    pub fn add_series(&mut self, place: &Place) {
        for (from, to) in DEPENDS {
            let of = |kind: Kind| place.iter().filter(move |entity| entity.0 == kind);
            for (from, to) in of(from).flat_map(|from| of(to).map(move |to| (from, to))) {
                self.add(from.clone(), to.clone());
                if (from.0, to.0) == (Kind::Tunnel, Kind::Region) {
                    self.add(to.clone(), from.clone());
                }
            }
        }
    }

    /// What an alert of these labels is about.
    pub fn place(&self, labels: &Labels) -> Place {
        let own = |name: &str| {
            let value = labels.get(name);
            if value == self.common.get(name) { "" } else { value }
        };
        let mut place = named(own);
        if place.is_empty() {
            place.insert((Kind::Rule, labels.get("alertname").to_owned()));
        }
        place
    }

    /// Whether two places share something, or one of what is in one depends directly on what is in the other.
    pub fn relate(&self, a: &Place, b: &Place) -> bool {
        let direct = |a: &Place, b: &Place| {
            let below = a.iter().filter_map(|entity| self.below.get(entity)).flatten();
            below.into_iter().any(|entity| b.contains(entity))
        };
        !a.is_disjoint(b) || direct(a, b) || direct(b, a)
    }

    /// A place with all that it depends on.
    pub fn reach(&self, place: Place) -> Reach {
        let mut all = place.clone();
        let mut next: Vec<Entity> = place.iter().cloned().collect();
        while let Some(entity) = next.pop() {
            for below in self.below.get(&entity).into_iter().flatten() {
                if all.insert(below.clone()) {
                    next.push(below.clone());
                }
            }
        }
        Reach { place, all }
    }
}

/// A place with all that it depends on.
#[derive(Clone, Debug)]
pub struct Reach {
    place: Place,
    all: Place,
}

impl Reach {
    /// Whether this is affected by all that the other names, and not the other way round.
    pub fn depends(&self, other: &Self) -> bool {
        other.place.is_subset(&self.all) && !self.place.is_subset(&other.all)
    }

    /// The place itself.
    pub fn own(&self) -> &Place {
        &self.place
    }

    /// The place as people read it.
    pub fn shown(&self) -> String {
        let all: Vec<String> = self
            .place
            .iter()
            .map(|(kind, name)| format!("{} {name}", kind.name()).trim_end().to_owned())
            .collect();
        all.join(", ")
    }
}
