//! OTLP logs: anomalies, when they begin, with their evidence, and when they are over.
//!
//! Source: <https://github.com/open-telemetry/opentelemetry-proto/tree/v1.7.0/opentelemetry/proto/logs/v1>; a record is an event by
//! its name (<https://opentelemetry.io/docs/specs/semconv/general/events/>).

use super::client::Collector;
use super::encode::attributes;
use super::message::{pair, scope, text};
use super::{OtlpSettings, Signal, lane};
use crate::aggregate::{Resource as Machine, Snapshot};
use crate::export::push::queue::Queue;
use crate::export::push::{Lane, Part, Stats};
use crate::score::attribute;
use agent_score::watch::Anomaly;
use anyhow::Result;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

/// Records of a request: each has some kilobytes, and collectors refuse more than 4 MiB by default.
const RECORDS: usize = 200;
/// At the end of the agent the last are waited for, so long: those that are over with it are told so.
const LAST: Duration = Duration::from_secs(1);
/// Name of the event that one has begun.
const BEGUN: &str = "geophone.anomaly.begun";
/// Name of the event that one is over.
const OVER: &str = "geophone.anomaly.over";

/// An exporter of logs, ready to run.
pub struct Exporter(Lane<Collector>);

impl Exporter {
    /// `None` if there is no endpoint, or logs are not to be sent. Must be called in a tokio runtime, after rustls has its provider.
    pub fn new(settings: &OtlpSettings) -> Result<Option<Self>> {
        if !settings.logs {
            return Ok(None);
        }
        Ok(lane(settings, Signal::Logs)?.map(Self))
    }

    /// Where it counts.
    pub fn stats(&self) -> Arc<Stats> {
        self.0.stats()
    }

    /// Exports what it is told of until `shutdown` resolves, then what is left, and ends within five seconds.
    pub async fn run(
        self,
        mut told: UnboundedReceiver<Arc<Anomaly>>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        shutdown: impl Future<Output = ()>,
    ) {
        self.0
            .run(async |queue: &Queue| {
                let mut shutdown = std::pin::pin!(shutdown);
                loop {
                    let mut records = Vec::new();
                    let over = tokio::select! {
                        taken = told.recv_many(&mut records, RECORDS) => taken == 0,
                        () = &mut shutdown => {
                            let rest = async {
                                while let Some(one) = told.recv().await {
                                    records.push(one);
                                }
                            };
                            let _ = tokio::time::timeout(LAST, rest).await;
                            true
                        }
                    };
                    // Where the machine is by now.
                    let machine = snapshots.borrow().resource.clone();
                    let parts: Vec<Part> = records.chunks(RECORDS).map(|some| part(some, &machine)).collect();
                    if !parts.is_empty() {
                        queue.push(parts);
                    }
                    if over {
                        return;
                    }
                }
            })
            .await;
    }
}

fn value(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn list(all: impl Iterator<Item = String>) -> Value {
    Value::ArrayValue(ArrayValue {
        values: all.map(|one| value(text(one))).collect(),
    })
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e3).round() as u64 * 1_000_000
}

/// A request of these.
fn part(anomalies: &[Arc<Anomaly>], machine: &Machine) -> Part {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let request = request(anomalies, machine, now.as_nanos() as u64);
    Part {
        body: request.encode_to_vec().into(),
        points: anomalies.len() as u64,
    }
}

fn request(anomalies: &[Arc<Anomaly>], machine: &Machine, now: u64) -> ExportLogsServiceRequest {
    let own = attributes(machine).into_iter();
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(Resource {
                attributes: own.map(|(key, value)| pair(key, text(value))).collect(),
                ..Resource::default()
            }),
            scope_logs: vec![ScopeLogs {
                scope: Some(scope()),
                log_records: anomalies.iter().map(|one| record(one, now)).collect(),
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }],
    }
}

