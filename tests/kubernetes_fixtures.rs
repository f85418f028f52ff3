//! Names from objects as real clusters have them, beside made-up ones: EKS, GKE, AKS, OpenShift, k3s, kind, minikube.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::time::Duration;
use tests::harness::cgroup::Cgroup;
use tests::harness::kubernetes::fixtures::{fixture, names};
use tests::harness::kubernetes::laid::{container, talk, uid};
use tests::harness::kubernetes::runc::id;
use tests::harness::kubernetes::{Api, Mood, agent, pod, running, sent};
use tests::harness::{Scene, equal};
use tests::need_root;

/// The id of a container of a fixture's.
fn id_of(pod: &serde_json::Value, index: usize) -> Result<String> {
    let id = pod["status"]["containerStatuses"][index]["containerID"].as_str();
    let id = id.and_then(|id| id.split_once("://"));
    Ok(id.context("no id")?.1.to_owned())
}

/// Cause: a server that has pods, services and slices of real clusters beside one that was made up; containers of four of these pods
/// talk: of a static pod that CRI-O runs under the hash of its file, of a DeploymentConfig's, of one that somebody debugs, by the run
/// before this one, and of the made-up one. Seen: each by its workload; all pods and addresses, and nothing refused.
#[test]
fn objects_of_real_clusters_are_named() -> Result<()> {
    need_root!();
    let api = Api::start()?;
    api.shows_services();
    let count = api.has_fixtures()?;
    let (web, web_id) = (uid(), id());
    api.set("pods", running(pod(&web, "shop", "web"), &web_id));
    let scene = Scene::echo()?;
    let agent = agent(&api)?.set("kubernetes.peers", "true").start()?;
    agent.until(|s| {
        equal(
            "pods",
            s.number("geophone_kubernetes_pods", &[])? as usize,
            count + 1,
        )?;
        // The node's address of k3s is its balancer's and its API server's.
        equal(
            "addresses",
            s.number("geophone_kubernetes_addresses", &[])? as u64,
            13,
        )
    })?;
    let etcd = fixture("pod-openshift-static-etcd")?;
    let hash = etcd["metadata"]["annotations"]["kubernetes.io/config.mirror"].as_str();
    let hash = hash.context("no hash")?.replace('-', "_");
    let etcd = Cgroup::new(format!(
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{hash}.slice/crio-{}.scope",
        id_of(&etcd, 0)?
    ))?;
    talk(&scene, etcd.path(), 1000)?;
    let uid_of = |pod: &serde_json::Value| pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let backend = fixture("pod-openshift-deployment-config")?;
    let backend = container(&uid_of(&backend), &id_of(&backend, 0)?)?;
    talk(&scene, backend.path(), 2000)?;
    let debugged = fixture("pod-kind-debugged")?;
    let before = &debugged["status"]["containerStatuses"][0]["lastState"]["terminated"]["containerID"];
    let before = before
        .as_str()
        .and_then(|id| id.split_once("://"))
        .context("no run before")?
        .1;
    let debugged = container(&uid_of(&debugged), before)?;
    talk(&scene, debugged.path(), 3000)?;
    let made_up = container(&web, &web_id)?;
    talk(&scene, made_up.path(), 4000)?;
    agent.until(|s| {
        for (subject, bytes) in [
            ("openshift-etcd/etcd", 1000),
            ("shop/shop-backend", 2000),
            ("default/hello-world", 3000),
            ("shop/web", 4000),
        ] {
            equal(subject, sent(s, &[("subject", subject)]), bytes)?;
        }
        equal("refused", s.sum("geophone_kubernetes_refused_total", &[]), 0)?;
        equal("errors", s.sum("geophone_kubernetes_errors_total", &[]), 0)
    })?;
    api.is_content()
}

/// Cause: the own node is one of each cloud's. Seen: region and zone as its labels have them, none where it has none.
#[test]
fn nodes_of_real_clusters_have_their_places() -> Result<()> {
    need_root!();
    let expected = [
        ("node-aks-without-zone", "southeastasia", "0"),
        ("node-digitalocean", "sfo2", ""),
        ("node-eks", "eu-west-1", "eu-west-1a"),
        ("node-gke-autopilot", "europe-north1", "europe-north1-c"),
        ("node-k3s", "", ""),
        ("node-openshift", "", ""),
    ];
    equal(
        "files",
        names("node-")?,
        expected.map(|(name, ..)| name.to_owned()).into(),
    )?;
    for (name, region, zone) in expected {
        let api = Api::start()?;
        let mut node = fixture(name)?;
        node["metadata"]["name"] = json!("node-1");
        node["metadata"]["uid"] = json!("node-1");
        api.set("nodes", node);
        let agent = agent(&api)?.start()?;
        let text = agent.metrics()?;
        let info = text.lines().find(|line| line.starts_with("target_info"));
        let info = info.context("no target_info")?;
        for (label, value) in [("region", region), ("zone", zone)] {
            let has = info.contains(&format!("{label}=\"{value}\""));
            let has_none = !info.contains(&format!("{label}=\""));
            ensure!(if value.is_empty() { has_none } else { has }, "{name}: {info}");
        }
        api.is_content()?;
    }
    Ok(())
}

/// Cause: a server that accepts, and says nothing for more than a minute. Seen: that a list is not complete by then, and why names are not
/// known; with the server the names.
#[test]
fn a_server_that_says_nothing_is_slow() -> Result<()> {
    need_root!();
    let api = Api::start()?;
    let (web, web_id) = (uid(), id());
    api.set("pods", running(pod(&web, "shop", "web"), &web_id));
    api.becomes(Mood::Silent);
    let agent = agent(&api)?.start()?;
    std::thread::sleep(Duration::from_secs(60));
    agent.until(|s| {
        let slow = s.sum("geophone_kubernetes_errors_total", &[("reason", "slow")]);
        ensure!(slow >= 1, "{slow} slow lists");
        Ok(())
    })?;
    let log = agent.log();
    ensure!(log.contains("a list is not complete after a minute"), "{log}");
    api.becomes(Mood::Well);
    agent.until(|s| equal("pods", s.number("geophone_kubernetes_pods", &[])? as u64, 1))?;
    agent.snapshot()?.lawful()
}
