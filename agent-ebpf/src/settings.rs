//! What userspace tells the programs: constants at load, switches at run time.

use aya_ebpf::{Global, macros::map, maps::Array};

/// Frozen at load: the verifier sees constants and removes dead branches.
macro_rules! constants {
    ($($(#[$meta:meta])* $name:ident: $ty:ty = $default:expr;)*) => {$(
        $(#[$meta])*
        #[unsafe(no_mangle)]
        pub static $name: Global<$ty> = Global::new($default);
    )*};
}

constants! {
    /// Possible CPUs: rows per program in the accounts.
    NCPU: u32 = 1;
    /// Shards of the pair cells minus one; a power of two minus one.
    SHARD_MASK: u32 = 0;
    /// The agent's own network namespace, whose counters can be reconciled with /proc/net.
    HOME_NETNS: u32 = 0;
    /// Ring bytes from which the reader is woken before its timer.
    RING_HIGH_WATER: u64 = u64::MAX;
    /// `SKB_CONSUMED`: a normal end, not a drop. Kernels before 6.2 have none, and another meaning for its number.
    REASON_CONSUMED: u32 = 0;
    /// `SKB_DROP_REASON_QUEUE_PURGE`, since 6.4: what was left in the queue of a socket that ends.
    REASON_QUEUE_PURGE: u32 = 0;
    /// `RQF_FLUSH_SEQ`: a request is one of the steps of a flush.
    RQ_FLUSH_SEQ: u32 = 0;
    /// 1 = `kfree_skb`'s tracepoint has a fourth argument, the receiving socket.
    KFREE_HAS_SOCKET: u32 = 0;
    /// 1 = `tcp_retransmit_skb`'s tracepoint has a third argument, why the try failed.
    RETRANSMIT_HAS_ERROR: u32 = 0;
    /// 1 = `tcp_probe` may read packets: probe `path` is on, and lockdown allows it. Else the verifier never sees that
    /// part, and `tcp_probe` loads all the same.
    PROBE_READS: u32 = 0;
    /// 1 = probe `path` is on.
    PATHS: u32 = 0;
    /// 1 = sock_ops may ask who is running: since 6.17.
    SOCKOPS_HAS_CURRENT: u32 = 0;
    /// Cells of `TUNNEL_INNER` minus one; a power of two minus one.
    TUNNEL_INNER_MASK: u32 = 0;
    /// Frames of a record minus one. LLVM would drop a mask that it knows, and the verifier needs one.
    FRAME_MASK: u32 = 0;
    /// Rows of a shard of unwind tables minus one; as above.
    ROW_MASK: u32 = 0;
    /// 1 = this is aarch64; else it is x86-64.
    AARCH64: u32 = 0;
    /// The bits that an address of a program has; on aarch64 those above may hold a signature of it.
    USER_BITS: u64 = u64::MAX;
    /// Number of the system call `futex`.
    SYS_FUTEX: u32 = 202;
    /// Size of a thread's kernel stack.
    THREAD_SIZE: u64 = 16 << 10;
    /// `pthread_self()` lies at most so far below the thread pointer.
    THREAD_REACH: u64 = 0;
    /// 1 = queries of DNS are told for their names.
    DNS_NAMES: u32 = 0;
}

pub use agent_common::tcp::switch;

/// Written by userspace at any time.
#[map]
static SWITCHES: Array<u64> = Array::with_max_entries(switch::COUNT, 0);

/// Value of a switch.
#[inline(always)]
pub fn switch_value(index: u32) -> u64 {
    SWITCHES.get(index).copied().unwrap_or(0)
}
