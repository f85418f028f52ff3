//! Who ended a wait, from when it did until the waiter is back on a CPU and tells of the wait.

use super::image::Binary;
use super::store::Place;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Waits that are over and not told yet: threads that wait for their turn.
const MOST: usize = 4096;

/// Thread, and the number of its wait.
pub type Key = (u32, u32);
/// The stack of a waker as it is put behind the waiter's, and the files that it is in.
pub type Waker = (Vec<Place>, Vec<Arc<Binary>>);

/// Wakers whose waits are not told yet. The oldest gives way.
#[derive(Default)]
pub struct Wakers {
    known: HashMap<Key, Waker>,
    order: VecDeque<Key>,
}

impl Wakers {
    /// Remembers one.
    pub fn add(&mut self, key: Key, waker: Waker) {
        if self.order.len() >= MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(key);
        self.known.insert(key, waker);
    }

    /// The one of a wait, once.
    pub fn take(&mut self, key: Key) -> Option<Waker> {
        self.known.remove(&key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_had_once_and_the_oldest_gives_way() {
        let mut wakers = Wakers::default();
        for number in 0..MOST as u32 + 1 {
            wakers.add((7, number), (vec![Place::Kernel(number.into())], Vec::new()));
        }
        assert!(wakers.take((7, 0)).is_none());
        assert!(wakers.take((8, 1)).is_none());
        let (places, _) = wakers.take((7, 1)).unwrap();
        assert_eq!(places, [Place::Kernel(1)]);
        assert!(wakers.take((7, 1)).is_none());
        assert_eq!(wakers.order.len(), MOST);
    }
}
