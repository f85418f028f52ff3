//! The ranges that the kernel finds a process's rows by.

use super::arena::Piece;
use super::maps::Mapping;
use super::table::Table;
use agent_common::profile::{BY_FRAME_POINTER, Range};

/// The ranges of a mapping: one for each piece of its file's rows that it reaches into.
pub(super) fn split(mapping: &Mapping, table: &Table, pieces: &[(u32, Piece)], out: &mut Vec<Range>) {
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
        pad: 0,
    };
    if table.by_frame_pointer || pieces.is_empty() {
        out.push(whole);
        return;
    }
    for (i, (first, piece)) in pieces.iter().enumerate() {
        // The first piece takes what is before its first row as well: no row is found there, and that is said.
        let from = if i == 0 {
            mapping.start
        } else {
            bias.wrapping_add(u64::from(*first))
        };
        let to = pieces
            .get(i + 1)
            .map_or(mapping.end, |(next, _)| bias.wrapping_add(u64::from(*next)));
        let (start, end) = (from.max(mapping.start), to.min(mapping.end));
        if start < end {
            out.push(Range {
                start,
                end,
                shard: piece.shard,
                row: piece.row,
                rows: piece.rows,
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
        pad: 0,
    }
}
