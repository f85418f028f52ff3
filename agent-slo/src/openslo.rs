//! OpenSLO v1 files: objects of the kinds SLO and SLI, whose metrics are queries of Prometheus.
//!
//! What cannot be done is an error with its line, never left out in silence; what geophone does in a way of its own, such as
//! alerts, is a remark.

mod metric;
mod tree;

use crate::definition::{INTERVAL, Slo, name, objective, text};
use crate::window::{DAY, HOUR, Window};
use agent_rules::file::{Fault, fault};
use agent_rules::yaml::{self, Node, Value};
use agent_store::promql;
use agent_store::series::Millis;
use metric::{Method, Metric};
use std::collections::BTreeMap;
use std::rc::Rc;
use tree::{Map, Wrong, brief};

const VERSION: &str = "openslo/v1";
/// Longest name of others, in bytes: a name of DNS.
const LONGEST_FOREIGN: usize = 253;
/// Most objectives of a file.
const MOST: usize = 1000;

/// What a file says.
#[derive(Debug, Default, PartialEq)]
pub struct Read {
    /// Its objectives.
    pub slos: Vec<Slo>,
    /// What of it has no meaning here: `file:line: what`.
    pub remarks: Vec<String>,
}

/// Reads the text of a file; `file` is its name in messages. All that is wrong is told, not only the first.
pub fn parse(file: &str, text: &str) -> Result<Read, Vec<Fault>> {
    let place = |(line, what): &Wrong| fault(file, Some(*line), what);
    let mut reader = Reader::default();
    match yaml::documents(text) {
        Ok(roots) => reader.file(&roots),
        Err(wrong) => reader.wrong.push(wrong),
    }
    if !reader.wrong.is_empty() {
        reader.wrong.sort();
        reader.wrong.dedup();
        return Err(reader.wrong.iter().map(place).collect());
    }
    // Of an SLI that several refer to the same is remarked each time.
    reader.remarks.sort();
    reader.remarks.dedup();
    Ok(Read {
        slos: reader.slos,
        remarks: reader
            .remarks
            .iter()
            .map(|remark| place(remark).to_string())
            .collect(),
    })
}

/// Whether a text looks like OpenSLO, and not like a configuration.
#[must_use]
pub fn looks_like(text: &str) -> bool {
    text.lines()
        .any(|line| line.trim_start_matches(['-', ' ']).starts_with("apiVersion:"))
}

#[derive(Default)]
struct Reader {
    slos: Vec<Slo>,
    remarks: Vec<Wrong>,
    wrong: Vec<Wrong>,
    indicators: BTreeMap<String, Rc<Node>>,
}

impl Reader {
    fn file(&mut self, roots: &[Rc<Node>]) {
        // A document may be a list of objects.
        let objects = roots.iter().flat_map(|root| match &root.value {
            Value::List(items) => items.clone(),
            _ => vec![root.clone()],
        });
        let objects: Vec<Rc<Node>> = objects.collect();
        for pass in ["SLI", "SLO"] {
            for object in &objects {
                if let Err(wrong) = self.object(object, pass) {
                    self.wrong.push(wrong);
                }
            }
        }
        let line = objects.first().map_or(1, |object| object.line);
        if self.slos.is_empty() && self.wrong.is_empty() {
            self.wrong
                .push((line, "there is no object of kind SLO in it".to_owned()));
        }
        if let Some(twice) = crate::definition::twice(&self.slos) {
            self.wrong.push((
                line,
                format!("{twice}: there are two objectives of this name, give one another"),
            ));
        }
    }

