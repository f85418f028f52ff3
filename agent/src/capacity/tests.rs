//! Weeks of series go into a store, and what runs out comes out.

use super::history::History;
use super::*;
use crate::aggregate::{Collect as _, Value as Shown};
use crate::config::StoreKind;
use agent_score::capacity::{Exhaustion, Method};
use agent_store::labels::Labels;
use agent_store::store::Value;

const START: Millis = 1_760_000_000_000;
const MINUTE: Millis = 60_000;
const DAY: Millis = 86_400_000;

fn labels(name: &str, more: &[(&str, &str)]) -> Labels {
    let own = [("__name__", name), ("instance", "n"), ("job", "geophone")];
    Labels::new(own.into_iter().chain(more.iter().copied()))
}

/// Three days, a sample a minute: a disk that fills in two more, a conntrack table that does not, an interface at a tenth of its speed, a
/// listen queue that was full for a moment each hour, an interface whose speed nobody says, a disk that was taken out, and one that is
/// there for the last half an hour of each day.
fn fill(memory: &Memory, minutes: std::ops::Range<Millis>) {
    let disk = [("resource", "filesystem"), ("device", "vda1")];
    let old = [("resource", "filesystem"), ("device", "usb1")];
    let backup = [("resource", "filesystem"), ("device", "usb2")];
    let queue = [("resource", "listen_queue"), ("device", "0.0.0.0:80")];
    let conntrack = [("resource", "conntrack")];
    let (eth0, veth) = (
        [("device", "eth0"), ("direction", "transmit")],
        [("device", "veth"), ("direction", "transmit")],
    );
    let limit = "geophone_node_limit";
    for minute in minutes {
        let days = minute as f64 / 1440.0;
        let mut all = vec![
            (labels("geophone_node_used", &disk), 40e9 + 4e9 * days),
            (labels(limit, &disk), 60e9),
            (labels("geophone_node_used", &conntrack), 1000.0),
            (labels(limit, &conntrack), 10_000.0),
            (
                labels("geophone_node_used", &queue),
                if minute % 60 == 30 { 128.0 } else { 0.0 },
            ),
            (labels(limit, &queue), 128.0),
            (
                labels("geophone_netdev_bytes_total", &eth0),
                minute as f64 * 60.0 * 12.5e6,
            ),
            (labels("geophone_netdev_speed_bytes", &eth0[..1]), 125e6),
            (labels("geophone_netdev_bytes_total", &veth), 0.0),
            (labels("geophone_map_used", &[("map", "PAIRS")]), 10.0),
            (labels("geophone_map_limit", &[("map", "PAIRS")]), 255.0),
        ];
        if minute < 1440 {
            all.push((labels("geophone_node_used", &old), 1e9));
        }
        if minute % 1440 >= 1410 {
            all.push((labels("geophone_node_used", &backup), 1e9 + days));
        }
        let samples = all
            .iter()
            .map(|(labels, value)| (memory.store().register(labels).unwrap(), Value::Float(*value)));
        memory
            .store()
            .append(START + minute * MINUTE, &samples.collect::<Vec<_>>());
    }
}

fn config() -> Config {
    let mut config = Config::default();
    config.store.kind = StoreKind::Memory;
    config.host = "n".to_owned();
    config
}

