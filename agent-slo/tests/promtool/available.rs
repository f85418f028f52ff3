//! Availability of a peer.

use super::judged;
use agent_slo::{Definition, Slo, Template};

/// Cause: for 20 minutes nobody reaches a peer that is tried four times a minute; of another only an open connection is known, and
/// of a third nothing. Seen: the first was away for so long, the second was not, of the third nothing is said.
#[test]
fn a_peer_that_nobody_reaches_is_not_available() {
    let tried = |peer: &str, outcome: &str| {
        format!("geophone_tcp_connections_total{{peer=\"{peer}\",role=\"client\",outcome=\"{outcome}\"}}")
    };
    let (failed, opened, idle) = (
        tried("db", "failed"),
        tried("db", "opened"),
        tried("idle", "opened"),
    );
    let gone = tried("gone", "failed");
    let series = [
        (&*failed, "1x160 2+1x80 82x200"),
        (&*opened, "0+5x160 800x80 805+5x200"),
        (&*idle, "7x480"),
        ("geophone_tcp_connections{peer=\"idle\"}", "2x480"),
        (&*gone, "3x480"),
    ];
    let slo = Slo::new(&Definition {
        name: "s".to_owned(),
        template: Some(Template::PeerAvailability),
        by: Some(vec!["peer".to_owned()]),
        objective: 90.0,
        window: "1d".to_owned(),
        ..Definition::default()
    });
    let bad = |peer: &str| format!("sum_over_time(geophone_slo_bad_events{{peer=\"{peer}\"}}[80m])");
    // A minute is looked back on: the last connection that came about, the last that failed.
    let away = format!("(abs({} - 1200) <= bool 60)", bad("db"));
    let idle = bad("idle");
    let samples = [
        (&*away, 1.0),
        (&*idle, 0.0),
        ("absent(geophone_slo_total_events{peer=\"gone\"})", 1.0),
    ];
    judged(&slo.unwrap(), &series, "80m", &samples, &["1"]);
}
