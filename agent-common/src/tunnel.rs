//! Probe `tunnel`: keys, cells, state and records.
//!
//! A tunnel is a row of `TUNNELS`: [`TunnelKey`] → [`TunnelValue`], whose slot is the row of its counters
//! (`TUNNEL_CELLS`, [`TunnelCells`], by shard as the pair cells are) and of its rare state (`TUNNEL_STATES`,
//! [`TunnelState`], one row for all CPUs). Slot 0 is `other`: it takes what finds no room and what belongs to a tunnel
//! that the packet alone does not name. The table of [`InnerCell`]s says who talks inside, [`WindowKey`] →
//! [`WindowValue`] which sequence numbers have come.
//!
//! Counts are never cleared; readers use differences. The packets of a tunnel are the sum over its classes, its
//! encapsulation overhead is `BYTES - INNER_BYTES`. The time of the last packet is the tick at which the counters last
//! moved: no clock is read per packet.

#[cfg(any(test, feature = "user"))]
pub mod corpus;
pub mod parse;
pub mod window;

use crate::histogram::Histogram;
use window::Window;

/// Kinds of tunnel, indices into [`kind::NAMES`]; also what the table of UDP ports holds.
pub mod kind {
    /// No tunnel.
    pub const NONE: u8 = 0;
    /// VXLAN, RFC 7348; id = VNI.
    pub const VXLAN: u8 = 1;
    /// VXLAN with a protocol field, draft-ietf-nvo3-vxlan-gpe; id = VNI.
    pub const VXLAN_GPE: u8 = 2;
    /// Geneve, RFC 8926; id = VNI.
    pub const GENEVE: u8 = 3;
    /// GRE version 0, RFC 2784 and 2890, over IPv4 or IPv6, gretap included; id = key, if it has one.
    pub const GRE: u8 = 4;
    /// IPv4 in IPv4.
    pub const IPIP: u8 = 5;
    /// IPv6 in IPv4.
    pub const SIT: u8 = 6;
    /// IPv4 or IPv6 in IPv6.
    pub const IP6TNL: u8 = 7;
    /// WireGuard; the endpoints with their ports are the peer.
    pub const WIREGUARD: u8 = 8;
    /// ESP, RFC 4303; id = SPI, each direction has its own.
    pub const ESP: u8 = 9;
    /// ESP in UDP, RFC 3948; id = SPI; 0 = IKE and keepalives.
    pub const ESP_UDP: u8 = 10;
    /// AH, RFC 4302; id = SPI.
    pub const AH: u8 = 11;
    /// OpenVPN over UDP; the endpoints with their ports are the peer.
    pub const OPENVPN: u8 = 12;
    /// Number of kinds.
    pub const COUNT: usize = 13;
    /// `tunnel.type`.
    pub const NAMES: [&str; COUNT] = [
        "none",
        "vxlan",
        "vxlan_gpe",
        "geneve",
        "gre",
        "ipip",
        "sit",
        "ip6tnl",
        "wireguard",
        "esp",
        "esp_udp",
        "ah",
        "openvpn",
    ];
}

/// UDP ports that carry tunnels if nothing else is configured.
pub const PORTS: [(u16, u8); 7] = [
    (4789, kind::VXLAN),
    (8472, kind::VXLAN),
    (4790, kind::VXLAN_GPE),
    (6081, kind::GENEVE),
    (51820, kind::WIREGUARD),
    (1194, kind::OPENVPN),
    (4500, kind::ESP_UDP),
];

/// Directions, as indices.
pub mod direction {
    /// Received by the underlay device: the packet's destination is `local`.
    pub const INGRESS: usize = 0;
    /// Sent by the underlay device: the packet's source is `local`.
    pub const EGRESS: usize = 1;
}

/// What a packet carries, `INNER_CLASSES`.
pub mod class {
    /// The first of TCP, UDP, ICMP, others over IPv4.
    pub const IPV4: u8 = 0;
    /// The first of TCP, UDP, ICMPv6, others over IPv6.
    pub const IPV6: u8 = 4;
    /// ARP.
    pub const ARP: u8 = 8;
    /// Anything else that could be read, or a header cut off.
    pub const OTHER: u8 = 9;
    /// Data that only the ends can read.
    pub const ENCRYPTED: u8 = 10;
    /// The tunnel's own messages: handshakes, cookies, IKE, OpenVPN's control channel.
    pub const CONTROL: u8 = 11;
    /// WireGuard's empty data message, NAT keepalives.
    pub const KEEPALIVE: u8 = 12;
    /// A later fragment of the outer packet.
    pub const FRAGMENT: u8 = 13;
    /// Number of classes.
    pub const COUNT: usize = 14;
    /// Names, as exported.
    pub const NAMES: [&str; COUNT] = [
        "ipv4_tcp",
        "ipv4_udp",
        "ipv4_icmp",
        "ipv4_other",
        "ipv6_tcp",
        "ipv6_udp",
        "ipv6_icmp",
        "ipv6_other",
        "arp",
        "other",
        "encrypted",
        "control",
        "keepalive",
        "fragment",
    ];
}

