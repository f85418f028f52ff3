//! What is rare: tails, and what is taken for one.

use super::super::tail::{Tails, Tops};
use super::*;

/// The tail of an exponential distribution: -ln p is the distance itself.
#[test]
fn a_tail_is_foretold() {
    let (mut tops, mut tails, mut random) = (Tops::new(2.5), Tails::default(), random(14));
    for n in 1..50_000 {
        let x = -(1.0 - random.random::<f64>()).ln();
        let z = if random.random() { x } else { -x } as f32;
        tails.learn(&tops, z, 13.3, n);
        tops.learn(z, n);
    }
    for side in 0..2 {
        // Of each side half as many.
        let level = tails.level(&tops, side, 13.8, 50_000);
        assert!((9.5..18.0).contains(&level), "{level} where 13.1 is right");
        let z = if side == 0 { level } else { -level };
        assert!((tails.surprise(&tops, z, 50_000) - 13.8).abs() < 0.1);
    }
}

/// Student's t with three degrees of freedom.
fn heavy(random: &mut StdRng) -> f64 {
    let chi: f64 = (0..3).map(|_| gaussian(random).powi(2)).sum();
    gaussian(random) / (chi / 3.0).sqrt()
}

/// Cause: noise without a fourth moment, of which what matters comes once in some 10,000 exceedances. Seen after 100 of
/// them and after 1000: on average no more than a few times too many beyond the level, where moments had 7.5 (their
/// error is as large as they, and most of them are too small); and a level that is not out of reach.
#[test]
fn a_heavy_tail_is_not_taken_for_a_light_one() {
    // How likely one side of it lies beyond a large distance.
    let beyond = |x: f32| 2.0 * 3f64.sqrt() / (std::f64::consts::PI * f64::from(x).powi(3));
    let asked = 13.3;
    for (samples, most) in [(10_000, 4.0), (100_000, 2.5)] {
        let mut often = Vec::new();
        for seed in 0..40 {
            let (mut tops, mut tails) = (Tops::new(2.5), Tails::default());
            let mut random = random(100 + seed);
            for n in 1..samples {
                let z = heavy(&mut random) as f32;
                tails.learn(&tops, z, asked, n);
                tops.learn(z, n);
            }
            for side in 0..2 {
                often.push(beyond(tails.level(&tops, side, asked, samples)) * f64::from(asked).exp());
            }
        }
        let mean = often.iter().sum::<f64>() / often.len() as f64;
        assert!((0.2..most).contains(&mean), "{mean} after {samples} samples");
    }
}

/// Cause: the spread is half of what it was, as after all that has widened the reference. Seen: nothing; a spread of a
/// twentieth is found (`a_spread_is_found_in_both_directions`).
#[test]
fn a_spread_that_is_half_of_the_usual_is_none() {
    let mut fed = Fed::new(only(Detector::Spread), 23);
    fed.usual(5000);
    let told = (0..2000).filter(|_| {
        let value = 100.0 + 0.5 * gaussian(&mut fed.random);
        fed.say(value).verdict == Verdict::Anomaly
    });
    assert_eq!(told.count(), 0);
}

/// Cause: a gap, and an extreme value first after it. Seen: it may be told, but not those after it, which only lie far from
/// that one.
#[test]
fn the_first_value_after_a_gap_is_no_measure() {
    let mut fed = Fed::new(Settings::new(1.0), 24);
    let latency = |r: &mut StdRng| (0.5 * gaussian(r)).exp();
    for _ in 0..20_000 {
        let value = latency(&mut fed.random);
        fed.say(value);
    }
    let mut told = 0;
    for _ in 0..20 {
        fed.at += 60_000;
        fed.say(5.0);
        for _ in 0..200 {
            let value = latency(&mut fed.random);
            told +=
                i32::from(fed.say(value).direction == Direction::Down && fed.series.since() == Some(fed.at));
        }
    }
    assert!(told <= 1, "{told} of 4000");
}
