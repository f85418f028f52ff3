//! What container runtimes have written down on this host: names where there is no Kubernetes to ask, and the names of
//! containers before the API has them. A runtime writes these files before it starts the container.

use super::cache::Cache;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Containers whose names are remembered.
const CAPACITY: usize = 4096;
/// Who has no file is looked for again after this time, twice that, and so on.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Longest file of one container: it holds its environment.
const LONGEST: u64 = 1 << 20;
/// Longest list of all containers.
const LONGEST_LIST: u64 = 8 << 20;
/// Most namespaces of containerd that are looked through.
const NAMESPACES: usize = 32;

/// Where containerd keeps its state: as installed by itself, by k3s and RKE2, by k0s, by MicroK8s.
const CONTAINERD: [&str; 4] = ["run", "run/k3s", "run/k0s", "var/snap/microk8s/common/run"];
const TASKS: &str = "containerd/io.containerd.runtime.v2.task";
const DOCKER: &str = "var/lib/docker/containers";
/// Of CRI-O and podman.
const STORAGE: &str = "run/containers/storage/overlay-containers";
const STORAGE_LIST: &str = "var/lib/containers/storage/overlay-containers/containers.json";

/// What a runtime calls a container. What it does not say is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Name of the container: in its pod, else on this host.
    pub name: String,
    /// Namespace of its pod.
    pub namespace: String,
    /// Name of its pod.
    pub pod: String,
}

/// The files of the runtimes, below the root of the host.
#[derive(Debug)]
pub struct Runtimes {
    roots: Vec<PathBuf>,
    known: Cache<String, Arc<Container>>,
    /// Those that have no file: when to look again, and the pause after that. Whoever may create a cgroup may make many of them,
    /// so they are not among the known.
    unknown: Cache<String, (Instant, Duration)>,
    /// By UID of a pod one of its containers: no runtime writes down the pod itself.
    pods: Cache<String, Arc<Container>>,
    looks: u64,
}

impl Default for Runtimes {
    /// Those of this mount namespace, else of the first process: an agent in a container that shares the host's
    /// processes sees the host's files there, if it may trace.
    fn default() -> Self {
        Self::new(std::iter::once("/".into()).chain(host_root()).collect())
    }
}

/// Where the files of the first process are.
const HOST_ROOT: &str = "/proc/1/root/";

/// Why the host's files cannot be looked at.
pub fn host_error() -> Option<std::io::Error> {
    std::fs::metadata(HOST_ROOT).err()
}

/// The root of the first process, if it is another than ours and may be looked at.
pub fn host_root() -> Option<PathBuf> {
    let id = |path: &str| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.dev(), found.ino()))
    };
    (id("/")? != id(HOST_ROOT)?).then(|| HOST_ROOT.into())
}

