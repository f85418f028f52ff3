//! What the agent remembers, and how it is asked: causes and what must be seen.

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};
use tests::harness::agent::{Agent, PATIENCE, Scratch, binary, clean};
use tests::harness::cli::{geophone, one_line, says};
use tests::harness::command::output;
use tests::harness::promql::{encoded, instant, number};
use tests::harness::{Setup, scene::Scene};
use tests::need_root;

/// An agent that remembers, in a directory.
fn start(scratch: &Scratch) -> Result<Agent> {
    Setup::new().arg("--store").arg(scratch.path("store")).start()
}

fn now() -> Result<f64> {
    Ok(SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs_f64())
}

/// Waits until a query comes to something.
fn wait_for(agent: &Agent, query: &str) -> Result<()> {
    let start = Instant::now();
    while instant(agent.at, query)?.is_empty() {
        ensure!(start.elapsed() < PATIENCE, "{query}: no series");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Cause: connections come and go. Seen: PromQL over HTTP, by GET and POST, by promtool, on the command line as table, CSV, JSON
/// and chart, and all of it says what /metrics says.
#[test]
fn a_memory_is_asked_in_promql() -> Result<()> {
    need_root!("promtool", "curl");
    let scratch = Scratch::new()?;
    let mut scene = Scene::echo()?;
    let agent = start(&scratch)?;
    scene.exchange(30, 10, 100)?;
    let ours = format!(
        "outcome=\"opened\",role=\"client\",subject=\"{}\"",
        scene.client.name()
    );
    let opened = &format!("sum(geophone_tcp_connections_total{{{ours}}})");
    wait_for(&agent, opened)?;
    agent.after(3)?;
    let asked = number(agent.at, opened)?;
    ensure!((asked - 30.0).abs() < 1e-9, "{asked} connections of 30");
    // A histogram is one: its count is that of the exposition, and a quantile needs no `le`.
    let p50 = number(agent.at, "histogram_quantile(0.5, sum(geophone_tcp_rtt_seconds))")?;
    ensure!(p50 > 0.0 && p50 < 1.0, "p50 {p50}");

    let base = format!("http://{}", agent.at);
    let posted = output(
        Command::new("curl")
            .args([
                "--silent",
                "--noproxy",
                "*",
                "--data-urlencode",
                &format!("query={opened}"),
            ])
            .arg(format!("{base}/api/v1/query")),
    )?;
    ensure!(posted.contains("\"resultType\":\"vector\""), "{posted}");
    let wrong = agent.get(&format!("/api/v1/query?query={}", encoded("sum(")), "*/*")?;
    ensure!(
        wrong.status == 400 && wrong.text().contains("\"errorType\":\"bad_data\""),
        "{}",
        wrong.text()
    );

    let told = output(Command::new("promtool").args(["query", "instant", &base, "up"]))?;
    ensure!(
        told.contains("job=\"geophone\"") && told.contains("=> 1 @["),
        "{told}"
    );
    let told = output(Command::new("promtool").args(["query", "range", "--step=1s", &base, "up"]))?;
    ensure!(
        told.lines().filter(|l| l.starts_with("1 @[")).count() >= 3,
        "{told}"
    );
    let told = output(Command::new("promtool").args(["query", "labels", &base, "outcome"]))?;
    ensure!(told.contains("opened"), "{told}");
    let told = output(Command::new("promtool").args(["query", "series", "--match=target_info", &base]))?;
    ensure!(told.contains("target_info"), "{told}");

    let table = agent.command("query", &[opened])?;
    ensure!(
        table.starts_with("SERIES") && table.lines().count() == 2,
        "{table}"
    );
    let csv = agent.command(
        "query",
        &["up", "--range", "3s", "--step", "1s", "--format", "csv"],
    )?;
    ensure!(csv.starts_with("time,value,__name__,instance,job\n"), "{csv}");
    ensure!(csv.lines().skip(1).all(|l| l.contains(",1,up,")), "{csv}");
    let chart = agent.command(
        "query",
        &[
            "sum(rate(geophone_tcp_segments_total[3s]))",
            "--range",
            "5s",
            "--format",
            "chart",
        ],
    )?;
    ensure!(
        chart.lines().count() > 20 && chart.lines().last().is_some_and(|l| l.starts_with("a {}")),
        "{chart}"
    );
    let failed = geophone(&["query", "sum(", "--listen", &agent.at.to_string()])?;
    says(&one_line(&failed)?, &["parse error"])
}

/// Cause: the agent is killed, and another one starts on the same directory; meanwhile the store is read without it. Seen: what
/// was seen before the kill, but for the last moments; a directory that is in use is refused.
#[test]
fn what_was_seen_outlives_the_agent() -> Result<()> {
    need_root!();
    let scratch = Scratch::new()?;
    let directory = scratch.path("store").display().to_string();
    let agent = start(&scratch)?;
    agent.after(8)?;
    let second = geophone(&[
        "run",
        "--for",
        "5s",
        "--listen",
        "127.0.0.1:0",
        "--store",
        &directory,
    ])?;
    says(
        &one_line(&second)?,
        &["store", &directory, &agent.pid().to_string()],
    )?;
    let beside = geophone(&["query", "count_over_time(up[1m])", "--store", &directory])?;
    ensure!(
        beside.status.success() && String::from_utf8_lossy(&beside.stdout).contains("{instance="),
        "{beside:?}"
    );

    let killed = now()?;
    kill(agent.pid(), Signal::SIGKILL)?;
    drop(agent);
    let alone = geophone(&[
        "query",
        "timestamp(up)",
        "--store",
        &directory,
        "--at",
        &format!("{killed:.3}"),
    ])?;
    let text = String::from_utf8_lossy(&alone.stdout).into_owned();
    let last: f64 = text
        .lines()
        .last()
        .and_then(|l| l.split_whitespace().last())
        .context("no answer")?
        .parse()?;
    ensure!(
        killed - last < 3.0,
        "the last sample is {} s older than the kill: {text}",
        killed - last
    );

    let text = tell(&["store", "export", "--store", &directory, "--match", "up"])?;
    ensure!(
        text.starts_with("# TYPE up unknown\nup{") && text.ends_with("# EOF\n"),
        "{text}"
    );
    let copy = scratch.path("copy").display().to_string();
    let file = scratch.write("up.txt", &text)?.display().to_string();
    let told = tell(&["store", "import", &file, "--store", &copy])?;
    let samples = text.lines().filter(|line| line.starts_with("up{")).count();
    ensure!(
        told.trim() == format!("{samples} samples in, 0 lines left out"),
        "{told}"
    );
    ensure!(tell(&["store", "export", "--store", &copy])? == text, "{text}");
    ensure!(
        tell(&["store", "info", "--store", &copy])?
            .starts_with(&format!("1 series, {samples} samples from "))
    );
    ensure!(tell(&["store", "verify", "--store", &copy])?.ends_with(" parts are whole\n"));

    let agent = start(&scratch)?;
    wait_for(&agent, "up")?;
    let before = number(agent.at, &format!("count_over_time(up[1m] @ {killed:.3})"))?;
    ensure!(before >= 7.0, "{before} samples from before the kill");
    let dropped = number(agent.at, "sum(geophone_store_dropped_total)")?;
    let missed = number(agent.at, "sum(geophone_store_missed_ticks_total)")?;
    ensure!(
        dropped == 0.0 && missed <= 2.0,
        "dropped {dropped}, missed {missed}"
    );
    Ok(())
}

/// What a command that ends well says.
fn tell(arguments: &[&str]) -> Result<String> {
    output(clean(binary()).args(arguments))
}

/// Cause: nothing is to be remembered. Seen: one line that says what to set, and everything else works.
#[test]
fn without_a_memory_a_query_says_what_to_set() -> Result<()> {
    need_root!();
    let agent = Setup::new().arg("--store").arg("none").start()?;
    let answer = agent.get("/api/v1/query?query=up", "*/*")?;
    ensure!(
        answer.status == 503 && answer.text().contains("store.kind"),
        "{}",
        answer.text()
    );
    let failed = geophone(&["query", "up", "--listen", &agent.at.to_string()])?;
    says(&one_line(&failed)?, &["store.kind"])?;
    ensure!(agent.get("/metrics", "*/*")?.status == 200);
    Ok(())
}
