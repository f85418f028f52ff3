//! The whole chain: from a lossy path to one message at every place, and back.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tests::harness::agent::Scratch;
use tests::harness::notify::{Alertmanager, Mail, SLACK, Sink, can_mail, counts, receiver, within};
use tests::harness::{Agent, Scene, Setup, Traffic, equal, skipped};
use tests::need_root;

/// Who loses segments.
const PEER: &str = "lossy-server";
/// Besides the one that the test waits for.
const CLIENTS: usize = 4;
/// The longest time for something that is to be seen.
const PATIENCE: Duration = Duration::from_secs(60);
/// What tells of it, in lower case.
const ALERTS: [&str; 2] = ["oddloss", "geophonesloburn"];
/// A message may come so many seconds after the loss has begun.
const SOON: f64 = 15.0;

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// Everything that the test has, all of it in one network namespace but for the server.
struct Chain {
    sink: Sink,
    mail: Mail,
    _manager: Alertmanager,
    agent: Agent,
    scene: Scene,
    connection: u64,
    /// More clients of the server: one that waits for what was lost sends nothing.
    more: Vec<(Traffic, u64)>,
    _scratch: Scratch,
}

impl Chain {
    fn start() -> Result<Self> {
        let (scratch, mut scene) = (Scratch::new()?, Scene::echo()?);
        let (sink, mail, manager) = scene.net.a.ns.enter(|| {
            let (sink, mail) = (Sink::start()?, Mail::start(&scratch)?);
            let hook = format!("http://{}/alertmanager", sink.at);
            let config = json!({
                "route": { "receiver": "hook", "group_by": ["peer"], "group_wait": "2s", "group_interval": "2s" },
                "receivers": [{ "name": "hook", "webhook_configs": [{ "url": hook }] }],
            });
            let manager = Alertmanager::start(&scratch, &config.to_string())?;
            Ok((sink, mail, manager))
        })?;
        let rules = json!({ "groups": [{ "name": "g", "interval": "1s", "rules": [{
            "alert": "OddLoss",
            "anomaly": { "watch": "tcp_retransmit_ratio", "where": { "peer": PEER } },
            "labels": { "severity": "warning" },
        }]}]});
        let config = json!({
            "host": "node-1",
            "peers": [{ "name": PEER, "cidrs": [scene.net.b.v4.to_string()] }],
            "store": { "kind": "disk", "directory": scratch.path("store") },
            "anomaly": { "interval": "1s", "learning": 16 },
            "slos": [{
                "name": "loss", "template": "peer-loss", "filter": format!("peer=\"{PEER}\""), "objective": 99.5,
                "window": "1h", "interval": "1s",
            }],
            "rules": {
                "files": [scratch.write("rules.yaml", rules.to_string())?],
                "alertmanagers": [format!("http://{}", manager.at)],
            },
            "alerting": {
                "directory": scratch.path("alerting"),
                "route": { "receiver": "ops", "group_by": ["incident"], "group_wait": "2s", "group_interval": "2s" },
                "receivers": [receiver(&scratch, &sink, &mail)?],
            },
        });
        // The harness takes it for a configuration without a store otherwise: it is JSON.
        let setup = Setup::new().config(config.to_string()).set("store.kind", "disk");
        let agent = setup.inside(&scene.net.a.ns).start()?;
        let more = (0..CLIENTS).map(|_| {
            let mut client = Traffic::new("cli", &scene.net.a.ns)?;
            let connection = client.connect(&scene.at)?;
            Ok((client, connection))
        });
        let more = more.collect::<Result<_>>()?;
        Ok(Self {
            more,
            connection: scene.connect()?,
            sink,
            mail,
            _manager: manager,
            agent,
            scene,
            _scratch: scratch,
        })
    }

    /// What a command of the agent says, while some traffic goes on; nothing while it has nothing to say.
    fn ask(&self, words: &[&str]) -> Value {
        let (name, options) = words.split_first().unwrap_or((&"", &[]));
        let text = self.agent.command(name, options).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn until<T>(&mut self, what: &str, check: impl Fn(&Self) -> Result<Option<T>>) -> Result<T> {
        let found = within(PATIENCE, what, || {
            self.scene.client.ping(self.connection, 3, 200)?;
            check(self)
        });
        found.with_context(|| self.agent.log())
    }

    fn told(&self) -> Result<(usize, [usize; 4])> {
        let alertmanager = self.sink.posted("alertmanager").len();
        Ok((alertmanager, counts(&self.sink, &self.mail)?))
    }

    /// When the last message came to each place, and what it was, in lower case.
    fn last(&self) -> Result<BTreeMap<&'static str, (f64, String)>> {
        let mut all = BTreeMap::new();
        for path in ["webhook", SLACK, "pagerduty", "alertmanager"] {
            let last = self.sink.posted(path).pop().context(path)?;
            all.insert(path, (last.at, last.body.to_string().to_lowercase()));
        }
        let mail = self.mail.mails()?.pop().context("no mail")?;
        let at = mail["at"].as_f64().context("no time")?;
        all.insert("mail", (at, mail.to_string().to_lowercase()));
        Ok(all)
    }
}

fn find(all: &Value, is: impl Fn(&Value) -> bool) -> Option<&Value> {
    all.as_array().into_iter().flatten().find(|one| is(one))
}

