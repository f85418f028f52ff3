use super::super::ViewBuilder;
use super::super::shots::Shot;
use crate::aggregate::{HistogramValue, Value};

#[test]
fn lookups_and_datagrams_by_subject_while_their_probes_are_on() {
    let mut builder = ViewBuilder::new();
    let view = builder.push(&Shot::at(1).0);
    assert_eq!((view.dns, view.udp), (None, None));
    let to = [("subject", "a"), ("server", "10.0.0.53")];
    let with = |name, value| [to[0], to[1], (name, value)];
    let answers = |micros, n| {
        let mut h = HistogramValue::default();
        h.add_cell(
            agent_common::histogram::cell(agent_common::histogram::from_micros(micros)),
            n,
        );
        Value::Histogram(std::sync::Arc::new(h))
    };
    let shot = |second: u64, n: u64| {
        Shot::at(second)
            .add(
                "geophone_dns_queries_total",
                &with("protocol", "udp"),
                Value::Counter(8 * n),
            )
            .add(
                "geophone_dns_queries_total",
                &with("protocol", "tcp"),
                Value::Counter(2 * n),
            )
            .add("geophone_dns_timeouts_total", &to, Value::Counter(n))
            .add(
                "geophone_dns_lookup_seconds",
                &with("rcode", "NOERROR"),
                answers(1000, 6 * n),
            )
            .add(
                "geophone_dns_lookup_seconds",
                &with("rcode", "NXDOMAIN"),
                answers(1000, 2 * n),
            )
            .add(
                "geophone_udp_datagrams_total",
                &[("subject", "a"), ("direction", "transmit")],
                Value::Counter(8 * n),
            )
            .add(
                "geophone_udp_bytes_total",
                &[("subject", "a"), ("direction", "transmit")],
                Value::Counter(400 * n),
            )
            .0
    };
    builder.push(&shot(2, 1));
    let view = builder.push(&shot(3, 3));
    let [dns] = view.dns.as_deref().unwrap() else {
        panic!()
    };
    assert_eq!((dns.subject.as_str(), dns.server.as_str()), ("a", "10.0.0.53"));
    assert_eq!((dns.queries, dns.queries_rate), (30, 20.0));
    assert_eq!((dns.timeouts, dns.timeouts_rate), (3, 2.0));
    assert_eq!(
        (dns.share("NXDOMAIN"), dns.share("SERVFAIL")),
        (Some(0.25), Some(0.0))
    );
    assert!((dns.p50.unwrap() - 0.001).abs() < 0.0001, "{dns:?}");
    let [udp] = view.udp.as_deref().unwrap() else {
        panic!()
    };
    assert_eq!(
        (
            udp.transmit.packets,
            udp.transmit.packets_rate,
            udp.transmit.bytes_rate
        ),
        (24, 16.0, 800.0)
    );
}
