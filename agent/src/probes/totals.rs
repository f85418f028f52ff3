//! The series that rows of the kernel add up to. Rows come and go with processes and several may add to one series, so
//! series are bounded by the living ones: one that no row adds to for an hour ends, and its place is used again.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A series that no row adds to ends after this time.
const END: Duration = Duration::from_secs(3600);

/// Place of `other`, which never ends.
pub const OTHER: usize = 0;

/// Series by name.
pub struct Totals<K, T> {
    most: usize,
    /// The first is `other`.
    places: Vec<Option<Place<T>>>,
    by_name: HashMap<K, usize>,
}

struct Place<T> {
    total: T,
    /// When a row last added to it.
    used: Instant,
}

impl<K: Eq + Hash, T> Totals<K, T> {
    /// At most `most` series beside `other`.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            places: vec![None],
            by_name: HashMap::new(),
        }
    }

    /// The place of a name; `None` is `other`, and so is what finds none. `new` is told whether it makes `other`.
    pub fn place(&mut self, name: Option<K>, now: Instant, new: impl FnOnce(bool) -> T) -> usize {
        let name = match name {
            Some(name) => match self.by_name.get(&name) {
                Some(&at) => return at,
                None => Some(name).filter(|_| self.by_name.len() < self.most),
            },
            None => None,
        };
        let at = match name {
            None => OTHER,
            Some(name) => {
                let free = self.places.iter().skip(1).position(Option::is_none);
                let at = free.map_or(self.places.len(), |i| i + 1);
                self.by_name.insert(name, at);
                at
            }
        };
        if at == self.places.len() {
            self.places.push(None);
        }
        if let Some(place) = self.places.get_mut(at) {
            place.get_or_insert_with(|| Place {
                total: new(at == OTHER),
                used: now,
            });
        }
        at
    }

    /// The series at a place.
    pub fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        self.places.get_mut(at)?.as_mut().map(|p| &mut p.total)
    }

    /// All that live.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().flatten().map(|p| &p.total)
    }

    /// All that live.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places.iter_mut().flatten().map(|p| &mut p.total)
    }

    /// Ends the series that no row has added to for an hour. `used` are the places of the rows that are there now.
    pub fn end(&mut self, now: Instant, used: impl IntoIterator<Item = usize>) {
        for at in used {
            if let Some(Some(place)) = self.places.get_mut(at) {
                place.used = now;
            }
        }
        let mut ended = false;
        for place in self.places.iter_mut().skip(1) {
            ended |= place.take_if(|p| now.duration_since(p.used) >= END).is_some();
        }
        if ended {
            self.by_name
                .retain(|_, at| self.places.get(*at).is_some_and(Option::is_some));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(totals: &mut Totals<String, (bool, u64)>, name: &str, now: Instant) -> usize {
        let at = totals.place(Some(name.to_owned()), now, |other| (other, 0));
        totals.get_mut(at).unwrap().1 += 1;
        at
    }

    #[test]
    fn the_living_are_bounded_and_the_rest_is_other() {
        let start = Instant::now();
        let mut totals = Totals::new(2);
        let [a, b, c, again] = ["a", "b", "c", "a"].map(|n| count(&mut totals, n, start));
        assert_eq!((a, b, c, again), (1, 2, OTHER, 1));
        assert_eq!(
            totals.iter().copied().collect::<Vec<_>>(),
            [(true, 1), (false, 2), (false, 1)]
        );
        // Half an hour later only `b` has a row; an hour after that `a` is gone, and its place is another's.
        let later = |minutes: u64| start + Duration::from_secs(60 * minutes);
        totals.end(later(30), [b]);
        assert_eq!(totals.iter().count(), 3);
        totals.end(later(60), []);
        assert_eq!(
            totals.iter().copied().collect::<Vec<_>>(),
            [(true, 1), (false, 1)]
        );
        assert_eq!(count(&mut totals, "c", later(61)), 1);
        assert_eq!(count(&mut totals, "d", later(61)), OTHER);
        // All end but `other`, whose count never falls.
        totals.end(later(200), []);
        assert_eq!(totals.iter().copied().collect::<Vec<_>>(), [(true, 2)]);
        // One that comes back begins anew.
        count(&mut totals, "a", later(201));
        assert_eq!(
            totals.iter().copied().collect::<Vec<_>>(),
            [(true, 2), (false, 1)]
        );
    }
}
