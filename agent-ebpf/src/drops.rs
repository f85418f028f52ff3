//! Probe `drops`: packets that the kernel gives up, and why. See agent/src/probes/drops.rs for what it exports.

use crate::account::{self, add, bump};
use crate::emit::{emit, header, take_token};
use crate::kernel::{self, Ptr};
use crate::settings::{KFREE_HAS_SOCKET, REASON_CONSUMED, REASON_QUEUE_PURGE};
use crate::tcp;
use agent_common::account::{Account, program, reason};
use agent_common::drops::{DropKey, DropRecord, DropValue, direction};
use agent_common::tcp::SubjectKey;
use agent_common::wire::kind;
use aya_ebpf::{
    helpers::{bpf_ktime_get_boot_ns, bpf_probe_read_kernel},
    macros::{btf_tracepoint, map},
    maps::{Array, HashMap},
    programs::BtfTracePointContext,
};

const MMAPABLE: u32 = 1 << 10;
const NOEXIST: u64 = 1;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const TIME_WAIT: u8 = 6;
const NEW_SYN_RECV: u8 = 12;
/// A header offset that was never set.
const UNSET: u16 = u16::MAX;

/// Packets and bytes by key. The key of zeros is there from the start and takes what finds no room.
#[map]
static DROPS: HashMap<DropKey, DropValue> = HashMap::with_max_entries(1024, 0);

/// UDP datagrams that found the receive queue full, by owner. The key of zeros takes what finds no room.
#[map]
static UDP_QUEUE: HashMap<SubjectKey, u64> = HashMap::with_max_entries(1024, 0);

/// Records that each CPU may still send; userspace fills it up every second, so no clock is read here.
#[map]
static DROP_TOKENS: Array<u64> = Array::with_max_entries(1, MMAPABLE);

/// Addresses and transport of a packet, as far as its header can be read.
struct Network {
    source: [u8; 16],
    destination: [u8; 16],
    protocol: u8,
    transport: u16,
}

/// Every packet that is freed as dropped.
#[btf_tracepoint(function = "kfree_skb")]
pub fn drops_kfree(ctx: BtfTracePointContext) -> i32 {
    let (skb, location): (Ptr, u64) = (ctx.arg(0), ctx.arg(1));
    let why: u32 = ctx.arg(2);
    let Some(account) = account::of(program::DROPS_KFREE) else {
        return 0;
    };
    bump(&mut account.seen);
    let Some(Lost {
        ethertype,
        dev,
        len,
        iif,
        direction,
    }) = lost(skb, why)
    else {
        bump(&mut account.filtered);
        return 0;
    };
    let mut key = DropKey {
        subject: owner(&ctx, skb).0,
        location,
        reason: why,
        ifindex: if dev.is_null() { iif } else { kernel::ifindex(dev) },
        netns: if dev.is_null() { 0 } else { kernel::dev_netns(dev) },
        ethertype,
        protocol: 0,
        direction,
    };
    let network = network(skb, ethertype);
    key.protocol = network.protocol;
    count(account, &key, dev, len);
    if take_token(&DROP_TOKENS) {
        tell(account, &key, &network, skb, dev, len);
    } else {
        bump(&mut account.seen);
        bump(&mut account.sampled);
    }
    0
}

/// A packet that was given up.
pub struct Lost {
    pub ethertype: u16,
    /// NULL = none.
    pub dev: Ptr,
    pub len: u32,
    pub iif: u32,
    pub direction: u8,
}

/// What is known of it; `None`: it has ended well, or is no packet.
#[inline(always)]
pub fn lost(skb: Ptr, why: u32) -> Option<Lost> {
    let ethertype = u16::from_be(kernel::skb_protocol_be(skb));
    let dev = kernel::device(skb).unwrap_or(core::ptr::null());
    let is_ip = ethertype == ETH_P_IP || ethertype == ETH_P_IPV6;
    let len = kernel::skb_len(skb);
    // Not dropped at all (0), or consumed: normal ends. Without a device and not IP: messages of unix and netlink sockets.
    // Left in the queue of a socket that ends, and empty: the FIN of each connection that this side closed first.
    if why == 0
        || why == REASON_CONSUMED.load()
        || (why == REASON_QUEUE_PURGE.load() && len == 0)
        || (dev.is_null() && !is_ip)
    {
        return None;
    }
    let iif = kernel::skb_iif(skb);
    Some(Lost {
        ethertype,
        dev,
        len,
        iif,
        // The stack notes the device that a packet came in from once it has it: one that a driver or a full backlog gives up
        // before has none, as one that this machine made; but that one belongs to who sends it.
        direction: if iif != 0 {
            direction::RECEIVE
        } else if !kernel::skb_sk(skb).is_null() {
            direction::TRANSMIT
        } else {
            direction::UNKNOWN
        },
    })
}

