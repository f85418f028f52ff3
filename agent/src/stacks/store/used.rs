//! CPU time by function: what two windows are compared by, without a row for each stack.

use super::{Count, Place, Slice, Store, Window};
use crate::stacks::frames::folded_names;
use agent_common::profile::sample;
use agent_score::watch::Used;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Samples of a function, and the stack that had most of them in a slice.
#[derive(Clone, Copy, Default)]
struct Sum {
    count: Count,
    most: u64,
    stack: u32,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.count.samples += other.count.samples;
        self.count.value += other.count.value;
        if other.most > self.most {
            (self.most, self.stack) = (other.most, other.stack);
        }
    }
}

impl Store {
    /// CPU time in a window by whose function ran. So many entries are read at most, the youngest: the window that is answered may
    /// begin later.
    pub fn used(&self, window: Window, most: usize) -> (Window, Vec<Used>) {
        let (window, slices) = self.youngest(window, most);
        let mut frames: HashMap<(u32, Option<u32>), Sum> = HashMap::new();
        for (who, stack, count) in self.on_cpu(&slices) {
            let innermost = self.frames_of(stack).first().copied();
            let sum = Sum {
                count,
                most: count.samples,
                stack,
            };
            frames.entry((who, innermost)).or_default().add(sum);
        }
        let mut functions: HashMap<(Arc<str>, Arc<str>, String), Sum> = HashMap::new();
        for ((who, innermost), sum) in frames {
            let Some(who) = self.whos.values.get(who as usize) else {
                continue;
            };
            let function = innermost
                .and_then(|frame| self.function(frame))
                .unwrap_or_default();
            let key = (who.subject.clone(), who.process.clone(), function);
            functions.entry(key).or_default().add(sum);
        }
        let used = functions
            .into_iter()
            .map(|((subject, process, function), sum)| Used {
                subject,
                process,
                function,
                samples: sum.count.samples,
                seconds: sum.count.value as f64 / 1e9,
                stack: sum.stack,
            });
        (window, used.collect())
    }

    /// The frames of what is read by [`Store::used`], each once.
    pub fn used_frames(&self, window: Window, most: usize) -> HashSet<u32> {
        let (_, slices) = self.youngest(window, most);
        let stacks: HashSet<u32> = self.on_cpu(&slices).map(|(_, stack, _)| stack).collect();
        let frames = stacks.into_iter().flat_map(|stack| self.frames_of(stack));
        frames.copied().collect()
    }

    /// Names of a stack's functions, innermost first: so many at most.
    pub fn stack_names(&self, stack: u32, most: usize) -> Vec<String> {
        let frames = self.frames_of(stack).iter();
        frames
            .flat_map(|frame| folded_names(self, *frame))
            .take(most)
            .collect()
    }

    /// The function that a frame is of; `None` where the stack could not be taken.
    fn function(&self, frame: u32) -> Option<String> {
        match self.frame(frame) {
            Some((Place::Cut(_), _)) => None,
            _ => folded_names(self, frame).into_iter().next(),
        }
    }

    fn frames_of(&self, stack: u32) -> &[u32] {
        self.stacks
            .values
            .get(stack as usize)
            .map_or(&[], |frames| frames)
    }

    fn on_cpu<'a>(&'a self, slices: &'a [&Slice]) -> impl Iterator<Item = (u32, u32, Count)> + 'a {
        let all = slices.iter().flat_map(|slice| &slice.samples);
        let is_cpu = |who: u32| {
            self.whos
                .values
                .get(who as usize)
                .is_some_and(|who| who.sample == sample::CPU)
        };
        all.filter(move |(key, _)| is_cpu(key.who))
            .map(|(key, count)| (key.who, key.stack, *count))
    }

    /// The slices of a window, as many of the youngest as have so many entries at most, and the window that they are of.
    fn youngest(&self, mut window: Window, most: usize) -> (Window, Vec<&Slice>) {
        let mut left = most;
        let mut slices = Vec::new();
        let inside = |slice: &&Slice| slice.end > window.from && slice.start < window.to;
        for slice in self.slices.iter().rev().filter(inside) {
            match left.checked_sub(slice.samples.len()) {
                Some(rest) => left = rest,
                None => {
                    window.from = slice.end.min(window.to);
                    break;
                }
            }
            slices.push(slice);
        }
        (window, slices)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SECOND, SLICE, Who};
    use super::*;

    fn who(process: &str, pid: u32, kind: u8) -> Who {
        Who {
            subject: "web".into(),
            process: process.into(),
            pid,
            sample: kind,
            ..Who::default()
        }
    }

    const ONE: Count = Count {
        samples: 1,
        value: SECOND / 10,
    };

    fn store() -> Store {
        let mut store = Store::new(1 << 20);
        let (main, leaf, other) = (Place::Binary(1, 1), Place::Binary(1, 2), Place::Binary(1, 3));
        for (place, name) in [(main, "main"), (leaf, "leaf"), (other, "leaf")] {
            store.name(place, name);
        }
        let at = 10 * SLICE;
        for second in 0..20 {
            // Two places of one function, in two processes of a name.
            store.add(at + second * SECOND, who("nginx", 1, 0), &[leaf, main], &[], ONE);
            store.add(
                at + second * SECOND,
                who("nginx", 2, 0),
                &[other, leaf, main],
                &[],
                ONE,
            );
            store.add(at + second * SECOND, who("nginx", 2, 1), &[main], &[], ONE);
            store.add(
                at + second * SECOND,
                who("lost", 3, 0),
                &[Place::Cut(0)],
                &[],
                ONE,
            );
        }
        store
    }

    fn window(from: u64, to: u64) -> Window {
        Window {
            from: 10 * SLICE + from * SECOND,
            to: 10 * SLICE + to * SECOND,
        }
    }

    /// Cause: two processes of a name in one function, one whose stacks are not to be had, and waits. Seen: the CPU time of the
    /// function, and of no function for what is not known.
    #[test]
    fn time_is_by_function() {
        let store = store();
        let (answered, mut used) = store.used(window(5, 10), 1000);
        assert_eq!(answered, window(5, 10));
        used.sort_by(|a, b| a.process.cmp(&b.process));
        let [lost, nginx] = &used[..] else {
            panic!("{used:?}")
        };
        assert_eq!((&*nginx.process, nginx.function.as_str()), ("nginx", "leaf"));
        assert_eq!((nginx.samples, nginx.seconds), (10, 1.0));
        assert_eq!((lost.function.as_str(), lost.samples), ("", 5));
        let names = store.stack_names(nginx.stack, 2);
        assert!(names[0] == "leaf" && names.len() == 2, "{names:?}");
        assert_eq!(store.used_frames(window(5, 10), 1000).len(), 4);
    }

    /// Cause: more is there than may be read. Seen: the youngest of it, and the window that it is of; what has more in one slice is
    /// not read at all.
    #[test]
    fn what_is_read_is_bounded() {
        let store = store();
        let (answered, used) = store.used(window(0, 20), 13);
        assert_eq!(answered, window(17, 20), "four entries a second");
        assert_eq!(used.iter().map(|one| one.samples).sum::<u64>(), 9);
        let (answered, used) = store.used(window(0, 20), 3);
        assert_eq!((answered.from, used.len()), (answered.to, 0));
    }
}
