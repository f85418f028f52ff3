//! The memory of the request that was sent last, for the next one.
//!
//! Fresh memory is dear: 557 page faults for 2.3 MB took ten times as long as the encoding (2–4 ms in a virtual
//! machine, against 0.2). An allocator may keep what was freed, but whether it does hangs on what else lies beside it.

use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};

/// Not worth giving back.
const SMALL: usize = 64 << 10;

/// Keeps at most one buffer, of at most the size of a request. Most agents' exports are one request; what more there
/// is waits in the queue, and is freed once sent.
#[derive(Clone, Debug, Default)]
pub struct Spare(Arc<Mutex<Vec<u8>>>);

impl Spare {
    /// An empty buffer for about `expected` bytes. A kept one that is more than four times too large is freed: it is
    /// from a time when there were more series.
    pub fn take(&self, expected: usize) -> Vec<u8> {
        let mut buffer = self.swap(Vec::new());
        if buffer.capacity() > SMALL.max(expected * 4) {
            buffer = Vec::new();
        }
        buffer.clear();
        buffer.reserve(expected);
        buffer
    }

    /// The finished buffer. It comes back when the last copy is dropped: sent, given up, or pushed out of the queue.
    pub fn lend(&self, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent {
            buffer,
            home: self.clone(),
        })
    }

    fn swap(&self, buffer: Vec<u8>) -> Vec<u8> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut kept, buffer)
    }
}

struct Lent {
    buffer: Vec<u8>,
    home: Spare,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.swap(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lend(spare: &Spare, size: usize) -> Bytes {
        let mut buffer = spare.take(size);
        buffer.resize(size, 7);
        spare.lend(buffer)
    }

    #[test]
    fn a_buffer_comes_back_when_the_last_copy_is_dropped() {
        let spare = Spare::default();
        let body = lend(&spare, 100_000);
        let (at, copy) = (body.as_ptr(), body.slice(10..));
        drop(body);
        let other = lend(&spare, 100_000);
        assert_ne!(other.as_ptr(), at);
        assert!(copy.iter().all(|&b| b == 7));
        drop(other);
        drop(copy);
        let again = spare.take(90_000);
        assert_eq!((again.as_ptr(), again.len()), (at, 0));
    }

    #[test]
    fn one_is_kept_and_none_that_is_far_too_large() {
        let spare = Spare::default();
        let bodies = [1_000_000, 2_000_000, 3_000_000].map(|size| lend(&spare, size));
        drop(bodies);
        assert_eq!(spare.0.lock().unwrap().capacity(), 3_000_000);
        assert!(spare.take(500_000).capacity() < 1_000_000);
        assert_eq!(spare.0.lock().unwrap().capacity(), 0);
    }
}
