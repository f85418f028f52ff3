//! What the CPUs did when an anomaly began and had not done before: of the functions that were sampled those whose time has
//! changed most.

use super::anomaly::Labelled;
use super::evidence::is_chance;
use super::{Evidence, Unit, Windows};
use crate::anomaly::Millis;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Changes that are told.
const MOST: usize = 5;
/// A change is at least this share of a CPU, and by this factor.
const LEAST: f64 = 0.05;
const FACTOR: f64 = 1.5;
/// A baseline is so many times as long as what is compared with it, or says nothing.
const BASELINE: f64 = 2.0;
/// Functions that are told of the way to one.
const CALLERS: usize = 3;
/// Longest name that is told, in characters.
const NAME: usize = 120;

/// CPU time of a function of somebody's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Used {
    /// Container, unit or process.
    pub subject: Arc<str>,
    /// Name of the process.
    pub process: Arc<str>,
    /// Name of the function; empty = it is not known which.
    pub function: String,
    /// Samples in which it ran itself.
    pub samples: u64,
    /// Seconds that these stand for.
    pub seconds: f64,
    /// A stack of it that was seen often, by its number.
    pub stack: u32,
}

/// What the CPUs did in a window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// When it begins.
    pub from: Millis,
    /// When it is over.
    pub to: Millis,
    /// Each function of each process of each subject once.
    pub used: Vec<Used>,
}

impl Profile {
    fn seconds(&self) -> f64 {
        (self.to - self.from).max(0) as f64 / 1e3
    }

    fn window(&self) -> [f64; 2] {
        [self.from as f64 / 1e3, self.to as f64 / 1e3]
    }
}

#[derive(Clone, Copy, Default)]
struct Time {
    samples: u64,
    seconds: f64,
    stack: u32,
}

/// A function, or a process as a whole, before and now.
struct Change<'a> {
    of: [&'a str; 3],
    /// Shares of a CPU.
    before: f64,
    now: f64,
    /// Where it is to be seen.
    stack: u32,
}

impl Change<'_> {
    fn by(&self) -> f64 {
        self.now - self.before
    }
}

/// The functions whose share of a CPU changed most and by more than chance does: those of the subject that it is about first (empty =
/// it is about none), and of these the largest change. A process whose change none of them explains by half is told as a whole.
/// `names` has the functions of a stack, the innermost first.
pub fn changes(
    before: &Profile,
    now: &Profile,
    subject: &str,
    names: &dyn Fn(u32) -> Vec<String>,
) -> Vec<Evidence> {
    let lengths = [before.seconds(), now.seconds()];
    if lengths[1] <= 0.0 || lengths[0] < BASELINE * lengths[1] {
        return Vec::new();
    }
    let mut processes: BTreeMap<[&str; 2], BTreeMap<&str, [Time; 2]>> = BTreeMap::new();
    for (side, profile) in [before, now].into_iter().enumerate() {
        for one in &profile.used {
            let process = processes.entry([&one.subject, &one.process]).or_default();
            let times = process.entry(&one.function).or_default();
            if let Some(time) = times.get_mut(side) {
                time.samples += one.samples;
                time.seconds += one.seconds;
                time.stack = one.stack;
            }
        }
    }
    let mut found = Vec::new();
    for ([subject, process], functions) in processes {
        let (mut whole, mut told) = ([Time::default(); 2], 0.0);
        for (function, times) in functions {
            for (sum, time) in whole.iter_mut().zip(times) {
                sum.samples += time.samples;
                sum.seconds += time.seconds;
            }
            if let Some(change) = change([subject, process, function], times, lengths)
                && !function.is_empty()
            {
                told += change.by();
                found.push(change);
            }
        }
        let whole = change([subject, process, ""], whole, lengths);
        found.extend(whole.filter(|whole| (whole.by() - told).abs() > whole.by().abs() / 2.0));
    }
    let is_other = |change: &Change| change.of[0] != subject;
    let size = |change: &Change| change.by().abs();
    found.sort_by(|a, b| {
        let by_subject = is_other(a).cmp(&is_other(b));
        by_subject.then(size(b).total_cmp(&size(a))).then(a.of.cmp(&b.of))
    });
    found.truncate(MOST);
    let windows = Windows {
        before: before.window(),
        now: now.window(),
    };
    found.iter().map(|one| evidence(one, windows, names)).collect()
}

