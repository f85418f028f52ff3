//! A map of the programs as the probes see it: the kernel's, or what a recording says that it held.

use super::sys;
use crate::error::Result;
use crate::record::{Past, Source, Tape};
use agent_common::wire::Wire;
use aya::maps::MapData;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// A hash, an array or a queue.
pub struct KernelMap {
    name: &'static str,
    from: From,
}

enum From {
    Kernel(MapData, Option<Arc<Tape>>),
    Recorded(Arc<Past>),
}

impl KernelMap {
    /// The kernel's own; what is read of it is written down if a recording is made.
    pub fn new(name: &'static str, data: MapData, source: &Source) -> Self {
        let tape = source.tape_of(name).cloned();
        Self {
            name,
            from: From::Kernel(data, tape),
        }
    }

    /// What a recording says.
    pub fn recorded(name: &'static str, past: &Arc<Past>) -> Self {
        Self {
            name,
            from: From::Recorded(past.clone()),
        }
    }

    /// Its descriptor; that of a recording has none.
    pub fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        match &self.from {
            From::Kernel(data, _) => Ok(data.fd().as_fd()),
            From::Recorded(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Calls `each(key, value)` for every entry of a hash; see [`sys::for_each`].
    pub fn for_each(&self, key: usize, value: usize, each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        self.read(key, value, sys::Locking::None, each)
    }

    /// As [`KernelMap::for_each`], of a map whose values have a spin lock: none is read while a program writes it.
    pub fn for_each_locked(&self, key: usize, value: usize, each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        self.read(key, value, sys::Locking::Each, each)
    }

    fn read(
        &self,
        key: usize,
        value: usize,
        locking: sys::Locking,
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<()> {
        match &self.from {
            From::Kernel(data, None) => sys::for_each(data.fd().as_fd(), key, value, locking, each),
            From::Kernel(data, Some(tape)) => {
                let mut rows = Vec::new();
                sys::for_each(data.fd().as_fd(), key, value, locking, |k, v| {
                    rows.extend_from_slice(k);
                    rows.extend_from_slice(v);
                    each(k, v);
                })?;
                tape.rows(self.name, key, value, rows);
                Ok(())
            }
            From::Recorded(past) => {
                past.each_row(self.name, key, value, each);
                Ok(())
            }
        }
    }

    /// Writes an entry. Key and value must have the map's sizes.
    pub fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        match &self.from {
            From::Kernel(data, _) => sys::update(data.fd().as_fd(), key, value),
            // What came of it is in the recording.
            From::Recorded(_) => Ok(()),
        }
    }

    /// Writes an element of an array of 64-bit words.
    pub fn set(&self, index: u32, value: u64) -> io::Result<()> {
        self.update(&index.to_ne_bytes(), &value.to_ne_bytes())
    }

    /// Puts a value into a queue.
    pub fn push(&self, value: u32) -> io::Result<()> {
        self.update(&[], &value.to_ne_bytes())
    }

    /// Removes an entry. The key must have the map's size.
    pub fn remove(&self, key: &[u8]) -> io::Result<()> {
        match &self.from {
            From::Kernel(data, tape) => {
                let result = sys::remove(data.fd().as_fd(), key);
                if let Some(tape) = tape {
                    tape.removed(self.name, key, result.is_ok());
                }
                result
            }
            From::Recorded(past) => past.remove(self.name, key).map(drop).ok_or_else(gone),
        }
    }

    /// Takes an entry out of a hash and returns what it held last; see [`sys::take`].
    pub fn take(&self, key: &[u8], value_size: usize) -> io::Result<Vec<u8>> {
        match &self.from {
            From::Kernel(data, tape) => {
                let result = sys::take(data.fd().as_fd(), key, value_size);
                if let Some(tape) = tape {
                    tape.removed(self.name, key, result.is_ok());
                    if let Ok(value) = &result {
                        tape.taken(self.name, key, value);
                    }
                }
                result
            }
            From::Recorded(past) => past.take(self.name, key).ok_or_else(gone),
        }
    }

    /// Keys that the recorded agent took out and a replay, which began later, did not. In an agent there are none.
    pub fn vanished<K: Wire>(&self) -> Vec<K> {
        match &self.from {
            From::Kernel(..) => Vec::new(),
            From::Recorded(past) => {
                let keys = past.vanished(self.name);
                keys.iter().filter_map(|key| K::decode(key)).collect()
            }
        }
    }

    /// Removes all entries of a hash, those that come meanwhile perhaps not.
    pub fn clear(&self, key_size: usize, value_size: usize) -> Result<()> {
        let mut keys = Vec::new();
        self.for_each(key_size, value_size, |key, _| keys.push(key.to_vec()))?;
        for key in keys {
            let _ = self.remove(&key);
        }
        Ok(())
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotFound.into()
}
