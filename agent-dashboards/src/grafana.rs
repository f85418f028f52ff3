//! Grafana's JSON: what versions 10 and 11 import, and later ones upgrade.

use crate::links::{self, Links};
use crate::maker::{AT_LEAST, AT_MOST};
use crate::panel::{Board, Panel, Show, Target, Values, Variable};
use crate::{Dashboard, Query};
use serde_json::{Value, json};

/// Version of the dashboard's form that Grafana 10.2 and later read as it is.
const SCHEMA: u32 = 39;
const COLUMNS: u8 = 24;
/// Labels of a matrix.
const ROW: &str = "region";
const COLUMN: &str = "peer_region";

fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

/// The dashboard of a board.
pub fn dashboard(board: &Board, map: &links::Map) -> Dashboard {
    let links = Links {
        map,
        here: board.name,
    };
    let mut queries = Vec::new();
    for panel in board
        .panels
        .iter()
        .flat_map(|panel| std::iter::once(panel).chain(&panel.inside))
    {
        queries.extend(panel.targets.iter().map(|target| Query {
            panel: panel.title.clone(),
            expr: target.expr.clone(),
        }));
    }
    let mut variables = vec![json!({
        "name": "datasource", "label": "Source", "type": "datasource", "query": "prometheus",
        "hide": 0, "multi": false, "includeAll": false, "options": [], "refresh": 1, "regex": "",
        "skipUrlSync": false,
    })];
    variables.extend(board.variables.iter().map(variable));
    let json = json!({
        "uid": board.name,
        "title": board.title,
        "description": board.about,
        "tags": ["geophone"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": true,
        "graphTooltip": 1,
        "timezone": "",
        "refresh": "30s",
        "time": { "from": "now-1h", "to": "now" },
        "templating": { "list": variables },
        "annotations": { "list": [{
            "name": "Alerts", "enable": true, "iconColor": "red", "datasource": source(),
            "target": {
                "refId": "Anno", "datasource": source(),
                "expr": "ALERTS{alertname=~\"Geophone.+\",alertstate=\"firing\"}",
            },
            "titleFormat": "{{alertname}} {{instance}}",
        }] },
        "links": [{
            "title": "geophone", "type": "dashboards", "tags": ["geophone"], "asDropdown": true, "includeVars": true,
            "keepTime": true, "targetBlank": false, "icon": "external link", "tooltip": "", "url": "",
        }],
        "panels": panels(&board.panels, 0, &mut 0, links),
    });
    Dashboard {
        name: board.name.to_owned(),
        about: board.about,
        json,
        queries,
    }
}

/// Gives a board of classic histograms a uid, a title and links that no board of native ones has.
pub fn set_apart(board: &mut Dashboard) {
    let json = &mut board.json;
    json["uid"] = json!(format!("{}-classic", board.name));
    json["title"] = json!(format!(
        "{} (buckets)",
        json["title"].as_str().unwrap_or_default()
    ));
    json["tags"] = json!(["geophone-classic"]);
    json["links"][0]["tags"] = json!(["geophone-classic"]);
    set_links_apart(&mut json["panels"]);
}

fn set_links_apart(value: &mut Value) {
    match value {
        Value::String(text) if text.starts_with("/d/") => *text = text.replacen('?', "-classic?", 1),
        Value::Array(all) => all.iter_mut().for_each(set_links_apart),
        Value::Object(map) => map.values_mut().for_each(set_links_apart),
        _ => {}
    }
}

fn variable(variable: &Variable) -> Value {
    let query = match &variable.values {
        Values::Asked(query) => query,
        Values::Written(first) => return written(variable, first),
    };
    let mut value = json!({
        "name": variable.name,
        "label": variable.label,
        "type": "query",
        "datasource": source(),
        "query": { "query": query, "refId": variable.name },
        "current": { "selected": true, "text": ["All"], "value": ["$__all"] },
        "includeAll": true,
        "multi": true,
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "options": [],
        "regex": "",
        "skipUrlSync": false,
    });
    // What has no such label, as a peer without a region, is not left out. All nodes are those that the variables before
    // leave, one by one: the agents' series have no label `region` to ask for.
    if variable.name != "instance" {
        value["allValue"] = json!(".*");
    }
    value
}

fn written(variable: &Variable, first: &str) -> Value {
    let current = json!({ "selected": true, "text": first, "value": first });
    json!({
        "name": variable.name, "label": variable.label, "type": "textbox", "query": first,
        "current": current, "options": [current], "hide": 0, "skipUrlSync": false,
    })
}

/// Panels one beside the other, as they fit, row by row from there on; `id` is that of the last panel before them.
pub fn panels(all: &[Panel], top: u32, id: &mut usize, links: Links<'_>) -> Vec<Value> {
    let (mut x, mut y, mut tallest) = (0_u8, top, 0_u8);
    let mut out = Vec::new();
    for panel in all {
        if x + panel.width > COLUMNS {
            (x, y, tallest) = (0, y + u32::from(tallest), 0);
        }
        let place = json!({ "x": x, "y": y, "w": panel.width, "h": panel.height });
        *id += 1;
        let mut value = one(panel, *id, place, links);
        if !panel.inside.is_empty() {
            value["collapsed"] = json!(true);
            value["panels"] = json!(panels(&panel.inside, y + u32::from(panel.height), id, links));
        }
        if let Some(variable) = panel.repeat {
            value["repeat"] = json!(variable);
        }
        out.push(value);
        x += panel.width;
        tallest = tallest.max(panel.height);
    }
    out
}

fn one(panel: &Panel, id: usize, place: Value, links: Links<'_>) -> Value {
    let mut value = json!({
        "id": id,
        "title": panel.title,
        "type": kind(panel.show),
        "gridPos": place,
    });
    match panel.show {
        Show::Row => {
            value["collapsed"] = json!(false);
            value["panels"] = json!([]);
            return value;
        }
        Show::Text => {
            value["options"] = json!({ "mode": "markdown", "content": panel.description });
            return value;
        }
        _ => {}
    }
    value["description"] = json!(panel.description);
    value["datasource"] = source();
    value["targets"] = panel
        .targets
        .iter()
        .enumerate()
        .map(|(n, target)| ask(panel.show, n, target))
        .collect();
    value["fieldConfig"] = fields(panel, links);
    value["links"] = json!(links.beside_title(panel));
    value["options"] = options(panel);
    value["transformations"] = transformations(panel);
    value
}

fn kind(show: Show) -> &'static str {
    match show {
        Show::Graph | Show::Stack | Show::Band => "timeseries",
        Show::Stat => "stat",
        Show::Table | Show::Matrix => "table",
        Show::Heatmap => "heatmap",
        Show::Row => "row",
        Show::Text => "text",
    }
}

