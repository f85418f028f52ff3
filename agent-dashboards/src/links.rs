//! From a panel on to other dashboards: what is chosen here, what was clicked and the time that is looked at go along.

use crate::boards::{PROFILES, REGION};
use crate::maker::{AT_LEAST, AT_MOST};
use crate::panel::{Board, Panel, Show, Way};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// By itself Grafana leaves what parts a URL, as `&` is, as it is.
const ENCODED: &str = ":percentencode";

/// The variable with the address of an agent.
pub const AGENT: &str = "agent";

/// What there is to lead to: title and variables of each dashboard, by its name.
pub type Map = BTreeMap<&'static str, (&'static str, Vec<&'static str>)>;

/// Of these.
pub fn map(boards: &[Board]) -> Map {
    let of = |board: &Board| {
        let variables = board.variables.iter().map(|variable| variable.name).collect();
        (board.name, (board.title, variables))
    };
    boards.iter().map(of).collect()
}

/// Links of one dashboard's panels.
#[derive(Clone, Copy, Debug)]
pub struct Links<'a> {
    /// All dashboards.
    pub map: &'a Map,
    /// The name of this one.
    pub here: &'a str,
}

impl Links<'_> {
    /// Beside the title: for what is no series of one's own.
    pub fn beside_title(&self, panel: &Panel) -> Vec<Value> {
        let ways = panel.ways.iter().filter(|way| way.labels.is_empty());
        ways.map(|way| {
            json!({
                "title": self.title(way), "type": "link", "url": self.url(way, ""), "icon": "external link", "tooltip": "",
                "tags": [], "asDropdown": false, "includeVars": false, "keepTime": false, "targetBlank": false,
            })
        })
        .collect()
    }

    /// At each value of a graph; of a matrix at each cell.
    pub fn of_values(&self, panel: &Panel) -> Vec<Value> {
        let ways = panel
            .ways
            .iter()
            .filter(|way| way.column.is_none() && !way.labels.is_empty());
        ways.map(|way| self.link(way, "__field.labels.")).collect()
    }

    /// At the columns of a table, each as an override of the column's field; and no link where a series has no label to go by.
    pub fn of_columns(&self, panel: &Panel) -> Vec<Value> {
        let mut columns: Vec<(&str, Vec<Value>)> = Vec::new();
        columns.extend(
            panel
                .stacks
                .map(|(column, parameter)| (column, vec![stacks(column, parameter)])),
        );
        for way in &panel.ways {
            let Some(column) = way.column else { continue };
            let link = self.link(way, "__data.fields.");
            match columns.iter_mut().find(|(known, _)| *known == column) {
                Some((_, links)) => links.push(link),
                None => columns.push((column, vec![link])),
            }
        }
        if panel.show == Show::Band {
            columns.extend([AT_MOST, AT_LEAST].map(|end| (end, Vec::new())));
        }
        let of = |(column, links): (&str, Vec<Value>)| {
            json!({
                "matcher": { "id": "byName", "options": column },
                "properties": [{ "id": "links", "value": links }],
            })
        };
        columns.into_iter().map(of).collect()
    }

    fn link(&self, way: &Way, place: &str) -> Value {
        json!({ "title": self.title(way), "url": self.url(way, place), "targetBlank": false })
    }

    fn title(&self, way: &Way) -> String {
        let (title, _) = self.of(way.board);
        let title = title.trim_start_matches("geophone / ");
        match way.column.or(way.labels.last().copied()) {
            Some(label) => format!("{title}: this {label}"),
            None => title.to_owned(),
        }
    }

    fn of<'a>(&'a self, board: &'a str) -> (&'a str, &'a [&'static str]) {
        self.map
            .get(board)
            .map_or((board, &[][..]), |(title, variables)| (*title, variables))
    }

    /// `place` is before the name of a label.
    fn url(&self, way: &Way, place: &str) -> String {
        let ((_, here), (_, there)) = (self.of(self.here), self.of(way.board));
        let mut parts = vec!["${datasource:queryparam}".to_owned()];
        let chosen = there.iter().filter(|name| {
            // Nodes that are chosen here need not be of the region that was clicked.
            let is_of_clicked = **name == "instance" && way.labels.contains(&"region");
            here.contains(name) && !way.labels.contains(name) && !is_of_clicked
        });
        parts.extend(chosen.map(|name| format!("${{{name}:queryparam}}")));
        let labels = way.labels.iter();
        parts.extend(labels.map(|label| format!("var-{label}=${{{place}{label}{ENCODED}}}")));
        parts.push(if way.board == PROFILES {
            // Stacks are of that hour and no other, however long the page stays open.
            "from=${__from}&to=${__to}".to_owned()
        } else {
            "${__url_time_range}".to_owned()
        });
        format!("/d/{}?{}", way.board, parts.join("&"))
    }
}

/// Of the agent that a row is of, where this browser reaches it: its node's name is no such address, and where it is one, the agent
/// wants a token. It keeps an hour of stacks, and takes seconds since 1970.
fn stacks(column: &str, parameter: &str) -> Value {
    let url = format!(
        "${{{AGENT}:raw}}/api/v1/profile?{parameter}=${{__data.fields.{column}{ENCODED}}}\
         &from=${{__from:date:seconds}}&to=${{__to:date:seconds}}&format=svg"
    );
    let title = format!("Flamegraph of ${{__data.fields.instance}}, if ${AGENT} is its agent");
    json!({ "title": title, "url": url, "targetBlank": true })
}

/// At the cells of a matrix of regions, by their row and their column.
pub fn of_cells(row: &str, column: &str) -> (Vec<Value>, Value) {
    let to = |labels: &str, title: &str| {
        let url = format!("/d/{REGION}?${{datasource:queryparam}}&{labels}&${{__url_time_range}}");
        vec![json!({ "title": title, "url": url, "targetBlank": false })]
    };
    let from = format!("var-{row}=${{__data.fields[0]{ENCODED}}}");
    let heads = json!({
        "matcher": { "id": "byName", "options": format!("{row}\\{column}") },
        "properties": [{ "id": "links", "value": to(&from, "Region: from here") }],
    });
    (
        to(
            &format!("{from}&var-{column}=${{__field.name{ENCODED}}}"),
            "Region: this way",
        ),
        heads,
    )
}
