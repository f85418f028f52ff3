//! What is lost on the tunnel devices themselves (`vxlan0`, `wg0`): rows of probe `drops`, by what the device says of its
//! tunnel. One device may be the end of many tunnels, so they are not counted by tunnel.

use super::devices::Tunnels;
use super::links::Tunnel;
use super::metrics::DEVICE_DROPS;
use super::netns::Namespace;
use crate::aggregate::{Family, Labels, Series, Value};
use crate::identity::Peers;
use crate::probes::DeviceDrops;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

/// The tunnel devices and their series.
#[derive(Default)]
pub struct Drops {
    /// By network namespace and interface index.
    devices: BTreeMap<(u32, u32), Device>,
    series: Vec<Series>,
}

struct Device {
    /// type, id, local, remote, remote_region, netns, device.
    values: [String; 7],
    reasons: BTreeMap<String, Told>,
}

/// What is told of a device and a reason.
#[derive(Default)]
struct Told {
    /// `None` = the device is called otherwise than it was.
    labels: Option<Arc<Labels>>,
    /// Packets as of the latest tick.
    packets: u64,
    /// Those of them that were told under other names of the device.
    before: u64,
}

impl Device {
    /// The device may have got another name or end, or its end another region. Its packets are counted on all the same, so
    /// what was told already is no part of the series that begin now.
    fn call(&mut self, values: [String; 7]) {
        if self.values == values {
            return;
        }
        self.values = values;
        for told in self.reasons.values_mut() {
            (told.labels, told.before) = (None, told.packets);
        }
    }
}

