//! Stacks as `ExportProfilesServiceRequest`.
//!
//! Source: <https://github.com/open-telemetry/opentelemetry-proto/tree/v1.10.0/opentelemetry/proto/profiles/v1development>
//! and <https://opentelemetry.io/docs/specs/otel/profiles/>. A process is a resource, with a profile for each kind of sample.

use super::dictionary::Dictionary;
use crate::aggregate::Resource as Machine;
use crate::export::otlp::encode::attributes;
use crate::export::otlp::message::{pair, scope, text};
use crate::export::push::Part;
use crate::stacks::frames::waker;
use crate::stacks::store::{Query, Row, Store, Who, Window};
use agent_common::profile::sample;
use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::profiles::v1development::{
    Profile, ResourceProfiles, Sample, ScopeProfiles, ValueType,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

/// Collectors refuse more than 4 MiB by default.
const LIMIT: usize = 3 << 20;

/// The stacks of a window in as many requests as they need.
pub fn encode(store: &Store, kinds: &[u8], window: Window, machine: &Machine, kernel: &str) -> Vec<Part> {
    encode_limited(store, kinds, window, machine, kernel, LIMIT)
}

pub(super) fn encode_limited(
    store: &Store,
    kinds: &[u8],
    window: Window,
    machine: &Machine,
    kernel: &str,
    limit: usize,
) -> Vec<Part> {
    let mut rows: Vec<Row> = kinds
        .iter()
        .flat_map(|kind| {
            store.query(&Query {
                from: window.from,
                to: window.to,
                sample: *kind,
                ..Query::default()
            })
        })
        .collect();
    // The sort is stable: the busiest stacks of each stay first.
    rows.sort_by(|a, b| {
        process(&a.who)
            .cmp(&process(&b.who))
            .then(a.who.sample.cmp(&b.who.sample))
    });
    let context = Context {
        store,
        window,
        machine,
        kernel,
    };
    let mut parts = Vec::new();
    context.split(&rows, limit, &mut parts);
    parts
}

/// What a resource is: all of it but the machine.
fn process(who: &Who) -> (&str, &str, &str, u32) {
    (&who.subject, &who.container, &who.process, who.pid)
}

struct Context<'a> {
    store: &'a Store,
    window: Window,
    machine: &'a Machine,
    kernel: &'a str,
}

impl Context<'_> {
    fn split(&self, rows: &[Row], limit: usize, parts: &mut Vec<Part>) {
        if rows.is_empty() {
            return;
        }
        let (request, profiles) = self.request(rows);
        if rows.len() > 1 && request.encoded_len() > limit {
            let (first, second) = rows.split_at(rows.len() / 2);
            self.split(first, limit, parts);
            self.split(second, limit, parts);
            return;
        }
        parts.push(Part {
            body: request.encode_to_vec().into(),
            points: profiles,
        });
    }

    fn request(&self, rows: &[Row]) -> (ExportProfilesServiceRequest, u64) {
        let mut dictionary = Dictionary::new(self.store, self.kernel);
        let mut count = 0;
        let resource_profiles = rows
            .chunk_by(|a, b| process(&a.who) == process(&b.who))
            .map(|rows| {
                let profiles: Vec<Profile> = rows
                    .chunk_by(|a, b| a.who.sample == b.who.sample)
                    .map(|rows| self.profile(rows, &mut dictionary))
                    .collect();
                count += profiles.len() as u64;
                ResourceProfiles {
                    resource: rows.first().map(|row| self.resource(&row.who)),
                    scope_profiles: vec![ScopeProfiles {
                        scope: Some(scope()),
                        profiles,
                        schema_url: String::new(),
                    }],
                    schema_url: String::new(),
                }
            })
            .collect();
        let request = ExportProfilesServiceRequest {
            resource_profiles,
            dictionary: Some(dictionary.finish()),
        };
        (request, count)
    }

    fn resource(&self, who: &Who) -> Resource {
        // Not the agent's own name and version: it is the process that the time was spent in.
        let mut all: Vec<KeyValue> = attributes(self.machine)
            .into_iter()
            .filter(|(key, _)| !matches!(*key, "service.name" | "service.version"))
            .map(|(key, value)| pair(key, text(value)))
            .collect();
        for (key, value) in [
            ("service.name", &who.subject),
            ("geophone.subject", &who.subject),
            ("container.id", &who.container),
            ("process.executable.name", &who.process),
        ] {
            if !value.is_empty() {
                all.push(pair(key, text(&**value)));
            }
        }
        if who.pid != 0 {
            all.push(pair("process.pid", Value::IntValue(who.pid.into())));
        }
        Resource {
            attributes: all,
            ..Resource::default()
        }
    }

    /// Of rows of one process and one kind.
    fn profile(&self, rows: &[Row], dictionary: &mut Dictionary<'_>) -> Profile {
        let kind = rows.first().map_or(0, |row| usize::from(row.who.sample));
        let mut of = |names: &[&str]| dictionary.string(names.get(kind).copied().unwrap_or_default());
        let sample_type = ValueType {
            type_strindex: of(&sample::NAMES),
            unit_strindex: of(&sample::UNITS),
        };
        let (mut count, mut value) = (0, 0);
        let samples = rows
            .iter()
            .map(|row| {
                count += row.count.samples;
                value += row.count.value;
                let (waker, frames) = waker(self.store, row).unwrap_or_default();
                Sample {
                    stack_index: dictionary.stack(&row.frames),
                    attribute_indices: dictionary.attributes(&[
                        ("thread.name", &row.who.thread),
                        ("geophone.label", &row.who.label),
                        ("geophone.waker", &waker),
                        ("geophone.waker_stack", &frames.join(";")),
                    ]),
                    link_index: 0,
                    values: vec![row.count.value as i64],
                    timestamps_unix_nano: Vec::new(),
                }
            })
            .collect();
        Profile {
            sample_type: Some(sample_type),
            samples,
            time_unix_nano: self.window.from,
            duration_nano: self.window.to - self.window.from,
            period_type: Some(sample_type),
            period: (value / count.max(1)) as i64,
            profile_id: rand::random::<[u8; 16]>().to_vec(),
            ..Profile::default()
        }
    }
}
