//! Receivers of OTLP by the official definitions, over gRPC and over HTTP.

use super::agent::{PATIENCE, Scratch};
use super::command;
use anyhow::{Context as _, Result, bail, ensure};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::profiles::v1development::profiles_service_server::{
    ProfilesService, ProfilesServiceServer,
};
use opentelemetry_proto::tonic::collector::profiles::v1development::{
    ExportProfilesServiceRequest, ExportProfilesServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data, number_data_point};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tonic::codec::CompressionEncoding;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

type Requests = Arc<Mutex<Vec<ExportMetricsServiceRequest>>>;
type Profiles = Arc<Mutex<Vec<ExportProfilesServiceRequest>>>;
type Logs = Arc<Mutex<Vec<ExportLogsServiceRequest>>>;
type Traces = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

/// A receiver at work.
#[derive(Debug)]
pub struct Receiver {
    /// What to give as `export.otlp.endpoint`.
    pub endpoint: String,
    requests: Requests,
    profiles: Profiles,
    logs: Logs,
    traces: Traces,
    _stop: Option<oneshot::Sender<()>>,
}

#[derive(Clone)]
struct Grpc(Requests, Profiles, Logs, Traces);

#[tonic::async_trait]
impl LogsService for Grpc {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.2
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(request.into_inner());
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl TraceService for Grpc {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.3
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl ProfilesService for Grpc {
    async fn export(
        &self,
        request: Request<ExportProfilesServiceRequest>,
    ) -> Result<Response<ExportProfilesServiceResponse>, Status> {
        self.1
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(request.into_inner());
        Ok(Response::new(ExportProfilesServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Grpc {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

impl Receiver {
    /// gRPC, plain or with TLS.
    pub fn grpc(tls: Option<ServerTlsConfig>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://localhost:{}", listener.local_addr()?.port());
        let requests = Requests::default();
        let profiles = Profiles::default();
        let logs = Logs::default();
        let traces = Traces::default();
        let receiver = Grpc(requests.clone(), profiles.clone(), logs.clone(), traces.clone());
        let of_logs = LogsServiceServer::new(receiver.clone()).accept_compressed(CompressionEncoding::Gzip);
        let of_traces =
            TraceServiceServer::new(receiver.clone()).accept_compressed(CompressionEncoding::Gzip);
        // The default limit of what is taken stays for profiles: 4 MiB.
        let of_profiles =
            ProfilesServiceServer::new(receiver.clone()).accept_compressed(CompressionEncoding::Gzip);
        let service = MetricsServiceServer::new(receiver)
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(64 << 20);
        let (stop, stopped) = oneshot::channel::<()>();
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls)?;
        }
        std::thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?);
                let serving = server
                    .add_service(service)
                    .add_service(of_profiles)
                    .add_service(of_logs)
                    .add_service(of_traces)
                    .serve_with_incoming(incoming);
                tokio::select! {
                    result = serving => result?,
                    _ = stopped => {}
                }
                Ok(())
            })
        });
        Ok(Self {
            endpoint,
            requests,
            profiles,
            logs,
            traces,
            _stop: Some(stop),
        })
    }

