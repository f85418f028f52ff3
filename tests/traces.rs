//! Connections as spans: both ends in one trace, and exemplars that lead there.

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tests::harness::agent::PATIENCE;
use tests::harness::delay::Delay;
use tests::harness::otlp::Receiver;
use tests::harness::prometheus::Prometheus;
use tests::harness::promql::encoded;
use tests::harness::{Agent, Link, Scene, Setup, equal, http};
use tests::need_root;

fn telling(receiver: &Receiver, share: &str) -> Setup {
    Setup::new()
        .set("export.otlp.endpoint", &receiver.endpoint)
        .set("export.otlp.interval", "1s")
        .set("export.otlp.traces.enabled", "true")
        .set("export.otlp.traces.share", share)
        .set("export.otlp.traces.per_second", "100000")
}

/// The spans of these services, once there are so many.
fn spans(receiver: &Receiver, services: &[&str], count: usize) -> Result<Vec<(String, Span)>> {
    let start = Instant::now();
    loop {
        let mut all = receiver.spans();
        all.retain(|(service, _)| services.contains(&service.as_str()));
        if all.len() >= count {
            return Ok(all);
        }
        ensure!(
            start.elapsed() < PATIENCE,
            "{} spans of {services:?}, not {count}: {:?}",
            all.len(),
            receiver.spans()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn of<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    let found = attributes.iter().find(|a| a.key == key)?;
    found.value.as_ref()?.value.as_ref()
}

fn number(span: &Span, key: &str) -> Result<i64> {
    match of(&span.attributes, key) {
        Some(Value::IntValue(n)) => Ok(*n),
        other => anyhow::bail!("{key} is {other:?} in {span:?}"),
    }
}

fn word<'a>(span: &'a Span, key: &str) -> &'a str {
    match of(&span.attributes, key) {
        Some(Value::StringValue(text)) => text,
        _ => "",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// By trace.
fn traces(spans: &[(String, Span)]) -> BTreeMap<String, Vec<&(String, Span)>> {
    let mut out: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for one in spans {
        out.entry(hex(&one.1.trace_id)).or_default().push(one);
    }
    out
}

/// Cause: twenty connections between two hosts that know nothing of each other. Seen: twenty traces, in each the client's span
/// and the server's below it; and exemplars of the same traces in every format, and in a real Prometheus.
#[test]
fn both_ends_are_one_trace() -> Result<()> {
    need_root!("prometheus");
    let mut scene = Scene::echo()?;
    let receiver = Receiver::grpc(None)?;
    let agent = telling(&receiver, "1").start()?;
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
         scrape_configs: [{{job_name: geophone, static_configs: [{{targets: ['{}']}}]}}]\n",
        agent.at
    );
    let prometheus = Prometheus::start(&config, &["--enable-feature=exemplar-storage"])?;
    let flows = agent.flows("3s", || scene.exchange(20, 10, 500))?;
    let (client, server) = (scene.client.name(), scene.server.name());
    let all = spans(&receiver, &[client, server], 40)?;
    let traces = traces(&all);
    equal("traces", traces.len(), 20)?;
    let port: i64 = scene.at.rsplit(':').next().context("no port")?.parse()?;
    for ends in traces.values() {
        let end = |name: &str| {
            let mut found = ends.iter().filter(|(service, _)| service == name);
            let (Some((_, span)), None) = (found.next(), found.next()) else {
                anyhow::bail!("not one span of {name}: {ends:?}");
            };
            Ok(span)
        };
        let (asks, answers) = (end(client)?, end(server)?);
        equal(
            "kinds",
            (asks.kind, answers.kind),
            (SpanKind::Client as i32, SpanKind::Server as i32),
        )?;
        equal("who is below whom", &answers.parent_span_id, &asks.span_id)?;
        ensure!(asks.parent_span_id.is_empty() && asks.name == "tcp.connection" && asks.status.is_none());
        equal("sent", number(asks, "geophone.tcp.bytes_sent")?, 5000)?;
        equal("received", number(answers, "geophone.tcp.bytes_received")?, 5000)?;
        equal(
            "server's port",
            (number(asks, "server.port")?, number(answers, "server.port")?),
            (port, port),
        )?;
        equal(
            "client's port",
            number(asks, "client.port")?,
            number(answers, "network.peer.port")?,
        )?;
        let established = asks.events.first().context("no event")?;
        equal("event", established.name.as_str(), "tcp.established")?;
        let order = [
            asks.start_time_unix_nano,
            established.time_unix_nano,
            asks.end_time_unix_nano,
        ];
        ensure!(order.is_sorted(), "{asks:?}");
        ensure!(
            asks.start_time_unix_nano <= answers.start_time_unix_nano
                && answers.start_time_unix_nano < answers.end_time_unix_nano,
            "{asks:?} {answers:?}"
        );
    }
    // The connections that are told one by one have the same names.
    let told: BTreeSet<&str> = flows
        .iter()
        .filter_map(|flow| flow["trace_id"].as_str())
        .collect();
    ensure!(
        traces.keys().all(|id| told.contains(id.as_str())),
        "{told:?}, {traces:?}"
    );
    exemplars_lead_there(&agent, &receiver, &prometheus, client)?;
    agent.settles(|s| s.lawful())
}

/// In the formats of a scrape, in OTLP, from the agent's API and from a Prometheus.
fn exemplars_lead_there(
    agent: &Agent,
    receiver: &Receiver,
    prometheus: &Prometheus,
    client: &str,
) -> Result<()> {
    let known: BTreeSet<String> = receiver
        .spans()
        .iter()
        .map(|(_, span)| hex(&span.trace_id))
        .collect();
    let text = agent.get("/metrics", "application/openmetrics-text")?.text();
    for metric in ["geophone_tcp_connect_seconds", "geophone_tcp_rtt_seconds"] {
        let mut found = 0;
        for line in text.lines().filter(|line| {
            line.starts_with(&format!("{metric}_bucket")) && line.contains(client) && line.contains(" # ")
        }) {
            found += 1;
            let rest = line.split("trace_id=\"").nth(1).context("no trace")?;
            let (trace, rest) = rest.split_once('"').context("no end")?;
            ensure!(known.contains(trace), "{line}");
            let value: f64 = rest
                .split("} ")
                .nth(1)
                .and_then(|r| r.split(' ').next())
                .context("no value")?
                .parse()?;
            let bound = line
                .split("le=\"")
                .nth(1)
                .and_then(|r| r.split('"').next())
                .context("no bound")?;
            let bound: f64 = bound.replace("+Inf", "inf").parse()?;
            ensure!(value <= bound && value > bound / 2.0, "{line}");
        }
        ensure!(found > 0, "no exemplar of {metric} in\n{text}");
    }
    ensure!(
        !agent.metrics()?.contains(" # {"),
        "the older text has no exemplars"
    );
    tests::harness::command::promtool(&agent.metrics()?)?;
    // Each is told once, whatever the number of exports.
    let mut pushed = Vec::new();
    for metric in receiver.metrics() {
        if let Some(Data::ExponentialHistogram(h)) = metric.data {
            for point in h.data_points {
                let exemplars = point.exemplars.iter();
                pushed.extend(exemplars.map(|e| (metric.name.clone(), hex(&e.trace_id), hex(&e.span_id))));
            }
        }
    }
    ensure!(!pushed.is_empty(), "no exemplar by OTLP");
    let different: BTreeSet<_> = pushed.iter().collect();
    equal(
        "exemplars by OTLP that come twice",
        pushed.len() - different.len(),
        0,
    )?;
    ensure!(
        pushed.iter().all(|(_, trace, _)| known.contains(trace)),
        "{pushed:?}"
    );
    for (who, at, name) in [
        ("the agent", agent.at, "geophone_tcp_connect_seconds"),
        ("Prometheus", prometheus.at, "geophone_tcp_connect_seconds_bucket"),
    ] {
        let query = encoded(&format!("rate({name}{{subject=\"{client}\"}}[1m])"));
        let path = format!("/api/v1/query_exemplars?query={query}&start=0&end=9999999999");
        let start = Instant::now();
        let found = loop {
            let answer: serde_json::Value = serde_json::from_slice(&http::get(None, at, &path, "*/*")?.body)?;
            let series = answer["data"].as_array().context(answer.to_string())?;
            let of = series
                .iter()
                .flat_map(|s| s["exemplars"].as_array().cloned().unwrap_or_default());
            let found: Vec<String> = of
                .map(|e| e["labels"]["trace_id"].as_str().unwrap_or_default().to_owned())
                .collect();
            if !found.is_empty() {
                break found;
            }
            ensure!(start.elapsed() < PATIENCE, "{who} has no exemplars: {answer}");
            std::thread::sleep(Duration::from_millis(300));
        };
        ensure!(
            found.iter().all(|trace| known.contains(trace)),
            "{who}: {found:?}"
        );
    }
    Ok(())
}

/// Cause: many connections, of which chance tells a quarter, and some that are refused. Seen: of each connection both ends or
/// none, those whose ids OpenTelemetry's samplers choose; all that failed.
#[test]
fn chance_tells_both_ends_or_none_and_errors_always() -> Result<()> {
    need_root!("nft");
    const COUNT: u64 = 800;
    let mut scene = Scene::sink()?;
    let receiver = Receiver::http()?;
    let agent = telling(&receiver, "0.25")
        .set("export.otlp.protocol", "http")
        .start()?;
    scene.storm(COUNT, 4, 100)?;
    for _ in 0..5 {
        scene.client.connect_fails(&scene.net.b.at(9))?;
    }
    // Nobody answers, and who asks does not wait until the kernel gives up.
    scene
        .net
        .b
        .ns
        .nft("table inet hole { chain in { type filter hook input priority 0; tcp dport 7777 drop; }; }")?;
    let hole = scene.net.b.at(7777);
    scene
        .client
        .ask(json!({ "do": "connect", "to": hole, "wait_ms": 300 }))?;
    let (client, server) = (scene.client.name().to_owned(), scene.server.name().to_owned());
    // What is in the last five seconds is sent when the agent ends.
    agent.after(2)?;
    agent.stop()?;
    let all = spans(&receiver, &[&client, &server], 5)?;
    let (failed, chosen): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(_, span)| span.name == "tcp.connect");
    let errors = failed
        .iter()
        .map(|(_, span)| word(span, "error.type"))
        .collect::<Vec<_>>();
    let of = |error: &str| errors.iter().filter(|one| **one == error).count();
    equal(
        "failed",
        (failed.len(), of("refused"), of("abandoned")),
        (6, 5, 1),
    )?;
    for (service, span) in &failed {
        equal("who", service.as_str(), client.as_str())?;
        equal("why", word(span, "geophone.trace.why"), "error")?;
        let status = span.status.as_ref().context("no status")?;
        equal(
            "status",
            (status.code, status.message.as_str()),
            (2, word(span, "error.type")),
        )?;
        let took = span.end_time_unix_nano - span.start_time_unix_nano;
        let is_abandoned = word(span, "error.type") == "abandoned";
        ensure!(
            span.events.is_empty() && took > 0 && (took >= 300_000_000) == is_abandoned,
            "{span:?}"
        );
    }
    let traces = traces(&chosen);
    for (id, ends) in &traces {
        let who: BTreeSet<&str> = ends.iter().map(|(service, _)| service.as_str()).collect();
        equal("ends", (ends.len(), who.len()), (2, 2))?;
        let random = u128::from_str_radix(id, 16)? as u64 & ((1 << 56) - 1);
        ensure!(random >= (1 << 56) / 4 * 3, "{id} is none of a quarter");
    }
    // Five standard deviations.
    let share = traces.len() as f64 / COUNT as f64;
    ensure!(
        (share - 0.25).abs() < 0.077,
        "{share} of the connections were told"
    );
    Ok(())
}

