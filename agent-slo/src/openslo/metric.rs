//! `ratioMetric` and `thresholdMetric`.

use super::tree::{Map, Wrong};
use crate::indicator::{Failed, Indicator, Judge};
use crate::query;
use crate::window::{duration, short};
use agent_rules::yaml::Node;

/// How the budget is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// By events, or by time.
    Occurrences,
    /// By slices of time, each of which is good or not.
    Timeslices,
    /// By slices of time, each of which is as good as its share.
    RatioTimeslices,
}

impl Method {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Occurrences" => Some(Self::Occurrences),
            "Timeslices" => Some(Self::Timeslices),
            "RatioTimeslices" => Some(Self::RatioTimeslices),
            _ => None,
        }
    }
}

/// What is measured, before an objective says when it is good.
#[derive(Debug)]
pub(super) enum Metric {
    /// Good or bad events of all, or a share.
    Ratio(Indicator),
    /// A value that is compared.
    Threshold(String),
}

impl Metric {
    /// The `spec` of an SLI.
    pub fn read(spec: &Node, name: &str, remarks: &mut Vec<Wrong>) -> Result<Self, Wrong> {
        let spec = Map::new(spec, name, &["description", "ratioMetric", "thresholdMetric"])?;
        match (spec.get("ratioMetric"), spec.get("thresholdMetric")) {
            (Some(_), None) => ratio(&spec, remarks).map(Self::Ratio),
            (None, Some((_, node))) => {
                let what = format!("{name}: thresholdMetric");
                let (line, text) = source(node, &what)?;
                let query = query::value(&text).map_err(|why| (line, format!("{what}: query: {why}")))?;
                Ok(Self::Threshold(query))
            }
            (Some((line, _)), Some(_)) => Err((
                line,
                format!("{name}: ratioMetric and thresholdMetric are given, keep one"),
            )),
            (None, None) => Err((
                spec.line(),
                format!("{name}: it has neither ratioMetric nor thresholdMetric"),
            )),
        }
    }

    /// As an objective judges it.
    pub fn judged(
        &self,
        one: &Map<'_>,
        method: Method,
        remarks: &mut Vec<Wrong>,
    ) -> Result<Indicator, Wrong> {
        let wrong = |key: &str, what: &str| match one.get(key) {
            Some((line, _)) => (line, format!("{}: {key}: {what}", one.what())),
            None => (one.line(), format!("{}: {what}", one.what())),
        };
        let plain = match self {
            Self::Ratio(indicator) => {
                // OpenSLO's own examples have `op: gt` here.
                for key in ["op", "value"] {
                    if one.get(key).is_some() {
                        remarks.push(wrong(key, "a ratio is compared with its target alone; left out"));
                    }
                }
                indicator.clone()
            }
            Self::Threshold(query) => {
                let (_, op) = one.text("op")?;
                let (_, limit) = one
                    .number("value")?
                    .ok_or_else(|| wrong("value", "it has no value, add it"))?;
                let judge = match op.as_str() {
                    "lte" => Judge::AtMost(limit),
                    "lt" => Judge::Below(limit),
                    "gte" => Judge::AtLeast(limit),
                    "gt" => Judge::Above(limit),
                    _ => return Err(wrong("op", "expected lte, lt, gte or gt")),
                };
                Indicator::Time {
                    query: query.clone(),
                    judge,
                }
            }
        };
        if method == Method::Occurrences {
            for key in ["timeSliceTarget", "timeSliceWindow"] {
                if one.get(key).is_some() {
                    return Err(wrong(key, "goes with budgetingMethod Timeslices only"));
                }
            }
            return Ok(plain);
        }
        let (line, text) = one.text("timeSliceWindow")?;
        let slice = duration(&text).filter(|ms| (60_000..=86_400_000).contains(ms));
        let slice = slice.ok_or_else(|| {
            (
                line,
                format!(
                    "{}: timeSliceWindow: expected 1m to 1d, found {text:?}",
                    one.what()
                ),
            )
        })?;
        let judge = match (method, one.number("timeSliceTarget")?) {
            (Method::Timeslices, Some((_, share))) if (0.0..=1.0).contains(&share) => Judge::AtLeast(share),
            (Method::Timeslices, _) => return Err(wrong("timeSliceTarget", "expected a share, 0 to 1")),
            (_, None) => Judge::Share,
            (_, Some(_)) => {
                return Err(wrong(
                    "timeSliceTarget",
                    "goes with budgetingMethod Timeslices only",
                ));
            }
        };
        Ok(Indicator::Time {
            query: plain.sliced(&short(slice)),
            judge,
        })
    }
}

