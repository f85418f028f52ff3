//! The agent itself: does it see all, what does it cost, does it get rid of what it knows.

use super::PROFILES;
use crate::maker::{Maker, places, share};
use crate::panel::{Board, Show};

/// The dashboard.
pub fn board(m: &mut Maker) -> Board {
    m.scope(&["instance"]);
    let mut panels = vec![m.row("Does it see all")];
    let coverage = m.value("min", "geophone_coverage_ratio", "", &["instance", "metric"]);
    panels.push(
        m.graph("Coverage", &[("{{instance}} {{metric}}", coverage)])
            .unit("percentunit"),
    );
    let unaccounted = m.value("max", "geophone_events_unaccounted", "", &["instance", "probe"]);
    panels.push(m.graph("Not accounted for", &[("{{instance}} {{probe}}", unaccounted)]));
    let lost = m.rate("geophone_events_dropped_total", "", &["probe", "stage", "reason"]);
    panels.push(m.panel(
        Show::Stack,
        "Lost events",
        &[("{{probe}} {{stage}} {{reason}}", lost)],
    ));
    let events = m.rate("geophone_events_total", "", &["probe", "stage"]);
    panels.push(m.graph("Events", &[("{{probe}} {{stage}}", events)]));
    let waiting = m.value("sum", "geophone_events_in_flight", "", &["instance", "probe"]);
    panels.push(m.graph("On the way", &[("{{instance}} {{probe}}", waiting)]));
    let by = ["instance", "program", "probe", "hook", "state"];
    let programs = m.value(
        "max",
        "geophone_program_info",
        r#"state=~"unsupported|broken""#,
        &by,
    );
    let programs = m.panel(
        Show::Table,
        "Programs that do not run",
        &[("here", format!("{programs} == 1"))],
    );
    panels.push(programs.size(8, 8));
    let source = m.value(
        "max",
        "geophone_tcp_rtt_source_info",
        "",
        &["instance", "source", "sample"],
    );
    panels.push(
        m.panel(
            Show::Table,
            "Where round-trip times come from",
            &[("now", format!("{source} == 1"))],
        )
        .size(8, 8),
    );

    panels.push(m.row("What does it cost"));
    let now = m.value("max", "geophone_governor_cpu_ratio", "", &["instance"]);
    let budget = m.value("max", "geophone_governor_budget_ratio", "", &["instance"]);
    let targets = [("{{instance}}", now), ("{{instance}} budget", budget)];
    panels.push(m.graph("CPU and budget", &targets).unit("percentunit"));
    let level = m.value("max", "geophone_governor_level", "", &["instance"]);
    panels.push(m.graph("Governor", &[("{{instance}}", level)]).limits(1.0, 7.0));
    let own = m.rate("geophone_agent_cpu_seconds_total", "", &["instance"]);
    let programs = m.rate("geophone_program_run_seconds_total", "", &["instance"]);
    let storage = m.rate("geophone_tcp_storage_seconds_total", "", &["instance"]);
    let targets = [
        ("{{instance}} agent", own),
        ("{{instance}} programs", programs),
        ("{{instance}} storage of sockets", storage),
    ];
    panels.push(
        m.graph("CPU", &targets)
            .unit("percentunit")
            .about("Of one core: the process, its programs, and what they remember of sockets")
            .leads(PROFILES, &["instance"]),
    );
    let spent = m.rate("geophone_program_run_seconds_total", "", &["program"]);
    let runs = m.rate("geophone_program_runs_total", "", &["program"]);
    panels.push(
        m.graph(
            "A run of a program",
            &[("{{program}}", format!("{spent} / ({runs} > 0)"))],
        )
        .unit("s"),
    );
    let runs = m.rate("geophone_program_runs_total", "", &["program"]);
    panels.push(m.graph("Runs", &[("{{program}}", format!("topk(15, {runs})"))]));
    let memory = m.value("max", "geophone_agent_memory_bytes", "", &["instance"]);
    panels.push(m.graph("Memory", &[("{{instance}}", memory)]));
    let used = m.value("max", "geophone_map_used", "", &["instance", "map"]);
    let most = m.value("max", "geophone_map_limit", "", &["instance", "map"]);
    panels.push(
        m.graph("Maps", &[("{{instance}} {{map}}", share(&used, &most))])
            .unit("percentunit")
            .about(
                "Entries that are somebody's, of those that there may be: what finds no room counts as other",
            ),
    );
    let maps = m.value("sum", "geophone_map_memory_bytes", "", &["map"]);
    panels.push(m.panel(
        Show::Stack,
        "Memory of maps",
        &[("{{map}}", format!("topk(15, {maps})"))],
    ));

    panels.push(m.row("Does it get rid of it"));
    let batches = m.rate("geophone_export_batches_total", "", &["exporter", "outcome"]);
    panels.push(m.graph("Exports", &[("{{exporter}} {{outcome}}", batches)]));
    let points = m.rate("geophone_export_datapoints_total", "", &["exporter"]);
    let sent = m.rate("geophone_export_datapoints_sent_total", "", &["exporter"]);
    let targets = [
        ("{{exporter}} to be sent", points),
        ("{{exporter}} accepted", sent),
    ];
    panels.push(m.graph("Data points", &targets));
    let dropped = m.rate(
        "geophone_export_datapoints_dropped_total",
        "",
        &["exporter", "reason"],
    );
    panels.push(m.graph("Given up", &[("{{exporter}} {{reason}}", dropped)]));
    let queue = m.value(
        "max",
        "geophone_export_queue_batches",
        "",
        &["instance", "exporter"],
    );
    panels.push(m.graph("Waiting exports", &[("{{instance}} {{exporter}}", queue)]));
    let flight = m.value(
        "max",
        "geophone_export_datapoints_in_flight",
        "",
        &["instance", "exporter"],
    );
    panels.push(m.graph("Waiting data points", &[("{{instance}} {{exporter}}", flight)]));
    let again = m.rate("geophone_export_retries_total", "", &["instance", "exporter"]);
    panels.push(m.graph("Repeated attempts", &[("{{instance}} {{exporter}}", again)]));
    let requests = m.rate("geophone_api_requests_total", "", &["path", "code"]);
    panels.push(m.graph("Requests to the API", &[("{{path}} {{code}}", requests)]));
    let lagged = m.rate("geophone_api_records_lagged_total", "", &["instance"]);
    panels.push(m.graph("Told too fast for a listener", &[("{{instance}}", lagged)]));

    panels.push(m.row("Memory of its own"));
    let series = m.value("max", "geophone_store_series", "", &["instance"]);
    panels.push(m.graph("Series", &[("{{instance}}", series)]));
    let size = m.value("max", "geophone_store_bytes", "", &["instance", "place"]);
    panels.push(m.graph("Size", &[("{{instance}} {{place}}", size)]));
    let samples = m.value("max", "geophone_store_samples", "", &["instance"]);
    panels.push(m.graph("Samples", &[("{{instance}}", samples)]));
    let taken = m.rate("geophone_store_appended_total", "", &["instance"]);
    panels.push(m.graph("Stored", &[("{{instance}}", taken)]));
    let dropped = m.rate("geophone_store_dropped_total", "", &["instance", "reason"]);
    let refused = m.rate("geophone_store_series_refused_total", "", &["instance"]);
    let missed = m.rate("geophone_store_missed_ticks_total", "", &["instance"]);
    let late = m.rate("geophone_store_late_ticks_total", "", &["instance"]);
    let targets = [
        ("{{instance}} {{reason}}", dropped),
        ("{{instance}} new series", refused),
        ("{{instance}} seconds left out", missed),
        ("{{instance}} seconds late", late),
    ];
    panels.push(
        m.graph("Not stored", &targets)
            .about("Samples that were dropped, new series without room, seconds that were missed"),
    );
    let failures = m.rate("geophone_store_write_failures_total", "", &["instance"]);
    let unlogged = m.rate("geophone_store_unlogged_total", "", &["instance"]);
    let damaged = m.increase("geophone_store_damaged_total", "", &["instance"]);
    let targets = [
        ("{{instance}} writes failed", failures),
        ("{{instance}} samples not logged", unlogged),
        ("{{instance}} damaged parts", damaged),
    ];
    panels.push(m.graph("Disk trouble", &targets));

    panels.push(m.row("Rules and alerts"));
    let alerts = m.value(
        "sum",
        "geophone_alerts",
        "",
        &["instance", "alertname", "severity", "alertstate"],
    );
    panels.push(m.panel(Show::Table, "Alerts of the nodes", &[("alerts", alerts)]));
    let done = m.rate("geophone_rules_evaluations_total", "", &["instance"]);
    let failed = m.rate("geophone_rules_failures_total", "", &["instance"]);
    let missed = m.rate("geophone_rules_missed_total", "", &["instance"]);
    let invalid = m.value("max", "geophone_rules_invalid_files", "", &["instance"]);
    let reloads = m.rate("geophone_rules_reloads_total", "", &["instance", "outcome"]);
    let targets = [
        ("{{instance}} evaluated", done),
        ("{{instance}} failed", failed),
        ("{{instance}} left out", missed),
        ("{{instance}} invalid files", invalid),
        ("{{instance}} read again, {{outcome}}", reloads),
    ];
    panels.push(m.graph("Rules", &targets).size(6, 9));
    let time = m.rate("geophone_rules_evaluation_seconds_total", "", &["instance"]);
    panels.push(m.graph("Time for rules", &[("{{instance}}", time)]).size(6, 9));
    let told = m.rate(
        "geophone_alertmanager_alerts_total",
        "",
        &["alertmanager", "outcome"],
    );
    let failed = m.rate("geophone_alertmanager_failures_total", "", &["alertmanager"]);
    let targets = [
        ("{{alertmanager}} {{outcome}}", told),
        ("{{alertmanager}} requests failed", failed),
    ];
    panels.push(m.graph("Alertmanagers", &targets));

    panels.push(m.row("Notifications"));
    let open = m.value("max", "geophone_incidents", "", &["instance"]);
    let quiet = m.value("max", "geophone_silences", "", &["instance"]);
    let targets = [("{{instance}} incidents", open), ("{{instance}} silences", quiet)];
    panels.push(m.graph("Incidents and silences", &targets).size(6, 8));
    let made = m.rate("geophone_notifications_total", "", &["receiver", "integration"]);
    let told = m.rate(
        "geophone_notifications_delivered_total",
        "",
        &["receiver", "integration"],
    );
    let again = m.rate(
        "geophone_notifications_retries_total",
        "",
        &["receiver", "integration"],
    );
    let targets = [
        ("{{receiver}} {{integration}} made", made),
        ("{{receiver}} {{integration}} accepted", told),
        ("{{receiver}} {{integration}} tried again", again),
    ];
    panels.push(m.graph("Notifications", &targets).size(6, 8));
    let dropped = m.rate(
        "geophone_notifications_dropped_total",
        "",
        &["receiver", "reason"],
    );
    let unwritten = m.rate("geophone_notifications_write_errors_total", "", &["receiver"]);
    let targets = [
        ("{{receiver}} {{reason}}", dropped),
        ("{{receiver}} not written", unwritten),
    ];
    panels.push(m.graph("Given up", &targets).size(6, 8));
    let waiting = m.value(
        "max",
        "geophone_notifications_oldest_seconds",
        "",
        &["instance", "receiver"],
    );
    panels.push(
        m.graph(
            "Age of the oldest that waits",
            &[("{{instance}} {{receiver}}", waiting)],
        )
        .size(3, 8),
    );
    let flight = m.value(
        "max",
        "geophone_notifications_in_flight",
        "",
        &["instance", "receiver"],
    );
    panels.push(
        m.graph("Waiting", &[("{{instance}} {{receiver}}", flight)])
            .size(3, 8),
    );

    panels.push(m.row("Flight recorder"));
    let ticks = m.rate("geophone_record_ticks_total", "", &["instance", "outcome"]);
    let waiting = m.value("max", "geophone_record_ticks_waiting", "", &["instance"]);
    let left_out = m.rate("geophone_record_left_out_total", "", &["instance"]);
    let targets = [
        ("{{instance}} seconds {{outcome}}", ticks),
        ("{{instance}} seconds waiting", waiting),
        ("{{instance}} records left out", left_out),
    ];
    panels.push(m.graph("Recorded", &targets).size(8, 8));
    let disk = m.value("max", "geophone_record_disk_bytes", "", &["instance", "what"]);
    panels.push(m.graph("On disk", &[("{{instance}} {{what}}", disk)]).size(6, 8));
    let written = m.rate("geophone_record_bytes_total", "", &["instance"]);
    panels.push(m.graph("Written", &[("{{instance}}", written)]).size(5, 8));
    let dumps = m.rate("geophone_record_dumps_total", "", &["instance", "outcome"]);
    panels.push(
        m.graph("Dumps of alerts", &[("{{instance}} {{outcome}}", dumps)])
            .size(5, 8),
    );
    panels.push(m.row("Kubernetes"));
    let age = m.value(
        "max",
        "geophone_kubernetes_age_seconds",
        "",
        &["instance", "object"],
    );
    panels.push(
        m.graph("Age of the names", &[("{{instance}} {{object}}", age)])
            .size(6, 8)
            .about("Time since the API last said anything"),
    );
    let pods = m.value("max", "geophone_kubernetes_pods", "", &["instance"]);
    let addresses = m.value("max", "geophone_kubernetes_addresses", "", &["instance"]);
    let targets = [
        ("{{instance}} pods", pods),
        ("{{instance}} addresses of services", addresses),
    ];
    panels.push(m.graph("Known", &targets).size(6, 8));
    let errors = m.rate("geophone_kubernetes_errors_total", "", &["instance", "reason"]);
    panels.push(
        m.graph("Errors of the API", &[("{{instance}} {{reason}}", errors)])
            .size(6, 8),
    );
    let lists = m.rate("geophone_kubernetes_lists_total", "", &["instance"]);
    let refused = m.rate("geophone_kubernetes_refused_total", "", &["instance", "object"]);
    let lost = m.rate("geophone_identity_lost_total", "", &["instance", "reason"]);
    let targets = [
        ("{{instance}} lists", lists),
        ("{{instance}} refused {{object}}", refused),
        ("{{instance}} lost {{reason}}", lost),
    ];
    panels.push(m.graph("Lists, and what found no room", &targets).size(6, 8));
    Board {
        name: "geophone-agent",
        title: "geophone / Agent",
        about: "The agents themselves: coverage, accounting, price, export, store, rules",
        variables: places(),
        panels,
    }
}
