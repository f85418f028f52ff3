//! What an exporter on this machine says of itself, asked once a second.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// A page over HTTP.
pub fn get(port: u16, path: &str) -> Result<String> {
    let mut stream =
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("port {port}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/plain\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = Vec::new();
    stream
        .read_to_end(&mut text)
        .with_context(|| format!("port {port}"))?;
    let text = String::from_utf8_lossy(&text);
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure!(status == "200", "port {port}: {path}: HTTP {status}");
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok(if chunked { unchunk(body) } else { body.to_owned() })
}

fn unchunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(part) = rest.get(..size).filter(|_| size > 0) else {
            break;
        };
        out.push_str(part);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    out
}

/// A scraped page.
#[derive(Clone, Debug, Default)]
pub struct Page(pub String);

impl Page {
    /// (labels, value) of every series of a metric.
    fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> + 'a {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            Some((labels, value.split(' ').next()?.parse().ok()?))
        })
    }

    /// Sum over all series.
    pub fn sum(&self, name: &str) -> f64 {
        self.series(name).fold(0.0, |sum, (_, v)| sum + v)
    }

    /// Sums by the value of a label.
    pub fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let start = format!("{label}=\"");
        let mut sums = BTreeMap::new();
        for (labels, value) in self.series(name) {
            let found = labels.split(',').find_map(|l| l.strip_prefix(&start));
            if let Some(found) = found {
                *sums.entry(found.trim_end_matches('"').to_owned()).or_insert(0.0) += value;
            }
        }
        sums
    }

    /// Number of series.
    pub fn len(&self) -> usize {
        let is_series = |l: &&str| !l.is_empty() && !l.starts_with('#');
        self.0.lines().filter(is_series).count()
    }
}

#[derive(Default)]
struct Scraped {
    last: Page,
    millis: Vec<f64>,
    errors: usize,
}

/// Asks once a second, as Prometheus would.
pub struct Scraper {
    stop: Arc<AtomicBool>,
    scraped: Arc<Mutex<Scraped>>,
    thread: Option<JoinHandle<()>>,
}

impl Scraper {
    /// Starts to ask `/metrics` on a port.
    pub fn start(port: u16) -> Self {
        let (stop, scraped) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(Mutex::new(Scraped::default())),
        );
        let (stop_it, result) = (stop.clone(), scraped.clone());
        let thread = std::thread::spawn(move || {
            let mut next = Instant::now();
            while !stop_it.load(Ordering::Relaxed) {
                if Instant::now() < next {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                next += Duration::from_secs(1);
                let start = Instant::now();
                let page = get(port, "/metrics");
                let Ok(mut scraped) = result.lock() else { return };
                match page {
                    Ok(text) => {
                        scraped.last = Page(text);
                        scraped.millis.push(start.elapsed().as_secs_f64() * 1e3);
                    }
                    Err(_) => scraped.errors += 1,
                }
            }
        });
        Self {
            stop,
            scraped,
            thread: Some(thread),
        }
    }

    /// The last page, the time that each took in ms, and how often none came.
    pub fn state(&self) -> (Page, Vec<f64>, usize) {
        let scraped = self.scraped.lock();
        scraped.map_or_else(
            |_| Default::default(),
            |s| (s.last.clone(), s.millis.clone(), s.errors),
        )
    }
}

impl Drop for Scraper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read() {
        let page = Page(
            "# HELP x y\nx{a=\"1\",b=\"q\"} 2\nx{a=\"2\",b=\"q\"} 3.5 1700000000\nxy 9\nz 1e3\n".to_owned(),
        );
        assert_eq!((page.sum("x"), page.sum("z"), page.sum("xy")), (5.5, 1000.0, 9.0));
        assert_eq!(page.by("x", "a").get("1"), Some(&2.0));
        assert_eq!((page.sum("none"), page.len()), (0.0, 4));
    }

    #[test]
    fn chunks_are_joined() {
        assert_eq!(unchunk("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), "abcde");
    }
}
