use super::encode::encode_limited;
use super::*;
use crate::aggregate::Resource;
use crate::export::push::Part;
use crate::stacks::image::Binary;
use crate::stacks::store::{Count, Place, Store, Who, Window};
use crate::stacks::table::{Segment, Table};
use agent_common::profile::{end, sample};
use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::profiles::v1development::{Location, Profile, ProfilesDictionary};
use prost::Message as _;
use std::collections::{BTreeMap, HashSet};

const WINDOW: Window = Window {
    from: 1_700_000_000_000_000_000,
    to: 1_700_000_010_000_000_000,
};

fn who(pid: u32, sample: u8, label: &str) -> Who {
    Who {
        subject: "web.service".into(),
        process: "nginx".into(),
        pid,
        thread: "worker".into(),
        container: "".into(),
        cgroup: "".into(),
        sample,
        label: label.into(),
    }
}

fn store() -> Store {
    let mut store = Store::new(8 << 20);
    let binary = Arc::new(Binary {
        id: 7,
        path: "/usr/sbin/nginx".into(),
        file: Default::default(),
        build_id: "abcdef".into(),
        identity: build_id::Identity {
            hash: "0011".into(),
            ..build_id::Identity::default()
        },
        table: Table {
            segments: vec![Segment {
                offset: 0x1000,
                size: 0x8000,
                address: 0x2000,
            }],
            ..Table::default()
        },
        fault: String::new(),
        perf_map: None,
    });
    let (main, leaf, nameless) = (
        Place::Binary(7, 0x2010),
        Place::Binary(7, 0x2020),
        Place::Binary(7, 0x2030),
    );
    let kernel = Place::Kernel(0xffff_ffff_8100_0000);
    let count = |samples| Count {
        samples,
        value: samples * 1000,
    };
    let mut add = |who, places: &[Place], n| {
        store.add(
            WINDOW.from + 5,
            who,
            places,
            std::slice::from_ref(&binary),
            count(n),
        );
    };
    add(who(1, sample::CPU, ""), &[leaf, main], 7);
    add(who(1, sample::CPU, ""), &[kernel, leaf, main], 2);
    add(who(2, sample::CPU, ""), &[leaf, main], 5);
    add(
        who(1, sample::OFF_CPU, "futex"),
        &[kernel, Place::Cut(end::NO_ROW)],
        3,
    );
    add(
        who(1, sample::CPU, ""),
        &[Place::Anonymous(0x99), nameless, main],
        1,
    );
    for i in 0..200 {
        add(who(3, sample::CPU, ""), &[Place::Binary(7, 0x3000 + i), main], 1);
    }
    store.name(main, "main");
    store.name(leaf, "leaf");
    store.name(kernel, "schedule");
    store
}

fn encoded(store: &Store, limit: usize) -> (Vec<Part>, Vec<ExportProfilesServiceRequest>) {
    let machine = Resource {
        host: "h1".into(),
        ..Resource::default()
    };
    let kinds = [sample::CPU, sample::OFF_CPU];
    let parts = encode_limited(store, &kinds, WINDOW, &machine, "beef", limit);
    let decode = |part: &Part| ExportProfilesServiceRequest::decode(part.body.clone()).unwrap();
    let requests = parts.iter().map(decode).collect();
    (parts, requests)
}

