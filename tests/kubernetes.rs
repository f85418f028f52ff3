//! Names from Kubernetes: a server that speaks its protocol, containers that are cgroups under kubepods, and real connections.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};
use tests::harness::cli::geophone;
use tests::harness::command::promtool;
use tests::harness::kubernetes::laid::{self, container, talk, uid};
use tests::harness::kubernetes::runc::{Container, id};
use tests::harness::kubernetes::{Api, Mood, agent, node, pod, running, sent};
use tests::harness::otlp::Authority;
use tests::harness::{Agent, Scene, Setup, Snapshot, equal, promql};
use tests::need_root;

fn has_sent(s: &Snapshot, subject: &str, bytes: u64) -> Result<()> {
    let found = sent(s, &[("subject", subject)]);
    let subjects = s.values("geophone_tcp_bytes_total", "subject");
    ensure!(
        found == bytes,
        "{subject}: {found} for {bytes}; subjects are {subjects:?}"
    );
    Ok(())
}

/// Cause: 250 pods, listed at once from the server's memory, containers of two Deployments, one that comes later, one that is gone at
/// once, and one that is gone before the server tells of it after 1.9 s. Seen: each by its workload, with labels, two seconds
/// after its start at the latest if the server knew it by then; zone, region and node; what the server was asked is cheap.
#[test]
fn containers_are_called_after_their_workloads() -> Result<()> {
    need_root!();
    let api = Api::start()?;
    for i in 0..250 {
        api.set(
            "pods",
            pod(
                &format!("{i:08x}-0000-4a5e-9a41-5f1f0d2c7b11"),
                "crowd",
                &format!("d{i}"),
            ),
        );
    }
    let (web, web_id) = (uid(), id());
    api.set("pods", running(pod(&web, "shop", "web"), &web_id));
    let scene = Scene::echo()?;
    let agent = agent(&api)?.start()?;
    let cgroup = container(&web, &web_id)?;
    talk(&scene, cgroup.path(), 3000)?;
    agent.until(|s| has_sent(s, "shop/web", 3000))?;
    let s = agent.snapshot()?;
    let labels = [
        ("subject", "shop/web"),
        ("k8s_namespace_name", "shop"),
        ("k8s_deployment_name", "web"),
    ];
    equal("bytes by labels", sent(&s, &labels), 3000)?;
    equal("pods", s.number("geophone_kubernetes_pods", &[])? as u64, 251)?;

    // Another pod of the same Deployment, whose container runs before the API says so: one series. It is gone before
    // anybody could look, and the pod is deleted.
    let (second, second_id) = (uid(), id());
    api.set("pods", pod(&second, "shop", "web"));
    let cgroup = container(&second, &second_id)?;
    talk(&scene, cgroup.path(), 2000)?;
    let path = cgroup.path().to_owned();
    drop(cgroup);
    ensure!(!path.exists(), "{} is still there", path.display());
    api.delete("pods", &second);
    // A pod that the API tells of only after its container has begun to talk.
    let (late, late_id) = (uid(), id());
    let late_cgroup = container(&late, &late_id)?;
    let begun = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    talk(&scene, late_cgroup.path(), 1000)?;
    api.set("pods", running(pod(&late, "shop", "late"), &late_id));
    let named = agent.until(|s| has_sent(s, "shop/late", 1000).map(|()| s.time))?;
    let took = named - begun.as_secs_f64();
    ensure!(took <= 2.0, "a name {took:.2} s after its container");
    // One that is gone when it gets a name, all that it sent with it.
    let (gone, gone_id) = (uid(), id());
    let cgroup = container(&gone, &gone_id)?;
    let begun = Instant::now();
    talk(&scene, cgroup.path(), 1500)?;
    let path = cgroup.path().to_owned();
    drop(cgroup);
    ensure!(!path.exists(), "{} is still there", path.display());
    sleep(Duration::from_millis(1900).saturating_sub(begun.elapsed()));
    api.set("pods", running(pod(&gone, "shop", "gone"), &gone_id));
    agent.settles(|s| has_sent(s, "shop/gone", 1500))?;
    agent.settles(|s| has_sent(s, "shop/web", 5000))?;

    let text = agent.metrics()?;
    let info = text.lines().find(|line| line.starts_with("target_info"));
    let info = info.context("no target_info")?;
    for part in ["region=\"eu-1\"", "zone=\"eu-1a\""] {
        ensure!(info.contains(part), "{part} is not in {info}");
    }
    promtool(&text)?;
    api.is_content()?;
    let pages = api
        .requests()
        .iter()
        .filter(|r| r.contains("/pods?") && !r.contains("watch=true"))
        .count();
    equal("pages", pages, 1)
}

