//! One tunnel as it is exported: the sum of its rows, and what it is called.

use super::health::{Health, Second, State};
use super::pairs::Pairs;
use crate::aggregate::{HistogramValue, Labels};
use crate::probes::Context;
use crate::records::TunnelChange;
use agent_common::tunnel::{TunnelKey, class, counter, direction, flag, kind, series};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// One tunnel, as exported.
pub struct Tunnel {
    /// type, id, local, remote, remote_region, netns.
    pub values: [String; 6],
    /// The same, encoded.
    pub labels: Arc<Labels>,
    /// The same with further values, by metric and variant.
    pub variants: HashMap<(usize, usize), Arc<Labels>>,
    /// See [`counter`].
    pub counters: [u64; counter::COUNT],
    /// Bytes beyond those of the inner packets, in and out: the most that was read so far.
    pub overhead: [u64; 2],
    /// See [`series`].
    pub histograms: [Arc<HistogramValue>; series::COUNT],
    /// Numbers that have not come: those that the kernel has counted, and those that its windows miss.
    pub lost: u64,
    pub(super) closed: u64,
    pub(super) open: u64,
    /// When packets were last seen, in and out, ns since the Unix epoch; 0 = never.
    pub last_seen: [u64; 2],
    /// When a handshake last ended, ns since the Unix epoch; 0 = never.
    pub last_handshake: u64,
    /// Initiations since the last answered one, in and out.
    pub unanswered: [u64; 2],
    /// MTU that was told last; 0 = none.
    pub mtu: u64,
    /// State.
    pub health: Health,
    /// Who talks inside.
    pub pairs: Pairs,
    /// Times that it became so, by [`State`].
    pub changes: [u64; 4],
    pub(super) before: Before,
    /// Until when nobody watched, ns since the Unix epoch: handshakes of before say nothing.
    pub(super) blind: u64,
    pub(super) rows: u32,
    /// A program looks at the packets of one of its devices.
    pub(super) watched: bool,
    pub(super) since: u64,
    pub(super) kind: u8,
    pub(super) overflow: bool,
}

#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Before {
    pub(super) packets: [u64; 2],
    pub(super) received: u64,
    pub(super) lost: u64,
    pub(super) too_big: u64,
}

impl Tunnel {
    /// A tunnel of which nothing is known yet.
    pub(super) fn new(values: [String; 6], kind: u8, since: u64, overflow: bool, unix_nanos: u64) -> Self {
        let refs: Vec<&str> = values.iter().map(String::as_str).collect();
        Self {
            labels: Arc::new(Labels::new(super::metrics::TUNNEL, &refs, overflow, unix_nanos)),
            values,
            variants: HashMap::new(),
            counters: [0; counter::COUNT],
            overhead: [0; 2],
            histograms: std::array::from_fn(|_| Arc::default()),
            lost: 0,
            closed: 0,
            open: 0,
            last_seen: [0; 2],
            last_handshake: 0,
            unanswered: [0; 2],
            mtu: 0,
            health: Health::default(),
            pairs: Pairs::default(),
            changes: [0; 4],
            before: Before::default(),
            blind: 0,
            rows: 0,
            watched: true,
            since,
            kind,
            overflow,
        }
    }

    /// Packets of a direction, all classes.
    pub fn packets(&self, direction: usize) -> u64 {
        self.counters
            .iter()
            .skip(counter::PACKETS + direction * class::COUNT)
            .take(class::COUNT)
            .sum()
    }

    /// Whether what it carries can be read: something of it was.
    pub fn is_clear(&self) -> bool {
        let first = |d: usize| counter::PACKETS + d * class::COUNT;
        let clear = |d| self.counters.iter().skip(first(d)).take(class::ENCRYPTED.into());
        [direction::INGRESS, direction::EGRESS]
            .into_iter()
            .any(|d| clear(d).any(|n| *n > 0))
    }

    /// Takes what all finds no room.
    pub fn is_other(&self) -> bool {
        self.overflow
    }

    /// Whether handshakes can be seen.
    pub fn is_wireguard(&self) -> bool {
        self.kind == kind::WIREGUARD
    }

    /// What one second brought; `seen` are the packets of the tunnel, or of all of its ends' where each direction has
    /// an id of its own.
    pub(super) fn second(&mut self, seen: [u64; 2], now: u64) -> Second {
        let received = self.counters[counter::SEQUENCE];
        let too_big = self.counters[counter::TOO_BIG];
        let last = if self.last_handshake == 0 {
            self.since
        } else {
            self.last_handshake
        };
        let age = now.saturating_sub(last.max(self.blind));
        let second = Second {
            packets: seen,
            received: received - self.before.received,
            lost: self.lost - self.before.lost,
            too_big: too_big - self.before.too_big,
            unanswered: self.unanswered[direction::EGRESS],
            dialogue: matches!(self.kind, kind::WIREGUARD | kind::OPENVPN),
            handshake_age: self.is_wireguard().then_some(age as f64 / 1e9),
        };
        self.before = Before {
            packets: self.before.packets,
            received,
            lost: self.lost,
            too_big,
        };
        second
    }

    /// Judges what one second brought, and tells if the state is another now.
    pub(super) fn judge(&mut self, second: &Second, unix_nanos: u64) -> Option<TunnelChange> {
        let before = self.health.now.0;
        let changed = if self.watched {
            self.health.update(second)
        } else {
            self.health.unwatched()
        };
        if !changed {
            return None;
        }
        if let Some(count) = self.changes.get_mut(self.health.now.0 as usize) {
            *count += 1;
        }
        Some(self.change(before, unix_nanos))
    }

    /// What there is to tell of a state that is another now.
    fn change(&self, before: State, unix_nanos: u64) -> TunnelChange {
        let [kind, id, local, remote, remote_region, netns] = self.values.clone();
        let (state, reason) = self.health.now;
        TunnelChange {
            time: unix_nanos as f64 / 1e9,
            r#type: kind,
            id,
            local,
            remote,
            remote_region,
            netns,
            before: before.as_str().to_owned(),
            state: state.as_str().to_owned(),
            reason: reason.to_owned(),
        }
    }

    /// Kind and both ends, whatever the id.
    pub fn ends(&self) -> (u8, [String; 3]) {
        (self.kind, [2, 3, 5].map(|i: usize| self.values[i].clone()))
    }
}

/// Kinds whose id is another in each direction.
pub(super) fn one_way(kind: u8) -> bool {
    matches!(kind, kind::ESP | kind::ESP_UDP | kind::AH)
}

/// The values of the labels of a row.
pub(super) fn values(key: &TunnelKey, netns: &str, context: &Context<'_>) -> [String; 6] {
    let name = kind::NAMES.get(key.kind as usize).copied().unwrap_or("unknown");
    let id = if key.flags & flag::HAS_ID == 0 {
        String::new()
    } else if matches!(key.kind, kind::ESP | kind::ESP_UDP | kind::AH) {
        // As `ip xfrm` shows it.
        format!("0x{:08x}", key.id)
    } else {
        key.id.to_string()
    };
    let peer = context.peers.get(context.peers.lookup_mapped(key.remote));
    [
        name.to_owned(),
        id,
        end(key.local, key.local_port),
        end(key.remote, key.remote_port),
        peer.region.clone(),
        netns.to_owned(),
    ]
}

/// An address, with its port if it has one.
pub fn end(address: [u8; 16], port: u16) -> String {
    let ip = IpAddr::from(Ipv6Addr::from(address)).to_canonical();
    if port == 0 {
        ip.to_string()
    } else {
        SocketAddr::new(ip, port).to_string()
    }
}
