//! `geophone profile`.

use super::over;
use super::remote::Remote;
use crate::app::{self, Running};
use crate::cli;
use crate::config::{Config, TunnelUse};
use crate::error::{Context as _, Error, Result};
use crate::stacks::query::{Query, Window, moment};
use crate::stacks::render::{Summary, table};
use crate::stacks::store::SECOND;
use crate::stacks::{Format, now};
use agent_common::profile::sample;
use reqwest::{Method, StatusCode};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Stacks per second and CPU of an own collector, unless told otherwise.
const HZ: u32 = 99;

/// Samples of the last moment may still be on their way.
const SETTLE: Duration = Duration::from_millis(300);

/// Longest time for tables at the start.
const WARM_UP: Duration = Duration::from_secs(5);

/// Shows where the time went: as the running agent knows it, else as an own collector sees it.
pub async fn profile(config: &Config, btf: Option<PathBuf>, options: &cli::Profile) -> Result<()> {
    // The command line was refused if the file's name says nothing.
    let format = options
        .output
        .as_deref()
        .and_then(Format::of)
        .unwrap_or(Format::Json);
    let window = options.window(now())?;
    let own = options.own || options.hz.is_some() || options.waker;
    let asked = match Remote::find_unless(own, config).await? {
        Some(agent) => ask(&agent, options, window, format).await?,
        None => None,
    };
    let answer = match asked {
        Some(answer) => answer,
        None if window.is_some() => {
            return Err(Error::new(
                "--last and --from ask a running agent, and none that takes such stacks answers here; see probes.profile and --listen",
            ));
        }
        None => take(config, btf, options, format).await?,
    };
    match &options.output {
        Some(file) => std::fs::write(file, answer).context(file.display()),
        None => {
            let summary: Summary = serde_json::from_slice(&answer).context("the answer")?;
            super::say(table(&summary, super::terminal_width()).trim_end())
        }
    }
}

impl cli::Profile {
    /// The window of the past that is asked for, if one is.
    fn window(&self, now: u64) -> Result<Option<Window>> {
        let named =
            |flag: &str, text: &str| moment(text, now).map_err(|e| Error::usage(format_args!("{flag} {e}")));
        if let Some(last) = self.last {
            let from = now.saturating_sub(last.as_nanos() as u64);
            return Ok(Some(Window { from, to: now }));
        }
        let Some(begin) = &self.from else { return Ok(None) };
        let from = named("--from", begin)?;
        let to = self.to.as_ref().map_or(Ok(now), |end| named("--to", end))?;
        if to <= from {
            let end = self.to.as_deref().unwrap_or("now");
            return Err(Error::usage(format_args!(
                "--from {begin}: is not before the end, {end}"
            )));
        }
        Ok(Some(Window { from, to }))
    }
}