/// `config.json` of an OCI bundle.
#[derive(Deserialize)]
struct Bundle {
    #[serde(default)]
    annotations: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Docker {
    name: String,
    config: Option<DockerConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerConfig {
    labels: Option<HashMap<String, String>>,
}

#[derive(Deserialize)]
struct Stored {
    id: String,
    #[serde(default)]
    names: Vec<String>,
}

impl Runtimes {
    /// Those below `roots`, the first that has an answer.
    pub fn new(roots: Vec<PathBuf>) -> Self {
        Self {
            roots,
            known: Cache::new(CAPACITY),
            unknown: Cache::new(CAPACITY),
            pods: Cache::new(CAPACITY),
            looks: 0,
        }
    }

    /// The same of a container of the pod with this UID; without an id, what is known of the pod by another of its containers.
    pub fn container_of(&mut self, uid: &str, id: &str, now: Instant) -> Option<Arc<Container>> {
        if !id.is_empty() {
            let found = self.container(id, now)?;
            if !uid.is_empty() && !found.pod.is_empty() {
                self.pods.insert(uid.to_owned(), found.clone(), now);
            }
            return Some(found);
        }
        let of_pod = self.pods.get(uid, now)?;
        Some(Arc::new(Container {
            name: String::new(),
            ..(**of_pod).clone()
        }))
    }

    /// What a runtime calls the container of this id; remembered past its end.
    pub fn container(&mut self, id: &str, now: Instant) -> Option<Arc<Container>> {
        if let Some(known) = self.known.get(id, now) {
            return Some(known.clone());
        }
        // Whoever may create a cgroup chooses its name: only what can be no path is looked for.
        if id.is_empty() || id.len() > 64 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let unknown = self.unknown.get(id, now).copied();
        if unknown.is_some_and(|(next, _)| now < next) {
            return None;
        }
        self.looks += 1;
        let Some(found) = self.roots.iter().find_map(|root| read(root, id)) else {
            let pause = unknown.map_or(FIRST_PAUSE, |(_, pause)| pause);
            let next = (now + pause, (2 * pause).min(LONGEST_PAUSE));
            self.unknown.insert(id.to_owned(), next, now);
            return None;
        };
        let found = Arc::new(found);
        self.known.insert(id.to_owned(), found.clone(), now);
        Some(found)
    }
}

fn read(root: &Path, id: &str) -> Option<Container> {
    let mut states = CONTAINERD.iter().map(|state| root.join(state).join(TASKS));
    states
        .find_map(|tasks| containerd(&tasks, id))
        .or_else(|| {
            let bundle: Bundle = json(&root.join(STORAGE).join(id).join("userdata/config.json"), LONGEST)?;
            annotated(&bundle.annotations)
        })
        .or_else(|| {
            let docker: Docker = json(&root.join(DOCKER).join(id).join("config.v2.json"), LONGEST)?;
            let labels = docker.config.and_then(|config| config.labels).unwrap_or_default();
            // The kubelet's, by way of cri-dockerd.
            annotated(&labels).or_else(|| plain(docker.name.trim_start_matches('/')))
        })
        .or_else(|| {
            let all: Vec<Stored> = json(&root.join(STORAGE_LIST), LONGEST_LIST)?;
            let own = all.into_iter().find(|container| container.id == id)?;
            plain(own.names.first()?)
        })
}

fn containerd(tasks: &Path, id: &str) -> Option<Container> {
    let namespaces = std::fs::read_dir(tasks).ok()?.flatten().take(NAMESPACES);
    namespaces
        .filter_map(|namespace| {
            let bundle: Bundle = json(&namespace.path().join(id).join("config.json"), LONGEST)?;
            annotated(&bundle.annotations)
        })
        .next()
}

/// What containerd's CRI, CRI-O, cri-dockerd and nerdctl write down.
fn annotated(annotations: &HashMap<String, String>) -> Option<Container> {
    let first = |keys: [&str; 2]| {
        let value = keys.into_iter().find_map(|key| annotations.get(key));
        value.cloned().unwrap_or_default()
    };
    let container = Container {
        name: first(["io.kubernetes.cri.container-name", "io.kubernetes.container.name"]),
        namespace: first([
            "io.kubernetes.cri.sandbox-namespace",
            "io.kubernetes.pod.namespace",
        ]),
        pod: first(["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]),
    };
    if container.pod.is_empty() {
        return plain(annotations.get("nerdctl/name")?);
    }
    Some(container)
}

fn plain(name: &str) -> Option<Container> {
    (!name.is_empty()).then(|| Container {
        name: name.to_owned(),
        ..Container::default()
    })
}

fn json<T: DeserializeOwned>(path: &Path, longest: u64) -> Option<T> {
    let mut text = Vec::new();
    File::open(path)
        .ok()?
        .take(longest + 1)
        .read_to_end(&mut text)
        .ok()?;
    if text.len() as u64 > longest {
        return None;
    }
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const ID: &str = "3f4e1a2b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f607";

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Runtimes) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path.replace("ID", ID));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text.replace("ID", ID)).unwrap();
        }
        let runtimes = Runtimes::new(vec!["/nowhere".into(), root.path().to_owned()]);
        (root, runtimes)
    }

    fn named(files: &[(&str, &str)]) -> Option<[String; 3]> {
        let (_root, mut runtimes) = host(files);
        let found = runtimes.container(ID, Instant::now())?;
        Some([found.namespace.clone(), found.pod.clone(), found.name.clone()])
    }

    #[test]
    fn every_runtime_has_its_file() {
        let containerd = r#"{"ociVersion":"1.1.0","process":{"env":["A=b"]},"annotations":{
            "io.kubernetes.cri.container-type":"container","io.kubernetes.cri.container-name":"web",
            "io.kubernetes.cri.sandbox-id":"x","io.kubernetes.cri.sandbox-name":"web-6d4cf56db6-x7k2p",
            "io.kubernetes.cri.sandbox-namespace":"shop","io.kubernetes.cri.sandbox-uid":"u"}}"#;
        let in_pod = Some(["shop", "web-6d4cf56db6-x7k2p", "web"].map(str::to_owned));
        let task = "run/containerd/io.containerd.runtime.v2.task/k8s.io/ID/config.json";
        assert_eq!(named(&[(task, containerd)]), in_pod);
        for state in ["run/k3s", "run/k0s", "var/snap/microk8s/common/run"] {
            let other = task.replace("run/", &format!("{state}/"));
            assert_eq!(named(&[(&other, containerd)]), in_pod, "{state}");
        }
        let crio = r#"{"annotations":{"io.kubernetes.container.name":"web","io.kubernetes.pod.namespace":"shop",
            "io.kubernetes.pod.name":"web-6d4cf56db6-x7k2p","io.kubernetes.cri-o.ContainerType":"container"}}"#;
        let userdata = "run/containers/storage/overlay-containers/ID/userdata/config.json";
        assert_eq!(named(&[(userdata, crio)]), in_pod);
        let nerdctl = r#"{"annotations":{"nerdctl/name":"redis","nerdctl/namespace":"default"}}"#;
        let redis = Some(["", "", "redis"].map(str::to_owned));
        assert_eq!(named(&[(&task.replace("k8s.io", "default"), nerdctl)]), redis);
        let docker =
            r#"{"StreamConfig":{},"State":{"Running":true},"ID":"ID","Name":"/redis","Driver":"overlay2"}"#;
        let moby = r#"{"annotations":{"com.docker/engine.bundle.path":"x"}}"#;
        let files = [
            (task, moby),
            ("var/lib/docker/containers/ID/config.v2.json", docker),
        ];
        assert_eq!(named(&files), redis);
        let kubelet = r#"{"Name":"/k8s_web_web-6d4cf56db6-x7k2p_shop_u_0","Config":{"Hostname":"web","Labels":{
            "io.kubernetes.container.name":"web","io.kubernetes.pod.name":"web-6d4cf56db6-x7k2p",
            "io.kubernetes.pod.namespace":"shop","io.kubernetes.docker.type":"container"}}}"#;
        assert_eq!(named(&[(files[1].0, kubelet)]), in_pod);
        for bare in [
            r#"{"Name":"/redis","Config":{}}"#,
            r#"{"Name":"/redis","Config":{"Labels":null}}"#,
            r#"{"Name":"/redis","Config":{"Labels":{"a":"b"}}}"#,
        ] {
            assert_eq!(named(&[(files[1].0, bare)]), redis, "{bare}");
        }
        let podman = r#"[{"id":"other","names":["x"]},{"id":"ID","names":["redis"],"image":"i","layer":"l","metadata":"{}"}]"#;
        let list = "var/lib/containers/storage/overlay-containers/containers.json";
        assert_eq!(named(&[(userdata, moby), (list, podman)]), redis);
        assert_eq!(named(&[]), None);
        for broken in ["", "{", "[]", r#"{"annotations":7}"#, r#"{"annotations":null}"#] {
            assert_eq!(named(&[(task, broken), (userdata, broken), (list, broken)]), None);
        }
        assert_eq!(
            named(&[(task, &format!("{}{}", containerd, " ".repeat(1 << 20)))]),
            None
        );
    }

    #[test]
    fn names_outlive_the_files_and_paths_are_no_ids() {
        let (root, mut runtimes) =
            host(&[("var/lib/docker/containers/ID/config.v2.json", r#"{"Name":"/a"}"#)]);
        let now = Instant::now();
        assert_eq!(runtimes.container(ID, now).unwrap().name, "a");
        fs::remove_dir_all(root.path().join("var")).unwrap();
        assert_eq!(runtimes.container(ID, now).unwrap().name, "a");
        for id in ["", ".", "..", "../containers", "a/b", &"a".repeat(65)] {
            assert_eq!(runtimes.container(id, now), None);
        }
    }

    #[test]
    fn who_has_no_file_is_looked_for_ever_more_seldom() {
        let (root, mut runtimes) = host(&[]);
        let start = Instant::now();
        for tenth in 0..1200 {
            assert_eq!(
                runtimes.container(ID, start + Duration::from_millis(100 * tenth)),
                None
            );
        }
        assert!(
            (8..=11).contains(&runtimes.looks),
            "{} times in two minutes",
            runtimes.looks
        );
        let path = root.path().join("var/lib/docker/containers").join(ID);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("config.v2.json"), r#"{"Name":"/late"}"#).unwrap();
        let later = start + Duration::from_secs(120) + LONGEST_PAUSE;
        assert_eq!(runtimes.container(ID, later).unwrap().name, "late");
        // Many that are nobody push no name out.
        for i in 0..3 * CAPACITY {
            assert_eq!(runtimes.container(&format!("{i:064x}"), later), None);
        }
        assert_eq!(runtimes.container(ID, later).unwrap().name, "late");
        assert!(runtimes.unknown.len() <= CAPACITY);
    }
}
