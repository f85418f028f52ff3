//! `geophone check --cardinality`: what the running agent's series are made of.

use super::remote::Remote;
use super::say;
use crate::aggregate::fold::FOLDED;
use crate::api::json::{SnapshotView, ValueView};
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::ui::print::table;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Metrics and labels that are shown; the rest is in the JSON.
const SHOWN: usize = 15;

/// What a label costs.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Cost {
    label: String,
    /// Different values of it.
    values: usize,
    /// Series that have it.
    series: usize,
    /// So many series fewer there would be without it, all else as it is.
    costs: usize,
}

/// What a metric costs.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Share {
    metric: String,
    series: usize,
    /// Series that are part of others already, because `labels` leaves labels out.
    folded: usize,
    /// Its labels, the dearest first.
    labels: Vec<Cost>,
}

/// A histogram is one series, as in native histograms and OTLP.
#[derive(Debug, Serialize)]
struct Report {
    series: usize,
    labels: Vec<Cost>,
    metrics: Vec<Share>,
}

/// Shows it.
pub async fn cardinality(config: &Config, json: bool) -> Result<()> {
    let Some(remote) = Remote::find(config).await? else {
        return Err(Error::new(format_args!(
            "no agent answers on {}: series are counted in a running one; start geophone run, or name its address by --listen",
            config.api.listen
        )));
    };
    let snapshot: SnapshotView<'static> = remote.json("/api/v1/snapshot").await?;
    let report = Report::of(&snapshot);
    if json {
        return say(&serde_json::to_string_pretty(&report).context("JSON")?);
    }
    say(report.text().trim_end())
}

/// The labels of a series.
type Labels<'a> = BTreeMap<&'a str, &'a str>;

