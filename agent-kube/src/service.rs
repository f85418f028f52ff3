//! What is read of services and EndpointSlices: addresses, and whose they are.

use crate::arrived::{Kept, LONGEST, LONGEST_ID, fits};
use crate::directory::{By, Claim};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

/// Longest value of a label: the name of a zone is one.
pub(crate) const LONGEST_LABEL: usize = 63;
/// Most endpoints of a slice, and addresses of a service: the API server accepts no more.
pub(crate) const MAX_ENDPOINTS: usize = 1000;

/// An object that names addresses.
pub trait Named: Kept {
    /// Which kind it is.
    const BY: By;

    /// UID and claims.
    fn claims(self) -> (String, Vec<Claim>);
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service(String, Vec<Claim>);

/// A part of a service's endpoints.
#[derive(Clone, Debug)]
pub struct Slice(String, Vec<Claim>);

impl Named for Service {
    const BY: By = By::Service;

    fn claims(self) -> (String, Vec<Claim>) {
        (self.0, self.1)
    }
}

impl Named for Slice {
    const BY: By = By::Slice;

    fn claims(self) -> (String, Vec<Claim>) {
        (self.0, self.1)
    }
}

impl Kept for Service {
    const KIND: &'static str = "Service";
    const GROUP: &'static str = "";
    const PLURAL: &'static str = "services";

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(String, Option<Self>), D::Error> {
        let wire = WireService::deserialize(deserializer)?;
        let own = wire.metadata.service(&wire.metadata.name).map(|service| {
            let balancers = wire.status.load_balancer.ingress.iter().flatten();
            let all = wire.spec.cluster_ips.iter().flatten();
            let external = wire.spec.external_ips.iter().flatten();
            let claims = all.chain(external).chain(balancers.map(|balancer| &balancer.ip));
            // A service without an address of its own says `None`.
            let claims = claims.filter_map(|ip| ip.parse().ok()).take(MAX_ENDPOINTS);
            let claims = claims.map(|address| Claim {
                address,
                service: service.clone(),
                is_headless: false,
                zone: Arc::default(),
                node: Arc::default(),
                pod: Arc::default(),
                pod_name: Arc::default(),
                rank: Default::default(),
            });
            Self(wire.metadata.uid.to_string(), claims.collect())
        });
        Ok((wire.metadata.resource_version.into_owned(), own))
    }
}

impl Kept for Slice {
    const KIND: &'static str = "EndpointSlice";
    const GROUP: &'static str = "discovery.k8s.io";
    const PLURAL: &'static str = "endpointslices";

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(String, Option<Self>), D::Error> {
        let wire = WireSlice::deserialize(deserializer)?;
        let labels = wire.metadata.labels.as_ref();
        let service = labels.and_then(|labels| wire.metadata.service(&labels.service));
        let own = service.map(|service| {
            let is_headless = labels.is_some_and(|labels| labels.headless.is_some());
            let endpoints = wire.endpoints.iter().flatten().take(MAX_ENDPOINTS);
            let claims = endpoints.filter_map(|endpoint| endpoint.claim(&service, is_headless));
            Self(wire.metadata.uid.to_string(), claims.collect())
        });
        Ok((wire.metadata.resource_version.into_owned(), own))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(borrow)]
    resource_version: Cow<'a, str>,
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    labels: Option<Labels<'a>>,
}

impl Metadata<'_> {
    /// `namespace/name` of a service in this namespace.
    fn service(&self, name: &str) -> Option<Arc<str>> {
        let is_named = fits(name, LONGEST) && fits(&self.namespace, LONGEST) && fits(&self.uid, LONGEST_ID);
        is_named.then(|| format!("{}/{name}", self.namespace).into())
    }
}

#[derive(Deserialize)]
struct Labels<'a> {
    #[serde(borrow, default, rename = "kubernetes.io/service-name")]
    service: Cow<'a, str>,
    #[serde(borrow, default, rename = "service.kubernetes.io/headless")]
    headless: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct WireService<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow, default)]
    spec: Spec<'a>,
    #[serde(borrow, default)]
    status: Status<'a>,
}

#[derive(Default, Deserialize)]
struct Spec<'a> {
    #[serde(borrow, default, rename = "clusterIPs")]
    cluster_ips: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow, default, rename = "externalIPs")]
    external_ips: Option<Vec<Cow<'a, str>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status<'a> {
    #[serde(borrow)]
    load_balancer: Balancers<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Balancers<'a> {
    #[serde(borrow)]
    ingress: Option<Vec<Balancer<'a>>>,
}

#[derive(Deserialize)]
struct Balancer<'a> {
    #[serde(borrow, default)]
    ip: Cow<'a, str>,
}

#[derive(Deserialize)]
struct WireSlice<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow, default)]
    endpoints: Option<Vec<Endpoint<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint<'a> {
    /// Of them the first counts: the others are not used since Kubernetes 1.22.
    #[serde(borrow, default)]
    addresses: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    zone: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    node_name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    target_ref: Option<Behind<'a>>,
}

#[derive(Deserialize)]
struct Behind<'a> {
    #[serde(borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    uid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    namespace: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
}

