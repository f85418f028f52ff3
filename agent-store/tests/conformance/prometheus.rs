//! A Prometheus of its own: started on loopback, filled by remote write, asked over HTTP.

use agent_store::histogram::Histogram;
use agent_store::series::Series;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Prometheus {
    child: Child,
    dir: PathBuf,
    address: String,
}

impl Prometheus {
    /// `None` when it is not installed.
    pub fn start() -> Option<Self> {
        let dir = std::env::temp_dir().join(format!("geophone-conformance-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("empty.yml"), "").unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let address = format!("127.0.0.1:{port}");
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let spawned = Command::new("prometheus")
            .arg(format!("--config.file={}", dir.join("empty.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--storage.tsdb.retention.time=100y")
            .arg("--web.enable-remote-write-receiver")
            .arg("--enable-feature=native-histograms")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let child = match spawned {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => panic!("cannot run prometheus: {error}"),
        };
        let this = Self { child, dir, address };
        let deadline = Instant::now() + Duration::from_secs(60);
        while this
            .send("GET", "/-/ready", "", &[])
            .is_none_or(|(status, _)| status != 200)
        {
            let log = || std::fs::read_to_string(this.dir.join("log")).unwrap_or_default();
            assert!(
                Instant::now() < deadline,
                "prometheus is not ready after 60 s:\n{}",
                log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(this)
    }

    /// Status and body of a POST with a form.
    pub fn ask(&self, path: &str, form: &[(&str, String)]) -> (u16, String) {
        let pairs: Vec<String> = form
            .iter()
            .map(|(name, value)| format!("{name}={}", escaped(value)))
            .collect();
        let kind = "Content-Type: application/x-www-form-urlencoded\r\n";
        self.send("POST", path, kind, pairs.join("&").as_bytes())
            .expect("prometheus answers")
    }

    /// Writes all samples.
    pub fn fill(&self, series: &[Series]) {
        let mut request = Vec::new();
        for one in series {
            bytes(&mut request, 1, &time_series(one));
        }
        let headers = "Content-Encoding: snappy\r\nContent-Type: application/x-protobuf\r\n\
                       X-Prometheus-Remote-Write-Version: 0.1.0\r\n";
        let (status, body) = self
            .send("POST", "/api/v1/write", headers, &snappy(&request))
            .unwrap();
        assert!((200..300).contains(&status), "remote write: {status} {body}");
    }

    /// HTTP 1.0: the answer ends where the connection does.
    fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        let head = format!(
            "{method} {path} HTTP/1.0\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8(answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Snappy's block format with literals only.
fn snappy(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + data.len() / 1000 + 16);
    varint(&mut out, data.len() as u64);
    for chunk in data.chunks(1 << 16) {
        let length = u16::try_from(chunk.len() - 1).unwrap();
        out.push(61 << 2);
        out.extend(length.to_le_bytes());
        out.extend(chunk);
    }
    out
}

fn time_series(series: &Series) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in series.labels.iter() {
        let mut label = Vec::new();
        bytes(&mut label, 1, name.as_bytes());
        bytes(&mut label, 2, value.as_bytes());
        bytes(&mut out, 1, &label);
    }
    let floats = &series.samples.floats;
    for (time, value) in floats.times.iter().zip(&floats.values) {
        let mut sample = Vec::new();
        double(&mut sample, 1, *value);
        integer(&mut sample, 2, *time as u64);
        bytes(&mut out, 2, &sample);
    }
    let histograms = &series.samples.histograms;
    for (time, value) in histograms.times.iter().zip(&histograms.values) {
        bytes(&mut out, 4, &histogram(value, *time));
    }
    out
}

/// A float histogram: counts as doubles.
fn histogram(histogram: &Histogram, time: i64) -> Vec<u8> {
    let mut out = Vec::new();
    double(&mut out, 2, histogram.count);
    double(&mut out, 3, histogram.sum);
    integer(&mut out, 4, zigzag(i64::from(histogram.schema)));
    double(&mut out, 5, histogram.zero_threshold);
    double(&mut out, 7, histogram.zero_count);
    for (spans, counts, buckets) in [(8, 10, &histogram.negative), (11, 13, &histogram.positive)] {
        let mut next = 0;
        for (index, _) in buckets {
            let mut span = Vec::new();
            integer(&mut span, 1, zigzag(i64::from(index - next)));
            integer(&mut span, 2, 1);
            bytes(&mut out, spans, &span);
            next = index + 1;
        }
        let packed: Vec<u8> = buckets
            .iter()
            .flat_map(|(_, count)| count.to_le_bytes())
            .collect();
        bytes(&mut out, counts, &packed);
    }
    integer(&mut out, 14, if histogram.is_gauge { 3 } else { 0 });
    integer(&mut out, 15, time as u64);
    out
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn integer(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    varint(out, field << 3 | 1);
    out.extend(value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend(value);
}
