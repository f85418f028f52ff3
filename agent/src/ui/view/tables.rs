//! Drops by cause and interfaces by name.

use super::meter::{Clock, History, Meter, label, number, sum};
use super::{DeviceRow, DropRow, Lane};
use crate::aggregate::{Family, Snapshot};
use std::collections::{BTreeMap, HashMap};

pub(super) const DROPS: &str = "geophone_drops_packets_total";
const SPEED: &str = "geophone_netdev_speed_bytes";
/// Metrics of a lane, in the order of [`Device::lanes`].
const NETDEV: [&str; 4] = [
    "geophone_netdev_bytes_total",
    "geophone_netdev_packets_total",
    "geophone_netdev_errors_total",
    "geophone_netdev_drops_total",
];

#[derive(Debug, Default)]
struct Cause {
    row: DropRow,
    meter: Meter,
    history: History,
    last: Option<f64>,
    touched: bool,
}

/// Dropped packets.
#[derive(Debug, Default)]
pub(super) struct Drops {
    causes: HashMap<String, Cause>,
    history: History,
}

/// Rows, packets per second, packets since the start, history.
pub(super) type DropRows = (Vec<DropRow>, f64, u64, Vec<f64>);

impl Drops {
    /// Takes a snapshot.
    pub fn push(&mut self, family: Option<&Family>, clock: &Clock) -> DropRows {
        self.causes.values_mut().for_each(|c| c.touched = false);
        for series in family.iter().flat_map(|f| &f.series) {
            let labels = &*series.labels;
            let cause = self.causes.entry(labels.text.clone()).or_insert_with(|| {
                let of = |name| label(labels, name).to_owned();
                let row = DropRow {
                    reason: if labels.overflow {
                        "(other)".into()
                    } else {
                        of("reason")
                    },
                    protocol: of("protocol"),
                    device: of("device"),
                    direction: of("direction"),
                    subject: of("subject"),
                    ..DropRow::default()
                };
                Cause {
                    row,
                    ..Cause::default()
                }
            });
            cause.touched = true;
            cause.meter.update(number(series), labels, clock);
            if cause.meter.delta > 0.0 {
                cause.last = Some(clock.now);
            }
            cause.history.push(cause.meter.rate(clock), clock);
        }
        self.causes.retain(|_, c| c.touched);
        let mut rows: Vec<DropRow> = self.causes.values().map(|c| c.row(clock)).collect();
        rows.sort_by(|a, b| {
            let order = b.rate.total_cmp(&a.rate).then_with(|| b.total.cmp(&a.total));
            order.then_with(|| (&a.reason, &a.device, &a.subject).cmp(&(&b.reason, &b.device, &b.subject)))
        });
        let rate = sum(rows.iter().map(|r| r.rate));
        self.history.push(rate, clock);
        let total = rows.iter().map(|r| r.total).sum();
        (rows, rate, total, self.history.points())
    }
}

impl Cause {
    fn row(&self, clock: &Clock) -> DropRow {
        DropRow {
            rate: self.meter.rate(clock),
            total: self.meter.total as u64,
            age: self.last.map(|at| (clock.now - at).max(0.0)),
            history: self.history.points(),
            ..self.row.clone()
        }
    }
}

#[derive(Debug, Default)]
struct Device {
    /// `[bytes, packets, errors, drops]` by direction: receive, transmit.
    lanes: [[Meter; 4]; 2],
    speed: Option<f64>,
    history: History,
    touched: bool,
}

/// Network interfaces.
#[derive(Debug, Default)]
pub(super) struct Devices(BTreeMap<String, Device>);

impl Devices {
    /// Takes a snapshot.
    pub fn push(&mut self, snapshot: &Snapshot, clock: &Clock) -> Vec<DeviceRow> {
        self.0
            .values_mut()
            .for_each(|d| (d.touched, d.speed) = (false, None));
        for family in &snapshot.families {
            let meter = NETDEV.iter().position(|name| *name == family.metric.name);
            if meter.is_none() && family.metric.name != SPEED {
                continue;
            }
            for series in &family.series {
                let name = if series.labels.overflow {
                    "(other)"
                } else {
                    label(&series.labels, "device")
                };
                let device = self.0.entry(name.to_owned()).or_default();
                device.touched = true;
                let Some(meter) = meter else {
                    device.speed = Some(number(series)).filter(|v| *v > 0.0);
                    continue;
                };
                let [receive, transmit] = &mut device.lanes;
                let lane = match label(&series.labels, "direction") {
                    "receive" => receive,
                    "transmit" => transmit,
                    _ => continue,
                };
                if let Some(meter) = lane.get_mut(meter) {
                    meter.update(number(series), &series.labels, clock);
                }
            }
        }
        self.0.retain(|_, d| d.touched);
        self.0
            .iter_mut()
            .map(|(name, device)| device.row(name, clock))
            .collect()
    }
}

impl Device {
    fn row(&mut self, name: &str, clock: &Clock) -> DeviceRow {
        let [receive, transmit] = self.lanes.each_ref().map(|lane| {
            let [bytes, packets, errors, drops] = lane;
            Lane {
                bytes_rate: bytes.rate(clock),
                packets_rate: packets.rate(clock),
                errors_rate: errors.rate(clock),
                drops_rate: drops.rate(clock),
                bytes: bytes.total as u64,
                packets: packets.total as u64,
                errors: errors.total as u64,
                drops: drops.total as u64,
            }
        });
        self.history.push(receive.bytes_rate + transmit.bytes_rate, clock);
        DeviceRow {
            device: name.to_owned(),
            receive,
            transmit,
            speed: self.speed,
            history: self.history.points(),
        }
    }
}
