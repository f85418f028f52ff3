//! What is kept of each series for as long as the snapshots have it.

use super::{Labels, Metric};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// By the addresses of its metric and of its labels: no string is hashed each second. The labels are held as long as their
/// address is a key, so that no others can be there.
pub struct Living<T>(HashMap<(usize, usize), One<T>>);

struct One<T> {
    _labels: Arc<Labels>,
    tick: u64,
    kept: T,
}

impl<T> Default for Living<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Living<T> {
    /// That of a series of this tick's snapshot, made if it is new; `None` = nothing could be made.
    pub fn of(
        &mut self,
        metric: &'static Metric,
        labels: &Arc<Labels>,
        tick: u64,
        make: impl FnOnce() -> Option<T>,
    ) -> Option<&mut T> {
        let key = (std::ptr::from_ref(metric).addr(), Arc::as_ptr(labels).addr());
        let one = match self.0.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(One {
                kept: make()?,
                _labels: labels.clone(),
                tick,
            }),
        };
        one.tick = tick;
        Some(&mut one.kept)
    }

    /// Takes out those that the snapshot of this tick does not have.
    pub fn ended(&mut self, tick: u64) -> Vec<T> {
        let ended = self.0.extract_if(|_, one| one.tick != tick);
        ended.map(|(_, one)| one.kept).collect()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.values().map(|one| &one.kept)
    }
}
