//! What is remembered of a connection, in storage that the kernel frees with the socket.

use super::pair;
use crate::account::{add, bump, exchange, exchange32};
use crate::kernel::{self, Ptr};
use crate::settings::HOME_NETNS;
use agent_common::account::Account;
use agent_common::tcp::{PairCells, SLOT_NONE, SubjectKey, counter, home, series};
use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    helpers::{bpf_ktime_get_ns, bpf_sk_storage_get},
};

/// Bits of [`Conn::flags`].
pub mod flag {
    /// The connection has been established.
    pub const ESTABLISHED: u32 = 1;
    /// `last_rtt` holds a sample.
    pub const RTT: u32 = 2;
    /// The peer's window is closed.
    pub const ZERO_IN: u32 = 4;
    /// Our window has been closed; see `closed_at`.
    pub const ZERO_OUT: u32 = 8;
    /// It was open before the agent.
    pub const ADOPTED: u32 = 16;
}

/// State of one socket. All zero is a socket that nobody knows.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Conn {
    /// Who opened it or listened.
    pub subject: SubjectKey,
    /// Name of that process.
    pub comm: [u8; 16],
    /// SYN sent, µs of the clock that `tcp_mstamp` is of; 0 = not seen. See [`clock`].
    pub started: u64,
    /// Established, by the same clock; 0 = not seen.
    pub established: u64,
    /// `rack.mstamp` of the last sample taken.
    pub last_sample: u64,
    /// `tcp_mstamp` of the last flush.
    pub last_flush: u64,
    /// `tcp_mstamp` of the last record.
    pub last_record: u64,
    /// Flushed so far; see [`flush`].
    pub bytes_in: u64,
    /// Flushed so far.
    pub bytes_out: u64,
    /// Flushed so far.
    pub segs_in: u32,
    /// Flushed so far.
    pub segs_out: u32,
    /// Flushed so far.
    pub retrans: u32,
    /// Retransmits counted by type so far.
    pub typed: u32,
    /// Flushed so far.
    pub dsacks: u32,
    /// Last RTT sample, µs.
    pub last_rtt: u32,
    /// SYN sent to established, µs.
    pub connect: u32,
    /// `sk_drops` of a listener, flushed so far; in the fallback program: samples of a connection.
    pub listen_drops: u32,
    /// In the fallback program: 1 = the next retransmission is a timeout's.
    pub timeout: u32,
    /// `received_ce`, flushed so far.
    pub ce_in: u32,
    /// `delivered_ce`, flushed so far.
    pub ce_out: u32,
    /// `rcv_nxt` when our window was last seen closed. See [`windows`].
    pub closed_at: u32,
    /// TTL or hop limit of the segments received; 0 = not seen. See [`super::path`].
    pub ttl: u8,
    /// Another one that has been seen once since; 0 = none.
    pub ttl_next: u8,
    /// Always zero.
    pub pad: [u8; 2],
    /// Largest RTT sample, µs.
    pub max_rtt: u32,
    /// Row of the cells plus one; 0 = none yet. See [`Conn::slot`].
    pub slot_plus_one: u32,
    /// Peer id.
    pub peer: u32,
    /// Index into `agent_common::tcp::ROLES`.
    pub role: u32,
    /// See [`flag`].
    pub flags: u32,
}

const _: () = assert!(
    core::mem::offset_of!(Conn, started) == size_of::<SubjectKey>() + 16
        && size_of::<Conn>().is_multiple_of(8)
        && align_of::<Conn>() == 8
);

/// The monotonic clock in µs, as sockets keep it in `tcp_mstamp`. Where the kernel has just read it for a segment, that
/// is as good and 35 ns cheaper.
#[inline(always)]
pub fn clock() -> u64 {
    // SAFETY: no preconditions.
    let nanos = unsafe { bpf_ktime_get_ns() };
    nanos / 1000
}

/// Declared by hand: aya-ebpf's type has no BPF_F_CLONE, by which the children of a listener inherit who listens.
#[repr(C)]
pub struct SocketStorage<T, const FLAGS: usize> {
    r#type: *const [i32; 24], // BPF_MAP_TYPE_SK_STORAGE
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: a map definition is read by the loader only.
unsafe impl<T, const FLAGS: usize> Sync for SocketStorage<T, FLAGS> {}

impl<T, const FLAGS: usize> SocketStorage<T, FLAGS> {
    /// The definition.
    pub const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }
}

