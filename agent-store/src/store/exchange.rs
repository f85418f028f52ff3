//! Import and export of OpenMetrics text.

use super::block::Summary;
use super::codec::Effort;
use super::gather::order;
use super::head::{Value, within};
use super::rewrite::{Columns, Stop};
use super::settings::{MERGED, MOST_SAMPLES, SPARSE};
use super::{Store, text};
use crate::labels::{Labels, NAME};
use crate::series::{Bounds, Column, Comparison, Matcher, Millis, Refusal, Source, is_stale};
use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead, Write};
use std::sync::Arc;

/// So many lines that were left out are told.
const TOLD: usize = 5;

/// What an import took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Samples that are in the store now.
    pub samples: u64,
    /// Lines that were left out.
    pub skipped: u64,
    /// The first of these, by number, and why; and whether the text is cut.
    pub findings: Vec<String>,
}

/// Samples that are read and not yet in a block.
#[derive(Default)]
struct Batch {
    /// By the text of the line before the value, which is the same for all samples of a series.
    known: HashMap<String, usize>,
    series: Vec<(Labels, Columns)>,
    bytes: usize,
}

impl Store {
    /// Takes OpenMetrics text with times, as promtool's backfill does, series and times in any order. What cannot be understood
    /// is left out, counted and told. Of two samples of one series and time one stays. Age is counted from the newest sample
    /// that was appended, or of all if none was: what is older than is kept goes with the next tidying.
    pub fn import(&self, mut input: impl BufRead) -> Result<Imported, String> {
        let mut imported = Imported::default();
        let mut batch = Batch::default();
        let mut gauges: BTreeSet<String> = BTreeSet::new();
        let (mut line, mut number, mut ended) = (Vec::new(), 0u64, false);
        loop {
            line.clear();
            number += 1;
            if input
                .read_until(b'\n', &mut line)
                .map_err(|error| format!("cannot read line {number}: {error}"))?
                == 0
            {
                break;
            }
            let text = std::str::from_utf8(&line).map(str::trim).unwrap_or("\u{fffd}");
            if text.is_empty() {
                continue;
            }
            if let Some(comment) = text.strip_prefix('#') {
                ended |= comment.trim() == "EOF";
                if let Some(name) = comment
                    .trim()
                    .strip_prefix("TYPE ")
                    .and_then(|t| t.strip_suffix(" gaugehistogram"))
                {
                    gauges.insert(name.trim_matches('"').to_owned());
                }
                continue;
            }
            if let Err(why) = batch.line(text, &gauges) {
                imported.skipped += 1;
                if imported.findings.len() < TOLD {
                    imported.findings.push(format!("line {number}: {why}: left out"));
                }
            }
            if batch.bytes > self.inner.settings.memory / 4 {
                imported.samples += self.take(std::mem::take(&mut batch))?;
            }
        }
        imported.samples += self.take(batch)?;
        if !ended {
            imported.findings.push(format!(
                "it does not end with `# EOF`: {number} lines were read, more may be missing"
            ));
        }
        self.inner.maintain();
        Ok(imported)
    }

    /// Makes blocks of a batch: one a day if samples are few, else one for two hours.
    fn take(&self, mut batch: Batch) -> Result<u64, String> {
        batch.series.sort_by(|a, b| a.0.cmp(&b.0));
        let mut spans: BTreeSet<Millis> = BTreeSet::new();
        let (mut samples, mut longest) = (0, 0);
        for (_, columns) in &mut batch.series {
            order(&mut columns.floats);
            order(&mut columns.histograms);
            let times = || columns.floats.times.iter().chain(&columns.histograms.times);
            spans.extend(times().map(|time| time.div_euclid(SPARSE)));
            longest = longest.max(times().count());
            samples += times().count() as u64;
        }
        for day in spans {
            let day = day * SPARSE;
            let sparse = longest as u64 <= MOST_SAMPLES;
            let step = if sparse { SPARSE } else { MERGED };
            for at in 0..SPARSE / step {
                self.block(&batch, day + at * step, day + (at + 1) * step - 1)?;
            }
        }
        Ok(samples)
    }

    fn block(&self, batch: &Batch, from: Millis, to: Millis) -> Result<(), String> {
        let cut: Vec<(&Labels, Columns)> = batch
            .series
            .iter()
            .map(|(labels, columns)| {
                let cut = Columns {
                    floats: slice(&columns.floats, from, to),
                    histograms: slice(&columns.histograms, from, to),
                    ..Columns::default()
                };
                (labels, cut)
            })
            .filter(|(_, columns)| !columns.floats.times.is_empty() || !columns.histograms.times.is_empty())
            .collect();
        let lists = cut
            .iter()
            .flat_map(|(_, columns)| [&columns.floats.times, &columns.histograms.times]);
        let Some(main) = lists
            .max_by_key(|times| times.len())
            .filter(|times| !times.is_empty())
        else {
            return Ok(());
        };
        let summary = Summary {
            logs: (1, 0),
            ..Summary::default()
        };
        let built = self
            .inner
            .build(summary, Arc::from(main.as_slice()), Effort::Full, |writer| {
                for (labels, columns) in &cut {
                    columns.write(writer, labels, main)?;
                }
                Ok(())
            });
        match built {
            Ok(block) => {
                self.inner.replace(|view| view.blocks.push(block));
                Ok(())
            }
            Err(Stop::Failed(error)) => Err(format!("cannot write a block of what was imported: {error}")),
            Err(Stop::TooMuch | Stop::Unread(..)) => {
                Err("cannot write a block of what was imported: too many series".into())
            }
        }
    }