/// A, B, C …
fn letter(n: usize) -> String {
    char::from(b'A' + u8::try_from(n % 26).unwrap_or(0)).to_string()
}

/// Histograms some of whose values lead to spans (export.otlp.traces).
const EXEMPLIFIED: [&str; 2] = ["geophone_tcp_rtt_seconds", "geophone_tcp_connect_seconds"];

fn ask(show: Show, n: usize, target: &Target) -> Value {
    let latest = matches!(show, Show::Table | Show::Matrix | Show::Stat);
    let format = match show {
        Show::Table | Show::Matrix => "table",
        Show::Heatmap => "heatmap",
        _ => "time_series",
    };
    json!({
        "refId": letter(n),
        "datasource": source(),
        "editorMode": "code",
        "expr": target.expr,
        "legendFormat": if target.legend.is_empty() { "__auto" } else { &target.legend },
        "format": format,
        "instant": latest,
        "range": !latest,
        "exemplar": !latest && EXEMPLIFIED.iter().any(|metric| target.expr.contains(metric)),
    })
}

fn fields(panel: &Panel, links: Links<'_>) -> Value {
    let steps = match panel.limits {
        Some((yellow, red)) if yellow <= red => json!([
            { "color": "green", "value": null }, { "color": "yellow", "value": yellow }, { "color": "red", "value": red },
        ]),
        // Less is worse.
        Some((yellow, red)) => json!([
            { "color": "red", "value": null }, { "color": "yellow", "value": red }, { "color": "green", "value": yellow },
        ]),
        None => json!([{ "color": "green", "value": null }]),
    };
    let stacked = panel.show == Show::Stack;
    let custom = match panel.show {
        Show::Band => json!({
            "drawStyle": "line", "lineWidth": 1, "fillOpacity": 0, "showPoints": "never", "spanNulls": false,
        }),
        Show::Graph | Show::Stack => json!({
            "drawStyle": "line", "lineWidth": 1, "fillOpacity": if stacked { 30 } else { 8 }, "showPoints": "never",
            "spanNulls": false, "stacking": { "mode": if stacked { "normal" } else { "none" }, "group": "A" },
        }),
        Show::Table | Show::Matrix => json!({
            "filterable": panel.show == Show::Table,
            "cellOptions": { "type": if panel.limits.is_some() { "color-background" } else { "auto" } },
        }),
        _ => json!({}),
    };
    let mut overrides: Vec<Value> = panel
        .units
        .iter()
        .map(|(legend, unit)| {
            json!({
                "matcher": { "id": "byName", "options": legend },
                "properties": [{ "id": "unit", "value": unit }],
            })
        })
        .collect();
    if panel.show == Show::Band {
        overrides.extend(band());
    }
    let mut of_values = links.of_values(panel);
    if panel.show == Show::Matrix {
        let (cells, heads) = links::of_cells(ROW, COLUMN);
        of_values.extend(cells);
        overrides.push(heads);
    }
    overrides.extend(links.of_columns(panel));
    json!({
        "defaults": {
            "unit": panel.unit,
            "custom": custom,
            "links": of_values,
            "color": { "mode": if panel.limits.is_some() { "thresholds" } else { "palette-classic" } },
            "thresholds": { "mode": "absolute", "steps": steps },
        },
        "overrides": overrides,
    })
}

