//! Exemplars, as Prometheus' HTTP API gives them.

use crate::aggregate::{Exemplar, Snapshot, Value};
use crate::export::prometheus::Scraped;
use agent_store::labels::{Labels, NAME};
use agent_store::series::{Matcher, Millis, accepts};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Those of the histograms that one of the selectors takes, be it by their own name or by that of their classic buckets.
pub(super) fn found(
    snapshot: &Snapshot,
    selectors: &[Vec<Matcher>],
    from: Option<Millis>,
    to: Option<Millis>,
) -> Json {
    let scraped = Scraped::new(&snapshot.resource.host, &BTreeMap::new());
    let within = |one: &&Exemplar| {
        let time = (one.unix_nanos / 1_000_000) as Millis;
        from.is_none_or(|from| time >= from) && to.is_none_or(|to| time <= to)
    };
    let mut out = Vec::new();
    for family in &snapshot.families {
        for series in &family.series {
            let Value::Histogram(histogram) = &series.value else {
                continue;
            };
            let exemplars: Vec<Json> = histogram.exemplars.iter().filter(within).map(exemplar).collect();
            if exemplars.is_empty() {
                continue;
            }
            let native = scraped.labels(family.metric, &series.labels);
            let bucket = format!("{}_bucket", family.metric.name);
            let classic = native.iter().map(|(name, value)| {
                let value = if **name == *NAME { &*bucket } else { &**value };
                (name.clone(), Arc::<str>::from(value))
            });
            let known = [Labels::new(classic), native];
            let asked = |labels: &&Labels| selectors.iter().any(|matchers| accepts(matchers, labels));
            if let Some(labels) = known.iter().find(asked) {
                let labels: Map<String, Json> = labels
                    .iter()
                    .map(|(name, value)| (name.to_string(), (**value).into()))
                    .collect();
                out.push(json!({ "seriesLabels": labels, "exemplars": exemplars }));
            }
        }
    }
    Json::Array(out)
}

fn exemplar(one: &Exemplar) -> Json {
    json!({
        "labels": { "trace_id": one.trace(), "span_id": one.span() },
        "value": one.value.to_string(),
        "timestamp": (one.unix_nanos / 1_000_000) as f64 / 1e3,
    })
}