/// Whose packet it is, and the name of that process, where a socket tells.
#[inline(always)]
pub fn owner(ctx: &BtfTracePointContext, skb: Ptr) -> (SubjectKey, [u8; 16]) {
    let sk = kernel::skb_sk(skb);
    if sk.is_null() && KFREE_HAS_SOCKET.load() != 0 && !kernel::argument_is_null(ctx, 3) {
        return owner_of(ctx.arg(3));
    }
    owner_of(sk)
}

#[inline(always)]
fn owner_of(sk: Ptr) -> (SubjectKey, [u8; 16]) {
    if sk.is_null() {
        return (SubjectKey::NOBODY, [0; 16]);
    }
    if matches!(kernel::state(sk), TIME_WAIT | NEW_SYN_RECV) {
        let nobody = SubjectKey {
            netns: kernel::netns(sk),
            ..SubjectKey::NOBODY
        };
        return (nobody, [0; 16]);
    }
    tcp::owner(sk)
}

/// Address of the other side, as far as the header can be read.
#[inline(always)]
pub fn far_end(skb: Ptr, ethertype: u16, direction: u8) -> [u8; 16] {
    let offset = kernel::skb_network(skb);
    if offset == UNSET {
        return [0; 16];
    }
    let is_destination = direction == direction::TRANSMIT;
    // SAFETY: only computes an address; the probe reads cope with any.
    let at = unsafe { kernel::skb_head(skb).add(offset as usize) };
    if ethertype == ETH_P_IP {
        // SAFETY: as above.
        let address = unsafe { bpf_probe_read_kernel(at.add(if is_destination { 16 } else { 12 }).cast()) };
        return address.map_or([0; 16], mapped);
    }
    if ethertype == ETH_P_IPV6 {
        // SAFETY: as above.
        let address = unsafe { bpf_probe_read_kernel(at.add(if is_destination { 24 } else { 8 }).cast()) };
        return address.unwrap_or([0; 16]);
    }
    [0; 16]
}

#[inline(always)]
fn network(skb: Ptr, ethertype: u16) -> Network {
    let mut out = Network {
        source: [0; 16],
        destination: [0; 16],
        protocol: 0,
        transport: 0,
    };
    let offset = kernel::skb_network(skb);
    if offset == UNSET || (offset == 0 && ethertype == 0) {
        return out;
    }
    // SAFETY: only computes an address; the probe read copes with any.
    let at = unsafe { kernel::skb_head(skb).add(offset as usize) };
    if ethertype == ETH_P_IP {
        // SAFETY: the helper copes with any address.
        if let Ok(h) = unsafe { bpf_probe_read_kernel(at.cast::<[u8; 20]>()) }
            && h[0] >> 4 == 4
        {
            out.protocol = h[9];
            out.source = mapped([h[12], h[13], h[14], h[15]]);
            out.destination = mapped([h[16], h[17], h[18], h[19]]);
            out.transport = offset + ((h[0] & 15) as u16) * 4;
        }
    } else if ethertype == ETH_P_IPV6 {
        // SAFETY: as above.
        if let Ok(h) = unsafe { bpf_probe_read_kernel(at.cast::<Ipv6>()) }
            && h.first[0] >> 4 == 6
        {
            out.protocol = h.next;
            out.source = h.source;
            out.destination = h.destination;
            out.transport = offset + 40;
        }
    }
    out
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6 {
    first: [u8; 6],
    next: u8,
    hops: u8,
    source: [u8; 16],
    destination: [u8; 16],
}

#[inline(always)]
fn mapped(a: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a[0], a[1], a[2], a[3]]
}

