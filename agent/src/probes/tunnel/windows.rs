//! What is missing in the windows of sequence numbers, and the end of windows that nothing comes to any more.

use crate::bpf::KernelMap;
use crate::error::Result;
use agent_common::tunnel::window::holes_below;
use agent_common::tunnel::{WindowKey, WindowValue};
use agent_common::wire::Wire as _;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Windows are given up after this many ticks without a packet: a WireGuard session ends after 180 s.
const IDLE: u32 = 300;

#[derive(Clone, Serialize, Deserialize)]
struct Seen {
    epoch: u64,
    /// Tops of the last two ticks, the older one last.
    tops: [u64; 2],
    idle: u32,
    /// Missing numbers in all of it, as last read.
    holes: u64,
}

/// All windows.
#[derive(Default)]
pub struct Windows {
    seen: HashMap<WindowKey, Seen>,
}

/// What a recording knows of windows.
#[derive(Serialize, Deserialize)]
pub(super) struct Told(Vec<(u32, u32, Seen)>);

/// Missing numbers of one tunnel that the kernel has not counted as lost.
#[derive(Clone, Copy, Default)]
pub struct Missing {
    /// In windows that live: what is older than two ticks.
    pub open: u64,
    /// In windows that have just been given up: to be added for good.
    pub closed: u64,
}

impl Windows {
    /// Reads all windows. By slot.
    pub fn read(&mut self, map: &KernelMap) -> Result<HashMap<u32, Missing>> {
        let mut out: HashMap<u32, Missing> = HashMap::new();
        let mut ended = Vec::new();
        // A replay that began later does not know how long nothing has come.
        for key in map.vanished::<WindowKey>() {
            let seen = self.seen.remove(&key);
            out.entry(key.slot).or_default().closed += seen.map_or(0, |seen| seen.holes);
        }
        self.seen.values_mut().for_each(|s| s.idle += 1);
        map.for_each_locked(WindowKey::SIZE, WindowValue::SIZE, |key, value| {
            let (Some(key), Some(WindowValue { window, .. })) =
                (WindowKey::decode(key), WindowValue::decode(value))
            else {
                return;
            };
            let seen = self.seen.entry(key).or_insert(Seen {
                epoch: window.epoch,
                tops: [window.top, 0],
                idle: 1,
                holes: 0,
            });
            seen.holes = holes_below(&window, u64::MAX);
            let missing = out.entry(key.slot).or_default();
            if seen.epoch != window.epoch {
                // What was missing before has been counted by the kernel.
                (seen.epoch, seen.tops, seen.idle) = (window.epoch, [window.top, 0], 0);
                return;
            }
            missing.open += holes_below(&window, seen.tops[1]);
            if window.top != seen.tops[0] {
                seen.idle = 0;
            }
            seen.tops = [window.top, seen.tops[0]];
            if seen.idle >= IDLE {
                ended.push((key, seen.holes));
            }
        })?;
        for (key, holes) in ended {
            if map.remove(&bytes(&key)).is_ok() {
                self.seen.remove(&key);
                let missing = out.entry(key.slot).or_default();
                missing.open = missing.open.saturating_sub(holes);
                missing.closed += holes;
            }
        }
        self.seen.retain(|_, s| s.idle <= IDLE + 1);
        Ok(out)
    }

    /// Gives up all windows, since nobody watches any more: what comes later begins anew. By slot, what is missing for
    /// good; that of the last two ticks may have come unseen.
    pub fn end(&mut self, map: &KernelMap) -> Result<BTreeMap<u32, u64>> {
        let mut out: BTreeMap<u32, u64> = BTreeMap::new();
        let mut all = Vec::new();
        map.for_each_locked(WindowKey::SIZE, WindowValue::SIZE, |key, value| {
            let (Some(key), Some(value)) = (WindowKey::decode(key), WindowValue::decode(value)) else {
                return;
            };
            let seen = self.seen.get(&key).filter(|s| s.epoch == value.window.epoch);
            let below = seen.map_or(0, |s| s.tops[1]);
            *out.entry(key.slot).or_default() += holes_below(&value.window, below);
            all.push(key);
        })?;
        for key in all {
            let _ = map.remove(&bytes(&key));
        }
        self.forget();
        Ok(out)
    }

    /// Knows none any more.
    pub fn forget(&mut self) {
        self.seen.clear();
    }

    /// What is known of them, for a recording.
    pub(super) fn told(&self) -> Told {
        let all = self.seen.iter();
        let mut told: Vec<_> = all
            .map(|(key, seen)| (key.slot, key.index, seen.clone()))
            .collect();
        told.sort_by_key(|(slot, index, _)| (*slot, *index));
        Told(told)
    }

    /// Of a recording.
    pub(super) fn resumed(Told(told): Told) -> Self {
        let key = |slot, index| WindowKey { slot, index };
        let seen = told
            .into_iter()
            .map(|(slot, index, seen)| (key(slot, index), seen));
        Self { seen: seen.collect() }
    }

    /// Gives up the windows of a slot that is given back. What they miss has been read.
    pub fn remove(&mut self, map: &KernelMap, slot: u32) {
        self.seen.retain(|key, _| {
            if key.slot == slot {
                let _ = map.remove(&bytes(key));
            }
            key.slot != slot
        });
    }
}

fn bytes(key: &WindowKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(WindowKey::SIZE);
    key.encode(&mut out);
    out
}
