//! What bends away from its line: it warms up, and comes to rest.

use super::fit::{Fit, worth};
use super::{Point, mean};

/// Standard errors of a bend that is believed.
const SURE: f64 = 3.0;

/// The highest of a parabola through points whose growth becomes less, for certain, or the lowest of one whose fall does.
pub(super) fn rest(points: &[Point]) -> Option<f64> {
    let fit = Fit::least_squares(points);
    // What squares have that no line has.
    let squares: Vec<Point> = points.iter().map(|p| (p.0, (p.0 - fit.centre).powi(2))).collect();
    let line = Fit::least_squares(&squares);
    let off: Vec<f64> = squares.iter().map(|p| p.1 - line.line(p.0)).collect();
    let left: Vec<f64> = points.iter().map(|p| p.1 - fit.line(p.0)).collect();
    let all: f64 = off.iter().map(|off| off * off).sum();
    let bend = off.iter().zip(&left).map(|(off, left)| off * left).sum::<f64>() / all;
    let errors: Vec<f64> = off
        .iter()
        .zip(&left)
        .map(|(off, left)| left - bend * off)
        .collect();
    let variance = mean(errors.iter().map(|e| e * e));
    let error = (variance / all * points.len() as f64 / worth(&errors)).sqrt();
    let is_sure = fit.slope * bend < 0.0 && bend.abs() > SURE * error;
    // There its slope is none.
    let top = fit.centre + (line.slope - fit.slope / bend) / 2.0;
    let value = |days: f64| {
        let off = (days - fit.centre).powi(2) - line.line(days);
        fit.line(days) + bend * off
    };
    is_sure.then(|| value(top))
}
