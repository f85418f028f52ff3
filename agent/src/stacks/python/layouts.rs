//! Tells the kernel how to read the Python of a process.

use super::runtime::{self, Version};
use super::{PATIENCE, Python};
use crate::bpf::KernelMap;
use crate::stacks::aside::Aside;
use crate::stacks::maps::Mapping;
use crate::stacks::table::Table;
use agent_common::profile::{PYTHON_LAYOUTS, PythonLayout};
use agent_common::wire::Wire as _;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Weak};

/// Numbers of one user at most, but for those of versions whose layout is in the source: a process that says of itself where
/// things are can say anything, and real versions are few.
const OF_ONE_USER: usize = 8;

/// The versions of CPython that run here, by number.
pub struct Layouts {
    map: KernelMap,
    numbers: Numbers,
    /// Reads what processes say; by process.
    aside: Aside<u32>,
    is_warned: bool,
}

impl Layouts {
    /// Of the map `PYTHON_LAYOUTS`.
    pub fn new(map: KernelMap) -> Self {
        Self {
            map,
            numbers: Numbers::new(),
            aside: Aside::new("python", PATIENCE),
            is_warned: false,
        }
    }

    /// The Python that a mapping of a process is of, if it is one that can be read.
    pub fn find(&mut self, tgid: u32, table: &Table, mapping: &Mapping) -> Option<Python> {
        let symbols = table.python?.moved(table, mapping)?;
        let read = move || -> Result<_, String> {
            let memory = File::open(format!("/proc/{tgid}/mem")).map_err(|e| e.to_string())?;
            let owner = memory.metadata().map_err(|e| e.to_string())?.uid();
            Ok((runtime::version(&memory, symbols)?, memory, owner))
        };
        let silent = || Err("its memory does not answer".into());
        match self.aside.run(tgid, read).unwrap_or_else(silent) {
            Ok((Version { layout, objects }, memory, owner)) => Some(Python {
                memory: Arc::new(memory),
                objects,
                runtime: symbols.runtime,
                layout: self.number(layout, tgid, owner)?,
            }),
            Err(why) => {
                // `geophone check` says it to who asks; here it would be said with every look at such a process.
                tracing::debug!(
                    "process {tgid}: unsupported interpreter: Python: {why}; its stacks show the interpreter"
                );
                None
            }
        }
    }

    fn number(&mut self, layout: PythonLayout, tgid: u32, owner: u32) -> Option<Arc<u32>> {
        let Some((number, is_new)) = self.numbers.take(&layout, owner) else {
            self.warn(&format!(
                "process {tgid}: user {owner} has too many kinds of Python"
            ));
            return None;
        };
        let mut bytes = Vec::new();
        layout.encode(&mut bytes);
        if is_new && let Err(e) = self.map.update(&number.to_ne_bytes(), &bytes) {
            self.warn(&format!("map PYTHON_LAYOUTS: {e}"));
            return None;
        }
        Some(number)
    }

    /// Once, and then only for who debugs: a process may be looked at again and again.
    fn warn(&mut self, what: &str) {
        if std::mem::replace(&mut self.is_warned, true) {
            tracing::debug!("{what}; its stacks show the interpreter");
        } else {
            tracing::warn!("{what}; its stacks show the interpreter, and so of others without further words");
        }
    }
}

/// Who has which number. One that nobody has any more is free for another layout.
struct Numbers(Vec<Slot>);

struct Slot {
    layout: PythonLayout,
    number: Weak<u32>,
    owner: u32,
}

impl Numbers {
    /// With numbers of their own for versions that are known.
    fn new() -> Self {
        let slot = |layout| Slot {
            layout,
            number: Weak::new(),
            owner: 0,
        };
        Self(runtime::FIXED.map(slot).into())
    }

    /// The number of a layout, and whether the kernel must be told of it; `None` = there is none left.
    fn take(&mut self, layout: &PythonLayout, owner: u32) -> Option<(Arc<u32>, bool)> {
        let slots = &mut self.0;
        let is_free = |slot: &Slot| slot.number.strong_count() == 0;
        let at = match slots.iter().position(|slot| slot.layout == *layout) {
            Some(at) => at,
            None => {
                let own = slots.iter().skip(runtime::FIXED.len());
                if own.filter(|slot| slot.owner == owner && !is_free(slot)).count() >= OF_ONE_USER {
                    return None;
                }
                let free = (runtime::FIXED.len()..slots.len()).find(|at| slots.get(*at).is_some_and(is_free));
                free.unwrap_or(slots.len())
            }
        };
        if let Some(number) = slots.get(at).and_then(|slot| slot.number.upgrade()) {
            return Some((number, false));
        }
        if at >= PYTHON_LAYOUTS {
            return None;
        }
        let number = Arc::new(at as u32);
        let slot = Slot {
            layout: *layout,
            number: Arc::downgrade(&number),
            owner,
        };
        match slots.get_mut(at) {
            Some(place) => *place = slot,
            None => slots.push(slot),
        }
        Some((number, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(n: u32) -> PythonLayout {
        PythonLayout {
            interpreters: 1000 + n,
            ..runtime::FIXED[0]
        }
    }

    #[test]
    fn a_number_is_given_back_and_nobody_has_all() {
        let mut numbers = Numbers::new();
        let (mut held, mut refused) = (Vec::new(), 0);
        for n in 0..100 {
            match numbers.take(&layout(n), 1000) {
                Some((number, is_new)) => {
                    assert!(is_new && *number as usize >= runtime::FIXED.len());
                    held.push(number);
                }
                None => refused += 1,
            }
        }
        assert_eq!((held.len(), refused), (OF_ONE_USER, 100 - OF_ONE_USER as u32));
        // Others have theirs, and the same one is shared.
        let (root, is_new) = numbers.take(&layout(500), 0).unwrap();
        assert!(is_new);
        assert_eq!(numbers.take(&layout(500), 1000), Some((root, false)));
        for (n, fixed) in runtime::FIXED.iter().enumerate() {
            assert_eq!(numbers.take(fixed, 1000), Some((Arc::new(n as u32), true)));
        }
        // One that is gone is free, those of the known versions for themselves only.
        let gone = *held.remove(3);
        assert_eq!(numbers.take(&layout(600), 1000), Some((Arc::new(gone), true)));
    }

    #[test]
    fn the_map_is_not_written_beyond_its_end() {
        let mut numbers = Numbers::new();
        let held: Vec<_> = (0..100).filter_map(|n| numbers.take(&layout(n), n)).collect();
        assert_eq!(held.len(), PYTHON_LAYOUTS - runtime::FIXED.len());
        assert!(
            held.iter()
                .all(|(number, _)| (**number as usize) < PYTHON_LAYOUTS)
        );
    }
}
