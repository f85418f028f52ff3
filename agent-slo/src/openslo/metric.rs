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
    pub fn read(spec: &Node, name: &str) -> Result<Self, Wrong> {
        let spec = Map::new(spec, name, &["description", "ratioMetric", "thresholdMetric"])?;
        match (spec.get("ratioMetric"), spec.get("thresholdMetric")) {
            (Some(_), None) => ratio(&spec).map(Self::Ratio),
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
    pub fn judged(&self, one: &Map<'_>, method: Method) -> Result<Indicator, Wrong> {
        let wrong = |key: &str, what: &str| match one.get(key) {
            Some((line, _)) => (line, format!("{}: {key}: {what}", one.what())),
            None => (one.line(), format!("{}: {what}", one.what())),
        };
        let plain = match self {
            Self::Ratio(indicator) => {
                if one.get("op").is_some() || one.get("value").is_some() {
                    let key = if one.get("op").is_some() { "op" } else { "value" };
                    return Err(wrong(key, "goes with thresholdMetric only, take it out"));
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

fn ratio(spec: &Map<'_>) -> Result<Indicator, Wrong> {
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
    let count = |key: &str| -> Result<Option<(usize, query::Count)>, Wrong> {
        let Some((_, node)) = ratio.get(key) else {
            return Ok(None);
        };
        let (line, text) = source(node, &told(key))?;
        let query = query::count(&text, &[], counter);
        query
            .map(|count| Some((line, count)))
            .map_err(|why| (line, told(&format!("{key}: query: {why}"))))
    };
    let total = count("total")?;
    let (_, total) = total.ok_or_else(|| (ratio.line(), told("it has no total, add it")))?;
    let part = |key: &str, (line, part): (usize, query::Count)| match query::same(&part, &total) {
        Ok(()) => Ok(part.query),
        Err(why) => Err((line, told(&format!("{key}: query: {why}")))),
    };
    let failed = match (count("good")?, count("bad")?) {
        (Some(good), None) => Failed::AllBut(part("good", good)?),
        (None, Some(bad)) => Failed::Bad(part("bad", bad)?),
        _ => return Err((ratio.line(), told("give good or bad beside total, one of them"))),
    };
    Ok(Indicator::Events {
        failed,
        total: total.query,
    })
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
