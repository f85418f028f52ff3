//! Tunnels over UDP, told by their ports.

use super::{ETH_IPV4, ETH_IPV6, Network, Packet, Parsed, Ports, be16, be32, fact, inner, ip, load_within};
use crate::tunnel::{class, flag, kind};

/// Lengths of WireGuard's messages; data has a header of 16 bytes and a tag of 16, and is padded to 16 by most (boringtun
/// does not pad).
const INITIATION: u32 = 148;
const RESPONSE: u32 = 92;
const COOKIE: u32 = 64;
const EMPTY: u32 = 32;
/// The shortest packet of OpenVPN that is not data: opcode, session, no acknowledgements, packet id.
const OPENVPN: u32 = 14;

/// The kind that the ports say. The encapsulations send to their port from any; the others answer from it as well.
#[inline(always)]
pub fn kind(ports: &impl Ports, source: u16, destination: u16, out: &mut Parsed) -> Option<()> {
    let mut found = ports.kind(destination);
    if found == kind::NONE {
        found = ports.kind(source);
        if !matches!(found, kind::WIREGUARD | kind::OPENVPN | kind::ESP_UDP) {
            return None;
        }
    }
    out.kind = found;
    if matches!(found, kind::WIREGUARD | kind::OPENVPN) {
        out.source_port = source;
        out.destination_port = destination;
    }
    Some(())
}

/// Reads the tunnel's header; `None` if it is not one, with `out.kind` cleared if it is something else altogether.
#[inline(always)]
pub fn udp<P: Packet>(packet: &P, net: &Network, quoted: bool, out: &mut Parsed) -> Option<()> {
    let at = net.transport + 8;
    out.payload = at;
    out.headers = at;
    let all = net.end.saturating_sub(at);
    let segment = packet.segment();
    let several = segment != 0 && segment < all;
    match out.kind {
        kind::VXLAN | kind::VXLAN_GPE => {
            let h = load_within::<8, P>(packet, at, net.end)?;
            if h[0] & 8 == 0 {
                return None;
            }
            out.id = be32(0, h[4], h[5], h[6]);
            out.flags = flag::HAS_ID;
            out.payload = at + 8;
            let carries = match h[3] {
                _ if out.kind == kind::VXLAN || h[0] & 4 == 0 => inner::ETHERNET,
                1 => ETH_IPV4,
                2 => ETH_IPV6,
                3 => inner::ETHERNET,
                _ => inner::NOTHING,
            };
            inner::begins(carries, out);
            return Some(());
        }
        kind::GENEVE => {
            let h = load_within::<8, P>(packet, at, net.end)?;
            let options = (h[0] & 63) as u32 * 4;
            if h[0] >> 6 != 0 || at + 8 + options > net.end {
                return None;
            }
            out.id = be32(0, h[4], h[5], h[6]);
            out.flags = flag::HAS_ID;
            out.payload = at + 8 + options;
            inner::begins(be16(h[2], h[3]), out);
            return Some(());
        }
        _ => {}
    }
    // Each datagram of a GSO packet is a message.
    let message = if several { segment } else { all };
    out.inner = all;
    if several {
        out.facts |= fact::MESSAGES;
    }
    if quoted {
        return if out.kind == kind::ESP_UDP {
            ip::esp(packet, at, net.end, out)
        } else {
            Some(())
        };
    }
    let whole = !net.fragment && !net.truncated;
    match out.kind {
        kind::WIREGUARD => wireguard(packet, at, net.end, message, whole, out),
        kind::OPENVPN => openvpn(packet, at, message, whole, out),
        _ => esp(packet, at, net.end, all, out),
    }
}

#[inline(always)]
fn wireguard<P: Packet>(
    packet: &P,
    at: u32,
    end: u32,
    message: u32,
    whole: bool,
    out: &mut Parsed,
) -> Option<()> {
    let h = load_within::<16, P>(packet, at, end).or_else(|| {
        out.kind = kind::NONE;
        None
    })?;
    if h[0] == 0 || h[0] > 4 || h[1] | h[2] | h[3] != 0 {
        out.kind = kind::NONE;
        return None;
    }
    let first = u32::from_le_bytes([h[4], h[5], h[6], h[7]]);
    out.message = h[0];
    out.class = class::CONTROL;
    let expected = match h[0] {
        1 => {
            out.sender = first;
            INITIATION
        }
        2 => {
            out.sender = first;
            out.window = u32::from_le_bytes([h[8], h[9], h[10], h[11]]);
            RESPONSE
        }
        3 => {
            out.window = first;
            COOKIE
        }
        _ => {
            out.window = first;
            out.sequence = u64::from_le_bytes([h[8], h[9], h[10], h[11], h[12], h[13], h[14], h[15]]);
            out.facts |= fact::SEQUENCED | fact::WIDE;
            out.class = if message == EMPTY {
                class::KEEPALIVE
            } else {
                class::ENCRYPTED
            };
            out.payload = at + 16;
            out.inner = out.inner.saturating_sub(EMPTY);
            out.step = EMPTY;
            if whole && message < EMPTY {
                return None;
            }
            return Some(());
        }
    };
    out.inner = 0;
    (!whole || message == expected).then_some(())
}

#[inline(always)]
fn openvpn<P: Packet>(packet: &P, at: u32, message: u32, whole: bool, out: &mut Parsed) -> Option<()> {
    let [first] = packet.load::<1>(at)?;
    let header = match first >> 3 {
        6 => 1,
        9 => 4,
        1..=5 | 7 | 8 | 10 | 11 => {
            out.class = class::CONTROL;
            out.inner = 0;
            return (!whole || message >= OPENVPN).then_some(());
        }
        _ => {
            out.kind = kind::NONE;
            return None;
        }
    };
    out.class = class::ENCRYPTED;
    out.payload = at + header;
    out.inner = out.inner.saturating_sub(header);
    out.step = header;
    (message > header).then_some(())
}

/// ESP, IKE behind the non-ESP marker, or the keepalive of one byte.
#[inline(always)]
fn esp<P: Packet>(packet: &P, at: u32, end: u32, all: u32, out: &mut Parsed) -> Option<()> {
    if all == 1 && packet.load::<1>(at)? == [0xff] {
        out.class = class::KEEPALIVE;
        out.inner = 0;
        return Some(());
    }
    if load_within::<4, P>(packet, at, end)? == [0; 4] {
        out.class = class::CONTROL;
        out.inner = 0;
        return Some(());
    }
    ip::esp(packet, at, end, out)
}