/// Cause: a node that a cloud labels when the agent runs already. Seen: its zone and region within a few seconds, in a scrape and
/// in the store, which has one `target_info` at a time.
#[test]
fn zone_and_region_come_with_the_labels_of_the_node() -> Result<()> {
    need_root!();
    let api = Api::start()?;
    api.set("nodes", node("node-1", "", ""));
    let agent = agent(&api)?.config("store: {kind: memory}").start()?;
    let info = |agent: &Agent| -> Result<String> {
        let text = agent.metrics()?;
        let line = text.lines().find(|line| line.starts_with("target_info"));
        Ok(line.context("no target_info")?.to_owned())
    };
    let before = info(&agent)?;
    ensure!(
        !before.contains("region=") && !before.contains("zone="),
        "{before}"
    );
    api.set("nodes", node("node-1", "eu-1", "eu-1a"));
    agent.until(|_| {
        let now = info(&agent)?;
        ensure!(
            now.contains(r#"region="eu-1""#) && now.contains(r#"zone="eu-1a""#),
            "{now}"
        );
        Ok(())
    })?;
    agent.after(2)?;
    let places = promql::instant(agent.at, "count by (region, zone) (target_info)")?;
    let place = |one: &serde_json::Value| format!("{} {}", one["metric"]["region"], one["metric"]["zone"]);
    equal(
        "target_info",
        places.iter().map(place).collect::<Vec<_>>(),
        vec![r#""eu-1" "eu-1a""#.to_owned()],
    )?;
    api.is_content()
}

/// Cause: the agent runs as in a pod with a service account, and the API is behind TLS. Seen: it asks by itself, and
/// trusts the authority that the kubelet names and no other.
#[test]
fn in_a_pod_it_asks_by_itself() -> Result<()> {
    need_root!("openssl", "unshare");
    let api = Api::start()?;
    let (web, web_id) = (uid(), id());
    api.set("pods", running(pod(&web, "shop", "web"), &web_id));
    let (ours, others) = (Authority::new()?, Authority::new()?);
    let agent = Setup::new().through(api.pod(&ours)?).start()?;
    agent.until(|s| equal("pods", s.number("geophone_kubernetes_pods", &[])? as u64, 1))?;
    drop(agent);
    // It is the server's certificate that counts, not its address.
    fs::copy(others.files.path("ca.crt"), ours.files.path("ca.crt"))?;
    let agent = Setup::new().through(api.pod(&ours)?).start()?;
    agent.until(|s| {
        let errors = s.sum("geophone_kubernetes_errors_total", &[("reason", "connect")]);
        ensure!(errors > 0, "no error");
        equal("lists", s.sum("geophone_kubernetes_lists_total", &[]), 0)
    })?;
    ensure!(agent.log().contains("certificate"), "{}", agent.log());
    let off = Setup::new()
        .set("kubernetes.enabled", "false")
        .through(api.pod(&ours)?);
    let s = off.start()?.snapshot()?;
    equal(
        "series",
        s.series("geophone_kubernetes_lists_total", &[]).len(),
        0,
    )
}

/// Cause: a node with 10,000 pods. Seen: all of them, in less than 50 MiB, and soon enough.
#[test]
fn ten_thousand_pods_cost_less_than_fifty_mebibytes() -> Result<()> {
    need_root!();
    let resident = |s: &Snapshot| s.number("geophone_agent_memory_bytes", &[]);
    let api = Api::start()?;
    let few = agent(&api)?.start()?;
    let before = resident(&few.snapshot()?)?;
    drop(few);
    for i in 0..10_000 {
        let uid = format!("{i:08x}-0000-4a5e-9a41-5f1f0d2c7b11");
        let running = running(pod(&uid, "crowd", &format!("d{i}")), &format!("{i:064x}"));
        api.set("pods", running);
    }
    let begun = Instant::now();
    let agent = agent(&api)?.start()?;
    agent.until(|s| equal("pods", s.number("geophone_kubernetes_pods", &[])? as u64, 10_000))?;
    let after = resident(&agent.snapshot()?)?;
    println!(
        "{:.1} MiB more, known after {:?}",
        (after - before) / 1048576.0,
        begun.elapsed()
    );
    ensure!(
        after - before < 50.0 * 1048576.0,
        "resident {before} before and {after} after"
    );
    api.is_content()
}

/// Cause: the server goes away, comes back, and has forgotten the past. Seen: names of before stay, the age of what is
/// known grows, and pods of meanwhile are learnt from a new list.
#[test]
fn names_outlive_the_server() -> Result<()> {
    need_root!();
    let api = Api::start()?;
    let (web, web_id) = (uid(), id());
    api.set("pods", running(pod(&web, "shop", "web"), &web_id));
    let scene = Scene::echo()?;
    let agent = agent(&api)?.start()?;
    api.becomes(Mood::Down);
    let cgroup = container(&web, &web_id)?;
    talk(&scene, cgroup.path(), 1000)?;
    agent.until(|s| has_sent(s, "shop/web", 1000))?;
    let old = |s: &Snapshot| s.number("geophone_kubernetes_age_seconds", &[("object", "pods")]);
    agent.until(|s| {
        let age = old(s)?;
        ensure!(age > 2.0, "{age} s old");
        let errors = s.sum("geophone_kubernetes_errors_total", &[("reason", "connect")]);
        ensure!(errors > 0, "no error");
        Ok(())
    })?;
    ensure!(
        agent.log().contains("names of before are kept"),
        "{}",
        agent.log()
    );
    let (new, new_id) = (uid(), id());
    api.set("pods", running(pod(&new, "shop", "new"), &new_id));
    api.compact();
    api.becomes(Mood::Well);
    agent.until(|s| {
        equal("lists", s.sum("geophone_kubernetes_lists_total", &[]), 2)?;
        ensure!(old(s)? < 2.0, "still {} s old", old(s)?);
        equal(
            "gone",
            s.sum("geophone_kubernetes_errors_total", &[("reason", "gone")]),
            1,
        )
    })?;
    let cgroup = container(&new, &new_id)?;
    talk(&scene, cgroup.path(), 700)?;
    agent.until(|s| has_sent(s, "shop/new", 700))?;
    // The same, told by the status of an answer instead of an event.
    api.becomes(Mood::Forgetful);
    agent.until(|s| {
        let lists = s.sum("geophone_kubernetes_lists_total", &[]);
        ensure!(lists >= 4, "{lists} lists");
        Ok(())
    })?;
    api.is_content()
}

/// Cause: a server that forbids, is silent, sends without end or says what is no pod. Seen: the reason, the container by
/// its id after two seconds, and no memory lost.
#[test]
fn a_bad_server_costs_little() -> Result<()> {
    need_root!();
    let api = Api::start()?;
    let (web, web_id) = (uid(), id());
    api.set("pods", running(pod(&web, "shop", "web"), &web_id));
    let scene = Scene::echo()?;
    api.becomes(Mood::Forbids);
    let agent = agent(&api)?.start()?;
    let log = agent.log();
    ensure!(log.contains("list and watch of pods"), "{log}");
    let cgroup = container(&web, &web_id)?;
    talk(&scene, cgroup.path(), 1000)?;
    let short = web_id.get(..12).unwrap_or_default();
    agent.until(|s| has_sent(s, short, 1000))?;
    let resident = |s: &Snapshot| s.number("geophone_agent_memory_bytes", &[]).unwrap_or(0.0);
    let before = resident(&agent.snapshot()?);
    for (mood, reason) in [
        (Mood::Refuses(429), "throttled"),
        (Mood::Refuses(503), "status"),
        (Mood::Flood, "too_large"),
        (Mood::Garbage, "malformed"),
        (Mood::Endless, ""),
        (Mood::Silent, ""),
        (Mood::Hasty, ""),
        (Mood::LongEvent, "too_large"),
    ] {
        let count = |s: &Snapshot| s.sum("geophone_kubernetes_errors_total", &[("reason", reason)]);
        let errors = count(&agent.snapshot()?);
        let asked = api.requests().len();
        api.becomes(mood);
        if reason.is_empty() {
            agent.after(2)?;
        } else {
            agent
                .until(|s| {
                    ensure!(count(s) > errors, "no error {reason:?} yet");
                    Ok(())
                })
                .with_context(|| format!("{mood:?}"))?;
        }
        let asked = api.requests().len() - asked;
        ensure!(asked < 300, "{mood:?}: {asked} requests");
    }
    let after = resident(&agent.snapshot()?);
    println!("resident {before} before and {after} after");
    ensure!(
        after < before + 48e6,
        "resident {before} before and {after} after"
    );
    api.becomes(Mood::Well);
    let (new, new_id) = (uid(), id());
    api.set("pods", running(pod(&new, "shop", "new"), &new_id));
    agent.until(|s| equal("pods", s.number("geophone_kubernetes_pods", &[])? as u64, 2))?;
    let cgroup = container(&new, &new_id)?;
    talk(&scene, cgroup.path(), 700)?;
    agent.until(|s| has_sent(s, "shop/new", 700))?;
    agent.snapshot()?.lawful()
}

/// Cause: two containers of two Deployments talk to two peers; labels are left out. Seen: one series by namespace, the sum of
/// both, that does not fall when one of them ends; the same in the store and in a scrape; what other metrics have stays.
#[test]
fn labels_that_are_left_out_are_added_up() -> Result<()> {
    need_root!();
    let api = Api::start()?;
    let (web, web_id) = (uid(), id());
    let (cart, cart_id) = (uid(), id());
    api.set("pods", running(pod(&web, "shop", "web"), &web_id));
    api.set("pods", running(pod(&cart, "shop", "cart"), &cart_id));
    let scene = Scene::echo()?;
    let rules = "[{metrics: geophone_tcp_bytes_total, include: [k8s_namespace_name, direction]}, \
                 {metrics: geophone_tcp_rtt_seconds, exclude: [subject]}]";
    let agent = agent(&api)?
        .set("labels", rules)
        .config("store: {kind: memory}")
        .start()?;
    let cgroup = container(&web, &web_id)?;
    talk(&scene, cgroup.path(), 3000)?;
    let shop = [("k8s_namespace_name", "shop")];
    agent.until(|s| equal("bytes", sent(s, &shop), 3000))?;
    let second = container(&cart, &cart_id)?;
    talk(&scene, second.path(), 2000)?;
    agent.until(|s| equal("bytes", sent(s, &shop), 5000))?;
    let s = agent.snapshot()?;
    equal("series", s.series("geophone_tcp_bytes_total", &shop).len(), 2)?;
    let subjects = s.values("geophone_tcp_bytes_total", "subject");
    ensure!(subjects.iter().all(String::is_empty), "{subjects:?}");
    let subjects = s.values("geophone_tcp_segments_total", "subject");
    ensure!(
        subjects.iter().any(|subject| subject == "shop/cart"),
        "{subjects:?}"
    );
    ensure!(
        s.values("geophone_tcp_rtt_seconds", "subject")
            .iter()
            .all(String::is_empty),
        "rtt by subject"
    );
    let folded = [("metric", "geophone_tcp_bytes_total")];
    ensure!(
        s.number("geophone_folded_series", &folded)? >= 2.0,
        "nothing folded"
    );
    let text = agent.metrics()?;
    promtool(&text)?;
    let lines = text
        .lines()
        .filter(|line| line.starts_with("geophone_tcp_bytes_total{") && line.contains("shop"));
    equal("lines", lines.count(), 2)?;
    let stored = geophone(&[
        "query",
        "--listen",
        &agent.at.to_string(),
        "count by (k8s_namespace_name) (geophone_tcp_bytes_total{k8s_namespace_name='shop'})",
    ])?;
    let stored = String::from_utf8_lossy(&stored.stdout).into_owned();
    ensure!(stored.contains("shop") && stored.contains(" 2"), "{stored}");
    let told = geophone(&["check", "--cardinality", "--listen", &agent.at.to_string()])?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    ensure!(told.contains("that `labels` has made part of them"), "{told}");
    s.lawful()
}

/// Cause: a role without `watch`. Seen: `geophone check` names what is forbidden and fails; without the fault it does not.
#[test]
fn check_names_the_right_that_is_missing() -> Result<()> {
    need_root!();
    let api = Api::start()?;
    api.set("pods", running(pod(&uid(), "shop", "web"), &id()));
    let kubeconfig = api.kubeconfig()?;
    let kubeconfig = format!("kubernetes.kubeconfig={}", kubeconfig.display());
    let arguments = [
        "check",
        "--json",
        "--set",
        &kubeconfig,
        "--set",
        "kubernetes.node=node-1",
    ];
    let fact = || -> Result<serde_json::Value> {
        let report: serde_json::Value = serde_json::from_slice(&geophone(&arguments)?.stdout)?;
        let facts = report["facts"].as_array().cloned().unwrap_or_default();
        let own = facts.into_iter().find(|fact| fact["name"] == "kubernetes");
        own.context("nothing of Kubernetes")
    };
    let well = fact()?;
    ensure!(
        well["ok"] == true && well["value"] == "1 pods of node node-1",
        "{well}"
    );
    api.becomes(Mood::ForbidsWatch);
    let forbidden = fact()?;
    ensure!(forbidden["ok"] == false, "{forbidden}");
    let value = forbidden["value"].as_str().unwrap_or_default();
    equal(
        "fact",
        value,
        "1 pods of node node-1, but forbidden: watch of pods",
    )?;
    api.becomes(Mood::Forbids);
    let forbidden = fact()?;
    let value = forbidden["value"].as_str().unwrap_or_default();
    equal("fact", value, "forbidden: list of pods, get of nodes")
}

/// Cause: a kubeconfig whose user is told by a program, whose token ends at once; with the filter of system calls, and without.
/// Seen: a line that names the remedy, from the agent and from `geophone check`; without the filter the pods, later ones too.
#[test]
fn a_program_of_a_kubeconfig_is_refused_or_runs_on() -> Result<()> {
    need_root!();
    let api = Api::start()?;
    api.set("pods", pod(&uid(), "shop", "web"));
    let path = api.kubeconfig_with_program()?;
    let path = path.to_str().context("a strange path")?;
    let told = "give the user a tokenFile, or set security.seccomp: false";
    let with = Setup::new()
        .set("kubernetes.kubeconfig", path)
        .set("kubernetes.node", "node-1");
    let refused = with.start()?;
    ensure!(refused.log().contains(told), "{}", refused.log());
    equal("requests", api.requests().len(), 0)?;
    drop(refused);
    let checked = geophone(&["check", "--set", &format!("kubernetes.kubeconfig={path}")])?;
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    ensure!(checked.contains(told), "{checked}");
    let without = Setup::new()
        .set("kubernetes.kubeconfig", path)
        .set("kubernetes.node", "node-1")
        .set("security.seccomp", "false");
    let agent = without.start()?;
    agent.until(|s| equal("pods", s.number("geophone_kubernetes_pods", &[])? as u64, 1))?;
    api.compact();
    api.set("pods", pod(&uid(), "shop", "late"));
    agent.until(|s| {
        equal("pods", s.number("geophone_kubernetes_pods", &[])? as u64, 2)?;
        let forbidden = s.sum("geophone_kubernetes_errors_total", &[("reason", "forbidden")]);
        equal("forbidden", forbidden, 0)
    })?;
    api.is_content()
}

/// Cause: containers of runc under kubepods, one in a pod that the API knows, one of which only containerd's files tell.
/// Seen: the first by its StatefulSet, without Kubernetes the second by namespace and pod.
#[test]
fn real_containers() -> Result<()> {
    need_root!("runc");
    let api = Api::start()?;
    let scene = Scene::echo()?;
    let uid = uid();
    let mut pod = pod(&uid, "shop", "db");
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "s", "controller": true}]);
    let container = Container::new(&uid, &scene)?;
    api.set("pods", running(pod, &container.id));
    let with = agent(&api)?.set("kubernetes.subject", "container").start()?;
    let without = Setup::new().start()?;
    for (container, bytes) in [
        (container, 1000),
        (Container::new(&laid::uid(), &scene)?.written_down()?, 700),
    ] {
        let mut client = container.start()?;
        let connection = client.connect(&scene.at)?;
        client.ping(connection, bytes / 100, 100)?;
        client.close(connection)?;
        // A process is looked at while it lives, once a second.
        for agent in [&with, &without] {
            agent.after(2)?;
        }
    }
    with.until(|s| {
        has_sent(s, "shop/db/main", 1000)?;
        equal("by label", sent(s, &[("k8s_statefulset_name", "db")]), 1000)?;
        // Its pod is none of the API's.
        has_sent(s, "shop/web-0/main", 700)
    })?;
    without.until(|s| has_sent(s, "shop/web-0", 700))
}
