//! The kernel's types, wrong where a test wants them to be.

use anyhow::{Context as _, Result, bail};
use std::mem::size_of;

/// Places a member of a structure far behind its end, in the kernel's BTF.
pub fn misplace(btf: &mut [u8], structure: &str, member: &str) -> Result<()> {
    const FAR: u32 = 1 << 20;
    let header = word(btf, 4)? as usize;
    let (types, length) = (header + word(btf, 8)? as usize, word(btf, 12)? as usize);
    let strings = header + word(btf, 16)? as usize;
    let named = |btf: &[u8], at: usize, name: &str| -> Result<bool> {
        let start = strings + word(btf, at)? as usize;
        let text = btf.get(start..).context("a name outside")?;
        Ok(text
            .strip_prefix(name.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&0)))
    };
    let mut at = types;
    while at < types + length {
        let info = word(btf, at + 4)?;
        let (count, kind) = ((info & 0xffff) as usize, info >> 24 & 0x1f);
        let first = at + 3 * size_of::<u32>();
        if kind == 4 && named(btf, at, structure)? {
            for entry in (first..).step_by(12).take(count) {
                if named(btf, entry, member)? {
                    let offset = btf.get_mut(entry + 8..entry + 12).context("cut off")?;
                    offset.copy_from_slice(&FAR.to_le_bytes());
                    return Ok(());
                }
            }
        }
        // What follows the three words of a type; Documentation/bpf/btf.rst.
        at = first
            + match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                4 | 5 | 15 | 19 => 12 * count,
                6 | 13 => 8 * count,
                _ => 0,
            };
    }
    bail!("no {member} in struct {structure}")
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..at + 4).context("cut off")?;
    Ok(u32::from_le_bytes(word.try_into()?))
}
