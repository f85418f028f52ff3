//! The Kubernetes API as the agent asks it: whether, of which node, and what it says of how that goes.

use super::names::{Names, SubjectOf};
use super::place::Place;
use super::runtimes::Runtimes;
use crate::aggregate::labels::clean;
use crate::aggregate::{Collect, Family, Label, Labels, Metric, Series, Value, label, metrics};
use crate::config::{Config, PeersOf};
use crate::error::{Error, Result};
use agent_kube::directory::MAX_ADDRESSES;
use agent_kube::{Kubernetes, Peers, Settings, in_cluster};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// The start waits so long for the pods that are there already.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most series that say which services a subject is behind.
const MAX_SERVICES: usize = 1024;
/// The attribute of everything that is exported.
const NODE_NAME: &str = "k8s.node.name";

metrics! {
    /// Pods.
    PODS = "geophone_kubernetes_pods", "geophone.kubernetes.pods", "{pod}", Gauge, &[],
        "Pods of this node that the Kubernetes API has named";
    /// Addresses.
    ADDRESSES = "geophone_kubernetes_addresses", "geophone.kubernetes.addresses", "{address}", Gauge, &[],
        "Addresses of services, their endpoints and pods behind none that the Kubernetes API has named; 0 without kubernetes.peers";
    /// Services.
    SERVICES = "geophone_kubernetes_service_info", "geophone.kubernetes.service", "1", Gauge,
        &[&label::SUBJECT, &label::K8S_NAMESPACE, &label::K8S_SERVICE],
        "Services that the pods of a subject are behind, always 1: a join on subject gives other series the service; nothing without \
         kubernetes.peers";
    /// Age.
    AGE = "geophone_kubernetes_age_seconds", "geophone.kubernetes.age", "s", Gauge, &[&OBJECT],
        "Time since the Kubernetes API last said anything of pods (of this node), all_pods (with kubernetes.peers: pods), nodes, services or \
         endpointslices, which it does each minute (nodes are asked for: each 5 to 8 minutes); absent = it never has. Names of before are kept";
    /// Lists.
    LISTS = "geophone_kubernetes_lists_total", "geophone.kubernetes.lists", "{list}", Counter, &[],
        "Complete lists of pods: one, and one more each time that the API has forgotten where we were";
    /// Errors.
    ERRORS = "geophone_kubernetes_errors_total", "geophone.kubernetes.errors", "{error}", Counter, &[&ERROR],
        "Requests to the Kubernetes API that failed, and watches that broke off";
    /// Refused.
    REFUSED = "geophone_kubernetes_refused_total", "geophone.kubernetes.refused", "{object}", Counter, &[&OBJECT],
        "What was not taken of what the API has said: pods of this node beyond 10,000; addresses beyond 16,384 (of pods behind no service beyond 12,288) and zones beyond 256, whose peers have the \
         name of the prefix that covers them, or no region; services of this node's pods beyond 1,024 series; peers beyond 65,536 since the start, which are `other`; trie, addresses that \
         the kernel's map did not take and is given again; nameless, objects that do not say who they are";
}

static OBJECT: Label = Label {
    prometheus: "object",
    otlp: "geophone.kubernetes.object",
    help: "Kind of object of the Kubernetes API, or what was made of it",
};
static ERROR: Label = Label {
    prometheus: label::REASON.prometheus,
    otlp: "error.type",
    help: "connect, forbidden, not_found (404), gone (410), throttled (429), status (any other), malformed, too_large, slow",
};

/// The node that is asked for.
pub fn node(config: &Config) -> String {
    if !config.kubernetes.node.is_empty() {
        return config.kubernetes.node.clone();
    }
    let given = std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty());
    // As the kubelet has it.
    given.unwrap_or_else(|| config.host_name().to_lowercase())
}

/// Whether the API is to be asked.
pub fn is_wanted(config: &Config) -> bool {
    let settings = &config.kubernetes;
    settings.enabled && (settings.kubeconfig.is_some() || in_cluster())
}

/// Addresses for which there must be room beside those of the configuration.
pub fn addresses(config: &Config) -> u32 {
    if is_wanted(config) && config.kubernetes.peers.is_any() {
        MAX_ADDRESSES as u32
    } else {
        0
    }
}

/// Starts asking the API, if it is to be asked. Returns with it the configuration, completed by what the API says of
/// this node: zone and region unless they are set, and the node's name.
pub fn start(config: &Config) -> Result<(Config, Names)> {
    let mut config = config.clone();
    let mut names = Names {
        kubernetes: None,
        runtimes: Runtimes::default(),
        subject: config.kubernetes.subject,
        labels: config.kubernetes.labels.clone(),
        place: None,
    };
    if !is_wanted(&config) {
        return Ok((config, names));
    }
    let node = node(&config);
    let kubernetes = match connect(&config) {
        Ok(kubernetes) => kubernetes,
        Err(e) => {
            tracing::error!(
                "{e}; the agent goes on, and containers have no names of workloads until it is started again"
            );
            return Ok((config, names));
        }
    };
    if !kubernetes.wait(PATIENCE) {
        tracing::warn!(
            "kubernetes: not all is known of node {node} after {PATIENCE:?}: {} pods, {}; what runs already may keep \
             other names, and zone and region are those of the configuration until the node is known",
            kubernetes.status().pods,
            if kubernetes.node().is_some() {
                "the node"
            } else {
                "not the node itself"
            },
        );
    }
    names.place = Some(Place::new(&config, kubernetes.clone()));
    let found = kubernetes.node();
    let is_without = |place: &str, set: &str| place.is_empty() && set.is_empty();
    if let Some(found) = &found
        && is_without(&found.region, &config.region)
        && is_without(&found.zone, &config.zone)
    {
        tracing::warn!(
            "kubernetes: node {node} has no labels topology.kubernetes.io/region and zone: what is exported has neither until it \
             has; label the node, or set region and zone"
        );
    }
    let found = found.unwrap_or_default();
    for (ours, theirs) in [(&mut config.region, found.region), (&mut config.zone, found.zone)] {
        if ours.is_empty() {
            *ours = theirs;
        }
    }
    config.attributes.entry(NODE_NAME.to_owned()).or_insert(node);
    names.kubernetes = Some(kubernetes);
    Ok((config, names))
}