/// Counters of a tunnel, indices into [`TunnelCells::counters`]. A pair of them is ingress, egress.
pub mod counter {
    use super::class;
    /// Bytes on the wire from the link header on, a GSO packet's headers counted for each segment.
    pub const BYTES: usize = 0;
    /// Bytes of them that the tunnel carries: the inner frame or packet; of ESP and OpenVPN everything behind the
    /// header that can be read, so with IV, padding and tag; of WireGuard without its tag but with padding.
    pub const INNER_BYTES: usize = 2;
    /// Packets on the wire, by class: `PACKETS + direction * class::COUNT + class`.
    pub const PACKETS: usize = 4;
    /// Fragments of outer packets, first ones included.
    pub const FRAGMENTS: usize = PACKETS + 2 * class::COUNT;
    /// Packets that claim to be of the tunnel and contradict themselves. They are in no other counter.
    pub const MALFORMED: usize = FRAGMENTS + 2;
    /// ICMP fragmentation needed, ICMPv6 packet too big, whose quoted packet is of the tunnel. Ingress: one of ours was
    /// too big for somebody.
    pub const TOO_BIG: usize = MALFORMED + 2;
    /// Handshakes: `HANDSHAKES + direction * 3 +` [`super::handshake`].
    pub const HANDSHAKES: usize = TOO_BIG + 2;
    /// First of the outcomes of received packets with a sequence number, in the order of [`super::SEQUENCE`]. Each such
    /// packet is exactly one of received, duplicated, late and untracked.
    pub const SEQUENCE: usize = HANDSHAKES + 6;
    /// Only in slot 0: later fragments of UDP datagrams, which nothing tells from those of a tunnel. They are in no
    /// other counter.
    pub const UNKNOWN_FRAGMENTS: usize = SEQUENCE + super::SEQUENCE.len();
    /// Only in slot 0: received packets of its packets that came from an end that nobody knows; see [`super::EndKey`].
    pub const STRANGERS: usize = UNKNOWN_FRAGMENTS + 2;
    /// Number of counters.
    pub const COUNT: usize = 64;
}
const _: () = assert!(counter::STRANGERS < counter::COUNT);

/// Rows of one end, at most, while received packets make them: an address can be forged. What is sent always makes one.
pub const END_ROWS: u32 = 64;

/// What the governor has the programs leave out, by its level.
pub mod relief {
    /// From this level on round-trip times inside are not taken; below, of one timestamp value in `16 << level`.
    pub const NO_RTT: u64 = 4;
    /// From this level on inner pairs are not told apart: all are `other`.
    pub const NO_PAIRS: u64 = 5;
    /// At this level the programs are taken off.
    pub const OFF: u32 = 7;
}

/// WireGuard's messages that are not data.
pub mod handshake {
    /// Handshake initiation.
    pub const INITIATION: usize = 0;
    /// Handshake response.
    pub const RESPONSE: usize = 1;
    /// Cookie reply.
    pub const COOKIE: usize = 2;
}

/// What became of received sequence numbers, in the order of [`window::Step`].
pub const SEQUENCE: [&str; 7] = [
    "received",
    "lost",
    "reordered",
    "duplicated",
    "late",
    "restarts",
    "untracked",
];

/// Histograms of a tunnel, indices into [`TunnelState::histograms`].
pub mod series {
    /// WireGuard: initiation to response, seen from this device.
    pub const HANDSHAKE: usize = 0;
    /// TCP inside: data that came out of the tunnel until its echo went in. What lies behind us.
    pub const RTT_LOCAL: usize = 1;
    /// TCP inside: data that went into the tunnel until its echo came back. The tunnel and what lies behind it.
    pub const RTT_REMOTE: usize = 2;
    /// Number of histograms.
    pub const COUNT: usize = 3;
}

/// The slot of everything that found no room or no name.
pub const SLOT_OTHER: u32 = 0;

/// Counters of one tunnel on one shard of CPUs; row `slot * shards + (cpu & (shards - 1))`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TunnelCells {
    /// See [`counter`].
    pub counters: [u64; counter::COUNT],
}

