//! Numbers for eyes: three significant digits, one unit, never more than seven columns.
//!
//! Bytes are decimal (kB = 1000 B), as network rates are everywhere else.

/// Three significant digits, for a value below 999.5.
fn three(v: f64) -> String {
    match v {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

fn scaled(v: f64, units: &[(f64, &str)]) -> String {
    let (size, unit) = units
        .iter()
        .find(|(size, _)| v < 999.5 * size)
        .or(units.last())
        .copied()
        .unwrap_or((1.0, ""));
    format!("{}{unit}", three(v / size))
}

/// A latency: `0`, `3.1µs`, `340µs`, `1.23ms`, `12.3s`.
pub fn seconds(v: f64) -> String {
    match v {
        v if !v.is_finite() || v < 0.0 => "?".into(),
        0.0 => "0".into(),
        v if v < 9.95e-6 => format!("{:.1}µs", v * 1e6),
        v if v < 999.5e-6 => format!("{:.0}µs", v * 1e6),
        v => scaled(v, &[(1e-3, "ms"), (1.0, "s"), (1e3, "ks")]),
    }
}

/// A size: `0`, `999B`, `1.23kB`, `12.3GB`.
pub fn bytes(v: f64) -> String {
    match v {
        v if !v.is_finite() || v < 0.0 => "?".into(),
        v if v < 0.5 => "0".into(),
        v if v < 999.5 => format!("{v:.0}B"),
        v => scaled(
            v,
            &[(1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB"), (1e15, "PB")],
        ),
    }
}

/// A size per second: `1.23kB/s`.
pub fn bytes_rate(v: f64) -> String {
    match bytes(v).as_str() {
        "0" => "0B/s".into(),
        text => format!("{text}/s"),
    }
}

/// A whole number: exact up to 9999, then `12.3k`, `1.23M`.
pub fn count(v: f64) -> String {
    match v {
        v if !v.is_finite() || v < 0.0 => "?".into(),
        v if v < 9999.5 => format!("{v:.0}"),
        v => scaled(
            v,
            &[
                (1e3, "k"),
                (1e6, "M"),
                (1e9, "G"),
                (1e12, "T"),
                (1e15, "P"),
                (1e18, "E"),
            ],
        ),
    }
}

/// Things per second: `0`, `0.25`, `3.5`, `120`, `12.3k`.
pub fn rate(v: f64) -> String {
    match v {
        v if !v.is_finite() || v < 0.0 => "?".into(),
        0.0 => "0".into(),
        v if v < 0.005 => "<.01".into(),
        v if v < 0.995 => format!("{v:.2}"),
        v if v < 99.95 && (v - v.round()).abs() > 0.05 => format!("{v:.1}"),
        v => count(v),
    }
}

/// A share of one: `0%`, `<.01%`, `0.31%`, `12.3%`, `100%`.
pub fn percent(ratio: f64) -> String {
    match ratio * 100.0 {
        v if !v.is_finite() || v < 0.0 => "?".into(),
        0.0 => "0%".into(),
        v if v < 0.005 => "<.01%".into(),
        v => format!("{}%", three(v)),
    }
}

/// A span of time for people: `4s`, `3m12s`, `5h07m`, `12d4h`.
pub fn span(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// Time of day in UTC, to the millisecond.
pub fn clock(unix_seconds: f64) -> String {
    let ms = (unix_seconds.max(0.0) * 1e3) as u64 % 86_400_000;
    format!(
        "{:02}:{:02}:{:02}.{:03}",
        ms / 3_600_000,
        ms / 60_000 % 60,
        ms / 1000 % 60,
        ms % 1000
    )
}

/// The last `width` values as bars, scaled to the largest of them. Zero is the lowest bar, anything else is higher.
pub fn spark(values: &[f64], width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values = values
        .get(values.len().saturating_sub(width)..)
        .unwrap_or_default();
    let max = values.iter().copied().fold(0.0, f64::max);
    let bars = values.iter().map(|&v| match v / max {
        share if share > 0.0 => BARS.get((share * 7.0).ceil() as usize).copied().unwrap_or('█'),
        _ => '▁',
    });
    " ".repeat(width.saturating_sub(values.len()))
        .chars()
        .chain(bars)
        .collect()
}

/// A bar of `width` columns, filled to `share` in eighths of a column.
pub fn bar(share: f64, width: usize) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * width as f64 * 8.0).round() as usize;
    // What is there must be seen.
    let eighths = if share > 0.0 { eighths.max(1) } else { 0 };
    format!(
        "{}{}",
        "█".repeat(eighths / 8),
        PARTS.get(eighths % 8).copied().unwrap_or_default()
    )
}

/// Columns that a text takes on a terminal.
pub fn width(text: &str) -> usize {
    unicode_width::UnicodeWidthStr::width(text)
}

/// The text in exactly `columns` columns: cut with `…`, or filled with spaces on the left or on the right.
pub fn fit(text: &str, columns: usize, right: bool) -> String {
    let wide = width(text);
    if wide > columns {
        return cut(text, columns);
    }
    let space = " ".repeat(columns - wide);
    if right {
        space + text
    } else {
        format!("{text}{space}")
    }
}

/// Cuts what is too long in its middle: the end of a function's name says as much as its beginning.
pub fn middle(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let head = cut(text, columns / 2);
    let mut left = columns.saturating_sub(width(&head));
    let tail = text.char_indices().rev().find(|(_, c)| {
        let wide = unicode_width::UnicodeWidthChar::width(*c).unwrap_or(0);
        let fits = wide <= left;
        left = left.saturating_sub(wide);
        !fits
    });
    let from = tail.map_or(0, |(at, c)| at + c.len_utf8());
    format!("{head}{}", text.get(from..).unwrap_or_default())
}

fn cut(text: &str, columns: usize) -> String {
    let mut out = String::new();
    let mut left = columns.saturating_sub(1);
    for c in text.chars() {
        let wide = unicode_width::UnicodeWidthChar::width(c).unwrap_or(0);
        if wide > left {
            break;
        }
        left -= wide;
        out.push(c);
    }
    if columns > 0 {
        out.push('…');
    }
    out + &" ".repeat(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_one_unit() {
        let latencies = [
            0.0, 1.04e-6, 9.96e-6, 340e-6, 999.6e-6, 1.234e-3, 12.34e-3, 0.9996, 61.0, 4000.0,
        ];
        assert_eq!(
            latencies.map(seconds),
            [
                "0", "1.0µs", "10µs", "340µs", "1.00ms", "1.23ms", "12.3ms", "1.00s", "61.0s", "4.00ks"
            ]
        );
        assert_eq!(
            [0.0, 999.0, 999.7, 1234.0, 5.6e7, 1e18].map(bytes),
            ["0", "999B", "1.00kB", "1.23kB", "56.0MB", "1000PB"]
        );
        assert_eq!(
            [0.0, 9999.0, 12_345.0, 9.99e6].map(count),
            ["0", "9999", "12.3k", "9.99M"]
        );
        assert_eq!(
            [0.0, 0.001, 0.25, 1.0, 3.54, 120.4, 5e4].map(rate),
            ["0", "<.01", "0.25", "1", "3.5", "120", "50.0k"]
        );
        assert_eq!(
            [0.0, 0.00001, 0.0031, 0.12, 1.0].map(percent),
            ["0%", "<.01%", "0.31%", "12.0%", "100%"]
        );
        assert_eq!(
            [3.0, 192.0, 18_420.0, 1_051_200.0].map(span),
            ["3s", "3m12s", "5h07m", "12d4h"]
        );
        assert_eq!(clock(86_400.0 * 20_000.0 + 3661.5), "01:01:01.500");
        assert_eq!(seconds(f64::NAN), "?");
    }

    #[test]
    fn bars_show_what_is_there() {
        assert_eq!(spark(&[0.0, 1.0, 4.0, 8.0], 6), "  ▁▂▅█");
        assert_eq!(spark(&[0.0, 0.0], 2), "▁▁");
        assert_eq!(spark(&[], 2), "  ");
        assert_eq!(bar(1e-9, 4), "▏");
        assert_eq!(bar(1.0, 4), "████");
        assert_eq!(bar(0.0, 4), "");
    }

    #[test]
    fn text_is_cut_by_columns_not_by_bytes() {
        assert_eq!(fit("abcdef", 4, false), "abc…");
        assert_eq!(fit("日本語", 4, false), "日… ");
        assert_eq!(fit("é", 3, true), "  é");
        assert_eq!(fit("x", 0, true), "");
    }
}
