//! Questions to netlink: rtnetlink in its own types, other protocols in bytes.

use crate::error::{Context as _, Error, Result};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike as _};
use std::{fmt, io};

/// An answer that takes longer will not come, seconds.
const LONGEST: i64 = 10;

/// Why there was no answer, or not all of it.
#[derive(Debug)]
pub struct Failure {
    what: &'static str,
    cause: io::Error,
}

impl Failure {
    fn new(what: &'static str, cause: impl Into<io::Error>) -> Self {
        let cause = cause.into();
        Self { what, cause }
    }

    /// The kernel refused it to this process.
    pub fn is_not_permitted(&self) -> bool {
        self.cause.raw_os_error() == Some(libc::EPERM)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause.kind() {
            io::ErrorKind::WouldBlock => write!(f, "netlink: no answer after {LONGEST} s"),
            _ => write!(f, "netlink: {}: {}", self.what, self.cause),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure)
    }
}

/// A socket of the network namespace that the thread was in when it was opened. After an error it is to be closed: an
/// old answer may still be in it.
pub struct Rtnetlink {
    socket: Socket,
}

impl Rtnetlink {
    /// Opens it.
    pub fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("rtnetlink: socket")?;
        socket.bind_auto().context("rtnetlink: bind")?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .context("rtnetlink: connect")?;
        Ok(Self { socket })
    }

    /// Everything of a kind.
    pub fn dump(&self, request: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
        self.ask(request, NLM_F_DUMP | NLM_F_REQUEST)
    }

    /// One answer.
    pub fn get(&self, request: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
        self.ask(request, NLM_F_REQUEST)
    }

    fn ask(&self, request: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>> {
        let mut packet = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(request));
        packet.header.flags = flags;
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0).context("rtnetlink: send")?;
        let mut out = Vec::new();
        let mut buffer = Vec::with_capacity(1 << 16);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0).context("rtnetlink: receive")?;
            let mut rest = buffer.as_slice();
            while !rest.is_empty() {
                let message =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).context("rtnetlink: answer")?;
                let length = (message.header.length as usize).next_multiple_of(4);
                let more = message.header.flags & NLM_F_MULTIPART != 0;
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(out),
                    NetlinkPayload::Error(e) => return Err(Error::new(format_args!("rtnetlink: {e}"))),
                    NetlinkPayload::InnerMessage(inner) => out.push(inner),
                    _ => {}
                }
                if !more {
                    return Ok(out);
                }
                match rest.get(length..) {
                    Some(next) if length > 0 => rest = next,
                    _ => break,
                }
            }
        }
    }
}

/// Asks another protocol of netlink. `take` gets type and body of each answer, and says whether it wants more. What has changed
/// meanwhile may be there twice or be missing, and what the kernel could not tell is left out.
pub fn ask(
    protocol: isize,
    kind: u16,
    flags: u16,
    body: &[u8],
    take: impl FnMut(u16, &[u8]) -> bool,
) -> std::result::Result<(), Failure> {
    request(protocol, kind, flags, body, false, take)
}

/// As [`ask`], but all of it or a failure.
pub fn ask_for_all(
    protocol: isize,
    kind: u16,
    flags: u16,
    body: &[u8],
    take: impl FnMut(u16, &[u8]) -> bool,
) -> std::result::Result<(), Failure> {
    request(protocol, kind, flags, body, true, take)
}

