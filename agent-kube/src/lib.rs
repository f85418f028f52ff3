//! Who the pods of a node are, as the Kubernetes API says it.
//!
//! [`store`], [`owner`] and [`directory`] are pure: objects in, names out. [`Kubernetes`] is a thread that keeps a store up to date with
//! kube's list and watch, over connections with bounds (`limit`). What is known stays known while the server cannot be
//! reached, and [`Status::ages`] says how old it may be.

pub mod arrived;
mod bearer;
pub mod directory;
#[cfg(test)]
mod fixtures_tests;
mod limit;
mod messages;
pub mod owner;
pub mod pod;
mod program;
mod protobuf;
pub mod service;
pub mod store;
mod trouble;
mod watch;
mod zones;

pub use directory::{Backend, Target};
pub use owner::Kind;
pub use pod::Pod;

use directory::{By, Claim, Directory};
pub use limit::{ALL_PODS, KINDS, Right};
use limit::{Asked, Contact};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use store::Store;
use tokio::sync::Notify;

/// Tests that take much memory, one of which measures it.
#[cfg(test)]
static LARGE: Mutex<()> = Mutex::new(());

/// Addresses that are looked up at a time.
const HELD: usize = 1024;

/// What is asked of the server, and of which peers on. Nodes of others come with the first peer that has one.
const NEEDED: [(Asked, &str, Peers); 9] = [
    (Asked::List, "pods", Peers::Nobody),
    (Asked::Watch, "pods", Peers::Nobody),
    (Asked::Get, "nodes", Peers::Nobody),
    (Asked::List, "services", Peers::Services),
    (Asked::Watch, "services", Peers::Services),
    (Asked::List, "endpointslices", Peers::Services),
    (Asked::Watch, "endpointslices", Peers::Services),
    (Asked::List, ALL_PODS, Peers::Pods),
    (Asked::Watch, ALL_PODS, Peers::Pods),
];

/// Who of the other end of a connection is named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peers {
    /// Nobody.
    #[default]
    Nobody,
    /// Services and their endpoints, of all nodes.
    Services,
    /// These, and pods that are behind none.
    Pods,
}

impl Peers {
    /// Kinds of objects that are listed for it.
    fn kinds(self) -> &'static [By] {
        match self {
            Self::Nobody => &[],
            Self::Services => &[By::Service, By::Slice],
            Self::Pods => &By::ALL,
        }
    }
}

/// Where the API is, and which node is asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A kubeconfig; `None` = what the kubelet gives every container that has a service account.
    pub kubeconfig: Option<PathBuf>,
    /// `spec.nodeName` of the pods.
    pub node: String,
    /// Who is followed besides the pods of the node.
    pub peers: Peers,
    /// Whether a pod that is a peer is called by its own name rather than its workload's.
    pub names_pods: bool,
    /// Whether an endpoint of a service is a peer of its own, by the name of its pod.
    pub names_endpoints: bool,
    /// Whether a program of the kubeconfig may tell who asks. It is run again whenever its token ends.
    pub programs: bool,
}

/// Whether this process runs in a pod that may speak to the API.
pub fn in_cluster() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
        && Path::new("/var/run/secrets/kubernetes.io/serviceaccount/token").exists()
}

/// What is known of the node itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Label `topology.kubernetes.io/region`; empty = it has none.
    pub region: String,
    /// Label `topology.kubernetes.io/zone`; empty = it has none.
    pub zone: String,
}

/// How it stands.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Pods of the node that are there.
    pub pods: usize,
    /// Time since the server last said anything of a kind of object, of those of which it has. One that is well says something of
    /// each each minute; of nodes, which are only asked for, each seven minutes or so.
    pub ages: Vec<(&'static str, Duration)>,
    /// Complete lists so far.
    pub lists: u64,
    /// Addresses of services, endpoints and pods.
    pub addresses: usize,
    /// What was not taken, by what it is: pods, addresses, zones and services of pods that found no room, objects that did not say
    /// who they are, and what [`Kubernetes::refuse`] was told, which is added.
    pub refused: BTreeMap<&'static str, u64>,
    /// What went wrong, by reason, so often.
    pub errors: BTreeMap<&'static str, u64>,
}

/// A thread that follows the API.
#[derive(Clone)]
pub struct Kubernetes(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when a list is complete, and when the node is known.
    news: Condvar,
    /// Told when there may be zones whose region is not known.
    zones: Notify,
    contact: Arc<Contact>,
}

#[derive(Default)]
struct State {
    store: Store,
    node: Option<Node>,
    lists: u64,
    directory: Directory,
    /// Which of its kinds have been listed.
    directories: [bool; By::ALL.len()],
    /// Who is in it.
    peers: Peers,
    /// Objects that did not say who they are.
    nameless: u64,
    /// What others could not take of what they were told.
    refused: BTreeMap<&'static str, u64>,
    errors: BTreeMap<&'static str, u64>,
}

