//! Probe `dns`: how long the answers take that this machine's sockets ask for. See agent/src/probes/dns.rs for what it
//! exports.
//!
//! Only clients are measured: a query is sent to port 53, its answer is received from there by the same socket. A server
//! on this machine sees the same messages the other way round, and these are none of the probe's business.

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
    QUESTION, in_segment, transport,
};
use agent_common::histogram::Histogram;
use agent_common::tunnel::parse::Packet as _;
use agent_common::udp::{Head, TCP, UDP};
use agent_common::wire::kind;
use aya_ebpf::{
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

/// A message of DNS.
struct Message {
    head: Head,
    header: Header,
    /// Where it begins.
    at: u32,
}

/// Packets that sockets send.
#[cgroup_skb(egress)]
pub fn dns_egress(ctx: SkBuffContext) -> i32 {
    let Some(account) = account::of(program::DNS_EGRESS) else {
        return ALLOW;
    };
    bump(&mut account.seen);
    let packet = Packet::new(&ctx);
    match message::<true>(&packet) {
        Some(message) => query(account, &packet, &message),
        None => bump(&mut account.filtered),
    }
    ALLOW
}

/// Packets that sockets receive.
#[cgroup_skb(ingress)]
pub fn dns_ingress(ctx: SkBuffContext) -> i32 {
    let Some(account) = account::of(program::DNS_INGRESS) else {
        return ALLOW;
    };
    bump(&mut account.seen);
    let packet = Packet::new(&ctx);
    match message::<false>(&packet) {
        Some(message) => answer(account, &packet, &message),
        None => bump(&mut account.filtered),
    }
    ALLOW
}

/// The query or the answer in a packet, if it is one. Nearly all leave at the first step.
#[inline(always)]
fn message<const QUERY: bool>(packet: &Packet) -> Option<Message> {
    let possible = match packet.sight() {
        Sight::Tcp(source, destination) | Sight::Udp(_, source, destination) => {
            PORT == if QUERY { destination } else { source }
        }
        Sight::Neither => false,
        Sight::Unclear => true,
    };
    if !possible {
        return None;
    }
    let head = packet.head()?;
    let bytes = packet.bytes();
    let port = bytes.load::<2>(head.transport + if QUERY { 2 } else { 0 })?;
    if (port[0] as u16) << 8 | port[1] as u16 != PORT {
        return None;
    }
    let (at, header) = match head.protocol {
        UDP => {
            let at = head.transport + UDP_HEADER;
            let header = Header::read(&bytes, at)?;
            let wanted = if QUERY {
                header.is_query()
            } else {
                header.is_answer()
            };
            if !wanted {
                return None;
            }
            (at, header)
        }
        TCP => {
            let [words] = bytes.load::<1>(head.transport + 12)?;
            in_segment(&bytes, head.transport + (words >> 4) as u32 * 4, !QUERY)?
        }
        _ => return None,
    };
    Some(Message { head, header, at })
}

#[inline(always)]
fn query(account: &mut Account, packet: &Packet, message: &Message) {
    let sk = packet.socket();
    let over_tcp = message.head.protocol == TCP;
    let mut subject = packet.subject(sk, !over_tcp);
    // A segment may be sent by whoever has brought the acknowledgement that it waited for; probe `tcp` knows better.
    if over_tcp && subject.cgroup <= 1 && !sk.is_null() {
        subject = tcp::remembered(sk).unwrap_or(subject);
    }
    let pair = DnsServerKey {
        subject,
        server: message.head.destination,
    };
    let key = pending(packet, message, message.head.destination);
    let waits = DNS_PENDING.get_ptr(key).is_some();
    if over_tcp && waits {
        // The segment is sent again, the query is not.
        bump(&mut account.filtered);
        return;
    }
    let comm = if over_tcp && !sk.is_null() {
        tcp::remembered_comm(sk)
    } else {
        Packet::comm(sk)
    };
    match counters(account, &pair, &comm) {
        Some(counters) => {
            // Two constants: indexing by a variable would emit a panic path, which does not load.
            if over_tcp {
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
            subject,
        };
        if DNS_PENDING.insert(key, value, NOEXIST).is_err() {
            // Too many wait, so this one's time is not taken. It has been counted, and so is its loss.
            bump(&mut account.seen);
            bump(&mut account.dropped[reason::MAP_FULL]);
        }
    }
    bump(&mut account.aggregated);
    if DNS_NAMES.load() != 0 {
        tell(account, packet.bytes(), message);
    }
}

#[inline(always)]
fn answer(account: &mut Account, packet: &Packet, message: &Message) {
    let key = pending(packet, message, message.head.source);
    let Some(asked) = DNS_PENDING.get_ptr(key) else {
        // Nobody asked, or it came too late.
        bump(&mut account.filtered);
        return;
    };
    // SAFETY: valid for the program's run, and never written to once it is there.
    let asked = unsafe { *asked };
    if DNS_PENDING.remove(key).is_err() {
        // Another CPU or userspace was first.
        bump(&mut account.filtered);
        return;
    }
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let pair = DnsServerKey {
        subject: asked.subject,
        server: message.head.source,
    };
    if message.header.truncated()
        && let Some(counters) = counters(account, &pair, &[0; 16])
    {
        bump(&mut counters.truncated);
    }
    let key = DnsAnswerKey {
        pair,
        rcode: message.header.rcode(),
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

#[inline(always)]
fn pending(packet: &Packet, message: &Message, server: [u8; 16]) -> DnsPendingKey {
    DnsPendingKey {
        // SAFETY: the context is valid.
        cookie: unsafe { bpf_get_socket_cookie(packet.bytes().as_ptr().cast()) },
        server,
        id: message.header.id,
        pad: [0; 6],
    }
}

#[inline(always)]
fn counters(account: &mut Account, key: &DnsServerKey, comm: &[u8; 16]) -> Option<&'static mut DnsCounters> {
    let find = |key: &DnsServerKey| {
        DNS_SERVERS.get_ptr_mut(key).map(|value| {
            // SAFETY: valid for the program's run; only added to atomically.
            unsafe { &mut *value }
        })
    };
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
    if let Some(value) = find(key) {
        return Some(value);
    }
    bump(&mut account.overflowed);
    find(&DnsServerKey::NOBODY)
}

/// The question as it is; userspace reads the name.
#[inline(always)]
fn tell(account: &mut Account, bytes: Skb, message: &Message) {
    if !take_token(&DNS_TOKENS) {
        bump(&mut account.seen);
        bump(&mut account.sampled);
        return;
    }
    let at = message.at + HEADER;
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
