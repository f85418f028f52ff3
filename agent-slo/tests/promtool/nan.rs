//! What is no number.

use super::judged;
use agent_slo::{Definition, Slo};

/// Cause: what is bad is told as a quotient, and for some minutes there was nothing to divide by, so that it is NaN. Seen: of that time
/// nothing is known, and before and after it the budget burns as it does. One NaN had made the sums of all windows NaN, and no alert
/// came until it had left them, after 30 days.
#[test]
fn one_nan_does_not_silence_the_alerts_of_a_window() {
    let slo = Slo::new(&Definition {
        name: "s".to_owned(),
        total: Some("sum by (peer) (rate(requests_total[$window]))".to_owned()),
        bad: Some(
            "sum by (peer) (rate(requests_total[$window]) * (rate(failed_total[$window]) / rate(answered_total[$window])))"
                .to_owned(),
        ),
        objective: 99.0,
        ..Definition::default()
    })
    .unwrap();
    // No answer for ten minutes, a tenth of them failures otherwise.
    let series = [
        ("requests_total{peer=\"db\"}", "0+100x480"),
        ("failed_total{peer=\"db\"}", "0+10x80 800x40 800+10x360"),
        ("answered_total{peer=\"db\"}", "0+100x80 8000x40 8000+100x360"),
    ];
    let samples = [
        ("geophone_slo_sli_ratio{window=\"5m\",peer=\"db\"}", 0.9),
        ("geophone_slo_sli_ratio{window=\"1h\"}", 0.9),
        ("geophone_slo_sli_ratio{window=\"30d\"}", 0.9),
        ("geophone_slo_budget_consumed_ratio", 10.0),
        // Nor is it counted in what there was.
        ("absent(geophone_slo_total_events offset 52m)", 1.0),
    ];
    judged(&slo, &series, "80m", &samples, &["1", "3", "6"]);
}
