//! Probe `dns`: how long the answers take that this machine's sockets ask for. See agent/src/probes/dns.rs for what it
//! exports.
//!
//! Only clients are measured: a query is sent to port 53, its answer is received from there by the same socket. A server
//! on this machine sees the same messages the other way round, and these are none of the probe's business.

mod segment;

use crate::account::{self, add, bump};
use crate::emit::{emit, header, take_token};
use crate::histogram;
use crate::packet::{ALLOW, Packet, Sight};
use crate::settings::DNS_NAMES;
use crate::tcp;
use crate::tunnel::Skb;
use agent_common::account::{Account, program, reason};
use agent_common::dns::{
    DnsAnswerKey, DnsCounters, DnsPending, DnsPendingKey, DnsRecord, DnsServerKey, HEADER, Header, PORT,
    QUESTION,
    stream::{Segment, Stream},
    transport,
};
use agent_common::histogram::Histogram;
use agent_common::tunnel::parse::Packet as _;
use agent_common::udp::{TCP, UDP};
use agent_common::wire::kind;
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_get_socket_cookie, bpf_ktime_get_boot_ns, generated::bpf_skb_load_bytes},
    macros::{cgroup_skb, map},
    maps::{Array, HashMap},
    programs::SkBuffContext,
};

const MMAPABLE: u32 = 1 << 10;
const NO_PREALLOC: u32 = 1;
const NOEXIST: u64 = 1;
const UDP_HEADER: u32 = 8;

// None of these is preallocated: the probe is off unless asked for.

/// Queries that wait. Userspace takes out those that wait for too long.
#[map]
static DNS_PENDING: HashMap<DnsPendingKey, DnsPending> = HashMap::with_max_entries(16_384, NO_PREALLOC);

/// By subject and server. The key of zeros is there from the start and takes what finds no room.
#[map]
static DNS_SERVERS: HashMap<DnsServerKey, DnsCounters> = HashMap::with_max_entries(1024, NO_PREALLOC);

/// Latency by subject, server and rcode; the key of zeros as above.
#[map]
static DNS_ANSWERS: HashMap<DnsAnswerKey, Histogram> = HashMap::with_max_entries(1024, NO_PREALLOC);

/// Names that each CPU may still tell; userspace fills it up every second.
#[map]
static DNS_TOKENS: Array<u64> = Array::with_max_entries(1, MMAPABLE);

/// A packet, what is known of it, and the message in it that is looked at. Lies on the stack once, because three frames
/// share 512 bytes.
#[repr(C)]
struct Walk {
    skb: *mut __sk_buff,
    account: *mut Account,
    /// Of TCP.
    stream: *mut Stream,
    segment: Segment,
    over_tcp: u32,
    /// Whose the socket is, if it asks, and the server.
    pair: DnsServerKey,
    comm: [u8; 16],
    key: DnsPendingKey,
    header: Header,
    /// Where its question begins.
    question: u32,
}

/// Packets that sockets send.
#[cgroup_skb(egress)]
pub fn dns_egress(ctx: SkBuffContext) -> i32 {
    if let Some(account) = account::of(program::DNS_EGRESS) {
        bump(&mut account.seen);
        look::<true>(account, &Packet::new(&ctx));
    }
    ALLOW
}

/// Packets that sockets receive.
#[cgroup_skb(ingress)]
pub fn dns_ingress(ctx: SkBuffContext) -> i32 {
    if let Some(account) = account::of(program::DNS_INGRESS) {
        bump(&mut account.seen);
        look::<false>(account, &Packet::new(&ctx));
    }
    ALLOW
}

