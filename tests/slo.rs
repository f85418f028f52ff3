//! Objectives: from failing connections to a budget that burns, and the same over lines of a file.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::time::Instant;
use tests::harness::agent::{PATIENCE, Scratch};
use tests::harness::cli::{geophone, one_line, says};
use tests::harness::command::said;
use tests::harness::notify::until;
use tests::harness::{Agent, Scene, Setup, equal};
use tests::need_root;

/// Who is spoken to.
const PEER: &str = "shop-server";
const SLOS: &str = "
health: {enabled: false}
slos:
- {name: connects, template: connect-success, objective: 99, window: 1h, interval: 1s, service: shop}
- {name: calls, objective: 20, window: day, interval: 1s, by: [subject],
   total: 'geophone_tcp_connections_total{role=\"client\",outcome=~\"opened|failed\"}',
   bad: 'geophone_tcp_connections_total{role=\"client\",outcome=\"failed\"}'}
";

/// Cause: of the connections to a peer every second fails. Seen: the budget of an hour is gone, it burns more than 1.2 times too
/// fast, and that alert fires with the service's name; what cannot burn so fast has no such alert; a report says since when. After
/// the agent was killed the next one knows what is left of the budget.
#[test]
fn failing_connections_burn_the_budget() -> Result<()> {
    need_root!();
    let mut scene = Scene::echo()?;
    let scratch = Scratch::new()?;
    let store = scratch.path("store").display().to_string();
    // A name of its own: others may talk to private addresses on this machine as well.
    let peers = format!("peers: [{{name: {PEER}, cidrs: [{}]}}]", scene.net.b.v4);
    let config = format!("{peers}\nstore: {{kind: disk, directory: {store}}}{SLOS}");
    let setup = |scene: &Scene| Setup::new().config(config.as_str()).inside(&scene.net.a.ns);
    let mut agent = setup(&scene).start()?;
    let (start, nowhere) = (Instant::now(), scene.net.b.at(9));
    let client = scene.client.name().to_owned();
    let all = loop {
        scene.exchange(1, 1, 10)?;
        equal("error", scene.client.connect_fails(&nowhere)?.as_str(), "refused")?;
        let text = agent.command("slo", &["--json"]).unwrap_or_default();
        let all: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
        let told = |one: &&Value| {
            let firing = one["firing"].as_array();
            firing.is_some_and(|firing| firing.contains(&"1.2".into()))
        };
        // The first samples of a series may say that all have failed.
        let calls = |one: &Value| {
            let is_own = one["slo"] == "calls" && one["of"]["subject"] == client;
            is_own && one["firing"].as_array().is_some_and(Vec::is_empty)
        };
        let connects = |one: &&Value| one["slo"] == "connects" && one["of"]["peer"] == PEER;
        if all.iter().filter(connects).any(|one| told(&one)) && all.iter().any(calls) {
            break all;
        }
        ensure!(
            start.elapsed() < PATIENCE,
            "nothing burns: {text}\n{}",
            agent.log()
        );
    };
    // What asks the agent connects to it: a peer of its own, without failures. And the kernel has clients of other tests as well.
    let is_own_peer = |one: &Value| one["of"]["peer"].as_str().is_none_or(|peer| peer == PEER);
    let of = |name: &str| {
        let is_other = |one: &Value| {
            one["of"]["subject"]
                .as_str()
                .is_some_and(|subject| subject != client)
        };
        all.iter()
            .find(|one| one["slo"] == name && is_own_peer(one) && !is_other(one))
            .context("no such objective")
    };
    let connects = of("connects")?;
    ensure!(connects["of"]["peer"] == PEER, "{connects}");
    // The first failure made the series; since then it is one of two.
    let sli = connects["sli"].as_f64().context("no share")?;
    ensure!((0.3..0.95).contains(&sli), "{connects}");
    ensure!(
        connects["budget_remaining"].as_f64().context("no budget")? < 0.0,
        "{connects}"
    );
    ensure!(
        connects["burn_rate"]["5m"].as_f64().context("no burn rate")? > 14.4,
        "{connects}"
    );
    let firing = connects["firing"].as_array().context("no alerts")?;
    ensure!(firing.contains(&"1.2".into()), "{connects}");
    // Half a minute of an hour.
    let coverage = connects["coverage"].as_f64().context("no coverage")?;
    ensure!(coverage > 0.0 && coverage < 0.05, "{connects}");
    let calls = of("calls")?;
    ensure!(calls["of"]["subject"] == client.as_str(), "{calls}");
    ensure!(
        calls["firing"].as_array().is_some_and(Vec::is_empty),
        "not four of five fail: {calls}"
    );
    let alerts = agent.command("alerts", &["--json"])?;
    let alerts: Vec<Value> = serde_json::from_str(&alerts)?;
    let burn = alerts.iter().find(|alert| {
        alert["labels"]["alertname"] == "GeophoneSloBurn" && alert["labels"]["factor"] == "1.2"
    });
    let burn = burn.context("no alert")?;
    ensure!(
        burn["state"] == "firing" && burn["labels"]["service"] == "shop",
        "{burn}"
    );
    ensure!(burn["labels"]["severity"] == "critical", "{burn}");
    let shown = agent.command("slo", &[])?;
    says(
        &shown,
        &[
            "connects",
            "peer=shop-server",
            "99 %",
            "burning, too little known, burns more than 1.2 times too fast",
            "KNOWN",
        ],
    )?;
    let report = agent.command("slo", &["report", "--format", "json"])?;
    let report: Vec<Value> = serde_json::from_str(&report)?;
    let connects = report
        .iter()
        .find(|one| one["slo"] == "connects" && one["of"]["peer"] == PEER)
        .context("not reported")?;
    ensure!(
        connects["met"] == false && connects["violations"][0]["worst_burn"].as_f64() > Some(14.4),
        "{connects}"
    );
    let told = connects["alerts"].as_array().context("none told")?;
    ensure!(told.iter().any(|one| one["factor"] == 1.2), "{connects}");
    ensure!(
        connects["bad"].as_f64() > Some(0.0) && connects["total"].as_f64() > connects["bad"].as_f64(),
        "{connects}"
    );
    let report = agent.command("slo", &["report", "--window", "30d", "--format", "markdown"])?;
    says(
        &report,
        &[
            "| slo | of |",
            "| connects | peer=shop-server |",
            "| 1.2 | critical |",
        ],
    )?;
    let before = until("eight seconds are known", || {
        Ok(connects_now(&agent)?.filter(|known| known.coverage * 3600.0 >= 8.0))
    })?;
    agent.signal(Signal::SIGKILL)?;
    agent.wait(PATIENCE)?;
    drop(agent);
    let agent = setup(&scene).start()?;
    // The first that it says, not what it might have seen meanwhile.
    let after = until("the next agent says something", || connects_now(&agent))?;
    println!("before {before:?}, after {after:?}");
    // A second of what was not synced, one that was not evaluated yet, and the window goes on.
    ensure!(
        after.coverage * 3600.0 > before.coverage * 3600.0 - 3.0,
        "{after:?}, not {before:?}"
    );
    ensure!(
        after.left < 0.0 && (after.left / before.left - 1.0).abs() < 0.2,
        "{after:?}, not {before:?}"
    );
    Ok(())
}

