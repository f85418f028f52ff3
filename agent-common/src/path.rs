//! Probe `path`: what a received packet and its socket tell of the way between two hosts.

use crate::tcp::SubjectKey;
use crate::tunnel::parse::Packet;
use crate::udp::{TCP, mapped};
use crate::wire::Header;

/// Initial values of TTL and hop limit that systems use (32: Windows before 2000, 64: Unix, 128: Windows, 255: routers).
const INITIAL: [u8; 4] = [32, 64, 128, 255];

/// How many routers a packet has passed: what its TTL lacks to the next of the usual initial values. Right for ways of
/// up to 31 routers, and there are hardly longer ones.
#[inline(always)]
pub const fn hops(ttl: u8) -> u8 {
    let mut i = 0;
    while i < INITIAL.len() {
        if ttl <= INITIAL[i] {
            return INITIAL[i] - ttl;
        }
        i += 1;
    }
    0
}

/// What the last look at a connection of a pair has shown, in one word, so that it is written and read as a whole; the
/// latest of several shards is the largest number. Zero = nothing yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// When, in units of 2²⁰ µs of the sockets' clock; wraps after 142 years.
    pub time: u32,
    /// Routers passed; `None` = the TTL could not be read.
    pub hops: Option<u8>,
    /// Path MTU in bytes, up to 2²⁴ - 1; 0 = not known.
    pub mtu: u32,
}

impl Seen {
    /// As one word. `micros` is the sockets' clock (`tcp_sock.tcp_mstamp`), `ttl` 0 = not known.
    #[inline(always)]
    pub const fn pack(micros: u64, ttl: u8, mtu: u32) -> u64 {
        let hops = if ttl == 0 { 0 } else { hops(ttl) as u64 + 1 };
        let mtu = if mtu > 0xff_ffff { 0xff_ffff } else { mtu };
        (micros >> 20) << 32 | hops << 24 | mtu as u64
    }

    /// From one word.
    pub const fn unpack(word: u64) -> Self {
        let hops = (word >> 24) as u8;
        Self {
            time: (word >> 32) as u32,
            hops: hops.checked_sub(1),
            mtu: word as u32 & 0xff_ffff,
        }
    }
}

crate::wire! {
    /// A connection's packets come another way than before: with another TTL, seen twice.
    pub struct RouteRecord {
        /// Record header.
        pub header: Header,
        /// Time in ns since boot (`bpf_ktime_get_boot_ns`).
        pub time: u64,
        /// Who.
        pub subject: SubjectKey,
        /// Remote address, IPv4 mapped.
        pub remote: [u8; 16],
        /// Name of the process that opened the connection or listened.
        pub comm: [u8; 16],
        /// Peer id.
        pub peer: u32,
        /// TTL or hop limit before.
        pub before: u8,
        /// TTL or hop limit now.
        pub after: u8,
        /// Always zero.
        pub pad: u16,
    }
}

crate::wire! {
    /// Whose round-trip times a forwarding host has seen.
    pub struct ForwardedKey {
        /// Interface index of the device; 0 = of any, in what finds no room of its own.
        pub device: u32,
        /// Id of the peer at the end that was measured.
        pub peer: u32,
        /// [`direction::INGRESS`](crate::tunnel::direction): echoes came in, so it lies beyond the device; `EGRESS`:
        /// they went out, so it lies on our side.
        pub side: u32,
        /// Always zero.
        pub pad: u32,
    }
}

impl ForwardedKey {
    /// What finds no room.
    pub const OTHER: Self = Self {
        device: 0,
        peer: 0,
        side: 0,
        pad: 0,
    };
}

/// A TCP segment in a packet, as offsets from the packet's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where the TCP header begins.
    pub transport: u32,
    /// Where the IP packet ends: what follows is padding of the link.
    pub end: u32,
    addresses: u32,
    v6: bool,
}

const ETH_IPV4: u16 = 0x0800;
const ETH_IPV6: u16 = 0x86dd;

/// The TCP segment in a packet that begins with an Ethernet header, perhaps with a VLAN tag, or with an IP header. `None`:
/// there is none, or only a part of one, or it lies behind IPv6 extension headers.
#[inline(always)]
pub fn segment<P: Packet>(packet: &P, ethernet: bool) -> Option<Segment> {
    let mut at = 0;
    if ethernet {
        at = 14;
        let mut ethertype = u16::from_be_bytes(packet.load::<2>(12)?);
        if ethertype == 0x8100 || ethertype == 0x88a8 {
            ethertype = u16::from_be_bytes(packet.load::<2>(16)?);
            at = 18;
        }
        if ethertype != ETH_IPV4 && ethertype != ETH_IPV6 {
            return None;
        }
    }
    let h = packet.load::<10>(at)?;
    let v6 = h[0] >> 4 == 6;
    let (protocol, header, length) = if v6 {
        (h[6], 40, u16::from_be_bytes([h[4], h[5]]) as u32 + 40)
    } else {
        let fragment = u16::from_be_bytes([h[6], h[7]]) & 0x3fff != 0;
        if h[0] >> 4 != 4 || fragment {
            return None;
        }
        let header = (h[0] & 15) as u32 * 4;
        (h[9], header, u16::from_be_bytes([h[2], h[3]]) as u32)
    };
    if protocol != TCP || header < 20 {
        return None;
    }
    Some(Segment {
        transport: at + header,
        // More than 64 KiB at once have no length.
        end: if length <= header {
            packet.len()
        } else {
            at + length
        },
        addresses: if v6 { at + 8 } else { at + 12 },
        v6,
    })
}

