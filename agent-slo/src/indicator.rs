//! What is measured: how much of something there was, and how much of it was bad, as PromQL.

/// What stands in a query for the range that it is asked over.
pub(crate) const WINDOW: &str = "$window";

/// The bounds of the buckets of geophone's own histograms in the text formats: powers of two of a second.
const OCTAVES: std::ops::RangeInclusive<i32> = -20..=7;

/// What a value that is looked at now and then is called in labels. How much of it there will be in a window is known from the
/// beginning, so that a budget that is used up stays so.
pub const TIME: &str = "time";

/// What that is called of which events are counted.
pub const EVENTS: &str = "events";

/// What of the events failed, a second.
#[derive(Clone, Debug, PartialEq)]
pub enum Failed {
    /// Those that are bad.
    Bad(String),
    /// All but those that are good.
    AllBut(String),
    /// All but those that are good, where a missing number of good ones is not known, not none: that of a histogram, whose
    /// buckets are there whenever its count is.
    Known(String),
}

/// How a value that is looked at now and then is judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Judge {
    /// It is itself the share that is good, 0 to 1.
    Share,
    /// It is itself the share that is bad.
    BadShare,
    /// Good up to this.
    AtMost(f64),
    /// Good below this.
    Below(f64),
    /// Good from this on.
    AtLeast(f64),
    /// Good above this.
    Above(f64),
}

/// What is measured. Queries have `$window` where a range stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Indicator {
    /// Events, a second.
    Events {
        /// Those that failed.
        failed: Failed,
        /// All of them.
        total: String,
    },
    /// Time in which a value is good.
    Time {
        /// The value.
        query: String,
        /// When it is good.
        judge: Judge,
    },
}

impl Indicator {
    /// What it is called in labels: `events` or `time`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Events { .. } => EVENTS,
            Self::Time { .. } => TIME,
        }
    }

    /// The values of a histogram that are not above `below`, in its unit. `selector` names the histogram without a suffix.
    pub(crate) fn histogram(selector: &str, below: f64, by: &str) -> Self {
        let (metric, matchers) = selector.split_once('{').unwrap_or((selector, "}"));
        let matchers = matchers.trim_end_matches('}').trim_end_matches(',');
        let rate = |suffix: &str, more: &str| {
            let all: Vec<&str> = [more, matchers].into_iter().filter(|m| !m.is_empty()).collect();
            format!(
                "sum by ({by}) (rate({metric}{suffix}{{{}}}[{WINDOW}]))",
                all.join(",")
            )
        };
        let native = rate("", "");
        // A histogram without a value has no share of anything, but it is known that nothing happened.
        let good = format!(
            "histogram_fraction(0, {below}, {native}) * (histogram_count({native}) > 0) or 0 * histogram_count({native})"
        );
        let bucket = |bound: f64| rate("_bucket", &le(bound));
        let classic = match octave(metric, below) {
            Some((lower, upper)) => {
                let share = (below - lower) / (upper - lower);
                format!(
                    "{share} * {} + {} * {}",
                    bucket(upper),
                    1.0 - share,
                    bucket(lower)
                )
            }
            None => bucket(below),
        };
        Self::Events {
            failed: Failed::Known(format!("({good}) or ({classic})")),
            total: format!("histogram_count({native}) or {}", rate("_count", "")),
        }
    }

    /// All of it, a second: events, or seconds.
    pub(crate) fn total(&self, window: &str) -> String {
        match self {
            Self::Events { total, .. } => at(total, window),
            // What is no number is not known.
            Self::Time { query, .. } => format!("clamp(({}) >= -Inf, 1, 1)", at(query, window)),
        }
    }

    /// What of it is bad, a second; `total` is the series that has all of it.
    pub(crate) fn bad(&self, window: &str, total: &str) -> String {
        match self {
            Self::Events { failed, .. } => match failed {
                // What never happened has no series; without a total nothing is known.
                Failed::Bad(bad) => format!("(({}) and {total}) or 0 * {total}", at(bad, window)),
                Failed::AllBut(good) => {
                    format!("clamp_min({total} - (({}) or 0 * {total}), 0)", at(good, window))
                }
                Failed::Known(good) => format!("clamp_min({total} - ({}), 0)", at(good, window)),
            },
            Self::Time { query, judge } => {
                let value = format!("(({}) >= -Inf)", at(query, window));
                match judge {
                    Judge::Share => format!("1 - clamp({value}, 0, 1)"),
                    Judge::BadShare => format!("clamp({value}, 0, 1)"),
                    Judge::AtMost(limit) => format!("{value} > bool {limit}"),
                    Judge::Below(limit) => format!("{value} >= bool {limit}"),
                    Judge::AtLeast(limit) => format!("{value} < bool {limit}"),
                    Judge::Above(limit) => format!("{value} <= bool {limit}"),
                }
            }
        }
    }

    /// The share that is good over slices of time, as a value of its own.
    pub(crate) fn sliced(&self, slice: &str) -> String {
        match self {
            Self::Events { failed, total } => {
                let total = at(total, slice);
                match failed {
                    Failed::Bad(bad) => {
                        format!("1 - (({}) or 0 * ({total})) / (({total}) > 0)", at(bad, slice))
                    }
                    Failed::AllBut(good) => {
                        format!("(({}) or 0 * ({total})) / (({total}) > 0)", at(good, slice))
                    }
                    Failed::Known(good) => format!("({}) / (({total}) > 0)", at(good, slice)),
                }
            }
            Self::Time { .. } => {
                let bad = self.bad(slice, "");
                format!("1 - avg_over_time(({bad})[{slice}:30s])")
            }
        }
    }
}

