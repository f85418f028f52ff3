//! The answer to a PromQL query, as text: table, CSV, or a chart.

use super::table;
use crate::aggregate::labels::clean;
use crate::error::{Context as _, Error, Result};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::symbols::Marker;
use ratatui::widgets::{Axis, Chart, Dataset, GraphType, Widget as _};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

/// Series that a chart shows; more would be a tangle.
const CURVES: usize = 8;
/// Rows of a chart.
const HEIGHT: u16 = 20;
/// Letters that mark the curves where colours do not show.
const MARKS: [&str; CURVES] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// What the HTTP API answers.
#[derive(Deserialize)]
pub struct Reply {
    #[serde(default)]
    status: String,
    data: Option<Data>,
    #[serde(default)]
    error: String,
    /// What the evaluation has to remark.
    #[serde(default)]
    pub warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<Row>),
    Matrix(Vec<Row>),
    Scalar((f64, String)),
    String((f64, String)),
}

/// A series of it.
#[derive(Deserialize)]
pub struct Row {
    /// Its labels, the name among them.
    pub metric: BTreeMap<String, String>,
    /// Time, and value as text, if it is a number at a time.
    pub value: Option<(f64, String)>,
    histogram: Option<(f64, Histogram)>,
    #[serde(default)]
    values: Vec<(f64, String)>,
    #[serde(default)]
    histograms: Vec<(f64, Histogram)>,
}

#[derive(Deserialize)]
struct Histogram {
    count: String,
    sum: String,
}

impl Row {
    /// `name{label="value"}`, as Prometheus writes it.
    fn name(&self) -> String {
        let labels: Vec<String> = self
            .metric
            .iter()
            .filter(|(name, _)| *name != "__name__")
            .map(|(name, value)| format!("{name}={value:?}"))
            .collect();
        let name = self.metric.get("__name__").map_or("", String::as_str);
        if labels.is_empty() && !name.is_empty() {
            return name.to_owned();
        }
        format!("{name}{{{}}}", labels.join(","))
    }

    /// The numbers of a range, with their times in milliseconds since 1970.
    pub fn numbers(&self) -> impl Iterator<Item = (i64, f64)> {
        let parsed = self.values.iter().map(|(at, text)| (at, text.parse().ok()));
        parsed.filter_map(|(at, value)| Some(((at * 1000.0).round() as i64, value?)))
    }

    /// All samples, a histogram by its count and sum.
    fn samples(&self) -> Vec<(f64, String)> {
        let floats = self.value.iter().chain(&self.values).cloned();
        let histograms = self.histogram.iter().chain(&self.histograms);
        let histograms = histograms.map(|(t, h)| (*t, format!("count {} sum {}", h.count, h.sum)));
        let mut all: Vec<(f64, String)> = floats.chain(histograms).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all
    }
}

impl Reply {
    /// Reads the answer; that of a query that failed is an error.
    pub fn read(json: &[u8]) -> Result<Self> {
        let reply: Self = serde_json::from_slice(json).context("the answer")?;
        if reply.status != "success" {
            return Err(Error::new(reply.error));
        }
        Ok(reply)
    }

    /// Its series.
    pub fn rows(&self) -> &[Row] {
        match &self.data {
            Some(Data::Vector(rows) | Data::Matrix(rows)) => rows,
            _ => &[],
        }
    }

    fn single(&self) -> Option<&(f64, String)> {
        match &self.data {
            Some(Data::Scalar(value) | Data::String(value)) => Some(value),
            _ => None,
        }
    }

    /// One line a series; of a range one line a sample.
    pub fn table(&self) -> String {
        if let Some((_, value)) = self.single() {
            return format!("{}\n", clean(value));
        }
        if self.rows().is_empty() {
            return "no series\n".to_owned();
        }
        if let Some(Data::Vector(rows)) = &self.data {
            let lines: Vec<Vec<String>> = rows
                .iter()
                .flat_map(|row| {
                    row.samples()
                        .into_iter()
                        .map(|(_, value)| vec![row.name(), value])
                })
                .collect();
            return table(&["SERIES", ">VALUE"], &lines);
        }
        let lines: Vec<Vec<String>> = self
            .rows()
            .iter()
            .flat_map(|row| {
                let samples = row.samples();
                samples
                    .into_iter()
                    .map(|(t, value)| vec![row.name(), moment(t), value])
            })
            .collect();
        table(&["SERIES", "TIME", ">VALUE"], &lines)
    }

    /// Comma-separated: time in seconds, value, then a column for each label that any series has.
    pub fn csv(&self) -> String {
        let mut names: Vec<&str> = self
            .rows()
            .iter()
            .flat_map(|row| row.metric.keys().map(String::as_str))
            .collect();
        names.sort_unstable();
        names.dedup();
        let mut out = String::from("time,value");
        for name in &names {
            let _ = write!(out, ",{}", quoted(name));
        }
        out.push('\n');
        if let Some((t, value)) = self.single() {
            let _ = writeln!(out, "{t},{}", quoted(value));
        }
        for row in self.rows() {
            for (t, value) in row.samples() {
                let _ = write!(out, "{t},{}", quoted(&value));
                for name in &names {
                    let value = row.metric.get(*name).map_or("", String::as_str);
                    let _ = write!(out, ",{}", quoted(value));
                }
                out.push('\n');
            }
        }
        out
    }

