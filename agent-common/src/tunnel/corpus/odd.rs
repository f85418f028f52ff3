//! Packets that contradict themselves, fragments, and errors that quote packets.

use super::*;

fn malformed(name: &'static str, bytes: Vec<u8>, kind: u8) -> Case {
    Case {
        kind,
        ..case(name, bytes, Verdict::Malformed)
    }
}

/// The cases.
pub fn contradictions() -> Vec<Case> {
    let frame = ethernet(0x0800, &tcp(100));
    let mut cut = eth4(17, &vxlan(1, &frame));
    cut.truncate(cut.len() - 1);
    let mut long = geneve(0x6558, 1, &[], &frame[..20]);
    long[8] |= 63;
    vec![
        malformed("VXLAN cut off", cut, kind::VXLAN),
        malformed(
            "VXLAN header cut off",
            eth4(17, &udp(1, 4789, &[8, 0, 0, 0])),
            kind::VXLAN,
        ),
        malformed(
            "VXLAN without its flag",
            eth4(17, &udp(1, 4789, &[0; 60])),
            kind::VXLAN,
        ),
        malformed("Geneve option length past the end", eth4(17, &long), kind::GENEVE),
        malformed(
            "Geneve of another version",
            eth4(17, &udp(1, 6081, &[0x40; 60])),
            kind::GENEVE,
        ),
        malformed(
            "GRE whose key is cut off",
            eth4(47, &[0x20, 0, 8, 0, 1, 2]),
            kind::GRE,
        ),
        malformed(
            "GRE whose checksum is cut off",
            eth4(47, &[0x80, 0, 8, 0]),
            kind::GRE,
        ),
        malformed("ESP with SPI 0", eth4(50, &[0; 40]), kind::ESP),
        malformed("ESP cut off", eth4(50, &[1, 2, 3, 4]), kind::ESP),
        malformed(
            "AH longer than the packet",
            eth4(51, &[4, 200, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]),
            kind::AH,
        ),
        malformed(
            "WireGuard data without room for its tag",
            eth4(17, &udp(1, 51820, &wireguard(4, 31, 1, 0, 1))),
            kind::WIREGUARD,
        ),
        malformed(
            "WireGuard initiation of a wrong length",
            eth4(17, &udp(1, 51820, &wireguard(1, 140, 1, 0, 0))),
            kind::WIREGUARD,
        ),
        case("GRE with routing", eth4(47, &[0x40; 40]), Verdict::Nothing),
        case(
            "an IPv4 header shorter than any",
            ethernet(0x0800, &[0x44; 40]),
            Verdict::Nothing,
        ),
        case(
            "nine extensions",
            ethernet(
                0x86dd,
                &ipv6(60, &extended(&[60, 60, 60, 60, 60, 60, 60, 60, 4], 0, &tcp(9))),
            ),
            Verdict::Nothing,
        ),
        case(
            "an extension past the end",
            ethernet(0x86dd, &ipv6(60, &[41, 255, 0, 0, 0, 0, 0, 0, 0, 0])),
            Verdict::Malformed,
        ),
    ]
}

/// The cases.
pub fn fragments() -> Vec<Case> {
    let datagram = vxlan(5, &ethernet(0x0800, &tcp(600)));
    let part = |protocol, offset, more, payload: &[u8]| {
        ethernet(
            0x0800,
            &ipv4_with(protocol, &[], offset | ((more as u16) << 13), payload),
        )
    };
    vec![
        tunnel(
            "first fragment",
            part(17, 0, true, &datagram[..256]),
            kind::VXLAN,
            5,
            TCP,
            240,
        ),
        case(
            "later fragment",
            part(17, 32, false, &datagram[256..]),
            Verdict::Fragment,
        ),
        case(
            "one that overlaps it",
            part(17, 31, false, &datagram[248..]),
            Verdict::Fragment,
        ),
        tunnel(
            "later fragment of IPIP",
            part(4, 32, true, &[0; 64]),
            kind::IPIP,
            0,
            class::FRAGMENT,
            64,
        ),
        Case {
            kind: kind::GRE,
            class: class::FRAGMENT,
            inner: 64,
            ..case(
                "later fragment of GRE",
                part(47, 32, false, &[0; 64]),
                Verdict::SomeTunnel,
            )
        },
        tunnel(
            "first fragment over IPv6",
            ethernet(0x86dd, &ipv6(44, &fragment6(17, 0, true, &datagram[..256]))),
            kind::VXLAN,
            5,
            TCP,
            240,
        ),
        case(
            "later fragment over IPv6",
            ethernet(0x86dd, &ipv6(44, &fragment6(17, 32, false, &datagram[256..]))),
            Verdict::Fragment,
        ),
        // Found by the fuzzer.
        malformed(
            "later fragment whose header is past the end",
            ethernet(0x86dd, &ipv6(44, &[4, 0, 1, 0])),
            kind::IP6TNL,
        ),
        tunnel(
            "atomic fragment",
            ethernet(0x86dd, &ipv6(44, &fragment6(17, 0, false, &datagram))),
            kind::VXLAN,
            5,
            TCP,
            datagram.len() - 16,
        ),
    ]
}

/// The cases.
pub fn errors() -> Vec<Case> {
    let sent = ipv4(17, &vxlan(42, &ethernet(0x0800, &tcp(1400))));
    let sent6 = ipv6(17, &geneve(0x6558, 43, &[], &ethernet(0x0800, &tcp(1400))));
    let big = |name, bytes, kind, id| Case {
        kind,
        id,
        ..case(name, bytes, Verdict::TooBig)
    };
    let icmp = |kind: u8, code: u8, mtu: u16, quote: &[u8]| {
        let mut out = vec![kind, code, 0, 0, 0, 0];
        out.extend(mtu.to_be_bytes());
        out.extend(quote);
        out
    };
    vec![
        big(
            "fragmentation needed",
            eth4(1, &icmp(3, 4, 1400, &sent[..548])),
            kind::VXLAN,
            42,
        ),
        big(
            "fragmentation needed, the shortest quote",
            eth4(1, &icmp(3, 4, 1400, &sent[..28])),
            kind::VXLAN,
            0,
        ),
        big(
            "packet too big",
            eth6(58, &icmp(2, 0, 1280, &sent6[..1000])),
            kind::GENEVE,
            43,
        ),
        big(
            "fragmentation needed, of ESP",
            eth4(1, &icmp(3, 4, 1400, &ipv4(50, &[0, 0, 9, 9, 0, 0, 0, 1])[..28])),
            kind::ESP,
            0x909,
        ),
        case(
            "port unreachable",
            eth4(1, &icmp(3, 3, 0, &sent[..548])),
            Verdict::Nothing,
        ),
        case(
            "too big of no tunnel",
            eth4(1, &icmp(3, 4, 1400, &tcp(8))),
            Verdict::Nothing,
        ),
        case(
            "an error that quotes an error",
            eth4(1, &icmp(3, 4, 1, &ipv4(1, &icmp(3, 4, 1, &sent[..60])))),
            Verdict::Nothing,
        ),
    ]
}