/// What changes rarely of one tunnel; row `slot`. Zeroed by the program that creates the tunnel, but for histograms.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TunnelState {
    /// By direction, the last WireGuard initiation that has no response yet: sender index << 32 | µs since boot, low 32
    /// bits; 0 = none.
    pub initiation: [u64; 2],
    /// By direction, initiations since the last one that was answered.
    pub unanswered: [u64; 2],
    /// Last response that fits an initiation, ns since boot; 0 = none.
    pub last_handshake: u64,
    /// How long it took, µs.
    pub last_latency: u64,
    /// Next-hop MTU that the last fragmentation needed or packet too big told; 0 = none came or it told none.
    pub mtu: u64,
    /// Always zero.
    pub reserved: u64,
    /// See [`series`]. Never cleared.
    pub histograms: [Histogram; series::COUNT],
}

/// Who talks inside, and how much. `TUNNEL_INNER` is a hash table in an array, so that finding a pair is no call: that of
/// a hash map costs more than all the rest of most packets. A pair is in one of the [`inner::PROBES`] cells from its
/// hash on, or, when two CPUs have met it at once, in two of them: readers add them up. A program takes a cell, userspace
/// gives it back.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct InnerCell {
    /// See [`inner`].
    pub state: u64,
    /// Whose it is.
    pub key: InnerKey,
    /// Inner bytes: ingress, egress.
    pub bytes: [u64; 2],
}

/// States of an [`InnerCell`].
pub mod inner {
    /// Nobody's.
    pub const FREE: u64 = 0;
    /// A program is writing the key.
    pub const BUSY: u64 = 1;
    /// In use.
    pub const TAKEN: u64 = 2;
    /// Cells that are tried.
    pub const PROBES: u32 = 8;
}

/// Bits of [`TunnelKey::flags`].
pub mod flag {
    /// The id is one (a GRE header may have no key, and a key may be 0).
    pub const HAS_ID: u8 = 1;
}

impl TunnelKey {
    /// The other end.
    pub fn end(&self) -> EndKey {
        EndKey {
            remote: self.remote,
            kind: self.kind,
            pad: 0,
            netns: self.netns,
            pad2: 0,
        }
    }
}

crate::wire! {
    /// Which tunnel, seen from which device. Addresses are of the outer packet, IPv4 mapped.
    pub struct TunnelKey {
        /// Ours: destination of what comes in, source of what goes out.
        pub local: [u8; 16],
        /// The other end.
        pub remote: [u8; 16],
        /// VNI, key or SPI, see [`kind`]; 0 where the kind has none.
        pub id: u32,
        /// Interface index of the underlay device.
        pub ifindex: u32,
        /// UDP port of the local end, for WireGuard and OpenVPN; else 0.
        pub local_port: u16,
        /// UDP port of the other end, as above.
        pub remote_port: u16,
        /// See [`kind`].
        pub kind: u8,
        /// See [`flag`].
        pub flags: u8,
        /// Number that the agent has given to the device's network namespace; 0 = its own.
        pub netns: u16,
    }

    /// The other end of tunnels of a kind: a row of `TUNNEL_ENDS`, whose value is the number of rows that received packets
    /// may still make for it. Userspace names those that a device, an IPsec state or the like tells, and a program those
    /// that something is sent to. Packets from any other are `other`: whoever can send here could else fill the table.
    #[derive(PartialOrd, Ord)]
    pub struct EndKey {
        /// Outer address, IPv4 mapped.
        pub remote: [u8; 16],
        /// See [`kind`].
        pub kind: u8,
        /// Always zero.
        pub pad: u8,
        /// As in [`TunnelKey`].
        pub netns: u16,
        /// Always zero.
        pub pad2: u32,
    }

    /// What a [`TunnelKey`] maps to.
    pub struct TunnelValue {
        /// First packet, ns since boot.
        pub since: u64,
        /// Row of cells and state.
        pub slot: u32,
        /// Always zero.
        pub pad: u32,
    }

    /// Who talks inside a tunnel. One row for both directions.
    pub struct InnerKey {
        /// On our side of the tunnel: the destination of what comes in.
        pub local: [u8; 16],
        /// On the other side.
        pub remote: [u8; 16],
        /// The tunnel's slot.
        pub slot: u32,
        /// Always zero.
        pub pad: u32,
    }

    /// A sequence of received packets.
    pub struct WindowKey {
        /// The tunnel's slot.
        pub slot: u32,
        /// Receiver index of WireGuard, SPI, GRE key.
        pub index: u32,
    }

    /// What a [`WindowKey`] maps to. Read it with `BPF_F_LOCK`.
    pub struct WindowValue {
        /// `struct bpf_spin_lock`; reads as zero.
        pub lock: u32,
        /// Always zero.
        pub pad: u32,
        /// The window.
        pub window: Window,
    }
}