#[inline(always)]
fn count(account: &mut Account, key: &DropKey, dev: Ptr, len: u32) {
    if let Some(value) = DROPS.get_ptr_mut(key) {
        // SAFETY: valid for the program's run; only added to atomically.
        let value = unsafe { &mut *value };
        bump(&mut value.packets);
        add(&mut value.bytes, len as u64);
        bump(&mut account.aggregated);
        return;
    }
    let value = DropValue {
        packets: 1,
        bytes: len as u64,
        device: device(dev),
    };
    if DROPS.insert(key, value, NOEXIST).is_ok() {
        bump(&mut account.aggregated);
        return;
    }
    // Another CPU was first, or the table is full.
    let value = match DROPS.get_ptr_mut(key) {
        Some(value) => Some(value),
        None => {
            bump(&mut account.overflowed);
            DROPS.get_ptr_mut(DropKey::OTHER)
        }
    };
    match value {
        Some(value) => {
            // SAFETY: as above.
            let value = unsafe { &mut *value };
            bump(&mut value.packets);
            add(&mut value.bytes, len as u64);
            bump(&mut account.aggregated);
        }
        None => bump(&mut account.dropped[reason::MAP_FULL]),
    }
}

#[inline(always)]
fn device(dev: Ptr) -> [u8; 16] {
    if dev.is_null() {
        return [0; 16];
    }
    // SAFETY: the helper copes with any address.
    unsafe { bpf_probe_read_kernel(kernel::dev_name(dev).cast::<[u8; 16]>()) }.unwrap_or([0; 16])
}

#[inline(always)]
fn tell(account: &mut Account, key: &DropKey, network: &Network, skb: Ptr, dev: Ptr, len: u32) {
    let mut ports = [0u8; 4];
    if matches!(network.protocol, 6 | 17) {
        // SAFETY: only computes an address; the helper copes with any.
        ports = unsafe {
            bpf_probe_read_kernel(
                kernel::skb_head(skb)
                    .add(network.transport as usize)
                    .cast::<[u8; 4]>(),
            )
        }
        .unwrap_or([0; 4]);
    }
    let name = device(dev);
    emit::<DropRecord>(account, |r| {
        // SAFETY: `r` is a reserved record of the right size; every field is written, there is no padding.
        let r = unsafe { &mut *r };
        r.header = header::<DropRecord>(kind::DROP, program::DROPS_KFREE);
        // SAFETY: no preconditions.
        r.time = unsafe { bpf_ktime_get_boot_ns() };
        r.key = *key;
        r.source = network.source;
        r.destination = network.destination;
        r.source_port = u16::from_be_bytes([ports[0], ports[1]]);
        r.destination_port = u16::from_be_bytes([ports[2], ports[3]]);
        r.len = len;
        r.device = name;
    });
}

/// Every datagram that found its socket's receive queue full. The same packet is counted by `drops_kfree` under its
/// reason; this one says whose queue it was.
#[btf_tracepoint(function = "udp_fail_queue_rcv_skb")]
pub fn drops_udp_queue(ctx: BtfTracePointContext) -> i32 {
    let sk: Ptr = ctx.arg(1);
    let Some(account) = account::of(program::DROPS_UDP_QUEUE) else {
        return 0;
    };
    bump(&mut account.seen);
    let key = SubjectKey {
        cgroup: kernel::cgroup(sk),
        netns: kernel::netns(sk),
        ..SubjectKey::NOBODY
    };
    if UDP_QUEUE.get_ptr_mut(key).is_none() {
        let _ = UDP_QUEUE.insert(key, 0, NOEXIST);
    }
    let counter = match UDP_QUEUE.get_ptr_mut(key) {
        Some(counter) => Some(counter),
        None => {
            bump(&mut account.overflowed);
            UDP_QUEUE.get_ptr_mut(SubjectKey::NOBODY)
        }
    };
    match counter {
        Some(counter) => {
            // SAFETY: valid for the program's run.
            bump(unsafe { &mut *counter });
            bump(&mut account.aggregated);
        }
        None => bump(&mut account.dropped[reason::MAP_FULL]),
    }
    0
}
