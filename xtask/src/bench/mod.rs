//! `cargo xtask bench`: what geophone costs, and what that is compared with.
//!
//! Interleaved pairs in alternating order, a null control beside them, pairs rejected when the machine was disturbed.
//! The primary figures are the CPU time per operation of the observed workload, both ends, and the agent's own CPU time.

mod child;
mod columns;
mod load;
mod machine;
mod metrics;
mod packets;
mod pairs;
mod price;
mod proc;
mod replay;
mod report;
mod roles;
mod scale;
mod stacks;
mod stats;
mod store;
mod subject;
mod vxlan;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use crate::run::build_release;
use crate::setup::{Group, How, setup};
use crate::shell::{cargo, is_root, run, say};
use crate::toolchain::find;
use child::Scratch;
use load::{Kind, Load};
use pairs::Method;
use report::Results;
use subject::{Place, Subject};

/// Options of `cargo xtask bench`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    part: Option<Part>,
    /// Three short pairs instead of seven
    #[arg(long)]
    quick: bool,
    /// Only this; may be repeated
    #[arg(long = "workload", value_name = "NAME")]
    workloads: Vec<Name>,
    /// Undisturbed pairs of each comparison
    #[arg(long, value_name = "N")]
    pairs: Option<usize>,
    /// Write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Compare bpftrace and prometheus-node-exporter as well, of tunnels pmacctd and softflowd, of stacks perf
    #[arg(long)]
    peers: bool,
    /// Use this binary instead of building one
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    #[command(flatten)]
    how: How,
}

#[derive(Subcommand)]
enum Part {
    /// What the anomaly detectors find and cost, and what watching 2,000 series does; needs no root
    Anomaly {
        /// --seed N, --quick, --only DETECTOR, --peers PYTHON
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// What it costs to evaluate the shipped rules over 2,000 series; needs no root
    Rules,
    /// A part of the benchmark that is a process of its own
    #[command(hide = true)]
    Role {
        #[command(subcommand)]
        role: roles::Role,
    },
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// nginx and wrk, connections that stay open
    Keepalive,
    /// nginx and wrk, a connection for each request
    Close,
    /// TCP ping-pong on a machine that is idle otherwise
    PingIdle,
    /// TCP ping-pong on a machine whose CPUs are all busy
    PingBusy,
    /// iperf3
    Iperf,
    /// iperf3 through a VXLAN, with packets that are cut late and early
    Vxlan,
    /// The agent alone
    Idle,
    /// A hundred thousand connections
    Connections,
    /// Fifty thousand flow records a second
    Sustained,
    /// The ring alone
    Ring,
    /// Records of a recording that a second of one core decodes
    Replay,
    /// ns that a packet of each kind costs in the programs that look at packets
    Packets,
    /// ns per run of each program, and the agent's statement of its cost
    Price,
    /// Stacks: nginx and wrk with them and without, CPU, memory, how soon a new program's are whole
    Stacks,
    /// The store; with --peers beside Prometheus and VictoriaMetrics, on the same data
    Store,
}

/// What the workloads are made of.
const PROGRAMS: [&str; 5] = ["nginx", "wrk", "iperf3", "bpftool", "ethtool"];
/// What geophone is compared with.
const PEERS: [&str; 7] = [
    "bpftrace",
    "prometheus-node-exporter",
    "pmacctd",
    "softflowd",
    "perf",
    "prometheus",
    "victoria-metrics",
];

/// How long and how often.
struct Extent {
    pairs: usize,
    seconds: u64,
    idle: u64,
    patience: Duration,
    sustained: u64,
    records: u64,
    rounds: u32,
}

/// `cargo xtask bench`.
pub fn bench(options: Options) -> Result<()> {
    match options.part {
        Some(Part::Role { role }) => return roles::play(role),
        Some(Part::Rules) => return run(&mut example("agent-rules", "bench_rules")),
        Some(Part::Anomaly { arguments }) => {
            run(example("agent-score", "bench_anomaly").arg("--").args(arguments))?;
            return run(&mut example("agent-score", "bench_watch"));
        }
        None => {}
    }
    ensure!(
        is_root(),
        "eBPF needs root: run `sudo -E env \"PATH=$PATH\" cargo xtask bench`"
    );
    let needed = PROGRAMS.iter().chain(PEERS.iter().filter(|_| options.peers));
    if needed.into_iter().any(|program| find(program).is_none()) {
        setup(&[Group::Bench], options.how)?;
    }
    let agent = match &options.agent {
        Some(agent) => agent
            .canonicalize()
            .with_context(|| agent.display().to_string())?,
        None => {
            setup(&[Group::Build], options.how)?;
            build_release()?
        }
    };
    child::catch_signals()?;
    let scratch = Scratch::new()?;
    let place = Place {
        agent: scratch.path().join("geophone"),
        scratch: scratch.path().to_owned(),
    };
    // A copy: a build that ends meanwhile must not change what is measured.
    std::fs::copy(&agent, &place.agent).with_context(|| agent.display().to_string())?;
    let quick = options.quick;
    let extent = Extent {
        pairs: options.pairs.unwrap_or(if quick { 3 } else { 7 }),
        seconds: if quick { 4 } else { 8 },
        idle: if quick { 12 } else { 30 },
        patience: Duration::from_secs(if quick { 60 } else { 600 }),
        sustained: if quick { 10 } else { 60 },
        records: if quick { 1_000_000 } else { 10_000_000 },
        rounds: if quick { 50 } else { 400 },
    };
    let wanted = |name: Name| options.workloads.is_empty() || options.workloads.contains(&name);
    let settings = json!({
        "quick": quick, "pairs": extent.pairs, "seconds": extent.seconds,
        "reject": { "steal": 0.01, "foreign_cpus": 0.10 },
        "pinned": { "server": 0, "client": proc::cpus() - 1 }, "scrape_hz": 1,
        "agent": "defaults, --listen 127.0.0.1:PORT --log warn; `no budget` = --set budget.enabled=false",
    });
    let mut results = Results::new(machine::describe(&agent, settings));
    let outcome = measure(&mut results, &place, &extent, options.peers, &wanted);
    // What has been measured is shown even when the rest failed.
    print!("{}", report::table(&results));
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&results).context("JSON")?;
        std::fs::write(file, text + "\n").with_context(|| file.display().to_string())?;
        say(format_args!("written: {}", file.display()));
    }
    outcome
}

