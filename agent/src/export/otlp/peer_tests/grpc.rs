use super::*;
use crate::export::testing_tls::{Authority, contents};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceResponse,
};
use std::collections::VecDeque;
use std::sync::Mutex;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};

/// `authorization` and the request.
type Seen = Vec<(Option<String>, ExportMetricsServiceRequest)>;
type Answer = Result<ExportMetricsServiceResponse, Status>;

/// A scripted collector, made by the official definitions. After its script it accepts everything.
#[derive(Clone, Default)]
struct Collector {
    script: Arc<Mutex<VecDeque<Option<Answer>>>>,
    seen: Arc<Mutex<Seen>>,
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let authorization = request
            .metadata()
            .get("authorization")
            .map(|v| v.to_str().unwrap().to_owned());
        self.seen
            .lock()
            .unwrap()
            .push((authorization, request.into_inner()));
        let next = self.script.lock().unwrap().pop_front();
        match next {
            None => Ok(Response::new(ExportMetricsServiceResponse::default())),
            Some(Some(answer)) => answer.map(Response::new),
            Some(None) => std::future::pending().await,
        }
    }
}

impl Collector {
    /// With its URL. `None` in the script: never answers.
    async fn start(script: Vec<Option<Answer>>, tls: Option<ServerTlsConfig>) -> (Self, String) {
        let collector = Self {
            script: Arc::new(Mutex::new(script.into())),
            ..Self::default()
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "http{}://localhost:{}",
            if tls.is_some() { "s" } else { "" },
            listener.local_addr().unwrap().port()
        );
        let service =
            MetricsServiceServer::new(collector.clone()).accept_compressed(CompressionEncoding::Gzip);
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        let incoming = futures::stream::unfold(listener, async |listener| {
            Some((listener.accept().await.map(|(stream, _)| stream), listener))
        });
        tokio::spawn(server.add_service(service).serve_with_incoming(incoming));
        (collector, url)
    }

    fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

async fn outcome(script: Vec<Option<Answer>>) -> (Arc<Stats>, usize) {
    let silent = script.iter().any(Option::is_none);
    let (collector, url) = Collector::start(script, None).await;
    let mut settings = settings(url, Protocol::Grpc);
    if silent {
        settings.timeout = IMPATIENT;
    }
    let stats = send(&settings).await;
    (stats, collector.requests())
}

#[tokio::test]
async fn totals_arrive_with_headers_plain_and_compressed() {
    let directory = Directory::new();
    let (collector, url) = Collector::start(vec![], None).await;
    let mut settings = settings(url, Protocol::Grpc);
    settings.headers_file = headers_file(&directory);
    for compression in [settings::Compression::None, settings::Compression::Gzip] {
        settings.compression = compression;
        assert!(all_sent(&*send(&settings).await));
    }
    for (authorization, request) in collector.seen.lock().unwrap().iter() {
        assert_eq!(authorization.as_deref(), Some("Bearer t0ken"));
        assert_eq!(totals(request), expected_totals());
    }
    assert_eq!(collector.requests(), 2);
}

fn refuse(code: Code) -> Option<Answer> {
    Some(Err(Status::new(code, "no")))
}

#[tokio::test]
async fn a_busy_collector_is_asked_again() {
    let (stats, requests) = outcome(vec![
        refuse(Code::Unavailable),
        refuse(Code::Aborted),
        refuse(Code::DataLoss),
        None,
    ])
    .await;
    assert!(all_sent(&stats));
    assert_eq!((requests, stats.retries()), (5, 4));
}

#[tokio::test]
async fn what_is_refused_is_dropped_at_once() {
    for code in [
        Code::InvalidArgument,
        Code::Unauthenticated,
        Code::Unimplemented,
        Code::ResourceExhausted,
    ] {
        let (stats, requests) = outcome(vec![refuse(code)]).await;
        assert_eq!(
            (requests, stats.total_dropped(Reason::Permanent)),
            (1, POINTS),
            "{code:?}"
        );
    }
}

#[tokio::test]
async fn rejected_points_are_counted_and_a_huge_reply_is_not_read() {
    let answer = |rejected_data_points, length| {
        let error_message = "x".repeat(length);
        let partial_success = Some(ExportMetricsPartialSuccess {
            rejected_data_points,
            error_message,
        });
        Some(Ok(ExportMetricsServiceResponse { partial_success }))
    };
    let (stats, requests) = outcome(vec![answer(5, 10)]).await;
    assert_eq!(
        (requests, stats.total_dropped(Reason::Partial), stats.total_sent()),
        (1, 5, POINTS - 5)
    );
    let (stats, requests) = outcome(vec![answer(0, 1 << 20)]).await;
    assert_eq!((requests, stats.total_dropped(Reason::Permanent)), (1, POINTS));
}

#[tokio::test]
async fn tls_is_right_or_nothing_is_sent() {
    install_crypto();
    let directory = Directory::new();
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let (ca, wrong_ca) = (ours.file(&directory), other.file(&directory));
    let (cert, wrong_cert) = (
        ours.issue(&directory, "collector.test"),
        other.issue(&directory, "client"),
    );
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(contents(&cert.0), contents(&cert.1)))
        .client_ca_root(Certificate::from_pem(contents(&ca)));
    let (collector, url) = Collector::start(vec![], Some(tls)).await;
    let client = ours.issue(&directory, "client");
    let mut settings = settings(url, Protocol::Grpc);
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
    assert_eq!(collector.requests(), 0);
    settings.tls = good;
    assert!(all_sent(&*send(&settings).await));
}
