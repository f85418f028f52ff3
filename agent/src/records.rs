//! The events that are told one by one, as every consumer downstream sees them: names resolved, text made safe.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::sync::broadcast;

/// A told event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// A connection, at its close or every ten seconds of its life.
    Flow(Box<Flow>),
    /// A dropped packet.
    Drop(Box<DroppedPacket>),
    /// A tunnel whose state is another now.
    Tunnel(Box<TunnelChange>),
}

/// Events that are not made by programs but by the agent itself, and that are rare: the latest are kept for those who
/// come later, and all are told to those who listen.
pub struct Changes {
    kept: Mutex<VecDeque<Arc<Record>>>,
    sender: broadcast::Sender<Arc<Record>>,
}

/// Changes that are kept.
const KEPT: usize = 256;

impl Default for Changes {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            sender: broadcast::Sender::new(KEPT),
        }
    }
}

impl Changes {
    /// Keeps and tells one.
    pub fn tell(&self, record: Record) {
        let Ok(mut kept) = self.kept.lock() else { return };
        if kept.len() == KEPT {
            kept.pop_front();
        }
        let record = Arc::new(record);
        kept.push_back(record.clone());
        // Nobody listening is no loss: it has been kept.
        let _ = self.sender.send(record);
    }

    /// Those that were kept, oldest first, and all that follow: none is missing, none comes twice.
    pub fn follow(&self) -> (VecDeque<Arc<Record>>, broadcast::Receiver<Arc<Record>>) {
        let kept = self.kept.lock();
        let receiver = self.sender.subscribe();
        (kept.map(|k| k.clone()).unwrap_or_default(), receiver)
    }
}

/// A tunnel whose state is another now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TunnelChange {
    /// Seconds since the Unix epoch.
    pub time: f64,
    /// `vxlan`, `wireguard` …
    pub r#type: String,
    /// VNI, key or SPI; may be empty.
    pub id: String,
    /// Own end.
    pub local: String,
    /// Other end.
    pub remote: String,
    /// Region of the other end's prefix.
    pub remote_region: String,
    /// Network namespace of the underlay device; empty = the agent's own.
    pub netns: String,
    /// What it was: `unknown`, `up`, `degraded` or `down`.
    pub before: String,
    /// What it is now.
    pub state: String,
    /// Why: `handshake_unanswered`, `handshake_old`, `no_answer`, `loss` or `too_big`; empty = all is well.
    pub reason: String,
}

impl std::fmt::Display for TunnelChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            r#type,
            id,
            local,
            remote,
            netns,
            before,
            state,
            reason,
            ..
        } = self;
        write!(f, "tunnel {type} {id} {local} → {remote}")?;
        if !netns.is_empty() {
            write!(f, " in {netns}")?;
        }
        write!(f, ": {before} → {state}")?;
        if !reason.is_empty() {
            write!(f, ": {reason}")?;
        }
        Ok(())
    }
}

/// A change of the way between this machine and a peer: so rare that it is logged and kept, not streamed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteChange {
    /// Seconds since the Unix epoch.
    pub time: f64,
    /// `passive`: connections receive packets with another TTL. `active`: other routers answer probes.
    pub source: String,
    /// Container, unit or process whose connections they are; empty = active.
    pub subject: String,
    /// Name of the other end's prefix.
    pub peer: String,
    /// Region of that prefix.
    pub peer_region: String,
    /// Zone of that prefix.
    pub peer_zone: String,
    /// An address of the other end to which the way has changed.
    pub remote: Option<IpAddr>,
    /// Connections of this subject and peer with the same change in the same second; 0 = active.
    pub connections: u64,
    /// Routers on the way before; `None` = not known.
    pub hops_before: Option<u8>,
    /// Routers on the way now.
    pub hops_after: Option<u8>,
    /// Active: who answered at each hop before, `*` = nobody, `|` between several.
    pub before: Vec<String>,
    /// Active: who answers now.
    pub after: Vec<String>,
}

impl std::fmt::Display for RouteChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hops = |hops: Option<u8>| hops.map_or("?".to_owned(), |h| h.to_string());
        write!(f, "route to {}", self.peer)?;
        if let Some(remote) = self.remote {
            write!(f, " ({remote})")?;
        }
        write!(
            f,
            " changed: {} → {} hops",
            hops(self.hops_before),
            hops(self.hops_after)
        )?;
        if self.source == "active" {
            write!(f, ", {} → {}", self.before.join(" "), self.after.join(" "))
        } else {
            write!(f, ", {} connections of {}", self.connections, self.subject)
        }
    }
}

/// A connection. Times are seconds, sizes bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// Seconds since the Unix epoch.
    pub time: f64,
    /// `open`, `closed` or `failed`.
    pub event: String,
    /// TCP state at the time, e.g. `ESTABLISHED`; at close the state before.
    pub state: String,
    /// `client`, `server` or `unknown`.
    pub role: String,
    /// `none`, `refused`, `reset`, `timed_out`, `unreachable` or `other`.
    pub error: String,
    /// Container, unit or process.
    pub subject: String,
    /// Name of the process that opened the connection or listened; empty = not known.
    pub process: String,
    /// Its pid; 0 = not known.
    pub pid: u32,
    /// Own end.
    pub local: SocketAddr,
    /// Other end.
    pub remote: SocketAddr,
    /// Name of the other end's prefix.
    pub peer: String,
    /// Region of that prefix.
    pub peer_region: String,
    /// Zone of that prefix.
    pub peer_zone: String,
    /// Seconds since it was established, `None` = it was open before the agent.
    pub duration: Option<f64>,
    /// SYN sent to established, seconds.
    pub connect: Option<f64>,
    /// Smoothed round-trip time, seconds.
    pub rtt: Option<f64>,
    /// Smallest round-trip time, seconds.
    pub rtt_min: Option<f64>,
    /// Mean deviation of the round-trip time, seconds.
    pub rtt_var: Option<f64>,
    /// Payload bytes received.
    pub bytes_received: u64,
    /// Payload bytes sent.
    pub bytes_sent: u64,
    /// Segments received.
    pub segments_received: u32,
    /// Segments sent, retransmits included.
    pub segments_sent: u32,
    /// Segments sent again.
    pub retransmits: u32,
    /// Retransmits that the peer said were needless.
    pub spurious: u32,
    /// Congestion window, segments.
    pub cwnd: u32,
    /// Socket cookie: the same in all records of a connection.
    pub cookie: u64,
    /// Id of the trace that both ends of the connection are in, W3C form; empty = it is open, older than the
    /// agent, or was never established.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub trace_id: String,
}

/// A dropped packet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DroppedPacket {
    /// Seconds since the Unix epoch.
    pub time: f64,
    /// Kernel's reason without its prefix, e.g. `NO_SOCKET`.
    pub reason: String,
    /// Kernel function that gave the packet up, `name+0xoffset`; an address if the symbol is hidden.
    pub location: String,
    /// `tcp`, `udp`, `icmp` …, else the network protocol.
    pub protocol: String,
    /// `receive`, `transmit` or empty.
    pub direction: String,
    /// Network interface; empty = none.
    pub device: String,
    /// Who, where a socket tells; else empty.
    pub subject: String,
    /// Source, if an address could be read.
    pub source: Option<SocketAddr>,
    /// Destination.
    pub destination: Option<SocketAddr>,
    /// Packet length in bytes.
    pub bytes: u32,
}