/// A query over a window.
fn at(query: &str, window: &str) -> String {
    query.replace(WINDOW, window)
}

/// The matcher of a bucket's bound: versions of Prometheus and of clients differ in how they write whole numbers, and in from
/// where on they have an exponent.
fn le(bound: f64) -> String {
    let mut all = vec![go(bound)];
    if bound >= 1.0 {
        all.push(bound.to_string());
    }
    if bound.fract() == 0.0 {
        all.push(format!("{bound}.0"));
    }
    all.dedup();
    match &all[..] {
        [one] => format!("le=\"{one}\""),
        _ => {
            let all = all.join("|").replace('.', "\\\\.").replace('+', "\\\\+");
            format!("le=~\"{all}\"")
        }
    }
}

/// A number as Go writes it (`strconv.FormatFloat(f, 'g', -1, 64)`), so as Prometheus has it in `le`.
fn go(number: f64) -> String {
    if number == 0.0 || (1e-4..1e6).contains(&number.abs()) {
        return number.to_string();
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, power)) => match power.strip_prefix('-') {
            Some(power) => format!("{digits}e-{power:0>2}"),
            None => format!("{digits}e+{power:0>2}"),
        },
        None => text,
    }
}

/// The bounds of the bucket of the text formats that a value lies in, of geophone's own histograms; `None` where it is a
/// bound, or the bounds are not known.
fn octave(metric: &str, value: f64) -> Option<(f64, f64)> {
    if !metric.starts_with("geophone_") {
        return None;
    }
    let power = value.log2().floor() as i32;
    let (lower, upper) = (f64::from(power).exp2(), f64::from(power + 1).exp2());
    let known = OCTAVES.contains(&power) && OCTAVES.contains(&(power + 1));
    (known && lower != value).then_some((lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_found_however_they_are_written() {
        // As Go itself writes them.
        for (number, text) in [
            (0.000_01, "1e-05"),
            (0.0001, "0.0001"),
            (0.25, "0.25"),
            (123_456.5, "123456.5"),
            (999_999.0, "999999"),
            (1e6, "1e+06"),
            (1_234_567.0, "1.234567e+06"),
            (1_234_567.5, "1.2345675e+06"),
            (1e21, "1e+21"),
        ] {
            assert_eq!(go(number), text);
        }
        for (bound, matcher) in [
            (0.000_01, "le=\"1e-05\""),
            (0.25, "le=\"0.25\""),
            (1.0, r#"le=~"1|1\\.0""#),
            (1e6, r#"le=~"1e\\+06|1000000|1000000\\.0""#),
            (1_234_567.5, r#"le=~"1\\.2345675e\\+06|1234567\\.5""#),
        ] {
            assert_eq!(le(bound), matcher);
        }
    }
}
