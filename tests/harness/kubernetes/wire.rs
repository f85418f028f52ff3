//! Services, EndpointSlices and pods as protobuf, as an API server writes them: `generated.proto` of `discovery/v1`, `core/v1`, `meta/v1` and
//! `runtime`.

use serde_json::Value;

/// Type of such answers, and what who wants them accepts.
pub(super) const TYPE: &str = "application/vnd.kubernetes.protobuf";

fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A field of bytes, of a string, or of a message.
fn field(number: usize, bytes: &[u8]) -> Vec<u8> {
    [&varint(number << 3 | 2), &varint(bytes.len()), bytes].concat()
}

/// Strings of an object that it has, each with the number of its field.
fn strings(object: &Value, fields: &[(usize, &str)]) -> Vec<u8> {
    let all = fields
        .iter()
        .filter_map(|(number, name)| Some(field(*number, object[*name].as_str()?.as_bytes())));
    all.collect::<Vec<_>>().concat()
}

fn enveloped(kind: &str, raw: &[u8]) -> Vec<u8> {
    let group: &[u8] = if kind.starts_with("EndpointSlice") {
        b"discovery.k8s.io/v1"
    } else {
        b"v1"
    };
    let types = [field(1, group), field(2, kind.as_bytes())].concat();
    [
        b"k8s\0",
        field(1, &types).as_slice(),
        &field(2, raw),
        &field(3, b""),
        &field(4, b""),
    ]
    .concat()
}

fn slice(object: &Value) -> Vec<u8> {
    let metadata = &object["metadata"];
    let mut meta = strings(
        metadata,
        &[
            (1, "name"),
            (2, "generateName"),
            (3, "namespace"),
            (5, "uid"),
            (6, "resourceVersion"),
        ],
    );
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        meta.extend(field(
            11,
            &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat(),
        ));
    }
    let mut out = field(1, &meta);
    for endpoint in object["endpoints"].as_array().into_iter().flatten() {
        let addresses = endpoint["addresses"].as_array().into_iter().flatten();
        let addresses = addresses.map(|address| field(1, address.as_str().unwrap_or_default().as_bytes()));
        let mut one = addresses.collect::<Vec<_>>().concat();
        // Ready: a message of numbers, which is passed over.
        one.extend(field(2, &[1 << 3, 1]));
        let behind = strings(
            &endpoint["targetRef"],
            &[(1, "kind"), (2, "namespace"), (3, "name"), (4, "uid")],
        );
        one.extend(field(4, &behind));
        one.extend(strings(endpoint, &[(6, "nodeName"), (7, "zone")]));
        out.extend(field(2, &one));
    }
    [out, strings(object, &[(4, "addressType")])].concat()
}

/// A number that is none of those that are read: a field that is there for its length.
const UNREAD: usize = 100;
const META: [(&str, usize); 9] = [
    ("name", 1),
    ("generateName", 2),
    ("namespace", 3),
    ("uid", 5),
    ("resourceVersion", 6),
    ("creationTimestamp", 8),
    ("deletionTimestamp", 9),
    ("ownerReferences", 13),
    ("managedFields", 17),
];
const OWNER: [(&str, usize); 5] = [
    ("kind", 1),
    ("name", 3),
    ("uid", 4),
    ("apiVersion", 5),
    ("controller", 6),
];

/// A message with the numbers of those of its fields that are read. All else has its length.
fn message(object: &Value, numbers: &[(&str, usize)]) -> Vec<u8> {
    let fields = object.as_object().into_iter().flatten();
    let fields = fields.flat_map(|(key, value)| {
        let number = numbers
            .iter()
            .find(|(name, _)| name == key)
            .map_or(UNREAD, |(_, number)| *number);
        match (key.as_str(), value) {
            ("labels" | "annotations", Value::Object(all)) => {
                let number = if key == "labels" { 11 } else { 12 };
                let pair = |(key, value): (&String, &Value)| {
                    let value = value.as_str().unwrap_or_default().as_bytes();
                    field(number, &[field(1, key.as_bytes()), field(2, value)].concat())
                };
                all.iter().flat_map(pair).collect()
            }
            ("creationTimestamp" | "deletionTimestamp", Value::String(text)) => {
                let at = humantime::parse_rfc3339(text).ok();
                let since = at.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
                let seconds = since.unwrap_or_default().as_secs() as usize;
                field(number, &[varint(1 << 3), varint(seconds)].concat())
            }
            ("fieldsV1", value) => field(number, &field(1, value.to_string().as_bytes())),
            (_, value) => any(
                number,
                value,
                match key.as_str() {
                    "ownerReferences" => &OWNER,
                    "podIPs" | "ingress" => &[("ip", 1)],
                    "loadBalancer" => &[("ingress", 1)],
                    _ => &[],
                },
            ),
        }
    });
    fields.collect()
}

fn any(number: usize, value: &Value, numbers: &[(&str, usize)]) -> Vec<u8> {
    let integer = |value: u64| [varint(number << 3), varint(value as usize)].concat();
    match value {
        Value::Null => Vec::new(),
        Value::Bool(value) => integer(u64::from(*value)),
        Value::Number(value) => integer(value.as_u64().unwrap_or_default()),
        Value::String(text) => field(number, text.as_bytes()),
        Value::Array(all) => all.iter().flat_map(|one| any(number, one, numbers)).collect(),
        Value::Object(_) => field(number, &message(value, numbers)),
    }
}

fn pod(object: &Value) -> Vec<u8> {
    [
        field(1, &message(&object["metadata"], &META)),
        field(
            2,
            &message(&object["spec"], &[("nodeName", 10), ("hostNetwork", 11)]),
        ),
        field(3, &message(&object["status"], &[("phase", 1), ("podIPs", 12)])),
    ]
    .concat()
}

fn service(object: &Value) -> Vec<u8> {
    [
        field(1, &message(&object["metadata"], &META)),
        field(
            2,
            &message(&object["spec"], &[("externalIPs", 5), ("clusterIPs", 18)]),
        ),
        field(3, &message(&object["status"], &[("loadBalancer", 1)])),
    ]
    .concat()
}

/// Kind and encoded form of objects of this plural.
fn kind(plural: &str) -> (&'static str, fn(&Value) -> Vec<u8>) {
    match plural {
        "pods" => ("Pod", pod),
        "services" => ("Service", service),
        _ => ("EndpointSlice", slice),
    }
}

/// A list of them.
pub(super) fn list(plural: &str, list: &Value) -> Vec<u8> {
    let (kind, encoded) = kind(plural);
    let meta = strings(&list["metadata"], &[(2, "resourceVersion"), (3, "continue")]);
    let items = list["items"].as_array().into_iter().flatten();
    let items = items.map(|item| field(2, &encoded(item))).collect::<Vec<_>>();
    enveloped(
        &format!("{kind}List"),
        &[field(1, &meta), items.concat()].concat(),
    )
}

/// An event after its length: of an object, or that something is wrong.
pub(super) fn event(plural: &str, what: &str, object: &Value) -> Vec<u8> {
    let enveloped = match object["kind"].as_str() {
        Some("Status") => {
            let code = varint(object["code"].as_u64().unwrap_or_default() as usize);
            let text = strings(object, &[(2, "status"), (3, "message"), (4, "reason")]);
            enveloped("Status", &[text, varint(6 << 3), code].concat())
        }
        _ => {
            let (kind, encoded) = kind(plural);
            enveloped(kind, &encoded(object))
        }
    };
    let event = [field(1, what.as_bytes()), field(2, &field(1, &enveloped))].concat();
    [&(event.len() as u32).to_be_bytes(), event.as_slice()].concat()
}
