//! From a packet on an underlay device to the tunnel that it belongs to.
//!
//! Pure, allocates nothing and cannot panic: the same code runs in the kernel, where `load` copies from the socket
//! buffer, and on the host over slices. Fragments are not put together: the first has the headers and is parsed as if
//! it were whole; later ones count only where the IP protocol alone names the tunnel.

use super::{class, kind};

mod inner;
mod ip;
mod udp;

/// A packet from its link header on.
pub trait Packet {
    /// The bytes at an offset; `None` if the packet ends before.
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]>;
    /// Length of the packet. A GSO packet is longer than any on the wire.
    fn len(&self) -> u32;
    /// Payload of each segment of a GSO packet; 0 = not one.
    fn segment(&self) -> u32;
    /// Whether there is nothing at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A packet that lies in memory as a whole: for tests, for the fuzzer, and to compare the programs with.
pub struct Bytes<'a> {
    bytes: &'a [u8],
    segment: u32,
}

impl<'a> Bytes<'a> {
    /// A packet as it is on the wire.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self::gso(bytes, 0)
    }

    /// One that stands for several, with so many bytes of payload each.
    pub const fn gso(bytes: &'a [u8], segment: u32) -> Self {
        Self { bytes, segment }
    }
}

impl Packet for Bytes<'_> {
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let at = at as usize;
        self.bytes.get(at..at.checked_add(N)?)?.try_into().ok()
    }
    fn len(&self) -> u32 {
        self.bytes.len() as u32
    }
    fn segment(&self) -> u32 {
        self.segment
    }
}

/// The UDP ports that carry tunnels.
pub trait Ports {
    /// See [`kind`].
    fn kind(&self, port: u16) -> u8;
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// Not of a tunnel, or an outer header that cannot be read.
    Nothing,
    /// Of the tunnel in [`Parsed`].
    Tunnel,
    /// A later fragment: of some tunnel of this kind.
    SomeTunnel,
    /// A later fragment of a UDP datagram, of whatever.
    Fragment,
    /// Addressed as a packet of this kind, but it contradicts itself or is cut off.
    Malformed,
    /// An ICMP message: a packet of the tunnel was too big. Source and destination are those of the quoted packet.
    TooBig,
}

/// Bits of [`Parsed::facts`].
pub mod fact {
    /// The outer packet is a fragment.
    pub const FRAGMENT: u8 = 1;
    /// `sequence` and `window` are set.
    pub const SEQUENCED: u8 = 2;
    /// `sequence` has 64 bits.
    pub const WIDE: u8 = 4;
    /// The inner addresses are set.
    pub const PAIR: u8 = 8;
    /// `transport` is the offset of an inner TCP header.
    pub const TCP: u8 = 16;
    /// Each segment of a GSO packet is a message of its own, with its own sequence number.
    pub const MESSAGES: u8 = 32;
    /// What the tunnel carries can be read.
    pub const CLEAR: u8 = 64;
}

/// The bytes of an address as two words in memory order: byte by byte they cost the kernel a call of memset each.
pub type Address = [u64; 2];

