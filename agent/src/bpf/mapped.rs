//! Arrays that are shared with the kernel.

use crate::error::{Context as _, Result};
use nix::errno::Errno;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// An mmapable array, read without a system call.
pub struct MappedArray {
    base: NonNull<libc::c_void>,
    /// Bytes from one element to the next.
    stride: usize,
    len: usize,
}

// SAFETY: the mapping is owned by the value and only read and written through atomics.
unsafe impl Send for MappedArray {}
// SAFETY: as above.
unsafe impl Sync for MappedArray {}

impl MappedArray {
    /// Maps all `entries` elements of `value_size` bytes.
    pub fn new(map: impl AsFd, value_size: usize, entries: usize) -> Result<Self> {
        let stride = value_size.next_multiple_of(8);
        let len = (stride * entries).next_multiple_of(4096);
        let size = NonZeroUsize::new(len).context("mapping an empty array")?;
        // SAFETY: a new shared mapping at an address that the kernel chooses.
        let base = unsafe {
            nix::sys::mman::mmap(
                None,
                size,
                nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_WRITE,
                nix::sys::mman::MapFlags::MAP_SHARED,
                map,
                0,
            )
        }
        .map_err(|e: Errno| e)
        .context("mapping an array")?;
        Ok(Self {
            base,
            stride,
            len: stride * entries,
        })
    }

    fn offset(&self, element: usize, byte: usize, size: usize) -> Option<usize> {
        let at = element.checked_mul(self.stride)?.checked_add(byte)?;
        (byte + size <= self.stride && at + size <= self.len && at % size == 0).then_some(at)
    }

    /// The 64-bit word at a byte of an element; 0 outside the array.
    pub fn u64_at(&self, element: usize, byte: usize) -> u64 {
        self.offset(element, byte, 8).map_or(0, |at| {
            // SAFETY: inside the mapping, aligned, and the kernel side writes it by whole words.
            unsafe { self.base.as_ptr().byte_add(at).cast::<AtomicU64>().as_ref() }
                .map_or(0, |word| word.load(Ordering::Relaxed))
        })
    }

    /// The 32-bit word at a byte of an element; 0 outside the array.
    pub fn u32_at(&self, element: usize, byte: usize) -> u32 {
        self.offset(element, byte, 4).map_or(0, |at| {
            // SAFETY: as above.
            unsafe { self.base.as_ptr().byte_add(at).cast::<AtomicU32>().as_ref() }
                .map_or(0, |word| word.load(Ordering::Relaxed))
        })
    }

    /// Writes a 64-bit word; outside the array nothing happens.
    pub fn set_u64(&self, element: usize, byte: usize, value: u64) {
        if let Some(at) = self.offset(element, byte, 8) {
            // SAFETY: as above.
            if let Some(word) = unsafe { self.base.as_ptr().byte_add(at).cast::<AtomicU64>().as_ref() } {
                word.store(value, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for MappedArray {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this rounded length and is not used any more.
        unsafe {
            let _ = nix::sys::mman::munmap(self.base, self.len.next_multiple_of(4096));
        }
    }
}
