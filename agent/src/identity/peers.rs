//! To whom: prefixes of addresses → peer, the same in the kernel's trie and here.

use super::cidr::Cidr;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Most prefixes in the trie, built-in ones included.
pub const MAX_PREFIXES: usize = 65_536;

/// Addresses that have a name, a region and a zone. The longest prefix wins. What no prefix covers is `loopback`,
/// `private` or `public`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PeerSettings {
    /// Value of the label `peer`. Entries of the same name, region and zone are one peer.
    pub name: String,
    /// Cloud region of the addresses, e.g. `eu-central-1`.
    #[serde(default)]
    pub region: String,
    /// Availability zone of the addresses.
    #[serde(default)]
    pub zone: String,
    /// Prefixes such as `10.1.0.0/16`, `2001:db8::/32` or single addresses.
    pub cidrs: Vec<Cidr>,
}

/// The other end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Peer {
    /// Name, for the label `peer`.
    pub name: String,
    /// Region; empty = not known.
    pub region: String,
    /// Zone; empty = not known.
    pub zone: String,
}

impl Peer {
    /// Who found no room.
    fn other() -> Self {
        Self {
            name: OTHER.to_owned(),
            ..Self::default()
        }
    }
}

/// An entry of the kernel's prefix trie (map `PEERS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Bits of `address` that count, 0–128.
    pub prefix_len: u32,
    /// Network byte order, IPv4 mapped.
    pub address: [u8; 16],
    /// What it stands for: an index into [`Peers::all`].
    pub peer: u32,
}

/// What the kernel's trie must be told of an address that is somebody else's than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has an entry of its own.
    Put(Prefix),
    /// It has none any more: a wider prefix covers it.
    Remove(Prefix),
}

/// Why the peers of the configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerError {
    /// Two peers claim the same prefix: the prefix, and both by position and name.
    Twice(Cidr, (usize, String), (usize, String)),
    /// More than [`MAX_PREFIXES`].
    TooMany(usize),
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twice(cidr, (_, first), (_, second)) => {
                write!(f, "{cidr} is given to two peers, {first:?} and {second:?}")
            }
            Self::TooMany(count) => write!(f, "{count} prefixes are more than {MAX_PREFIXES}"),
        }
    }
}

impl std::error::Error for PeerError {}

/// Prefixes that have a peer without any configuration. IPv4 has its own default route, so that a peer which claims
/// `::/0` gets IPv6 only.
const BUILT_IN: [(&str, &[&str]); 3] = [
    ("loopback", &["127.0.0.0/8", "::1"]),
    (
        "private",
        &[
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "169.254.0.0/16",
            "fc00::/7",
            "fe80::/10",
        ],
    ),
    ("public", &["0.0.0.0/0", "::/0"]),
];

/// Id of the first of them.
const LOOPBACK: u32 = 1;

/// The table of peers.
#[derive(Clone, Debug)]
pub struct Peers {
    peers: Vec<Arc<Peer>>,
    ids: HashMap<Arc<Peer>, u32>,
    /// Prefix length → masked address → peer; longest first.
    prefixes: BTreeMap<Reverse<u8>, HashMap<u128, u32>>,
    /// How many of `peers` are of the configuration; the others came later.
    configured: usize,
    /// Addresses that have been named since.
    named: HashSet<u128>,
    /// Names that found no room.
    refused: u64,
}

/// Most peers, those that are gone among them: an id is never somebody else's. The last one is [`OTHER`].
const MAX_PEERS: usize = 65_536;
/// Who found no room.
const OTHER: &str = "other";

impl Peers {
    /// The table of a configuration. `region` and `zone` are the host's own, and those of `loopback`.
    pub fn new(settings: &[PeerSettings], region: &str, zone: &str) -> Result<Self, PeerError> {
        let mut out = Self {
            peers: vec![Arc::default()],
            ids: HashMap::new(),
            prefixes: BTreeMap::new(),
            configured: 0,
            named: HashSet::new(),
            refused: 0,
        };
        for (name, cidrs) in BUILT_IN {
            let (region, zone) = if name == "loopback" {
                (region, zone)
            } else {
                ("", "")
            };
            let peer = out.peer(Peer {
                name: name.to_owned(),
                region: region.to_owned(),
                zone: zone.to_owned(),
            });
            for cidr in cidrs.iter().filter_map(|cidr| cidr.parse::<Cidr>().ok()) {
                out.insert(cidr, peer);
            }
        }
        let mut claims: HashMap<Cidr, (usize, u32)> = HashMap::new();
        for (index, entry) in settings.iter().enumerate() {
            let peer = out.peer(Peer {
                name: entry.name.clone(),
                region: entry.region.clone(),
                zone: entry.zone.clone(),
            });
            for cidr in &entry.cidrs {
                if let Some((first, other)) = claims.insert(*cidr, (index, peer))
                    && other != peer
                {
                    let name = |i: usize| settings.get(i).map(|s| s.name.clone()).unwrap_or_default();
                    return Err(PeerError::Twice(
                        *cidr,
                        (first, name(first)),
                        (index, name(index)),
                    ));
                }
                out.insert(*cidr, peer);
            }
        }
        out.configured = out.peers.len();
        match out.prefixes.values().map(HashMap::len).sum() {
            count if count > MAX_PREFIXES => Err(PeerError::TooMany(count)),
            _ => Ok(out),
        }
    }

