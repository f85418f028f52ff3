//! Stacks: whose they are, how many there are and how good they are; the stacks themselves the agent answers for.

use super::{PROFILES, SERVICES};
use crate::links::AGENT;
use crate::maker::{Maker, places, share, subjects};
use crate::panel::{Board, Panel, Show, Values, Variable};

const WHERE: &str = "The stacks of the last hour are with each agent. Of the time that is looked at here, on the node:\n\n    \
    geophone profile --from ${__from:date:iso} --to ${__to:date:iso} --subject NAME -o cpu.svg\n\n\
    A click in the tables below asks the agent whose address is in **Agent**: one that listens on its node alone, brought to this \
    machine by the first or the second of these. One that others can reach wants TLS and a token, which a browser does not send: the third.\n\n    \
    ssh -L 9779:127.0.0.1:9779 NODE\n    \
    kubectl -n geophone port-forward POD 9779\n    \
    curl --cacert ca.crt -H \"Authorization: Bearer $TOKEN\" -o cpu.svg \\\n      \
    \"https://NODE:9779/api/v1/profile?subject=NAME&from=${__from:date:seconds}&to=${__to:date:seconds}&format=svg\"\n\n\
    `geophone diff 10m..5m 5m..now` says what changed. Parca and Pyroscope scrape \
    `/debug/pprof/profile` of the agent, and show flamegraphs beside these panels.";

/// The dashboard.
pub fn board(m: &mut Maker) -> Board {
    m.scope(&["instance", "subject"]);
    let mut panels: Vec<Panel> = vec![m.panel(Show::Text, "", &[]).about(WHERE).size(24, 9)];

    panels.push(m.row("Who uses the CPU"));
    let by = ["instance", "subject"];
    let cpu = m.rate("geophone_sched_cpu_seconds_total", "", &by);
    let waits = m.quantile(0.99, "geophone_sched_runqueue_seconds", "", &by);
    let cpu = format!("topk(50, {cpu})");
    let waits = format!("{waits} and {cpu}");
    let targets = [("CPUs", cpu), ("wait for a CPU, p99", waits)];
    let whose = m.panel(Show::Table, "Flamegraphs of subjects", &targets);
    panels.push(
        whose
            .about("CPU time of each subject on each node, and how long it waits for a CPU; a click on a subject asks the agent for the flamegraph")
            .units(&[("CPUs", "short"), ("wait for a CPU, p99", "s")])
            .stacks("subject", "subject")
            .link("subject", SERVICES, &["instance", "subject"]),
    );
    let kinds = m.rate("geophone_profile_samples_total", "", &["instance", "sample"]);
    let kinds = m.panel(
        Show::Table,
        "Flamegraphs of nodes",
        &[("samples a second", kinds)],
    );
    panels.push(
        kinds
            .about("What stacks are taken of; a click on a kind asks the agent for the flamegraph of the whole node")
            .stacks("sample", "type"),
    );
    let cpu = m.rate("geophone_sched_cpu_seconds_total", "", &["subject"]);
    let cpu = [("{{subject}}", format!("topk(15, {cpu})"))];
    let cpu = m
        .panel(Show::Stack, "CPU time by subject", &cpu)
        .unit("short")
        .size(12, 8);
    panels.push(cpu.leads(PROFILES, &["subject"]).leads(SERVICES, &["subject"]));
    let waits = m.quantile(0.99, "geophone_sched_runqueue_seconds", "", &["subject"]);
    let waits = [("{{subject}}", format!("topk(15, {waits})"))];
    let waits = m.graph("Wait for a CPU, p99", &waits).size(12, 8);
    panels.push(waits.leads(PROFILES, &["subject"]).leads(SERVICES, &["subject"]));

    panels.push(m.row("Samples"));
    let samples = m.rate("geophone_profile_samples_total", "", &["sample"]);
    panels.push(m.panel(Show::Stack, "By what they are of", &[("{{sample}}", samples)]));
    let whole = m.rate(
        "geophone_profile_stacks_total",
        r#"end="complete""#,
        &["instance"],
    );
    let all = m.rate("geophone_profile_stacks_total", "", &["instance"]);
    panels.push(
        m.graph("Whole stacks", &[("{{instance}}", share(&whole, &all))])
            .unit("percentunit")
            .limits(0.99, 0.95),
    );
    let ends = m.rate("geophone_profile_stacks_total", r#"end!="complete""#, &["end"]);
    panels.push(m.panel(Show::Stack, "Why others are not", &[("{{end}}", ends)]));
    let lost = m.rate("geophone_profile_lost_samples_total", "", &["reason"]);
    panels.push(m.graph("Lost samples", &[("{{reason}}", lost)]));
    let python = m.rate("geophone_profile_python_stacks_total", "", &["end"]);
    panels.push(m.panel(Show::Stack, "Python", &[("{{end}}", python)]));
    let frames = m.rate("geophone_profile_python_lost_frames_total", "", &["reason"]);
    panels.push(m.graph("Frames of Python without a name", &[("{{reason}}", frames)]));

    panels.push(m.row("Tables and names"));
    let cpus = m.value("sum", "geophone_profile_cpus", "", &["instance"]);
    let processes = m.value("sum", "geophone_profile_processes", "", &["instance"]);
    let files = m.value("sum", "geophone_profile_binaries", "", &["instance"]);
    let open = m.value("sum", "geophone_profile_open_files", "", &["instance"]);
    let targets = [
        ("{{instance}} CPUs", cpus),
        ("{{instance}} processes", processes),
        ("{{instance}} files", files),
        ("{{instance}} open files", open),
    ];
    panels.push(
        m.graph("What can be unwound", &targets)
            .about("CPUs that are sampled, processes, files with tables, open files"),
    );
    let tables = m.value("sum", "geophone_profile_table_bytes", "", &["instance"]);
    let store = m.value("sum", "geophone_profile_store_bytes", "", &["instance"]);
    let targets = [("{{instance}} tables", tables), ("{{instance}} samples", store)];
    panels.push(
        m.graph("Memory", &targets)
            .about("Of the unwind tables, and of the samples of the last hour"),
    );
    let rows = m.value("sum", "geophone_profile_table_rows", "", &["instance"]);
    panels.push(m.graph("Rows of the tables", &[("{{instance}}", rows)]));
    let made = m.rate("geophone_profile_tables_total", "", &["instance"]);
    let read = m.rate("geophone_profile_processes_read_total", "", &["instance"]);
    let targets = [
        ("{{instance}} tables made", made),
        ("{{instance}} processes read", read),
    ];
    panels.push(
        m.graph("Work", &targets)
            .about("Tables made, and mappings of processes read"),
    );
    let failed = m.rate(
        "geophone_profile_table_failures_total",
        "",
        &["instance", "reason"],
    );
    panels.push(m.graph("Files without a table", &[("{{instance}} {{reason}}", failed)]));
    let names = m.rate(
        "geophone_profile_name_failures_total",
        "",
        &["instance", "reason"],
    );
    let died = m.rate("geophone_profile_symbolizer_failures_total", "", &["instance"]);
    let targets = [
        ("{{instance}} {{reason}}", names),
        ("{{instance}} reader of symbols died", died),
    ];
    panels.push(m.graph("Names that could not be had", &targets));
    let mut variables = places();
    variables.push(subjects());
    variables.push(Variable {
        name: AGENT,
        label: "Agent",
        values: Values::Written("http://127.0.0.1:9779"),
    });
    Board {
        name: PROFILES,
        title: "geophone / Profiles",
        about: "How many stacks there are, how good they are, and who uses the CPU",
        variables,
        panels,
    }
}
