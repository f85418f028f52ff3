//! Requests, counted by a fixed set of paths: what a stranger asks for must not become a series.

use crate::aggregate::{Collect, Family, Kind, Label, Labels, Metric, Series, Stability, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

static PATH: Label = Label {
    prometheus: "path",
    otlp: "http.route",
    help: "Path of the API; other = no such path",
};
static CODE: Label = Label {
    prometheus: "code",
    otlp: "geophone.http.status_class",
    help: "Class of the HTTP status: 2xx, 4xx or 5xx",
};

static FILES: Label = Label {
    prometheus: "files",
    otlp: "geophone.api.files",
    help: "api.tls or api.token_file",
};

/// Requests.
pub static REQUESTS: Metric = Metric {
    name: "geophone_api_requests_total",
    otlp: "geophone.api.requests",
    unit: "{request}",
    kind: Kind::Counter,
    help: "Requests to the HTTP API",
    labels: &[&PATH, &CODE],
    stability: Stability::Stable,
};

/// Records that streaming clients were too slow for.
pub static LAGGED: Metric = Metric {
    name: "geophone_api_records_lagged_total",
    otlp: "geophone.api.records.lagged",
    unit: "{record}",
    kind: Kind::Counter,
    help: "Told events that clients of /api/v1/flows, drops and tunnels were too slow to take",
    labels: &[],
    stability: Stability::Stable,
};

/// Connections that made room.
pub static DISPLACED: Metric = Metric {
    name: "geophone_api_connections_displaced_total",
    otlp: "geophone.api.connections.displaced",
    unit: "{connection}",
    kind: Kind::Counter,
    help: "Connections that were closed while all 64 were taken, for another's sake: they had not yet asked for anything but health",
    labels: &[],
    stability: Stability::Stable,
};

/// Files whose new state is not in use.
pub static OUTDATED: Metric = Metric {
    name: "geophone_api_files_outdated",
    otlp: "geophone.api.files.outdated",
    unit: "{file}",
    kind: Kind::Gauge,
    help: "1 = the files have changed and cannot be used, so what they held before is used on; the log says why",
    labels: &[&FILES],
    stability: Stability::Stable,
};

/// All metrics of the API.
pub static METRICS: &[&Metric] = &[&REQUESTS, &LAGGED, &DISPLACED, &OUTDATED];

/// Files of the API that are read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// Certificates and key.
    Tls,
    /// The token.
    Token,
}

impl Files {
    const ALL: [Self; 2] = [Self::Tls, Self::Token];

    /// The setting that names them.
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Tls => "api.tls",
            Self::Token => "api.token_file",
        }
    }
}

/// The path with a part of the client's choice.
const LABEL_VALUES: &str = "/api/v1/label/{name}/values";

/// Another one.
const SILENCE: &str = "/api/v2/silence/{id}";

/// Paths that are counted by name.
pub const PATHS: [&str; 31] = [
    "/metrics",
    "/healthz",
    "/readyz",
    "/api/v1/status",
    "/api/v1/snapshot",
    "/api/v1/view",
    "/api/v1/topology",
    "/api/v1/capacity",
    "/api/v1/profile",
    "/debug/pprof/profile",
    "/api/v1/flows",
    "/api/v1/drops",
    "/api/v1/tunnels",
    "/api/v1/record",
    "/api/v1/anomalies",
    "/api/v1/query",
    "/api/v1/query_range",
    "/api/v1/series",
    "/api/v1/labels",
    LABEL_VALUES,
    "/api/v1/metadata",
    "/api/v1/query_exemplars",
    "/api/v1/rules",
    "/api/v1/alerts",
    "/api/v1/incidents",
    "/api/v2/silences",
    SILENCE,
    "/api/v1/status/buildinfo",
    "/api/v1/read",
    "/-/reload",
    "other",
];
const CLASSES: [&str; 3] = ["2xx", "4xx", "5xx"];

/// Counters of the API.
#[derive(Debug, Default)]
pub struct Stats {
    requests: [[AtomicU64; CLASSES.len()]; PATHS.len()],
    lagged: AtomicU64,
    displaced: AtomicU64,
    outdated: [AtomicBool; Files::ALL.len()],
}