    /// Takes an object if it is of this kind; in the first pass, says what is not looked at.
    fn object(&mut self, node: &Rc<Node>, wanted: &str) -> Result<(), Wrong> {
        let object = Map::new(node, "object", &["apiVersion", "kind", "metadata", "spec"])?;
        let (line, version) = object.text("apiVersion")?;
        if version != VERSION {
            return Err((line, format!("apiVersion: expected {VERSION}, found {version:?}")));
        }
        let (line, kind) = object.text("kind")?;
        match kind.as_str() {
            _ if kind == wanted => {}
            "SLI" | "SLO" => return Ok(()),
            "Service" | "DataSource" | "AlertPolicy" | "AlertCondition" | "AlertNotificationTarget" => {
                if wanted == "SLI" {
                    self.remarks
                        .push((line, format!("kind {kind} is not needed here and left out")));
                }
                return Ok(());
            }
            _ if wanted == "SLI" => {
                return Err((line, format!("kind: expected SLO or SLI, found {kind:?}")));
            }
            _ => return Ok(()),
        }
        let metadata = object.map("metadata", &["name", "displayName", "labels", "annotations"])?;
        let (line, given) = metadata.text("name")?;
        let taken = match slug(&given) {
            Some(taken) if given.len() <= LONGEST_FOREIGN => taken,
            _ => given.clone(),
        };
        let taken = name("metadata.name", &taken).map_err(|fault| (line, fault.to_string()))?;
        let spec = object.required("spec")?;
        if kind == "SLI" {
            if self.indicators.insert(given.clone(), spec).is_some() {
                return Err((line, format!("{given}: there are two SLIs of this name")));
            }
            return Ok(());
        }
        if taken != given {
            let given = brief(&format!("{given:?}"));
            let told = format!(
                "metadata.name: {given} is called {taken} here, where a name has letters, digits, '.', '_' and '-'"
            );
            self.remarks.push((line, told));
        }
        self.slo(&taken, &spec)
    }

    fn slo(&mut self, name: &str, spec: &Rc<Node>) -> Result<(), Wrong> {
        let known = [
            "description",
            "service",
            "indicator",
            "indicatorRef",
            "timeWindow",
            "budgetingMethod",
            "objectives",
            "alertPolicies",
        ];
        let spec = Map::new(spec, name, &known)?;
        if let Some((line, _)) = spec.get("alertPolicies") {
            let told = format!("{name}: alertPolicies: its alerts are those of the burn rates; left out");
            self.remarks.push((line, told));
        }
        let optional = |key| spec.optional(key).map(Option::unwrap_or_default);
        let (_, description) = optional("description")?;
        // A label of the alerts, and no part of a query: it may be any text.
        let (_, service) = optional("service")?;
        let service = text(&service);
        let window = window(&spec)?;
        let metric = self.metric(&spec, name)?;
        let (line, method) = spec
            .optional("budgetingMethod")?
            .unwrap_or((0, "Occurrences".to_owned()));
        let method = Method::parse(&method)
            .ok_or_else(|| (line, format!("{name}: budgetingMethod: expected Occurrences, Timeslices or RatioTimeslices, found {method:?}")))?;
        let objectives = spec.list("objectives")?;
        let names = names(name, objectives);
        for ((at, node), own) in objectives.iter().enumerate().zip(names) {
            let known = [
                "displayName",
                "op",
                "value",
                "target",
                "targetPercent",
                "timeSliceTarget",
                "timeSliceWindow",
            ];
            let one = Map::new(node, &format!("{name}: objective"), &known)?;
            let share = target(&one)?;
            let indicator = metric.judged(&one, method, &mut self.remarks)?;
            if self.slos.len() >= MOST {
                return Err((node.line, format!("more than {MOST} objectives")));
            }
            self.slos.push(Slo {
                name: if objectives.len() == 1 {
                    name.to_owned()
                } else {
                    own.unwrap_or_else(|| format!("{name}-{}", at + 1))
                },
                service: service.clone(),
                description: text(&description),
                objective: share,
                window,
                interval: INTERVAL,
                indicator,
                labels: BTreeMap::new(),
            });
            // What came of it, whole: queries that only look right are found here.
            if let Some(Err(fault)) = self.slos.last().map(crate::rules::groups) {
                return Err((node.line, format!("{name}: {}", fault.what)));
            }
        }
        Ok(())
    }

