//! The whole chain: from a lossy path to one message at every place, and back.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tests::harness::agent::Scratch;
use tests::harness::cli::geophone;
use tests::harness::notify::{Alertmanager, Mail, SLACK, Sink, can_mail, receiver, within};
use tests::harness::prometheus::Prometheus;
use tests::harness::{Agent, Scene, Setup, Traffic, equal, promql, skipped};
use tests::need_root;

/// Who loses segments. Both ends of the path have this name: the agent sees either end's sockets.
const PEER: &str = "lossy-path";
/// Besides the one that the test waits for: one that waits for what was lost sends nothing.
const CLIENTS: usize = 8;
/// The longest time for something that is to be seen.
const PATIENCE: Duration = Duration::from_secs(120);
/// What is watched for anomalies; with all that is, a busy machine has some of its own.
const WATCH: &str = "tcp_retransmit_ratio";
/// The alerts of shipped rules that tell of it, and what of the peer they are about.
const ALERTS: [(&str, &str); 3] = [
    ("GeophoneAnomaly", "peer"),
    ("GeophoneHealthCritical", "name"),
    ("GeophoneSloBurn", "peer"),
];
/// Everything is to be seen, and told, within so many seconds after the loss has begun.
const SOON: f64 = 15.0;
/// A new incident waits so long for its other alerts.
const WAIT: &str = "7s";
/// Then all of it is over before the group is looked at again: the clients, which end with the loss, are ill for as long as the
/// minute that their loss is a share of has any of it.
const INTERVAL: &str = "90s";

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// A copy of a file of rules that is shipped, with each of these texts as another one.
fn copy(scratch: &Scratch, file: &str, all: &[(&str, &str)]) -> Result<PathBuf> {
    let shipped = format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"));
    let mut text = std::fs::read_to_string(&shipped).context(shipped)?;
    for (from, to) in all {
        ensure!(text.contains(from), "{from:?} is not in {file}");
        text = text.replace(from, to);
    }
    scratch.write(&file.replace('/', "-"), text)
}

/// The watches that are shipped, but for [`WATCH`].
fn others() -> Result<Vec<String>> {
    let out = geophone(&["anomalies", "--watches"])?;
    let text = String::from_utf8(out.stdout)?;
    let names = text.lines().filter_map(|line| line.strip_prefix("- name: "));
    let (watched, others): (Vec<&str>, Vec<&str>) = names.partition(|name| *name == WATCH);
    equal("watches of that name", watched.len(), 1)?;
    Ok(others.into_iter().map(str::to_owned).collect())
}

/// What came to a place.
#[derive(Debug)]
struct Message {
    /// Seconds since 1970.
    at: f64,
    fires: bool,
    text: String,
}

/// Everything that the test has, all of it in one network namespace but for the server.
struct Chain {
    sink: Sink,
    mail: Mail,
    _manager: Alertmanager,
    prometheus: Prometheus,
    agent: Agent,
    scene: Scene,
    connection: u64,
    more: Vec<(Traffic, u64)>,
    _scratch: Scratch,
}

impl Chain {
    fn start() -> Result<Self> {
        let (scratch, mut scene) = (Scratch::new()?, Scene::echo()?);
        let ns = scene.net.a.ns.clone();
        let (sink, mail, manager) = ns.enter(|| {
            let (sink, mail) = (Sink::start()?, Mail::start(&scratch)?);
            let hook = format!("http://{}/alertmanager", sink.at);
            let config = json!({
                "route": {
                    "receiver": "nobody", "group_wait": WAIT, "group_interval": INTERVAL,
                    "routes": [{ "receiver": "hook", "matchers": ["entity!=node"] }],
                },
                "receivers": [{ "name": "nobody" }, { "name": "hook", "webhook_configs": [{ "url": hook }] }],
            });
            let manager = Alertmanager::start(&scratch, &config.to_string())?;
            Ok((sink, mail, manager))
        })?;
        // As shipped, but looked at each second, and told without five minutes of patience: that these make no second incident
        // is what agent/src/alert/notify/tests/replay.rs is for.
        let health = copy(
            &scratch,
            "deploy/prometheus/health.yaml",
            &[("interval: 15s", "interval: 1s")],
        )?;
        let rules = [
            copy(&scratch, "docs/rules/anomalies.yaml", &[])?,
            copy(&scratch, "docs/rules/verdicts.yaml", &[("for: 5m", "for: 1s")])?,
            health.clone(),
        ];
        let cidrs = [&scene.net.a, &scene.net.b].map(|end| end.v4.to_string());
        let config = json!({
            "host": "node-1",
            "peers": [{ "name": PEER, "cidrs": cidrs }],
            "store": { "kind": "disk", "directory": scratch.path("store") },
            "anomaly": { "interval": "1s", "learning": 16, "exclude": others()? },
            // The copy is evaluated instead.
            "health": { "enabled": false },
            "slos": [{
                "name": "loss", "template": "peer-loss", "filter": format!("peer=\"{PEER}\""), "objective": 99.5,
                "window": "1h", "interval": "1s",
            }],
            "rules": { "files": rules, "interval": "1s", "alertmanagers": [format!("http://{}", manager.at)] },
            "alerting": {
                "directory": scratch.path("alerting"),
                "route": {
                    "receiver": "ops", "group_wait": WAIT, "group_interval": INTERVAL, "group_by": ["incident"],
                },
                "receivers": [receiver(&scratch, &sink, &mail)?],
            },
        });
        // The harness takes it for a configuration without a store otherwise: it is JSON.
        let setup = Setup::new().config(config.to_string()).set("store.kind", "disk");
        let agent = setup.inside(&ns).start()?;
        let config = json!({
            "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
            "rule_files": [health],
            "scrape_configs": [
                { "job_name": "geophone", "static_configs": [{ "targets": [agent.at.to_string()] }] },
            ],
        });
        let prometheus = ns.enter(|| Prometheus::start(&config.to_string(), &[]))?;
        let more = (0..CLIENTS).map(|_| {
            let mut client = Traffic::new("cli", &ns)?;
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
            prometheus,
            agent,
            scene,
            _scratch: scratch,
        })
    }

