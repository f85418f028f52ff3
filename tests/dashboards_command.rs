//! `geophone dashboards` on the command line: variables and panels of one's own, and a Grafana that it is pushed to.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use tests::harness::agent::{Scratch, clean};
use tests::harness::otlp::Authority;
use tests::harness::{cli, equal};
use tests::need_root;

/// Takes one request, answers it, and returns its head and body.
fn receive(server: &TcpListener, answer: &str) -> Result<(String, Value)> {
    let (mut stream, _) = server.accept()?;
    let mut all = Vec::new();
    let mut part = [0; 65_536];
    loop {
        let n = stream.read(&mut part)?;
        all.extend_from_slice(part.get(..n).unwrap_or_default());
        let text = String::from_utf8_lossy(&all).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_ascii_lowercase();
            let length = length
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(usize::MAX) || n == 0 {
                write!(stream, "HTTP/1.1 {answer}")?;
                return Ok((head.to_owned(), serde_json::from_str(body)?));
            }
        }
        ensure!(n > 0, "the request is cut: {text}");
    }
}

/// Cause: dashboards are pushed to who speaks Grafana's API. Seen: what that API asks for; a refusal is one line that says why.
#[test]
fn they_are_pushed() -> Result<()> {
    let server = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/grafana/", server.local_addr()?);
    let scratch = Scratch::new()?;
    let token = scratch.secret("token", "glsa_abc\n")?;
    let token = token.to_str().context("a path")?;
    let options = [
        "dashboards",
        "tunnels",
        "--push",
        &url,
        "--token-file",
        token,
        "--folder",
        "net",
    ];
    let (asked, out) = std::thread::scope(|scope| {
        let pushed = scope.spawn(|| cli::geophone(&options));
        let body = "{\"url\":\"/d/geophone-tunnels/x\"}";
        let ok = format!(
            "200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let asked = receive(&server, &ok);
        (asked, pushed.join())
    });
    let ((head, body), out) = (asked?, out.map_err(|_panic| anyhow::anyhow!("panicked"))??);
    ensure!(
        head.starts_with("POST /grafana/api/dashboards/db HTTP/1.1"),
        "{head}"
    );
    ensure!(
        head.to_ascii_lowercase()
            .contains("authorization: bearer glsa_abc"),
        "{head}"
    );
    equal("overwrite", &body["overwrite"], &Value::Bool(true))?;
    ensure!(
        body["folderUid"] == "net" && body["dashboard"]["uid"] == "geophone-tunnels",
        "{body}"
    );
    ensure!(out.status.success(), "{out:?}");
    equal(
        "said",
        String::from_utf8(out.stdout)?.trim(),
        "geophone-tunnels: /d/geophone-tunnels/x",
    )?;
    let (_, out) = std::thread::scope(|scope| {
        let pushed = scope.spawn(|| cli::geophone(&options));
        let body = "{\"message\":\"Permission denied\"}";
        let no = format!(
            "403 Forbidden\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        (receive(&server, &no), pushed.join())
    });
    let out = out.map_err(|_panic| anyhow::anyhow!("panicked"))??;
    let line = cli::one_line(&out)?;
    cli::says(&line, &["geophone-tunnels", "Permission denied", "role Editor"])
}

/// Cause: a name that is none. Seen: the names that there are.
#[test]
fn an_unknown_name_is_told() -> Result<()> {
    let out = cli::geophone(&["dashboards", "nonsense"])?;
    equal("status", out.status.code(), Some(2))?;
    cli::says(
        &cli::one_line(&out)?,
        &["nonsense: no such dashboard", "geophone-overview"],
    )
}

/// A Grafana with a certificate that no system trusts. It ends with the value.
struct Encrypted {
    port: u16,
    child: Child,
}

impl Encrypted {
    const PROGRAM: &str = r#"
import http.server, ssl, sys
class Grafana(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers['Content-Length']))
        body = b'{"url":"/d/x"}'
        self.send_response(200 if self.headers['Authorization'] == 'Bearer glsa_abc' else 401)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.HTTPServer(('127.0.0.1', 0), Grafana)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

    fn start(authority: &Authority) -> Result<Self> {
        let mut child = clean("python3")
            .args(["-c", Self::PROGRAM])
            .arg(authority.files.path("server.crt"))
            .arg(authority.files.path("server.key"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut line = String::new();
        let out = child.stdout.take().context("no output")?;
        BufReader::new(out).read_line(&mut line)?;
        let port = line
            .trim()
            .parse()
            .with_context(|| format!("python3: {line:?}"))?;
        Ok(Self { port, child })
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a strange path")
}

/// Cause: a Grafana whose certificate a private authority has signed. Seen: it is trusted with that authority's file, with nothing
/// and with another one's not; a file that is none and an address without TLS are told.
#[test]
fn a_private_authority_is_trusted_where_it_is_named() -> Result<()> {
    need_root!("openssl", "python3");
    let (ours, other) = (Authority::new()?, Authority::new()?);
    let grafana = Encrypted::start(&ours)?;
    let scratch = Scratch::new()?;
    let token = scratch.secret("token", "glsa_abc\n")?;
    let url = format!("https://localhost:{}", grafana.port);
    let push = |url: &str, ca: Option<&Path>| {
        let mut words = vec!["dashboards", "node", "--push", url, "--token-file", text(&token)?];
        if let Some(ca) = ca {
            words.extend(["--ca-file", text(ca)?]);
        }
        cli::geophone(&words)
    };
    let [ca, wrong] = [&ours, &other].map(|authority| authority.files.path("ca.crt"));
    let out = push(&url, Some(&ca))?;
    ensure!(out.status.success(), "{out:?}");
    equal(
        "said",
        String::from_utf8(out.stdout)?.trim(),
        "geophone-node: /d/x",
    )?;
    for refused in [None, Some(wrong.as_path())] {
        let out = push(&url, refused)?;
        equal("status", out.status.code(), Some(1))?;
        cli::says(
            &cli::one_line(&out)?,
            &["geophone-node to https://localhost", "certificate"],
        )?;
    }
    let out = push(&url, Some(&token))?;
    cli::says(&cli::one_line(&out)?, &["--ca-file", "no certificate in it"])?;
    let out = push("http://localhost:1", Some(&ca))?;
    equal("status", out.status.code(), Some(2))?;
    cli::says(&cli::one_line(&out)?, &["--ca-file", "is not encrypted"])
}

/// Cause: values of variables, a time, a uid, and queries of one's own. Seen: JSON that begins with them, in a file of that uid.
#[test]
fn boards_are_as_somebody_wants_them() -> Result<()> {
    let out = cli::geophone(&[
        "dashboards",
        "node",
        "--var",
        "node=n1:9779",
        "--var",
        "node=n2:9779",
        "--var",
        "datasource=abc",
        "--last",
        "90m",
        "--refresh",
        "off",
        "--interval",
        "60s",
    ])?;
    ensure!(out.status.success() && out.stderr.is_empty(), "{out:?}");
    let board: Value = serde_json::from_slice(&out.stdout)?;
    let value = |name: &str| {
        let mut list = board["templating"]["list"].as_array().into_iter().flatten();
        list.find(|one| one["name"] == name)
            .map(|one| one["current"]["value"].clone())
    };
    equal("nodes", value("instance"), Some(json!(["n1:9779", "n2:9779"])))?;
    equal("source", value("datasource"), Some(json!("abc")))?;
    equal("time", &board["time"]["from"], &json!("now-90m"))?;
    equal("refresh", &board["refresh"], &json!(""))?;
    equal(
        "step",
        &board["panels"][1]["targets"][0]["interval"],
        &json!("1m"),
    )?;

    let scratch = Scratch::new()?;
    let directory = scratch.path("boards");
    let out = cli::geophone(&[
        "dashboards",
        "custom",
        "--uid",
        "shop",
        "--title",
        "Shop",
        "--panel",
        "Sent=sum(rate(geophone_tcp_bytes_total{instance=~\"$instance\"}[$__rate_interval]))",
        "--panel",
        "Sent=node_load1",
        "--panel",
        "Typo=geophone_tcp_conections",
        "-o",
        text(&directory)?,
    ])?;
    ensure!(out.status.success(), "{out:?}");
    let remark = String::from_utf8(out.stderr)?;
    cli::says(
        &remark,
        &["--panel Typo: geophone_tcp_conections: geophone has no such metric"],
    )?;
    equal("remarks", remark.lines().count(), 1)?;
    let board: Value = serde_json::from_slice(&std::fs::read(directory.join("shop.json"))?)?;
    equal("title", &board["title"], &json!("Shop"))?;
    let panels = board["panels"].as_array().context("panels")?;
    let titles: Vec<_> = panels.iter().map(|panel| panel["title"].as_str()).collect();
    equal("panels", titles, vec![Some("Sent"), Some("Typo")])?;
    let sent = panels.first().context("a panel")?;
    equal("lines", sent["targets"].as_array().map(Vec::len), Some(2))
}

/// Cause: wishes that cannot be. Seen: one line each that names what is wrong and what there is, and status 2.
#[test]
fn wishes_that_cannot_be_are_told() -> Result<()> {
    for (words, said) in [
        (
            &["node", "--var", "peer=db"][..],
            &[
                "--var peer: geophone-node has no such variable",
                "instance (Node)",
            ][..],
        ),
        (&["node", "--var", "region="], &["--var region: without a value"]),
        (&["node", "--var", "region"], &["a name, =, and what it is"]),
        (
            &["node", "--var", "datasource=a", "--var", "datasource=b"],
            &["datasource: it has one value, not 2"],
        ),
        (
            &["node", "--panel", "A=sum(rate(geophone_tcp_bytes_total[5m])))"],
            &["--panel A:", "at character 40, `)`", "sum(rate("],
        ),
        (
            &["node", "--panel", "A=rate(geophone_tcp_bytes_total)"],
            &["--panel A:", "expected type"],
        ),
        (
            &["node", "--panel", "A=x{peer=~\"$peer\"}"],
            &["$peer: geophone-node has no such variable", "$instance"],
        ),
        (&["--panel", "A=up"], &["--panel: it is of one dashboard"]),
        (&["--var", "region=eu"], &["nothing is written", "-o DIR"]),
        (
            &["custom"],
            &["custom: it has only panels of your own", "--panel"],
        ),
        (&["node", "--uid", "a b"], &["--uid", "letters, digits"]),
        (&["node", "--last", "1500ms"], &["whole seconds"]),
        (&["node", "--ca-file", "x"], &["--push"]),
    ] {
        let words: Vec<&str> = std::iter::once("dashboards")
            .chain(words.iter().copied())
            .collect();
        let out = cli::geophone(&words)?;
        equal(&format!("status of {words:?}"), out.status.code(), Some(2))?;
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        cli::says(&text, said).with_context(|| format!("{words:?}"))?;
        ensure!(out.stdout.is_empty(), "{words:?}: {out:?}");
    }
    Ok(())
}