/// The bytes of an address.
#[inline(always)]
pub const fn bytes(address: Address) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h] = address[0].to_ne_bytes();
    let [i, j, k, l, m, n, o, p] = address[1].to_ne_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// What was found. Offsets are from the start of the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Outer source, IPv4 mapped.
    pub source: Address,
    /// Outer destination.
    pub destination: Address,
    /// Inner source, with [`fact::PAIR`].
    pub inner_source: Address,
    /// Inner destination, with [`fact::PAIR`].
    pub inner_destination: Address,
    /// See [`fact::SEQUENCED`].
    pub sequence: u64,
    /// VNI, key, SPI.
    pub id: u32,
    /// What the sequence belongs to: receiver index, SPI, key.
    pub window: u32,
    /// Sender's index of a WireGuard initiation or response.
    pub sender: u32,
    /// Next-hop MTU of a [`Verdict::TooBig`].
    pub mtu: u32,
    /// Where that begins which the tunnel carries.
    pub payload: u32,
    /// Bytes that the tunnel carries, of all segments, their own headers counted once.
    pub inner: u32,
    /// Bytes of headers that are repeated in each segment, from the start of the packet.
    pub headers: u32,
    /// With [`fact::MESSAGES`]: bytes of each message that are not inner.
    pub step: u32,
    /// Where the outer IP packet ends: what follows is padding of the link.
    pub end: u32,
    /// See [`fact::TCP`].
    pub transport: u32,
    /// Where the inner IP packet ends.
    pub inner_end: u32,
    /// EtherType of the payload, with [`fact::CLEAR`].
    carries: u16,
    /// UDP port of the source, of kinds whose ports matter.
    pub source_port: u16,
    /// UDP port of the destination, of kinds whose ports matter.
    pub destination_port: u16,
    /// See [`kind`].
    pub kind: u8,
    /// See [`super::flag`].
    pub flags: u8,
    /// See [`class`].
    pub class: u8,
    /// See [`fact`].
    pub facts: u8,
    /// WireGuard's message type; 0 = none.
    pub message: u8,
    pad: u8,
    /// The IP header that was read last; not reset. Here and not in a variable: of what is read from memory the kernel's
    /// verifier knows nothing, so it need not follow what comes after for every way that wrote it.
    pub net: Network,
}

const ETH_IPV4: u16 = 0x0800;
const ETH_IPV6: u16 = 0x86dd;
/// IPv6 extension headers that are followed. The kernel's own limit for destination options is 8.
const EXTENSIONS: usize = 8;

const ICMP: u8 = 1;
const IPV4: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV6: u8 = 41;
const GRE: u8 = 47;
const ESP: u8 = 50;
const AH: u8 = 51;
const ICMPV6: u8 = 58;

#[inline(always)]
const fn be16(a: u8, b: u8) -> u16 {
    u16::from_be_bytes([a, b])
}

#[inline(always)]
const fn be32(a: u8, b: u8, c: u8, d: u8) -> u32 {
    u32::from_be_bytes([a, b, c, d])
}

#[inline(always)]
const fn is_vlan(ethertype: u16) -> bool {
    matches!(ethertype, 0x8100 | 0x88a8 | 0x9100)
}

#[inline(always)]
fn mapped(a: u8, b: u8, c: u8, d: u8) -> Address {
    [0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])]
}

/// EtherType behind up to two VLAN tags into `carries`, where its payload begins into `net.transport`.
#[inline(always)]
fn link<P: Packet>(packet: &P, at: u32, out: &mut Parsed) -> bool {
    let Some([a, b]) = packet.load::<2>(at + 12) else {
        return false;
    };
    let (mut ethertype, mut next) = (be16(a, b), at + 14);
    let mut tags = 0;
    while tags < 2 && is_vlan(ethertype) {
        let Some([_, _, a, b]) = packet.load::<4>(next) else {
            return false;
        };
        ethertype = be16(a, b);
        next += 4;
        tags += 1;
    }
    out.carries = ethertype;
    out.net.transport = next;
    true
}

/// What an IP header says.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network {
    source: Address,
    destination: Address,
    /// Where what is behind the header and its extensions begins.
    transport: u32,
    /// Where the packet ends, cut to what is there.
    end: u32,
    /// Its protocol.
    protocol: u8,
    v6: bool,
    fragment: bool,
    /// A fragment other than the first: there is no transport header.
    later: bool,
    /// The header tells of more than is there.
    truncated: bool,
}

/// The bytes at an offset, if they end before `limit`: what follows the packet is the link's.
#[inline(always)]
fn load_within<const N: usize, P: Packet>(packet: &P, at: u32, limit: u32) -> Option<[u8; N]> {
    if at + N as u32 > limit {
        return None;
    }
    packet.load(at)
}

