use super::*;

const TARGET: &str = "10.9.9.9";

/// A trace of three packets a hop, from who answered at each: `-` = nobody, `a|b` = both, `T` = the target.
fn trace(way: &str) -> Trace {
    let address = |name: &str| match name {
        "T" => TARGET.parse().unwrap(),
        name => format!("10.0.0.{}", name.bytes().next().unwrap())
            .parse::<IpAddr>()
            .unwrap(),
    };
    let hop = |name: &str| Hop {
        addresses: name.split('|').filter(|n| *n != "-").map(address).collect(),
        sent: 3,
        answered: vec![Duration::from_millis(1); if name == "-" { 0 } else { 3 }],
    };
    Trace {
        hops: way.split(' ').map(hop).collect(),
        reached: way.ends_with('T'),
        foreign: 0,
    }
}

/// Takes the traces; the changes as `number: before → after`, counted from 1.
fn changes(ways: &[&str]) -> Vec<String> {
    let mut history = History::default();
    let mut out = Vec::new();
    for (i, way) in ways.iter().enumerate() {
        if let Some(c) = history.take(trace(way)) {
            let letters = |names: Vec<String>| {
                let text = names.join(" ").replace(TARGET, "T");
                let letter =
                    |text: String, b: u8| text.replace(&format!("10.0.0.{b}"), &char::from(b).to_string());
                (b'a'..=b'z').fold(text, letter)
            };
            out.push(format!("{}: {} → {}", i + 1, letters(c.before), letters(c.after)));
        }
    }
    out
}

#[test]
fn two_traces_in_succession_make_a_change() {
    assert_eq!(changes(&["a b T", "a c T"]), [""; 0]);
    assert_eq!(
        changes(&["a b T", "a c T", "a c T", "a c T"]),
        ["3: a b T → a c T"]
    );
    assert_eq!(
        changes(&["a b c T", "a b c T", "a T", "a T", "a b c T", "a b c T"]),
        ["4: a b c T → a T", "6: a T → a b c T"]
    );
    // A third way right after one that was seen once.
    assert_eq!(
        changes(&["a b T", "a c T", "a d T", "a d T"]),
        ["4: a c T → a d T"]
    );
}

#[test]
fn silence_is_no_change_and_hides_none() {
    for lost in ["a - T", "- - T", "- - -", "a b -", "a - - - -"] {
        assert_eq!(
            changes(&["a b T", lost, lost, lost, "a b T", lost, lost]),
            [""; 0],
            "{lost}"
        );
    }
    // A hop that never answers; traces without an answer of the target between the two that agree.
    assert_eq!(
        changes(&["- b T", "- c T", "- c -", "- - -", "- c T"]),
        ["5: * b T → * c T"]
    );
    // The one trace knows the one half, the other the other: nothing that both have seen.
    assert_eq!(changes(&["a b c T", "a x - T", "a - y T"]), [""; 0]);
    // What was silent is taken from the traces around it.
    assert_eq!(
        changes(&["- b T", "a - T", "a c T", "- c T"]),
        ["4: a b T → a c T"]
    );
}

#[test]
fn a_target_that_never_answers_has_a_way_too() {
    assert_eq!(changes(&["a b - -", "a c - -", "a c - -"]), ["3: a b → a c"]);
    assert_eq!(changes(&["a b -", "a - -", "a b -", "- - -"]), [""; 0]);
    // One that did and no longer does is lost, whoever answers before it.
    assert_eq!(changes(&["a b T", "a c -", "a c -", "a c -"]), [""; 0]);
}

#[test]
fn balancing_is_no_change() {
    for flapping in [
        [
            "a b T", "a c T", "a b T", "a c T", "a c T", "a b T", "a b T", "a c T", "a c T",
        ],
        [
            "a b T", "a b|c T", "a b|c T", "a c T", "a c T", "a b T", "a b T", "a b T", "a c T",
        ],
        [
            "a b T", "a c d T", "a b T", "a c d T", "a c d T", "a b T", "a b T", "a c d T", "a c d T",
        ],
    ] {
        assert_eq!(changes(&flapping), [""; 0], "{flapping:?}");
    }
}

#[test]
fn a_way_that_moves_while_it_is_traced_has_moved_once() {
    assert_eq!(
        changes(&["a b T", "a b T", "a b|c T", "a c T", "a c T", "a c T"]),
        ["5: a b T → a c T"]
    );
    // Shorter: the target answers at two places, of which the nearer one counts. Longer: it shows both at one.
    assert_eq!(changes(&["a b c T", "a b|T", "a T", "a T"]), ["3: a b c T → a T"]);
    assert_eq!(changes(&["a T", "a b|T", "a b T", "a b T"]), ["4: a T → a b T"]);
}

#[test]
fn the_window_forgets() {
    let mut history = History::default();
    history.take(trace("a b T"));
    for _ in 0..WINDOW - 1 {
        history.take(trace("a - T"));
    }
    let view = history.view();
    let counts: Vec<_> = view.iter().map(|h| (h.sent, h.lost, h.addresses.len())).collect();
    assert_eq!(counts, [(30, 0, 1), (30, 27, 1), (30, 0, 1)]);
    // The router that has not answered in the window leaves the table; its place stays.
    history.take(trace("a - T"));
    let view = history.view();
    assert_eq!(
        (view[1].lost, view[1].addresses.len(), view[1].rtt),
        (30, 0, None)
    );
    // The target falls silent: its place stays for the window, and what is behind the last answer then leaves.
    for left in (0..WINDOW).rev() {
        history.take(trace("a - - - -"));
        assert_eq!(history.view().len(), if left == 0 { 1 } else { 3 }, "{left}");
    }
}

#[test]
fn after_a_change_only_the_new_way_counts() {
    let mut history = History::default();
    for way in ["a b c T", "a b c T", "a T"] {
        assert_eq!(history.take(trace(way)), None);
    }
    // Not confirmed yet.
    assert_eq!(history.view().len(), 4);
    let change = history.take(trace("a T")).unwrap();
    assert_eq!(change.hops, (Some(3), Some(1)));
    let view = history.view();
    assert_eq!(view.iter().map(|h| h.sent).collect::<Vec<_>>(), [3, 3]);
}
