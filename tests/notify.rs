//! Alerts and who is told of them: from traffic to messages.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::process::Command;
use tests::harness::agent::{PATIENCE, Scratch};
use tests::harness::cli::geophone;
use tests::harness::command::{output, present, said};
use tests::harness::notify::{Mail, SLACK, Sink, can_mail, counts, receiver, until};
use tests::harness::{Agent, Scene, Setup, equal, skipped};
use tests::need_root;

/// What an enemy would write into a label.
const HOSTILE: &str = "\"}]\r\nBcc: all@example.org\r\n\r\n<b>&<!channel>";

/// All that the test has.
struct Stage {
    /// Goes with it.
    _scratch: Scratch,
    /// Takes all.
    sink: Sink,
    /// Takes nothing at first.
    dead: Sink,
    mail: Mail,
    config: String,
}

impl Stage {
    fn new(subject: &str) -> Result<Self> {
        let scratch = Scratch::new()?;
        let (sink, dead, mail) = (Sink::start()?, Sink::start()?, Mail::start(&scratch)?);
        dead.answer(503);
        let rules = serde_json::json!({ "groups": [{ "name": "g", "interval": "1s", "rules": [{
            "alert": "Busy",
            "expr": format!("sum by (subject) (rate(geophone_tcp_bytes_total{{subject=\"{subject}\"}}[4s])) > 1000"),
            "labels": { "severity": "critical", "hostile": HOSTILE },
            "annotations": { "summary": "{{ $labels.subject }} sends" },
        }]}]});
        let rules = scratch.write("rules.yaml", rules.to_string())?;
        let mut ops = receiver(&scratch, &sink, &mail)?;
        let away = json!({ "url": format!("http://{}/webhook", dead.at) });
        ops["webhook_configs"]
            .as_array_mut()
            .context("no list")?
            .push(away);
        let config = serde_json::json!({
            "host": "node-1",
            "store": { "kind": "disk", "directory": scratch.path("store") },
            "health": { "enabled": false },
            "rules": { "files": [rules] },
            "alerting": {
                "directory": scratch.path("alerting"),
                "retry": { "initial": "100ms", "max": "500ms" },
                "route": { "receiver": "ops", "group_by": ["incident"], "group_wait": "0s", "group_interval": "1s" },
                "receivers": [ops],
            },
        });
        Ok(Self {
            config: config.to_string(),
            _scratch: scratch,
            sink,
            dead,
            mail,
        })
    }

    fn agent(&self) -> Result<Agent> {
        // The harness takes it for a configuration without a store otherwise: it is JSON.
        Setup::new()
            .config(self.config.as_str())
            .set("store.kind", "disk")
            .start()
    }

    fn counts(&self) -> Result<[usize; 4]> {
        counts(&self.sink, &self.mail)
    }
}

/// A number of the agent's exposition, of one place.
fn number(metrics: &str, name: &str, integration: &str) -> Result<f64> {
    let begin = format!("geophone_notifications{name}{{receiver=\"ops\",integration=\"{integration}\"");
    let lines = metrics.lines().filter(|line| line.starts_with(&begin));
    let numbers = lines.map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<f64>());
    let numbers: Vec<f64> = numbers.collect::<std::result::Result<_, _>>()?;
    ensure!(!numbers.is_empty(), "no {begin}");
    Ok(numbers.iter().sum())
}

/// Notifications made are delivered, dropped, or in flight.
fn conserved(metrics: &str, integration: &str) -> Result<()> {
    let of = |name| number(metrics, name, integration);
    equal(
        integration,
        of("_total")?,
        of("_delivered_total")? + of("_dropped_total")? + of("_in_flight")?,
    )
}

