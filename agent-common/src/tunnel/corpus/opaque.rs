//! Tunnels whose payload only the ends can read.

use super::*;

/// The cases.
pub fn encrypted() -> Vec<Case> {
    let esp = |spi: u32, sequence: u32| {
        let mut out = spi.to_be_bytes().to_vec();
        out.extend(sequence.to_be_bytes());
        out.extend([0xaa; 56]);
        out
    };
    let in_udp = |payload: &[u8]| eth4(17, &udp(4500, 4500, payload));
    let wg = |payload: &[u8]| eth4(17, &udp(51820, 40000, payload));
    let ovpn = |opcode: u8, len: usize| {
        let mut out = vec![opcode << 3; 1];
        out.resize(len, 0x55);
        eth4(17, &udp(40000, 1194, &out))
    };
    vec![
        tunnel(
            "ESP",
            eth4(50, &esp(0x1000, 5)),
            kind::ESP,
            0x1000,
            class::ENCRYPTED,
            56,
        )
        .sequence(5),
        tunnel(
            "ESP over IPv6",
            eth6(50, &esp(0x1001, 6)),
            kind::ESP,
            0x1001,
            class::ENCRYPTED,
            56,
        )
        .sequence(6),
        tunnel(
            "ESP in UDP",
            in_udp(&esp(0x1002, 7)),
            kind::ESP_UDP,
            0x1002,
            class::ENCRYPTED,
            56,
        )
        .sequence(7),
        tunnel("IKE", in_udp(&[0; 40]), kind::ESP_UDP, 0, class::CONTROL, 0),
        tunnel(
            "keepalive of NAT traversal",
            in_udp(&[0xff]),
            kind::ESP_UDP,
            0,
            class::KEEPALIVE,
            0,
        ),
        tunnel(
            "WireGuard initiation",
            wg(&wireguard(1, 148, 0x11, 0, 0)),
            kind::WIREGUARD,
            0,
            class::CONTROL,
            0,
        ),
        tunnel(
            "WireGuard response",
            wg(&wireguard(2, 92, 0x22, 0x11, 0)),
            kind::WIREGUARD,
            0,
            class::CONTROL,
            0,
        ),
        tunnel(
            "WireGuard cookie",
            wg(&wireguard(3, 64, 0x22, 0, 0)),
            kind::WIREGUARD,
            0,
            class::CONTROL,
            0,
        ),
        tunnel(
            "WireGuard keepalive",
            wg(&wireguard(4, 32, 0x22, 0, 3)),
            kind::WIREGUARD,
            0,
            class::KEEPALIVE,
            0,
        )
        .sequence(3),
        tunnel(
            "WireGuard data",
            wg(&wireguard(4, 128, 0x22, 0, 1 << 40)),
            kind::WIREGUARD,
            0,
            class::ENCRYPTED,
            96,
        )
        .sequence(1 << 40),
        tunnel(
            "WireGuard data without padding, as boringtun sends it",
            wg(&wireguard(4, 47, 0x22, 0, 4)),
            kind::WIREGUARD,
            0,
            class::ENCRYPTED,
            15,
        )
        .sequence(4),
        tunnel(
            "OpenVPN data v1",
            ovpn(6, 101),
            kind::OPENVPN,
            0,
            class::ENCRYPTED,
            100,
        ),
        tunnel(
            "OpenVPN data v2",
            ovpn(9, 104),
            kind::OPENVPN,
            0,
            class::ENCRYPTED,
            100,
        ),
        tunnel("OpenVPN reset", ovpn(7, 14), kind::OPENVPN, 0, class::CONTROL, 0),
        case(
            "DNS to WireGuard's port",
            wg(&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 9]),
            Verdict::Nothing,
        ),
        case("too short for anything", wg(&[4, 0, 0]), Verdict::Nothing),
        case("no opcode of OpenVPN", ovpn(20, 40), Verdict::Nothing),
    ]
}
