//! Tunnels that are an IP protocol.

use super::{Network, Packet, Parsed, be16, be32, fact, inner, load_within};
use crate::tunnel::{class, flag, kind};

const CHECKSUM: u16 = 0x8000;
const ROUTING: u16 = 0x4000;
const KEY: u16 = 0x2000;
const SEQUENCE: u16 = 0x1000;
const VERSION: u16 = 7;

/// GRE. Other versions (PPTP is 1) and the routing field of RFC 1701 are not ours.
#[inline(always)]
pub fn gre<P: Packet>(packet: &P, net: &Network, out: &mut Parsed) -> Option<()> {
    let h = load_within::<4, P>(packet, net.transport, net.end)?;
    let flags = be16(h[0], h[1]);
    if flags & (VERSION | ROUTING) != 0 {
        out.kind = kind::NONE;
        return None;
    }
    let mut at = net.transport + 4;
    if flags & CHECKSUM != 0 {
        at += 4;
    }
    if flags & KEY != 0 {
        let [a, b, c, d] = load_within::<4, P>(packet, at, net.end)?;
        out.id = be32(a, b, c, d);
        out.window = out.id;
        out.flags = flag::HAS_ID;
        at += 4;
    }
    if flags & SEQUENCE != 0 {
        let [a, b, c, d] = load_within::<4, P>(packet, at, net.end)?;
        out.sequence = be32(a, b, c, d) as u64;
        out.facts |= fact::SEQUENCED;
        at += 4;
    }
    if at > net.end {
        return None;
    }
    out.payload = at;
    inner::begins(be16(h[2], h[3]), out);
    Some(())
}

/// ESP: SPI and sequence are all that can be read.
#[inline(always)]
pub fn esp<P: Packet>(packet: &P, at: u32, end: u32, out: &mut Parsed) -> Option<()> {
    let [a, b, c, d, e, f, g, h] = load_within::<8, P>(packet, at, end)?;
    out.id = be32(a, b, c, d);
    if out.id == 0 {
        return None;
    }
    out.window = out.id;
    out.flags = flag::HAS_ID;
    out.sequence = be32(e, f, g, h) as u64;
    out.facts |= fact::SEQUENCED;
    out.class = class::ENCRYPTED;
    out.payload = at + 8;
    out.inner = end.saturating_sub(out.payload);
    Some(())
}

/// AH: what it authenticates can be read.
#[inline(always)]
pub fn ah<P: Packet>(packet: &P, net: &Network, out: &mut Parsed) -> Option<()> {
    let h = load_within::<12, P>(packet, net.transport, net.end)?;
    let header = (h[1] as u32 + 2) * 4;
    out.id = be32(h[4], h[5], h[6], h[7]);
    if header < 12 || out.id == 0 || net.transport + header > net.end {
        return None;
    }
    out.window = out.id;
    out.flags = flag::HAS_ID;
    out.sequence = be32(h[8], h[9], h[10], h[11]) as u64;
    out.facts |= fact::SEQUENCED;
    out.payload = net.transport + header;
    out.inner = net.end.saturating_sub(out.payload);
    match h[0] {
        super::IPV4 | super::IPV6 => inner::begins(inner::ip(h[0]), out),
        super::ESP => out.class = class::ENCRYPTED,
        protocol => {
            let base = if net.v6 { class::IPV6 } else { class::IPV4 };
            out.class = base + inner::transport_class(protocol);
        }
    }
    Some(())
}
