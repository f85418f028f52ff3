//! Shards of unwind tables: arrays that are made when they are needed, in an array of maps.

use super::sys::{self, MappedArray};
use crate::bpf::KernelMap;
use crate::error::{Context as _, Result};
use agent_common::profile::SHARD_ROWS;
use std::os::fd::AsFd as _;

const SHARD_BYTES: usize = SHARD_ROWS * size_of::<u64>();

/// All shards; those that nothing lies in are not there and take no memory.
pub struct Shards {
    outer: KernelMap,
    inner: Vec<Option<MappedArray>>,
}

impl Shards {
    /// Of the map `UNWIND_SHARDS`, which has room for `most`.
    pub fn new(outer: KernelMap, most: usize) -> Self {
        Self {
            outer,
            inner: (0..most).map(|_| None).collect(),
        }
    }

    /// Writes words from a row on, and makes the shard if need be.
    pub fn write(&mut self, shard: usize, row: usize, words: impl Iterator<Item = u64>) -> Result<()> {
        let place = self
            .inner
            .get_mut(shard)
            .context(format_args!("there is no shard {shard}"))?;
        if place.is_none() {
            let made =
                sys::create_mmapable_array(SHARD_BYTES as u32, 1).context("a shard of unwind tables")?;
            let mapped = MappedArray::new(&made, SHARD_BYTES, 1)?;
            sys::set_inner(
                self.outer.fd().context("map UNWIND_SHARDS")?,
                shard as u32,
                made.as_fd(),
            )
            .context("map UNWIND_SHARDS")?;
            *place = Some(mapped);
        }
        if let Some(array) = place {
            for (i, word) in words.enumerate() {
                array.set_u64(0, 8 * (row + i), word);
            }
        }
        Ok(())
    }

    /// Gives a shard back that nothing lies in any more.
    pub fn remove(&mut self, shard: usize) {
        if self.inner.get_mut(shard).and_then(Option::take).is_some() {
            let _ = self.outer.remove(&(shard as u32).to_ne_bytes());
        }
    }

    /// Bytes of the shards that are there.
    pub fn bytes(&self) -> usize {
        self.inner.iter().flatten().count() * SHARD_BYTES
    }
}
