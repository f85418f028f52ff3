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

/// Cause: the host moves, also to where a peer of the settings is that is called as the built-in one. Seen: its own addresses move,
/// by the same id; no two peers are the same, whose series would be one.
#[test]
fn loopback_moves_with_the_host() {
    let mut peers = Peers::new(&[peer("loopback", &["192.0.2.1"])], "eu", "a").unwrap();
    let id = peers.lookup("127.0.0.1".parse().unwrap());
    let place = |peers: &Peers| {
        let peer = peers.get(peers.lookup("::1".parse().unwrap())).clone();
        format!("{} {} {}", peer.name, peer.region, peer.zone)
    };
    peers.move_host("eu", "b");
    assert_eq!(
        (place(&peers).as_str(), peers.lookup("127.0.0.1".parse().unwrap())),
        ("loopback eu b", id)
    );
    // One that is named later is no other peer.
    let named = Peer {
        name: "loopback".into(),
        region: "eu".into(),
        zone: "b".into(),
    };
    peers.name("10.0.0.1".parse().unwrap(), Some(named));
    assert_eq!(peers.lookup("10.0.0.1".parse().unwrap()), id);
    peers.move_host("r", "z");
    assert_eq!(place(&peers), "loopback eu b");
    let all: HashSet<_> = peers.all().iter().collect();
    assert_eq!(all.len(), peers.all().len());
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
