//! A Kubernetes API server that speaks list and watch over real HTTP: field selectors, pages, bookmarks, timeouts, 410 Gone,
//! metadata-only answers; and, when it is told to, one that fails and one that lies.
//!
//! After `staging/src/k8s.io/apiserver/pkg/endpoints/handlers/get.go` and the API concepts of Kubernetes 1.33.

mod asks;
pub mod fixtures;
pub mod laid;
mod objects;
mod reply;
pub mod runc;
mod tls;
mod wire;

pub use asks::{agent, sent};
pub use objects::{behind, elsewhere, lifelike, node, pod, running, service, slice};
use reply::{answer, answer_as, chunk, flood, flood_chunks, status};

use super::agent::Scratch;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const TOKEN: &str = "secret-of-the-service-account";
/// How pods of all nodes are asked for.
const NOT_ENDED: &str = "status.phase!=Succeeded,status.phase!=Failed";
/// Between two bookmarks; the real one sends one a minute.
const BOOKMARK: Duration = Duration::from_millis(500);

/// How it behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// As it should.
    #[default]
    Well,
    /// Every connection is cut.
    Down,
    /// Accepts, and never answers.
    Silent,
    /// Nothing but this status.
    Refuses(u16),
    /// 403, as without a role.
    Forbids,
    /// 403 to who watches, as with a role that may list only.
    ForbidsWatch,
    /// Whoever watches is told that he comes too late, by status 410 and not by an event.
    Forgetful,
    /// Each list has another page.
    Endless,
    /// An answer has no end.
    Flood,
    /// An event has no end.
    LongEvent,
    /// What it says is no JSON, or another object.
    Garbage,
    /// Each watch ends as soon as it has begun.
    Hasty,
}

#[derive(Default)]
struct World {
    mood: Mood,
    version: u64,
    /// The oldest version from which a watch may begin.
    oldest: u64,
    /// By plural and uid: the object, which says its version.
    objects: BTreeMap<(String, String), Value>,
    /// Version, plural, type, object.
    events: Vec<(u64, String, &'static str, Value)>,
    requests: Vec<String>,
    wrong: Vec<String>,
    has_services: bool,
    has_pods: bool,
    /// Plural and length of lists that were sent as protobuf.
    lists: Vec<(String, usize)>,
}

#[derive(Default)]
struct Shared {
    world: Mutex<World>,
    news: Condvar,
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server.
pub struct Api {
    at: SocketAddr,
    shared: Arc<Shared>,
    scratch: Scratch,
}

impl Api {
    /// One with one node, `node-1`, in zone `eu-1a` of region `eu-1`.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let api = Self {
            at: listener.local_addr()?,
            shared: Arc::default(),
            scratch: Scratch::new()?,
        };
        let shared = api.shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        api.set("nodes", node("node-1", "eu-1", "eu-1a"));
        Ok(api)
    }

    /// Creates an object or changes it.
    pub fn set(&self, plural: &str, mut object: Value) {
        let mut world = self.shared.world();
        world.version += 1;
        let version = world.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let before = world.objects.insert((plural.to_owned(), uid), object.clone());
        let what = if before.is_some() { "MODIFIED" } else { "ADDED" };
        world.events.push((version, plural.to_owned(), what, object));
        self.shared.news.notify_all();
    }

    /// Deletes an object.
    pub fn delete(&self, plural: &str, uid: &str) {
        let mut world = self.shared.world();
        world.version += 1;
        let version = world.version;
        if let Some(mut object) = world.objects.remove(&(plural.to_owned(), uid.to_owned())) {
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            world.events.push((version, plural.to_owned(), "DELETED", object));
        }
        self.shared.news.notify_all();
    }

    /// From now on it behaves so; connections of before are cut.
    pub fn becomes(&self, mood: Mood) {
        self.shared.world().mood = mood;
        self.shared.news.notify_all();
    }

    /// Forgets what has been, as etcd does when it is compacted: who watches from before must list anew.
    pub fn compact(&self) {
        let mut world = self.shared.world();
        world.version += 1;
        world.oldest = world.version;
        world.events.clear();
        self.shared.news.notify_all();
    }

    /// From now on services and their endpoints may be asked for.
    pub fn shows_services(&self) {
        self.shared.world().has_services = true;
    }

    /// From now on pods of all nodes may be asked for.
    pub fn shows_pods(&self) {
        self.shared.world().has_pods = true;
    }

    /// Bytes of the last list of these that was sent as protobuf.
    pub fn listed(&self, plural: &str) -> Option<usize> {
        let world = self.shared.world();
        let last = world.lists.iter().rfind(|(kind, _)| kind == plural);
        last.map(|(_, length)| *length)
    }

    /// Path and query of what it was asked.
    pub fn requests(&self) -> Vec<String> {
        self.shared.world().requests.clone()
    }

    /// That nobody has asked for what the service account may not, or in a way that costs too much.
    pub fn is_content(&self) -> Result<()> {
        let wrong = &self.shared.world().wrong;
        ensure!(wrong.is_empty(), "requests that are wrong: {wrong:?}");
        Ok(())
    }
}

