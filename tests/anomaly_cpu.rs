//! Anomalies and what the CPUs did: from a process that begins to work to the function that is named.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::process::Command;
use tests::harness::agent::{PATIENCE, Scratch};
use tests::harness::notify::{until, within};
use tests::harness::otlp::{Receiver, text};
use tests::harness::stacks::{Busy, cc, spin};
use tests::harness::{Agent, Setup, equal, unique};
use tests::need_root;

/// Works for a moment twenty times a second, and without a pause once it gets SIGUSR1.
const MAIN: &str = "#include <signal.h>\n#include <unistd.h>\n\
     static volatile sig_atomic_t busy;\n\
     static void begin(int signal) { busy = signal; }\n\
     int main(void) { signal(SIGUSR1, begin); long s = 0; \
     for (;;) { s += spinning(s); if (!busy) usleep(50000); } return s & 1; }\n";

/// Asks for the anomalies.
fn anomalies(agent: &Agent) -> Result<Value> {
    Ok(serde_json::from_str(
        &agent.command("anomalies", &["--all", "--json"])?,
    )?)
}

fn agent(scratch: &Scratch, name: &str, collector: &Receiver) -> Result<Agent> {
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/rules/anomalies.yaml");
    let watch = json!({
        "name": "cpu",
        "expr": format!("sum by (subject) (rate(geophone_sched_cpu_seconds_total{{subject=\"{name}\"}}[3s]))"),
        "unit": "ratio",
        "min_change": 0.25,
    });
    let config = json!({
        "store": { "kind": "disk", "directory": scratch.path("store") },
        "health": { "enabled": false },
        "probes": { "sched": { "enabled": true }, "profile": { "enabled": true, "hz": 97 } },
        "anomaly": { "interval": "1s", "learning": 50, "defaults": false, "watch": [watch] },
        "rules": { "files": [rules], "interval": "1s" },
        "export": { "otlp": { "endpoint": collector.endpoint, "protocol": "http", "logs": true } },
    });
    // The harness takes it for a configuration without a store otherwise: it is JSON.
    Setup::new()
        .config(config.to_string())
        .set("store.kind", "disk")
        .start()
}

/// Cause: a process that hardly does anything begins to work without a pause. Seen: its CPU time is an anomaly, and what it carries
/// names the function, who called it and its share before and then: in the API, on the command line, in the log, as a record of
/// OTLP, with the alert of the anomaly, and in the incident of that.
#[test]
fn the_function_that_took_the_cpu_is_named() -> Result<()> {
    need_root!("cc");
    let scratch = Scratch::new()?;
    let collector = Receiver::http()?;
    let name = unique("c");
    let program = cc(&scratch, &name, &(spin("spinning") + MAIN), &[])?;
    // It gets its CPU also on a machine that has much to do.
    let busy = Busy::start(Command::new("nice").args(["-n", "-10"]).arg(&program))?;
    let agent = agent(&scratch, &name, &collector)?;
    within(4 * PATIENCE, "learning", || {
        let answer = anomalies(&agent)?;
        let learned = answer["series"][0]["learned"].as_f64();
        Ok(learned.filter(|learned| *learned >= 1.0))
    })?;
    kill(Pid::from_raw(busy.0.id() as i32), Signal::SIGUSR1)?;
    // Once more after twenty seconds: where the names of functions come too late for the first answer.
    let (found, of_cpu) = within(3 * PATIENCE, "an anomaly and its function", || {
        let answer = anomalies(&agent)?;
        let all = answer["anomalies"].as_array().into_iter().flatten();
        let mut own = all.filter(|one| one["labels"]["subject"] == name.as_str() && one["direction"] == "up");
        let found = own.next().cloned().unwrap_or_default();
        let mut evidence = found["evidence"].as_array().into_iter().flatten();
        let of_cpu = evidence
            .find(|one| one["labels"]["function"] == "spinning_leaf")
            .cloned();
        Ok(of_cpu.map(|of_cpu| (found, of_cpu)))
    })
    .with_context(|| agent.log())?;
    println!("{of_cpu}");
    let label = |name: &str| of_cpu["labels"][name].as_str();
    equal("process", label("process"), Some(name.as_str()))?;
    equal("subject", label("subject"), Some(name.as_str()))?;
    equal("what it is", of_cpu["what"].as_str(), Some("CPU time"))?;
    ensure!(
        label("via").is_some_and(|via| via.ends_with("main > spinning")),
        "{of_cpu}"
    );
    let share = |side: &str| of_cpu[side].as_f64().unwrap_or_default();
    ensure!(
        share("before") < 0.05 && share("now") > 0.05 && share("now") > 1.5 * share("before"),
        "{of_cpu}"
    );
    let window = |side: &str, at: usize| of_cpu["windows"][side][at].as_f64().context("no window");
    let since = found["since"].as_f64().context("since")?;
    equal(
        "the end of the time before",
        window("before", 1)?,
        window("now", 0)?,
    )?;
    ensure!(
        window("now", 0)? < since && window("now", 1)? >= since && window("before", 0)? > since - 601.0,
        "{found:#}"
    );
    let sentence = format!("CPU time function=spinning_leaf, process={name}, subject={name}, via=");
    let told = agent.command("anomalies", &[])?;
    ensure!(told.contains(&format!("\n  {sentence}")), "{told}");
    ensure!(
        agent.log().contains("anomaly: cpu of subject="),
        "{}",
        agent.log()
    );
    // With its alert.
    until("evidence of the alert", || {
        let answer = agent.get("/api/v1/alerts", "application/json")?;
        let answer: Value = serde_json::from_str(&answer.text())?;
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let mut told = alerts
            .iter()
            .filter_map(|alert| alert["annotations"]["evidence"].as_str());
        Ok(told.any(|told| told.contains(&sentence)).then_some(()))
    })?;
    until("evidence of the incident", || {
        let told = agent.command("alerts", &["incidents"])?;
        Ok(told.contains(&format!("            {sentence}")).then_some(()))
    })?;
    // What was told at once may be without it: samples and names come late on a busy machine. What is told at the end has it.
    drop(busy);
    let record = until("the record of its end", || {
        let mut logs = collector.logs().into_iter();
        Ok(logs.find(|record| {
            let evidence = record
                .attributes
                .iter()
                .find(|one| one.key == "geophone.anomaly.evidence");
            record.event_name == "geophone.anomaly.over" && format!("{evidence:?}").contains("CPU time ")
        }))
    })?;
    let attribute = |key: &str| record.attributes.iter().find(|one| one.key == key);
    equal(
        "subject of the record",
        attribute("geophone.subject").map(text),
        Some(name.clone()),
    )?;
    let evidence = format!("{:?}", attribute("geophone.anomaly.evidence"));
    ensure!(evidence.contains(&sentence), "{evidence}");
    Ok(())
}
