//! Windows, rolling and of the calendar, in Rust and in PromQL. The calendar is that of UTC, as PromQL's is.

use agent_store::promql;
use agent_store::series::Millis;

/// An hour in milliseconds.
pub(crate) const HOUR: Millis = 3_600_000;
/// A day in milliseconds.
pub(crate) const DAY: Millis = 24 * HOUR;
/// The first Monday since 1970.
const MONDAY: Millis = 4 * DAY;
/// No window is longer.
const LONGEST: Millis = 366 * DAY;

/// The time over which an objective must be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// So many milliseconds up to now.
    Rolling(Millis),
    /// Periods of one length, in milliseconds, one of which begins at this time; from the beginning of the present one.
    Periods {
        /// When one of them begins.
        start: Millis,
        /// How long each is.
        length: Millis,
    },
    /// From the first of the month.
    Month,
}

impl Window {
    /// `30d` is rolling; `day`, `week` (from Monday) and `month` are the calendar's.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "day" => Ok(Self::Periods {
                start: 0,
                length: DAY,
            }),
            "week" => Ok(Self::Periods {
                start: MONDAY,
                length: 7 * DAY,
            }),
            "month" => Ok(Self::Month),
            _ => match duration(text) {
                Some(length) => Self::rolling(length),
                None => Err(format!(
                    "expected a duration like 30d, or day, week or month of the calendar, found {text:?}"
                )),
            },
        }
    }

    /// The window that has this name; as its beginning is not in the name, periods begin anywhere.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name.strip_prefix("calendar-") {
            Some(length) => duration(length).map(|length| Self::Periods { start: 0, length }),
            None => Self::parse(name).ok(),
        }
    }

    /// A rolling one of a length that can be judged.
    pub(crate) fn rolling(length: Millis) -> Result<Self, String> {
        match length {
            HOUR..=LONGEST => Ok(Self::Rolling(length)),
            _ => Err(format!("{} is out of range, 1h to 366d", short(length))),
        }
    }

    /// What it is called in labels: its length, or `day`, `week`, `month`.
    #[must_use]
    pub fn name(&self) -> String {
        match *self {
            Self::Rolling(length) => short(length),
            Self::Periods { length: DAY, .. } => "day".to_owned(),
            Self::Periods { length, .. } if length == 7 * DAY => "week".to_owned(),
            Self::Periods { length, .. } => format!("calendar-{}", short(length)),
            Self::Month => "month".to_owned(),
        }
    }

    /// The longest that it can be, in milliseconds.
    #[must_use]
    pub fn reach(&self) -> Millis {
        match *self {
            Self::Rolling(length) | Self::Periods { length, .. } => length,
            Self::Month => 31 * DAY,
        }
    }

    /// When the window that ends at this time began.
    #[must_use]
    pub fn begin(&self, at: Millis) -> Millis {
        match *self {
            Self::Rolling(length) => at - length,
            Self::Periods { start, length } => start + (at - start).div_euclid(length) * length,
            Self::Month => {
                let days = at.div_euclid(DAY);
                let (_, _, day) = promql::civil(days);
                (days - day + 1) * DAY
            }
        }
    }

    /// The length of the whole window that ends with a line of this time, of which a month or day may have only begun.
    #[must_use]
    pub fn whole(&self, at: Millis) -> Millis {
        match self {
            // No month has 32 days, and of two that follow each other none is over by then.
            Self::Month => {
                let begin = self.begin_of_last(at);
                self.begin(begin + 32 * DAY) - begin
            }
            _ => self.reach(),
        }
    }

    /// When the window began that ends with a line of this time. A line is of the time before it: one at midnight is the last
    /// of a day, not the first of the next.
    #[must_use]
    pub fn begin_of_last(&self, at: Millis) -> Millis {
        match self {
            Self::Rolling(_) => self.begin(at),
            _ => self.begin(at - 1),
        }
    }

    /// PromQL: which period it is now, as a vector of one element; none of a rolling window.
    pub(crate) fn period(&self) -> Option<String> {
        match *self {
            Self::Rolling(_) => None,
            Self::Periods { start, length } => Some(format!(
                "floor(vector((time() - {}) / {}))",
                start.rem_euclid(length) / 1000,
                length / 1000
            )),
            Self::Month => Some("year() * 100 + month()".to_owned()),
        }
    }

    /// PromQL: seconds of the whole window, as a number; of a month, as a vector of one element.
    pub(crate) fn seconds(&self) -> String {
        match *self {
            Self::Rolling(length) | Self::Periods { length, .. } => (length / 1000).to_string(),
            Self::Month => format!("(days_in_month() * {})", DAY / 1000),
        }
    }
}

/// A duration as PromQL writes it, in milliseconds; `None` if it is none, or not positive.
pub(crate) fn duration(text: &str) -> Option<Millis> {
    // A number alone would be seconds.
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let millis = promql::duration(text)?.as_millis();
    Millis::try_from(millis).ok().filter(|millis| *millis > 0)
}

/// A duration in the largest unit that has it whole, as PromQL takes it.
#[must_use]
pub fn short(millis: Millis) -> String {
    let units = [(DAY, "d"), (HOUR, "h"), (60_000, "m"), (1000, "s")];
    let fits = units.iter().find(|(unit, _)| millis > 0 && millis % unit == 0);
    fits.map_or_else(
        || format!("{millis}ms"),
        |(unit, name)| format!("{}{name}", millis / unit),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cause: lines of February in a leap year, and of the last moment of December. Seen: all days of the month, however far it is; of
    /// others their length.
    #[test]
    fn a_window_is_as_long_as_its_month() {
        // 1 February 2024 and 1 January 2024, at midnight.
        let (february, january) = (1_706_745_600_000, 1_704_067_200_000);
        let days = |at| Window::Month.whole(at) / DAY;
        assert_eq!(
            (days(february + 9 * DAY), days(january), days(february)),
            (29, 31, 31)
        );
        assert_eq!(Window::Rolling(30 * DAY).whole(0), 30 * DAY);
    }

    #[test]
    fn a_window_begins_where_the_calendar_says() {
        // 2024-02-29T13:30:00Z, a Thursday.
        let at = 1_709_213_400_000;
        let begin = |text: &str| Window::parse(text).unwrap().begin(at);
        assert_eq!(begin("30d"), at - 30 * DAY);
        assert_eq!(begin("day"), 1_709_164_800_000);
        assert_eq!(begin("week"), 1_708_905_600_000);
        assert_eq!(begin("month"), 1_706_745_600_000);
        for text in ["day", "week", "month"] {
            let first = begin(text);
            assert_eq!(Window::parse(text).unwrap().begin(first), first, "{text}");
        }
        // The last line of the 29th is that of midnight.
        let last = |text: &str| {
            Window::parse(text)
                .unwrap()
                .begin_of_last(1_709_164_800_000 + DAY)
        };
        assert_eq!(last("day"), 1_709_164_800_000);
        assert_eq!(last("month"), 1_706_745_600_000);
        assert_eq!(last("2d"), 1_709_164_800_000 - DAY);
    }

    #[test]
    fn windows_have_the_names_that_they_are_given() {
        for text in ["1h", "90m", "7d", "30d", "day", "week", "month"] {
            assert_eq!(Window::parse(text).unwrap().name(), text);
        }
        for text in ["", "30", "5m", "400d", "-1d", "fortnight", "1e300d"] {
            assert!(Window::parse(text).is_err(), "{text}");
        }
    }
}
