//! The commands that run an agent or talk to one.

mod alerts;
mod anomalies;
mod bench;
mod bench_packets;
mod bench_replay;
mod capacity;
mod cardinality;
mod dashboards;
mod diff;
mod health;
mod profile;
mod query;
mod record;
mod remote;
#[cfg(test)]
mod remote_tests;
mod replay;
mod rules;
mod score;
mod scores;
mod slo;
mod store;
mod topology;

pub use alerts::alerts;
pub use anomalies::anomalies;
pub use bench::{bench_encode, bench_ring, test_corpus};
pub use bench_packets::bench_packets;
pub use bench_replay::bench_replay;
pub use capacity::{capacity, capacity_of_file};
pub use cardinality::cardinality;
pub use dashboards::dashboards;
pub use diff::diff;
pub use health::health;
pub use profile::profile;
pub use query::query;
pub use record::record;
pub use replay::replay;
pub use rules::rules;
pub use score::score;
pub use slo::slo;
pub use store::store;
pub use topology::topology;

use crate::aggregate::Snapshot;
use crate::api::json::SnapshotView;
use crate::app::{self, Agent, Running};
use crate::cli;
use crate::config::{Config, Log, LogFormat};
use crate::error::{Context as _, Error, Result};
use crate::export::prometheus;
use crate::manager;
use crate::records::Record;
use crate::ui::{
    print, top,
    view::{View, ViewBuilder},
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use remote::Remote;
use std::future::pending;
use std::io::{IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Starts the log, on standard error. With a screen only errors are written, for they would be drawn over it; the screen
/// itself shows what the warnings are about.
pub fn log(settings: &Log, screen: bool) -> Result<()> {
    let level = if screen {
        "error".to_owned()
    } else {
        format!("{:?}", settings.level).to_lowercase()
    };
    let filter = EnvFilter::try_new(format!(
        "{level},h2=warn,hyper=warn,kube_client=off,kube_runtime=off,rustls=warn,rustls_platform_verifier=off,tonic=warn"
    ))
    .context("log.level")?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // By default a failure to write is told on standard error, with a panic if that fails as well.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    let result = if settings.format == LogFormat::Json {
        builder.json().try_init()
    } else {
        builder.try_init()
    };
    result.map_err(|e| Error::new(format_args!("log: {e}")))
}

/// SIGINT, SIGTERM or the end of the time.
async fn over(duration: Option<Duration>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let time = async {
        match duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => pending().await,
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = time => {}
    }
    Ok(())
}

/// Why there is no kernel side; empty = there is.
fn engine_error(running: &Running) -> String {
    running
        .shared
        .engine_error
        .read()
        .map(|e| e.clone())
        .unwrap_or_default()
}

/// As [`explain`], for commands that have nothing to say without programs.
fn explain_or_end(running: &Running) -> Result<()> {
    match engine_error(running) {
        error if error.is_empty() => {
            explain(running);
            Ok(())
        }
        error => Err(Error::new(error)),
    }
}

fn explain(running: &Running) {
    let error = engine_error(running);
    if !error.is_empty() {
        tracing::error!("{error}; the probes that have programs are off");
    }
    for v in running
        .verdicts()
        .iter()
        .filter(|v| v.required && v.state != crate::bpf::State::Attached)
    {
        tracing::warn!(
            "{} ({}): {}: {}; {}",
            v.program,
            v.hook,
            v.state.as_str(),
            v.reason,
            v.remedy
        );
    }
}

/// `geophone run`.
pub async fn run(mut agent: Agent, options: &cli::Run) -> Result<()> {
    // The verdicts are there as soon as the collector's thread has begun.
    let has_begun = agent.running.snapshots.wait_for(|s| s.tick > 0).await.is_ok();
    explain(&agent.running);
    // Else it ends in a moment, and says why.
    if has_begun {
        manager::ready();
    }
    let mut builder = ViewBuilder::new();
    let live = options.live && top::has_terminal();
    if live {
        let source =
            top::LocalSource::new(agent.running.snapshots.clone(), agent.running.records.subscribe())
                .with_stacks(agent.running.stacks.clone())
                .with_judges(agent.judges.clone())
                .with_verdicts(agent.running.screen_verdicts());
        let options = top::Options {
            duration: options.duration,
            ..top::Options::default()
        };
        top::run(source, options)
            .await
            .map_err(|e| Error::new(format_args!("{e:#}")))?;
    } else {
        let mut snapshots = agent.running.snapshots.clone();
        let end = over(options.duration);
        tokio::pin!(end);
        // A summary needs the rates of the last second, so the views are followed when there will be one.
        let follow = options.duration.is_some() || options.live;
        loop {
            tokio::select! {
                result = &mut end => {
                    result?;
                    break;
                }
                changed = snapshots.changed() => {
                    if changed.is_err() || !agent.running.alive() {
                        return Err(Error::new("the collector has ended by itself; its last words are in the log"));
                    }
                    let snapshot = snapshots.borrow_and_update().clone();
                    if follow {
                        builder.push(&snapshot);
                    }
                }
            }
        }
    }
    manager::stopping();
    let last = agent.stop().await;
    let mut told = Ok(());
    if options.duration.is_some() || options.live {
        told = say(print::summary(&builder.push(&last)).trim_end());
    }
    // Who reads the file need not be who reads the output.
    if let Some(file) = &options.summary_json {
        write_summary(&last, file)?;
    }
    told
}

fn write_summary(snapshot: &Snapshot, file: &PathBuf) -> Result<()> {
    let text = serde_json::to_string(&SnapshotView::from(snapshot)).context("JSON")?;
    std::fs::write(file, text).context(format_args!("--summary-json {}", file.display()))
}

/// `geophone top`.
pub async fn top(config: &Config, btf: Option<PathBuf>, duration: Option<Duration>, own: bool) -> Result<()> {
    if !top::has_terminal() {
        return Err(Error::usage(
            "top: standard input and output must be a terminal; geophone flows, drops or run --for 10s need none",
        ));
    }
    let options = top::Options {
        duration,
        ..top::Options::default()
    };
    let result = match Remote::find_unless(own, config).await? {
        Some(Remote { client, base, token }) => {
            top::run(top::RemoteSource::new(client, &base, token), options).await
        }
        None => {
            let mut running = Running::start(app::collector(config, btf)?, Vec::new())?;
            let _ = running.snapshots.wait_for(|s| s.tick > 0).await;
            let source = top::LocalSource::new(running.snapshots.clone(), running.records.subscribe())
                .with_stacks(running.stacks.clone())
                .with_verdicts(running.screen_verdicts());
            let result = top::run(source, options).await;
            running.stop();
            result
        }
    };
    result.map(drop).map_err(|e| Error::new(format_args!("{e:#}")))
}

/// `geophone tunnels`.
pub async fn tunnels(
    config: &Config,
    btf: Option<PathBuf>,
    options: &cli::Stream,
    pairs: bool,
) -> Result<()> {
    let remote = Remote::find_unless(options.own, config).await?;
    let duration = options.duration.unwrap_or(Duration::from_secs(2));
    let mut view = match remote {
        Some(remote) => {
            let ask = async || remote.json::<View>("/api/v1/view").await;
            // Rates are those between two views.
            ask().await?;
            tokio::time::sleep(duration.max(Duration::from_millis(1100))).await;
            ask().await?
        }
        None => {
            let mut running = Running::start(app::collector(config, btf)?, Vec::new())?;
            let mut snapshots = running.snapshots.clone();
            let mut builder = ViewBuilder::new();
            let end = over(Some(duration));
            tokio::pin!(end);
            let _ = snapshots.wait_for(|s| s.tick > 0).await;
            explain_or_end(&running)?;
            loop {
                tokio::select! {
                    result = &mut end => {
                        result?;
                        break;
                    }
                    changed = snapshots.changed() => {
                        changed.context("the collector has ended by itself")?;
                        builder.push(&snapshots.borrow_and_update());
                    }
                }
            }
            builder.push(&running.stop())
        }
    };
    top::clean_view(&mut view);
    if options.json {
        return say(&serde_json::to_string_pretty(&view.tunnels).context("JSON")?);
    }
    say(print::tunnels(&view.tunnels, pairs).trim_end())
}

/// `geophone flows`, `geophone drops` and `geophone tunnels --follow`.
pub async fn stream(config: &Config, btf: Option<PathBuf>, options: &cli::Stream, what: &str) -> Result<()> {
    let line = |record: &Record| -> Option<String> {
        let kind = match record {
            Record::Flow(_) => "flows",
            Record::Drop(_) => "drops",
            Record::Tunnel(_) => "tunnels",
        };
        if kind != what {
            None
        } else if options.json {
            serde_json::to_string(record).ok()
        } else {
            Some(print::line(record))
        }
    };
    let remote = Remote::find_unless(options.own, config).await?;
    if !options.json {
        say(&match what {
            "flows" => print::flow_header(),
            "drops" => print::drop_header(),
            _ => print::tunnel_header(),
        })?;
    }
    let end = async {
        tokio::select! {
            result = over(options.duration) => result,
            () = reader_gone() => Err(Error::closed()),
        }
    };
    tokio::pin!(end);
    let Some(remote) = remote else {
        let mut running = Running::start(app::collector(config, btf)?, Vec::new())?;
        let mut records = match what {
            "tunnels" => running.shared.changes.follow().1,
            _ => running.records.subscribe(),
        };
        let _ = running.snapshots.wait_for(|s| s.tick > 0).await;
        explain_or_end(&running)?;
        loop {
            tokio::select! {
                result = &mut end => {
                    running.stop();
                    return result;
                }
                record = records.recv() => match record {
                    Ok(record) => if let Some(line) = line(&record) { say(&line)? },
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(n)) => {
                        tracing::warn!("{n} records were too fast for this output; they are counted all the same");
                    }
                    Err(_) => return Ok(()),
                }
            }
        }
    };
    let mut answer = remote.get(&format!("/api/v1/{what}")).await?;
    let mut buffer = Vec::new();
    loop {
        tokio::select! {
            result = &mut end => return result,
            chunk = answer.chunk() => {
                let Some(chunk) = chunk.context(&remote.base)? else { return Ok(()) };
                buffer.extend_from_slice(&chunk);
                while let Some(at) = buffer.iter().position(|&b| b == b'\n') {
                    let text: Vec<u8> = buffer.drain(..=at).collect();
                    match serde_json::from_slice::<Record>(&text) {
                        Ok(record) => if let Some(line) = line(&record) { say(&line)? },
                        Err(_) => tracing::warn!("{}", String::from_utf8_lossy(&text).trim_end()),
                    }
                }
            }
        }
    }
}

