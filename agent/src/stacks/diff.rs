//! What changed from one profile to another: which functions gained share, which lost it.

use super::pprof::Profile;
use super::render;
use crate::aggregate::labels::{clean, printable};
use crate::error::{Context as _, Error, Result};
use crate::ui::units::middle;
use flate2::read::GzDecoder;
use prost::Message as _;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read as _;

/// Largest profile that is read, unpacked.
const LONGEST: u64 = 512 << 20;
/// Functions that are told.
const SHOWN: usize = 40;
/// What changed less is not told.
const LEAST: f64 = 0.0005;

/// A profile, however it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Side {
    /// What it is: the name of the file, and the window if it is known.
    pub what: String,
    /// What the numbers count.
    pub unit: String,
    /// Stacks, outermost first, joined by `;`.
    pub stacks: BTreeMap<String, u64>,
}

impl Side {
    /// Folded stacks: a line each, its number at the end.
    pub fn folded(what: &str, text: &str) -> Result<Self> {
        let mut stacks = BTreeMap::new();
        for (at, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
        {
            let parsed = line
                .trim_end()
                .rsplit_once(' ')
                .and_then(|(stack, n)| Some((stack, n.parse::<u64>().ok()?)));
            let Some((stack, n)) = parsed else {
                return Err(Error::new(format_args!(
                    "{what}: line {} has no number at its end; is it of folded stacks?",
                    at + 1
                )));
            };
            *stacks.entry(stack.to_owned()).or_default() += n;
        }
        Ok(Self {
            what: what.to_owned(),
            unit: "samples".into(),
            stacks,
        })
    }

    /// profile.proto, gzipped or plain: of several values the last, as pprof has it.
    pub fn pprof(what: &str, bytes: &[u8]) -> Result<Self> {
        let mut plain = Vec::new();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            GzDecoder::new(bytes)
                .take(LONGEST + 1)
                .read_to_end(&mut plain)
                .context(what)?;
            if plain.len() as u64 > LONGEST {
                return Err(Error::new(format_args!(
                    "{what}: larger than {} MiB",
                    LONGEST >> 20
                )));
            }
        } else {
            plain = bytes.to_vec();
        }
        let profile = Profile::decode(plain.as_slice())
            .map_err(|e| Error::new(format_args!("{what}: not a profile of pprof: {e}")))?;
        let text = |i: i64| {
            usize::try_from(i)
                .ok()
                .and_then(|i| profile.string_table.get(i))
                .map_or("", String::as_str)
        };
        let unit = profile.sample_type.last().map_or("", |kind| text(kind.unit));
        let is_time = unit == "nanoseconds";
        let functions: HashMap<u64, &str> = profile.function.iter().map(|f| (f.id, text(f.name))).collect();
        let files: HashMap<u64, &str> = profile.mapping.iter().map(|m| (m.id, text(m.filename))).collect();
        let locations: HashMap<u64, _> = profile.location.iter().map(|l| (l.id, l)).collect();
        let mut stacks = BTreeMap::new();
        for sample in &profile.sample {
            let label = |key: &str| {
                sample
                    .label
                    .iter()
                    .find(|l| text(l.key) == key)
                    .map_or("", |l| text(l.str))
            };
            let mut frames: Vec<String> = Vec::new();
            if !label("label").is_empty() {
                frames.push(format!("[{}]", label("label")));
            }
            for id in &sample.location_id {
                let Some(location) = locations.get(id) else {
                    continue;
                };
                let file = files.get(&location.mapping_id).copied().unwrap_or_default();
                let kernel = if file == "[kernel.kallsyms]" { "_[k]" } else { "" };
                for line in &location.line {
                    frames.push(format!(
                        "{}{kernel}",
                        functions.get(&line.function_id).copied().unwrap_or("[unknown]")
                    ));
                }
                if location.line.is_empty() {
                    let file = file.rsplit('/').next().unwrap_or_default();
                    frames.push(match file {
                        "" => format!("{:#x}", location.address),
                        file => format!("[{file}+{:#x}]", location.address),
                    });
                }
            }
            if !label("process").is_empty() {
                frames.push(label("process").to_owned());
            }
            let frames: Vec<String> = frames
                .into_iter()
                .rev()
                .map(|f| f.replace([';', '\n'], " "))
                .collect();
            let value = sample.value.last().map_or(0, |v| u64::try_from(*v).unwrap_or(0));
            let value = if is_time { (value + 500) / 1000 } else { value };
            *stacks.entry(frames.join(";")).or_default() += value;
        }
        let window = match (
            u64::try_from(profile.time_nanos),
            u64::try_from(profile.duration_nanos),
        ) {
            (Ok(from @ 1..), Ok(length)) => {
                let to = from.saturating_add(length);
                format!(", {}", render::span(super::query::Window { from, to }))
            }
            _ => String::new(),
        };
        Ok(Self {
            what: format!("{what}{window}"),
            unit: if is_time { "µs".into() } else { clean(unit) },
            stacks,
        })
    }

