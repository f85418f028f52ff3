use super::{Datum, Scope, Template};
use agent_store::labels::Labels;
use agent_store::promql::{Element, Sample};
use std::collections::BTreeMap;

fn expand(text: &str) -> Result<String, String> {
    let labels = Labels::new([
        ("__name__", "m"),
        ("instance", "a.example.org:80"),
        ("job", "<n>\"x\""),
    ]);
    let query = |query: &str| match query {
        "none" => Ok(Vec::new()),
        "broken" => Err("it is broken".to_owned()),
        _ => Ok(["b", "a"]
            .map(|value| Element {
                labels: Labels::new([("l", value)]),
                sample: Sample::Float(2.5),
            })
            .to_vec()),
    };
    Template::parse(text)?.expand(&Scope {
        labels: &labels,
        value: 12_345_678.0,
        external_labels: &Labels::new([("site", "here")]),
        external_url: "http://host:9090/p/",
        query: &query,
    })
}

/// What promtool does not show: errors, and functions that its version has not.
#[test]
fn templates_come_to_text_or_say_why_not() {
    for (text, wanted) in [
        ("{{ $labels.job }}", "<n>\"x\""),
        (
            "{{ range sortByLabel \"l\" (query \"q\") }}{{ .Labels.l }}{{ .Value }} {{ end }}",
            "a2.5 b2.5 ",
        ),
        ("{{ with query \"none\" }}x{{ else }}none{{ end }}", "none"),
        (
            "{{ $x := 1 }}{{ range $i, $s := query \"q\" }}{{ $x = $i }}{{ end }}{{ $x }}",
            "1",
        ),
        (
            "{{ range query \"q\" }}{{ if eq .Labels.l \"a\" }}{{ break }}{{ end }}{{ .Labels.l }}{{ end }}",
            "b",
        ),
        (
            "{{ define \"t\" }}[{{ .arg0 }}]{{ end }}{{ template \"t\" (args 7) }}",
            "[7]",
        ),
        ("{{- /* nothing */ -}} x", "x"),
        ("{{ and (eq 1 1) (not false) | printf \"%t\" }}", "true"),
        (
            "{{ $labels.instance | stripPort }} {{ $labels.instance | stripDomain }}",
            "a.example.org a:80",
        ),
        (
            "{{ pathPrefix }} {{ externalURL }} {{ $externalLabels.site }}",
            "/p http://host:9090/p/ here",
        ),
        (
            "{{ printf \"%-6s|%06.2f|%+d|%x|%q|%5t\" \"ab\" 3.14159 7 \"hi\" \"a\\\"b\" true }}",
            "ab    |003.14|+7|6869|\"a\\\"b\"| true",
        ),
        ("{{ printf \"%d %s\" 1.5 }}", "%!d(float64=1.5) %!s(MISSING)"),
        (
            "{{ html $labels.job }} {{ urlquery \"a b&c\" }}",
            "&lt;n&gt;&#34;x&#34; a+b%26c",
        ),
    ] {
        assert_eq!(expand(text).as_deref(), Ok(wanted), "{text}");
    }
    for (text, wanted) in [
        (
            "{{ query \"none\" | first }}",
            "first() called on vector with no elements",
        ),
        ("{{ query \"broken\" }}", "it is broken"),
        ("{{ nothing 1 }}", "function \"nothing\" not defined"),
        ("a\n{{ $nothing }}", "line 2: undefined variable $nothing"),
        ("{{ if }}x{{ end }}", ""),
        ("{{ $labels.job", "unclosed action"),
        ("{{ toTime 1 }}", "function toTime is not supported here"),
        ("{{ .Nothing }}", "can't evaluate field Nothing"),
        ("{{ eq $value 1 }}", "incompatible types"),
        ("{{ template \"t\" }}", "template \"t\" is not defined"),
        (
            "{{ define \"t\" }}{{ template \"t\" }}{{ end }}{{ template \"t\" }}",
            "deep",
        ),
        (
            "{{ reReplaceAll \"(\" \"\" \"x\" }}",
            "is not a regular expression",
        ),
        (
            "{{ printf \"%999999999d\" 1 | len | humanize | toUpper | first }}",
            "error calling first",
        ),
    ] {
        let error = expand(text).unwrap_err();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn notifications_have_alertmanagers_data() {
    let text = |text: &str| Datum::Text(text.to_owned());
    let pairs = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        Datum::Pairs(
            pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        )
    };
    let alert = |status: &str, peer: &str| {
        Datum::Record(BTreeMap::from([
            ("Status", text(status)),
            ("Labels", pairs(&[("alertname", "Down"), ("peer", peer)])),
        ]))
    };
    let alerts = vec![alert("firing", "a"), alert("resolved", "b"), alert("firing", "c")];
    let data = Datum::Record(BTreeMap::from([
        ("Status", text("firing")),
        ("CommonLabels", pairs(&[("a", "1"), ("alertname", "Down")])),
        ("Alerts", Datum::List(alerts)),
    ]));
    let fill =
        |text: &str| Template::of_notification("", text).and_then(|parsed| parsed.fill(&data, "http://h"));
    for (text, wanted) in [
        (
            "[{{ .Status | toUpper }}:{{ .Alerts.Firing | len }}]",
            "[FIRING:2]",
        ),
        ("{{ range .Alerts.Resolved }}{{ .Labels.peer }}{{ end }}", "b"),
        (
            "{{ range $i, $a := .Alerts }}{{ $i }}{{ $a.Labels.peer }} {{ end }}",
            "0a 1b 2c ",
        ),
        (
            "{{ range .CommonLabels.SortedPairs }}{{ .Name }}={{ .Value }} {{ end }}",
            "alertname=Down a=1 ",
        ),
        ("{{ .CommonLabels.SortedPairs.Values | join \",\" }}", "Down,1"),
        (
            "{{ .CommonLabels.Names | join \" \" }}{{ .CommonLabels.nothing }}",
            "a alertname",
        ),
        (
            "{{ (index .Alerts 1).Labels.peer }} {{ trimSpace \" x \" }} {{ externalURL }}",
            "b x http://h",
        ),
        (
            "{{ define \"t\" }}{{ .Status }}{{ end }}{{ template \"t\" . }}",
            "firing",
        ),
    ] {
        assert_eq!(fill(text).as_deref(), Ok(wanted), "{text}");
    }
    for (text, wanted) in [
        ("{{ .Nothing }}", "can't evaluate field Nothing"),
        ("{{ .Alerts.Nothing }}", "can't evaluate field Nothing"),
        ("{{ $labels.a }}", "undefined variable $labels"),
        ("{{ query \"up\" }}", "nothing to ask"),
        ("{{ join \",\" .Alerts }}", "expected string"),
    ] {
        let error = fill(text).unwrap_err();
        assert!(error.contains(wanted), "{text}: {error}");
    }
    assert!(
        Template::parse("{{ join \",\" 1 }}").is_err(),
        "rules have no join"
    );
}
