//! What moves farther than it ever did: of errors that follow each other closely no piece is worth its price for days after a trend began.

use super::breaks::Noise;
use super::{Point, median};

/// Spans that are looked at, in those after which there is a trend.
const SPANS: [f64; 3] = [1.1, 2.0, 4.0];
/// So many of a span must have been seen to know how far it moves in one, and it has to move so many times as far.
const SEEN: f64 = 6.0;
const FARTHER: f64 = 2.0;
/// Moves that must be known: behind a gap there is nothing to compare with.
const KNOWN: usize = 4;
/// Half of the time takes so much of the way: what jumps is a matter of pieces.
const HALF: std::ops::Range<f64> = 0.2..0.8;

/// Days since when, and how far it moved before; none where it moves as it did. What moved by less than `small` is nothing.
pub(super) fn since(points: &[Point], enough: f64, small: f64) -> Option<(f64, Noise)> {
    let seen = -points.first()?.0;
    let spans = SPANS.iter().map(|times| times * enough);
    spans.take_while(|span| SEEN * span <= seen).find_map(|span| {
        let at = |day: f64| level(points, day, span / 4.0);
        let (then, half, now) = (at(-span)?, at(-span / 2.0)?, at(0.0)?);
        let by = now - then;
        if by.abs() < FARTHER * small || !HALF.contains(&((half - then) / by)) {
            return None;
        }
        let ends = (4..).map(|quarters| -span * f64::from(quarters) / 4.0);
        let moves: Vec<f64> = ends
            .take_while(|end| end - span >= -seen)
            .filter_map(|end| Some((at(end)? - at(end - span)?).abs()))
            .collect();
        if moves.len() < KNOWN {
            return None;
        }
        let most = moves.into_iter().fold(0.0, f64::max);
        // Two standard errors of the slope are what it may have moved by as well as before.
        let daily = (most / span / 2.0).powi(2) * span.powi(3) / 12.0;
        let noise = Noise {
            scale: 0.0,
            daily,
            worth: seen / span,
        };
        (by.abs() > FARTHER * most).then_some((span, noise))
    })
}

/// The median of three points about a time; none if they are farther off.
fn level(points: &[Point], day: f64, off: f64) -> Option<f64> {
    let after = points.partition_point(|p| p.0 < day);
    let middle = after.clamp(1, points.len().checked_sub(2)?);
    let mut near: Vec<f64> = points[middle - 1..=middle + 1].iter().map(|p| p.1).collect();
    ((points[middle].0 - day).abs() <= off).then(|| median(&mut near))
}
