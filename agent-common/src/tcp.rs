//! Probe `tcp`: keys, cells and records.

use crate::histogram::Histogram;
use crate::wire::Header;

/// No slot yet.
pub const SLOT_NONE: u32 = u32::MAX;
/// The slot of everything that found no room: exported as `other`.
pub const SLOT_OTHER: u32 = 0;

/// Counters of a pair, indices into [`PairCells::counters`].
pub mod counter {
    /// Segments received, as the socket counts them (`tcp_sock.segs_in`).
    pub const SEGMENTS_IN: usize = 0;
    /// Segments sent, retransmits included (`tcp_sock.segs_out`).
    pub const SEGMENTS_OUT: usize = 1;
    /// Payload bytes received in order (`tcp_sock.bytes_received`).
    pub const BYTES_IN: usize = 2;
    /// Payload bytes sent for the first time (`bytes_sent - bytes_retrans`).
    pub const BYTES_OUT: usize = 3;
    /// First of the retransmit counters, in the order of [`super::RETRANSMIT_TYPES`].
    pub const RETRANSMITS: usize = 4;
    /// Retransmits that the peer's DSACK proved needless (`tcp_sock.dsack_dups`).
    pub const SPURIOUS: usize = 8;
    /// RST segments received.
    pub const RESETS_IN: usize = 9;
    /// RST segments sent.
    pub const RESETS_OUT: usize = 10;
    /// Times the peer closed its window to us (`snd_wnd` fell to zero).
    pub const ZERO_WINDOW_IN: usize = 11;
    /// Times we closed our window to the peer (`rcv_wnd` fell to zero).
    pub const ZERO_WINDOW_OUT: usize = 12;
    /// Connections opened as client, then as server.
    pub const OPENED: usize = 13;
    /// First of the ends of established connections: three roles × [`super::END_REASONS`].
    pub const CLOSED: usize = 15;
    /// First of the ends of connections that never came about: client and server × [`super::END_REASONS`].
    pub const FAILED: usize = 33;
    /// Connections that were already open when the agent came.
    pub const ADOPTED: usize = 45;
    /// Sockets whose storage points to this slot, ever; minus [`RELEASED`]: those that still do.
    pub const ATTACHED: usize = 46;
    /// Sockets that left this slot.
    pub const RELEASED: usize = 47;
    /// Connection requests that a listening socket refused (`sock.sk_drops`): accept queue full, memory short.
    pub const LISTEN_DROPS: usize = 48;
    /// Times that the hop count of a connection changed.
    pub const ROUTE_CHANGES: usize = 49;
    /// Segments received with a congestion mark (`tcp_sock.received_ce`, 6.17 and later).
    pub const CE_IN: usize = 50;
    /// Segments sent of which the peer said that they came with a congestion mark (`tcp_sock.delivered_ce`).
    pub const CE_OUT: usize = 51;
    /// Number of counters.
    pub const COUNT: usize = 52;
}

/// Types of retransmit, `network.tcp.retransmit.type`.
pub const RETRANSMIT_TYPES: [&str; 4] = ["fast", "tail_loss_probe", "timeout", "synack"];
/// Who opened a connection, `network.tcp.handshake.role`.
pub const ROLES: [&str; 3] = ["client", "server", "unknown"];
/// Index of who opened it.
pub const CLIENT: u8 = 0;
/// Index of who was asked.
pub const SERVER: u8 = 1;
/// How a connection ended, `error.type`; the first is no error.
pub const END_REASONS: [&str; 6] = ["none", "refused", "reset", "timed_out", "unreachable", "other"];

/// Index into [`END_REASONS`] of a socket error (`sk_err`, an errno of Linux' generic numbering).
#[inline(always)]
pub const fn end_reason(errno: u32) -> usize {
    match errno {
        0 => 0,
        111 => 1,             // ECONNREFUSED
        104 | 32 | 103 => 2,  // ECONNRESET, EPIPE, ECONNABORTED
        110 => 3,             // ETIMEDOUT
        113 | 101 | 112 => 4, // EHOSTUNREACH, ENETUNREACH, EHOSTDOWN
        _ => 5,
    }
}

/// Histograms of a pair, indices into [`PairCells::histograms`].
pub mod series {
    /// Round-trip time.
    pub const RTT: usize = 0;
    /// Absolute difference of consecutive round-trip times of one connection.
    pub const JITTER: usize = 1;
    /// SYN sent to established.
    pub const CONNECT: usize = 2;
    /// Established to accepted by the application.
    pub const ACCEPT: usize = 3;
    /// Number of histograms.
    pub const COUNT: usize = 4;
}

/// Everything that is counted for one (subject, peer), on one shard of CPUs.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PairCells {
    /// See [`counter`].
    pub counters: [u64; counter::COUNT],
    /// See [`series`].
    pub histograms: [Histogram; series::COUNT],
    /// The way to the connection that was looked at last: [`crate::path::Seen`].
    pub path: u64,
}