    /// Curves over time, those with the highest last values if there are many; histograms are left out.
    pub fn chart(&self, width: u16) -> Result<String> {
        let mut curves: Vec<(String, Vec<(f64, f64)>)> = self
            .rows()
            .iter()
            .map(|row| {
                let points = row.values.iter();
                let points = points.filter_map(|(t, v)| Some((*t, v.parse().ok()?)));
                let points: Vec<(f64, f64)> = points.filter(|(_, v): &(f64, f64)| v.is_finite()).collect();
                (row.name(), points)
            })
            .filter(|(_, points)| !points.is_empty())
            .collect();
        if curves.is_empty() {
            return Err(Error::new(
                "nothing to draw: no series with numbers over time; give --range, and of histograms ask histogram_quantile(0.5, …)",
            ));
        }
        let last = |curve: &(String, Vec<(f64, f64)>)| curve.1.last().map_or(f64::MIN, |(_, v)| *v);
        curves.sort_by(|a, b| last(b).total_cmp(&last(a)));
        let left_out = curves.len().saturating_sub(CURVES);
        curves.truncate(CURVES);
        let mut out = draw(&curves, width.max(40));
        for ((name, points), mark) in curves.iter().zip(MARKS) {
            let value = points.last().map_or(f64::NAN, |(_, v)| *v);
            let _ = writeln!(out, "{mark} {}  {}", clean(name), short(value));
        }
        if left_out > 0 {
            let _ = writeln!(
                out,
                "and {left_out} more with lower values; narrow the query with topk()"
            );
        }
        Ok(out)
    }
}

fn draw(curves: &[(String, Vec<(f64, f64)>)], width: u16) -> String {
    let all = || curves.iter().flat_map(|(_, points)| points);
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        let (low, high) = all()
            .map(of)
            .fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        [low, high]
    };
    let (mut x, mut y) = (bounds(|p| p.0), bounds(|p| p.1));
    let flat = y[0] == y[1];
    if flat && y[0] <= 0.0 {
        y = [y[0] - 0.5, y[0] + 0.5];
    }
    if x[0] == x[1] {
        x = [x[0] - 0.5, x[0] + 0.5];
    }
    // From zero on, unless that would flatten the curves.
    if y[0] > 0.0 && (y[0] < y[1] / 2.0 || flat) {
        y = [0.0, if flat { y[1] * 2.0 } else { y[1] }];
    }
    let data = curves.iter().map(|(_, points)| {
        Dataset::default()
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .data(points)
    });
    let middle = |[low, high]: [f64; 2]| low + (high - low) / 2.0;
    let times = [x[0], middle(x), x[1]].map(moment);
    let values = [y[0], middle(y), y[1]].map(short);
    let area = Rect::new(0, 0, width.min(160), HEIGHT);
    let mut buffer = Buffer::empty(area);
    Chart::new(data.collect())
        .x_axis(Axis::default().bounds(x).labels(times))
        .y_axis(Axis::default().bounds(y).labels(values))
        .render(area, &mut buffer);
    let mut out = String::new();
    for row in buffer.content.chunks(usize::from(area.width)) {
        let line: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// RFC 3339 in UTC, to the second where that is exact.
fn moment(seconds: f64) -> String {
    let time = UNIX_EPOCH + Duration::try_from_secs_f64(seconds).unwrap_or_default();
    if seconds.fract() == 0.0 {
        humantime::format_rfc3339_seconds(time).to_string()
    } else {
        humantime::format_rfc3339_millis(time).to_string()
    }
}

/// Four digits are enough beside an axis.
fn short(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".into()
    } else if (1e-3..1e6).contains(&size) {
        let digits = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
        format!("{value:.digits$}")
    } else {
        format!("{value:.3e}")
    }
}

/// RFC 4180.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MATRIX: &str = r#"{"status":"success","data":{"resultType":"matrix","result":[
        {"metric":{"__name__":"up","job":"a,b"},"values":[[1700000000,"1"],[1700000010.5,"NaN"]]},
        {"metric":{"job":"c"},"values":[[1700000000,"3"],[1700000010,"4.5"]]}]}}"#;

    #[test]
    fn a_range_is_a_line_a_sample() {
        let text = Reply::read(MATRIX.as_bytes()).unwrap().table();
        assert!(
            text.contains("up{job=\"a,b\"}  2023-11-14T22:13:30.500Z"),
            "{text}"
        );
        assert!(text.lines().last().unwrap().trim_end().ends_with("4.5"), "{text}");
    }

    #[test]
    fn csv_is_quoted_and_has_a_column_for_each_label() {
        let csv = Reply::read(MATRIX.as_bytes()).unwrap().csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0], "time,value,__name__,job");
        assert_eq!(lines[1], "1700000000,1,up,\"a,b\"");
        assert_eq!(lines[4], "1700000010,4.5,,c");
    }

    #[test]
    fn a_chart_has_its_axes_and_a_legend() {
        let text = Reply::read(MATRIX.as_bytes()).unwrap().chart(80).unwrap();
        assert!(text.contains("2023-11-14T22:13:20Z"), "{text}");
        assert!(text.contains("a {job=\"c\"}  4.500"), "{text}");
    }

    #[test]
    fn a_query_that_failed_is_an_error_in_its_words() {
        let json = r#"{"status":"error","errorType":"bad_data","error":"parse error: unexpected end"}"#;
        let Err(error) = Reply::read(json.as_bytes()) else {
            panic!("no error")
        };
        assert_eq!(error.to_string(), "parse error: unexpected end");
    }

    #[test]
    fn an_empty_answer_says_so() {
        let json = r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#;
        assert_eq!(Reply::read(json.as_bytes()).unwrap().table(), "no series\n");
    }
}
