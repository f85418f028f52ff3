//! The thread: lists, watches, and what to do when they fail.

use crate::arrived::{Arrived, Kept};
use crate::bearer::Bearer;
use crate::directory::{By, MAX_ADDRESSES};
use crate::limit::Bounds;
use crate::pod::Pod;
use crate::service::{LONGEST_LABEL, Named, Service, Slice};
use crate::store::MAX_PODS;
use crate::trouble::{FORGIVEN, Trouble, chain, is_gone, reason, reason_of};
use crate::{Node, Peers, Settings, Shared, program};
use futures::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1 as core;
use kube_client::client::ClientBuilder;
use kube_client::config::{KubeConfigOptions, Kubeconfig};
use kube_client::{Api, Client, Config, Error};
use kube_runtime::watcher::{self, Event};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout_at};
use tower::limit::RateLimitLayer;

/// Objects of one answer to a list, where one answer is too large for all of them. It is halved as long as that is so.
const PAGE: u32 = 100;
/// The same where there are so many that a list of small ones could not be complete in time.
const LARGE_PAGE: u32 = 2000;
/// Most pods of a cluster: Kubernetes is made for 150,000. Those that find no room are counted.
const MAX_BEARERS: usize = 160_000;
/// A list must be complete after this time, whatever the number of its pages.
const LONGEST_LIST: Duration = Duration::from_secs(60);
/// The server ends a watch after this time, seconds; one that is silent for longer is dead.
const WATCH: u32 = 120;
/// Each list that follows another within this time …
const CALM: Duration = Duration::from_secs(3600);
/// … makes the rest before the next one for what was refused twice as long, up to this.
const LONGEST_REST: Duration = Duration::from_secs(1800);
/// Where nodes are is asked again after this time, and up to half of it more, so that not all ask at once: nodes move seldom.
const NODES_AGAIN: Duration = Duration::from_secs(300);
/// The own node after this time, twice that, and so on, as long as it has no region or no zone: a cloud labels what has come.
const NODE_SOON: Duration = Duration::from_secs(5);
/// A list that is large and came to no end is asked for again after this time, and up to half of it more or less: all nodes would
/// have all of it sent again and again.
const REST_OF_MUCH: Duration = Duration::from_secs(600);
/// Requests in this time, whatever the server does: one that ends each watch at once, or that has always another page, is
/// asked no more often.
const REQUESTS: u64 = 200;
const REQUESTS_IN: Duration = Duration::from_secs(20);
const CONNECT: Duration = Duration::from_secs(5);

/// Starts the thread, and returns when it has a client. The thread makes it, because whoever calls may be inside of a
/// runtime, where no other can be waited for.
pub(crate) fn start(settings: &Settings, shared: Arc<Shared>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("starting the runtime: {e}"))?;
    let (sender, made) = std::sync::mpsc::channel();
    let settings = settings.clone();
    let follow = async move {
        let client = match client(&settings, &shared).await {
            Ok(client) => client,
            Err(e) => return drop(sender.send(Err(e))),
        };
        let _ = sender.send(Ok(()));
        let node = settings.node.as_str();
        let own = Follow {
            only: watcher::Config::default().fields(&format!("spec.nodeName={node}")),
            most: 2 * MAX_PODS,
            is_large: false,
            without: "the pods of this node are not known",
            take: take_pod,
            has_room_again: |_| false,
        };
        let peers = async {
            if settings.peers != Peers::Nobody {
                tokio::join!(
                    follow(&client, services(), &shared),
                    follow(&client, slices(), &shared),
                    regions(&client, &shared)
                );
            }
        };
        let bearers = async {
            if settings.peers == Peers::Pods {
                follow(&client, bearers(), &shared).await;
            }
        };
        tokio::join!(
            follow(&client, own, &shared),
            this_node(&client, node, &shared),
            peers,
            bearers
        );
    };
    std::thread::Builder::new()
        .name("kubernetes".into())
        .spawn(move || runtime.block_on(follow))
        .map_err(|e| format!("starting a thread: {e}"))?;
    // A program of a kubeconfig that tells who we are may never end.
    made.recv_timeout(LONGEST_LIST)
        .unwrap_or_else(|e| Err(format!("there is no client: {e}")))
}

async fn client(settings: &Settings, shared: &Shared) -> Result<Client, String> {
    let mut config = match &settings.kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path).map_err(|e| chain(&e))?;
            if let Some(user) = program::user(&read).filter(|_| !settings.programs) {
                return Err(format!(
                    "{}: user {user:?} is told by a program (exec), which security.seccomp would not let run again when its token ends; \
                     give the user a tokenFile, or set security.seccomp: false",
                    path.display()
                ));
            }
            let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
            config.map_err(|e| format!("{}: {}", path.display(), chain(&e)))?
        }
        None => Config::incluster().map_err(|e| chain(&e))?,
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(Duration::from_secs(u64::from(WATCH)) + CONNECT);
    // Pauses are ours: what fails is counted each time.
    config.default_retry = false;
    let builder = ClientBuilder::try_from(config).map_err(|e| chain(&e))?;
    let paced = builder.with_layer(&RateLimitLayer::new(REQUESTS, REQUESTS_IN));
    Ok(paced.with_layer(&Bounds(shared.contact.clone())).build())
}