/// Asks the running agent. `None` = it takes no stacks.
async fn ask(
    agent: &Remote,
    options: &cli::Profile,
    window: Option<Window>,
    format: Format,
) -> Result<Option<Vec<u8>>> {
    // Whether it takes any, and whether it understands the question, is known before anybody waits.
    let times = |from: u64, to: u64| [("from", seconds(from)), ("to", seconds(to))];
    let kind = sample::NAMES.get(usize::from(options.kind.number())).copied();
    let of_kind = |times: &[(&'static str, String)]| {
        let kind = ("type", kind.unwrap_or_default().to_owned());
        times.iter().cloned().chain([kind]).collect::<Vec<_>>()
    };
    let Window { from, to } = match window {
        Some(window) => window,
        None => {
            let begin = now();
            let question = of_kind(&times(begin - SECOND, begin));
            let asked = stacks(agent, &question, &options.whose, Format::Json).await?;
            if asked.is_none() {
                return Ok(None);
            }
            // From the next whole second on: stacks of the last minute are kept by the second.
            let from = now().next_multiple_of(SECOND);
            let to = from + options.duration.as_nanos() as u64;
            over(Some(Duration::from_nanos(to.saturating_sub(now())) + SETTLE)).await?;
            // Who interrupts wants what there is.
            let to = to.min(now().max(from + SECOND));
            Window { from, to }
        }
    };
    stacks(agent, &of_kind(&times(from, to)), &options.whose, format).await
}

/// A time as the API takes it.
pub(super) fn seconds(time: u64) -> String {
    format!("{}.{:09}", time / SECOND, time % SECOND)
}

/// What an agent has seen. `None` = it takes no stacks.
pub(super) async fn stacks(
    agent: &Remote,
    times: &[(&str, String)],
    whose: &cli::Whose,
    format: Format,
) -> Result<Option<Vec<u8>>> {
    let mut url = agent.url("/api/v1/profile")?;
    let words = [
        ("pid", whose.pid.map(|pid| pid.to_string())),
        ("comm", whose.comm.clone()),
        ("subject", whose.subject.clone()),
        ("cgroup", whose.cgroup.clone()),
    ];
    let format = serde_json::to_value(format).context("JSON")?;
    url.query_pairs_mut()
        .extend_pairs(times)
        .extend_pairs(words.into_iter().filter_map(|(key, value)| Some((key, value?))))
        .append_pair("format", format.as_str().unwrap_or_default());
    let answer = agent.send(agent.request(Method::GET, url)).await?;
    if answer.status() == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    let body = agent.told(answer).await?.bytes().await;
    Ok(Some(body.context(&agent.base)?.to_vec()))
}

/// Takes stacks by a collector of its own.
async fn take(
    config: &Config,
    btf: Option<PathBuf>,
    options: &cli::Profile,
    format: Format,
) -> Result<Vec<u8>> {
    let cgroup = options.whose.cgroup.as_ref().map(|path| path.parse()).transpose();
    let cgroup = cgroup.map_err(|e: String| Error::new(format_args!("--cgroup: {e}")))?;
    let mut config = config.clone();
    let probes = &mut config.probes;
    probes.profile.enabled = true;
    let kind = options.kind.number();
    probes.profile.hz = if kind == sample::CPU {
        options.hz.unwrap_or(HZ)
    } else {
        0
    };
    let of_kind = match kind {
        sample::OFF_CPU => Some(&mut probes.profile.off_cpu),
        sample::LOCK => Some(&mut probes.profile.locks),
        sample::FAULT => Some(&mut probes.profile.faults),
        sample::BLOCK_IO => Some(&mut probes.profile.block_io),
        sample::DROP => Some(&mut probes.profile.drops),
        sample::RETRANSMIT => Some(&mut probes.profile.retransmits),
        _ => None,
    };
    if let Some(taken) = of_kind {
        *taken = true;
    }
    probes.profile.off_cpu_waker = options.waker;
    // Probe tcp knows whose sockets are whose.
    probes.tcp.enabled &= matches!(kind, sample::DROP | sample::RETRANSMIT);
    for enabled in [
        &mut probes.drops.enabled,
        &mut probes.dns.enabled,
        &mut probes.udp.enabled,
        &mut probes.netdev.enabled,
        &mut probes.node.enabled,
        &mut probes.cgroup.enabled,
        &mut probes.block.enabled,
        &mut probes.sched.enabled,
        &mut probes.path.enabled,
    ] {
        *enabled = false;
    }
    probes.tunnel.enabled = TunnelUse::Off;
    // For seconds, and somebody waits for them.
    config.budget.enabled = false;
    let mut running = Running::start(app::collector(&config, btf)?, Vec::new())?;
    let _ = running.snapshots.wait_for(|s| s.tick > 0).await;
    super::explain(&running);
    let stacks = running
        .stacks
        .clone()
        .ok_or_else(|| Error::new("no stacks can be taken here; geophone check says why"))?;
    // At first nobody has looked at any process. What is shown begins when those that run are known.
    let start = Instant::now();
    while stacks.waiting() > 0 && start.elapsed() < WARM_UP {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let begin = now();
    stacks.store().clear(begin);
    over(Some(options.duration)).await?;
    running.stop();
    let query = Query {
        from: begin,
        subject: options.whose.subject.clone(),
        process: options.whose.comm.clone(),
        pid: options.whose.pid,
        cgroup,
        sample: kind,
        ..Query::default()
    };
    stacks.answer(&query, format)
}
