//! Questions to netlink: rtnetlink in its own types, other protocols in bytes.

use crate::error::{Context as _, Error, Result};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_MULTIPART, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

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

/// Asks another protocol of netlink. `take` gets type and body of each answer, and says whether it wants more.
pub fn ask(
    protocol: isize,
    kind: u16,
    flags: u16,
    body: &[u8],
    mut take: impl FnMut(u16, &[u8]) -> bool,
) -> Result<()> {
    const HEADER: usize = 16;
    let mut socket = Socket::new(protocol).context("netlink: socket")?;
    socket.bind_auto().context("netlink: bind")?;
    let mut bytes = vec![0; HEADER + body.len()];
    let mut request = NetlinkBuffer::new(bytes.as_mut_slice());
    request.set_length((HEADER + body.len()) as u32);
    request.set_message_type(kind);
    request.set_flags(flags);
    request.payload_mut().copy_from_slice(body);
    socket
        .send_to(&bytes, &SocketAddr::new(0, 0), 0)
        .context("netlink: send")?;
    let mut buffer = Vec::with_capacity(1 << 16);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0).context("netlink: receive")?;
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            let answer = NetlinkBuffer::new_checked(&rest).context("netlink: answer")?;
            match answer.message_type() {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = answer.payload().get(..4).and_then(|c| c.try_into().ok());
                    let error = std::io::Error::from_raw_os_error(-code.map_or(0, i32::from_ne_bytes));
                    return Err(Error::new(format_args!("netlink: {error}")));
                }
                kind if !take(kind, answer.payload()) => return Ok(()),
                _ => {}
            }
            if answer.flags() & NLM_F_MULTIPART == 0 {
                return Ok(());
            }
            let length = (answer.length() as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}
