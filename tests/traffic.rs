//! Makes traffic for the end-to-end tests: a process of its own, so that it can have a name, a namespace and a cgroup
//! of its own. Takes one order a line as JSON, answers each with a line.

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockname, listen, setsockopt,
    socket, sockopt,
};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead as _, ErrorKind, Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Default)]
struct State {
    connections: HashMap<u64, TcpStream>,
    listeners: Vec<OwnedFd>,
    datagrams: Vec<UdpSocket>,
    served: Arc<Served>,
    next: u64,
}

/// What is done with what comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// It goes back.
    Echo,
    /// It is swallowed.
    Sink,
    /// It is swallowed for a moment, then nothing is read for a while, and so on.
    Sip,
}

const SIP: Duration = Duration::from_millis(50);
/// Longer than the sender waits before it probes a closed window.
const PAUSE: Duration = Duration::from_millis(700);

#[derive(Default)]
struct Served {
    accepted: AtomicU64,
    received: AtomicU64,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    while let (Some(key), Some(value)) = (arguments.next(), arguments.next()) {
        place(&key, &value)?;
    }
    let mut state = State::default();
    for line in io::stdin().lock().lines() {
        let order: Value = serde_json::from_str(&line?)?;
        let answer = obey(&mut state, &order).unwrap_or_else(|e| json!({ "fault": format!("{e:#}") }));
        let mut out = io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn place(key: &OsString, value: &OsString) -> Result<()> {
    match key.as_bytes() {
        b"--netns" => setns(File::open(value)?, CloneFlags::CLONE_NEWNET).context("setns"),
        b"--cgroup" => {
            fs::write(std::path::Path::new(value).join("cgroup.procs"), "0").context("cgroup.procs")
        }
        b"--name" => fs::write("/proc/self/comm", value.as_bytes()).context("comm"),
        _ => bail!("what is {}", key.to_string_lossy()),
    }
}

fn obey(state: &mut State, order: &Value) -> Result<Value> {
    let word = |key: &str| {
        order[key]
            .as_str()
            .with_context(|| format!("no {key} in {order}"))
    };
    let number = |key: &str| {
        order[key]
            .as_u64()
            .with_context(|| format!("no {key} in {order}"))
    };
    match word("do")? {
        "hello" => Ok(json!({ "pid": std::process::id() })),
        "serve" => {
            let listener = TcpListener::bind(word("at")?)?;
            let at = listener.local_addr()?;
            let mode = match word("mode")? {
                "echo" => Mode::Echo,
                "sip" => Mode::Sip,
                _ => Mode::Sink,
            };
            if mode == Mode::Sip {
                // Children inherit it: soon full.
                setsockopt(&listener, sockopt::RcvBuf, &8192)?;
            }
            let served = state.served.clone();
            std::thread::spawn(move || serve(&listener, mode, &served));
            Ok(json!({ "at": at.to_string() }))
        }
        "listen" => {
            let at: SocketAddr = word("at")?.parse()?;
            let family = if at.is_ipv4() {
                AddressFamily::Inet
            } else {
                AddressFamily::Inet6
            };
            let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            bind(fd.as_raw_fd(), &SockaddrStorage::from(at))?;
            listen(&fd, Backlog::new(number("backlog")? as i32)?)?;
            let at: SockaddrStorage = getsockname(fd.as_raw_fd())?;
            state.listeners.push(fd);
            Ok(json!({ "at": at.to_string() }))
        }
        "connect" => match open(word("to")?, order["thread"].as_str(), order["wait_ms"].as_u64()) {
            Ok(stream) => {
                let local = stream.local_addr()?;
                state.next += 1;
                state.connections.insert(state.next, stream);
                Ok(json!({ "id": state.next, "local": local.to_string() }))
            }
            Err(e) => Ok(json!({ "error": error_name(&e) })),
        },
        "send" => {
            let stream = connection(state, number("id")?)?;
            send(stream, number("bytes")?)?;
            Ok(json!({}))
        }
        "drip" => {
            let (bytes, pause) = (number("bytes")?, Duration::from_millis(number("pause_ms")?));
            let stream = connection(state, number("id")?)?;
            loop {
                send(stream, bytes)?;
                std::thread::sleep(pause);
            }
        }
        "ping" => {
            let stream = connection(state, number("id")?)?;
            let mut message = vec![0x5a; number("size")? as usize];
            for _ in 0..number("rounds")? {
                stream.write_all(&message)?;
                stream.read_exact(&mut message)?;
            }
            Ok(json!({}))
        }
        "close" => {
            let stream = state.connections.remove(&number("id")?).context("no such")?;
            finish(stream)?;
            Ok(json!({}))
        }
        "reset" => {
            let stream = state.connections.remove(&number("id")?).context("no such")?;
            let now = nix::libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            setsockopt(&stream, sockopt::Linger, &now)?;
            Ok(json!({}))
        }
        "storm" => {
            let to: Vec<SocketAddr> = order["to"]
                .as_array()
                .context("to")?
                .iter()
                .map(|a| a.as_str().unwrap_or_default().parse())
                .collect::<Result<_, _>>()?;
            storm(&to, number("count")?, number("threads")?, number("bytes")?)
        }
        "udp" => {
            let to: SocketAddr = word("to")?.parse()?;
            let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
            let message = vec![0x5a; number("size")? as usize];
            let mut sent = 0;
            for _ in 0..number("count")? {
                sent += u64::from(socket.send_to(&message, to).is_ok());
            }
            Ok(json!({ "sent": sent }))
        }
        "udp_serve" => {
            let socket = UdpSocket::bind(word("at")?)?;
            setsockopt(&socket, sockopt::RcvBuf, &(4 << 20))?;
            let at = socket.local_addr()?;
            let echo = word("mode")? == "echo";
            std::thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                loop {
                    // An error is a port that was closed, told by ICMP; the next datagram may be good.
                    let Ok((n, from)) = socket.recv_from(&mut buffer) else {
                        continue;
                    };
                    if echo {
                        let _ = socket.send_to(buffer.get(..n).unwrap_or_default(), from);
                    }
                }
            });
            Ok(json!({ "at": at.to_string() }))
        }
        "udp_bind" => {
            let socket = UdpSocket::bind(word("at")?)?;
            setsockopt(&socket, sockopt::RcvBuf, &(number("rcvbuf")? as usize))?;
            let at = socket.local_addr()?;
            state.datagrams.push(socket);
            Ok(json!({ "at": at.to_string() }))
        }
        "served" => Ok(json!({
            "accepted": state.served.accepted.load(Ordering::Relaxed),
            "received": state.served.received.load(Ordering::Relaxed),
        })),
        other => bail!("what is {other}"),
    }
}

