//! What most tests begin with: a server, a client, and what is between them.

use super::{Agent, Link, Netns, Snapshot, Traffic, equal};
use anyhow::{Result, ensure};

/// Two processes and a net: two namespaces with a wire between them, or one namespace with its loopback. All of it goes
/// when the value is dropped.
#[derive(Debug)]
pub struct Scene<N = Link> {
    /// On a wire, in namespace `b`.
    pub server: Traffic,
    /// On a wire, in namespace `a`.
    pub client: Traffic,
    /// Where the server listens; empty while it does not.
    pub at: String,
    /// The wire, or the namespace.
    pub net: N,
}

impl Scene {
    /// A wire, and nobody listens.
    pub fn new() -> Result<Self> {
        Self::on(Link::new()?)
    }

    /// A wire, and a server that sends back what comes.
    pub fn echo() -> Result<Self> {
        Self::new()?.serving("echo")
    }

    /// A wire, and a server that swallows what comes.
    pub fn sink() -> Result<Self> {
        Self::new()?.serving("sink")
    }

    /// The same, but of the segments to the server this share, in percent, is lost.
    pub fn lossy(percent: u32) -> Result<Self> {
        let scene = Self::sink()?;
        scene.net.b.ns.nft(&format!(
            "table inet loss {{ chain in {{ type filter hook input priority 0; \
             meta l4proto tcp numgen random mod 100 < {percent} counter drop; }}; }}"
        ))?;
        Ok(scene)
    }

    /// On this wire, and nobody listens.
    pub fn on(net: Link) -> Result<Self> {
        Ok(Self {
            server: Traffic::new("srv", &net.b.ns)?,
            client: Traffic::new("cli", &net.a.ns)?,
            at: String::new(),
            net,
        })
    }

    /// With the server at work; see [`Traffic::serve`].
    pub fn serving(mut self, mode: &str) -> Result<Self> {
        self.at = self.server.serve(&self.net.b.at(0), mode)?;
        Ok(self)
    }
}

impl Scene<Netns> {
    /// One namespace, whose server listens at all of its loopback's addresses; see [`Traffic::serve`].
    pub fn alone(mode: &str) -> Result<Self> {
        let net = Netns::new()?;
        let mut server = Traffic::new("srv", &net)?;
        let all = server.serve("0.0.0.0:0", mode)?;
        Ok(Self {
            server,
            client: Traffic::new("cli", &net)?,
            at: all.replace("0.0.0.0", "127.0.0.1"),
            net,
        })
    }

    /// So many of those addresses, none of them 127.0.0.1.
    pub fn spread(&self, count: u32) -> Vec<String> {
        let port = self.at.trim_start_matches("127.0.0.1:");
        (0..count)
            .map(|i| format!("127.{}.{}.{}:{port}", 1 + i / 65_536, i / 256 % 256, i % 256))
            .collect()
    }
}

impl<N> Scene<N> {
    /// The client opens a connection to the server.
    pub fn connect(&mut self) -> Result<u64> {
        self.client.connect(&self.at)
    }

    /// As many connections, one after the other, in each of which so many messages of `size` bytes go there and back.
    pub fn exchange(&mut self, connections: u64, rounds: u64, size: u64) -> Result<()> {
        for _ in 0..connections {
            let connection = self.connect()?;
            self.client.ping(connection, rounds, size)?;
            self.client.close(connection)?;
        }
        Ok(())
    }

    /// The client sends so many bytes in one connection.
    pub fn deliver(&mut self, bytes: u64) -> Result<()> {
        let connection = self.connect()?;
        self.client.send(connection, bytes)?;
        self.client.close(connection)
    }

    /// Many short connections to the server, all of which must come about.
    pub fn storm(&mut self, count: u64, threads: u64, bytes: u64) -> Result<()> {
        let at = std::slice::from_ref(&self.at);
        let done = self.client.storm(at, count, threads, bytes)?;
        equal("connections made", (done.ok, done.failed), (count, 0))
    }

    /// Thirty connections with a bit of everything; returns when the agent has all of it.
    pub fn talk(&mut self, agent: &Agent) -> Result<Snapshot> {
        self.chat()?;
        heard(agent, self.client.name())
    }

    /// Thirty connections with a bit of everything.
    pub fn chat(&mut self) -> Result<()> {
        self.exchange(30, 20, 500)
    }
}

/// Returns when an agent has all that this client has said in [`Scene::chat`].
pub fn heard(agent: &Agent, client: &str) -> Result<Snapshot> {
    agent.settles(|s| {
        let closed = [("subject", client), ("outcome", "closed")];
        let closed = s.sum("geophone_tcp_connections_total", &closed);
        ensure!(closed > 0, "none closed");
        equal("closed", closed % 30, 0)?;
        let sent = [("subject", client), ("direction", "transmit")];
        ensure!(
            s.sum("geophone_tcp_bytes_total", &sent) >= 300_000,
            "bytes are missing"
        );
        Ok(())
    })?;
    agent.after(1)
}
