//! Health of subjects, peers, zones, regions and the node, as Prometheus recording rules: the agent evaluates them over its
//! own store, a fleet's Prometheus over what it scrapes every 15 s. Zones and regions are as each node sees them.
//!
//! A *signal* is a measured quantity, a *factor* what it means, by a curve from 1 (as good as it should be) to 0. The score is
//! the mean of the factors that are known, by weight, of 100 points. What is not known lowers the confidence, never the score.
//! A mean hides one that is lost altogether among four that are well, so a *vital* factor that stays at 0 makes the state
//! critical by itself.

pub mod cause;

use std::fmt::Write as _;

/// The file of rules for these weights, for a node. All series have the labels `instance`, `entity` and `name`, those of signals
/// and factors `factor` as well.
#[must_use]
pub fn rules(weights: &Weights) -> String {
    write(weights, false)
}

/// The same for the Prometheus of a fleet, where zones and regions also have a score over all nodes, with no `instance`.
#[must_use]
pub fn fleet_rules(weights: &Weights) -> String {
    write(weights, true)
}

fn write(weights: &Weights, fleet: bool) -> String {
    let mut out = String::from(HEAD);
    let counted: Vec<&Factor> = FACTORS.iter().filter(|factor| weights.of(factor) > 0).collect();
    for entity in ENTITIES {
        for &factor in &counted {
            // One rule for all: promtool takes two of the same name and labels for a mistake.
            let seen = if fleet && entity.is_place() {
                &[EACH, TOGETHER][..]
            } else {
                &[EACH]
            };
            let signals: Vec<String> = seen
                .iter()
                .filter_map(|seen| entity.signal(factor, seen))
                .collect();
            if !signals.is_empty() {
                rule(
                    &mut out,
                    "geophone_health_signal",
                    entity.name,
                    Some(factor),
                    &signals.join(" or "),
                );
            }
        }
    }
    for &factor in &counted {
        rule(
            &mut out,
            "geophone_health_factor",
            "",
            Some(factor),
            &factor.curve(),
        );
    }
    let of = |factor: &Factor| format!("geophone_health_factor{{factor=\"{}\"}}", factor.name);
    let sum = |term: &dyn Fn(&Factor) -> String| {
        let terms: Vec<String> = counted.iter().map(|factor| term(factor)).collect();
        format!("sum by (instance, entity, name) ({})", terms.join(" or "))
    };
    let known = sum(&|factor| format!("0 * {} + {}", of(factor), weights.of(factor)));
    let points = sum(&|factor| format!("{} * {}", of(factor), weights.of(factor)));
    rule(
        &mut out,
        "geophone_health_score",
        "",
        None,
        &format!("100 * {points} / {known}"),
    );
    // Who has no tunnel lacks nothing.
    let always: u32 = counted
        .iter()
        .filter(|factor| factor.name != "availability")
        .map(|factor| weights.of(factor))
        .sum();
    let applicable = format!(
        "({always} + {} * count by (instance, entity, name) (geophone_health_factor{{factor=\"availability\"}}) or 0 * {known} + {always})",
        weights.availability
    );
    rule(
        &mut out,
        "geophone_health_confidence",
        "",
        None,
        &format!("{known} / {applicable}"),
    );
    let vital = counted.iter().filter(|factor| factor.vital);
    let vital: Vec<&str> = vital.map(|factor| factor.name).collect();
    if !vital.is_empty() {
        rule(&mut out, "geophone_health_failed", "", None, &failed(&vital));
    }
    rule(&mut out, "geophone_health_state", "", None, STATE);
    rule(&mut out, "geophone_health_depends_on", "", None, DEPENDS);
    out.push_str(SLOW);
    out
}

/// What each factor counts in the mean; 0 = it is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Round-trip time against its own median of the last day.
    pub latency: u32,
    /// Segments sent again, of those sent.
    pub loss: u32,
    /// Connections that failed, of those that were tried.
    pub errors: u32,
    /// Windows and queues that were full; of the node, what it has of everything.
    pub saturation: u32,
    /// Tunnels that are up.
    pub availability: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            latency: 25,
            loss: 25,
            errors: 20,
            saturation: 15,
            availability: 15,
        }
    }
}

