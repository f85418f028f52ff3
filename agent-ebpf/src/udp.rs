//! Probe `udp`: datagrams and bytes of every subject. See agent/src/probes/udp.rs for what it exports.

use crate::account::{self, add, bump};
use crate::kernel::Ptr;
use crate::packet::{self, ALLOW, Packet, Sight};
use agent_common::account::{Account, program, reason};
use agent_common::tcp::SubjectKey;
use agent_common::tunnel::parse::Packet as _;
use agent_common::udp::{UDP, UdpValue, direction};
use aya_ebpf::{
    helpers::{bpf_get_current_cgroup_id, bpf_get_netns_cookie},
    macros::{cgroup_skb, cgroup_sock, map},
    maps::HashMap,
    programs::{SkBuffContext, SockContext},
};

const NO_PREALLOC: u32 = 1;
const NOEXIST: u64 = 1;
const HEADER: u32 = 8;
const SOCK_DGRAM: u32 = 2;

/// By subject. The key of zeros is there from the start and takes what finds no room. Not preallocated: the probe is off
/// unless asked for.
#[map]
static UDP_SUBJECTS: HashMap<SubjectKey, UdpValue> = HashMap::with_max_entries(4096, NO_PREALLOC);

/// Packets that sockets receive, before their queues.
#[cgroup_skb(ingress)]
pub fn udp_ingress(ctx: SkBuffContext) -> i32 {
    watch::<{ direction::RECEIVE }>(Packet::new(&ctx), program::UDP_INGRESS)
}

/// Packets that sockets send.
#[cgroup_skb(egress)]
pub fn udp_egress(ctx: SkBuffContext) -> i32 {
    watch::<{ direction::TRANSMIT }>(Packet::new(&ctx), program::UDP_EGRESS)
}

#[inline(always)]
fn watch<const DIRECTION: usize>(packet: Packet, program: usize) -> i32 {
    let Some(account) = account::of(program) else {
        return ALLOW;
    };
    bump(&mut account.seen);
    let transport = match packet.sight() {
        Sight::Udp(at, ..) => at,
        Sight::Unclear => match packet.head() {
            Some(head) if head.protocol == UDP => head.transport,
            _ => 0,
        },
        _ => 0,
    };
    if transport == 0 {
        bump(&mut account.filtered);
        return ALLOW;
    }
    let bytes = packet.bytes().len().saturating_sub(transport + HEADER) as u64;
    let sk = packet.socket();
    let subject = packet.subject(sk, DIRECTION == direction::TRANSMIT);
    match row(account, &subject, sk) {
        Some(row) => {
            add(&mut row.datagrams[DIRECTION], packet.segments());
            add(&mut row.bytes[DIRECTION], bytes);
            bump(&mut account.aggregated);
        }
        None => bump(&mut account.dropped[reason::MAP_FULL]),
    }
    ALLOW
}

#[inline(always)]
fn row(account: &mut Account, subject: &SubjectKey, sk: Ptr) -> Option<&'static mut UdpValue> {
    let find = |key: &SubjectKey| {
        UDP_SUBJECTS.get_ptr_mut(key).map(|value| {
            // SAFETY: valid for the program's run; only added to atomically.
            unsafe { &mut *value }
        })
    };
    if let Some(value) = find(subject) {
        return Some(value);
    }
    let value = UdpValue {
        datagrams: [0; direction::COUNT],
        bytes: [0; direction::COUNT],
        comm: Packet::comm(sk),
    };
    // Another CPU may be first.
    let _ = UDP_SUBJECTS.insert(subject, value, NOEXIST);
    if let Some(value) = find(subject) {
        return Some(value);
    }
    bump(&mut account.overflowed);
    find(&SubjectKey::NOBODY)
}

/// New sockets: who makes one owns it, where cgroups say nothing. What only receives would belong to nobody otherwise.
#[cgroup_sock(sock_create)]
pub fn udp_create(ctx: SockContext) -> i32 {
    let Some(account) = account::of(program::UDP_CREATE) else {
        return ALLOW;
    };
    bump(&mut account.seen);
    // SAFETY: the context is valid; the helpers have no preconditions.
    let (kind, cgroup) = unsafe {
        (
            (&raw const (*ctx.sock).type_).read_volatile(),
            bpf_get_current_cgroup_id(),
        )
    };
    if kind != SOCK_DGRAM || cgroup > 1 {
        bump(&mut account.filtered);
        return ALLOW;
    }
    let mut owner = packet::current(SubjectKey {
        cgroup,
        // SAFETY: as above.
        netns: unsafe { bpf_get_netns_cookie(ctx.sock.cast()) } as u32,
        ..SubjectKey::NOBODY
    });
    match packet::owner(ctx.sock as Ptr, &mut owner) {
        Some(_) => bump(&mut account.aggregated),
        None => bump(&mut account.dropped[reason::NO_STORAGE]),
    }
    ALLOW
}
