//! What is known of the pods of a node. Pure: events in, names out, at times that the caller gives.

use crate::pod::Pod;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most pods that are known, gone ones among them. A node has 110, or 250; nobody runs so many.
pub const MAX_PODS: usize = 10_000;
/// A pod that is gone is known for so long: what it did may be read later than it ends.
pub const KEEP: Duration = Duration::from_secs(600);

/// Pods by what a cgroup tells of them.
#[derive(Debug, Default)]
pub struct Store {
    pods: HashMap<Arc<str>, Entry>,
    /// By the id of a container, and by the hash of a static pod's file: the UID.
    by_id: HashMap<String, Arc<str>>,
    /// Of the listing that is under way, or of the last one.
    listing: u64,
    /// Pods that found no room.
    pub refused: u64,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<Pod>,
    /// The listing that it was last seen in.
    listing: u64,
    gone: Option<Instant>,
}

impl Store {
    /// All pods will be named anew. Until [`Self::listed`] nothing is taken away.
    pub fn list(&mut self) {
        self.listing += 1;
    }

    /// All have been named: those that were not are gone.
    pub fn listed(&mut self, now: Instant) {
        for entry in self
            .pods
            .values_mut()
            .filter(|entry| entry.listing < self.listing)
        {
            entry.gone.get_or_insert(now);
        }
        self.expire(now);
        // Those that came while others were not known to be gone.
        let there = self.pods.iter().filter(|(_, entry)| entry.gone.is_none());
        let there: Vec<Arc<str>> = there.map(|(uid, _)| uid.clone()).collect();
        there.iter().for_each(|uid| self.lead_to(uid));
    }

    /// A pod is there, or has changed.
    pub fn set(&mut self, pod: Pod, now: Instant) {
        if let Some(entry) = self.pods.get_mut(pod.uid.as_str()) {
            (entry.listing, entry.gone) = (self.listing, None);
            if *entry.pod == pod {
                return;
            }
        } else if self.pods.len() >= MAX_PODS && !self.make_room(now) {
            self.refused += 1;
            return;
        }
        let uid: Arc<str> = pod.uid.as_str().into();
        let entry = Entry {
            pod: Arc::new(pod),
            listing: self.listing,
            gone: None,
        };
        if let Some(before) = self.pods.insert(uid.clone(), entry) {
            self.forget(&before.pod);
        }
        self.lead_to(&uid);
    }

    /// The ids of a pod lead to it.
    fn lead_to(&mut self, uid: &Arc<str>) {
        let Some(entry) = self.pods.get(uid) else { return };
        let containers = entry.pod.containers.iter().map(|(id, _)| id);
        for id in containers.chain(Some(&entry.pod.file).filter(|hash| !hash.is_empty())) {
            // Whoever makes a pod may say whose file it is of: what is another's that is there stays that one's.
            let other = self.by_id.get(id).and_then(|other| self.pods.get(other));
            if other.is_none_or(|other| other.gone.is_some()) {
                self.by_id.insert(id.clone(), uid.clone());
            }
        }
    }

    /// A pod has been deleted. It is known on.
    pub fn delete(&mut self, uid: &str, now: Instant) {
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.gone.get_or_insert(now);
        }
        self.expire(now);
    }

    /// The pod of a cgroup: by the UID in its path (of a static pod the hash of its file), else by the container.
    pub fn find(&self, pod: &str, container: &str) -> Option<&Arc<Pod>> {
        let by_uid = self.pods.get(pod);
        let by_id = || {
            [pod, container]
                .into_iter()
                .find_map(|id| self.pods.get(self.by_id.get(id)?))
        };
        by_uid.or_else(by_id).map(|entry| &entry.pod)
    }

    /// Pods that are there.
    pub fn len(&self) -> usize {
        self.pods.values().filter(|entry| entry.gone.is_none()).count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets what has been gone for [`KEEP`].
    fn expire(&mut self, now: Instant) {
        self.take(|entry| entry.gone.is_some_and(|gone| now.duration_since(gone) >= KEEP));
    }

    /// Forgets an eighth of those that are gone, the first to go first.
    fn make_room(&mut self, now: Instant) -> bool {
        let mut ages: Vec<Duration> = self
            .pods
            .values()
            .filter_map(|entry| Some(now.duration_since(entry.gone?)))
            .collect();
        ages.sort_unstable_by(|a, b| b.cmp(a));
        let Some(&least) = ages.get(ages.len() / 8) else {
            return false;
        };
        self.take(|entry| entry.gone.is_some_and(|gone| now.duration_since(gone) >= least));
        true
    }

    fn take(&mut self, which: impl Fn(&Entry) -> bool) {
        let taken: Vec<Entry> = self
            .pods
            .extract_if(|_, entry| which(entry))
            .map(|(_, entry)| entry)
            .collect();
        for entry in taken {
            self.forget(&entry.pod);
        }
    }

    /// Takes the ids of a pod away that lead to it.
    fn forget(&mut self, pod: &Pod) {
        let ids = pod.containers.iter().map(|(id, _)| id).chain([&pod.file]);
        for id in ids {
            if self.by_id.get(id).is_some_and(|uid| **uid == *pod.uid) {
                self.by_id.remove(id);
            }
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
