//! Tunnels: alive or not, what they carry, and what is lost below them.

use super::{NODE, TUNNELS};
use crate::maker::{Maker, places, share, variable};
use crate::panel::{Board, Show};

const WHICH: [&str; 5] = ["instance", "type", "id", "local", "remote"];
/// The whole of it: two nodes may have a tunnel to the same end, and a node two by different addresses of its own.
const NAME: &str = "{{instance}} {{type}} {{id}} {{local}} → {{remote}}";

/// Of each tunnel by one more label, and what that is called.
fn by(label: &str) -> (Vec<&str>, String) {
    ([&WHICH[..], &[label]].concat(), format!("{NAME} {{{{{label}}}}}"))
}

/// The dashboard.
pub fn board(m: &mut Maker) -> Board {
    m.scope(&["instance", "type", "remote"]);
    let mut panels = vec![m.row("State")];
    let columns = [&WHICH[..], &["remote_region", "state", "reason"]].concat();
    let states = m.value("max", "geophone_tunnel_state", "", &columns);
    let states = m.panel(
        Show::Table,
        "Tunnels",
        &[("in this state", format!("{states} == 1"))],
    );
    panels.push(states.size(16, 9).link("remote", TUNNELS, &["remote"]).link(
        "instance",
        NODE,
        &["instance"],
    ));
    let many = m.value("sum", "geophone_tunnels", "", &["instance"]);
    panels.push(m.graph("How many", &[("{{instance}}", many)]).size(8, 9));
    let (by_state, name) = by("state");
    let changes = m.rate("geophone_tunnel_state_changes_total", "", &by_state);
    panels.push(m.graph("Changes of state", &[(&name, changes)]));
    let seen = m.value("max", "geophone_tunnel_last_seen_timestamp_seconds", "", &WHICH);
    let quiet = m
        .graph("Silent for", &[(NAME, format!("time() - {seen}"))])
        .unit("s");
    panels.push(quiet.about("Time since a packet was seen"));
    let peers = m.value(
        "max",
        "geophone_tunnel_peer_info",
        "",
        &["type", "id", "remote", "peer", "peer_region"],
    );
    panels.push(m.panel(Show::Table, "Leads to", &[("busiest", peers)]).size(8, 8));

    panels.push(m.row("Loss"));
    let loss = m.value("max", "geophone_tunnel_loss_ratio", "", &WHICH);
    panels.push(
        m.graph("Lost below the tunnel", &[(NAME, loss)])
            .unit("percentunit")
            .limits(0.001, 0.01),
    );
    let lost = m.rate("geophone_tunnel_lost_packets_total", "", &WHICH);
    let got = m.rate("geophone_tunnel_sequenced_packets_total", "", &WHICH);
    panels.push(m.graph("Lost packets", &[(NAME, lost.clone())]));
    let part = share(&lost, &format!("({lost} + {got})"));
    let part = m.graph("Lost, of all", &[(NAME, part)]).unit("percentunit");
    panels.push(part.about("Lost numbers by those that came, over the interval of the graph"));
    let reordered = m.rate("geophone_tunnel_reordered_packets_total", "", &WHICH);
    let doubled = m.rate("geophone_tunnel_duplicated_packets_total", "", &WHICH);
    let late = m.rate("geophone_tunnel_late_packets_total", "", &WHICH);
    let untracked = m.rate("geophone_tunnel_untracked_packets_total", "", &WHICH);
    let names = ["reordered", "doubled", "late", "untracked"].map(|what| format!("{what} {NAME}"));
    let [a, b, c, d] = names.each_ref().map(String::as_str);
    let targets = [(a, reordered), (b, doubled), (c, late), (d, untracked)];
    panels.push(m.graph("Out of order", &targets));
    let restarts = m.rate("geophone_tunnel_sequence_restarts_total", "", &WHICH);
    panels.push(m.graph("Sequences that began anew", &[(NAME, restarts)]));
    let drops = m.rate("geophone_tunnel_device_drops_total", "", &["device", "reason"]);
    panels.push(m.panel(
        Show::Stack,
        "Dropped on the tunnel's device",
        &[("{{device}} {{reason}}", drops)],
    ));
    let malformed = m.rate("geophone_tunnel_malformed_packets_total", "", &WHICH);
    let unknown = m.rate("geophone_tunnel_unknown_fragments_total", "", &["direction"]);
    let strangers = m.rate("geophone_tunnel_stranger_packets_total", "", &["instance"]);
    let name = format!("malformed {NAME}");
    let targets = [
        (name.as_str(), malformed),
        ("fragments of whom {{direction}}", unknown),
        ("strangers {{instance}}", strangers),
    ];
    panels.push(m.graph("Not understood", &targets));
    let (by_direction, name) = by("direction");
    let fragments = m.rate("geophone_tunnel_fragments_total", "", &by_direction);
    panels.push(m.graph("Fragments", &[(&name, fragments)]));
    let big = m.rate("geophone_tunnel_too_big_total", "", &by_direction);
    panels.push(m.graph("Too big for the way", &[(&name, big)]));

    panels.push(m.row("Round trips inside"));
    panels.push(m.heat("Round trips", "geophone_tunnel_rtt_seconds", r#"side="remote""#));
    let (by_side, side) = by("side");
    let sides = m.quantile(0.99, "geophone_tunnel_rtt_seconds", "", &by_side);
    panels.push(m.graph("Round trip, p99", &[(&side, sides)]).size(12, 9));

    panels.push(m.row("Traffic"));
    let outer = m.rate("geophone_tunnel_bytes_total", "", &by_direction);
    panels.push(m.graph("On the wire", &[(&name, outer)]));
    let inner = m.rate("geophone_tunnel_inner_bytes_total", "", &by_direction);
    panels.push(m.graph("Carried", &[(&name, inner)]));
    let overhead = m.rate("geophone_tunnel_overhead_bytes_total", "", &WHICH);
    let all = m.rate("geophone_tunnel_bytes_total", "", &WHICH);
    panels.push(
        m.graph("Spent on encapsulation", &[(NAME, share(&overhead, &all))])
            .unit("percentunit"),
    );
    let packets = m.rate("geophone_tunnel_packets_total", "", &["direction", "class"]);
    panels.push(m.panel(Show::Stack, "Packets", &[("{{direction}} {{class}}", packets)]));
    let pairs = m.rate(
        "geophone_tunnel_inner_pair_bytes_total",
        "",
        &["inner_local", "inner_remote", "direction"],
    );
    let pairs = format!("topk(10, {pairs})");
    panels.push(m.panel(
        Show::Stack,
        "Who talks inside",
        &[("{{inner_local}} {{inner_remote}} {{direction}}", pairs)],
    ));
    let mtu = m.value("min", "geophone_tunnel_mtu_bytes", "", &WHICH);
    panels.push(m.graph("MTU that the underlay told", &[(NAME, mtu)]));

    panels.push(m.row("WireGuard's handshakes"));
    let age = m.value("max", "geophone_tunnel_handshake_age_seconds", "", &WHICH);
    panels.push(m.graph("Age of the last", &[(NAME, age)]).limits(180.0, 600.0));
    let unanswered = m.value("max", "geophone_tunnel_handshake_unanswered", "", &WHICH);
    panels.push(m.graph("Unanswered", &[(NAME, unanswered)]));
    let took = m.quantile(0.99, "geophone_tunnel_handshake_seconds", "", &WHICH);
    panels.push(m.graph("Time until the answer, p99", &[(NAME, took)]));
    let messages = m.rate("geophone_tunnel_handshakes_total", "", &["message", "direction"]);
    panels.push(m.graph("Messages", &[("{{message}} {{direction}}", messages)]));

    panels.push(m.row("Watching"));
    let watched = m.value(
        "min",
        "geophone_tunnel_watched",
        "",
        &["instance", "device", "direction"],
    );
    panels.push(
        m.panel(Show::Table, "Underlay devices", &[("watched", watched)])
            .limits(1.0, 0.5),
    );
    let gaps = m.rate("geophone_tunnel_watch_gaps_total", "", &["device", "reason"]);
    panels.push(m.graph("Gaps", &[("{{device}} {{reason}}", gaps)]).size(6, 9));
    let gone = m.rate(
        "geophone_tunnel_watch_gap_seconds_total",
        "",
        &["instance", "device", "reason"],
    );
    let name = "{{device}} {{reason}} {{instance}}";
    panels.push(m.graph("Share of the time in gaps", &[(name, gone)]).size(6, 9));
    let loss = m.band("Lost below the tunnels", "tunnel_loss_ratio", "");
    let row = m.row("Expected of tunnels to $remote");
    panels.push(row.hiding(Some("remote"), vec![loss]));
    let mut variables = places();
    variables.push(variable(
        "type",
        "Kind",
        r#"geophone_tunnel_state{instance=~"$instance"}"#,
    ));
    variables.push(variable(
        "remote",
        "Other end",
        r#"geophone_tunnel_state{instance=~"$instance",type=~"$type"}"#,
    ));
    Board {
        name: "geophone-tunnels",
        title: "geophone / Tunnels",
        about: "Tunnels and the underlay: alive, lossy, slow, and what they carry",
        variables,
        panels,
    }
}