struct Request {
    plural: String,
    query: BTreeMap<String, String>,
    is_metadata: bool,
    is_protobuf: bool,
}

impl Request {
    fn get(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(300)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let mood = shared.world().mood;
        match mood {
            Mood::Down => return Ok(()),
            Mood::Silent => {
                wait(shared, Duration::from_secs(120), |world| world.mood != mood);
                return Ok(());
            }
            _ => {}
        }
        let first = lines.first().context("no request line")?;
        let target = first.split(' ').nth(1).unwrap_or_default().to_owned();
        shared.world().requests.push(target.clone());
        let header = |name: &str| {
            let found = lines.iter().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            });
            found.unwrap_or_default()
        };
        if header("authorization") != format!("Bearer {TOKEN}") {
            status(&mut writer, 401, "Unauthorized", "Unauthorized")?;
            continue;
        }
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let request = Request {
            plural: ["/api/v1/", "/apis/discovery.k8s.io/v1/"]
                .into_iter()
                .find_map(|group| path.strip_prefix(group))
                .unwrap_or_default()
                .to_owned(),
            query: query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(key, value)| (key.to_owned(), unescape(value)))
                .collect(),
            is_metadata: header("accept").contains("as=PartialObjectMetadata"),
            is_protobuf: header("accept").starts_with(wire::TYPE),
        };
        check(&request, shared);
        if let Mood::Refuses(code) = mood {
            status(&mut writer, code, "Refused", "not now")?;
            continue;
        }
        let is_forbidden = mood == Mood::ForbidsWatch && request.get("watch") == "true";
        if mood == Mood::Forbids || is_forbidden {
            let message = "pods is forbidden: User \"system:serviceaccount:monitoring:geophone\" cannot list resource \"pods\"";
            status(&mut writer, 403, "Forbidden", message)?;
        } else if let Some((plural, name)) = request.plural.split_once('/') {
            get(&mut writer, &request, shared, (plural, name))?;
        } else if request.get("watch") == "true" {
            watch(&mut writer, &request, shared, mood)?;
            return Ok(());
        } else {
            list(&mut writer, &request, shared, mood)?;
        }
    }
}

/// A DaemonSet on thousands of nodes may ask for its own node's objects only, unless it is told otherwise, from the server's memory, or in small pages where
/// an answer was too large, and with bookmarks.
fn check(request: &Request, shared: &Shared) {
    let expected = match request.plural.as_str() {
        "pods" if shared.world().has_pods && request.is_protobuf => Some(NOT_ENDED),
        "pods" => Some("spec.nodeName=node-1"),
        "services" | "endpointslices" if shared.world().has_services => Some(""),
        _ => None,
    };
    let limit: u32 = request.get("limit").parse().unwrap_or(0);
    // Of another node only the zone of a peer is anybody's business.
    let node = request.plural.strip_prefix("nodes/");
    let is_node = node.is_some_and(|name| name == "node-1" || shared.world().has_services);
    let is_watch = request.get("watch") == "true";
    let wrong = if is_node && request.is_metadata {
        return;
    } else if is_node {
        "more than the metadata"
    } else if expected != Some(request.get("fieldSelector")) {
        "not of its own node, or of nobody's business"
    } else if !is_watch && !(1..=100).contains(&limit) && request.get("resourceVersion") != "0" {
        "a scan of etcd, and not in pages"
    } else if is_watch && request.get("allowWatchBookmarks") != "true" {
        "without bookmarks"
    } else if matches!(&*request.plural, "services" | "endpointslices") && !request.is_protobuf {
        "as JSON, of which there is three times as much"
    } else {
        return;
    };
    let Request { plural, query, .. } = request;
    shared.world().wrong.push(format!("{plural} {query:?}: {wrong}"));
}

fn unescape(value: &str) -> String {
    value
        .replace("%3D", "=")
        .replace("%21", "!")
        .replace("%2C", ",")
        .replace("%2F", "/")
        .replace('+', " ")
}

/// Whether it has the label and the fields that are asked for.
fn admits(request: &Request, object: &Value) -> bool {
    let label = request.get("labelSelector");
    let field = request.get("fieldSelector");
    let is_there = match field.strip_prefix("spec.nodeName=") {
        Some(node) => object["spec"]["nodeName"] == node,
        None => field != NOT_ENDED || !has_ended(object),
    };
    is_there && (label.is_empty() || object["metadata"]["labels"][label].is_string())
}

fn has_ended(pod: &Value) -> bool {
    pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed"
}

/// What is told of an event to who has asked so: what leaves his selection is deleted.
fn told<'a>(request: &Request, what: &'a str, object: &Value) -> Option<&'a str> {
    if admits(request, object) {
        Some(what)
    } else {
        (request.get("fieldSelector") == NOT_ENDED).then_some("DELETED")
    }
}

