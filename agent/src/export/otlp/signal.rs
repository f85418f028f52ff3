//! What is sent: each signal has its own service, path and counters.

use axum::http::uri::PathAndQuery;

/// A signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Metrics.
    Metrics,
    /// Profiles, whose definition is still under development.
    Profiles,
    /// Logs.
    Logs,
    /// Traces.
    Traces,
}

impl Signal {
    /// Value of the label `exporter`.
    pub const fn exporter(self) -> &'static str {
        match self {
            Self::Metrics => "otlp",
            Self::Profiles => "otlp_profiles",
            Self::Logs => "otlp_logs",
            Self::Traces => "otlp_traces",
        }
    }

    /// Its setting, and its name in sentences.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Profiles => "profiles",
            Self::Logs => "logs",
            Self::Traces => "traces",
        }
    }

    /// Path over HTTP.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Metrics => "/v1/metrics",
            Self::Profiles => "/v1development/profiles",
            Self::Logs => "/v1/logs",
            Self::Traces => "/v1/traces",
        }
    }

    /// Method over gRPC.
    pub const fn method(self) -> PathAndQuery {
        PathAndQuery::from_static(match self {
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Self::Profiles => "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export",
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        })
    }
}
