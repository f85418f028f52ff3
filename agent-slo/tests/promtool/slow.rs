//! What burns slowly.

use super::{judged, of};
use agent_slo::{Slo, Template, Window};

/// A budget that burns a little faster than it lasts is gone before its time, whatever its window and however large it is: that is
/// told, and no more than that.
#[test]
fn what_empties_a_budget_slowly_is_told() {
    let failed = |percent: u32| {
        [
            (
                "geophone_tcp_connections_total{role=\"client\",outcome=\"failed\",peer=\"db\"}",
                format!("0+{percent}x480"),
            ),
            (
                "geophone_tcp_connections_total{role=\"client\",outcome=\"opened\",peer=\"db\"}",
                format!("0+{}x480", 100 - percent),
            ),
        ]
    };
    for (window, objective, percent, alerts) in [
        // 1.1 and 0.9 times.
        ("1h", 90.0, 11, &["1"][..]),
        ("1d", 90.0, 11, &["1"]),
        ("7d", 90.0, 11, &["1"]),
        ("28d", 90.0, 11, &["1"]),
        ("28d", 90.0, 9, &[]),
        ("month", 90.0, 11, &["1"]),
        // A year's: the others would need more than everything to fail.
        ("366d", 90.0, 90, &["1"]),
        ("1d", 50.0, 60, &["1"]),
        ("1d", 50.0, 40, &[]),
    ] {
        let slo = Slo {
            window: Window::parse(window).unwrap(),
            ..of(Template::ConnectSuccess, objective)
        };
        let series = failed(percent);
        let series = [0, 1].map(|at| (series[at].0, series[at].1.as_str()));
        judged(&slo, &series, "80m", &[], alerts);
    }
}
