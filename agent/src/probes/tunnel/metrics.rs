//! Metrics of probe `tunnel`.

use super::exported::Tunnel;
use super::health::REASONS;
use crate::aggregate::{Family, Kind, Label, Labels, Metric, Series, Value, label};
use crate::identity::Peer;
use crate::probes::watch;
use agent_common::tunnel::{class, counter, series};
use std::collections::BTreeMap;
use std::sync::Arc;

macro_rules! labels {
    ($($name:ident: $prometheus:literal, $otlp:literal, $help:literal;)*) => {$(
        #[doc = $help]
        pub static $name: Label = Label { prometheus: $prometheus, otlp: $otlp, help: $help };
    )*};
}
labels! {
    TYPE: "type", "tunnel.type", "vxlan, geneve, gre, ipip, sit, ip6tnl, wireguard, esp, esp_udp, ah or openvpn; other = what found no room or no name";
    ID: "id", "tunnel.id", "VNI, key or SPI; a WireGuard or OpenVPN peer has none, its ends have ports";
    LOCAL: "local", "tunnel.local.address", "Own end: address, with the port where it tells peers apart";
    REMOTE: "remote", "tunnel.remote.address", "Other end";
    REMOTE_REGION: "remote_region", "tunnel.remote.cloud.region", "Region of the other end's prefix";
    NETNS: "netns", "tunnel.netns", "Network namespace of the underlay device, one of probes.tunnel.namespaces; empty = the agent's own";
    CLASS: "class", "tunnel.packet.class", "What the packet carries: ipv4_tcp, ipv4_udp … arp, encrypted, control, keepalive, fragment, other";
    MESSAGE: "message", "tunnel.handshake.message", "initiation, response or cookie";
    SIDE: "side", "tunnel.side", "local = what lies behind us, remote = the tunnel and what lies behind it";
    INNER_LOCAL: "inner_local", "tunnel.inner.local.address", "Address inside of the tunnel, on our side; other = all pairs without series of their own";
    INNER_REMOTE: "inner_remote", "tunnel.inner.remote.address", "Address inside of the tunnel, on the other side";
    HEALTH: "state", "tunnel.state", "unknown, up, degraded or down";
}

macro_rules! tunnel_labels {
    ($($extra:expr),*) => { &[&TYPE, &ID, &LOCAL, &REMOTE, &REMOTE_REGION, &NETNS, $($extra),*] };
}

/// Labels of a pair inside of a tunnel.
pub const INNER_PAIR: &[&Label] = tunnel_labels!(&label::DIRECTION, &INNER_LOCAL, &INNER_REMOTE);
/// Labels of a tunnel.
pub const TUNNEL: &[&Label] = tunnel_labels!();
const WATCHED_DEVICE: &[&Label] = &[&label::DEVICE, &label::DIRECTION, &NETNS];
const GAP: &[&Label] = &[&label::DEVICE, &label::DIRECTION, &label::REASON, &NETNS];
const DIRECTED: &[&Label] = tunnel_labels!(&label::DIRECTION);

macro_rules! metrics {
    ($($name:ident = $prometheus:literal, $otlp:literal, $unit:literal, $kind:ident, $labels:expr, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $name: Metric = Metric::stable($prometheus, $otlp, $unit, Kind::$kind, $labels, $help);
        )*
        /// All of them.
        pub const METRICS: &[&Metric] = &[$(&$name),*];
    };
}