/// Cause: the store as it comes, thirty days, an interface at 80 % on working days and at 20 % at weekends, from each day of the week on.
/// Seen: its course is that of the week, so that no trend is made of the day on which it began; all else is gone after fifteen days.
#[test]
fn the_week_is_known_by_the_store_as_it_comes() {
    for begin in [0, 2, 5] {
        let mut config = config();
        config.store.kind = StoreKind::Disk;
        let directory = tempfile::tempdir().unwrap();
        directory.path().clone_into(&mut config.store.directory);
        let memory = Arc::new(Memory::open(&config.store).unwrap().unwrap());
        let device = [("device", "eth0"), ("direction", "transmit")];
        let all = [
            labels("geophone_netdev_bytes_total", &device),
            labels("geophone_netdev_speed_bytes", &device[..1]),
            labels("geophone_other", &[]),
        ];
        let all = all.map(|labels| memory.store().register(&labels).unwrap());
        let mut bytes = 0.0;
        for minute in 0..30 * 1440 {
            let at = (START / DAY + begin) * DAY + minute * MINUTE;
            // 1970 began with a Thursday.
            let weekday = (at / DAY + 3) % 7;
            bytes += 60.0 * if weekday < 5 { 100e6 } else { 25e6 };
            let values = [bytes, 125e6, 1.0].map(Value::Float);
            memory
                .store()
                .append(at, &all.iter().copied().zip(values).collect::<Vec<_>>());
            if minute % 1440 == 0 {
                memory.store().maintain();
            }
        }
        memory.store().maintain();
        let others = [agent_store::series::Matcher::equal("__name__", "geophone_other")];
        let limits = memory.limits(Duration::from_secs(30));
        let last = memory.store().last();
        let found = agent_store::series::Source::select(memory.store(), &others, 0, last, &limits).unwrap();
        let days = (last - found[0].samples.floats.times[0]) / DAY;
        assert!((14..18).contains(&days), "{days} days of all others");
        let live = Live::new(&config, Some(&memory)).unwrap();
        let report = live.report().unwrap();
        let forecast = of(&report, "interface eth0 transmit").forecast.as_ref().unwrap();
        assert!(forecast.days > 27.0, "{forecast:?}");
        assert_eq!(forecast.trusted, Method::Seasonal, "{forecast:?}");
        let best = forecast.best().unwrap();
        assert!(
            best.per_day.value.abs() < 0.2e6 && matches!(best.exhaustion, Some(Exhaustion::NotWithin { .. })),
            "{begin}: {best:?}"
        );
        println!(
            "{begin}: {} {:?}",
            forecast.forecasts[0].per_day.value, best.per_day
        );
    }
}

fn of<'a>(report: &'a Report, title: &str) -> &'a Resource {
    let found = report.resources.iter().find(|one| one.title() == title);
    found.unwrap_or_else(|| panic!("no {title}: {report:#?}"))
}

#[test]
fn what_fills_up_is_first_and_the_rest_is_as_full_as_it_is() {
    let config = config();
    let memory = Arc::new(Memory::open(&config.store).unwrap().unwrap());
    fill(&memory, 0..3 * 1440);
    let live = Live::new(&config, Some(&memory)).unwrap();
    let report = live.report().unwrap();
    let titles: Vec<String> = report.resources.iter().map(Resource::title).collect();
    assert_eq!(titles.len(), 7, "{titles:?}");
    let disk = &report.resources[0];
    assert_eq!(disk.title(), "filesystem vda1");
    // 52 of 60 GB after three days, and 4 a day.
    let (days, latest) = disk.days().unwrap();
    assert!(
        (days - 2.0).abs() < 0.05 && disk.earliest().unwrap() <= days && latest.unwrap() >= days,
        "{days}"
    );
    assert!((disk.utilization.unwrap() - 52.0 / 60.0).abs() < 0.001);
    assert!((disk.growth().unwrap() - 4.0 / 60.0).abs() < 0.001);
    let best = disk.forecast.as_ref().unwrap().best().unwrap();
    assert!(best.r_squared > 0.999 && best.values[0].is_none(), "{best:?}");
    assert!(
        report
            .bottleneck
            .starts_with("first of all: filesystem vda1 is exhausted in "),
        "{}",
        report.bottleneck
    );
    assert!(
        (of(&report, "interface eth0 transmit").utilization.unwrap() - 0.1).abs() < 1e-6,
        "{report:#?}"
    );
    let unlimited = of(&report, "interface veth transmit");
    assert_eq!(
        (unlimited.limit, unlimited.forecast.is_some()),
        (None, false),
        "{unlimited:?}"
    );
    assert_eq!(unlimited.not_enough.as_deref(), Some("no limit is known"));
    assert!((of(&report, "map PAIRS").utilization.unwrap() - 10.0 / 255.0).abs() < 1e-9);
    assert_eq!(of(&report, "conntrack").days(), None);
    assert_eq!(of(&report, "listen_queue 0.0.0.0:80").used, Some(0.0));
    // As others get it.
    let text = serde_json::to_string(report.as_ref()).unwrap();
    let again: Report = serde_json::from_str(&text).unwrap();
    assert_eq!(again.resources.len(), 7);
}

