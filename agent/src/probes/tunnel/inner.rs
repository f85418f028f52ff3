//! Who talks inside: a few pairs of each tunnel, the busiest when they were met, have series of their own; all others
//! share one.

use super::exported::{Tunnel, end};
use super::metrics::{DIRECTIONS, INNER_PAIR};
use super::table::Maps;
use crate::aggregate::Labels;
use crate::bpf::sys::MappedArray;
use crate::identity::Peer;
use crate::probes::Context;
use agent_common::tunnel::{InnerCell, InnerKey, inner};
use agent_common::wire::Wire as _;
use std::collections::HashMap;
use std::mem::offset_of;
use std::sync::Arc;

/// Rows of pairs are given back after this many ticks without a packet.
const IDLE: u32 = 120;
/// Series of pairs end after this many.
const SERIES_IDLE: u32 = 600;

/// A pair that has series of its own.
pub struct Pair {
    local: [u8; 16],
    remote: [u8; 16],
    /// The peer of the remote address: its id and its names.
    pub peer: (u32, Arc<Peer>),
    /// Inner bytes received, sent.
    pub bytes: [u64; 2],
    /// Labels of both.
    pub labels: [Arc<Labels>; 2],
    idle: u32,
}

#[derive(Default)]
struct Seen {
    bytes: [u64; 2],
    idle: u32,
    /// Sum of this reading, and the cells that it is of.
    now: [u64; 2],
    cells: Vec<usize>,
}

/// What was read of the kernel's pairs.
#[derive(Default)]
pub struct Inner {
    seen: HashMap<InnerKey, Seen>,
}

impl Inner {
    /// Reads all pairs. `tunnel` finds the tunnel of a slot, `most` is the number of pairs that have series.
    pub fn read(
        &mut self,
        maps: &Maps,
        most: usize,
        context: &Context<'_>,
        tunnels: &mut [Option<Tunnel>],
        tunnel: impl Fn(u32) -> Option<usize>,
    ) {
        let mut grown: Vec<(InnerKey, [u64; 2])> = Vec::new();
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
            if delta != [0; 2] {
                grown.push((*key, delta));
            }
        }
        for pair in tunnels.iter_mut().flatten().flat_map(|t| &mut t.pairs) {
            pair.idle += 1;
        }
        grown.sort_unstable_by_key(|(_, delta)| std::cmp::Reverse(delta[0].saturating_add(delta[1])));
        for (key, delta) in grown {
            if let Some(Some(tunnel)) = tunnel(key.slot).and_then(|i| tunnels.get_mut(i)) {
                tunnel.inner(&key, delta, most, context);
            }
        }
        for tunnel in tunnels.iter_mut().flatten() {
            let other = &mut tunnel.other_pairs;
            tunnel.pairs.retain(|pair| {
                if pair.idle >= SERIES_IDLE {
                    // The sum over all pairs stays what it was.
                    (other[0], other[1]) = (other[0] + pair.bytes[0], other[1] + pair.bytes[1]);
                }
                pair.idle < SERIES_IDLE
            });
        }
        self.seen.retain(|key, seen| {
            let ended = seen.idle >= IDLE || tunnel(key.slot).is_none();
            for cell in seen.cells.drain(..).filter(|_| ended) {
                // What comes at this very moment is lost, or begins a new row.
                maps.inner
                    .set_u64(cell, offset_of!(InnerCell, state), inner::FREE);
            }
            !ended
        });
    }
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

impl Tunnel {
    fn inner(&mut self, key: &InnerKey, delta: [u64; 2], most: usize, context: &Context<'_>) {
        let known = self
            .pairs
            .iter()
            .position(|p| p.local == key.local && p.remote == key.remote);
        let index = match known {
            Some(index) => index,
            None if self.pairs.len() < most => {
                let (local, remote) = (end(key.local, 0), end(key.remote, 0));
                let labels = self.pair_labels(&local, &remote, context.series_start);
                let peer = context.peers.lookup_mapped(key.remote);
                self.pairs.push(Pair {
                    local: key.local,
                    remote: key.remote,
                    peer: (peer, context.peers.get(peer).clone()),
                    bytes: [0; 2],
                    labels,
                    idle: 0,
                });
                self.pairs.len() - 1
            }
            None => {
                for (total, delta) in self.other_pairs.iter_mut().zip(delta) {
                    *total += delta;
                }
                return;
            }
        };
        if let Some(pair) = self.pairs.get_mut(index) {
            pair.idle = 0;
            for (total, delta) in pair.bytes.iter_mut().zip(delta) {
                *total += delta;
            }
        }
    }

    /// Labels of a pair's series, received and sent.
    fn pair_labels(&self, local: &str, remote: &str, unix_nanos: u64) -> [Arc<Labels>; 2] {
        DIRECTIONS.map(|direction| {
            let own = self.values.iter().map(String::as_str);
            let values: Vec<&str> = own.chain([direction, local, remote]).collect();
            Arc::new(Labels::new(INNER_PAIR, &values, false, unix_nanos))
        })
    }
}
