use super::json::{SnapshotView, ValueView};
use super::*;
use crate::export::testing::snapshot;
use crate::export::testing_tls::{Authority, Directory, contents, install_crypto};
use crate::records::{DroppedPacket, TunnelChange};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(super) snapshots: watch::Sender<Arc<Snapshot>>,
    records: broadcast::Sender<Arc<Record>>,
    changes: Arc<Changes>,
    pub(super) stats: Arc<Stats>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

pub(crate) fn start(settings: ApiSettings) -> Server {
    start_with(settings, Duration::from_millis(400))
}

pub(super) fn start_with(settings: ApiSettings, patience: Duration) -> Server {
    install_crypto();
    let mut bound = bind(&ApiSettings {
        listen: SocketAddr::new(settings.listen.ip(), 0),
        ..settings
    })
    .unwrap();
    bound.patience = patience;
    bound.look = Duration::from_millis(50);
    let (snapshots, receiver) = watch::channel(Arc::new(Snapshot::default()));
    let (records, _) = broadcast::channel(4);
    let changes: Arc<Changes> = Arc::default();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stats = Arc::new(Stats::default());
    let state = State {
        view: Arc::new(|| None),
        topology: Arc::new(|| None),
        stacks: None,
        memory: None,
        rules: None,
        notifier: None,
        capacity: None,
        flight: None,
        anomalies: None,
        snapshots: receiver,
        records: records.clone(),
        changes: changes.clone(),
        status: Arc::new(|| serde_json::json!({"version": "test"})),
        stats: stats.clone(),
    };
    let address = bound.address();
    let task = tokio::spawn(serve(bound, state, async {
        let _ = stopped.await;
    }));
    Server {
        address,
        snapshots,
        records,
        changes,
        stats,
        stop: Some(stop),
        task,
    }
}

impl Server {
    pub(super) async fn get(&self, path: &str) -> (u16, String) {
        let response = reqwest::get(format!("http://{}{path}", self.address))
            .await
            .unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Sends bytes, reads to the end or for two seconds.
    pub(super) async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut out = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut out)).await;
        String::from_utf8_lossy(&out).into_owned()
    }
}

fn dropped(bytes: u32) -> Arc<Record> {
    Arc::new(Record::Drop(Box::new(DroppedPacket {
        time: 1.5,
        reason: "NO_SOCKET".into(),
        location: "tcp_v4_rcv+0x1".into(),
        protocol: "tcp".into(),
        direction: "receive".into(),
        device: "eth0".into(),
        subject: String::new(),
        source: None,
        destination: None,
        bytes,
    })))
}

