//! What strangers ask for, and clients that would tie the agent up.

use super::stats::{DISPLACED, PATHS};
use super::tests::{start, start_with};
use super::{ApiSettings, StatsCollect, server};
use crate::aggregate::{Collect as _, Value};
use crate::export::testing::snapshot;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::test]
async fn what_it_does_not_serve_it_refuses_and_counts() {
    let server = start(ApiSettings {
        hosts: vec!["node-7.example".into()],
        ..ApiSettings::default()
    });
    assert_eq!(
        server.get("/nothing").await,
        (
            404,
            format!(
                r#"{{"error":"no such path; there are {}"}}"#,
                PATHS[..PATHS.len() - 1].join(" ")
            )
        )
    );
    for (request, code) in [
        (
            "GET /metrics/%2e%2e/etc HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            "404",
        ),
        (
            "TRACE /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            "405",
        ),
        (
            "HACK /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            "405",
        ),
        (
            "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nabcd",
            "405",
        ),
        (
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
            "413",
        ),
        (
            "GET /metrics HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz",
            "413",
        ),
        (
            "GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
            "421",
        ),
        (
            "GET /metrics HTTP/1.1\r\nHost: localhost.evil.example\r\nConnection: close\r\n\r\n",
            "421",
        ),
        (
            "GET /metrics HTTP/1.1\r\nHost: Node-7.example:80\r\nConnection: close\r\n\r\n",
            "200",
        ),
        (
            "HEAD /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            "200",
        ),
        (
            "GET /metrics HTTP/1.1\r\nHost: LocalHost:9779\r\nConnection: close\r\n\r\n",
            "200",
        ),
        (
            "GET /api/v1/flows?for=-1 HTTP/1.1\r\nHost: [::1]:1\r\nConnection: close\r\n\r\n",
            "400",
        ),
        (
            "GET /api/v1/flows?for=99999999y HTTP/1.1\r\nHost: 10.1.1.1\r\nConnection: close\r\n\r\n",
            "400",
        ),
        ("\0\u{1}garbage\r\n\r\n", "400"),
    ] {
        let answer = server.raw(request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {code}")),
            "{request:?}: {answer}"
        );
    }
    let long = "x".repeat(64 * 1024);
    let answer = server
        .raw(&format!("GET / HTTP/1.1\r\nHost: localhost\r\nA: {long}\r\n\r\n"))
        .await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    let mut families = Vec::new();
    StatsCollect::new(server.stats.clone(), 1).collect(&mut families);
    let labels: Vec<_> = families[0]
        .series
        .iter()
        .map(|s| s.labels.text.as_str())
        .collect();
    assert_eq!(
        labels,
        [
            "path=\"/metrics\",code=\"2xx\"",
            "path=\"/metrics\",code=\"4xx\"",
            "path=\"/api/v1/flows\",code=\"4xx\"",
            "path=\"other\",code=\"4xx\""
        ]
    );
}