metrics! {
    BYTES = "geophone_tunnel_bytes_total", "geophone.tunnel.io", "By", Counter, DIRECTED,
        "Bytes of the tunnel's packets on the underlay device, from the link header on, as on the wire";
    INNER_BYTES = "geophone_tunnel_inner_bytes_total", "geophone.tunnel.inner.io", "By", Counter, DIRECTED,
        "Bytes that the tunnel carries; of encrypted kinds as near as the headers tell";
    OVERHEAD_BYTES = "geophone_tunnel_overhead_bytes_total", "geophone.tunnel.overhead", "By", Counter, DIRECTED,
        "Bytes of encapsulation: those of the packets without what they carry";
    PACKETS = "geophone_tunnel_packets_total", "geophone.tunnel.packets", "{packet}", Counter, tunnel_labels!(&label::DIRECTION, &CLASS),
        "Packets on the wire (a GSO packet counts as its segments), by what they carry";
    INNER_PAIR_BYTES = "geophone_tunnel_inner_pair_bytes_total", "geophone.tunnel.inner_pair.io", "By", Counter, INNER_PAIR,
        "Inner bytes by who talks inside, where that can be read: the busiest probes.tunnel.inner_pairs of each tunnel, all else is other; a series begins at 0 and ends when its pair is not among the busiest any more, and all together grow as inner_bytes_total does";
    FRAGMENTS = "geophone_tunnel_fragments_total", "geophone.tunnel.fragments", "{packet}", Counter, DIRECTED,
        "Outer packets that are fragments";
    MALFORMED = "geophone_tunnel_malformed_packets_total", "geophone.tunnel.malformed", "{packet}", Counter, DIRECTED,
        "Packets that claim to be of the tunnel and contradict themselves; they are in no other counter";
    TOO_BIG = "geophone_tunnel_too_big_total", "geophone.tunnel.too_big", "{packet}", Counter, DIRECTED,
        "ICMP fragmentation needed and packet too big for the tunnel; receive = one of ours was too big for somebody";
    MTU = "geophone_tunnel_mtu_bytes", "geophone.tunnel.mtu", "By", Gauge, TUNNEL,
        "MTU of the underlay that such a message told last";
    UNKNOWN_FRAGMENTS = "geophone_tunnel_unknown_fragments_total", "geophone.tunnel.unknown_fragments", "{packet}", Counter, &[&label::DIRECTION],
        "Later fragments of UDP datagrams, which may or may not be of a tunnel; they are in no other counter";
    STRANGERS = "geophone_tunnel_stranger_packets_total", "geophone.tunnel.strangers", "{packet}", Counter, &[],
        "Received packets of tunnels from ends that no device, forwarding table or IPsec state names and to which nothing was sent; each is also in packets_total of other";
    SEQUENCED = "geophone_tunnel_sequenced_packets_total", "geophone.tunnel.sequence.received", "{packet}", Counter, TUNNEL,
        "Received packets with a sequence number (WireGuard, ESP, AH, GRE), each counted once";
    LOST = "geophone_tunnel_lost_packets_total", "geophone.tunnel.sequence.lost", "{packet}", Counter, TUNNEL,
        "Sequence numbers that have not come within two seconds: lost on the way from the other end to this device";
    REORDERED = "geophone_tunnel_reordered_packets_total", "geophone.tunnel.sequence.reordered", "{packet}", Counter, TUNNEL,
        "Packets that came after a higher sequence number";
    DUPLICATED = "geophone_tunnel_duplicated_packets_total", "geophone.tunnel.sequence.duplicated", "{packet}", Counter, TUNNEL,
        "Packets whose sequence number had come already";
    LATE = "geophone_tunnel_late_packets_total", "geophone.tunnel.sequence.late", "{packet}", Counter, TUNNEL,
        "Packets far outside of the window of 4,032 sequence numbers: very late, replayed, or the first after a restart";
    UNTRACKED = "geophone_tunnel_untracked_packets_total", "geophone.tunnel.sequence.untracked", "{packet}", Counter, TUNNEL,
        "Packets with a sequence number for which there was no window";
    RESTARTS = "geophone_tunnel_sequence_restarts_total", "geophone.tunnel.sequence.restarts", "{event}", Counter, TUNNEL,
        "Times that the sequence began anew under the same index";
    LOSS_RATIO = "geophone_tunnel_loss_ratio", "geophone.tunnel.sequence.loss_ratio", "1", Gauge, TUNNEL,
        "Share of the numbered packets of the last 30 s that were lost; absent below 50 packets";
    HANDSHAKES = "geophone_tunnel_handshakes_total", "geophone.tunnel.handshakes", "{message}", Counter, tunnel_labels!(&label::DIRECTION, &MESSAGE),
        "WireGuard messages that are not data";
    HANDSHAKE = "geophone_tunnel_handshake_seconds", "geophone.tunnel.handshake.duration", "s", Histogram, TUNNEL,
        "WireGuard: time from a handshake initiation to the response that fits it, as this device saw them";
    HANDSHAKE_AGE = "geophone_tunnel_handshake_age_seconds", "geophone.tunnel.handshake.age", "s", Gauge, TUNNEL,
        "Seconds since the last finished handshake that was seen";
    UNANSWERED = "geophone_tunnel_handshake_unanswered", "geophone.tunnel.handshake.unanswered", "{message}", Gauge, DIRECTED,
        "Handshake initiations since the last one that was answered";
    RTT = "geophone_tunnel_rtt_seconds", "geophone.tunnel.rtt.duration", "s", Histogram, tunnel_labels!(&SIDE),
        "Round-trip time of TCP inside the tunnel by its timestamps, sampled, as seen from this device";
    DEVICE_DROPS = "geophone_tunnel_device_drops_total", "geophone.tunnel.device.drops", "{packet}", Counter, tunnel_labels!(&label::DEVICE, &label::REASON),
        "Packets that were lost on the tunnel device itself, by the kernel's reason, without those that had reached the sockets (copies, what nobody asked for); type, id and ends are those that the device names, for one may be the end of many tunnels; each is also in geophone_drops_packets_total";
    LAST_SEEN = "geophone_tunnel_last_seen_timestamp_seconds", "geophone.tunnel.last_seen", "s", Gauge, DIRECTED,
        "When packets were last seen, seconds since the Unix epoch, to the second";
    STATE = "geophone_tunnel_state", "geophone.tunnel.state", "1", Gauge, tunnel_labels!(&HEALTH, &label::REASON),
        "1 = the tunnel is in this state; reason is handshake_unanswered, handshake_old, no_answer, loss, too_big or, of unknown, not_watched: no program is on its device";
    CHANGES = "geophone_tunnel_state_changes_total", "geophone.tunnel.state_changes", "{event}", Counter, tunnel_labels!(&HEALTH),
        "Times that the tunnel came into this state";
    PEER_INFO = "geophone_tunnel_peer_info", "geophone.tunnel.peer.info", "1", Gauge, tunnel_labels!(&label::PEER, &label::PEER_REGION, &label::PEER_ZONE),
        "1 = the busiest inner pairs of the tunnel lead to addresses of this peer; of tunnels whose payload can be read";
    TUNNELS = "geophone_tunnels", "geophone.tunnels", "{tunnel}", Gauge, &[],
        "Tunnels that have a row; at most limits.tunnels";
    WATCHED = "geophone_tunnel_watched", "geophone.tunnel.watched", "1", Gauge, WATCHED_DEVICE,
        "1 = the packets of this underlay device are watched, 0 = they should be and are not";
    GAPS = "geophone_tunnel_watch_gaps_total", "geophone.tunnel.watch_gaps", "{event}", Counter, GAP,
        "Times that our program was off the device: reason detached = by somebody else, it is attached again within 5 s; governor = to keep the CPU budget";
    GAP_SECONDS = "geophone_tunnel_watch_gap_seconds_total", "geophone.tunnel.watch_gap.time", "s", Counter, GAP,
        "Seconds without our program on the device, at most: since it was last seen there";
}

