//! The messages in a segment of TCP: see agent-common/src/dns/stream.rs.

use super::{Walk, take, whose};
use crate::account::bump;
use crate::packet::Packet;
use crate::tcp;
use crate::tunnel::Skb;
use agent_common::account::{Account, reason};
use agent_common::dns::stream::{Segment, Step, Stream};
use agent_common::tunnel::parse::Packet as _;
use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    helpers::{bpf_sk_storage_get, generated::bpf_loop},
};

/// Steps through a segment, each a message or a byte of one that is cut; what is beyond is not followed.
const STEPS: u32 = 512;

/// Where the messages of a connection are.
#[repr(C)]
struct Streams {
    sent: Stream,
    received: Stream,
    /// For a segment that comes late.
    late: Stream,
}

/// BPF_F_NO_PREALLOC. Goes with the socket.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static DNS_STREAMS: tcp::SocketStorage<Streams, 1> = tcp::SocketStorage::new();

/// The messages of a segment.
#[inline(always)]
pub(super) fn look<const QUERY: bool>(account: &mut Account, packet: &Packet, walk: &mut Walk) {
    let bytes = packet.bytes();
    let transport = walk.segment.at;
    let (Some(sequence), Some([words, flags])) =
        (bytes.load::<4>(transport + 4), bytes.load::<2>(transport + 12))
    else {
        return;
    };
    let syn = (flags >> 1 & 1) as u32;
    walk.segment = Segment {
        sequence: u32::from_be_bytes(sequence).wrapping_add(syn),
        at: transport + (words >> 4) as u32 * 4,
        end: bytes.len(),
    };
    let empty = walk.segment.at >= walk.segment.end;
    if empty && syn == 0 {
        return;
    }
    let Some(streams) = streams(packet) else {
        give_up::<{ reason::NO_STORAGE }>(account);
        return;
    };
    let mut stream = if QUERY {
        &mut streams.sent
    } else {
        &mut streams.received
    };
    if syn != 0 {
        stream.begin(walk.segment.sequence);
    }
    if empty {
        return;
    }
    let ahead = if stream.known() {
        stream.ahead(&walk.segment)
    } else {
        0
    };
    if ahead > 0 {
        give_up::<{ reason::UNFOLLOWED }>(account);
        stream.lose();
    }
    if !QUERY && ahead < 0 && ahead.unsigned_abs() >= walk.segment.end - walk.segment.at {
        // It comes again, or late: of an answer that was taken nobody waits for a second one.
        stream = &mut streams.late;
        if !stream.resume(&bytes, &walk.segment, true) {
            return;
        }
    }
    if !stream.known() && !stream.resume(&bytes, &walk.segment, !QUERY) {
        if ahead == 0 {
            give_up::<{ reason::UNFOLLOWED }>(account);
        }
        return;
    }
    if QUERY {
        whose(walk);
    }
    walk.stream = &raw mut *stream;
    let step = if QUERY {
        next_query as *const ()
    } else {
        next_answer as *const ()
    };
    // SAFETY: the callback takes what the kernel hands it, and the context outlives the call.
    unsafe { bpf_loop(STEPS, step as *mut _, (&raw mut *walk).cast(), 0) };
    let read = stream.ahead(&walk.segment).wrapping_neg();
    if stream.known() && read < (walk.segment.end - walk.segment.at) as i32 {
        give_up::<{ reason::UNFOLLOWED }>(account);
        stream.lose();
    }
}

/// An event of its own that is lost.
#[inline(always)]
fn give_up<const REASON: usize>(account: &mut Account) {
    bump(&mut account.seen);
    bump(&mut account.dropped[REASON]);
}

extern "C" fn next_query(_: u64, walk: *mut Walk) -> u64 {
    // SAFETY: what [`look`] has made.
    next::<true>(unsafe { &mut *walk })
}

extern "C" fn next_answer(_: u64, walk: *mut Walk) -> u64 {
    // SAFETY: what [`look`] has made.
    next::<false>(unsafe { &mut *walk })
}

/// One step; 1 = the segment is done.
#[inline(always)]
fn next<const QUERY: bool>(walk: &mut Walk) -> u64 {
    // SAFETY: both are map values, valid for the program's run; all writes to an account are atomic. A direction of a
    // connection is looked at by one CPU at a time, but for a receiver whose packets are spread: that costs a message.
    let (account, stream) = unsafe { (&mut *walk.account, &mut *walk.stream) };
    match stream.step(&Skb::of(walk.skb), &walk.segment) {
        Step::More => 0,
        Step::End => 1,
        Step::Nonsense => {
            give_up::<{ reason::UNFOLLOWED }>(account);
            1
        }
        Step::Message(header, question) => {
            bump(&mut account.seen);
            if (QUERY && header.is_plain_query()) || (!QUERY && header.is_answer()) {
                (walk.header, walk.question) = (header, question);
                take::<QUERY>(walk);
            } else {
                bump(&mut account.filtered);
            }
            0
        }
    }
}

/// What is known of a connection's messages.
#[inline(always)]
fn streams(packet: &Packet) -> Option<&'static mut Streams> {
    let sk = packet.socket();
    if sk.is_null() {
        return None;
    }
    // SAFETY: the verifier knows the socket and the map; a non-null result stays valid for the program's run.
    unsafe {
        (bpf_sk_storage_get(
            &raw const DNS_STREAMS as *mut _,
            sk as *mut _,
            core::ptr::null_mut(),
            BPF_SK_STORAGE_GET_F_CREATE as u64,
        ) as *mut Streams)
            .as_mut()
    }
}