/// Cause: more connections than may be told. Seen: few spans, and all others counted as sampled.
#[test]
fn what_is_over_the_limit_is_counted() -> Result<()> {
    need_root!();
    const COUNT: u64 = 500;
    let mut scene = Scene::sink()?;
    let receiver = Receiver::grpc(None)?;
    let agent = telling(&receiver, "1")
        .set("export.otlp.traces.per_second", "20")
        .start()?;
    let sampled = [("probe", "tcp"), ("stage", "sampled")];
    scene.storm(COUNT, 1, 100)?;
    let settled = agent.settles(|s| {
        let closed = [("subject", scene.server.name()), ("outcome", "closed")];
        equal("closed", s.sum("geophone_tcp_connections_total", &closed), COUNT)?;
        s.lawful()?;
        Ok(s.sum("geophone_events_total", &sampled))
    })?;
    ensure!(
        settled >= 2 * COUNT - 200,
        "{settled} of {} were sampled",
        2 * COUNT
    );
    let (client, server) = (scene.client.name(), scene.server.name());
    let told = spans(&receiver, &[client, server], 1)?.len();
    ensure!(told <= 200, "{told} spans of a limit of twenty a second");
    Ok(())
}

/// Cause: a wire that takes 60 ms there and back. Seen: its connections, though chance tells none, and no others.
#[test]
fn what_is_slow_is_told() -> Result<()> {
    need_root!();
    let (link, devices) = Link::through_middle()?;
    let delay = Delay::between(link.middle()?, &devices, Duration::from_millis(30))?;
    let mut scene = Scene::on(link)?.serving("echo")?;
    let mut near = Scene::echo()?;
    let receiver = Receiver::grpc(None)?;
    let agent = telling(&receiver, "0")
        .set("export.otlp.traces.slow", "50ms")
        .start()?;
    near.exchange(3, 3, 100)?;
    scene.exchange(3, 3, 100)?;
    let (client, server) = (scene.client.name(), scene.server.name());
    let all = spans(&receiver, &[client, server], 6)?;
    for (_, span) in &all {
        equal("why", word(span, "geophone.trace.why"), "slow")?;
        let Some(Value::DoubleValue(rtt)) = of(&span.attributes, "geophone.tcp.rtt_max") else {
            anyhow::bail!("no round trip in {span:?}");
        };
        ensure!(*rtt >= 0.06, "{span:?}");
    }
    equal("traces", traces(&all).len(), 3)?;
    drop(delay);
    let fast = receiver
        .spans()
        .into_iter()
        .filter(|(service, _)| [near.client.name(), near.server.name()].contains(&service.as_str()));
    equal("fast ones", fast.count(), 0)?;
    agent.stop()?;
    Ok(())
}
