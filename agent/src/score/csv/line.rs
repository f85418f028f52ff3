//! What a line says: its fields, a time, and numbers.

use super::Row;
use crate::api::promql::zone;
use agent_score::anomaly::LARGEST;
use std::borrow::Cow;
use std::time::UNIX_EPOCH;

/// From this number on a timestamp is in milliseconds: in seconds it would be the year 5138.
const MILLISECONDS: f64 = 1e11;
/// From this on in microseconds, and a thousand times it in nanoseconds.
const MICROSECONDS: f64 = 1e14;

/// What stands between the fields of a file like this line: tabs, or semicolons, of which those have more whose numbers have commas.
pub(super) fn separator(line: &str) -> char {
    let mut quoted = false;
    let plain = line.chars().filter(|c| {
        quoted ^= *c == '"';
        !quoted
    });
    let plain: String = plain.collect();
    let count = |of: char| plain.matches(of).count();
    let (semicolons, commas) = (count(';'), count(','));
    // A tab beside another separator, or at the end, is a blank.
    let parts: Vec<&str> = plain.split('\t').map(str::trim).collect();
    let has_tabs = parts.windows(2).any(|pair| {
        let is_alone = !pair[0].ends_with([',', ';']) && !pair[1].starts_with([',', ';']);
        is_alone && (!pair[1].is_empty() || semicolons + commas == 0)
    });
    match has_tabs {
        true => '\t',
        false if semicolons > 0 && semicolons >= commas => ';',
        false => ',',
    }
}

/// The fields of a line, without the quotes around them, in which a separator separates nothing.
pub(super) fn fields(line: &str, separator: char) -> Vec<Cow<'_, str>> {
    quoted(line, separator).unwrap_or_else(|| {
        let all = line.split(separator);
        all.map(|field| Cow::Borrowed(field.trim().trim_matches('"').trim()))
            .collect()
    })
}

/// The same of a line with quotes; `None` of others, and of those whose quotes have no end.
fn quoted(line: &str, separator: char) -> Option<Vec<Cow<'_, str>>> {
    let mut all = Vec::new();
    let mut rest = line.contains('"').then_some(line);
    while let Some(line) = rest {
        let (field, behind) = match line.trim_start_matches(' ').strip_prefix('"') {
            Some(inner) => {
                // Two quotes are one that belongs to the text.
                let mut end = 0;
                loop {
                    end += inner.get(end..)?.find('"')?;
                    match inner.get(end + 1..)?.starts_with('"') {
                        true => end += 2,
                        false => break,
                    }
                }
                let text = inner.get(..end)?.trim();
                let text = match text.contains('"') {
                    true => Cow::Owned(text.replace("\"\"", "\"")),
                    false => Cow::Borrowed(text),
                };
                (text, inner.get(end + 1..)?)
            }
            None => {
                let end = line.find(separator).unwrap_or(line.len());
                (Cow::Borrowed(line.get(..end)?.trim()), line.get(end..)?)
            }
        };
        all.push(field);
        rest = match behind.trim_start_matches(' ') {
            "" => None,
            // What stands behind a quoted field without a separator is no field.
            behind => Some(behind.strip_prefix(separator)?),
        };
    }
    (!all.is_empty()).then_some(all)
}

/// Whether these are what the columns are called: no time, and no numbers.
pub(super) fn are_names(fields: &[Cow<'_, str>]) -> bool {
    let Some((first, others)) = fields.split_first().filter(|(_, others)| !others.is_empty()) else {
        return false;
    };
    let has_digit = |field: &Cow<'_, str>| field.contains(|c: char| c.is_ascii_digit());
    !fields.iter().any(has_digit)
        || time(first).is_none() && others.iter().all(|field| number(field, true).is_err())
}

/// What the fields of a line say; `last` is the line before.
pub(super) fn row(fields: &[Cow<'_, str>], last: Option<&Row>, third: bool) -> Result<Row, String> {
    let (timestamp, value, more) = match fields {
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
    match last {
        Some(last) if at == last.at && **timestamp != *last.timestamp => {
            return Err(format!(
                "{timestamp} is in the same millisecond as the line before, and no time is finer here; give a line a millisecond"
            ));
        }
        Some(last) if at == last.at => {
            return Err(format!(
                "{timestamp} is the time of the line before; give each time once"
            ));
        }
        _ => {}
    }
    Ok(Row {
        timestamp: timestamp.to_string(),
        at,
        value: number(value, more.is_none())?,
        third: more.map(|more| number(more, false)).transpose()?,
    })
}

/// What is written; `inf` only where it may be: a count is none.
fn number(text: &str, may_be_infinite: bool) -> Result<f64, String> {
    let number = match text.to_ascii_lowercase().as_str() {
        "" | "na" | "null" | "none" | "-" => f64::NAN,
        lower => lower.parse().map_err(|_none| {
            let digits = text.bytes().filter(u8::is_ascii_digit).count();
            // 1,000 may be a thousand or one.
            match digits > 0 && text.contains(',') {
                true => {
                    format!("{text:?} is no number; write it with a point, and nothing between thousands")
                }
                false => format!("{text:?} is no number; leave it empty where nothing was measured"),
            }
        })?,
    };
    // What was divided by nothing, or lies beyond the last bucket: it is above any limit, and no measurement. The line stays, so that
    // what is written has as many.
    let is_word = !text.contains(|c: char| c.is_ascii_digit());
    let is_infinite = may_be_infinite && is_word && number.is_infinite();
    if number.abs() > LARGEST && !is_infinite {
        return Err(format!(
            "{text} is farther from 0 than {LARGEST:e}; take a larger unit, or leave it empty where nothing was measured"
        ));
    }
    Ok(number)
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
    // A day alone begins it, and a minute; and `%z` of strftime has no colon.
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let text = match text.split_at_checked(text.len().saturating_sub(5)) {
        _ if text.len() == 10 => format!("{text}T00:00:00Z"),
        Some((before, after))
            if after.starts_with(['+', '-']) && text.len() > 16 && after.get(1..).is_some_and(digits) =>
        {
            let (hours, minutes) = after.split_at_checked(3)?;
            format!("{}{hours}:{minutes}", before.trim_end())
        }
        _ => text.to_owned(),
    };
    let (local, offset) = zone(&text)?;
    // What a spreadsheet writes: `2026-01-31 12:00`.
    let plain = local.trim_end_matches('Z');
    let is_minute = plain.len() == 16 && plain.as_bytes().get(13) == Some(&b':');
    let local = if is_minute { format!("{plain}:00") } else { local };
    let time = humantime::parse_rfc3339_weak(&local).ok()?;
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    Some(i64::try_from(since.as_millis()).ok()? - offset)
}