/// What changed by more than chance does.
fn change<'a>(of: [&'a str; 3], [before, now]: [Time; 2], lengths: [f64; 2]) -> Option<Change<'a>> {
    let change = Change {
        of,
        before: before.seconds / lengths[0],
        now: now.seconds / lengths[1],
        stack: if now.samples > 0 { now.stack } else { before.stack },
    };
    let (low, high) = (change.before.min(change.now), change.before.max(change.now));
    let expected = before.samples as f64 * lengths[1] / lengths[0];
    let is_small = high - low < LEAST || high < FACTOR * low;
    (!is_small && !is_chance(expected, now.samples as f64)).then_some(change)
}

fn evidence(change: &Change, windows: Windows, names: &dyn Fn(u32) -> Vec<String>) -> Evidence {
    let [subject, process, function] = change.of;
    let via = match function {
        "" => String::new(),
        _ => via(&names(change.stack)),
    };
    let own = [
        ("subject", shown(subject)),
        ("process", shown(process)),
        ("function", shown(function)),
        ("via", via),
    ];
    let own = own.into_iter().filter(|(_, value)| !value.is_empty());
    let is_there = |share: f64| (share > 0.0).then_some(share);
    Evidence {
        what: "CPU time".to_owned(),
        unit: Unit::Ratio,
        labels: own
            .map(|(name, value)| (name.to_owned(), value))
            .collect::<Labelled>(),
        before: is_there(change.before),
        now: is_there(change.now),
        windows: Some(windows),
    }
}

/// Who called the innermost of some functions, the outermost of them first.
fn via(functions: &[String]) -> String {
    let callers = functions.iter().skip(1).take(CALLERS);
    let callers: Vec<String> = callers.rev().map(|name| shown(name)).collect();
    callers.join(" > ")
}

