//! Files of OpenSLO: those that are right, those that are not, and those that nobody should have to read.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at what it does not expect"
)]

use agent_slo::indicator::{Failed, Judge};
use agent_slo::openslo::{looks_like, parse};
use agent_slo::{Indicator, Slo, Window, rules};

const EXAMPLES: [(&str, &str); 4] = [
    ("availability.yaml", include_str!("openslo/availability.yaml")),
    ("latency.yaml", include_str!("openslo/latency.yaml")),
    ("calendar.yaml", include_str!("openslo/calendar.yaml")),
    ("upstream.yaml", include_str!("openslo/upstream.yaml")),
];

fn example(name: &str) -> Vec<Slo> {
    let (_, text) = EXAMPLES.iter().find(|(file, _)| *file == name).unwrap();
    parse(name, text).unwrap().slos
}

#[test]
fn examples_become_rules() {
    for (name, text) in EXAMPLES {
        assert!(looks_like(text), "{name}");
        let read = parse(name, text).unwrap();
        let written = rules::write(&read.slos).unwrap();
        agent_rules::file::parse(name, &written).unwrap();
    }
}

#[test]
fn a_ratio_of_counters() {
    let [slo] = &example("availability.yaml")[..] else {
        panic!("not one")
    };
    assert_eq!(
        (slo.name.as_str(), slo.service.as_str()),
        ("foo-availability", "foo")
    );
    assert_eq!(
        (slo.objective, slo.window),
        (0.98, Window::Rolling(28 * 86_400_000))
    );
    let Indicator::Events {
        failed: Failed::AllBut(good),
        total,
    } = &slo.indicator
    else {
        panic!("{slo:?}")
    };
    assert_eq!(
        good,
        "sum by () (rate(localhost_server_requests{code=~\"2xx|3xx|4xx\",host=\"*\",instance=\"127.0.0.1:9090\"}[$window]))"
    );
    assert_eq!(
        total,
        "sum by () (rate(localhost_server_requests{code=\"*\",host=\"*\",instance=\"127.0.0.1:9090\"}[$window]))"
    );
    let read = parse("a.yaml", EXAMPLES[0].1).unwrap();
    assert_eq!(read.remarks.len(), 2, "{:?}", read.remarks);
    assert!(
        read.remarks
            .iter()
            .any(|remark| remark.starts_with("a.yaml:2: kind Service"))
    );
}

#[test]
fn thresholds_by_occurrence_and_by_slice() {
    let slos = example("latency.yaml");
    let names: Vec<&str> = slos.iter().map(|slo| slo.name.as_str()).collect();
    assert_eq!(
        names,
        ["web-latency-1", "web-latency-2", "web-slices", "web-shares"]
    );
    let judges: Vec<Judge> = slos
        .iter()
        .map(|slo| match &slo.indicator {
            Indicator::Time { judge, .. } => *judge,
            Indicator::Events { .. } => panic!("events"),
        })
        .collect();
    assert_eq!(
        judges,
        [
            Judge::AtMost(0.2),
            Judge::AtMost(0.5),
            Judge::AtLeast(0.95),
            Judge::Share
        ]
    );
    assert_eq!(slos[0].objective, 0.95);
    assert_eq!(slos[1].objective, 0.995);
}

#[test]
fn windows_of_the_calendar() {
    let windows: Vec<Window> = example("calendar.yaml").iter().map(|slo| slo.window).collect();
    let day = 86_400_000;
    let weeks = Window::Periods {
        start: 1_704_067_200_000,
        length: 14 * day,
    };
    assert_eq!(windows, [Window::Month, weeks, Window::Rolling(90 * day)]);
}

/// Cause: objects in the shape of OpenSLO's own examples. Seen: each is taken, named as it is shown where that tells one from another, and
/// what was taken otherwise than it stands there is remarked with its line.
#[test]
fn examples_of_others_are_taken() {
    let text = EXAMPLES[3].1;
    let read = parse("u.yaml", text).unwrap();
    let names: Vec<&str> = read.slos.iter().map(|slo| slo.name.as_str()).collect();
    let service = "service-availability";
    let own = ["Internal-objective-ours", "SLA", "3", "same", "5"].map(|own| format!("{service}-{own}"));
    let wanted: Vec<&str> = ["main-page"]
        .into_iter()
        .chain(own.iter().map(String::as_str))
        .collect();
    assert_eq!(names[..6], wanted);
    assert_eq!(names[6..], ["search-slo"]);
    assert_eq!(read.slos[0].service, "my service: {{ A }}");
    let Indicator::Time { query, .. } = &read.slos[0].indicator else {
        panic!("{:?}", read.slos[0])
    };
    assert!(query.contains("code=~\"[23]..\"}[1m])"), "{query}");
    for (line, words) in [
        (
            21,
            "main-page: ratioMetric: good and total: query: the range of 5m is taken for the window",
        ),
        (
            33,
            "main-page: objective: op: a ratio is compared with its target alone; left out",
        ),
        (
            40,
            "metadata.name: \"Üñï service availability\" is called service-availability here",
        ),
        (69, "service-availability: objective: op: a ratio"),
    ] {
        let wanted = format!("u.yaml:{line}: {words}");
        let found = read.remarks.iter().any(|remark| remark.starts_with(&wanted));
        assert!(found, "{wanted}: {:#?}", read.remarks);
    }
    assert_eq!(read.remarks.len(), 4, "{:#?}", read.remarks);
    // What a service is called cannot become a template, nor be lost.
    let groups = agent_rules::file::parse("r", &rules::write(&read.slos).unwrap()).unwrap();
    let mut rules = groups.iter().flat_map(|group| &group.rules);
    let alert = rules.find(|rule| rule.alert.is_some()).unwrap();
    let (_, label) = alert.labels.iter().find(|(name, _)| name == "service").unwrap();
    assert!(label.source.contains("my service: "), "{}", label.source);
}

