//! The command line.

mod alerts;
mod dashboards;
mod memory;
mod profile;
mod record;
mod rules;
mod score;
mod slo;

pub use alerts::{Alerts, AlertsCommand, SilenceAdd, SilenceCommand};
pub use dashboards::Dashboards;
pub use memory::{AnswerFormat, Query, Store, StoreCommand};
pub use profile::{Diff, Profile, SampleKind, Whose};
pub use record::{Record, Replay};
pub use rules::{Rules, RulesCommand, RulesTest};
pub use score::{Capacity, Score};
pub use slo::{Slo, SloCommand, SloFormat, SloJudge, SloSpan};

use crate::config::{Given, HumanDuration};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use profile::{instant, profile_file};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Heading of what every command understands.
const EVERYWHERE: &str = "Options of every command";
/// Longest time that may be asked for.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// Hears what moves in the kernel: latency and loss of every connection of this machine.
#[derive(Debug, Parser)]
#[command(
    name = "geophone",
    version,
    about,
    after_help = "Exit status: 0, or 1 if the work failed, or 2 if a flag, a variable or a setting was wrong.",
    arg_required_else_help = true,
    propagate_version = true
)]
pub struct Cli {
    /// Settings that every command understands.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Settings that every command understands.
#[derive(Clone, Debug, Default, Args)]
pub struct Common {
    /// Configuration file (YAML). Without it the defaults hold
    #[arg(long, short, global = true, help_heading = EVERYWHERE, value_name = "FILE", env = "GEOPHONE_CONFIG", value_parser = any_path())]
    pub config: Option<PathBuf>,
    /// Sets one key of the configuration, e.g. --set probes.tcp.flows=false; may be repeated
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<Given>,
    /// Kernel types (BTF) to use instead of /sys/kernel/btf/vmlinux
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE", env = "GEOPHONE_BTF", value_parser = any_path())]
    pub btf: Option<PathBuf>,
    /// Address of the API: where `run` listens, and where the other commands look for a running agent
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// What the log says: error, warn, info, debug or trace
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "LEVEL")]
    pub log: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent in the foreground
    Run(Run),
    /// Live view: of the running agent if there is one, else of one of its own
    Top {
        /// End by itself after this time
        #[arg(long = "for", value_name = "TIME", value_parser = time)]
        duration: Option<Duration>,
        /// Do not look for a running agent
        #[arg(long)]
        own: bool,
    },
    /// Say what works on this machine, and what would help where it does not
    Check {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// With the verifier's log of refused programs
        #[arg(long, short)]
        verbose: bool,
        /// Instead: how many series the running agent has, and how many of them each label costs
        #[arg(long, conflicts_with = "verbose")]
        cardinality: bool,
    },
    /// Connections as they end, and long ones every ten seconds
    Flows(Stream),
    /// Dropped packets as they are dropped
    Drops(Stream),
    /// Tunnels: what passes through them, what is lost below them, and whether they are alive
    Tunnels {
        /// Instead of the table, each change of a tunnel's state: the latest 256 first, then those that come
        #[arg(long)]
        follow: bool,
        /// Below the table, who talks inside of each tunnel, the busiest first; JSON has it in any case
        #[arg(long, conflicts_with = "follow")]
        pairs: bool,
        /// As JSON; with --follow, one object a line
        #[arg(long)]
        json: bool,
        /// Watch so long before the answer, 2s if not given; with --follow, end by itself after this time
        #[arg(long = "for", value_name = "TIME", value_parser = time)]
        duration: Option<Duration>,
        /// Do not look for a running agent
        #[arg(long)]
        own: bool,
    },
    /// Who talks to whom and how well: subjects, peers and regions as a graph, and the matrix of the regions
    Topology(Topology),
    /// Where the time goes: the functions and stacks that are on the processors
    Profile(Profile),
    /// What changed from one profile to another: functions that gained or lost share
    Diff(Diff),
    /// Ask in PromQL what the agent remembers
    Query(Query),
    /// A store on disk: what it holds, whether it is whole, samples in and out
    Store(Store),
    /// Health of subjects, peers, zones, regions and the node, 0 to 100; of one, what costs it points
    Health(Health),
    /// Dashboards for Grafana, made from the metrics: listed, written to files, or pushed to a Grafana
    Dashboards(Dashboards),
    /// Service level objectives: what is left of their error budgets, and how fast these burn
    Slo(Slo),
    /// Rule files of Prometheus: what is wrong with them, what is in them, what would have fired
    Rules(Rules),
    /// Alerts of the running agent that are pending or fire; silences, incidents, and a test of receivers
    Alerts(Alerts),
    /// What is not as it usually is: series that the agent watches, what was expected of them, and what else had changed
    Anomalies {
        /// All watched series: what they are, and what is expected of them
        #[arg(long)]
        all: bool,
        /// What is watched, as the setting `anomaly.watch` has it; asks no agent
        #[arg(long, conflicts_with_all = ["all", "json"])]
        watches: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Which values of a series are anomalies: reads timestamp,value and says so line by line
    Score(Score),
    /// What runs out, and when: use, trend and 30, 60 and 90 days on of all that can; of any series with --csv
    Capacity(Capacity),
    /// Write down all that the kernel tells, to be replayed elsewhere and later
    Record(Record),
    /// Say what a recording says: the same code, without a kernel and without rights
    Replay(Replay),
    /// The configuration
    Config {
        /// What of it
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print completions for a shell, e.g. `source <(geophone completions bash)`
    Completions {
        /// Which
        shell: clap_complete::Shell,
    },
    /// Reference documentation as Markdown
    #[command(hide = true)]
    Docs {
        /// metrics, config or seccomp
        what: Docs,
    },
    /// Reads symbols for the agent: questions on standard input, answers on standard output
    #[command(hide = true)]
    Symbolize,
    /// The exposition benchmark: encodes a snapshot of many series in every format and says how fast
    #[command(hide = true)]
    BenchEncode {
        /// Counters in the snapshot
        #[arg(long, default_value_t = 10_000)]
        series: u32,
    },
    /// The proof of the tunnel parser: runs crafted packets through the loaded programs and compares what they count
    #[command(hide = true)]
    TestCorpus,
    /// The ring benchmark: pushes synthetic records through the ring and says how fast
    #[command(hide = true)]
    BenchRing {
        /// Records in all
        #[arg(long, default_value_t = 5_000_000)]
        records: u64,
    },
    /// The replay benchmark: records in memory, replayed as fast as it goes
    #[command(hide = true)]
    BenchReplay {
        /// Seconds of the recording, of a hundred thousand records each
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        /// Turns, of which the best counts
        #[arg(long, default_value_t = 5)]
        rounds: u32,
    },
    /// The packet benchmark: sends packets of every kind through the programs that look at packets
    #[command(hide = true)]
    BenchPackets {
        /// Turns, of which the best counts
        #[arg(long, default_value_t = 50)]
        rounds: u32,
    },
}

/// `geophone health`.
#[derive(Debug, Args)]
pub struct Health {
    /// A name, such as nginx.service, or all of a kind: peer; where several have it, peer/NAME
    pub name: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The rules by which it is computed, for the Prometheus of a fleet
    #[arg(long, conflicts_with_all = ["name", "json"])]
    pub rules: bool,
}

/// `geophone run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Show the live view; where the output is no terminal, a summary at the end
    #[arg(long)]
    pub live: bool,
    /// End by itself after this time, with a summary
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    pub duration: Option<Duration>,
    /// Where to remember the series: auto, none, memory, or a directory [default: what the configuration says]
    #[arg(long, value_name = "WHERE")]
    pub store: Option<String>,
    /// Write the last snapshot to this file as JSON
    #[arg(long, value_name = "FILE", value_parser = writable)]
    pub summary_json: Option<PathBuf>,
}

