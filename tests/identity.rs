//! Who: processes, cgroups, names that nobody would give.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use tests::harness::cgroup::Cgroup;
use tests::harness::command::promtool;
use tests::harness::traffic::Place;
use tests::harness::{Agent, Scene, Traffic, equal};
use tests::need_root;

/// Cause: two processes, one server. Seen: what each of them did.
#[test]
fn two_processes_are_told_apart() -> Result<()> {
    need_root!();
    let mut scene = Scene::echo()?;
    let agent = Agent::start()?;
    let mut two = Traffic::new("two", &scene.net.a.ns)?;
    for (client, rounds) in [(&mut scene.client, 30), (&mut two, 50)] {
        let connection = client.connect(&scene.at)?;
        client.ping(connection, rounds, 100)?;
        client.close(connection)?;
    }
    agent.settles(|s| {
        for (client, bytes) in [(&scene.client, 3000), (&two, 5000)] {
            let sent = [("subject", client.name()), ("direction", "transmit")];
            equal("bytes", s.sum("geophone_tcp_bytes_total", &sent), bytes)?;
        }
        Ok(())
    })
}

/// Cause: a connection opened on a thread that has a name of its own. Seen: the process.
#[test]
fn a_thread_is_not_a_process() -> Result<()> {
    need_root!();
    let mut scene = Scene::echo()?;
    let agent = Agent::start()?;
    let order = json!({ "do": "connect", "to": scene.at, "thread": "worker-7" });
    let answer = scene.client.ask(order)?;
    let connection = answer["id"].as_u64().context("not connected")?;
    scene.client.ping(connection, 10, 100)?;
    scene.client.close(connection)?;
    agent.until(|s| {
        let subjects = s.values("geophone_tcp_bytes_total", "subject");
        ensure!(
            subjects.contains(scene.client.name()),
            "subjects are {subjects:?}"
        );
        ensure!(!subjects.contains("worker-7"), "subjects are {subjects:?}");
        Ok(())
    })
}

/// Cause: two cgroups on one host. Seen: the container by its short id, the unit by its name, also after their end.
#[test]
fn two_cgroups_are_told_apart() -> Result<()> {
    need_root!();
    let scene = Scene::echo()?;
    let id = format!("{:016x}{}", std::process::id(), "5ca1ab1e".repeat(6));
    let container = Cgroup::new(format!("docker-{id}.scope"))?;
    let unit_name = format!("shop-{}.service", std::process::id());
    let unit = Cgroup::new(&unit_name)?;
    let agent = Agent::start()?;
    let place = |cgroup: &Path| -> Result<Traffic> {
        Traffic::at(Place {
            netns: Some(&scene.net.a.ns),
            cgroup: Some(cgroup),
            name: "same-name".into(),
            binary: None,
        })
    };
    let mut one = place(container.path())?;
    let mut two = place(unit.path())?;
    for (client, rounds) in [(&mut one, 30), (&mut two, 50)] {
        let connection = client.connect(&scene.at)?;
        client.ping(connection, rounds, 100)?;
        client.close(connection)?;
    }
    drop((one, two));
    let short = id.get(..12).unwrap_or_default();
    agent.settles(|s| {
        for (subject, bytes) in [(short, 3000), (unit_name.as_str(), 5000)] {
            let sent = [("subject", subject), ("direction", "transmit")];
            let found = s.sum("geophone_tcp_bytes_total", &sent);
            ensure!(
                found == bytes,
                "{subject}: {found} for {bytes}; subjects are {:?}",
                s.values("geophone_tcp_bytes_total", "subject")
            );
        }
        Ok(())
    })?;
    drop((container, unit));
    let s = agent.after(3)?;
    let sent = [("subject", short), ("direction", "transmit")];
    equal(
        "bytes after the container's end",
        s.sum("geophone_tcp_bytes_total", &sent),
        3000,
    )
}

/// Cause: names with newlines, escapes, quotes and bytes that are no text. Seen: a clean exposition that promtool and
/// the API can read, and the traffic of each of them.
#[test]
fn weird_names() -> Result<()> {
    need_root!();
    let scene = Scene::echo()?;
    let agent = Agent::start()?;
    let names: [&[u8]; 6] = [
        b"a\nb 1",
        b"\x1b[31mred",
        b"q\"uo\\te",
        b"\xff\xfe\x80bad",
        b"{a=\"b\"} 7",
        b"\xe2\x80\xae\xc2\x9b",
    ];
    let cgroup_name = OsString::from(OsStr::from_bytes(b"we\x1b[2J\"ird\xff.service"));
    let cgroup = Cgroup::new(&cgroup_name)?;
    let mut clients = Vec::new();
    for name in names {
        clients.push(Traffic::at(Place {
            netns: Some(&scene.net.a.ns),
            name: OsStr::from_bytes(name).to_owned(),
            ..Place::default()
        })?);
    }
    clients.push(Traffic::at(Place {
        netns: Some(&scene.net.a.ns),
        cgroup: Some(cgroup.path()),
        ..Place::default()
    })?);
    let flows = agent.flows("4s", || {
        for client in &mut clients {
            let connection = client.connect(&scene.at)?;
            client.ping(connection, 10, 77)?;
            client.close(connection)?;
        }
        Ok(())
    })?;
    // The server has heard from all of them.
    agent.settles(|s| {
        let own = [("subject", scene.server.name()), ("direction", "transmit")];
        equal(
            "bytes",
            s.sum("geophone_tcp_bytes_total", &own),
            770 * clients.len() as u64,
        )?;
        let sent = s.series("geophone_tcp_bytes_total", &[("direction", "transmit")]);
        let found = sent.iter().filter(|s| s.value.as_u64() == Some(770)).count();
        ensure!(found >= clients.len(), "only {found} clients are there: {sent:?}");
        Ok(())
    })?;
    for format in ["text/plain", "application/openmetrics-text; version=1.0.0"] {
        let answer = agent.get("/metrics", format)?;
        let text = String::from_utf8(answer.body).context("not UTF-8")?;
        let control = text.chars().find(|c| c.is_control() && *c != '\n');
        ensure!(
            control.is_none(),
            "a control character is in the exposition: {control:?}"
        );
        for line in text.lines() {
            ensure!(
                line.starts_with('#') || line.starts_with("geophone_") || line.starts_with("target_info"),
                "a name has broken the line: {line:?}"
            );
        }
    }
    for flow in &flows {
        for key in ["subject", "process"] {
            let word = flow[key].as_str().unwrap_or_default();
            ensure!(!word.chars().any(char::is_control), "{key} {word:?}");
        }
    }
    promtool(&agent.metrics()?)
}