#[tokio::test]
async fn a_head_is_a_get_without_its_body_and_a_post_is_told_what_is_allowed() {
    let server = start(ApiSettings::default());
    server.snapshots.send_replace(Arc::new(snapshot(2, 1)));
    let ask = async |method: &str| {
        server
            .raw(&format!(
                "{method} /metrics HTTP/1.1\r\nHost: [::1]:9779\r\nConnection: close\r\n\r\n"
            ))
            .await
    };
    let (get, head, post) = (ask("GET").await, ask("HEAD").await, ask("POST").await);
    let length = |answer: &str| {
        let line = answer.lines().find(|line| line.starts_with("content-length: "));
        line.map(str::to_owned).unwrap()
    };
    assert!(
        head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    assert_eq!(length(&head), length(&get));
    assert!(
        post.starts_with("HTTP/1.1 405") && post.contains("allow: GET, HEAD\r\n"),
        "{post}"
    );
}

#[tokio::test]
async fn a_wrong_parameter_is_named_in_one_line() {
    let server = start(ApiSettings::default());
    for (path, words) in [
        ("/api/v1/flows?fo=1s", &["unknown field `fo`", "`for`"][..]),
        ("/api/v1/flows?for=1parsec", &["for: no duration"]),
        ("/api/v1/profile?typ=off_cpu", &["typ: no such parameter", "type"]),
        ("/api/v1/profile?pid=x", &["pid: invalid digit"]),
        (
            "/api/v1/profile?format=pdf",
            &["format: unknown variant `pdf`", "svg"],
        ),
    ] {
        let (status, answer) = server.get(path).await;
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        let line = answer["error"].as_str().unwrap();
        assert_eq!((status, line.lines().count()), (400, 1), "{path}: {line}");
        assert!(words.iter().all(|word| line.contains(word)), "{path}: {line}");
    }
    // Who scrapes profiles may say more; here the answer is that there are none.
    assert_eq!(server.get("/debug/pprof/profile?seconds=1&gc=1").await.0, 404);
}

/// Cause: as many clients as there are places, which ask once and then say nothing. Seen: the next one is answered all the
/// same, at once if anybody may ask what they have asked, else once they have had their time.
#[tokio::test]
async fn idle_clients_make_room() {
    for (path, longest) in [("/healthz", 200), ("/api/v1/status", 2000)] {
        let server = start(ApiSettings::default());
        let mut idle = Vec::new();
        for _ in 0..server::CONNECTIONS {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut first = [0; 12];
            stream.read_exact(&mut first).await.unwrap();
            assert_eq!(&first, b"HTTP/1.1 200");
            idle.push(stream);
        }
        let begin = Instant::now();
        assert_eq!(server.get("/healthz").await.0, 200);
        assert!(
            begin.elapsed() < Duration::from_millis(longest),
            "{path}: {:?}",
            begin.elapsed()
        );
    }
}

/// Cause: a hundred connections that say nothing, each made anew when it is closed. Seen: others are answered at once, for whole
/// seconds, and a stream that was there before goes on.
#[tokio::test]
async fn silence_keeps_nobody_out() {
    let server = start_with(ApiSettings::default(), Duration::from_secs(10));
    let url = format!("http://{}/api/v1/drops?for=20s", server.address);
    let mut stream = reqwest::get(url).await.unwrap();
    let address = server.address;
    let mut silent = tokio::task::JoinSet::new();
    for _ in 0..100 {
        silent.spawn(async move {
            loop {
                if let Ok(mut stream) = TcpStream::connect(address).await {
                    let _ = stream.read(&mut [0]).await;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..30 {
        let answer = tokio::time::timeout(Duration::from_secs(2), server.get("/healthz")).await;
        assert_eq!(answer.expect("no answer in 2 s").0, 200);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let more = tokio::time::timeout(Duration::from_millis(100), stream.chunk()).await;
    assert!(more.is_err(), "the stream has ended: {more:?}");
    let mut families = Vec::new();
    StatsCollect::new(server.stats.clone(), 1).collect(&mut families);
    let displaced = families
        .iter()
        .find(|family| family.metric.name == DISPLACED.name);
    assert!(matches!(displaced.unwrap().series[0].value, Value::Counter(count) if count > 36));
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let server = start(ApiSettings::default());
    for head in ["", "GET /metrics HTTP/1.1\r\nHo"] {
        let begin = Instant::now();
        server.raw(head).await;
        assert!(
            begin.elapsed() < Duration::from_millis(1500),
            "{head:?}: {:?}",
            begin.elapsed()
        );
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_off() {
    let server = start(ApiSettings::default());
    // 14 MB: more than both sockets hold.
    server.snapshots.send_replace(Arc::new(snapshot(3_000, 1)));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let mut out = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut out))
        .await
        .unwrap();
    assert!(end.is_err(), "{} bytes and a clean end", out.len());
}

#[tokio::test]
async fn a_form_that_does_not_come_is_not_waited_for() {
    let server = start(ApiSettings::default());
    let begun = "POST /api/v1/query HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nquery";
    let answer = server.raw(begun).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    let whole = "POST /api/v1/query HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
        Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 8\r\n\r\nquery=up";
    let answer = server.raw(whole).await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("store.kind"),
        "{answer}"
    );
}

#[tokio::test]
async fn no_web_page_may_have_the_rules_read_again() {
    let server = start(ApiSettings::default());
    for (request, code, words) in [
        ("GET /-/reload HTTP/1.1\r\n", "405", "only POST"),
        (
            "POST /-/reload HTTP/1.1\r\nOrigin: https://evil.example\r\n",
            "403",
            "no web page",
        ),
        ("POST /-/reload HTTP/1.1\r\n", "503", "rules.files"),
        ("GET /api/v1/capacity HTTP/1.1\r\n", "503", "capacity.enabled"),
    ] {
        let rest = "Host: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let answer = server.raw(&format!("{request}{rest}")).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {code}")) && answer.contains(words),
            "{request:?}: {answer}"
        );
    }
}
