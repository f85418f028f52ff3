//! Points of which none lies far off all around it, before a change is looked for in them.

use super::{Point, median};

/// Latest points that are looked at one by one.
const LATEST: usize = 12;
/// Standard errors that a point may lie off those around it.
const OFF: f64 = 4.0;

/// Means of two each but of the latest: how fine a change is seen that was long ago makes no odds, and pieces are looked for in the
/// square of the points.
pub(super) fn by_two(points: &[Point]) -> Vec<Point> {
    let (old, latest) = points.split_at(points.len().saturating_sub(LATEST));
    let (old, odd) = old.split_at(old.len() / 2 * 2);
    // What lies on both sides of a gap has no middle.
    let span = |points: &[Point]| {
        points.last().map_or(0.0, |last| last.0) - points.first().map_or(0.0, |first| first.0)
    };
    let apart = 4.0 * span(points) / points.len().max(1) as f64;
    let two = |two: &[Point]| {
        let [a, b] = [two[0], two[two.len() - 1]];
        match b.0 - a.0 > apart {
            true => vec![a, b],
            false => vec![(f64::midpoint(a.0, b.0), f64::midpoint(a.1, b.1))],
        }
    };
    let points = old.chunks(2).flat_map(two);
    points
        .chain(odd.iter().copied())
        .chain(latest.iter().copied())
        .collect()
}

/// The points, of which none lies far off all around it.
pub(super) fn calm(points: &[Point]) -> Vec<Point> {
    const AROUND: usize = 5;
    if points.len() < AROUND {
        return points.to_vec();
    }
    let around = |i: usize| {
        let first = i.saturating_sub(AROUND / 2).min(points.len() - AROUND);
        let around = &points[first..first + AROUND];
        let steps = around.windows(2).map(|two| (two[1].1 - two[0].1).abs());
        let mut steps: Vec<f64> = steps.collect();
        let mut values: Vec<f64> = around.iter().map(|p| p.1).collect();
        steps.sort_by(f64::total_cmp);
        // At the ends the middle of those around it is elsewhere: a slope is no outlier. Two of the steps may be a jump.
        (median(&mut values), 2.0 * steps[1])
    };
    let around: Vec<(f64, f64)> = (0..points.len()).map(around).collect();
    let off = points
        .iter()
        .zip(&around)
        .map(|(p, (middle, _))| (p.1 - middle).abs());
    // On a slope each point is the middle of those around it, whatever the noise: that is what second differences are made of.
    let bends = points
        .windows(3)
        .map(|three| (three[0].1 - 2.0 * three[1].1 + three[2].1).abs());
    let rough = median(&mut bends.collect::<Vec<f64>>()) / 6_f64.sqrt();
    let scale = 1.4826 * median(&mut off.collect::<Vec<f64>>()).max(rough);
    let calm = points
        .iter()
        .zip(around)
        .enumerate()
        .map(|(i, (p, (middle, step)))| {
            let most = OFF * scale + step;
            let next = (
                points[i.saturating_sub(1)].1,
                points[(i + 1).min(points.len() - 1)].1,
            );
            let (before, after) = ((p.1 - next.0).abs(), (p.1 - next.1).abs());
            // A span in which it jumped lies between both levels, and is a level of its own to nobody.
            if (next.0 - next.1).abs() > 2.0 * most && before.max(after) < (next.0 - next.1).abs() {
                return (p.0, if before < after { next.0 } else { next.1 });
            }
            (p.0, p.1.clamp(middle - most, middle + most))
        });
    calm.collect()
}
