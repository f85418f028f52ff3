//! Dashboards: what they ask, asked of a real Prometheus that scrapes an agent to which everything happens.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tests::harness::agent::{Scratch, binary, clean};
use tests::harness::cgroup::Cgroup;
use tests::harness::command::output;
use tests::harness::dns::{Dnsmasq, broken, dig};
use tests::harness::kubernetes::laid::{container, uid};
use tests::harness::kubernetes::runc::id;
use tests::harness::kubernetes::{Api, Mood, behind, pod, running, service};
use tests::harness::notify::Sink;
use tests::harness::prometheus::Prometheus;
use tests::harness::traffic::Place;
use tests::harness::tunnels::{Mouth, ping, vxlan};
use tests::harness::{Link, Scene, Setup, Traffic, WireGuard, promql};
use tests::need_root;

/// Metrics of what cannot be caused here in a minute; whoever asks for them may get nothing.
const SILENT: &[(&str, &str)] = &[
    (
        "geophone_path_forwarded_rtt_seconds",
        "the agent's own namespace, which is the machine's, would have to be a gateway: tests/path_forwarded.rs has one",
    ),
    ("geophone_path_watch", "the same"),
    (
        "geophone_tunnel_mtu_bytes",
        "a router below the tunnel would have to say that a packet is too big; the ends of this link are each other's neighbours",
    ),
    ("geophone_tunnel_too_big_total", "the same"),
    (
        "geophone_kubernetes_backend_connections",
        "a service's address would have to be translated, by rules of the machine's own namespace",
    ),
    (
        "geophone_cgroup_limit",
        "cgroups of version 2 that have controllers: the virtual machines have them (xtask/vm/guest.sh)",
    ),
    ("geophone_cgroup_used", "the same"),
    ("geophone_cgroup_throttled_seconds_total", "the same"),
    ("geophone_cgroup_oom_kills_total", "the same"),
    ("geophone_dns_busiest_names", "of a full minute"),
    ("geophone_capacity_growth_", "a trend takes a day"),
    ("geophone_capacity_exhaustion_", "a trend takes a day"),
    (
        "geophone_netdev_speed_bytes",
        "a link of the machine itself, whose driver need not know its speed",
    ),
    (
        "geophone_tcp_accept_seconds",
        "kernels whose functions cannot be traced",
    ),
];

/// A child that does not outlive the test.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A panel, and those that it hides until it is opened.
fn whole(panel: &Value) -> impl Iterator<Item = &Value> {
    let inside = panel["panels"].as_array().into_iter().flatten();
    std::iter::once(panel).chain(inside)
}

/// A query of deploy/grafana, which `geophone dashboards` writes.
struct Shown {
    /// Title of board and panel.
    panel: String,
    /// As Prometheus reads it.
    query: String,
    /// At the end until somebody finds it a place: nobody knows whether what it shows is on here, but it must not fail.
    is_new: bool,
}

fn queries(directory: &Path) -> Result<Vec<Shown>> {
    let mut out = Vec::new();
    for file in std::fs::read_dir(directory)? {
        let board: Value = serde_json::from_slice(&std::fs::read(file?.path())?)?;
        let mut is_new = false;
        for outer in board["panels"].as_array().context("panels")? {
            is_new |= outer["title"] == "Further";
            for panel in whole(outer) {
                for target in panel["targets"].as_array().into_iter().flatten() {
                    out.push(Shown {
                        panel: format!("{}: {}: {}", directory.display(), board["uid"], panel["title"]),
                        query: asked(target["expr"].as_str().context("expr")?),
                        is_new,
                    });
                }
            }
        }
    }
    Ok(out)
}

/// A query of docs/queries.md, and whether it asks for buckets; what only a fleet's Prometheus can answer comes after the first section.
struct Asked {
    query: String,
    of_a_node: bool,
    classic: bool,
}

fn documented(root: &Path) -> Result<Vec<Asked>> {
    let text = std::fs::read_to_string(root.join("docs/queries.md"))?;
    let mut out = Vec::new();
    for section in text.split("\n## ").skip(1) {
        for part in section.split("```promql\n").skip(1) {
            let query = part.split("\n```").next().unwrap_or_default();
            out.push(Asked {
                query: asked(query),
                of_a_node: section.starts_with("Of a node"),
                classic: section.starts_with("Where histograms have buckets"),
            });
        }
    }
    Ok(out)
}