impl Stats {
    /// Counts a request by its path as the client sent it and the status that it got.
    pub fn request(&self, path: &str, status: u16) {
        let values = path
            .strip_prefix("/api/v1/label/")
            .and_then(|rest| rest.strip_suffix("/values"));
        let silence = path.strip_prefix(crate::api::silences::ONE);
        let path = match (values, silence) {
            (Some(name), _) if !name.contains('/') => LABEL_VALUES,
            (_, Some(id)) if !id.contains('/') => SILENCE,
            _ => path,
        };
        let path = PATHS.iter().position(|p| *p == path).unwrap_or(PATHS.len() - 1);
        let class = match status {
            ..400 => 0,
            400..500 => 1,
            _ => 2,
        };
        if let Some(counter) = self.requests.get(path).and_then(|r| r.get(class)) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// Notes whether what the files hold cannot be used.
    pub fn outdated(&self, files: Files, is: bool) {
        self.outdated[files as usize].store(is, Relaxed);
    }

    /// Counts a connection that made room for another.
    pub fn displaced(&self) {
        self.displaced.fetch_add(1, Relaxed);
    }

    /// Counts records that a client missed.
    pub fn lagged(&self, records: u64) {
        self.lagged.fetch_add(records, Relaxed);
    }
}

/// Makes the families; keeps the labels, which are encoded once.
pub struct StatsCollect {
    stats: Arc<Stats>,
    labels: Vec<Arc<Labels>>,
    none: Arc<Labels>,
    files: [Arc<Labels>; Files::ALL.len()],
}

impl StatsCollect {
    /// For the counters of one server.
    pub fn new(stats: Arc<Stats>, start_unix_nanos: u64) -> Self {
        let new =
            |declared, values: &[&str]| Arc::new(Labels::new(declared, values, false, start_unix_nanos));
        let labels = PATHS
            .iter()
            .flat_map(|path| CLASSES.iter().map(move |class| [*path, *class]));
        Self {
            stats,
            labels: labels.map(|l| new(REQUESTS.labels, &l)).collect(),
            none: new(LAGGED.labels, &[]),
            files: Files::ALL.map(|files| new(OUTDATED.labels, &[files.setting()])),
        }
    }
}

impl Collect for StatsCollect {
    fn collect(&mut self, out: &mut Vec<Family>) {
        let counters = self.stats.requests.iter().flatten().map(|c| c.load(Relaxed));
        let series = counters
            .zip(&self.labels)
            .filter(|(count, _)| *count > 0)
            .map(|(count, labels)| Series {
                labels: labels.clone(),
                value: Value::Counter(count),
            })
            .collect();
        out.push(Family {
            metric: &REQUESTS,
            series,
        });
        for (metric, count) in [(&LAGGED, &self.stats.lagged), (&DISPLACED, &self.stats.displaced)] {
            out.push(Family {
                metric,
                series: vec![Series {
                    labels: self.none.clone(),
                    value: Value::Counter(count.load(Relaxed)),
                }],
            });
        }
        let outdated = self.stats.outdated.iter().zip(&self.files);
        out.push(Family {
            metric: &OUTDATED,
            series: outdated
                .map(|(is, labels)| Series {
                    labels: labels.clone(),
                    value: Value::Gauge(f64::from(u8::from(is.load(Relaxed)))),
                })
                .collect(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_the_clients_choice_is_one_series() {
        let stats = Arc::new(Stats::default());
        for path in [
            "/api/v1/label/job/values",
            "/api/v1/label/a%2Fb/values",
            "/api/v1/label/a/b/values",
        ] {
            stats.request(path, 200);
        }
        let mut families = Vec::new();
        StatsCollect::new(stats, 1).collect(&mut families);
        let counted: Vec<(&str, u64)> = families[0]
            .series
            .iter()
            .map(|s| match s.value {
                Value::Counter(count) => (s.labels.get(&PATH).unwrap(), count),
                _ => panic!("no counter"),
            })
            .collect();
        assert_eq!(counted, [(LABEL_VALUES, 2), ("other", 1)]);
    }
}
