//! EndpointSlices as protobuf, as an API server writes them: `generated.proto` of `discovery/v1`, `meta/v1` and `runtime`.

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
    let types = [field(1, b"discovery.k8s.io/v1"), field(2, kind.as_bytes())].concat();
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

/// A list of slices.
pub(super) fn list(list: &Value) -> Vec<u8> {
    let meta = strings(&list["metadata"], &[(2, "resourceVersion"), (3, "continue")]);
    let items = list["items"].as_array().into_iter().flatten();
    let items = items.map(|item| field(2, &slice(item))).collect::<Vec<_>>();
    enveloped("EndpointSliceList", &[field(1, &meta), items.concat()].concat())
}

/// An event after its length: of a slice, or that something is wrong.
pub(super) fn event(what: &str, object: &Value) -> Vec<u8> {
    let enveloped = match object["kind"].as_str() {
        Some("Status") => {
            let code = varint(object["code"].as_u64().unwrap_or_default() as usize);
            let text = strings(object, &[(2, "status"), (3, "message"), (4, "reason")]);
            enveloped("Status", &[text, varint(6 << 3), code].concat())
        }
        _ => enveloped("EndpointSlice", &slice(object)),
    };
    let event = [field(1, what.as_bytes()), field(2, &field(1, &enveloped))].concat();
    [&(event.len() as u32).to_be_bytes(), event.as_slice()].concat()
}