#[test]
fn what_is_read_bit_by_bit_is_what_is_read_at_once() {
    let config = config();
    let memory = Memory::open(&config.store).unwrap().unwrap();
    let retention = retention(&config.store);
    let mut bits = History::new(Some("n".to_owned()), 15 * DAY);
    // At noon the disk of the night is not there.
    for half in 0..6 {
        fill(&memory, half * 720..(half + 1) * 720);
        bits.read(&memory, memory.store().last(), retention).unwrap();
    }
    let mut whole = History::new(None, 15 * DAY);
    whole.read(&memory, memory.store().last(), retention).unwrap();
    assert_eq!(bits.entries.len(), whole.entries.len());
    for (key, entry) in &bits.entries {
        let other = &whole.entries[key];
        assert_eq!(entry.points.series(), other.points.series(), "{key:?}");
        assert_eq!(entry.limit, other.limit, "{key:?}");
        if key.resource == "listen_queue" {
            // A moment counts as much as the minutes beside it.
            let full = entry.points.series().into_iter().filter(|point| point.1 == 128.0);
            assert_eq!(full.count(), 72);
        }
    }
    let mut nobody = History::new(Some("m".to_owned()), 15 * DAY);
    nobody.read(&memory, memory.store().last(), retention).unwrap();
    assert!(nobody.entries.is_empty());
}

#[test]
fn the_metrics_are_those_of_the_latest_report() {
    let config = config();
    let memory = Arc::new(Memory::open(&config.store).unwrap().unwrap());
    fill(&memory, 0..3 * 1440);
    let live = Live::new(&config, Some(&memory)).unwrap();
    let mut collect = StatsCollect::new(live.clone(), 1);
    let mut ask = |name: &str, resource: &str| {
        let mut families = Vec::new();
        collect.collect(&mut families);
        let family = families.into_iter().find(|family| family.metric.name == name)?;
        let series = family.series.into_iter();
        let mut values = series
            .filter(|one| one.labels.get(&crate::aggregate::label::RESOURCE).unwrap_or("") == resource)
            .map(|one| match one.value {
                Shown::Gauge(value) => value,
                _ => f64::NAN,
            });
        values.next()
    };
    assert_eq!(ask("geophone_capacity_utilization_ratio", "filesystem"), None);
    live.report().unwrap();
    let seconds = ask("geophone_capacity_exhaustion_seconds", "filesystem").unwrap();
    assert!((seconds - 2.0 * 86_400.0).abs() < 5_000.0, "{seconds}");
    assert!(ask("geophone_capacity_exhaustion_latest_seconds", "filesystem").unwrap() >= seconds);
    assert!(ask("geophone_capacity_exhaustion_earliest_seconds", "filesystem").unwrap() <= seconds);
    assert_eq!(ask("geophone_capacity_exhaustion_seconds", "conntrack"), None);
    assert_eq!(ask("geophone_capacity_utilization_ratio", "conntrack"), Some(0.1));
    assert_eq!(
        ask("geophone_capacity_computed_timestamp_seconds", ""),
        Some((START + (3 * 1440 - 1) * MINUTE) as f64 / 1e3)
    );
    let mut off = config.clone();
    off.capacity.enabled = false;
    assert!(Live::new(&off, Some(&memory)).is_none() && Live::new(&config, None).is_none());
}

