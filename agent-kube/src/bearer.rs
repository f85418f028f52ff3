//! A pod as far as it has addresses: nothing else is read of those of other nodes.

use crate::arrived::{Kept, LONGEST, fits};
use crate::directory::{By, Claim};
use crate::pod::Metadata;
use crate::service::{Named, is_name};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// Most addresses of a pod: one of each family.
const MAX_ADDRESSES: usize = 2;
/// What has ended has no address any more, whatever its status still says.
const ENDED: [&str; 2] = ["Succeeded", "Failed"];

/// A pod that has addresses of its own, or has none.
#[derive(Clone, Debug)]
pub struct Bearer(String, Vec<Claim>);

impl Named for Bearer {
    const BY: By = By::Pod;

    fn claims(self) -> (String, Vec<Claim>) {
        (self.0, self.1)
    }
}

impl Kept for Bearer {
    const KIND: &'static str = "Pod";
    const GROUP: &'static str = "";
    const PLURAL: &'static str = "pods";

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(String, Option<Self>), D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        let claims = wire.claims();
        let own = claims.map(|claims| Self(wire.metadata.uid.to_string(), claims));
        Ok((wire.metadata.resource_version.into_owned(), own))
    }
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow, default)]
    spec: Spec<'a>,
    #[serde(borrow, default)]
    status: Status<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec<'a> {
    #[serde(borrow)]
    node_name: Option<Cow<'a, str>>,
    host_network: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status<'a> {
    #[serde(borrow)]
    phase: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "podIPs")]
    addresses: Option<Vec<Address<'a>>>,
}

#[derive(Deserialize)]
struct Address<'a> {
    #[serde(borrow, default)]
    ip: Cow<'a, str>,
}

impl Wire<'_> {
    /// `None` = it does not say who it is.
    fn claims(&self) -> Option<Vec<Claim>> {
        let Self {
            metadata,
            spec,
            status,
        } = self;
        let (_, workload) = metadata.workload()?;
        let has_ended = ENDED.contains(&status.phase.as_deref().unwrap_or_default());
        // The node's addresses are nobody's.
        if has_ended || spec.host_network == Some(true) {
            return Some(Vec::new());
        }
        let addresses = status.addresses.iter().flatten().take(MAX_ADDRESSES);
        let addresses: Vec<IpAddr> = addresses.filter_map(|address| address.ip.parse().ok()).collect();
        if addresses.is_empty() {
            return Some(Vec::new());
        }
        let named = |name: &str| -> Arc<str> { format!("{}/{name}", metadata.namespace).into() };
        let (service, pod_name) = (named(workload), named(&metadata.name));
        let node = spec.node_name.as_deref();
        let node = node.filter(|name| fits(name, LONGEST) && is_name(name));
        let node: Arc<str> = node.unwrap_or_default().into();
        let pod: Arc<str> = (&*metadata.uid).into();
        let since = metadata.created().unwrap_or(SystemTime::UNIX_EPOCH);
        let made = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let claims = addresses.into_iter().map(|address| Claim {
            address,
            service: service.clone(),
            is_headless: false,
            zone: Arc::default(),
            node: node.clone(),
            pod: pod.clone(),
            pod_name: pod_name.clone(),
            rank: (metadata.deletion_timestamp.is_none(), made.as_secs()),
        });
        Some(claims.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrived::Arrived;
    use serde_json::{Value, json};

    fn read(pod: &Value) -> Option<Vec<String>> {
        let arrived: Arrived<Bearer> = serde_json::from_str(&pod.to_string()).unwrap();
        let (uid, claims) = arrived.what?.claims();
        assert_eq!(uid, "u");
        let shown = |c: Claim| {
            assert!(c.zone.is_empty() && *c.pod == *"u");
            let Claim {
                address,
                service,
                node,
                pod_name,
                rank,
                ..
            } = c;
            format!("{address} {service} {pod_name} {node} {} {}", rank.0, rank.1)
        };
        Some(claims.into_iter().map(shown).collect())
    }

    /// Cause: a pod at each step of its life, one in the node's network, one without a name. Seen: its addresses by workload, for as
    /// long as it has them.
    #[test]
    fn addresses_are_the_workloads_from_the_first_to_the_end() {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web-6d4cf56db6-x7k2p", "namespace": "shop", "uid": "u", "resourceVersion": "7",
                "creationTimestamp": "1970-01-01T00:01:00Z", "labels": {"pod-template-hash": "6d4cf56db6"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "web-6d4cf56db6", "controller": true}]
            },
            "spec": {"containers": []}, "status": {"phase": "Pending"}
        });
        assert_eq!(read(&pod), Some(vec![]));
        pod["spec"]["nodeName"] = json!("node-2");
        pod["status"] = json!({
            "phase": "Running", "hostIP": "192.0.2.2", "podIP": "10.244.2.7",
            "podIPs": [{"ip": "10.244.2.7"}, {"ip": "fd00::7"}]
        });
        let is =
            |address: &str, rank: &str| format!("{address} shop/web shop/web-6d4cf56db6-x7k2p node-2 {rank}");
        let both = |rank: &str| Some(vec![is("10.244.2.7", rank), is("fd00::7", rank)]);
        assert_eq!(read(&pod), both("true 60"));
        pod["metadata"]["deletionTimestamp"] = json!("2026-11-29T03:00:00Z");
        assert_eq!(read(&pod), both("false 60"));
        for phase in ENDED {
            pod["status"]["phase"] = json!(phase);
            assert_eq!(read(&pod), Some(vec![]));
        }
        pod["status"]["phase"] = json!("Running");
        pod["spec"]["hostNetwork"] = json!(true);
        assert_eq!(read(&pod), Some(vec![]));
        pod["metadata"]["namespace"] = json!("");
        assert_eq!(read(&pod), None);
    }
}
