//! What must hold of the tunnels that the guest made (xtask/vm/tunnels.sh).

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::boot::Seen;
use super::judge::{Check, check};
use super::report::section;

const HERE: &str = "10.96.0.1";
const THERE: &str = "10.97.0.2";
const DIRECTIONS: [&str; 2] = ["receive", "transmit"];
const ETHERNET: u64 = 14;
/// Outer Ethernet, IPv4, UDP and VXLAN.
const VXLAN: u64 = 50;
/// Two VLAN tags.
const TAGS: u64 = 8;

/// One kind of tunnel, and how it is found in each of the sources.
struct Kind {
    /// For nft.
    name: &'static str,
    /// `type`.
    r#type: &'static str,
    /// `id`, by direction.
    ids: [&'static str; 2],
    /// With it, the ends have ports.
    port: &'static str,
    /// Its device, and the bytes of an inner packet that the device does not count; none = it has no device that
    /// counts what is inside.
    device: Option<(&'static str, u64)>,
    /// Sequence numbers are followed.
    sequenced: bool,
}

const PLAIN: Kind = Kind {
    name: "",
    r#type: "",
    ids: [""; 2],
    port: "",
    device: None,
    sequenced: false,
};

const KINDS: [Kind; 9] = [
    Kind {
        name: "vxlan",
        r#type: "vxlan",
        ids: ["41"; 2],
        device: Some(("vxlan1", ETHERNET)),
        ..PLAIN
    },
    Kind {
        name: "geneve",
        r#type: "geneve",
        ids: ["42"; 2],
        device: Some(("geneve1", ETHERNET)),
        ..PLAIN
    },
    Kind {
        name: "geneve_options",
        r#type: "geneve",
        ids: ["43"; 2],
        device: Some(("geneve2", ETHERNET)),
        ..PLAIN
    },
    Kind {
        name: "gre",
        r#type: "gre",
        device: Some(("gre1", 0)),
        sequenced: true,
        ..PLAIN
    },
    Kind {
        name: "ipip",
        r#type: "ipip",
        device: Some(("ipip1", 0)),
        ..PLAIN
    },
    Kind {
        name: "sit",
        r#type: "sit",
        device: Some(("sit1", 0)),
        ..PLAIN
    },
    Kind {
        name: "wireguard",
        r#type: "wireguard",
        port: ":51820",
        sequenced: true,
        ..PLAIN
    },
    Kind {
        name: "esp",
        r#type: "esp",
        ids: ["0x00002008", "0x00001008"],
        sequenced: true,
        ..PLAIN
    },
    Kind {
        name: "esp_udp",
        r#type: "esp_udp",
        ids: ["0x00002009", "0x00001009"],
        sequenced: true,
        ..PLAIN
    },
];

/// Losses in percent, and how many packets were sent at each by each kind that has numbers.
const LOSSES: [(&str, u64); 4] = [("0", 500), ("0.1", 3000), ("1", 3000), ("10", 1000)];
/// What is sent after the losses have ended, so that the last of them show.
const AFTER: u64 = 3;

/// All checks.
pub fn checks(seen: &Seen) -> Vec<Check> {
    vec![
        check("programs and parser agree over the corpus", corpus(seen)),
        check(
            "packets and bytes of tunnels are nft's and their devices'",
            counted(seen),
        ),
        check("lost, doubled and late are what netem did", lost(seen)),
    ]
}

/// `geophone test-corpus`.
#[derive(Deserialize)]
struct Corpus {
    runs: u64,
    different: u64,
    differences: Vec<String>,
}

fn corpus(seen: &Seen) -> Result<String> {
    let section = section(seen, "corpus")?;
    let corpus: Corpus = serde_json::from_str(&section.text).context("`geophone test-corpus`")?;
    ensure!(
        corpus.different == 0 && section.code == 0,
        "{} differences, exit code {}: {}",
        corpus.different,
        section.code,
        corpus.differences.join("; ")
    );
    ensure!(corpus.runs > 40_000, "only {} runs", corpus.runs);
    Ok(format!("{} runs", corpus.runs))
}

/// Metrics by name: labels, value.
type Metrics = BTreeMap<String, Vec<(BTreeMap<String, String>, u64)>>;

/// The counters of probe `tunnel` in an exposition.
fn metrics(text: &str) -> Metrics {
    let mut out = Metrics::new();
    for line in text.lines().filter(|line| line.starts_with("geophone_tunnel_")) {
        let Some((name, rest)) = line.split_once('{') else {
            continue;
        };
        let Some((labels, value)) = rest.split_once("} ") else {
            continue;
        };
        // No label of these has a comma in its value.
        let labels = labels.split(',').filter_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            Some((key.to_owned(), value.trim_matches('"').to_owned()))
        });
        if let Ok(value) = value.trim().parse() {
            out.entry(name.to_owned())
                .or_default()
                .push((labels.collect(), value));
        }
    }
    out
}

