//! `geophone profile`.

use super::{over, running_agent, token};
use crate::app::{self, Running};
use crate::cli;
use crate::config::{Config, TunnelUse};
use crate::error::{Context as _, Error, Result};
use crate::stacks::Format;
use crate::stacks::render::{Summary, table};
use crate::stacks::store::Query;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Stacks per second and CPU of an own collector, unless told otherwise.
const HZ: u32 = 99;

/// Longest time for tables at the start.
const WARM_UP: Duration = Duration::from_secs(5);

/// Shows where the time went: as the running agent knows it, else as an own collector sees it.
pub async fn profile(config: &Config, btf: Option<PathBuf>, options: &cli::Profile) -> Result<()> {
    let format = match &options.output {
        None => Format::Json,
        Some(file) => Format::of(file).ok_or_else(|| {
            Error::new(format_args!(
                "{}: its name ends in none of .pb.gz .folded .svg .json",
                file.display()
            ))
        })?,
    };
    let own = options.own || options.hz.is_some();
    let base = if own { None } else { running_agent(config).await };
    let asked = match &base {
        Some(base) => ask(config, base, options, format).await?,
        None => None,
    };
    let answer = match asked {
        Some(answer) => answer,
        None if options.last.is_some() => {
            return Err(Error::new(
                "--last asks a running agent, and none with probes.profile.enabled answers here; see --listen",
            ));
        }
        None => take(config, btf, options, format).await?,
    };
    match &options.output {
        Some(file) => std::fs::write(file, answer).context(file.display()),
        None => {
            let summary: Summary = serde_json::from_slice(&answer).context("the answer")?;
            super::say(table(&summary).trim_end())
        }
    }
}

fn seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}

/// Asks the running agent. `None` = it takes no stacks.
async fn ask(config: &Config, base: &str, options: &cli::Profile, format: Format) -> Result<Option<Vec<u8>>> {
    let client = reqwest::Client::new();
    let token = token(config)?;
    let get = async |query: &[(&str, String)]| {
        let mut url = reqwest::Url::parse(&format!("{base}/api/v1/profile")).context(base)?;
        url.query_pairs_mut().extend_pairs(query);
        let mut request = client.get(url);
        if let Some(token) = &token {
            request = request.bearer_auth(token);
        }
        request.send().await.context(base)
    };
    let now = seconds();
    // Whether it takes any is known before anybody waits.
    if get(&[("from", now.to_string()), ("format", "json".into())])
        .await?
        .status()
        == reqwest::StatusCode::NOT_FOUND
    {
        return Ok(None);
    }
    let from = match options.last {
        Some(last) => now - last.as_secs_f64(),
        None => {
            over(Some(options.duration)).await?;
            now
        }
    };
    let format = serde_json::to_value(format).context("JSON")?;
    let mut query = vec![
        ("from", from.to_string()),
        ("format", format.as_str().unwrap_or_default().to_owned()),
    ];
    let words = [
        ("pid", options.pid.map(|pid| pid.to_string())),
        ("comm", options.comm.clone()),
        ("subject", options.subject.clone()),
    ];
    query.extend(words.into_iter().filter_map(|(key, value)| Some((key, value?))));
    let answer = get(&query).await?.error_for_status().context(base)?;
    Ok(Some(answer.bytes().await.context(base)?.to_vec()))
}

/// Takes stacks by a collector of its own.
async fn take(
    config: &Config,
    btf: Option<PathBuf>,
    options: &cli::Profile,
    format: Format,
) -> Result<Vec<u8>> {
    let mut config = config.clone();
    let probes = &mut config.probes;
    probes.profile.enabled = true;
    probes.profile.hz = options.hz.unwrap_or(HZ);
    for enabled in [
        &mut probes.tcp.enabled,
        &mut probes.drops.enabled,
        &mut probes.dns.enabled,
        &mut probes.udp.enabled,
        &mut probes.netdev.enabled,
        &mut probes.block.enabled,
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
    stacks.store().clear();
    over(Some(options.duration)).await?;
    running.stop();
    let query = Query {
        subject: options.subject.clone(),
        process: options.comm.clone(),
        pid: options.pid,
        ..Query::default()
    };
    stacks.answer(&query, format)
}
