//! Where this node is: labels of a node come some time after it, and may change.

use crate::aggregate::Resource;
use crate::config::Config;
use agent_kube::{Kubernetes, Node};

/// Region and zone of the node, as far as the settings leave them to Kubernetes.
#[derive(Clone)]
pub struct Place {
    kubernetes: Kubernetes,
    follows_region: bool,
    follows_zone: bool,
}

impl Place {
    /// Of the settings as they were given.
    pub fn new(config: &Config, kubernetes: Kubernetes) -> Self {
        Self {
            kubernetes,
            follows_region: config.region.is_empty(),
            follows_zone: config.zone.is_empty(),
        }
    }

    /// What everything is about from now on, if the node has another place than it had. One that is not known has not moved.
    pub fn moved(&self, before: &Resource) -> Option<Resource> {
        let Node { region, zone } = self.kubernetes.node()?;
        let place = |follows: bool, now: String, before: &str| match follows {
            true => now,
            false => before.to_owned(),
        };
        let now = Resource {
            region: place(self.follows_region, region, &before.region),
            zone: place(self.follows_zone, zone, &before.zone),
            ..before.clone()
        };
        ((&now.region, &now.zone) != (&before.region, &before.zone)).then_some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cause: labels that come late, change, and go, of a node whose zone the settings say, or nothing. Seen: each once, and what is
    /// set never another.
    #[test]
    fn what_is_not_set_follows_the_node() {
        for (set, expected) in [
            ("", ["eu-1 eu-1a", "eu-1 eu-1b", " "]),
            ("rack-7", ["eu-1 rack-7", "", " rack-7"]),
        ] {
            let config = Config {
                zone: set.to_owned(),
                ..Config::default()
            };
            let kubernetes = Kubernetes::of([]);
            let place = Place::new(&config, kubernetes.clone());
            let mut resource = Resource {
                host: "node-1".to_owned(),
                zone: set.to_owned(),
                ..Resource::default()
            };
            assert!(place.moved(&resource).is_none(), "nobody knows the node");
            for (node, expected) in [("eu-1", "eu-1a"), ("eu-1", "eu-1b"), ("", "")]
                .into_iter()
                .zip(expected)
            {
                kubernetes.set_node(Node {
                    region: node.0.to_owned(),
                    zone: node.1.to_owned(),
                });
                let moved = place.moved(&resource);
                let told = moved.as_ref().map(|now| format!("{} {}", now.region, now.zone));
                assert_eq!(told.unwrap_or_default(), expected, "{node:?}");
                resource = moved.unwrap_or(resource);
                assert_eq!(resource.host, "node-1");
                assert!(place.moved(&resource).is_none(), "it is told once");
            }
        }
    }
}
