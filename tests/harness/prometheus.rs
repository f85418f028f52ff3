//! A Prometheus of one's own, of Debian's package.

use super::agent::{PATIENCE, Scratch, clean};
use super::http;
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
    let escaped: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
    let time = time.map_or_else(String::new, |time| format!("&time={time:.3}"));
    let answer = http::get(None, at, &format!("/api/v1/query?query={escaped}{time}"), "*/*")?;
    let mut body: Value = serde_json::from_slice(&answer.body).with_context(|| answer.text())?;
    ensure!(body["status"] == "success", "{query}: {body}");
    let result = body["data"]["result"].take();
    let result = result.as_array().with_context(|| format!("{query}: no vector"))?;
    Ok(result
        .iter()
        .map(|one| {
            let value = if one["value"].is_null() {
                &one["histogram"]
            } else {
                &one["value"]
            };
            (one["metric"].to_string(), value.clone())
        })
        .collect())
}
