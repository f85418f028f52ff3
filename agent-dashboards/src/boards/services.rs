//! Services and what is behind them: who is slow or lossy to whom, one backend beside the other.

use super::overview::loss;
use super::{PROFILES, SERVICES};
use crate::maker::{Maker, places, rare, share, subjects, variable};
use crate::panel::{Board, Show};

/// The dashboard.
pub fn board(m: &mut Maker) -> Board {
    m.scope(&["instance", "subject", "peer"]);
    let mut panels = vec![m.row("Backends")];
    let by = ["subject", "peer"];
    let median = m.quantile(0.5, "geophone_tcp_rtt_seconds", "", &by);
    let last = m.quantile(0.99, "geophone_tcp_rtt_seconds", "", &by);
    let jitter = m.quantile(0.99, "geophone_tcp_jitter_seconds", "", &by);
    let (again, sent) = loss(m, &by);
    let tried = m.rate(
        "geophone_tcp_connections_total",
        r#"role="client",outcome=~"opened|failed""#,
        &by,
    );
    let failed = m.rate(
        "geophone_tcp_connections_total",
        r#"role="client",outcome="failed""#,
        &by,
    );
    let open = m.value("sum", "geophone_tcp_connections", "", &by);
    let bytes = m.rate("geophone_tcp_bytes_total", "", &by);
    let targets = [
        ("p50", median),
        ("p99", last),
        ("jitter", jitter),
        ("sent again", rare(&again, &sent)),
        ("failed", rare(&failed, &tried)),
        ("connections", open),
        ("bytes", bytes),
    ];
    let units = [
        ("p50", "s"),
        ("p99", "s"),
        ("jitter", "s"),
        ("sent again", "percentunit"),
        ("failed", "percentunit"),
        ("connections", "short"),
        ("bytes", "Bps"),
    ];
    let table = m
        .panel(Show::Table, "Each subject and each peer", &targets)
        .size(24, 10);
    panels.push(
        table
            .about("The slow backend of a service stands out where each is a peer: kubernetes.endpoints, or a prefix with a name for each")
            .units(&units)
            .link("subject", SERVICES, &["subject"])
            .link("subject", PROFILES, &["subject"])
            .link("peer", SERVICES, &["peer"]),
    );
    let spread = m.quantile(0.99, "geophone_tcp_rtt_seconds", "", &["peer"]);
    panels.push(m.graph("Round trip by peer, p99", &[("{{peer}}", spread)]));
    let (again, sent) = loss(m, &["peer"]);
    panels.push(
        m.graph(
            "Segments sent again by peer",
            &[("{{peer}}", rare(&again, &sent))],
        )
        .unit("percentunit"),
    );
    let failures = m.rate(
        "geophone_tcp_connections_total",
        r#"outcome="failed""#,
        &["peer", "error"],
    );
    panels.push(m.panel(
        Show::Stack,
        "Connections that fail",
        &[("{{peer}} {{error}}", failures)],
    ));

    panels.push(m.row("Containers and units"));
    let by = ["instance", "subject", "resource"];
    let used = m.value("max", "geophone_cgroup_used", "", &by);
    let limit = m.value("max", "geophone_cgroup_limit", "", &by);
    let full = share(&used, &limit);
    let name = "{{subject}} {{resource}} {{instance}}";
    let targets = [("of its limit", full.clone()), ("in use", used), ("limit", limit)];
    let units = [
        ("of its limit", "percentunit"),
        ("in use", "short"),
        ("limit", "short"),
    ];
    let table = m.panel(Show::Table, "What they may use", &targets).units(&units);
    panels.push(table.link("subject", PROFILES, &["instance", "subject"]));
    panels.push(
        m.graph("Of their limit", &[(name, full)])
            .unit("percentunit")
            .about("Memory, tasks, and open files of the process that is nearest to its own limit"),
    );
    let cpu = m.rate("geophone_cgroup_cpu_seconds_total", "", &["subject"]);
    let kept = m.rate("geophone_cgroup_throttled_seconds_total", "", &["subject"]);
    let cpu = m.graph(
        "Cores",
        &[("{{subject}}", cpu), ("{{subject}} kept away by its quota", kept)],
    );
    panels.push(cpu.leads(PROFILES, &["subject"]));
    let waits = m.rate("geophone_cgroup_pressure_seconds_total", r#"kind="full""#, &by);
    let waits = m.graph("All tasks wait", &[(name, waits)]);
    panels.push(
        waits
            .unit("percentunit")
            .about("Share of the time in which none of those that were not idle could go on")
            .leads(PROFILES, &["subject"]),
    );
    let kills = m.rate("geophone_cgroup_oom_kills_total", "", &["subject"]);
    panels.push(m.graph("Killed for want of memory", &[("{{subject}}", kills)]));

    panels.push(m.row("Latency"));
    panels.push(m.heat("Round trips", "geophone_tcp_rtt_seconds", ""));
    let now = m.quantile(0.99, "geophone_tcp_rtt_seconds", "", &["subject"]);
    let before = now.replace("[$__rate_interval]", "[$__rate_interval] offset 1d");
    let targets = [("{{subject}}", now), ("{{subject}} a day before", before)];
    panels.push(
        m.graph("Round trip, p99", &targets)
            .size(12, 9)
            .leads(PROFILES, &["subject"]),
    );
    panels.push(m.latency("Time to connect", "geophone_tcp_connect_seconds", ""));
    panels.push(m.latency("Time until accepted", "geophone_tcp_accept_seconds", ""));
    panels.push(m.latency("Jitter", "geophone_tcp_jitter_seconds", ""));

    panels.push(m.row("Connections"));
    let open = m.value("sum", "geophone_tcp_connections", "", &["subject"]);
    panels.push(m.panel(Show::Stack, "Open", &[("{{subject}}", open)]));
    let by = ["peer", "backend", "peer_zone"];
    let behind = m.value("sum", "geophone_kubernetes_backend_connections", "", &by);
    let targets = [("{{peer}} {{backend}} {{peer_zone}}", behind)];
    let behind = m.panel(
        Show::Stack,
        "Open to services, by the endpoint behind them",
        &targets,
    );
    panels.push(behind.about(
        "Which endpoint NAT has chosen, of connections to a service's address; with kubernetes.peers",
    ));
    let outcomes = m.rate("geophone_tcp_connections_total", "", &["role", "outcome"]);
    panels.push(m.graph("Opened, closed, failed", &[("{{role}} {{outcome}}", outcomes)]));
    let resets = m.rate("geophone_tcp_resets_total", "", &["subject", "direction"]);
    panels.push(
        m.graph("Resets", &[("{{subject}} {{direction}}", resets)])
            .leads(PROFILES, &["subject"]),
    );
    let windows = m.rate(
        "geophone_tcp_zero_windows_total",
        "",
        &["subject", "peer", "direction"],
    );
    let windows = m.graph(
        "Full receive windows",
        &[("{{subject}} {{peer}} {{direction}}", windows)],
    );
    panels.push(windows.leads(PROFILES, &["subject"]));
    let refused = m.rate("geophone_tcp_listen_drops_total", "", &["subject"]);
    let refused = m.graph("Refused: the queue was full", &[("{{subject}}", refused)]);
    panels.push(refused.leads(PROFILES, &["subject"]));
    let bytes = m.rate("geophone_tcp_bytes_total", "", &["subject", "direction"]);
    panels.push(m.graph("Traffic", &[("{{subject}} {{direction}}", bytes)]));
    let sent = m.rate(
        "geophone_tcp_bytes_total",
        r#"direction="transmit""#,
        &["instance", "subject"],
    );
    let by = ["instance", "subject", "k8s_namespace_name", "k8s_service_name"];
    let services = m.value("sum", "geophone_kubernetes_service_info", "", &by);
    let sent = format!(
        "sum by (k8s_namespace_name, k8s_service_name) ({services} * on (instance, subject) group_left () {sent})"
    );
    let sent = m.panel(
        Show::Stack,
        "Sent by services",
        &[("{{k8s_namespace_name}}/{{k8s_service_name}}", sent)],
    );
    panels
        .push(sent.about("By the services that subjects are behind, each of several; with kubernetes.peers"));
    let segments = m.rate("geophone_tcp_segments_total", "", &["direction"]);
    panels.push(m.graph("Segments", &[("{{direction}}", segments)]));
    let drops = m.rate("geophone_drops_packets_total", "", &["subject", "reason"]);
    panels.push(m.panel(
        Show::Stack,
        "Dropped packets",
        &[("{{subject}} {{reason}}", format!("topk(10, {drops})"))],
    ));
    let queue = m.rate("geophone_drops_udp_queue_failures_total", "", &["subject"]);
    let queue = m.graph("Datagrams that found a full queue", &[("{{subject}}", queue)]);
    panels.push(queue.leads(PROFILES, &["subject"]));

    panels.push(m.row("Lookups and datagrams"));
    m.scope(&["instance", "subject", "peer", "server"]);
    panels.push(m.heat("Lookups", "geophone_dns_lookup_seconds", ""));
    let lookup = m.quantile(0.99, "geophone_dns_lookup_seconds", "", &["server"]);
    panels.push(
        m.graph("Lookups by server, p99", &[("{{server}}", lookup)])
            .size(12, 9),
    );
    let answers = m.count("geophone_dns_lookup_seconds", "", &["rcode"]);
    panels.push(
        m.panel(Show::Stack, "Answers", &[("{{rcode}}", answers)])
            .unit("cps"),
    );
    let queries = m.rate(
        "geophone_dns_queries_total",
        "",
        &["subject", "server", "protocol"],
    );
    panels.push(m.graph("Queries", &[("{{subject}} {{server}} {{protocol}}", queries)]));
    let timeouts = m.rate("geophone_dns_timeouts_total", "", &["subject", "server"]);
    let repeated = m.rate("geophone_dns_repeated_queries_total", "", &["subject", "server"]);
    let cut = m.rate("geophone_dns_truncated_total", "", &["subject", "server"]);
    let targets = [
        ("{{subject}} {{server}} timed out", timeouts),
        ("{{subject}} {{server}} asked again", repeated),
        ("{{subject}} {{server}} cut", cut),
    ];
    panels.push(m.graph("Lookups that went wrong", &targets));
    let names = m.value("sum", "geophone_dns_busiest_names", "", &["name", "qtype"]);
    let names = [("a minute", format!("topk(50, {names})"))];
    panels.push(m.panel(Show::Table, "Busiest names", &names));
    let datagrams = m.rate("geophone_udp_datagrams_total", "", &["subject", "direction"]);
    panels.push(
        m.graph("Datagrams", &[("{{subject}} {{direction}}", datagrams)])
            .size(6, 9),
    );
    let bytes = m.rate("geophone_udp_bytes_total", "", &["subject", "direction"]);
    panels.push(
        m.graph("Their payload", &[("{{subject}} {{direction}}", bytes)])
            .size(6, 9),
    );

    panels.push(m.row("CPU"));
    let cpu = m.rate("geophone_sched_cpu_seconds_total", "", &["subject"]);
    let cpu = [("{{subject}}", format!("topk(10, {cpu})"))];
    panels.push(
        m.panel(Show::Stack, "CPU time", &cpu)
            .unit("short")
            .leads(PROFILES, &["subject"]),
    );
    let waits = m.quantile(0.99, "geophone_sched_runqueue_seconds", "", &["subject"]);
    let waits = [("{{subject}}", format!("topk(10, {waits})"))];
    panels.push(
        m.graph("Wait for a CPU, p99", &waits)
            .leads(PROFILES, &["subject"]),
    );
    let switches = m.rate("geophone_sched_switches_total", "", &["subject", "switch"]);
    let switches = [("{{subject}} {{switch}}", format!("topk(10, {switches})"))];
    panels.push(m.graph("Switches", &switches).leads(PROFILES, &["subject"]));
    m.scope(&["instance", "peer"]);
    let bands = [
        ("Round trip, median", "tcp_rtt_median", ""),
        ("Round trip, p99", "tcp_rtt_p99", ""),
        ("Segments sent again", "tcp_retransmit_ratio", ""),
        ("Sent", "tcp_bytes", r#"direction="transmit""#),
        ("Received", "tcp_bytes", r#"direction="receive""#),
        ("Connections opened", "tcp_opened", ""),
        ("Connections failed", "tcp_failed", ""),
        ("Resets", "tcp_resets", ""),
    ];
    let bands = bands.map(|(title, watch, matchers)| m.band(title, watch, matchers));
    let row = m.row("Expected of peer $peer");
    panels.push(row.hiding(Some("peer"), bands.into()));
    m.scope(&["instance", "server"]);
    let bands = [
        ("Lookups, median", "dns_lookup_median"),
        ("Lookups that fail", "dns_failure_ratio"),
        ("Lookups without an answer", "dns_timeouts"),
    ];
    let bands = bands.map(|(title, watch)| m.band(title, watch, ""));
    let row = m.row("Expected of DNS server $server");
    panels.push(row.hiding(Some("server"), bands.into()));
    let mut variables = places();
    variables.push(subjects());
    variables.push(variable(
        "peer",
        "Peer",
        r#"geophone_tcp_connections{instance=~"$instance",subject=~"$subject"}"#,
    ));
    variables.push(variable(
        "server",
        "DNS server",
        r#"geophone_dns_queries_total{instance=~"$instance"}"#,
    ));
    Board {
        name: "geophone-services",
        title: "geophone / Services",
        about: "Who is slow or lossy to whom: subjects, their peers, and each backend of a service",
        variables,
        panels,
    }
}
