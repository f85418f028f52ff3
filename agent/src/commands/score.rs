//! `geophone score`.

use super::say;
use crate::cli;
use crate::error::{Context as _, Error, Result};
use crate::score::csv::{Row, Table};
use agent_score::anomaly::{Detector, Detectors, LagForest, Scored, Series, Settings, Verdict};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write, stdout};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// Anomalies that the summary names.
const NAMED: usize = 20;

/// Samples after which a forest is asked again from which rate on it can alarm.
const ASKED: usize = 256;

/// Judges each line of a file by those before it.
pub fn score(options: &cli::Score) -> Result<()> {
    if let Some(output) = &options.output
        && is_same(&options.file, output)
    {
        return Err(Error::usage(format_args!(
            "--output {}: is the file that is read; name another",
            output.display()
        )));
    }
    let table = Table::read(&options.file)?;
    let detector = options.detector.as_deref().and_then(Detector::of);
    let usual = Settings::new(table.step());
    let accept_after = options.accept_after.map(|duration| duration.get().as_secs_f64());
    let settings = Settings {
        alarms_per_week: options.alarms_per_week,
        detectors: detector.map_or(Detectors::ALL, Detectors::from),
        learning: options.learning,
        accept_after: accept_after.unwrap_or(usual.accept_after),
        least: options.min_change,
        ..usual
    };
    let mut series = Series::new(settings);
    let mut forest = LagForest::new(settings);
    let mut summary = Summary::default();
    let mut least = None;
    let judged = table.rows.iter().map(|row| {
        let scored = match detector {
            None => {
                let mut scored = series.observe(row.at, row.value);
                scored.corroborate(&forest.observe(row.at, row.value));
                scored
            }
            Some(Detector::IsolationForest) => {
                let scored = forest.observe(row.at, row.value);
                // What it could find changes with what it knows: a shift that lasts is learned.
                if summary.samples.is_multiple_of(ASKED) {
                    least = least.into_iter().chain(forest.least_alarms()).reduce(f64::min);
                }
                scored
            }
            Some(_) => series.observe(row.at, row.value),
        };
        summary.add(row, &scored);
        line(row, &scored)
    });
    match &options.output {
        Some(file) => {
            let written = File::create(file).and_then(|out| write(judged, BufWriter::new(out)));
            written.context(format_args!("--output {}", file.display()))?;
            say(summary.text(&settings, &series).trim_end())?;
        }
        None => match write(judged, BufWriter::new(stdout().lock())) {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Err(Error::closed()),
            result => result.context("standard output")?,
        },
    }
    if detector == Some(Detector::IsolationForest)
        && summary.anomalies.is_empty()
        && let Some(note) = silent(least, options.alarms_per_week)
    {
        let _ = writeln!(std::io::stderr(), "geophone: {note}");
    }
    Ok(())
}

/// Whether both are the same file, by whatever names; nothing but a file can be lost.
fn is_same(input: &Path, output: &Path) -> bool {
    let input = if input.as_os_str() == "-" {
        Path::new("/dev/stdin")
    } else {
        input
    };
    let (Ok(input), Ok(output)) = (input.metadata(), output.metadata()) else {
        return false;
    };
    input.is_file() && (input.dev(), input.ino()) == (output.dev(), output.ino())
}

/// That a forest could have found nothing, and from how many alarms a week on it can.
fn silent(least: Option<f64>, asked: f64) -> Option<String> {
    let least = least.filter(|least| *least > asked)?;
    // Rounded up: with less it is silent.
    let least = (least * 10.0).ceil() / 10.0;
    let remedy = match cli::Score::ALARMS.contains(&least) {
        true => format!("from --alarms-per-week {least} on it can"),
        false => "ask the other detectors: it can at no rate here".to_owned(),
    };
    Some(format!(
        "isolation-forest can find nothing at --alarms-per-week {asked}, as its score has a greatest value; {remedy}"
    ))
}

fn write(lines: impl Iterator<Item = String>, mut out: impl Write) -> std::io::Result<()> {
    writeln!(
        out,
        "timestamp,value,score,lower,upper,verdict,direction,detectors"
    )?;
    for line in lines {
        writeln!(out, "{line}")?;
    }
    out.flush()
}

/// A number, or nothing where there is none.
fn number(value: f64) -> String {
    if value.is_finite() {
        format!("{value}")
    } else {
        String::new()
    }
}

/// An end of a band: seven digits, more than it is worth.
fn end(value: f64) -> String {
    if !value.is_finite() {
        return String::new();
    }
    let digits = 6 - value.abs().max(1e-30).log10().floor() as i32;
    number(
        format!("{value:.*}", digits.clamp(0, 40) as usize)
            .parse()
            .unwrap_or(value),
    )
}

