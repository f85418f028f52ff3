//! Stacks as text and pictures: folded, a table, a flamegraph. The formats of other tools are in their own files.

use super::store::{Place, Row, Store};
use crate::error::{Error, Result};
use agent_common::profile::end;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// Name of a frame as it is shown.
pub fn frame_name(store: &Store, frame: u32) -> String {
    match store.frame(frame) {
        Some((_, Some(name))) => name.to_string(),
        Some((Place::Cut(why), _)) => {
            let why = end::NAMES.get(usize::from(why)).copied().unwrap_or("unknown");
            format!("[cut: {why}]")
        }
        Some((place, None)) => match place {
            Place::Kernel(address)
            | Place::Binary(_, address)
            | Place::Anonymous(address)
            | Place::Unknown(address) => {
                format!("{address:#x}")
            }
            Place::Cut(_) => String::new(),
        },
        None => "[unknown]".into(),
    }
}

/// Whether a frame is the kernel's.
fn is_kernel(store: &Store, frame: u32) -> bool {
    matches!(store.frame(frame), Some((Place::Kernel(_), _)))
}

/// One line a stack, outermost first, as Brendan Gregg's scripts and most viewers read it.
pub fn folded(store: &Store, rows: &[Row]) -> String {
    let mut lines: BTreeMap<String, u64> = BTreeMap::new();
    for row in rows {
        let mut line = row.who.process.replace([';', '\n'], " ");
        for frame in row.frames.iter().rev() {
            line.push(';');
            line.push_str(&frame_name(store, *frame));
            if is_kernel(store, *frame) {
                line.push_str("_[k]");
            }
        }
        *lines.entry(line).or_default() += row.count.samples;
    }
    lines
        .into_iter()
        .map(|(line, n)| format!("{line} {n}\n"))
        .collect()
}

/// An interactive flamegraph that needs nothing else.
pub fn svg(folded: &str, title: &str) -> Result<String> {
    let mut options = inferno::flamegraph::Options::default();
    options.title = title.to_owned();
    options.count_name = "samples".to_owned();
    options.deterministic = true;
    options.colors =
        inferno::flamegraph::color::Palette::Multi(inferno::flamegraph::color::MultiPalette::Perl);
    let mut out = Vec::new();
    inferno::flamegraph::from_lines(&mut options, folded.lines(), &mut out)
        .map_err(|e| Error::new(format_args!("flamegraph: {e}")))?;
    String::from_utf8(out).map_err(|e| Error::new(format_args!("flamegraph: {e}")))
}

/// A function, by how much of all it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Share of the samples that were in it.
    pub own: f64,
    /// Share of the samples that were in it or in what it called.
    pub total: f64,
}

/// What a window of time looked like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Samples.
    pub samples: u64,
    /// CPU seconds that they stand for.
    pub seconds: f64,
    /// Share of the user stacks that are whole.
    pub complete: f64,
    /// The functions with the most own time first.
    pub functions: Vec<Function>,
    /// The stacks with the most first: process, frames (innermost first), share.
    pub stacks: Vec<(String, Vec<String>, f64)>,
}

