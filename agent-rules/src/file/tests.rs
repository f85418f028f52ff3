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
