//! Tunnels whose payload can be read.

use super::*;

/// The cases.
pub fn overlays() -> Vec<Case> {
    let frame = ethernet(0x0800, &tcp(100));
    let frame6 = ethernet(0x86dd, &tcp6(100));
    let tagged = vlan(&[(0x8100, 7)], 0x0800, &tcp(100));
    let arp = ethernet(0x0806, &[0; 28]);
    let nested = ethernet(0x0800, &ipv4(17, &vxlan(9, &frame)));
    let n = frame.len();
    let options = [1, 2, 0x80, 2, 0, 0, 0, 0, 0, 0, 0, 0];
    vec![
        tunnel("VXLAN", eth4(17, &vxlan(42, &frame)), kind::VXLAN, 42, TCP, n),
        tunnel(
            "VXLAN to Linux' old port",
            eth4(17, &udp(33000, 8472, &vxlan_header(8, 0, 5, &frame))),
            kind::VXLAN,
            5,
            TCP,
            n,
        ),
        tunnel(
            "VXLAN over IPv6",
            eth6(17, &vxlan(0xff_ffff, &frame6)),
            kind::VXLAN,
            0xff_ffff,
            TCP6,
            frame6.len(),
        ),
        tunnel(
            "VXLAN behind a VLAN tag",
            vlan(&[(0x8100, 5)], 0x0800, &ipv4(17, &vxlan(1, &frame))),
            kind::VXLAN,
            1,
            TCP,
            n,
        ),
        tunnel(
            "VXLAN in QinQ",
            vlan(&[(0x88a8, 5), (0x8100, 6)], 0x0800, &ipv4(17, &vxlan(2, &frame))),
            kind::VXLAN,
            2,
            TCP,
            n,
        ),
        tunnel(
            "VXLAN of a tagged frame",
            eth4(17, &vxlan(3, &tagged)),
            kind::VXLAN,
            3,
            TCP,
            tagged.len(),
        ),
        tunnel(
            "VXLAN of ARP",
            eth4(17, &vxlan(3, &arp)),
            kind::VXLAN,
            3,
            class::ARP,
            arp.len(),
        ),
        tunnel(
            "VXLAN in VXLAN",
            eth4(17, &vxlan(8, &nested)),
            kind::VXLAN,
            8,
            UDP,
            nested.len(),
        ),
        tunnel(
            "VXLAN of nothing",
            eth4(17, &vxlan(4, &[])),
            kind::VXLAN,
            4,
            class::OTHER,
            0,
        ),
        tunnel(
            "VXLAN of a jumbo frame",
            eth4(17, &vxlan(4, &ethernet(0x0800, &tcp(8900)))),
            kind::VXLAN,
            4,
            TCP,
            8954,
        ),
        tunnel(
            "IPv4 with options",
            ethernet(0x0800, &ipv4_with(17, &[1; 12], 0, &vxlan(6, &frame))),
            kind::VXLAN,
            6,
            TCP,
            n,
        ),
        tunnel(
            "the link's padding",
            padded(eth4(17, &vxlan(6, &[1, 2])), 60),
            kind::VXLAN,
            6,
            class::OTHER,
            2,
        ),
        tunnel(
            "VXLAN-GPE of IPv4",
            eth4(17, &udp(1, 4790, &vxlan_header(0x0c, 1, 7, &tcp(100)))),
            kind::VXLAN_GPE,
            7,
            TCP,
            140,
        ),
        tunnel(
            "VXLAN-GPE of IPv6",
            eth4(17, &udp(1, 4790, &vxlan_header(0x0c, 2, 7, &tcp6(100)))),
            kind::VXLAN_GPE,
            7,
            TCP6,
            160,
        ),
        tunnel(
            "VXLAN-GPE of a frame",
            eth4(17, &udp(1, 4790, &vxlan_header(0x0c, 3, 7, &frame))),
            kind::VXLAN_GPE,
            7,
            TCP,
            n,
        ),
        tunnel(
            "VXLAN-GPE of NSH",
            eth4(17, &udp(1, 4790, &vxlan_header(0x0c, 4, 7, &[0; 24]))),
            kind::VXLAN_GPE,
            7,
            class::OTHER,
            24,
        ),
        tunnel(
            "Geneve",
            eth4(17, &geneve(0x6558, 77, &[], &frame)),
            kind::GENEVE,
            77,
            TCP,
            n,
        ),
        tunnel(
            "Geneve with options",
            eth4(17, &geneve(0x6558, 78, &options, &frame)),
            kind::GENEVE,
            78,
            TCP,
            n,
        ),
        tunnel(
            "Geneve of IPv6",
            eth6(17, &geneve(0x86dd, 79, &options, &tcp6(100))),
            kind::GENEVE,
            79,
            TCP6,
            160,
        ),
    ]
}

