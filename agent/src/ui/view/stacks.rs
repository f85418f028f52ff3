//! Functions and containers that are hot now, by what probe `profile` has taken in the last ten seconds.

use crate::stacks::Stacks;
use crate::stacks::frames::shown_names;
use crate::stacks::store::{Query, Row, SECOND, Store};
use agent_common::profile::sample;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// So long a time is looked at, seconds.
const LAST: u64 = 10;
/// Functions that are shown.
const FUNCTIONS: usize = 200;
/// Subjects that are shown.
const SUBJECTS: usize = 50;

/// What is hot. Shares are seconds per second: 1 is a core, or a thread that waits all the time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hot {
    /// Seconds that it is about.
    pub seconds: f64,
    /// Who, the busiest first.
    pub subjects: Vec<HotRow>,
    /// Functions, those with the most own time first.
    pub functions: Vec<HotRow>,
    /// Whether it is known how long threads wait.
    pub off_cpu: bool,
    /// All together.
    pub total: HotRow,
}

/// A subject, or a function of one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HotRow {
    /// Container, unit or process.
    pub subject: String,
    /// Function; empty = all of the subject's.
    pub function: String,
    /// Cores that it took by itself.
    pub own: f64,
    /// Cores with what it called.
    pub total: f64,
    /// Threads that waited below it; `None` = not taken.
    pub off_cpu: Option<f64>,
    /// Its busiest stack, innermost first.
    pub stack: Vec<String>,
    /// Share of its own time that this stack had.
    pub stack_share: f64,
}

#[derive(Default)]
struct Sum<'a> {
    own: u64,
    total: u64,
    off_cpu: u64,
    /// The busiest stack with the function at its end, and its time.
    top: Option<(&'a Row, u64)>,
}

/// Makes [`Hot`] of the samples.
#[derive(Clone)]
pub struct Watch(Arc<Stacks>);

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

impl Watch {
    /// Of these samples.
    pub fn new(stacks: Arc<Stacks>) -> Self {
        Self(stacks)
    }

    /// The last ten seconds that are over.
    pub fn look(&self) -> Hot {
        let to = crate::stacks::now() / SECOND * SECOND;
        let query = |sample: u8| Query {
            from: to - LAST * SECOND,
            to,
            sample,
            ..Query::default()
        };
        let off_cpu = self.0.kinds.get(usize::from(sample::OFF_CPU)) == Some(&true);
        self.0.hurry_names(&query(sample::CPU));
        let store = self.0.store();
        let window = store.window(&query(sample::CPU), to);
        let waits = if off_cpu {
            store.query(&query(sample::OFF_CPU))
        } else {
            Vec::new()
        };
        let seconds = (window.to - window.from) as f64 / 1e9;
        hot(
            &store,
            &store.query(&query(sample::CPU)),
            &waits,
            off_cpu,
            seconds,
        )
    }
}

