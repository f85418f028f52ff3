//! The observed workloads: a server that lives as long as the comparison, and a client for each measurement.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;
use serde_json::Value;

use super::child::{Child, Program, free_port};
use super::metrics::get;
use super::proc::{cpu_seconds, cpus, tree};
use super::vxlan::{self, Net, soft_interrupts};

/// A workload whose cost is compared with and without the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// nginx and wrk, 32 connections that stay open.
    KeepAlive,
    /// nginx and wrk, a connection for each request.
    Close,
    /// One message there and back, on a machine that sleeps in between or, `busy`, never does.
    Ping {
        /// Whether every CPU is kept busy.
        busy: bool,
    },
    /// As many bytes as possible through one connection.
    Bulk,
    /// The same through a VXLAN, with packets that are cut late, `offload`, or early.
    Vxlan {
        /// Whether the underlay sees packets of up to 64 KiB.
        offload: bool,
    },
}

impl Kind {
    /// Name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "nginx keep-alive",
            Self::Close => "nginx close",
            Self::Ping { busy: false } => "ping-pong idle",
            Self::Ping { busy: true } => "ping-pong busy",
            Self::Bulk => "iperf3",
            Self::Vxlan { offload: true } => "iperf3, VXLAN",
            Self::Vxlan { offload: false } => "iperf3, VXLAN, no GSO",
        }
    }

    /// What is counted.
    pub fn unit(self) -> &'static str {
        match self {
            Self::KeepAlive | Self::Close => "request",
            Self::Ping { .. } => "ping",
            Self::Bulk | Self::Vxlan { .. } => "MiB",
        }
    }
}

/// What was done in one measurement, and what it cost.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Work {
    /// Requests, pings or MiB.
    pub operations: f64,
    /// Wall time.
    pub seconds: f64,
    /// CPU seconds of both ends; through a VXLAN also of the kernel's threads that receive packets.
    pub cpu: f64,
    /// CPU seconds of the client alone.
    pub client_cpu: f64,
    /// Median latency, µs.
    pub p50: Option<f64>,
    /// 99th percentile of the latency, µs.
    pub p99: Option<f64>,
}

impl Work {
    /// CPU µs per operation.
    pub fn cost(&self) -> f64 {
        self.cpu * 1e6 / self.operations
    }

    /// Operations a second.
    pub fn rate(&self) -> f64 {
        self.operations / self.seconds
    }
}

/// A running workload.
pub struct Load {
    kind: Kind,
    server: Child,
    spinners: Vec<Child>,
    port: u16,
    soft_interrupts: Vec<u32>,
    // The last: the others end before it.
    _net: Option<Net>,
}

const SERVER_CPU: usize = 0;

/// Where iperf3's server listens.
fn host(kind: Kind) -> &'static str {
    if matches!(kind, Kind::Vxlan { .. }) {
        vxlan::SERVER
    } else {
        "127.0.0.1"
    }
}

fn client_cpu() -> usize {
    cpus() - 1
}

fn nginx(scratch: &Path, port: u16) -> Result<PathBuf> {
    let dir = scratch.join(format!("nginx-{port}"));
    std::fs::create_dir_all(dir.join("html")).context("nginx")?;
    std::fs::write(dir.join("html/1k"), [b'x'; 1024]).context("nginx")?;
    let d = dir.display();
    let conf = format!(
        "user root; worker_processes 1; error_log {d}/error.log; pid {d}/nginx.pid; daemon off;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 100000000;\n\
         client_body_temp_path {d}/b; proxy_temp_path {d}/p; fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; \
         scgi_temp_path {d}/s;\n\
         server {{ listen 127.0.0.1:{port}; root {d}/html; }} }}\n"
    );
    let file = dir.join("nginx.conf");
    std::fs::write(&file, conf).context("nginx")?;
    Ok(file)
}

impl Load {
    /// Starts the server, and what keeps the CPUs busy.
    pub fn start(kind: Kind, scratch: &Path) -> Result<Self> {
        let net = match kind {
            Kind::Vxlan { offload } => Some(Net::enter(scratch, offload)?),
            _ => None,
        };
        let port = free_port(18_180)?;
        let number = port.to_string();
        let limit = Duration::from_secs(5);
        let server = match kind {
            Kind::KeepAlive | Kind::Close => {
                let conf = nginx(scratch, port)?.display().to_string();
                let program = Program::new(["nginx", "-p", "/tmp", "-e", "stderr", "-c", &conf]);
                let mut server = program.on(SERVER_CPU).start(scratch)?;
                server.wait_until(limit, |_| get(port, "/1k").is_ok())?;
                server
            }
            Kind::Ping { .. } => {
                let mut server = Program::role(["ping-server", &number])?
                    .on(SERVER_CPU)
                    .start(scratch)?;
                server.wait_until(limit, |s| s.output().contains("ready"))?;
                server
            }
            Kind::Bulk | Kind::Vxlan { .. } => {
                let mut words = net.as_ref().map(Net::there).unwrap_or_default();
                let server = [
                    "iperf3",
                    "--server",
                    "--bind",
                    host(kind),
                    "--forceflush",
                    "--port",
                    &number,
                ];
                words.extend(server.map(str::to_owned));
                let mut server = Program::new(words).on(SERVER_CPU).start(scratch)?;
                server.wait_until(limit, |s| s.output().contains("listening"))?;
                server
            }
        };
        let mut spinners = Vec::new();
        if kind == (Kind::Ping { busy: true }) {
            for cpu in 0..cpus() {
                spinners.push(Program::role(["spin"])?.on(cpu).nice().start(scratch)?);
            }
        }
        Ok(Self {
            kind,
            server,
            spinners,
            port,
            soft_interrupts: net.as_ref().map(|_| soft_interrupts()).unwrap_or_default(),
            _net: net,
        })
    }