/// Where a packet ends by its header's `length` from `at` on. A length of 0 is a GSO packet beyond 64 KiB, or a jumbogram.
#[inline(always)]
fn end(at: u32, length: u32, limit: u32) -> (u32, bool) {
    if length == 0 {
        return (limit, false);
    }
    let end = at + length;
    if end > limit { (limit, true) } else { (end, false) }
}

#[inline(always)]
fn word<P: Packet>(packet: &P, at: u32) -> Option<u64> {
    packet.load(at).map(u64::from_ne_bytes)
}

#[inline(always)]
fn ipv4<P: Packet>(packet: &P, at: u32, limit: u32, net: &mut Network) -> Option<()> {
    let h = packet.load::<20>(at)?;
    let header = ((h[0] & 15) as u32) * 4;
    let total = be16(h[2], h[3]) as u32;
    if h[0] >> 4 != 4 || header < 20 || (total != 0 && total < header) || at + header > limit {
        return None;
    }
    let fragment = be16(h[6], h[7]);
    (net.end, net.truncated) = end(at, total, limit);
    net.source = mapped(h[12], h[13], h[14], h[15]);
    net.destination = mapped(h[16], h[17], h[18], h[19]);
    net.protocol = h[9];
    net.v6 = false;
    net.transport = at + header;
    net.fragment = fragment & 0x3fff != 0;
    net.later = fragment & 0x1fff != 0;
    Some(())
}

#[inline(always)]
fn ipv6<P: Packet>(packet: &P, at: u32, limit: u32, net: &mut Network) -> Option<()> {
    let h = packet.load::<8>(at)?;
    if h[0] >> 4 != 6 {
        return None;
    }
    net.source = [word(packet, at + 8)?, word(packet, at + 16)?];
    net.destination = [word(packet, at + 24)?, word(packet, at + 32)?];
    net.v6 = true;
    let length = be16(h[4], h[5]) as u32;
    (net.end, net.truncated) = end(at, if length == 0 { 0 } else { length + 40 }, limit);
    net.protocol = h[6];
    net.transport = at + 40;
    net.fragment = false;
    net.later = false;
    let mut i = 0;
    while i < EXTENSIONS && is_extension(net.protocol) && !net.later {
        if !extension(packet, net) {
            return None;
        }
        i += 1;
    }
    // One more is more than anybody sends.
    (net.later || !is_extension(net.protocol)).then_some(())
}

/// Hop-by-hop, routing, fragment, destination options, mobility, HIP, shim6.
#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, 0 | 43 | 44 | 60 | 135 | 139 | 140)
}

/// One extension header on.
#[inline(never)]
fn extension<P: Packet>(packet: &P, net: &mut Network) -> bool {
    let Some([next, length, a, b]) = packet.load::<4>(net.transport) else {
        return false;
    };
    let offset = be16(a, b);
    if net.protocol == 44 {
        net.transport += 8;
        // A whole packet with a fragment header ("atomic") is no fragment.
        net.fragment = offset & 0xfff9 != 0;
        net.later = offset & 0xfff8 != 0;
    } else {
        net.transport += 8 + (length as u32) * 8;
    }
    net.protocol = next;
    true
}

/// Reads an IP header and its extensions.
#[inline(always)]
fn network<P: Packet>(packet: &P, ethertype: u16, at: u32, limit: u32, net: &mut Network) -> bool {
    match ethertype {
        ETH_IPV4 => ipv4(packet, at, limit, net).is_some(),
        ETH_IPV6 => ipv6(packet, at, limit, net).is_some(),
        _ => false,
    }
}

/// What a packet is. `ethernet` = it begins with an Ethernet header, else with an IP header. `out` must be zero from
/// `sequence` up to `net`.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, ports: &impl Ports, ethernet: bool, out: &mut Parsed) -> Verdict {
    parse_some(packet, ports, ethernet, out).unwrap_or(Verdict::Nothing)
}

