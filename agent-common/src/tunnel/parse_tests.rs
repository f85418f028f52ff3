//! The corpus, cut at every byte and mutated.

extern crate std;
use super::*;
use crate::tunnel::corpus::{self, cases};
use crate::tunnel::{PORTS, class, kind};
use std::vec::Vec;

struct Known;

impl Ports for Known {
    fn kind(&self, port: u16) -> u8 {
        PORTS.iter().find(|p| p.0 == port).map_or(kind::NONE, |p| p.1)
    }
}

fn read(bytes: &[u8], segment: u32, ethernet: bool) -> (Verdict, Parsed) {
    let mut parsed = Parsed::default();
    let verdict = parse(&Bytes::gso(bytes, segment), &Known, ethernet, &mut parsed);
    (verdict, parsed)
}

/// What holds for whatever bytes.
fn sane(bytes: &[u8], parsed: &Parsed, verdict: Verdict) {
    if verdict == Verdict::Tunnel {
        assert_ne!(parsed.kind, kind::NONE);
        assert!((parsed.kind as usize) < kind::COUNT);
        assert!((parsed.class as usize) < class::COUNT);
        assert!(parsed.end as usize <= bytes.len(), "{parsed:?}");
        assert!(parsed.inner <= parsed.end, "{parsed:?}");
        assert!(parsed.headers <= parsed.end, "{parsed:?}");
        if parsed.facts & fact::TCP != 0 {
            assert_ne!(parsed.facts & fact::PAIR, 0);
        }
    }
}

#[test]
fn every_packet_of_the_corpus_is_what_it_is() {
    for case in cases() {
        let (verdict, p) = read(&case.bytes, 0, true);
        assert_eq!(verdict, case.verdict, "{}: {p:?}", case.name);
        sane(&case.bytes, &p, verdict);
        if verdict == Verdict::Nothing || verdict == Verdict::Fragment {
            continue;
        }
        if case.kind != kind::NONE {
            assert_eq!(p.kind, case.kind, "{}", case.name);
        }
        if verdict == Verdict::Malformed {
            continue;
        }
        assert_eq!(p.id, case.id, "{}", case.name);
        if verdict == Verdict::TooBig {
            continue;
        }
        assert_eq!(p.class, case.class, "{}", case.name);
        assert_eq!(p.inner, case.inner, "{}", case.name);
        let sequence = (p.facts & fact::SEQUENCED != 0).then_some(p.sequence);
        assert_eq!(sequence, case.sequence, "{}", case.name);
    }
}

#[test]
fn without_an_ethernet_header_it_is_the_same() {
    for case in cases() {
        if !matches!(case.bytes.get(12..14), Some([8, 0] | [0x86, 0xdd])) {
            continue;
        }
        let (with, a) = read(&case.bytes, 0, true);
        let (without, b) = read(&case.bytes[14..], 0, false);
        assert_eq!(with, without, "{}", case.name);
        assert_eq!(
            (a.kind, a.id, a.class, a.inner, a.source, a.inner_destination),
            (b.kind, b.id, b.class, b.inner, b.source, b.inner_destination),
            "{}",
            case.name
        );
    }
}

#[test]
fn a_packet_cut_anywhere_is_never_a_whole_tunnel_packet() {
    for case in cases() {
        for len in 0..case.bytes.len() {
            let (verdict, p) = read(&case.bytes[..len], 0, true);
            sane(&case.bytes[..len], &p, verdict);
            // Padding may go; fragments do not say how long the whole was.
            if case.verdict == Verdict::Tunnel
                && case.name != "the link's padding"
                && p.facts & fact::FRAGMENT == 0
            {
                assert_ne!(verdict, Verdict::Tunnel, "{} cut at {len}", case.name);
            }
        }
    }
}

#[test]
fn addresses_are_the_outer_and_the_inner_ones() {
    let inner = corpus::tcp6(10);
    let (_, p) = read(&corpus::eth4(41, &inner), 0, true);
    assert_eq!(
        bytes(p.source),
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 0, 2, 1]
    );
    assert_eq!(bytes(p.destination)[12..], [192, 0, 2, 2]);
    assert_eq!(
        bytes(p.inner_source),
        [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    );
    assert_eq!(bytes(p.inner_destination)[15], 2);
    assert_eq!(p.transport, 14 + 20 + 40);
}

#[test]
fn ports_count_where_they_name_the_peer_only() {
    let wg = corpus::wireguard(4, 32, 1, 0, 0);
    let (_, p) = read(&corpus::eth4(17, &corpus::udp(7, 51820, &wg)), 0, true);
    assert_eq!((p.source_port, p.destination_port), (7, 51820));
    let (_, p) = read(&corpus::eth4(17, &corpus::vxlan(1, &[0; 60])), 0, true);
    assert_eq!((p.source_port, p.destination_port), (0, 0));
    // From VXLAN's port to another: an answer to nobody.
    let stray = corpus::udp(4789, 40000, &corpus::vxlan_header(8, 0, 1, &[0; 60]));
    assert_eq!(read(&corpus::eth4(17, &stray), 0, true).0, Verdict::Nothing);
}

#[test]
fn the_headers_of_a_gso_packet_are_those_of_each_segment() {
    let frame = corpus::ethernet(0x0800, &corpus::tcp(5600));
    let (verdict, p) = read(&corpus::eth4(17, &corpus::vxlan(1, &frame)), 1400, true);
    assert_eq!(verdict, Verdict::Tunnel);
    assert_eq!(p.headers, 14 + 20 + 8 + 8 + 14 + 20 + 20);
    assert_eq!(p.facts & fact::MESSAGES, 0);
    // WireGuard's are cut at the outer UDP: three messages, the last one shorter.
    let mut three = Vec::new();
    for (counter, len) in [(5, 128), (6, 128), (7, 64)] {
        three.extend(corpus::wireguard(4, len, 1, 0, counter));
    }
    let (verdict, p) = read(&corpus::eth4(17, &corpus::udp(1, 51820, &three)), 128, true);
    assert_eq!(verdict, Verdict::Tunnel);
    assert_eq!((p.headers, p.step, p.sequence), (42, 32, 5));
    assert_eq!(p.facts & fact::MESSAGES, fact::MESSAGES);
    // The first message's share is taken off here, the others' by who knows how many there are.
    assert_eq!(p.inner, 320 - 32);
}

#[test]
fn mutated_packets_are_parsed_without_harm() {
    let all = cases();
    let mut random = 0x853c_49e6_748f_ea9bu64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut found = 0;
    for _ in 0..200_000 {
        let mut bytes = all[next() as usize % all.len()].bytes.clone();
        bytes.truncate(400);
        for _ in 0..=next() % 4 {
            let at = next() as usize % bytes.len();
            bytes[at] = next() as u8;
        }
        if next() % 4 == 0 {
            bytes.truncate(next() as usize % (bytes.len() + 1));
        }
        let segment = if next() % 4 == 0 { next() as u32 % 2000 } else { 0 };
        let (verdict, p) = read(&bytes, segment, next() % 8 != 0);
        sane(&bytes, &p, verdict);
        found += (verdict == Verdict::Tunnel) as u32;
    }
    assert!(found > 10_000, "{found}");
}