fn line(row: &Row, scored: &Scored) -> String {
    let known = scored.verdict != Verdict::Learning;
    let band = |value: f64| if known { end(value) } else { String::new() };
    let agreeing: Vec<&str> = scored.agreeing.iter().map(Detector::name).collect();
    let is_anomaly = scored.verdict == Verdict::Anomaly;
    format!(
        "{},{},{:.4},{},{},{},{},{}",
        row.timestamp,
        number(row.value),
        scored.score,
        band(scored.lower),
        band(scored.upper),
        scored.verdict.name(),
        if is_anomaly { scored.direction.name() } else { "" },
        if is_anomaly {
            agreeing.join(" ")
        } else {
            String::new()
        },
    )
}

/// What was found.
#[derive(Debug, Default)]
struct Summary {
    samples: usize,
    judged: usize,
    /// Since when, until when, the line with the highest score.
    anomalies: Vec<(i64, i64, Row, Scored)>,
}

impl Summary {
    fn add(&mut self, row: &Row, scored: &Scored) {
        self.samples += usize::from(scored.verdict != Verdict::Missing);
        self.judged += usize::from(matches!(scored.verdict, Verdict::Normal | Verdict::Anomaly));
        let Some(since) = scored.since else { return };
        match self.anomalies.last_mut() {
            Some((begun, until, peak, most)) if *begun == since => {
                *until = row.at;
                // The way back from a rise that has lasted is a fall, and may be the rarer.
                if scored.score > most.score && scored.direction == most.direction {
                    (*peak, *most) = (row.clone(), *scored);
                }
            }
            _ => self.anomalies.push((since, row.at, row.clone(), *scored)),
        }
    }

    fn text(&self, settings: &Settings, series: &Series) -> String {
        let step = Duration::from_millis((settings.step * 1e3) as u64);
        let mut text = format!(
            "{} samples, mostly {} apart, {} judged",
            self.samples,
            humantime::format_duration(step),
            self.judged
        );
        let seasons: Vec<String> = series
            .seasons()
            .map(|s| humantime::format_duration(Duration::from_secs(s.round() as u64)).to_string())
            .collect();
        if !seasons.is_empty() {
            let _ = write!(text, ", seasons of {}", seasons.join(" and "));
        }
        let _ = writeln!(text, "; {} anomalies", self.anomalies.len());
        if self.judged == 0 {
            let _ = writeln!(
                text,
                "all of it was needed to learn what is usual; give it a longer series"
            );
        }
        for (since, until, row, scored) in self.anomalies.iter().take(NAMED) {
            let names: Vec<&str> = scored.agreeing.iter().map(Detector::name).collect();
            let _ = writeln!(
                text,
                "{} for {}: {} ({}), score {:.2}: {}",
                moment(*since),
                humantime::format_duration(Duration::from_millis((until - since).unsigned_abs()) + step),
                scored.direction.name(),
                number(row.value),
                scored.score,
                names.join(", "),
            );
        }
        if self.anomalies.len() > NAMED {
            let _ = writeln!(text, "and {} more", self.anomalies.len() - NAMED);
        }
        text
    }
}

fn moment(ms: i64) -> String {
    match u64::try_from(ms) {
        Ok(ms) => humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string(),
        Err(_) => format!("{}", ms / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cause: an output that is the input, by its name, by a link and by another link to the same file; one that is not there, another file,
    /// and what is no file. Seen: the first three are the same.
    #[test]
    fn the_input_is_known_by_any_name() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        std::fs::write(at("a"), "1,1\n").unwrap();
        std::fs::write(at("b"), "1,1\n").unwrap();
        std::os::unix::fs::symlink(at("a"), at("link")).unwrap();
        std::fs::hard_link(at("a"), at("hard")).unwrap();
        let same = ["a", "link", "hard", "b", "none"].map(|name| is_same(&at("a"), &at(name)));
        assert_eq!(same, [true, true, true, false, false]);
        assert!(!is_same(Path::new("/dev/null"), Path::new("/dev/null")));
    }

    /// Cause: a forest that is silent at the rate that was asked for, one that is not, and one that is at every rate. Seen: of the first
    /// the rate that helps, rounded up, of the second nothing, of the last that no rate does.
    #[test]
    fn a_forest_that_is_silent_says_so() {
        let told = silent(Some(12.31), 1.0).unwrap();
        assert!(
            told.contains("nothing at --alarms-per-week 1,")
                && told.ends_with("from --alarms-per-week 12.4 on it can"),
            "{told}"
        );
        assert_eq!((silent(Some(12.31), 20.0), silent(None, 1.0)), (None, None));
        let told = silent(Some(f64::INFINITY), 1e4).unwrap();
        assert!(
            told.contains("at no rate") && told.contains("other detectors"),
            "{told}"
        );
    }
}