impl Kind {
    /// Labels that only its series have; `direction` = 1 is ours to there.
    fn labels(&self, direction: usize) -> Vec<(&'static str, String)> {
        let id = self.ids.get(direction).copied().unwrap_or_default();
        vec![
            ("type", self.r#type.to_owned()),
            ("id", id.to_owned()),
            ("local", format!("{HERE}{}", self.port)),
            ("remote", format!("{THERE}{}", self.port)),
        ]
    }

    /// The sum of its series in a family. Of numbers only received ones are followed, and they have no direction.
    fn sum(&self, metrics: &Metrics, family: &str, direction: Option<usize>) -> u64 {
        let mut wanted = self.labels(direction.unwrap_or(0));
        if let Some(name) = direction.and_then(|d| DIRECTIONS.get(d)) {
            wanted.push(("direction", (*name).to_owned()));
        }
        let wanted: Vec<(&str, &str)> = wanted.iter().map(|(key, value)| (*key, value.as_str())).collect();
        sum(metrics, family, &wanted)
    }
}

/// The sum of the series of a family that have these labels; an absent one is empty.
fn sum(metrics: &Metrics, family: &str, wanted: &[(&str, &str)]) -> u64 {
    let series = metrics.get(family).into_iter().flatten();
    series
        .filter(|(labels, _)| {
            wanted
                .iter()
                .all(|(key, value)| labels.get(*key).map_or("", String::as_str) == *value)
        })
        .map(|(_, value)| value)
        .sum()
}

/// `nft list table netdev truth`: packets and bytes by chain and comment.
fn nft(text: &str) -> BTreeMap<(String, String), (u64, u64)> {
    let mut chain = String::new();
    let mut out = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |word: &str| {
            let at = words.iter().position(|w| *w == word)?;
            words.get(at + 1).copied()
        };
        if let Some(name) = after("chain") {
            name.clone_into(&mut chain);
        }
        let number = |word: &str| after(word).and_then(|n| n.parse().ok());
        if let (Some(packets), Some(bytes), Some(comment)) =
            (number("packets"), number("bytes"), after("comment"))
        {
            out.insert(
                (chain.clone(), comment.trim_matches('"').to_owned()),
                (packets, bytes),
            );
        }
    }
    out
}

/// `ip -j -s link show`.
#[derive(Deserialize)]
struct Link {
    ifname: String,
    stats64: Stats,
}

#[derive(Deserialize)]
struct Stats {
    rx: Counts,
    tx: Counts,
}

#[derive(Deserialize)]
struct Counts {
    packets: u64,
    bytes: u64,
}

fn counted(seen: &Seen) -> Result<String> {
    let told = metrics(&section(seen, "clean_metrics")?.text);
    let truth = nft(&section(seen, "clean_nft")?.text);
    let links: Vec<Link> =
        serde_json::from_str(&section(seen, "clean_links")?.text).context("`ip -j link`")?;
    let mut packets_of_all = 0;
    for kind in &KINDS {
        for (d, direction) in DIRECTIONS.into_iter().enumerate() {
            let what = format!("{} {direction}", kind.name);
            let (packets, bytes) = truth
                .get(&(direction.to_owned(), kind.name.to_owned()))
                .copied()
                .with_context(|| format!("nft has not counted {what}"))?;
            ensure!(packets >= 20, "{what}: only {packets} packets passed");
            let seen = kind.sum(&told, "geophone_tunnel_packets_total", Some(d));
            ensure!(
                seen == packets,
                "{what}: {seen} packets, nft has counted {packets}"
            );
            // At its ingress hook nft does not see the Ethernet header any more.
            let bytes = bytes + if d == 0 { ETHERNET * packets } else { 0 };
            let seen = kind.sum(&told, "geophone_tunnel_bytes_total", Some(d));
            ensure!(seen == bytes, "{what}: {seen} bytes, nft has counted {bytes}");
            packets_of_all += packets;
            let Some((device, uncounted)) = kind.device else {
                continue;
            };
            let link = links.iter().find(|link| link.ifname == device);
            let stats = &link.with_context(|| format!("no {device}"))?.stats64;
            let count = if d == 0 { &stats.rx } else { &stats.tx };
            ensure!(
                count.packets == packets,
                "{what}: {device} has counted {} packets, nft {packets}",
                count.packets
            );
            let inner = count.bytes + uncounted * packets;
            let seen = kind.sum(&told, "geophone_tunnel_inner_bytes_total", Some(d));
            ensure!(
                seen == inner,
                "{what}: {seen} bytes inside, {device} says {inner}"
            );
        }
    }
    // A VXLAN over a VLAN in a VLAN, both of a watched device: with its tags, and once.
    let labels = [
        ("type", "vxlan"),
        ("id", "44"),
        ("local", "10.95.0.1"),
        ("remote", "10.95.0.2"),
    ];
    let link = links
        .iter()
        .find(|link| link.ifname == "vxlan2")
        .context("no vxlan2")?;
    for (count, direction) in [&link.stats64.rx, &link.stats64.tx].into_iter().zip(DIRECTIONS) {
        let mut labels = labels.to_vec();
        labels.push(("direction", direction));
        ensure!(
            count.packets >= 20,
            "VLANs, {direction}: only {} packets passed",
            count.packets
        );
        let bytes = count.bytes + (ETHERNET + VXLAN + TAGS) * count.packets;
        for (family, truth) in [("packets", count.packets), ("bytes", bytes)] {
            let seen = sum(&told, &format!("geophone_tunnel_{family}_total"), &labels);
            ensure!(
                seen == truth,
                "VLANs, {direction}: {seen} {family}, the device says {truth}"
            );
        }
        packets_of_all += count.packets;
    }
    Ok(format!(
        "{packets_of_all} packets of {} kinds and over VLANs",
        KINDS.len()
    ))
}

