//! Places that are told of alerts: a server that takes whatever is posted, a mail server with STARTTLS, an Alertmanager.

use super::agent::{PATIENCE, Scratch, clean};
use super::command::output;
use super::http;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What was posted.
#[derive(Clone, Debug)]
pub struct Posted {
    /// Path, without its slash.
    pub path: String,
    /// Body.
    pub body: Value,
    /// When it had come, seconds since 1970.
    pub at: f64,
}

/// A server that takes posts.
#[derive(Debug)]
pub struct Sink {
    /// Where it is.
    pub at: SocketAddr,
    posted: Arc<Mutex<Vec<Posted>>>,
    status: Arc<AtomicU16>,
}

impl Sink {
    /// One that takes everything.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let at = listener.local_addr()?;
        let (posted, status) = (
            Arc::<Mutex<Vec<Posted>>>::default(),
            Arc::new(AtomicU16::new(200)),
        );
        let shared = (posted.clone(), status.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (posted, status) = shared.clone();
                std::thread::spawn(move || serve(stream, &posted, &status));
            }
        });
        Ok(Self { at, posted, status })
    }

    /// Answers with this from now on, 0 = hangs up without; what it does not take it does not remember.
    pub fn answer(&self, status: u16) {
        self.status.store(status, Relaxed);
    }

    /// What was posted to a path.
    pub fn posted(&self, path: &str) -> Vec<Posted> {
        let posted = self.posted.lock().unwrap_or_else(PoisonError::into_inner);
        posted.iter().filter(|one| one.path == path).cloned().collect()
    }
}

fn serve(stream: TcpStream, posted: &Mutex<Vec<Posted>>, status: &AtomicU16) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let (mut length, mut path) = (0, None);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                break;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let own = words.get(1).map(|path| path.trim_start_matches('/').to_owned());
            path = path.or(own);
            if let Some(number) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = number.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let status = status.load(Relaxed);
        if status == 0 {
            return Ok(());
        }
        if status == 200 {
            let at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
            let one = Posted {
                path: path.unwrap_or_default(),
                body: serde_json::from_slice(&body).context("no JSON")?,
                at,
            };
            posted.lock().unwrap_or_else(PoisonError::into_inner).push(one);
        }
        write!(writer, "HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok")?;
    }
}

/// Debian's Python: that of its packages.
const PYTHON: &str = "/usr/bin/python3";

const SERVER: &str = r#"
import asyncio, json, ssl, sys, time
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
class Handler:
    async def handle_DATA(self, server, session, envelope):
        with open(sys.argv[3], 'a') as out:
            out.write(json.dumps({'from': envelope.mail_from, 'to': envelope.rcpt_tos, 'tls': session.ssl is not None,
                'text': envelope.content.decode('utf-8', 'surrogateescape'), 'at': time.time()}) + '\n')
        return '250 OK'
