//! The API where other machines can reach it: TLS and a token, or not at all.

use anyhow::{Context as _, Result, anyhow, ensure};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};
use tests::harness::agent::{PATIENCE, Scratch, binary, clean};
use tests::harness::cli::{geophone, one_line, says};
use tests::harness::command::said;
use tests::harness::otlp::Authority;
use tests::harness::{Agent, Link, Netns, Setup, equal};
use tests::need_root;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// The settings of an API that may be reached from elsewhere.
fn open(setup: Setup, authority: &Authority, token: &str) -> Setup {
    setup
        .set("api.tls.cert_file", &authority.file("server.crt"))
        .set("api.tls.key_file", &authority.file("server.key"))
        .set("api.token_file", token)
}

/// A machine on the agent's wire, with curl.
struct Stranger<'a> {
    ns: &'a Netns,
    at: SocketAddr,
}

impl Stranger<'_> {
    /// Asks for a path of the agent's, which is to prove that it is `localhost`.
    fn curl(&self, scheme: &str, path: &str, more: &[&str]) -> Result<Output> {
        let port = self.at.port();
        let mut curl = self.ns.command("curl");
        curl.args(["--silent", "--show-error", "--max-time", "10", "--noproxy", "*"])
            .args(["--output", "/dev/null", "--write-out", "%{http_code}"])
            .args(["--connect-to", &format!("localhost:{port}:{}", self.at)])
            .args(more)
            .arg(format!("{scheme}://localhost:{port}{path}"));
        Ok(curl.output()?)
    }

    /// The status of an answer by TLS, whose certificate is of this authority.
    fn status(&self, path: &str, authority: &Authority, token: Option<&str>) -> Result<String> {
        let header = token.map(|token| format!("Authorization: Bearer {token}"));
        let ca = authority.file("ca.crt");
        let mut more = vec!["--cacert", &ca];
        more.extend(header.iter().flat_map(|header| ["--header", header]));
        let out = self.curl("https", path, &more)?;
        ensure!(out.status.success(), "{path}: {}", said(&out));
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Waits until the agent is well, which may be asked without the token.
    fn ready(&self, authority: &Authority, agent: &Agent) -> Result<()> {
        let start = Instant::now();
        while self.status("/readyz", authority, None).ok().as_deref() != Some("200") {
            ensure!(start.elapsed() < PATIENCE, "not ready: {}", agent.log());
            sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// Cause: another machine asks, by TLS and not, with and without the token. Seen: answers only to who has both, and a
/// certificate that only its own authority vouches for.
#[test]
fn tls_and_a_token() -> Result<()> {
    need_root!("openssl", "curl");
    let (ours, others) = (Authority::new()?, Authority::new()?);
    let scratch = Scratch::new()?;
    let token = scratch.secret("token", format!("{TOKEN}\n"))?;
    let link = Link::new()?;
    let setup = Setup::new().inside(&link.a.ns).listen(link.a.v4);
    let agent = open(setup, &ours, &token.to_string_lossy()).spawn()?;
    let stranger = Stranger {
        ns: &link.b.ns,
        at: agent.at,
    };
    stranger.ready(&ours, &agent)?;
    let short = TOKEN.trim_end_matches('f');
    let long = format!("{TOKEN}0");
    for (given, want) in [
        (Some(TOKEN), "200"),
        (None, "401"),
        (Some("fedcba9876543210fedcba9876543210"), "401"),
        (Some(short), "401"),
        (Some(&long), "401"),
        (Some(""), "401"),
    ] {
        for path in [
            "/metrics",
            "/api/v1/snapshot",
            "/api/v1/status",
            "/api/v1/flows?for=1s",
        ] {
            let seen = stranger.status(path, &ours, given)?;
            equal(&format!("{path} with token {given:?}"), seen.as_str(), want)?;
        }
    }
    let header = format!("Authorization: Bearer {TOKEN}");
    let plain = stranger.curl("http", "/metrics", &["--header", &header])?;
    ensure!(
        !plain.status.success(),
        "plain HTTP is answered: {}",
        said(&plain)
    );
    let theirs = others.file("ca.crt");
    for trust in [&["--cacert", theirs.as_str()][..], &[]] {
        let out = stranger.curl("https", "/metrics", trust)?;
        // curl: the peer's certificate cannot be authenticated with known CA certificates.
        equal("exit status", out.status.code(), Some(60)).with_context(|| said(&out))?;
    }
    agent.stop()?;
    Ok(())
}

/// Cause: an agent that other machines can reach, with clients' certificates and no token; one asks with a certificate of that
/// authority, of another, and with none, under a name that nobody has told the agent. Seen: an answer to the first, for the others
/// the handshake ends, also where a token is not asked for either.
#[test]
fn certificates_of_clients_alone() -> Result<()> {
    need_root!("openssl", "curl");
    let (ours, others) = (Authority::new()?, Authority::new()?);
    let link = Link::new()?;
    let agent = Setup::new()
        .inside(&link.a.ns)
        .listen(link.a.v4)
        .set("api.tls.cert_file", &ours.file("server.crt"))
        .set("api.tls.key_file", &ours.file("server.key"))
        .set("api.tls.client_ca_file", &ours.file("ca.crt"))
        .spawn()?;
    let stranger = Stranger {
        ns: &link.b.ns,
        at: agent.at,
    };
    let ca = ours.file("ca.crt");
    let ask = |path: &str, client: Option<&Authority>| -> Result<Output> {
        let files = client.map(|client| (client.file("client.crt"), client.file("client.key")));
        let mut more = vec!["--cacert", &ca, "--header", "Host: node-7.example"];
        if let Some((certificate, key)) = &files {
            more.extend(["--cert", certificate, "--key", key]);
        }
        stranger.curl("https", path, &more)
    };
    let start = Instant::now();
    loop {
        let out = ask("/readyz", Some(&ours))?;
        if out.status.success() && out.stdout == b"200" {
            break;
        }
        ensure!(start.elapsed() < PATIENCE, "{}: {}", said(&out), agent.log());
        sleep(Duration::from_millis(100));
    }
    for path in ["/metrics", "/healthz", "/api/v1/snapshot"] {
        let out = ask(path, Some(&ours))?;
        equal(path, out.stdout.as_slice(), b"200").with_context(|| said(&out))?;
        for client in [None, Some(&others)] {
            let out = ask(path, client)?;
            ensure!(
                !out.status.success() && out.stdout == b"000",
                "{path}: {}",
                said(&out)
            );
        }
    }
    agent.stop()?;
    Ok(())
}

/// Cause: an agent on every address, with TLS, a token and clients' certificates, as the chart sets it up; its certificate names
/// neither 0.0.0.0 nor the loopback. Seen: commands with its settings find and ask it; without them, or as a user who may not
/// read them, they say what is in the way, and none starts an agent of its own beside it.
#[test]
fn commands_ask_an_exposed_agent() -> Result<()> {
    need_root!("openssl", "setpriv");
    let (ours, others) = (Authority::new()?, Authority::new()?);
    let scratch = Scratch::new()?;
    let token = scratch.secret("token", format!("{TOKEN}\n"))?;
    let setup = Setup::new()
        .listen(Ipv4Addr::UNSPECIFIED)
        .config("store: {kind: memory}");
    let agent = open(setup, &ours, &token.to_string_lossy())
        .set("api.tls.client_ca_file", &ours.file("ca.crt"))
        .spawn()?;
    let settings = |certificate: &str| {
        format!(
            "api:\n  listen: {}\n  token_file: {}\n  tls: {{cert_file: {certificate}, key_file: /nowhere, \
             client_ca_file: {}, client_cert_file: {}, client_key_file: {}}}\n",
            agent.at,
            token.display(),
            ours.file("ca.crt"),
            ours.file("client.crt"),
            ours.file("client.key")
        )
    };
    let named = scratch.write("settings.yaml", settings(&ours.file("server.crt")))?;
    let named = named.to_string_lossy();
    let start = Instant::now();
    loop {
        let out = geophone(&["check", "--cardinality", "--config", &named])?;
        if out.status.success() {
            break;
        }
        ensure!(start.elapsed() < PATIENCE, "{}: {}", said(&out), agent.log());
        sleep(Duration::from_millis(200));
    }
    for words in [
        &["flows", "--for", "1s", "--json"][..],
        &["tunnels", "--json"],
        &["tunnels", "--follow", "--for", "1s"],
        &["topology", "--format", "json"],
        &["query", "geophone_tcp_connections"],
    ] {
        let out = geophone(&[words, &["--config", &named]].concat())?;
        ensure!(out.status.success(), "{words:?}: {}", said(&out));
        ensure!(out.stderr.is_empty(), "{words:?}: {}", said(&out));
    }
    let theirs = scratch.write("theirs.yaml", settings(&others.file("server.crt")))?;
    let at = format!("127.0.0.1:{}", agent.at.port());
    for (words, told) in [
        (
            ["--config", &*theirs.to_string_lossy()],
            "is not that of api.tls.cert_file",
        ),
        (["--listen", &at], "--config (GEOPHONE_CONFIG)"),
    ] {
        for command in [
            &["flows", "--for", "1s", "--json"][..],
            &["topology"],
            &["health"],
        ] {
            let line = one_line(&geophone(&[command, &words].concat())?)?;
            says(&line, &[told])?;
        }
    }
    // As somebody who may read the settings, and nothing secret that they name.
    let program = scratch.path("geophone");
    std::fs::copy(binary(), &program)?;
    let mut nobody = clean("setpriv");
    nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    let out = nobody
        .arg(&program)
        .args(["health", "--config", &named])
        .output()?;
    says(
        &one_line(&out)?,
        &["Permission denied", "run it as the user of the agent"],
    )?;
    agent.stop()?;
    Ok(())
}

/// Cause: another machine keeps 200 connections that say nothing, and makes each anew when it is closed. Seen: for longer than
/// silence is borne, who asks is answered as ever, be it only whether the agent is well, as the kubelet does.
#[test]
fn silent_strangers_keep_nobody_out() -> Result<()> {
    need_root!("openssl", "curl");
    let ours = Authority::new()?;
    let scratch = Scratch::new()?;
    let token = scratch.secret("token", format!("{TOKEN}\n"))?;
    let link = Link::new()?;
    let setup = Setup::new().inside(&link.a.ns).listen(link.a.v4);
    let agent = open(setup, &ours, &token.to_string_lossy()).spawn()?;
    let stranger = Stranger {
        ns: &link.b.ns,
        at: agent.at,
    };
    stranger.ready(&ours, &agent)?;
    // The node itself: another than who is silent.
    let near = Stranger {
        ns: &link.a.ns,
        at: agent.at,
    };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let silent = scope.spawn(|| link.b.ns.enter(|| silence(agent.at, 200, &over)));
        let asks = || -> Result<()> {
            let start = Instant::now();
            let ca = ours.file("ca.crt");
            while start.elapsed() < Duration::from_secs(15) {
                let out = near.curl("https", "/healthz", &["--cacert", &ca, "--max-time", "2"])?;
                let after = start.elapsed();
                equal("answer", &*String::from_utf8_lossy(&out.stdout), "200")
                    .with_context(|| format!("after {after:?}"))?;
                sleep(Duration::from_millis(200));
            }
            Ok(())
        };
        let asked = asks();
        over.store(true, Relaxed);
        let made = silent
            .join()
            .map_err(|panic| anyhow!("the silent one has panicked: {panic:?}"))??;
        ensure!(made > 200, "only {made} silent connections were made");
        asked
    })?;
    agent.stop()?;
    Ok(())
}

/// Keeps so many connections that say nothing, until it is over. Returns how many it has made.
fn silence(at: SocketAddr, most: usize, over: &AtomicBool) -> Result<usize> {
    let (mut held, mut made) = (Vec::new(), 0);
    while !over.load(Relaxed) {
        // Of one that was closed from afar the end can be read.
        held.retain(|stream: &TcpStream| {
            let read = stream.peek(&mut [0]).map_err(|e| e.kind());
            read == Err(ErrorKind::WouldBlock)
        });
        while held.len() < most && !over.load(Relaxed) {
            // Where they come faster than they are taken the kernel leaves them out.
            let Ok(stream) = TcpStream::connect_timeout(&at, Duration::from_millis(300)) else {
                break;
            };
            stream.set_nonblocking(true)?;
            held.push(stream);
            made += 1;
        }
        sleep(Duration::from_millis(100));
    }
    Ok(made)
}

/// Cause: an address that the world can reach, with not all that it takes, or with what does not fit. Said: what.
#[test]
fn half_a_protection_is_none() -> Result<()> {
    need_root!("openssl");
    let (ours, others) = (Authority::new()?, Authority::new()?);
    let scratch = Scratch::new()?;
    let token = scratch.secret("token", TOKEN)?;
    let weak = scratch.secret("weak", "secret")?;
    let noise = scratch.secret("noise.crt", "-----BEGIN CERTIFICATE-----\nnoise\n")?;
    let (token, weak, noise) = (
        token.to_string_lossy(),
        weak.to_string_lossy(),
        noise.to_string_lossy(),
    );
    let (cert, key) = (ours.file("server.crt"), ours.file("server.key"));
    let stranger = others.file("server.key");
    let with = |cert: &str, key: &str, token: &str| {
        let set = |name: &str, file: &str| format!("api.{name}={file}");
        let all = [
            ("tls.cert_file", cert),
            ("tls.key_file", key),
            ("token_file", token),
        ];
        all.into_iter()
            .filter(|(_, file)| !file.is_empty())
            .flat_map(|(name, file)| ["--set".to_owned(), set(name, file)])
            .collect::<Vec<_>>()
    };
    for (settings, words) in [
        (with("", "", ""), &["api.tls and api.token_file are not set"][..]),
        (with(&cert, &key, ""), &["api.token_file is not set"]),
        (with("", "", &token), &["api.tls is not set"]),
        (
            with(&cert, &key, "/nowhere/token"),
            &["api.token_file", "/nowhere/token"],
        ),
        (with(&cert, &key, &weak), &["api.token_file", "16"]),
        (
            with(&cert, &stranger, &token),
            &["api.tls", "does the key belong to it?"],
        ),
        (with(&noise, &key, &token), &["api.tls.cert_file", &noise]),
        (
            with("/nowhere/crt", &key, &token),
            &["api.tls.cert_file", "/nowhere/crt"],
        ),
        (with(&cert, &noise, &token), &["api.tls.key_file", &noise]),
    ] {
        let mut arguments = vec!["run", "--listen", "0.0.0.0:0", "--for", "1s"];
        arguments.extend(settings.iter().map(String::as_str));
        let line = one_line(&geophone(&arguments)?).with_context(|| format!("{settings:?}"))?;
        says(&line, words)?;
        ensure!(!line.contains(TOKEN), "it tells the token: {line}");
    }
    Ok(())
}