fn hot(store: &Store, runs: &[Row], waits: &[Row], off_cpu: bool, seconds: f64) -> Hot {
    let mut names: HashMap<u32, Vec<String>> = HashMap::new();
    for frame in runs.iter().chain(waits).flat_map(|row| row.frames.iter()) {
        names
            .entry(*frame)
            .or_insert_with(|| shown_names(store, &[*frame]));
    }
    let name = |frame: &u32| names.get(frame).into_iter().flatten().map(String::as_str);
    let mut functions: BTreeMap<(&str, &str), Sum<'_>> = BTreeMap::new();
    let mut subjects: BTreeMap<&str, Sum<'_>> = BTreeMap::new();
    let mut all = Sum::default();
    for row in runs {
        let (subject, value) = (&*row.who.subject, row.count.value);
        for sum in [&mut all, subjects.entry(subject).or_default()] {
            sum.own += value;
            sum.total += value;
        }
        for function in row.frames.iter().flat_map(name).collect::<HashSet<_>>() {
            functions.entry((function, subject)).or_default().total += value;
        }
        if let Some(leaf) = row.frames.iter().flat_map(name).next() {
            let sum = functions.entry((leaf, subject)).or_default();
            sum.own += value;
            if sum.top.is_none_or(|(_, most)| most < value) {
                sum.top = Some((row, value));
            }
        }
    }
    for row in waits {
        let (subject, value) = (&*row.who.subject, row.count.value);
        all.off_cpu += value;
        subjects.entry(subject).or_default().off_cpu += value;
        for function in row.frames.iter().flat_map(name).collect::<HashSet<_>>() {
            // Where a thread waits is always the scheduler: what is told is who waits, of those that run as well.
            if let Some(sum) = functions.get_mut(&(function, subject)) {
                sum.off_cpu += value;
            }
        }
    }
    let share = |nanos: u64| {
        if seconds > 0.0 {
            nanos as f64 / 1e9 / seconds
        } else {
            0.0
        }
    };
    let made = |function: &str, subject: &str, sum: &Sum<'_>| HotRow {
        subject: subject.to_owned(),
        function: function.to_owned(),
        own: share(sum.own),
        total: share(sum.total),
        off_cpu: off_cpu.then(|| share(sum.off_cpu)),
        stack: sum
            .top
            .map(|(row, _)| row.frames.iter().flat_map(name).map(str::to_owned).collect())
            .unwrap_or_default(),
        stack_share: sum.top.map_or(0.0, |(_, n)| n as f64 / sum.own.max(1) as f64),
    };
    let mut hottest: Vec<_> = functions.iter().collect();
    hottest.sort_by_key(|(_, sum)| std::cmp::Reverse((sum.own, sum.total)));
    let mut busiest: Vec<_> = subjects.iter().collect();
    busiest.sort_by_key(|(_, sum)| std::cmp::Reverse((sum.own, sum.off_cpu)));
    Hot {
        seconds,
        off_cpu,
        subjects: busiest
            .into_iter()
            .take(SUBJECTS)
            .map(|(subject, sum)| made("", subject, sum))
            .collect(),
        functions: hottest
            .into_iter()
            .take(FUNCTIONS)
            .map(|((function, subject), sum)| made(function, subject, sum))
            .collect(),
        total: made("", "", &all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::store::{Count, Place, Who};

    #[test]
    fn functions_are_by_subject_and_their_own_time() {
        let mut store = Store::new(1 << 20);
        let who = |subject: &str, sample| Who {
            subject: subject.into(),
            process: "p".into(),
            pid: 1,
            thread: "t".into(),
            container: "".into(),
            cgroup: "".into(),
            sample,
            label: "".into(),
        };
        let (main, leaf, other) = (Place::Binary(1, 1), Place::Binary(1, 2), Place::Binary(1, 3));
        let schedule = Place::Kernel(9);
        for (place, name) in [
            (main, "main"),
            (leaf, "leaf"),
            (other, "other"),
            (schedule, "schedule"),
        ] {
            store.name(place, name);
        }
        let mut add = |subject: &str, sample, places: &[Place], seconds: u64| {
            let count = Count {
                samples: 1,
                value: seconds * SECOND,
            };
            store.add(0, who(subject, sample), places, &[], count);
        };
        add("a", sample::CPU, &[leaf, main], 5);
        add("a", sample::CPU, &[leaf, leaf, other, main], 1);
        add("a", sample::CPU, &[main], 1);
        add("b", sample::CPU, &[leaf, main], 3);
        add("b", sample::OFF_CPU, &[schedule, main], 20);
        let query = |sample| Query {
            sample,
            ..Query::default()
        };
        let (runs, waits) = (
            store.query(&query(sample::CPU)),
            store.query(&query(sample::OFF_CPU)),
        );
        let hot = hot(&store, &runs, &waits, true, 10.0);
        let told: Vec<_> = hot
            .functions
            .iter()
            .map(|r| (r.subject.as_str(), r.function.as_str(), r.own, r.total, r.off_cpu))
            .collect();
        assert_eq!(
            told,
            [
                ("a", "leaf", 0.6, 0.6, Some(0.0)),
                ("b", "leaf", 0.3, 0.3, Some(0.0)),
                ("a", "main", 0.1, 0.7, Some(0.0)),
                ("b", "main", 0.0, 0.3, Some(2.0)),
                ("a", "other", 0.0, 0.1, Some(0.0)),
            ]
        );
        assert_eq!(hot.functions[0].stack, ["leaf", "main"]);
        assert!((hot.functions[0].stack_share - 5.0 / 6.0).abs() < 1e-9);
        let who: Vec<_> = hot
            .subjects
            .iter()
            .map(|r| (r.subject.as_str(), r.own, r.off_cpu))
            .collect();
        assert_eq!(who, [("a", 0.7, Some(0.0)), ("b", 0.3, Some(2.0))]);
        assert_eq!((hot.total.own, hot.total.off_cpu), (1.0, Some(2.0)));
    }
}