impl Segment {
    /// Source and destination, IPv4 mapped.
    #[inline(always)]
    pub fn ends<P: Packet>(&self, packet: &P) -> Option<([u8; 16], [u8; 16])> {
        if self.v6 {
            return Some((packet.load(self.addresses)?, packet.load(self.addresses + 16)?));
        }
        let [a, b, c, d, e, f, g, h] = packet.load::<8>(self.addresses)?;
        Some((mapped([a, b, c, d]), mapped([e, f, g, h])))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::tunnel::parse::Bytes;

    fn ipv4(change: impl Fn(&mut [u8])) -> std::vec::Vec<u8> {
        let mut out = std::vec![0; 24 + 32];
        (out[0], out[3], out[9]) = (0x46, 56, TCP);
        out[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        change(&mut out);
        out
    }

    fn framed(ethertype: u16, tag: bool, packet: &[u8]) -> std::vec::Vec<u8> {
        let mut out = std::vec![0; 12];
        if tag {
            out.extend([0x81, 0, 0, 7]);
        }
        out.extend(ethertype.to_be_bytes());
        out.extend(packet);
        // What the link adds is not the packet's.
        out.extend([0; 6]);
        out
    }

    #[test]
    fn segments_of_tcp_and_nothing_else() {
        let whole = ipv4(|_| ());
        for (tag, at) in [(false, 14), (true, 18)] {
            let packet = framed(0x0800, tag, &whole);
            let packet = Bytes::new(&packet);
            let seen = segment(&packet, true).unwrap();
            assert_eq!((seen.transport, seen.end), (at + 24, at + 56));
            let (source, destination) = seen.ends(&packet).unwrap();
            assert_eq!(
                (source, destination),
                (mapped([10, 0, 0, 1]), mapped([10, 0, 0, 2]))
            );
        }
        assert_eq!(segment(&Bytes::new(&whole), false).unwrap().transport, 24);
        // More than 64 KiB at once.
        let big = ipv4(|h| h[3] = 0);
        assert_eq!(segment(&Bytes::new(&big), false).unwrap().end, 56);
        let mut v6 = std::vec![0; 40 + 32];
        (v6[0], v6[5], v6[6], v6[8], v6[39]) = (0x60, 32, TCP, 0xfd, 9);
        let packet = framed(0x86dd, false, &v6);
        let packet = Bytes::new(&packet);
        let seen = segment(&packet, true).unwrap();
        assert_eq!((seen.transport, seen.end), (54, 86));
        let (source, destination) = seen.ends(&packet).unwrap();
        assert_eq!((source[0], destination[15]), (0xfd, 9));
        // A fragment, a later one, UDP, a header that is too short, of another version; ARP; an extension header.
        for odd in [
            ipv4(|h| h[6] = 0x20),
            ipv4(|h| h[7] = 1),
            ipv4(|h| h[9] = 17),
            ipv4(|h| h[0] = 0x44),
            ipv4(|h| h[0] = 0x56),
        ] {
            assert_eq!(segment(&Bytes::new(&odd), false), None);
        }
        assert_eq!(segment(&Bytes::new(&framed(0x0806, false, &whole)), true), None);
        v6[6] = 0;
        assert_eq!(segment(&Bytes::new(&v6), false), None);
        for cut in 0..whole.len() {
            let seen = segment(&Bytes::new(&whole[..cut]), false);
            assert_eq!(seen.is_some(), cut >= 10, "cut at {cut}");
            assert_eq!(
                seen.and_then(|s| s.ends(&Bytes::new(&whole[..cut]))).is_some(),
                cut >= 20
            );
        }
    }

    #[test]
    fn hops_are_what_lacks_to_the_next_initial_value() {
        for (ttl, truth) in [
            (64, 0),
            (63, 1),
            (33, 31),
            (32, 0),
            (128, 0),
            (116, 12),
            (255, 0),
            (250, 5),
        ] {
            assert_eq!(hops(ttl), truth, "ttl {ttl}");
        }
        assert!((1..=255).all(|ttl| hops(ttl) < 128));
    }

    #[test]
    fn a_word_holds_what_was_put_in() {
        let word = Seen::pack(7 << 20, 61, 1400);
        let seen = Seen::unpack(word);
        assert_eq!((seen.time, seen.hops, seen.mtu), (7, Some(3), 1400));
        // The loopback's MTU has 17 bits; the largest hop count fits.
        let seen = Seen::unpack(Seen::pack(0, 129, 65_536));
        assert_eq!((seen.hops, seen.mtu), (Some(126), 65_536));
        assert_eq!(Seen::unpack(Seen::pack(1 << 20, 0, 1500)).hops, None);
        assert_eq!(Seen::unpack(0), Seen::default());
        // Later is larger, whatever the rest says.
        assert!(Seen::pack(2 << 20, 64, 0) > Seen::pack(1 << 20, 1, 9000));
    }
}
