//! Plain text for pipes, logs and the end of a run.

mod answer;
mod lines;
mod summary;
#[cfg(test)]
mod tests;
mod tunnels;

pub use answer::{Reply, Row};
pub use lines::{drop_header, flow_header, line, tunnel_header};
pub use summary::{accounts, summary};
pub use tunnels::tunnels;

use super::units::{fit, width};
use crate::aggregate::labels::clean;
use std::fmt::Write as _;

/// A table with two spaces between columns and none at the end of a line. A heading that begins with `>` aligns its
/// column to the right. Control characters become `�`; nothing is cut.
pub fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let titles: Vec<String> = headers
        .iter()
        .map(|h| h.trim_start_matches('>').to_owned())
        .collect();
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| harmless(cell)).collect())
        .collect();
    let lines: Vec<&Vec<String>> = std::iter::once(&titles).chain(&rows).collect();
    let wide = |i: usize| {
        lines
            .iter()
            .filter_map(|l| l.get(i))
            .map(|cell| width(cell))
            .max()
            .unwrap_or(0)
    };
    let wides: Vec<usize> = (0..headers.len()).map(wide).collect();
    let mut out = String::new();
    for line in lines {
        let cells: Vec<String> = line
            .iter()
            .zip(headers)
            .zip(&wides)
            .map(|((cell, header), wide)| fit(cell, *wide, header.starts_with('>')))
            .collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    out
}

/// Cleans word by word: only a word of more than 128 bytes is cut.
fn harmless(text: &str) -> String {
    text.split_inclusive(' ').map(clean).collect()
}