    /// Names an address, or (`None`) leaves it to the prefixes that cover it. What the configuration says of exactly this
    /// address stays. Where there is no room for another peer it is `other`, and counted. Returns what the kernel's trie must be told, if anything.
    pub fn name(&mut self, address: IpAddr, peer: Option<Peer>) -> Option<Change> {
        let cidr = Cidr::from(address);
        let key = cidr.bits();
        let single = self.prefixes.entry(Reverse(cidr.prefix_len())).or_default();
        if single.contains_key(&key) && !self.named.contains(&key) {
            return None;
        }
        let prefix = |peer| Prefix {
            prefix_len: u32::from(cidr.prefix_len()),
            address: key.to_be_bytes(),
            peer,
        };
        match peer {
            Some(peer) => {
                let has_room = self.ids.contains_key(&peer) || self.peers.len() < MAX_PEERS - 1;
                self.refused += u64::from(!has_room);
                let id = self.peer(if has_room { peer } else { Peer::other() });
                self.insert(cidr, id);
                self.named.insert(key);
                Some(Change::Put(prefix(id)))
            }
            None => {
                self.named.remove(&key);
                let before = self.prefixes.get_mut(&Reverse(cidr.prefix_len()))?.remove(&key)?;
                Some(Change::Remove(prefix(before)))
            }
        }
    }

    /// The host is in another region or zone from now on, and so is `loopback`; ids stay.
    pub fn move_host(&mut self, region: &str, zone: &str) {
        let now = Arc::new(Peer {
            name: BUILT_IN[0].0.to_owned(),
            region: region.to_owned(),
            zone: zone.to_owned(),
        });
        // One of the settings that is the same has an id already.
        if !self.ids.contains_key(&now)
            && let Some(peer) = self.peers.get_mut(LOOPBACK as usize)
        {
            self.ids.remove(peer);
            *peer = now.clone();
            self.ids.insert(now, LOOPBACK);
        }
    }

    /// How often a name found no room so far.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The peers that the configuration does not have, in the order of their ids.
    pub fn added(&self) -> &[Arc<Peer>] {
        self.peers.get(self.configured..).unwrap_or_default()
    }

    /// The same of a recording.
    pub fn restore(&mut self, added: Vec<Peer>) {
        self.peers.truncate(self.configured);
        self.peers.extend(added.into_iter().map(Arc::new));
    }

    /// Every peer; the index is the id. Id 0 has no name: it stands for a key without a peer.
    pub fn all(&self) -> &[Arc<Peer>] {
        &self.peers
    }

    /// The peer of an id that the kernel gave; an id out of range is id 0.
    pub fn get(&self, id: u32) -> &Arc<Peer> {
        self.peers.get(id as usize).unwrap_or(&self.peers[0])
    }

    /// What the kernel's trie must hold.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.prefixes.iter().flat_map(|(len, entries)| {
            entries.iter().map(|(bits, peer)| Prefix {
                prefix_len: u32::from(len.0),
                address: bits.to_be_bytes(),
                peer: *peer,
            })
        })
    }

    /// Id of the peer of an address, as the trie finds it.
    pub fn lookup(&self, address: IpAddr) -> u32 {
        self.lookup_bits(Cidr::from(address).bits())
    }

    /// As [`Self::lookup`], from an address in network byte order with IPv4 mapped.
    pub fn lookup_mapped(&self, address: [u8; 16]) -> u32 {
        self.lookup_bits(u128::from_be_bytes(address))
    }

    fn lookup_bits(&self, bits: u128) -> u32 {
        self.prefixes
            .iter()
            .find_map(|(len, entries)| entries.get(&Cidr::mask(bits, len.0)).copied())
            .unwrap_or(0)
    }

    fn peer(&mut self, peer: Peer) -> u32 {
        if let Some(id) = self.ids.get(&peer) {
            return *id;
        }
        let (id, peer) = (self.peers.len() as u32, Arc::new(peer));
        self.peers.push(peer.clone());
        self.ids.insert(peer, id);
        id
    }

    fn insert(&mut self, cidr: Cidr, peer: u32) {
        self.prefixes
            .entry(Reverse(cidr.prefix_len()))
            .or_default()
            .insert(cidr.bits(), peer);
    }
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
