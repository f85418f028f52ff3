//! Programs that measure the others: empty ones, one that fills the ring, and one that makes packets differ.

use crate::account;
use crate::emit::{emit, header};
use agent_common::account::{SyntheticRecord, program};
use agent_common::wire::kind;
use aya_ebpf::{
    bindings::xdp_action::XDP_PASS,
    macros::{cgroup_skb, classifier, map, xdp},
    maps::{Array, ProgramArray},
    programs::{SkBuffContext, TcContext, XdpContext},
};

/// Does nothing: its run time as the kernel measures it is the floor of everybody's. Of this type, because its test run makes
/// no packet of the stack, whose end would be a drop to every agent of the machine.
#[xdp]
pub fn floor(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Does nothing, for the programs of devices.
#[classifier]
pub fn calibrate(_ctx: TcContext) -> i32 {
    0
}

/// The same for programs of sockets' packets.
#[cgroup_skb(egress)]
pub fn calibrate_skb(_ctx: SkBuffContext) -> i32 {
    1
}

/// The program that [`numbered`] goes on to.
#[map]
static BENCH_NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Offset and bytes of the packet's sequence number: 4 = big endian, 8 = little endian, else there is none.
#[map]
static BENCH_SEQUENCE: Array<[u32; 2]> = Array::with_max_entries(1, 0);

/// Makes the packet the next of its sequence and hands it on: BPF_PROG_TEST_RUN repeats the very same one.
#[classifier]
pub fn numbered(ctx: TcContext) -> i32 {
    if let Some([offset, width]) = BENCH_SEQUENCE.get(0).copied() {
        let start = core::hint::black_box(ctx.data() + (offset & 0xff) as usize);
        if width != 0 && start + 8 <= ctx.data_end() {
            let number = start as *mut u64;
            // SAFETY: inside the packet, as just checked; packets need no alignment.
            unsafe {
                let value = number.read_unaligned();
                number.write_unaligned(if width == 4 {
                    value & !0xffff_ffff | (value as u32).swap_bytes().wrapping_add(1).swap_bytes() as u64
                } else {
                    value + 1
                });
            }
        }
    }
    // SAFETY: the context is the program's own.
    unsafe { BENCH_NEXT.tail_call(&ctx, 0) };
    0
}

/// Sends one record each time it is run by BPF_PROG_TEST_RUN. Attached to nothing.
#[classifier]
pub fn synthetic(_ctx: TcContext) -> i32 {
    let Some(account) = account::of(program::SYNTHETIC) else {
        return 0;
    };
    let serial = account.seen;
    emit::<SyntheticRecord>(account, |r| {
        // SAFETY: `r` is a reserved record of the right size; every field is written.
        let r = unsafe { &mut *r };
        r.header = header::<SyntheticRecord>(kind::SYNTHETIC, program::SYNTHETIC);
        r.serial = serial;
        r.filling = [serial; 6];
    });
    0
}
