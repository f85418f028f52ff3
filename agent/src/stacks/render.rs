//! Stacks as text and pictures: folded, a table, a flamegraph. The formats of other tools are in their own files.

use super::frames::{folded_names, shown_names, waker, waker_name};
use super::store::{Count, Place, Row, Store, Window};
use crate::aggregate::labels::printable;
use crate::error::{Error, Result};
use crate::ui::units::middle;
use agent_common::profile::sample;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, UNIX_EPOCH};

fn name_of(sample: u8) -> &'static str {
    sample::NAMES
        .get(usize::from(sample))
        .copied()
        .unwrap_or_default()
}

fn is_time(sample: u8) -> bool {
    sample::UNITS.get(usize::from(sample)) == Some(&"nanoseconds")
}

/// How much of a picture a stack takes: samples of the clock, microseconds of waiting, or how many packets or pages.
pub fn weight(sample: u8, count: Count) -> u64 {
    match sample {
        sample::CPU => count.samples,
        _ if is_time(sample) => (count.value + 500) / 1000,
        _ => count.value,
    }
}

/// What [`weight`] counts.
pub fn unit(sample: u8) -> &'static str {
    match sample {
        sample::CPU => "samples",
        _ if is_time(sample) => "µs",
        _ => "events",
    }
}

/// One line a stack, outermost first, as Brendan Gregg's scripts and most viewers read it; its number is the [`weight`]. On
/// top of what waited stands, behind `--`, who ended the wait, upside down: an off-wake flamegraph.
pub fn folded(store: &Store, rows: &[Row]) -> String {
    let mut lines: BTreeMap<String, u64> = BTreeMap::new();
    for row in rows {
        let mut line = row.who.process.replace([';', '\n'], " ");
        for frame in row.frames.iter().rev() {
            for name in folded_names(store, *frame).iter().rev() {
                line.push(';');
                line.push_str(name);
            }
        }
        if !row.who.label.is_empty() {
            line.push(';');
            line.push_str(&format!("[{}]", row.who.label.replace([';', '\n'], " ")));
        }
        if let Some((name, frames)) = waker(store, row) {
            for part in std::iter::once("--")
                .chain(frames.iter().map(String::as_str))
                .chain([&*name])
            {
                line.push(';');
                line.push_str(part);
            }
        }
        *lines.entry(line).or_default() += weight(row.who.sample, row.count);
    }
    lines
        .into_iter()
        .map(|(line, n)| format!("{line} {n}\n"))
        .collect()
}

/// An interactive flamegraph that needs nothing else.
pub fn svg(folded: &str, sample: u8, window: Window) -> Result<String> {
    let title = format!("geophone: {}", name_of(sample));
    draw(folded, &title, &span(window), unit(sample), false)
}

/// When, and for how long.
pub fn span(window: Window) -> String {
    let begin = UNIX_EPOCH + Duration::from_nanos(window.from);
    let seconds = (window.to - window.from) as f64 / 1e9;
    format!("{seconds:.0} s from {}", humantime::format_rfc3339_seconds(begin))
}

/// The flamegraph of folded stacks; with two numbers each it shows the difference.
pub(super) fn draw(
    folded: &str,
    title: &str,
    subtitle: &str,
    unit: &str,
    differential: bool,
) -> Result<String> {
    if folded.is_empty() {
        return Ok(nothing(title, subtitle));
    }
    let mut options = inferno::flamegraph::Options::default();
    options.title = title.to_owned();
    options.subtitle = Some(subtitle.to_owned());
    options.count_name = unit.to_owned();
    options.deterministic = true;
    // The roots on top: of a picture that is higher than the screen a browser shows the upper end first.
    options.direction = inferno::flamegraph::Direction::Inverted;
    if !differential {
        options.colors =
            inferno::flamegraph::color::Palette::Multi(inferno::flamegraph::color::MultiPalette::Perl);
    }
    let mut out = Vec::new();
    inferno::flamegraph::from_lines(&mut options, folded.lines(), &mut out)
        .map_err(|e| Error::new(format_args!("flamegraph: {e}")))?;
    String::from_utf8(out).map_err(|e| Error::new(format_args!("flamegraph: {e}")))
}

