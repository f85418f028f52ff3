//! What an alert is about, and what that depends on.

use agent_store::labels::Labels;
use std::collections::{BTreeMap, BTreeSet};

/// What can be the cause of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// This host, of alerts that name nothing else.
    Node,
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
            Self::Node => "node",
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
const LABELS: [(&str, Kind); 10] = [
    ("device", Kind::Device),
    ("tunnel", Kind::Tunnel),
    ("id", Kind::Tunnel),
    ("region", Kind::Region),
    ("peer_region", Kind::Region),
    ("zone", Kind::Zone),
    ("peer_zone", Kind::Zone),
    ("peer", Kind::Peer),
    ("server", Kind::Server),
    ("subject", Kind::Subject),
];

/// What these labels name. Of health's alerts `entity` says what `name` is.
pub fn of(labels: &Labels) -> Place {
    let named = LABELS.iter().map(|(label, kind)| (*kind, labels.get(label)));
    let kinds = [Kind::Subject, Kind::Peer, Kind::Zone, Kind::Region];
    let entity = kinds
        .into_iter()
        .find(|kind| kind.name() == labels.get("entity"))
        .map(|kind| (kind, labels.get("name")));
    let mut all: Place = named
        .chain(entity)
        .filter(|(_, name)| !name.is_empty())
        .map(|(kind, name)| (kind, name.to_owned()))
        .collect();
    if all.is_empty() {
        all.insert((Kind::Node, labels.get("instance").to_owned()));
    }
    all
}

/// What depends on what: subjects on the peers that they talk to, peers on their zones and regions.
#[derive(Clone, Debug, Default)]
pub struct Edges(BTreeMap<Entity, Place>);

impl Edges {
    /// From pairs: the first depends on the second.
    pub fn new(pairs: impl IntoIterator<Item = (Entity, Entity)>) -> Self {
        let mut edges: BTreeMap<Entity, Place> = BTreeMap::new();
        for (from, to) in pairs {
            if from != to {
                edges.entry(from).or_default().insert(to);
            }
        }
        Self(edges)
    }

    /// Whether two places share something, or one of what is in one depends directly on what is in the other.
    pub fn relate(&self, a: &Place, b: &Place) -> bool {
        let direct = |a: &Place, b: &Place| {
            let below = a.iter().filter_map(|entity| self.0.get(entity)).flatten();
            below.into_iter().any(|entity| b.contains(entity))
        };
        !a.is_disjoint(b) || direct(a, b) || direct(b, a)
    }

    /// A place with all that it depends on.
    pub fn reach(&self, place: Place) -> Reach {
        let mut all = place.clone();
        let mut next: Vec<Entity> = place.iter().cloned().collect();
        while let Some(entity) = next.pop() {
            for below in self.0.get(&entity).into_iter().flatten() {
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
