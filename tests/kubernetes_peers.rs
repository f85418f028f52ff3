//! Peers from Kubernetes: services, their endpoints, and which of them NAT has chosen.

use anyhow::{Context as _, Error, Result, ensure};
use serde_json::json;
use std::time::Instant;
use tests::harness::command::promtool;
use tests::harness::kubernetes::laid::{container, talk, uid};
use tests::harness::kubernetes::runc::id;
use tests::harness::kubernetes::{
    Api, agent, behind, elsewhere, lifelike, node, pod, running, sent, service, slice,
};
use tests::harness::{Scene, Setup, Snapshot, Traffic, equal, promql};
use tests::need_root;

/// Cause: a connection to the address of a service, which NAT sends to one of its endpoints, and one to the endpoint itself;
/// then the service has no endpoint any more. Seen: both by the service, the second with zone and region, and the other
/// end by the service of the client; a new connection by no service.
#[test]
fn peers_are_called_after_services() -> Result<()> {
    need_root!("nft");
    let api = Api::start()?;
    api.shows_services();
    let scene = Scene::echo()?;
    let (client, server) = (scene.net.a.v4.to_string(), scene.net.b.v4.to_string());
    let cluster_ip = "10.255.96.10";
    api.set("nodes", node("node-2", "eu-2", "eu-2b"));
    api.set("services", service("db", cluster_ip));
    api.set("endpointslices", slice("db", &[(&server, "node-2", "eu-2b")]));
    api.set("endpointslices", slice("web", &[(&client, "node-1", "eu-1a")]));
    let ns = &scene.net.a.ns;
    ns.ip(&format!("route add {cluster_ip} via {server}"))?;
    ns.nft(&format!(
        "table ip nat {{ chain out {{ type nat hook output priority -100; \
         ip daddr {cluster_ip} counter dnat to {server}; }}; }}"
    ))?;
    let agent = agent(&api)?.set("kubernetes.peers", "true").start()?;
    let port = scene.at.rsplit(':').next().context("no port")?;
    let mut client = Traffic::new("shopper", ns)?;
    let through = |client: &mut Traffic, to: &str, bytes: u64| {
        let connection = client.connect(to)?;
        client.ping(connection, bytes / 100, 100)?;
        client.close(connection)
    };
    through(&mut client, &format!("{cluster_ip}:{port}"), 1000)?;
    through(&mut client, &scene.at, 700)?;
    let by_server = [
        ("peer", "shop/web"),
        ("peer_zone", "eu-1a"),
        ("peer_region", "eu-1"),
    ];
    agent.until(|s| {
        equal("to db", sent(s, &[("peer", "shop/db")]), 1700)?;
        let behind = [
            ("peer", "shop/db"),
            ("peer_zone", "eu-2b"),
            ("peer_region", "eu-2"),
        ];
        equal("to its endpoint", sent(s, &behind), 700)?;
        equal("back", sent(s, &by_server), 1700)
    })?;
    ensure!(ns.nft_counter()? > 0, "no NAT");
    equal(
        "addresses",
        agent.snapshot()?.number("geophone_kubernetes_addresses", &[])? as u64,
        3,
    )?;
    api.delete("endpointslices", "slice-db");
    agent.until(|s| {
        let addresses = s.number("geophone_kubernetes_addresses", &[])?;
        equal("addresses", addresses as u64, 2)
    })?;
    // It is known; the tick that writes it to the kernel is the next one.
    agent.after(1)?;
    through(&mut client, &scene.at, 500)?;
    // Others on this machine talk as well.
    let to_nobody = [("peer", "private"), ("subject", client.name())];
    agent.until(|s| equal("to nobody", sent(s, &to_nobody), 500))?;
    let s = agent.snapshot()?;
    equal("to db as before", sent(&s, &[("peer", "shop/db")]), 1700)?;
    equal("back", sent(&s, &by_server), 2200)?;
    api.is_content()
}