impl Behind<'_> {
    /// `namespace/name` of a pod in the namespace of the service: it has no others.
    fn pod(&self, service: &str) -> Option<Arc<str>> {
        let (namespace, _) = service.split_once('/')?;
        let name = self.name.as_deref().filter(|name| fits(name, LONGEST))?;
        let is_own = self.kind.as_deref() == Some("Pod") && self.namespace.as_deref() == Some(namespace);
        is_own.then(|| format!("{namespace}/{name}").into())
    }
}

/// Whether it can be the name of a node, which becomes a part of a path.
pub(crate) fn is_name(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        && !text.starts_with('.')
}

impl Endpoint<'_> {
    fn claim(&self, service: &Arc<str>, is_headless: bool) -> Option<Claim> {
        let address: IpAddr = self.addresses.first()?.parse().ok()?;
        let short = |text: Option<&Cow<'_, str>>, longest| -> Arc<str> {
            let text = text.filter(|text| fits(text, longest));
            text.map_or_else(Arc::default, |text| (&**text).into())
        };
        let behind = self.target_ref.as_ref();
        Some(Claim {
            pod_name: behind.and_then(|behind| behind.pod(service)).unwrap_or_default(),
            address,
            service: service.clone(),
            is_headless,
            zone: short(self.zone.as_ref(), LONGEST_LABEL),
            node: short(self.node_name.as_ref().filter(|name| is_name(name)), LONGEST),
            pod: short(behind.and_then(|behind| behind.uid.as_ref()), LONGEST_ID),
            rank: Default::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrived::Arrived;
    use kube_core::Resource as _;
    use serde_json::{Value, json};

    fn read<T: Named>(value: &Value) -> Option<Vec<(String, String, bool, String)>> {
        let arrived: Arrived<T> = serde_json::from_str(&value.to_string()).unwrap();
        assert_eq!(arrived.meta().resource_version.as_deref(), Some("7"));
        let (uid, claims) = arrived.what?.claims();
        assert_eq!(uid, "u");
        let shown = |c: Claim| {
            let place = format!("{} {} {}", c.zone, c.node, c.pod);
            (c.address.to_string(), c.service.to_string(), c.is_headless, place)
        };
        Some(claims.into_iter().map(shown).collect())
    }

    #[test]
    fn addresses_of_services() {
        let service = |spec: Value, status: Value| {
            json!({
                "apiVersion": "v1", "kind": "Service", "spec": spec, "status": status,
                "metadata": {"name": "db", "namespace": "shop", "uid": "u", "resourceVersion": "7", "labels": {"app": "db"}}
            })
        };
        let own = |address: &str| (address.to_owned(), "shop/db".to_owned(), false, "  ".to_owned());
        let dual = service(
            json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00::a"], "type": "LoadBalancer", "ports": [{"port": 1}]}),
            json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7", "ipMode": "VIP"}, {"hostname": "x.example"}]}}),
        );
        assert_eq!(
            read::<Service>(&dual),
            Some(vec![own("10.96.0.10"), own("fd00::a"), own("192.0.2.7")])
        );
        let outside = json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "externalIPs": ["198.51.100.7", "2001:db8::7"]});
        assert_eq!(
            read::<Service>(&service(outside, json!({"loadBalancer": {}}))),
            Some(vec![own("10.96.0.10"), own("198.51.100.7"), own("2001:db8::7")])
        );
        for spec in [
            json!({"clusterIP": "None", "clusterIPs": ["None"]}),
            json!({"type": "ExternalName", "externalName": "db.example"}),
        ] {
            assert_eq!(
                read::<Service>(&service(spec, json!({"loadBalancer": {}}))),
                Some(vec![])
            );
        }
    }

    #[test]
    fn endpoints_of_a_slice() {
        let mut slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": "db-x7k2p", "namespace": "shop", "uid": "u", "resourceVersion": "7",
                "labels": {"kubernetes.io/service-name": "db", "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}
            },
            "endpoints": [
                {"addresses": ["10.244.1.7"], "conditions": {"ready": true}, "nodeName": "node-1", "zone": "eu-1a",
                 "targetRef": {"kind": "Pod", "name": "db-0", "namespace": "shop", "uid": "p"}},
                {"addresses": ["10.244.1.8"], "conditions": {"ready": false}},
                {"addresses": []}, {"addresses": ["db.example"]}
            ],
            "ports": [{"name": "", "port": 5432, "protocol": "TCP"}]
        });
        let is = |address: &str, is_headless, place: &str| {
            (
                address.to_owned(),
                "shop/db".to_owned(),
                is_headless,
                place.to_owned(),
            )
        };
        assert_eq!(
            read::<Slice>(&slice),
            Some(vec![
                is("10.244.1.7", false, "eu-1a node-1 p"),
                is("10.244.1.8", false, "  ")
            ])
        );
        slice["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
        slice["endpoints"] = json!([{"addresses": ["10.244.1.7"], "zone": "z".repeat(64)}]);
        assert_eq!(read::<Slice>(&slice), Some(vec![is("10.244.1.7", true, "  ")]));
        slice["endpoints"] = json!(null);
        assert_eq!(read::<Slice>(&slice), Some(vec![]));
        slice["metadata"]["labels"] = json!({"app": "x"});
        assert_eq!(read::<Slice>(&slice), None);
    }
}
