//! Panels of somebody's own queries, in a dashboard of ours or in one of nothing else.

use crate::check::{aligned, labels_of, plain, selectors};
use crate::links::{Links, Map};
use crate::maker::places;
use crate::panel::{Board, Panel, Show, Target};
use crate::{Dashboard, Kind, Metric, Query, Style, grafana, place, unit};
use promql_parser::parser;
use serde_json::Value;

/// Name of the dashboard that has only panels of one's own.
pub const NAME: &str = "geophone-custom";
/// Title over them in another one.
const TITLE: &str = "Own";

/// A panel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its title.
    pub title: String,
    /// What it shows, in PromQL with Grafana's variables.
    pub queries: Vec<String>,
}

/// Where a query stops making sense, in words; empty if that is not to be said.
pub fn place_of(query: &str) -> String {
    place::of(query).map_or_else(String::new, |(at, word)| format!(" at character {at}, `{word}`"))
}

/// The dashboard of nothing but regions and nodes to choose.
pub fn custom(style: Style) -> Dashboard {
    let board = Board {
        name: NAME,
        title: "geophone / Custom",
        about: "Queries of one's own",
        variables: places(),
        panels: Vec::new(),
    };
    let mut made = grafana::dashboard(&board, &Map::new());
    if style.classic {
        grafana::set_apart(&mut made);
    }
    made
}

/// What a query asks for in vain: metrics that geophone does not have, histograms in another form than they have here. Of what is
/// not geophone's nothing is known.
pub fn doubts(query: &str, metrics: &[Metric], style: Style) -> Vec<String> {
    let mut out = Vec::new();
    let Ok(tree) = parser::parse(&plain(query, |_| ".*".to_owned())) else {
        return out;
    };
    selectors(&tree, &mut |selector| {
        let name = selector.name.as_deref().unwrap_or_default();
        if !name.starts_with("geophone_") && !name.starts_with("geophone:") {
            return;
        }
        if labels_of(name, metrics).is_none() {
            out.push(format!(
                "{name}: geophone has no such metric (geophone docs metrics)"
            ));
            return;
        }
        let histograms = metrics.iter().filter(|metric| metric.kind == Kind::Histogram);
        let mut ends = histograms.filter_map(|metric| name.strip_prefix(metric.name.as_str()));
        match ends.next() {
            Some("") if style.classic => {
                out.push(format!(
                    "{name}: with --classic it has buckets, ask for {name}_bucket"
                ));
            }
            Some(end @ ("_bucket" | "_sum" | "_count")) if !style.classic => {
                let native = name.trim_end_matches(end);
                out.push(format!(
                    "{name}: it is a native histogram, ask for {native}; or take --classic"
                ));
            }
            _ => {}
        }
    });
    out
}

impl Dashboard {
    /// Adds panels at its end, below a title unless there is nothing else. Each is a graph in the unit that the declarations of its
    /// metrics give it; of one query of histograms a heatmap.
    ///
    /// # Errors
    /// A query does not parse, or has a variable that is none of this dashboard.
    pub fn add(&mut self, panels: &[Own], metrics: &[Metric]) -> Result<(), String> {
        let made = panels.iter().map(|own| self.panel(own, metrics));
        let mut made = made.collect::<Result<Vec<_>, _>>()?;
        let there = self.json["panels"].as_array().map_or(&[][..], Vec::as_slice);
        if !there.is_empty() {
            made.insert(0, Panel::new(Show::Row, TITLE));
        }
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let inside = |panel: &Value| {
            panel["panels"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|p| number(&p["id"]))
                .max()
        };
        let id = there
            .iter()
            .filter_map(|panel| inside(panel).max(Some(number(&panel["id"]))))
            .max();
        let bottom = there
            .iter()
            .map(|panel| number(&panel["gridPos"]["y"]) + number(&panel["gridPos"]["h"]))
            .max();
        let (mut id, top) = (id.unwrap_or(0) as usize, bottom.unwrap_or(0) as u32);
        let links = Links {
            map: &Map::new(),
            here: "",
        };
        let more = grafana::panels(&made, top, &mut id, links);
        if let Some(all) = self.json["panels"].as_array_mut() {
            all.extend(more);
        }
        self.queries.extend(panels.iter().flat_map(|own| {
            own.queries.iter().map(|expr| Query {
                panel: own.title.clone(),
                expr: expr.clone(),
            })
        }));
        Ok(())
    }

    fn panel(&self, own: &Own, metrics: &[Metric]) -> Result<Panel, String> {
        let mut out = Panel::new(Show::Graph, &own.title).size(12, 8);
        let mut units = Vec::new();
        for expr in &own.queries {
            let mut unknown = None;
            let text = aligned(expr, |name| {
                if !self.variables().iter().any(|(known, _)| *known == name) {
                    unknown = Some(name.to_owned());
                }
            });
            if let Some(name) = unknown {
                let known: Vec<String> = self
                    .variables()
                    .iter()
                    .map(|(name, _)| format!("${name}"))
                    .collect();
                return Err(format!(
                    "${name}: {} has no such variable; there are {}, and Grafana's own, like $__rate_interval",
                    self.name,
                    known.join(", ")
                ));
            }
            let tree = parser::parse(&text).map_err(|e| format!("{e}{}, in {expr}", place_of(&text)))?;
            units.push(unit::of(&tree, metrics));
            if own.queries.len() == 1 && unit::is_histogram(&tree, metrics) {
                out.show = Show::Heatmap;
                units = vec![unit::of_histogram(&tree, metrics)];
            }
            out.targets.push(Target {
                expr: expr.clone(),
                legend: String::new(),
            });
        }
        if let [first, rest @ ..] = units.as_slice()
            && rest.iter().all(|unit| unit == first)
        {
            out.unit = first;
        }
        out.description = own.queries.join("\n");
        Ok(out)
    }
}
