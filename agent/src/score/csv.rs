//! A series in a file of lines `timestamp,value`.

use crate::api::promql::zone;
use crate::error::{Context as _, Error, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Write as _, stdin};
use std::path::Path;
use std::time::UNIX_EPOCH;

/// Lines that are complained about one by one; of the others there is a number.
const TOLD: usize = 10;
/// From this number on a timestamp is in milliseconds: in seconds it would be the year 5138.
const MILLISECONDS: f64 = 1e11;
/// From this on in microseconds, and a thousand times it in nanoseconds.
const MICROSECONDS: f64 = 1e14;

/// A line of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// As it was written.
    pub timestamp: String,
    /// Milliseconds since 1970.
    pub at: i64,
    /// NaN where nothing was measured.
    pub value: f64,
    /// The third column, where there may be one.
    pub third: Option<f64>,
}

/// The series.
#[derive(Debug, Default)]
pub struct Table {
    /// Its lines, later and later.
    pub rows: Vec<Row>,
    /// Lines that could not be used.
    pub left_out: usize,
}

impl Table {
    /// Reads a file, `-` for standard input. A line that cannot be used is told on standard error, and the rest is read.
    pub fn read(file: &Path) -> Result<Self> {
        Self::of(file, false)
    }

    /// The same of a file that may have a third column.
    pub fn with_third(file: &Path) -> Result<Self> {
        Self::of(file, true)
    }

    fn of(file: &Path, third: bool) -> Result<Self> {
        let name = file.display().to_string();
        let table = if file.as_os_str() == "-" {
            Self::parse(&name, stdin().lock(), third, complain)
        } else {
            let opened = File::open(file).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => Error::usage(format_args!("{name}: no such file")),
                _ => Error::new(format_args!("{name}: {e}")),
            })?;
            Self::parse(&name, BufReader::new(opened), third, complain)
        }?;
        if table.left_out > TOLD {
            complain(&format!(
                "{name}: {} lines more were left out",
                table.left_out - TOLD
            ));
        }
        if table.rows.iter().all(|row| !row.value.is_finite()) {
            return Err(Error::new(format_args!(
                "{name}: no value; lines are to be timestamp,value, e.g. 2026-01-31T12:00:00Z,3.5"
            )));
        }
        Ok(table)
    }

    fn parse(
        name: &str,
        mut input: impl BufRead,
        third: bool,
        mut complain: impl FnMut(&str),
    ) -> Result<Self> {
        let mut table = Self::default();
        let mut bytes = Vec::new();
        for line in 1.. {
            bytes.clear();
            if input.read_until(b'\n', &mut bytes).context(name)? == 0 {
                break;
            }
            let text = String::from_utf8_lossy(&bytes);
            let text = text.trim_start_matches('\u{feff}').trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let last = table.rows.last().map(|row| row.at);
            match row(text, last, third) {
                Ok(row) => table.rows.push(row),
                // What the columns are called.
                Err(_) if line == 1 && text.contains(',') && !text.contains(|c: char| c.is_ascii_digit()) => {
                }
                Err(why) => {
                    table.left_out += 1;
                    if table.left_out <= TOLD {
                        complain(&format!("{name}:{line}: {why}; the line is left out"));
                    }
                }
            }
        }
        Ok(table)
    }

    /// Seconds from one line to the next, as it is mostly.
    pub fn step(&self) -> f64 {
        let later = self.rows.iter().skip(1);
        let mut steps: Vec<i64> = self.rows.iter().zip(later).map(|(a, b)| b.at - a.at).collect();
        steps.sort_unstable();
        steps.get(steps.len() / 2).map_or(1.0, |ms| *ms as f64 / 1e3)
    }
}

fn complain(what: &str) {
    let _ = writeln!(std::io::stderr(), "geophone: {what}");
}

