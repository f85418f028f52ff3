//! The same rules over the same samples here and in a real Prometheus: what each of them records, at every evaluation.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at what it does not expect"
)]

#[path = "../../agent-store/tests/conformance/prometheus.rs"]
mod prometheus;

use agent_rules::file::{self, GroupFile};
use agent_rules::{Environment, Group, Health, Results, Settings};
use agent_slo::{Definition, Ledger, Slo, Template, ledger::Tick, rules, rules::burns};
use agent_store::histogram::Histogram;
use agent_store::labels::Labels;
use agent_store::promql::{Options, Version};
use agent_store::series::{Bounds, Column, Free, Millis, STALE, Samples, Series};
use agent_store::store::{Place, SeriesRef, Settings as Keep, Store, Value};
use prometheus::Prometheus;
use std::collections::BTreeMap;
use std::sync::Arc;

/// 25 minutes before 2020-10-01T00:00:00Z: a day and a month begin in between.
const START: Millis = 1_601_510_400_000 - 1_500_000;
/// Between two samples.
const STEP: Millis = 15_000;
/// No more than an hour: a Prometheus takes nothing older into its head.
const COUNT: Millis = 220;
/// Samples without a round trip or a lookup.
const IDLE: std::ops::Range<Millis> = 70..110;
/// What node and Prometheus may differ by, of themselves.
const TOLERANCE: f64 = 1e-3;

fn floats(labels: &[(&str, &str)], value: impl Fn(Millis) -> Option<f64>) -> Series {
    let (mut times, mut values) = (Vec::new(), Vec::new());
    for step in 0..COUNT {
        if let Some(value) = value(step) {
            times.push(START + step * STEP);
            values.push(value);
        }
    }
    let floats = Column { times, values };
    Series {
        labels: Labels::new(labels.iter().copied()),
        samples: Samples {
            floats,
            ..Samples::default()
        },
    }
}

/// Round trips around two milliseconds and, now and then, two hundred.
fn histograms(labels: &[(&str, &str)], slow: impl Fn(Millis) -> f64) -> Series {
    let mut histogram = Histogram {
        schema: 3,
        zero_threshold: 1e-9,
        ..Histogram::default()
    };
    let mut column = Column::default();
    for step in 0..COUNT {
        if step == 130 {
            // A new process.
            histogram.positive.clear();
            (histogram.count, histogram.sum) = (0.0, 0.0);
        }
        for (value, count) in [(0.002, 20.0 + (step % 7) as f64), (0.11, 3.0), (0.2, slow(step))] {
            // For longer than the rates look back nothing happens.
            let count = if IDLE.contains(&step) { 0.0 } else { count };
            let index = (f64::log2(value) * 8.0).ceil() as i32;
            match histogram.positive.binary_search_by_key(&index, |bucket| bucket.0) {
                Ok(at) => histogram.positive[at].1 += count,
                Err(at) => histogram.positive.insert(at, (index, count)),
            }
            histogram.count += count;
            histogram.sum += count * value;
        }
        column.times.push(START + step * STEP);
        column.values.push(Arc::new(histogram.clone()));
    }
    Series {
        labels: Labels::new(labels.iter().copied()),
        samples: Samples {
            histograms: column,
            ..Samples::default()
        },
    }
}

