//! Which devices carry tunnels: asked of rtnetlink, of the kernel's IPsec states and of the UDP sockets.

use super::ask;
use super::links::{self, Device, Tunnel};
use crate::config::Glob;
use crate::error::Result;
use crate::probes::watch::Underlay;
use crate::rtnetlink::Rtnetlink;
use agent_common::tunnel::kind;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Devices above one another, at most: the kernel's own limit (MAX_NEST_DEV).
const MAX_STACK: usize = 8;

/// Tunnel devices by interface index: name and what they say of their tunnel.
pub(super) type Tunnels = BTreeMap<u32, (String, Tunnel)>;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Devices that packets of tunnels pass, by interface index.
    pub underlays: BTreeMap<u32, Underlay>,
    /// UDP ports of devices that do not use the usual ones.
    pub ports: BTreeMap<u16, u8>,
    /// The tunnel devices themselves.
    pub tunnels: Tunnels,
}

/// Finds the devices. `ports` are the UDP ports that carry tunnels, `named` the patterns of devices that are wanted in
/// any case, `always` = as if there were a tunnel of unknown way.
pub(super) fn find(
    rtnetlink: &Rtnetlink,
    ports: &BTreeMap<u16, u8>,
    named: &[Glob],
    always: bool,
) -> Result<Found> {
    let devices = all(rtnetlink)?;
    let mut found = Found::default();
    let mut wanted = BTreeSet::new();
    let mut anywhere = always;
    let mut holders: Option<Vec<(u32, IpAddr)>> = None;
    // Fallback devices such as tunl0 are there wherever the module is loaded; those that are down carry nothing.
    let tunnels = devices.iter().filter(|d| d.up).filter_map(|d| d.tunnel.as_ref());
    let mut ways: Vec<(Option<u32>, Option<IpAddr>, Option<IpAddr>)> = Vec::new();
    for tunnel in tunnels {
        found.ports.extend(tunnel.port);
        ways.push((tunnel.link, tunnel.local, tunnel.remote));
    }
    for device in devices.iter().filter(|d| d.up && d.wireguard) {
        // It may have gone meanwhile; a port that is configured needs no asking.
        let port = ask::wireguard_port(device.index).ok().flatten();
        found.ports.extend(port.map(|port| (port, kind::WIREGUARD)));
    }
    ways.extend(ask::ipsec().into_iter().map(|remote| (None, None, Some(remote))));
    ways.extend(
        ask::sockets()
            .into_iter()
            .filter(|(_, port)| ports.contains_key(port))
            .map(|(address, _)| (None, address, None)),
    );
    for (link, local, remote) in ways {
        if let Some(link) = link {
            wanted.insert(link);
        } else if let Some(remote) = remote.filter(|r| !r.is_unspecified() && !r.is_multicast()) {
            // No route: nothing passes anywhere.
            wanted.extend(ask::route(rtnetlink, remote).ok().flatten());
        } else if let Some(local) = local.filter(|l| !l.is_unspecified()) {
            if holders.is_none() {
                holders = Some(ask::addresses(rtnetlink)?);
            }
            let holders = holders.iter().flatten();
            wanted.extend(holders.filter(|(_, a)| *a == local).map(|(index, _)| *index));
        } else {
            anywhere = true;
        }
    }
    if anywhere {
        let holders = match holders {
            Some(holders) => holders,
            None => ask::addresses(rtnetlink)?,
        };
        // A tunnel device is an underlay only where another tunnel says so.
        let tunnel = |index: &u32| devices.iter().any(|d| d.index == *index && d.tunnel.is_some());
        wanted.extend(
            holders
                .into_iter()
                .map(|(index, _)| index)
                .filter(|index| !tunnel(index)),
        );
    }
    let asked = |device: &&Device| named.iter().any(|pattern| pattern.matches(&device.name));
    let watched: BTreeSet<u32> = devices
        .iter()
        .filter(|device| asked(device) || wanted.contains(&device.index) && !device.loopback && device.up)
        .map(|device| device.index)
        .collect();
    let lower: BTreeMap<u32, u32> = devices.iter().filter_map(|d| Some((d.index, d.lower?))).collect();
    for device in devices {
        if let Some(tunnel) = &device.tunnel {
            found
                .tunnels
                .insert(device.index, (device.name.clone(), tunnel.clone()));
        }
        // Its packets pass the devices below as well, and would be counted twice.
        let below = std::iter::successors(lower.get(&device.index), |index| lower.get(index))
            .take(MAX_STACK)
            .any(|index| watched.contains(index));
        if watched.contains(&device.index) && !below {
            let underlay = Underlay {
                name: device.name,
                ethernet: device.ethernet,
            };
            found.underlays.insert(device.index, underlay);
        }
    }
    Ok(found)
}

/// Devices whose names match a pattern, but the loopback, by interface index.
pub(in crate::probes) fn named(rtnetlink: &Rtnetlink, patterns: &[Glob]) -> Result<BTreeMap<u32, Underlay>> {
    let wanted = |d: &Device| !d.loopback && patterns.iter().any(|p| p.matches(&d.name));
    let underlay = |d: Device| Underlay {
        name: d.name,
        ethernet: d.ethernet,
    };
    let devices = all(rtnetlink)?.into_iter().filter(wanted);
    Ok(devices.map(|d| (d.index, underlay(d))).collect())
}

fn all(rtnetlink: &Rtnetlink) -> Result<Vec<Device>> {
    let links = rtnetlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let device = |message: &RouteNetlinkMessage| match message {
        RouteNetlinkMessage::NewLink(link) => links::device(link),
        _ => None,
    };
    Ok(links.iter().filter_map(device).collect())
}