/// Sorted by cost, the dearest first.
fn costs(families: &[Vec<Labels<'_>>]) -> Vec<Cost> {
    let names: BTreeSet<&str> = families
        .iter()
        .flatten()
        .flat_map(|labels| labels.keys().copied())
        .collect();
    let mut costs: Vec<Cost> = names
        .into_iter()
        .map(|name| {
            let values: BTreeSet<&str> = families
                .iter()
                .flatten()
                .filter_map(|l| l.get(name).copied())
                .collect();
            let (mut series, mut costs) = (0, 0);
            for family in families {
                let without: BTreeSet<Labels<'_>> = family
                    .iter()
                    .map(|labels| {
                        labels
                            .iter()
                            .filter(|(key, _)| **key != name)
                            .map(|(k, v)| (*k, *v))
                            .collect()
                    })
                    .collect();
                series += family.iter().filter(|labels| labels.contains_key(name)).count();
                costs += family.len() - without.len();
            }
            Cost {
                label: name.to_owned(),
                values: values.len(),
                series,
                costs,
            }
        })
        .collect();
    costs.sort_by(|a, b| b.costs.cmp(&a.costs).then_with(|| a.label.cmp(&b.label)));
    costs
}

/// What the agent says that it has folded of a metric.
fn folded(snapshot: &SnapshotView<'_>, metric: &str) -> usize {
    let all = snapshot
        .families
        .iter()
        .filter(|family| family.name == FOLDED.name);
    let own = all
        .flat_map(|family| &family.series)
        .find(|series| series.labels.get("metric").is_some_and(|name| *name == *metric));
    match own.map(|series| &series.value) {
        Some(ValueView::Number(Some(count))) => *count as usize,
        _ => 0,
    }
}

impl Report {
    fn of(snapshot: &SnapshotView<'_>) -> Self {
        let families: Vec<Vec<Labels<'_>>> = snapshot
            .families
            .iter()
            .map(|family| {
                let labels = family.series.iter().map(|series| &series.labels);
                labels
                    .map(|labels| labels.iter().map(|(k, v)| (&**k, &**v)).collect())
                    .collect()
            })
            .collect();
        let mut metrics: Vec<Share> = snapshot
            .families
            .iter()
            .zip(&families)
            .filter(|(_, series)| !series.is_empty())
            .map(|(family, series)| Share {
                metric: family.name.clone().into_owned(),
                series: series.len(),
                folded: folded(snapshot, &family.name),
                labels: costs(std::slice::from_ref(series)),
            })
            .collect();
        metrics.sort_by(|a, b| b.series.cmp(&a.series).then_with(|| a.metric.cmp(&b.metric)));
        Self {
            series: families.iter().map(Vec::len).sum(),
            labels: costs(&families),
            metrics,
        }
    }

    fn text(&self) -> String {
        let labels: Vec<Vec<String>> = self
            .labels
            .iter()
            .take(SHOWN)
            .map(|c| {
                vec![
                    c.label.clone(),
                    c.values.to_string(),
                    c.series.to_string(),
                    c.costs.to_string(),
                ]
            })
            .collect();
        let metrics: Vec<Vec<String>> = self
            .metrics
            .iter()
            .take(SHOWN)
            .map(|share| {
                let dear = share.labels.iter().filter(|cost| cost.costs > 0);
                let dear: Vec<String> = dear.map(|c| format!("{} −{}", c.label, c.costs)).collect();
                vec![
                    share.metric.clone(),
                    share.series.to_string(),
                    share.folded.to_string(),
                    dear.join(", "),
                ]
            })
            .collect();
        let folded: usize = self.metrics.iter().map(|share| share.folded).sum();
        let fewer = match folded {
            0 => String::new(),
            n => format!(", and {n} that `labels` has made part of them"),
        };
        format!(
            "{} series{fewer}; a histogram is one, as a native histogram and in OTLP, and in the text format one a bucket\n\n\
             {}\n\n{}\n\nWithout a label a metric has so many series fewer. Setting `labels` leaves it out:\n  \
             labels: [{{metrics: geophone_tcp_*, exclude: [peer_zone]}}]\n",
            self.series,
            table(&["LABEL", ">VALUES", ">SERIES", ">COSTS"], &labels),
            table(&["METRIC", ">SERIES", ">FOLDED", "WITHOUT ITS LABEL"], &metrics),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::json::{FamilyView, SeriesView};

    fn family(name: &'static str, series: &[&[(&'static str, &'static str)]]) -> FamilyView<'static> {
        let series = series.iter().map(|labels| SeriesView {
            labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            overflow: false,
            value: ValueView::Count(1),
        });
        FamilyView {
            name: name.into(),
            kind: "counter".into(),
            unit: "1".into(),
            series: series.collect(),
        }
    }

    #[test]
    fn a_label_costs_what_would_fall_together_without_it() {
        let snapshot = SnapshotView {
            tick: 1,
            time: 0.0,
            start: 0.0,
            host: "h".into(),
            region: "".into(),
            zone: "".into(),
            families: vec![
                family(
                    "a",
                    &[
                        &[
                            ("subject", "shop/web"),
                            ("peer", "db"),
                            ("k8s_namespace_name", "shop"),
                        ],
                        &[
                            ("subject", "shop/web"),
                            ("peer", "cache"),
                            ("k8s_namespace_name", "shop"),
                        ],
                        &[
                            ("subject", "shop/api"),
                            ("peer", "db"),
                            ("k8s_namespace_name", "shop"),
                        ],
                        &[("subject", "sshd"), ("peer", "db")],
                    ],
                ),
                family("b", &[&[("subject", "shop/web")], &[("subject", "sshd")]]),
                family("c", &[&[]]),
                family("d", &[]),
                FamilyView {
                    kind: "gauge".into(),
                    series: vec![SeriesView {
                        labels: [("metric".into(), "a".into())].into(),
                        overflow: false,
                        value: ValueView::Number(Some(2.0)),
                    }],
                    ..family("geophone_folded_series", &[])
                },
            ],
        };
        let report = Report::of(&snapshot);
        assert_eq!(report.series, 8);
        let costs: Vec<_> = report
            .labels
            .iter()
            .map(|c| (c.label.as_str(), c.values, c.series, c.costs))
            .collect();
        // Without the subject the two of shop that talk to db are one; sshd has no namespace and stays apart.
        assert_eq!(
            costs,
            [
                ("subject", 3, 6, 2),
                ("peer", 2, 4, 1),
                ("k8s_namespace_name", 1, 3, 0),
                ("metric", 1, 1, 0),
            ]
        );
        let metrics: Vec<_> = report
            .metrics
            .iter()
            .map(|m| {
                (
                    m.metric.as_str(),
                    m.series,
                    m.folded,
                    m.labels.first().map(|d| (d.label.as_str(), d.costs)),
                )
            })
            .collect();
        assert_eq!(
            metrics,
            [
                ("a", 4, 2, Some(("peer", 1))),
                ("b", 2, 0, Some(("subject", 1))),
                ("c", 1, 0, None),
                ("geophone_folded_series", 1, 0, Some(("metric", 0))),
            ]
        );
        let text = report.text();
        assert!(text.starts_with("8 series, and 2 that"), "{text}");
        assert!(text.contains("peer −1, subject −1"), "{text}");
    }
}
