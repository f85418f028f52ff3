//! Packets as sockets send and receive them (`cgroup_skb`), and whose they are.
//!
//! The programs only look: they return [`ALLOW`] whatever they find.

use crate::kernel::{self, Ptr};
use crate::tcp;
use crate::tunnel::Skb;
use agent_common::tcp::SubjectKey;
use agent_common::udp::{Head, TCP, UDP, head};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE},
    helpers::{bpf_sk_storage_get, bpf_skb_cgroup_id, generated::bpf_get_current_task_btf},
    programs::SkBuffContext,
};

/// The packet goes its way.
pub const ALLOW: i32 = 1;
const ICMPV6: u8 = 58;

/// Whose a socket is, where its cgroup does not tell.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Owner {
    pub subject: SubjectKey,
    pub comm: [u8; 16],
}

/// BPF_F_NO_PREALLOC. Goes with the socket.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".maps")]
static OWNERS: tcp::SocketStorage<Owner, 1> = tcp::SocketStorage::new();

/// A packet, seen through its context.
#[derive(Clone, Copy)]
pub struct Packet {
    skb: *mut __sk_buff,
}

impl Packet {
    #[inline(always)]
    pub fn new(ctx: &SkBuffContext) -> Self {
        Self { skb: ctx.skb.skb }
    }

    /// That of a context.
    #[inline(always)]
    pub fn of(skb: *mut __sk_buff) -> Self {
        Self { skb }
    }

    /// For the parsers.
    #[inline(always)]
    pub fn bytes(&self) -> Skb {
        Skb::of(self.skb)
    }

    /// Datagrams that it stands for: segmentation offload sends several as one.
    #[inline(always)]
    pub fn segments(&self) -> u64 {
        // SAFETY: the context is valid; the verifier checks the offset.
        let segments = unsafe { (&raw const (*self.skb).gso_segs).read_volatile() };
        if segments == 0 { 1 } else { segments as u64 }
    }

    /// What the headers say at first sight, without any call: only what lies in the first buffer and has neither options
    /// nor extensions, which is nearly everything.
    #[inline(always)]
    pub fn sight(&self) -> Sight {
        // SAFETY: the context is valid; the verifier makes packet pointers of these two.
        let (data, end) = unsafe {
            (
                (&raw const (*self.skb).data).read_volatile() as usize,
                (&raw const (*self.skb).data_end).read_volatile() as usize,
            )
        };
        if data + 28 > end {
            return Sight::Unclear;
        }
        let byte = |offset: usize| {
            // SAFETY: before `end`, as checked above and below.
            unsafe { ((data + offset) as *const u8).read_volatile() }
        };
        let pair = |offset: usize| (byte(offset) as u16) << 8 | byte(offset + 1) as u16;
        let first = byte(0);
        if first == 0x45 {
            return match byte(9) {
                TCP => Sight::Tcp(pair(20), pair(22)),
                UDP => Sight::Udp(20, pair(20), pair(22)),
                _ => Sight::Neither,
            };
        }
        if first >> 4 == 6 && data + 48 <= end {
            return match byte(6) {
                TCP => Sight::Tcp(pair(40), pair(42)),
                UDP => Sight::Udp(40, pair(40), pair(42)),
                ICMPV6 => Sight::Neither,
                _ => Sight::Unclear,
            };
        }
        Sight::Unclear
    }

    /// The headers, by a longer way.
    #[inline(always)]
    pub fn head(&self) -> Option<Head> {
        head(&self.bytes())
    }

    /// The socket that sends or receives it. A full one, as the hook has it.
    #[inline(always)]
    pub fn socket(&self) -> Ptr {
        // SAFETY: the context is valid.
        unsafe { (&raw const (*self.skb).__bindgen_anon_2.sk).read_volatile() as Ptr }
    }

    /// Whose the socket is. `sent`: this is the process that sends the packet, and not whoever a receiving interrupt has
    /// come upon.
    #[inline(always)]
    pub fn subject(&self, sk: Ptr, sent: bool) -> SubjectKey {
        // SAFETY: the context is valid.
        let cgroup = unsafe { bpf_skb_cgroup_id(self.skb) };
        // No namespace: before 6.13 this type of program may not ask for it.
        let subject = SubjectKey {
            cgroup,
            start: 0,
            tgid: 0,
            netns: 0,
        };
        if cgroup > 1 {
            return subject;
        }
        if let Some(owner) = owner(sk, core::ptr::null_mut()) {
            return owner.subject;
        }
        if sent {
            let mut owner = current(subject);
            let _ = self::owner(sk, &mut owner);
            return owner.subject;
        }
        subject
    }

    /// Name of the process that owns the socket, if one does.
    #[inline(always)]
    pub fn comm(sk: Ptr) -> [u8; 16] {
        owner(sk, core::ptr::null_mut()).map_or([0; 16], |o| o.comm)
    }
}

/// A first look at a packet; ports as numbers, source first.
pub enum Sight {
    Tcp(u16, u16),
    /// And where the header of UDP begins.
    Udp(u32, u16, u16),
    Neither,
    /// Options, extensions, or a buffer that ends early.
    Unclear,
}

/// The running process as an owner.
#[inline(always)]
pub fn current(mut subject: SubjectKey) -> Owner {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task_btf() } as Ptr;
    subject.tgid = kernel::task_tgid(task);
    subject.start = kernel::task_start(task);
    Owner {
        subject,
        comm: kernel::task_comm(task),
    }
}

/// What is remembered of a socket; `initial` where nothing is.
#[inline(always)]
pub fn owner(sk: Ptr, initial: *mut Owner) -> Option<&'static Owner> {
    if sk.is_null() {
        return None;
    }
    let flags = if initial.is_null() {
        0
    } else {
        BPF_SK_STORAGE_GET_F_CREATE as u64
    };
    // SAFETY: the verifier knows the socket and the map; a non-null result stays valid for the program's run.
    unsafe {
        (bpf_sk_storage_get(&raw const OWNERS as *mut _, sk as *mut _, initial.cast(), flags) as *const Owner)
            .as_ref()
    }
}
