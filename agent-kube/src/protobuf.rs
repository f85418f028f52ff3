//! Answers as protobuf, of which a server encodes and sends a third of what JSON is: turned into the JSON that kube reads, each object of a
//! list as soon as it has come, so that what is held of a list is what is read of it.
//!
//! After `generated.proto` of `meta/v1` and `runtime` of Kubernetes 1.33.

use crate::limit::{LONGEST_EVENT, LONGEST_LIST, TooLong};
use crate::messages::{self, Turn};
use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message;
use serde::Serialize;
use std::fmt;
use tower::BoxError;

/// What is asked for; a server that has no protobuf answers with JSON.
pub(crate) const ACCEPT: &str = "application/vnd.kubernetes.protobuf, application/json";
/// How the type of such an answer begins.
pub(crate) const TYPE: &str = "application/vnd.kubernetes.protobuf";
/// Before each object.
const MAGIC: &[u8] = b"k8s\0";
/// Longest list in JSON: of what is read of 50,000 pods it is half of that.
const LONGEST_TURNED: usize = 4 * LONGEST_LIST;

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

#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[prost(string, optional, tag = "2")]
    resource_version: Option<String>,
    #[prost(string, optional, tag = "3")]
    #[serde(rename = "continue")]
    next: Option<String>,
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

/// What nobody can read.
#[derive(Debug)]
pub(crate) struct Strange(String);

impl fmt::Display for Strange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "protobuf {}", self.0)
    }
}

impl std::error::Error for Strange {}

fn strange<T>(why: impl Into<String>) -> Result<T, BoxError> {
    Err(Strange(why.into()).into())
}

/// An object in its envelope, as JSON.
fn json(mut message: Bytes) -> Result<Vec<u8>, BoxError> {
    if !message.starts_with(MAGIC) {
        return strange("without an envelope");
    }
    message.advance(MAGIC.len());
    let Envelope { meta, raw } = Envelope::decode(message)?;
    let kind = meta.unwrap_or_default().kind;
    match messages::turn(&kind) {
        Some(turn) => turn(raw),
        None if kind == "Status" => Ok(serde_json::to_vec(&Status::decode(raw)?)?),
        None => strange(format!("of a {kind:?}, which nobody has asked for")),
    }
}

/// A number and how many bytes it takes; `None` = it has not come to its end.
fn number(bytes: &[u8]) -> Result<Option<(u64, usize)>, BoxError> {
    let Some(last) = bytes.iter().take(10).position(|byte| *byte < 0x80) else {
        return match bytes.len() {
            0..10 => Ok(None),
            _ => strange("with a number that has no end"),
        };
    };
    let mut digits = bytes.get(..=last).unwrap_or_default();
    Ok(Some((prost::encoding::decode_varint(&mut digits)?, last + 1)))
}

/// The head of a field that has a length: its number, its length, and how many bytes the head takes; `None` = it has not come yet.
fn field(bytes: &[u8]) -> Result<Option<(u64, usize, usize)>, BoxError> {
    let Some((key, first)) = number(bytes)? else {
        return Ok(None);
    };
    if key & 7 != 2 {
        return strange("with a field of another type");
    }
    let Some((length, second)) = number(bytes.get(first..).unwrap_or_default())? else {
        return Ok(None);
    };
    Ok(Some((key >> 3, usize::try_from(length)?, first + second)))
}

/// One object, a list or a status, as far as it has come.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    held: BytesMut,
    form: Form,
}

#[derive(Debug, Default)]
enum Form {
    /// Too little has come to say.
    #[default]
    Open,
    One,
    List(List),
    /// A list that has ended.
    Done,
}

/// A list of which something is still to come.
#[derive(Debug)]
struct List {
    turn: Turn,
    /// So many bytes.
    left: usize,
    metadata: ListMeta,
    /// Bytes of JSON so far.
    told: usize,
}

