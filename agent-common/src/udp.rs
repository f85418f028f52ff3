//! Probe `udp`: what is counted, and where in a packet the transport begins.

use crate::tunnel::parse::Packet;

/// Index of a direction in [`UdpValue`].
pub mod direction {
    /// A socket received it.
    pub const RECEIVE: usize = 0;
    /// A socket sent it.
    pub const TRANSMIT: usize = 1;
    /// Number of directions.
    pub const COUNT: usize = 2;
}

crate::wire! {
    /// What a subject has sent and received; its key is a [`crate::tcp::SubjectKey`].
    pub struct UdpValue {
        /// Datagrams, by [`direction`].
        pub datagrams: [u64; direction::COUNT],
        /// Bytes of payload.
        pub bytes: [u64; direction::COUNT],
        /// Name of the process, where the subject is one.
        pub comm: [u8; 16],
    }
}

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// Extension headers that are followed.
const EXTENSIONS: usize = 4;

/// The IP header, as far as it is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// IP protocol number of what follows.
    pub protocol: u8,
    /// Where that begins.
    pub transport: u32,
    /// Source address, IPv4 mapped.
    pub source: [u8; 16],
    /// Destination address, IPv4 mapped.
    pub destination: [u8; 16],
}

/// The header of a packet that begins with it, as a socket sends or receives it: never a fragment.
#[inline(always)]
pub fn head<P: Packet>(packet: &P) -> Option<Head> {
    let [first] = packet.load::<1>(0)?;
    if first >> 4 == 4 {
        let h = packet.load::<20>(0)?;
        let transport = (h[0] & 15) as u32 * 4;
        if transport < 20 {
            return None;
        }
        return Some(Head {
            protocol: h[9],
            transport,
            source: mapped([h[12], h[13], h[14], h[15]]),
            destination: mapped([h[16], h[17], h[18], h[19]]),
        });
    }
    if first >> 4 != 6 {
        return None;
    }
    let [next] = packet.load::<1>(6)?;
    let mut out = Head {
        protocol: next,
        transport: 40,
        source: packet.load::<16>(8)?,
        destination: packet.load::<16>(24)?,
    };
    let mut extensions = 0;
    // Hop-by-hop options, routing, destination options: RFC 8200, 4.
    while extensions < EXTENSIONS && matches!(out.protocol, 0 | 43 | 60) {
        let [next, length] = packet.load::<2>(out.transport)?;
        out.protocol = next;
        out.transport += (length as u32 + 1) * 8;
        extensions += 1;
    }
    Some(out)
}

/// An IPv4 address as an IPv6 one.
#[inline(always)]
pub const fn mapped(a: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a[0], a[1], a[2], a[3]]
}