/// The cases.
pub fn protocols() -> Vec<Case> {
    let (inner, inner6, frame) = (tcp(100), tcp6(100), ethernet(0x0800, &tcp(100)));
    let ah = |next: u8, payload: &[u8]| {
        let mut out = vec![next, 4, 0, 0, 0, 0, 4, 0xd2, 0, 0, 0, 9];
        out.extend([0; 12]);
        out.extend(payload);
        out
    };
    vec![
        tunnel(
            "GRE",
            eth4(47, &gre(0x0800, None, None, false, &inner)),
            kind::GRE,
            0,
            TCP,
            140,
        ),
        tunnel(
            "GRE with key",
            eth4(47, &gre(0x0800, Some(0xdead_beef), None, false, &inner)),
            kind::GRE,
            0xdead_beef,
            TCP,
            140,
        ),
        tunnel(
            "GRE with sequence",
            eth4(47, &gre(0x0800, None, Some(17), false, &inner)),
            kind::GRE,
            0,
            TCP,
            140,
        )
        .sequence(17),
        tunnel(
            "GRE with all",
            eth4(47, &gre(0x86dd, Some(3), Some(u32::MAX), true, &inner6)),
            kind::GRE,
            3,
            TCP6,
            160,
        )
        .sequence(u32::MAX as u64),
        tunnel(
            "gretap over IPv6",
            eth6(47, &gre(0x6558, Some(3), None, false, &frame)),
            kind::GRE,
            3,
            TCP,
            frame.len(),
        ),
        tunnel(
            "GRE of something else",
            eth4(47, &gre(0x88be, None, Some(1), false, &[0; 40])),
            kind::GRE,
            0,
            class::OTHER,
            40,
        )
        .sequence(1),
        tunnel("IPIP", eth4(4, &inner), kind::IPIP, 0, TCP, 140),
        tunnel("SIT", eth4(41, &inner6), kind::SIT, 0, TCP6, 160),
        tunnel("IPv6 in IPv6", eth6(41, &inner6), kind::IP6TNL, 0, TCP6, 160),
        tunnel("IPv4 in IPv6", eth6(4, &inner), kind::IP6TNL, 0, TCP, 140),
        tunnel(
            "with an encapsulation limit",
            ethernet(0x86dd, &ipv6(60, &extended(&[41], 4, &inner6))),
            kind::IP6TNL,
            0,
            TCP6,
            160,
        ),
        tunnel(
            "behind seven extensions",
            ethernet(
                0x86dd,
                &ipv6(60, &extended(&[60, 60, 43, 60, 60, 60, 4], 0, &inner)),
            ),
            kind::IP6TNL,
            0,
            TCP,
            140,
        ),
        tunnel(
            "AH tunnel mode",
            eth4(51, &ah(4, &inner)),
            kind::AH,
            1234,
            TCP,
            140,
        )
        .sequence(9),
        tunnel(
            "AH transport mode",
            eth4(51, &ah(17, &[0; 30])),
            kind::AH,
            1234,
            UDP,
            30,
        )
        .sequence(9),
        tunnel(
            "AH of ESP",
            eth6(51, &ah(50, &[7; 30])),
            kind::AH,
            1234,
            class::ENCRYPTED,
            30,
        )
        .sequence(9),
        tunnel(
            "an inner header cut off",
            eth4(4, &[0x45, 0, 0]),
            kind::IPIP,
            0,
            class::OTHER,
            3,
        ),
        tunnel(
            "inner IPv6 that begins with no next header",
            eth4(41, &ipv6(59, &[])),
            kind::SIT,
            0,
            class::IPV6 + 3,
            40,
        ),
    ]
}
