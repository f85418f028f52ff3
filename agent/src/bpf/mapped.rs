//! Arrays that are shared with the kernel, or that a recording stands in for.

use crate::error::{Context as _, Result};
use crate::record::Tape;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Memory that is read and written by whole words.
pub struct Memory {
    base: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: the mapping is owned by the value and only read and written through atomics.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    const READ_WRITE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

    fn shared(map: impl AsFd, len: usize) -> Result<Arc<Self>> {
        let size = NonZeroUsize::new(len.next_multiple_of(4096)).context("mapping an empty array")?;
        // SAFETY: a new shared mapping at an address that the kernel chooses.
        let base = unsafe { mmap(None, size, Self::READ_WRITE, MapFlags::MAP_SHARED, map, 0) }
            .context("mapping an array")?;
        Ok(Arc::new(Self { base, len }))
    }

    /// Zeros, which take no memory until they are written.
    fn zeros(len: usize) -> Result<Arc<Self>> {
        let size = NonZeroUsize::new(len.next_multiple_of(4096)).context("an empty array")?;
        // SAFETY: a new private mapping at an address that the kernel chooses.
        let base = unsafe { mmap_anonymous(None, size, Self::READ_WRITE, MapFlags::MAP_PRIVATE) }
            .context("memory of an array")?;
        Ok(Arc::new(Self { base, len }))
    }

    /// Number of 64-bit words.
    pub fn words(&self) -> usize {
        self.len / 8
    }

    /// Whether so many bytes are there: a place may be a recording's.
    fn holds(&self, at: usize, bytes: usize) -> bool {
        at.checked_add(bytes).is_some_and(|end| end <= self.len)
    }

    fn word(&self, at: usize) -> Option<&AtomicU64> {
        if !at.is_multiple_of(8) || !self.holds(at, 8) {
            return None;
        }
        // SAFETY: inside the mapping, aligned, and the kernel side writes it by whole words.
        unsafe { self.base.as_ptr().byte_add(at).cast::<AtomicU64>().as_ref() }
    }

    fn half(&self, at: usize) -> Option<&AtomicU32> {
        if !at.is_multiple_of(4) || !self.holds(at, 4) {
            return None;
        }
        // SAFETY: as above.
        unsafe { self.base.as_ptr().byte_add(at).cast::<AtomicU32>().as_ref() }
    }

    /// A word by its number; 0 outside.
    pub fn get(&self, word: usize) -> u64 {
        self.word(word.saturating_mul(8))
            .map_or(0, |w| w.load(Ordering::Relaxed))
    }

    /// Writes a word by its number; outside nothing happens.
    pub fn set(&self, word: usize, value: u64) {
        if let Some(w) = self.word(word.saturating_mul(8)) {
            w.store(value, Ordering::Relaxed);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this rounded length and is not used any more.
        unsafe {
            let _ = munmap(self.base, self.len.next_multiple_of(4096));
        }
    }
}

/// An mmapable array, read without a system call.
pub struct MappedArray {
    memory: Arc<Memory>,
    /// Bytes from one element to the next.
    stride: usize,
    watched: Option<Watched>,
    /// A recording fills it.
    is_recorded: bool,
}

/// What a recording needs of an array: each part is read once a tick, when a probe first looks at it, so that what is
/// written down is what the probe has seen.
struct Watched {
    tape: Arc<Tape>,
    /// Its number on the tape.
    array: usize,
    shadow: Shadow,
}

/// An array as it was read last.
#[derive(Clone)]
pub struct Shadow {
    /// Its words.
    pub words: Arc<Memory>,
    /// The tick in which each part was read; 0 = never.
    read: Arc<Memory>,
    /// Words of a part. Accounts are read as a whole, so that their law holds.
    part: usize,
}

impl Shadow {
    fn new(len: usize, stride: usize) -> Result<Self> {
        let part = if stride <= 256 { stride / 8 } else { 8 };
        Ok(Self {
            words: Memory::zeros(len)?,
            read: Memory::zeros((len / 8).div_ceil(part) * 4)?,
            part,
        })
    }

