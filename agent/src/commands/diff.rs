//! `geophone diff`.

use super::profile::{seconds, stacks};
use super::remote::Remote;
use super::terminal_width;
use crate::cli;
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::stacks::diff::{self, Side};
use crate::stacks::query::{Window, moment};
use crate::stacks::{Format, now};
use agent_common::profile::sample;
use std::path::Path;

/// Shows what changed between two profiles, each a file or a window of the running agent.
pub async fn diff(config: &Config, options: &cli::Diff) -> Result<()> {
    let format = options.output.as_deref().and_then(Format::of);
    let kind = options.kind.number();
    // Both windows are by the same clock.
    let now = now();
    let (before, after) = (window(&options.before, now)?, window(&options.after, now)?);
    if before.or(after).is_none() && (options.whose.any() || kind != sample::CPU) {
        return Err(Error::usage(
            "flags such as --pid and --off-cpu choose from an agent's stacks; files have all of theirs",
        ));
    }
    let mut remote = None;
    let mut sides = Vec::with_capacity(2);
    for (what, window) in [(&options.before, before), (&options.after, after)] {
        sides.push(match window {
            None => read(what)?,
            Some(Window { from, to }) => {
                let kind = sample::NAMES.get(usize::from(kind)).copied().unwrap_or_default();
                let times = [
                    ("from", seconds(from)),
                    ("to", seconds(to)),
                    ("type", kind.to_owned()),
                ];
                if remote.is_none() {
                    let found = Remote::find(config).await?;
                    remote =
                        Some(found.context(format_args!("{what}: no agent answers here; see --listen"))?);
                }
                let answer = match &remote {
                    Some(remote) => stacks(remote, &times, &options.whose, Format::Pprof).await?,
                    None => None,
                };
                let answer = answer.ok_or_else(|| {
                    Error::new(format_args!(
                        "{what}: the agent takes no stacks; set probes.profile.enabled"
                    ))
                })?;
                Side::pprof(what, &answer)?
            }
        });
    }
    let Ok(sides) = <[Side; 2]>::try_from(sides) else {
        return Err(Error::new("two profiles are needed"));
    };
    let text = match format {
        None => return super::say(diff::table(&diff::summary(&sides), terminal_width()).trim_end()),
        Some(Format::Svg) => diff::svg(&sides)?,
        Some(Format::Folded) => diff::folded(&sides),
        Some(_) => serde_json::to_string(&diff::summary(&sides)).context("JSON")?,
    };
    match &options.output {
        Some(file) => std::fs::write(file, text).context(file.display()),
        None => Ok(()),
    }
}

/// `FROM..TO`, unless a file has that name.
fn window(what: &str, now: u64) -> Result<Option<Window>> {
    let Some((from, to)) = what
        .split_once("..")
        .filter(|_| !what.contains('/') && !Path::new(what).exists())
    else {
        return Ok(None);
    };
    let time = |text| moment(text, now).map_err(|e| Error::usage(format_args!("{what}: {e}")));
    let (from, to) = (time(from)?, time(to)?);
    if to <= from {
        return Err(Error::usage(format_args!(
            "{what}: the end is not after the beginning"
        )));
    }
    Ok(Some(Window { from, to }))
}

fn read(name: &str) -> Result<Side> {
    let path = Path::new(name);
    let bytes = || std::fs::read(path).context(name);
    match Format::of(path) {
        Some(Format::Folded) => {
            let text = String::from_utf8(bytes()?).map_err(|e| Error::new(format_args!("{name}: {e}")))?;
            Side::folded(name, &text)
        }
        Some(Format::Pprof) => Side::pprof(name, &bytes()?),
        _ => Err(Error::usage(format_args!(
            "{name}: neither a file .folded or .pb.gz nor a window such as 10m..5m"
        ))),
    }
}
