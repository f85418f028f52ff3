//! Offsets, enum names and prototypes from the running kernel's BTF.
//!
//! A parser of 150 lines because the crates are dear here: btf-rs took 137 ms and 42 MB, this takes 10 ms and 8 MB
//! for the kernel's 126,000 types (research/tech.md §1). Format: Documentation/bpf/btf.rst.

use crate::error::{Context as _, Result};
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;

/// A parsed BTF blob. Every access is bounds-checked: a broken blob gives `None`, never a panic.
pub struct KernelTypes {
    data: Vec<u8>,
    strings: usize,
    /// Position of each type by id; id 0 is void.
    types: Vec<u32>,
    /// What was found by name: the fields that are asked for lie in a dozen structs.
    found: RefCell<HashMap<String, Option<u32>>>,
}

/// Where a member lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Offset in bytes from the start of the outermost struct.
    pub offset: u32,
    /// Size of its type in bytes.
    pub size: u32,
}

impl KernelTypes {
    /// Reads a raw BTF file such as `/sys/kernel/btf/vmlinux`.
    pub fn load(path: &Path) -> Result<Self> {
        let what = || format!("kernel types: {}", path.display());
        let data = std::fs::read(path).context(what())?;
        Self::parse(data).context(format_args!("{}: not a BTF file; give another by --btf", what()))
    }