    fn total(&self) -> u64 {
        self.stacks.values().sum()
    }
}

/// A function before and after.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// Share that was spent in it.
    pub own: [f64; 2],
    /// Share that was spent in it or in what it called.
    pub total: [f64; 2],
}

/// All that changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// What is compared.
    pub what: [String; 2],
    /// What the totals count.
    pub unit: [String; 2],
    /// The sum of each.
    pub total: [u64; 2],
    /// Functions by how much their own share changed.
    pub functions: Vec<Change>,
}

/// The functions whose shares changed most.
pub fn summary(sides: &[Side; 2]) -> Summary {
    let mut functions: BTreeMap<&str, [[u64; 2]; 2]> = BTreeMap::new();
    for (at, side) in sides.iter().enumerate() {
        let mut add = |name, what: usize, n| {
            let found = functions.entry(name).or_default();
            if let Some(sum) = found.get_mut(what).and_then(|sums| sums.get_mut(at)) {
                *sum += n;
            }
        };
        for (stack, &n) in &side.stacks {
            if let Some(leaf) = stack.rsplit(';').next() {
                add(leaf, 0, n);
            }
            for name in stack.split(';').collect::<HashSet<_>>() {
                add(name, 1, n);
            }
        }
    }
    let total = [sides[0].total(), sides[1].total()];
    let share = |[a, b]: [u64; 2]| {
        [
            a as f64 / total[0].max(1) as f64,
            b as f64 / total[1].max(1) as f64,
        ]
    };
    let change = |[a, b]: [f64; 2]| (b - a).abs();
    let mut functions: Vec<Change> = functions
        .into_iter()
        .map(|(name, [own, total])| Change {
            name: name.to_owned(),
            own: share(own),
            total: share(total),
        })
        .filter(|f| change(f.own).max(change(f.total)) >= LEAST)
        .collect();
    functions.sort_by(|a, b| {
        let by = change(b.own).total_cmp(&change(a.own));
        by.then(change(b.total).total_cmp(&change(a.total)))
            .then_with(|| a.name.cmp(&b.name))
    });
    functions.truncate(SHOWN);
    Summary {
        what: sides.each_ref().map(|s| s.what.clone()),
        unit: sides.each_ref().map(|s| s.unit.clone()),
        total,
        functions,
    }
}

/// As a table of at most `width` columns.
pub fn table(summary: &Summary, width: usize) -> String {
    let mut out = String::new();
    for (name, ((what, total), unit)) in ["A", "B"]
        .into_iter()
        .zip(summary.what.iter().zip(summary.total).zip(&summary.unit))
    {
        out.push_str(&format!("{name}: {total} {unit}, {}\n", printable(what)));
    }
    if summary.total.contains(&0) {
        out.push_str("\nno samples, so nothing can be compared\n");
        return out;
    }
    if summary.functions.is_empty() {
        out.push_str("\nno function changed its share by 0.05 points or more\n");
        return out;
    }
    out.push_str("\n OWN A      B CHANGE  TOTAL A      B CHANGE FUNCTION\n");
    for function in &summary.functions {
        let [[own, own_after], [total, total_after]] =
            [function.own, function.total].map(|s| s.map(|v| v * 100.0));
        let line = format!(
            "{own:5.1}% {own_after:5.1}% {:+6.1}   {total:5.1}% {total_after:5.1}% {:+6.1} ",
            own_after - own,
            total_after - total,
        );
        let room = width.saturating_sub(line.chars().count()).max(10);
        out.push_str(&format!("{line}{}\n", middle(&printable(&function.name), room)));
    }
    out
}

/// Folded stacks with both numbers, as other tools take them.
pub fn folded(sides: &[Side; 2]) -> String {
    merged(sides)
        .into_iter()
        .map(|(stack, [a, b])| format!("{stack} {a} {b}\n"))
        .collect()
}

fn merged(sides: &[Side; 2]) -> BTreeMap<&str, [u64; 2]> {
    let mut stacks: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
    for (at, side) in sides.iter().enumerate() {
        for (stack, n) in &side.stacks {
            if let Some(count) = stacks.entry(stack).or_default().get_mut(at) {
                *count = *n;
            }
        }
    }
    stacks
}