#[tokio::test]
async fn it_is_ready_with_the_first_snapshot() {
    let server = start(ApiSettings::default());
    assert_eq!(server.get("/healthz").await.0, 200);
    assert_eq!(server.get("/readyz").await.0, 503);
    server.snapshots.send_replace(Arc::new(snapshot(2, 1)));
    assert_eq!(server.get("/readyz").await.0, 200);
    assert_eq!(
        server.get("/api/v1/status").await,
        (200, r#"{"version":"test"}"#.into())
    );
}

#[tokio::test]
async fn a_collector_that_stands_still_is_ill() {
    use tower_service::Service as _;
    let (_snapshots, receiver) = watch::channel(Arc::new(Snapshot::default()));
    let state = State {
        view: Arc::new(|| None),
        topology: Arc::new(|| None),
        stacks: None,
        memory: None,
        rules: None,
        notifier: None,
        capacity: None,
        flight: None,
        anomalies: None,
        snapshots: receiver,
        records: broadcast::channel(1).0,
        changes: Arc::default(),
        status: Arc::new(|| serde_json::Value::Null),
        stats: Arc::default(),
    };
    let (ticked, last) = watch::channel(tokio::time::Instant::now());
    let mut router = routes::router(state, None, Some(Vec::new()), Duration::from_secs(1), last);
    let mut ask = async || {
        let request = axum::http::Request::get("/healthz")
            .body(axum::body::Body::empty())
            .unwrap();
        router.call(request).await.unwrap().status().as_u16()
    };
    // To the nanosecond, which a running clock is not.
    assert!(routes::is_well(routes::STALE) && !routes::is_well(routes::STALE + Duration::from_nanos(1)));
    let mut ask_after = async |age: Duration| {
        ticked.send_replace(tokio::time::Instant::now() - age);
        ask().await
    };
    assert_eq!(ask_after(Duration::ZERO).await, 200);
    assert_eq!(ask_after(routes::STALE - Duration::from_secs(1)).await, 200);
    assert_eq!(ask_after(routes::STALE + Duration::from_secs(1)).await, 503);
}

#[tokio::test]
async fn metrics_come_in_the_format_that_was_asked_for() {
    let server = start(ApiSettings::default());
    server.snapshots.send_replace(Arc::new(snapshot(2, 1)));
    let (code, old) = server.get("/metrics").await;
    assert!(code == 200 && old.contains("geophone_test_rtt_seconds_bucket{") && !old.contains("# EOF"));
    let url = format!("http://{}/metrics", server.address);
    let ask = async |accept: &str| {
        let request = reqwest::Client::new().get(&url).header("accept", accept);
        let response = request.send().await.unwrap();
        (
            response.headers()["content-type"].to_str().unwrap().to_owned(),
            response.bytes().await.unwrap(),
        )
    };
    let (kind, body) = ask("application/openmetrics-text;version=1.0.0").await;
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0") && body.ends_with(b"# EOF\n"));
    let native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
    assert!(ask(native).await.0.starts_with("application/vnd.google.protobuf"));
}

#[tokio::test]
async fn the_snapshot_comes_back_from_its_json() {
    let server = start(ApiSettings::default());
    let original = snapshot(12, 1);
    server.snapshots.send_replace(Arc::new(original.clone()));
    let (_, body) = server.get("/api/v1/snapshot").await;
    let view: SnapshotView<'static> = serde_json::from_str(&body).unwrap();
    assert_eq!(view, SnapshotView::from(&original));
    assert!(matches!(&view.families[3].series[1].value, ValueView::Histogram(h) if h.p999.is_some()));
    assert_eq!(view.families[2].series[1].value, ValueView::Number(None), "-Inf");
}

#[tokio::test]
async fn told_events_are_streamed_and_missed_ones_reported() {
    let server = start(ApiSettings::default());
    let url = format!("http://{}/api/v1/drops?for=500ms", server.address);
    let response = reqwest::get(url).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    // The channel holds four, and this runtime has one thread: the reader cannot come between.
    for bytes in 0..10 {
        server.records.send(dropped(bytes)).unwrap();
    }
    let body = response.text().await.unwrap();
    let lines: Vec<_> = body.lines().collect();
    assert_eq!(lines[0], r#"{"kind":"lagged","count":6}"#);
    assert_eq!(lines.len(), 5);
    let last: Record = serde_json::from_str(lines[4]).unwrap();
    assert_eq!(last, *dropped(9));
}

#[tokio::test]
async fn a_stream_has_its_end_and_its_kind() {
    let server = start(ApiSettings::default());
    let url = format!("http://{}/api/v1/flows?for=300ms", server.address);
    let response = reqwest::get(url).await.unwrap();
    server.records.send(dropped(1)).unwrap();
    assert_eq!(response.text().await.unwrap(), "");
}

#[tokio::test]
async fn who_comes_late_gets_the_kept_changes_and_each_once() {
    let server = start(ApiSettings::default());
    let change = |id: usize| {
        Record::Tunnel(Box::new(TunnelChange {
            id: id.to_string(),
            ..TunnelChange::default()
        }))
    };
    for id in 0..300 {
        server.changes.tell(change(id));
    }
    let url = format!("http://{}/api/v1/tunnels?for=300ms", server.address);
    let response = reqwest::get(url).await.unwrap();
    server.changes.tell(change(300));
    server.records.send(dropped(1)).unwrap_err();
    let body = response.text().await.unwrap();
    let records: Vec<Record> = body.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(records, (44..=300).map(change).collect::<Vec<_>>());
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_stream() {
    let mut server = start(ApiSettings::default());
    let _open = reqwest::get(format!("http://{}/api/v1/flows", server.address))
        .await
        .unwrap();
    let begin = Instant::now();
    server.stop.take();
    (&mut server.task).await.unwrap().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_port_in_use_is_one_clear_line() {
    let server = start(ApiSettings::default());
    let error = bind(&ApiSettings {
        listen: server.address,
        ..ApiSettings::default()
    })
    .err()
    .unwrap();
    let want = format!(
        "api.listen {}: address already in use; another geophone? use --listen",
        server.address
    );
    assert_eq!(format!("{error:#}"), want);
}

#[test]
fn other_machines_need_tls_and_a_token() {
    let settings = |listen: &str| ApiSettings {
        listen: listen.parse().unwrap(),
        ..ApiSettings::default()
    };
    for listen in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        settings(listen).validate().unwrap();
    }
    for listen in ["0.0.0.0:9779", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
        let error = settings(listen).validate().unwrap_err().to_string();
        assert!(
            error.contains("api.tls and api.token_file are not set; set them or listen on 127.0.0.1"),
            "{error}"
        );
    }
    let tls = ApiTls {
        cert_file: "/c".into(),
        key_file: "/k".into(),
        client_ca_file: None,
        client_cert_file: None,
        client_key_file: None,
    };
    let error = ApiSettings {
        tls: Some(tls),
        ..settings("0.0.0.0:9779")
    };
    let error = error.validate().unwrap_err().to_string();
    let want = "api.token_file is not set; set it, or api.tls.client_ca_file, or listen on 127.0.0.1";
    assert!(error.ends_with(want), "{error}");
}

#[tokio::test]
async fn without_the_token_there_is_only_health() {
    let directory = Directory::new();
    let token_file = Some(directory.write("token", "0123456789abcdef-secret\n"));
    let server = start(ApiSettings {
        token_file,
        ..ApiSettings::default()
    });
    assert_eq!(server.get("/healthz").await.0, 200);
    let client = reqwest::Client::new();
    for (authorization, code) in [
        ("Bearer 0123456789abcdef-secret", 200),
        ("bearer 0123456789abcdef-secret", 200),
        ("Bearer 0123456789abcdef-secreT", 401),
        ("Bearer 0123456789abcdef-secret1", 401),
        ("Bearer ", 401),
        ("Basic 0123456789abcdef-secret", 401),
        ("x", 401),
    ] {
        let request = client
            .get(format!("http://{}/metrics", server.address))
            .header("authorization", authorization);
        assert_eq!(
            request.send().await.unwrap().status().as_u16(),
            code,
            "{authorization}"
        );
    }
    assert_eq!(server.get("/metrics").await.0, 401);
    for (contents, cause) in [("short", "not 16 printable"), ("", "not 16 printable")] {
        let token_file = Some(directory.write("bad", contents));
        let error = bind(&ApiSettings {
            token_file,
            ..ApiSettings::default()
        })
        .err()
        .unwrap();
        assert!(error.to_string().contains(cause), "{error}");
    }
}

#[tokio::test]
async fn tls_and_client_certificates() {
    install_crypto();
    let directory = Directory::new();
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let (cert_file, key_file) = ours.issue(&directory, "localhost");
    let client_ca_file = Some(ours.file(&directory));
    let tls = ApiTls {
        cert_file: cert_file.clone(),
        key_file,
        client_ca_file,
        client_cert_file: None,
        client_key_file: None,
    };
    let server = start(ApiSettings {
        tls: Some(tls.clone()),
        ..ApiSettings::default()
    });
    let url = format!("https://localhost:{}/healthz", server.address.port());
    let named = |request: reqwest::RequestBuilder| request.header("host", "node-7.example");
    let ask = async |trusted: &Authority, me: Option<&Authority>| {
        let root = reqwest::Certificate::from_pem(&contents(&trusted.file(&directory))).unwrap();
        let mut client = reqwest::Client::builder().tls_certs_only([root]);
        if let Some(me) = me {
            let (certificate, key) = me.issue(&directory, "client");
            let pem = [contents(&certificate), contents(&key)].concat();
            client = client.identity(reqwest::Identity::from_pem(&pem).unwrap());
        }
        named(client.build().unwrap().get(&url))
            .send()
            .await
            .is_ok_and(|r| r.status() == 200)
    };
    assert!(ask(&ours, Some(&ours)).await);
    // The certificate stands for the token: to listen anywhere is fine, and so is any name of the host.
    let everywhere = ApiSettings {
        listen: "0.0.0.0:9779".parse().unwrap(),
        tls: Some(tls.clone()),
        ..ApiSettings::default()
    };
    everywhere.validate().unwrap();
    assert!(!ask(&ours, None).await, "no certificate");
    assert!(!ask(&ours, Some(&other)).await, "wrong certificate");
    assert!(!ask(&other, Some(&ours)).await, "wrong authority");
    let (_, wrong_key) = other.issue(&directory, "localhost");
    for (key_file, cause) in [
        (wrong_key, "does the key belong to it?"),
        (cert_file, "give a private key as PEM"),
    ] {
        let tls = Some(ApiTls {
            key_file,
            ..tls.clone()
        });
        let error = bind(&ApiSettings {
            tls,
            ..ApiSettings::default()
        })
        .err()
        .unwrap();
        assert!(error.to_string().ends_with(cause), "{error}");
    }
}