    fn parse(data: Vec<u8>) -> Option<Self> {
        let word =
            |at: usize| -> Option<u32> { Some(u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?)) };
        if word(0)? & 0xffff != 0xeb9f {
            return None;
        }
        let header = word(4)? as usize;
        let (start, len, strings) = (word(8)? as usize, word(12)? as usize, word(16)? as usize);
        let (mut at, end) = (header + start, header + start + len);
        let mut types = Vec::with_capacity(160_000);
        types.push(0);
        while at < end {
            types.push(at as u32);
            let info = word(at + 4)?;
            let n = (info & 0xffff) as usize;
            at += 12
                + match info >> 24 & 0x1f {
                    1 | 14 | 17 => 4,
                    3 => 12,
                    4 | 5 | 15 | 19 => 12 * n,
                    6 | 13 => 8 * n,
                    _ => 0,
                };
        }
        Some(Self {
            strings: header + strings,
            types,
            data,
            found: RefCell::default(),
        })
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.data.get(at..at + 4)?.try_into().ok()?))
    }

    fn at(&self, id: u32) -> Option<usize> {
        self.types
            .get(id as usize)
            .map(|&at| at as usize)
            .filter(|&at| at != 0)
    }

    fn kind(&self, id: u32) -> Option<(usize, u32, usize)> {
        let at = self.at(id)?;
        let info = self.word(at + 4)?;
        Some((at, info >> 24 & 0x1f, (info & 0xffff) as usize))
    }

    fn name(&self, offset: u32) -> Option<&str> {
        let bytes = self.data.get(self.strings + offset as usize..)?;
        let end = bytes.iter().position(|&b| b == 0)?;
        std::str::from_utf8(bytes.get(..end)?).ok()
    }

    /// Strips typedefs and qualifiers.
    fn strip(&self, mut id: u32) -> Option<u32> {
        for _ in 0..32 {
            match self.kind(id)? {
                (at, 8..=11 | 18, _) => id = self.word(at + 8)?,
                _ => return Some(id),
            }
        }
        None
    }

    /// The first type of one of `kinds` with a name. Each name is asked for with the same kinds always.
    fn find(&self, kinds: &[u32], name: &str) -> Option<u32> {
        if let Some(&id) = self.found.borrow().get(name) {
            return id;
        }
        let named = |offset: u32| {
            let rest = self.data.get(self.strings + offset as usize..)?;
            rest.strip_prefix(name.as_bytes())
                .filter(|rest| rest.first() == Some(&0))
        };
        let id = (1..self.types.len() as u32).find(|&id| {
            self.kind(id)
                .is_some_and(|(at, kind, _)| kinds.contains(&kind) && self.word(at).and_then(named).is_some())
        });
        self.found.borrow_mut().insert(name.to_owned(), id);
        id
    }

    fn size(&self, id: u32) -> Option<u32> {
        let id = self.strip(id)?;
        match self.kind(id)? {
            (_, PTR, _) => Some(8),
            (at, ARRAY, _) => Some(self.size(self.word(at + 12)?)?.checked_mul(self.word(at + 20)?)?),
            (at, INT | STRUCT | UNION | ENUM | 19, _) => self.word(at + 8),
            _ => None,
        }
    }

    fn member(&self, id: u32, name: &str) -> Option<(u32, u32)> {
        let (at, STRUCT | UNION, n) = self.kind(id)? else {
            return None;
        };
        let bit_fields = self.word(at + 4)? >> 31 == 1;
        for i in 0..n {
            let m = at + 12 + 12 * i;
            let (member, ty, mut bits) = (self.word(m)?, self.word(m + 4)?, self.word(m + 8)?);
            if bit_fields {
                bits &= 0xff_ffff;
            }
            let member = self.name(member)?;
            if member == name {
                return (bits % 8 == 0).then_some((bits / 8, ty));
            }
            if member.is_empty()
                && let Some((offset, ty)) = self.strip(ty).and_then(|ty| self.member(ty, name))
            {
                return Some((bits / 8 + offset, ty));
            }
        }
        None
    }

    /// Resolves `struct.member.member…`; anonymous structs and unions are looked through, `member[3]` is one of an array.
    pub fn resolve(&self, path: &str) -> Option<Member> {
        let mut parts = path.split('.');
        let mut ty = self.find(&[STRUCT, UNION], parts.next()?)?;
        let mut offset = 0;
        for part in parts {
            let (name, number) = match part.strip_suffix(']').and_then(|part| part.split_once('[')) {
                Some((name, number)) => (name, Some(number.parse::<u32>().ok()?)),
                None => (part, None),
            };
            let (o, t) = self.member(self.strip(ty)?, name)?;
            offset += o;
            ty = t;
            if let Some(number) = number {
                let (at, ARRAY, _) = self.kind(self.strip(ty)?)? else {
                    return None;
                };
                ty = self.word(at + 12)?;
                let inside = number < self.word(at + 20)?;
                offset += number * Some(self.size(ty)?).filter(|_| inside)?;
            }
        }
        Some(Member {
            offset,
            size: self.size(ty)?,
        })
    }

    /// Names of an enum by value.
    pub fn enumerators(&self, name: &str) -> Vec<(u32, String)> {
        let read = || {
            let (at, ENUM, n) = self.kind(self.find(&[ENUM], name)?)? else {
                return None;
            };
            (0..n)
                .map(|i| {
                    let e = at + 12 + 8 * i;
                    Some((self.word(e + 4)?, self.name(self.word(e)?)?.to_owned()))
                })
                .collect::<Option<Vec<_>>>()
        };
        read().unwrap_or_default()
    }

    /// Number of parameters of a function.
    pub fn function_parameters(&self, name: &str) -> Option<u32> {
        let (at, ..) = self.kind(self.find(&[FUNC], name)?)?;
        let (_, FUNC_PROTO, n) = self.kind(self.word(at + 8)?)? else {
            return None;
        };
        Some(n as u32)
    }

    /// Number of arguments that a tracepoint hands to its programs; `None` = no such tracepoint.
    pub fn tracepoint_arguments(&self, name: &str) -> Option<u32> {
        let (at, ..) = self.kind(self.find(&[TYPEDEF], &format!("btf_trace_{name}"))?)?;
        let (at, PTR, _) = self.kind(self.word(at + 8)?)? else {
            return None;
        };
        let (_, FUNC_PROTO, n) = self.kind(self.word(at + 8)?)? else {
            return None;
        };
        // The first parameter is the tracepoint's private data.
        Some((n as u32).saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_blob_is_refused_and_never_panics() {
        let Ok(whole) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            return;
        };
        for len in [0, 3, 4, 23, 24, 100, 5000] {
            let _ = KernelTypes::parse(whole.get(..len).unwrap().to_vec()).map(|t| t.resolve("sock.sk_err"));
        }
        let mut torn = whole.get(..200_000).unwrap().to_vec();
        for i in (24..torn.len()).step_by(97) {
            *torn.get_mut(i).unwrap() ^= 0x5a;
        }
        let _ =
            KernelTypes::parse(torn).map(|t| (t.resolve("sock.sk_err"), t.enumerators("skb_drop_reason")));
    }

    #[test]
    fn members_of_anonymous_structs_are_found() {
        let Ok(types) = KernelTypes::load(Path::new("/sys/kernel/btf/vmlinux")) else {
            return;
        };
        let family = types.resolve("sock_common.skc_family").unwrap();
        assert_eq!(family.size, 2);
        assert_eq!(
            types.resolve("sock.__sk_common.skc_family").unwrap().offset,
            family.offset
        );
        assert_eq!(types.resolve("tcp_sock.rack.rtt_us").unwrap().size, 4);
        assert_eq!(types.resolve("tcp_sock.no_such_thing"), None);
        let name = types.resolve("task_struct.comm").unwrap();
        let letter = types.resolve("task_struct.comm[3]").unwrap();
        assert_eq!((letter.offset, letter.size), (name.offset + 3, 1));
        assert_eq!(types.resolve("task_struct.comm[16]"), None);
        assert_eq!(types.tracepoint_arguments("inet_sock_set_state"), Some(3));
        let reasons = types.enumerators("skb_drop_reason");
        assert!(
            reasons
                .iter()
                .any(|(_, name)| name == "SKB_DROP_REASON_NO_SOCKET")
        );
    }
}
