//! Room for rows: which part of which shard belongs to which file.

use agent_common::profile::SHARD_ROWS;

/// A run of rows inside one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    /// Shard.
    pub shard: u32,
    /// First row.
    pub row: u32,
    /// Number of rows.
    pub rows: u32,
}

/// What is free in each shard: runs ordered by row, none beside another.
#[derive(Debug)]
pub struct Arena {
    shards: Vec<Vec<(u32, u32)>>,
}

const WHOLE: (u32, u32) = (0, SHARD_ROWS as u32);

impl Arena {
    /// Room for so many shards, all free.
    pub fn new(shards: usize) -> Self {
        Self {
            shards: vec![vec![WHOLE]; shards],
        }
    }

    /// Takes room for `rows`, in as few pieces as there are shards in it; `None` = there is not so much.
    pub fn take(&mut self, rows: usize) -> Option<Vec<Piece>> {
        let mut rest = u32::try_from(rows).ok()?;
        let mut pieces = Vec::new();
        while rest != 0 {
            let wanted = rest.min(WHOLE.1);
            // The first run that holds it, of shards in use first; for the tail of a large file a part of one does as well.
            let fitting = self
                .runs()
                .filter(|(shard, _, (_, rows))| *rows >= wanted && (self.is_used(*shard) || *rows == WHOLE.1))
                .min_by_key(|(shard, _, (_, rows))| (!self.is_used(*shard), *rows))
                .map(|(shard, index, _)| (shard, index));
            let Some((shard, index)) = fitting else {
                pieces.into_iter().for_each(|piece| self.give(piece));
                return None;
            };
            let run = self.shards.get_mut(shard)?.get_mut(index)?;
            pieces.push(Piece {
                shard: shard as u32,
                row: run.0,
                rows: wanted,
            });
            *run = (run.0 + wanted, run.1 - wanted);
            self.shards.get_mut(shard)?.retain(|run| run.1 != 0);
            rest -= wanted;
        }
        Some(pieces)
    }

    /// Gives a piece back.
    pub fn give(&mut self, piece: Piece) {
        let Some(free) = self.shards.get_mut(piece.shard as usize) else {
            return;
        };
        let at = free.partition_point(|run| run.0 < piece.row);
        free.insert(at, (piece.row, piece.rows));
        free.dedup_by(|later, earlier| {
            let joined = earlier.0 + earlier.1 == later.0;
            earlier.1 += if joined { later.1 } else { 0 };
            joined
        });
    }

    /// Whether anything of a shard is taken.
    pub fn is_used(&self, shard: usize) -> bool {
        self.shards.get(shard).is_some_and(|free| *free != [WHOLE])
    }

    /// Rows that are taken.
    pub fn used(&self) -> usize {
        let free: u32 = self.runs().map(|(_, _, run)| run.1).sum();
        self.shards.len() * SHARD_ROWS - free as usize
    }

    fn runs(&self) -> impl Iterator<Item = (usize, usize, (u32, u32))> + '_ {
        self.shards
            .iter()
            .enumerate()
            .flat_map(|(shard, free)| free.iter().enumerate().map(move |(i, run)| (shard, i, *run)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_do_not_overlap_and_come_back() {
        let mut arena = Arena::new(3);
        let mut held: Vec<Vec<Piece>> = Vec::new();
        let mut seed = 7u64;
        let mut next = |below: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..2000 {
            if next(3) != 0 {
                let rows = 1 + next(60_000) as usize;
                if let Some(pieces) = arena.take(rows) {
                    assert_eq!(pieces.iter().map(|p| p.rows as usize).sum::<usize>(), rows);
                    held.push(pieces);
                }
            } else if !held.is_empty() {
                let at = next(held.len() as u64) as usize;
                held.swap_remove(at).into_iter().for_each(|p| arena.give(p));
            }
            let mut all: Vec<Piece> = held.iter().flatten().copied().collect();
            all.sort_by_key(|p| (p.shard, p.row));
            for pair in all.windows(2) {
                let apart = pair[0].shard != pair[1].shard || pair[0].row + pair[0].rows <= pair[1].row;
                assert!(apart, "{pair:?}");
            }
            assert!(all.iter().all(|p| (p.row + p.rows) as usize <= SHARD_ROWS));
            assert_eq!(arena.used(), all.iter().map(|p| p.rows as usize).sum::<usize>());
        }
        held.into_iter().flatten().for_each(|p| arena.give(p));
        assert_eq!(arena.used(), 0);
        assert!((0..3).all(|shard| !arena.is_used(shard)), "whole again");
    }

    #[test]
    fn a_large_table_takes_several_shards_or_nothing() {
        let mut arena = Arena::new(3);
        let small = arena.take(10).unwrap();
        assert_eq!(arena.take(3 * SHARD_ROWS), None);
        assert_eq!(arena.used(), 10, "what was taken for it is given back");
        let large = arena.take(2 * SHARD_ROWS + 100).unwrap();
        assert_eq!(
            large.iter().map(|p| p.rows as usize).collect::<Vec<_>>(),
            [SHARD_ROWS, SHARD_ROWS, 100]
        );
        assert_eq!(large.last().unwrap().shard, small.first().unwrap().shard);
        assert_eq!(arena.take(SHARD_ROWS), None);
    }

    #[test]
    fn shards_in_use_come_first() {
        let mut arena = Arena::new(8);
        let shards: Vec<u32> = (0..100).map(|_| arena.take(1000).unwrap()[0].shard).collect();
        assert!(shards.iter().all(|s| *s == shards[0]), "{shards:?}");
    }
}