    /// What a command of the agent says; nothing while it has nothing to say.
    fn ask(&self, words: &[&str]) -> Value {
        let (name, options) = words.split_first().unwrap_or((&"", &[]));
        let text = self.agent.command(name, options).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The peer's health, as the agent has it and as Prometheus does.
    fn health(&self) -> Result<[Option<f64>; 2]> {
        let query = format!("geophone_health_score{{entity=\"peer\",name=\"{PEER}\"}}");
        let both = [self.agent.at, self.prometheus.at];
        let ns = &self.scene.net.a.ns;
        ns.enter(|| Ok(both.map(|at| promql::number(at, &query).ok())))
    }

    fn until<T>(&self, what: &str, check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        within(PATIENCE, what, check).with_context(|| {
            let alerts = self.agent.command("alerts", &[]).unwrap_or_default();
            format!("{}\n{alerts}\n{:?}", self.agent.log(), self.health())
        })
    }

    /// What came to each place about the peer.
    fn messages(&self) -> Result<BTreeMap<&'static str, Vec<Message>>> {
        let mut all = BTreeMap::new();
        for path in ["webhook", SLACK, "pagerduty", "alertmanager"] {
            let told = self.sink.posted(path).into_iter().map(|one| Message {
                at: one.at,
                fires: match path {
                    "pagerduty" => one.body["event_action"] == "trigger",
                    SLACK => one.body.to_string().contains("[FIRING"),
                    _ => one.body["status"] == "firing",
                },
                text: one.body.to_string(),
            });
            all.insert(path, told.collect::<Vec<_>>());
        }
        let told = self.mail.mails()?.into_iter().map(|one| {
            // Long lines are broken on their way.
            let text = one["text"].as_str().context("no text")?.replace("=\r\n", "");
            let (at, fires) = (one["at"].as_f64().context("no time")?, text.contains("[FIRING"));
            Ok(Message { at, fires, text })
        });
        all.insert("mail", told.collect::<Result<_>>()?);
        all.values_mut()
            .for_each(|told| told.retain(|one| one.text.contains(PEER)));
        Ok(all)
    }

    /// Those about the peer.
    fn incidents(&self) -> Vec<Value> {
        let all = self.ask(&["alerts", "incidents", "--json"]);
        let all = all.as_array().cloned().unwrap_or_default();
        all.into_iter()
            .filter(|one| one.to_string().contains(PEER))
            .collect()
    }
}