impl Weights {
    /// What a factor counts.
    #[must_use]
    pub fn of(self, factor: &Factor) -> u32 {
        match factor.name {
            "latency" => self.latency,
            "loss" => self.loss,
            "errors" => self.errors,
            "saturation" => self.saturation,
            _ => self.availability,
        }
    }
}

/// One of the five.
#[derive(Debug)]
pub struct Factor {
    /// Its name, the value of the label `factor`.
    pub name: &'static str,
    /// What its signal is, and its unit.
    pub signal: &'static str,
    /// The signal up to which it is 1, and from which on it is 0. Of latency: times the baseline, and seconds on top.
    pub good: f64,
    /// See `good`.
    pub bad: f64,
    /// Between them it falls with the logarithm.
    pub logarithmic: bool,
    /// At 0 nothing gets through, however well the others are. What is slow or full still works: that costs points only.
    pub vital: bool,
}

/// All five.
pub const FACTORS: &[Factor] = &[
    Factor {
        name: "latency",
        signal: "median round-trip time in the last minute, s",
        good: 1.5,
        bad: 5.0,
        logarithmic: false,
        vital: false,
    },
    // Below a thousandth TCP does not notice; from a twentieth on it hardly gets anywhere (Mathis et al. 1997: throughput falls with the root of the loss).
    Factor {
        name: "loss",
        signal: "segments sent again in the last minute, of those sent",
        good: 0.001,
        bad: 0.05,
        logarithmic: true,
        vital: true,
    },
    Factor {
        name: "errors",
        signal: "connections to others that failed in the last 5 minutes, of those that were tried",
        good: 0.01,
        bad: 0.2,
        logarithmic: false,
        vital: true,
    },
    Factor {
        name: "saturation",
        signal: "the fullest of what can be full, 1 = full",
        good: 0.8,
        bad: 0.98,
        logarithmic: false,
        vital: false,
    },
    Factor {
        name: "availability",
        signal: "tunnels that are not up, of all; a degraded one is half",
        good: 0.0,
        bad: 1.0,
        logarithmic: false,
        vital: true,
    },
];

impl Factor {
    fn curve(&self) -> String {
        let signal = format!("geophone_health_signal{{factor=\"{}\"}}", self.name);
        let (good, bad) = (self.good, self.bad);
        if self.name == "latency" {
            // A millisecond more is nothing to a network, and ten times as much on a loopback.
            let baseline = "geophone_health_baseline{factor=\"latency\"}";
            return format!(
                "clamp(1 - ({signal} - {good} * {baseline} - 0.001) / ({} * {baseline} + 0.009), 0, 1)",
                bad - good
            );
        }
        if self.logarithmic {
            return format!("clamp(1 - ln({signal} / {good}) / {}, 0, 1)", (bad / good).ln());
        }
        format!("clamp(1 - ({signal} - {good}) / ({bad} - {good}), 0, 1)")
    }
}

/// What has health.
struct Entity {
    name: &'static str,
    /// The label that tells one from another; the node has none.
    label: &'static str,
}

const ENTITIES: &[Entity] = &[
    Entity {
        name: "subject",
        label: "subject",
    },
    Entity {
        name: "peer",
        label: "peer",
    },
    Entity {
        name: "zone",
        label: "peer_zone",
    },
    Entity {
        name: "region",
        label: "peer_region",
    },
    Entity {
        name: "node",
        label: "instance",
    },
];

/// The label of who sees it: each node by itself.
const EACH: &str = "instance, ";
/// All nodes together.
const TOGETHER: &str = "";

impl Entity {
    /// Whether it is the same for all nodes.
    fn is_place(&self) -> bool {
        matches!(self.name, "zone" | "region")
    }