fn request(
    protocol: isize,
    kind: u16,
    flags: u16,
    body: &[u8],
    is_strict: bool,
    mut take: impl FnMut(u16, &[u8]) -> bool,
) -> std::result::Result<(), Failure> {
    const HEADER: usize = 16;
    let mut socket = Socket::new(protocol).map_err(|e| Failure::new("socket", e))?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(LONGEST))
        .map_err(|e| Failure::new("timeout", e))?;
    socket.bind_auto().map_err(|e| Failure::new("bind", e))?;
    let mut bytes = vec![0; HEADER + body.len()];
    let mut request = NetlinkBuffer::new(bytes.as_mut_slice());
    request.set_length((HEADER + body.len()) as u32);
    request.set_message_type(kind);
    request.set_flags(flags);
    request.payload_mut().copy_from_slice(body);
    socket
        .send_to(&bytes, &SocketAddr::new(0, 0), 0)
        .map_err(|e| Failure::new("send", e))?;
    let mut buffer = Vec::with_capacity(1 << 16);
    loop {
        buffer.clear();
        socket
            .recv(&mut buffer, 0)
            .map_err(|e| Failure::new("receive", e))?;
        if answers(&buffer, is_strict, &mut take)? {
            return Ok(());
        }
    }
}

/// Takes what has come at once; whether that was the last of it.
fn answers(
    mut rest: &[u8],
    is_strict: bool,
    take: &mut impl FnMut(u16, &[u8]) -> bool,
) -> std::result::Result<bool, Failure> {
    while !rest.is_empty() {
        let answer = NetlinkBuffer::new_checked(&rest)
            .map_err(|e| Failure::new("answer", io::Error::other(e.to_string())))?;
        let code = || {
            let code = answer.payload().get(..4).and_then(|code| code.try_into().ok());
            code.map_or(0, i32::from_ne_bytes)
        };
        if is_strict && answer.flags() & NLM_F_DUMP_INTR != 0 {
            let cause = io::Error::from_raw_os_error(libc::EINTR);
            return Err(Failure::new("what was told has changed meanwhile", cause));
        }
        let failure = |code: i32| Failure::new("answer", io::Error::from_raw_os_error(code.saturating_neg()));
        match answer.message_type() {
            NLMSG_DONE if is_strict && code() < 0 => return Err(failure(code())),
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => return Err(failure(code())),
            kind if !take(kind, answer.payload()) => return Ok(true),
            _ => {}
        }
        if answer.flags() & NLM_F_MULTIPART == 0 {
            return Ok(true);
        }
        let length = (answer.length() as usize).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut out = (16 + body.len() as u32).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend((NLM_F_MULTIPART | flags).to_ne_bytes());
        out.extend([0; 8]);
        out.extend(body);
        out
    }

    /// What was taken, and how it ended.
    fn taken(bytes: &[u8], is_strict: bool) -> (usize, std::result::Result<bool, Failure>) {
        let mut count = 0;
        let end = answers(bytes, is_strict, &mut |_, _| {
            count += 1;
            true
        });
        (count, end)
    }

    #[test]
    fn what_is_not_whole_is_a_failure_for_who_wants_all() {
        let code = |errno: i32| (-errno).to_ne_bytes();
        let one = message(256, 0, &[1, 2, 3, 4]);
        let done = message(NLMSG_DONE, 0, &code(0));
        assert!(matches!(taken(&one, true), (1, Ok(false))));
        assert!(matches!(
            taken(&[one.clone(), done].concat(), true),
            (1, Ok(true))
        ));
        let failed = [one.clone(), message(NLMSG_DONE, 0, &code(libc::ENOMEM))].concat();
        let (_, end) = taken(&failed, true);
        assert!(end.is_err_and(|e| !e.is_not_permitted() && e.to_string().contains("memory")));
        assert!(matches!(taken(&failed, false), (1, Ok(true))));
        let changed = [one, message(256, NLM_F_DUMP_INTR, &[1, 2, 3, 4])].concat();
        let (_, end) = taken(&changed, true);
        assert!(end.is_err_and(|e| e.to_string().contains("has changed meanwhile")));
        assert!(matches!(taken(&changed, false), (2, Ok(false))));
        let refused = message(NLMSG_ERROR, 0, &code(libc::EPERM));
        assert!(taken(&refused, false).1.is_err_and(|e| e.is_not_permitted()));
        let short = Failure::new("receive", io::Error::from_raw_os_error(libc::EAGAIN));
        assert_eq!(short.to_string(), "netlink: no answer after 10 s");
        assert!(taken(&[1, 0, 0], true).1.is_err());
    }
}
