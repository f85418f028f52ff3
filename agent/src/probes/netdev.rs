//! Probe `netdev`: interfaces, from rtnetlink once a second. No program, nothing per packet.

mod speed;

use super::tunnel::default_routes;
use super::{Context, Probe};
use crate::aggregate::{Family, Kind, Label, Labels, Metric, Series, Stability, Value, label};
use crate::config::Glob;
use crate::error::{Context as _, Result};
use crate::record::Source;
use crate::rtnetlink::Rtnetlink;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, Stats64};
use serde::{Deserialize, Serialize};
use speed::speed;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const DEVICE_DIRECTION: &[&Label] = &[&label::DEVICE, &label::DIRECTION];

const fn counter(name: &'static str, otlp: &'static str, unit: &'static str, help: &'static str) -> Metric {
    Metric {
        name,
        otlp,
        unit,
        kind: Kind::Counter,
        help,
        labels: DEVICE_DIRECTION,
        stability: Stability::Stable,
    }
}

/// Bytes.
pub static BYTES: Metric = counter(
    "geophone_netdev_bytes_total",
    "system.network.io",
    "By",
    "Bytes that passed the interface",
);
/// Packets.
pub static PACKETS: Metric = counter(
    "geophone_netdev_packets_total",
    "system.network.packet.count",
    "{packet}",
    "Packets that passed the interface",
);
/// Errors.
pub static ERRORS: Metric = counter(
    "geophone_netdev_errors_total",
    "system.network.errors",
    "{error}",
    "Packets that the interface or its driver found faulty",
);
/// Drops.
pub static DROPS: Metric = counter(
    "geophone_netdev_drops_total",
    "system.network.packet.dropped",
    "{packet}",
    "Packets that the interface or its driver gave up; no reason is known, see geophone_drops_packets_total",
);
/// Speed.
pub static SPEED: Metric = Metric {
    name: "geophone_netdev_speed_bytes",
    otlp: "hw.network.bandwidth.limit",
    unit: "By/s",
    kind: Kind::Gauge,
    help: "Speed of the interface's link in bytes per second, where it has hardware whose driver tells",
    labels: &[&label::DEVICE],
    stability: Stability::Stable,
};
/// Up or down.
pub static UP: Metric = Metric {
    name: "geophone_netdev_up",
    otlp: "hw.network.up",
    unit: "1",
    kind: Kind::Gauge,
    help: "1 = the interface has a carrier and is up",
    labels: &[&label::DEVICE],
    stability: Stability::Stable,
};

/// Whether the default route leads here.
pub static UPLINK: Metric = Metric {
    name: "geophone_netdev_uplink",
    otlp: "geophone.netdev.uplink",
    unit: "1",
    kind: Kind::Gauge,
    help: "1 = a default route leads over the interface, 0 = none does any more; no series if none did since the agent began",
    labels: &[&label::DEVICE],
    stability: Stability::Experimental,
};

/// All of them.
pub const METRICS: &[&Metric] = &[&BYTES, &PACKETS, &ERRORS, &DROPS, &SPEED, &UP, &UPLINK];

/// Seconds between looks at the default routes.
const ROUTES_EVERY: u32 = 10;

/// What the configuration says.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Names to leave out.
    pub exclude: Vec<Glob>,
    /// Most interfaces with series of their own; what is beyond goes to `other`.
    pub max_devices: usize,
}

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Link {
    index: u32,
    name: String,
    up: bool,
    counts: Counts,
}

/// The fact that says what interfaces there are.
const FACT: &str = "links";

struct Device {
    /// Labels with direction receive, with transmit, and without.
    labels: [Arc<Labels>; 3],
    index: u32,
    link: Link,
    /// Bytes per second; `None` = the driver does not tell.
    speed: Option<f64>,
    speed_age: u32,
    /// Whether a default route leads over it; `None` = none ever did. The kernel takes the route away with the carrier or soon
    /// after, and who asks what an interface that is down has led to comes later than that.
    uplink: Option<bool>,
}

/// What is read of an interface: bytes, packets, errors, drops; each received and sent.
type Counts = [[u64; 2]; 4];

fn counts(s: &Stats64) -> Counts {
    [
        [s.rx_bytes, s.tx_bytes],
        [s.rx_packets, s.tx_packets],
        [s.rx_errors, s.tx_errors],
        [s.rx_dropped + s.rx_missed_errors, s.tx_dropped],
    ]
}

/// Interfaces beyond the limit, added up. They come and go, the sum only grows.
#[derive(Default)]
struct Other {
    last: BTreeMap<u32, Counts>,
    total: Counts,
    labels: Option<[Arc<Labels>; 2]>,
}