impl Whole {
    fn with(&mut self, bytes: &[u8]) -> Result<Bytes, BoxError> {
        self.held.extend_from_slice(bytes);
        let mut out = Vec::new();
        if matches!(self.form, Form::Open) {
            self.form = self.begin()?;
            if matches!(self.form, Form::List(_)) {
                out.extend_from_slice(b"{\"items\":[");
            }
        }
        match &mut self.form {
            Form::List(list) => {
                if list.go_on(&mut self.held, &mut out)? {
                    self.form = Form::Done;
                }
            }
            Form::Done => self.held.clear(),
            Form::Open | Form::One if self.held.len() > LONGEST_LIST => {
                return Err(TooLong(LONGEST_LIST).into());
            }
            Form::Open | Form::One => {}
        }
        Ok(out.into())
    }

    /// What it is. Of a list the held begins with its first field then.
    fn begin(&mut self) -> Result<Form, BoxError> {
        let Some(rest) = self.held.get(MAGIC.len()..) else {
            return Ok(Form::Open);
        };
        if !self.held.starts_with(MAGIC) {
            return Ok(Form::One);
        }
        let (length, head) = match field(rest)? {
            None => return Ok(Form::Open),
            Some((1, length, head)) if length <= LONGEST_EVENT => (length, head),
            Some(_) => return Ok(Form::One),
        };
        let Some(kind) = rest.get(head..head + length) else {
            return Ok(Form::Open);
        };
        let Kind { kind } = Kind::decode(kind)?;
        let Some(turn) = kind.strip_suffix("List").and_then(messages::turn) else {
            return Ok(Form::One);
        };
        let before = MAGIC.len() + head + length;
        let form = match field(self.held.get(before..).unwrap_or_default())? {
            None => Form::Open,
            Some((2, left, head)) => {
                self.held.advance(before + head);
                Form::List(List {
                    turn,
                    left,
                    metadata: ListMeta::default(),
                    told: 0,
                })
            }
            Some(_) => return strange("of a list that is not after its kind"),
        };
        Ok(form)
    }

    fn end(self) -> Result<Bytes, BoxError> {
        match self.form {
            Form::Open | Form::One => Ok(json(self.held.freeze())?.into()),
            Form::Done => Ok(Bytes::new()),
            Form::List(_) => strange("of a list that is cut"),
        }
    }
}

impl List {
    /// Turns what is whole; returns whether that was all.
    fn go_on(&mut self, held: &mut BytesMut, out: &mut Vec<u8>) -> Result<bool, BoxError> {
        while self.left > 0 {
            let Some((number, length, head)) = field(held)? else {
                return Ok(false);
            };
            if length > LONGEST_EVENT {
                return Err(TooLong(LONGEST_EVENT).into());
            }
            let Some(left) = self.left.checked_sub(head + length) else {
                return strange("of a list that is cut");
            };
            if held.len() < head + length {
                return Ok(false);
            }
            held.advance(head);
            let body = held.split_to(length).freeze();
            self.left = left;
            match number {
                1 => self.metadata = ListMeta::decode(body)?,
                2 => {
                    let object = (self.turn)(body)?;
                    // It is less than what came, unless somebody makes objects of nothing.
                    if self.told + object.len() > LONGEST_TURNED {
                        return Err(TooLong(LONGEST_TURNED).into());
                    }
                    if self.told > 0 {
                        out.push(b',');
                    }
                    self.told += object.len();
                    out.extend(object);
                }
                _ => {}
            }
        }
        out.extend_from_slice(b"],\"metadata\":");
        out.extend(serde_json::to_vec(&self.metadata)?);
        out.push(b'}');
        Ok(true)
    }
}

/// An answer as it comes.
#[derive(Debug)]
pub(crate) enum Answer {
    /// One object, a list or a status.
    Whole(Whole),
    /// Events, each after its length in four bytes, of which none may be longer than so many bytes.
    Events(BytesMut, usize),
}

impl Answer {
    /// What is complete with these bytes, in JSON: objects of a list, or a line for each event; nothing = there has to be more.
    pub(crate) fn with(&mut self, bytes: &[u8]) -> Result<Bytes, BoxError> {
        let (held, longest) = match self {
            Self::Whole(whole) => return whole.with(bytes),
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
            Self::Whole(whole) => whole.end(),
            // An event that is cut is sent again.
            Self::Events(..) => Ok(Bytes::new()),
        }
    }
}

#[cfg(test)]
#[path = "protobuf_tests.rs"]
mod tests;
