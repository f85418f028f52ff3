//! Tunnels, by what the probe of that name exports.

use super::meter::{Clock, Meter, label, number};
use crate::aggregate::{Snapshot, Value};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Who talks inside of a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InnerPair {
    /// Address on our side; `other` = all that are not among the busiest.
    pub local: String,
    /// Address on the other side.
    pub remote: String,
    /// Inner bytes per second: received, sent.
    pub bytes_rate: [f64; 2],
    /// Inner bytes since the pair is among the busiest.
    pub bytes: [u64; 2],
}

/// A tunnel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TunnelRow {
    /// `vxlan`, `wireguard` …
    #[serde(rename = "type")]
    pub kind: String,
    /// VNI, key or SPI; may be empty.
    pub id: String,
    /// Own end.
    pub local: String,
    /// Other end.
    pub remote: String,
    /// Its region; empty = not known.
    pub remote_region: String,
    /// Network namespace of the underlay device; empty = the agent's own.
    pub netns: String,
    /// `unknown`, `up`, `degraded` or `down`; empty for what found no row.
    pub state: String,
    /// Why; empty = all is well.
    pub reason: String,
    /// Bytes per second on the wire: received, sent.
    pub bytes_rate: [f64; 2],
    /// Bytes on the wire since the start.
    pub bytes: [u64; 2],
    /// Bytes that the tunnel carried.
    pub inner_bytes: [u64; 2],
    /// Packets per second.
    pub packets_rate: [f64; 2],
    /// Packets since the start.
    pub packets: [u64; 2],
    /// Packets since the start by direction and what they carry.
    pub classes: BTreeMap<String, u64>,
    /// Numbered packets that came; `None` = they have no numbers, or none came.
    pub sequenced: Option<u64>,
    /// Numbered packets that did not come.
    pub lost: u64,
    /// Came after a higher number.
    pub reordered: u64,
    /// Came twice.
    pub duplicated: u64,
    /// Share of the last 30 s that was lost.
    pub loss_ratio: Option<f64>,
    /// Seconds since the last handshake.
    pub handshake_age: Option<f64>,
    /// Median time of a handshake, s.
    pub handshake: Option<f64>,
    /// Own initiations without an answer.
    pub unanswered: f64,
    /// Median round-trip time of TCP inside, through the tunnel, s.
    pub rtt_remote: Option<f64>,
    /// The same to what lies behind us, s.
    pub rtt_local: Option<f64>,
    /// MTU that an oversize message told.
    pub mtu: Option<f64>,
    /// Who talks inside, the busiest first and `other` last; empty if that cannot be read.
    pub pairs: Vec<InnerPair>,
    /// Packets that were lost on its device, by device and reason. Other tunnels may have the same device.
    pub device_drops: BTreeMap<String, u64>,
    /// Seconds since the last packet, by direction.
    pub idle: [Option<f64>; 2],
}

#[derive(Debug, Default)]
struct Known {
    row: TunnelRow,
    bytes: [Meter; 2],
    packets: BTreeMap<String, (usize, Meter)>,
    /// By both addresses; whether it is in this snapshot.
    pairs: BTreeMap<(String, String), (bool, [Meter; 2])>,
    touched: bool,
}

/// All tunnels.
#[derive(Debug, Default)]
pub(super) struct Tunnels(BTreeMap<[String; 6], Known>);