/// What is known of the objective of connections.
#[derive(Debug)]
struct Left {
    coverage: f64,
    left: f64,
}

/// Of the peer that fails; `None` while nothing is said of it.
fn connects_now(agent: &Agent) -> Result<Option<Left>> {
    let text = agent.command("slo", &["--json"]).unwrap_or_default();
    let all: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
    let one = all
        .iter()
        .find(|one| one["slo"] == "connects" && one["of"]["peer"] == PEER);
    Ok(one.and_then(|one| {
        Some(Left {
            coverage: one["coverage"].as_f64()?,
            left: one["budget_remaining"].as_f64()?,
        })
    }))
}

/// Cause: files of every kind. Said: rules for Prometheus of what is right, a line for each mistake.
#[test]
fn files_become_rules_or_say_why_not() -> Result<()> {
    let scratch = Scratch::new()?;
    let good = "apiVersion: openslo/v1\nkind: SLO\nmetadata: {name: web}\nspec:\n  indicator: {spec: {ratioMetric: {\
        bad: {metricSource: {spec: {query: 'x{code=\"5\"}'}}}, total: {metricSource: {spec: {query: x}}}}}}\n  \
        timeWindow: [{duration: 30d}]\n  objectives: [{target: 0.99}]\n";
    let open = scratch.write("open.yaml", good)?;
    let bad = scratch.write("bad.yaml", good.replace("30d", "ages"))?;
    let config = scratch.write("config.yaml", SLOS)?;
    let wrong = scratch.write("wrong.yaml", "slos:\n- {name: a, template: dns, window: ages}\n")?;
    let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let (open, bad, config, wrong) = (path(&open), path(&bad), path(&config), path(&wrong));
    let out = geophone(&["slo", "check", &open, &config])?;
    ensure!(out.status.success(), "{}", said(&out));
    says(
        &said(&out),
        &[
            "open.yaml: web: 99 % over 30d: valid",
            "config.yaml: calls: 20 % a day: valid",
        ],
    )?;
    let out = geophone(&["slo", "check", &open, &bad, &wrong])?;
    equal("exit status", out.status.code(), Some(1))?;
    let text = String::from_utf8_lossy(&out.stderr);
    says(
        &text,
        &[
            "bad.yaml:6: web: timeWindow: duration: expected",
            "wrong.yaml:2: slos[0].window: expected a duration",
            "2 of 3 files",
        ],
    )?;
    equal("lines", text.lines().count(), 3).context(text.clone().into_owned())?;
    for arguments in [
        vec!["slo", "rules", &open],
        vec!["slo", "rules", "--config", &config],
    ] {
        let out = geophone(&arguments)?;
        ensure!(out.status.success(), "{}", said(&out));
        let rules = scratch.write("rules.yaml", &out.stdout)?;
        let out = geophone(&["rules", "check", &path(&rules)])?;
        ensure!(out.status.success(), "{}", said(&out));
    }
    for (arguments, words) in [
        (vec!["slo", "rules", &bad], &["bad.yaml:6"][..]),
        (vec!["slo", "rules"], &["there are no objectives", "slo_files"]),
        (
            vec!["slo", "--csv", "/nowhere.csv"],
            &["/nowhere.csv", "no such file"],
        ),
        (
            vec!["slo", "--csv", &open, "--objective", "100"],
            &["--objective", "no budget"],
        ),
    ] {
        one_line(&geophone(&arguments)?)?;
        says(&String::from_utf8_lossy(&geophone(&arguments)?.stderr), words)?;
    }
    Ok(())
}

