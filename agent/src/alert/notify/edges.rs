//! What depends on what, as the series of a snapshot say.

use crate::aggregate::{Labels, Snapshot};
use agent_notify::incident::place::named;
use agent_notify::incident::{Edges, Entity, Kind, Place};
use agent_store::labels;
use std::collections::BTreeSet;

/// All edges. Besides what single series name: who is reached by default routes depends on these interfaces, a tunnel on those on
/// which its namespace's tunnels are watched, and this host's health on its peers, uplinks and resources. `common` are labels of all alerts.
pub fn edges(snapshot: &Snapshot, common: &labels::Labels) -> Edges {
    let mut edges = Edges::with_common(common.clone());
    let (mut peers, mut tunnels, mut needed) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut uplinks, mut watched) = (BTreeSet::new(), BTreeSet::new());
    for family in &snapshot.families {
        for series in &family.series {
            let place = place(&series.labels);
            edges.add_series(&place);
            let netns = value(&series.labels, "netns").to_owned();
            for entity in place {
                let set = match (entity.0, family.metric.name) {
                    (Kind::Device, "geophone_netdev_uplink") => &mut uplinks,
                    (Kind::Device, "geophone_tunnel_watched") => {
                        watched.insert((netns.clone(), entity));
                        continue;
                    }
                    (Kind::Tunnel, _) => {
                        tunnels.insert((netns.clone(), entity));
                        continue;
                    }
                    (Kind::Resource, "geophone_node_used") => &mut needed,
                    (Kind::Peer, _) if entity.1 != "loopback" => &mut peers,
                    _ => continue,
                };
                set.insert(entity);
            }
        }
    }
    needed.extend(uplinks.iter().chain(&peers).cloned());
    let node: Entity = (Kind::Node, common.get("instance").to_owned());
    for (from, to) in [(peers, uplinks), (BTreeSet::from([node]), needed)] {
        for from in &from {
            to.iter().for_each(|to| edges.add(from.clone(), to.clone()));
        }
    }
    for (netns, tunnel) in &tunnels {
        let own = watched.iter().filter(|(other, _)| other == netns);
        own.for_each(|(_, device)| edges.add(tunnel.clone(), device.clone()));
    }
    edges
}

fn value<'a>(labels: &'a Labels, name: &str) -> &'a str {
    let mut values = labels.values.iter();
    let found = values.find(|(label, _)| label.prometheus == name);
    found.map_or("", |(_, value)| value.as_str())
}

fn place(labels: &Labels) -> Place {
    named(|name| value(labels, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{Family, Label, Metric, Series, Value};
    use crate::probes::{netdev, tcp, tunnel};
    use agent_notify::{Alert, Incidents};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn family(metric: &'static Metric, all: &[&[(&str, &str)]]) -> Family {
        let series = all.iter().map(|pairs| {
            let get = |label: &&'static Label| {
                let pair = pairs.iter().find(|(name, _)| *name == label.prometheus);
                pair.map_or("", |(_, value)| *value)
            };
            let values: Vec<&str> = metric.labels.iter().map(get).collect();
            Series {
                labels: Arc::new(Labels::new(metric.labels, &values, false, 0)),
                value: Value::Gauge(1.0),
            }
        });
        Family {
            metric,
            series: series.collect(),
        }
    }

    fn alert(name: &str, at: i64, labels: &[(&str, &str)]) -> Alert {
        let all = [("alertname", name), ("instance", "n"), ("region", "home")];
        Alert {
            labels: labels::Labels::new(all.into_iter().chain(labels.iter().copied())),
            annotations: Arc::new(BTreeMap::new()),
            active_at: at,
            starts_at: at,
            ends_at: None,
            generator_url: String::new(),
        }
    }

    /// shop talks to db through a tunnel, and to web; both leave by eth0, for tunnels of namespace `far` are its own devices'.
    fn snapshot() -> Snapshot {
        let ends = [("type", "gre"), ("local", "10.0.0.1"), ("remote", "10.0.0.2")];
        let inside = [&ends[..], &[("peer", "db")]].concat();
        Snapshot {
            families: vec![
                family(
                    &tcp::metrics::RTT,
                    &[
                        &[("subject", "shop"), ("peer", "db")],
                        &[("subject", "shop"), ("peer", "web")],
                        &[("subject", "shop"), ("peer", "loopback")],
                    ],
                ),
                family(&netdev::UPLINK, &[&[("device", "eth0")]]),
                family(&tunnel::metrics::PEER_INFO, &[&inside[..]]),
                family(
                    &tunnel::metrics::WATCHED,
                    &[&[("device", "eth1")], &[("device", "eth2"), ("netns", "far")]],
                ),
            ],
            ..Snapshot::default()
        }
    }

    /// The incidents of these alerts: of each the first cause, and how many alerts.
    fn incidents(alerts: &[Alert]) -> Vec<(String, usize)> {
        let common = labels::Labels::new([("instance", "n"), ("region", "home")]);
        let mut incidents = Incidents::new(300_000);
        incidents.observe(9_000, alerts.iter(), &edges(&snapshot(), &common));
        let all = incidents.all().iter().map(|incident| {
            let cause = incident.first_cause().unwrap().labels.get("alertname");
            (cause.to_owned(), incident.alerts.len())
        });
        all.collect()
    }

    #[test]
    fn an_uplink_that_fails_is_the_cause_of_what_its_peers_and_the_node_suffer() {
        let all = [
            alert("Rtt", 1_000, &[("subject", "shop"), ("peer", "web")]),
            alert("Loss", 2_000, &[("peer", "db")]),
            alert("Health", 2_500, &[("entity", "node"), ("name", "n")]),
            alert("InterfaceDown", 3_000, &[("device", "eth0")]),
        ];
        assert_eq!(incidents(&all), [("InterfaceDown".to_owned(), 4)]);
    }

    #[test]
    fn a_peer_that_fails_is_the_cause_of_what_the_node_suffers() {
        let all = [
            alert("Health", 1_000, &[("entity", "node"), ("name", "n")]),
            alert("Loss", 2_000, &[("peer", "db")]),
        ];
        assert_eq!(incidents(&all), [("Loss".to_owned(), 2)]);
    }

    #[test]
    fn a_tunnel_that_fails_is_the_cause_of_what_is_behind_it_and_its_device_of_that() {
        let ends = [("type", "gre"), ("local", "10.0.0.1"), ("remote", "10.0.0.2")];
        let mut all = vec![
            alert("Loss", 1_000, &[("peer", "db")]),
            alert("TunnelDown", 2_000, &ends),
        ];
        assert_eq!(incidents(&all), [("TunnelDown".to_owned(), 2)]);
        // That of another tunnel with the same other end, without an id as well.
        all.push(alert("Far", 2_000, &[("device", "eth2"), ("netns", "far")]));
        all.push(alert("InterfaceDown", 3_000, &[("device", "eth1")]));
        let found = incidents(&all);
        assert_eq!(found, [("InterfaceDown".to_owned(), 3), ("Far".to_owned(), 1)]);
    }

    #[test]
    fn the_host_alone_and_what_never_leaves_it_join_nothing() {
        let all = [
            alert("StoreFull", 1_000, &[]),
            alert("RulesFailing", 1_000, &[]),
            alert("Errors", 1_000, &[("peer", "loopback")]),
            alert("InterfaceDown", 1_000, &[("device", "eth0")]),
        ];
        assert_eq!(incidents(&all).len(), 4);
    }
}
