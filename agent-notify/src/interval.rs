//! When routes tell: Alertmanager's time intervals.

use agent_store::series::Millis;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Minutes of a day, as `24:00` has them.
const DAY: i32 = 24 * 60;
/// Sunday is the first, as in Alertmanager.
const WEEKDAYS: [&str; 7] = [
    "sunday",
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
];
const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

type Span = RangeInclusive<i32>;

/// An interval as it is written; what is empty is any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written<'a> {
    /// Begin and end of spans of a day, `HH:MM`; the end is no part of it.
    pub times: &'a [(String, String)],
    /// Names of weekdays, or spans of them: `monday:friday`.
    pub weekdays: &'a [String],
    /// Days of the month or spans of them; below 0 from its end.
    pub days_of_month: &'a [String],
    /// Names or numbers of months, or spans of them.
    pub months: &'a [String],
    /// Years, or spans of them.
    pub years: &'a [String],
    /// Name of a time zone, `Local`, or nothing for UTC.
    pub location: &'a str,
}

/// Times that come again: those at which all that it says is so.
#[derive(Clone, Debug, PartialEq)]
pub struct Interval {
    times: Vec<Span>,
    weekdays: Vec<Span>,
    days_of_month: Vec<Span>,
    months: Vec<Span>,
    years: Vec<Span>,
    zone: TimeZone,
}

impl Interval {
    /// Reads one. An error is the path of what is wrong below it, and why.
    pub fn new(written: Written<'_>) -> Result<Self, (String, String)> {
        let spans = |key: &str, texts: &[String], read: &dyn Fn(&str) -> Result<Span, String>| {
            let one = |(at, text): (usize, &String)| read(text).map_err(|why| (format!("{key}[{at}]"), why));
            let all = texts.iter().enumerate().map(one);
            all.collect::<Result<Vec<Span>, _>>()
        };
        let times = written.times.iter().enumerate();
        let times = times.map(|(at, (start, end))| {
            span_of_day(start, end).map_err(|(key, why)| (format!("times[{at}].{key}"), why))
        });
        Ok(Self {
            times: times.collect::<Result<_, _>>()?,
            weekdays: spans("weekdays", written.weekdays, &|text| {
                rising(text, &|part| {
                    named(part, &WEEKDAYS, 0, "a weekday such as monday")
                })
            })?,
            days_of_month: spans("days_of_month", written.days_of_month, &days)?,
            months: spans("months", written.months, &|text| rising(text, &month))?,
            years: spans("years", written.years, &|text| {
                rising(text, &|part| number(part, "a year such as 2027"))
            })?,
            zone: zone(written.location).map_err(|why| ("location".to_owned(), why))?,
        })
    }

    /// Whether a time is in it.
    #[must_use]
    pub fn contains(&self, at: Millis) -> bool {
        let Ok(at) = Timestamp::from_millisecond(at) else {
            return false;
        };
        let at = at.to_zoned(self.zone.clone());
        let is_in =
            |spans: &[Span], value: i32| spans.is_empty() || spans.iter().any(|span| span.contains(&value));
        let (last, day) = (i32::from(at.days_in_month()), i32::from(at.day()));
        is_in(&self.times, i32::from(at.hour()) * 60 + i32::from(at.minute()))
            && is_in(&self.weekdays, i32::from(at.weekday().to_sunday_zero_offset()))
            && is_in(&self.months, i32::from(at.month()))
            && is_in(&self.years, i32::from(at.year()))
            && (self.days_of_month.is_empty()
                || self.days_of_month.iter().any(|span| has_day(span, day, last)))
    }
}

/// Whether a span has a day of a month whose last is `last`; beyond that it ends with the month.
fn has_day(span: &Span, day: i32, last: i32) -> bool {
    let of = |number: i32| if number < 0 { last + number + 1 } else { number };
    let (begin, end) = (of(*span.start()), of(*span.end()));
    (begin.max(1)..=end.min(last)).contains(&day)
}

/// When a route tells of what fires.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schedule {
    /// In none of these.
    pub mute: Vec<Arc<[Interval]>>,
    /// Only in one of these, if there are any.
    pub active: Vec<Arc<[Interval]>>,
}