/// Cause: a day of lines, of which half an hour failed. Said: what the arithmetic says, to the digit.
#[test]
fn lines_of_a_file_are_judged() -> Result<()> {
    let scratch = Scratch::new()?;
    let failing = |minute: u32| (600..630).contains(&minute);
    let lines = |line: &dyn Fn(u32) -> String| -> String { (0..1440).map(line).collect() };
    let at = |minute: u32| 1_769_817_600 + minute * 60;
    let counts = lines(&|minute| {
        format!(
            "{},{},1000\n",
            at(minute),
            if failing(minute) { 500 } else { 1000 }
        )
    });
    let times = lines(&|minute| format!("{},{}\n", at(minute), if failing(minute) { 0.4 } else { 0.1 }));
    for (name, text, more, bad) in [
        (
            "counts.csv",
            format!("time,good,total\n{counts}"),
            &[][..],
            15_000.0,
        ),
        ("times.csv", times, &["--at-most", "0.25"][..], 1800.0),
    ] {
        let file = scratch.write(name, text)?;
        let file = file.to_string_lossy();
        let mut arguments = vec!["slo", "--csv", &file, "--objective", "99.9", "--over", "1d"];
        arguments.extend(more);
        let table = geophone(&arguments)?;
        ensure!(table.status.success(), "{}", said(&table));
        says(
            &said(&table),
            &["99.9 %", "NOT MET SINCE", "2026-01-31T09:59:00Z", "2.4"],
        )?;
        arguments.push("--json");
        let out = geophone(&arguments)?;
        ensure!(out.status.success(), "{}", said(&out));
        let all: Value = serde_json::from_slice(&out.stdout)?;
        let one = &all[0];
        equal("bad", one["bad"].as_f64(), Some(bad))?;
        let sli = one["sli"].as_f64().context("no share")?;
        ensure!(
            (sli - (1.0 - bad / one["total"].as_f64().context("no total")?)).abs() < 1e-9,
            "{one}"
        );
        equal("coverage", one["coverage"].as_f64(), Some(1.0))?;
        let violations = one["violations"].as_array().context("no violations")?;
        equal("violations", violations.len(), 1)?;
        equal(
            "since",
            violations[0]["start"].as_str(),
            Some("2026-01-31T09:59:00Z"),
        )?;
        equal(
            "until",
            violations[0]["end"].as_str(),
            Some("2026-01-31T10:33:00Z"),
        )?;
        let fast = one["alerts"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|told| told["factor"] == 2.4);
        ensure!(fast.is_some_and(|told| told["severity"] == "critical"), "{one}");
    }
    Ok(())
}