/// What is told of the devices.
pub static WATCH: watch::Metrics = watch::Metrics {
    watched: &WATCHED,
    gaps: &GAPS,
    gap_seconds: &GAP_SECONDS,
};
/// Names of directions, as exported.
pub const DIRECTIONS: [&str; 2] = ["receive", "transmit"];
const MESSAGES: [&str; 3] = ["initiation", "response", "cookie"];

/// Collects the series of a metric.
struct Out {
    family: Family,
    /// Index of the metric in [`METRICS`].
    index: usize,
}

impl Out {
    fn new(metric: &'static Metric) -> Self {
        let index = METRICS.iter().position(|m| std::ptr::eq(*m, metric));
        Self {
            family: Family {
                metric,
                series: Vec::new(),
            },
            index: index.unwrap_or(usize::MAX),
        }
    }

    fn push(&mut self, tunnel: &mut Tunnel, variant: usize, extra: &[&str], value: Value) {
        let labels = if extra.is_empty() {
            tunnel.labels.clone()
        } else {
            let own = std::mem::take(&mut tunnel.values);
            let values = own.iter().map(String::as_str).chain(extra.iter().copied());
            let labels = self.labels(tunnel, variant, values);
            tunnel.values = own;
            labels
        };
        self.family.series.push(Series { labels, value });
    }

