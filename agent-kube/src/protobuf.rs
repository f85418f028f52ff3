//! EndpointSlices as protobuf, of which a server encodes and sends a third of what JSON is: turned into what kube reads, with the fields
//! that are read of it.
//!
//! After `generated.proto` of `discovery/v1`, `meta/v1`, `core/v1` and `runtime` of Kubernetes 1.33.

use crate::limit::{LONGEST_LIST, TooLong};
use crate::service::MAX_ENDPOINTS;
use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message;
use serde::Serialize;
use std::collections::HashMap;
use tower::BoxError;

/// What is asked for; a server that has no protobuf answers with JSON.
pub(crate) const ACCEPT: &str = "application/vnd.kubernetes.protobuf, application/json";
/// How the type of such an answer begins.
pub(crate) const TYPE: &str = "application/vnd.kubernetes.protobuf";
/// Before each object.
const MAGIC: &[u8] = b"k8s\0";

/// The envelope of an object.
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(message, optional, tag = "1")]
    meta: Option<Kind>,
    #[prost(bytes = "bytes", tag = "2")]
    raw: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Kind {
    #[prost(string, tag = "2")]
    kind: String,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(string, tag = "1")]
    what: String,
    #[prost(message, optional, tag = "2")]
    object: Option<Raw>,
}

#[derive(Clone, PartialEq, Message)]
struct Raw {
    #[prost(bytes = "bytes", tag = "1")]
    raw: Bytes,
}

