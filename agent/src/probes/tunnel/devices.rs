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
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Devices above one another, at most: the kernel's own limit (MAX_NEST_DEV).
const MAX_STACK: usize = 8;

/// Tunnel devices by interface index: name and what they say of their tunnel.
pub(super) type Tunnels = BTreeMap<u32, (String, Tunnel)>;

/// Routes that are asked for at a time.
const ROUTES: usize = 256;

/// Which way the packets of a tunnel go, as far as it is told.
#[derive(Default)]
struct Way {
    /// The device that it is bound to.
    link: Option<u32>,
    /// Its own address.
    local: Option<IpAddr>,
    /// Other ends.
    remotes: BTreeSet<IpAddr>,
    /// Mark of the packets, by which they may be routed.
    mark: u32,
    /// There may be ends that are not known yet. They will be once something has come from them: until then they are
    /// looked for on the default routes, and not on every device.
    learns: bool,
}

fn unicast(address: &IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast()
}

fn is_vxlan(device: &Device) -> bool {
    let names = [kind::VXLAN, kind::VXLAN_GPE].map(|kind| kind::NAMES.get(usize::from(kind)).copied());
    device
        .tunnel
        .as_ref()
        .is_some_and(|t| names.contains(&Some(t.kind)))
}

/// What was found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Found {
    /// Devices that packets of tunnels pass, by interface index.
    pub underlays: BTreeMap<u32, Underlay>,
    /// UDP ports of devices that do not use the usual ones.
    pub ports: BTreeMap<u16, u8>,
    /// The tunnel devices themselves.
    pub tunnels: Tunnels,
    /// Other ends that they name, by kind.
    pub ends: BTreeSet<(u8, IpAddr)>,
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
    let mut ways = Vec::new();
    // Fallback devices such as tunl0 are there wherever the module is loaded; those that are down carry nothing.
    let tunnels = || devices.iter().filter(|d| d.up && d.tunnel.is_some());
    let forwards = if tunnels().any(is_vxlan) {
        ask::forwards(rtnetlink)?
    } else {
        Vec::new()
    };
    for device in tunnels() {
        let Some(tunnel) = &device.tunnel else { continue };
        let own = || forwards.iter().filter(|f| f.device == device.index);
        found.ports.extend(tunnel.port);
        let kind = kind::NAMES.iter().position(|name| *name == tunnel.kind);
        let told = own().filter(|f| f.told).map(|f| f.to).chain(tunnel.remote);
        found.ends.extend(told.filter_map(|to| Some((kind? as u8, to))));
        if device.wireguard {
            // It may have gone meanwhile; a port that is configured needs no asking.
            let told = ask::wireguard(device.index).unwrap_or_default();
            found.ports.extend(told.port.map(|port| (port, kind::WIREGUARD)));
            let ends = told.ends.iter().map(|end| (kind::WIREGUARD, *end));
            found.ends.extend(ends);
            ways.push(Way {
                learns: told.unheard || told.ends.is_empty(),
                remotes: told.ends.into_iter().filter(unicast).collect(),
                mark: told.mark,
                ..Way::default()
            });
            continue;
        }
        let remotes: BTreeSet<_> = own().map(|f| f.to).chain(tunnel.remote).filter(unicast).collect();
        ways.push(Way {
            link: tunnel.link,
            local: tunnel.local,
            // One whose ids come by packet learns nothing.
            learns: is_vxlan(device) && tunnel.id.is_some() && remotes.is_empty(),
            remotes,
            ..Way::default()
        });
    }
    let ipsec = ask::ipsec();
    let kinds = [kind::ESP, kind::ESP_UDP, kind::AH];
    found
        .ends
        .extend(ipsec.iter().flat_map(|end| kinds.map(|kind| (kind, *end))));
    ways.extend(ipsec.into_iter().filter(unicast).map(|remote| Way {
        remotes: BTreeSet::from([remote]),
        ..Way::default()
    }));
    // The socket of a device goes the device's way.
    let sockets = ask::sockets()
        .into_iter()
        .filter(|(_, port)| ports.contains_key(port) && !found.ports.contains_key(port));
    ways.extend(sockets.map(|(local, _)| Way {
        local,
        ..Way::default()
    }));

    let mut wanted = BTreeSet::new();
    let mut anywhere = always;
    let mut holders: Option<Vec<(u32, IpAddr)>> = None;
    let mut routes: BTreeMap<(IpAddr, u32), BTreeSet<u32>> = BTreeMap::new();
    let mut default_routes: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for way in ways {
        if let Some(link) = way.link {
            wanted.insert(link);
        } else if !way.remotes.is_empty() {
            for remote in way.remotes {
                // More than can be asked for every few seconds.
                let key = (remote, way.mark);
                if routes.len() >= ROUTES && !routes.contains_key(&key) {
                    anywhere = true;
                    break;
                }
                // No route: nothing passes anywhere.
                let devices = routes
                    .entry(key)
                    .or_insert_with(|| ask::routes(rtnetlink, remote, way.mark).unwrap_or_default());
                wanted.extend(devices.iter());
            }
        } else if let Some(local) = way.local.filter(|l| !l.is_unspecified()) {
            if holders.is_none() {
                holders = Some(ask::addresses(rtnetlink)?);
            }
            let holders = holders.iter().flatten();
            wanted.extend(holders.filter(|(_, a)| *a == local).map(|(index, _)| *index));
        } else {
            anywhere |= !way.learns;
        }
        if way.learns && way.link.is_none() && way.local.is_none_or(|l| l.is_unspecified()) {
            // A default route through a tunnel leads to where its own packets do not go.
            let good = |d: &Device| !d.loopback && d.tunnel.is_none();
            let defaults = default_routes.entry(way.mark).or_insert_with(|| {
                let mut all = ask::default_routes(rtnetlink, way.mark);
                all.retain(|index| devices.iter().any(|d| d.index == *index && good(d)));
                all
            });
            anywhere |= defaults.is_empty();
            wanted.extend(defaults.iter());
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