/// A file with one SLO, changed somewhere.
fn changed(from: &str, to: &str) -> String {
    let text = "apiVersion: openslo/v1
kind: SLO
metadata: {name: web}
spec:
  service: shop
  indicator:
    metadata: {name: web}
    spec:
      ratioMetric:
        counter: true
        bad: {metricSource: {type: Prometheus, spec: {query: 'x{code=\"5\"}'}}}
        total: {metricSource: {type: Prometheus, spec: {query: x}}}
  timeWindow: [{duration: 30d, isRolling: true}]
  budgetingMethod: Occurrences
  objectives: [{target: 0.99}]
";
    assert!(text.contains(from), "{from}");
    text.replace(from, to)
}

#[test]
fn each_mistake_is_one_line_that_says_where() {
    parse("a.yaml", &changed("shop", "shop")).unwrap();
    for (from, to, wanted) in [
        (
            "openslo/v1",
            "openslo/v1alpha",
            "a.yaml:1: apiVersion: expected openslo/v1, found \"openslo/v1alpha\"",
        ),
        (
            "kind: SLO",
            "kind: Slo",
            "a.yaml:2: kind: expected SLO or SLI, found \"Slo\"",
        ),
        (
            "name: web}\nspec",
            "name: ключ}\nspec",
            "a.yaml:3: metadata.name: expected 1 to 63 letters",
        ),
        (
            "  service: shop",
            "  owner: shop",
            "a.yaml:5: web: \"owner\" is not supported, there are description, service",
        ),
        (
            "ratioMetric",
            "burnMetric",
            "a.yaml:9: web: \"burnMetric\" is not supported",
        ),
        (
            "type: Prometheus, spec: {query: x}",
            "type: Datadog, spec: {query: x}",
            "a.yaml:12: web: ratioMetric: total: metricSource: type: only Prometheus can be asked, found \"Datadog\"",
        ),
        (
            "{query: x}",
            "{query: 'rate(x[5m])'}",
            "a.yaml:12: web: ratioMetric: total: query: expected a selector, sum(selector), or a query with $window",
        ),
        (
            "'x{code=\"5\"}'}}}\n        total: {metricSource: {type: Prometheus, spec: {query: x}}}",
            "'sum(rate(x[5m]))'}}}\n        total: {metricSource: {type: Prometheus, spec: {query: 'sum(rate(x[10m]))'}}}",
            "a.yaml:11: web: ratioMetric: bad: query: its range is 5m, but that of total 10m; write $window in both",
        ),
        (
            "{query: x}",
            "{query: 'sum('}",
            "a.yaml:12: web: ratioMetric: total: query: ",
        ),
        (
            "{query: x}",
            "{query: 'x offset 5m'}",
            "a.yaml:12: web: ratioMetric: total: query: a selector with offset",
        ),
        (
            "{query: x}",
            "{sql: x}",
            "a.yaml:12: web: ratioMetric: total: metricSource: spec: \"sql\" is not supported",
        ),
        (
            "counter: true",
            "counter: maybe",
            "a.yaml:10: web: ratioMetric: counter: expected true or false",
        ),
        (
            "        bad:",
            "        total2:",
            "a.yaml:11: web: ratioMetric: \"total2\" is not supported",
        ),
        (
            "  indicator:",
            "  indicatorRef: y\n  indicator:",
            "a.yaml:7: web: indicator and indicatorRef are given",
        ),
        (
            "30d",
            "30",
            "a.yaml:13: web: timeWindow: duration: expected e.g. 30d",
        ),
        (
            "30d",
            "10m",
            "a.yaml:13: web: timeWindow: duration: 10m is out of range, 1h to 366d",
        ),
        (
            "30d",
            "9223372036854775807Y",
            "a.yaml:13: web: timeWindow: duration: 9223372036854775807Y is too long",
        ),
        (
            "isRolling: true",
            "isRolling: false",
            "a.yaml:13: web: timeWindow: a window that is not rolling needs a calendar",
        ),
        (
            "30d, isRolling: true",
            "1M, calendar: {startTime: 2020-01-01 00:00:00, timeZone: America/New_York}",
            "a.yaml:13: web: timeWindow: timeZone: PromQL's calendar is UTC, found \"America/New_York\"",
        ),
        (
            "30d, isRolling: true",
            "1M, calendar: {startTime: 2020-01-21 12:30:00}",
            "a.yaml:13: web: timeWindow: startTime: a month begins on the first",
        ),
        (
            "30d, isRolling: true",
            "1Q, calendar: {startTime: 2020-01-01 00:00:00}",
            "a.yaml:13: web: timeWindow: duration: of the calendar there are days, weeks and 1M",
        ),
        (
            "Occurrences",
            "Sometimes",
            "a.yaml:14: web: budgetingMethod: expected Occurrences, Timeslices or RatioTimeslices",
        ),
        (
            "{target: 0.99}",
            "{target: 1.0}",
            "a.yaml:15: web: objective: target: 100 % leaves no budget",
        ),
        (
            "{target: 0.99}",
            "{targetPercent: 0.99}",
            "a.yaml:15: web: objective: targetPercent: 0.99 % is out of range",
        ),
        (
            "{target: 0.99}",
            "{target: often}",
            "a.yaml:15: web: objective: target: expected a number, found \"often\"",
        ),
        (
            "{target: 0.99}",
            "{target: 0.99, targetPercent: 99}",
            "a.yaml:15: web: objective: target and targetPercent are given",
        ),
        (
            "{target: 0.99}",
            "{target: 0.99, compositeWeight: 1}",
            "a.yaml:15: web: objective: \"compositeWeight\" is not supported",
        ),
        (
            "[{target: 0.99}]",
            "[]",
            "a.yaml:15: web: objectives: expected a list",
        ),
        (
            "metadata: {name: web}\nspec",
            "spec",
            "a.yaml:1: object: it has no metadata, add it",
        ),
    ] {
        let faults = parse("a.yaml", &changed(from, to)).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        let told = faults[0].to_string();
        assert!(
            told.starts_with(wanted) && !told.contains('\n'),
            "{told}\n{wanted}"
        );
    }
    let two = changed("shop", "shop");
    let faults = parse("a.yaml", &format!("{two}---\n{two}")).unwrap_err();
    assert!(
        faults[0].to_string().contains("two objectives of this name"),
        "{faults:?}"
    );
}