crate::wire! {
    /// Who: the cgroup of the socket; where cgroups say nothing (hierarchy v1, hybrid, the root cgroup), the process.
    pub struct SubjectKey {
        /// cgroup v2 id of the socket.
        pub cgroup: u64,
        /// Start time of the process in ns since boot (`task_struct.start_boottime`); 0 when the cgroup tells.
        pub start: u64,
        /// Process id (tgid) in the initial namespace; 0 when the cgroup tells or nobody knows.
        pub tgid: u32,
        /// Inode number of the network namespace.
        pub netns: u32,
    }

    /// Who and to whom.
    pub struct PairKey {
        /// Who.
        pub subject: SubjectKey,
        /// Peer id from the prefix trie; 0 = no prefix fits.
        pub peer: u32,
        /// Always zero.
        pub pad: u32,
    }

    /// What a [`PairKey`] maps to.
    pub struct PairValue {
        /// Row of the cells.
        pub slot: u32,
        /// Always zero.
        pub pad: u32,
        /// Name of the process that opened or listened, as it was then.
        pub comm: [u8; 16],
    }

    /// A connection: its whole life at close, its life so far every ten seconds.
    pub struct FlowRecord {
        /// Record header.
        pub header: Header,
        /// Time in ns since boot (`bpf_ktime_get_boot_ns`).
        pub time: u64,
        /// How long it has been open, ns, or one that never was since its SYN; 0 = not known, it was open before the agent.
        pub duration: u64,
        /// Who.
        pub subject: SubjectKey,
        /// Socket cookie: the same for all records of a connection.
        pub cookie: u64,
        /// Payload bytes received.
        pub bytes_in: u64,
        /// Payload bytes sent.
        pub bytes_out: u64,
        /// Local address, IPv4 mapped.
        pub local: [u8; 16],
        /// Remote address, IPv4 mapped.
        pub remote: [u8; 16],
        /// Local port.
        pub local_port: u16,
        /// Remote port.
        pub remote_port: u16,
        /// Peer id.
        pub peer: u32,
        /// Segments received.
        pub segments_in: u32,
        /// Segments sent.
        pub segments_out: u32,
        /// Segments sent again.
        pub retransmits: u32,
        /// Retransmits that were needless.
        pub spurious: u32,
        /// Smoothed round-trip time, µs.
        pub srtt: u32,
        /// Smallest round-trip time, µs.
        pub rtt_min: u32,
        /// Mean deviation of the round-trip time, µs.
        pub rtt_var: u32,
        /// Congestion window, segments.
        pub cwnd: u32,
        /// SYN sent to established, µs; 0 = not seen.
        pub connect: u32,
        /// Largest of the round-trip times that were counted, µs; 0 = none was.
        pub rtt_max: u32,
        /// Initial sequence number of this end, at close; 0 = not known.
        pub isn: u32,
        /// Initial sequence number of the other end, at close; 0 = not known, or it never answered.
        pub isn_remote: u32,
        /// Why it is told as a span: one of [`crate::trace::why`].
        pub traced: u32,
        /// Error of the socket (errno), 0 = none.
        pub error: u32,
        /// Index into [`ROLES`].
        pub role: u8,
        /// TCP state (`TCP_ESTABLISHED` = 1 … `TCP_CLOSE` = 7) when the record was made.
        pub state: u8,
        /// State before, in a record at close.
        pub old_state: u8,
        /// 1 = the connection had been established.
        pub established: u8,
        /// Row of the cells.
        pub slot: u32,
        /// Name of the process that opened it or listened.
        pub comm: [u8; 16],
    }
}

impl SubjectKey {
    /// Nobody; also the key of the row that takes what finds no room.
    pub const NOBODY: Self = Self {
        cgroup: 0,
        start: 0,
        tgid: 0,
        netns: 0,
    };
}

/// Indices into `SWITCHES`, which userspace writes at any time.
pub mod switch {
    /// Keep an RTT sample when a number taken by chance has none of these bits.
    pub const RTT_SAMPLE_MASK: u32 = 0;
    /// 1 = send flow records.
    pub const FLOW_RECORDS: u32 = 1;
    /// 1 = the sweep takes a sample of every connection: the per-segment hook is not attached.
    pub const SWEEP_SAMPLES: u32 = 2;
    /// Flags of [`crate::trace::flag`]; 0 = no spans.
    pub const TRACES: u32 = 3;
    /// What the random part of a trace's id must reach for chance to tell it; [`crate::trace::NEVER`] = none.
    pub const TRACE_THRESHOLD: u32 = 4;
    /// Handshake or round trip from which a connection is told, µs; 0 = none.
    pub const TRACE_SLOW: u32 = 5;
    /// Number of switches.
    pub const COUNT: u32 = 8;
}

/// Counters of the agent's own network namespace, to reconcile with /proc/net/snmp.
pub mod home {
    /// `Tcp.OutSegs` by our count: first transmissions of sockets, SYN-ACKs and resets.
    pub const SEGMENTS_OUT: usize = 0;
    /// `Tcp.RetransSegs`.
    pub const RETRANSMITS: usize = 1;
    /// `Tcp.OutRsts`.
    pub const RESETS_OUT: usize = 2;
    /// `Tcp.ActiveOpens`.
    pub const ACTIVE_OPENS: usize = 3;
    /// `Tcp.PassiveOpens`.
    pub const PASSIVE_OPENS: usize = 4;
    /// Number of counters.
    pub const COUNT: usize = 8;
}