/// `geophone flows`, `drops` and `tunnels`.
#[derive(Debug, Args)]
pub struct Stream {
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
    /// End by itself after this time
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    pub duration: Option<Duration>,
    /// Do not look for a running agent
    #[arg(long)]
    pub own: bool,
}

/// `geophone topology`.
#[derive(Debug, Args)]
pub struct Topology {
    /// How it is written
    #[arg(long, value_enum, default_value_t = TopologyFormat::Table)]
    pub format: TopologyFormat,
    /// Without a running agent: how long to look before answering
    #[arg(long = "for", value_name = "TIME", value_parser = time, default_value = "5s")]
    pub duration: Duration,
    /// Do not look for a running agent
    #[arg(long)]
    pub own: bool,
}

/// How a topology is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TopologyFormat {
    /// Tables of the edges and of the regions.
    Table,
    /// One JSON object, as the API has it.
    Json,
    /// For Graphviz.
    Dot,
    /// For Mermaid, e.g. in Markdown.
    Mermaid,
}

/// `geophone config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the defaults, with what each key means
    Default,
    /// Print the JSON schema
    Schema,
    /// Check a file; exit status 1 if it cannot be used
    Validate {
        /// The file
        file: PathBuf,
    },
}

/// `geophone docs`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Docs {
    /// Every metric.
    Metrics,
    /// Every setting.
    Config,
    /// The system calls, as a profile for containers.
    Seccomp,
}

/// An empty one too: a variable that is set to nothing is as good as none.
fn any_path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn key_value(text: &str) -> Result<Given, String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| Given::set(key, value))
        .ok_or_else(|| "expected KEY=VALUE, e.g. probes.tcp.flows=false".to_owned())
}

/// How long something takes: more than nothing, and not so long that the end of it cannot be said.
fn time(text: &str) -> Result<Duration, String> {
    let time = text.parse::<HumanDuration>()?.get();
    if time.is_zero() || time > LONGEST {
        return Err("out of range, 1ms to 1year".to_owned());
    }
    Ok(time)
}

/// A file that can be written, as far as can be said beforehand: it is written when all is done, after minutes perhaps.
fn writable(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_dir() {
        return Err("is a directory; name a file in it".to_owned());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        return Err(format!("there is no directory {}", parent.display()));
    }
    Ok(path)
}

/// What is wrong with a command line, in one line: clap's paragraphs, but for its summary of the usage.
pub fn complaint(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let paragraphs = text.trim().split("\n\n").map(|paragraph| {
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        words.join(" ").replace("tip: ", "")
    });
    let told = paragraphs.filter(|paragraph| !paragraph.starts_with("Usage:"));
    let line = told.collect::<Vec<_>>().join("; ");
    line.trim_start_matches("error: ")
        .replace("For more information, try '--help'.", "see --help")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
