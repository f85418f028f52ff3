//! The other ends that are known: those that devices, the forwarding tables of VXLANs and IPsec states name, and those that
//! something was sent to. Only packets from them make rows; see [`EndKey`].

use crate::bpf::KernelMap;
use crate::error::{Context as _, Result};
use agent_common::tunnel::{END_ROWS, EndKey, TunnelKey};
use agent_common::wire::Wire as _;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// `TUNNEL_ENDS`.
pub struct Ends {
    map: KernelMap,
    named: BTreeSet<EndKey>,
    /// Ends without a row at the last sweep: a program makes the row first.
    idle: BTreeSet<EndKey>,
}

impl Ends {
    /// None is known yet.
    pub fn new(map: KernelMap) -> Self {
        Self {
            map,
            named: BTreeSet::new(),
            idle: BTreeSet::new(),
        }
    }

    /// Lets an end make so many rows.
    pub fn name(&self, end: &EndKey, rows: u32) -> Result<()> {
        self.map
            .update(&bytes(end), &rows.to_ne_bytes())
            .context("map TUNNEL_ENDS")
    }

    /// Those that are named now. If they are more than there is room for, the rest is known once something is sent to it.
    pub fn set(&mut self, named: BTreeSet<EndKey>) {
        for end in named.difference(&self.named) {
            if self.name(end, END_ROWS).is_err() {
                break;
            }
        }
        self.named = named;
    }

    /// Counts what each may still make, and forgets those that nobody names and that have no row. `rows` are the tunnels.
    pub fn sweep<'a>(&mut self, rows: impl Iterator<Item = &'a TunnelKey>) -> Result<()> {
        let mut counts: BTreeMap<EndKey, u32> = BTreeMap::new();
        for key in rows {
            *counts.entry(key.end()).or_default() += 1;
        }
        let mut there = Vec::new();
        self.map
            .for_each(EndKey::SIZE, 4, |key, value| {
                let left = value.try_into().map(u32::from_ne_bytes);
                there.extend(EndKey::decode(key).zip(left.ok()));
            })
            .context("TUNNEL_ENDS")?;
        let mut idle = BTreeSet::new();
        for (end, left) in there {
            let rows = counts.get(&end).copied().unwrap_or(0);
            let now = END_ROWS.saturating_sub(rows);
            if rows > 0 || self.named.contains(&end) {
                if now != left {
                    self.name(&end, now)?;
                }
            } else if self.idle.contains(&end) {
                // Somebody else may have removed it.
                let _ = self.map.remove(&bytes(&end));
            } else {
                idle.insert(end);
            }
        }
        self.idle = idle;
        Ok(())
    }
}

/// The end of tunnels of a kind, in a namespace of this number. `None` = it is not one.
pub(super) fn end(kind: u8, remote: IpAddr, netns: u16) -> Option<EndKey> {
    let remote = match remote {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    };
    let unicast = !(remote.is_unspecified() || remote.is_multicast())
        && remote
            .to_ipv4_mapped()
            .is_none_or(|a| !(a.is_unspecified() || a.is_multicast()));
    unicast.then(|| EndKey {
        remote: remote.octets(),
        kind,
        pad: 0,
        netns,
        pad2: 0,
    })
}

fn bytes(end: &EndKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(EndKey::SIZE);
    end.encode(&mut out);
    out
}