/// Columns that a line may have: those of the terminal, any number elsewhere.
fn terminal_width() -> usize {
    let terminal = std::io::stdout().is_terminal();
    let size = terminal
        .then(crossterm::terminal::size)
        .and_then(|size| size.ok());
    size.map_or(usize::MAX, |(columns, _)| usize::from(columns).max(40))
}

/// Resolves when nobody reads the output any more: `geophone flows | head -1` ends even if nothing more happens.
async fn reader_gone() {
    let mut looks = tokio::time::interval(Duration::from_millis(500));
    loop {
        looks.tick().await;
        let output = std::io::stdout();
        let mut watched = [PollFd::new(output.as_fd(), PollFlags::empty())];
        let _ = poll(&mut watched, PollTimeout::ZERO);
        if watched
            .iter()
            .filter_map(PollFd::revents)
            .any(|told| told.contains(PollFlags::POLLERR))
        {
            return;
        }
    }
}

/// Prints a line; a reader that has gone is the end, not an error.
pub fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(Error::closed()),
        result => result.context("standard output"),
    }
}

/// A snapshot as a scrape gets it.
fn exposition(snapshot: &Snapshot) -> Vec<u8> {
    let mut out = Vec::new();
    prometheus::encode(snapshot, prometheus::Format::Text, &mut out);
    out
}