def check(server, session, envelope, mechanism, data):
    ok = isinstance(data, LoginPassword) and data.login == b'geophone' and data.password == b's3cret'
    return AuthResult(success=ok)
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    make = lambda: SMTP(Handler(), hostname='localhost', tls_context=context, require_starttls=True, auth_required=True, authenticator=check)
    server = await asyncio.get_running_loop().create_server(make, '127.0.0.1', 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"#;

/// A mail server that insists on STARTTLS and on a password.
#[derive(Debug)]
pub struct Mail {
    /// Its port on localhost.
    pub port: u16,
    /// The authority of its certificate.
    pub ca: PathBuf,
    mails: PathBuf,
    child: Child,
}

/// Whether there can be one.
pub fn can_mail() -> bool {
    let probe = Command::new(PYTHON)
        .args(["-c", "import aiosmtpd"])
        .stderr(Stdio::null())
        .status();
    probe.is_ok_and(|status| status.success())
}

impl Mail {
    /// Starts it.
    pub fn start(scratch: &Scratch) -> Result<Self> {
        let [key, ca, mails] = ["mail.key", "mail.pem", "mails"].map(|name| scratch.path(name));
        let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
                   -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE";
        output(
            Command::new("openssl")
                .args(new.split_whitespace())
                .arg("-keyout")
                .arg(&key)
                .arg("-out")
                .arg(&ca),
        )?;
        let mut child = Command::new(PYTHON)
            .args(["-c", SERVER])
            .arg(&ca)
            .arg(&key)
            .arg(&mails)
            .stdout(Stdio::piped())
            .spawn()
            .context(PYTHON)?;
        let mut line = String::new();
        let out = child.stdout.take().context("no pipe")?;
        BufReader::new(out).read_line(&mut line)?;
        Ok(Self {
            port: line.trim().parse().context("the mail server says no port")?,
            ca,
            mails,
            child,
        })
    }

    /// What has come: `from`, `to`, `tls`, `text`, `at`.
    pub fn mails(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(&self.mails).unwrap_or_default();
        let lines = text.lines().filter(|line| line.ends_with('}'));
        lines
            .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
            .collect()
    }
}

impl Drop for Mail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Path of Slack's address on a sink, which is a secret.
pub const SLACK: &str = "sl4ck";

/// Settings of a receiver `ops` that has a place of every kind.
pub fn receiver(scratch: &Scratch, sink: &Sink, mail: &Mail) -> Result<Value> {
    let [url, key, password] = [
        scratch.secret("slack", format!("http://{}/{SLACK}\n", sink.at))?,
        scratch.secret("key", "k3y\n")?,
        scratch.secret("password", "s3cret\n")?,
    ];
    Ok(json!({
        "name": "ops",
        "webhook_configs": [{ "url": format!("http://{}/webhook", sink.at) }],
        "slack_configs": [{ "api_url_file": url, "channel": "#ops" }],
        "pagerduty_configs": [{ "routing_key_file": key, "url": format!("http://{}/pagerduty", sink.at) }],
        "email_configs": [{
            "to": "Ops <ops@example.org>, b@example.org", "from": "geophone@example.org",
            "smarthost": format!("localhost:{}", mail.port),
            "auth_username": "geophone", "auth_password_file": password, "tls": { "ca_file": mail.ca },
        }],
        "log_configs": [{}],
    }))
}

/// How many messages have come to webhook, Slack, PagerDuty, by mail.
pub fn counts(sink: &Sink, mail: &Mail) -> Result<[usize; 4]> {
    let [webhook, slack, pagerduty] = ["webhook", SLACK, "pagerduty"].map(|path| sink.posted(path).len());
    Ok([webhook, slack, pagerduty, mail.mails()?.len()])
}

/// A real Alertmanager, of Debian's package; it ends with the value.
#[derive(Debug)]
pub struct Alertmanager {
    /// Where it listens.
    pub at: SocketAddr,
    child: Child,
}

impl Alertmanager {
    /// The program.
    pub const PROGRAM: &str = "prometheus-alertmanager";

    /// With this configuration; in the network namespace of the calling thread.
    pub fn start(scratch: &Scratch, config: &str) -> Result<Self> {
        let at = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = clean(Self::PROGRAM)
            .arg(format!(
                "--config.file={}",
                scratch.write("alertmanager.yml", config)?.display()
            ))
            .arg(format!(
                "--storage.path={}",
                scratch.path("alertmanager").display()
            ))
            .arg(format!("--web.listen-address={at}"))
            .arg("--cluster.listen-address=")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context(Self::PROGRAM)?;
        let this = Self { at, child };
        until("Alertmanager is ready", || {
            let answer = http::get(None, at, "/-/ready", "*/*");
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
        })?;
        Ok(this)
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until it is so.
pub fn until<T>(what: &str, ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    within(PATIENCE, what, ask)
}

/// The same, for so long.
pub fn within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(
            begin.elapsed() < patience,
            "{what}: not within {} s",
            patience.as_secs()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}