/// A picture that says that there is nothing to draw.
fn nothing(title: &str, subtitle: &str) -> String {
    let line = |y: u32, text: &str| {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        format!("<text x=\"600\" y=\"{y}\" text-anchor=\"middle\" font-family=\"monospace\">{text}</text>\n")
    };
    format!(
        "<?xml version=\"1.0\" standalone=\"no\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1200\" height=\"120\" \
         viewBox=\"0 0 1200 120\">\n<rect width=\"1200\" height=\"120\" fill=\"#eeeeb0\"/>\n{}{}{}</svg>\n",
        line(30, title),
        line(54, subtitle),
        line(90, "no samples")
    )
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
    /// What they are samples of ([`agent_common::profile::sample::NAMES`]).
    pub sample: String,
    /// When the window begins that they are of, seconds since the Unix epoch: it may be wider than what was asked for.
    pub from: f64,
    /// When it is over.
    pub to: f64,
    /// Samples.
    pub samples: u64,
    /// What they stand for: seconds of running or waiting, or how many.
    pub value: f64,
    /// Share of the user stacks that are whole.
    pub complete: f64,
    /// The functions with the most own time first.
    pub functions: Vec<Function>,
    /// The stacks with the most first: process, frames (innermost first), share.
    pub stacks: Vec<(String, Vec<String>, f64)>,
}

/// The busiest functions and stacks of a kind of sample, at most so many of each.
pub fn summary(store: &Store, rows: &[Row], sample: u8, window: Window, most: usize) -> Summary {
    let all: u64 = rows.iter().map(|row| row.count.value).sum();
    let share = |n: u64| n as f64 / all.max(1) as f64;
    let mut own: BTreeMap<String, u64> = BTreeMap::new();
    let mut total: BTreeMap<String, u64> = BTreeMap::new();
    let mut cut = 0;
    for row in rows {
        let names = shown_names(store, &row.frames);
        let is_cut = row
            .frames
            .last()
            .is_some_and(|frame| matches!(store.frame(*frame), Some((Place::Cut(_), _))));
        cut += if is_cut { row.count.value } else { 0 };
        if let Some(first) = names.first() {
            *own.entry(first.clone()).or_default() += row.count.value;
        }
        for name in names.into_iter().collect::<HashSet<_>>() {
            *total.entry(name).or_default() += row.count.value;
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
            let mut frames = shown_names(store, &row.frames);
            if let Some(name) = waker_name(store, row) {
                frames.push(format!("-- woken by {name}"));
                frames.extend(shown_names(store, row.waker.get(1..).unwrap_or_default()));
            }
            (row.who.process.to_string(), frames, share(row.count.value))
        })
        .collect();
    Summary {
        sample: name_of(sample).to_owned(),
        from: window.from as f64 / 1e9,
        to: window.to as f64 / 1e9,
        samples: rows.iter().map(|row| row.count.samples).sum(),
        value: if is_time(sample) {
            all as f64 / 1e9
        } else {
            all as f64
        },
        complete: 1.0 - share(cut),
        functions,
        stacks,
    }
}

