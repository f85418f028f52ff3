//! `geophone diff`.

use super::profile::{Remote, seconds};
use super::{running_agent, terminal_width};
use crate::cli;
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::stacks::diff::{self, Side};
use crate::stacks::query::moment;
use crate::stacks::{Format, now};
use agent_common::profile::sample;
use std::path::Path;

/// Shows what changed between two profiles, each a file or a window of the running agent.
pub async fn diff(config: &Config, options: &cli::Diff) -> Result<()> {
    let format = match &options.output {
        None => None,
        Some(file) => match Format::of(file) {
            Some(format @ (Format::Svg | Format::Folded | Format::Json)) => Some(format),
            _ => {
                return Err(Error::new(format_args!(
                    "{}: its name ends in none of .svg .folded .json",
                    file.display()
                )));
            }
        },
    };
    let kind = sample::NAMES.get(usize::from(options.kind.number())).copied();
    // Both windows are by the same clock.
    let now = now();
    let mut remote = None;
    let mut sides = Vec::with_capacity(2);
    for what in [&options.before, &options.after] {
        let window = what.split_once("..").filter(|_| !Path::new(what).exists());
        sides.push(match window {
            None => read(what)?,
            Some((from, to)) => {
                let time = |text| moment(text, now).map_err(|e| Error::new(format_args!("{what}: {e}")));
                let times = [
                    ("from", seconds(time(from)?)),
                    ("to", seconds(time(to)?)),
                    ("type", kind.unwrap_or_default().to_owned()),
                ];
                if remote.is_none() {
                    let base = running_agent(config).await.ok_or_else(|| {
                        Error::new(format_args!("{what}: no agent answers here; see --listen"))
                    })?;
                    remote = Some(Remote::new(config, &base)?);
                }
                let answer = match &remote {
                    Some(remote) => remote.get(&times, &options.whose, Format::Pprof).await?,
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
    if remote.is_none() && options.whose.any() {
        return Err(Error::new(
            "--pid, --comm, --subject and --cgroup choose from an agent's stacks; files have all of theirs",
        ));
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

fn read(name: &str) -> Result<Side> {
    let path = Path::new(name);
    let bytes = || std::fs::read(path).context(name);
    match Format::of(path) {
        Some(Format::Folded) => {
            let text = String::from_utf8(bytes()?).map_err(|e| Error::new(format_args!("{name}: {e}")))?;
            Side::folded(name, &text)
        }
        Some(Format::Pprof) => Side::pprof(name, &bytes()?),
        _ => Err(Error::new(format_args!(
            "{name}: neither a file .folded or .pb.gz nor a window such as 10m..5m"
        ))),
    }
}
