//! `geophone topology` and `/api/v1/topology`.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::io::Write as _;
use std::process::{Command, Stdio};
use tests::harness::agent::binary;
use tests::harness::cli::geophone;
use tests::harness::command::{output, present};
use tests::harness::{Agent, Link, Scene, Setup, equal, skipped, tunnels};
use tests::need_root;

fn said(agent: &Agent, format: &str) -> Result<String> {
    let out = geophone(&["topology", "--listen", &agent.at.to_string(), "--format", format])?;
    ensure!(
        out.status.success(),
        "{format}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8(out.stdout)?)
}

/// Cause: 20 × 50 messages of 1000 bytes to a peer of another region and back. Seen: an edge with those bytes, its peer in
/// its region, the region in the matrix with the same; drawings that their programs take.
#[test]
fn what_was_said_is_an_edge() -> Result<()> {
    need_root!();
    let link = Link::new()?;
    let agent = Setup::new()
        .config(format!(
            "region: here\npeers:\n- {{name: far, region: there, zone: z1, cidrs: [{}/32]}}\n",
            link.b.v4
        ))
        .start()?;
    let mut scene = Scene::on(link)?.serving("echo")?;
    scene.exchange(20, 50, 1000)?;
    let truth = 20 * 50 * 1000;
    let from = format!("subject:{}", scene.client.name());
    agent.settles(|_| {
        let all = agent.topology()?;
        ensure!(all["interval"].is_number(), "the first answer has no rates");
        let find = |key: &str, field: &str, value: &str| {
            let list = all[key].as_array().into_iter().flatten();
            list.clone().find(|e| e[field] == *value).cloned()
        };
        let edge = find("edges", "from", &from).context("no edge")?;
        equal("to", edge["to"].as_str(), Some("peer:far|there|z1"))?;
        equal("bytes sent", edge["bytes_sent"].as_u64(), Some(truth))?;
        equal("bytes received", edge["bytes_received"].as_u64(), Some(truth))?;
        equal("state", edge["state"].as_str(), Some("ok"))?;
        equal("hops", edge["hops"].as_u64(), Some(0))?;
        equal("MTU", edge["mtu"].as_u64(), Some(1500))?;
        let peer = find("nodes", "id", "peer:far|there|z1").context("no peer")?;
        equal("region", peer["region"].as_str(), Some("region:there"))?;
        ensure!(find("nodes", "id", "region:there").is_some(), "no region");
        let between = find("regions", "to", "there").context("not in the matrix")?;
        equal("from", between["from"].as_str(), Some("here"))?;
        equal(
            "bytes between the regions",
            between["bytes_sent"].as_u64(),
            Some(truth),
        )
    })?;
    let table = said(&agent, "table")?;
    for word in [scene.client.name(), "far", "TO REGION", "there"] {
        ensure!(table.contains(word), "{word} is missing in\n{table}");
    }
    let json: Value = serde_json::from_str(&said(&agent, "json")?)?;
    ensure!(
        json["edges"].as_array().is_some_and(|e| !e.is_empty()),
        "no edges"
    );
    let mermaid = said(&agent, "mermaid")?;
    ensure!(mermaid.starts_with("flowchart LR\n"), "{mermaid}");
    ensure!(mermaid.contains("[\"there\"]"), "{mermaid}");
    let dot = said(&agent, "dot")?;
    ensure!(
        dot.contains(&format!("label=\"{}\"", scene.client.name())),
        "{dot}"
    );
    if present("dot") {
        let mut child = Command::new("dot")
            .arg("-Tsvg")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("no pipe")?.write_all(dot.as_bytes())?;
        let out = child.wait_with_output()?;
        ensure!(out.status.success(), "graphviz does not take\n{dot}");
    } else {
        skipped("graphviz: there is no dot");
    }
    Ok(())
}

/// Cause: connections to where nobody listens. Seen: a degraded edge, and why.
#[test]
fn an_edge_that_is_not_well() -> Result<()> {
    need_root!();
    let mut scene = Scene::new()?;
    let agent = Agent::start()?;
    let from = format!("subject:{}", scene.client.name());
    let to = [scene.net.b.at(9)];
    for _ in 0..20 {
        scene.client.storm(&to, 5, 1, 1)?;
        let all = agent.topology()?;
        let edge = all["edges"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|e| e["from"] == *from);
        if let Some(edge) = edge.filter(|e| e["state"] == "degraded") {
            let why = edge["reasons"].to_string();
            ensure!(why.contains("failed attempts/s"), "{why}");
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    anyhow::bail!("the edge is never degraded")
}

/// Cause: messages to a peer that lies behind a VXLAN, and to one that does not. Seen: the tunnel, and that it is up, at
/// the one edge and not at the other, in every format.
#[test]
fn an_edge_over_a_tunnel() -> Result<()> {
    need_root!();
    let link = Link::new()?;
    let mouths = tunnels::vxlan(&link, 4711, 4789)?;
    let agent = Setup::new()
        .config(format!(
            "peers:\n- {{name: inside, region: there, cidrs: [{}/32]}}\n\
             - {{name: beside, region: there, cidrs: [{}/32]}}\n",
            mouths[1].v4, link.b.v4
        ))
        .inside(&link.a.ns)
        .start()?;
    let mut scene = Scene::on(link)?.serving("echo")?;
    let beside = scene.connect()?;
    let at = scene.server.serve(&format!("{}:0", mouths[1].v4), "echo")?;
    let inside = scene.client.connect(&at)?;
    let from = format!("subject:{}", scene.client.name());
    let edge = |peer: &str| -> Result<Value> {
        let all = agent.topology()?;
        let to = format!("peer:{peer}|there|");
        let found = all["edges"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|e| e["from"] == *from && e["to"] == *to);
        found.cloned().with_context(|| format!("no edge to {peer}"))
    };
    for id in [beside, inside] {
        scene.client.ping(id, 50, 1000)?;
    }
    agent.settles(|_| {
        let tunnels = &edge("inside")?["tunnels"];
        let tunnel = tunnels.get(0).context("no tunnel")?;
        for (field, truth) in [
            ("type", "vxlan"),
            ("id", "4711"),
            ("local", &scene.net.a.v4.to_string()),
            ("remote", &scene.net.b.v4.to_string()),
            ("state", "up"),
        ] {
            equal(field, tunnel[field].as_str(), Some(truth))?;
        }
        equal("beside", &edge("beside")?["tunnels"], &Value::Array(Vec::new()))
    })?;
    for format in ["table", "dot", "mermaid"] {
        // Where the agent is.
        let mut command = scene.net.a.ns.command(&binary().display().to_string());
        command.env_remove("GEOPHONE_BIN").arg("topology");
        let at = agent.at.to_string();
        let said = output(command.args(["--listen", &at, "--format", format]))?;
        let name = format!("vxlan 4711 {} (up)", scene.net.b.v4);
        ensure!(said.contains(&name), "no {name} in\n{said}");
    }
    Ok(())
}

/// Cause: no agent runs. Seen: an agent of its own answers after the time it was given.
#[test]
fn without_an_agent() -> Result<()> {
    need_root!();
    let mut scene = Scene::echo()?;
    let connection = scene.connect()?;
    let out = std::thread::scope(|scope| {
        let asking = scope.spawn(|| geophone(&["topology", "--own", "--for", "6s", "--format", "json"]));
        for _ in 0..60 {
            scene.client.ping(connection, 2, 100)?;
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        asking.join().ok().context("a thread has panicked")?
    })?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let all: Value = serde_json::from_slice(&out.stdout)?;
    let from = format!("subject:{}", scene.client.name());
    let edges = all["edges"].as_array().context("no edges")?;
    ensure!(
        edges.iter().any(|e| e["from"] == *from),
        "no edge of {from}: {edges:?}"
    );
    Ok(())
}
