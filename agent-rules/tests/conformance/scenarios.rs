//! Rules and series.

/// A series: its labels, and a value a minute: a number, `_` for none, `stale` for its end.
pub type Line = (Vec<(&'static str, &'static str)>, Vec<&'static str>);

pub struct Scenario {
    pub name: &'static str,
    pub rules: &'static str,
    pub series: Vec<Line>,
    pub steps: usize,
}

pub fn all() -> Vec<Scenario> {
    vec![life(), recording(), templates(), numbers(), short()]
}

fn line(labels: &[(&'static str, &'static str)], values: &'static str) -> Line {
    (labels.to_vec(), values.split(' ').collect())
}

/// Pending, firing, firing a little longer, resolved, pending again; gaps and ends of series; alerts of alerts. What fails (limits,
/// labels that meet) ends promtool's test, so it is tested beside the code.
fn life() -> Scenario {
    Scenario {
        name: "life",
        rules: include_str!("life.yaml"),
        series: vec![
            line(
                &[("__name__", "up"), ("instance", "a:1"), ("job", "x")],
                "1 0 0 1 0 0 0 0 0 1 1 0 1 1 1 1 1 1 0 0 0 0 0 0 0 0 0 1 1 1",
            ),
            line(
                &[("__name__", "up"), ("instance", "b:1"), ("job", "x")],
                "0 0 0 0 0 _ _ _ 0 0 0 0 stale _ _ 0 0 0 0 0 _ _ _ _ _ _ _ _ _ 0",
            ),
            line(
                &[
                    ("__name__", "up"),
                    ("instance", "c:1"),
                    ("job", "y"),
                    ("severity", "own"),
                ],
                "1 1 1 1 1 1 1 1 1 1 0 0 0 0 0 0 0 0 0 0 0 1 1 1 1 0 0 1 0 0",
            ),
            line(
                &[("__name__", "queue"), ("instance", "a:1")],
                "1 2 3 4 5 6 7 8 9 8 7 6 5 4 3 2 1 2 3 4 5 6 7 8 9 8 7 6 5 4",
            ),
        ],
        steps: 30,
    }
}

/// Rules on rules, labels set and taken away, scalars, series that end.
fn recording() -> Scenario {
    Scenario {
        name: "recording",
        rules: include_str!("recording.yaml"),
        series: vec![
            line(
                &[("__name__", "requests_total"), ("code", "200"), ("job", "x")],
                "0 60 120 180 240 300 360 420 480 540 600 660 720 780 840 900",
            ),
            line(
                &[("__name__", "requests_total"), ("code", "500"), ("job", "x")],
                "0 0 0 6 12 18 24 24 24 30 60 90 120 120 120 120",
            ),
            line(
                &[("__name__", "level"), ("a", "1")],
                "1 2 3 4 5 6 _ _ _ 10 11 stale _ _ 15 16",
            ),
        ],
        steps: 16,
    }
}

/// The language of templates. Not here: `externalURL` and `pathPrefix`, which promtool 2.42 dies of, and a label whose template
/// comes to nothing, of which its `ALERTS` has the template's text.
fn templates() -> Scenario {
    Scenario {
        name: "templates",
        rules: include_str!("templates.yaml"),
        series: vec![
            line(
                &[
                    ("__name__", "level"),
                    ("instance", "db-1.example.org:9100"),
                    ("path", "/var/<lib>&\"x\"\\y"),
                ],
                "12345678 0.25 3 -7 1",
            ),
            line(
                &[
                    ("__name__", "level"),
                    ("instance", "10.0.0.1:80"),
                    ("path", "ümläut ß"),
                ],
                "1 2 3 4 5",
            ),
            line(
                &[
                    ("__name__", "level"),
                    ("instance", "[fe80::1]:80"),
                    ("path", "two\nlines"),
                ],
                "1 2 3 4 5",
            ),
            line(&[("__name__", "other"), ("zone", "b")], "2 2 2 2 2"),
            line(&[("__name__", "other"), ("zone", "a")], "1 1.5 1 1 1"),
        ],
        steps: 5,
    }
}

/// Every function for numbers, on every kind of number.
fn numbers() -> Scenario {
    let values = [
        "0",
        "-0",
        "1",
        "-1",
        "0.5",
        "12345678",
        "1e21",
        "1e20",
        "123456",
        "1234567",
        "999.96",
        "9999.6",
        "1023",
        "1024",
        "1048576",
        "1e-7",
        "0.00001",
        "0.0001",
        "-0.004",
        "59.9",
        "60",
        "3599.999",
        "3600",
        "86399",
        "86400",
        "1e9",
        "-100000.5",
        "0.123456789",
        "1435065584.128",
        "NaN",
        "+Inf",
        "-Inf",
        "1.7976931348623157e308",
        "5e-324",
        "1e15",
        "123456789012345680",
    ];
    Scenario {
        name: "numbers",
        rules: include_str!("numbers.yaml"),
        steps: values.len(),
        series: vec![(vec![("__name__", "level")], values.to_vec())],
    }
}

/// Short forms: thresholds, rates and changes of series that rise and fall, anomalies, and alerts of alerts.
fn short() -> Scenario {
    let queue = |instance| [("__name__", "queue"), ("instance", instance)];
    let resets = |instance, peer| {
        [
            ("__name__", "resets_total"),
            ("instance", instance),
            ("peer", peer),
        ]
    };
    let anomaly = |name, peer| {
        [
            ("__name__", name),
            ("instance", "a"),
            ("watch", "tcp_resets"),
            ("peer", peer),
            ("detectors", "robust"),
        ]
    };
    Scenario {
        name: "short",
        rules: include_str!("short.yaml"),
        series: vec![
            line(
                &queue("a"),
                "1 2 3 4 5 6 7 8 9 8 7 6 5 4 3 2 1 2 3 4 5 6 7 8 9 8 7 6 5 4",
            ),
            line(
                &queue("b"),
                "4 4 4 4 9 9 9 9 4 4 4 4 9 9 9 9 4 4 0 0 0 0 9 9 _ _ 9 9 stale 9",
            ),
            line(
                &resets("a", "db"),
                "0 60 120 180 240 300 301 302 303 304 305 306 307 308 309 310 400 500 600 0 60 120 120 120 120 120 120 120 120 120",
            ),
            line(
                &resets("a", "web"),
                "0 1 2 3 4 5 65 125 185 245 305 306 307 308 309 310 310 310 310 310 310 310 310 310 310 310 310 310 310 310",
            ),
            line(
                &anomaly("geophone_anomaly_active", "db"),
                "0 0 0 1 1 1 1 0 0 0 0 0 0 0 1 1 1 1 1 1 0 0 0 0 0 0 0 0 0 0",
            ),
            line(
                &anomaly("geophone_anomaly_score", "db"),
                "0.1 0.2 0.3 0.91 0.95 0.99 0.9 0.4 0 0 0 0 0 0 1 1 1 1 0.95 0.7 0.4 0 0 0 0 0 0 0 0 0",
            ),
        ],
        steps: 30,
    }
}
