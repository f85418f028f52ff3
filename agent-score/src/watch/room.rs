//! Places for new series.

use super::{GIVES_WAY, Watcher};
use crate::anomaly::Millis;
use agent_store::labels::Labels;

/// Places for new series.
pub(super) struct Room {
    free: usize,
    pub refused: usize,
    /// Series that may give way, those that have been there last in front; none are looked for before they are needed.
    old: Option<Vec<(Millis, usize, Labels)>>,
}

impl Room {
    pub fn new(watcher: &Watcher) -> Self {
        let there: usize = watcher.watches.iter().map(|watch| watch.series.len()).sum();
        Self {
            free: watcher.settings.most_series.saturating_sub(there),
            refused: 0,
            old: None,
        }
    }

    pub fn take(&mut self, watcher: &mut Watcher, at: Millis) -> bool {
        if self.free > 0 {
            self.free -= 1;
            return true;
        }
        let old = self.old.get_or_insert_with(|| {
            let mut old = Vec::new();
            for (place, watch) in watcher.watches.iter().enumerate() {
                let unseen = watch
                    .series
                    .iter()
                    .filter(|(_, series)| series.active.is_none() && at - series.seen > GIVES_WAY);
                old.extend(unseen.map(|(labels, series)| (series.seen, place, labels.clone())));
            }
            old.sort_by(|a, b| b.cmp(a));
            old
        });
        let gives_way = old.pop().and_then(|(_, place, labels)| {
            let watch = watcher.watches.get_mut(place)?;
            watch.series.remove(&labels)
        });
        if gives_way.is_none() {
            self.refused += 1;
        }
        gives_way.is_some()
    }
}
