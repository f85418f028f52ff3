//! What the kernel gives up on the tunnel devices themselves (`vxlan0`, `wg0`): rows of probe `drops`, by what the device
//! says of its tunnel. One device may be the end of many tunnels, so they are not counted by tunnel.

use super::devices::Tunnels;
use super::links::Tunnel;
use super::metrics::DEVICE_DROPS;
use super::netns::Namespace;
use crate::aggregate::{Family, Labels, Series, Value};
use crate::identity::Peers;
use crate::probes::DeviceDrops;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// The tunnel devices and their series.
#[derive(Default)]
pub struct Drops {
    /// type, id, local, remote, remote_region, netns, device; by network namespace and interface index.
    devices: BTreeMap<(u32, u32), [String; 7]>,
    labels: HashMap<Vec<String>, Arc<Labels>>,
    series: Vec<Series>,
}

impl Drops {
    /// The tunnel devices that a namespace has now.
    pub(super) fn set(&mut self, netns: &Namespace, devices: &Tunnels, peers: &Peers) {
        self.devices.retain(|(n, _), _| *n != netns.inode);
        for (index, (device, tunnel)) in devices {
            let values = values(&netns.name, device, tunnel, peers);
            self.devices.insert((netns.inode, *index), values);
        }
    }

    /// Forgets the devices of all other namespaces.
    pub(super) fn keep(&mut self, there: &[Namespace]) {
        self.devices
            .retain(|(inode, _), _| there.iter().any(|n| n.inode == *inode));
    }

    /// Takes what probe `drops` has read in this tick.
    pub fn tick(&mut self, drops: &DeviceDrops, unix_nanos: u64) {
        self.series.clear();
        let mut before = std::mem::take(&mut self.labels);
        for (device, values) in &self.devices {
            for (reason, packets) in drops.get(device).into_iter().flatten() {
                let values: Vec<String> = values.iter().chain([reason]).cloned().collect();
                let labels = before.remove(&values).unwrap_or_else(|| {
                    let refs: Vec<&str> = values.iter().map(String::as_str).collect();
                    Arc::new(Labels::new(DEVICE_DROPS.labels, &refs, false, unix_nanos))
                });
                self.labels.insert(values, labels.clone());
                self.series.push(Series {
                    labels,
                    value: Value::Counter(*packets),
                });
            }
        }
    }

    /// Appends the family.
    pub fn collect(&self, out: &mut Vec<Family>) {
        out.push(Family {
            metric: &DEVICE_DROPS,
            series: self.series.clone(),
        });
    }
}

fn values(netns: &str, device: &str, tunnel: &Tunnel, peers: &Peers) -> [String; 7] {
    let one = |address: Option<IpAddr>| address.filter(|a| !a.is_unspecified() && !a.is_multicast());
    let end = |address: Option<IpAddr>| one(address).map(|a| a.to_string()).unwrap_or_default();
    let region = one(tunnel.remote).map(|remote| peers.get(peers.lookup(remote)).region.clone());
    [
        tunnel.kind.to_owned(),
        tunnel.id.map(|id| id.to_string()).unwrap_or_default(),
        end(tunnel.local),
        end(tunnel.remote),
        region.unwrap_or_default(),
        netns.to_owned(),
        device.to_owned(),
    ]
}