    fn metric(&mut self, spec: &Map<'_>, name: &str) -> Result<Metric, Wrong> {
        match (spec.get("indicator"), spec.get("indicatorRef")) {
            (Some((_, node)), None) => {
                let indicator = Map::new(node, &format!("{name}: indicator"), &["metadata", "spec"])?;
                Metric::read(&*indicator.required("spec")?, name, &mut self.remarks)
            }
            (None, Some(_)) => {
                let (line, wanted) = spec.text("indicatorRef")?;
                let found = self.indicators.get(&wanted).ok_or_else(|| {
                    (
                        line,
                        format!("{name}: indicatorRef: there is no SLI {wanted:?} in this file"),
                    )
                })?;
                Metric::read(found, &wanted, &mut self.remarks)
            }
            (Some((line, _)), Some(_)) => Err((
                line,
                format!("{name}: indicator and indicatorRef are given, keep one"),
            )),
            (None, None) => Err((
                spec.line(),
                format!("{name}: it has no indicator, add indicator or indicatorRef"),
            )),
        }
    }
}

/// A text as a name here: `-` stands for what cannot be in one; `None` if nothing is left.
fn slug(text: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let words: Vec<&str> = text.split(|c| !fits(c)).filter(|word| !word.is_empty()).collect();
    let found = words.join("-");
    found
        .contains(|c: char| c.is_ascii_alphanumeric())
        .then_some(found)
}

/// What several objectives of an SLO are called by their `displayName`; `None` where it has none, or another has the same.
fn names(name: &str, objectives: &[Rc<Node>]) -> Vec<Option<String>> {
    let own = |node: &Rc<Node>| {
        let Value::Map(entries) = &node.value else {
            return None;
        };
        let (.., shown) = entries.iter().find(|(key, ..)| key == "displayName")?;
        let Value::Scalar(shown) = &shown.value else {
            return None;
        };
        crate::definition::name("displayName", &format!("{name}-{}", slug(shown)?)).ok()
    };
    let all: Vec<Option<String>> = objectives.iter().map(own).collect();
    let numbered = |n: usize| Some(format!("{name}-{}", n + 1));
    let once = |one: &Option<String>| {
        let is_number = (0..all.len()).any(|n| numbered(n) == *one);
        !is_number && all.iter().filter(|other| *other == one).count() == 1
    };
    all.iter().map(|one| one.clone().filter(|_| once(one))).collect()
}

fn target(one: &Map<'_>) -> Result<f64, Wrong> {
    let (key, line, share) = match (one.number("target")?, one.number("targetPercent")?) {
        (Some((line, share)), None) => ("target", line, share),
        (None, Some((line, percent))) => ("targetPercent", line, percent / 100.0),
        (None, None) => {
            return Err((
                one.line(),
                format!("{}: it has no target, add target: 0.999", one.what()),
            ));
        }
        (Some((line, _)), Some(_)) => {
            return Err((
                line,
                format!("{}: target and targetPercent are given, keep one", one.what()),
            ));
        }
    };
    objective(key, share).map_err(|fault| (line, format!("{}: {fault}", one.what())))
}

