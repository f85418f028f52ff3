//! The objectives of the configuration and of its files.

use crate::config::{Config, LONGEST_FILE};
use crate::error::{Error, Result};
use agent_slo::{Fault, Slo, openslo, rules};
use agent_store::store::Settings;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

/// One of them, for the documentation of the setting.
pub fn example() -> serde_json::Value {
    serde_json::json!([{
        "name": "database-connects",
        "template": "connect-success",
        "filter": "peer=\"database\"",
        "objective": 99.9,
        "window": "30d",
    }])
}

/// Those of `slos`; the error has the place in the list of the first that is wrong.
pub fn configured(config: &Config) -> std::result::Result<Vec<Slo>, (usize, Fault)> {
    let (all, wrong) = every(config);
    wrong.into_iter().next().map_or(Ok(all), Err)
}

/// Those of `slos` that are right, and of each other one its place in the list and what is wrong.
pub fn every(config: &Config) -> (Vec<Slo>, Vec<(usize, Fault)>) {
    let (mut all, mut wrong) = (Vec::<Slo>::new(), Vec::new());
    for (index, definition) in config.slos.iter().enumerate() {
        let slo = Slo::new(definition).and_then(|slo| {
            rules::groups(&slo)?;
            kept(&slo, config)?;
            if all.iter().any(|known| known.name == slo.name) {
                let what = format!("{}: there is one of this name before, give it another", slo.name);
                return Err(Fault { key: "name", what });
            }
            Ok(slo)
        });
        match slo {
            Ok(slo) => all.push(slo),
            Err(fault) => wrong.push((index, fault)),
        }
    }
    (all, wrong)
}

/// What is looked at more often than the store has samples of must not be older than all samples are kept: sums over what was
/// thinned out would lose most of it.
fn kept(slo: &Slo, config: &Config) -> std::result::Result<(), Fault> {
    let (all, step) = (config.store.retention.get(), Settings::default().rollup_step);
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    if slo.interval >= millis(step) || slo.window.reach() <= millis(all) {
        return Ok(());
    }
    let (all, step) = (humantime::format_duration(all), humantime::format_duration(step));
    let what = format!(
        "below {step} the window may not be longer than store.retention ({all}), as beyond it the store has one sample \
         in {step}; take {step} or more, or a shorter window"
    );
    Err(Fault {
        key: "interval",
        what,
    })
}

/// Those of `slos` and `slo_files`, and what of the files cannot be used.
pub fn all(config: &Config) -> (Vec<Slo>, Vec<Error>) {
    // The configuration has been checked.
    let mut all = configured(config).unwrap_or_default();
    let mut wrong = Vec::new();
    for path in &config.slo_files {
        let read = match read(path) {
            Ok(read) => read,
            Err(errors) => {
                wrong.extend(errors);
                continue;
            }
        };
        for slo in read.slos {
            if all.iter().any(|known| known.name == slo.name) {
                let name = &slo.name;
                wrong.push(Error::new(format_args!(
                    "{}: {name}: there is an objective of this name already, give it another",
                    path.display()
                )));
                continue;
            }
            all.push(slo);
        }
    }
    (all, wrong)
}

/// The longest window of them all.
pub fn reach(config: &Config) -> Duration {
    // What is wrong with files is told where their rules are made.
    let longest = all(config).0.iter().map(|slo| slo.window.reach()).max();
    Duration::from_millis(longest.unwrap_or_default().unsigned_abs())
}

/// The text of a file of bounded length.
pub fn text(path: &Path) -> Result<String> {
    let failed = |why: &dyn std::fmt::Display| Error::new(format_args!("{}: {why}", path.display()));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| failed(&e))?;
    let read = file.take(LONGEST_FILE + 1).read_to_end(&mut bytes);
    read.map_err(|e| failed(&e))?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(failed(&"is longer than 1MiB"));
    }
    String::from_utf8(bytes).map_err(|error| failed(&error))
}

/// A file of OpenSLO.
pub fn read(path: &Path) -> std::result::Result<openslo::Read, Vec<Error>> {
    let text = text(path).map_err(|error| vec![error])?;
    openslo::parse(&path.display().to_string(), &text)
        .map_err(|faults| faults.iter().map(Error::new).collect())
}
