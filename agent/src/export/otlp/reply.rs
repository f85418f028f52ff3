//! What a collector's answer means.
//!
//! Source: <https://opentelemetry.io/docs/specs/otlp/> (failures, throttling, partial success).

use crate::export::push::reply::{LONGEST, Reply, printable, retry_after as parse_retry_after};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message as _;
use std::time::Duration;
use tonic::{Code, Status};

/// Reads an `ExportMetricsServiceResponse`; those of the other signals have the same fields.
pub fn accepted(body: &[u8]) -> Reply {
    match ExportMetricsServiceResponse::decode(body) {
        Err(error) => Reply::permanent(format!("reply is not one of OTLP: {error}")),
        Ok(response) => {
            let partial = response.partial_success.unwrap_or_default();
            // A negative number is nonsense and rejects nothing.
            let rejected = u64::try_from(partial.rejected_data_points).unwrap_or(0);
            Reply::Accepted {
                rejected,
                message: printable(&partial.error_message),
            }
        }
    }
}

/// Judges an HTTP answer. `body` is `None` if it was too long.
pub fn http(status: u16, content_type: &str, retry_after: Option<&str>, body: Option<&[u8]>) -> Reply {
    match (status, body) {
        (200..300, None) => Reply::permanent(format!("HTTP {status} with a reply above {LONGEST} bytes")),
        (200..300, Some([])) => accepted(&[]),
        // A web server or a login page that answers 200 to everything must not pass for a collector.
        (200..300, Some(_)) if !content_type.trim_start().starts_with("application/x-protobuf") => {
            Reply::permanent(format!(
                "HTTP {status}, but content-type {content_type:?} is not OTLP; check otlp.endpoint"
            ))
        }
        (200..300, Some(body)) => accepted(body),
        (429 | 502 | 503 | 504, _) => Reply::Retry {
            after: retry_after.and_then(parse_retry_after),
            cause: format!("HTTP {status}"),
        },
        (300..400, _) => Reply::permanent(format!(
            "HTTP {status}: redirects are not followed; check otlp.endpoint"
        )),
        (_, body) => Reply::permanent(format!(
            "HTTP {status} {}",
            status_message(body.unwrap_or_default())
        )),
    }
}

/// `google.rpc.Status`, which OTLP sends with failures.
#[derive(prost::Message)]
struct RpcStatus {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

#[derive(prost::Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

fn status_message(body: &[u8]) -> String {
    RpcStatus::decode(body).map(|s| s.message).unwrap_or_default()
}

/// Judges a gRPC failure.
pub fn grpc(status: &Status) -> Reply {
    let info = retry_info(status.details());
    let cause = printable(&format!("{:?}: {}", status.code(), describe(status)));
    // Ours, not the collector's: it answered, and will answer the same again.
    let too_long =
        status.code() == Code::OutOfRange && status.message().contains("decoded message length too large");
    // A failure below gRPC: not connected, TLS, connection reset.
    let transport = std::error::Error::source(status).is_some();
    let again = match status.code() {
        Code::Unavailable | Code::Aborted | Code::OutOfRange | Code::DataLoss => true,
        Code::Cancelled | Code::DeadlineExceeded => true,
        Code::ResourceExhausted => info.is_some(),
        _ => transport,
    };
    if again && !too_long {
        Reply::Retry { after: info, cause }
    } else {
        Reply::Permanent { cause }
    }
}

/// tonic says `transport error`; the cause lies below.
fn describe(status: &Status) -> String {
    let mut out = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let text = error.to_string();
        if !out.contains(&text) {
            out = format!("{out}: {text}");
        }
        source = error.source();
    }
    out
}

fn retry_info(details: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(details).ok()?;
    let any = status
        .details
        .iter()
        .find(|a| a.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(any.value.as_slice())
        .ok()?
        .retry_delay
        .unwrap_or_default();
    let nanos = u32::try_from(delay.nanos).unwrap_or(0).min(999_999_999);
    Some(Duration::new(u64::try_from(delay.seconds).unwrap_or(0), nanos))
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
