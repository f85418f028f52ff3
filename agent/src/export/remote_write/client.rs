//! One connection to a receiver, and what its answers mean.

use crate::export::push::delivery::Delivery;
use crate::export::push::http::{self, Answer};
use crate::export::push::reply::{Reply, retry_after};
use crate::export::push::{self, Part};
use anyhow::Result;
use reqwest::Url;
use reqwest::header::{self, HeaderMap, HeaderName};

const VERSION: HeaderName = HeaderName::from_static("x-prometheus-remote-write-version");
/// What a receiver of version 2 says that it has taken. We send no exemplars.
const WRITTEN: [&str; 2] = [
    "x-prometheus-remote-write-samples-written",
    "x-prometheus-remote-write-histograms-written",
];

/// A receiver, as it is configured.
pub(super) struct Receiver {
    delivery: Delivery,
    protocol: u8,
}

impl Receiver {
    pub(super) fn new(delivery: &Delivery, protocol: u8) -> Self {
        Self {
            delivery: delivery.clone(),
            protocol,
        }
    }
}

impl push::Target for Receiver {
    type Client = Client;

    fn client(&self) -> Result<Client> {
        let (http, url) = self.delivery.http()?;
        Ok(Client {
            http,
            url,
            headers: self.delivery.headers()?,
            protocol: self.protocol,
        })
    }
}

/// A client with its files read.
pub(super) struct Client {
    http: reqwest::Client,
    url: Url,
    headers: HeaderMap,
    protocol: u8,
}

impl push::Client for Client {
    async fn send(&self, part: &Part) -> Reply {
        let (kind, version) = match self.protocol {
            1 => ("application/x-protobuf", "0.1.0"),
            _ => (
                "application/x-protobuf;proto=io.prometheus.write.v2.Request",
                "2.0.0",
            ),
        };
        let own = [
            (header::CONTENT_TYPE, kind),
            (header::CONTENT_ENCODING, "snappy"),
            (VERSION, version),
        ];
        let answer = http::post(&self.http, &self.url, &self.headers, &own, part.body.clone()).await;
        answer.map_or_else(|reply| reply, |answer| judge(&answer, self.protocol, part.points))
    }
}

/// A receiver of version 1 says by the status alone what it took: what it refused in part counts as refused.
pub(super) fn judge(answer: &Answer, protocol: u8, points: u64) -> Reply {
    let status = answer.status;
    let cause = format!("HTTP {status} {}", first_line(answer));
    let taken = if protocol == 1 { None } else { written(answer) };
    match (status, taken) {
        (200..300, None) if protocol != 1 => Reply::permanent(format!(
            "HTTP {status} without saying what was written: it takes version 1 only; set remote_write.protocol: 1"
        )),
        (200..300, None) => Reply::Accepted {
            rejected: 0,
            message: String::new(),
        },
        (429 | 500..600, _) => Reply::Retry {
            after: answer.header(header::RETRY_AFTER).and_then(retry_after),
            // A Prometheus refuses the whole of a request for one of them.
            cause: push::reply::printable(&match cause.contains("native histograms are disabled") {
                true => format!("set remote_write.histograms: classic; {cause}"),
                false => cause,
            }),
        },
        (300..400, _) => Reply::permanent(format!(
            "HTTP {status}: redirects are not followed; check remote_write.url"
        )),
        (415, _) if protocol != 1 => Reply::permanent(format!("set remote_write.protocol: 1; {cause}")),
        (200..300, Some(taken)) | (_, Some(taken @ 1..)) => {
            let rejected = points.saturating_sub(taken);
            let message = match rejected {
                0 => String::new(),
                _ => push::reply::printable(&format!("{taken} of {points} samples were written: {cause}")),
            };
            Reply::Accepted { rejected, message }
        }
        _ => Reply::permanent(cause),
    }
}

/// Samples that the receiver says to have taken; `None` if it says nothing.
fn written(answer: &Answer) -> Option<u64> {
    let said = WRITTEN.map(|name| {
        answer
            .header(name)
            .and_then(|value| value.trim().parse::<u64>().ok())
    });
    said.into_iter()
        .flatten()
        .reduce(|samples, histograms| samples.saturating_add(histograms))
}

/// What the receiver says of it.
fn first_line(answer: &Answer) -> String {
    let body = answer.body.as_deref().unwrap_or_default();
    let text = String::from_utf8_lossy(body);
    text.lines().next().unwrap_or_default().trim().to_owned()
}