/// A dictionary as its definition demands it: a zero value first, nothing twice, every index inside.
fn sound(request: &ExportProfilesServiceRequest) -> &ProfilesDictionary {
    let d = request.dictionary.as_ref().unwrap();
    assert_eq!(d.string_table[0], "");
    assert_eq!(d.mapping_table[0], Default::default());
    assert_eq!(d.location_table[0], Default::default());
    assert_eq!(d.function_table[0], Default::default());
    assert_eq!(d.link_table[0], Default::default());
    assert_eq!(d.attribute_table[0], Default::default());
    assert_eq!(d.stack_table[0], Default::default());
    assert_eq!(
        d.string_table.iter().collect::<HashSet<_>>().len(),
        d.string_table.len()
    );
    assert_eq!(
        d.stack_table.iter().collect::<HashSet<_>>().len(),
        d.stack_table.len()
    );
    assert_eq!(
        d.mapping_table.iter().collect::<HashSet<_>>().len(),
        d.mapping_table.len()
    );
    let string = |i: i32| assert!((i as usize) < d.string_table.len());
    let attributes = |all: &[i32]| {
        all.iter()
            .for_each(|i| assert!(*i > 0 && (*i as usize) < d.attribute_table.len()));
    };
    for m in &d.mapping_table[1..] {
        string(m.filename_strindex);
        attributes(&m.attribute_indices);
        assert!(!m.attribute_indices.is_empty(), "a mapping must have a build id");
    }
    for l in &d.location_table {
        let mapping = &d.mapping_table[l.mapping_index as usize];
        assert!(l.mapping_index == 0 || (mapping.memory_start..mapping.memory_limit).contains(&l.address));
        l.lines
            .iter()
            .for_each(|l| assert!((l.function_index as usize) < d.function_table.len()));
        attributes(&l.attribute_indices);
    }
    d.function_table.iter().for_each(|f| string(f.name_strindex));
    d.attribute_table.iter().for_each(|a| string(a.key_strindex));
    for s in &d.stack_table {
        s.location_indices
            .iter()
            .for_each(|i| assert!(*i > 0 && (*i as usize) < d.location_table.len()));
    }
    for p in request
        .resource_profiles
        .iter()
        .flat_map(|r| &r.scope_profiles)
        .flat_map(|s| &s.profiles)
    {
        assert_eq!(
            (p.time_unix_nano, p.duration_nano),
            (WINDOW.from, WINDOW.to - WINDOW.from)
        );
        assert!(p.profile_id.len() == 16 && p.profile_id.iter().any(|b| *b != 0));
        for sample in &p.samples {
            assert!(sample.stack_index > 0 && (sample.stack_index as usize) < d.stack_table.len());
            assert_eq!(sample.values.len(), 1);
            attributes(&sample.attribute_indices);
        }
    }
    d
}

/// Kind, thread, label and frames (`mapping!name` or `mapping!address`) of each sample, and its value.
fn told(profile: &Profile, d: &ProfilesDictionary) -> BTreeMap<String, i64> {
    let text = |i: i32| d.string_table[i as usize].as_str();
    let of = |indices: &[i32], key: &str| {
        let found = indices.iter().map(|i| &d.attribute_table[*i as usize]);
        let value = found.filter(|a| text(a.key_strindex) == key).find_map(|a| {
            match a.value.as_ref()?.value.as_ref()? {
                Value::StringValue(text) => Some(text.clone()),
                _ => None,
            }
        });
        value.unwrap_or_default()
    };
    let kind = text(profile.sample_type.unwrap().type_strindex);
    let frame = |i: &i32| {
        let location = &d.location_table[*i as usize];
        let name = location
            .lines
            .first()
            .map(|l| text(d.function_table[l.function_index as usize].name_strindex));
        format!(
            "{}!{}",
            of(&location.attribute_indices, "profile.frame.type"),
            name.map_or(format!("{:#x}", location.address), str::to_owned)
        )
    };
    let line = |sample: &opentelemetry_proto::tonic::profiles::v1development::Sample| {
        let frames: Vec<String> = d.stack_table[sample.stack_index as usize]
            .location_indices
            .iter()
            .map(frame)
            .collect();
        let (thread, label) = (
            of(&sample.attribute_indices, "thread.name"),
            of(&sample.attribute_indices, "geophone.label"),
        );
        (
            format!("{kind} {thread} {label} {}", frames.join(" ")),
            sample.values[0],
        )
    };
    profile.samples.iter().map(line).collect()
}