    /// What is measured of it, with the labels `seen` and `name`.
    fn signal(&self, factor: &Factor, seen: &str) -> Option<String> {
        let some = format!("{}!=\"\"", self.label);
        let by = match self.label {
            "instance" => "instance".to_owned(),
            label => format!("{seen}{label}"),
        };
        let rate = |metric: &str, matchers: &str, time: &str| {
            format!("sum by ({by}) (rate({metric}{{{some}{matchers}}}[{time}]))")
        };
        // What never happened has no series yet: where the whole is known, it is none of it.
        let share = |part: String, all: String| format!("({part} or 0 * ({all})) / ({all} > 0)");
        let connections = |outcomes: &str| {
            rate(
                "geophone_tcp_connections_total",
                &format!(",role=\"client\",outcome=~\"{outcomes}\""),
                "5m",
            )
        };
        let inner = match factor.name {
            // Native histograms, or buckets where there are none.
            "latency" => {
                let median = |metric: &str, le: &str| {
                    format!("histogram_quantile(0.5, sum by ({by}{le}) (rate({metric}{{{some}}}[1m])))")
                };
                format!(
                    "({} or {}) > 0",
                    median("geophone_tcp_rtt_seconds", ""),
                    median("geophone_tcp_rtt_seconds_bucket", ", le")
                )
            }
            "loss" => share(
                rate("geophone_tcp_retransmits_total", "", "1m"),
                rate("geophone_tcp_segments_total", ",direction=\"transmit\"", "1m"),
            ),
            // Who tries nothing fails in nothing, as long as connections are open.
            "errors" => format!(
                "{} or 0 * (sum by ({by}) (geophone_tcp_connections{{{some}}}) > 0)",
                share(connections("failed"), connections("failed|opened"))
            ),
            "saturation" if self.name == "node" => NODE_FULLNESS.to_owned(),
            // A tenth of the requests refused is as bad as all. Whoever talks to nobody has no health: a node has hundreds of units.
            "saturation" if self.name == "subject" => {
                let refused = rate("geophone_tcp_listen_drops_total", "", "1m");
                let taken = rate(
                    "geophone_tcp_connections_total",
                    ",role=\"server\",outcome=\"opened\"",
                    "1m",
                );
                format!(
                    "clamp_max(10 * {}, 1) or ({SUBJECT_FULLNESS}) and on (instance, subject) geophone_tcp_connections{{{some}}}",
                    share(
                        refused.clone(),
                        format!("(({refused} or 0 * {taken}) + ({taken} or 0 * {refused}))")
                    )
                )
            }
            // A window that is closed each second is always closed.
            "saturation" => format!(
                "clamp_max({}, 1)",
                share(
                    rate("geophone_tcp_zero_windows_total", ",direction=\"receive\"", "1m"),
                    format!("sum by ({by}) (geophone_tcp_connections{{{some}}})")
                )
            ),
            "availability" if self.name == "node" => format!("1 - avg by (instance) ({TUNNEL})"),
            "availability" => match self.name {
                "subject" => return None,
                _ => format!(
                    "1 - avg by ({by}) (({TUNNEL}) * on (instance, type, id, local, remote, netns) group_right geophone_tunnel_peer_info{{{some}}})"
                ),
            },
            _ => return None,
        };
        Some(format!(
            "max by ({seen}name) (label_replace({inner}, \"name\", \"$1\", \"{}\", \"(.+)\"))",
            self.label
        ))
    }
}

/// Of each tunnel: 1 up, 0.5 degraded, 0 down. A state that is not known is none.
const TUNNEL: &str = "max by (instance, type, id, local, remote, netns) (\
     geophone_tunnel_state{state=\"up\"} == 1 \
     or 0.5 * (geophone_tunnel_state{state=\"degraded\"} == 1) \
     or 0 * (geophone_tunnel_state{state=\"down\"} == 1))";

/// How full each is of what can run out and should not, and each link; waiting for memory or disks counts from a fifth of the time on as
/// much as being full. Swap fills and stays so, and what finds no room among the waiting is closed at once: both do no harm. A CPU that is
/// busy is what it is there for: only waiting for it counts. A listen queue is its subject's, which loses points for what is refused.
/// To a fleet's Prometheus a node that is rolled out has the speed of two pods for a while: `max by` makes one of them, or else the
/// rule would fail for all nodes.
pub const NODE_FULLNESS: &str = "geophone_node_used{resource!~\"cpu|swap|tcp_time_wait|listen_queue\"} / (geophone_node_limit > 0) \
     or rate(geophone_netdev_bytes_total[1m]) / on (instance, device) group_left () (max by (instance, device) (geophone_netdev_speed_bytes) > 0) \
     or clamp_max(rate(geophone_node_pressure_seconds_total{resource=\"cpu\",kind=\"some\"}[1m]), 1) \
     or clamp_max(5 * rate(geophone_node_pressure_seconds_total{resource!=\"cpu\",kind=\"full\"}[1m]), 1)";