/// Cause: traffic that a rule has a limit for; a receiver that is away; SIGKILL; the end of the traffic. Seen: each place is told
/// once that it fires and once that it has ended, the one that was away after the restart, and labels break nothing; who asks is told of a
/// silence.
#[test]
fn each_place_is_told_once_whatever_happens() -> Result<()> {
    need_root!("openssl", "curl");
    if !can_mail() {
        skipped("notify: there is no python3-aiosmtpd");
        return Ok(());
    }
    let mut scene = Scene::alone("sink")?;
    let stage = Stage::new(scene.client.name())?;
    let mut agent = stage.agent()?;
    let busy = |scene: &mut Scene<_>, what: &str, is: &dyn Fn() -> Result<bool>| {
        until(what, || {
            scene.deliver(50_000)?;
            Ok(is()?.then_some(()))
        })
    };
    busy(&mut scene, "four places are told", &|| {
        Ok(stage.counts()? == [1; 4])
    })
    .with_context(|| format!("{:?}\n{}", stage.counts(), agent.log()))?;
    let webhook = stage.sink.posted("webhook").remove(0);
    let alert = &webhook.body["alerts"][0];
    equal("status", alert["status"].as_str(), Some("firing"))?;
    equal("label", alert["labels"]["hostile"].as_str(), Some(HOSTILE))?;
    equal("instance", alert["labels"]["instance"].as_str(), Some("node-1"))?;
    let slack = stage.sink.posted(SLACK).remove(0).body.to_string();
    ensure!(slack.contains("Busy") && !slack.contains("<!channel>"), "{slack}");
    let event = stage.sink.posted("pagerduty").remove(0).body;
    equal("key", event["routing_key"].as_str(), Some("k3y"))?;
    equal("action", event["event_action"].as_str(), Some("trigger"))?;
    let mail = stage.mail.mails()?.remove(0);
    ensure!(
        mail["tls"] == true && mail["to"] == serde_json::json!(["ops@example.org", "b@example.org"]),
        "{mail}"
    );
    let text = mail["text"].as_str().context("no text")?;
    let (head, _) = text.split_once("\r\n\r\n").context("no end of the header")?;
    ensure!(
        head.contains("[FIRING:1] Busy") && !head.contains("Bcc"),
        "{head}"
    );
    ensure!(agent.log().contains("alert: [FIRING:1] Busy"), "{}", agent.log());
    // From the evaluation, which is that of the sample's second, to the message.
    let began = alert["startsAt"].as_str().context("no startsAt")?;
    let began = seconds(began)?;
    for (path, at) in [
        ("webhook", webhook.at),
        ("slack", stage.sink.posted(SLACK).remove(0).at),
        ("pagerduty", stage.sink.posted("pagerduty").remove(0).at),
        ("mail", mail["at"].as_f64().context("no time")?),
    ] {
        println!("{path}: {:.3} s after the sample", at - began);
        ensure!((0.0..5.0).contains(&(at - began)), "{path}: {}", at - began);
    }
    let incidents: Value = serde_json::from_str(&agent.command("alerts", &["incidents", "--json"])?)?;
    equal("incidents", incidents.as_array().map(Vec::len), Some(1))?;
    equal(
        "group",
        webhook.body["groupLabels"]["incident"].as_str(),
        incidents[0]["id"].as_str(),
    )?;
    let silence = agent.command(
        "alerts",
        &[
            "silence",
            "add",
            "alertname=Other",
            "peer=~db.*",
            "--comment",
            "a test",
        ],
    )?;
    let busy_too = ["silence", "add", "alertname=Busy", "--comment", "a test"];
    let busy_too = agent.command("alerts", &busy_too)?;
    busy(&mut scene, "it is said to be silenced", &|| {
        Ok(agent.command("alerts", &[])?.contains("firing silenced"))
    })?;
    let alerts: Value = serde_json::from_str(&agent.command("alerts", &["--json"])?)?;
    equal("muted", alerts[0]["muted"].as_str(), Some("silenced"))?;
    agent.command("alerts", &["silence", "expire", busy_too.trim()])?;
    let metrics = {
        agent.after(2)?;
        agent.metrics()?
    };
    equal("in flight", number(&metrics, "_in_flight", "webhook[1]")?, 1.0)?;
    for place in [
        "webhook[0]",
        "webhook[1]",
        "slack[0]",
        "pagerduty[0]",
        "email[0]",
        "log[0]",
    ] {
        conserved(&metrics, place)?;
    }
    agent.signal(Signal::SIGKILL)?;
    agent.wait(PATIENCE)?;
    drop(agent);
    stage.dead.answer(200);
    let agent = stage.agent()?;
    busy(&mut scene, "the one that was away is told", &|| {
        Ok(stage.dead.posted("webhook").len() == 1)
    })?;
    equal(
        "body",
        &stage.dead.posted("webhook")[0].body["alerts"],
        &webhook.body["alerts"],
    )?;
    let kept = agent.command("alerts", &["silence", "list"])?;
    ensure!(
        kept.contains(silence.trim()) && kept.contains("peer=~\"db.*\""),
        "{kept}"
    );
    agent.command("alerts", &["silence", "expire", silence.trim()])?;
    only_json_silences(&agent)?;
    ensure!(
        agent
            .command("alerts", &["silence", "list"])?
            .contains("nothing is silenced")
    );
    // It fires again before its end is told: else the restart would pass for the end.
    busy(&mut scene, "it fires again", &|| {
        let answer: Value = serde_json::from_str(&agent.get("/api/v1/alerts", "*/*")?.text())?;
        Ok(answer["data"]["alerts"][0]["state"] == "firing")
    })?;
    // A failure is logged: the error of a client that gets no answer has the address in it.
    stage.sink.answer(0);
    until("a failure is logged", || {
        Ok(agent.log().contains("ops/slack[0]: attempt failed").then_some(()))
    })?;
    stage.sink.answer(200);
    until("the end is told", || {
        Ok((stage.counts()? == [2; 4] && stage.dead.posted("webhook").len() == 2).then_some(()))
    })
    .with_context(|| format!("{:?}\n{}", stage.counts(), agent.log()))?;
    for path in ["webhook", SLACK, "pagerduty"] {
        let last = stage.sink.posted(path).remove(1).body.to_string();
        ensure!(last.to_lowercase().contains("resolve"), "{path}: {last}");
    }
    ensure!(stage.mail.mails()?[1].to_string().contains("[RESOLVED] Busy"));
    let metrics = {
        agent.after(1)?;
        agent.metrics()?
    };
    equal(
        "delivered",
        number(&metrics, "_delivered_total", "webhook[1]")?,
        2.0,
    )?;
    conserved(&metrics, "webhook[1]")?;
    let log = agent.log();
    ensure!(
        !log.contains("s3cret") && !log.contains("k3y") && !log.contains(SLACK),
        "{log}"
    );
    agent.stop().map(drop)
}

