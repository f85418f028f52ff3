//! Probe `path`: what a received packet and its socket tell of the way between two hosts.

use crate::tcp::SubjectKey;
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

#[cfg(test)]
mod tests {
    use super::*;

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