/// `timeWindow`: one, rolling or of the calendar.
fn window(spec: &Map<'_>) -> Result<Window, Wrong> {
    let list = spec.list("timeWindow")?;
    let [node] = list else {
        let line = list.get(1).map_or_else(|| spec.line(), |second| second.line);
        return Err((
            line,
            format!("{}: timeWindow: expected one, found {}", spec.what(), list.len()),
        ));
    };
    let one = Map::new(
        node,
        &format!("{}: timeWindow", spec.what()),
        &["duration", "isRolling", "calendar"],
    )?;
    let told = |what: String| format!("{}: {what}", one.what());
    let (line, duration) = one.text("duration")?;
    let (count, unit) = split(&duration).ok_or_else(|| {
        (
            line,
            told(format!(
                "duration: expected e.g. 30d, 4w, 1M or 12h, found {duration:?}"
            )),
        )
    })?;
    let length = match unit {
        'm' => count.checked_mul(60_000),
        'h' => count.checked_mul(HOUR),
        'd' => count.checked_mul(DAY),
        'w' => count.checked_mul(7 * DAY),
        // Rolling months, quarters and years have no length of their own.
        'M' => count.checked_mul(30 * DAY),
        'Q' => count.checked_mul(90 * DAY),
        _ => count.checked_mul(365 * DAY),
    };
    let length = length.ok_or_else(|| (line, told(format!("duration: {duration} is too long"))))?;
    let rolling = match one.optional("isRolling")? {
        Some((at, text)) => match text.as_str() {
            "true" => true,
            "false" => false,
            other => {
                return Err((
                    at,
                    told(format!("isRolling: expected true or false, found {other:?}")),
                ));
            }
        },
        None => one.get("calendar").is_none(),
    };
    match (rolling, one.get("calendar")) {
        (true, None) => Window::rolling(length).map_err(|what| (line, told(format!("duration: {what}")))),
        (true, Some((at, _))) => Err((
            at,
            told("a rolling window has no calendar; set isRolling: false".to_owned()),
        )),
        (false, None) => Err((
            one.line(),
            told("a window that is not rolling needs a calendar with startTime".to_owned()),
        )),
        (false, Some(_)) => {
            let calendar = one.map("calendar", &["startTime", "timeZone"])?;
            let (at, start) = calendar.text("startTime")?;
            let start = moment(&start).ok_or_else(|| {
                (
                    at,
                    told(format!(
                        "startTime: expected 2026-01-01 00:00:00, found {start:?}"
                    )),
                )
            })?;
            if let Some((at, zone)) = calendar.optional("timeZone")?
                && !["", "UTC", "Etc/UTC", "GMT", "Z"].contains(&zone.as_str())
            {
                return Err((
                    at,
                    told(format!("timeZone: PromQL's calendar is UTC, found {zone:?}")),
                ));
            }
            match (unit, count) {
                ('M', 1) if Window::Month.begin(start) == start => Ok(Window::Month),
                ('M', 1) => Err((
                    at,
                    told("startTime: a month begins on the first at 00:00:00 here".to_owned()),
                )),
                ('d' | 'w', 1..=366) if Window::rolling(length).is_ok() => {
                    Ok(Window::Periods { start, length })
                }
                _ => Err((
                    line,
                    told(format!(
                        "duration: of the calendar there are days, weeks and 1M, found {duration}"
                    )),
                )),
            }
        }
    }
}

/// `30d`: a number and a unit.
fn split(text: &str) -> Option<(Millis, char)> {
    let unit = text.chars().last().filter(|unit| "mhdwMQY".contains(*unit))?;
    let count: Millis = text.strip_suffix(unit)?.parse().ok()?;
    (count > 0).then_some((count, unit))
}

/// `2026-01-31 12:00:00`, also with a `T` and a `Z`.
fn moment(text: &str) -> Option<Millis> {
    let text = text.trim().trim_end_matches('Z').replace('T', " ");
    let (date, time) = text.split_once(' ').unwrap_or((&text, "00:00:00"));
    let numbers = |text: &str, mark: char| -> Option<[Millis; 3]> {
        let parts: Option<Vec<Millis>> = text.split(mark).map(|part| part.parse().ok()).collect();
        parts?.try_into().ok()
    };
    let ([year, month, day], [hour, minute, second]) = (numbers(date, '-')?, numbers(time, ':')?);
    let fits = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..60).contains(&second);
    // The day whose date it is: at most a few days from the guess.
    let guess = (year - 1970) * 365 + (year - 1969) / 4 + (month - 1) * 30 + day - 1;
    let found = (guess - 32..guess + 32).find(|days| promql::civil(*days) == (year, month, day));
    let days = found.filter(|_| fits)?;
    Some(days * DAY + hour * HOUR + minute * 60_000 + second * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_calendar() {
        assert_eq!(moment("1970-01-01 00:00:00"), Some(0));
        assert_eq!(moment("2024-02-29T13:30:05Z"), Some(1_709_213_405_000));
        assert_eq!(moment("2099-12-31"), Some(4_102_358_400_000));
        for text in [
            "",
            "2023-02-29 00:00:00",
            "2020-01-01 24:00:00",
            "now",
            "99999999999-1-1",
        ] {
            assert_eq!(moment(text), None, "{text}");
        }
    }
}