impl Drops {
    /// The tunnel devices that a namespace has now.
    pub(super) fn set(&mut self, netns: &Namespace, devices: &Tunnels, peers: &Peers) {
        self.devices
            .retain(|(n, index), _| *n != netns.inode || devices.contains_key(index));
        for (index, (device, tunnel)) in devices {
            let values = values(&netns.name, device, tunnel, peers);
            match self.devices.entry((netns.inode, *index)) {
                Entry::Occupied(known) => known.into_mut().call(values),
                Entry::Vacant(new) => {
                    let reasons = BTreeMap::new();
                    new.insert(Device { values, reasons });
                }
            }
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
        for (key, Device { values, reasons }) in &mut self.devices {
            for (reason, packets) in drops.get(key).into_iter().flatten().filter(|(r, _)| lost(r)) {
                let told = reasons.entry(reason.clone()).or_default();
                told.packets = *packets;
                let labels = told.labels.get_or_insert_with(|| {
                    let refs: Vec<&str> = values.iter().chain([reason]).map(String::as_str).collect();
                    Arc::new(Labels::new(DEVICE_DROPS.labels, &refs, false, unix_nanos))
                });
                self.series.push(Series {
                    labels: labels.clone(),
                    value: Value::Counter(packets.saturating_sub(told.before)),
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

/// Whether a packet that the kernel gave up for this reason is missing to anybody. What came out of the tunnel and reached
/// the sockets is not: copies for raw and packet sockets, packets that nobody has asked for (to the kernel an answer to a
/// `ping` is one, once its raw socket has had its copy), and what TCP has already or does not want.
fn lost(reason: &str) -> bool {
    const REACHED: [&str; 8] = [
        "SOCKET_FILTER",
        "NO_SOCKET",
        "SOCKET_CLOSE",
        "PACKET_SOCK_ERROR",
        "QUEUE_PURGE",
        "UNHANDLED_PROTO",
        "OTHERHOST",
        "DUP_FRAG",
    ];
    // By their beginnings.
    const TCP: [&str; 11] = [
        "ABORT_ON_DATA",
        "CLOSE",
        "FASTOPEN",
        "FLAGS",
        "INVALID_",
        "OFOMERGE",
        "OLD_",
        "RESET",
        "RFC7323_",
        "TOO_OLD_ACK",
        "ACK_UNSENT_DATA",
    ];
    match reason.strip_prefix("TCP_") {
        Some(reason) => !TCP.iter().any(|begin| reason.starts_with(begin)),
        None => !REACHED.contains(&reason),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_reached_the_sockets_is_not_lost() {
        for reason in [
            "SOCKET_FILTER",
            "NO_SOCKET",
            "TCP_OLD_DATA",
            "TCP_INVALID_SEQUENCE",
            "TCP_RFC7323_PAWS",
        ] {
            assert!(!lost(reason), "{reason}");
        }
        for reason in [
            "NETFILTER_DROP",
            "NOT_SPECIFIED",
            "SOCKET_RCVBUFF",
            "TCP_ZEROWINDOW",
            "TCP_OFO_QUEUE_PRUNE",
            "TCP_CSUM",
            "UDP_CSUM",
            "VXLAN_INVALID_HDR",
            "CPU_BACKLOG",
        ] {
            assert!(lost(reason), "{reason}");
        }
    }

    #[test]
    fn only_what_was_lost_is_told_of_a_tunnel() {
        let mut drops = Drops::default();
        let vxlan = Tunnel {
            kind: "vxlan",
            id: Some(7),
            ..Tunnel::default()
        };
        let devices = Tunnels::from([(3, ("vxlan7".to_owned(), vxlan))]);
        let own = Namespace::own();
        let peers = Peers::new(&[], "", "").unwrap();
        drops.set(&own, &devices, &peers);
        let of = |list: &[(&str, u64)]| list.iter().map(|(r, n)| ((*r).to_owned(), *n)).collect();
        let told = of(&[("NETFILTER_DROP", 4), ("NO_SOCKET", 100), ("SOCKET_FILTER", 50)]);
        drops.tick(&DeviceDrops::from([((own.inode, 3), told)]), 0);
        let mut out = Vec::new();
        drops.collect(&mut out);
        assert_eq!(out[0].series.len(), 1);
        assert!(matches!(out[0].series[0].value, Value::Counter(4)));
    }

    /// Cause: the far end gets another region while packets are lost. Seen: the new series has those from then on, and the sum
    /// over all regions all of them, once.
    #[test]
    fn what_was_told_of_a_region_is_not_told_of_the_next() {
        let mut drops = Drops::default();
        let vxlan = Tunnel {
            kind: "vxlan",
            remote: "10.0.0.9".parse().ok(),
            ..Tunnel::default()
        };
        let devices = Tunnels::from([(3, ("vxlan7".to_owned(), vxlan))]);
        let own = Namespace::own();
        let rules = "labels: [{metrics: geophone_tunnel_device_drops_total, exclude: [remote_region]}]";
        let rules = crate::config::Config::parse("f", rules).unwrap().labels;
        let mut fold = crate::aggregate::Fold::new(&rules, 0);
        // Region, packets that the kernel has counted; what is told, and the sum.
        for (region, packets, told, sum) in [
            ("eu", 4, 4, 4),
            ("eu", 6, 6, 6),
            ("us", 6, 0, 6),
            ("us", 9, 3, 9),
            ("eu", 10, 1, 10),
        ] {
            let cidr = "{name: far, cidrs: [10.0.0.0/8], region: ";
            let config = crate::config::Config::parse("f", &format!("peers: [{cidr}{region}}}]")).unwrap();
            drops.set(&own, &devices, &Peers::new(&config.peers, "", "").unwrap());
            let now = BTreeMap::from([("NETFILTER_DROP".to_owned(), packets)]);
            drops.tick(&DeviceDrops::from([((own.inode, 3), now)]), 0);
            let mut out = Vec::new();
            drops.collect(&mut out);
            let only = |out: &[Family]| match &out[0].series[..] {
                [
                    Series {
                        labels,
                        value: Value::Counter(n),
                    },
                ] => (labels.text.clone(), *n),
                other => panic!("{other:?}"),
            };
            let (text, count) = only(&out);
            assert!(text.contains(&format!("remote_region=\"{region}\"")), "{text}");
            assert_eq!(count, told, "{region} {packets}");
            fold.apply(&mut out);
            assert_eq!(only(&out).1, sum, "{region} {packets}");
        }
    }
}
