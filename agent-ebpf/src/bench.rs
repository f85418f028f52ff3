//! Programs that measure the others: an empty one, and one that fills the ring.

use crate::account;
use crate::emit::{emit, header};
use agent_common::account::{SyntheticRecord, program};
use agent_common::wire::kind;
use aya_ebpf::{macros::classifier, programs::TcContext};

/// Does nothing: its run time as the kernel measures it is the floor of everybody's.
#[classifier]
pub fn calibrate(_ctx: TcContext) -> i32 {
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