/// Objects that are listed and watched.
struct Follow<T> {
    /// Which of them.
    only: watcher::Config,
    /// A list of more has no end.
    most: usize,
    /// Whether a list is so long that it is not asked for again soon.
    is_large: bool,
    /// What it means if they cannot be had.
    without: &'static str,
    take: fn(Event<Arrived<T>>, &Shared),
    /// Whether what found no room has to be listed again.
    has_room_again: fn(&Shared) -> bool,
}

impl<T> Follow<T> {
    /// After a list that came to no end.
    async fn rest(&self) {
        if self.is_large {
            sleep(REST_OF_MUCH.mul_f64(rand::random_range(0.5..1.5))).await;
        }
    }
}

fn services() -> Follow<Service> {
    Follow {
        only: watcher::Config::default(),
        most: 2 * MAX_ADDRESSES,
        is_large: false,
        without: "peers have no names of services",
        take: take_claims,
        has_room_again: |shared| shared.state().directory.has_room_again(By::Service),
    }
}

fn slices() -> Follow<Slice> {
    Follow {
        // Who has none is no service's.
        only: watcher::Config::default().labels("kubernetes.io/service-name"),
        most: 2 * MAX_ADDRESSES,
        is_large: false,
        without: "peers have no names of services",
        take: take_claims,
        has_room_again: |shared| shared.state().directory.has_room_again(By::Slice),
    }
}

/// Pods of all nodes. Those of this node are followed apart, also where the list of all cannot be had.
fn bearers() -> Follow<Bearer> {
    Follow {
        // What has ended has no address; for who watches it is deleted then.
        only: watcher::Config::default().fields("status.phase!=Succeeded,status.phase!=Failed"),
        most: MAX_BEARERS,
        is_large: true,
        without: "peers that are pods behind no service have no names",
        take: take_claims,
        has_room_again: |shared| shared.state().directory.has_room_again(By::Pod),
    }
}

async fn follow<T: Kept>(client: &Client, objects: Follow<T>, shared: &Shared) {
    let mut trouble = Trouble::new(objects.without);
    let mut page = None;
    let (mut rest, mut before) = (FORGIVEN / 2, Instant::now());
    loop {
        let api: Api<Arrived<T>> = Api::all(client.clone());
        let config = objects.only.clone().timeout(WATCH);
        let config = match page {
            // From the server's memory, which knows the pods of a node; a page is read from etcd, which for each node that asks
            // reads all pods of the cluster.
            None => watcher::Config {
                // With a limit kube would not ask for what is in memory.
                page_size: None,
                ..config.any_semantic()
            },
            Some(page) => config.page_size(page),
        };
        let stream = watcher::watcher(api, config);
        pin_mut!(stream);
        let mut listed = 0;
        // Since when a list is under way.
        let mut listing = Some(Instant::now());
        // What was refused is not listed again before, however often there is room again: all nodes would ask at once, as often as
        // somebody likes.
        let mut rested = Instant::now();
        loop {
            let end = listing.map_or_else(|| Instant::now() + FORGIVEN, |since| since + LONGEST_LIST);
            let again = match timeout_at(end.into(), stream.next()).await {
                Err(_) if listing.is_none() => Instant::now() >= rested && (objects.has_room_again)(shared),
                Err(_) => {
                    trouble
                        .has("slow", "a list is not complete after a minute", shared)
                        .await;
                    objects.rest().await;
                    true
                }
                Ok(None) => true,
                Ok(Some(Err(e))) => {
                    let why = reason(&e);
                    trouble.has(why, &chain(&e), shared).await;
                    if why == "too_large" {
                        // Of an event: whoever watches on from where it was is sent the same again.
                        if listing.is_some() {
                            if page.is_some() {
                                objects.rest().await;
                            }
                            let first = if objects.is_large { LARGE_PAGE } else { PAGE };
                            page = Some(page.map_or(first, |page| (page / 2).max(1)));
                        }
                        true
                    } else {
                        is_gone(&e)
                    }
                }
                Ok(Some(Ok(event))) => {
                    match &event {
                        Event::Init => (listed, listing) = (0, Some(Instant::now())),
                        Event::InitApply(_) => listed += 1,
                        Event::InitDone => {
                            listing = None;
                            rest = match before.elapsed() > CALM {
                                true => FORGIVEN,
                                false => (rest * 2).min(LONGEST_REST),
                            };
                            before = Instant::now();
                            rested = before + rest.mul_f64(rand::random_range(0.5..1.5));
                        }
                        Event::Apply(_) | Event::Delete(_) => {}
                    }
                    // That a list begins is no answer yet.
                    if !matches!(event, Event::Init) {
                        trouble.over();
                    }
                    (objects.take)(event, shared);
                    let too_many = listed > objects.most;
                    if too_many {
                        let why = format!("there is no end of the {}", T::PLURAL);
                        trouble.has("too_large", &why, shared).await;
                        objects.rest().await;
                    }
                    let is_rested = listing.is_none() && Instant::now() >= rested;
                    too_many || is_rested && (objects.has_room_again)(shared)
                }
            };
            if again {
                break;
            }
        }
    }
}