    /// Which workload it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Everything that belongs to it.
    pub fn pids(&self) -> Vec<u32> {
        let spinners = self.spinners.iter().map(Child::pid);
        let own = std::iter::once(self.server.pid()).chain(spinners);
        own.chain(self.soft_interrupts.iter().copied()).collect()
    }

    fn server_cpu(&self) -> f64 {
        let server = tree(self.server.pid()).into_iter();
        server
            .chain(self.soft_interrupts.iter().copied())
            .map(cpu_seconds)
            .sum()
    }

    /// Runs the client for a while.
    pub fn run(&mut self, seconds: u64) -> Result<Work> {
        self.server.check()?;
        let (port, time) = (self.port.to_string(), seconds.to_string());
        let program = match self.kind {
            Kind::KeepAlive | Kind::Close => {
                let mut words = vec!["wrk".to_owned(), "-t1".into(), "-c32".into(), "--latency".into()];
                if self.kind == Kind::Close {
                    words.extend(["-H".to_owned(), "Connection: close".into()]);
                }
                words.extend([format!("-d{time}s"), format!("http://127.0.0.1:{port}/1k")]);
                Program::new(words)
            }
            Kind::Ping { .. } => Program::role(["ping-client", &port, &time])?,
            Kind::Bulk | Kind::Vxlan { .. } => {
                Program::new(["iperf3", "-c", host(self.kind), "-p", &port, "-t", &time, "-J"])
            }
        };
        let (server, client, start) = (self.server_cpu(), children_cpu()?, Instant::now());
        // On a busy machine both ends share a CPU: nothing is hidden behind the interrupt that wakes the other one.
        let busy = self.kind == Kind::Ping { busy: true };
        let cpu = if busy { SERVER_CPU } else { client_cpu() };
        let text = program.on(cpu).finish()?;
        let client_cpu = children_cpu()? - client;
        let mut work = Work {
            seconds: start.elapsed().as_secs_f64(),
            cpu: self.server_cpu() - server + client_cpu,
            client_cpu,
            ..Work::default()
        };
        match self.kind {
            Kind::KeepAlive | Kind::Close => read_wrk(&text, &mut work)?,
            Kind::Ping { .. } => {
                let v: Value = serde_json::from_str(&text).context("ping client")?;
                let number = |name: &str| v.get(name).and_then(Value::as_f64);
                work.operations = number("pings").context("ping client: no pings")?;
                work.seconds = number("seconds").unwrap_or(work.seconds);
                (work.p50, work.p99) = (number("p50"), number("p99"));
            }
            Kind::Bulk | Kind::Vxlan { .. } => {
                let v: Value = serde_json::from_str(&text).context("iperf3")?;
                let sum = v.pointer("/end/sum_received").context("iperf3: no result")?;
                let number = |name: &str| sum.get(name).and_then(Value::as_f64);
                work.operations = number("bytes").context("iperf3: no bytes")? / f64::from(1 << 20);
                work.seconds = number("seconds").unwrap_or(work.seconds);
            }
        }
        ensure!(work.operations > 0.0, "{}: nothing was done", self.kind.name());
        Ok(work)
    }
}

/// CPU seconds of all children that have ended.
pub fn children_cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("getrusage")?;
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

fn read_wrk(text: &str, work: &mut Work) -> Result<()> {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some(count), Some("requests"), Some("in")) => {
                work.operations = count.parse().context("wrk: requests")?;
                if let Some(time) = words.next() {
                    work.seconds = micros(time.trim_end_matches(',')).map_or(work.seconds, |t| t / 1e6);
                }
            }
            (Some("50%"), Some(time), _) => work.p50 = micros(time),
            (Some("99%"), Some(time), _) => work.p99 = micros(time),
            _ => {}
        }
    }
    ensure!(work.operations > 0.0, "wrk has not said what it did: {text}");
    Ok(())
}

/// A time as wrk writes it, in µs.
fn micros(text: &str) -> Option<f64> {
    let (number, factor) = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 6e7)]
        .into_iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_is_understood() {
        let text = "  Latency Distribution\n     50%  333.00us\n     99%    1.20ms\n  \
                    361524 requests in 4.00s, 448.18MB read\nRequests/sec:  90374.72\n";
        let mut work = Work {
            cpu: 4.0,
            ..Work::default()
        };
        read_wrk(text, &mut work).unwrap();
        assert_eq!((work.p50, work.p99), (Some(333.0), Some(1200.0)));
        assert_eq!((work.operations, work.seconds), (361_524.0, 4.0));
        assert!((work.rate() - 90_381.0).abs() < 1.0 && (work.cost() - 11.06).abs() < 0.01);
        assert!(read_wrk("unable to connect", &mut Work::default()).is_err());
    }
}
