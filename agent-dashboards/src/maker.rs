//! Queries and panels from the declarations.

use crate::boards::PROFILES;
use crate::panel::{Panel, Show, Target, Values, Variable};
use crate::watches;
use crate::{Kind, Metric, RECORDED, Style, WATCHES};
use std::collections::{BTreeMap, BTreeSet};

/// Makes queries, and notes what is asked for that nobody declares.
#[derive(Debug)]
pub struct Maker<'a> {
    metrics: BTreeMap<&'a str, &'a Metric>,
    style: Style,
    /// Labels that each query is narrowed by, if its metric has them, by the variable of the same name.
    scope: Vec<&'static str>,
    faults: Vec<String>,
    /// Metrics that were asked for.
    asked: BTreeSet<&'a str>,
    /// The first metric that was asked for since the last panel, and whether by its rate.
    first: Option<(&'a Metric, bool)>,
}

/// Legends of a band's ends.
pub const AT_MOST: &str = "expected at most";
/// See [`AT_MOST`].
pub const AT_LEAST: &str = "expected at least";

/// How metrics end that are a moment, in seconds since 1970.
const MOMENTS: [&str; 2] = ["_timestamp_seconds", "_start_time_seconds"];

/// Labels that every series has.
pub const EVERYWHERE: [&str; 2] = ["job", "instance"];

impl<'a> Maker<'a> {
    pub fn new(metrics: &'a [Metric], style: Style) -> Self {
        Self {
            metrics: metrics
                .iter()
                .map(|metric| (metric.name.as_str(), metric))
                .collect(),
            style,
            scope: Vec::new(),
            faults: Vec::new(),
            asked: BTreeSet::new(),
            first: None,
        }
    }

    /// What was asked for and is not there.
    pub fn faults(&mut self) -> Vec<String> {
        std::mem::take(&mut self.faults)
    }

    /// From here on queries are narrowed by these variables, each named as its label.
    pub fn scope(&mut self, labels: &[&'static str]) {
        labels.clone_into(&mut self.scope);
    }

    fn metric(&mut self, name: &str, rate: bool) -> Option<&'a Metric> {
        let found = self.metrics.get(name).copied();
        match found {
            Some(metric) => {
                self.asked.insert(&metric.name);
                self.first.get_or_insert((metric, rate));
            }
            None => self.faults.push(format!("{name}: no such metric")),
        }
        found
    }

    /// `name{…}` with the scope and further matchers; the labels of `by` must be the metric's.
    fn selector(&mut self, metric: Option<&Metric>, name: &str, matchers: &str, by: &[&str]) -> String {
        let labels: Vec<&str> =
            metric.map_or_else(Vec::new, |m| m.labels.iter().map(String::as_str).collect());
        let has = |label: &str| EVERYWHERE.contains(&label) || labels.contains(&label);
        for label in by.iter().filter(|label| !has(label)) {
            self.faults.push(format!("{name}: no label {label}"));
        }
        let scope = self.scope.iter().filter(|label| has(label));
        // An alert of a region has no node, and that of a node no region; an objective of a fleet has neither.
        let is_bare = name == "ALERTS" || name.starts_with("geophone_slo_");
        let or_none = if is_bare { "|" } else { "" };
        let mut parts: Vec<String> = scope
            .map(|label| format!("{label}=~\"${label}{or_none}\""))
            .collect();
        parts.extend((!matchers.is_empty()).then(|| matchers.to_owned()));
        format!("{name}{{{}}}", parts.join(","))
    }

    /// What a counter grows by in a second.
    pub fn rate(&mut self, name: &str, matchers: &str, by: &[&str]) -> String {
        let metric = self.metric(name, true);
        if metric.is_some_and(|metric| metric.kind != Kind::Counter) {
            self.faults
                .push(format!("{name}: the rate of what is no counter"));
        }
        let selector = self.selector(metric, name, matchers, by);
        sum(by, &format!("rate({selector}[$__rate_interval])"))
    }

    /// What a counter grew by in the time that is looked at.
    pub fn increase(&mut self, name: &str, matchers: &str, by: &[&str]) -> String {
        let metric = self.metric(name, false);
        let selector = self.selector(metric, name, matchers, by);
        sum(by, &format!("increase({selector}[$__range])"))
    }

    /// A gauge, put together by `sum`, `max` and the like.
    pub fn value(&mut self, aggregate: &str, name: &str, matchers: &str, by: &[&str]) -> String {
        let metric = self.metric(name, false);
        if metric.is_some_and(|metric| metric.kind != Kind::Gauge) {
            self.faults.push(format!("{name}: the value of what is no gauge"));
        }
        let selector = self.selector(metric, name, matchers, by);
        aggregated(aggregate, by, &selector)
    }