impl Tunnels {
    /// Takes a snapshot. The busiest come first, but those that are not well before them.
    pub fn push(&mut self, snapshot: &Snapshot, clock: &Clock) -> Vec<TunnelRow> {
        self.0.values_mut().for_each(Known::begin);
        let mut drops = Vec::new();
        for family in &snapshot.families {
            let Some(name) = family.metric.name.strip_prefix("geophone_tunnel_") else {
                continue;
            };
            if name == "device_drops_total" {
                drops.extend(&family.series);
                continue;
            }
            for series in &family.series {
                let of = |name| label(&series.labels, name);
                if of("type").is_empty() {
                    continue;
                }
                let key =
                    ["type", "id", "local", "remote", "remote_region", "netns"].map(|n| of(n).to_owned());
                let known = self.0.entry(key).or_insert_with_key(|key| Known {
                    row: TunnelRow {
                        kind: key[0].clone(),
                        id: key[1].clone(),
                        local: key[2].clone(),
                        remote: key[3].clone(),
                        remote_region: key[4].clone(),
                        netns: key[5].clone(),
                        ..TunnelRow::default()
                    },
                    ..Known::default()
                });
                known.touched = true;
                let direction = usize::from(of("direction") == "transmit");
                let row = &mut known.row;
                let value = number(series);
                let median = match &series.value {
                    Value::Histogram(h) => h.quantile(0.5),
                    _ => None,
                };
                match name {
                    "bytes_total" => known.bytes[direction].update(value, &series.labels, clock),
                    "inner_bytes_total" => row.inner_bytes[direction] = value as u64,
                    "packets_total" => {
                        let name = format!("{} {}", of("direction"), of("class"));
                        let (_, meter) = known.packets.entry(name).or_insert((direction, Meter::default()));
                        meter.update(value, &series.labels, clock);
                    }
                    "inner_pair_bytes_total" => {
                        let ends = (of("inner_local").to_owned(), of("inner_remote").to_owned());
                        let (here, meters) = known.pairs.entry(ends).or_default();
                        *here = true;
                        meters[direction].update(value, &series.labels, clock);
                    }
                    "sequenced_packets_total" => row.sequenced = Some(value as u64),
                    "lost_packets_total" => row.lost = value as u64,
                    "reordered_packets_total" => row.reordered = value as u64,
                    "duplicated_packets_total" => row.duplicated = value as u64,
                    "loss_ratio" => row.loss_ratio = Some(value),
                    "handshake_age_seconds" => row.handshake_age = Some(value),
                    "handshake_seconds" => row.handshake = median,
                    "handshake_unanswered" if direction == 1 => row.unanswered = value,
                    "rtt_seconds" if of("side") == "local" => row.rtt_local = median,
                    "rtt_seconds" => row.rtt_remote = median,
                    "mtu_bytes" => row.mtu = Some(value),
                    "last_seen_timestamp_seconds" => row.idle[direction] = Some((clock.now - value).max(0.0)),
                    "state" => {
                        row.state = of("state").to_owned();
                        row.reason = of("reason").to_owned();
                    }
                    _ => {}
                }
            }
        }
        self.0.retain(|_, known| known.touched);
        for known in self.0.values_mut() {
            known.pairs.retain(|_, (here, _)| *here);
        }
        let mut rows: Vec<TunnelRow> = self.0.values().map(|known| known.row(clock)).collect();
        for series in drops {
            let of = |name| label(&series.labels, name);
            // What the device leaves open is any.
            let is = |name, own: &str| of(name).is_empty() || of(name) == own;
            let name = format!("{} {}", of("device"), of("reason"));
            for row in &mut rows {
                let ends = of("netns") == row.netns && is("local", &row.local) && is("remote", &row.remote);
                if of("type") == row.kind && is("id", &row.id) && ends {
                    row.device_drops.insert(name.clone(), number(series) as u64);
                }
            }
        }
        let ill = |row: &TunnelRow| matches!(row.state.as_str(), "down" | "degraded");
        rows.sort_by(|a, b| {
            let busy = |row: &TunnelRow| row.bytes_rate[0] + row.bytes_rate[1];
            ill(b).cmp(&ill(a)).then(busy(b).total_cmp(&busy(a)))
        });
        rows
    }
}

impl Known {
    fn begin(&mut self) {
        self.touched = false;
        self.pairs.values_mut().for_each(|(here, _)| *here = false);
        // What has no series in this snapshot is not known any more.
        let row = &mut self.row;
        (row.loss_ratio, row.handshake_age) = (None, None);
    }

    fn row(&self, clock: &Clock) -> TunnelRow {
        let mut row = self.row.clone();
        row.bytes = self.bytes.each_ref().map(|m| m.total as u64);
        row.bytes_rate = self.bytes.each_ref().map(|m| m.rate(clock));
        for (name, (direction, meter)) in &self.packets {
            row.packets[*direction] += meter.total as u64;
            row.packets_rate[*direction] += meter.rate(clock);
            row.classes.insert(name.clone(), meter.total as u64);
        }
        let pair = |((local, remote), (_, meters)): (&(String, String), &(bool, [Meter; 2]))| InnerPair {
            local: local.clone(),
            remote: remote.clone(),
            bytes_rate: meters.each_ref().map(|m| m.rate(clock)),
            bytes: meters.each_ref().map(|m| m.total as u64),
        };
        row.pairs = self.pairs.iter().map(pair).collect();
        row.pairs.sort_by(|a, b| {
            let order = |p: &InnerPair| (p.bytes_rate[0] + p.bytes_rate[1], p.bytes[0] + p.bytes[1]);
            let ((rate_a, sum_a), (rate_b, sum_b)) = (order(a), order(b));
            let other = a.remote.is_empty().cmp(&b.remote.is_empty());
            other.then(rate_b.total_cmp(&rate_a)).then(sum_b.cmp(&sum_a))
        });
        row
    }
}