impl Other {
    fn update(&mut self, links: &[Link], unix_nanos: u64) {
        let last = std::mem::take(&mut self.last);
        for link in links {
            let now = link.counts;
            // One that is new here counts from now on: what it had counted before was not seen to happen.
            let before = last.get(&link.index).copied().unwrap_or(now);
            for (total, (now, before)) in self
                .total
                .iter_mut()
                .flatten()
                .zip(now.into_iter().flatten().zip(before.into_iter().flatten()))
            {
                *total += now.saturating_sub(before);
            }
            self.last.insert(link.index, now);
        }
        if self.labels.is_none() && !links.is_empty() {
            self.labels = Some(["receive", "transmit"].map(|direction| {
                Arc::new(Labels::new(
                    DEVICE_DIRECTION,
                    &["other", direction],
                    true,
                    unix_nanos,
                ))
            }));
        }
    }
}

/// The probe.
pub struct Netdev {
    options: Options,
    socket: Option<Rtnetlink>,
    devices: BTreeMap<String, Device>,
    other: Other,
    failing: bool,
    routes_age: u32,
}

impl Netdev {
    /// A probe without a socket yet.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            socket: None,
            devices: BTreeMap::new(),
            other: Other::default(),
            failing: false,
            routes_age: 0,
        }
    }

    /// The links as rtnetlink has them, or a recording; which has no failures.
    fn links(&mut self, source: &Source) -> Result<Vec<Link>> {
        if let Source::Recorded(past) = source {
            return Ok(past.fact(FACT).unwrap_or_default());
        }
        let links = self.dump()?;
        source.tell(FACT, || &links);
        Ok(links)
    }

    fn dump(&mut self) -> Result<Vec<Link>> {
        if self.socket.is_none() {
            self.socket = Some(Rtnetlink::open()?);
        }
        let socket = self.socket.as_ref().context("rtnetlink: no socket")?;
        let answer = socket.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let links = answer.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => read(link),
            _ => None,
        });
        Ok(links.collect())
    }

    fn update(&mut self, links: Vec<Link>, source: &Source, unix_nanos: u64) {
        let options = &self.options;
        let links: Vec<Link> = links
            .into_iter()
            .filter(|l| !options.exclude.iter().any(|p| p.matches(&l.name)))
            .collect();
        self.devices.retain(|name, device| {
            // Another index behind the same name is another interface: its counters begin anew.
            links.iter().any(|l| l.name == *name && l.index == device.index)
        });
        let mut beyond = Vec::new();
        for link in links {
            let full = self.devices.len() >= self.options.max_devices;
            match self.devices.get_mut(&link.name) {
                Some(device) => device.link = link,
                None if full => beyond.push(link),
                None => {
                    let labels = |direction: &str| {
                        Arc::new(Labels::new(
                            DEVICE_DIRECTION,
                            &[&link.name, direction],
                            false,
                            unix_nanos,
                        ))
                    };
                    let device = Device {
                        labels: [labels("receive"), labels("transmit"), labels("")],
                        index: link.index,
                        speed: None,
                        speed_age: 0,
                        uplink: None,
                        link: link.clone(),
                    };
                    self.devices.insert(link.name.clone(), device);
                }
            }
        }
        self.other.update(&beyond, unix_nanos);
        for (name, device) in &mut self.devices {
            // A link's speed changes with its cable: once in a while is often enough.
            if device.speed_age % 30 == 0 {
                device.speed = source.ask(&format!("speed {name}"), || speed(name)).flatten();
            }
            device.speed_age = device.speed_age.wrapping_add(1);
        }
        if self.routes_age.is_multiple_of(ROUTES_EVERY) {
            let socket = self.socket.as_ref();
            let ask = || socket.map(|socket| default_routes(socket, 0)).unwrap_or_default();
            let uplinks = source.ask("uplinks", ask).unwrap_or_default();
            self.lead(&uplinks);
        }
        self.routes_age = self.routes_age.wrapping_add(1);
    }

    /// Default routes lead over the interfaces of these indexes.
    fn lead(&mut self, uplinks: &BTreeSet<u32>) {
        for device in self.devices.values_mut() {
            match uplinks.contains(&device.index) {
                true => device.uplink = Some(true),
                false => device.uplink = device.uplink.and(Some(false)),
            }
        }
    }
}

fn read(message: &LinkMessage) -> Option<Link> {
    let mut name = None;
    let mut stats = None;
    let mut carrier = true;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(n) => name = Some(n.clone()),
            LinkAttribute::Stats64(s) => stats = Some(counts(s)),
            LinkAttribute::Carrier(c) => carrier = *c != 0,
            _ => {}
        }
    }
    const IFF_UP: u32 = 1;
    Some(Link {
        index: message.header.index,
        name: name?,
        up: message.header.flags.bits() & IFF_UP != 0 && carrier,
        counts: stats?,
    })
}