    /// The same of a recorded series, or of Prometheus' own.
    pub fn recorded(&mut self, aggregate: &str, name: &str, matchers: &str, by: &[&str]) -> String {
        let Some((_, labels)) = RECORDED.iter().find(|(recorded, _)| *recorded == name) else {
            self.faults.push(format!("{name}: nobody records it"));
            return String::new();
        };
        let like = Metric {
            name: name.to_owned(),
            kind: Kind::Gauge,
            unit: String::new(),
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
            help: String::new(),
        };
        // Regions are recorded without the nodes that they are made of.
        let kept = self.scope.clone();
        if name.starts_with("geophone:") {
            self.scope.retain(|label| *label != "instance");
        }
        let selector = self.selector(Some(&like), name, matchers, by);
        self.scope = kept;
        aggregated(aggregate, by, &selector)
    }

    /// A quantile of a histogram.
    pub fn quantile(&mut self, quantile: f64, name: &str, matchers: &str, by: &[&str]) -> String {
        let inner = self.buckets(name, matchers, by);
        format!("histogram_quantile({quantile}, {inner})")
    }

    /// The histogram itself, for a heatmap or a quantile.
    pub fn buckets(&mut self, name: &str, matchers: &str, by: &[&str]) -> String {
        let metric = self.histogram(name);
        if !self.style.classic {
            let selector = self.selector(metric, name, matchers, by);
            return sum(by, &format!("rate({selector}[$__rate_interval])"));
        }
        let selector = self.selector(metric, &format!("{name}_bucket"), matchers, by);
        let by: Vec<&str> = by.iter().copied().chain(["le"]).collect();
        sum(&by, &format!("rate({selector}[$__rate_interval])"))
    }

    /// How many values a histogram got in a second.
    pub fn count(&mut self, name: &str, matchers: &str, by: &[&str]) -> String {
        let metric = self.histogram(name);
        if !self.style.classic {
            let selector = self.selector(metric, name, matchers, by);
            let summed = sum(by, &format!("rate({selector}[$__rate_interval])"));
            return format!("histogram_count({summed})");
        }
        let selector = self.selector(metric, &format!("{name}_count"), matchers, by);
        sum(by, &format!("rate({selector}[$__rate_interval])"))
    }

    fn histogram(&mut self, name: &str) -> Option<&'a Metric> {
        let metric = self.metric(name, false);
        if metric.is_some_and(|metric| metric.kind != Kind::Histogram) {
            self.faults.push(format!("{name}: is no histogram"));
        }
        metric
    }

    /// A panel; its unit and its words are those of the first metric that was asked for since the last one.
    pub fn panel(&mut self, show: Show, title: &str, targets: &[(&str, String)]) -> Panel {
        let first = self.first.take();
        let targets = targets.iter().map(|(legend, expr)| Target {
            expr: expr.clone(),
            legend: (*legend).to_owned(),
        });
        Panel {
            description: first.map_or_else(String::new, |(metric, _)| metric.help.clone()),
            unit: first.map_or("short", |(metric, rate)| unit(&metric.unit, rate)),
            targets: targets.collect(),
            ..Panel::new(show, title)
        }
    }

    /// Lines.
    pub fn graph(&mut self, title: &str, targets: &[(&str, String)]) -> Panel {
        self.panel(Show::Graph, title, targets)
    }

    /// One number.
    pub fn stat(&mut self, title: &str, expr: String) -> Panel {
        self.panel(Show::Stat, title, &[("", expr)])
    }

    /// Latency of a histogram: the median, one in ten, one in a hundred.
    pub fn latency(&mut self, title: &str, name: &str, matchers: &str) -> Panel {
        let targets = [0.5, 0.9, 0.99].map(|q| self.quantile(q, name, matchers, &[]));
        let [median, ninety, last] = targets;
        self.graph(title, &[("p50", median), ("p90", ninety), ("p99", last)])
    }

    /// What is watched for anomalies, each value as the agents saw it, and between which it was expected.
    pub fn band(&mut self, title: &str, watch: &str, matchers: &str) -> Panel {
        let known = WATCHES.iter().find(|(name, ..)| *name == watch);
        let (unit, labels) = known.map_or(("", &[][..]), |(_, unit, labels)| (*unit, *labels));
        if known.is_none() {
            self.faults.push(format!("{watch}: nobody watches it"));
        }
        let watched = format!("watch=\"{watch}\"");
        let all: Vec<&str> = [watched.as_str(), matchers]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        let all = all.join(",");
        // Of several nodes each has its own band: what is drawn has room for all of them.
        let targets = [
            ("{{instance}}", "max", "value", &["instance"][..]),
            (AT_MOST, "max", "upper", &[]),
            (AT_LEAST, "min", "lower", &[]),
        ]
        .map(|(legend, aggregate, what, by)| {
            let name = format!("geophone_anomaly_{what}");
            let metric = self.metric(&name, false).map(|metric| {
                let mut metric = metric.clone();
                metric.labels.extend(labels.iter().map(|&label| label.to_owned()));
                metric
            });
            let selector = self.selector(metric.as_ref(), &name, &all, by);
            (legend, aggregated(aggregate, by, &selector))
        });
        let panel = self
            .panel(Show::Band, title, &targets)
            .leads(PROFILES, &["instance"]);
        panel.unit(watches::unit(unit)).about(&format!(
            "Each value of the watch {watch}, and between which values it was expected once enough has been seen; \
             of several nodes the widest band. `geophone anomalies` tells what is not"
        ))
    }

    /// A heatmap.
    pub fn heat(&mut self, title: &str, name: &str, matchers: &str) -> Panel {
        let expr = self.buckets(name, matchers, &[]);
        self.panel(Show::Heatmap, title, &[("{{le}}", expr)])
    }

    /// A panel for each metric that nothing has asked for yet: what is new has a place before somebody finds it a better one.
    pub fn further(&mut self) -> Vec<Panel> {
        self.scope(&["instance"]);
        let all = self.metrics.values().copied();
        let left: Vec<&Metric> = all
            .filter(|metric| !self.asked.contains(metric.name.as_str()))
            .collect();
        left.into_iter()
            .map(|metric| {
                let by: Vec<&str> = metric
                    .labels
                    .iter()
                    .map(String::as_str)
                    .take(2)
                    .chain(["instance"])
                    .collect();
                let expr = match metric.kind {
                    Kind::Counter => self.rate(&metric.name, "", &by),
                    Kind::Gauge => self.value("max", &metric.name, "", &by),
                    Kind::Histogram => self.quantile(0.99, &metric.name, "", &by),
                };
                let legend: Vec<String> = by.iter().map(|label| format!("{{{{{label}}}}}")).collect();
                let legend = legend.join(" ");
                let own = metric.name.trim_start_matches("geophone_");
                // Of a moment it says something how long ago it was, and not that it is 56 years after 1970.
                match MOMENTS.iter().find_map(|end| own.strip_suffix(end)) {
                    Some(what) if metric.kind == Kind::Gauge => {
                        let title = format!("time since {}", what.replace('_', " "));
                        let panel = self.graph(&title, &[(&legend, format!("time() - {expr}"))]);
                        panel.about(&format!("Time since then. {}", metric.help))
                    }
                    _ => self.graph(&own.replace('_', " "), &[(&legend, expr)]),
                }
            })
            .collect()
    }

    /// A title over what follows.
    pub fn row(&mut self, title: &str) -> Panel {
        self.panel(Show::Row, title, &[])
    }
}

