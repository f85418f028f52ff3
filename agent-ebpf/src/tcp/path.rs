//! Probe `path`, passive: what a segment and its socket tell of the way. Runs where counters are flushed, so once a
//! second for each connection at most, and at its first acknowledged data.

use super::conn::Conn;
use crate::account::bump;
use crate::emit::{emit, header};
use crate::kernel::{self, Ptr};
use crate::settings::{PATHS, PROBE_READS};
use agent_common::account::{Account, program};
use agent_common::path::{RouteRecord, Seen};
use agent_common::tcp::{PairCells, counter};
use agent_common::wire::kind;
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;

/// No segment of the connection has told its TTL yet, and one may.
#[inline(always)]
pub fn is_unseen(conn: &Conn) -> bool {
    PATHS.load() != 0 && PROBE_READS.load() != 0 && conn.ttl == 0
}

/// Takes hop count and path MTU, and notes a change of the way.
#[inline(always)]
pub fn look(account: &mut Account, conn: &mut Conn, cells: &mut PairCells, sk: Ptr, tp: Ptr, skb: Ptr) {
    if PATHS.load() == 0 {
        return;
    }
    let ttl = kernel::skb_ttl(skb);
    // A plain store: one word, and who comes last is as right as any.
    cells.path = Seen::pack(kernel::activity(tp), ttl, kernel::path_mtu(tp));
    if ttl == 0 {
        return;
    }
    if ttl == conn.ttl {
        conn.ttl_next = 0;
    } else if conn.ttl == 0 {
        conn.ttl = ttl;
    } else if ttl != conn.ttl_next {
        // Once is chance: a segment that somebody in between has made up, or one that took another way than all others.
        conn.ttl_next = ttl;
    } else {
        let before = conn.ttl;
        conn.ttl = ttl;
        conn.ttl_next = 0;
        bump(&mut cells.counters[counter::ROUTE_CHANGES]);
        // SAFETY: no preconditions.
        let now = unsafe { bpf_ktime_get_boot_ns() };
        emit::<RouteRecord>(account, |r| {
            // SAFETY: `r` is a reserved record of the right size; every field is written, there is no padding.
            let r = unsafe { &mut *r };
            r.header = header::<RouteRecord>(kind::ROUTE, program::TCP_PROBE);
            r.time = now;
            r.subject = conn.subject;
            r.remote = kernel::remote(sk);
            r.comm = conn.comm;
            r.peer = conn.peer;
            r.before = before;
            r.after = ttl;
            r.pad = 0;
        });
    }
}
