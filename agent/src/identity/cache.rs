//! A bounded map that forgets what was used longest ago.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// At most `capacity` entries. A full cache forgets the oldest eighth at once, so that an insert stays O(1) on average.
#[derive(Debug)]
pub struct Cache<K, V> {
    entries: HashMap<K, (V, Instant)>,
    capacity: usize,
    evicted: u64,
}

impl<K: Eq + Hash, V> Cache<K, V> {
    /// An empty cache; takes no memory until it is used.
    pub fn new(capacity: usize) -> Self {
        Self {
            entries: HashMap::new(),
            capacity: capacity.max(1),
            evicted: 0,
        }
    }

    /// The value, marked as used.
    pub fn get<Q: Eq + Hash + ?Sized>(&mut self, key: &Q, now: Instant) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (value, used) = self.entries.get_mut(key)?;
        *used = now;
        Some(value)
    }

    /// Sets a value and returns the one before.
    pub fn insert(&mut self, key: K, value: V, now: Instant) -> Option<V> {
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            self.evict();
        }
        self.entries.insert(key, (value, now)).map(|(before, _)| before)
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, (value, _))| (key, value))
    }

    /// Forgets the entries for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        self.entries.retain(|key, (value, _)| keep(key, value));
    }

    /// Forgets what was not used for `age`.
    pub fn expire(&mut self, now: Instant, age: Duration) {
        self.entries
            .retain(|_, (_, used)| now.saturating_duration_since(*used) < age);
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Entries forgotten for want of room, ever.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    fn evict(&mut self) {
        let mut uses: Vec<Instant> = self.entries.values().map(|(_, used)| *used).collect();
        let count = (uses.len() / 8).max(1);
        let (_, &mut oldest, _) = uses.select_nth_unstable(count - 1);
        // Many may share that instant: no more than `count` go.
        let mut left = count;
        self.entries.retain(|_, (_, used)| {
            let goes = left > 0 && *used <= oldest;
            left -= usize::from(goes);
            !goes
        });
        self.evicted += (count - left) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_go_first_and_the_bound_holds() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut cache = Cache::new(80);
        for i in 0..80u64 {
            cache.insert(i, i, at(i));
        }
        assert!(cache.get(&0, at(100)).is_some());
        cache.insert(1000, 0, at(101));
        assert_eq!((cache.len(), cache.evicted()), (71, 10));
        assert!(cache.get(&0, at(102)).is_some() && cache.get(&1, at(102)).is_none());
        for i in 0..10_000 {
            cache.insert(i, i, at(200));
            assert!(cache.len() <= 80);
        }
        cache.expire(at(500), Duration::from_millis(300));
        assert!(cache.is_empty());
        let mut one = Cache::new(0);
        one.insert(1, 1, start);
        one.insert(2, 2, start);
        assert_eq!(one.len(), 1);
    }
}
