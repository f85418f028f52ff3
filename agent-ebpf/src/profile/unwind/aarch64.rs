//! The same on aarch64.
//!
//! The return address is in x30, and on the stack only once it has been saved there: mostly with the frame pointer x29, as a
//! record of two words to which x29 then points. That record lies anywhere in its frame, so following frame pointers does not
//! tell where the caller's frame ends: the stack pointer is loose from there to the next frame whose CFA is found by x29.
//! Addresses may be signed (PAC) in the bits that they do not need.

use super::{NOT_CODE, Walk, origin, read};
use crate::settings::USER_BITS;
use agent_common::profile::{Row, end, kind};

/// `siginfo` and, in the `ucontext` behind it, what comes before x0 (`uc_mcontext.regs`).
const SIGNAL_REGISTERS: u64 = 128 + 176 + 8;
const SIGNAL_FP: u64 = SIGNAL_REGISTERS + 29 * 8;
const SIGNAL_LR: u64 = SIGNAL_REGISTERS + 30 * 8;
const SIGNAL_SP: u64 = SIGNAL_REGISTERS + 31 * 8;
const SIGNAL_IP: u64 = SIGNAL_REGISTERS + 32 * 8;

/// Goes to the caller by this row.
#[inline(always)]
pub fn caller(walk: &mut Walk, row: Row, origin: u32) -> Result<(), u8> {
    let offset = row.offset as u64 * 8;
    let place = match row.frame_pointer {
        // At the lower end of the frame, however large that is.
        0 if row.kind != kind::SP_IN_LR => offset,
        words => words as u64 * 8,
    };
    let cfa = match row.kind {
        kind::FP | kind::FP_ALONE => walk.fp.wrapping_add(offset),
        kind::SP | kind::SIGNAL if walk.is_loose != 0 => {
            // A record is there, and x29 points to it if it was not made to point elsewhere.
            walk.origin = origin::GUESSED;
            return by_frame_pointer(walk).or(Err(end::NO_ROW));
        }
        kind::SP_ALONE | kind::SP_IN_LR if walk.is_loose != 0 => return Err(end::NO_ROW),
        kind::SP | kind::SP_ALONE | kind::SP_IN_LR => walk.sp.wrapping_add(offset),
        kind::SIGNAL => {
            let frame = walk.sp;
            walk.ip = read(frame.wrapping_add(SIGNAL_IP))?;
            walk.sp = read(frame.wrapping_add(SIGNAL_SP))?;
            walk.fp = read(frame.wrapping_add(SIGNAL_FP))?;
            walk.lr = read(frame.wrapping_add(SIGNAL_LR))?;
            walk.origin = origin::EXACT;
            return Ok(());
        }
        kind::END => return Err(end::COMPLETE),
        // A stub of a procedure linkage table, which no table covers, or assembly that mostly calls nobody.
        kind::HOLE if origin == origin::EXACT && walk.lr != 0 => {
            walk.origin = origin::GUESSED;
            walk.ip = walk.lr & USER_BITS.load();
            return Ok(());
        }
        kind::HOLE => {
            walk.origin = origin::GUESSED;
            return by_frame_pointer(walk).or(Err(end::NO_ROW));
        }
        kind::FRAME_POINTER if walk.fp == 0 => return Err(end::COMPLETE),
        kind::FRAME_POINTER => return by_frame_pointer(walk),
        kind::NO_TABLE => return Err(end::NO_ROW),
        kind::NO_MAPPING if origin == origin::GUESSED => return Err(NOT_CODE),
        kind::NO_MAPPING => return Err(end::NO_MAPPING),
        _ => return Err(end::NO_RULE),
    };
    let ip = match row.kind {
        // Where a call returns to x30 holds that very address: such a function was not to return.
        kind::SP_IN_LR if origin != origin::EXACT => return Err(end::NO_RULE),
        kind::SP_IN_LR => walk.lr,
        kind::SP_ALONE | kind::FP_ALONE => read(cfa.wrapping_sub(place))?,
        _ => read(cfa.wrapping_sub(place).wrapping_add(8))?,
    };
    if place != 0 && matches!(row.kind, kind::SP | kind::FP | kind::SP_IN_LR) {
        walk.fp = read(cfa.wrapping_sub(place))?;
    }
    go(walk, ip, cfa, 0)
}

#[inline(always)]
fn by_frame_pointer(walk: &mut Walk) -> Result<(), u8> {
    // Frames lie one above the other; anything else is a register that holds something else.
    if walk.fp < walk.sp {
        return Err(end::FRAME_POINTER);
    }
    let ip = read(walk.fp.wrapping_add(8)).or(Err(end::FRAME_POINTER))?;
    let fp = read(walk.fp).or(Err(end::FRAME_POINTER))?;
    let sp = walk.fp.wrapping_add(16);
    walk.fp = fp;
    go(walk, ip, sp, 1)
}

#[inline(always)]
fn go(walk: &mut Walk, ip: u64, sp: u64, is_loose: u32) -> Result<(), u8> {
    let ip = ip & USER_BITS.load();
    if ip == 0 {
        return Err(end::COMPLETE);
    }
    walk.ip = ip;
    walk.sp = sp;
    walk.is_loose = is_loose;
    Ok(())
}