fn data() -> Vec<Series> {
    let mut all = Vec::new();
    for (peer, rate) in [("db", 37.0), ("cache", 5.0)] {
        let own = [("instance", "n"), ("peer", peer)];
        let with = |name: &'static str, more: &[(&'static str, &'static str)]| {
            let mut labels = vec![("__name__", name)];
            labels.extend(own);
            labels.extend(more);
            labels
        };
        let opened = with(
            "geophone_tcp_connections_total",
            &[("role", "client"), ("outcome", "opened")],
        );
        // A reset, and a gap.
        all.push(floats(&opened, |step| match step {
            90..=100 => None,
            150.. => Some((step - 150) as f64 * rate),
            _ => Some(1e6 + step as f64 * rate),
        }));
        let failed = with(
            "geophone_tcp_connections_total",
            &[("role", "client"), ("outcome", "failed")],
        );
        // It begins late, when the first fails, and comes in bursts.
        all.push(floats(&failed, |step| {
            (step >= 60).then_some((step / 20) as f64 * rate)
        }));
        let segments = with("geophone_tcp_segments_total", &[("direction", "transmit")]);
        all.push(floats(&segments, |step| Some(step as f64 * 1000.0 * rate)));
        let lost = with("geophone_tcp_retransmits_total", &[("type", "fast")]);
        all.push(floats(&lost, |step| Some((step * step) as f64 / 40.0)));
        let rtt = with("geophone_tcp_rtt_seconds", &[]);
        all.push(histograms(&rtt, |step| if step % 50 < 10 { 4.0 } else { 0.0 }));
    }
    let lookups = [
        ("__name__", "geophone_dns_lookup_seconds"),
        ("instance", "n"),
        ("server", "s"),
        ("rcode", "NOERROR"),
    ];
    all.push(histograms(&lookups, |_| 1.0));
    let mut failed = lookups;
    failed[3].1 = "SERVFAIL";
    all.push(histograms(&failed, |_| 2.0));
    let timeouts = [
        ("__name__", "geophone_dns_timeouts_total"),
        ("instance", "n"),
        ("server", "s"),
    ];
    all.push(floats(&timeouts, |step| (step > 30).then_some((step / 7) as f64)));
    for (state, up) in [("up", true), ("down", false)] {
        let labels = [
            ("__name__", "geophone_tunnel_state"),
            ("instance", "n"),
            ("type", "vxlan"),
            ("id", "7"),
            ("state", state),
        ];
        all.push(floats(&labels, |step| {
            Some(f64::from((80..110).contains(&step) != up))
        }));
    }
    all
}

fn slos() -> Vec<Slo> {
    let mut all = Vec::new();
    for template in Template::ALL {
        for window in ["1h", "7d", "day", "month"] {
            all.push(Definition {
                name: format!("{}-{window}", template.name()),
                template: Some(template),
                window: window.to_owned(),
                objective: 99.5,
                below: (template == Template::PeerLatency).then_some(0.15),
                ..Definition::default()
            });
        }
    }
    all.push(Definition {
        name: "value".to_owned(),
        value: Some("sum by (instance) (geophone_tunnel_state)".to_owned()),
        at_most: Some(0.5),
        window: "1h".to_owned(),
        ..Definition::default()
    });
    all.iter().map(|one| Slo::new(one).unwrap()).collect()
}

fn store(all: &[Series]) -> Store {
    let keep = Keep {
        worker: false,
        ..Keep::default()
    };
    let store = Store::open(Place::Memory, keep).unwrap().0;
    let mut ticks: BTreeMap<Millis, Vec<(SeriesRef, Value)>> = BTreeMap::new();
    for series in all {
        let id = store.register(&series.labels).unwrap();
        let floats = &series.samples.floats;
        for (time, value) in floats.times.iter().zip(&floats.values) {
            ticks.entry(*time).or_default().push((id, Value::Float(*value)));
        }
        let histograms = &series.samples.histograms;
        for (time, value) in histograms.times.iter().zip(&histograms.values) {
            ticks
                .entry(*time)
                .or_default()
                .push((id, Value::Histogram(value.clone())));
        }
    }
    for (time, samples) in ticks {
        store.append(time, &samples);
    }
    store
}

type Recorded = BTreeMap<Labels, BTreeMap<Millis, f64>>;

/// When a group is evaluated.
fn steps(group: &GroupFile) -> (Millis, Millis, Millis) {
    (START, START + (COUNT - 1) * STEP, group.interval.unwrap())
}

fn ours(groups: &[GroupFile], data: &[Series]) -> Recorded {
    let store = store(data);
    let bounds = || -> Box<dyn Bounds> { Box::new(Free) };
    // Debian's.
    let options = Options {
        version: Version::Two,
        ..Options::default()
    };
    let settings = Settings {
        options,
        ..Settings::default()
    };
    let mut results = Results::default();
    // Group by group, as it is done over there: nothing of a later one is needed by one before.
    for group in groups {
        let (mut at, end, interval) = steps(group);
        let mut group = Group::new(group.clone(), false);
        while at <= end {
            let environment = Environment {
                source: &store,
                bounds: &bounds,
                settings: &settings,
            };
            group.evaluate(at, &environment, &mut results);
            for rule in &group.rules {
                assert_eq!(rule.health, Health::Ok, "{} {}", group.file.name, rule.file.name);
            }
            at += interval;
        }
    }
    let mut found = Recorded::new();
    for series in results.take() {
        let samples = series.samples.floats;
        let values = samples.times.into_iter().zip(samples.values);
        let values = values.filter(|(_, value)| !agent_store::series::is_stale(*value));
        found.entry(series.labels).or_default().extend(values);
    }
    found.retain(|labels, _| labels.name().starts_with(rules::PREFIX));
    found
}

