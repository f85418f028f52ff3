//! Resets, by direction.

use super::{CLOSE, LISTEN, NEW_SYN_RECV, TIME_WAIT, adopt, conn, pair};
use crate::account::{self, bump};
use crate::kernel::{self, Ptr};
use crate::settings::HOME_NETNS;
use agent_common::account::{Account, program, reason};
use agent_common::tcp::{SLOT_NONE, SubjectKey, counter, home};
use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

/// Each RST sent: by a socket of its own accord (no packet), or in answer to a segment (the packet).
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_send_reset(ctx: BtfTracePointContext) -> i32 {
    let Some(account) = account::of(program::TCP_SEND_RESET) else {
        return 0;
    };
    bump(&mut account.seen);
    let answer = !kernel::argument_is_null(&ctx, 1);
    let mut netns = 0;
    let mut peer = 0;
    if !kernel::argument_is_null(&ctx, 0) {
        let sk: Ptr = ctx.arg(0);
        if sk.is_null() {
            bump(&mut account.dropped[reason::NO_SOCKET]);
            return 0;
        }
        if !matches!(kernel::state(sk), TIME_WAIT | NEW_SYN_RECV | LISTEN) {
            return reset(account, sk, counter::RESETS_OUT, answer);
        }
        netns = kernel::netns(sk);
        if kernel::state(sk) != LISTEN {
            peer = pair::peer(kernel::remote(sk));
        }
    } else if answer {
        let skb: Ptr = ctx.arg(1);
        if !skb.is_null()
            && let Some(dev) = kernel::device(skb)
        {
            netns = kernel::dev_netns(dev);
        }
    }
    let subject = SubjectKey {
        cgroup: 0,
        start: 0,
        tgid: 0,
        netns,
    };
    let slot = pair::slot(account, &subject, peer, &[0; 16]);
    if let Some(cells) = pair::cells(slot) {
        bump(&mut cells.counters[counter::RESETS_OUT]);
        bump(&mut account.aggregated);
    } else {
        bump(&mut account.dropped[reason::MAP_FULL]);
    }
    if netns == HOME_NETNS.load() {
        pair::home(home::RESETS_OUT, 1);
        // A segment that no socket counts.
        pair::home(home::SEGMENTS_OUT, 1);
    }
    0
}

/// Each RST received for a socket.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn tcp_receive_reset(ctx: BtfTracePointContext) -> i32 {
    let sk: Ptr = ctx.arg(0);
    let Some(account) = account::of(program::TCP_RECEIVE_RESET) else {
        return 0;
    };
    bump(&mut account.seen);
    reset(account, sk, counter::RESETS_IN, false)
}

#[inline(always)]
fn reset(account: &mut Account, sk: Ptr, index: usize, answer: bool) -> i32 {
    let Some(tp) = kernel::tcp_sock(sk) else {
        bump(&mut account.dropped[reason::NO_SOCKET]);
        return 0;
    };
    let closed = kernel::state(sk) == CLOSE;
    let conn = match conn::get(sk) {
        Some(conn) => conn,
        None => match adopt(account, sk, tp, (0, 0), [0; 16]) {
            Some(conn) => conn,
            None => return 0,
        },
    };
    // A socket that closes by a reset is closed first: it has let go of its row and must not take another.
    let slot = if closed && conn.slot() == SLOT_NONE {
        pair::slot(account, &conn.subject, conn.peer, &conn.comm)
    } else {
        conn.attach(account, sk);
        conn.slot()
    };
    let Some(cells) = pair::cells(slot) else {
        bump(&mut account.dropped[reason::MAP_FULL]);
        return 0;
    };
    bump(&mut cells.counters[index]);
    if index == counter::RESETS_OUT && conn.subject.netns == HOME_NETNS.load() {
        pair::home(home::RESETS_OUT, 1);
        if answer || closed {
            // Sent for the socket by another, or after its last flush.
            pair::home(home::SEGMENTS_OUT, 1);
        }
    }
    bump(&mut account.aggregated);
    0
}