/// A flamegraph of the second, red where a stack gained share and blue where it lost it.
pub fn svg(sides: &[Side; 2]) -> Result<String> {
    let [before, after] = sides.each_ref().map(Side::total);
    // Shares are compared: the first is stretched to the length of the second.
    let scale = after as f64 / before.max(1) as f64;
    let lines: String = merged(sides)
        .into_iter()
        .map(|(stack, [a, b])| format!("{stack} {} {b}\n", (a as f64 * scale).round() as u64))
        .collect();
    let lines = if after == 0 { "" } else { &lines };
    let subtitle = format!("from {} to {}", sides[0].what, sides[1].what);
    render::draw(lines, "geophone: difference", &subtitle, &sides[1].unit, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::pprof;
    use crate::stacks::store::{Count, Place, Query, Store, Who, Window};

    fn sides() -> [Side; 2] {
        [
            Side::folded("a.folded", "p;main;old 60\np;main;same 40\n").unwrap(),
            Side::folded("b.folded", "p;main;new 100\np;main;same 100\n\n").unwrap(),
        ]
    }

    #[test]
    fn what_gained_and_lost_share_comes_first() {
        let summary = summary(&sides());
        let told: Vec<_> = summary
            .functions
            .iter()
            .map(|f| (f.name.as_str(), f.own, f.total))
            .collect();
        assert_eq!(
            told,
            [
                ("old", [0.6, 0.0], [0.6, 0.0]),
                ("new", [0.0, 0.5], [0.0, 0.5]),
                ("same", [0.4, 0.5], [0.4, 0.5]),
            ],
            "main and the process have all of both"
        );
        let text = table(&summary, 60);
        assert!(
            text.starts_with("A: 100 samples, a.folded\nB: 200 samples, b.folded\n"),
            "{text}"
        );
        assert!(
            text.contains(" 60.0%   0.0%  -60.0    60.0%   0.0%  -60.0 old\n"),
            "{text}"
        );
        let same = Side::folded("x", "a 1\n").unwrap();
        let text = table(&super::summary(&[same.clone(), same.clone()]), 80);
        assert!(
            text.ends_with("\nno function changed its share by 0.05 points or more\n"),
            "{text}"
        );
        let text = table(&super::summary(&[Side::default(), same]), 80);
        assert!(
            text.ends_with("\nno samples, so nothing can be compared\n"),
            "{text}"
        );
    }

    #[test]
    fn a_long_name_is_cut_in_its_middle() {
        let name = "very_long::".repeat(30) + "leaf";
        let sides = [
            Side::folded("a", &format!("{name} 5\nx 5\n")).unwrap(),
            Side::folded("b", &format!("{name} 9\nx 1\n")).unwrap(),
        ];
        let text = table(&summary(&sides), 80);
        let line = text.lines().find(|l| l.contains("very_long")).unwrap();
        assert!(
            line.chars().count() == 80 && line.contains('…') && line.ends_with("leaf"),
            "{line}"
        );
    }

    #[test]
    fn the_picture_shows_the_second_and_the_file_has_both() {
        let sides = sides();
        assert_eq!(
            folded(&sides),
            "p;main;new 0 100\np;main;old 60 0\np;main;same 40 100\n"
        );
        let text = svg(&sides).unwrap();
        assert!(text.contains("same (100 samples, 50.00%; +10.00%)"), "{text}");
        assert!(
            svg(&[sides[0].clone(), Side::default()])
                .unwrap()
                .contains("no samples")
        );
    }

    #[test]
    fn our_own_pprof_is_read_back_as_the_folded_stacks_are() {
        let mut store = Store::new(1 << 20);
        let who = Who {
            subject: "s".into(),
            process: "nginx".into(),
            pid: 1,
            thread: "t".into(),
            container: "".into(),
            cgroup: "".into(),
            sample: 1,
            label: "futex".into(),
        };
        let (main, kernel) = (Place::Binary(1, 1), Place::Kernel(u64::MAX - 9));
        let count = Count {
            samples: 1,
            value: 7_000_400,
        };
        store.add(0, who, &[kernel, main], &[], count);
        store.name(main, "main");
        store.name(kernel, "schedule");
        let query = Query {
            sample: 1,
            ..Query::default()
        };
        let rows = store.query(&query);
        let window = Window {
            from: 1_000_000_000,
            to: 11_000_000_000,
        };
        let bytes = pprof::encode(&store, &rows, 1, window).unwrap();
        let side = Side::pprof("5m..now", &bytes).unwrap();
        assert_eq!(side.what, "5m..now, 10 s from 1970-01-01T00:00:01Z");
        assert_eq!(side.unit, "µs");
        let folded = Side::folded("", &render::folded(&store, &rows)).unwrap();
        assert_eq!(side.stacks, folded.stacks);
        assert_eq!(
            side.stacks,
            [("nginx;main;schedule_[k];[futex]".to_owned(), 7000)].into()
        );
    }

    #[test]
    fn what_is_no_profile_is_named() {
        let error = Side::folded("x.folded", "a;b 1\nnonsense\n")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "x.folded: line 2 has no number at its end; is it of folded stacks?"
        );
        let error = Side::pprof("x.pb.gz", b"<html>").unwrap_err().to_string();
        assert!(error.starts_with("x.pb.gz: not a profile of pprof: "), "{error}");
        assert!(Side::pprof("x.pb.gz", &[0x1f, 0x8b, 1]).is_err());
    }
}
