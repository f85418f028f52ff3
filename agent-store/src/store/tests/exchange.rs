//! Import, export, info and verify.

use super::*;

fn import(text: &str) -> (Store, Imported) {
    let store = memory();
    let imported = store.import(text.as_bytes()).unwrap();
    (store, imported)
}

#[test]
fn what_is_exported_can_be_imported() {
    let store = memory();
    fill(&store, 30, 0, 2000);
    let text = export(&store, &[]);
    let (other, imported) = import(&text);
    assert_eq!(
        imported,
        Imported {
            samples: 60_000,
            ..Imported::default()
        }
    );
    assert_filled(&other, 30, 0, 2000);
    assert_eq!(export(&other, &[]), text);
    assert_eq!(
        export(&other, &[Matcher::equal("peer", "peer-0003")])
            .lines()
            .count(),
        2002
    );
    let info = other.info();
    assert_eq!(
        (info.series, info.samples, info.span),
        (30, 60_000, Some((START, START + 1_999_000)))
    );
    assert!(info.bytes_per_sample() < 2.0, "{info:?}");
}

fn export(store: &Store, matchers: &[Matcher]) -> String {
    let mut out = Vec::new();
    store
        .export(matchers, (Millis::MIN, Millis::MAX), &Free, &mut out)
        .unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn an_export_is_bounded_by_time_only_and_holds_a_part_at_once() {
    /// Nothing is left but time.
    struct Time;
    impl Bounds for Time {
        fn take(&self, series: usize, samples: usize) -> Result<(), Refusal> {
            if series + samples > 0 {
                return Err(Refusal::TooMany("none".into()));
            }
            Ok(())
        }
    }
    let store = memory();
    fill(&store, 5, 0, 700);
    // One whose labels others have as well.
    let bare = store
        .register(&Labels::new([("__name__", "x"), ("instance", "here")]))
        .unwrap();
    store.append(START + 800_000, &[(bare, Value::Float(0.5))]);
    store.maintain();
    let span = (Millis::MIN, Millis::MAX);
    let whole = export(&store, &[]);
    for at_once in [0, 100, 10_000] {
        let mut out = Vec::new();
        let lines = store.export_in_parts(&[], span, &Time, at_once, &mut out);
        assert_eq!(lines, Ok(3501));
        assert_eq!(String::from_utf8(out).unwrap(), whole);
    }
    struct Over;
    impl Bounds for Over {
        fn take(&self, _: usize, _: usize) -> Result<(), Refusal> {
            Err(Refusal::TimedOut)
        }
    }
    let refused = store.export(&[], span, &Over, &mut Vec::new());
    assert_eq!(refused, Err(Refusal::TimedOut));
}

#[test]
fn lines_of_any_order_are_taken_and_bad_ones_named() {
    let (store, imported) = import(
        "# TYPE a counter\na_total{x=\"1\"} 3 30\nb 1 1\na_total{x=\"1\"} 1 10\nnonsense\na_total{x=\"1\"} 2 20\nb NaN\n\
         a_total{x=\"1\"} 2.5 20\nlate 7 200000.5\nlate 7 -9223372036854775.808\n",
    );
    assert_eq!((imported.samples, imported.skipped), (5, 3));
    assert_eq!(imported.findings.len(), 4);
    assert!(imported.findings[0].starts_with("line 5: "), "{imported:?}");
    let found = select(&store, &[Matcher::equal("__name__", "a_total")]);
    assert_eq!(found[0].samples.floats.times, [10_000, 20_000, 30_000]);
    assert_eq!(found[0].samples.floats.values, [1.0, 2.5, 3.0]);
    assert_eq!(
        select(&store, &[Matcher::equal("__name__", "late")])[0]
            .samples
            .floats
            .times,
        [200_000_500]
    );
}

#[test]
fn times_that_no_series_shares_come_back() {
    let mut text = String::new();
    for series in 0..20 {
        for tick in 0..500 {
            text.push_str(&format!(
                "x{{s=\"{series}\"}} {tick} {}.{:03}\n",
                1_700_000_000 + tick * 15,
                series * 37 + tick % 7
            ));
        }
    }
    let (store, imported) = import(&text);
    assert_eq!(imported.samples, 10_000);
    let found = select(&store, &[]);
    assert_eq!(found.len(), 20);
    for series in found {
        let offset = series.labels.get("s").parse::<Millis>().unwrap() * 37;
        let times: Vec<Millis> = (0..500)
            .map(|tick| (1_700_000_000 + tick * 15) * 1000 + offset + tick % 7)
            .collect();
        assert_eq!(series.samples.floats.times, times);
    }
    assert!(store.stats().disk_bytes < 15_000, "{}", store.stats().disk_bytes);
}

#[test]
fn verify_names_what_is_damaged() {
    let home = tempfile::tempdir().unwrap();
    let (store, _) = open(home.path());
    fill(&store, 40, 0, 300);
    store.flush();
    let good = store.verify();
    assert!(good.damaged.is_empty() && good.parts > 40, "{good:?}");
    drop(store);
    let name = open::block_path(home.path(), 1);
    let mut bytes = std::fs::read(&name).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&name, bytes).unwrap();
    let (store, _) = open(home.path());
    let bad = store.verify();
    assert_eq!(bad.damaged.len(), 1);
    assert!(
        bad.damaged[0].starts_with("block 0000000001: 1 columns of x{instance=\"here\",peer="),
        "{bad:?}"
    );
}