fn row(text: &str, last: Option<i64>, third: bool) -> std::result::Result<Row, String> {
    let fields: Vec<&str> = text
        .split(',')
        .map(|f| f.trim().trim_matches('"').trim())
        .collect();
    let (timestamp, value, more) = match fields[..] {
        [timestamp, value] => (timestamp, value, None),
        [timestamp, value, more] if third => (timestamp, value, Some(more)),
        _ => {
            let columns = fields.len();
            let wanted = if third {
                "timestamp,value or timestamp,good,total"
            } else {
                "timestamp,value"
            };
            return Err(format!(
                "{columns} columns where there should be {wanted}; choose them, e.g. with cut -d, -f1,2"
            ));
        }
    };
    let at = time(timestamp).ok_or_else(|| {
        format!("{timestamp:?} is no time; write 2026-01-31T12:00:00Z, or seconds or milliseconds since 1970")
    })?;
    if last.is_some_and(|last| at <= last) {
        return Err(format!(
            "{timestamp} is not later than the line before; sort by time, each time once"
        ));
    }
    Ok(Row {
        timestamp: timestamp.to_owned(),
        at,
        value: number(value)?,
        third: more.map(number).transpose()?,
    })
}

fn number(text: &str) -> std::result::Result<f64, String> {
    match text.to_ascii_lowercase().as_str() {
        "" | "na" | "null" | "none" | "-" => Ok(f64::NAN),
        lower => lower
            .parse()
            .map_err(|_none| format!("{text:?} is no number; leave it empty where nothing was measured")),
    }
}

fn time(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse::<f64>() {
        let ms = match number.abs() {
            size if size < MILLISECONDS => number * 1e3,
            size if size < MICROSECONDS => number,
            size if size < MICROSECONDS * 1e3 => number / 1e3,
            _ => number / 1e6,
        };
        // The year 9999: nobody can write a later one.
        return (ms.abs() < 2.5e14).then_some(ms.round() as i64);
    }
    let (local, offset) = zone(text)?;
    let time = humantime::parse_rfc3339_weak(&local).ok()?;
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    Some(i64::try_from(since.as_millis()).ok()? - offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Table, Vec<String>) {
        let mut complaints = Vec::new();
        let table = Table::parse("x.csv", text.as_bytes(), false, |c| complaints.push(c.to_owned())).unwrap();
        (table, complaints)
    }

    #[test]
    fn times_as_people_write_them() {
        for (text, at) in [
            ("1769860800", 1_769_860_800_000),
            ("1769860800.25", 1_769_860_800_250),
            ("1769860800250", 1_769_860_800_250),
            ("1769860800250000", 1_769_860_800_250),
            ("1769860800250000000", 1_769_860_800_250),
            ("2026-01-31T12:00:00Z", 1_769_860_800_000),
            ("2026-01-31T13:00:00+01:00", 1_769_860_800_000),
            ("2026-01-31 12:00:00", 1_769_860_800_000),
            ("\"2026-01-31 12:00:00.250\"", 1_769_860_800_250),
        ] {
            let (table, complaints) = parse(&format!("{text},1\n"));
            assert!(complaints.is_empty(), "{complaints:?}");
            assert_eq!(table.rows[0].at, at, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_by_line() {
        let text = "\u{feff}time,value\r\n10,1\r\nsoon,2\n20,much\n20,2,3\n\n15,5\n5,5\n# no\n30,\n40,-1e3";
        let (table, complaints) = parse(text);
        let expected = [
            ("x.csv:3: ", "\"soon\""),
            ("x.csv:4: ", "\"much\""),
            ("x.csv:5: ", "3 columns"),
            ("x.csv:8: ", "not later"),
        ];
        assert_eq!(complaints.len(), expected.len(), "{complaints:?}");
        for (complaint, (place, what)) in complaints.iter().zip(expected) {
            assert!(
                complaint.starts_with(place) && complaint.contains(what),
                "{complaint}"
            );
        }
        let values: Vec<(i64, f64)> = table.rows.iter().map(|r| (r.at / 1000, r.value)).collect();
        assert_eq!(values[..2], [(10, 1.0), (15, 5.0)]);
        assert!(values[2].1.is_nan());
        assert_eq!(values[3], (40, -1000.0));
        assert_eq!(table.step(), 10.0);
    }
}