fn record(anomaly: &Anomaly, now: u64) -> LogRecord {
    let (severity, word, name, at) = match anomaly.until {
        None => (SeverityNumber::Warn, "WARN", BEGUN, anomaly.since),
        Some(until) => (SeverityNumber::Info, "INFO", OVER, until),
    };
    let mut all = vec![
        pair("geophone.anomaly.id", Value::IntValue(anomaly.id as i64)),
        pair("geophone.anomaly.watch", text(&anomaly.watch)),
        pair("geophone.anomaly.change", text(anomaly.direction.name())),
        pair(
            "geophone.anomaly.detectors",
            list(anomaly.detectors.iter().cloned()),
        ),
        pair(
            "geophone.anomaly.score",
            Value::DoubleValue(f64::from(anomaly.score)),
        ),
        pair("geophone.anomaly.value", Value::DoubleValue(anomaly.value)),
        pair("geophone.anomaly.unit", text(anomaly.unit.name())),
    ];
    for (key, known) in [
        ("geophone.anomaly.expected", anomaly.expected),
        ("geophone.anomaly.lower", anomaly.lower),
        ("geophone.anomaly.upper", anomaly.upper),
    ] {
        all.extend(known.map(|known| pair(key, Value::DoubleValue(known))));
    }
    // Those of the series are called as in its metric.
    let labels = anomaly.labels.iter();
    all.extend(labels.map(|(name, value)| pair(attribute(name), text(value))));
    let mut body = anomaly.to_string();
    if anomaly.until.is_some() {
        all.push(pair("geophone.anomaly.over", text(&anomaly.over)));
        all.push(pair("geophone.anomaly.since", Value::DoubleValue(anomaly.since)));
        body = format!("{body}: {}", anomaly.over);
    }
    // At the end it may be more: what the CPUs did is looked for once more.
    let evidence = anomaly.evidence.iter().map(ToString::to_string);
    all.push(pair("geophone.anomaly.evidence", list(evidence)));
    if anomaly.evidence_left_out > 0 {
        all.push(pair(
            "geophone.anomaly.evidence_left_out",
            Value::IntValue(i64::try_from(anomaly.evidence_left_out).unwrap_or(i64::MAX)),
        ));
    }
    if !anomaly.evidence_missing.is_empty() {
        all.push(pair(
            "geophone.anomaly.evidence_missing",
            text(&anomaly.evidence_missing),
        ));
    }
    LogRecord {
        time_unix_nano: nanos(at),
        observed_time_unix_nano: now,
        severity_number: severity as i32,
        severity_text: word.to_owned(),
        body: Some(value(text(body))),
        attributes: all,
        event_name: name.to_owned(),
        ..LogRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_score::watch::Evidence;

    #[test]
    fn a_record_says_what_began_and_why_and_another_that_it_is_over() {
        let begun = Anomaly {
            id: 7,
            watch: "tcp_retransmit_ratio".into(),
            labels: [("peer".to_owned(), "db".to_owned())].into(),
            since: 1_700_000_000.25,
            detectors: vec!["robust".into(), "forest".into()],
            value: 0.125,
            upper: Some(0.01),
            evidence: vec![Evidence {
                what: "drops".into(),
                labels: [("reason".to_owned(), "NETFILTER_DROP".to_owned())].into(),
                now: Some(3.0),
                ..Evidence::default()
            }],
            evidence_left_out: 3,
            ..Anomaly::default()
        };
        let drops = begun.evidence[0].to_string();
        let over = Anomaly {
            until: Some(1_700_000_060.0),
            over: "it is as usual again".into(),
            ..begun.clone()
        };
        let machine = Machine {
            host: "node-1".into(),
            ..Machine::default()
        };
        let bytes = part(&[Arc::new(begun), Arc::new(over)], &machine);
        assert_eq!(bytes.points, 2);
        let request = ExportLogsServiceRequest::decode(&*bytes.body).unwrap();
        let of = &request.resource_logs[0];
        let host = pair("host.name", text("node-1"));
        assert!(of.resource.as_ref().unwrap().attributes.contains(&host));
        let [begun, over] = &of.scope_logs[0].log_records[..] else {
            panic!("{of:?}")
        };
        assert_eq!(
            (begun.event_name.as_str(), over.event_name.as_str()),
            (BEGUN, OVER)
        );
        assert_eq!((begun.severity_number, over.severity_number), (13, 9));
        assert_eq!(begun.time_unix_nano, 1_700_000_000_250_000_000);
        assert_eq!(over.time_unix_nano, 1_700_000_060_000_000_000);
        assert!(begun.observed_time_unix_nano > begun.time_unix_nano);
        let evidence = list(std::iter::once(drops));
        for wanted in [
            pair("geophone.peer", text("db")),
            pair("geophone.anomaly.id", Value::IntValue(7)),
            pair("geophone.anomaly.upper", Value::DoubleValue(0.01)),
            pair("geophone.anomaly.evidence", evidence.clone()),
            pair("geophone.anomaly.evidence_left_out", Value::IntValue(3)),
        ] {
            assert!(begun.attributes.contains(&wanted), "no {wanted:?} in {begun:?}");
        }
        assert!(
            over.attributes
                .contains(&pair("geophone.anomaly.evidence", evidence))
        );
        let Some(Value::StringValue(body)) = over.body.as_ref().and_then(|body| body.value.as_ref()) else {
            panic!("{over:?}")
        };
        assert!(body.ends_with(": it is as usual again"), "{body}");
    }
}