fn connection(state: &mut State, id: u64) -> Result<&mut TcpStream> {
    state.connections.get_mut(&id).context("no such connection")
}

/// Opens a connection, perhaps on a thread of a name.
fn open(to: &str, thread: Option<&str>, wait_ms: Option<u64>) -> io::Result<TcpStream> {
    let to: SocketAddr = to.parse().map_err(io::Error::other)?;
    let open = move || {
        let stream = match wait_ms {
            Some(ms) => TcpStream::connect_timeout(&to, Duration::from_millis(ms)),
            None => TcpStream::connect(to),
        }?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    match thread {
        None => open(),
        Some(name) => std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(open)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("panicked"))),
    }
}

fn error_name(e: &io::Error) -> String {
    match e.kind() {
        ErrorKind::ConnectionRefused => "refused".into(),
        ErrorKind::TimedOut => "timed_out".into(),
        ErrorKind::ConnectionReset => "reset".into(),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "unreachable".into(),
        _ => e.to_string(),
    }
}

fn send(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let block = vec![0x5a; 64 << 10];
    let mut left = bytes as usize;
    while left > 0 {
        let n = left.min(block.len());
        stream.write_all(block.get(..n).unwrap_or_default())?;
        left -= n;
    }
    Ok(())
}

/// Half-closes, waits for the other side to do the same, closes.
fn finish(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    io::copy(&mut stream, &mut io::sink())?;
    Ok(())
}

fn serve(listener: &TcpListener, mode: Mode, served: &Arc<Served>) {
    // A handful of threads: one for each connection would be the dearest part of a storm.
    let (sender, receiver) = std::sync::mpsc::sync_channel::<TcpStream>(0);
    let receiver = Arc::new(std::sync::Mutex::new(receiver));
    let hand = |stream: TcpStream, mode: Mode, served: &Served| {
        let _ = answer(stream, mode, served);
    };
    for _ in 0..4 {
        let (receiver, served) = (receiver.clone(), served.clone());
        std::thread::spawn(move || {
            loop {
                let next = match receiver.lock() {
                    Ok(receiver) => receiver.recv(),
                    Err(_) => return,
                };
                let Ok(stream) = next else { return };
                hand(stream, mode, &served);
            }
        });
    }
    for stream in listener.incoming().flatten() {
        served.accepted.fetch_add(1, Ordering::Relaxed);
        if let Err(e) = sender.try_send(stream) {
            // All busy, with connections that live long.
            let (std::sync::mpsc::TrySendError::Full(stream)
            | std::sync::mpsc::TrySendError::Disconnected(stream)) = e;
            let served = served.clone();
            std::thread::spawn(move || {
                let _ = answer(stream, mode, &served);
            });
        }
    }
}

fn answer(mut stream: TcpStream, mode: Mode, served: &Served) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 << 10];
    let mut since = Instant::now();
    loop {
        if mode == Mode::Sip && since.elapsed() > SIP {
            std::thread::sleep(PAUSE);
            since = Instant::now();
        }
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        served.received.fetch_add(n as u64, Ordering::Relaxed);
        if mode == Mode::Echo {
            stream.write_all(buffer.get(..n).unwrap_or_default())?;
        }
    }
}

fn storm(to: &[SocketAddr], count: u64, threads: u64, bytes: u64) -> Result<Value> {
    let (next, ok, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count {
                        return;
                    }
                    let Some(to) = to.get((i % to.len() as u64) as usize) else {
                        return;
                    };
                    let result = TcpStream::connect(to).and_then(|mut stream| {
                        send(&mut stream, bytes)?;
                        finish(stream)
                    });
                    let counter = if result.is_ok() { &ok } else { &failed };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    Ok(json!({ "ok": ok.into_inner(), "failed": failed.into_inner() }))
}
