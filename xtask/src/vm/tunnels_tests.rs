//! What a guest may report, and what is said of it.

use std::fmt::Write as _;

use super::{DIRECTIONS, ETHERNET, KINDS, LOSSES, checks, interval};
use crate::vm::boot::{Section, Seen};

#[test]
fn the_binomial_interval() {
    // R: qbinom(c(0.005, 0.995), 3000, 0.01), and so on.
    assert_eq!(interval(500, 0.0), 0..=0);
    assert_eq!(interval(3000, 0.001), 0..=8);
    assert_eq!(interval(3000, 0.01), 17..=45);
    assert_eq!(interval(1000, 0.1), 76..=125);
}

/// What a guest reports where all is well: 20 packets each way, then as much loss as was asked for.
fn good() -> Seen {
    let mut seen = Seen::new();
    let mut said = |name: String, text: String| seen.insert(name, Section { text, code: 0 });
    let (mut exposition, mut nft) = (String::from("# HELP x\n"), String::from("table netdev truth {\n"));
    let mut links = Vec::new();
    for (d, direction) in DIRECTIONS.into_iter().enumerate() {
        let _ = writeln!(nft, "\tchain {direction} {{");
        for kind in &KINDS {
            let header = if d == 0 { ETHERNET } else { 0 };
            let bytes = 20 * (100 - header);
            let _ = writeln!(
                nft,
                "\t\tip protocol 1 counter packets 20 bytes {bytes} comment \"{}\"",
                kind.name
            );
            let labels = kind.labels(d).into_iter().filter(|(_, value)| !value.is_empty());
            let labels: Vec<String> = labels.map(|(key, value)| format!("{key}=\"{value}\"")).collect();
            let labels = labels.join(",");
            for (family, value) in [("packets", 20), ("bytes", 2000), ("inner_bytes", 1600)] {
                let _ = writeln!(
                    exposition,
                    "geophone_tunnel_{family}_total{{{labels},direction=\"{direction}\"}} {value}"
                );
            }
            if let Some((device, uncounted)) = kind.device.filter(|_| d == 0) {
                let inner = 1600 - 20 * uncounted;
                links.push(format!(
                    r#"{{"ifname":"{device}","stats64":{{"rx":{{"packets":20,"bytes":{inner}}},"tx":{{"packets":20,"bytes":{inner}}}}}}}"#
                ));
            }
        }
        nft.push_str("\t}\n");
        for (family, value) in [("packets", 20), ("bytes", 2000)] {
            let _ = writeln!(
                exposition,
                "geophone_tunnel_{family}_total{{type=\"vxlan\",id=\"44\",local=\"10.95.0.1\",remote=\"10.95.0.2\",\
                 direction=\"{direction}\"}} {value}"
            );
        }
    }
    said(
        "corpus".into(),
        r#"{"runs":60000,"different":0,"differences":[]}"#.into(),
    );
    links.push(
        r#"{"ifname":"vxlan2","stats64":{"rx":{"packets":20,"bytes":560},"tx":{"packets":20,"bytes":560}}}"#
            .into(),
    );
    said("clean_metrics".into(), exposition);
    said("clean_nft".into(), nft);
    said("clean_links".into(), format!("[{}]", links.join(",")));
    let mut sums = [0; 4];
    for (loss, sent) in LOSSES {
        let drops = (loss.parse::<f64>().unwrap_or(0.0) / 100.0 * sent as f64) as u64;
        let doubled = u64::from(drops > 0) * 7;
        for (sum, more) in sums.iter_mut().zip([sent - drops + 3, drops, doubled, doubled]) {
            *sum += more;
        }
        let mut exposition = String::new();
        for kind in KINDS.iter().filter(|kind| kind.sequenced) {
            let qdisc =
                |packets, drops| format!(r#"[{{"kind":"netem","packets":{packets},"drops":{drops}}}]"#);
            said(
                format!("loss_{loss}_{}_sent", kind.name),
                qdisc(sent - drops, drops),
            );
            said(
                format!("loss_{loss}_{}_way", kind.name),
                qdisc(sent - drops + doubled, 0),
            );
            let labels = kind.labels(0).into_iter().filter(|(_, value)| !value.is_empty());
            let labels: Vec<String> = labels.map(|(key, value)| format!("{key}=\"{value}\"")).collect();
            let families = ["sequenced", "lost", "duplicated", "reordered"];
            for (family, sum) in families.into_iter().zip(sums) {
                let _ = writeln!(
                    exposition,
                    "geophone_tunnel_{family}_packets_total{{{}}} {sum}",
                    labels.join(",")
                );
            }
        }
        said(format!("loss_{loss}_metrics"), exposition);
    }
    seen
}

#[test]
fn what_does_not_agree_is_told() {
    let failed = |seen: &Seen| checks(seen).iter().filter(|check| check.outcome.is_err()).count();
    assert_eq!(failed(&good()), 0);
    assert_eq!(failed(&Seen::new()), 3);
    for (section, word, other) in [
        ("corpus", "60000", "0"),
        ("corpus", "\"different\":0", "\"different\":1"),
        ("clean_metrics", "} 2000", "} 1999"),
        ("clean_metrics", "0x00001008", "0x00002008"),
        ("clean_metrics", ":51820", ":51821"),
        ("clean_nft", "packets 20", "packets 21"),
        ("clean_links", "\"packets\":20", "\"packets\":19"),
        ("clean_links", "1600", "1601"),
        ("loss_0_gre_sent", "\"drops\":0", "\"drops\":1"),
        ("loss_1_esp_sent", "2970,\"drops\":30", "2969,\"drops\":31"),
        ("loss_10_wireguard_way", "907", "906"),
        ("loss_10_metrics", "reordered", "late"),
    ] {
        let mut seen = good();
        let text = &mut seen.get_mut(section).expect("a section").text;
        assert!(text.contains(word), "{section}: {text}");
        *text = text.replacen(word, other, 1);
        assert_eq!(failed(&seen), 1, "{section}: {word}");
    }
}
