//! `geophone query`: PromQL, asked of the running agent or of a store.

use super::remote::Remote;
use super::{say, terminal_width};
use crate::cli::{self, AnswerFormat};
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::memory::{self, Memory};
use crate::stacks::query::moment;
use crate::ui::print::Reply;
use agent_store::promql::{self, Options, json};
use agent_store::series::Millis;
use reqwest::Method;
use std::io::Write as _;

/// Steps of a range that says none: as many as a wide terminal has columns.
const STEPS: Millis = 120;

/// The times of a question.
struct When {
    /// The end, or the only time.
    to: Millis,
    /// Start and step, if it is a range.
    range: Option<(Millis, Millis)>,
}

impl When {
    fn new(options: &cli::Query) -> Result<Self> {
        let now = memory::now();
        let to = time("--at", options.at.as_deref(), now)?.unwrap_or(now);
        let Some(range) = options.range else {
            return Ok(Self { to, range: None });
        };
        let range = range.as_millis() as Millis;
        let step = match options.step {
            Some(step) => step.as_millis() as Millis,
            // Whole seconds, because there is a sample a second.
            None => (range / STEPS / 1000).max(1) * 1000,
        };
        Ok(Self {
            to,
            range: Some((to - range, step)),
        })
    }
}

/// The time that a flag gives, if it does.
pub(super) fn time(flag: &str, text: Option<&str>, now: Millis) -> Result<Option<Millis>> {
    let now = now.unsigned_abs() * 1_000_000;
    let nanos = text.map(|text| moment(text, now)).transpose();
    let nanos = nanos.map_err(|e| Error::usage(format_args!("{flag} {e}")))?;
    Ok(nanos.map(|nanos| (nanos / 1_000_000) as Millis))
}

/// Answers a query.
pub async fn query(config: &Config, options: &cli::Query) -> Result<()> {
    let when = When::new(options)?;
    let answer = match &options.directory {
        Some(directory) => evaluate(&Memory::read(directory, &config.store)?, &options.query, &when)?,
        None => ask(config, &options.query, &when).await?,
    };
    let reply = Reply::read(answer.as_bytes())?;
    if options.format == AnswerFormat::Json {
        return say(&answer);
    }
    // Nobody may be left to read it.
    for remark in &reply.warnings {
        let _ = writeln!(std::io::stderr(), "geophone: {remark}");
    }
    let text = match options.format {
        AnswerFormat::Csv => reply.csv(),
        AnswerFormat::Chart => reply.chart(u16::try_from(terminal_width()).unwrap_or(100))?,
        _ => reply.table(),
    };
    say(text.trim_end())
}

/// The running agent's answer to a query about now, as JSON.
pub(super) async fn now(config: &Config, query: &str) -> Result<String> {
    at(config, query, memory::now()).await
}

/// The same about another time.
pub(super) async fn at(config: &Config, query: &str, to: Millis) -> Result<String> {
    ask(config, query, &When { to, range: None }).await
}

fn evaluate(memory: &Memory, query: &str, when: &When) -> Result<String> {
    let limits = memory.limits(memory.timeout());
    let options = Options::default();
    let answer = match when.range {
        None => promql::instant(query, when.to, &options, memory.store(), &limits),
        Some((from, step)) => promql::range(query, from, when.to, step, &options, memory.store(), &limits),
    };
    answer.map(|answer| json::answer(&answer)).map_err(Error::new)
}

async fn ask(config: &Config, query: &str, when: &When) -> Result<String> {
    let Some(remote) = Remote::find(config).await? else {
        return Err(Error::new(
            "no agent answers; start one, say where with --listen, or read a store with --store DIR",
        ));
    };
    let seconds = |ms: Millis| format!("{:.3}", ms as f64 / 1000.0);
    let (path, times) = match when.range {
        None => ("query", vec![("time", seconds(when.to))]),
        Some((from, step)) => (
            "query_range",
            vec![
                ("start", seconds(from)),
                ("end", seconds(when.to)),
                ("step", seconds(step)),
            ],
        ),
    };
    let mut url = remote.url(&format!("/api/v1/{path}"))?;
    url.query_pairs_mut()
        .append_pair("query", query)
        .extend_pairs(times);
    // The answer to a wrong query is one as well, and says what is wrong.
    let answer = remote.send(remote.request(Method::GET, url)).await?;
    answer.text().await.context(&remote.base)
}
