//! `geophone`: parse, build, run.

use agent::app::Agent;
use agent::cli::{Cli, Command, ConfigCommand, Docs};
use agent::commands::say;
use agent::config::{Config, Given};
use agent::error::{Context as _, Error, Result};
use agent::{check, cli, commands, docs};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let parsed = Cli::command().try_get_matches().and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((cli, matches))
    });
    let result = match parsed {
        Ok((cli, matches)) => run(cli, &matches),
        // Help and version. A command without its parts is told what they are: that is no single line.
        Err(e) if !e.use_stderr() || e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = e.print();
            return ExitCode::from(u8::from(e.use_stderr()) * 2);
        }
        Err(e) => Err(Error::usage(cli::complaint(&e))),
    };
    result.unwrap_or_else(|e| {
        if !e.is_closed() {
            // Nobody may be left to read it.
            let _ = writeln!(std::io::stderr(), "geophone: {e}");
        }
        ExitCode::from(e.status())
    })
}

fn run(cli: Cli, matches: &ArgMatches) -> Result<ExitCode> {
    // Two backends could be compiled in; say which, or the first TLS connection panics.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Command::Config { command } = &cli.command {
        return config_command(command);
    }
    if let Command::Docs { what } = cli.command {
        let text = match what {
            Docs::Metrics => docs::metrics(),
            Docs::Config => agent::config::markdown(),
            Docs::Seccomp => docs::seccomp()?,
        };
        return done(text.trim_end());
    }
    if let Command::BenchEncode { series } = cli.command {
        return done(&commands::bench_encode(series).to_string());
    }
    if let Command::BenchReplay { seconds, rounds } = cli.command {
        return done(&commands::bench_replay(seconds, rounds)?.to_string());
    }
    if let Command::Score(options) = &cli.command {
        return commands::score(options).map(|()| ExitCode::SUCCESS);
    }
    if let Command::Capacity(options) = &cli.command
        && let Some(file) = &options.csv
    {
        return commands::capacity_of_file(options, file).map(|()| ExitCode::SUCCESS);
    }
    if let Command::Symbolize = cli.command {
        agent::stacks::symbolizer::serve()?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Completions { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "geophone", &mut script);
        return done(String::from_utf8_lossy(&script).trim_end());
    }
    let config = load(&cli, matches)?;
    let screen =
        matches!(&cli.command, Command::Top { .. }) || matches!(&cli.command, Command::Run(r) if r.live);
    commands::log(&config.log, screen)?;
    let btf = cli.common.btf.clone().filter(|path| !path.as_os_str().is_empty());
    match cli.command {
        Command::Check {
            json,
            verbose,
            cardinality: false,
        } => {
            let report = check::check(&config, btf)?;
            if json {
                say(&serde_json::to_string_pretty(&report).context("JSON")?)?;
            } else {
                say(report.text(verbose).trim_end())?;
            }
            Ok(if report.ok {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Command::Store(options) => commands::store(&config, &options).map(|()| ExitCode::SUCCESS),
        Command::Replay(options) => commands::replay(&config, &options).map(|()| ExitCode::SUCCESS),
        Command::Rules(options) => commands::rules(&config, &options).map(|()| ExitCode::SUCCESS),
        Command::TestCorpus => commands::test_corpus(&config, btf),
        Command::BenchRing { records } => commands::bench_ring(&config, btf, records),
        Command::BenchPackets { rounds } => commands::bench_packets(&config, btf, rounds),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("starting the runtime")?;
            runtime.block_on(async {
                match command {
                    Command::Run(run) => commands::run(Agent::start(&config, btf)?, &run).await,
                    Command::Top { duration, own } => commands::top(&config, btf, duration, own).await,
                    Command::Tunnels {
                        follow,
                        pairs,
                        json,
                        duration,
                        own,
                    } => {
                        let options = cli::Stream { json, duration, own };
                        if follow {
                            commands::stream(&config, btf, &options, "tunnels").await
                        } else {
                            commands::tunnels(&config, btf, &options, pairs).await
                        }
                    }
                    Command::Flows(stream) => commands::stream(&config, btf, &stream, "flows").await,
                    Command::Topology(options) => commands::topology(&config, btf, &options).await,
                    Command::Profile(options) => commands::profile(&config, btf, &options).await,
                    Command::Dashboards(options) => commands::dashboards(&options).await,
                    Command::Health(options) => commands::health(&config, &options).await,
                    Command::Capacity(options) => commands::capacity(&config, &options).await,
                    Command::Slo(options) => commands::slo(&config, &options).await,
                    Command::Query(options) => commands::query(&config, &options).await,
                    Command::Record(options) => commands::record(&config, btf, &options).await,
                    Command::Alerts(options) => commands::alerts(&config, &options).await,
                    Command::Anomalies { all, watches, json } => {
                        commands::anomalies(&config, all, watches, json).await
                    }
                    Command::Check { json, .. } => commands::cardinality(&config, json).await,
                    Command::Diff(options) => commands::diff(&config, &options).await,
                    Command::Drops(stream) => commands::stream(&config, btf, &stream, "drops").await,
                    _ => Ok(()),
                }
            })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn load(cli: &Cli, matches: &ArgMatches) -> Result<Config> {
    let common = &cli.common;
    let mut flags = common.set.clone();
    flags.extend(
        common
            .listen
            .iter()
            .map(|at| Given::new("--listen", "api.listen", at)),
    );
    flags.extend(
        common
            .log
            .iter()
            .map(|level| Given::new("--log", "log.level", level)),
    );
    if let Command::Run(cli::Run {
        store: Some(place), ..
    }) = &cli.command
    {
        let (kind, directory) = match place.as_str() {
            "auto" | "none" | "memory" => (place.as_str(), None),
            directory => ("disk", Some(directory)),
        };
        flags.push(Given::new("--store", "store.kind", kind));
        flags.extend(directory.map(|path| Given::new("--store", "store.directory", path)));
    }
    let named = match matches.value_source("config") {
        Some(ValueSource::EnvVariable) => "GEOPHONE_CONFIG",
        _ => "--config",
    };
    let is_set = |path: &&Path| named == "--config" || !path.as_os_str().is_empty();
    let file = common.config.as_deref().filter(is_set);
    Config::load(named, file, std::env::vars_os(), &flags).map_err(Error::usage)
}

/// Says it all.
fn done(text: &str) -> Result<ExitCode> {
    say(text).map(|()| ExitCode::SUCCESS)
}

fn config_command(command: &ConfigCommand) -> Result<ExitCode> {
    match command {
        ConfigCommand::Default => done(agent::config::default_yaml().trim_end()),
        ConfigCommand::Schema => {
            done(&serde_json::to_string_pretty(&agent::config::schema()).context("JSON")?)
        }
        ConfigCommand::Validate { file } => {
            Config::load("", Some(file), [], &[]).map_err(Error::new)?;
            done(&format!("{}: valid", file.display()))
        }
    }
}
