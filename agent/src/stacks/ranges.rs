//! The ranges that the kernel finds a process's rows by.

use super::maps::Mapping;
use super::parts::Part;
use super::table::Table;
use crate::bpf::sys::MappedArray;
use agent_common::profile::{BY_FRAME_POINTER, Range};
use agent_common::wire::Wire as _;

/// The ranges of a mapping: one for each part of its file's rows that it reaches into.
pub(super) fn split(mapping: &Mapping, table: &Table, parts: &[Part], out: &mut Vec<Range>) {
    let Some(bias) = table.bias(mapping.start, mapping.offset) else {
        out.push(Range {
            bias: 0,
            ..by_frame_pointer(mapping)
        });
        return;
    };
    let whole = Range {
        start: mapping.start,
        end: mapping.end,
        bias,
        shard: 0,
        row: 0,
        rows: if table.by_frame_pointer {
            BY_FRAME_POINTER
        } else {
            0
        },
        base: 0,
        last: 0,
        shift: 0,
    };
    if table.by_frame_pointer || parts.is_empty() {
        out.push(whole);
        return;
    }
    for (i, part) in parts.iter().enumerate() {
        // The first part takes what is before its first row as well: no row is found there, and that is said.
        let from = if i == 0 {
            mapping.start
        } else {
            bias.wrapping_add(u64::from(part.index.base))
        };
        let to = parts
            .get(i + 1)
            .map_or(mapping.end, |next| bias.wrapping_add(u64::from(next.index.base)));
        let (start, end) = (from.max(mapping.start), to.min(mapping.end));
        if start < end {
            out.push(Range {
                start,
                end,
                shard: part.piece.shard,
                row: part.piece.row,
                rows: part.rows,
                base: part.index.base,
                last: part.index.last,
                shift: part.index.shift,
                ..whole
            });
        }
    }
}

/// Of a mapping without a file.
pub(super) fn by_frame_pointer(mapping: &Mapping) -> Range {
    Range {
        start: mapping.start,
        end: mapping.end,
        bias: 0,
        shard: 0,
        row: 0,
        rows: BY_FRAME_POINTER,
        base: 0,
        last: 0,
        shift: 0,
    }
}

/// Puts one into the map `RANGES`.
pub(super) fn write(map: &MappedArray, at: usize, range: &Range) {
    let mut bytes = Vec::new();
    range.encode(&mut bytes);
    for (i, word) in bytes.chunks_exact(8).enumerate() {
        map.set_u64(at, 8 * i, word.try_into().map_or(0, u64::from_ne_bytes));
    }
}