/// Cause: a firewall on the way begins to drop three of ten segments to a peer. Seen: by the shipped rules that peer's retransmits are
/// an anomaly, its health is critical, and so it is to a Prometheus, its objective burns; all of it is one incident, whose first cause is
/// the peer, and each place gets one message, those behind an Alertmanager among them; each within 15 s. When the loss has ended each
/// place is told so, once.
#[test]
fn loss_becomes_one_message_at_every_place() -> Result<()> {
    need_root!("nft", "openssl", "prometheus-alertmanager", "prometheus");
    if !can_mail() {
        skipped("chain: there is no python3-aiosmtpd");
        return Ok(());
    }
    let mut chain = Chain::start()?;
    let connection = chain.connection;
    within(PATIENCE, "it has learned, and knows how the peer is", || {
        chain.scene.client.ping(connection, 3, 200)?;
        let anomalies = chain.ask(&["anomalies", "--all", "--json"]);
        let mut series = anomalies["series"].as_array().into_iter().flatten();
        let learned =
            series.any(|one| one["watch"] == WATCH && one["labels"]["peer"] == PEER && one["learned"] == 1.0);
        let [own, theirs] = chain.health()?;
        let is_well = [own, theirs]
            .iter()
            .all(|score| score.is_some_and(|score| score > 95.0));
        Ok((learned && is_well).then_some(()))
    })
    .with_context(|| chain.agent.log())?;
    let told = chain.messages()?;
    ensure!(
        told.values().all(Vec::is_empty),
        "told before anything is wrong: {told:?}"
    );
    let began = now()?;
    chain.scene.net.b.ns.nft(
        "table inet loss { chain in { type filter hook input priority 0; \
         meta l4proto tcp numgen random mod 10 < 3 counter drop; }; }",
    )?;
    for (client, connection) in &mut chain.more {
        // Without an end of its own.
        client.give(&json!({ "do": "ping", "id": *connection, "rounds": u32::MAX, "size": 200 }))?;
    }
    let told = chain.until("a message at every place", || {
        let told = chain.messages()?;
        Ok(told.values().all(|told| !told.is_empty()).then_some(told))
    })?;
    for (name, label) in ALERTS {
        let query = format!("min(ALERTS_FOR_STATE{{alertname=\"{name}\",{label}=\"{PEER}\"}})");
        let agent = chain.agent.at;
        let at = chain.until(name, || {
            Ok(chain.scene.net.a.ns.enter(|| promql::number(agent, &query)).ok())
        })?;
        println!(
            "{name}: {:.0} s after the loss began; health {:?}",
            at - began,
            chain.health()?
        );
        // Of whole seconds.
        ensure!(
            (-1.0..SOON).contains(&(at - began)),
            "{name}: {:.1} s",
            at - began
        );
    }
    for (place, told) in &told {
        let [one] = &told[..] else {
            anyhow::bail!("{place} got {} messages: {told:#?}", told.len())
        };
        println!("{place}: {:.1} s", one.at - began);
        ensure!(
            one.fires && (0.0..SOON).contains(&(one.at - began)),
            "{place}: {one:?}"
        );
        for (name, _) in ALERTS {
            ensure!(one.text.contains(name), "{place}: no {name} in {}", one.text);
        }
    }
    // As long as all is lost that can be, both have the same of it.
    let health = chain.until("a Prometheus agrees that the peer is critical", || {
        let health = chain.health()?;
        let is = |at: usize| health[at].filter(|score| *score < 60.0);
        Ok(is(0)
            .zip(is(1))
            .filter(|(own, theirs)| (own - theirs).abs() < 1.0))
    })?;
    println!("health of the peer, and to a Prometheus: {health:?}");
    let ended = now()?;
    chain.more.clear();
    chain.scene.net.b.ns.nft("delete table inet loss")?;
    let incidents = chain.incidents();
    equal("incidents", incidents.len(), 1)?;
    let cause = &incidents[0]["cause"]["labels"];
    ensure!(
        cause["peer"] == PEER || cause["entity"] == "peer" && cause["name"] == PEER,
        "the first cause is {cause}"
    );
    let names = incidents[0]["alerts"].as_array().into_iter().flatten();
    let names: BTreeSet<&str> = names
        .filter_map(|alert| alert["labels"]["alertname"].as_str())
        .collect();
    equal(
        "alerts of the incident",
        names,
        ALERTS.map(|(name, _)| name).into(),
    )?;
    // Much that is not lost: what was is a small part of the five minutes then.
    for _ in 0..160 {
        chain.scene.client.ping(connection, 10, 200_000)?;
    }
    let over = chain.until("the end is told at every place", || {
        let told = chain.messages()?;
        let is_over = |told: &Vec<Message>| told.last().is_some_and(|one| !one.fires);
        Ok(told.values().all(is_over).then_some(told))
    })?;
    for (place, told) in &over {
        let fires: Vec<bool> = told.iter().map(|one| one.fires).collect();
        equal(place, fires, vec![true, false])?;
        println!(
            "{place}: resolved {:.1} s after the loss ended",
            told[1].at - ended
        );
    }
    equal("state", chain.incidents()[0]["state"].as_str(), Some("resolved"))?;
    chain.agent.stop().map(drop)
}