/// A part of a whole, by the same labels on both sides.
pub fn share(part: &str, whole: &str) -> String {
    format!("{part} / ({whole} > 0)")
}

/// As [`share`], of what is counted when it happens: as long as it never has it has no series, and its share is 0.
pub fn rare(part: &str, whole: &str) -> String {
    format!("({part} or 0 * {whole}) / ({whole} > 0)")
}

/// A variable that takes the values of a label.
pub fn variable(name: &'static str, label: &'static str, selector: &str) -> Variable {
    Variable {
        name,
        label,
        values: Values::Asked(format!("label_values({selector}, {name})")),
    }
}

/// Whatever has a subject on the nodes: who has connections, who has a cgroup, and where there are none of version 2, who runs.
pub fn subjects() -> Variable {
    let selector = r#"{__name__=~"geophone_(tcp_connections|cgroup_used|sched_cpu_seconds_total)",instance=~"$instance"}"#;
    variable("subject", "Subject", selector)
}

/// The regions and the nodes in them.
pub fn places() -> Vec<Variable> {
    vec![
        variable("region", "Region", r#"target_info{job="geophone"}"#),
        variable(
            "instance",
            "Node",
            r#"target_info{job="geophone",region=~"$region"}"#,
        ),
    ]
}

fn sum(by: &[&str], inner: &str) -> String {
    aggregated("sum", by, inner)
}

fn aggregated(aggregate: &str, by: &[&str], inner: &str) -> String {
    if aggregate.is_empty() {
        inner.to_owned()
    } else if by.is_empty() {
        format!("{aggregate}({inner})")
    } else {
        format!("{aggregate} by ({}) ({inner})", by.join(", "))
    }
}

/// Grafana's name of a unit.
pub fn unit(ucum: &str, rate: bool) -> &'static str {
    match (ucum, rate) {
        ("s", false) => "s",
        // Seconds in a second: cores, or a share of the time.
        ("s", true) => "percentunit",
        ("By", false) => "bytes",
        ("By" | "By/s", _) => "Bps",
        ("{packet}" | "{segment}" | "{datagram}", true) => "pps",
        (_, true) => "cps",
        _ => "short",
    }
}