/// Cause: forty tables, each fuller than the one before, and one that is nearly empty and grows. Seen: the fullest have forecasts,
/// and that one has; the others say why they have none, and their number is told.
#[test]
fn the_fullest_of_a_kind_are_foretold_and_what_grows() {
    let config = config();
    let memory = Arc::new(Memory::open(&config.store).unwrap().unwrap());
    let maps: Vec<String> = (0..40).map(|i| format!("M{i}")).collect();
    let series: Vec<_> = maps
        .iter()
        .enumerate()
        .flat_map(|(i, map)| {
            let of = |name| labels(name, &[("map", map)]);
            [
                (of("geophone_map_used"), 2.0 * (i as f64 + 1.0)),
                (of("geophone_map_limit"), 100.0),
            ]
        })
        .map(|(labels, value)| (memory.store().register(&labels).unwrap(), Value::Float(value)))
        .collect();
    let grows = [("map", "GROWS")];
    let grows = ["geophone_map_used", "geophone_map_limit"]
        .map(|name| memory.store().register(&labels(name, &grows)).unwrap());
    for at in 0..150 {
        let values = [0.5 + at as f64 * 0.08, 100.0].map(Value::Float);
        let all: Vec<_> = series
            .iter()
            .cloned()
            .chain(grows.into_iter().zip(values))
            .collect();
        memory.store().append(START + at * 10 * MINUTE, &all);
    }
    let report = Live::new(&config, Some(&memory)).unwrap().report().unwrap();
    assert_eq!((report.resources.len(), report.left_out), (41, 9));
    let first = &report.resources[0];
    assert_eq!(first.name, "GROWS");
    // 87.6 left, and 11.5 a day.
    assert!((first.days().unwrap().0 - 7.6).abs() < 0.2, "{first:?}");
    for one in &report.resources {
        let is_full = one.used.unwrap() > 19.0 || one.name == "GROWS";
        assert_eq!(one.forecast.is_some(), is_full, "{one:?}");
        let why = one.not_enough.as_deref().unwrap_or_default();
        assert_eq!(
            why.starts_with("left out, as 32 of its kind"),
            !is_full,
            "{one:?}"
        );
    }
}

/// The report of three days, a sample an hour: file systems by name, of 100 each, and what is used of them at an hour.
fn of_hours(disks: &[(&str, &dyn Fn(f64) -> f64)]) -> Arc<Report> {
    let config = config();
    let memory = Arc::new(Memory::open(&config.store).unwrap().unwrap());
    for hour in 0..72 {
        let samples = disks.iter().flat_map(|(name, used)| {
            let of = |metric| labels(metric, &[("resource", "filesystem"), ("device", name)]);
            [
                (of("geophone_node_used"), used(f64::from(hour))),
                (of("geophone_node_limit"), 100.0),
            ]
        });
        let samples = samples
            .map(|(labels, value)| (memory.store().register(&labels).unwrap(), Value::Float(value)))
            .collect::<Vec<_>>();
        memory
            .store()
            .append(START + i64::from(hour) * 60 * MINUTE, &samples);
    }
    Live::new(&config, Some(&memory)).unwrap().report().unwrap()
}

/// Cause: a disk that is nearly full and does not grow, one whose growth is uncertain, one that fills in twenty days. Seen: in the
/// order of what is known of their end, and only then of how full they are.
#[test]
fn what_may_run_out_is_behind_what_will() {
    let report = of_hours(&[
        ("full", &|_| 95.0),
        ("unsure", &|hour| testing::unsure(hour) + 8.0),
        ("sure", &|hour| 20.0 + 3.0 * hour / 24.0),
    ]);
    let names: Vec<&str> = report.resources.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["sure", "full", "unsure"]);
    let unsure = &report.resources[2];
    assert!(
        unsure.days().is_none() && unsure.earliest().is_some_and(|days| days < 30.0),
        "{unsure:?}"
    );
}