impl State {
    fn is_complete(&self) -> bool {
        let mut kinds = self.peers.kinds().iter();
        let is_listed = kinds.all(|by| self.directories[*by as usize]);
        let is_placed = self.peers == Peers::Nobody || self.directory.unknown_zone("").is_none();
        self.lists > 0 && self.node.is_some() && is_listed && is_placed
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kubernetes {
    /// Starts it. Whatever the server does, the thread goes on; only a configuration that cannot be read is an error.
    pub fn start(settings: &Settings) -> Result<Self, String> {
        let shared: Arc<Shared> = Arc::default();
        shared.state().peers = settings.peers;
        shared.state().directory.node = settings.node.as_str().into();
        shared.state().directory.names_pods = settings.names_pods;
        shared.state().directory.names_endpoints = settings.names_endpoints;
        watch::start(settings, shared.clone())?;
        Ok(Self(shared))
    }

    /// One that knows these pods and asks nobody.
    pub fn of(pods: impl IntoIterator<Item = Pod>) -> Self {
        let own = Self(Arc::default());
        pods.into_iter().for_each(|pod| own.add(pod));
        own
    }

    /// Takes a pod as if the API had named it.
    pub fn add(&self, pod: Pod) {
        self.0.state().store.set(pod, Instant::now());
    }

    /// Takes where the node is as if the API had said it.
    pub fn set_node(&self, node: Node) {
        self.0.state().node = Some(node);
    }

    /// Takes what a slice names as if the API had said it; `node` is the own one.
    pub fn add_slice(&self, node: &str, uid: &str, claims: Vec<Claim>) {
        let mut state = self.0.state();
        state.directory.node = node.into();
        state.directory.set(By::Slice, uid, claims);
    }

    /// Waits until pods, node and, if they are followed, peers are known, at most so long. Returns whether they are.
    pub fn wait(&self, longest: Duration) -> bool {
        let end = Instant::now() + longest;
        let mut state = self.0.state();
        while !state.is_complete() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.0.news.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// The pod of a cgroup, see [`Store::find`].
    pub fn find(&self, pod: &str, container: &str) -> Option<Arc<Pod>> {
        self.0.state().store.find(pod, container).cloned()
    }

    /// The services that pods of the node are behind, each as its name in the pod's namespace: a pod has services there only, and
    /// who says otherwise may write EndpointSlices in his own.
    pub fn services(&self) -> Vec<(Arc<Pod>, Arc<str>)> {
        let state = self.0.state();
        let all = state.directory.members().filter_map(|(service, uid)| {
            let (namespace, name) = service.split_once('/')?;
            let pod = state.store.find(uid, "")?;
            (pod.namespace == namespace).then(|| (pod.clone(), name.into()))
        });
        all.collect()
    }

    /// Addresses that are somebody else's, or nobody's, since the last call.
    pub fn changes(&self) -> Vec<(IpAddr, Option<Target>)> {
        self.0.state().directory.take()
    }

    /// How many connections reach whom, of so many to a service's address that NAT has sent to another.
    pub fn behind(&self, connections: &HashMap<(IpAddr, IpAddr), u64>) -> HashMap<Backend, u64> {
        let all: Vec<_> = connections.iter().collect();
        let mut out = HashMap::new();
        // Others wait for the state while it is held.
        for some in all.chunks(HELD) {
            let state = self.0.state();
            for ((address, to), count) in some {
                if let Some(backend) = state.directory.behind(address, to) {
                    *out.entry(backend).or_default() += **count;
                }
            }
        }
        out
    }

    /// The node; `None` = it is not known yet.
    pub fn node(&self) -> Option<Node> {
        self.0.state().node.clone()
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        let state = self.0.state();
        let own = [
            ("pods", state.store.refused),
            ("addresses", state.directory.refused),
            ("zones", state.directory.zones.refused),
            ("services", state.directory.refused_members),
            ("nameless", state.nameless),
        ];
        let mut refused = state.refused.clone();
        for (what, count) in own {
            *refused.entry(what).or_default() += count;
        }
        Status {
            pods: state.store.len(),
            ages: self.0.contact.ages().collect(),
            lists: state.lists,
            addresses: state.directory.len(),
            refused,
            errors: state.errors.clone(),
        }
    }

    /// Counts what found no room where it was to be used.
    pub fn refuse(&self, what: &'static str, count: u64) {
        *self.0.state().refused.entry(what).or_default() += count;
    }

    /// What the server lets us ask of what we need, verb and kind: `None` = it has not answered that yet.
    pub fn rights(&self) -> Vec<(&'static str, &'static str, Option<Right>)> {
        let peers = self.0.state().peers;
        let needed = NEEDED.iter().filter(|(_, _, from)| peers >= *from);
        needed
            .map(|(asked, kind, _)| (asked.verb(), *kind, self.0.contact.right(kind, *asked)))
            .collect()
    }

    /// Waits until the server has let us ask all that we need or has refused it, at most so long.
    pub fn wait_for_rights(&self, longest: Duration) {
        let end = Instant::now() + longest;
        // A list that is refused is followed by no watch.
        let is_open = |rights: &[(&str, &str, Option<Right>)]| {
            rights.iter().any(|(_, kind, right)| {
                let is_denied = |(_, other, right): &(&str, &str, Option<Right>)| {
                    other == kind && *right == Some(Right::Denied)
                };
                right.is_none() && !rights.iter().any(is_denied)
            })
        };
        while is_open(&self.rights()) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
