//! One connection as a span.

use super::super::encode::attributes;
use super::super::message::{self, pair, scope};
use crate::aggregate::Resource as Machine;
use crate::probes::tcp::span::Span as Told;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Bit 1 of `Span.flags` (W3C Trace Context): sampled; bit 2 (level 2): the id is random where samplers look.
const SAMPLED_AND_RANDOM: u32 = 3;
/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK` and `SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`: the parent is another service's.
const REMOTE: u32 = 0x300;

fn text(key: &str, text: &str) -> Option<KeyValue> {
    (!text.is_empty()).then(|| pair(key, message::text(text)))
}

fn count(key: &str, of: u64) -> Option<KeyValue> {
    let of = i64::try_from(of).unwrap_or(i64::MAX);
    (of != 0).then(|| pair(key, Value::IntValue(of)))
}

fn seconds(key: &str, of: Option<f64>) -> Option<KeyValue> {
    of.map(|of| pair(key, Value::DoubleValue(of)))
}

/// A request of these, by the services that they are of: a subject is to a trace what a service is.
pub(super) fn request(spans: &[Box<Told>], machine: &Machine) -> ExportTraceServiceRequest {
    let mut services: BTreeMap<&str, Vec<Span>> = BTreeMap::new();
    for told in spans {
        services
            .entry(told.flow.subject.as_str())
            .or_default()
            .push(span(told));
    }
    ExportTraceServiceRequest {
        resource_spans: services
            .into_iter()
            .map(|(subject, spans)| ResourceSpans {
                resource: Some(Resource {
                    attributes: resource(subject, machine),
                    ..Resource::default()
                }),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope()),
                    spans,
                    schema_url: String::new(),
                }],
                schema_url: String::new(),
            })
            .collect(),
    }
}

/// That of the machine, but of the service that the connection was of.
fn resource(subject: &str, machine: &Machine) -> Vec<KeyValue> {
    let own = attributes(machine).into_iter();
    own.filter(|(key, _)| !matches!(*key, "service.name" | "service.version"))
        .chain([(
            "service.name",
            if subject.is_empty() { "unknown" } else { subject },
        )])
        .filter_map(|(key, value)| text(key, value))
        .collect()
}

fn span(told: &Told) -> Span {
    let flow = &told.flow;
    let is_server = flow.role == "server";
    // Nobody answered until the application gave up: to the kernel that is no error.
    let error = match (flow.error.as_str(), told.established) {
        ("none", None) => "abandoned",
        (error, _) => error,
    };
    let failed = error != "none";
    let (client, server) = if is_server {
        (flow.remote, flow.local)
    } else {
        (flow.local, flow.remote)
    };
    let end = |key: &str, of: SocketAddr| {
        [
            text(&format!("{key}.address"), &of.ip().to_string()),
            count(&format!("{key}.port"), u64::from(of.port())),
        ]
    };
    let ends = [
        end("network.local", flow.local),
        end("network.peer", flow.remote),
        end("client", client),
        end("server", server),
    ];
    let version = if flow.local.is_ipv4() { "ipv4" } else { "ipv6" };
    let known = [
        text("network.transport", "tcp"),
        text("network.type", version),
        text("geophone.subject", &flow.subject),
        text("geophone.peer", &flow.peer),
        text("destination.cloud.region", &flow.peer_region),
        text("destination.cloud.availability_zone", &flow.peer_zone),
        text("error.type", if failed { error } else { "" }),
        text("network.tcp.handshake.role", &flow.role),
        text("geophone.tcp.state", &flow.state),
        text("process.executable.name", &flow.process),
        count("process.pid", u64::from(flow.pid)),
        count("geophone.tcp.bytes_received", flow.bytes_received),
        count("geophone.tcp.bytes_sent", flow.bytes_sent),
        count(
            "geophone.tcp.segments_received",
            u64::from(flow.segments_received),
        ),
        count("geophone.tcp.segments_sent", u64::from(flow.segments_sent)),
        count("geophone.tcp.retransmits", u64::from(flow.retransmits)),
        count("geophone.tcp.spurious_retransmits", u64::from(flow.spurious)),
        seconds("geophone.tcp.connect", flow.connect),
        seconds("geophone.tcp.rtt", flow.rtt),
        seconds("geophone.tcp.rtt_min", flow.rtt_min),
        seconds("geophone.tcp.rtt_max", told.rtt_max),
        text("geophone.trace.why", told.why),
    ];
    let established = told.established.filter(|at| *at != told.start);
    Span {
        trace_id: told.trace_id.to_be_bytes().into(),
        span_id: told.span_id.to_be_bytes().into(),
        parent_span_id: told.parent.map_or(Vec::new(), |id| id.to_be_bytes().into()),
        flags: SAMPLED_AND_RANDOM | if told.parent.is_some() { REMOTE } else { 0 },
        name: if told.established.is_none() {
            "tcp.connect".into()
        } else {
            "tcp.connection".into()
        },
        kind: if is_server {
            SpanKind::Server
        } else {
            SpanKind::Client
        } as i32,
        start_time_unix_nano: told.start,
        end_time_unix_nano: told.end,
        attributes: ends.into_iter().flatten().chain(known).flatten().collect(),
        events: established
            .map(|at| Event {
                time_unix_nano: at,
                name: "tcp.established".into(),
                ..Event::default()
            })
            .into_iter()
            .collect(),
        status: failed.then(|| Status {
            message: error.to_owned(),
            code: StatusCode::Error as i32,
        }),
        ..Span::default()
    }
}
