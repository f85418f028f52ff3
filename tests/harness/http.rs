//! A small HTTP client: the agent may live in a namespace of its own, where no library looks.

use super::Netns;
use anyhow::{Context as _, Result, bail};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Header lines.
    pub head: String,
    /// Body, chunks joined.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// GET, in a namespace or in this one.
pub fn get(netns: Option<&Netns>, at: SocketAddr, path: &str, accept: &str) -> Result<Answer> {
    request(netns, at, &format!("GET {path}"), accept)
}

/// POST of nothing.
pub fn post(netns: Option<&Netns>, at: SocketAddr, path: &str) -> Result<Answer> {
    request(netns, at, &format!("POST {path}"), "*/*")
}

fn request(netns: Option<&Netns>, at: SocketAddr, asked: &str, accept: &str) -> Result<Answer> {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        write!(
            stream,
            "{asked} HTTP/1.1\r\nHost: {at}\r\nAccept: {accept}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        parse(&bytes).with_context(|| asked.to_owned())
    };
    match netns {
        Some(netns) => netns.enter(ask),
        None => ask(),
    }
}

fn parse(bytes: &[u8]) -> Result<Answer> {
    let end = bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .context("no end of the header")?;
    let (head, body) = bytes.split_at(end);
    let head = String::from_utf8_lossy(head).into_owned();
    let body = body.get(4..).unwrap_or_default();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .context("no status")?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok(Answer {
        status,
        body: if chunked { join(body)? } else { body.to_vec() },
        head,
    })
}

/// Joins chunks; a stream that was cut off ends where it was cut.
fn join(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    while let Some(at) = rest.windows(2).position(|w| w == b"\r\n") {
        let (size, after) = rest.split_at(at);
        let Ok(size) = usize::from_str_radix(String::from_utf8_lossy(size).trim(), 16) else {
            bail!("no size of a chunk");
        };
        let data = after.get(2..).unwrap_or_default();
        out.extend_from_slice(data.get(..size).unwrap_or(data));
        rest = data.get(size + 2..).unwrap_or_default();
    }
    Ok(out)
}
