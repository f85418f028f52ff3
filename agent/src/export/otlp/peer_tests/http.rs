use super::*;
use crate::export::testing_tls::{Authority, contents};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceResponse,
};
use prost::Message as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// What the peer does with a request.
#[derive(Clone)]
pub enum Act {
    /// Sends these bytes.
    Reply(Vec<u8>),
    /// Never answers.
    Hang,
    /// Closes the connection.
    Close,
    /// Answers a byte every 50 ms.
    Trickle,
    /// Answers and never ends.
    Endless,
}

pub fn status(status: &str, headers: &str) -> Act {
    Act::Reply(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\n\r\n").into_bytes())
}

fn protobuf(body: &[u8]) -> Act {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n";
    Act::Reply(
        [
            format!("{head}Content-Length: {}\r\n\r\n", body.len()).as_bytes(),
            body,
        ]
        .concat(),
    )
}

/// Head and body of a request.
type Seen = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A scripted HTTP server. After its script it accepts everything.
pub struct Peer {
    port: u16,
    tls: bool,
    seen: Seen,
}

impl Peer {
    pub async fn start(script: Vec<Act>, tls: Option<rustls::ServerConfig>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = Arc::new(Mutex::new(VecDeque::from(script)));
        let peer = Self {
            port,
            tls: tls.is_some(),
            seen: Seen::default(),
        };
        let seen = peer.seen.clone();
        let tls = tls.map(|config| tokio_rustls::TlsAcceptor::from(Arc::new(config)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, seen, tls) = (script.clone(), seen.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => converse(stream, script, seen).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                converse(stream, script, seen).await;
                            }
                        }
                    }
                });
            }
        });
        peer
    }

    pub fn url(&self) -> String {
        format!(
            "http{}://localhost:{}",
            if self.tls { "s" } else { "" },
            self.port
        )
    }

    pub fn requests(&self) -> Vec<(String, Vec<u8>)> {
        self.seen.lock().unwrap().clone()
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    script: Arc<Mutex<VecDeque<Act>>>,
    seen: Seen,
) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        };
        let head = String::from_utf8(buffer.drain(..end).collect())
            .unwrap()
            .to_ascii_lowercase();
        let length = head
            .split("content-length: ")
            .nth(1)
            .unwrap()
            .lines()
            .next()
            .unwrap()
            .parse()
            .unwrap();
        while buffer.len() < length {
            stream.read_buf(&mut buffer).await.unwrap();
        }
        seen.lock()
            .unwrap()
            .push((head, buffer.drain(..length).collect()));
        let act = script
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or_else(|| status("200 OK", ""));
        match act {
            Act::Reply(bytes) => stream.write_all(&bytes).await.unwrap(),
            Act::Hang => std::future::pending().await,
            Act::Close => return,
            Act::Trickle => {
                for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" {
                    if stream.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            Act::Endless => {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 1073741824\r\n\r\n";
                let _ = stream.write_all(head.as_bytes()).await;
                while stream.write_all(&[0; 65_536]).await.is_ok() {}
                return;
            }
        }
    }
}

async fn outcome(script: Vec<Act>) -> (Arc<Stats>, usize) {
    let silent = script.iter().any(|act| matches!(act, Act::Hang | Act::Trickle));
    let peer = Peer::start(script, None).await;
    let mut settings = settings(peer.url(), Protocol::Http);
    if silent {
        settings.timeout = IMPATIENT;
    }
    let stats = send(&settings).await;
    (stats, peer.requests().len())
}

#[tokio::test]
async fn totals_arrive_with_headers_plain_and_compressed() {
    let directory = Directory::new();
    let peer = Peer::start(vec![], None).await;
    let mut settings = settings(peer.url(), Protocol::Http);
    settings.headers_file = headers_file(&directory);
    for compression in [settings::Compression::None, settings::Compression::Gzip] {
        settings.compression = compression;
        assert!(all_sent(&*send(&settings).await));
    }
    let requests = peer.requests();
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(
        &mut flate2::read::GzDecoder::new(requests[1].1.as_slice()),
        &mut unpacked,
    )
    .unwrap();
    assert!(requests[1].0.contains("content-encoding: gzip") && requests[1].1.len() < unpacked.len());
    for ((head, _), body) in requests.iter().zip([&requests[0].1, &unpacked]) {
        assert!(head.starts_with("post /v1/metrics http/1.1\r\n"), "{head}");
        assert!(
            head.contains("content-type: application/x-protobuf\r\n"),
            "{head}"
        );
        assert!(head.contains("authorization: bearer t0ken\r\n"), "{head}");
        let request = ExportMetricsServiceRequest::decode(body.as_slice()).unwrap();
        assert_eq!(totals(&request), expected_totals());
    }
}

#[tokio::test]
async fn a_busy_collector_is_asked_again_and_its_waits_are_clamped() {
    let begin = Instant::now();
    let (stats, requests) = outcome(vec![
        status("503 Busy", "Retry-After: 1000000000\r\n"),
        status("429 Slow", "Retry-After: 0\r\n"),
        status("502 Bad", "Retry-After: -1\r\n"),
        status("504 Late", "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n"),
        Act::Close,
        Act::Hang,
    ])
    .await;
    assert!(all_sent(&stats));
    assert_eq!((requests, stats.retries()), (7, 6));
    assert!(
        begin.elapsed() >= Duration::from_millis(100),
        "the first wait is the longest allowed"
    );
}