    /// What is known of all tunnels together: with no label of one.
    fn push_of_all(&mut self, other: &mut Tunnel, variant: usize, values: &[&str], value: Value) {
        let labels = self.labels(other, variant, values.iter().copied());
        self.family.series.push(Series { labels, value });
    }

    fn labels<'a>(
        &self,
        tunnel: &mut Tunnel,
        variant: usize,
        values: impl Iterator<Item = &'a str>,
    ) -> Arc<Labels> {
        let own = &tunnel.labels;
        let make = || {
            let metric = self.family.metric;
            let values: Vec<&str> = values.collect();
            let overflow = own.overflow && metric.labels.starts_with(TUNNEL);
            Arc::new(Labels::new(
                metric.labels,
                &values,
                overflow,
                own.start_unix_nanos,
            ))
        };
        tunnel
            .variants
            .entry((self.index, variant))
            .or_insert_with(make)
            .clone()
    }
}

/// Appends the families of all tunnels. Counters that never moved have no series, but for those whose zero says
/// something.
pub fn collect(tunnels: &mut [Option<Tunnel>], unix_nanos: u64, out: &mut Vec<Family>) {
    let mut family = |metric: &'static Metric, each: &mut dyn FnMut(&mut Tunnel, &mut Out)| {
        let mut o = Out::new(metric);
        for tunnel in tunnels.iter_mut().flatten() {
            each(tunnel, &mut o);
        }
        out.push(o.family);
    };
    type Read = fn(&mut Tunnel, usize) -> u64;
    let directed: [(&'static Metric, bool, Read); 6] = [
        (&BYTES, true, |t, d| t.counters[counter::BYTES + d]),
        (&INNER_BYTES, true, |t, d| t.counters[counter::INNER_BYTES + d]),
        (&OVERHEAD_BYTES, true, |t, d| {
            // The kernel counts on between the two: the difference may be less by a packet than it was.
            let now = t.counters[counter::BYTES + d].saturating_sub(t.counters[counter::INNER_BYTES + d]);
            t.overhead[d] = t.overhead[d].max(now);
            t.overhead[d]
        }),
        (&FRAGMENTS, false, |t, d| t.counters[counter::FRAGMENTS + d]),
        (&MALFORMED, false, |t, d| t.counters[counter::MALFORMED + d]),
        (&TOO_BIG, false, |t, d| t.counters[counter::TOO_BIG + d]),
    ];
    for (metric, always, read) in directed {
        family(metric, &mut |t, o| {
            for (d, name) in DIRECTIONS.into_iter().enumerate() {
                let value = read(t, d);
                if value > 0 || always && !t.is_other() {
                    o.push(t, d, &[name], Value::Counter(value));
                }
            }
        });
    }
    family(&INNER_PAIR_BYTES, &mut |t, o| {
        for pair in t.pairs.series() {
            let both = pair.labels.iter().zip(pair.bytes);
            o.family.series.extend(both.map(|(labels, bytes)| Series {
                labels: labels.clone(),
                value: Value::Counter(bytes),
            }));
        }
        if !t.is_other() && t.is_clear() {
            for (d, (name, value)) in DIRECTIONS.into_iter().zip(t.pairs.other()).enumerate() {
                if value > 0 {
                    o.push(t, d, &[name, "other"], Value::Counter(value));
                }
            }
        }
    });
    family(&PEER_INFO, &mut |t, o| {
        let peers: BTreeMap<u32, Arc<Peer>> = t.pairs.series().map(|p| p.peer.clone()).collect();
        for (id, peer) in peers {
            let names = [peer.name.as_str(), &peer.region, &peer.zone];
            o.push(t, id as usize, &names, Value::Gauge(1.0));
        }
    });
    family(&STRANGERS, &mut |t, o| {
        if t.is_other() {
            let packets = t.counters[counter::STRANGERS];
            o.push_of_all(t, 0, &[], Value::Counter(packets));
        }
    });
    family(&UNKNOWN_FRAGMENTS, &mut |t, o| {
        if t.is_other() {
            for (d, name) in DIRECTIONS.into_iter().enumerate() {
                let packets = t.counters[counter::UNKNOWN_FRAGMENTS + d];
                o.push_of_all(t, d, &[name], Value::Counter(packets));
            }
        }
    });
    family(&PACKETS, &mut |t, o| {
        for (d, name) in DIRECTIONS.into_iter().enumerate() {
            for (c, class) in class::NAMES.into_iter().enumerate() {
                let i = d * class::COUNT + c;
                let value = t.counters.get(counter::PACKETS + i).copied().unwrap_or(0);
                if value > 0 {
                    o.push(t, i, &[name, class], Value::Counter(value));
                }
            }
        }
    });
    let sequence: [(&'static Metric, Read); 7] = [
        (&SEQUENCED, |t, _| t.counters[counter::SEQUENCE]),
        (&LOST, |t, _| t.lost),
        (&REORDERED, |t, _| t.counters[counter::SEQUENCE + 2]),
        (&DUPLICATED, |t, _| t.counters[counter::SEQUENCE + 3]),
        (&LATE, |t, _| t.counters[counter::SEQUENCE + 4]),
        (&RESTARTS, |t, _| t.counters[counter::SEQUENCE + 5]),
        (&UNTRACKED, |t, _| t.counters[counter::SEQUENCE + 6]),
    ];
    for (metric, read) in sequence {
        family(metric, &mut |t, o| {
            // That nothing was lost is worth a series; of a tunnel without numbers nobody can tell.
            if t.counters[counter::SEQUENCE] > 0 {
                let value = read(t, 0);
                o.push(t, 0, &[], Value::Counter(value));
            }
        });
    }
    family(&LOSS_RATIO, &mut |t, o| {
        if let Some(ratio) = t.health.loss_ratio() {
            o.push(t, 0, &[], Value::Gauge(ratio));
        }
    });
    family(&HANDSHAKES, &mut |t, o| {
        for (d, name) in DIRECTIONS.into_iter().enumerate() {
            for (m, message) in MESSAGES.into_iter().enumerate() {
                let i = d * MESSAGES.len() + m;
                let value = t.counters.get(counter::HANDSHAKES + i).copied().unwrap_or(0);
                if value > 0 {
                    o.push(t, i, &[name, message], Value::Counter(value));
                }
            }
        }
    });
    family(&HANDSHAKE, &mut |t, o| {
        let histogram = t.histograms[series::HANDSHAKE].clone();
        if histogram.count > 0 {
            o.push(t, 0, &[], Value::Histogram(histogram));
        }
    });
    family(&HANDSHAKE_AGE, &mut |t, o| {
        if t.last_handshake > 0 {
            let age = unix_nanos.saturating_sub(t.last_handshake) as f64 / 1e9;
            o.push(t, 0, &[], Value::Gauge(age));
        }
    });
    family(&UNANSWERED, &mut |t, o| {
        if t.is_wireguard() {
            for (d, name) in DIRECTIONS.into_iter().enumerate() {
                let value = t.unanswered[d] as f64;
                o.push(t, d, &[name], Value::Gauge(value));
            }
        }
    });
    family(&RTT, &mut |t, o| {
        for (i, (index, side)) in [(series::RTT_LOCAL, "local"), (series::RTT_REMOTE, "remote")]
            .into_iter()
            .enumerate()
        {
            let histogram = t.histograms[index].clone();
            if histogram.count > 0 {
                o.push(t, i, &[side], Value::Histogram(histogram));
            }
        }
    });
    family(&MTU, &mut |t, o| {
        if t.mtu > 0 {
            let mtu = t.mtu as f64;
            o.push(t, 0, &[], Value::Gauge(mtu));
        }
    });
    family(&LAST_SEEN, &mut |t, o| {
        for (d, name) in DIRECTIONS.into_iter().enumerate() {
            let at = t.last_seen[d];
            if at > 0 && !t.is_other() {
                o.push(t, d, &[name], Value::Gauge(at as f64 / 1e9));
            }
        }
    });
    family(&STATE, &mut |t, o| {
        if !t.is_other() {
            let (state, reason) = t.health.now;
            // Each state and reason has labels of its own.
            let variant =
                state as usize * REASONS.len() + REASONS.iter().position(|r| *r == reason).unwrap_or(0);
            o.push(t, variant, &[state.as_str(), reason], Value::Gauge(1.0));
        }
    });
    family(&CHANGES, &mut |t, o| {
        for (i, state) in ["unknown", "up", "degraded", "down"].into_iter().enumerate() {
            let value = t.changes[i];
            if value > 0 {
                o.push(t, i, &[state], Value::Counter(value));
            }
        }
    });
}
