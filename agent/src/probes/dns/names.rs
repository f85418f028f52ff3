//! The names that are asked for most, minute by minute.

use super::NAMES;
use crate::aggregate::{Labels, Series, Value};
use std::collections::HashMap;
use std::sync::Arc;

/// Names told per second, over all CPUs.
pub const PER_SECOND: u64 = 10_000;
/// Different names that are counted in a minute. Later ones are left out until the next: the busiest come early.
const MOST: usize = 10_000;
/// Ticks of a minute.
const MINUTE: u32 = 60;

/// Counts of this minute, and the picture of the last.
pub struct Names {
    top: usize,
    counts: HashMap<(String, u16), u64>,
    ticks: u32,
    last: Vec<Series>,
}

impl Names {
    /// Keeps the `top` busiest.
    pub fn new(top: usize) -> Self {
        Self {
            top,
            counts: HashMap::new(),
            ticks: 0,
            last: Vec::new(),
        }
    }

    /// A query.
    pub fn add(&mut self, name: &str, qtype: u16) {
        let key = (name.to_owned(), qtype);
        if self.counts.len() < MOST || self.counts.contains_key(&key) {
            *self.counts.entry(key).or_default() += 1;
        }
    }

    /// A second has passed.
    pub fn tick(&mut self, series_start: u64) {
        self.ticks += 1;
        if self.ticks < MINUTE {
            return;
        }
        self.ticks = 0;
        let mut all: Vec<_> = self.counts.drain().collect();
        all.sort_unstable_by(|(a, n), (b, m)| m.cmp(n).then_with(|| a.cmp(b)));
        all.truncate(self.top);
        self.last = all
            .into_iter()
            .map(|((name, qtype), n)| Series {
                labels: Arc::new(Labels::new(
                    NAMES.labels,
                    &[&name, &qtype_name(qtype)],
                    false,
                    series_start,
                )),
                value: Value::Gauge(n as f64),
            })
            .collect();
    }

    /// The last full minute.
    pub fn series(&self) -> Vec<Series> {
        self.last.clone()
    }
}

/// Name of a record type; the rest as RFC 3597 has it.
fn qtype_name(qtype: u16) -> String {
    let name = match qtype {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        43 => "DS",
        48 => "DNSKEY",
        64 => "SVCB",
        65 => "HTTPS",
        255 => "ANY",
        n => return format!("TYPE{n}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_of_a_minute_and_no_more() {
        let mut names = Names::new(2);
        for (name, n) in [("a", 3), ("b", 5), ("c", 1)] {
            for _ in 0..n {
                names.add(name, 28);
            }
        }
        for i in 0..MOST + 10 {
            names.add(&i.to_string(), 1);
        }
        assert_eq!(names.counts.len(), MOST);
        for _ in 0..MINUTE {
            assert!(names.series().is_empty());
            names.tick(0);
        }
        let seen: Vec<_> = names.series().iter().map(|s| s.labels.text.clone()).collect();
        assert_eq!(seen, [r#"name="b",qtype="AAAA""#, r#"name="a",qtype="AAAA""#]);
        for _ in 0..MINUTE {
            names.tick(0);
        }
        assert!(names.series().is_empty(), "an old minute is over");
        assert_eq!(qtype_name(99), "TYPE99");
    }
}
