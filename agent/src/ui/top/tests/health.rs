//! The tab of alerts, anomalies and scores.

use super::{App, Theme, Update, press, screen, shows, view};
use crate::ui::view::Finding;

fn finding(kind: &str, state: &str, name: &str, of: &str) -> Finding {
    Finding {
        kind: kind.into(),
        state: state.into(),
        name: name.into(),
        of: of.into(),
        since: (kind != "health").then_some(100.0),
        value: Some(62.5),
        more: vec![format!("why it is {state}\u{1b}[2J")],
    }
}

#[test]
fn what_is_wrong_comes_first() {
    let mut on = view();
    (on.tick, on.time) = (10, 190.0);
    on.findings = Some(vec![
        finding("health", "healthy", "peer", "loopback"),
        finding("health", "degraded", "peer", "db\u{1b}[2J"),
        finding("anomaly", "up", "tcp_retransmit_ratio", "peer=db"),
        finding("alert", "pending", "Slow", "peer=cache"),
        finding("alert", "critical", "GeophoneSloBurn", "peer=db slo=loss"),
        Finding::error("health", "too many samples\u{1b}[2J"),
    ]);
    let mut app = App::new(Theme { color: false });
    app.apply(Update::View(Box::new(on)));
    press(&mut app, "7");
    let shown = screen(&mut app, 120, 24);
    shows(
        &shown,
        &[
            "7 Health",
            "critical",
            "GeophoneSloBurn",
            "1m30s",
            "62.5",
            "too many samples",
        ],
    );
    assert!(!shown.contains('\u{1b}'), "{shown}");
    let place = |text: &str| shown.find(text).unwrap_or_else(|| panic!("no {text} in {shown}"));
    let order = [
        "too many samples",
        "GeophoneSloBurn",
        "tcp_retransmit_ratio",
        "degraded",
        "pending",
        "healthy",
    ];
    assert!(order.map(place).is_sorted(), "{shown}");
    // What could not be asked comes first of all.
    press(&mut app, "\n");
    shows(&screen(&mut app, 120, 24), &["error", "too many samples"]);
    press(&mut app, "q");
    press(&mut app, "j\n");
    shows(
        &screen(&mut app, 120, 24),
        &["why it is critical", "peer=db slo=loss"],
    );
    // Where nothing is judged there is nothing to show.
    let mut app = App::new(Theme { color: false });
    app.apply(Update::View(Box::new(view())));
    assert!(!screen(&mut app, 120, 24).contains("Health"));
}
