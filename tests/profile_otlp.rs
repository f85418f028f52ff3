//! Stacks by OTLP: real receivers, over gRPC and over HTTP, read what the agent sends by the official definitions.

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::profiles::v1development::ProfilesDictionary;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::harness::agent::Scratch;
use tests::harness::otlp::Receiver;
use tests::harness::stacks::{Busy, build_id, busy, is, taking_stacks};
use tests::harness::{Agent, equal};
use tests::need_root;

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|v| v.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(n)) => n.to_string(),
        other => format!("{other:?}"),
    }
}

fn of(attributes: &[KeyValue], key: &str) -> String {
    text(
        attributes
            .iter()
            .find(|a| a.key == key)
            .and_then(|a| a.value.as_ref()),
    )
}

/// What exports told of processes of one name.
#[derive(Debug, Default)]
struct Told {
    nanos: u64,
    pids: BTreeSet<String>,
    windows: Vec<(u64, u64)>,
    /// Names of functions, types of frames, names of threads, and build ids of the program.
    functions: BTreeSet<String>,
    frames: BTreeSet<String>,
    threads: BTreeSet<String>,
    build_ids: BTreeSet<String>,
}

fn attribute(d: &ProfilesDictionary, index: i32) -> Result<(String, String)> {
    let found = d
        .attribute_table
        .get(index as usize)
        .context("no such attribute")?;
    let key = d
        .string_table
        .get(found.key_strindex as usize)
        .context("no such string")?;
    Ok((key.clone(), text(found.value.as_ref())))
}

fn told(exports: &[ExportProfilesServiceRequest], name: &str) -> Result<Told> {
    let mut told = Told::default();
    for export in exports {
        let d = export.dictionary.as_ref().context("no dictionary")?;
        let string = |i: i32| d.string_table.get(i as usize).context("no such string");
        for resource in &export.resource_profiles {
            let attributes = &resource.resource.as_ref().context("no resource")?.attributes;
            if of(attributes, "process.executable.name") != name {
                continue;
            }
            ensure!(!of(attributes, "host.name").is_empty(), "{attributes:?}");
            told.pids.insert(of(attributes, "process.pid"));
            for profile in resource.scope_profiles.iter().flat_map(|s| &s.profiles) {
                let kind = profile.sample_type.context("no type")?;
                ensure!(string(kind.type_strindex)? == "cpu" && string(kind.unit_strindex)? == "nanoseconds");
                told.windows.push((profile.time_unix_nano, profile.duration_nano));
                for sample in &profile.samples {
                    told.nanos += sample.values.iter().sum::<i64>() as u64;
                    for index in &sample.attribute_indices {
                        let (key, value) = attribute(d, *index)?;
                        ensure!(key == "thread.name", "{key}");
                        told.threads.insert(value);
                    }
                    let stack = d
                        .stack_table
                        .get(sample.stack_index as usize)
                        .context("no such stack")?;
                    for index in &stack.location_indices {
                        let location = d
                            .location_table
                            .get(*index as usize)
                            .context("no such location")?;
                        for index in &location.attribute_indices {
                            told.frames.insert(attribute(d, *index)?.1);
                        }
                        for line in &location.lines {
                            let function = d.function_table.get(line.function_index as usize);
                            let name = function.context("no such function")?.name_strindex;
                            told.functions.insert(string(name)?.clone());
                        }
                        let mapping = d.mapping_table.get(location.mapping_index as usize);
                        let mapping = mapping.context("no such mapping")?;
                        if string(mapping.filename_strindex)?.ends_with(name) {
                            for index in &mapping.attribute_indices {
                                let (key, value) = attribute(d, *index)?;
                                told.build_ids.insert(format!("{key}={value}"));
                            }
                        }
                    }
                }
            }
        }
    }
    told.windows.sort();
    Ok(told)
}

/// Seconds of processes of a name, once there come no more.
fn settled(agent: &Agent, name: &str) -> Result<f64> {
    let (start, mut before) = (Instant::now(), -1.0);
    loop {
        let path = format!("/api/v1/profile?from=10m&format=json&comm={name}");
        let json: serde_json::Value = serde_json::from_str(&agent.get(&path, "*/*")?.text())?;
        let value = json["value"].as_f64().with_context(|| json.to_string())?;
        if value == before {
            return Ok(value);
        }
        ensure!(
            start.elapsed() < Duration::from_secs(60),
            "samples of {name} still come"
        );
        before = value;
        std::thread::sleep(Duration::from_secs(2));
    }
}

/// Cause: two agents that send profiles, one over gRPC, one over HTTP, and a program that is busy for a while. Seen: each
/// window of ten seconds once; together all the time that the API tells; by name, thread, build id and process.
#[test]
fn otlp_receivers_get_each_slice_once() -> Result<()> {
    need_root!("readelf");
    let scratch = Scratch::new()?;
    let (program, name) = busy(&scratch)?;
    let receivers = [("grpc", Receiver::grpc(None)?), ("http", Receiver::http()?)];
    let agents: Vec<Agent> = receivers
        .iter()
        .map(|(protocol, receiver)| {
            taking_stacks()
                .set("probes.profile.hz", "49")
                .set("export.otlp.endpoint", &receiver.endpoint)
                .set("export.otlp.protocol", protocol)
                .set("export.otlp.profiles", "true")
                .start()
        })
        .collect::<Result<_>>()?;
    let program_runs = Busy::start(Command::new(&program).arg("60"))?;
    let pid = program_runs.0.id().to_string();
    let start = Instant::now();
    // At least one window in full, and a piece that is only sent at the end.
    while receivers
        .iter()
        .any(|(_, r)| told(&r.profiles(), &name).is_ok_and(|t| t.nanos == 0))
    {
        ensure!(start.elapsed() < Duration::from_secs(60), "nothing was sent");
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(program_runs);
    for ((protocol, receiver), agent) in receivers.iter().zip(agents) {
        let truth = settled(&agent, &name)?;
        agent.stop()?;
        let told = told(&receiver.profiles(), &name)?;
        println!(
            "{protocol}: {:.3} s of {truth:.3}, windows {:?}",
            told.nanos as f64 / 1e9,
            told.windows
        );
        ensure!(
            (told.nanos as f64 / 1e9 - truth).abs() < 1e-6 && truth > 1.0,
            "{protocol}: {told:?}"
        );
        let starts: BTreeSet<u64> = told.windows.iter().map(|w| w.0).collect();
        equal("windows", starts.len(), told.windows.len())?;
        ensure!(
            told.windows
                .iter()
                .all(|(from, length)| from % 10_000_000_000 == 0 && *length == 10_000_000_000),
            "{:?}",
            told.windows
        );
        equal(protocol, told.pids, BTreeSet::from([pid.clone()]))?;
        ensure!(
            told.functions.iter().any(|f| is(f, "busy_leaf")),
            "{:?}",
            told.functions
        );
        ensure!(told.frames.contains("native"), "{:?}", told.frames);
        ensure!(told.threads.contains(&name), "{:?}", told.threads);
        let id = format!("process.executable.build_id.gnu={}", build_id(&program)?);
        ensure!(told.build_ids.contains(&id), "no {id} in {:?}", told.build_ids);
        let hash = |id: &String| {
            id.strip_prefix("process.executable.build_id.htlhash=")
                .is_some_and(|hash| hash.len() == 32)
        };
        ensure!(told.build_ids.iter().any(hash), "{:?}", told.build_ids);
    }
    Ok(())
}
