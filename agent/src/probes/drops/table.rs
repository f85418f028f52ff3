//! The kernel's rows of drops, and the series that they add up to. Rows name processes, devices and namespaces, which come
/// and go: a row in which nothing has happened for a while is given back.
use crate::aggregate::Labels;
use crate::bpf::KernelMap;
use crate::error::Result;
use crate::probes::Context;
use crate::probes::totals::Totals;
use agent_common::wire::Wire;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A row is given back after this time without a drop.
const IDLE: Duration = Duration::from_secs(600);
/// Rows are looked through so often.
const LOOK: Duration = Duration::from_secs(60);

/// A series.
pub struct Total {
    /// Its labels.
    pub labels: Arc<Labels>,
    /// Its values.
    pub values: [u64; 2],
}

struct Row {
    place: usize,
    last: [u64; 2],
    changed: Instant,
}

/// Rows by key `K`, whose kernel values begin with one or two counters of 64 bits; series by name `N`.
pub struct Table<K, N> {
    rows: HashMap<K, Row>,
    /// The series.
    pub totals: Totals<N, Total>,
    looked: Option<Instant>,
}

impl<K: Wire + Eq + Hash, N: Eq + Hash> Table<K, N> {
    /// With so many series beside `other`.
    pub fn new(most: usize) -> Self {
        Self {
            rows: HashMap::new(),
            totals: Totals::new(most),
            looked: None,
        }
    }

    /// Whether a row is known.
    pub fn knows(&self, key: &K) -> bool {
        self.rows.contains_key(key)
    }

    /// Rows that are somebody's.
    pub fn used(&self) -> usize {
        self.rows.len()
    }

    /// Takes what a row holds now; of one that is not known `place` says the series. Returns how much is new.
    pub fn take(&mut self, key: K, now: [u64; 2], at: Instant, place: usize) -> [u64; 2] {
        let row = self.rows.entry(key).or_insert(Row {
            place,
            last: [0; 2],
            changed: at,
        });
        let new = [0, 1].map(|i: usize| now[i].wrapping_sub(row.last[i]));
        if new != [0; 2] {
            row.changed = at;
            row.last = now;
            if let Some(total) = self.totals.get_mut(row.place) {
                for (sum, new) in total.values.iter_mut().zip(new) {
                    *sum += new;
                }
            }
        }
        new
    }

    /// Forgets a row that is gone.
    pub fn forget(&mut self, key: &K) {
        self.rows.remove(key);
    }

    /// Once in a while: gives back the rows that have long been still, but for `other`, and ends series. `read` makes
    /// counters of a kernel value of `value_size` bytes.
    pub fn recycle(
        &mut self,
        map: &KernelMap,
        value_size: usize,
        other: &K,
        context: &Context<'_>,
        read: impl Fn(&[u8]) -> Option<[u64; 2]>,
    ) -> Result<()> {
        let at = context.now;
        if self.looked.is_some_and(|t| at.duration_since(t) < LOOK) {
            return Ok(());
        }
        self.looked = Some(at);
        let still = |row: &Row| at.duration_since(row.changed) >= IDLE;
        let old: Vec<K> = self
            .rows
            .iter()
            .filter(|(key, row)| *key != other && still(row))
            .map(|(key, _)| *key)
            .collect();
        for key in old {
            let mut bytes = Vec::new();
            key.encode(&mut bytes);
            // One that is not there has gone with its map.
            if let Ok(value) = map.take(&bytes, value_size)
                && let Some(last) = read(&value)
            {
                self.take(key, last, at, 0);
            }
            self.rows.remove(&key);
        }
        self.totals.end(at, self.rows.values().map(|row| row.place));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_common::tcp::SubjectKey;

    #[test]
    fn rows_add_their_growth_to_their_series() {
        let mut table: Table<SubjectKey, &str> = Table::new(4);
        let now = Instant::now();
        let place = table.totals.place(Some("a"), now, |other| Total {
            labels: Arc::new(Labels::new(&[], &[], other, 0)),
            values: [0; 2],
        });
        let key = |tgid| SubjectKey {
            tgid,
            ..SubjectKey::NOBODY
        };
        assert_eq!(table.take(key(1), [5, 100], now, place), [5, 100]);
        assert_eq!(
            table.take(key(1), [7, 100], now, 99),
            [2, 0],
            "its series is known"
        );
        assert_eq!(table.take(key(2), [1, 10], now, place), [1, 10]);
        assert!(table.knows(&key(2)) && !table.knows(&key(3)));
        assert_eq!(
            table.totals.iter().map(|t| t.values).collect::<Vec<_>>(),
            [[8, 110]]
        );
    }
}