    /// Writes the samples that all matchers accept as OpenMetrics text with times, metric by metric; tells how many. Markers of
    /// staleness are left out, because the text has none. promtool does not know native histograms in text yet.
    pub fn export(
        &self,
        matchers: &[Matcher],
        (from, to): (Millis, Millis),
        bounds: &dyn Bounds,
        out: &mut impl Write,
    ) -> Result<u64, Refusal> {
        let failed = |error: std::io::Error| Refusal::Failed(format!("cannot write the export: {error}"));
        let mut samples = 0;
        for name in self.words(Some(NAME), matchers, (from, to), bounds)? {
            let mut matchers = matchers.to_vec();
            matchers.push(Matcher {
                label: NAME.into(),
                comparison: Comparison::Equal(name.clone()),
            });
            let mut found = self.select(&matchers, from, to, bounds)?;
            found.sort_by(|a, b| a.labels.cmp(&b.labels));
            let rows = || found.iter().flat_map(|series| &series.samples.histograms.values);
            let kind = match rows().next().map(|row| row.is_gauge) {
                None => "unknown",
                Some(false) => "histogram",
                Some(true) => "gaugehistogram",
            };
            let mut text = String::from("# TYPE ");
            text::put_name(&mut text, &name);
            text.push_str(&format!(" {kind}\n"));
            for series in &found {
                let mut prefix = String::new();
                text::put_labels(&mut prefix, &series.labels);
                let floats = &series.samples.floats;
                for (time, value) in floats
                    .times
                    .iter()
                    .zip(&floats.values)
                    .filter(|(_, value)| !is_stale(**value))
                {
                    text.push_str(&prefix);
                    text.push(' ');
                    text::put_number(&mut text, *value);
                    end(&mut text, *time);
                    samples += 1;
                }
                let histograms = &series.samples.histograms;
                for (time, row) in histograms
                    .times
                    .iter()
                    .zip(&histograms.values)
                    .filter(|(_, row)| !is_stale(row.sum))
                {
                    text.push_str(&prefix);
                    text.push(' ');
                    text::put_histogram(&mut text, row);
                    end(&mut text, *time);
                    samples += 1;
                }
                out.write_all(text.as_bytes()).map_err(failed)?;
                text.clear();
            }
        }
        out.write_all(b"# EOF\n")
            .and_then(|()| out.flush())
            .map_err(failed)?;
        Ok(samples)
    }
}

fn end(text: &mut String, time: Millis) {
    text.push(' ');
    text::put_time(text, time);
    text.push('\n');
}

fn slice<T: Clone>(column: &Column<T>, from: Millis, to: Millis) -> Column<T> {
    let (a, b) = within(&column.times, from, to);
    Column {
        times: column.times.get(a..b).unwrap_or_default().to_vec(),
        values: column.values.get(a..b).unwrap_or_default().to_vec(),
    }
}

impl Batch {
    fn line(&mut self, line: &str, gauges: &BTreeSet<String>) -> Result<(), &'static str> {
        let (series, rest) = text::split(line).ok_or("not a sample")?;
        let (value, time) =
            text::sample(rest).ok_or("a value and a time in seconds are expected after the labels")?;
        if time.unsigned_abs() > super::ABSURD {
            return Err("its time is absurd");
        }
        let at = match self.known.get(series) {
            Some(at) => *at,
            None => {
                let labels = text::labels(series).ok_or("its labels are malformed")?;
                self.bytes += 2 * series.len() + 400;
                self.known.insert(series.to_owned(), self.series.len());
                self.series.push((labels, Columns::default()));
                self.series.len() - 1
            }
        };
        let Some((labels, columns)) = self.series.get_mut(at) else {
            return Ok(());
        };
        match value {
            Value::Float(value) => {
                columns.floats.times.push(time);
                columns.floats.values.push(value);
                self.bytes += 16;
            }
            Value::Histogram(mut row) => {
                if gauges.contains(labels.name()) {
                    Arc::make_mut(&mut row).is_gauge = true;
                }
                self.bytes += 152 + 16 * (row.positive.len() + row.negative.len());
                columns.histograms.times.push(time);
                columns.histograms.values.push(row);
            }
        }
        Ok(())
    }
}