/// A web page elsewhere cannot silence anything; Alertmanager's own tool can.
fn only_json_silences(agent: &Agent) -> Result<()> {
    let url = format!("http://{}", agent.at);
    let soon = output(Command::new("date").args(["-u", "-d", "1 hour", "+%FT%TZ"]))?;
    let post = |kind: &str, end: &str| {
        let body = json!({
            "matchers": [{"name": "a", "value": "b", "isRegex": false}],
            "startsAt": "2026-01-01T00:00:00Z", "endsAt": end, "createdBy": "x", "comment": "x",
        })
        .to_string();
        let words = [
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-d",
            &body,
            "-H",
            kind,
        ];
        output(
            Command::new("curl")
                .args(words)
                .arg(format!("{url}/api/v2/silences")),
        )
    };
    let soon = soon.trim();
    let right = "Content-Type: application/json";
    equal("a form", post("Content-Type: text/plain", soon)?.as_str(), "415")?;
    equal("for ever", post(right, "2099-01-01T00:00:00Z")?.as_str(), "400")?;
    equal("JSON", post(right, soon)?.as_str(), "200")?;
    let all: Value = serde_json::from_str(&agent.command("alerts", &["silence", "list", "--json"])?)?;
    let id = all[0]["id"].as_str().context("no id")?.to_owned();
    if present("amtool") {
        let amtool = |words: &[&str]| {
            output(
                Command::new("amtool")
                    .arg("--alertmanager.url")
                    .arg(&url)
                    .arg("silence")
                    .args(words),
            )
        };
        ensure!(amtool(&["query", "-q"])?.trim() == id);
        amtool(&["expire", &id])?;
        let added = amtool(&["add", "alertname=~X.*", "-c", "why", "-a", "me"])?;
        agent.command("alerts", &["silence", "expire", added.trim()])?;
    } else {
        agent.command("alerts", &["silence", "expire", &id])?;
    }
    Ok(())
}

fn seconds(text: &str) -> Result<f64> {
    let out = output(Command::new("date").args(["+%s.%N", "-d", text]))?;
    Ok(out.trim().parse()?)
}

/// Cause: `geophone alerts test` of a receiver whose places answer, or not, or that is not there. Said: what came of each.
#[test]
fn a_receiver_is_tested_by_hand() -> Result<()> {
    let (scratch, sink) = (Scratch::new()?, Sink::start()?);
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let config = serde_json::json!({ "alerting": {
        "route": { "receiver": "ops" },
        "receivers": [
            { "name": "ops", "webhook_configs": [{ "url": format!("http://{}/hook", sink.at) }] },
            { "name": "am", "alertmanager_configs": [{ "url": format!("http://{}", sink.at) }] },
            { "name": "gone", "webhook_configs": [{ "url": format!("http://{closed}/hook") }] },
        ],
    }});
    let config = scratch.write("c.yaml", config.to_string())?;
    let config = config.to_string_lossy();
    let test = |name: &str| geophone(&["alerts", "test", name, "--config", &config]);
    let out = test("ops")?;
    equal("status", out.status.code(), Some(0)).with_context(|| said(&out))?;
    ensure!(
        said(&out).contains("ops/webhook[0]: that it fires: taken, in "),
        "{}",
        said(&out)
    );
    let posted = sink.posted("hook");
    let states: Vec<_> = posted.iter().map(|one| one.body["status"].as_str()).collect();
    equal("told", states, vec![Some("firing"), Some("resolved")])?;
    let out = test("am")?;
    ensure!(
        said(&out).contains("am/alertmanager[0]: that it has ended: not told: "),
        "{}",
        said(&out)
    );
    sink.answer(404);
    let out = test("ops")?;
    equal("status", out.status.code(), Some(1))?;
    ensure!(said(&out).contains("refused: HTTP 404"), "{}", said(&out));
    let out = test("gone")?;
    equal("status", out.status.code(), Some(1))?;
    ensure!(
        said(&out).contains("the agent would try again: not connected"),
        "{}",
        said(&out)
    );
    let out = test("nobody")?;
    equal("status", out.status.code(), Some(2))?;
    ensure!(
        said(&out).contains("there is no receiver \"nobody\"; known: ops, am, gone"),
        "{}",
        said(&out)
    );
    Ok(())
}