#[inline(always)]
fn parse_some<P: Packet>(
    packet: &P,
    ports: &impl Ports,
    ethernet: bool,
    out: &mut Parsed,
) -> Option<Verdict> {
    let (mut ethertype, mut at) = if !ethernet {
        (by_version(packet, 0)?, 0)
    } else if link(packet, 0, out) {
        (out.carries, out.net.transport)
    } else {
        return None;
    };
    let mut quoted = false;
    // Twice: the packet, and what an ICMP error quotes.
    let mut round = 0;
    while round < 2 {
        if !network(packet, ethertype, at, packet.len(), &mut out.net) {
            return None;
        }
        let net = out.net;
        if !net.later
            && !quoted
            && let Some(mtu) = too_big(packet, &net)
        {
            quoted = true;
            out.mtu = mtu;
            at = net.transport + 8;
            ethertype = by_version(packet, at)?;
            round += 1;
            continue;
        }
        return outer(packet, ports, &net, quoted, out);
    }
    None
}

#[inline(always)]
fn by_version<P: Packet>(packet: &P, at: u32) -> Option<u16> {
    let [first] = packet.load::<1>(at)?;
    match first >> 4 {
        4 => Some(ETH_IPV4),
        6 => Some(ETH_IPV6),
        _ => None,
    }
}

/// Next-hop MTU of an ICMP "fragmentation needed" or ICMPv6 "packet too big".
#[inline(always)]
fn too_big<P: Packet>(packet: &P, net: &Network) -> Option<u32> {
    if net.protocol != ICMP && net.protocol != ICMPV6 {
        return None;
    }
    let h = packet.load::<8>(net.transport)?;
    match (net.protocol, h[0], h[1]) {
        (ICMP, 3, 4) => Some(be16(h[6], h[7]) as u32),
        (ICMPV6, 2, _) => Some(be32(h[4], h[5], h[6], h[7])),
        _ => None,
    }
}

/// The IP protocol decides.
#[inline(always)]
fn outer<P: Packet>(
    packet: &P,
    ports: &impl Ports,
    net: &Network,
    quoted: bool,
    out: &mut Parsed,
) -> Option<Verdict> {
    out.source = net.source;
    out.destination = net.destination;
    out.end = net.end;
    out.payload = net.transport;
    out.headers = net.transport;
    if net.fragment {
        out.facts |= fact::FRAGMENT;
    }
    out.kind = match net.protocol {
        GRE => kind::GRE,
        ESP => kind::ESP,
        AH => kind::AH,
        IPV4 | IPV6 if net.v6 => kind::IP6TNL,
        IPV4 => kind::IPIP,
        IPV6 => kind::SIT,
        UDP if net.later && !quoted => return Some(Verdict::Fragment),
        UDP => kind::NONE,
        _ => return None,
    };
    if net.later {
        out.class = class::FRAGMENT;
        out.inner = net.end.saturating_sub(net.transport);
        return match out.kind {
            _ if quoted => None,
            _ if net.transport > net.end => Some(Verdict::Malformed),
            kind::IPIP | kind::SIT | kind::IP6TNL => Some(Verdict::Tunnel),
            _ => Some(Verdict::SomeTunnel),
        };
    }
    let found = match net.protocol {
        UDP => {
            let h = packet.load::<4>(net.transport)?;
            udp::kind(ports, be16(h[0], h[1]), be16(h[2], h[3]), out)?;
            udp::udp(packet, net, quoted, out)
        }
        GRE => ip::gre(packet, net, out),
        ESP => ip::esp(packet, net.transport, net.end, out),
        AH => ip::ah(packet, net, out),
        protocol => {
            inner::begins(inner::ip(protocol), out);
            Some(())
        }
    };
    if quoted {
        // Eight bytes of the transport header are all that must be quoted: what there is of it decides.
        return (out.kind != kind::NONE).then_some(Verdict::TooBig);
    }
    if found.is_none() || out.payload > net.end || (net.truncated && !net.fragment) {
        return (out.kind != kind::NONE).then_some(Verdict::Malformed);
    }
    if out.facts & fact::CLEAR != 0 {
        inner::read(packet, out);
    }
    Some(Verdict::Tunnel)
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
