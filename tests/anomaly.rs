//! Anomalies: from a firewall's rule to the sentence that names it.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tests::harness::agent::Scratch;
use tests::harness::notify::until;
use tests::harness::otlp::{Receiver, text};
use tests::harness::{Agent, Scene, Setup, equal};
use tests::need_root;

/// Who loses segments.
const PEER: &str = "lossy-server";
/// The longest time for something that is to be seen.
const PATIENCE: Duration = Duration::from_secs(60);

struct Watched {
    /// Takes what is logged, over HTTP.
    receiver: Receiver,
    scene: Scene,
    connection: u64,
    agent: Agent,
}

impl Watched {
    fn start(scene: Scene, connection: u64, directory: &str) -> Result<Self> {
        // A name of its own: others may talk to private addresses on this machine as well.
        let server = scene.net.b.v4;
        let config = format!(
            "peers: [{{name: {PEER}, cidrs: [{server}]}}]\nstore: {{kind: disk, directory: {directory}}}\nanomaly: {{interval: 1s, learning: 32, exclude: [node_pressure, tcp_bytes, netdev_bytes]}}"
        );
        let receiver = scene.net.a.ns.enter(Receiver::http)?;
        let agent = Setup::new()
            .config(config)
            .set("export.otlp.endpoint", &receiver.endpoint)
            .set("export.otlp.protocol", "http")
            .set("export.otlp.logs", "true")
            .inside(&scene.net.a.ns)
            .start()?;
        Ok(Self {
            receiver,
            scene,
            connection,
            agent,
        })
    }

    /// Traffic goes on until what is watched is so.
    fn until<T>(&mut self, what: &str, check: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let begin = Instant::now();
        loop {
            self.scene.client.ping(self.connection, 50, 200)?;
            let answer = self.agent.command("anomalies", &["--all", "--json"])?;
            let answer: Value = serde_json::from_str(&answer)?;
            if let Some(found) = check(&answer) {
                return Ok(found);
            }
            ensure!(
                begin.elapsed() < PATIENCE,
                "{what}: not after {} s: {answer:#}\n{}",
                PATIENCE.as_secs(),
                self.agent.log()
            );
        }
    }
}

/// The series of a watch with this peer.
fn series<'a>(answer: &'a Value, watch: &str, peer: &str) -> Option<&'a Value> {
    let all = answer["series"].as_array().into_iter().flatten();
    all.into_iter()
        .find(|series| series["watch"] == watch && series["labels"]["peer"] == peer)
}

fn is_judged(answer: &Value, watch: &str) -> bool {
    series(answer, watch, PEER).is_some_and(|series| series["learned"] == 1.0)
}

