//! Iterators: over the tracked sockets now and then, over all open files at the start.

use super::conn::{self, Conn, flush, sample, windows};
use super::{CLOSE, IPPROTO_TCP, LISTEN, RECORD_EVERY, SILENT, SYN_SENT, adopt, flow::tell, pair};
use crate::account::{self, add, bump};
use crate::kernel::{self, Ptr};
use crate::settings::{switch, switch_value};
use agent_common::account::{Account, program, reason};
use agent_common::tcp::{SLOT_NONE, counter};
use agent_common::trace::why;
use aya_ebpf::helpers::generated::bpf_sock_from_file;
use core::ffi::c_void;

#[inline(always)]
fn context_pointer(ctx: *mut c_void, index: usize) -> Ptr {
    // SAFETY: the verifier checks iterator contexts at constant offsets.
    unsafe { ctx.cast::<Ptr>().add(index).read_volatile() }
}

/// All tracked sockets, in every namespace: takes the last sample and the counters of those that fell silent, and
/// tells of long connections. Costs as many steps as there are sockets, not a walk over the kernel's hash table
/// (2.5 ms each time).
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub fn tcp_sweep(ctx: *mut c_void) -> i32 {
    let sk = context_pointer(ctx, 2);
    if !sk.is_null() {
        swept(sk);
    }
    0
}

/// As `tcp_sweep`, by way of all open files, for kernels that refuse iterators over maps: costs a step for each open file of
/// each process, and sees no socket that has none (one that was closed and still sends).
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub fn tcp_sweep_files(ctx: *mut c_void) -> i32 {
    if let Some(sk) = tcp_socket(context_pointer(ctx, 3)) {
        swept(sk);
    }
    0
}

/// The TCP socket behind an open file.
#[inline(always)]
fn tcp_socket(file: Ptr) -> Option<Ptr> {
    if file.is_null() {
        return None;
    }
    // SAFETY: the helper checks that the file is a socket.
    let socket = unsafe { bpf_sock_from_file(file as *mut _) } as Ptr;
    if socket.is_null() {
        return None;
    }
    let sk = kernel::socket_sk(socket);
    (!sk.is_null() && kernel::protocol(sk) == IPPROTO_TCP).then_some(sk)
}

#[inline(always)]
fn swept(sk: Ptr) {
    let Some(account) = account::of(program::TCP_SWEEP) else {
        return;
    };
    bump(&mut account.seen);
    let (Some(tp), Some(conn)) = (kernel::tcp_sock(sk), conn::get(sk)) else {
        bump(&mut account.filtered);
        return;
    };
    let state = kernel::state(sk);
    if state == LISTEN {
        listener(account, conn, sk);
        return;
    }
    let slot = conn.slot();
    if slot == SLOT_NONE || state == CLOSE {
        bump(&mut account.filtered);
        return;
    }
    let Some(cells) = pair::cells(slot) else {
        bump(&mut account.dropped[reason::MAP_FULL]);
        return;
    };
    let now = kernel::activity(tp);
    // A busy connection takes its own samples. One that has been silent for a tenth of a second cannot race with them.
    let stamp = kernel::rack_mstamp(tp);
    if stamp != conn.last_sample
        && (conn::clock().wrapping_sub(now) > SILENT || switch_value(switch::SWEEP_SAMPLES) != 0)
    {
        conn.last_sample = stamp;
        sample(conn, cells, kernel::rack_rtt(tp));
    }
    if now != conn.last_flush {
        conn.last_flush = now;
        flush(conn, cells, tp);
    }
    windows(conn, cells, tp);
    bump(&mut account.aggregated);
    // By the clock and not by the last segment: those that are silent are told as well.
    if switch_value(switch::FLOW_RECORDS) != 0 {
        let clock = conn::clock();
        if clock.wrapping_sub(conn.last_record) < RECORD_EVERY {
            return;
        }
        conn.last_record = clock;
        tell(
            account,
            program::TCP_SWEEP,
            conn,
            sk,
            tp,
            state,
            state,
            0,
            why::NOT,
        );
    }
}

/// What a listening socket had to refuse: its accept queue was full, or memory was short.
#[inline(always)]
fn listener(account: &mut Account, conn: &mut Conn, sk: Ptr) {
    let drops = kernel::drops(sk);
    let new = drops.wrapping_sub(account::exchange32(&mut conn.listen_drops, drops));
    if new == 0 {
        bump(&mut account.filtered);
        return;
    }
    let slot = pair::slot(account, &conn.subject, 0, &conn.comm);
    match pair::cells(slot) {
        Some(cells) => {
            add(&mut cells.counters[counter::LISTEN_DROPS], new as u64);
            bump(&mut account.aggregated);
        }
        None => bump(&mut account.dropped[reason::MAP_FULL]),
    }
}

/// All open files of all processes: finds the TCP sockets that are older than the agent, and who owns them.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub fn tcp_adopt(ctx: *mut c_void) -> i32 {
    let task = context_pointer(ctx, 1);
    if task.is_null() {
        return 0;
    }
    let Some(sk) = tcp_socket(context_pointer(ctx, 3)) else {
        return 0;
    };
    let Some(account) = account::of(program::TCP_ADOPT) else {
        return 0;
    };
    bump(&mut account.seen);
    let state = kernel::state(sk);
    let Some(tp) = kernel::tcp_sock(sk) else {
        bump(&mut account.filtered);
        return 0;
    };
    if conn::get(sk).is_some() || state == CLOSE {
        bump(&mut account.filtered);
        return 0;
    }
    let process = (kernel::task_tgid(task), kernel::task_start(task));
    let comm = kernel::task_comm(task);
    if state == LISTEN || state == SYN_SENT {
        let Some(conn) = conn::get_or_new(sk) else {
            bump(&mut account.dropped[reason::NO_STORAGE]);
            return 0;
        };
        conn.reset(pair::subject(sk, process), comm);
        conn.listen_drops = kernel::drops(sk);
        bump(&mut account.aggregated);
        return 0;
    }
    if adopt(account, sk, tp, process, comm).is_some() {
        bump(&mut account.aggregated);
    }
    0
}
