//! A table in the kernel: in each shard that it reaches into a part of its rows, and behind them their index.

use super::arena::Piece;
use crate::bpf::shards::Shards;
use crate::error::Result;
use agent_common::profile::Index;

/// A part of a file's table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// What it takes.
    pub piece: Piece,
    /// Number of its rows.
    pub rows: u32,
    /// Leads to them.
    pub index: Index,
}

impl Part {
    /// Writes as many of the rows, which are some, as the piece has room for; returns the others as well.
    pub fn write<'a>(shards: &mut Shards, piece: Piece, rows: &'a [u64]) -> (Self, &'a [u64], Result<()>) {
        let (here, rest) = rows.split_at(rows.len().min(Index::rows(piece.rows as usize)));
        let pc = |row: Option<&u64>| row.map_or(0, |row| *row as u32);
        let index = Index::new(here.len(), pc(here.first()), pc(here.last()));
        let words = here.iter().copied().chain(index.entries(here));
        let written = shards.write(piece.shard as usize, piece.row as usize, words);
        let part = Self {
            piece,
            rows: here.len() as u32,
            index,
        };
        (part, rest, written)
    }
}
