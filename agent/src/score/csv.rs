//! A series in a file of lines `timestamp,value`.
//!
//! Between the fields are commas, semicolons or tabs; what is not in order of time is sorted.

mod line;

use crate::error::{Context as _, Error, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, Write as _, stdin};
use std::path::Path;

/// Bytes of a line, without its end: what has no end of lines is not taken into memory whole.
const LONGEST: usize = 64 << 10;
/// Lines that are kept: some gigabytes.
const MOST: usize = 50_000_000;
/// Lines that are complained about one by one; of the others there is a number.
const TOLD: usize = 10;
/// A line of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// As it was written.
    pub timestamp: String,
    /// Milliseconds since 1970.
    pub at: i64,
    /// NaN where nothing was measured; may be infinite.
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
    /// Reads a file, `-` for standard input. A line that cannot be used is told on standard error, and the rest is read. A file without
    /// a value, or with more than 50 million of them, is an error.
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
            Self::parse(&name, stdin().lock(), third, MOST, complain)
        } else {
            let opened = File::open(file).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => Error::usage(format_args!("{name}: no such file")),
                _ => Error::new(format_args!("{name}: {e}")),
            })?;
            Self::parse(&name, BufReader::new(opened), third, MOST, complain)
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
        most: usize,
        mut complain: impl FnMut(&str),
    ) -> Result<Self> {
        let mut table = Self::default();
        let mut bytes = Vec::new();
        let (mut separator, mut is_first) = (',', true);
        // The first line that is earlier than the one before it.
        let mut back = None;
        for number in 1_usize.. {
            bytes.clear();
            let mut start = input.by_ref().take(LONGEST as u64 + 1);
            if start.read_until(b'\n', &mut bytes).context(name)? == 0 {
                break;
            }
            let is_cut = bytes.len() > LONGEST && !bytes.ends_with(b"\n");
            if is_cut {
                input.skip_until(b'\n').context(name)?;
            }
            let text = String::from_utf8_lossy(&bytes);
            // No tab: the last field may be empty.
            let text = text
                .trim_start_matches('\u{feff}')
                .trim_matches([' ', '\r', '\n']);
            if !is_cut && (text.trim().is_empty() || text.starts_with('#')) {
                continue;
            }
            let is_first = std::mem::take(&mut is_first);
            let found = match is_cut {
                true => Err(format!("longer than {} KiB", LONGEST >> 10)),
                false => {
                    // The names of columns may have other characters than the lines.
                    if table.rows.is_empty() {
                        separator = line::separator(text);
                    }
                    let fields = line::fields(text, separator);
                    if is_first && line::are_names(&fields) {
                        continue;
                    }
                    line::row(&fields, table.rows.last(), third)
                }
            };
            match found {
                Ok(_) if table.rows.len() >= most => {
                    return Err(Error::new(format_args!(
                        "{name}: more than {most} lines; give a part of them, e.g. those of tail -n 1000000, or one in ten, \
                         e.g. by awk 'NR % 10 == 0'"
                    )));
                }
                Ok(row) => {
                    if back.is_none() && table.rows.last().is_some_and(|last| row.at < last.at) {
                        back = Some(format!("{name}:{number}: {} is", row.timestamp));
                    }
                    table.rows.push(row);
                }
                Err(why) => {
                    table.left_out += 1;
                    if table.left_out <= TOLD {
                        complain(&format!("{name}:{number}: {why}; the line is left out"));
                    }
                }
            }
        }
        if let Some(line) = back {
            let twice = table.sort();
            complain(&format!(
                "{line} earlier than the line before; the lines were sorted by time"
            ));
            if twice > 0 {
                complain(&format!(
                    "{name}: {twice} lines have the time of one before them; they are left out"
                ));
            }
        }
        Ok(table)
    }

    /// Puts the lines in order of time, of several of a time the first in the file, and says how many are left out. What is written newest
    /// first would else be one line.
    fn sort(&mut self) -> usize {
        let before = self.rows.len();
        self.rows.sort_by_key(|row| row.at);
        self.rows.dedup_by_key(|row| row.at);
        before - self.rows.len()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Table, Vec<String>) {
        let mut complaints = Vec::new();
        let complain = |c: &str| complaints.push(c.to_owned());
        let table = Table::parse("x.csv", text.as_bytes(), false, MOST, complain).unwrap();
        (table, complaints)
    }

    /// Cause: a line of a megabyte between two others, the longest that is allowed, and one that ends nowhere. Seen: one complaint about
    /// each that is too long, with its number; the others are read.
    #[test]
    fn a_line_without_end_is_left_out() {
        let long = "9".repeat(1 << 20);
        let longest = format!("3,{}4", " ".repeat(LONGEST - 3));
        assert_eq!(longest.len(), LONGEST);
        let (table, complaints) = parse(&format!("1,1\n{long}\n2,2\n{longest}\n4,{long}"));
        let values: Vec<f64> = table.rows.iter().map(|row| row.value).collect();
        assert_eq!(values, [1.0, 2.0, 4.0]);
        let told = |line| format!("x.csv:{line}: longer than 64 KiB; the line is left out");
        assert_eq!((complaints, table.left_out), (vec![told(2), told(5)], 2));
    }

    /// Cause: one line more than is kept. Seen: an error with what helps; as many as are kept are read.
    #[test]
    fn too_many_lines_are_an_error() {
        let read = |text: &str| Table::parse("x.csv", text.as_bytes(), false, 3, |c| panic!("{c}"));
        assert_eq!(read("1,1\n2,2\n3,3\n").unwrap().rows.len(), 3);
        let error = read("1,1\n2,2\n3,3\n4,4\n").unwrap_err().to_string();
        assert!(
            error.starts_with("x.csv: more than 3 lines; ") && error.contains("tail -n"),
            "{error}"
        );
    }

    /// Cause: values that deviations of single precision cannot hold, and the largest that they can. Seen: the first are left out, and
    /// why; in the third column as well.
    #[test]
    fn what_is_too_large_to_be_judged_is_left_out() {
        let (table, complaints) = parse("1,1e30\n2,-1e308\n3,1e31\n4,-1e30\n5,nan\n6,inf\n7,-Inf\n");
        assert_eq!(table.rows.len(), 5, "what is infinite is there");
        assert_eq!(complaints.len(), 2);
        for (complaint, value) in complaints.iter().zip(["-1e308", "1e31"]) {
            assert!(
                complaint.contains(&format!("{value} is farther from 0 than 1e30; ")),
                "{complaint}"
            );
        }
        let mut complaints = Vec::new();
        let complain = |c: &str| complaints.push(c.to_owned());
        let table = Table::parse("x.csv", &b"1,2,1e31\n"[..], true, MOST, complain).unwrap();
        assert_eq!((table.rows.len(), complaints.len()), (0, 1));
        // Of nothing infinite there is a part; and what overflows is too large, and not divided by nothing.
        for line in ["1,2,inf", "1,inf,inf", "1,1e400"] {
            let mut complaints = Vec::new();
            let complain = |c: &str| complaints.push(c.to_owned());
            let table = Table::parse("x.csv", line.as_bytes(), true, MOST, complain).unwrap();
            assert_eq!((table.rows.len(), complaints.len()), (0, 1), "{line}");
        }
    }

    /// Cause: ten thousand samples a second, the same time twice, and one that goes back to a time that was. Seen: of each millisecond the
    /// first, and why the others are not; that what goes back was sorted, and is there twice.
    #[test]
    fn times_finer_than_a_millisecond_are_told_to_be() {
        let (table, complaints) = parse("10.0,1\n10.0001,2\n10.0002,3\n10.001,4\n10.001,5\n10,6\n");
        let values: Vec<f64> = table.rows.iter().map(|row| row.value).collect();
        assert_eq!(values, [1.0, 4.0]);
        let words = [
            "same millisecond",
            "same millisecond",
            "is the time of the line before",
            "x.csv:6: 10 is earlier than the line before; the lines were sorted by time",
            "1 lines have the time of one before them",
        ];
        assert_eq!(complaints.len(), words.len(), "{complaints:?}");
        for (complaint, words) in complaints.iter().zip(words) {
            assert!(complaint.contains(words), "{complaint}");
        }
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
            ("2026-01-31T13:00:00+0100", 1_769_860_800_000),
            ("2026-01-31T10:30:00-0130", 1_769_860_800_000),
            ("2026-01-31 13:00:00 +0100", 1_769_860_800_000),
            ("2026-01-31", 1_769_817_600_000),
            ("\"2026-01-31 12:00:00.250\"", 1_769_860_800_250),
            ("2026-01-31 12:00", 1_769_860_800_000),
            ("2026-01-31T12:00Z", 1_769_860_800_000),
            ("2026-01-31 13:00+01:00", 1_769_860_800_000),
            ("2026-01-31 13:00 +0100", 1_769_860_800_000),
        ] {
            let (table, complaints) = parse(&format!("{text},1\n"));
            assert!(complaints.is_empty(), "{complaints:?}");
            assert_eq!(table.rows[0].at, at, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_by_line() {
        let text = "\u{feff}time,value\r\n10,1\r\nsoon,2\n20,much\n20,2,3\n\n15,5\n5,5\n# no\n30,\n40,-1e3\n35,\"1,000\"";
        let (table, complaints) = parse(text);
        let expected = [
            ("x.csv:3: ", "\"soon\""),
            ("x.csv:4: ", "\"much\""),
            ("x.csv:5: ", "3 columns"),
            ("x.csv:12: ", "\"1,000\" is no number; write it with a point"),
            (
                "x.csv:8: ",
                "5 is earlier than the line before; the lines were sorted",
            ),
        ];
        assert_eq!(complaints.len(), expected.len(), "{complaints:?}");
        for (complaint, (place, what)) in complaints.iter().zip(expected) {
            assert!(
                complaint.starts_with(place) && complaint.contains(what),
                "{complaint}"
            );
        }
        let values: Vec<(i64, f64)> = table.rows.iter().map(|r| (r.at / 1000, r.value)).collect();
        assert_eq!(values[..3], [(5, 5.0), (10, 1.0), (15, 5.0)]);
        assert!(values[3].1.is_nan());
        assert_eq!(values[4], (40, -1000.0));
        assert_eq!(table.step(), 10.0);
    }

    /// Cause: five thousand lines, newest first, as some databases write them, one of them twice. Seen: all of them, oldest first, and two
    /// complaints: that they were sorted, and what was there twice.
    #[test]
    fn what_is_newest_first_is_sorted() {
        let lines: String = (0..5000).rev().map(|at| format!("{at},{at}.5\n")).collect();
        let (table, complaints) = parse(&format!("time,value\n{lines}17,3\n"));
        let is_right = |(at, row): (i64, &Row)| row.at == at * 1000 && row.value == at as f64 + 0.5;
        assert_eq!(table.rows.len(), 5000);
        assert!((0..).zip(&table.rows).all(is_right));
        assert_eq!((complaints.len(), table.left_out), (2, 0), "{complaints:?}");
        assert!(
            complaints[0].starts_with("x.csv:3: 4998 is earlier"),
            "{complaints:?}"
        );
    }

    /// Cause: tables as spreadsheets and databases write them: other separators, an empty last field, quotes with a comma in them, names of
    /// columns with digits, behind comments, with other characters than the lines. Seen: the same two lines of each, and no complaint.
    #[test]
    fn tables_as_others_write_them() {
        for text in [
            "timestamp;value\n10;1.5\n20;\n",
            "timestamp\tvalue\n10\t1.5\r\n20\t\r\n",
            "10\t1.5\n20\t\n",
            "time,\tvalue\n10,\t1.5\n20,\t\n",
            "10,1.5\t\n20,\t\n",
            "# by x; y\n\n#\nts1,p99\n10,1.5\n20,\n",
            "\"time, local\",\"value; ms\"\n\"10\", \"1.5\" \n\"20\",\"\"\n",
            "time;value, ms\n10,1.5\n20,\n",
            "\u{feff}\"a \"\"b\"\"\";c\n10;\"1.5\"\n20;NA\n",
        ] {
            let (table, complaints) = parse(text);
            assert!(complaints.is_empty(), "{text:?}: {complaints:?}");
            let rows: Vec<_> = table.rows.iter().map(|row| (row.at / 1000, row.value)).collect();
            assert_eq!((rows.len(), rows[0]), (2, (10, 1.5)), "{text:?}");
            assert!(rows[1].0 == 20 && rows[1].1.is_nan(), "{text:?}");
        }
        let mut complaints = Vec::new();
        let complain = |c: &str| complaints.push(c.to_owned());
        let table = Table::parse(
            "x.csv",
            &b"10,\"1,000\",\"2\"\n20,\"5,6\n"[..],
            true,
            MOST,
            complain,
        );
        // A quoted comma separates nothing; a quote without an end is none.
        assert_eq!(
            (table.unwrap().rows.len(), complaints.len()),
            (1, 1),
            "{complaints:?}"
        );
    }
}