#[test]
fn each_process_is_a_resource_with_a_profile_of_each_kind() {
    let store = store();
    let (parts, requests) = encoded(&store, usize::MAX);
    assert_eq!((parts.len(), parts[0].points), (1, 4), "nginx 1 has two kinds");
    let request = &requests[0];
    let d = sound(request);
    assert_eq!(request.resource_profiles.len(), 3);
    let first = &request.resource_profiles[0];
    let attribute = |key: &str| {
        let all = &first.resource.as_ref().unwrap().attributes;
        let found: Vec<_> = all.iter().filter(|a| a.key == key).collect();
        assert!(found.len() < 2, "{key} twice");
        found.first().and_then(|a| a.value.clone()?.value)
    };
    let text = |text: &str| Some(Value::StringValue(text.into()));
    assert_eq!(attribute("host.name"), text("h1"));
    assert_eq!(attribute("service.name"), text("web.service"));
    assert_eq!(attribute("process.executable.name"), text("nginx"));
    assert_eq!(attribute("process.pid"), Some(Value::IntValue(1)));
    assert_eq!(attribute("container.id"), None);
    assert_eq!(attribute("service.version"), None);
    let [cpu, off] = &first.scope_profiles[0].profiles[..] else {
        panic!("two profiles")
    };
    let want = [
        ("cpu worker  kernel!schedule native!leaf native!main", 2000),
        ("cpu worker  native!leaf native!main", 7000),
        ("cpu worker  !0x99 native!0x2030 native!main", 1000),
    ];
    assert_eq!(told(cpu, d), want.map(|(k, v)| (k.to_owned(), v)).into());
    assert_eq!(
        told(off, d),
        [(
            "off_cpu worker futex kernel!schedule ![cut: no_row]".to_owned(),
            3000
        )]
        .into()
    );
    assert_eq!((cpu.period, off.period), (1000, 1000));
    let unit = |p: &Profile| d.string_table[p.sample_type.unwrap().unit_strindex as usize].clone();
    assert_eq!(
        (unit(cpu), unit(off)),
        ("nanoseconds".into(), "nanoseconds".into())
    );
    // Mappings say enough for symbolizing elsewhere: where in which file.
    let nginx = d
        .mapping_table
        .iter()
        .find(|m| d.string_table[m.filename_strindex as usize] == "/usr/sbin/nginx")
        .unwrap();
    assert_eq!(
        (
            nginx.memory_start,
            nginx.file_offset,
            nginx.attribute_indices.len()
        ),
        (0x2000, 0x1000, 2)
    );
}

#[test]
fn what_is_too_large_for_one_request_goes_in_several_and_nothing_is_lost() {
    let store = store();
    let (_, whole) = encoded(&store, usize::MAX);
    let (parts, requests) = encoded(&store, 2000);
    assert!(parts.len() > 3, "{}", parts.len());
    let sum = |requests: &[ExportProfilesServiceRequest]| -> BTreeMap<String, i64> {
        let mut sums = BTreeMap::new();
        for request in requests {
            let d = sound(request);
            for resource in &request.resource_profiles {
                let pid = format!("{:?}", resource.resource.as_ref().unwrap().attributes.last());
                for profile in resource.scope_profiles.iter().flat_map(|s| &s.profiles) {
                    for (line, value) in told(profile, d) {
                        *sums.entry(format!("{pid} {line}")).or_default() += value;
                    }
                }
            }
        }
        sums
    };
    assert_eq!(sum(&requests), sum(&whole));
    assert!(parts.iter().all(|p| p.body.len() < 4000 && p.points > 0));
    assert!(
        encoded(&Store::new(1 << 20), 2000).0.is_empty(),
        "nothing is nothing to send"
    );
}

#[test]
fn inlined_functions_are_lines_of_one_location() {
    let mut store = store();
    let inlined = ["inner", "middle", "leaf"].join(&crate::stacks::names::INLINED.to_string());
    store.name(Place::Binary(7, 0x2020), &inlined);
    let (_, requests) = encoded(&store, 1 << 20);
    let d = sound(&requests[0]);
    let name = |f: i32| d.string_table[d.function_table[f as usize].name_strindex as usize].as_str();
    let lines = |l: &Location| {
        l.lines
            .iter()
            .map(|l| name(l.function_index).to_owned())
            .collect::<Vec<_>>()
    };
    let nested = d.location_table.iter().map(lines).find(|lines| lines.len() > 1);
    assert_eq!(nested.unwrap(), ["inner", "middle", "leaf"]);
}
