//! The HTTP API: metrics, health, status, the latest snapshot, told events as they come.

mod exemplars;
pub mod json;
pub mod server;
pub mod settings;
pub mod stats;

mod held;
#[cfg(test)]
mod held_tests;
mod places;
mod profile;
#[cfg(test)]
mod prometheus_tests;
pub(crate) mod promql;
mod record;
#[cfg(test)]
mod refused_tests;
mod remote_read;
mod routes;
mod silences;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
pub mod tls;

pub use server::{Bound, bind, serve};
pub use settings::{ApiSettings, ApiTls};
pub use stats::{METRICS, Stats, StatsCollect};

use crate::aggregate::Snapshot;
use crate::alert::Rules;
use crate::alert::notify::Notifier;
use crate::capacity;
use crate::memory::Memory;
use crate::record::Flight;
use crate::records::{Changes, Record};
use crate::score::Anomalies;
use crate::stacks::Stacks;
use std::sync::Arc;
use tokio::sync::{broadcast, watch};

/// What the API shows.
#[derive(Clone)]
pub struct State {
    /// The latest snapshot; tick 0 = none yet.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Told events.
    pub records: broadcast::Sender<Arc<Record>>,
    /// Changes of tunnels.
    pub changes: Arc<Changes>,
    /// Makes the answer of `/api/v1/status`.
    pub status: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
    /// Makes the answer of `/api/v1/view`: what `geophone top` shows. `None` = no snapshot yet.
    pub view: Arc<dyn Fn() -> Option<serde_json::Value> + Send + Sync>,
    /// Makes the answer of `/api/v1/topology`. `None` = no snapshot yet.
    pub topology: Arc<dyn Fn() -> Option<serde_json::Value> + Send + Sync>,
    /// Stacks, if any are taken.
    pub stacks: Option<Arc<Stacks>>,
    /// What is remembered, if anything is.
    pub memory: Option<Arc<Memory>>,
    /// The rules, if there are any.
    pub rules: Option<Arc<Rules>>,
    /// Who tells of alerts, if there are rules.
    pub notifier: Option<Arc<Notifier>>,
    /// Forecasts, if any are made.
    pub capacity: Option<Arc<capacity::Live>>,
    /// The flight recorder, if it is on.
    pub flight: Option<Arc<Flight>>,
    /// The series that are watched for anomalies, if there are any.
    pub anomalies: Option<Arc<Anomalies>>,
    /// Where requests are counted.
    pub stats: Arc<Stats>,
}
