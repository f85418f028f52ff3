//! `geophone slo`: objectives, what is left of their budgets, and what a span came to.

mod csv;
mod now;
mod report;

use super::rules::tell;
use super::say;
use crate::cli::{self, SloCommand};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::score::slo;
use crate::ui::print::Row;
use agent_slo::{Slo, openslo, rules};
use std::path::{Path, PathBuf};

/// Does what was asked.
pub async fn slo(config: &Config, options: &cli::Slo) -> Result<()> {
    match (&options.command, &options.csv) {
        (Some(_), Some(_)) => Err(Error::usage("--csv: goes with no other command of slo")),
        (Some(SloCommand::Report { window, format }), _) => report::report(config, *window, *format).await,
        (Some(SloCommand::Rules { files }), _) => written(config, files),
        (Some(SloCommand::Check { files }), _) => check(files),
        (None, Some(file)) => csv::judge(file, &options.judge, options.json),
        (None, None) => now::now(config, options.json).await,
    }
}

/// What tells one series of an objective from another.
fn of(row: &Row) -> Vec<(String, String)> {
    let own = ["__name__", "slo", "window", "period"];
    let all = row
        .metric
        .iter()
        .filter(|(label, _)| !own.contains(&label.as_str()));
    all.map(|(label, value)| (label.clone(), value.clone())).collect()
}

/// Whether they are of more than one host: a store outlives the name of its own. What is summed over all is of none.
fn of_several<'a>(all: impl Iterator<Item = &'a [(String, String)]>) -> bool {
    let mut hosts = all.flatten().filter(|(label, _)| label == "instance");
    let first = hosts.next();
    hosts.any(|host| Some(host) != first)
}

/// The same as [`of`], for people; a node knows its own name, unless there are `several`.
fn shown(of: &[(String, String)], several: bool) -> String {
    let all = of.iter().filter(|(label, _)| several || label != "instance");
    let all: Vec<String> = all.map(|(label, value)| format!("{label}={value}")).collect();
    all.join(" ")
}

/// A share in percent, with as many digits as tell it from all.
fn percent(share: f64) -> String {
    let missing = (1.0 - share).abs();
    let digits = if missing > 0.0 {
        (1.0 - missing.log10().floor()).clamp(2.0, 8.0)
    } else {
        3.0
    };
    let text = format!("{:.*}", digits as usize - 1, share * 100.0);
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text} %")
}

fn written(config: &Config, files: &[PathBuf]) -> Result<()> {
    let slos = if files.is_empty() {
        let (slos, wrong) = slo::all(config);
        if let Some(error) = wrong.into_iter().next() {
            return Err(error);
        }
        slos
    } else {
        let mut all = Vec::new();
        for file in files {
            all.extend(read(file)?);
        }
        all
    };
    if slos.is_empty() {
        return Err(Error::new(
            "there are no objectives: give slos or slo_files in the configuration, or a file of OpenSLO v1",
        ));
    }
    say(rules::write(&slos).map_err(Error::new)?.trim_end())
}

/// The objectives of a file, or the first of its mistakes; remarks are told on standard error.
fn read(file: &Path) -> Result<Vec<Slo>> {
    let read = slo::read(file).map_err(|errors| match (errors.len(), errors.into_iter().next()) {
        (0 | 1, Some(first)) => first,
        (count, first) => Error::new(format_args!(
            "{} (and {} more: `geophone slo check` has all)",
            first.map(|first| first.to_string()).unwrap_or_default(),
            count.saturating_sub(1)
        )),
    })?;
    read.remarks.iter().for_each(|remark| tell(remark));
    Ok(read.slos)
}

fn check(files: &[PathBuf]) -> Result<()> {
    let mut wrong = 0;
    for file in files {
        match checked(file) {
            Ok((slos, remarks)) => {
                remarks.iter().for_each(|remark| tell(remark));
                for slo in &slos {
                    say(&format!(
                        "{}: {}: {}: valid",
                        file.display(),
                        slo.name,
                        slo.target()
                    ))?;
                }
                if slos.is_empty() {
                    say(&format!("{}: valid, without an objective", file.display()))?;
                }
            }
            Err(errors) => {
                wrong += 1;
                errors.iter().for_each(|error| tell(&error.to_string()));
            }
        }
    }
    match wrong {
        0 => Ok(()),
        wrong => Err(Error::new(format_args!(
            "{wrong} of {} files cannot be used; the lines before say why",
            files.len()
        ))),
    }
}

/// The objectives of a file of OpenSLO or of a configuration, and remarks on it.
fn checked(file: &Path) -> std::result::Result<(Vec<Slo>, Vec<String>), Vec<Error>> {
    let text = slo::text(file).map_err(|error| vec![error])?;
    if openslo::looks_like(&text) {
        // What was read, as a pipe can be read but once.
        return openslo::parse(&file.display().to_string(), &text)
            .map(|read| (read.slos, read.remarks))
            .map_err(|faults| faults.iter().map(Error::new).collect());
    }
    let name = file.display().to_string();
    let config = Config::parse(&name, &text).map_err(|first| {
        let all = Config::mistakes(&name, &text);
        let all: Vec<Error> = all.iter().map(Error::new).collect();
        if all.is_empty() {
            vec![Error::new(first)]
        } else {
            all
        }
    })?;
    let (slos, wrong) = slo::all(&config);
    if wrong.is_empty() {
        Ok((slos, Vec::new()))
    } else {
        Err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::{checked, percent};

    /// Cause: a configuration with six objectives of which five are wrong, each in a way of its own, and a setting beside them. Seen: a line
    /// for each with its place, and for the setting.
    #[test]
    fn all_that_is_wrong_with_objectives_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "slos:
- {name: a, template: dns, window: ages}
- {name: b, template: dns}
- {name: c, template: nowhere}
- {name: d, template: dns, objective: often}
- {name: b, template: dns}
- {name: e, templat: dns}
anomaly: {learning: -1}
";
        std::fs::write(file.path(), text).unwrap();
        let wrong = checked(file.path()).unwrap_err();
        let told: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        let name = file.path().display();
        for (line, words) in [
            (2, "slos[0].window: expected a duration"),
            (4, "slos[2].template: unknown value \"nowhere\""),
            (5, "slos[3].objective: "),
            (6, "slos[4].name: b: there is one of this name before"),
            (
                7,
                "unknown key \"templat\" in slos[5]; did you mean \"template\"?",
            ),
            (8, "anomaly.learning: "),
        ] {
            let wanted = format!("{name}:{line}: {words}");
            assert!(
                told.iter().any(|one| one.starts_with(&wanted)),
                "{wanted}\n{told:#?}"
            );
        }
        assert_eq!(told.len(), 6, "{told:#?}");
    }

    #[test]
    fn shares_keep_the_digits_that_matter() {
        for (share, text) in [
            (1.0, "100 %"),
            (0.0, "0 %"),
            (0.5, "50 %"),
            (0.999, "99.9 %"),
            (0.99987, "99.987 %"),
            (0.9999987, "99.99987 %"),
        ] {
            assert_eq!(percent(share), text);
        }
    }
}