/// The queries or the answers in a packet, if there are any. Nearly all leave at the first step.
#[inline(always)]
fn look<const QUERY: bool>(account: &mut Account, packet: &Packet) {
    let possible = match packet.sight() {
        Sight::Tcp(source, destination) | Sight::Udp(_, source, destination) => {
            PORT == if QUERY { destination } else { source }
        }
        Sight::Neither => false,
        Sight::Unclear => true,
    };
    if !possible {
        bump(&mut account.filtered);
        return;
    }
    let mut walk = Walk {
        skb: packet.bytes().as_ptr(),
        account: &raw mut *account,
        stream: core::ptr::null_mut(),
        segment: Segment {
            sequence: 0,
            at: 0,
            end: 0,
        },
        over_tcp: 0,
        pair: DnsServerKey::NOBODY,
        comm: [0; 16],
        key: DnsPendingKey {
            cookie: 0,
            server: [0; 16],
            id: 0,
            pad: [0; 6],
        },
        header: Header::default(),
        question: 0,
    };
    let ours = if QUERY {
        to_server(&mut walk)
    } else {
        from_server(&mut walk)
    };
    if ours == 0 {
        bump(&mut account.filtered);
        return;
    }
    if walk.over_tcp != 0 {
        // A segment is none of our business, the messages in it are.
        bump(&mut account.filtered);
        segment::look::<QUERY>(account, packet, &mut walk);
        return;
    }
    let at = walk.segment.at + UDP_HEADER;
    match Header::read(&packet.bytes(), at) {
        Some(header) if (QUERY && header.is_query()) || (!QUERY && header.is_answer()) => {
            (walk.header, walk.question) = (header, at + HEADER);
            if QUERY {
                whose(&mut walk);
            }
            take::<QUERY>(&mut walk);
        }
        _ => bump(&mut account.filtered),
    }
}

/// Reads the headers of what goes to the port; 0 = it does not.
#[inline(never)]
fn to_server(walk: &mut Walk) -> u64 {
    headers::<true>(walk) as u64
}

/// Of what comes from it.
#[inline(never)]
fn from_server(walk: &mut Walk) -> u64 {
    headers::<false>(walk) as u64
}

#[inline(always)]
fn headers<const QUERY: bool>(walk: &mut Walk) -> bool {
    let packet = Packet::of(walk.skb);
    let Some(head) = packet.head() else {
        return false;
    };
    if head.protocol != TCP && head.protocol != UDP {
        return false;
    }
    let at = head.transport + if QUERY { 2 } else { 0 };
    let Some(port) = packet.bytes().load::<2>(at) else {
        return false;
    };
    if (port[0] as u16) << 8 | port[1] as u16 != PORT {
        return false;
    }
    walk.over_tcp = (head.protocol == TCP) as u32;
    walk.segment.at = head.transport;
    walk.pair.server = if QUERY { head.destination } else { head.source };
    walk.key.server = walk.pair.server;
    // SAFETY: the context is valid.
    walk.key.cookie = unsafe { bpf_get_socket_cookie(walk.skb.cast()) };
    true
}

/// Whose the socket is that asks.
#[inline(never)]
fn whose(walk: &mut Walk) {
    let packet = Packet::of(walk.skb);
    let sk = packet.socket();
    let over_tcp = walk.over_tcp != 0;
    walk.pair.subject = packet.subject(sk, !over_tcp);
    if !over_tcp || sk.is_null() {
        walk.comm = Packet::comm(sk);
        return;
    }
    // A segment may be sent by whoever has brought the acknowledgement that it waited for; probe `tcp` knows better.
    if walk.pair.subject.cgroup <= 1
        && let Some(subject) = tcp::remembered(sk)
    {
        walk.pair.subject = subject;
    }
    walk.comm = tcp::remembered_comm(sk);
}

/// Counts the message.
#[inline(always)]
fn take<const QUERY: bool>(walk: &mut Walk) {
    walk.key.id = walk.header.id;
    if QUERY {
        query(walk);
    } else {
        answer(walk);
    }
}

#[inline(never)]
fn query(walk: &mut Walk) {
    // SAFETY: a map value, valid for the program's run; all writes to it are atomic.
    let account = unsafe { &mut *walk.account };
    let waits = DNS_PENDING.get_ptr(walk.key).is_some();
    if walk.over_tcp != 0 && waits {
        // The stream was lost, and the segment is sent again.
        bump(&mut account.filtered);
        return;
    }
    let own = counters(&walk.pair, &walk.comm);
    add(&mut account.overflowed, own.is_none() as u64);
    match own.or_else(others) {
        Some(counters) => {
            // Two constants: indexing by a variable would emit a panic path, which does not load.
            if walk.over_tcp != 0 {
                bump(&mut counters.queries[transport::TCP]);
            } else {
                bump(&mut counters.queries[transport::UDP]);
            }
            add(&mut counters.repeated, waits as u64);
        }
        None => {
            bump(&mut account.dropped[reason::MAP_FULL]);
            return;
        }
    }
    if !waits {
        let value = DnsPending {
            // SAFETY: no preconditions.
            time: unsafe { bpf_ktime_get_boot_ns() },
            subject: walk.pair.subject,
        };
        if DNS_PENDING.insert(walk.key, value, NOEXIST).is_err() {
            // Too many wait, so this one's time is not taken. It has been counted, and so is its loss.
            bump(&mut account.seen);
            bump(&mut account.dropped[reason::MAP_FULL]);
        }
    }
    bump(&mut account.aggregated);
    if DNS_NAMES.load() != 0 {
        tell(account, Skb::of(walk.skb), walk.question);
    }
}

