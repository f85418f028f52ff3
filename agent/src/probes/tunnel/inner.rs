//! Who talks inside: a few pairs of each tunnel, the busiest when they were met, have series of their own; all others
//! share one.

use super::exported::{Tunnel, end};
use super::metrics::{DIRECTIONS, INNER_PAIR};
use super::table::Maps;
use crate::aggregate::Labels;
use crate::bpf::sys;
use crate::error::{Context as _, Result};
use crate::identity::Peer;
use crate::probes::Context;
use agent_common::tunnel::{InnerKey, InnerValue};
use agent_common::wire::Wire as _;
use std::collections::HashMap;
use std::os::fd::AsFd as _;
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
    touched: bool,
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
    ) -> Result<()> {
        let mut grown: Vec<(InnerKey, [u64; 2])> = Vec::new();
        let map = maps.inner.fd().as_fd();
        self.seen.values_mut().for_each(|seen| seen.touched = false);
        sys::for_each(map, InnerKey::SIZE, InnerValue::SIZE, |key, value| {
            let (Some(key), Some(value)) = (InnerKey::decode(key), InnerValue::decode(value)) else {
                return;
            };
            let seen = self.seen.entry(key).or_default();
            let delta = [0, 1].map(|d: usize| value.bytes[d].wrapping_sub(seen.bytes[d]));
            (seen.bytes, seen.touched) = (value.bytes, true);
            seen.idle = if delta == [0; 2] { seen.idle + 1 } else { 0 };
            if delta != [0; 2] {
                grown.push((key, delta));
            }
        })
        .context("TUNNEL_INNER")?;
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
            let ended = seen.touched && (seen.idle >= IDLE || tunnel(key.slot).is_none());
            if ended {
                let mut bytes = Vec::with_capacity(InnerKey::SIZE);
                key.encode(&mut bytes);
                // What comes at this very moment begins a new row.
                let _ = sys::remove(map, &bytes);
            }
            seen.touched && !ended
        });
        Ok(())
    }
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
