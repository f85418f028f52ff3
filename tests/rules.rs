//! Rules of Prometheus over what the agent remembers: causes and what must be seen.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::harness::agent::{PATIENCE, Scratch};
use tests::harness::cli::{geophone, one_line, says};
use tests::harness::command::{output, said};
use tests::harness::{Setup, equal, skipped};
use tests::need_root;

const RULES: &str = "
groups:
- name: g
  interval: 1s
  rules:
  - {record: 'ticks', expr: 'sum(up)'}
  - alert: Up
    expr: ticks > 0
    for: 2s
    labels: {severity: info}
    annotations: {summary: '{{ $value }} of {{ $externalLabels.instance }}'}
";

const SHORT: &str = "
groups:
- name: short
  interval: 1s
  rules:
  - {alert: Short, threshold: {of: ticks, above: 0.5}, severity: info}
  - {alert: Shorter, composite: {all: [Up, Short], on: []}, severity: critical}
";

fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| text.to_owned())
}

/// Cause: a rule that holds. Seen: pending, then firing, in the API, on the command line, in /metrics and as series; and, once
/// the agent is gone, as what would have fired over its store; once it is back, the alert fires on, whatever its `for`.
#[test]
fn an_alert_is_seen_everywhere() -> Result<()> {
    need_root!();
    let scratch = Scratch::new()?;
    let rules = scratch.write("rules.yaml", RULES)?;
    let broken = scratch.write("broken.yaml", "groups:\n- name: g\n  rules:\n  - alert: A\n")?;
    let config = format!(
        "host: node-1\nstore: {{kind: disk, directory: {}}}\nrules: {{files: [{}, {}]}}\n",
        scratch.path("store").display(),
        rules.display(),
        broken.display()
    );
    let agent = Setup::new().config(config.as_str()).start()?;
    let begin = Instant::now();
    let alert = loop {
        let answer = json(&agent.get("/api/v1/alerts", "*/*")?.text())?;
        let alert = answer["data"]["alerts"][0].clone();
        if alert["state"] == "firing" {
            break alert;
        }
        ensure!(begin.elapsed() < PATIENCE, "{answer}\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(200));
    };
    equal(
        "summary",
        alert["annotations"]["summary"].as_str(),
        Some("1 of node-1"),
    )?;
    let answer = json(&agent.get("/api/v1/rules?type=alert", "*/*")?.text())?;
    let group = &answer["data"]["groups"][0];
    equal("rules", group["rules"].as_array().map(Vec::len), Some(1))?;
    equal("health", group["rules"][0]["health"].as_str(), Some("ok"))?;
    let shown = agent.command("alerts", &[])?;
    ensure!(
        shown.contains("firing") && shown.contains("1 of node-1"),
        "{shown}"
    );
    agent.after(2)?;
    let metrics = agent.metrics()?;
    for line in [
        "geophone_alerts{alertname=\"Up\",severity=\"info\",alertstate=\"firing\"} 1",
        "geophone_rules_invalid_files 1",
    ] {
        ensure!(metrics.contains(line), "no {line}");
    }
    let answer = json(
        &agent
            .get("/api/v1/query?query=ALERTS%7Balertstate%3D%22firing%22%7D", "*/*")?
            .text(),
    )?;
    equal(
        "ALERTS",
        answer["data"]["result"].as_array().map(Vec::len),
        Some(1),
    )?;
    ensure!(
        agent
            .log()
            .contains("broken.yaml:4: A: it has no `expr`, add the query"),
        "{}",
        agent.log()
    );
    // The broken one is mended, then breaks the other: what fires goes on.
    std::fs::write(&broken, SHORT)?;
    equal("reload", agent.post("/-/reload")?.status, 200)?;
    agent.until(|_| {
        let answer = json(&agent.get("/api/v1/rules?rule_name[]=Short", "*/*")?.text())?;
        let rule = &answer["data"]["groups"][0]["rules"][0];
        equal("query", rule["query"].as_str(), Some("ticks > 0.5"))?;
        equal("state", rule["state"].as_str(), Some("firing"))
    })?;
    std::fs::write(&rules, "groups: 5")?;
    agent.signal(Signal::SIGHUP)?;
    agent.until(|_| {
        let (log, metrics) = (agent.log(), agent.metrics()?);
        ensure!(
            log.contains("rules.yaml:1: ") && log.contains("read of it before stays"),
            "{log}"
        );
        for line in [
            "geophone_rules_invalid_files 1",
            "geophone_rules_reloads_total{outcome=\"done\"} 1",
            "geophone_rules_reloads_total{outcome=\"failed\"} 1",
        ] {
            ensure!(metrics.contains(line), "no {line}");
        }
        Ok(())
    })?;
    equal("reload", agent.post("/-/reload")?.status, 500)?;
    let answer = json(&agent.get("/api/v1/alerts", "*/*")?.text())?;
    let alerts = answer["data"]["alerts"].as_array().context("alerts")?;
    let kept = alerts.iter().find(|one| one["labels"]["alertname"] == "Up");
    equal(
        "since",
        kept.map(|one| &one["activeAt"]),
        Some(&alert["activeAt"]),
    )?;
    std::fs::write(&rules, RULES)?;
    agent.stop()?;
    let (rules, store) = (rules.to_string_lossy().into_owned(), scratch.path("store"));
    let past = geophone(&[
        "rules",
        "test",
        &rules,
        "--store",
        &store.to_string_lossy(),
        "--json",
    ])?;
    ensure!(past.status.success(), "{}", said(&past));
    let past = json(&String::from_utf8_lossy(&past.stdout))?;
    equal("episodes", past["alerts"].as_array().map(Vec::len), Some(1))?;
    equal(
        "alert",
        past["alerts"][0]["labels"]["alertname"].as_str(),
        Some("Up"),
    )?;
    let agent = Setup::new().config(config).start()?;
    let begin = Instant::now();
    let again = loop {
        let answer = json(&agent.get("/api/v1/alerts", "*/*")?.text())?;
        let mut alerts = answer["data"]["alerts"].as_array().into_iter().flatten();
        if let Some(alert) = alerts.find(|one| one["labels"]["alertname"] == "Up") {
            break alert.clone();
        }
        ensure!(begin.elapsed() < PATIENCE, "{answer}\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(50));
    };
    equal("state after a restart", again["state"].as_str(), Some("firing"))?;
    // It is remembered in seconds.
    let since = |alert: &Value| {
        alert["activeAt"]
            .as_str()
            .and_then(|at| Some(at.split_once('.')?.0.to_owned()))
    };
    equal("since", since(&again), since(&alert))?;
    agent.stop().map(drop)
}

/// Cause: rule files with and without mistakes. Said: each mistake in a line of its own, or how much there is.
#[test]
fn rule_files_are_checked() -> Result<()> {
    let scratch = Scratch::new()?;
    let good = scratch.write("good.yaml", RULES)?;
    let bad = scratch.write(
        "bad.yaml",
        "groups:\n- name: g\n  rules:\n  - {record: r, expr: 'sum(', for: 1m}\n",
    )?;
    let (good, bad) = (good.to_string_lossy(), bad.to_string_lossy());
    let out = geophone(&["rules", "check", &good])?;
    equal("exit status", out.status.code(), Some(0))?;
    ensure!(
        said(&out).contains("good.yaml: 1 groups, 2 rules: valid"),
        "{}",
        said(&out)
    );
    let out = geophone(&["rules", "check", &good, &bad])?;
    equal("exit status", out.status.code(), Some(1))?;
    let text = String::from_utf8_lossy(&out.stderr);
    let lines: Vec<&str> = text.lines().collect();
    equal("lines", lines.len(), 3).context(text.clone().into_owned())?;
    ensure!(
        lines.iter().take(2).all(|line| line.contains("bad.yaml:4: r: ")),
        "{text}"
    );
    let short = scratch.write("short.yaml", SHORT)?;
    let short = short.to_string_lossy();
    let out = geophone(&["rules", "print", &short])?;
    let written = scratch.write("written.yaml", &out.stdout)?;
    match Command::new("promtool").arg("--version").output() {
        Ok(_) => {
            let judged = output(Command::new("promtool").args(["check", "rules"]).arg(&written))?;
            ensure!(judged.contains("2 rules found"), "{judged}");
        }
        Err(_) => skipped("rules: there is no promtool"),
    }
    let out = geophone(&["rules", "check", &short])?;
    says(
        &String::from_utf8_lossy(&out.stderr),
        &["short.yaml:7: Shorter: ", "\"Up\""],
    )?;
    let out = geophone(&["rules", "list", &good])?;
    ensure!(said(&out).contains("ticks > 0"), "{}", said(&out));
    for (arguments, words) in [
        (vec!["rules", "list", &bad], &["bad.yaml:4", "and 1 more"][..]),
        (
            vec!["rules", "check", "/nowhere.yaml"],
            &["/nowhere.yaml", "cannot read"],
        ),
        (
            vec!["rules", "test", &good, "--store", "/nowhere"],
            &["/nowhere", "no such directory"],
        ),
    ] {
        let out = geophone(&arguments)?;
        equal("exit status", out.status.code(), Some(1))?;
        let text = String::from_utf8_lossy(&out.stderr);
        says(&text, words)?;
    }
    one_line(&geophone(&["rules", "list", &bad])?).map(drop)
}

/// Cause: SIGHUP for an agent that has no rules, then its end; a service manager listens. Seen: it goes on and says that there is
/// nothing to read; the manager hears of the start, the reading and the end, each when it is so.
#[test]
fn a_service_manager_is_told() -> Result<()> {
    need_root!("env");
    let scratch = Scratch::new()?;
    let path = scratch.path("notify");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(PATIENCE))?;
    let hears = |wanted: &str| -> Result<()> {
        let mut heard = [0; 64];
        let length = manager.recv(&mut heard).with_context(|| wanted.to_owned())?;
        equal("told", String::from_utf8_lossy(&heard[..length]).as_ref(), wanted)
    };
    let socket = format!("NOTIFY_SOCKET={}", path.display());
    let agent = Setup::new().through(["env", &socket]).spawn()?;
    hears("READY=1").with_context(|| agent.log())?;
    equal("ready", agent.get("/readyz", "*/*")?.status, 200)?;
    agent.signal(Signal::SIGHUP)?;
    hears("RELOADING=1").with_context(|| agent.log())?;
    hears("READY=1")?;
    let log = agent.log();
    ensure!(log.contains("SIGHUP: there are no rules to read again"), "{log}");
    equal("after it", agent.get("/readyz", "*/*")?.status, 200)?;
    agent.stop()?;
    hears("STOPPING=1")
}
