use super::parse;

#[test]
fn what_is_wrong_is_one_line_each_with_place_name_and_remedy() {
    let text = "\
groups:
- name: a
  interval: soon
  evry: 1m
  rules:
  - record: 9x
    expr: up
  - record: ok
    expr: sum(up
  - record: ok
    expr: up[5m]
    for: 1m
  - alert: A
    record: b
    expr: up
  - expr: up
  - alert: B
  - alert: C
    expr: up
    keep_firing_for: 5
    labels: {a-b: x, __name__: y, c: [1], d: '{{ $x }}'}
    annotations:
      summary: '{{ $labels.instance'
      a.b: x
- name: a
- rules: []
- name: b
  limit: many
  rules: 5
  labels: {c-d: x, __name__: y}
";
    let faults: Vec<String> = parse("r.yaml", text)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    let wanted = [
        "r.yaml:3: group \"a\": interval: expected a duration like 5m, found \"soon\"",
        "r.yaml:4: group: unknown key \"evry\", there are name, interval, query_offset, limit, labels, rules",
        "r.yaml:6: 9x: no series can have this name, use letters, digits, _ and :",
        "r.yaml:9: ok: expr: ",
        "r.yaml:11: ok: expr: it is a range vector, a rule needs a vector or a scalar: put a function like rate() around it",
        "r.yaml:12: ok: only alerts have `for`, remove it",
        "r.yaml:14: b: both `record` and `alert` are given, remove one",
        "r.yaml:16: rule: neither `record` nor `alert` is given, add one",
        "r.yaml:17: B: it has no `expr`, add the query",
        "r.yaml:20: C: keep_firing_for: expected a duration like 5m, found \"5\"",
        "r.yaml:21: C: labels: \"__name__\" cannot be a label's name, use letters, digits and _",
        "r.yaml:21: C: labels: \"a-b\" cannot be a label's name, use letters, digits and _",
        "r.yaml:21: C: labels: c: expected a text, found a list",
        "r.yaml:21: C: labels: d: the template is wrong: undefined variable $x",
        "r.yaml:23: C: annotations: summary: the template is wrong: ",
        "r.yaml:24: C: annotations: \"a.b\" cannot be a name, use letters, digits and _",
        "r.yaml:25: group \"a\": there is one of this name before, give it another",
        "r.yaml:26: group: it has no name, add `name: …`",
        "r.yaml:28: group \"b\": limit: expected a number, found \"many\"",
        "r.yaml:29: group \"b\": rules: expected a list, found \"5\"",
        "r.yaml:30: group \"b\": labels: \"__name__\" cannot be a label's name, use letters, digits and _",
        "r.yaml:30: group \"b\": labels: \"c-d\" cannot be a label's name, use letters, digits and _",
    ];
    assert_eq!(faults.len(), wanted.len(), "{faults:#?}");
    for (fault, wanted) in faults.iter().zip(wanted) {
        assert!(
            fault.starts_with(wanted) && !fault.contains('\n'),
            "{fault}\n{wanted}"
        );
    }
}

#[test]
fn yaml_that_is_none_says_where() {
    for (text, wanted) in [
        ("groups:\n- name: a\n  rules: [", "r.yaml:"),
        (
            "groups:\n- {name: a, name: b}",
            "r.yaml:2: \"name\" is given twice, first in line 2",
        ),
        (
            "groups: []\n---\ngroups: []",
            "r.yaml:2: a second document begins",
        ),
        (
            "[]",
            "r.yaml:1: rule file: expected the keys groups, found a list",
        ),
        (
            "rules: []",
            "r.yaml:1: rule file: unknown key \"rules\", there are groups",
        ),
        ("groups: [*a]", "r.yaml:1: "),
        (
            "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
            "r.yaml:1: nested deeper than 32 levels",
        ),
    ] {
        let faults = parse("r.yaml", text).unwrap_err();
        assert!(faults[0].to_string().starts_with(wanted), "{text}: {faults:?}");
    }
    let bomb = (0..30).fold("groups: &a0 [x]\n".to_owned(), |text, n| {
        let before = format!("*a{n},").repeat(9);
        format!("{text}k{n}: &a{} [{before}]\n", n + 1)
    });
    assert!(
        parse("r.yaml", &bomb).unwrap_err()[0]
            .to_string()
            .contains("more than 200000 values")
    );
    assert!(parse("r.yaml", "").unwrap().is_empty());
    assert!(parse("r.yaml", "groups:\n").unwrap().is_empty());
}

#[test]
fn labels_of_a_group_are_its_rules_unless_they_have_their_own() {
    let text = "
groups:
- name: a
  interval: 15s
  limit: 3
  query_offset: 10s
  labels: {team: net, site: s}
  rules:
  - record: r
    expr: &q up == 0
    labels: {team: own}
  - alert: A
    expr: *q
    for: 1h30m
";
    let groups = parse("r.yaml", text).unwrap();
    let group = &groups[0];
    assert_eq!(
        (group.interval, group.limit, group.query_offset),
        (Some(15_000), 3, 10_000)
    );
    let labels = |at: usize| -> Vec<(&str, &str)> {
        let labels = group.rules[at].labels.iter();
        labels
            .map(|(name, text)| (name.as_str(), text.source.as_str()))
            .collect()
    };
    assert_eq!(labels(0), [("site", "s"), ("team", "own")]);
    assert_eq!(labels(1), [("team", "net"), ("site", "s")]);
    assert_eq!(group.rules[1].expr, "up == 0");
    assert_eq!(
        group.rules[1].alert.as_ref().map(|alert| alert.hold),
        Some(5_400_000)
    );
}

fn query(rule: &str) -> String {
    let text = format!("groups:\n- name: g\n  rules:\n  - {{alert: A, {rule}}}\n");
    let groups = parse("r.yaml", &text).unwrap_or_else(|faults| panic!("{text}{faults:?}"));
    groups[0].rules[0].expr.clone()
}

#[test]
fn short_forms_are_queries() {
    for (rule, wanted) in [
        ("threshold: {of: x, above: 0.50}", "x > 0.5"),
        ("threshold: {of: 'a / b', below: -1}", "(a / b) < -1"),
        ("threshold: {of: 'a # b', above: 5}", "(a # b\n) > 5"),
        ("rate: {of: 'a # b', over: 5m, above: 5}", "rate(a # b\n[5m]) > 5"),
        (
            "change: {of: 'a # b', over: 5m, above: 5}",
            "(a # b\n) - (a # b\n offset 5m) > 5",
        ),
        (
            "rate: {of: x_total, over: 5m, above: 1e3}",
            "rate(x_total[5m]) > 1000",
        ),
        (
            "rate: {of: 'x_total{a=\"b\"}', over: 1h30m, by: [peer, subject], above: 1}",
            "sum by (peer, subject) (rate(x_total{a=\"b\"}[1h30m])) > 1",
        ),
        ("change: {of: x, over: 15m, above: 5}", "x - (x offset 15m) > 5"),
        (
            "change: {of: x, over: 15m, below: -50%}",
            "x / (x offset 15m > 0) - 1 < -0.5",
        ),
        (
            "change: {of: 'sum(x)', over: 1d, above: 20%}",
            "(sum(x)) / (last_over_time((sum(x))[1m:1m] offset 1d) > 0) - 1 > 0.2",
        ),
        (
            "anomaly: {}",
            "max without (change, detectors) (geophone_anomaly_active) == 1",
        ),
        (
            "anomaly: {watch: w, where: {peer: 'a\"b'}, score_above: 0.9}",
            "geophone_anomaly_score{watch=\"w\",peer=\"a\\\"b\"} > 0.9",
        ),
        (
            "composite: {all: [A, B], any: [C, D], unless: [E], on: [peer]}",
            "max by (peer) (ALERTS{alertname=\"A\",alertstate=\"firing\"})\n\
             and max by (peer) (ALERTS{alertname=\"B\",alertstate=\"firing\"})\n\
             and (max by (peer) (ALERTS{alertname=\"C\",alertstate=\"firing\"}) \
             or max by (peer) (ALERTS{alertname=\"D\",alertstate=\"firing\"}))\n\
             unless max by (peer) (ALERTS{alertname=\"E\",alertstate=\"firing\"})",
        ),
    ] {
        assert_eq!(query(rule), wanted);
    }
}

#[test]
fn what_is_wrong_with_a_short_form_is_told() {
    for (rule, wanted) in [
        (
            "threshold: 5",
            "threshold: expected the keys of, above, below, found \"5\"",
        ),
        ("threshold: {above: 5}", "threshold: it has no `of`"),
        ("threshold: {of: 'sum(', above: 5}", "threshold: of: "),
        ("threshold: {of: time(), above: 5}", "threshold: "),
        ("threshold: {of: x}", "threshold: neither `above` nor `below`"),
        (
            "threshold: {of: x, above: 1, below: 2}",
            "threshold: both `above` and `below`",
        ),
        (
            "threshold: {of: x, above: 50%}",
            "threshold: above: expected a number like 0.5, found \"50%\"",
        ),
        (
            "change: {of: x, over: 5m, above: lots}",
            "change: above: expected a number like 0.5 or 50%",
        ),
        ("change: {of: x, above: 1}", "change: it has no `over`"),
        (
            "change: {of: x, over: 5, above: 1}",
            "change: over: expected a duration like 15m, found \"5\"",
        ),
        (
            "rate: {of: 'a / b', over: 5m, above: 1}",
            "rate: of: a rate is of a counter",
        ),
        (
            "rate: {of: x, over: 5m, above: 1, by: a-b}",
            "rate: by: \"a-b\" cannot be a label's name",
        ),
        (
            "anomaly: {score_above: 2}",
            "anomaly: score_above: expected a number from 0 to 1",
        ),
        (
            "anomaly: {peer: x}",
            "anomaly: unknown key \"peer\", there are watch, where, score_above",
        ),
        (
            "composite: {unless: [B]}",
            "composite: neither `all` nor `any` has an alert",
        ),
        (
            "composite: {all: {B: C}}",
            "composite: all: expected a list of names",
        ),
        (
            "threshold: {of: x, above: 1}, expr: x",
            "both `threshold` and `expr` are given",
        ),
        (
            "threshold: {of: x, above: 1}, rate: {}",
            "both `threshold` and `rate` are given",
        ),
        (
            "expr: x, severity: info, labels: {severity: info}",
            "`severity` is among the labels as well",
        ),
    ] {
        let text = format!("groups:\n- name: g\n  rules:\n  - {{alert: A, {rule}}}\n");
        let faults = parse("r.yaml", &text).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        let told = faults[0].to_string();
        let told = told.strip_prefix("r.yaml:4: A: ").unwrap_or(&told);
        assert!(told.starts_with(wanted), "{rule}\n{told}\n{wanted}");
    }
}

/// Cause: two files' worth of groups, with a severity of somebody's own, among the labels and as a key of the alert, and an alert of alerts
/// that are not there. Seen: all are remarked, with their place, and nothing else is.
#[test]
fn what_may_be_meant_otherwise_is_remarked() {
    let text = "
groups:
- name: a
  rules:
  - {alert: A, expr: up == 0, labels: {severity: page}}
  - {alert: B, expr: up == 0, labels: {severity: '{{ $value }}'}}
  - {record: r, expr: up, labels: {severity: page}}
- name: b
  rules:
  - {alert: C, composite: {all: [A], unless: [r, D]}}
  - {alert: E, threshold: {of: up, below: 1}, severity: page}
";
    let told: Vec<String> = super::remarks(&parse("r.yaml", text).unwrap())
        .iter()
        .map(ToString::to_string)
        .collect();
    let wanted = [
        "r.yaml:5: A: severity \"page\" is none of info, warning, critical",
        "r.yaml:10: C: no rule here is called \"r\": without it this never fires as it is meant",
        "r.yaml:10: C: no rule here is called \"D\": without it this never fires as it is meant",
        "r.yaml:11: E: severity \"page\" is none of info, warning, critical",
    ];
    assert_eq!(told, wanted);
}

#[test]
fn what_is_written_is_read_again() {
    let text = "
groups:
- name: \"a: 'b'\"
  interval: 90s
  limit: 3
  query_offset: 10s
  rules:
  - record: r
    expr: |-
      sum(up)
        / count(up)
  - alert: A
    expr: ' up == 0'
    for: 1h30m
    keep_firing_for: 100ms
    labels: {severity: info}
    annotations: {summary: \"{{ $value }} \\\"of\\\"\\nthat\"}
";
    let read = parse("r.yaml", text).unwrap();
    let again = parse("r.yaml", &super::yaml(&read)).unwrap();
    // Only the lines are others.
    let shown = |groups: &[super::GroupFile]| {
        let mut groups = groups.to_vec();
        groups
            .iter_mut()
            .flat_map(|group| &mut group.rules)
            .for_each(|rule| rule.line = 0);
        format!("{groups:#?}")
    };
    assert_eq!(shown(&read), shown(&again));
}

/// Cause: texts with characters that YAML does not take as they are, in a query of several lines as well. Seen: they are escaped, and
/// promtool reads the file; it said "control characters are not allowed".
#[test]
fn what_is_written_has_no_characters_that_yaml_refuses() {
    let odd = "\u{7f}\u{80}\u{85}\u{9f}\u{2028}\u{2029}\u{feff}\u{fffe}\u{ffff}";
    let escaped: String = odd.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    let text = format!(
        "groups:\n- name: g\n  rules:\n  - alert: A\n    expr: \"up{{a='{escaped}'}}\\n == 0\"\n    annotations: {{summary: \"é{escaped}😀\"}}\n"
    );
    let read = parse("r.yaml", &text).unwrap();
    let written = super::yaml(&read);
    assert!(!written.contains(|c| odd.contains(c)), "{written:?}");
    let again = parse("r.yaml", &written).unwrap();
    let texts = |groups: &[super::GroupFile]| {
        let rule = &groups[0].rules[0];
        let annotations = &rule.alert.as_ref().unwrap().annotations;
        (rule.expr.clone(), annotations[0].1.source.clone())
    };
    assert_eq!(texts(&read), texts(&again));
    assert_eq!(texts(&again).1, format!("é{odd}😀"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &written).unwrap();
    let promtool = std::process::Command::new("promtool")
        .args(["check", "rules"])
        .arg(file.path())
        .output();
    match promtool {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(_) => println!("SKIPPED: promtool is not installed"),
    }
}
