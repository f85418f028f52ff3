//! Import and export of OpenMetrics text.

use super::block::Summary;
use super::codec::Effort;
use super::gather::order;
use super::head::{Value, within};
use super::rewrite::{Columns, Stop};
use super::settings::{MERGED, MOST_SAMPLES, SPARSE};
use super::{Store, text};
use crate::labels::{Labels, NAME};
use crate::series::{Bounds, Column, Matcher, Millis, Refusal, Series, Source, is_stale};
use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many lines that were left out are told.
const TOLD: usize = 5;
/// So many samples are held at once by an export: 32 MiB, and a bit for histograms.
const AT_ONCE: usize = 1 << 21;

/// What bounds one of the selects of an export: it may be as long as the store is old, but not take more memory than that.
struct Part<'a> {
    /// Asked for the time only.
    bounds: &'a dyn Bounds,
    most: usize,
    samples: AtomicUsize,
}

impl<'a> Part<'a> {
    fn of(bounds: &'a dyn Bounds, most: usize) -> Self {
        Self {
            bounds,
            most,
            samples: AtomicUsize::new(0),
        }
    }
}

impl Bounds for Part<'_> {
    fn take(&self, _: usize, samples: usize) -> Result<(), Refusal> {
        self.bounds.take(0, 0)?;
        if self.samples.fetch_add(samples, Ordering::Relaxed) + samples > self.most {
            return Err(Refusal::TooMany(format!("{} samples at once", self.most)));
        }
        Ok(())
    }
}

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
    /// staleness are left out, because the text has none. promtool does not know native histograms in text yet. Of the bounds
    /// only the time counts: an export may be as long as the store is old, and holds a part of it at once.
    pub fn export(
        &self,
        matchers: &[Matcher],
        (from, to): (Millis, Millis),
        bounds: &dyn Bounds,
        out: &mut impl Write,
    ) -> Result<u64, Refusal> {
        self.export_in_parts(matchers, (from, to), bounds, AT_ONCE, out)
    }

    pub(super) fn export_in_parts(
        &self,
        matchers: &[Matcher],
        (from, to): (Millis, Millis),
        bounds: &dyn Bounds,
        at_once: usize,
        out: &mut impl Write,
    ) -> Result<u64, Refusal> {
        let failed = |error: std::io::Error| Refusal::Failed(format!("cannot write the export: {error}"));
        let free = Part::of(bounds, usize::MAX);
        let mut samples = 0;
        for name in self.words(Some(NAME), matchers, (from, to), &free)? {
            let mut matchers = matchers.to_vec();
            matchers.push(Matcher::equal(NAME, &name));
            let mut said = false;
            let mut put = |found: &[Series]| -> Result<(), Refusal> {
                let mut text = String::new();
                if !std::mem::replace(&mut said, true) {
                    text.push_str("# TYPE ");
                    text::put_name(&mut text, &name);
                    text.push_str(&format!(" {}\n", kind(found)));
                }
                for series in found {
                    samples += put_series(&mut text, series);
                    out.write_all(text.as_bytes()).map_err(failed)?;
                    text.clear();
                }
                Ok(())
            };
            match self.select(&matchers, from, to, &Part::of(bounds, at_once)) {
                Ok(mut found) => {
                    found.sort_by(|a, b| a.labels.cmp(&b.labels));
                    put(&found)?;
                }
                // Too much to be held at once: one by one.
                Err(Refusal::TooMany(_)) => {
                    let mut all = self.series(&matchers, from, to, &free)?;
                    all.sort_unstable();
                    let names: BTreeSet<Arc<str>> = all
                        .iter()
                        .flat_map(|labels| labels.iter().map(|(name, _)| name.clone()))
                        .collect();
                    for labels in all {
                        // All names, because others may have these labels and more.
                        let own: Vec<Matcher> = names
                            .iter()
                            .map(|name| Matcher::equal(name, labels.get(name)))
                            .collect();
                        put(&self.select(&own, from, to, &free)?)?;
                    }
                }
                Err(refusal) => return Err(refusal),
            }
        }
        out.write_all(b"# EOF\n")
            .and_then(|()| out.flush())
            .map_err(failed)?;
        Ok(samples)
    }
}

/// What OpenMetrics calls a metric of such series.
fn kind(found: &[Series]) -> &'static str {
    let mut rows = found.iter().flat_map(|series| &series.samples.histograms.values);
    match rows.next().map(|row| row.is_gauge) {
        None => "unknown",
        Some(false) => "histogram",
        Some(true) => "gaugehistogram",
    }
}

/// Writes a series line by line; tells how many.
fn put_series(text: &mut String, series: &Series) -> u64 {
    let mut lines = 0;
    let mut prefix = String::new();
    text::put_labels(&mut prefix, &series.labels);
    prefix.push(' ');
    let floats = &series.samples.floats;
    for (time, value) in floats
        .times
        .iter()
        .zip(&floats.values)
        .filter(|(_, value)| !is_stale(**value))
    {
        text.push_str(&prefix);
        text::put_number(text, *value);
        end(text, *time);
        lines += 1;
    }
    let histograms = &series.samples.histograms;
    for (time, row) in histograms
        .times
        .iter()
        .zip(&histograms.values)
        .filter(|(_, row)| !is_stale(row.sum))
    {
        text.push_str(&prefix);
        text::put_histogram(text, row);
        end(text, *time);
        lines += 1;
    }
    lines
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