    /// Calls `each` with the numbers of the words that were ever read.
    pub fn each_read(&self, mut each: impl FnMut(usize)) {
        for part in 0..self.words.words().div_ceil(self.part) {
            if self
                .read
                .half(4 * part)
                .is_some_and(|r| r.load(Ordering::Relaxed) != 0)
            {
                (part * self.part..(part + 1) * self.part).for_each(&mut each);
            }
        }
    }
}

impl Watched {
    /// What is written is told; the next difference is from there.
    fn set(&self, word: usize, value: u64) {
        let last = self.shadow.words.get(word);
        if last == value {
            return;
        }
        self.shadow.words.set(word, value);
        self.tape.set(self.array, word, value.wrapping_sub(last));
        if let Some(read) = self.shadow.read.half(4 * (word / self.shadow.part)) {
            // Known, though not read in this step.
            let _ = read.compare_exchange(0, u32::MAX, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn look(&self, live: &Memory, at: usize) {
        let part = at / 8 / self.shadow.part;
        let epoch = self.tape.epoch();
        let Some(read) = self.shadow.read.half(4 * part) else {
            return;
        };
        if read.swap(epoch, Ordering::Relaxed) == epoch {
            return;
        }
        for word in part * self.shadow.part..(part + 1) * self.shadow.part {
            let (now, last) = (live.get(word), self.shadow.words.get(word));
            if now != last {
                self.shadow.words.set(word, now);
                self.tape.word(self.array, word, now.wrapping_sub(last));
            }
        }
    }
}

impl MappedArray {
    /// Maps all `entries` elements of `value_size` bytes.
    pub fn new(map: impl AsFd, value_size: usize, entries: usize) -> Result<Self> {
        let stride = value_size.next_multiple_of(8);
        Ok(Self {
            memory: Memory::shared(map, stride * entries)?,
            stride,
            watched: None,
            is_recorded: false,
        })
    }

    /// One that a recording fills.
    pub fn recorded(value_size: usize, entries: usize) -> Result<Self> {
        let stride = value_size.next_multiple_of(8);
        Ok(Self {
            memory: Memory::zeros(stride * entries)?,
            stride,
            watched: None,
            is_recorded: true,
        })
    }

    /// Has what is read from now on written down.
    pub fn watch(mut self, name: &'static str, tape: &Arc<Tape>) -> Result<Self> {
        let shadow = Shadow::new(self.memory.len, self.stride)?;
        self.watched = Some(Watched {
            array: tape.array(name, self.stride, shadow.clone()),
            tape: tape.clone(),
            shadow,
        });
        Ok(self)
    }

    /// Its memory, for a recording to write to.
    pub fn memory(&self) -> Arc<Memory> {
        self.memory.clone()
    }

    fn offset(&self, element: usize, byte: usize, size: usize) -> Option<usize> {
        let at = element.checked_mul(self.stride)?.checked_add(byte)?;
        (byte + size <= self.stride && at + size <= self.memory.len && at % size == 0).then_some(at)
    }

    fn source(&self, at: usize) -> &Memory {
        match &self.watched {
            None => &self.memory,
            Some(watched) => {
                watched.look(&self.memory, at);
                &watched.shadow.words
            }
        }
    }

    /// The 64-bit word at a byte of an element; 0 outside the array.
    pub fn u64_at(&self, element: usize, byte: usize) -> u64 {
        self.offset(element, byte, 8)
            .and_then(|at| self.source(at).word(at))
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// The 32-bit word at a byte of an element; 0 outside the array.
    pub fn u32_at(&self, element: usize, byte: usize) -> u32 {
        self.offset(element, byte, 4)
            .and_then(|at| self.source(at).half(at))
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Writes a 64-bit word; outside the array nothing happens, nor in a recording's: what came of it is there.
    pub fn set_u64(&self, element: usize, byte: usize, value: u64) {
        let Some(at) = self.offset(element, byte, 8).filter(|_| !self.is_recorded) else {
            return;
        };
        self.memory.set(at / 8, value);
        if let Some(watched) = &self.watched {
            watched.set(at / 8, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_outside_is_none_however_far() {
        let memory = Memory::zeros(64).unwrap();
        for word in [8, usize::MAX / 8, usize::MAX / 8 + 1, usize::MAX] {
            memory.set(word, 7);
            assert_eq!(memory.get(word), 0, "word {word}");
        }
        memory.set(7, 7);
        assert_eq!(memory.get(7), 7);
    }
}