/// Cause: a firewall on the way begins to drop a tenth of the segments of a peer that lost none. Seen: that peer's retransmits are an
/// anomaly, and so are the drops; each is told with the reason of the drops, on the command line, in /metrics and in the log. After
/// a restart nothing is learned anew.
#[test]
fn loss_is_found_and_its_reason_named() -> Result<()> {
    need_root!("nft");
    let scratch = Scratch::new()?;
    let directory = scratch.path("store").display().to_string();
    let mut scene = Scene::echo()?;
    let connection = scene.connect()?;
    let mut watched = Watched::start(scene, connection, &directory)?;
    watched.until("learning", |answer| {
        is_judged(answer, "tcp_retransmit_ratio").then_some(())
    })?;
    // Those of the kernel's own packets are seen by the agent too, whose namespace is the other one.
    watched.scene.net.b.ns.nft(
        "table inet loss { chain in { type filter hook input priority 0; \
         meta l4proto tcp numgen random mod 10 < 1 counter drop; }; }",
    )?;
    let found = watched.until("an anomaly", |answer| {
        let all = answer["anomalies"].as_array().into_iter().flatten();
        all.into_iter()
            .find(|anomaly| anomaly["watch"] == "tcp_retransmit_ratio" && anomaly["labels"]["peer"] == PEER)
            // Where many begin at once it waits for its evidence.
            .filter(|anomaly| anomaly["evidence"] != json!([]))
            .cloned()
    })?;
    // No stacks are taken, and it says so.
    let missing = found["evidence_missing"].as_str().context("evidence_missing")?;
    ensure!(missing.contains("probes.profile.enabled"), "{missing}");
    let dropped = watched.scene.net.b.ns.nft_counter()?;
    ensure!(dropped > 0, "nft has dropped nothing");
    equal("direction", found["direction"].as_str(), Some("up"))?;
    let (value, upper) = (found["value"].as_f64(), found["upper"].as_f64());
    ensure!(value.context("value")? > upper.context("upper")?, "{found}");
    let evidence = found["evidence"].as_array().into_iter().flatten();
    let reasons: Vec<&Value> = evidence
        .into_iter()
        .filter(|evidence| evidence["what"] == "drops")
        .map(|evidence| &evidence["labels"]["reason"])
        .collect();
    ensure!(
        reasons.iter().any(|reason| **reason == "NETFILTER_DROP"),
        "the reason is not told: {found:#}"
    );
    watched.until("drops by reason", |answer| {
        let all = answer["anomalies"].as_array().into_iter().flatten();
        all.into_iter()
            .any(|anomaly| anomaly["watch"] == "drops" && anomaly["labels"]["reason"] == "NETFILTER_DROP")
            .then_some(())
    })?;
    // A sentence for people.
    let told = watched.agent.command("anomalies", &[])?;
    for part in [
        "tcp_retransmit_ratio of peer=lossy-server ",
        " is usual (",
        "  drops device=",
        "reason=NETFILTER_DROP",
    ] {
        ensure!(told.contains(part), "no {part:?} in {told}");
    }
    let log = watched.agent.log();
    ensure!(
        log.contains("anomaly: tcp_retransmit_ratio of peer=lossy-server"),
        "{log}"
    );
    let told = until("a log record", || {
        let mut logs = watched.receiver.logs().into_iter();
        Ok(logs.find(|record| {
            let of = |key: &str| record.attributes.iter().find(|one| one.key == key).map(text);
            of("geophone.anomaly.watch").as_deref() == Some("tcp_retransmit_ratio")
                && of("geophone.peer").as_deref() == Some(PEER)
        }))
    })?;
    equal("event", told.event_name.as_str(), "geophone.anomaly.begun")?;
    ensure!(
        format!("{told:?}").contains("NETFILTER_DROP"),
        "no evidence: {told:?}"
    );
    watched.agent.after(2)?;
    let metrics = watched.agent.metrics()?;
    let own = "{watch=\"tcp_retransmit_ratio\",peer=\"lossy-server\"";
    for part in [
        "geophone_anomaly_score",
        "geophone_anomaly_lower",
        "geophone_anomaly_upper",
        "geophone_anomaly_value",
    ] {
        ensure!(
            metrics.contains(&format!("{part}{own}}} ")),
            "no {part} in {metrics}"
        );
    }
    for part in [
        "geophone_anomaly_active{watch=",
        "geophone_anomaly_cpu_seconds_total 0.",
    ] {
        ensure!(metrics.contains(part), "no {part} in {metrics}");
    }
    let lag = metrics
        .lines()
        .find_map(|line| line.strip_prefix("geophone_anomaly_lag_seconds "))
        .context("no lag")?;
    println!("verdict {lag} s after the sample");
    ensure!(
        lag.parse::<f64>()? <= 2.0,
        "the verdict came {lag} s after the sample"
    );
    // A restart, in the middle of it.
    let Watched {
        receiver: _,
        scene,
        connection,
        agent,
    } = watched;
    agent.stop()?;
    let mut watched = Watched::start(scene, connection, &directory)?;
    watched.until("the first evaluation", |answer| {
        series(answer, "tcp_retransmit_ratio", PEER).map(|_| ())
    })?;
    let answer = watched.agent.command("anomalies", &["--all", "--json"])?;
    let answer: Value = serde_json::from_str(&answer)?;
    ensure!(
        is_judged(&answer, "tcp_retransmit_ratio"),
        "it is learned anew: {answer:#}"
    );
    let kept = answer["anomalies"].as_array().into_iter().flatten();
    let same = kept
        .into_iter()
        .any(|anomaly| anomaly["id"] == found["id"] && anomaly["since"] == found["since"]);
    ensure!(same, "what was told is forgotten: {answer:#}");
    Ok(())
}
