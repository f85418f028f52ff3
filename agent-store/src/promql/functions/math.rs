//! Functions of a single float.

use super::super::eval::Evaluated;
use super::super::{Error, float};
use super::{Arguments, floats};

/// The function of this name.
pub(super) fn function(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "abs" => f64::abs,
        "ceil" => f64::ceil,
        "floor" => f64::floor,
        "exp" => f64::exp,
        "sqrt" => f64::sqrt,
        "ln" => f64::ln,
        "log2" => f64::log2,
        "log10" => f64::log10,
        "sin" => f64::sin,
        "cos" => f64::cos,
        "tan" => f64::tan,
        "asin" => f64::asin,
        "acos" => f64::acos,
        "atan" => f64::atan,
        "sinh" => f64::sinh,
        "cosh" => f64::cosh,
        "tanh" => f64::tanh,
        "asinh" => f64::asinh,
        "acosh" => f64::acosh,
        "atanh" => f64::atanh,
        "deg" => |value| value * 180.0 / std::f64::consts::PI,
        "rad" => |value| value * std::f64::consts::PI / 180.0,
        "sgn" => |value| {
            if value == 0.0 || value.is_nan() {
                value
            } else {
                value.signum()
            }
        },
        _ => return None,
    })
}

/// `clamp*` and `round`, whose other arguments are scalars.
pub(super) fn with_scalars(args: &Arguments) -> Result<Evaluated, Error> {
    let rows = args.vector(0)?;
    match args.name {
        "clamp" => {
            let (low, high) = (args.scalar(1)?, args.scalar(2)?);
            // A step whose limits cross has no result.
            let mut rows = rows;
            for row in &mut rows {
                for step in (0..row.count()).filter(|step| high[*step] < low[*step]) {
                    row.clear(step);
                }
            }
            floats(rows, |step, value| {
                float::max(low[step], float::min(high[step], value))
            })
        }
        "clamp_max" => {
            let high = args.scalar(1)?;
            floats(rows, |step, value| float::min(high[step], value))
        }
        "clamp_min" => {
            let low = args.scalar(1)?;
            floats(rows, |step, value| float::max(low[step], value))
        }
        _ => {
            let to = if args.args.len() > 1 {
                args.scalar(1)?
            } else {
                vec![1.0; args.grid.count]
            };
            floats(rows, |step, value| {
                // Inverted, because that loses less.
                let inverse = 1.0 / to[step];
                (value * inverse + 0.5).floor() / inverse
            })
        }
    }
}