/// Cause: a firewall on the way begins to drop three of ten segments to a peer. Seen: that peer's retransmits are an anomaly, its
/// health drops, its objective burns, all of it is one incident with a first cause, and one message comes to each place, those
/// behind an Alertmanager among them, within 15 s; when the loss has ended each is told so.
#[test]
fn loss_becomes_one_message_at_every_place() -> Result<()> {
    need_root!("nft", "openssl", "prometheus-alertmanager");
    if !can_mail() {
        skipped("chain: there is no python3-aiosmtpd");
        return Ok(());
    }
    let mut chain = Chain::start()?;
    let health = |chain: &Chain| {
        let all = chain.ask(&["health", "--json"]);
        let peer = find(&all, |one| one["entity"] == "peer" && one["name"] == PEER);
        peer.and_then(|peer| peer["score"].as_f64())
    };
    let well = chain.until("it has learned, and knows how the peer is", |chain| {
        let anomalies = chain.ask(&["anomalies", "--all", "--json"]);
        let learned = find(&anomalies["series"], |one| {
            one["watch"] == "tcp_retransmit_ratio" && one["labels"]["peer"] == PEER && one["learned"] == 1.0
        });
        Ok(learned.and_then(|_| health(chain)))
    })?;
    ensure!(well > 95.0, "{well}");
    equal("told before anything is wrong", chain.told()?, (0, [0; 4]))?;
    let began = now()?;
    chain.scene.net.b.ns.nft(
        "table inet loss { chain in { type filter hook input priority 0; \
         meta l4proto tcp numgen random mod 10 < 3 counter drop; }; }",
    )?;
    for (client, connection) in &mut chain.more {
        // Without an end of its own.
        client.give(&json!({ "do": "ping", "id": *connection, "rounds": u32::MAX, "size": 200 }))?;
    }
    let anomaly = chain.until("an anomaly", |chain| {
        let anomalies = chain.ask(&["anomalies", "--json"]);
        let is_it = |one: &Value| {
            one["watch"] == "tcp_retransmit_ratio" && one["labels"]["peer"] == PEER && one["until"].is_null()
        };
        find(&anomalies["anomalies"], is_it).map(|_| now()).transpose()
    })?;
    let burns = chain.until("the budget burns", |chain| {
        let all = chain.ask(&["slo", "--json"]);
        let fires = |one: &Value| one["firing"].as_array().is_some_and(|all| !all.is_empty());
        let it = find(&all, |one| one["slo"] == "loss" && one["of"]["peer"] == PEER);
        it.filter(|one| fires(one)).map(|_| now()).transpose()
    })?;
    let told = chain.until("both alerts in a message at every place", |chain| {
        let (alertmanager, own) = chain.told()?;
        if alertmanager == 0 || own.contains(&0) {
            return Ok(None);
        }
        let told = chain.last()?;
        let is_whole = |(_, text): &(f64, String)| ALERTS.iter().all(|alert| text.contains(alert));
        Ok(told.values().all(is_whole).then_some(told))
    })?;
    // One, and where another of the three alerts came later than the first had waited, one more of the same incident.
    let (alertmanager, own) = chain.told()?;
    ensure!(
        own.iter().chain([&alertmanager]).all(|count| *count <= 3),
        "messages: {alertmanager}, {own:?}"
    );
    // While segments are lost: afterwards it is on its way back up, and whoever asks late sees nothing of it.
    let (ill, score) = chain.until("health drops", |chain| {
        let score = health(chain).filter(|score| *score < well - 5.0);
        score.map(|score| Ok((now()?, score))).transpose()
    })?;
    chain.more.clear();
    chain.scene.net.b.ns.nft("delete table inet loss")?;
    let ended = now()?;
    for (what, at) in [("anomaly", anomaly), ("objective burns", burns), ("health", ill)] {
        println!("{what}: {:.1} s after the loss began", at - began);
    }
    println!("health of the peer: {well:.1}, then {score:.1}");
    for (place, (at, text)) in &told {
        println!("{place}: {:.1} s", at - began);
        ensure!(
            (0.0..SOON).contains(&(at - began)),
            "{place}: {:.1} s",
            at - began
        );
        ensure!(text.contains(PEER), "{place}: no {PEER} in {text}");
    }
    let incidents = chain.ask(&["alerts", "incidents", "--json"]);
    equal("incidents", incidents.as_array().map(Vec::len), Some(1))?;
    equal(
        "peer of the first cause",
        incidents[0]["cause"]["labels"]["peer"].as_str(),
        Some(PEER),
    )?;
    // The anomaly, and both of the burn rates of an hour's objective.
    let names = incidents[0]["alerts"].as_array().into_iter().flatten();
    let mut names: Vec<&str> = names
        .filter_map(|alert| alert["labels"]["alertname"].as_str())
        .collect();
    names.sort_unstable();
    equal(
        "alerts of the incident",
        names,
        vec!["GeophoneSloBurn", "GeophoneSloBurn", "OddLoss"],
    )?;
    // Much that is not lost: what was is a small part of the five minutes then.
    for _ in 0..160 {
        chain.scene.client.ping(chain.connection, 10, 200_000)?;
    }
    let over = chain.until("the end is told at every place", |chain| {
        let last = chain.last()?;
        let is_over = |(place, (_, text)): (&&str, &(f64, String))| match *place {
            "pagerduty" => text.contains(r#""event_action":"resolve""#),
            SLACK | "mail" => text.contains("[resolved"),
            _ => text.contains(r#""status":"resolved""#) && !text.contains(r#""status":"firing""#),
        };
        Ok(last.iter().all(is_over).then_some(last))
    })?;
    for (place, (at, _)) in &over {
        println!("{place}: resolved {:.1} s after the loss ended", at - ended);
    }
    let incidents = chain.ask(&["alerts", "incidents", "--json"]);
    equal("state", incidents[0]["state"].as_str(), Some("resolved"))?;
    chain.agent.stop().map(drop)
}