/// In place of Grafana's variables what they stand for; a day before there was nothing.
fn asked(expr: &str) -> String {
    let mut text = expr
        .replace("$__rate_interval", "15s")
        .replace("$__range", "30s")
        .replace(" offset 1d", "");
    while let Some(at) = text.find('$') {
        let name = text.get(at + 1..).unwrap_or_default();
        let length = name
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(name.len());
        text.replace_range(at..=at + length, ".*");
    }
    text
}

fn excused(query: &str) -> bool {
    SILENT.iter().any(|(metric, _)| query.contains(metric))
}

/// Who is told what to do in each round.
struct Places {
    /// Other ends of tunnels.
    mouths: Vec<Mouth>,
    /// A server inside of one of them, and one of datagrams that nobody reads.
    inside: String,
    full: String,
    /// Who listens, and accepts nobody.
    shut: String,
    /// The server's address.
    server: String,
}

/// A bit of everything.
fn happen(scene: &mut Scene, places: &Places) -> Result<()> {
    let server = &places.server;
    scene.deliver(60_000)?;
    let inside = scene.client.connect(&places.inside)?;
    scene.client.ping(inside, 20, 500)?;
    scene.client.close(inside)?;
    scene.client.udp(&places.full, 50, 500)?;
    scene
        .client
        .ask(json!({ "do": "connect", "to": places.shut, "wait_ms": 50 }))?;
    // Too short for what its port says that it is.
    scene.client.udp(&format!("{server}:4789"), 5, 3)?;
    let _ = scene.client.connect_fails(&format!("{server}:9"));
    let reset = scene.connect()?;
    scene.client.reset(reset)?;
    for mouth in &places.mouths {
        // The second does not fit into one packet below.
        for size in [100, 1400] {
            ping(&scene.net.a, mouth, &format!("-c 3 -i 0.01 -W 1 -s {size}"))?;
        }
    }
    for words in [
        "ok.test",
        "none.test",
        "big.test +ignore",
        "broken.test +tries=1 +time=1",
    ] {
        dig(&scene.net.a.ns, server, words)?;
    }
    scene.client.udp(&format!("{server}:9"), 20, 100)?;
    let file = Scratch::new()?;
    let mut out = std::fs::File::create(file.path("written"))?;
    out.write_all(&[0; 100_000])?;
    out.sync_all()?;
    Ok(())
}

/// On the way: congestion is marked, and of the answers that come out of a tunnel some are dropped at its mouth.
fn troubles(link: &Link, mouth: &Mouth) -> Result<()> {
    for end in [&link.a, &link.b] {
        end.ns.sysctl("net.ipv4.tcp_ecn", "1")?;
    }
    link.b.ns.nft(
        "table inet marks { chain in { type filter hook prerouting priority 0; \
         ip ecn ect0 numgen inc mod 10 == 0 ip ecn set ce; }; }",
    )?;
    link.a.ns.nft(&format!(
        "table netdev loss {{ chain in {{ type filter hook ingress device \"{}\" priority 0; \
         icmp type echo-reply numgen inc mod 3 == 0 drop; }}; }}",
        mouth.device
    ))?;
    Ok(())
}

/// A pod of the node by its UID and its container's id, which is behind a service.
fn cluster(uid: &str, id: &str) -> Result<Api> {
    let api = Api::start()?;
    api.shows_services();
    api.set("pods", running(pod(uid, "shop", "web"), id));
    api.set("services", service("web", "10.96.0.10"));
    api.set("endpointslices", behind("web", uid));
    Ok(api)
}

/// Settings of what is off as it comes: who is told of alerts, and one of them is away; the flight recorder; Kubernetes.
fn further(scratch: &Scratch, told: &Sink, away: &Sink, api: &Api) -> Result<String> {
    away.answer(503);
    Ok(format!(
        "alerting:\n  directory: {}\n  retry: {{initial: 100ms, max: 500ms}}\n  \
         route: {{receiver: ops, group_by: [alertname], group_wait: 0s, group_interval: 1s}}\n  \
         receivers: [{{name: ops, webhook_configs: [{{url: \"http://{}/told\"}}, {{url: \"http://{}/away\"}}]}}]\n\
         record: {{flight: {{minutes: 1, directory: {}}}}}\n\
         kubernetes: {{kubeconfig: {}, node: node-1, peers: true}}\n",
        scratch.path("alerting").display(),
        told.at,
        away.at,
        scratch.path("flight").display(),
        api.kubeconfig()?.display(),
    ))
}