/// As a table of at most `width` columns.
pub fn table(summary: &Summary, width: usize) -> String {
    let name = |name: &str, before: usize| middle(&printable(name), width.saturating_sub(before).max(10));
    let kind = sample::NAMES
        .iter()
        .position(|name| *name == summary.sample)
        .unwrap_or_default() as u8;
    let window = span(Window {
        from: (summary.from * 1e9) as u64,
        to: (summary.to * 1e9) as u64,
    });
    if summary.samples == 0 {
        return format!("no samples of {} in {window}\n", summary.sample);
    }
    let mut out = format!(
        "{} samples of {} in {window}\n{:.2} {}, {:.1} % of the stacks whole\n\n   OWN  TOTAL FUNCTION\n",
        summary.samples,
        summary.sample,
        summary.value,
        if is_time(kind) { "s" } else { "events" },
        summary.complete * 100.0
    );
    for function in &summary.functions {
        out.push_str(&format!(
            "{:5.1}% {:5.1}% {}\n",
            function.own * 100.0,
            function.total * 100.0,
            name(&function.name, 14)
        ));
    }
    for (process, frames, share) in summary.stacks.iter().take(3) {
        out.push_str(&format!("\n{:5.1}% {}\n", share * 100.0, name(process, 7)));
        for frame in frames {
            out.push_str(&format!("       {}\n", name(frame, 7)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::names::INLINED;
    use crate::stacks::store::{Count, Query, Who};
    use agent_common::profile::end;

    fn store() -> Store {
        let mut store = Store::new(1 << 20);
        let who = Who {
            subject: "s".into(),
            process: "a;b".into(),
            pid: 1,
            thread: "t".into(),
            container: "".into(),
            cgroup: "".into(),
            sample: 0,
            label: "".into(),
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
    fn who_ended_a_wait_stands_on_top_of_it() {
        let mut store = Store::new(1 << 20);
        let who = Who {
            process: "db".into(),
            sample: sample::OFF_CPU,
            label: "lock".into(),
            ..Who::default()
        };
        let (tracing, wait, main) = (Place::Kernel(9), Place::Kernel(1), Place::Binary(1, 1));
        let (wake, post) = (Place::Kernel(2), Place::Binary(2, 2));
        let waker = Place::Waker(*b"a;b\0\0\0\0\0\0\0\0\0\0\0\0\0");
        let count = Count {
            samples: 1,
            value: 5_000_000,
        };
        store.add(
            0,
            who,
            &[tracing, wait, main, waker, tracing, wake, post],
            &[],
            count,
        );
        for (place, name) in [
            (tracing, "__traceiter_sched_waking"),
            (wait, "schedule"),
            (main, "main"),
            (wake, "try_to_wake_up"),
            (post, "post"),
        ] {
            store.name(place, name);
        }
        let query = Query {
            sample: sample::OFF_CPU,
            ..Query::default()
        };
        let rows = store.query(&query);
        assert_eq!(
            folded(&store, &rows),
            "db;main;schedule_[k];[lock];--;try_to_wake_up_[k];post;a b 5000\n"
        );
        let summary = summary(&store, &rows, sample::OFF_CPU, Window::default(), 10);
        assert_eq!(summary.functions.len(), 1, "what waited: {:?}", summary.functions);
        let shown = table(&summary, 80);
        assert!(
            shown.contains("main\n       -- woken by a b\n       try_to_wake_up\n       post\n"),
            "{shown}"
        );
        assert!(store.nameless_all().is_empty());
    }

    #[test]
    fn inlined_functions_are_frames_of_their_own() {
        let mut store = store();
        store.name(
            Place::Binary(1, 2),
            &["inner", "middle", "leaf<T>"].join(&INLINED.to_string()),
        );
        let rows = store.query(&Query::default());
        let folded = folded(&store, &rows);
        assert!(
            folded.contains("a b;main;leaf<T>;middle_[i];inner_[i] 7\n"),
            "{folded}"
        );
        let summary = summary(&store, &rows, 0, Window::default(), 10);
        let told: Vec<_> = summary
            .functions
            .iter()
            .map(|f| (f.name.as_str(), f.own))
            .collect();
        assert_eq!(told[0], ("inner (inlined)", 0.8));
        assert_eq!(
            summary.stacks[0].1,
            ["inner (inlined)", "middle (inlined)", "leaf<T>", "main"]
        );
        let made = crate::stacks::pprof::profile(&store, &rows, 0, Window::default());
        assert!(made.location.iter().any(|l| l.line.len() == 3));
    }

    #[test]
    fn a_function_that_calls_itself_counts_once() {
        let store = store();
        let summary = summary(&store, &store.query(&Query::default()), 0, Window::default(), 10);
        let leaf = summary.functions.first().unwrap();
        assert_eq!((leaf.name.as_str(), leaf.own, leaf.total), ("leaf<T>", 0.8, 0.8));
        assert_eq!((summary.samples, summary.complete), (10, 0.9));
        assert!((summary.value - 0.01).abs() < 1e-9);
        assert!(table(&summary, 80).contains(" 80.0%  80.0% leaf<T>\n"));
    }

    #[test]
    fn the_picture_has_every_function() {
        let store = store();
        let folded = folded(&store, &store.query(&Query::default()));
        let text = svg(&folded, sample::CPU, Window::default()).unwrap();
        assert!(text.starts_with("<?xml") && text.contains("leaf&lt;T&gt;") && text.contains("ksys_read"));
    }

    #[test]
    fn an_empty_window_says_so() {
        let window = Window {
            from: 0,
            to: 10_000_000_000,
        };
        let text = svg("", sample::CPU, window).unwrap();
        assert!(
            text.contains("no samples") && text.contains("10 s from 1970-01-01T00:00:00Z"),
            "{text}"
        );
        let empty = Store::new(1 << 20);
        let summary = summary(&empty, &[], sample::OFF_CPU, window, 10);
        assert_eq!(
            table(&summary, 80),
            "no samples of off_cpu in 10 s from 1970-01-01T00:00:00Z\n"
        );
    }
}
