//! What it answers, and what it sends on and on when it is told to.

use super::{Mood, Shared};
use anyhow::Result;
use serde_json::json;
use std::io::Write;
use std::net::TcpStream;

pub(super) fn flood(writer: &mut TcpStream, shared: &Shared, begin: &str, mood: Mood) -> Result<()> {
    write!(
        writer,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )?;
    flood_chunks(writer, shared, begin, mood)
}

/// Sends until the other side has had enough, or 1 GiB.
pub(super) fn flood_chunks(writer: &mut TcpStream, shared: &Shared, begin: &str, mood: Mood) -> Result<()> {
    chunk(writer, begin)?;
    let piece = "x".repeat(1 << 16);
    for _ in 0..1 << 14 {
        if shared.world().mood != mood {
            break;
        }
        chunk(writer, &piece)?;
    }
    Ok(())
}

pub(super) fn chunk(writer: &mut impl Write, bytes: impl AsRef<[u8]>) -> Result<()> {
    let bytes = bytes.as_ref();
    write!(writer, "{:x}\r\n", bytes.len())?;
    writer.write_all(bytes)?;
    write!(writer, "\r\n")?;
    Ok(writer.flush()?)
}

pub(super) fn status(writer: &mut TcpStream, code: u16, reason: &str, message: &str) -> Result<()> {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code
    });
    answer(writer, code, &body.to_string())
}

pub(super) fn answer(writer: &mut TcpStream, code: u16, body: &str) -> Result<()> {
    answer_as(writer, code, "application/json", body.as_bytes())
}

pub(super) fn answer_as(writer: &mut TcpStream, code: u16, kind: &str, body: &[u8]) -> Result<()> {
    let length = body.len();
    write!(
        writer,
        "HTTP/1.1 {code} X\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    )?;
    writer.write_all(body)?;
    Ok(writer.flush()?)
}