/// Each recording rule as a range query, whose result is written back before the next rule, as Prometheus' own backfilling does.
fn theirs(groups: &[GroupFile], data: &[Series]) -> Option<Recorded> {
    let prometheus = Prometheus::start()?;
    prometheus.fill(data);
    let mut found = Recorded::new();
    for group in groups {
        let (start, end, interval) = steps(group);
        for rule in group.rules.iter().filter(|rule| rule.alert.is_none()) {
            let seconds = |ms: Millis| format!("{:.3}", ms as f64 / 1000.0);
            let form = [
                ("query", rule.expr.clone()),
                ("start", seconds(start)),
                ("end", seconds(end)),
                ("step", seconds(interval)),
            ];
            let (status, body) = prometheus.ask("/api/v1/query_range", &form);
            assert_eq!(status, 200, "{}: {body}", rule.expr);
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            let mut written = Vec::new();
            for one in body["data"]["result"].as_array().unwrap() {
                let own = one["metric"].as_object().unwrap().iter();
                let own = own.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()));
                let given = rule
                    .labels
                    .iter()
                    .map(|(name, text)| (name.clone(), text.source.clone()));
                let name = [("__name__".to_owned(), rule.name.clone())];
                let labels = Labels::new(own.chain(name).chain(given));
                let points = one["values"].as_array().unwrap().iter().map(|point| {
                    let at = (point[0].as_f64().unwrap() * 1000.0).round() as Millis;
                    (at, point[1].as_str().unwrap().parse::<f64>().unwrap())
                });
                let points: BTreeMap<Millis, f64> = points.collect();
                // As a rule does it, a series ends with a marker where it has no value any more.
                let mut floats = Column::default();
                for at in (0..)
                    .map(|step| start + step * interval)
                    .take_while(|at| *at <= end)
                {
                    let value = points.get(&at).copied();
                    if value.is_some() || points.contains_key(&(at - interval)) {
                        floats.times.push(at);
                        floats.values.push(value.unwrap_or(STALE));
                    }
                }
                found.entry(labels.clone()).or_default().extend(points);
                written.push(Series {
                    labels,
                    samples: Samples {
                        floats,
                        ..Samples::default()
                    },
                });
            }
            if !written.is_empty() {
                prometheus.fill(&written);
            }
        }
    }
    Some(found)
}

#[test]
fn node_and_prometheus_agree() {
    let (slos, data) = (slos(), data());
    let groups = file::parse("slo.yaml", &rules::write(&slos).unwrap()).unwrap();
    let ours = ours(&groups, &data);
    let Some(theirs) = theirs(&groups, &data) else {
        println!("SKIPPED: no prometheus here; `cargo xtask setup test` installs it");
        return;
    };
    let (mut compared, mut worst) = (0, 0.0_f64);
    let names: Vec<&Labels> = theirs.keys().collect();
    assert_eq!(ours.keys().collect::<Vec<_>>(), names);
    for (labels, wanted) in &theirs {
        let found = &ours[labels];
        for (at, wanted) in wanted {
            let found = found
                .get(at)
                .unwrap_or_else(|| panic!("{labels:?} at {at}: nothing, not {wanted}"));
            let off = (found - wanted).abs() / wanted.abs().max(1e-9);
            assert!(off <= TOLERANCE, "{labels:?} at {at}: {found}, not {wanted}");
            (compared, worst) = (compared + 1, worst.max(off));
        }
        assert_eq!(found.len(), wanted.len(), "{labels:?}");
    }
    println!(
        "{compared} values of {} series, off by {worst:e} at most",
        theirs.len()
    );
    assert!(compared > 20_000, "{compared}");
    // Each has burned something, or nothing was compared.
    for slo in &slos {
        let burned = theirs.iter().any(|(labels, values)| {
            labels.name() == "geophone_slo_bad_events"
                && labels.get("slo") == slo.name
                && values.values().any(|bad| *bad > 0.0)
        });
        assert!(burned, "{}", slo.name);
    }
    // That nothing happened is known.
    let idle = START + (IDLE.end - 1) * STEP;
    let latency = ours.iter().filter(|(labels, _)| {
        labels.name() == "geophone_slo_total_events" && labels.get("slo").starts_with("peer-latency")
    });
    let idle: Vec<f64> = latency
        .filter_map(|(_, values)| values.range(idle - 2 * STEP..=idle).next_back())
        .map(|(_, value)| *value)
        .collect();
    // Two peers, four windows.
    assert_eq!(idle, [0.0; 8]);
    ledgers(&slos, &ours);
}

