//! Probe `drops`: keys and records.

use crate::tcp::SubjectKey;
use crate::wire::Header;

/// `direction` of a drop.
pub mod direction {
    /// Not known.
    pub const UNKNOWN: u8 = 0;
    /// The packet came in from a device.
    pub const RECEIVE: u8 = 1;
    /// A socket of this machine sends the packet.
    pub const TRANSMIT: u8 = 2;
}

crate::wire! {
    /// What is counted together.
    pub struct DropKey {
        /// Who, where a socket tells.
        pub subject: SubjectKey,
        /// Address of the kernel code that gave the packet up.
        pub location: u64,
        /// `enum skb_drop_reason`, numbered as the running kernel has it.
        pub reason: u32,
        /// Interface index; 0 = none.
        pub ifindex: u32,
        /// Network namespace of the device; 0 = not known.
        pub netns: u32,
        /// EtherType, host byte order.
        pub ethertype: u16,
        /// IP protocol number; 0 when it is not IP or could not be read.
        pub protocol: u8,
        /// See [`direction`].
        pub direction: u8,
    }

    /// What is known of a key.
    pub struct DropValue {
        /// Packets.
        pub packets: u64,
        /// Bytes (`skb->len`).
        pub bytes: u64,
        /// Name of the device.
        pub device: [u8; 16],
    }

    /// One drop, told.
    pub struct DropRecord {
        /// Record header.
        pub header: Header,
        /// Time in ns since boot.
        pub time: u64,
        /// What it is counted under.
        pub key: DropKey,
        /// Source address, IPv4 mapped; zero when not read.
        pub source: [u8; 16],
        /// Destination address, IPv4 mapped.
        pub destination: [u8; 16],
        /// Source port, 0 when there is none.
        pub source_port: u16,
        /// Destination port.
        pub destination_port: u16,
        /// `skb->len`.
        pub len: u32,
        /// Name of the device.
        pub device: [u8; 16],
    }
}

impl DropKey {
    /// The key of the row that takes what finds no room.
    pub const OTHER: Self = Self {
        subject: SubjectKey::NOBODY,
        location: 0,
        reason: 0,
        ifindex: 0,
        netns: 0,
        ethertype: 0,
        protocol: 0,
        direction: 0,
    };
}
