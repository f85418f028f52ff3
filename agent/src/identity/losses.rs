//! What could not be followed or remembered of who is who.

use super::Identity;
use crate::aggregate::{Family, Labels, Series, Value, label, metrics};
use std::sync::Arc;
use std::time::Instant;

metrics! {
    /// Lost.
    LOST = "geophone_identity_lost_total", "geophone.identity.lost", "{event}", Counter, &[&label::REASON],
        "What may leave a subject without its name: cgroup_queue, times that inotify's queue was full (births in it are lost unless \
         they live until they are looked for); cgroup_backlog, births that nobody had taken; cgroup_unwatched, directories beyond \
         8,192 or a quarter of fs.inotify.max_user_watches; cgroup_forgotten and subject_forgotten, the longest unused of 65,536 and 32,768";
}

/// Tells it.
pub struct Losses([Arc<Labels>; 5]);

/// In the order in which [`Identity::lost`] has them.
const REASONS: [&str; 5] = [
    "cgroup_queue",
    "cgroup_backlog",
    "cgroup_unwatched",
    "cgroup_forgotten",
    "subject_forgotten",
];

impl Losses {
    /// All begin at `start`, ns since the epoch.
    pub fn new(start: u64) -> Self {
        Self(REASONS.map(|reason| Arc::new(Labels::new(LOST.labels, &[reason], false, start))))
    }

    /// Appends it.
    pub fn collect(&self, identity: &mut Identity, now: Instant, out: &mut Vec<Family>) {
        let lost = identity.lost(now);
        let series = self.0.iter().zip(lost).map(|(labels, count)| Series {
            labels: labels.clone(),
            value: Value::Counter(count),
        });
        out.push(Family {
            metric: &LOST,
            series: series.collect(),
        });
    }
}