#[test]
fn hostile_files_are_refused_quickly() {
    let began = std::time::Instant::now();
    let bomb = (1..40).fold("a0: &a0 [x,x]\n".to_owned(), |text, at| {
        text + &format!("a{at}: &a{at} [*a{},*a{}]\n", at - 1, at - 1)
    });
    let many = format!("- {}\n", changed("shop", "shop").replace('\n', "\n  ").trim_end()).repeat(3);
    for text in [
        String::new(),
        "\0".to_owned(),
        "a: &a [*a]".to_owned(),
        "[".repeat(100_000),
        "{a: ".repeat(5_000),
        bomb,
        "apiVersion: openslo/v1".to_owned(),
        "- 1\n- [2]\n- {a: b}".to_owned(),
        "? [a]\n: b".to_owned(),
        "apiVersion: openslo/v1\nkind: SLO\nkind: SLO".to_owned(),
        changed("{query: x}", &format!("{{query: '{}'}}", "(".repeat(100_000))),
        changed("{query: x}", &format!("{{query: '{}x'}}", "-".repeat(15_000))),
        changed("{query: x}", "{query: \"x{a='\\e'}\"}"),
        changed("{query: x}", "{query: 'x{a=\"{{ $labels.a }}\"}'}"),
        changed("{query: x}", "{query: 'x offset 1e30'}"),
        changed("0.99", ".nan"),
        changed("0.99", "1e400"),
        changed(
            "name: web}\nspec",
            &format!("name: {}}}\nspec", "n".repeat(1_000_000)),
        ),
        many,
        "\u{feff}%YAML 9.9\n---\n!!binary |\n  x".to_owned(),
    ] {
        let faults = parse("a.yaml", &text).unwrap_err();
        for fault in faults {
            let told = fault.to_string();
            assert!(
                !told.contains('\n') && told.len() < 2000,
                "{} bytes: {}",
                told.len(),
                told.chars().take(200).collect::<String>()
            );
        }
    }
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

/// What a file says for people cannot become part of a rule.
#[test]
fn texts_stay_texts() {
    let text = changed(
        "  service: shop",
        "  description: \"{{ query \\\"x\\\" }}\\n- alert: y \\u2028 # '\\\"\"",
    );
    let slos = parse("a.yaml", &text).unwrap().slos;
    let groups = agent_rules::file::parse("r", &rules::write(&slos).unwrap()).unwrap();
    let alerts = groups
        .iter()
        .flat_map(|group| &group.rules)
        .filter(|rule| rule.alert.is_some());
    assert_eq!(alerts.count(), 4);
}
