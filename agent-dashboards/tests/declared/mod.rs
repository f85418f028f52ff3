//! The metrics that docs/metrics.md lists.

use agent_dashboards::{Kind, Metric};
use std::path::{Path, PathBuf};

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Rows of docs/metrics.md: `| name | otlp | kind | unit | labels | help |`.
pub fn declared() -> Vec<Metric> {
    let text = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `geophone_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split(" | ").collect();
        let name = |cell: &str| cell.trim_matches(['|', ' ', '`']).to_owned();
        Metric {
            name: name(cells[0]),
            kind: match cells[2] {
                "counter" => Kind::Counter,
                "gauge" => Kind::Gauge,
                "histogram" => Kind::Histogram,
                other => panic!("{other}"),
            },
            unit: cells[3].to_owned(),
            labels: cells[4].split_whitespace().map(name).collect(),
            help: cells[5]
                .trim_end_matches(" |")
                .trim_end_matches(" *(experimental)*")
                .to_owned(),
        }
    })
    .collect()
}
