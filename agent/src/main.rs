//! `geophone`: parse, build, run.

use agent::app::Agent;
use agent::cli::{Cli, Command, Common, ConfigCommand, Docs};
use agent::config::Config;
use agent::error::{Context as _, Error, Result};
use agent::{check, cli, commands, docs};
use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(e) if e.is_closed() => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("geophone: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    // Two backends could be compiled in; say which, or the first TLS connection panics.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Command::Config { command } = &cli.command {
        return config_command(command);
    }
    if let Command::Docs { what } = cli.command {
        print!(
            "{}",
            match what {
                Docs::Metrics => docs::metrics(),
                Docs::Config => agent::config::markdown(),
            }
        );
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::BenchEncode { series } = cli.command {
        println!("{}", commands::bench_encode(series));
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Symbolize = cli.command {
        agent::stacks::names::serve()?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = load(&cli.common)?;
    let screen =
        matches!(&cli.command, Command::Top { .. }) || matches!(&cli.command, Command::Run(r) if r.live);
    commands::log(&config.log, screen)?;
    let btf = cli.common.btf.clone();
    match cli.command {
        Command::Check { json, verbose } => {
            let report = check::check(&config, btf)?;
            if json {
                println!("{}", serde_json::to_string_pretty(&report).context("JSON")?);
            } else {
                print!("{}", report.text(verbose));
            }
            Ok(if report.ok {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
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
                    Command::Diff(options) => commands::diff(&config, &options).await,
                    Command::Drops(stream) => commands::stream(&config, btf, &stream, "drops").await,
                    _ => Ok(()),
                }
            })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn load(common: &Common) -> Result<Config> {
    let mut sets = common.set.clone();
    if let Some(listen) = &common.listen {
        sets.push(("api.listen".into(), listen.clone()));
    }
    if let Some(level) = &common.log {
        sets.push(("log.level".into(), level.clone()));
    }
    // These two are flags' own variables, not keys.
    let env = std::env::vars_os().filter(|(name, _)| name != "GEOPHONE_CONFIG" && name != "GEOPHONE_BTF");
    Config::load(common.config.as_deref(), env, &sets).map_err(Error::new)
}

fn config_command(command: &ConfigCommand) -> Result<ExitCode> {
    match command {
        ConfigCommand::Default => print!("{}", agent::config::default_yaml()),
        ConfigCommand::Schema => {
            println!(
                "{}",
                serde_json::to_string_pretty(&agent::config::schema()).context("JSON")?
            );
        }
        ConfigCommand::Validate { file } => {
            Config::load(Some(file), [], &[]).map_err(Error::new)?;
            println!("{}: valid", file.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}
