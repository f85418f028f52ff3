//! `geophone store`: what a store on disk holds, whether it is whole, and samples in and out.

use super::query::time;
use super::say;
use crate::cli::{self, StoreCommand};
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::memory::{self, Memory};
use crate::score::slo;
use crate::ui::print::table;
use crate::ui::units::bytes;
use agent_store::promql;
use agent_store::series::Millis;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _, stdin, stdout};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// The longest that an export may take.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Does what was asked.
pub fn store(config: &Config, options: &cli::Store) -> Result<()> {
    let directory = options.directory.as_deref().unwrap_or(&config.store.directory);
    match &options.command {
        StoreCommand::Info => info(&Memory::read(directory, &config.store)?),
        StoreCommand::Verify => verify(&Memory::read(directory, &config.store)?),
        StoreCommand::Import { file } => import(config, directory, file),
        StoreCommand::Export { selector, from, to } => {
            export(config, directory, selector, from.as_deref(), to.as_deref())
        }
    }
}

/// As people read it, to the second.
pub(super) fn moment(time: Millis) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(time.unsigned_abs());
    humantime::format_rfc3339_seconds(time).to_string()
}

fn info(memory: &Memory) -> Result<()> {
    let info = memory.store().info();
    let Some((from, to)) = info.span else {
        return say("no samples");
    };
    let span = Duration::from_millis((to - from).unsigned_abs() / 1000 * 1000);
    let mut text = format!(
        "{} series, {} samples from {} to {} ({})\n",
        info.series,
        info.samples,
        moment(from),
        moment(to),
        humantime::format_duration(span)
    );
    if !info.blocks.is_empty() {
        let each = info.bytes_per_sample();
        text += &format!(
            "{} in blocks, {each:.2} bytes a sample\n\n",
            bytes(info.bytes as f64)
        );
        let rows: Vec<Vec<String>> = info
            .blocks
            .iter()
            .map(|block| {
                let step = match block.step {
                    0 => "as it came".to_owned(),
                    step => {
                        humantime::format_duration(Duration::from_millis(step.unsigned_abs())).to_string()
                    }
                };
                let numbers = [
                    block.series.to_string(),
                    block.samples.to_string(),
                    bytes(block.bytes as f64),
                ];
                [block.id.to_string(), moment(block.from), moment(block.to), step]
                    .into_iter()
                    .chain(numbers)
                    .collect()
            })
            .collect();
        text += &table(
            &[">BLOCK", "FROM", "TO", "STEP", ">SERIES", ">SAMPLES", ">SIZE"],
            &rows,
        );
    }
    say(text.trim_end())
}

fn verify(memory: &Memory) -> Result<()> {
    let verified = memory.store().verify();
    for finding in &verified.damaged {
        say(finding)?;
    }
    match verified.damaged.len() {
        0 => say(&format!("{} parts are whole", verified.parts)),
        damaged => Err(Error::new(format_args!(
            "{damaged} of {} parts are damaged; the rest is used",
            verified.parts
        ))),
    }
}

fn import(config: &Config, directory: &Path, file: &Path) -> Result<()> {
    let memory = Memory::write(directory, &config.store, slo::reach(config))?;
    let imported = if file.as_os_str() == "-" {
        memory.store().import(stdin().lock())
    } else {
        let opened = File::open(file).context(file.display())?;
        memory.store().import(BufReader::new(opened))
    };
    let imported = imported.context(file.display())?;
    for finding in &imported.findings {
        let _ = writeln!(std::io::stderr(), "geophone: {}: {finding}", file.display());
    }
    memory.store().maintain();
    let text = format!(
        "{} samples in, {} lines left out",
        imported.samples, imported.skipped
    );
    if imported.samples == 0 && imported.skipped > 0 {
        return Err(Error::new(format_args!("{}: {text}", file.display())));
    }
    say(&text)
}

fn export(
    config: &Config,
    directory: &Path,
    selector: &str,
    from: Option<&str>,
    to: Option<&str>,
) -> Result<()> {
    let now = memory::now();
    let from = time("--from", from, now)?.unwrap_or(0);
    let to = time("--to", to, now)?.unwrap_or(now);
    let matchers = promql::selector(selector).map_err(|e| Error::usage(format_args!("--match: {e}")))?;
    let memory = Memory::read(directory, &config.store)?;
    let mut out = BufWriter::new(stdout().lock());
    let written = memory
        .store()
        .export(&matchers, (from, to), &memory.limits(PATIENCE), &mut out);
    match written {
        Err(agent_store::series::Refusal::Failed(why)) if why.contains("Broken pipe") => Err(Error::closed()),
        Err(why) => Err(Error::new(promql::Error::from(why))),
        Ok(_) => out.flush().context("standard output"),
    }
}
