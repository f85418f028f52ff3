//! The sockets of a trace. They are open while it lasts; the kernel lets in only what may be an answer.

use super::packet::{Answer, Flow};
use super::target::Target;
use crate::config::PathProtocol;
use crate::error::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockaddrStorage, recvfrom};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

/// Sent as it is, with its IP header; nothing is received.
const RAW: i32 = libc::IPPROTO_RAW;
/// Bytes of an answer that are looked at; who quotes more quotes what is not asked for.
const ANSWER: usize = 1280;

/// What makes a target's probes one flow for as long as the agent runs.
pub struct Own {
    source: IpAddr,
    number: u16,
    /// Keeps the source port from others. It neither sends nor reads.
    _port: Option<Socket>,
}

impl Own {
    /// The source that the kernel takes for the target now, and a port of it; `known` if that is still right.
    pub fn keep(known: Option<Self>, target: &Target, protocol: PathProtocol) -> Result<Self> {
        let any: IpAddr = if target.address.is_ipv4() {
            [0; 4].into()
        } else {
            [0; 16].into()
        };
        // Sends nothing: it only asks for the route.
        let source = UdpSocket::bind((any, 0))
            .and_then(|socket| socket.connect((target.address, 9)).map(|()| socket))
            .and_then(|socket| socket.local_addr())
            .context("no route")?
            .ip();
        if let Some(known) = known.filter(|k| k.source == source) {
            return Ok(known);
        }
        let kind = match protocol {
            PathProtocol::Icmp => {
                return Ok(Self {
                    source,
                    number: rand::random(),
                    _port: None,
                });
            }
            PathProtocol::Udp => Type::DGRAM,
            PathProtocol::Tcp => Type::STREAM,
        };
        let bound = || -> std::io::Result<Socket> {
            let socket = Socket::new(domain(source), kind, None)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
            Ok(socket)
        };
        let socket = bound().context("a source port")?;
        let address = socket.local_addr().context("a source port")?.as_socket();
        Ok(Self {
            source,
            number: address.map_or(0, |a| a.port()),
            _port: Some(socket),
        })
    }

    /// The flow of one trace.
    pub fn flow(&self, target: &Target, protocol: PathProtocol, port: u16) -> Flow {
        // The checksum of a datagram is never 0: that would be none. A trace has fewer than 128 packets.
        let first = rand::random::<u32>() & 0xffff_0000 | rand::random_range(1..0xff00);
        Flow {
            protocol,
            source: self.source,
            target: target.address,
            own: self.number,
            port,
            first,
        }
    }
}

fn domain(address: IpAddr) -> Domain {
    if address.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    }
}

/// The sockets.
pub struct Sockets {
    flow: Flow,
    out: Socket,
    icmp: Socket,
    tcp: Option<Socket>,
}

impl Sockets {
    /// Opens them; needs CAP_NET_RAW.
    pub fn open(flow: Flow) -> Result<Self> {
        let domain = domain(flow.target);
        let open = || -> std::io::Result<_> {
            let raw = |protocol| {
                let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
                socket.set_nonblocking(true)?;
                Ok::<_, std::io::Error>(socket)
            };
            let out = raw(Protocol::from(RAW))?;
            // So that the route is that of the source.
            out.bind(&SocketAddr::new(flow.source, 0).into())?;
            let icmp = raw(if flow.target.is_ipv4() {
                Protocol::ICMPV4
            } else {
                Protocol::ICMPV6
            })?;
            icmp.attach_filter(&of_kind(flow.target.is_ipv4()))?;
            let tcp = match flow.protocol {
                PathProtocol::Tcp => {
                    let socket = raw(Protocol::TCP)?;
                    socket.attach_filter(&to_port(flow.target.is_ipv4(), flow.own))?;
                    Some(socket)
                }
                _ => None,
            };
            Ok((out, icmp, tcp))
        };
        let (out, icmp, tcp) = open().context("raw sockets (they need CAP_NET_RAW)")?;
        Ok(Self { flow, out, icmp, tcp })
    }

    /// Sends the packet of this number.
    pub fn send(&self, number: u16, ttl: u8) -> Result<()> {
        let to = SocketAddr::new(self.flow.target, 0);
        self.out
            .send_to(&self.flow.packet(number, ttl), &to.into())
            .context("sending")?;
        Ok(())
    }

    /// Tells of each answer that is there or comes until then: from whom, what and when. Ends when told to.
    pub fn listen(
        &self,
        until: Instant,
        mut tell: impl FnMut(IpAddr, Answer, Instant) -> bool,
    ) -> Result<()> {
        loop {
            let both = std::iter::once(&self.icmp).chain(&self.tcp);
            let mut waiting: Vec<_> = both.map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)).collect();
            let left = until.saturating_duration_since(Instant::now());
            // Whole milliseconds, rounded up: the last one is not spent asking again and again.
            let left = PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::ZERO);
            match poll(&mut waiting, left) {
                Ok(0) => return Ok(()),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e).context("waiting for answers"),
            }
            let mut bytes = [0; ANSWER];
            if let Some((from, bytes)) = receive(&self.icmp, &mut bytes)
                && !tell(from, self.flow.icmp(from, bytes), Instant::now())
            {
                return Ok(());
            }
            if let Some(tcp) = &self.tcp
                && let Some((from, bytes)) = receive(tcp, &mut bytes)
                && !tell(from, self.flow.tcp(from, bytes), Instant::now())
            {
                return Ok(());
            }
            // Whatever floods in, a trace ends.
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }
}

fn receive<'a>(socket: &Socket, bytes: &'a mut [u8]) -> Option<(IpAddr, &'a [u8])> {
    let (length, from) = recvfrom::<SockaddrStorage>(socket.as_raw_fd(), bytes).ok()?;
    let from = from?;
    let v4 = from.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    let from = v4.or_else(|| from.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))?;
    Some((from, bytes.get(..length)?))
}

// Instructions of the classic filter (linux/filter.h). A filter of a raw socket sees what the socket would be given.
const BYTE: u16 = 0x30;
const BYTE_BEHIND: u16 = 0x50;
const PAIR: u16 = 0x28;
const PAIR_BEHIND: u16 = 0x48;
const SKIP_IP: u16 = 0xb1;
const EQUAL: u16 = 0x15;
const END: u16 = 0x06;
const TAKE: u32 = u32::MAX;

/// Errors and replies of ICMP.
fn of_kind(v4: bool) -> Vec<SockFilter> {
    let (load, [a, b, c]) = if v4 {
        (BYTE_BEHIND, [0, 3, 11])
    } else {
        (BYTE, [1, 3, 129])
    };
    vec![
        SockFilter::new(SKIP_IP, 0, 0, 0),
        SockFilter::new(load, 0, 0, 0),
        SockFilter::new(EQUAL, 3, 0, a),
        SockFilter::new(EQUAL, 2, 0, b),
        SockFilter::new(EQUAL, 1, 0, c),
        SockFilter::new(END, 0, 0, 0),
        SockFilter::new(END, 0, 0, TAKE),
    ]
}

/// What is for our port: a host may receive a lot else.
fn to_port(v4: bool, port: u16) -> Vec<SockFilter> {
    let load = if v4 { PAIR_BEHIND } else { PAIR };
    vec![
        SockFilter::new(SKIP_IP, 0, 0, 0),
        SockFilter::new(load, 0, 0, 2),
        SockFilter::new(EQUAL, 1, 0, port.into()),
        SockFilter::new(END, 0, 0, 0),
        SockFilter::new(END, 0, 0, TAKE),
    ]
}
