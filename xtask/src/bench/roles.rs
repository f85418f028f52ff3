//! What the benchmark runs as processes of its own: traffic whose cost both ends can be asked for.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Subcommand;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, shutdown, socket,
    sockopt,
};
use serde_json::json;

use super::stats::quantile;

/// Parts of the benchmark that are processes of their own.
#[derive(Subcommand)]
pub enum Role {
    /// Answers each message with itself
    PingServer {
        /// Loopback port
        port: u16,
    },
    /// Sends a message, waits for it to come back, and so on
    PingClient {
        /// Loopback port
        port: u16,
        /// How long
        seconds: u64,
    },
    /// Keeps a CPU busy
    Spin,
    /// Is busy for half a millisecond in a hundred
    Drowsy,
    /// Opens connections and keeps them until its standard input ends
    Connections {
        /// Second number of the source addresses: 127.NET.x.y
        net: u8,
        /// How many
        count: usize,
        /// Messages a second over all of them
        messages: u64,
    },
    /// Opens and closes connections at a rate
    Storm {
        /// Connections a second
        rate: u64,
        /// How long
        seconds: u64,
    },
}

/// Plays a role.
pub fn play(role: Role) -> Result<()> {
    match role {
        Role::PingServer { port } => ping_server(port),
        Role::PingClient { port, seconds } => ping_client(port, Duration::from_secs(seconds)),
        Role::Spin => loop {
            std::hint::spin_loop();
        },
        Role::Drowsy => loop {
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(500) {
                std::hint::spin_loop();
            }
            std::thread::sleep(Duration::from_millis(100));
        },
        Role::Connections { net, count, messages } => connections(net, count, messages),
        Role::Storm { rate, seconds } => storm(rate, Duration::from_secs(seconds)),
    }
}

const MESSAGE: usize = 64;

fn ping_server(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).context("listen")?;
    println!("ready");
    for stream in listener.incoming() {
        let mut stream = stream.context("accept")?;
        stream.set_nodelay(true)?;
        let mut message = [0; MESSAGE];
        while stream.read_exact(&mut message).is_ok() && stream.write_all(&message).is_ok() {}
    }
    Ok(())
}

fn ping_client(port: u16, time: Duration) -> Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("connect")?;
    stream.set_nodelay(true)?;
    let mut message = [7; MESSAGE];
    let mut micros: Vec<f64> = Vec::with_capacity(1 << 20);
    let start = Instant::now();
    let mut last = start;
    while last - start < time {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        let now = Instant::now();
        micros.push((now - last).as_nanos() as f64 / 1e3);
        last = now;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({
            "pings": micros.len(),
            "seconds": seconds,
            "p50": quantile(&micros, 0.50),
            "p99": quantile(&micros, 0.99),
        })
    );
    Ok(())
}

/// Raises the limit of open files as far as this process may; returns it.
pub fn raise_files() -> u64 {
    let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 1024;
    };
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open");
    let most = most.ok().and_then(|t| t.trim().parse().ok()).unwrap_or(hard);
    if most > hard && setrlimit(Resource::RLIMIT_NOFILE, most, most).is_ok() {
        return most;
    }
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    hard
}

/// Connections from one source address; far fewer than it has ports.
const PER_ADDRESS: usize = 2000;

fn connections(net: u8, count: usize, messages: u64) -> Result<()> {
    raise_files();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
    let to = listener.local_addr()?;
    let mut pairs: Vec<(OwnedFd, TcpStream)> = Vec::with_capacity(count);
    let mut error = None;
    for i in 0..count {
        let address = i / PER_ADDRESS;
        let source = Ipv4Addr::new(127, net, (address / 250) as u8, (address % 250) as u8 + 1);
        match open(source, to.port()).and_then(|client| Ok((client, listener.accept()?.0))) {
            Ok(pair) => pairs.push(pair),
            Err(e) => {
                error = Some(format!("{e:#}"));
                break;
            }
        }
    }
    println!("{}", json!({ "reached": pairs.len(), "error": error }));
    let (closed, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = closed.send(());
    });
    let pause = 1_000_000_000u64
        .checked_div(messages)
        .map_or(Duration::from_secs(3600), Duration::from_nanos);
    let mut next = 0;
    let mut message = [0; MESSAGE];
    while ended.recv_timeout(pause).is_err() {
        if let Some((client, server)) = pairs.get_mut(next) {
            nix::unistd::write(client.as_fd(), &message)?;
            server.read_exact(&mut message)?;
            server.write_all(&message)?;
            nix::unistd::read(client.as_fd(), &mut message)?;
        }
        next = (next + 1) % pairs.len().max(1);
    }
    Ok(())
}

/// A connection from a certain address; the kernel chooses the port when it knows where to.
fn open(source: Ipv4Addr, port: u16) -> Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .context("socket")?;
    setsockopt(&fd, sockopt::IpBindAddressNoPort, &true).context("IP_BIND_ADDRESS_NO_PORT")?;
    let from = SockaddrIn::from(SocketAddrV4::new(source, 0));
    bind(fd.as_raw_fd(), &from).with_context(|| format!("bind {source}"))?;
    let to = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    connect(fd.as_raw_fd(), &to).with_context(|| format!("connect from {source}"))?;
    Ok(fd)
}

/// One thread is enough: on the loopback a connection is complete when `connect` returns, so nobody has to be woken.
fn storm(rate: u64, time: Duration) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
    let to = listener.local_addr()?.port();
    let start = Instant::now();
    let mut done = 0u64;
    while start.elapsed() < time {
        let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
        if done >= due {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        }
        let source = Ipv4Addr::new(127, 250, (done / 250 % 250) as u8, (done % 250) as u8 + 1);
        let client = open(source, to)?;
        let server = listener.accept().context("accept")?.0;
        // The client closes first and resets, so that no TIME_WAIT is left.
        let linger = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&client, sockopt::Linger, &linger).context("SO_LINGER")?;
        drop(client);
        let _ = shutdown(server.as_raw_fd(), Shutdown::Both);
        done += 1;
    }
    println!(
        "{}",
        json!({ "connections": done, "seconds": start.elapsed().as_secs_f64() })
    );
    Ok(())
}
