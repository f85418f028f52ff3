use super::*;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsPartialSuccess;
use std::time::SystemTime;

fn after(reply: &Reply) -> Option<u64> {
    let Reply::Retry { after, .. } = reply else {
        panic!("{reply:?}")
    };
    after.map(|d| d.as_secs())
}

#[test]
fn only_four_http_codes_are_tried_again() {
    for status in 100..600 {
        let again = matches!(http(status, "", None, Some(&[])), Reply::Retry { .. });
        assert_eq!(again, [429, 502, 503, 504].contains(&status), "{status}");
    }
}

#[test]
fn retry_after_is_seconds_or_a_date_or_nothing() {
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
    for (value, want) in [
        ("7", Some(7)),
        ("0", Some(0)),
        ("1000000000", Some(1_000_000_000)),
        ("99999999999999999999999", Some(u64::MAX)),
        ("-5", None),
        ("", None),
        ("soon", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
    ] {
        assert_eq!(after(&http(503, "", Some(value), None)), want, "{value}");
    }
    assert!((98..=100).contains(&after(&http(429, "", Some(&date), None)).unwrap()));
}

#[test]
fn a_lying_collector_is_not_believed() {
    for (kind, body) in [
        ("text/html", Some(&b"<html>"[..])),
        ("application/json", Some(b"{}")),
        ("application/x-protobuf", Some(b"\xff\xff\xff")),
        ("application/x-protobuf", None),
    ] {
        assert!(
            matches!(http(200, kind, None, body), Reply::Permanent { .. }),
            "{kind} {body:?}"
        );
    }
    assert_eq!(
        http(200, "", None, Some(&[])),
        Reply::Accepted {
            rejected: 0,
            message: String::new()
        }
    );
}

#[test]
fn partial_success_is_read_and_made_safe() {
    for (rejected, want) in [(3, 3), (-7, 0), (i64::MAX, i64::MAX as u64)] {
        let message = format!("bad\n\u{1b}[2J{}", "x".repeat(1 << 15));
        let partial = ExportMetricsPartialSuccess {
            rejected_data_points: rejected,
            error_message: message,
        };
        let body = ExportMetricsServiceResponse {
            partial_success: Some(partial),
        }
        .encode_to_vec();
        let Reply::Accepted { rejected, message } = http(200, "application/x-protobuf", None, Some(&body))
        else {
            panic!()
        };
        assert_eq!(rejected, want);
        assert!(message.len() <= 128 && !message.contains(['\n', '\u{1b}']));
    }
}

fn details(seconds: i64, nanos: i32) -> bytes::Bytes {
    let value = RetryInfo {
        retry_delay: Some(Delay { seconds, nanos }),
    }
    .encode_to_vec();
    let any = Any {
        type_url: "type.googleapis.com/google.rpc.RetryInfo".into(),
        value,
    };
    RpcStatus {
        message: String::new(),
        details: vec![any],
    }
    .encode_to_vec()
    .into()
}

#[test]
fn grpc_codes_are_tried_again_as_the_specification_says() {
    for code in 0..17 {
        let code = Code::from_i32(code);
        let again = matches!(grpc(&Status::new(code, "x")), Reply::Retry { .. });
        let want = [
            Code::Unavailable,
            Code::Aborted,
            Code::OutOfRange,
            Code::DataLoss,
            Code::Cancelled,
            Code::DeadlineExceeded,
        ];
        assert_eq!(again, want.contains(&code), "{code:?}");
    }
    let throttled = Status::with_details(Code::ResourceExhausted, "slow down", details(9, 0));
    assert_eq!(after(&grpc(&throttled)), Some(9));
    let nonsense = Status::with_details(Code::Unavailable, "x", details(-9, i32::MIN));
    assert_eq!(after(&grpc(&nonsense)), Some(0));
    let garbage = Status::with_details(Code::Unavailable, "x", bytes::Bytes::from_static(b"\xff\xff"));
    assert_eq!(after(&grpc(&garbage)), None);
}
