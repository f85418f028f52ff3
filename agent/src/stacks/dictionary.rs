//! Values that are kept once, and the numbers that stand for them.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// Each value once, by number. Numbers stay until [`Dictionary::keep`].
pub(super) struct Dictionary<T> {
    /// By their numbers.
    pub values: Vec<T>,
    numbers: HashMap<T, u32>,
}

impl<T: Clone + Eq + Hash> Dictionary<T> {
    /// Without any.
    pub fn new() -> Self {
        Self {
            values: Vec::new(),
            numbers: HashMap::new(),
        }
    }

    /// That of a value, if it is there.
    pub fn find(&self, value: &T) -> Option<u32> {
        self.numbers.get(value).copied()
    }

    /// That of a value, which is kept if it is new.
    pub fn number(&mut self, value: T) -> u32 {
        if let Some(number) = self.find(&value) {
            return number;
        }
        let number = self.values.len() as u32;
        self.values.push(value.clone());
        self.numbers.insert(value, number);
        number
    }

    /// Forgets all others; returns the new number of each.
    pub fn keep(&mut self, used: &HashSet<u32>) -> HashMap<u32, u32> {
        let old = std::mem::take(&mut self.values);
        self.numbers.clear();
        let mut moved = HashMap::new();
        for (number, value) in old.into_iter().enumerate() {
            if used.contains(&(number as u32)) {
                moved.insert(number as u32, self.number(value));
            }
        }
        moved
    }
}
