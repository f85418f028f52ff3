//! What call frame information says, in the few words that a row of a table has: by the architecture of the file.

use agent_common::profile::kind;
use gimli::{
    AArch64, CfaRule, EhFrame, EndianSlice, Expression, NativeEndian, Operation, Register, RegisterRule,
    UnwindExpression, Vendor, X86_64,
};
use object::Architecture;

/// Kind, offset and place of the frame pointer; see [`agent_common::profile::Row`].
pub type Said = (u8, u16, u8);

type State = gimli::UnwindTableRow<usize>;
type Slice<'a> = EndianSlice<'a, NativeEndian>;
type Section<'a> = EhFrame<Slice<'a>>;

/// By what rules a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Those of x86-64, and of whatever else.
    X86_64,
    /// Those of aarch64.
    Aarch64,
}

impl Rules {
    /// Those of a file's architecture.
    pub fn of(architecture: Architecture) -> Self {
        match architecture {
            Architecture::Aarch64 => Self::Aarch64,
            _ => Self::X86_64,
        }
    }

    /// An `.eh_frame` of these bytes.
    pub fn section(self, bytes: &[u8]) -> Section<'_> {
        let mut section = EhFrame::new(bytes, NativeEndian);
        if self == Self::Aarch64 {
            // It has an instruction more: from here on return addresses are signed, or no more. They are taken as if they were.
            section.set_vendor(Vendor::AArch64);
        }
        section
    }

    /// Where a signal's handler returns to, in the image of a vdso: on aarch64 the two instructions that say `rt_sigreturn`.
    pub fn trampolines(self, image: &[u8]) -> impl Iterator<Item = usize> {
        /// `mov x8, #139`, `svc #0`.
        const RT_SIGRETURN: [u8; 8] = [0x68, 0x11, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4];
        let words = image.windows(RT_SIGRETURN.len()).enumerate().step_by(4);
        words
            .filter(move |(_, window)| self == Self::Aarch64 && *window == RT_SIGRETURN)
            .map(|(at, _)| at)
    }

    /// What holds from an address on; `None` = a row cannot say it.
    pub fn rule(self, state: &State, section: &Section<'_>) -> Option<Said> {
        match self {
            Self::X86_64 => x86_64(state, section),
            Self::Aarch64 => aarch64(state),
        }
    }
}

fn words(offset: i64) -> Option<u16> {
    (offset >= 0 && offset % 8 == 0).then(|| u16::try_from(offset / 8).ok())?
}

/// How many words below the CFA a register is saved; zero = it is still in itself.
fn saved(state: &State, register: Register) -> Option<u16> {
    match state.register(register) {
        Some(RegisterRule::Offset(offset)) if offset < 0 && offset % 8 == 0 => {
            u16::try_from(-offset / 8).ok()
        }
        None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => Some(0),
        // Saved where a row cannot say; the caller may not need it, but who knows.
        _ => None,
    }
}

fn aarch64(state: &State) -> Option<Said> {
    if matches!(state.register(AArch64::X30), Some(RegisterRule::Undefined)) {
        return Some((kind::END, 0, 0));
    }
    let CfaRule::RegisterAndOffset { register, offset } = state.cfa() else {
        return None;
    };
    let (by_fp, offset) = match *register {
        AArch64::SP => (false, words(*offset)?),
        AArch64::X29 => (true, words(*offset)?),
        _ => return None,
    };
    let (fp, lr) = (saved(state, AArch64::X29)?, saved(state, AArch64::X30)?);
    let (kind, place) = match (by_fp, fp, lr) {
        (false, _, 0) => return Some((kind::SP_IN_LR, offset, u8::try_from(fp).ok()?)),
        (false, 0, _) => (kind::SP_ALONE, lr),
        (true, 0, 1..) => (kind::FP_ALONE, lr),
        // A record of two words, as all compilers make it.
        (false, 2.., _) if lr == fp - 1 => (kind::SP, fp),
        (true, 2.., _) if lr == fp - 1 => (kind::FP, fp),
        _ => return None,
    };
    // Mostly at the lower end of the frame, which may be a large one.
    let place = if place == offset {
        0
    } else {
        u8::try_from(place).ok()?
    };
    Some((kind, offset, place))
}

fn x86_64(state: &gimli::UnwindTableRow<usize>, section: &Section<'_>) -> Option<Said> {
    if matches!(state.register(X86_64::RA), Some(RegisterRule::Undefined)) {
        return Some((kind::END, 0, 0));
    }
    let frame_pointer = u8::try_from(saved(state, X86_64::RBP)?).ok()?;
    let (kind, offset) = match state.cfa() {
        CfaRule::RegisterAndOffset { register, offset } if *register == X86_64::RSP => {
            (kind::SP, words(*offset)?)
        }
        CfaRule::RegisterAndOffset { register, offset } if *register == X86_64::RBP => {
            (kind::FP, words(*offset)?)
        }
        CfaRule::RegisterAndOffset { .. } => return None,
        CfaRule::Expression(expression) => said(expression, section)?,
    };
    Some((kind, offset, frame_pointer))
}

/// The few expressions that compilers, linkers and hand-written assembly really use.
fn said(expression: &UnwindExpression<usize>, section: &Section<'_>) -> Option<(u8, u16)> {
    let encoding = gimli::Encoding {
        address_size: 8,
        format: gimli::Format::Dwarf32,
        version: 4,
    };
    let expression: Expression<Slice<'_>> = expression.get(section).ok()?;
    let mut steps = expression.operations(encoding);
    let mut found = Vec::with_capacity(4);
    while let Some(step) = steps.next().ok()? {
        found.push(step);
        if found.len() > 12 {
            return None;
        }
    }
    let base = |step: &Operation<Slice<'_>>| match step {
        Operation::RegisterOffset { register, offset, .. } => Some((*register, *offset)),
        _ => None,
    };
    let (register, offset) = base(found.first()?)?;
    match found.get(1..)? {
        [Operation::Deref { .. }] if register == X86_64::RBP => Some((kind::AT_FP, words(-offset)?)),
        [Operation::Deref { .. }, Operation::PlusConstant { value: 8 }] if register == X86_64::RSP => {
            Some((kind::AT_SP_PLUS_8, words(offset)?))
        }
        // rsp + 8 + (((rip & 15) >= 11) << 3), as every linker writes it for a PLT.
        [
            Operation::RegisterOffset {
                register: ip,
                offset: 0,
                ..
            },
            ..,
        ] if register == X86_64::RSP && offset == 8 && *ip == X86_64::RA && found.len() >= 8 => {
            Some((kind::PLT, 0))
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "cfi_tests.rs"]
mod tests;