/// A name without what terminals obey, its middle left out if it is too long: programs choose what their functions are called.
fn shown(name: &str) -> String {
    let harmless = name.chars().map(|c| match c {
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    });
    let all: Vec<char> = harmless.collect();
    let half = NAME / 2;
    match all.len() > NAME {
        false => all.into_iter().collect(),
        true => {
            let begin = all.iter().take(half);
            let end = all.iter().skip(all.len() - (NAME - half - 1));
            begin.chain([&'…']).chain(end).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples a second of a CPU.
    const HZ: f64 = 19.0;

    fn used(process: &str, function: &str, samples: u64) -> Used {
        Used {
            subject: "shop".into(),
            process: process.into(),
            function: function.to_owned(),
            samples,
            seconds: samples as f64 / HZ,
            stack: samples as u32,
        }
    }

    fn profile(from: Millis, to: Millis, used: Vec<Used>) -> Profile {
        Profile { from, to, used }
    }

    fn told(before: Vec<Used>, now: Vec<Used>) -> Vec<String> {
        let names = |stack: u32| {
            ["leaf", "a", "b", "c", "main"]
                .map(|name| format!("{name}{stack}"))
                .to_vec()
        };
        let (before, now) = (profile(0, 600_000, before), profile(600_000, 610_000, now));
        let all = changes(&before, &now, "", &names);
        all.iter().map(ToString::to_string).collect()
    }

    /// Cause: a function begins to take most of a CPU, another one stops, a third goes on, and some are seen a little more often than
    /// before. Seen: the first two, with who called them.
    #[test]
    fn what_has_changed_most_is_told() {
        let before = vec![
            used("web", "serve", 5700),
            used("web", "old", 3420),
            used("db", "rare", 60),
        ];
        let now = vec![
            used("web", "serve", 101),
            used("web", "new", 180),
            used("db", "rare", 4),
            used("db", "seen", 3),
        ];
        assert_eq!(
            told(before, now),
            [
                "CPU time function=new, process=web, subject=shop, via=c180 > b180 > a180: \
                 94.7 % in 10 s, before none in 600 s",
                "CPU time function=old, process=web, subject=shop, via=c3420 > b3420 > a3420: \
                 none in 10 s, before 30 % in 600 s",
            ]
        );
    }

    /// Cause: ten samples are expected and there are more. Seen: chance makes twenty of them, and these are not told; twenty-four
    /// are. Of many it is the factor that counts.
    #[test]
    fn what_chance_does_is_not_told() {
        let of = |before, now| told(vec![used("web", "f", before)], vec![used("web", "f", now)]).len();
        assert_eq!((of(600, 10), of(600, 20), of(600, 24)), (0, 0, 1));
        assert_eq!((of(24_000, 500), of(24_000, 610)), (0, 1));
    }

    /// Cause: a compiler begins, whose time goes to hundreds of functions. Seen: the process as a whole, where no function is more
    /// than chance; not of one whose functions say it all.
    #[test]
    fn a_process_is_told_if_no_function_is() {
        let many = (0..90).map(|i| used("cc1", &format!("f{i}"), 2));
        let one = used("gzip", "deflate", 170);
        let nameless = used("jit", "", 95);
        let all = told(Vec::new(), many.chain([one, nameless]).collect());
        let begins = [
            "CPU time process=cc1, subject=shop: 94.7 % ",
            "CPU time function=deflate, process=gzip, ",
            "CPU time process=jit, subject=shop: 50 % ",
        ];
        assert_eq!(all.len(), 3, "{all:?}");
        for (one, begin) in all.iter().zip(begins) {
            assert!(one.starts_with(begin), "{one}");
        }
    }

    /// Cause: an anomaly of a subject while others do much that is new. Seen: what the subject did comes first, though it is less.
    #[test]
    fn what_the_subject_did_comes_first() {
        let own = Used {
            subject: "db".into(),
            ..used("db", "vacuum", 30)
        };
        let others = (0..9).map(|i| used("web", &format!("f{i}"), 100));
        let now = profile(600_000, 610_000, others.chain([own]).collect());
        let all = changes(&profile(0, 600_000, Vec::new()), &now, "db", &|_| Vec::new());
        assert_eq!(all.len(), MOST);
        assert_eq!(all[0].labels["function"], "vacuum");
    }

    #[test]
    fn five_at_most_and_none_without_a_baseline() {
        let now = || {
            (0..20)
                .map(|i| used("web", &format!("f{i:02}"), 50 + i))
                .collect::<Vec<_>>()
        };
        let all = told(Vec::new(), now());
        assert_eq!(all.len(), MOST);
        assert!(all[0].contains("function=f19"), "{all:?}");
        let window = profile(600_000, 610_000, now());
        for from in [600_000, 599_000, 581_000] {
            let before = profile(from, 600_000, Vec::new());
            assert_eq!(changes(&before, &window, "", &|_| Vec::new()), [], "from {from}");
        }
        let none = Profile::default();
        assert_eq!(changes(&none, &none, "", &|_| Vec::new()), []);
    }

    /// Cause: names as a program may choose them. Seen: what is told is short, and nothing that a terminal obeys.
    #[test]
    fn names_are_harmless() {
        let hostile = format!("\u{1b}[2J\n{}\u{202e}<script>&\"end", "x".repeat(100_000));
        let names = |_: u32| vec![hostile.clone(); 10];
        let now = profile(
            600_000,
            610_000,
            vec![Used {
                subject: hostile.as_str().into(),
                process: hostile.as_str().into(),
                ..used("", &hostile, 190)
            }],
        );
        let all = changes(&profile(0, 600_000, Vec::new()), &now, "", &names);
        let [one] = &all[..] else { panic!("{all:?}") };
        assert_eq!(one.labels.len(), 4);
        for value in one.labels.values() {
            assert!(value.chars().count() <= 3 * NAME + 6, "{}", value.len());
            assert!(
                !value.contains(|c: char| c.is_control() || c == '\u{202e}'),
                "{value:?}"
            );
        }
        let function = &one.labels["function"];
        assert!(
            function.starts_with("\u{fffd}[2J") && function.ends_with("\"end"),
            "{function}"
        );
        assert_eq!(function.chars().count(), NAME);
    }
}
