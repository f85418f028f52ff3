//! Packets as the kernel has them.

use agent_common::tunnel::kind;
use agent_common::tunnel::parse::{Packet, Parsed, Ports, fact};
use aya_ebpf::{
    Global, bindings::__sk_buff, helpers::bpf_skb_load_bytes, macros::map, maps::Array, programs::TcContext,
};
use core::mem::MaybeUninit;

/// UDP port → kind of tunnel, one byte each, so that a packet of no tunnel costs no hash. Userspace writes it.
#[map]
static TUNNEL_PORTS: Array<[u8; 65536]> = Array::with_max_entries(1, 0);

/// A mask that LLVM cannot know to be needless: kernels before 6.13 do not follow a byte swap, and take the port for any
/// number.
#[unsafe(no_mangle)]
static TUNNEL_PORT_MASK: Global<u32> = Global::new(0xffff);

const ETH_IPV4: u16 = 0x0800;
const ETH_IPV6: u16 = 0x86dd;
/// Offsets up to here are tried without a call; the verifier wants a bound.
const REACH: u32 = 4096;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A field of the context, read where it is asked for: a load that LLVM merges or moves may be one that the verifier
/// refuses.
macro_rules! field {
    ($skb:expr, $name:ident) => {
        // SAFETY: the context is valid; the verifier checks the offset.
        unsafe { core::ptr::addr_of!((*$skb).$name).read_volatile() }
    };
}

/// A socket buffer.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Skb {
    skb: *mut __sk_buff,
}

/// What a packet is on the wire: a GSO packet becomes several, each with its headers.
pub struct Wire {
    pub packets: u64,
    pub bytes: u64,
    pub inner: u64,
}

impl Skb {
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Self { skb: ctx.skb.skb }
    }

    #[inline(always)]
    pub fn of(skb: *mut __sk_buff) -> Self {
        Self { skb }
    }

    #[inline(always)]
    pub fn as_ptr(&self) -> *mut __sk_buff {
        self.skb
    }

    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        field!(self.skb, ifindex)
    }

    /// Packets and bytes on the wire.
    #[inline(always)]
    pub fn on_the_wire(&self, parsed: &Parsed) -> Wire {
        let tag = if field!(self.skb, vlan_present) != 0 { 4 } else { 0 };
        let len = self.len() as u64;
        let size = self.segment() as u64;
        let mut wire = Wire {
            packets: 1,
            bytes: len + tag,
            inner: parsed.inner as u64,
        };
        if size == 0 {
            return wire;
        }
        wire.packets = field!(self.skb, gso_segs) as u64;
        if wire.packets == 0 {
            // virtio and tun leave the number to whoever cuts the packet.
            wire.packets = len.saturating_sub(parsed.headers as u64).div_ceil(size);
        }
        let more = wire.packets.saturating_sub(1);
        wire.packets = more + 1;
        wire.bytes += more * (parsed.headers as u64 + tag);
        if parsed.facts & fact::MESSAGES != 0 {
            // Each has its own header and tag, which are not inner.
            wire.inner = wire.inner.saturating_sub(more * parsed.step as u64);
        } else {
            wire.inner += more * (parsed.headers.saturating_sub(parsed.payload)) as u64;
        }
        wire
    }
}

impl Packet for Skb {
    /// Straight from the first buffer, where headers nearly always are: a call of the helper costs 30 ns here.
    #[inline(always)]
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        if at < REACH {
            // Opaque, so that LLVM adds nothing to it before the comparison: the verifier knows one pointer to be
            // good, not another that is equal.
            let start = core::hint::black_box(field!(self.skb, data) as usize + at as usize);
            if start + N <= field!(self.skb, data_end) as usize {
                // SAFETY: inside the packet, as just checked.
                return Some(unsafe { *(start as *const [u8; N]) });
            }
        }
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper writes N bytes or fails, and checks the offset against the packet.
        unsafe {
            if bpf_skb_load_bytes(self.skb.cast(), at, bytes.as_mut_ptr().cast(), N as u32) == 0 {
                Some(bytes.assume_init())
            } else {
                None
            }
        }
    }
    #[inline(always)]
    fn len(&self) -> u32 {
        field!(self.skb, len)
    }
    #[inline(always)]
    fn segment(&self) -> u32 {
        field!(self.skb, gso_size)
    }
}

/// [`TUNNEL_PORTS`].
pub struct UdpPorts;

impl Ports for UdpPorts {
    #[inline(always)]
    fn kind(&self, port: u16) -> u8 {
        match TUNNEL_PORTS.get_ptr(0) {
            Some(kinds) => {
                let index = port as u32 & TUNNEL_PORT_MASK.load();
                // SAFETY: valid for the program's run, and every number of 16 bits is an index.
                unsafe { kinds.cast::<u8>().add(index as usize).read_volatile() }
            }
            None => kind::NONE,
        }
    }
}

/// Whether a packet is of no tunnel at first sight: TCP, or UDP of other ports, in an IP packet without options or
/// extensions whose headers lie in the first buffer. The way of nearly all packets, hence without any call.
#[inline(always)]
pub fn plain<const ETHERNET: bool>(ctx: &TcContext) -> bool {
    let (data, end) = (ctx.data(), ctx.data_end());
    let at = if ETHERNET { 14 } else { 0 };
    if data + at + 24 > end {
        return false;
    }
    let byte = |offset: usize| {
        // SAFETY: before `end`, as checked above, or as checked by the caller.
        unsafe { ((data + offset) as *const u8).read_volatile() }
    };
    let pair = |offset: usize| (byte(offset) as u16) << 8 | byte(offset + 1) as u16;
    let first = byte(at);
    let ethertype = if ETHERNET {
        pair(12)
    } else if first >> 4 == 4 {
        ETH_IPV4
    } else {
        ETH_IPV6
    };
    if ethertype == ETH_IPV4 && first == 0x45 {
        let protocol = byte(at + 9);
        if protocol == TCP {
            return true;
        }
        if protocol == UDP && pair(at + 6) & 0x3fff == 0 {
            return no_tunnel(pair(at + 20), pair(at + 22));
        }
    } else if ethertype == ETH_IPV6 {
        let protocol = byte(at + 6);
        if protocol == TCP {
            return true;
        }
        if protocol == UDP && data + at + 44 <= end {
            return no_tunnel(pair(at + 40), pair(at + 42));
        }
    }
    false
}

#[inline(always)]
fn no_tunnel(source: u16, destination: u16) -> bool {
    UdpPorts.kind(source) | UdpPorts.kind(destination) == kind::NONE
}
