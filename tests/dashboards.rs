//! Dashboards: what they ask, asked of a real Prometheus that scrapes an agent to which everything happens.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tests::harness::agent::{Scratch, binary, clean};
use tests::harness::command::output;
use tests::harness::dns::{Dnsmasq, broken, dig};
use tests::harness::prometheus::Prometheus;
use tests::harness::tunnels::{Mouth, ping, vxlan};
use tests::harness::{Scene, Setup, Traffic, WireGuard, cli, equal, promql};
use tests::need_root;

/// Metrics of what is off here, or is nowhere on such a machine; whoever asks for them may get nothing.
const SILENT: &[(&str, &str)] = &[
    (
        "geophone_path_forwarded_rtt_seconds",
        "no device of probes.path.forwarded",
    ),
    ("geophone_path_watch", "no device of probes.path.forwarded"),
    ("geophone_path_ecn_ce_total", "no router marks congestion"),
    (
        "geophone_tunnel_mtu_bytes",
        "no router says that a packet is too big",
    ),
    (
        "geophone_tunnel_too_big_total",
        "no router says that a packet is too big",
    ),
    (
        "geophone_tunnel_device_drops_total",
        "the tunnels' devices drop nothing",
    ),
    ("geophone_anomaly_active", "nothing need be unusual"),
    ("geophone_notifications_", "no receiver of notifications is set"),
    ("geophone_kubernetes_", "no Kubernetes"),
    ("geophone_record_", "the flight recorder is off"),
    ("geophone_incident", "no receiver of notifications is set"),
    ("geophone_silences", "no receiver of notifications is set"),
    ("geophone_dns_busiest_names", "of a full minute"),
    ("geophone_capacity_growth_", "a trend takes a day"),
    ("geophone_capacity_exhaustion_", "a trend takes a day"),
    ("geophone_netdev_speed_bytes", "virtual devices have no speed"),
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

/// Title of board and panel, and a query as Prometheus reads it, of deploy/grafana: what `geophone dashboards` writes.
fn queries(root: &Path) -> Result<Vec<(String, String)>> {
    let mut out = Vec::new();
    for file in std::fs::read_dir(root.join("deploy/grafana"))? {
        let board: Value = serde_json::from_slice(&std::fs::read(file?.path())?)?;
        // Of what is new, and at the end until somebody finds it a place, nobody knows whether it is on here.
        let panels = board["panels"].as_array().context("panels")?.iter();
        let shown = panels.take_while(|panel| panel["title"] != "Further");
        for panel in shown.flat_map(whole) {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expr = target["expr"].as_str().context("expr")?;
                out.push((format!("{}: {}", board["uid"], panel["title"]), asked(expr)));
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

/// Cause: lossy connections between regions, tunnels, lookups, datagrams, disks, Python, stacks, traces, an alert. Seen: each
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
    let [_, there] = vxlan(&scene.net, 9, 4789)?;
    // Smaller than the tunnel thinks, which cuts its packets then.
    for end in [&scene.net.a, &scene.net.b] {
        end.ns.ip(&format!("link set {} mtu 1400", end.device))?;
    }
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
    let agent = Setup::new()
        .config(format!(
            "region: eu\nzone: a\nstore: {{kind: memory}}\nanomaly: {{interval: 1s, learning: 16}}\n\
             peers: [{{name: far, region: us, zone: b, cidrs: [{far}]}}, {{name: here, region: eu, cidrs: [127.0.0.9/32]}}]\n\
             probes:\n  tunnel: {{namespaces: [{}]}}\n  dns: {{enabled: true, names: 5, timeout: 1s}}\n  udp: {{enabled: true}}\n  \
             sched: {{enabled: true}}\n  block: {{enabled: true}}\n  path: {{active: {{peers: [here], interval: 10s}}}}\n  \
             profile: {{enabled: true, hz: 49, drops: true, retransmits: true}}\n\
             rules: {{files: [{}], alertmanagers: [\"http://127.0.0.1:1\"]}}\n\
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
    // Somebody who reads slowly: the window closes.
    let mut slow = Traffic::new("slow", &scene.net.a.ns)?;
    let id = slow.connect(&sip)?;
    slow.give(&json!({ "do": "send", "id": id, "bytes": 50_000_000 }))?;
    let all = queries(&root)?;
    ensure!(all.len() > 150, "{} queries", all.len());
    let mut open: BTreeMap<&str, &str> = all
        .iter()
        .map(|(panel, query)| (query.as_str(), panel.as_str()))
        .collect();
    let start = Instant::now();
    loop {
        happen(&mut scene, &places)?;
        if start.elapsed() > Duration::from_secs(5) {
            let mut left = BTreeMap::new();
            for (query, panel) in open {
                let found = promql::instant(prometheus.at, query).with_context(|| panel.to_owned())?;
                if found.is_empty() {
                    left.insert(query, panel);
                }
            }
            open = left;
        }
        let unexcused: Vec<String> = open
            .iter()
            .filter(|(query, _)| !excused(query))
            .map(|(query, panel)| format!("{panel}: {query}"))
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

/// Takes one request, answers it, and returns its head and body.
fn receive(server: &TcpListener, answer: &str) -> Result<(String, Value)> {
    let (mut stream, _) = server.accept()?;
    let mut all = Vec::new();
    let mut part = [0; 65_536];
    loop {
        let n = stream.read(&mut part)?;
        all.extend_from_slice(part.get(..n).unwrap_or_default());
        let text = String::from_utf8_lossy(&all).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_ascii_lowercase();
            let length = length
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(usize::MAX) || n == 0 {
                write!(stream, "HTTP/1.1 {answer}")?;
                return Ok((head.to_owned(), serde_json::from_str(body)?));
            }
        }
        ensure!(n > 0, "the request is cut: {text}");
    }
}

/// Cause: dashboards are pushed to who speaks Grafana's API. Seen: what that API asks for; a refusal is one line that says why.
#[test]
fn they_are_pushed() -> Result<()> {
    let server = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/grafana/", server.local_addr()?);
    let scratch = Scratch::new()?;
    let token = scratch.secret("token", "glsa_abc\n")?;
    let token = token.to_str().context("a path")?;
    let options = [
        "dashboards",
        "tunnels",
        "--push",
        &url,
        "--token-file",
        token,
        "--folder",
        "net",
    ];
    let (asked, out) = std::thread::scope(|scope| {
        let pushed = scope.spawn(|| cli::geophone(&options));
        let body = "{\"url\":\"/d/geophone-tunnels/x\"}";
        let ok = format!(
            "200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let asked = receive(&server, &ok);
        (asked, pushed.join())
    });
    let ((head, body), out) = (asked?, out.map_err(|_panic| anyhow::anyhow!("panicked"))??);
    ensure!(
        head.starts_with("POST /grafana/api/dashboards/db HTTP/1.1"),
        "{head}"
    );
    ensure!(
        head.to_ascii_lowercase()
            .contains("authorization: bearer glsa_abc"),
        "{head}"
    );
    equal("overwrite", &body["overwrite"], &Value::Bool(true))?;
    ensure!(
        body["folderUid"] == "net" && body["dashboard"]["uid"] == "geophone-tunnels",
        "{body}"
    );
    ensure!(out.status.success(), "{out:?}");
    equal(
        "said",
        String::from_utf8(out.stdout)?.trim(),
        "geophone-tunnels: /d/geophone-tunnels/x",
    )?;
    let (_, out) = std::thread::scope(|scope| {
        let pushed = scope.spawn(|| cli::geophone(&options));
        let body = "{\"message\":\"Permission denied\"}";
        let no = format!(
            "403 Forbidden\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        (receive(&server, &no), pushed.join())
    });
    let out = out.map_err(|_panic| anyhow::anyhow!("panicked"))??;
    let line = cli::one_line(&out)?;
    cli::says(&line, &["geophone-tunnels", "Permission denied", "role Editor"])
}

/// Cause: a name that is none. Seen: the names that there are.
#[test]
fn an_unknown_name_is_told() -> Result<()> {
    let out = cli::geophone(&["dashboards", "nonsense"])?;
    equal("status", out.status.code(), Some(2))?;
    cli::says(
        &cli::one_line(&out)?,
        &["nonsense: no such dashboard", "geophone-overview"],
    )
}
