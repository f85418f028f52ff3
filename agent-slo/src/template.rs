//! Indicators that are built in.

use crate::indicator::{Failed, Indicator, Judge};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The window of what is judged moment by moment.
pub(crate) const AT_ONCE: &str = "[1m]";

/// An indicator of geophone's own series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Template {
    /// Round trips to a peer that take no longer than `below`.
    PeerLatency,
    /// Segments to a peer that need not be sent again.
    PeerLoss,
    /// Connections to a peer that come about.
    ConnectSuccess,
    /// Time in which a peer can be reached: bad is a minute in which connections were tried and none came about.
    PeerAvailability,
    /// Lookups that are answered, and not by SERVFAIL or REFUSED; needs `probes.dns.enabled`.
    Dns,
    /// Time in which a tunnel is up, or degraded and carries packets nevertheless.
    TunnelAvailability,
}

impl Template {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::PeerLatency,
        Self::PeerLoss,
        Self::ConnectSuccess,
        Self::PeerAvailability,
        Self::Dns,
        Self::TunnelAvailability,
    ];

    /// As the configuration has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PeerLatency => "peer-latency",
            Self::PeerLoss => "peer-loss",
            Self::ConnectSuccess => "connect-success",
            Self::PeerAvailability => "peer-availability",
            Self::Dns => "dns",
            Self::TunnelAvailability => "tunnel-availability",
        }
    }

    /// The labels that tell one series of it from another, unless the definition says others.
    pub(crate) fn by(self) -> Vec<String> {
        let labels: &[&str] = match self {
            Self::PeerLatency | Self::PeerLoss | Self::ConnectSuccess | Self::PeerAvailability => {
                &["instance", "peer"]
            }
            Self::Dns => &["instance", "server"],
            Self::TunnelAvailability => &["instance", "type", "id", "local", "remote", "netns"],
        };
        labels.iter().map(|label| (*label).to_owned()).collect()
    }

    /// Its indicator over the series that these matchers accept.
    pub(crate) fn indicator(self, filter: &str, below: f64, by: &[String]) -> Indicator {
        let matching = |metric: &str, matchers: &str| {
            let all: Vec<&str> = [matchers, filter].into_iter().filter(|m| !m.is_empty()).collect();
            format!("{metric}{{{}}}", all.join(","))
        };
        let by = by.join(", ");
        let rate = |metric: &str, matchers: &str| {
            format!("sum by ({by}) (rate({}[$window]))", matching(metric, matchers))
        };
        match self {
            Self::PeerLatency => Indicator::histogram(&matching("geophone_tcp_rtt_seconds", ""), below, &by),
            Self::PeerLoss => Indicator::Events {
                failed: Failed::Bad(rate("geophone_tcp_retransmits_total", "")),
                total: rate("geophone_tcp_segments_total", "direction=\"transmit\""),
            },
            Self::ConnectSuccess => {
                let metric = "geophone_tcp_connections_total";
                Indicator::Events {
                    failed: Failed::Bad(rate(metric, "role=\"client\",outcome=\"failed\"")),
                    total: rate(metric, "role=\"client\",outcome=~\"opened|failed\""),
                }
            }
            Self::PeerAvailability => {
                let came_to = |outcome: &str| {
                    let tried = matching(
                        "geophone_tcp_connections_total",
                        &format!("role=\"client\",outcome=\"{outcome}\""),
                    );
                    format!("sum by ({by}) (rate({tried}{AT_ONCE})) > 0")
                };
                // Who tries nothing knows it from connections that are open, or does not know.
                let open = format!("sum by ({by}) ({}) > 0", matching("geophone_tcp_connections", ""));
                Indicator::Time {
                    query: format!(
                        "clamp({}, 1, 1) or 0 * ({}) or clamp({open}, 1, 1)",
                        came_to("opened"),
                        came_to("failed")
                    ),
                    judge: Judge::Share,
                }
            }
            Self::Dns => {
                // Native histograms, or counts where there are none.
                let lookups = |matchers: &str| {
                    format!(
                        "(histogram_count({}) or {})",
                        rate("geophone_dns_lookup_seconds", matchers),
                        rate("geophone_dns_lookup_seconds_count", matchers)
                    )
                };
                // What never happened has no series: either may be missing.
                let with_timeouts = |answers: &str| {
                    let timeouts = rate("geophone_dns_timeouts_total", "");
                    format!("(({answers} or 0 * {timeouts}) + ({timeouts} or 0 * {answers}))")
                };
                Indicator::Events {
                    failed: Failed::Bad(with_timeouts(&lookups("rcode=~\"SERVFAIL|REFUSED\""))),
                    total: with_timeouts(&lookups("")),
                }
            }
            Self::TunnelAvailability => {
                let state = |state: &str| matching("geophone_tunnel_state", state);
                // A state that is not known is none.
                let up = format!(
                    "max by ({by}) ({} == 1 or 0 * ({} == 1))",
                    state("state=~\"up|degraded\""),
                    state("state=\"down\"")
                );
                Indicator::Time {
                    query: up,
                    judge: Judge::Share,
                }
            }
        }
    }
}
