//! A Prometheus of one's own, of Debian's package.

use super::agent::{PATIENCE, Scratch, clean};
use super::{http, promql};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A running Prometheus; it ends with the value.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    scratch: Scratch,
    /// Where it listens.
    pub at: SocketAddr,
}

impl Prometheus {
    /// With this configuration and these further arguments; it takes remote write.
    pub fn start(config: &str, arguments: &[&str]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let at = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = clean("prometheus")
            .arg(format!(
                "--config.file={}",
                scratch.write("prometheus.yml", config)?.display()
            ))
            .arg(format!("--storage.tsdb.path={}", scratch.path("data").display()))
            .arg(format!("--web.listen-address={at}"))
            .arg("--web.enable-remote-write-receiver")
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(File::create(scratch.path("log"))?)
            .spawn()
            .context("prometheus")?;
        let this = Self { child, scratch, at };
        let start = Instant::now();
        while !http::get(None, at, "/-/ready", "*/*").is_ok_and(|answer| answer.status == 200) {
            ensure!(
                start.elapsed() < PATIENCE,
                "prometheus is not ready: {}",
                this.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(this)
    }

    /// Asks until the answer is right.
    pub fn until(&self, query: &str, right: impl Fn(f64) -> Result<()>) -> Result<()> {
        let start = Instant::now();
        loop {
            let error = match promql::number(self.at, query).and_then(&right) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if start.elapsed() > PATIENCE {
                return Err(error.context(query.to_owned()));
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// What it says.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.path("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An instant query, asked of a Prometheus or of an agent: labels as JSON, and the value or histogram with its time.
pub fn query(at: SocketAddr, query: &str, time: Option<f64>) -> Result<BTreeMap<String, Value>> {
    let found = promql::instant_at(at, query, time)?.into_iter();
    Ok(found
        .map(|mut one| {
            let of = if one["value"].is_null() {
                "histogram"
            } else {
                "value"
            };
            (one["metric"].to_string(), one[of].take())
        })
        .collect())
}
