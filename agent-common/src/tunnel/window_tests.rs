//! The window against a model that remembers everything.

extern crate std;
use super::*;
use std::collections::HashSet;
use std::vec::Vec;

fn run(sequences: impl IntoIterator<Item = u64>, wide: bool) -> (Window, Step) {
    let (mut window, mut step) = (Window::EMPTY, Step::default());
    for s in sequences {
        window.take(s, wide, &mut step);
    }
    (window, step)
}

/// Lost for good and still missing in the window.
fn missing(window: &Window, step: &Step) -> u64 {
    step.lost + holes_below(window, u64::MAX)
}

#[test]
fn in_order_nothing_is_lost() {
    for start in [0, 1, 77, u32::MAX as u64 - 5000] {
        for wide in [false, true] {
            let (window, step) = run(start..start + 20_000, wide);
            assert_eq!(
                step,
                Step {
                    received: 20_000,
                    ..Step::default()
                }
            );
            assert_eq!(missing(&window, &step), 0);
        }
    }
}

#[test]
fn a_hole_is_lost_when_it_leaves_and_not_before() {
    let (window, step) = run((0..100).chain(101..100 + SIZE), false);
    assert_eq!(step.lost, 0);
    assert_eq!(holes_below(&window, u64::MAX), 1);
    assert_eq!(holes_below(&window, ORIGIN + 100), 0);
    assert_eq!(holes_below(&window, ORIGIN + 101), 1);
    let (window, step) = run((0..100).chain(101..300 + SIZE), false);
    assert_eq!(step.lost, 1);
    assert_eq!(holes_below(&window, u64::MAX), 0);
}

#[test]
fn a_late_packet_is_reordered_and_not_lost() {
    let (window, step) = run((0..100).chain(101..2149).chain([100]).chain(2149..9000), false);
    assert_eq!(
        step,
        Step {
            received: 9000,
            reordered: 1,
            ..Step::default()
        }
    );
    assert_eq!(missing(&window, &step), 0);
}

#[test]
fn what_comes_twice_is_duplicated_once() {
    let (_, step) = run((0..1000).flat_map(|s| [s, s]), false);
    assert_eq!((step.received, step.duplicated, step.reordered), (1000, 1000, 0));
}

#[test]
fn what_came_before_the_first_is_not_lost() {
    let (window, step) = run([1000, 1002, 999, 1003, 998], false);
    assert_eq!((step.received, step.reordered, step.duplicated), (5, 2, 0));
    assert_eq!(missing(&window, &step), 1);
    let (window, step) = run(1000..20_000, false);
    assert_eq!(missing(&window, &step), 0);
}

#[test]
fn thirty_two_bits_wrap() {
    let top = u32::MAX as u64;
    let lost = [top - 3, 2];
    let sequence = (top - 9000..top + 9000)
        .map(|s| s & top)
        .filter(|s| !lost.contains(s));
    let (window, step) = run(sequence, false);
    assert_eq!(step.lost, 2);
    assert_eq!(step.restarts, 0);
    assert_eq!(holes_below(&window, u64::MAX), 0);
}

#[test]
fn a_restart_is_told_and_loses_nothing_but_the_holes() {
    let (window, step) = run((0..50_000).filter(|s| *s != 49_000).chain(0..5000), false);
    assert_eq!(step.restarts, 1);
    assert_eq!(step.lost, 1);
    assert_eq!(step.late, 1);
    assert_eq!(step.received + step.late, 54_999);
    assert_eq!(step.duplicated, 0);
    assert_eq!(window.epoch, 1);
    assert_eq!(holes_below(&window, u64::MAX), 0);
    // Ahead by more than anybody loses: the same.
    let (_, step) = run((0..1000).chain(3_000_000_000..3_000_001_000), false);
    assert_eq!((step.restarts, step.lost), (1, 0));
}

#[test]
fn one_stray_packet_changes_nothing() {
    for stray in [0, 1 << 30, u32::MAX as u64 - 7, 1 << 21] {
        let (window, step) = run((50_000..60_000).chain([stray]).chain(60_000..70_000), false);
        assert_eq!(
            step,
            Step {
                received: 20_000,
                late: 1,
                ..Step::default()
            },
            "{stray}"
        );
        assert_eq!(holes_below(&window, u64::MAX), 0);
    }
    let (_, step) = run((0..10).chain([1 << 62, 1 << 63]).chain(10..20), true);
    assert_eq!(
        step,
        Step {
            received: 20,
            late: 2,
            ..Step::default()
        }
    );
}

#[test]
fn a_long_outage_is_loss() {
    let (window, step) = run((0..1000).chain(501_000..520_000), false);
    assert_eq!(step.restarts, 0);
    assert_eq!(missing(&window, &step), 500_000);
}

#[test]
fn a_forged_counter_at_the_end_of_its_range_does_no_harm() {
    // Found by the fuzzer: the position wraps.
    let end = u64::MAX - ORIGIN;
    let (_, step) = run((end - 10..=end).chain([1000, 1001, 1002]), true);
    assert_eq!((step.received, step.restarts, step.late), (13, 1, 1));
    assert_eq!(step.lost, 0);
    let (_, step) = run(u64::MAX - 5000..=u64::MAX, true);
    assert_eq!((step.received, step.lost), (5001, 0));
}

/// Everything that ever came, in plain sets.
fn model(sequences: &[u64]) -> (u64, u64, u64, u64) {
    let (mut seen, mut top) = (HashSet::new(), None);
    let (mut received, mut reordered, mut duplicated) = (0, 0, 0);
    for &s in sequences {
        if !seen.insert(s) {
            duplicated += 1;
            continue;
        }
        received += 1;
        if top.is_some_and(|t| s < t) {
            reordered += 1;
        }
        top = top.max(Some(s));
    }
    let (first, last) = (sequences[0], top.unwrap_or(0));
    let missing = (first..=last).filter(|s| !seen.contains(s)).count() as u64;
    (received, reordered, duplicated, missing)
}

#[test]
fn random_loss_reordering_and_duplication_agree_with_the_model() {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    for round in 0..60u64 {
        let start = if round % 3 == 0 {
            u32::MAX as u64 - random(20_000)
        } else {
            random(1 << 33)
        };
        let (loss, delay, twice) = (random(200), random(100), random(100));
        // (time of arrival, number): a delayed packet arrives up to the window's size later.
        let mut packets: Vec<(u64, u64)> = Vec::new();
        for s in start..start + 20_000 {
            if s != start && random(1000) < loss {
                continue;
            }
            let late = if s != start && random(1000) < delay {
                random(SIZE - 600)
            } else {
                0
            };
            packets.push((s + late, s));
            if random(1000) < twice {
                packets.push((s + late + random(500), s));
            }
        }
        packets.sort_by_key(|p| p.0);
        let sequences: Vec<u64> = packets.iter().map(|p| p.1).collect();
        let (received, reordered, duplicated, lost) = model(&sequences);
        for wide in [false, true] {
            let cut = |s: &u64| if wide { *s } else { *s & u32::MAX as u64 };
            let (window, step) = run(sequences.iter().map(cut), wide);
            assert_eq!(
                (
                    step.received,
                    step.reordered,
                    step.duplicated,
                    missing(&window, &step)
                ),
                (received, reordered, duplicated, lost),
                "round {round}, wide {wide}"
            );
            assert_eq!((step.late, step.restarts), (0, 0));
        }
    }
}