/// The ledger of what the rules recorded says what they say.
fn ledgers(slos: &[Slo], recorded: &Recorded) {
    let (mut compared, mut told) = (0, 0);
    for slo in slos {
        let series = |name: &'static str| {
            recorded.iter().filter(move |(labels, _)| {
                labels.name().strip_prefix(rules::PREFIX) == Some(name) && labels.get("slo") == slo.name
            })
        };
        let plain = |labels: &Labels| -> Vec<(String, String)> {
            let own = ["__name__", "slo", "period", "window"];
            let all = labels.iter().filter(|(name, _)| !own.contains(&&***name));
            all.map(|(name, value)| (name.to_string(), value.to_string()))
                .collect()
        };
        let mut ticks: BTreeMap<Vec<(String, String)>, BTreeMap<Millis, Tick>> = BTreeMap::new();
        for (name, set) in [
            (
                "bad_events",
                (|tick: &mut Tick, value| tick.bad = value) as fn(&mut Tick, f64),
            ),
            ("total_events", |tick, value| tick.total = value),
            ("covered_seconds", |tick, value| tick.seconds = value),
        ] {
            for (labels, values) in series(name) {
                for (at, value) in values {
                    let of = ticks.entry(plain(labels)).or_default();
                    set(
                        of.entry(*at).or_insert(Tick {
                            at: *at,
                            ..Tick::default()
                        }),
                        *value,
                    );
                }
            }
        }
        for (labels, values) in series("burn_rate") {
            let ledger = Ledger::new(ticks[&plain(labels)].values().copied(), 0);
            let window = agent_slo::Window::named(labels.get("window"));
            for (at, burn) in values {
                let from = match labels.get("window") {
                    "5m" => *at,
                    // Samples of a period are those from its first moment on.
                    _ => window.map_or(*at - 300_000 * 6, |window| window.begin(*at)),
                };
                let found = ledger.sums(from, *at).burn(slo.budget()).unwrap();
                assert!(
                    (found - burn).abs() <= TOLERANCE * burn.abs().max(1e-6),
                    "{labels:?} at {at}: {found}, not {burn}"
                );
                compared += 1;
            }
        }
        // What would have been told is what the alerts' expressions say; those of a day and more are looked at more rarely.
        let all = burns(slo.budget(), slo.window.reach());
        for burn in all.iter().filter(|burn| burn.long <= 6 * 3_600_000) {
            let rates = |length: Millis| {
                let name = match length / 3_600_000 {
                    0 => format!("{}m", length / 60_000),
                    hours => format!("{hours}h"),
                };
                let all = series("burn_rate").filter(move |(labels, _)| labels.get("window") == name);
                all.map(|(labels, values)| (plain(labels), values))
                    .collect::<BTreeMap<_, _>>()
            };
            let (long, brief) = (rates(burn.long), rates(burn.short));
            for (of, brief) in brief {
                let Some(long) = long.get(&of) else { continue };
                let ledger = Ledger::new(ticks[&of].values().copied(), 0);
                let found = ledger.told(0, Millis::MAX, slo.budget(), slo.window.reach());
                for (at, rate) in brief {
                    let wanted = *rate > burn.factor && long.get(at).is_some_and(|rate| *rate > burn.factor);
                    let found = found
                        .iter()
                        .any(|one| one.burn == *burn && one.start < *at && *at <= one.end);
                    assert_eq!(found, wanted, "{} {of:?} {} at {at}", slo.name, burn.factor);
                    told += usize::from(wanted);
                }
            }
        }
    }
    assert!(compared > 5_000 && told > 500, "{compared}, {told}");
}