    /// HTTP with protobuf bodies.
    pub fn http() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let requests = Requests::default();
        let profiles = Profiles::default();
        let logs = Logs::default();
        let traces = Traces::default();
        let seen = Grpc(requests.clone(), profiles.clone(), logs.clone(), traces.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = seen.clone();
                std::thread::spawn(move || {
                    if let Err(e) = serve(stream, &seen) {
                        eprintln!("OTLP over HTTP: {e:#}");
                    }
                });
            }
        });
        Ok(Self {
            endpoint,
            requests,
            profiles,
            logs,
            traces,
            _stop: None,
        })
    }

    /// All exports of profiles.
    pub fn profiles(&self) -> Vec<ExportProfilesServiceRequest> {
        self.profiles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// All log records, oldest first.
    pub fn logs(&self) -> Vec<LogRecord> {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.iter()
            .flat_map(|request| &request.resource_logs)
            .flat_map(|of| &of.scope_logs)
            .flat_map(|of| &of.log_records)
            .cloned()
            .collect()
    }

    /// All spans, oldest first, each with the name of its service.
    pub fn spans(&self) -> Vec<(String, Span)> {
        let traces = self.traces.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = Vec::new();
        for of in traces.iter().flat_map(|request| &request.resource_spans) {
            let attributes = of.resource.iter().flat_map(|resource| &resource.attributes);
            let mut service = attributes.filter(|a| a.key == "service.name").map(text);
            let service = service.next().unwrap_or_default();
            let spans = of.scope_spans.iter().flat_map(|of| &of.spans).cloned();
            out.extend(spans.map(|span| (service.clone(), span)));
        }
        out
    }

    /// How many exports of metrics have come.
    pub fn count(&self) -> usize {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// All metrics of all exports, oldest first.
    pub fn metrics(&self) -> Vec<Metric> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests
            .iter()
            .flat_map(|r| &r.resource_metrics)
            .flat_map(|r| &r.scope_metrics)
            .flat_map(|s| &s.metrics)
            .cloned()
            .collect()
    }

    /// Attributes of the resource, of the latest export.
    pub fn resource(&self) -> Vec<(String, String)> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests
            .last()
            .and_then(|r| r.resource_metrics.first())
            .and_then(|r| r.resource.as_ref())
            .map(|r| r.attributes.iter().map(|a| (a.key.clone(), text(a))).collect())
            .unwrap_or_default()
    }

    /// Waits until some exports have come.
    pub fn wait(&self, count: usize) -> Result<()> {
        let start = Instant::now();
        while self.count() < count {
            ensure!(
                start.elapsed() < PATIENCE,
                "{} exports have come, not {count}",
                self.count()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The latest value of a metric for a subject: numbers added up, histograms by their count.
    pub fn total(&self, name: &str, subject: &str) -> u64 {
        self.metrics()
            .iter()
            .rev()
            .find(|m| m.name == name)
            .map_or(0, |m| sum(m, subject))
    }

    /// All values of a metric for a subject added up, as deltas must be.
    pub fn added(&self, name: &str, subject: &str) -> u64 {
        self.metrics()
            .iter()
            .filter(|m| m.name == name)
            .map(|m| sum(m, subject))
            .sum()
    }
}

/// Value of a text attribute.
pub fn text(attribute: &KeyValue) -> String {
    match attribute.value.as_ref().and_then(|v| v.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        other => format!("{other:?}"),
    }
}

fn of(attributes: &[KeyValue], subject: &str) -> bool {
    attributes
        .iter()
        .any(|a| a.key == "geophone.subject" && text(a) == subject)
}

fn sum(metric: &Metric, subject: &str) -> u64 {
    let number = |value: &Option<number_data_point::Value>| match value {
        Some(number_data_point::Value::AsInt(n)) => *n as u64,
        Some(number_data_point::Value::AsDouble(n)) => *n as u64,
        None => 0,
    };
    let points = match &metric.data {
        Some(Data::Sum(sum)) => &sum.data_points,
        Some(Data::Gauge(gauge)) => &gauge.data_points,
        Some(Data::ExponentialHistogram(h)) => {
            return h
                .data_points
                .iter()
                .filter(|p| of(&p.attributes, subject))
                .map(|p| p.count)
                .sum();
        }
        _ => return 0,
    };
    points
        .iter()
        .filter(|p| of(&p.attributes, subject))
        .map(|p| number(&p.value))
        .sum()
}

fn take<T: prost::Message + Default>(all: &Mutex<Vec<T>>, body: &[u8]) -> Result<()> {
    let request = T::decode(body).context("decoding")?;
    all.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    Ok(())
}

/// One connection of HTTP/1.1, as long as it lives.
fn serve(stream: TcpStream, seen: &Grpc) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        let path = first
            .strip_prefix("POST ")
            .and_then(|rest| rest.strip_suffix(" HTTP/1.1\r\n"));
        let path = path.with_context(|| format!("asked for {first}"))?.to_owned();
        let (mut length, mut protobuf) = (0, false);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(n) = line.strip_prefix("content-length:") {
                length = n.trim().parse()?;
            }
            protobuf |= line == "content-type: application/x-protobuf";
            if line.starts_with("content-encoding:") {
                bail!("{line}");
            }
        }
        ensure!(protobuf, "no content type of protobuf");
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        match path.as_str() {
            "/v1/logs" => take(&seen.2, &body)?,
            "/v1/traces" => take(&seen.3, &body)?,
            "/v1development/profiles" => take(&seen.1, &body)?,
            "/v1/metrics" => take(&seen.0, &body)?,
            _ => bail!("asked for {first}"),
        }
        let reply = ExportMetricsServiceResponse::default().encode_to_vec();
        write!(
            writer,
            "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: {}\r\n\r\n",
            reply.len()
        )?;
        writer.write_all(&reply)?;
    }
}

/// Certificates made by openssl: an authority, a server `localhost`, a client.
#[derive(Debug)]
pub struct Authority {
    /// Where ca.crt, server.crt, server.key, client.crt and client.key are.
    pub files: Scratch,
}

impl Authority {
    /// A new one.
    pub fn new() -> Result<Self> {
        let files = Scratch::new()?;
        let openssl = |line: &str, directory: &Scratch| {
            command::output(
                Command::new("openssl")
                    .args(line.split_whitespace())
                    .current_dir(directory.path("")),
            )
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(
            &format!(
                "req -x509 {key} -days 2 -subj /CN=geophone-test-ca -keyout ca.key -out ca.crt \
                 -addext basicConstraints=critical,CA:TRUE"
            ),
            &files,
        )?;
        for (name, extension) in [
            ("server", "subjectAltName=DNS:localhost"),
            ("client", "extendedKeyUsage=clientAuth"),
        ] {
            files.write("extensions", extension)?;
            openssl(
                &format!("req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"),
                &files,
            )?;
            openssl(
                &format!(
                    "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
                     -extfile extensions -out {name}.crt"
                ),
                &files,
            )?;
        }
        Ok(Self { files })
    }

    /// TLS for a server, which asks for a client certificate of `clients`, if given.
    pub fn server(&self, clients: Option<&Self>) -> Result<ServerTlsConfig> {
        let read = |from: &Self, name: &str| std::fs::read(from.files.path(name)).context("certificate");
        let mut tls = ServerTlsConfig::new().identity(Identity::from_pem(
            read(self, "server.crt")?,
            read(self, "server.key")?,
        ));
        if let Some(clients) = clients {
            tls = tls.client_ca_root(Certificate::from_pem(read(clients, "ca.crt")?));
        }
        Ok(tls)
    }

    /// Path of a file, for the agent's configuration.
    pub fn file(&self, name: &str) -> String {
        self.files.path(name).to_string_lossy().into_owned()
    }
}