/// A benchmark that is an example of a crate.
fn example(package: &str, name: &str) -> Command {
    let mut command = cargo();
    command.args([
        "run",
        "--release",
        "--quiet",
        "--package",
        package,
        "--example",
        name,
    ]);
    command
}

fn measure(
    results: &mut Results,
    place: &Place,
    extent: &Extent,
    peers: bool,
    wanted: &dyn Fn(Name) -> bool,
) -> Result<()> {
    let mut patience = extent.patience;
    let mut subjects = vec![Subject::Null, Subject::Geophone, Subject::Unbounded];
    if peers {
        subjects.extend([Subject::Bpftrace, Subject::NodeExporter]);
    }
    if wanted(Name::Ring) {
        say("ring");
        pairs::wait_for_quiet(&mut patience, Vec::new)?;
        results.ring = Some(scale::ring(place, extent.records, extent.pairs)?);
        results.exposition = Some(scale::exposition(place)?);
    }
    if wanted(Name::Replay) {
        say("replay");
        pairs::wait_for_quiet(&mut patience, Vec::new)?;
        results.replay = Some(replay::measure(place, extent.pairs)?);
    }
    if wanted(Name::Packets) {
        say("packets");
        pairs::wait_for_quiet(&mut patience, Vec::new)?;
        results.packets = Some(packets::measure(place, extent.rounds)?);
    }
    if wanted(Name::Idle) {
        for subject in subjects
            .iter()
            .filter(|s| !matches!(s, Subject::Null | Subject::Unbounded))
        {
            say(format_args!("idle: {}", subject.name()));
            pairs::wait_for_quiet(&mut patience, Vec::new)?;
            results.idle.push(scale::idle(*subject, place, extent.idle)?);
        }
    }
    let method = Method {
        pairs: extent.pairs,
        seconds: extent.seconds,
        retries: extent.pairs,
    };
    let kinds = [
        (Name::Keepalive, Kind::KeepAlive),
        (Name::Close, Kind::Close),
        (Name::PingIdle, Kind::Ping { busy: false }),
        (Name::PingBusy, Kind::Ping { busy: true }),
        (Name::Iperf, Kind::Bulk),
    ];
    for (name, kind) in kinds {
        if wanted(name) {
            let mut load = Load::start(kind, &place.scratch)?;
            let found = pairs::compare(&mut load, &subjects, place, &method, &mut patience)?;
            results.comparisons.extend(found);
        }
    }
    if wanted(Name::Vxlan) {
        let mut subjects = vec![Subject::Null, Subject::Tunnels, Subject::Unbounded];
        if peers {
            subjects.extend([Subject::Pmacctd, Subject::Softflowd]);
        }
        for offload in [true, false] {
            let mut load = Load::start(Kind::Vxlan { offload }, &place.scratch)?;
            pairs::wait_for_quiet(&mut patience, || load.pids())?;
            let seconds = extent.seconds * 2;
            results.prices.push(price::measure(
                Some(&mut load),
                Subject::Unbounded,
                place,
                seconds,
            )?);
            let found = pairs::compare(&mut load, &subjects, place, &method, &mut patience)?;
            results.comparisons.extend(found);
        }
    }
    if wanted(Name::Stacks) {
        let mut subjects = vec![Subject::Null, Subject::Stacks { hz: 99 }];
        if peers {
            subjects.push(Subject::Perf);
        }
        let mut load = Load::start(Kind::KeepAlive, &place.scratch)?;
        let found = pairs::compare(&mut load, &subjects, place, &method, &mut patience)?;
        results.comparisons.extend(found);
        drop(load);
        say("stacks");
        pairs::wait_for_quiet(&mut patience, Vec::new)?;
        results.stacks = Some(stacks::measure(place, extent.seconds * 3)?);
    }
    if wanted(Name::Store) {
        say("store");
        pairs::wait_for_quiet(&mut patience, Vec::new)?;
        results.store = Some(store::measure(place, extent.rounds / 10, extent.idle * 2, peers)?);
    }
    if wanted(Name::Price) {
        for kind in [Kind::KeepAlive, Kind::Close] {
            say(format_args!("price: {}", kind.name()));
            let mut load = Load::start(kind, &place.scratch)?;
            pairs::wait_for_quiet(&mut patience, || load.pids())?;
            let seconds = extent.seconds * 3;
            results.prices.push(price::measure(
                Some(&mut load),
                Subject::Unbounded,
                place,
                seconds,
            )?);
        }
        say("price: idle");
        results
            .prices
            .push(price::measure(None, Subject::Geophone, place, extent.idle)?);
    }
    if wanted(Name::Connections) {
        say("connections");
        results.connections = Some(scale::connections(place, 100_000, extent.idle)?);
    }
    if wanted(Name::Sustained) {
        say(format_args!("sustained, {} s", extent.sustained));
        results.sustained = Some(scale::sustained(place, 50_000, extent.sustained)?);
    }
    Ok(())
}