impl Probe for Netdev {
    fn name(&self) -> &'static str {
        "netdev"
    }

    fn attach(&mut self, context: &mut Context<'_>) -> Result<()> {
        let links = self.links(context.source)?;
        self.update(links, context.source, context.series_start);
        Ok(())
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        match self.links(context.source) {
            Ok(links) => {
                self.failing = false;
                self.update(links, context.source, context.series_start);
            }
            Err(e) => {
                self.socket = None;
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!("probe netdev: {e}; trying again every second");
                }
            }
        }
    }

    fn collect(&mut self, out: &mut Vec<Family>) {
        for (i, metric) in [&BYTES, &PACKETS, &ERRORS, &DROPS].into_iter().enumerate() {
            let series = |labels: &[Arc<Labels>], values: [u64; 2]| -> Vec<Series> {
                let pairs = labels.iter().zip(values);
                pairs
                    .map(|(labels, value)| Series {
                        labels: labels.clone(),
                        value: Value::Counter(value),
                    })
                    .collect()
            };
            let own = self
                .devices
                .values()
                .flat_map(|d| series(&d.labels, d.link.counts[i]));
            let other = self
                .other
                .labels
                .iter()
                .flat_map(|labels| series(labels, self.other.total[i]));
            out.push(Family {
                metric,
                series: own.chain(other).collect(),
            });
        }
        let gauge = |value: fn(&Device) -> Option<f64>| -> Vec<Series> {
            self.devices
                .values()
                .filter_map(|d| {
                    let labels = d.labels.last()?.clone();
                    Some(Series {
                        labels,
                        value: Value::Gauge(value(d)?),
                    })
                })
                .collect()
        };
        out.push(Family {
            metric: &SPEED,
            series: gauge(|d| d.speed),
        });
        out.push(Family {
            metric: &UP,
            series: gauge(|d| Some(f64::from(u8::from(d.link.up)))),
        });
        out.push(Family {
            metric: &UPLINK,
            series: gauge(|d| d.uplink.map(|is| f64::from(u8::from(is)))),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, rx_bytes: u64) -> Link {
        let mut stats = Stats64::default();
        stats.rx_bytes = rx_bytes;
        Link {
            index,
            name: format!("veth{index}"),
            up: true,
            counts: counts(&stats),
        }
    }

    #[test]
    fn what_is_beyond_the_limit_is_other_and_never_falls() {
        let mut netdev = Netdev::new(Options {
            max_devices: 2,
            ..Options::default()
        });
        let bytes = |netdev: &mut Netdev| -> Vec<(String, u64)> {
            let mut out = Vec::new();
            netdev.collect(&mut out);
            let family = out.into_iter().find(|f| f.metric.name == BYTES.name).unwrap();
            let series = family.series.into_iter();
            series
                .filter(|s| s.labels.text.contains("receive"))
                .map(|s| match s.value {
                    Value::Counter(n) => (s.labels.text.clone(), n),
                    _ => panic!("no counter"),
                })
                .collect()
        };
        netdev.update((1..=4).map(|i| link(i, 100)).collect(), &Source::Kernel, 1);
        netdev.update(
            (1..=4).map(|i| link(i, 100 + u64::from(i))).collect(),
            &Source::Kernel,
            2,
        );
        let seen = bytes(&mut netdev);
        assert_eq!(seen.len(), 3, "{seen:?}");
        let other = seen.last().unwrap();
        assert!(
            other.0.contains("other") && other.0.contains("overflow"),
            "{other:?}"
        );
        assert_eq!(other.1, 7, "3 and 4 since they were first seen");
        // One of them goes, another comes: the sum stays, and grows by what is seen to happen.
        netdev.update(
            vec![link(1, 101), link(2, 102), link(4, 110), link(9, 5000)],
            &Source::Kernel,
            3,
        );
        assert_eq!(bytes(&mut netdev).last().unwrap().1, 13);
    }

    #[test]
    fn the_loopback_is_found_and_an_index_change_is_a_new_device() {
        let mut netdev = Netdev::new(Options {
            max_devices: 16,
            ..Options::default()
        });
        let links = netdev.dump().unwrap();
        let lo = links.iter().find(|l| l.name == "lo").unwrap().clone();
        netdev.update(vec![lo.clone()], &Source::Kernel, 1);
        netdev.update(
            vec![Link {
                index: lo.index + 7,
                ..lo
            }],
            &Source::Kernel,
            2,
        );
        let device = netdev.devices.get("lo").unwrap();
        assert_eq!(device.labels[0].start_unix_nanos, 2);
    }
    #[test]
    fn an_uplink_is_remembered_when_its_route_is_gone() {
        let mut netdev = Netdev::new(Options {
            max_devices: 16,
            ..Options::default()
        });
        let uplinks = |netdev: &mut Netdev| -> Vec<Value> {
            let mut out = Vec::new();
            netdev.collect(&mut out);
            let family = out.into_iter().find(|f| f.metric.name == UPLINK.name).unwrap();
            family.series.into_iter().map(|s| s.value).collect()
        };
        netdev.update(vec![link(1, 0), link(2, 0)], &Source::Kernel, 1);
        assert!(uplinks(&mut netdev).is_empty());
        netdev.lead(&BTreeSet::from([2]));
        assert!(matches!(uplinks(&mut netdev)[..], [Value::Gauge(1.0)]));
        netdev.lead(&BTreeSet::from([1]));
        let both = uplinks(&mut netdev);
        assert!(matches!(both[..], [Value::Gauge(1.0), Value::Gauge(0.0)]));
    }
}