/// How full each limit of a subject is; and from a fifth of the time on, waiting for memory, or for CPU because the quota is used
/// up, counts as much as being full. Who reads a disk waits for it: that is no want.
pub const SUBJECT_FULLNESS: &str = "geophone_cgroup_used / (geophone_cgroup_limit > 0) \
     or clamp_max(5 * rate(geophone_cgroup_pressure_seconds_total{resource!=\"io\",kind=\"full\"}[1m]), 1)";

/// The vital factors that have been 0 for six minutes: one connection that fails while nobody tries another is all of them for
/// five. Evaluations may be missing: 22 of the 24.
fn failed(vital: &[&str]) -> String {
    let factor = format!("geophone_health_factor{{factor=~\"{}\"}}", vital.join("|"));
    format!(
        "count by (instance, entity, name, factor) ({factor} == 0 \
         unless max_over_time({factor}[6m]) > 0 unless count_over_time({factor}[6m]) < 22)"
    )
}

/// 0 healthy, 1 degraded, 2 critical. It gets worse at once, and better three or five points later.
const STATE: &str = "(geophone_health_score < 60 or geophone_health_score and on (instance, entity, name) geophone_health_failed) * 0 + 2 \
     or (geophone_health_score < 65) * 0 + 2 and on (instance, entity, name) last_over_time(geophone_health_state[2m]) == 2 \
     or (geophone_health_score < 90) * 0 + 1 \
     or (geophone_health_score < 93) * 0 + 1 and on (instance, entity, name) last_over_time(geophone_health_state[2m]) >= 1 \
     or geophone_health_score * 0";

/// The peers that are not healthy, by the subjects that talk to them, segments a second: where to look first.
const DEPENDS: &str = "sum by (instance, subject, peer) (rate(geophone_tcp_segments_total[1m])) > 0 \
     and on (instance, peer) label_replace(geophone_health_state{entity=\"peer\"} >= 1, \"peer\", \"$1\", \"name\", \"(.+)\")";

const HEAD: &str = "# Health as recording rules, written by `geophone health --rules`; the agent evaluates them itself.\n\
     # Scrape every 15 s: they look at a minute. What has no instance is a zone or a region as all nodes together see it.\n\
     groups:\n  - name: geophone-health\n    interval: 15s\n    rules:\n";

/// What needs no haste. Less than five minutes are no baseline. A trend is said of an hour, so it is none before there was a score
/// 50 minutes ago; and of the time since then ten minutes must be known.
const SLOW: &str = "  - name: geophone-health-slow\n    interval: 1m\n    rules:\n\
     \x20     - record: geophone_health_baseline\n\
     \x20       expr: |-\n\
     \x20         quantile_over_time(0.5, geophone_health_signal{factor=\"latency\"}[1d])\n\
     \x20           and count_over_time(geophone_health_signal{factor=\"latency\"}[1d]) >= 20\n\
     \x20     - record: geophone_health_trend\n\
     \x20       expr: |-\n\
     \x20         3600 * deriv(geophone_health_score[1h])\n\
     \x20           and count_over_time(geophone_health_score[1h]) >= 40\n\
     \x20           and geophone_health_score offset 50m\n";

fn rule(out: &mut String, record: &str, entity: &str, factor: Option<&Factor>, expr: &str) {
    let _ = writeln!(
        out,
        "      - record: {record}\n        expr: |-\n          {expr}"
    );
    let labels = [
        ("entity", entity),
        ("factor", factor.map_or("", |factor| factor.name)),
    ];
    let labels: Vec<_> = labels.iter().filter(|(_, value)| !value.is_empty()).collect();
    if !labels.is_empty() {
        out.push_str("        labels:\n");
    }
    for (name, value) in labels {
        let _ = writeln!(out, "          {name}: {value}");
    }
}