#[tokio::test]
async fn what_is_refused_is_dropped_at_once() {
    for code in [
        "400 Bad",
        "401 Who",
        "404 Where",
        "413 Much",
        "500 Oops",
        "501 No",
        "204 None",
    ] {
        let (stats, requests) = outcome(vec![status(code, "")]).await;
        if code.starts_with("204") {
            assert!(all_sent(&stats));
        } else {
            assert_eq!(
                (requests, stats.total_dropped(Reason::Permanent)),
                (1, POINTS),
                "{code}"
            );
        }
    }
}

#[tokio::test]
async fn rejected_points_are_counted_and_not_repeated() {
    for (rejected, want) in [(5, 5), (-3, 0), (1 << 60, POINTS)] {
        let partial = ExportMetricsPartialSuccess {
            rejected_data_points: rejected,
            error_message: "x".repeat(30_000),
        };
        let reply = ExportMetricsServiceResponse {
            partial_success: Some(partial),
        }
        .encode_to_vec();
        let (stats, requests) = outcome(vec![protobuf(&reply)]).await;
        assert_eq!((requests, stats.total_dropped(Reason::Partial)), (1, want));
    }
}

#[tokio::test]
async fn lies_floods_and_redirects_are_not_followed() {
    let trap = Peer::start(vec![], None).await;
    let html =
        Act::Reply(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 3\r\n\r\n<p>".to_vec());
    let redirect = |code: &str| status(code, &format!("Location: {}/v1/metrics\r\n", trap.url()));
    for act in [
        html,
        Act::Endless,
        protobuf(b"\xff\xff"),
        redirect("307 There"),
        redirect("301 Gone"),
    ] {
        let begin = Instant::now();
        let (stats, requests) = outcome(vec![act]).await;
        assert_eq!((requests, stats.total_dropped(Reason::Permanent)), (1, POINTS));
        assert!(begin.elapsed() < SLOW, "not by the timeout");
    }
    assert!(trap.requests().is_empty());
    let (stats, requests) = outcome(vec![Act::Trickle, Act::Reply(b"rubbish\r\n\r\n".to_vec())]).await;
    assert!(all_sent(&stats));
    assert_eq!(requests, 3);
}

/// TLS of a server whose clients must have a certificate of `clients`, if given.
fn server_tls(cert: &(PathBuf, PathBuf), clients: Option<&PathBuf>) -> rustls::ServerConfig {
    install_crypto();
    let chain = CertificateDer::pem_slice_iter(&contents(&cert.0))
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_slice(&contents(&cert.1)).unwrap();
    let builder = rustls::ServerConfig::builder();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = rustls::RootCertStore::empty();
            roots
                .add(CertificateDer::from_pem_slice(&contents(ca)).unwrap())
                .unwrap();
            let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots));
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    builder.with_single_cert(chain, key).unwrap()
}

#[tokio::test]
async fn tls_is_right_or_nothing_is_sent() {
    let directory = Directory::new();
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let (ca, wrong_ca) = (ours.file(&directory), other.file(&directory));
    let (cert, wrong_cert) = (
        ours.issue(&directory, "collector.test"),
        other.issue(&directory, "client"),
    );
    let peer = Peer::start(vec![], Some(server_tls(&cert, Some(&ca)))).await;
    let client = ours.issue(&directory, "client");
    let mut settings = settings(peer.url(), Protocol::Http);
    settings.retry.max_elapsed = Duration::from_millis(60);
    let good = crate::export::push::settings::Tls {
        ca_file: Some(ca),
        cert_file: Some(client.0),
        key_file: Some(client.1),
        server_name: Some("collector.test".into()),
    };
    let wrong = [
        crate::export::push::settings::Tls {
            ca_file: Some(wrong_ca),
            ..good.clone()
        },
        crate::export::push::settings::Tls {
            ca_file: None,
            ..good.clone()
        },
        crate::export::push::settings::Tls {
            server_name: None,
            ..good.clone()
        },
        crate::export::push::settings::Tls {
            cert_file: None,
            key_file: None,
            ..good.clone()
        },
        crate::export::push::settings::Tls {
            cert_file: Some(wrong_cert.0),
            key_file: Some(wrong_cert.1),
            ..good.clone()
        },
    ];
    for tls in wrong {
        settings.tls = tls;
        assert_eq!(
            send(&settings).await.total_dropped(Reason::Expired),
            POINTS,
            "{:?}",
            settings.tls
        );
    }
    assert!(peer.requests().is_empty());
    settings.tls = good;
    assert!(all_sent(&*send(&settings).await));
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_without_a_restart() {
    let directory = Directory::new();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let peer = Peer::start(
        vec![],
        Some(server_tls(&new.issue(&directory, "localhost"), None)),
    )
    .await;
    let mut settings = settings(peer.url(), Protocol::Http);
    let trusted = directory.write(
        "trusted.pem",
        &String::from_utf8(contents(&old.file(&directory))).unwrap(),
    );
    settings.tls.ca_file = Some(trusted.clone());
    let rotate = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        std::fs::copy(new.file(&directory), &trusted).unwrap();
    };
    let (stats, ()) = tokio::join!(send(&settings), rotate);
    assert!(all_sent(&stats) && stats.retries() > 0);
}