/// Begins to follow the API.
pub fn connect(config: &Config) -> Result<Kubernetes> {
    let settings = Settings {
        kubeconfig: config.kubernetes.kubeconfig.clone(),
        node: node(config),
        peers: match config.kubernetes.peers {
            PeersOf::Nobody => Peers::Nobody,
            PeersOf::Services => Peers::Services,
            PeersOf::Pods => Peers::Pods,
        },
        names_pods: config.kubernetes.subject == SubjectOf::Pod,
        names_endpoints: config.kubernetes.endpoints,
        // What it runs would have the agent's filter of system calls.
        programs: !config.security.seccomp,
    };
    Kubernetes::start(&settings).map_err(|e| Error::new(format_args!("kubernetes: {e}")))
}

/// Subject, namespace and service.
type Behind = (String, String, Arc<str>);

/// What it says of itself.
pub struct StatsCollect {
    kubernetes: Kubernetes,
    none: Arc<Labels>,
    /// By metric and value of its label.
    labels: HashMap<(&'static str, &'static str), Arc<Labels>>,
    subject: SubjectOf,
    /// By subject, namespace and service.
    services: BTreeMap<Behind, Arc<Labels>>,
    /// Most of them that found no room at once.
    refused: usize,
    start: u64,
}

impl StatsCollect {
    /// Of a connection.
    pub fn new(kubernetes: Kubernetes, subject: SubjectOf, start_unix_nanos: u64) -> Self {
        Self {
            kubernetes,
            none: Arc::new(Labels::new(&[], &[], false, start_unix_nanos)),
            labels: HashMap::new(),
            subject,
            services: BTreeMap::new(),
            refused: 0,
            start: start_unix_nanos,
        }
    }

    fn by(
        &mut self,
        metric: &'static Metric,
        values: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Family {
        let start = self.start;
        let series = values.into_iter().map(|(of, value)| {
            let new = || Arc::new(Labels::new(metric.labels, &[of], false, start));
            Series {
                labels: self.labels.entry((metric.name, of)).or_insert_with(new).clone(),
                value,
            }
        });
        Family {
            metric,
            series: series.collect(),
        }
    }

    /// Which services subjects are behind, by the names that other series have.
    fn services(&mut self) -> Family {
        let mut rows: BTreeSet<Behind> = BTreeSet::new();
        for (pod, service) in self.kubernetes.services() {
            // Whoever makes slices and pods of many containers costs no more than this.
            if rows.len() >= 2 * MAX_SERVICES {
                break;
            }
            let names: Vec<&str> = match self.subject {
                SubjectOf::Container => pod.containers.iter().map(|(_, name)| name.as_str()).collect(),
                SubjectOf::Workload | SubjectOf::Pod => vec![""],
            };
            let row = |name| {
                let subject = clean(&self.subject.of(&pod, name));
                (subject, pod.namespace.clone(), service.clone())
            };
            rows.extend(names.into_iter().map(row));
        }
        let refused = rows.len().saturating_sub(MAX_SERVICES);
        // They are refused in each tick, and counted once.
        self.kubernetes
            .refuse("services", refused.saturating_sub(self.refused) as u64);
        self.refused = self.refused.max(refused);
        let mut before = std::mem::take(&mut self.services);
        for row in rows.into_iter().take(MAX_SERVICES) {
            let labels = before.remove(&row).unwrap_or_else(|| {
                let (subject, namespace, service) = &row;
                let values = [subject.as_str(), namespace, service];
                Arc::new(Labels::new(SERVICES.labels, &values, false, self.start))
            });
            self.services.insert(row, labels);
        }
        let series = self.services.values().map(|labels| Series {
            labels: labels.clone(),
            value: Value::Gauge(1.0),
        });
        Family {
            metric: &SERVICES,
            series: series.collect(),
        }
    }
}

impl Collect for StatsCollect {
    fn collect(&mut self, out: &mut Vec<Family>) {
        out.push(self.services());
        let status = self.kubernetes.status();
        let one = |metric: &'static Metric, value: Value| Family {
            metric,
            series: vec![Series {
                labels: self.none.clone(),
                value,
            }],
        };
        out.extend([
            one(&PODS, Value::Gauge(status.pods as f64)),
            one(&ADDRESSES, Value::Gauge(status.addresses as f64)),
            one(&LISTS, Value::Counter(status.lists)),
        ]);
        let ages = status.ages.into_iter();
        out.push(self.by(&AGE, ages.map(|(of, age)| (of, Value::Gauge(age.as_secs_f64())))));
        for (metric, counts) in [(&REFUSED, status.refused), (&ERRORS, status.errors)] {
            out.push(self.by(
                metric,
                counts.into_iter().map(|(of, count)| (of, Value::Counter(count))),
            ));
        }
    }
}

#[cfg(test)]
#[path = "kubernetes_tests.rs"]
mod tests;