/// Cause: a connection that stays open to the address of a service, which NAT sends to one of its two endpoints, and one to
/// the endpoint itself. Seen: the service as the peer of both, and which pod of it the first one reaches, with zone and
/// region; none when it is closed.
#[test]
fn behind_a_service_is_the_pod_that_nat_has_chosen() -> Result<()> {
    need_root!("nft");
    let scene = Scene::echo()?;
    let ns = &scene.net.a.ns;
    let api = ns.enter(Api::start)?;
    api.shows_services();
    let server = scene.net.b.v4.to_string();
    let cluster_ip = "10.255.96.10";
    api.set("nodes", node("node-2", "eu-2", "eu-2b"));
    api.set("services", service("db", cluster_ip));
    let endpoints = [
        (server.as_str(), "node-2", "eu-2b"),
        ("10.255.1.9", "node-2", "eu-2b"),
    ];
    api.set("endpointslices", slice("db", &endpoints));
    ns.ip(&format!("route add {cluster_ip} via {server}"))?;
    ns.nft(&format!(
        "table ip nat {{ chain out {{ type nat hook output priority -100; \
         ip daddr {cluster_ip} counter dnat to {server}; }}; }}"
    ))?;
    let agent = agent(&api)?.set("kubernetes.peers", "true").inside(ns).start()?;
    let port = scene.at.rsplit(':').next().context("no port")?;
    let mut client = Traffic::new("shopper", ns)?;
    let through = client.connect(&format!("{cluster_ip}:{port}"))?;
    client.ping(through, 10, 100)?;
    let straight = client.connect(&scene.at)?;
    client.ping(straight, 7, 100)?;
    let behind = [
        ("peer", "shop/db"),
        ("backend", "shop/db"),
        ("peer_zone", "eu-2b"),
        ("peer_region", "eu-2"),
    ];
    let series = "geophone_kubernetes_backend_connections";
    agent.until(|s| {
        equal("bytes", sent(s, &[("peer", "shop/db")]), 1700)?;
        equal("behind", s.number(series, &behind)? as u64, 1)?;
        equal("series", s.series(series, &[]).len(), 1)
    })?;
    promtool(&agent.metrics()?)?;
    client.close(through)?;
    agent.until(|s| equal("series", s.series(series, &[]).len(), 0))?;
    let s = agent.snapshot()?;
    let failed = [("outcome", "failed")];
    equal(
        "failed",
        s.sum("geophone_kubernetes_backend_looks_total", &failed),
        0,
    )?;
    client.close(straight)
}

/// Cause: a pod of this node sends; it is behind one service, then behind a second one of its StatefulSet's kind, then behind none.
/// Seen: through the agent's own API what a join says the service sends, by the subject of the metric; both of them by the query
/// of the docs; nothing in the end.
#[test]
fn a_join_tells_the_services_of_own_pods() -> Result<()> {
    need_root!();
    let api = Api::start()?;
    api.shows_services();
    let (web, web_id) = (uid(), id());
    api.set("pods", running(pod(&web, "shop", "web"), &web_id));
    api.set("endpointslices", behind("front", &web));
    let scene = Scene::echo()?;
    let agent = agent(&api)?
        .set("kubernetes.peers", "true")
        .config("store: {kind: memory}")
        .start()?;
    let cgroup = container(&web, &web_id)?;
    talk(&scene, cgroup.path(), 3000)?;
    let sent = r#"geophone_tcp_bytes_total{direction="transmit"}"#;
    let info = "geophone_kubernetes_service_info";
    let joined =
        format!("sum by (k8s_service_name) ({sent} * on (subject) group_left (k8s_service_name) {info})");
    let both = format!(
        "sum by (k8s_service_name) ({info} * on (job, instance, subject) group_left () \
         sum by (job, instance, subject) ({sent}))"
    );
    let found = |query: &str| -> Result<Vec<String>> {
        let rows = promql::instant(agent.at, query)?;
        let shown = |row: &serde_json::Value| {
            let (service, bytes) = (&row["metric"]["k8s_service_name"], &row["value"][1]);
            format!(
                "{} {}",
                service.as_str().unwrap_or_default(),
                bytes.as_str().unwrap_or_default()
            )
        };
        let mut rows: Vec<String> = rows.iter().map(shown).collect();
        rows.sort();
        Ok(rows)
    };
    let is = |rows: &[&str]| rows.iter().map(|row| (*row).to_owned()).collect::<Vec<_>>();
    agent.until(|_| equal("joined", found(&joined)?, is(&["front 3000"])))?;
    equal("of the docs", found(&both)?, is(&["front 3000"]))?;
    promtool(&agent.metrics()?)?;
    api.set("endpointslices", behind("front-headless", &web));
    agent.until(|_| equal("both", found(&both)?, is(&["front 3000", "front-headless 3000"])))?;
    api.delete("endpointslices", "slice-front");
    api.delete("endpointslices", "slice-front-headless");
    agent.until(|_| equal("none", found(&both)?, is(&[])))?;
    api.is_content()
}