impl Schedule {
    /// Whether there is no restriction.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mute.is_empty() && self.active.is_empty()
    }

    /// Whether nothing is told at this time.
    #[must_use]
    pub fn is_silent(&self, at: Millis) -> bool {
        let is_in = |all: &[Arc<[Interval]>]| all.iter().flat_map(|one| &**one).any(|one| one.contains(at));
        is_in(&self.mute) || (!self.active.is_empty() && !is_in(&self.active))
    }
}

/// `a:b`, or `a` alone.
fn span(text: &str, read: &dyn Fn(&str) -> Result<i32, String>) -> Result<(i32, i32), String> {
    let text = text.trim().to_ascii_lowercase();
    match text.split_once(':') {
        Some((begin, end)) => Ok((read(begin)?, read(end)?)),
        None => read(&text).map(|one| (one, one)),
    }
}

fn rising(text: &str, read: &dyn Fn(&str) -> Result<i32, String>) -> Result<Span, String> {
    let (begin, end) = span(text, read)?;
    match begin <= end {
        true => Ok(begin..=end),
        false => Err(format!("{text:?} ends before it begins; write two spans")),
    }
}

fn number(text: &str, what: &str) -> Result<i32, String> {
    text.parse().map_err(|_none| format!("{text:?} is not {what}"))
}

fn named(text: &str, names: &[&str], first: i32, what: &str) -> Result<i32, String> {
    let place = names.iter().position(|name| *name == text);
    let place = place.and_then(|place| i32::try_from(place).ok());
    place
        .map(|place| place + first)
        .ok_or_else(|| format!("{text:?} is not {what}"))
}

fn month(text: &str) -> Result<i32, String> {
    let what = "a month such as may or 5";
    match text.parse() {
        Ok(number @ 1..=12) => Ok(number),
        _ => named(text, &MONTHS, 1, what),
    }
}

fn days(text: &str) -> Result<Span, String> {
    let (begin, end) = span(
        text,
        &|part| match number(part, "a day of the month, 1 to 31 or -31 to -1")? {
            0 | ..=-32 | 32.. => Err(format!(
                "{part:?} is not a day of the month, 1 to 31 or -31 to -1"
            )),
            day => Ok(day),
        },
    )?;
    if begin < 0 && end > 0 {
        return Err(format!(
            "{text:?}: what begins from the end of the month ends so: write -3:-1"
        ));
    }
    // In the shortest month; that a span is empty in some months is not wrong.
    let of = |day: i32| if day < 0 { 28 + day } else { day };
    match of(begin) <= of(end) {
        true => Ok(begin..=end),
        false => Err(format!("{text:?} ends before it begins; write two spans")),
    }
}

/// A time of a day in minutes.
fn minutes(text: &str) -> Result<i32, String> {
    let two = |part: &str| match part.len() {
        2 => part.parse::<u8>().ok(),
        _ => None,
    };
    let parts = text.split_once(':');
    let parts = parts.and_then(|(hour, minute)| Some((two(hour)?, two(minute)?)));
    match parts {
        Some((24, 0)) => Ok(DAY),
        Some((hour @ ..24, minute @ ..60)) => Ok(i32::from(hour) * 60 + i32::from(minute)),
        _ => Err(format!(
            "{text:?} is no time of a day such as 09:00; the last is 24:00"
        )),
    }
}

fn span_of_day(start: &str, end: &str) -> Result<Span, (&'static str, String)> {
    let begin = minutes(start).map_err(|why| ("start_time", why))?;
    let until = minutes(end).map_err(|why| ("end_time", why))?;
    match begin < until {
        true => Ok(begin..=until - 1),
        false => Err((
            "end_time",
            format!("{end} is not later than {start}; over midnight write two spans"),
        )),
    }
}

