//! The forest, over several signals and over the last values of one.

use super::*;

#[test]
fn a_forest_isolates_what_lies_apart() {
    let settings = Settings::new(1.0);
    let mut forest = Forest::<4>::default();
    let mut random = random(16);
    let point = |random: &mut StdRng| {
        let load = gaussian(random);
        [load, 2.0 * load + 0.1 * gaussian(random), gaussian(random), 5.0]
    };
    let mut wrong = 0;
    for t in 0..4000 {
        let scored = forest.observe(&settings, START + t, &point(&mut random));
        wrong += i32::from(scored.verdict == Verdict::Anomaly);
    }
    assert!(wrong <= 1, "{wrong} false alarms");
    let usual = forest.isolation(&[0.0, 0.0, 0.0, 5.0]).unwrap();
    let apart = forest.isolation(&[4.0, -8.0, 5.0, 5.0]).unwrap();
    assert!(usual < 0.5 && apart > 0.65, "{usual} {apart}");
    // One signal that is missing is no reason.
    let scored = forest.observe(&settings, START + 5000, &[f64::NAN, 0.0, 0.0, 5.0]);
    assert_eq!(scored.verdict, Verdict::Normal);
    assert!(!scored.agreeing.has(Detector::IsolationForest));
    // A baseline is its samples: the trees grow again.
    let text = serde_json::to_string(&forest).unwrap();
    let mut restored: Forest<4> = serde_json::from_str(&text).unwrap();
    let scored = restored.observe(&settings, START + 6000, &point(&mut random));
    assert_eq!(scored.verdict, Verdict::Normal, "at once");
    let again = restored.isolation(&[4.0, -8.0, 5.0, 5.0]).unwrap();
    assert!((again - apart).abs() < 0.1, "{apart}, then {again}");
}

/// Cause: a forest that agrees, and one that does not. Seen: it is named beside who finds an anomaly, and nothing else changes; where
/// nobody finds one it changes nothing.
#[test]
fn a_forest_only_agrees() {
    let said = |verdict, agreeing: Detector| Scored {
        verdict,
        score: 0.6,
        agreeing: agreeing.into(),
        ..Scored::default()
    };
    for (verdict, voice, agrees) in [
        (Verdict::Anomaly, Detector::IsolationForest, true),
        (Verdict::Anomaly, Detector::Robust, false),
        (Verdict::Normal, Detector::IsolationForest, false),
        (Verdict::Learning, Detector::IsolationForest, false),
    ] {
        let (mut scored, mut wanted) = (said(verdict, Detector::Spread), said(verdict, Detector::Spread));
        if agrees {
            wanted.agreeing = wanted.agreeing.with(Detector::IsolationForest);
        }
        scored.corroborate(&said(Verdict::Normal, voice));
        assert_eq!(scored, wanted);
    }
    assert_eq!(Detector::of("isolation-forest"), Some(Detector::IsolationForest));
    assert!(!Detectors::ALL.has(Detector::IsolationForest), "it has no share");
}

/// Cause: a level that is none of the usual for seven values, a gap, and a usual value. Seen: within ten steps it is judged with what
/// was before it, and lies apart; after more it is judged alone, and does not.
#[test]
fn after_a_gap_a_forest_forgets_the_latest_values() {
    for (gap, agrees) in [(5, true), (11, false)] {
        let mut forest = LagForest::new(Settings::new(1.0));
        let mut random = random(23);
        let mut at = START;
        for _ in 0..2000 {
            at += 1000;
            forest.observe(at, 100.0 + gaussian(&mut random));
        }
        for _ in 0..7 {
            at += 1000;
            forest.observe(at, 115.0);
        }
        let scored = forest.observe(at + gap * 1000, 100.0);
        assert_eq!(
            scored.agreeing.has(Detector::IsolationForest),
            agrees,
            "{gap} s: {scored:?}"
        );
    }
}

/// Cause: a forest over a thousand values, and one that is learning. Seen: of the first from how many alarms a week on it can find
/// anything: with fewer it does not find the most unusual values, with more it does; of the other nothing.
#[test]
fn a_forest_knows_from_which_rate_on_it_can_alarm() {
    let fed = |alarms_per_week: f64, samples: Millis| {
        let mut forest = LagForest::new(Settings {
            alarms_per_week,
            ..Settings::new(1.0)
        });
        let mut random = random(24);
        for t in 0..samples {
            forest.observe(START + t * 1000, 100.0 + gaussian(&mut random));
        }
        forest
    };
    assert_eq!(fed(1.0, 700).least_alarms(), None);
    let least = fed(1.0, 5000).least_alarms().unwrap();
    assert!((2.0..200.0).contains(&least), "{least}");
    let finds = |alarms_per_week: f64| {
        let mut forest = fed(alarms_per_week, 5000);
        (5000..5020).any(|t| forest.observe(START + t * 1000, 1e6).verdict == Verdict::Anomaly)
    };
    assert!(!finds(least / 3.0) && finds(least * 3.0), "{least}");
}