/// The busiest functions and stacks, at most so many of each.
pub fn summary(store: &Store, rows: &[Row], most: usize) -> Summary {
    let samples: u64 = rows.iter().map(|row| row.count.samples).sum();
    let share = |n: u64| n as f64 / samples.max(1) as f64;
    let mut own: BTreeMap<String, u64> = BTreeMap::new();
    let mut total: BTreeMap<String, u64> = BTreeMap::new();
    let mut cut = 0;
    for row in rows {
        let names: Vec<String> = row.frames.iter().map(|frame| frame_name(store, *frame)).collect();
        let is_cut = row
            .frames
            .last()
            .is_some_and(|frame| matches!(store.frame(*frame), Some((Place::Cut(_), _))));
        cut += if is_cut { row.count.samples } else { 0 };
        if let Some(first) = names.first() {
            *own.entry(first.clone()).or_default() += row.count.samples;
        }
        for name in names.into_iter().collect::<HashSet<_>>() {
            *total.entry(name).or_default() += row.count.samples;
        }
    }
    let mut functions: Vec<Function> = own
        .into_iter()
        .map(|(name, n)| Function {
            own: share(n),
            total: share(total.get(&name).copied().unwrap_or(n)),
            name,
        })
        .collect();
    functions.sort_by(|a, b| b.own.total_cmp(&a.own).then_with(|| a.name.cmp(&b.name)));
    functions.truncate(most);
    let stacks = rows
        .iter()
        .take(most)
        .map(|row| {
            let frames = row.frames.iter().map(|frame| frame_name(store, *frame)).collect();
            (row.who.process.to_string(), frames, share(row.count.samples))
        })
        .collect();
    Summary {
        samples,
        seconds: rows.iter().map(|row| row.count.value).sum::<u64>() as f64 / 1e9,
        complete: 1.0 - share(cut),
        functions,
        stacks,
    }
}

/// As a table to read.
pub fn table(summary: &Summary) -> String {
    let mut out = format!(
        "{} samples, {:.2} CPU seconds, {:.1} % of the stacks whole\n\n   OWN  TOTAL FUNCTION\n",
        summary.samples,
        summary.seconds,
        summary.complete * 100.0
    );
    for function in &summary.functions {
        out.push_str(&format!(
            "{:5.1}% {:5.1}% {}\n",
            function.own * 100.0,
            function.total * 100.0,
            function.name
        ));
    }
    for (process, frames, share) in summary.stacks.iter().take(3) {
        out.push_str(&format!("\n{:5.1}% {process}\n", share * 100.0));
        for frame in frames {
            out.push_str(&format!("       {frame}\n"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::store::{Count, Query, Who};

    fn store() -> Store {
        let mut store = Store::new(1 << 20);
        let who = Who {
            subject: "s".into(),
            process: "a;b".into(),
            pid: 1,
            thread: "t".into(),
            container: "".into(),
            sample: 0,
        };
        let (main, leaf, read, cut) = (
            Place::Binary(1, 1),
            Place::Binary(1, 2),
            Place::Kernel(3),
            Place::Cut(end::NO_ROW),
        );
        let count = |samples| Count {
            samples,
            value: samples * 1_000_000,
        };
        store.add(0, who.clone(), &[leaf, main], &[], count(7));
        store.add(0, who.clone(), &[read, main], &[], count(2));
        store.add(0, who, &[leaf, leaf, cut], &[], count(1));
        store.name(main, "main");
        store.name(leaf, "leaf<T>");
        store.name(read, "ksys_read");
        store
    }

    #[test]
    fn folded_stacks_begin_with_the_process() {
        let store = store();
        assert_eq!(
            folded(&store, &store.query(&Query::default())),
            "a b;[cut: no_row];leaf<T>;leaf<T> 1\na b;main;ksys_read_[k] 2\na b;main;leaf<T> 7\n"
        );
    }

    #[test]
    fn a_function_that_calls_itself_counts_once() {
        let store = store();
        let summary = summary(&store, &store.query(&Query::default()), 10);
        let leaf = summary.functions.first().unwrap();
        assert_eq!((leaf.name.as_str(), leaf.own, leaf.total), ("leaf<T>", 0.8, 0.8));
        assert_eq!((summary.samples, summary.complete), (10, 0.9));
        assert!((summary.seconds - 0.01).abs() < 1e-9);
        assert!(table(&summary).contains(" 80.0%  80.0% leaf<T>\n"));
    }

    #[test]
    fn the_picture_has_every_function() {
        let store = store();
        let text = svg(&folded(&store, &store.query(&Query::default())), "t").unwrap();
        assert!(text.starts_with("<?xml") && text.contains("leaf&lt;T&gt;") && text.contains("ksys_read"));
    }
}