/// The area between a band's ends; no lines of its own.
fn band() -> [Value; 2] {
    [(AT_MOST, 15), (AT_LEAST, 0)].map(|(legend, opacity)| {
        let mut properties = vec![
            json!({ "id": "custom.lineWidth", "value": 0 }),
            json!({ "id": "custom.fillOpacity", "value": opacity }),
            json!({ "id": "color", "value": { "mode": "fixed", "fixedColor": "blue" } }),
        ];
        if legend == AT_MOST {
            properties.push(json!({ "id": "custom.fillBelowTo", "value": AT_LEAST }));
        }
        json!({ "matcher": { "id": "byName", "options": legend }, "properties": properties })
    })
}

fn options(panel: &Panel) -> Value {
    match panel.show {
        Show::Graph | Show::Stack | Show::Band => json!({
            "legend": { "displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": ["lastNotNull", "max"] },
            "tooltip": { "mode": "multi", "sort": "desc" },
        }),
        Show::Stat => json!({
            "colorMode": "value", "graphMode": "none", "justifyMode": "auto", "orientation": "auto", "textMode": "auto",
            "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
        }),
        Show::Table | Show::Matrix => {
            json!({ "showHeader": true, "cellHeight": "sm", "footer": { "show": false, "reducer": ["sum"] } })
        }
        Show::Heatmap => json!({
            "calculate": false,
            "yAxis": { "unit": panel.unit, "axisPlacement": "left" },
            "color": { "mode": "scheme", "scheme": "Turbo", "steps": 64, "exponent": 0.5, "fill": "dark-orange", "reverse": false },
            "cellGap": 0,
            "legend": { "show": true },
            "exemplars": { "color": "rgba(255,0,255,0.7)" },
            "rowsFrame": { "layout": "auto" },
            "filterValues": { "le": 1e-9 },
            "showValue": "never",
            "tooltip": { "mode": "single", "yHistogram": true },
        }),
        Show::Row | Show::Text => json!({}),
    }
}

/// A table's targets become columns beside the labels, each named by its legend.
fn transformations(panel: &Panel) -> Value {
    match panel.show {
        Show::Table => {
            let single = panel.targets.len() == 1;
            let names: serde_json::Map<String, Value> = panel
                .targets
                .iter()
                .enumerate()
                .map(|(n, target)| {
                    let column = if single {
                        "Value".to_owned()
                    } else {
                        format!("Value #{}", letter(n))
                    };
                    (column, json!(target.legend))
                })
                .collect();
            json!([
                { "id": "merge", "options": {} },
                { "id": "organize", "options": {
                    "excludeByName": { "Time": true, "__name__": true, "job": true },
                    "indexByName": {}, "renameByName": names,
                } },
            ])
        }
        Show::Matrix => json!([
            { "id": "groupingToMatrix", "options": {
                "columnField": COLUMN, "rowField": ROW, "valueField": "Value", "emptyValue": "null",
            } },
        ]),
        _ => json!([]),
    }
}