/// `tc -j -s qdisc show` of one qdisc.
#[derive(Deserialize)]
struct Qdisc {
    packets: u64,
    drops: u64,
}

fn qdisc(seen: &Seen, name: &str) -> Result<Qdisc> {
    let all: Vec<Qdisc> = serde_json::from_str(&section(seen, name)?.text)
        .with_context(|| format!("{name} is no answer of tc"))?;
    all.into_iter()
        .next()
        .with_context(|| format!("{name}: no qdisc"))
}

fn lost(seen: &Seen) -> Result<String> {
    let mut before = metrics(&section(seen, "clean_metrics")?.text);
    let mut lines = Vec::new();
    let mut outside = 0;
    for (loss, sent) in LOSSES {
        let now = metrics(&section(seen, &format!("loss_{loss}_metrics"))?.text);
        let mut of_kinds = Vec::new();
        for kind in KINDS.iter().filter(|kind| kind.sequenced) {
            let what = format!("{} at {loss} %", kind.name);
            let behind = qdisc(seen, &format!("loss_{loss}_{}_sent", kind.name))?;
            let way = qdisc(seen, &format!("loss_{loss}_{}_way", kind.name))?;
            ensure!(
                behind.packets + behind.drops == sent && way.drops == 0,
                "{what}: {} packets passed netem and {} were dropped of {sent}; the way has dropped {}",
                behind.packets,
                behind.drops,
                way.drops
            );
            let grown = |family: &str| {
                let family = format!("geophone_tunnel_{family}_total");
                kind.sum(&now, &family, None) - kind.sum(&before, &family, None)
            };
            for (family, truth) in [
                ("sequenced_packets", behind.packets + AFTER),
                ("lost_packets", behind.drops),
                ("duplicated_packets", way.packets - behind.packets),
                ("late_packets", 0),
                ("untracked_packets", 0),
                ("sequence_restarts", 0),
            ] {
                let told = grown(family);
                ensure!(told == truth, "{what}: {told} {family}, netem says {truth}");
            }
            let reordered = grown("reordered_packets");
            ensure!((reordered > 0) == (loss != "0"), "{what}: {reordered} reordered");
            let rate = loss.parse::<f64>()? / 100.0;
            outside += u32::from(!interval(sent, rate).contains(&behind.drops));
            of_kinds.push(behind.drops.to_string());
        }
        lines.push(format!("{loss} % of {sent}: {}", of_kinds.join(" ")));
        before = now;
    }
    // Of twelve draws, more than three outside come once in 200,000 runs.
    ensure!(
        outside <= 3,
        "{outside} of the losses are outside of 99 % of the binomial distribution: {}",
        lines.join(", ")
    );
    Ok(lines.join(", "))
}

/// The shortest range from the median that holds 99 % of the binomial distribution, 0.5 % on either side.
fn interval(n: u64, p: f64) -> std::ops::RangeInclusive<u64> {
    if p == 0.0 {
        return 0..=0;
    }
    let (mut below, mut low, mut term) = (0.0, None, (1.0 - p).powf(n as f64));
    for k in 0..=n {
        below += term;
        if low.is_none() && below > 0.005 {
            low = Some(k);
        }
        if below >= 0.995 {
            return low.unwrap_or(k)..=k;
        }
        term *= (n - k) as f64 / (k + 1) as f64 * p / (1.0 - p);
    }
    low.unwrap_or(0)..=n
}

#[cfg(test)]
#[path = "tunnels_tests.rs"]
mod tests;