fn ratio(spec: &Map<'_>, remarks: &mut Vec<Wrong>) -> Result<Indicator, Wrong> {
    let ratio = spec.map(
        "ratioMetric",
        &["counter", "good", "bad", "total", "raw", "rawType"],
    )?;
    let told = |what: &str| format!("{}: {what}", ratio.what());
    let counter = match ratio.optional("counter")? {
        None => true,
        Some((line, text)) => match text.as_str() {
            "true" => true,
            "false" => false,
            _ => return Err((line, told("counter: expected true or false"))),
        },
    };
    if let Some((line, node)) = ratio.get("raw") {
        if let Some((line, _)) = ["good", "bad", "total"].iter().find_map(|key| ratio.get(key)) {
            return Err((
                line,
                told("raw is the share already: take good, bad and total out"),
            ));
        }
        let (at, text) = source(node, &told("raw"))?;
        let judge = match ratio.text("rawType")?.1.as_str() {
            "success" => Judge::Share,
            "failure" => Judge::BadShare,
            _ => return Err((line, told("rawType: expected success or failure"))),
        };
        let query = query::value(&text).map_err(|why| (at, told(&format!("raw: query: {why}"))))?;
        return Ok(Indicator::Time { query, judge });
    }
    let given = |key: &'static str| -> Result<Option<Given>, Wrong> {
        let Some((_, node)) = ratio.get(key) else {
            return Ok(None);
        };
        source(node, &told(key)).map(|(line, text)| Some(Given { key, line, text }))
    };
    let total = given("total")?.ok_or_else(|| (ratio.line(), told("it has no total, add it")))?;
    let (failed, total) = match (given("good")?, given("bad")?) {
        (Some(part), None) | (None, Some(part)) => ranges(part, total, &told, remarks)?,
        _ => return Err((ratio.line(), told("give good or bad beside total, one of them"))),
    };
    let count = |of: &Given| {
        query::count(&of.text, &[], counter)
            .map_err(|why| (of.line, told(&format!("{}: query: {why}", of.key))))
    };
    let total = count(&total)?;
    let part = count(&failed)?;
    query::same(&part, &total)
        .map_err(|why| (failed.line, told(&format!("{}: query: {why}", failed.key))))?;
    let failed = match failed.key {
        "good" => Failed::AllBut(part.query),
        _ => Failed::Bad(part.query),
    };
    Ok(Indicator::Events {
        failed,
        total: total.query,
    })
}

/// A query as it was given.
struct Given {
    key: &'static str,
    line: usize,
    text: String,
}

/// These with the window where both have the same range: it is what others' tools put there.
fn ranges(
    part: Given,
    total: Given,
    told: &dyn Fn(&str) -> String,
    remarks: &mut Vec<Wrong>,
) -> Result<(Given, Given), Wrong> {
    let (Some((own, range)), Some((all, of_all))) = (query::ranged(&part.text), query::ranged(&total.text))
    else {
        return Ok((part, total));
    };
    let (range, of_all) = (short(range), short(of_all));
    if range != of_all {
        let what = format!(
            "{}: query: its range is {range}, but that of total {of_all}; write $window in both",
            part.key
        );
        return Err((part.line, told(&what)));
    }
    let what = format!(
        "{} and total: query: the range of {range} is taken for the window, as if it were $window",
        part.key
    );
    remarks.push((part.line, told(&what)));
    Ok((Given { text: own, ..part }, Given { text: all, ..total }))
}

/// The query of a `metricSource`, and its line.
fn source(node: &Node, what: &str) -> Result<(usize, String), Wrong> {
    let holder = Map::new(node, what, &["metricSource"])?;
    let source = holder.map("metricSource", &["metricSourceRef", "type", "spec"])?;
    if let Some((line, kind)) = source.optional("type")?
        && !kind.eq_ignore_ascii_case("prometheus")
    {
        return Err((
            line,
            format!(
                "{}: type: only Prometheus can be asked, found {kind:?}",
                source.what()
            ),
        ));
    }
    source.map("spec", &["query"])?.text("query")
}
