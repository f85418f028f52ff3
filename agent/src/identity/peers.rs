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
}

/// Most peers, those that are gone among them: an id is never somebody else's.
const MAX_PEERS: usize = 65_536;

impl Peers {
    /// The table of a configuration. `region` and `zone` are the host's own, and those of `loopback`.
    pub fn new(settings: &[PeerSettings], region: &str, zone: &str) -> Result<Self, PeerError> {
        let mut out = Self {
            peers: vec![Arc::default()],
            ids: HashMap::new(),
            prefixes: BTreeMap::new(),
            configured: 0,
            named: HashSet::new(),
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
    /// address stays. Returns what the kernel's trie must be told, if anything.
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
        let has_room = |peer: &Peer| self.ids.contains_key(peer) || self.peers.len() < MAX_PEERS;
        match peer.filter(has_room) {
            Some(peer) => {
                let id = self.peer(peer);
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
mod tests {
    use super::*;
    use rand::{Rng as _, SeedableRng as _};
    use std::net::Ipv6Addr;

    fn peer(name: &str, cidrs: &[&str]) -> PeerSettings {
        PeerSettings {
            name: name.into(),
            region: "r".into(),
            zone: "z".into(),
            cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(),
        }
    }

    fn name<'a>(peers: &'a Peers, address: &str) -> &'a str {
        &peers.get(peers.lookup(address.parse().unwrap())).name
    }

    #[test]
    fn built_in_classes_cover_everything() {
        let peers = Peers::new(&[], "eu", "a").unwrap();
        for (address, class) in [
            ("127.0.0.1", "loopback"),
            ("127.255.255.255", "loopback"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("10.0.0.1", "private"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.168.1.1", "private"),
            ("100.64.0.1", "private"),
            ("100.127.0.1", "private"),
            ("169.254.1.1", "private"),
            ("fc00::1", "private"),
            ("fdff::1", "private"),
            ("fe80::1", "private"),
            ("febf::1", "private"),
            ("::ffff:10.0.0.1", "private"),
            ("172.32.0.0", "public"),
            ("100.128.0.1", "public"),
            ("8.8.8.8", "public"),
            ("2001:db8::1", "public"),
            ("::", "public"),
            ("::2", "public"),
            ("fec0::1", "public"),
            ("0.0.0.0", "public"),
            ("ff02::1", "public"),
        ] {
            assert_eq!(name(&peers, address), class, "{address}");
        }
        assert_eq!(peers.prefixes().count(), 11);
        let loopback = peers.get(peers.lookup("::1".parse().unwrap()));
        assert_eq!((loopback.region.as_str(), loopback.zone.as_str()), ("eu", "a"));
        assert_eq!(
            (peers.get(0).name.as_str(), peers.get(u32::MAX).name.as_str()),
            ("", "")
        );
    }

    #[test]
    fn the_longest_prefix_wins_in_both_families() {
        let peers = Peers::new(
            &[
                peer("a", &["10.1.0.0/16", "2001:db8::/32"]),
                peer("b", &["10.1.2.0/24", "::ffff:10.1.3.0/120"]),
                peer("c", &["10.1.2.3", "2001:db8::1"]),
                peer("six", &["::/0"]),
                peer("private", &["203.0.113.0/24"]),
            ],
            "",
            "",
        )
        .unwrap();
        for (address, expected) in [
            ("10.1.9.9", "a"),
            ("10.1.2.9", "b"),
            ("10.1.3.9", "b"),
            ("::ffff:10.1.3.9", "b"),
            ("10.1.2.3", "c"),
            ("10.2.0.0", "private"),
            ("2001:db8::2", "a"),
            ("2001:db8::1", "c"),
            ("2a00::1", "six"),
            ("8.8.8.8", "public"),
            ("203.0.113.9", "private"),
        ] {
            assert_eq!(name(&peers, address), expected, "{address}");
        }
    }

    #[test]
    fn equal_prefixes_need_one_owner() {
        let twice = Peers::new(
            &[peer("a", &["10.1.0.0/16"]), peer("b", &["::ffff:10.1.0.0/112"])],
            "",
            "",
        );
        assert_eq!(
            twice.unwrap_err().to_string(),
            "10.1.0.0/16 is given to two peers, \"a\" and \"b\""
        );
        assert!(
            Peers::new(
                &[
                    peer("a", &["10.1.0.0/16"]),
                    peer("a", &["10.1.0.0/16", "10.2.0.0/16"])
                ],
                "",
                ""
            )
            .is_ok()
        );
        // A class may be redefined.
        assert_eq!(
            name(
                &Peers::new(&[peer("lan", &["10.0.0.0/8"])], "", "").unwrap(),
                "10.0.0.1"
            ),
            "lan"
        );
        let many: Vec<String> = (0..=MAX_PREFIXES as u32)
            .map(|i| Ipv6Addr::from(u128::from(i) << 64).to_string())
            .collect();
        let many = peer("many", &many.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(
            Peers::new(&[many], "", "").unwrap_err(),
            PeerError::TooMany(MAX_PREFIXES + 1 + 11)
        );
    }

    #[test]
    fn addresses_are_named_later_and_the_configuration_goes_first() {
        let mut peers = Peers::new(&[peer("db", &["10.1.2.3", "10.1.0.0/16"])], "", "").unwrap();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let shop = |zone: &str| Peer {
            name: "shop/web".into(),
            region: "eu".into(),
            zone: zone.into(),
        };
        let configured = peers.all().len();
        assert_eq!(peers.name(address("10.1.2.3"), Some(shop("a"))), None);
        assert_eq!(peers.name(address("::1"), None), None);
        let Some(Change::Put(put)) = peers.name(address("10.1.2.4"), Some(shop("a"))) else {
            panic!("not named");
        };
        assert_eq!((put.prefix_len, put.peer as usize), (128, configured));
        peers.name(address("10.1.2.5"), Some(shop("b"))).unwrap();
        assert_eq!(name(&peers, "10.1.2.4"), "shop/web");
        assert_eq!((peers.added().len(), name(&peers, "10.1.2.3")), (2, "db"));
        // An id stays who it is, also when no address has it any more.
        peers.name(address("10.1.2.4"), Some(shop("b"))).unwrap();
        let removed = peers.name(address("10.1.2.5"), None);
        assert!(matches!(removed, Some(Change::Remove(p)) if p.address == put_address("10.1.2.5")));
        assert_eq!(peers.name(address("10.1.2.5"), None), None);
        assert_eq!((name(&peers, "10.1.2.5"), peers.added().len()), ("db", 2));
        assert_eq!(peers.get(put.peer).zone, "a");
        let added: Vec<Peer> = peers.added().iter().map(|p| Peer::clone(p)).collect();
        let mut replayed = Peers::new(&[peer("db", &["10.1.2.3", "10.1.0.0/16"])], "", "").unwrap();
        replayed.restore(added.clone());
        replayed.restore(added);
        assert_eq!(replayed.all(), peers.all());
    }

    fn put_address(text: &str) -> [u8; 16] {
        Cidr::from(text.parse::<IpAddr>().unwrap()).bits().to_be_bytes()
    }

    /// The kernel's semantic, written down as it is defined: of all entries that match, the longest.
    fn trie(prefixes: &[Prefix], address: [u8; 16]) -> u32 {
        let matches = |p: &&Prefix| {
            (0..p.prefix_len as usize)
                .all(|bit| (p.address[bit / 8] ^ address[bit / 8]) & (0x80 >> (bit % 8)) == 0)
        };
        prefixes
            .iter()
            .filter(matches)
            .max_by_key(|p| p.prefix_len)
            .map_or(0, |p| p.peer)
    }

    #[test]
    fn lookup_is_what_the_trie_does() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let mut tables = 0;
        for _ in 0..200 {
            // Few distinct bits make prefixes nest and addresses hit them.
            let mut address = || {
                let bits = u128::from(rng.random::<u32>() & 0x8101_0183)
                    << *[0u32, 32, 96].get(rng.random_range(0..3)).unwrap();
                let bits = if rng.random() {
                    bits & 0xffff_ffff | 0xffff << 32
                } else {
                    bits
                };
                (bits, rng.random_range(0..=128u8))
            };
            let entries: Vec<PeerSettings> = (0..20)
                .map(|i| PeerSettings {
                    name: (i % 7).to_string(),
                    cidrs: vec![Cidr::new(address().0, address().1)],
                    ..PeerSettings::default()
                })
                .collect();
            let Ok(peers) = Peers::new(&entries, "", "") else {
                continue;
            };
            tables += 1;
            let prefixes: Vec<Prefix> = peers.prefixes().collect();
            for _ in 0..200 {
                let (bits, _) = address();
                assert_eq!(
                    peers.lookup_mapped(bits.to_be_bytes()),
                    trie(&prefixes, bits.to_be_bytes())
                );
            }
        }
        assert!(tables > 50, "{tables} tables without a prefix given twice");
    }
}