fn take_pod(event: Event<Arrived<Pod>>, shared: &Shared) {
    let now = Instant::now();
    let mut state = shared.state();
    match event {
        Event::Init => state.store.list(),
        Event::InitApply(arrived) | Event::Apply(arrived) => match arrived.what {
            Some(pod) => state.store.set(pod, now),
            None => state.nameless += 1,
        },
        Event::Delete(arrived) => match arrived.what {
            Some(pod) => state.store.delete(&pod.uid, now),
            None => state.nameless += 1,
        },
        Event::InitDone => {
            state.store.listed(now);
            state.lists += 1;
            shared.news.notify_all();
        }
    }
}

fn take_claims<T: Named>(event: Event<Arrived<T>>, shared: &Shared) {
    let by = T::BY;
    let mut state = shared.state();
    match event {
        Event::Init => state.directory.list(by),
        Event::InitApply(arrived) | Event::Apply(arrived) => match arrived.what {
            Some(named) => {
                let (uid, claims) = named.claims();
                state.directory.set(by, &uid, claims);
            }
            None => state.nameless += 1,
        },
        Event::Delete(arrived) => match arrived.what {
            Some(named) => state.directory.set(by, &named.claims().0, Vec::new()),
            None => state.nameless += 1,
        },
        Event::InitDone => {
            state.directory.listed(by);
            state.directories[by as usize] = true;
            shared.news.notify_all();
        }
    }
    drop(state);
    shared.zones.notify_one();
}

/// Asks for the node until it is known, and then whether it has moved: its labels may come late, or change.
async fn this_node(client: &Client, node: &str, shared: &Shared) {
    let mut trouble = Trouble::new("zone and region of this node are not known");
    let mut pause = NODE_SOON;
    loop {
        match place(client, node).await {
            Ok(found) => {
                trouble.over();
                let is_labelled = !found.region.is_empty() && !found.zone.is_empty();
                pause = if is_labelled { NODES_AGAIN } else { pause };
                shared.state().node = Some(found);
                shared.news.notify_all();
                sleep(pause.mul_f64(rand::random_range(1.0..1.5))).await;
                pause = (2 * pause).min(NODES_AGAIN);
            }
            Err(e) => trouble.has(reason_of(&e), &chain(&e), shared).await,
        }
    }
}

/// Asks one node of each zone for the region, and now and then again. Whoever watched the nodes would be told of each every few
/// minutes.
async fn regions(client: &Client, shared: &Shared) {
    let mut trouble = Trouble::new("the region of a peer is not known");
    let again = || Instant::now() + NODES_AGAIN.mul_f64(rand::random_range(1.0..1.5));
    let mut next = again();
    // One of which nobody answers does not keep the others waiting.
    let mut last = Arc::default();
    // Zones that are not over with the answer for another one.
    let mut failed = BTreeSet::new();
    loop {
        let unknown = shared.state().directory.unknown_zone(&last);
        let Some((zone, node)) = unknown else {
            shared.news.notify_all();
            let _ = timeout_at(next.into(), shared.zones.notified()).await;
            // However often there is news.
            if Instant::now() >= next {
                shared.state().directory.renew_zones();
                next = again();
            }
            continue;
        };
        last = zone.clone();
        match place(client, &node).await {
            Ok(found) => {
                let region = Some(found.region.as_str()).filter(|_| *found.zone == *zone);
                shared.state().directory.set_region(&zone, region);
                failed.remove(&zone);
                if failed.is_empty() {
                    trouble.over();
                }
            }
            Err(Error::Api(status)) if status.code == 404 => shared.state().directory.set_region(&zone, None),
            Err(e) => {
                failed.insert(zone);
                trouble.has(reason_of(&e), &chain(&e), shared).await;
            }
        }
    }
}

/// Where a node is.
async fn place(client: &Client, node: &str) -> Result<Node, Error> {
    let api: Api<core::Node> = Api::all(client.clone());
    let labels = api.get_metadata(node).await?.metadata.labels.unwrap_or_default();
    let label = |name: &str| {
        let value = labels.get(&format!("topology.kubernetes.io/{name}"));
        let fits = value.filter(|value| value.len() <= LONGEST_LABEL);
        fits.cloned().unwrap_or_default()
    };
    Ok(Node {
        region: label("region"),
        zone: label("zone"),
    })
}
