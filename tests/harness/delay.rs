//! A wire that takes its time: frames that come in at one device go out at another some milliseconds later, and what else
//! may happen to them on the way, out of sight of both ends.
//!
//! The kernels that this must run on have no netem everywhere; two packet sockets do the same.

use super::Netns;
use anyhow::{Context as _, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, bind, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A relay at work.
#[derive(Debug)]
pub struct Delay {
    stop: Arc<AtomicBool>,
    frames: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is carried.
    Pass,
    /// It is not.
    Lose,
    /// It is carried twice.
    Double,
    /// It is carried after the frames of the next [`LATE`].
    Late,
}

/// How much later.
pub const LATE: Duration = Duration::from_millis(40);
/// Shorter frames always pass: handshakes and keepalives of tunnels, ARP.
const SHORT: usize = 200;

impl Delay {
    /// Carries frames between two devices of a namespace, each way with this delay.
    pub fn between(netns: &Netns, devices: &[String; 2], each_way: Duration) -> Result<Self> {
        Self::harming(netns, devices, each_way, |_| Fate::Pass)
    }

    /// The same, and what comes from the second device meets its fate, by its number among those that are not short.
    pub fn harming(
        netns: &Netns,
        devices: &[String; 2],
        each_way: Duration,
        fate: fn(u64) -> Fate,
    ) -> Result<Self> {
        let [left, right] = devices;
        let files = netns.enter(|| Ok((open(left)?, open(right)?)))?;
        let mut made = Self {
            stop: Arc::default(),
            frames: Arc::default(),
            threads: Vec::new(),
        };
        made.carry(files.0.try_clone()?, files.1.try_clone()?, each_way, |_| {
            Fate::Pass
        })?;
        made.carry(files.1, files.0, each_way, fate)?;
        Ok(made)
    }

    /// Frames carried so far.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    fn carry(&mut self, mut from: File, to: File, delay: Duration, fate: fn(u64) -> Fate) -> Result<()> {
        let (in_time, late) = (self.lane(to.try_clone()?)?, self.lane(to)?);
        let stop = self.stop.clone();
        let thread = std::thread::Builder::new().name("delay-in".to_owned());
        self.threads.push(thread.spawn(move || {
            let mut buffer = vec![0; 65_536];
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                // An error is the timeout, or a device that is going.
                let Ok(n) = from.read(&mut buffer) else { continue };
                let frame = buffer.get(..n).unwrap_or_default().to_vec();
                let due = Instant::now() + delay;
                let fate = if n < SHORT { Fate::Pass } else { fate(number) };
                number += u64::from(n >= SHORT);
                let sent = match fate {
                    Fate::Pass => in_time.send((due, frame)),
                    Fate::Lose => Ok(()),
                    Fate::Double => in_time
                        .send((due, frame.clone()))
                        .and_then(|()| in_time.send((due, frame))),
                    Fate::Late => late.send((due + LATE, frame)),
                };
                if sent.is_err() {
                    break;
                }
            }
        })?);
        Ok(())
    }

    /// Sends frames when they are due, in their order.
    fn lane(&mut self, mut to: File) -> Result<Sender<(Instant, Vec<u8>)>> {
        let (sender, receiver) = channel::<(Instant, Vec<u8>)>();
        let (stop, frames) = (self.stop.clone(), self.frames.clone());
        let thread = std::thread::Builder::new().name("delay-out".to_owned());
        self.threads.push(thread.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let (due, frame) = match receiver.recv_timeout(Duration::from_millis(100)) {
                    Ok(next) => next,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => break,
                };
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                if to.write_all(&frame).is_ok() {
                    frames.fetch_add(1, Ordering::Relaxed);
                }
            }
        })?);
        Ok(sender)
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A packet socket on a device of the namespace that the calling thread is in. It does not hear what it sends itself.
fn open(device: &str) -> Result<File> {
    let fd = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .context("packet socket")?;
    let address: LinkAddr = getifaddrs()?
        .filter(|a| a.interface_name == device)
        .find_map(|a| a.address?.as_link_addr().copied())
        .with_context(|| format!("no device {device}"))?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &address).context("bind to a device")?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(100))?;
    setsockopt(&fd, sockopt::RcvBuf, &(4 << 20))?;
    Ok(File::from(fd))
}
