//! What a tunnel carries.

use super::{ETH_IPV4, ETH_IPV6, ICMP, ICMPV6, Packet, Parsed, TCP, UDP, fact, link, network};
use crate::tunnel::class;

/// Transparent Ethernet bridging: an Ethernet frame.
pub const ETHERNET: u16 = 0x6558;
/// Nothing that can be read.
pub const NOTHING: u16 = 0xffff;
const ARP: u16 = 0x0806;

/// Notes what begins at `out.payload`.
#[inline(always)]
pub fn begins(ethertype: u16, out: &mut Parsed) {
    out.carries = ethertype;
    out.facts |= fact::CLEAR;
}

/// Reads what lies at `out.payload` up to `out.end`, of the EtherType `out.carries`.
#[inline(always)]
pub fn read<P: Packet>(packet: &P, out: &mut Parsed) {
    out.inner = out.end.saturating_sub(out.payload);
    out.headers = out.payload;
    out.class = class::OTHER;
    let (ethertype, at) = if out.carries != ETHERNET {
        (out.carries, out.payload)
    } else if link(packet, out.payload, out) {
        (out.carries, out.net.transport)
    } else {
        return;
    };
    out.headers = at.min(out.end);
    if ethertype == ARP {
        out.class = class::ARP;
        return;
    }
    if !network(packet, ethertype, at, out.end, &mut out.net) {
        return;
    }
    let net = out.net;
    let base = if ethertype == ETH_IPV4 {
        class::IPV4
    } else {
        class::IPV6
    };
    out.class = base + transport_class(net.protocol);
    out.inner_source = net.source;
    out.inner_destination = net.destination;
    out.inner_end = net.end;
    out.headers = net.transport.min(out.end);
    out.facts |= fact::PAIR;
    if net.fragment {
        return;
    }
    if net.protocol == TCP {
        out.transport = net.transport;
        out.facts |= fact::TCP;
        if packet.segment() != 0
            && let Some([offset]) = packet.load::<1>(net.transport + 12)
        {
            out.headers = (net.transport + (offset >> 4) as u32 * 4).min(out.end);
        }
    } else if net.protocol == UDP {
        out.headers = (net.transport + 8).min(out.end);
    }
}

/// Offset within the four classes of an address family.
#[inline(always)]
pub const fn transport_class(protocol: u8) -> u8 {
    match protocol {
        TCP => 0,
        UDP => 1,
        ICMP | ICMPV6 => 2,
        _ => 3,
    }
}

/// EtherType of IP in IP.
#[inline(always)]
pub const fn ip(protocol: u8) -> u16 {
    if protocol == super::IPV4 {
        ETH_IPV4
    } else {
        ETH_IPV6
    }
}