fn zone(name: &str) -> Result<TimeZone, String> {
    match name {
        "" | "UTC" => Ok(TimeZone::UTC),
        "Local" => Ok(TimeZone::system()),
        name => TimeZone::get(name).map_err(|_none| {
            format!("there is no time zone {name:?}; write e.g. Europe/Berlin, UTC or Local")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|text| (*text).to_owned()).collect()
    }

    fn at(text: &str) -> Millis {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn what_is_written_is_what_is_meant() {
        let office = [("09:00".to_owned(), "17:00".to_owned())];
        let week = texts(&["monday:friday"]);
        let work = Interval::new(Written {
            times: &office,
            weekdays: &week,
            ..Written::default()
        });
        let berlin = Interval::new(Written {
            times: &office,
            weekdays: &week,
            location: "Europe/Berlin",
            ..Written::default()
        });
        let (work, berlin) = (work.unwrap(), berlin.unwrap());
        // A Friday in summer, then one in winter.
        for (time, here, there) in [
            ("2027-07-02T06:59:59Z", false, false),
            ("2027-07-02T07:00:00Z", false, true),
            ("2027-07-02T09:00:00Z", true, true),
            ("2027-07-02T15:00:00Z", true, false),
            ("2027-07-02T16:59:59Z", true, false),
            ("2027-07-02T17:00:00Z", false, false),
            ("2027-12-03T07:59:59Z", false, false),
            ("2027-12-03T08:00:00Z", false, true),
            ("2027-07-03T12:00:00Z", false, false),
        ] {
            let found = (work.contains(at(time)), berlin.contains(at(time)));
            assert_eq!(found, (here, there), "{time}");
        }
        let days = texts(&["1:2", "-3:-1", "31"]);
        let days = Interval::new(Written {
            days_of_month: &days,
            ..Written::default()
        });
        let days = days.unwrap();
        let of = |year_month: &str| -> Vec<u32> {
            let all = (1..=31).filter(|day| {
                let text = format!("{year_month}-{day:02}T12:00:00Z");
                text.parse::<Timestamp>()
                    .is_ok_and(|time| days.contains(time.as_millisecond()))
            });
            all.collect()
        };
        assert_eq!(of("2027-02"), [1, 2, 26, 27, 28]);
        assert_eq!(of("2028-02"), [1, 2, 27, 28, 29]);
        assert_eq!(of("2027-01"), [1, 2, 29, 30, 31]);
        let (months, years) = (texts(&["November:december", "1"]), texts(&["2026:2027", "2030"]));
        let seasons = Interval::new(Written {
            months: &months,
            years: &years,
            ..Written::default()
        });
        let seasons = seasons.unwrap();
        for (time, is_in) in [
            ("2026-11-01T00:00:00Z", true),
            ("2027-01-31T23:59:59Z", true),
            ("2027-02-01T00:00:00Z", false),
            ("2028-01-01T00:00:00Z", false),
            ("2030-12-31T00:00:00Z", true),
        ] {
            assert_eq!(seasons.contains(at(time)), is_in, "{time}");
        }
        let late = [("18:00".to_owned(), "24:00".to_owned())];
        let late = Interval::new(Written {
            times: &late,
            ..Written::default()
        });
        assert!(late.unwrap().contains(at("2027-02-01T23:59:59.999Z")));
        assert!(Interval::new(Written::default()).unwrap().contains(0));
    }

    #[test]
    fn a_route_is_silent_in_what_mutes_it_and_out_of_what_it_is_active_in() {
        let of = |day: &str| -> Arc<[Interval]> {
            let weekdays = texts(&[day]);
            let one = Interval::new(Written {
                weekdays: &weekdays,
                ..Written::default()
            });
            Arc::from([one.unwrap()])
        };
        let (friday, saturday) = (at("2027-07-02T12:00:00Z"), at("2027-07-03T12:00:00Z"));
        let silent = |mute: &[&str], active: &[&str]| {
            let schedule = Schedule {
                mute: mute.iter().map(|day| of(day)).collect(),
                active: active.iter().map(|day| of(day)).collect(),
            };
            (schedule.is_silent(friday), schedule.is_silent(saturday))
        };
        assert_eq!(silent(&[], &[]), (false, false));
        assert_eq!(silent(&["sunday", "friday"], &[]), (true, false));
        assert_eq!(silent(&[], &["sunday", "friday"]), (false, true));
        assert_eq!(silent(&["friday"], &["friday"]), (true, true));
    }
}