/// BPF_F_NO_PREALLOC | BPF_F_CLONE.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static CONNECTIONS: SocketStorage<Conn, 513> = SocketStorage::new();

/// What is known of a socket.
#[inline(always)]
pub fn get(sk: Ptr) -> Option<&'static mut Conn> {
    storage(sk, core::ptr::null_mut(), 0)
}

/// What is known of a socket, or `initial`: taken as one step, so that nobody sees a half-made state.
#[inline(always)]
pub fn get_or(sk: Ptr, initial: &mut Conn) -> Option<&'static mut Conn> {
    storage(sk, initial, BPF_SK_STORAGE_GET_F_CREATE as u64)
}

/// As [`get_or`] with a state of zeros.
#[inline(always)]
pub fn get_or_new(sk: Ptr) -> Option<&'static mut Conn> {
    storage(sk, core::ptr::null_mut(), BPF_SK_STORAGE_GET_F_CREATE as u64)
}

#[inline(always)]
fn storage(sk: Ptr, initial: *mut Conn, flags: u64) -> Option<&'static mut Conn> {
    // SAFETY: the verifier knows `sk` and the map; a non-null result stays valid under RCU for the program's run.
    unsafe {
        (bpf_sk_storage_get(
            &raw const CONNECTIONS as *mut _,
            sk as *mut _,
            initial.cast(),
            flags,
        ) as *mut Conn)
            .as_mut()
    }
}

impl Conn {
    /// Row of the cells, [`SLOT_NONE`] before the connection is established.
    #[inline(always)]
    pub fn slot(&self) -> u32 {
        self.slot_plus_one.wrapping_sub(1)
    }

    /// Gives the connection its row; true if it had none.
    #[inline(always)]
    pub fn attach(&mut self, account: &mut Account, sk: Ptr) -> bool {
        if self.slot() != SLOT_NONE {
            return false;
        }
        self.peer = pair::peer(kernel::remote(sk));
        self.attach_to(account)
    }

    /// As [`Conn::attach`], when the peer is already known.
    #[inline(always)]
    pub fn attach_to(&mut self, account: &mut Account) -> bool {
        if self.slot() != SLOT_NONE {
            return false;
        }
        let slot = pair::slot(account, &self.subject, self.peer, &self.comm);
        // Two programs may come to this at once, with the same row: one of them counts.
        if exchange32(&mut self.slot_plus_one, slot + 1) != 0 {
            return false;
        }
        if let Some(cells) = pair::cells(slot) {
            bump(&mut cells.counters[counter::ATTACHED]);
        }
        true
    }

    /// Forgets the connection but not who owns the socket.
    #[inline(always)]
    pub fn reset(&mut self, subject: SubjectKey, comm: [u8; 16]) {
        // Word by word and volatile: of a plain assignment LLVM makes a memset, and in BPF that is a loop over bytes.
        let words: *mut u64 = core::ptr::from_mut(self).cast();
        let mut i = core::mem::offset_of!(Self, started) / 8;
        while i < size_of::<Self>() / 8 {
            // SAFETY: inside the struct, all of whose fields may be zero; it is aligned to eight bytes.
            unsafe { words.add(i).write_volatile(0) };
            i += 1;
        }
        self.subject = subject;
        self.comm = comm;
    }

    /// Takes what the socket has counted so far as already flushed: it was open before the agent.
    #[inline(always)]
    pub fn baseline(&mut self, tp: Ptr) {
        self.bytes_in = kernel::bytes_received(tp);
        self.bytes_out = kernel::bytes_sent(tp).wrapping_sub(kernel::bytes_retrans(tp));
        self.segs_in = kernel::segs_in(tp);
        self.segs_out = kernel::segs_out(tp);
        self.retrans = kernel::total_retrans(tp);
        self.typed = self.retrans;
        self.dsacks = kernel::dsack_dups(tp);
        self.ce_in = kernel::received_ce(tp);
        self.ce_out = kernel::delivered_ce(tp);
        self.last_sample = kernel::rack_mstamp(tp);
        self.flags = flag::ESTABLISHED | flag::ADOPTED;
        self.role = 2;
    }
}

