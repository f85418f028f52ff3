//! What became of every event: the law `seen = filtered + sampled + delivered + in flight + Σ dropped{reason}`.
//!
//! One [`Account`] per program and CPU, in an array that is never evicted. The programs only ever add.

/// Programs, in the order of their accounts. Numbers are indices, gaps are not allowed.
pub mod program {
    /// RTT and jitter of established connections (`tp_btf/tcp_probe`).
    pub const TCP_PROBE: usize = 0;
    /// Connection states (`tp_btf/inet_sock_set_state`).
    pub const TCP_STATE: usize = 1;
    /// Retransmitted segments (`tp_btf/tcp_retransmit_skb`).
    pub const TCP_RETRANSMIT: usize = 2;
    /// Retransmitted SYN-ACKs (`tp_btf/tcp_retransmit_synack`).
    pub const TCP_SYNACK: usize = 3;
    /// Resets sent (`tp_btf/tcp_send_reset`).
    pub const TCP_SEND_RESET: usize = 4;
    /// Resets received (`tp_btf/tcp_receive_reset`).
    pub const TCP_RECEIVE_RESET: usize = 5;
    /// The walk over all tracked sockets (`iter/bpf_sk_storage_map`).
    pub const TCP_SWEEP: usize = 6;
    /// Sockets that were open before the agent (`iter/task_file`).
    pub const TCP_ADOPT: usize = 7;
    /// Accept-queue wait (`fexit/inet_csk_accept`).
    pub const TCP_ACCEPT: usize = 8;
    /// Fallback of all of the above without BTF (`sock_ops`).
    pub const TCP_SOCKOPS: usize = 9;
    /// Dropped packets (`tp_btf/kfree_skb`).
    pub const DROPS_KFREE: usize = 10;
    /// UDP receive-queue failures (`tp_btf/udp_fail_queue_rcv_skb`).
    pub const DROPS_UDP_QUEUE: usize = 11;
    /// Packets that an underlay device receives (`tcx` or `clsact` ingress).
    pub const TUNNEL_INGRESS: usize = 12;
    /// Packets that an underlay device sends.
    pub const TUNNEL_EGRESS: usize = 13;
    /// Packets that sockets receive, for answers (`cgroup_skb/ingress`).
    pub const DNS_INGRESS: usize = 14;
    /// Packets that sockets send, for queries (`cgroup_skb/egress`).
    pub const DNS_EGRESS: usize = 15;
    /// Packets that sockets receive, for datagrams (`cgroup_skb/ingress`).
    pub const UDP_INGRESS: usize = 16;
    /// Packets that sockets send, for datagrams (`cgroup_skb/egress`).
    pub const UDP_EGRESS: usize = 17;
    /// New sockets (`cgroup/sock_create`).
    pub const UDP_CREATE: usize = 18;
    /// Packets that a device of a forwarding host receives.
    pub const PATH_INGRESS: usize = 19;
    /// Packets that it sends.
    pub const PATH_EGRESS: usize = 20;
    /// Stacks at the ticks of each CPU's clock (`perf_event`).
    pub const PROFILE_CPU: usize = 21;
    /// Processes that become another program (`tp_btf/sched_process_exec`).
    pub const PROFILE_EXEC: usize = 22;
    /// Processes that end (`tp_btf/sched_process_exit`).
    pub const PROFILE_EXIT: usize = 23;
    /// Requests that a block device has worked off (`tp_btf/block_rq_complete`).
    pub const BLOCK_COMPLETE: usize = 24;
    /// Switches from one thread to another (`tp_btf/sched_switch`).
    pub const SCHED_SWITCH: usize = 25;
    /// The walk over all threads (`iter/task`).
    pub const SCHED_SWEEP: usize = 26;
    /// Stacks of dropped packets (`tp_btf/kfree_skb`).
    pub const PROFILE_DROP: usize = 27;
    /// Stacks of segments that are sent again (`tp_btf/tcp_retransmit_skb`).
    pub const PROFILE_RETRANSMIT: usize = 28;
    /// Stacks at page faults (`perf_event`).
    pub const PROFILE_FAULT: usize = 29;
    /// Stacks of who asks for disk I/O (`tp_btf/block_io_start`).
    pub const PROFILE_BLOCK: usize = 30;
    /// What became of it (`tp_btf/block_rq_complete`).
    pub const PROFILE_BLOCK_DONE: usize = 31;
    /// Threads that leave their CPU (`tp_btf/sched_switch`).
    pub const PROFILE_OFF: usize = 32;
    /// Stacks of threads that are back on one (`tp_btf/sched_exit_tp`, before 6.15 a kprobe).
    pub const PROFILE_ON: usize = 33;
    /// Threads that must wait for a lock of the kernel (`tp_btf/contention_begin`).
    pub const PROFILE_LOCK_BEGIN: usize = 34;
    /// Stacks of threads that have waited for one (`tp_btf/contention_end`).
    pub const PROFILE_LOCK_END: usize = 35;
    /// Stacks of who lets a waiting thread go on (`tp_btf/sched_waking`).
    pub const PROFILE_WAKER: usize = 36;
    /// The ring benchmark's generator.
    pub const SYNTHETIC: usize = 37;
    /// Number of programs.
    pub const COUNT: usize = 38;
}

/// Reasons for which the kernel side gives an event up.
pub mod reason {
    /// The ring buffer had no room for the record.
    pub const RING_FULL: usize = 0;
    /// A map had no room for the key and there is no `other` to take it.
    pub const MAP_FULL: usize = 1;
    /// No per-socket storage could be had (memory, or the socket is being destroyed).
    pub const NO_STORAGE: usize = 2;
    /// The socket is not one that the probe can read (request or time-wait socket).
    pub const NO_SOCKET: usize = 3;
    /// A segment of a connection whose messages cannot be followed: something before it was not seen, or is no message.
    pub const UNFOLLOWED: usize = 4;
    /// Number of reasons.
    pub const COUNT: usize = 5;
    /// Their names, as exported.
    pub const NAMES: [&str; COUNT] = ["ring_full", "map_full", "no_storage", "no_socket", "unfollowed"];
}

/// Counters of one program on one CPU. All monotonic.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Events that reached the program, and records that it wanted to send.
    pub seen: u64,
    /// Events that are none of the probe's business (no new sample, a normal free …).
    pub filtered: u64,
    /// Events left out on purpose, by the sampling rate or the record rate limit.
    pub sampled: u64,
    /// Events added to a map.
    pub aggregated: u64,
    /// Records put into the ring.
    pub emitted: u64,
    /// Events that went to the `other` row because the table of pairs was full: delivered, but without a name.
    pub overflowed: u64,
    /// Events lost, by [`reason`].
    pub dropped: [u64; reason::COUNT],
    /// Reserved, so that an account fills two cache lines and CPUs do not share one.
    pub reserved: [u64; 5],
}

/// `u64` words in an [`Account`].
pub const ACCOUNT_WORDS: usize = size_of::<Account>() / 8;

crate::wire! {
    /// What the ring benchmark sends.
    pub struct SyntheticRecord {
        /// Record header.
        pub header: crate::wire::Header,
        /// Serial number, counted per CPU.
        pub serial: u64,
        /// Filling up to a typical record's size.
        pub filling: [u64; 6],
    }
}