/// Cause: lossy connections between regions, tunnels, lookups, datagrams, disks, Python, stacks, traces, an alert that people are told of. Seen: each
/// expression of each dashboard comes to something, but for those of what is off.
#[test]
fn each_panel_shows_something() -> Result<()> {
    need_root!(
        "prometheus",
        "wireguard-go",
        "wg",
        "dnsmasq",
        "dig",
        "nft",
        "ping"
    );
    let mut scene = Scene::lossy(3)?;
    let wireguard = WireGuard::new(&scene.net)?;
    let [here, there] = vxlan(&scene.net, 9, 4789)?;
    // Smaller than the tunnel thinks, which cuts its packets then.
    for end in [&scene.net.a, &scene.net.b] {
        end.ns.ip(&format!("link set {} mtu 1400", end.device))?;
    }
    troubles(&scene.net, &here)?;
    let _names = Dnsmasq::start(&scene.net)?;
    broken(&scene.net)?;
    let server = scene.net.b.v4.to_string();
    let far = format!("{server}/32");
    let inside = scene.server.serve(&format!("{}:0", there.v4), "echo")?;
    let full = scene.server.udp_bind(&scene.net.b.at(0), 2_000)?;
    let shut = scene.server.listen(&scene.net.b.at(0), 1)?;
    let sip = scene.server.serve(&scene.net.b.at(0), "sip")?;
    let [_, through] = &wireguard.mouths;
    let through = Mouth {
        device: through.device.clone(),
        v4: through.v4,
    };
    let places = Places {
        mouths: vec![there, through],
        inside,
        full,
        shut,
        server: server.clone(),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let rules = root.join("docs/rules");
    let python = clean("python3")
        .args([
            "-c",
            "import time\nwhile True: sum(range(100000)); time.sleep(0.02)",
        ])
        .stdout(Stdio::null())
        .spawn();
    let _python = python.map(Reaped);
    let scratch = Scratch::new()?;
    let fires = "groups: [{name: t, interval: 1s, rules: [{alert: GeophoneTest, expr: \
                 'geophone_tcp_connections{job=\"geophone\"}', labels: {severity: info}}]}]";
    let fleet = std::fs::read_to_string(root.join("deploy/prometheus/fleet.yaml"))?;
    let fleet = fleet.replace("- name: geophone-fleet", "- name: geophone-fleet\n  interval: 1s");
    let health = std::fs::read_to_string(root.join("deploy/prometheus/health.yaml"))?;
    let health = health.replace("interval: 15s", "interval: 1s");
    let objective = "slos=[{name: connects, objective: 99, template: connect-success, window: 1d}]";
    let objectives = output(clean(binary()).args(["slo", "rules", "--set", objective]))?;
    let sooner = |line: &str| match line.split_once("interval: ") {
        Some((before, _)) => format!("{before}interval: 1s\n"),
        None => format!("{line}\n"),
    };
    let objectives: String = objectives.lines().map(sooner).collect();
    let files = [
        ("slo.yaml", objectives.as_str()),
        ("t.yaml", fires),
        ("fleet.yaml", &fleet),
        ("health.yaml", &health),
    ];
    let files: Vec<String> = files
        .iter()
        .map(|(name, text)| scratch.write(name, text).map(|path| path.display().to_string()))
        .collect::<Result<_>>()?;
    // Written to by remote write, and scraped: the same series with two names of the node.
    let sink = Prometheus::start("global: {}\n", &["--enable-feature=native-histograms"])?;
    let (web, web_id) = (uid(), id());
    let (told, away, api) = (Sink::start()?, Sink::start()?, cluster(&web, &web_id)?);
    let further = further(&scratch, &told, &away, &api)?;
    let alerts = files.get(1).context("the rules of an alert")?;
    let unit = Cgroup::new("boards.service")?;
    // Wakes so often that it waits for a CPU now and then.
    let idler = Reaped(
        Command::new("sh")
            .args(["-c", "while :; do sleep 0.02; done"])
            .spawn()?,
    );
    std::fs::write(unit.path().join("cgroup.procs"), idler.0.id().to_string())?;
    let agent = Setup::new()
        .config(format!(
            "{further}region: eu\nzone: a\nstore: {{kind: memory}}\nanomaly: {{interval: 1s, learning: 16}}\n\
             peers: [{{name: far, region: us, zone: b, cidrs: [{far}]}}, {{name: here, region: eu, cidrs: [127.0.0.9/32]}}]\n\
             probes:\n  tunnel: {{namespaces: [{}]}}\n  dns: {{enabled: true, names: 5, timeout: 1s}}\n  udp: {{enabled: true}}\n  \
             sched: {{enabled: true}}\n  block: {{enabled: true}}\n  path: {{active: {{peers: [here], interval: 10s}}}}\n  \
             profile: {{enabled: true, hz: 49, drops: true, retransmits: true}}\n\
             rules: {{files: [{}, {alerts}], alertmanagers: [\"http://127.0.0.1:1\"]}}\n\
             export: {{remote_write: {{url: \"http://{}/api/v1/write\", interval: 1s}}}}\n",
            scene.net.a.ns.name(),
            rules.display(),
            sink.at
        ))
        .start()?;
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\n\
         scrape_configs: [{{job_name: geophone, static_configs: [{{targets: ['{}']}}]}}]\n",
        files.join("', '"),
        agent.at
    );
    let prometheus = Prometheus::start(&config, &["--enable-feature=native-histograms"])?;
    // Scrapes text, and has buckets.
    let classic = Prometheus::start(&config, &[])?;
    // The pod, in whose name a service sends.
    let cgroup = container(&web, &web_id)?;
    let mut pod = Traffic::at(Place {
        netns: Some(&scene.net.a.ns),
        cgroup: Some(cgroup.path()),
        name: "main".into(),
        ..Place::default()
    })?;
    // Somebody who reads slowly: the window closes.
    let mut slow = Traffic::new("slow", &scene.net.a.ns)?;
    let id = slow.connect(&sip)?;
    slow.give(&json!({ "do": "send", "id": id, "bytes": 50_000_000 }))?;
    let mut all = Vec::new();
    for (directory, at) in [
        ("deploy/grafana", prometheus.at),
        ("deploy/grafana-classic", classic.at),
    ] {
        let of = queries(&root.join(directory))?;
        ensure!(of.len() > 150, "{} queries in {directory}", of.len());
        all.extend(of.into_iter().map(|shown| (shown, at)));
    }
    let (new, known): (Vec<_>, Vec<_>) = all.iter().partition(|(shown, _)| shown.is_new);
    let mut open: BTreeMap<(&str, SocketAddr), &str> = known
        .iter()
        .map(|(shown, at)| ((shown.query.as_str(), *at), shown.panel.as_str()))
        .collect();
    let start = Instant::now();
    for round in 0_u32.. {
        happen(&mut scene, &places)?;
        let sent = pod.connect(&places.inside)?;
        pod.ping(sent, 20, 500)?;
        pod.close(sent)?;
        api.becomes(if round % 2 == 1 { Mood::Down } else { Mood::Well });
        // More than has ever been, once it is known what has.
        if start.elapsed() > Duration::from_secs(25) {
            for _ in 0..300 {
                let _ = scene.client.connect_fails(&format!("{server}:9"));
            }
        }
        if start.elapsed() > Duration::from_secs(5) {
            let mut left = BTreeMap::new();
            for ((query, at), panel) in open {
                let found = promql::instant(at, query).with_context(|| panel.to_owned())?;
                if found.is_empty() {
                    left.insert((query, at), panel);
                }
            }
            open = left;
        }
        let unexcused: Vec<String> = open
            .iter()
            .filter(|((query, _), _)| !excused(query))
            .map(|((query, _), panel)| format!("{panel}: {query}"))
            .collect();
        if unexcused.is_empty() && start.elapsed() > Duration::from_secs(5) {
            break;
        }
        ensure!(
            start.elapsed() < Duration::from_secs(120),
            "{} without data:\n{}\n{}",
            unexcused.len(),
            unexcused.join("\n"),
            agent.log()
        );
    }
    // Not before there are data: without them nothing is joined that could fail.
    for (Shown { panel, query, .. }, at) in &new {
        promql::instant(*at, query).with_context(|| panel.clone())?;
    }
    eprintln!("{} queries, {} without data: {open:#?}", all.len(), open.len());
    let documented = documented(&root)?;
    ensure!(
        documented.len() >= 30,
        "{} queries in docs/queries.md",
        documented.len()
    );
    for Asked {
        query,
        of_a_node,
        classic: buckets,
    } in &documented
    {
        let of_all = if *buckets { classic.at } else { prometheus.at };
        for at in std::iter::once(of_all).chain(of_a_node.then_some(agent.at)) {
            let found = promql::instant(at, query).context("docs/queries.md")?;
            ensure!(
                !found.is_empty() || excused(query),
                "docs/queries.md: nothing from {at}: {query}"
            );
        }
    }
    Ok(())
}
