//! What a packet of each kind costs in the programs that look at packets, as `geophone bench-packets` measures it.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::child::Program;
use super::subject::Place;

/// Which target a packet has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// On a watched device, of no tunnel.
    Plain,
    /// Of a tunnel.
    Tunnel,
    /// Of a socket, with probes `dns` and `udp`.
    Socket,
}

impl Kind {
    /// The most that it may cost, ns.
    fn target(self) -> Option<f64> {
        match self {
            Self::Plain => Some(60.0),
            Self::Tunnel => Some(150.0),
            Self::Socket => None,
        }
    }
}

/// One program and one kind of packet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Packet {
    program: String,
    packet: String,
    kind: Kind,
    /// ns net of an empty program.
    nanos: f64,
}

/// All of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Packets {
    empty_nanos: f64,
    empty_socket_nanos: f64,
    batch: u32,
    rounds: u32,
    packets: Vec<Packet>,
}

/// Has the agent measure its programs.
pub fn measure(place: &Place, rounds: u32) -> Result<Packets> {
    let agent = place.agent.display().to_string();
    let program = Program::new([&agent, "bench-packets", "--rounds", &rounds.to_string()]);
    serde_json::from_str(&program.finish()?).context("geophone bench-packets")
}

impl Packets {
    /// Headline and rows: a packet's price where it comes in and where it goes out.
    pub fn table(&self) -> (String, Vec<Vec<String>>) {
        let head = format!(
            "\nPackets, ns net of an empty program ({:.0}, of sockets {:.0}): best of {} × {}, warm caches, no dispatch\n",
            self.empty_nanos, self.empty_socket_nanos, self.rounds, self.batch
        );
        let mut rows = vec![["program", "packet", "receive", "send"].map(str::to_owned)];
        for packet in &self.packets {
            let (probe, way) = packet
                .program
                .split_once('_')
                .unwrap_or((&packet.program, "ingress"));
            let column = if way == "egress" { 3 } else { 2 };
            let nanos = format!("{:.0}", packet.nanos);
            let row = rows
                .iter_mut()
                .find(|row| row[0] == probe && row[1] == packet.packet);
            match row {
                Some(row) => row[column] = nanos,
                None => {
                    let mut row = [probe, &packet.packet, "", ""].map(str::to_owned);
                    row[column] = nanos;
                    rows.push(row);
                }
            }
        }
        (head, rows.into_iter().map(Vec::from).collect())
    }

    /// What is asked of each kind, and its dearest packet.
    pub fn judged(&self) -> Vec<(&'static str, String, f64, f64)> {
        let mut out = Vec::new();
        for (kind, what) in [
            (Kind::Plain, "packet of no tunnel"),
            (Kind::Tunnel, "tunnel packet"),
        ] {
            let of_kind = self.packets.iter().filter(|p| p.kind == kind);
            let dearest = of_kind.max_by(|a, b| a.nanos.total_cmp(&b.nanos));
            if let (Some(dearest), Some(target)) = (dearest, kind.target()) {
                out.push((what, dearest.packet.clone(), target, dearest.nanos));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_a_packet_are_a_row_and_the_dearest_is_judged() {
        let packet = |program: &str, name: &str, kind, nanos| Packet {
            program: program.into(),
            packet: name.into(),
            kind,
            nanos,
        };
        let packets = Packets {
            empty_nanos: 33.0,
            empty_socket_nanos: 30.0,
            batch: 4000,
            rounds: 50,
            packets: vec![
                packet("tunnel_ingress", "TCP", Kind::Plain, 2.0),
                packet("tunnel_ingress", "VXLAN", Kind::Tunnel, 42.0),
                packet("tunnel_ingress", "GRE with sequence", Kind::Tunnel, 170.0),
                packet("tunnel_egress", "VXLAN", Kind::Tunnel, 43.4),
                packet("udp_ingress", "UDP", Kind::Socket, 61.0),
            ],
        };
        let (head, rows) = packets.table();
        assert!(head.contains("33") && head.contains("50 × 4000"));
        assert_eq!(rows[2], ["tunnel", "VXLAN", "42", "43"]);
        assert_eq!(rows[4], ["udp", "UDP", "61", ""]);
        let judged = packets.judged();
        assert_eq!(judged.len(), 2);
        assert_eq!(judged[1].1, "GRE with sequence");
        assert!(judged[0].3 <= judged[0].2 && judged[1].3 > judged[1].2);
    }
}