#[inline(never)]
fn answer(walk: &mut Walk) {
    // SAFETY: as above.
    let account = unsafe { &mut *walk.account };
    let Some(asked) = DNS_PENDING.get_ptr(walk.key) else {
        // Nobody asked, or it came too late.
        bump(&mut account.filtered);
        return;
    };
    // SAFETY: valid for the program's run, and never written to once it is there.
    let asked = unsafe { *asked };
    if DNS_PENDING.remove(walk.key).is_err() {
        // Another CPU or userspace was first.
        bump(&mut account.filtered);
        return;
    }
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    walk.pair.subject = asked.subject;
    // Whether it goes to `other` is counted once, below.
    if walk.header.truncated()
        && let Some(counters) = counters(&walk.pair, &[0; 16]).or_else(others)
    {
        bump(&mut counters.truncated);
    }
    let key = DnsAnswerKey {
        pair: walk.pair,
        rcode: walk.header.rcode(),
        pad: [0; 7],
    };
    match histogram::of(&DNS_ANSWERS, &key, &DnsAnswerKey::NOBODY, account) {
        Some(histogram) => {
            let micros = now.wrapping_sub(asked.time) / 1000;
            histogram::record(
                histogram,
                if micros > u32::MAX as u64 {
                    u32::MAX
                } else {
                    micros as u32
                },
            );
            bump(&mut account.aggregated);
        }
        None => bump(&mut account.dropped[reason::MAP_FULL]),
    }
}

/// The counters of a subject and a server, if they are there.
#[inline(always)]
fn find(key: &DnsServerKey) -> Option<&'static mut DnsCounters> {
    DNS_SERVERS.get_ptr_mut(key).map(|value| {
        // SAFETY: valid for the program's run; only added to atomically.
        unsafe { &mut *value }
    })
}

/// Those of `other`.
#[inline(always)]
fn others() -> Option<&'static mut DnsCounters> {
    find(&DnsServerKey::NOBODY)
}

/// The counters of a subject and a server, new ones if need be; `None` = there is no room.
#[inline(always)]
fn counters(key: &DnsServerKey, comm: &[u8; 16]) -> Option<&'static mut DnsCounters> {
    if let Some(value) = find(key) {
        return Some(value);
    }
    let value = DnsCounters {
        queries: [0; transport::COUNT],
        repeated: 0,
        truncated: 0,
        comm: *comm,
    };
    // Another CPU may be first.
    let _ = DNS_SERVERS.insert(key, value, NOEXIST);
    find(key)
}

/// The question as it is; userspace reads the name.
#[inline(always)]
fn tell(account: &mut Account, bytes: Skb, at: u32) {
    if !take_token(&DNS_TOKENS) {
        bump(&mut account.seen);
        bump(&mut account.sampled);
        return;
    }
    let rest = bytes.len().saturating_sub(at);
    emit::<DnsRecord>(account, |r| {
        // From 1 to QUESTION by arithmetic alone: a comparison would be merged into another one, of a register that older
        // verifiers do not connect with this. Nothing at all becomes the longest, which is not there to be loaded.
        let len =
            (core::hint::black_box(rest.min(QUESTION as u32).wrapping_sub(1)) & (QUESTION as u32 - 1)) + 1;
        // SAFETY: `r` is a reserved record of the right size; every field is written, there is no padding. The helper
        // writes `len` bytes or fails.
        unsafe {
            let r = &mut *r;
            r.header = header::<DnsRecord>(kind::DNS, program::DNS_EGRESS);
            r.question = [0; QUESTION];
            let missing =
                bpf_skb_load_bytes(bytes.as_ptr().cast(), at, r.question.as_mut_ptr().cast(), len) != 0;
            r.len = if missing { 0 } else { len as u64 };
        }
    });
}
