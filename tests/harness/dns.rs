//! A real server of DNS, and who asks it.

use super::{Link, Netns};
use anyhow::{Context as _, Result, bail};
use std::net::UdpSocket;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Port of a server beside it, for `broken.test`.
const BROKEN: u16 = 5399;

/// A dnsmasq that goes with its owner. It knows `ok.test`, `big.test` (too big for a datagram of 512 bytes), asks
/// [`broken`] for `broken.test`, knows nothing else below `test`, and refuses the rest.
pub struct Dnsmasq(Child);

impl Dnsmasq {
    /// Starts it at the link's second end.
    pub fn start(link: &Link) -> Result<Self> {
        let big = vec!["x".repeat(240); 4].join(",");
        let child = link
            .b
            .ns
            .command("dnsmasq")
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv"])
            .args(["--no-hosts", "--pid-file=", "--user=root", "--local=/test/"])
            .args(["--address=/ok.test/10.9.8.7", "--bind-interfaces"])
            .arg(format!("--server=/broken.test/127.0.0.1#{BROKEN}"))
            .arg(format!("--txt-record=big.test,{big}"))
            .arg(format!("--listen-address={},{}", link.b.v4, link.b.v6))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("dnsmasq")?;
        let made = Self(child);
        let start = Instant::now();
        while !dig(&link.a.ns, &link.b.v4.to_string(), "ok.test +tries=1 +time=1")?.contains("10.9.8.7") {
            if start.elapsed() > Duration::from_secs(20) {
                bail!("dnsmasq does not answer");
            }
        }
        Ok(made)
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What dig prints, whatever it thinks of it.
pub fn dig(from: &Netns, server: &str, words: &str) -> Result<String> {
    let out = from
        .command("dig")
        .arg(format!("@{server}"))
        .args(words.split(' '))
        .output()?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A server beside dnsmasq whose every answer is SERVFAIL; it ends with its socket's namespace. Not on port 53.
pub fn broken(link: &Link) -> Result<()> {
    let socket = link.b.ns.enter(|| Ok(UdpSocket::bind(("127.0.0.1", BROKEN))?))?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let message = &mut buffer[..n];
            if let [_, _, flags, code, ..] = message {
                (*flags, *code) = (*flags | 0x80, 0x82);
            }
            let _ = socket.send_to(message, from);
        }
    });
    Ok(())
}