/// Adds what the socket has counted since the last flush to its pair.
#[inline(always)]
pub fn flush(conn: &mut Conn, cells: &mut PairCells, tp: Ptr) {
    let n = kernel::segs_in(tp);
    let segs_in = n.wrapping_sub(exchange32(&mut conn.segs_in, n)) as i32 as u64;
    let n = kernel::segs_out(tp);
    let segs_out = n.wrapping_sub(exchange32(&mut conn.segs_out, n)) as i32 as u64;
    let n = kernel::total_retrans(tp);
    let retrans = n.wrapping_sub(exchange32(&mut conn.retrans, n)) as i32 as u64;
    let n = kernel::dsack_dups(tp);
    let dsacks = n.wrapping_sub(exchange32(&mut conn.dsacks, n)) as i32 as u64;
    let n = kernel::bytes_received(tp);
    let bytes_in = n.wrapping_sub(exchange(&mut conn.bytes_in, n));
    let n = kernel::bytes_sent(tp).wrapping_sub(kernel::bytes_retrans(tp));
    let bytes_out = n.wrapping_sub(exchange(&mut conn.bytes_out, n));
    if segs_in | segs_out != 0 {
        add(&mut cells.counters[counter::SEGMENTS_IN], segs_in);
        add(&mut cells.counters[counter::SEGMENTS_OUT], segs_out);
    }
    if bytes_in | bytes_out != 0 {
        add(&mut cells.counters[counter::BYTES_IN], bytes_in);
        add(&mut cells.counters[counter::BYTES_OUT], bytes_out);
    }
    if dsacks != 0 {
        add(&mut cells.counters[counter::SPURIOUS], dsacks);
    }
    marks(&mut conn.ce_in, kernel::received_ce(tp), cells, counter::CE_IN);
    marks(&mut conn.ce_out, kernel::delivered_ce(tp), cells, counter::CE_OUT);
    if conn.subject.netns == HOME_NETNS.load() {
        pair::home(home::SEGMENTS_OUT, segs_out.wrapping_sub(retrans));
    }
}

/// Congestion marks. Most connections never see one, so the exchange is left to those that do.
#[inline(always)]
fn marks(last: &mut u32, now: u32, cells: &mut PairCells, index: usize) {
    if now != *last {
        let new = now.wrapping_sub(exchange32(last, now)) as i32 as u64;
        add(&mut cells.counters[index], new);
    }
}

/// Takes an RTT sample: its histogram, and the jitter against the one before.
#[inline(always)]
pub fn sample(conn: &mut Conn, cells: &mut PairCells, micros: u32) {
    pair::record(cells, series::RTT, micros);
    if conn.flags & flag::RTT != 0 {
        pair::record(cells, series::JITTER, micros.abs_diff(conn.last_rtt));
    }
    conn.last_rtt = micros;
    if micros > conn.max_rtt {
        conn.max_rtt = micros;
    }
    conn.flags |= flag::RTT;
}

/// Counts windows that have just closed.
///
/// Of the peer's window every change is seen. Of ours only a segment that comes while it is closed tells, so when it opens
/// is not seen by who only receives; but data that has come since the last time was let in by an open one.
#[inline(always)]
pub fn windows(conn: &mut Conn, cells: &mut PairCells, tp: Ptr) {
    if kernel::snd_wnd(tp) == 0 {
        if conn.flags & flag::ZERO_IN == 0 {
            conn.flags |= flag::ZERO_IN;
            bump(&mut cells.counters[counter::ZERO_WINDOW_IN]);
        }
    } else if conn.flags & flag::ZERO_IN != 0 {
        conn.flags &= !flag::ZERO_IN;
    }
    if kernel::rcv_wnd(tp) == 0 {
        let now = kernel::rcv_nxt(tp);
        if conn.flags & flag::ZERO_OUT == 0 || conn.closed_at != now {
            conn.flags |= flag::ZERO_OUT;
            conn.closed_at = now;
            bump(&mut cells.counters[counter::ZERO_WINDOW_OUT]);
        }
    }
}