/// As the client asked for it: whole, or its metadata.
fn shown(request: &Request, object: &Value) -> Value {
    if !request.is_metadata {
        return object.clone();
    }
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn get(writer: &mut TcpStream, request: &Request, shared: &Shared, key: (&str, &str)) -> Result<()> {
    let key = (key.0.to_owned(), key.1.to_owned());
    let found = shared
        .world()
        .objects
        .get(&key)
        .map(|object| shown(request, object));
    match found {
        Some(object) => answer(writer, 200, &object.to_string()),
        None => status(writer, 404, "NotFound", "not found"),
    }
}

fn list(writer: &mut TcpStream, request: &Request, shared: &Shared, mood: Mood) -> Result<()> {
    match mood {
        Mood::Flood => return flood(writer, shared, "{\"kind\":\"PodList\",\"items\":[", mood),
        Mood::Garbage => {
            return answer(
                writer,
                200,
                "{\"kind\":\"PodList\",\"metadata\":{},\"items\":[{},7]}",
            );
        }
        _ => {}
    }
    let limit: usize = request.get("limit").parse().unwrap_or(usize::MAX);
    let from: usize = request.get("continue").parse().unwrap_or(0);
    let (mut items, mut left, version) = {
        let world = shared.world();
        let own = || {
            let all = world.objects.iter();
            all.filter(|((plural, _), object)| *plural == request.plural && admits(request, object))
        };
        let page = own().skip(from).take(limit);
        let items: Vec<Value> = page.map(|(_, object)| shown(request, object)).collect();
        let left = own().count().saturating_sub(from + items.len());
        (items, left, world.version)
    };
    if mood == Mood::Endless {
        items.truncate(1);
        left = 1;
    }
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if left > 0 {
        metadata["continue"] = json!((from + items.len()).to_string());
        metadata["remainingItemCount"] = json!(left);
    }
    let body = json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items});
    if request.is_protobuf {
        let list = wire::list(&request.plural, &body);
        let length = (request.plural.clone(), list.len());
        shared.world().lists.push(length);
        return answer_as(writer, 200, wire::TYPE, &list);
    }
    answer(writer, 200, &body.to_string())
}

fn watch(writer: &mut TcpStream, request: &Request, shared: &Shared, mood: Mood) -> Result<()> {
    let mut from: u64 = request.get("resourceVersion").parse().unwrap_or(0);
    if mood == Mood::Forgetful {
        return status(writer, 410, "Expired", "too old resource version");
    }
    write!(
        writer,
        "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        if request.is_protobuf {
            "application/vnd.kubernetes.protobuf;stream=watch"
        } else {
            "application/json"
        }
    )?;
    let framed = |what: &str, object: &Value| match request.is_protobuf {
        true => wire::event(&request.plural, what, object),
        false => format!("{}\n", json!({"type": what, "object": object})).into_bytes(),
    };
    match mood {
        Mood::Hasty => return Ok(write!(writer, "0\r\n\r\n")?),
        Mood::LongEvent => {
            return flood_chunks(
                writer,
                shared,
                "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"",
                mood,
            );
        }
        Mood::Garbage => {
            chunk(
                writer,
                "{\"type\":\"ADDED\",\"object\":{\"kind\":\"Pod\"}}\n\u{1b}[31m\n",
            )?;
        }
        _ => {}
    }
    let seconds = request.get("timeoutSeconds").parse().unwrap_or(300);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let (events, oldest, version) = {
            let world = shared.world();
            if world.mood != mood {
                return Ok(());
            }
            let news = world
                .events
                .iter()
                .filter(|(version, plural, ..)| *version > from && *plural == request.plural);
            let news: Vec<_> = news
                .filter_map(|(_, _, what, object)| {
                    Some((told(request, what, object)?, shown(request, object)))
                })
                .collect();
            (news, world.oldest, world.version)
        };
        if from < oldest {
            let gone = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": format!("too old resource version: {from} ({oldest})"), "reason": "Expired", "code": 410
            });
            chunk(writer, framed("ERROR", &gone))?;
            break;
        }
        for (what, object) in &events {
            chunk(writer, framed(what, object))?;
        }
        from = version;
        let waited = wait(shared, BOOKMARK, |world| {
            world.version > from || world.mood != mood
        });
        if !waited {
            let mark = json!({
                "kind": "Pod", "apiVersion": "v1",
                "metadata": {"resourceVersion": from.to_string(), "creationTimestamp": null},
                "spec": {"containers": null}, "status": {}
            });
            chunk(writer, framed("BOOKMARK", &mark))?;
        }
    }
    Ok(write!(writer, "0\r\n\r\n")?)
}

/// Waits for something to happen, so long; returns whether it has.
fn wait(shared: &Shared, longest: Duration, happened: impl Fn(&World) -> bool) -> bool {
    let (world, timeout) = shared
        .news
        .wait_timeout_while(shared.world(), longest, |world| !happened(world))
        .unwrap_or_else(PoisonError::into_inner);
    drop(world);
    !timeout.timed_out()
}