/// Parts are read one after the other: of two bytes each they would be many times what has come.
#[derive(Clone, PartialEq, Message)]
struct List {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ListMeta>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    slices: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[prost(string, optional, tag = "2")]
    resource_version: Option<String>,
    #[prost(string, optional, tag = "3")]
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Slice {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Meta>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    endpoints: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(string, tag = "5")]
    uid: String,
    #[prost(string, tag = "6")]
    resource_version: String,
    #[prost(map = "string, string", tag = "11")]
    labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    #[prost(string, repeated, tag = "1")]
    addresses: Vec<String>,
    #[prost(message, optional, tag = "4")]
    target_ref: Option<Behind>,
    #[prost(string, optional, tag = "6")]
    node_name: Option<String>,
    #[prost(string, optional, tag = "7")]
    zone: Option<String>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
struct Behind {
    #[prost(string, optional, tag = "1")]
    kind: Option<String>,
    #[prost(string, optional, tag = "2")]
    namespace: Option<String>,
    #[prost(string, optional, tag = "3")]
    name: Option<String>,
    #[prost(string, optional, tag = "4")]
    uid: Option<String>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
struct Status {
    #[prost(string, tag = "2")]
    status: String,
    #[prost(string, tag = "3")]
    message: String,
    #[prost(string, tag = "4")]
    reason: String,
    #[prost(int32, tag = "6")]
    code: i32,
}

/// A slice as kube reads it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    api_version: &'static str,
    kind: &'static str,
    metadata: Meta,
    endpoints: Vec<Endpoint>,
}

fn slice(raw: Bytes) -> Result<Vec<u8>, BoxError> {
    let Slice { metadata, endpoints } = Slice::decode(raw)?;
    let endpoints = endpoints.into_iter().take(MAX_ENDPOINTS);
    Ok(serde_json::to_vec(&Shown {
        api_version: "discovery.k8s.io/v1",
        kind: "EndpointSlice",
        metadata: metadata.unwrap_or_default(),
        endpoints: endpoints.map(Endpoint::decode).collect::<Result<_, _>>()?,
    })?)
}

fn list(raw: Bytes) -> Result<Vec<u8>, BoxError> {
    let List { metadata, slices } = List::decode(raw)?;
    let mut out = b"{\"metadata\":".to_vec();
    out.extend(serde_json::to_vec(&metadata.unwrap_or_default())?);
    out.extend_from_slice(b",\"items\":[");
    for (i, raw) in slices.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend(slice(raw)?);
        // It is a few times what came, unless somebody makes slices of nothing.
        if out.len() > 4 * LONGEST_LIST {
            return Err(TooLong(4 * LONGEST_LIST).into());
        }
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

/// An object in its envelope, as JSON.
fn json(mut message: Bytes) -> Result<Vec<u8>, BoxError> {
    if !message.starts_with(MAGIC) {
        return Err("protobuf without an envelope".into());
    }
    message.advance(MAGIC.len());
    let Envelope { meta, raw } = Envelope::decode(message)?;
    let kind = meta.unwrap_or_default().kind;
    match kind.as_str() {
        "EndpointSliceList" => list(raw),
        "EndpointSlice" => slice(raw),
        "Status" => Ok(serde_json::to_vec(&Status::decode(raw)?)?),
        _ => Err(format!("protobuf of a {kind:?}, not of an EndpointSlice").into()),
    }
}

/// An answer as it comes. What a list has so far is bounded by who reads it.
#[derive(Debug)]
pub(crate) enum Answer {
    /// One object, a list or a status.
    Whole(BytesMut),
    /// Events, each after its length in four bytes, of which none may be longer than so many bytes.
    Events(BytesMut, usize),
}

impl Answer {
    /// What is complete with these bytes, in JSON: a line for each event; nothing = there has to be more.
    pub(crate) fn with(&mut self, bytes: &[u8]) -> Result<Bytes, BoxError> {
        let (held, longest) = match self {
            Self::Whole(held) => {
                held.extend_from_slice(bytes);
                return Ok(Bytes::new());
            }
            Self::Events(held, longest) => (held, *longest),
        };
        held.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(length) = held.first_chunk() {
            let length = u32::from_be_bytes(*length) as usize;
            if length > longest {
                return Err(TooLong(longest).into());
            }
            if held.len() < 4 + length {
                break;
            }
            held.advance(4);
            let event = Event::decode(held.split_to(length).freeze())?;
            lines.extend_from_slice(b"{\"type\":");
            lines.extend(serde_json::to_vec(&event.what)?);
            lines.extend_from_slice(b",\"object\":");
            lines.extend(json(event.object.unwrap_or_default().raw)?);
            lines.extend_from_slice(b"}\n");
        }
        Ok(lines.into())
    }

    /// It has ended: what is left.
    pub(crate) fn end(self) -> Result<Bytes, BoxError> {
        match self {
            Self::Whole(held) => Ok(json(held.freeze())?.into()),
            // An event that is cut is sent again.
            Self::Events(..) => Ok(Bytes::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrived::Arrived;
    use crate::service::{self, Named as _};

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        assert!(bytes.len() < 128);
        [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
    }

    fn envelope(kind: &str, raw: &[u8]) -> Vec<u8> {
        let mut raw = Envelope {
            meta: Some(Kind { kind: kind.into() }),
            raw: raw.to_vec().into(),
        }
        .encode_to_vec();
        raw.splice(0..0, MAGIC.iter().copied());
        raw
    }

    /// As a server writes it, with fields that nobody reads.
    fn slice() -> Vec<u8> {
        let label = [field(1, b"kubernetes.io/service-name"), field(2, b"db")].concat();
        let meta = [
            field(1, b"db-x"),
            field(3, b"shop"),
            field(5, b"u"),
            field(6, b"7"),
            field(11, &label),
        ]
        .concat();
        let behind = [
            field(1, b"Pod"),
            field(2, b"shop"),
            field(3, b"db-0"),
            field(4, b"p"),
        ]
        .concat();
        let endpoint = [
            field(1, b"10.244.1.7"),
            field(2, &[8, 1]),
            field(4, &behind),
            field(6, b"node-1"),
            field(7, b"eu-1a"),
        ];
        // Longer than what one byte says.
        let meta = Meta::decode(meta.as_slice()).unwrap();
        Slice {
            metadata: Some(meta),
            endpoints: vec![endpoint.concat().into()],
        }
        .encode_to_vec()
    }

    fn read(json: &[u8]) -> String {
        let arrived: Arrived<service::Slice> = serde_json::from_slice(json).unwrap();
        let (uid, claims) = arrived.what.unwrap().claims();
        let claim = &claims[0];
        format!(
            "{uid} {} {} {} {} {} {}",
            claims.len(),
            claim.address,
            claim.service,
            claim.zone,
            claim.node,
            claim.pod_name
        )
    }

    /// Cause: a list, a status, and events that come in pieces. Seen: what JSON would have said; each event as soon as it is whole.
    #[test]
    fn what_comes_is_what_json_says() {
        let expected = "u 1 10.244.1.7 shop/db eu-1a node-1 shop/db-0";
        let list = List {
            metadata: Some(ListMeta {
                resource_version: Some("9".into()),
                next: None,
            }),
            slices: vec![slice().into(), slice().into()],
        };
        let list = json(envelope("EndpointSliceList", &list.encode_to_vec()).into()).unwrap();
        let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
        assert_eq!(list["metadata"]["resourceVersion"], "9");
        let items = list["items"].as_array().unwrap();
        assert!(
            items.len() == 2
                && items
                    .iter()
                    .all(|item| read(item.to_string().as_bytes()) == expected)
        );
        let event = Event {
            what: "ADDED".into(),
            object: Some(Raw {
                raw: envelope("EndpointSlice", &slice()).into(),
            }),
        };
        let event = event.encode_to_vec();
        let framed = [&(event.len() as u32).to_be_bytes(), event.as_slice()].concat();
        let mut answer = Answer::Events(BytesMut::new(), 1000);
        let told: Vec<Bytes> = [&framed[..3], &framed[3..50], &framed[50..], &framed.repeat(2)]
            .iter()
            .map(|piece| answer.with(piece).unwrap())
            .collect();
        let lines: Vec<usize> = told
            .iter()
            .map(|text| text.iter().filter(|b| **b == b'\n').count())
            .collect();
        assert_eq!(lines, [0, 0, 1, 2]);
        let line: serde_json::Value = serde_json::from_slice(&told[2]).unwrap();
        assert_eq!(line["type"], "ADDED");
        assert_eq!(read(line["object"].to_string().as_bytes()), expected);
        let status = Status {
            status: "Failure".into(),
            message: "gone".into(),
            reason: "Expired".into(),
            code: 410,
        };
        let mut whole = Answer::Whole(BytesMut::new());
        assert!(
            whole
                .with(&envelope("Status", &status.encode_to_vec()))
                .unwrap()
                .is_empty()
        );
        let status: serde_json::Value = serde_json::from_slice(&whole.end().unwrap()).unwrap();
        assert_eq!(
            (&status["code"], &status["status"]),
            (&410.into(), &"Failure".into())
        );
    }

    /// Cause: what is no envelope, another kind, a message that is cut, and an event that is longer than may be. Seen: an error, before the
    /// long one has come.
    #[test]
    fn what_is_wrong_is_an_error() {
        for wrong in [
            b"{}".to_vec(),
            envelope("Pod", b""),
            envelope("EndpointSlice", &slice()[..40]),
            MAGIC.to_vec(),
        ] {
            let mut answer = Answer::Whole(BytesMut::new());
            answer.with(&wrong).unwrap();
            assert!(answer.end().is_err(), "{wrong:?}");
        }
        let mut answer = Answer::Events(BytesMut::new(), 1000);
        let error = answer.with(&1001u32.to_be_bytes()).unwrap_err();
        assert!(error.is::<TooLong>(), "{error}");
    }
}
