//! Packets for the tests of the parser: on the host, and through BPF_PROG_TEST_RUN in the kernel.

extern crate alloc;

use super::parse::Verdict;
use super::{EndKey, class, kind};
use alloc::vec;
use alloc::vec::Vec;

mod build;
mod clear;
mod odd;
mod opaque;
pub use build::*;

/// A packet from its Ethernet header on, and what it is.
pub struct Case {
    /// What is special about it.
    pub name: &'static str,
    /// The packet.
    pub bytes: Vec<u8>,
    /// What the parser says.
    pub verdict: Verdict,
    /// See [`kind`]; checked if the verdict is of a tunnel.
    pub kind: u8,
    /// VNI, key or SPI.
    pub id: u32,
    /// See [`class`].
    pub class: u8,
    /// Bytes inside.
    pub inner: u32,
    /// Sequence number of what has one.
    pub sequence: Option<u64>,
}

fn case(name: &'static str, bytes: Vec<u8>, verdict: Verdict) -> Case {
    Case {
        name,
        bytes,
        verdict,
        kind: kind::NONE,
        id: 0,
        class: 0,
        inner: 0,
        sequence: None,
    }
}

fn tunnel(name: &'static str, bytes: Vec<u8>, kind: u8, id: u32, class: u8, inner: usize) -> Case {
    Case {
        kind,
        id,
        class,
        inner: inner as u32,
        ..case(name, bytes, Verdict::Tunnel)
    }
}

impl Case {
    fn sequence(mut self, sequence: u64) -> Self {
        self.sequence = Some(sequence);
        self
    }
}

const TCP: u8 = class::IPV4;
const UDP: u8 = class::IPV4 + 1;
const TCP6: u8 = class::IPV6;

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut all = plain();
    all.extend(clear::overlays());
    all.extend(clear::protocols());
    all.extend(opaque::encrypted());
    all.extend(odd::contradictions());
    all.extend(odd::fragments());
    all.extend(odd::errors());
    all
}

/// The ends of [`ipv4`] and [`ipv6`], of every kind, as if devices named them.
pub fn ends() -> impl Iterator<Item = EndKey> {
    let v4 = |last| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, last];
    let v6 = |last| [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let kinds = move |remote| {
        (1..kind::COUNT as u8).map(move |kind| EndKey {
            remote,
            kind,
            pad: 0,
            netns: 0,
            pad2: 0,
        })
    };
    [v4(1), v4(2), v6(1), v6(2)].into_iter().flat_map(kinds)
}

fn plain() -> Vec<Case> {
    vec![
        case("nothing at all", vec![0; 14], Verdict::Nothing),
        case("ARP", ethernet(0x0806, &[0; 28]), Verdict::Nothing),
        case("TCP", ethernet(0x0800, &tcp(64)), Verdict::Nothing),
        case(
            "UDP to another port",
            eth4(17, &udp(4000, 53, &[0; 64])),
            Verdict::Nothing,
        ),
        case("TCP over IPv6", ethernet(0x86dd, &tcp6(64)), Verdict::Nothing),
        case(
            "ping",
            eth4(1, &[8, 0, 0, 0, 0, 1, 0, 1, 9, 9, 9, 9]),
            Verdict::Nothing,
        ),
        case(
            "three VLAN tags",
            ethernet(0x88a8, &[0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3, 8, 0, 0x45]),
            Verdict::Nothing,
        ),
        case(
            "PPTP, which is GRE version 1",
            eth4(47, &[0x30, 1, 0x88, 0x0b, 0, 0, 0, 0]),
            Verdict::Nothing,
        ),
    ]
}
