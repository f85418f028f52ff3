//! Probe `block`: requests to block devices.

use crate::histogram::Histogram;

/// What a request does, grouped as /proc/diskstats groups it.
pub mod operation {
    /// Reads.
    pub const READ: u32 = 0;
    /// Writes, and what else changes data: zeroes, zones, secure erase.
    pub const WRITE: u32 = 1;
    /// The device is told to make durable what it has.
    pub const FLUSH: u32 = 2;
    /// The device is told what is not needed any more.
    pub const DISCARD: u32 = 3;
    /// Number of them.
    pub const COUNT: usize = 4;
    /// Names, as exported.
    pub const NAMES: [&str; COUNT] = ["read", "write", "flush", "discard"];
}

/// `enum req_op`, the low byte of a request's flags: from here on it is a driver's own command, no I/O.
const PASSTHROUGH: u32 = 32;

/// The [`mod@operation`] of a request's flags; `None`: a driver's own command.
#[inline(always)]
pub const fn operation(flags: u32) -> Option<u32> {
    match flags & 0xff {
        PASSTHROUGH.. => None,
        2 => Some(operation::FLUSH),
        3 => Some(operation::DISCARD),
        // Data goes to the device where the lowest bit is set.
        op => Some(op & 1),
    }
}

crate::wire! {
    /// What is counted together.
    pub struct BlockKey {
        /// Number of the whole disk as the kernel has it: major << 20 | minor.
        pub device: u32,
        /// See [`mod@operation`].
        pub operation: u32,
    }
}

impl BlockKey {
    /// Takes what finds no room: no disk has this number.
    pub const OTHER: Self = Self {
        device: 0,
        operation: 0,
    };
}

/// What is known of a [`BlockKey`]. All zero is nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BlockCells {
    /// From the request's beginning, its wait in queues included, to its end.
    pub latency: Histogram,
    /// Bytes that were moved.
    pub bytes: u64,
    /// Requests that ended, wholly or in part, with an error.
    pub errors: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_those_of_diskstats() {
        // REQ_OP_* of include/linux/blk_types.h; flags lie above the low byte.
        let of = |op: u32| operation(op | 0x4400).map(|o| operation::NAMES[o as usize]);
        assert_eq!(
            [0, 1, 2, 3].map(of),
            ["read", "write", "flush", "discard"].map(Some)
        );
        // Secure erase, zone append, write zeroes.
        assert_eq!([5, 7, 9].map(of), [Some("write"); 3]);
        // REQ_OP_DRV_IN, REQ_OP_DRV_OUT.
        assert_eq!([34, 35].map(of), [None; 2]);
    }
}
