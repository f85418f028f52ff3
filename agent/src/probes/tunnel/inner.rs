//! Who talks inside. The kernel's cells are read here; which pairs have series is in [`super::pairs`].

use super::exported::Tunnel;
use super::pairs::lately;
use super::table::Maps;
use crate::bpf::sys::MappedArray;
use agent_common::tunnel::{InnerCell, InnerKey, inner};
use agent_common::wire::Wire as _;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::mem::offset_of;

/// Cells are given back after this many ticks without a packet.
const IDLE: u32 = 120;

#[derive(Default)]
struct Seen {
    bytes: [u64; 2],
    idle: u32,
    /// See [`lately`].
    busy: u64,
    /// Sum of this reading, and the cells that it is of.
    now: [u64; 2],
    cells: Vec<usize>,
}

/// On our side, on the other, the tunnel's slot, bytes, idle ticks, how busy.
type One = ([u8; 16], [u8; 16], u32, [u64; 2], u32, u64);

/// What a recording knows of them.
#[derive(Serialize, Deserialize)]
pub(super) struct Told(Vec<One>);

/// What was read of the kernel's pairs.
#[derive(Default)]
pub struct Inner {
    seen: HashMap<InnerKey, Seen>,
}

impl Inner {
    /// What is known of them, for a recording.
    pub(super) fn told(&self) -> Told {
        let all = self.seen.iter();
        let mut told: Vec<_> = all
            .map(|(k, seen)| (k.local, k.remote, k.slot, seen.bytes, seen.idle, seen.busy))
            .collect();
        told.sort();
        Told(told)
    }

    /// Of a recording.
    pub(super) fn resumed(Told(told): Told) -> Self {
        let one = |(local, remote, slot, bytes, idle, busy)| {
            let key = InnerKey {
                local,
                remote,
                slot,
                pad: 0,
            };
            let seen = Seen {
                bytes,
                idle,
                busy,
                ..Seen::default()
            };
            (key, seen)
        };
        Self {
            seen: told.into_iter().map(one).collect(),
        }
    }

    /// Reads all pairs and tells them to their tunnels. `tunnel` finds the tunnel of a slot.
    pub fn read(
        &mut self,
        maps: &Maps,
        tunnels: &mut [Option<Tunnel>],
        tunnel: impl Fn(u32) -> Option<usize>,
    ) {
        for cell in 0..maps.inner_cells {
            if let Some((key, bytes)) = read(&maps.inner, cell) {
                let seen = self.seen.entry(key).or_default();
                seen.now = [0, 1].map(|d: usize| seen.now[d].wrapping_add(bytes[d]));
                seen.cells.push(cell);
            }
        }
        self.seen.retain(|_, seen| !seen.cells.is_empty());
        for (key, seen) in &mut self.seen {
            let delta = [0, 1].map(|d: usize| seen.now[d].wrapping_sub(seen.bytes[d]));
            seen.bytes = std::mem::take(&mut seen.now);
            seen.idle = if delta == [0; 2] { seen.idle + 1 } else { 0 };
            seen.busy = lately(seen.busy, delta);
            if let Some(Some(tunnel)) = tunnel(key.slot).and_then(|i| tunnels.get_mut(i)) {
                tunnel.pairs.take((key.local, key.remote), delta, seen.busy);
            }
        }
        let quiet = quiet(self.seen.values(), maps.inner_cells);
        self.seen.retain(|key, seen| {
            let ended = seen.idle >= IDLE || seen.busy < quiet || tunnel(key.slot).is_none();
            for cell in seen.cells.drain(..).filter(|_| ended) {
                // What comes at this very moment is `other`, or begins a new row.
                maps.inner
                    .set_u64(cell, offset_of!(InnerCell, state), inner::FREE);
            }
            !ended
        });
    }
}

/// Below which the cells of a pair are given back at once: 0 while there is room. From three quarters on, a new pair may
/// find no cell, however busy it is; then the quieter half leaves.
fn quiet<'a>(seen: impl Iterator<Item = &'a Seen>, cells: usize) -> u64 {
    let mut busy: Vec<u64> = seen.map(|s| s.busy).collect();
    if busy.len() * 4 <= cells * 3 {
        return 0;
    }
    let half = busy.len() / 2;
    // One more than that of the middle, so that as many as are as quiet leave as well.
    busy.select_nth_unstable(half).1.saturating_add(1)
}

/// A cell that is in use.
pub(super) fn read(map: &MappedArray, cell: usize) -> Option<(InnerKey, [u64; 2])> {
    let word = |byte: usize| map.u64_at(cell, byte);
    if word(offset_of!(InnerCell, state)) != inner::TAKEN {
        return None;
    }
    let mut key = Vec::with_capacity(InnerKey::SIZE);
    for byte in (0..InnerKey::SIZE).step_by(8) {
        key.extend(word(offset_of!(InnerCell, key) + byte).to_ne_bytes());
    }
    let bytes = [0, 8].map(|byte| word(offset_of!(InnerCell, bytes) + byte));
    Some((InnerKey::decode(&key)?, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quieter_half_leaves_when_cells_run_short() {
        let seen = |busy| Seen {
            busy,
            ..Seen::default()
        };
        let few: Vec<Seen> = (0..48).map(seen).collect();
        assert_eq!(quiet(few.iter(), 64), 0, "there is room");
        let many: Vec<Seen> = (0..60).map(seen).collect();
        assert_eq!(quiet(many.iter(), 64), 31);
        // Somebody scans: all alike, and one that is busy.
        let scan: Vec<Seen> = (0..60).map(|_| seen(60)).chain([seen(1_000_000)]).collect();
        let least = quiet(scan.iter(), 64);
        assert_eq!(scan.iter().filter(|s| s.busy >= least).count(), 1);
    }
}