/// Cause: a pod of another node, behind no service, talks to a server here; its address is given to another pod while it is still being
/// ended; then it is deleted, and the other one comes to its end. Seen: its workload as the peer, with zone and region as an endpoint
/// of its node says them; the workload of the other one for connections from then on; nobody in the end. Where pods are
/// subjects, the pod.
#[test]
fn a_pod_behind_no_service_is_called_after_its_workload() -> Result<()> {
    need_root!();
    let api = Api::start()?;
    api.shows_services();
    api.shows_pods();
    let scene = Scene::echo()?;
    let address = scene.net.a.v4.to_string();
    let on = |uid: &str, name: &str, made: &str| {
        let mut pod = elsewhere(pod(uid, "shop", name), "node-2", &address);
        pod["metadata"]["creationTimestamp"] = json!(made);
        pod
    };
    let (worker, batch) = (uid(), uid());
    api.set("nodes", node("node-2", "eu-2", "eu-2b"));
    api.set(
        "endpointslices",
        slice("db", &[("10.255.1.9", "node-2", "eu-2b")]),
    );
    let mut first = on(&worker, "worker", "2026-11-29T03:00:00Z");
    api.set("pods", first.clone());
    let asking = || Ok::<Setup, Error>(agent(&api)?.set("kubernetes.peers", "pods"));
    let mut client = Traffic::new("shopper", &scene.net.a.ns)?;
    let mut talk = |bytes: u64| {
        let connection = client.connect(&scene.at)?;
        client.ping(connection, bytes / 100, 100)?;
        client.close(connection)
    };
    let place = [("peer_zone", "eu-2b"), ("peer_region", "eu-2")];
    let back = |s: &Snapshot, peer: &str, bytes: u64| {
        let labels = [("peer", peer), place[0], place[1]];
        equal(peer, sent(s, &labels), bytes)
    };
    {
        let by_pod = asking()?.set("kubernetes.subject", "pod").start()?;
        talk(500)?;
        let name = format!("shop/{}", first["metadata"]["name"].as_str().context("no name")?);
        by_pod.until(|s| back(s, &name, 500))?;
    }
    let agent = asking()?.start()?;
    talk(700)?;
    agent.until(|s| back(s, "shop/worker", 700))?;
    first["metadata"]["deletionTimestamp"] = json!("2026-11-29T04:00:00Z");
    api.set("pods", first);
    let mut second = on(&batch, "batch", "2026-11-29T04:00:10Z");
    api.set("pods", second.clone());
    agent.after(2)?;
    talk(900)?;
    agent.until(|s| back(s, "shop/batch", 900))?;
    back(&agent.snapshot()?, "shop/worker", 700)?;
    api.delete("pods", &worker);
    // It leaves what is asked for before it is deleted.
    second["status"]["phase"] = json!("Succeeded");
    api.set("pods", second);
    agent.until(|s| {
        equal(
            "addresses",
            s.number("geophone_kubernetes_addresses", &[])? as u64,
            1,
        )
    })?;
    agent.after(1)?;
    talk(300)?;
    let nobody = [("peer", "private"), ("subject", scene.server.name())];
    agent.until(|s| equal("to nobody", sent(s, &nobody), 300))?;
    let s = agent.snapshot()?;
    back(&s, "shop/batch", 900)?;
    let age = s.number("geophone_kubernetes_age_seconds", &[("object", "all_pods")])?;
    ensure!(age < 5.0, "{age} s old");
    promtool(&agent.metrics()?)?;
    api.is_content()
}

/// Cause: a cluster of 10,000 pods of which none is of this node, each with all that a pod says, 40 MiB of it in one answer. Seen: an address
/// of each, in less than 50 MiB, and soon enough; what is said again of each of a thousand costs no memory and little time.
#[test]
fn ten_thousand_pods_of_all_nodes_cost_less_than_fifty_mebibytes() -> Result<()> {
    need_root!();
    let resident = |s: &Snapshot| s.number("geophone_agent_memory_bytes", &[]);
    let cpu = |s: &Snapshot| s.number("geophone_agent_cpu_seconds_total", &[]);
    let api = Api::start()?;
    api.shows_services();
    api.shows_pods();
    let few = agent(&api)?.set("kubernetes.peers", "pods").start()?;
    let before = resident(&few.snapshot()?)?;
    drop(few);
    let said = |i: usize| {
        let uid = format!("{i:08x}-0000-4a5e-9a41-5f1f0d2c7b11");
        let pod = pod(&uid, "crowd", &format!("d{}", i / 5));
        let address = format!("10.244.{}.{}", i / 250, i % 250 + 1);
        lifelike(elsewhere(pod, &format!("node-{}", 2 + i / 100), &address))
    };
    (0..10_000).for_each(|i| api.set("pods", said(i)));
    api.compact();
    let begun = Instant::now();
    let agent = agent(&api)?.set("kubernetes.peers", "pods").start()?;
    let known = |s: &Snapshot| {
        let addresses = s.number("geophone_kubernetes_addresses", &[])?;
        equal("addresses", addresses as u64, 10_000)
    };
    agent.until(known)?;
    let took = begun.elapsed();
    agent.after(2)?;
    let s = agent.snapshot()?;
    let after = resident(&s)?;
    let bytes = api.listed("pods").context("no protobuf")?;
    let used = (after - before) / 1048576.0;
    println!(
        "{used:.1} MiB more, known after {took:?}, a list of {bytes} bytes, {:.2} s of CPU",
        cpu(&s)?
    );
    ensure!(used < 50.0, "resident {before} before and {after} after");
    ensure!(bytes > 30_000_000, "{bytes} bytes are not lifelike");
    let spent = cpu(&s)?;
    for round in 0..3 {
        for i in 0..1000 {
            let mut pod = said(i);
            pod["status"]["conditions"][2]["lastTransitionTime"] =
                json!(format!("2026-11-29T05:00:{round:02}Z"));
            api.set("pods", pod);
        }
    }
    agent.after(5)?;
    let s = agent.snapshot()?;
    known(&s)?;
    let more = (resident(&s)? - after) / 1048576.0;
    println!(
        "{more:.1} MiB more after 3,000 updates, {:.2} s of CPU",
        cpu(&s)? - spent
    );
    ensure!(more < 5.0, "{more} MiB of updates stay");
    ensure!(
        !api.requests().iter().any(|request| request.contains("limit=")),
        "in pages"
    );
    api.is_content()
}
