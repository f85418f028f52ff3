//! Bounds on what a server may send: kube reads an answer to its end and a line to its newline, wherever that is.

use crate::protobuf::{self, Answer, Whole};
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use kube_client::client::{Body, DynBody};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tower::{BoxError, Layer, Service};

/// Longest answer to a list that is held; of 100 pods it is 1 MiB or 2.
pub const LONGEST_LIST: usize = 8 << 20;
/// Longest one that is read as it comes: 100,000 pods of 5 KiB, which is more than there are addresses for.
const LONGEST_PASSED: usize = 512 << 20;
/// Longest event of a watch: etcd stores no object beyond 1.5 MiB.
pub(crate) const LONGEST_EVENT: usize = 2 << 20;

/// What is asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// The complete list, or a page of it.
    List,
    /// What changes from then on.
    Watch,
    /// One object.
    Get,
}

impl Asked {
    /// As roles call it.
    pub fn verb(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Watch => "watch",
            Self::Get => "get",
        }
    }
}

/// Kinds of objects that are asked for, as roles call them.
pub const KINDS: [&str; 5] = ["pods", "nodes", SERVICES, SLICES, ALL_PODS];
const SERVICES: &str = "services";
const SLICES: &str = "endpointslices";
/// Pods of all nodes.
pub const ALL_PODS: &str = "all_pods";
/// Those that large clusters have much of: they are asked for as protobuf.
const MANY: [&str; 3] = [SERVICES, SLICES, ALL_PODS];

/// Whether we may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// It has been answered.
    Granted,
    /// The server has refused it: 401 or 403.
    Denied,
}

/// When the server last said something of each kind, and what it lets us ask.
#[derive(Debug)]
pub struct Contact {
    start: Instant,
    kinds: [Kind; KINDS.len()],
    /// Its protobuf is none that we can read: from then on it is asked for JSON.
    is_strange: AtomicBool,
}

#[derive(Debug, Default)]
struct Kind {
    /// Milliseconds after `start`, plus one; 0 = never.
    last: AtomicU64,
    /// By [`Asked`]: 0 = not known, else a [`Right`] plus one.
    rights: [AtomicU8; 3],
}

impl Default for Contact {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            kinds: Default::default(),
            is_strange: AtomicBool::new(false),
        }
    }
}

impl Contact {
    /// It says something of a kind.
    fn note(&self, kind: usize) {
        let since = self.start.elapsed().as_millis() as u64 + 1;
        if let Some(kind) = self.kinds.get(kind) {
            kind.last.store(since, Ordering::Relaxed);
        }
    }

    /// How long ago that was, by kind; without those of which it never has.
    pub fn ages(&self) -> impl Iterator<Item = (&'static str, Duration)> {
        let elapsed = self.start.elapsed();
        let last = self.kinds.iter().map(|kind| kind.last.load(Ordering::Relaxed));
        KINDS.into_iter().zip(last).filter_map(move |(name, last)| {
            let last = Duration::from_millis(last.checked_sub(1)?);
            Some((name, elapsed.saturating_sub(last)))
        })
    }

    /// It has let us ask, or has refused it; other answers say nothing of that.
    fn judge(&self, kind: usize, asked: Asked, status: StatusCode) {
        let right = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Right::Denied,
            // Of a node that is not there we may ask.
            StatusCode::NOT_FOUND => Right::Granted,
            status if status.is_success() || status == StatusCode::GONE => Right::Granted,
            _ => return,
        };
        if let Some(known) = self
            .kinds
            .get(kind)
            .and_then(|kind| kind.rights.get(asked as usize))
        {
            known.store(right as u8 + 1, Ordering::Relaxed);
        }
    }

    /// What is known of a right; `None` = nothing yet.
    pub fn right(&self, kind: &str, asked: Asked) -> Option<Right> {
        let at = KINDS.iter().position(|name| *name == kind)?;
        match self
            .kinds
            .get(at)?
            .rights
            .get(asked as usize)?
            .load(Ordering::Relaxed)
        {
            0 => None,
            known if known == Right::Granted as u8 + 1 => Some(Right::Granted),
            _ => Some(Right::Denied),
        }
    }
}

/// What a request asks for: the place of the kind in [`KINDS`], and how.
fn asked(uri: &Uri) -> Option<(usize, Asked)> {
    let mut parts = uri.path().rsplit('/').filter(|part| !part.is_empty());
    let (last, before) = (parts.next()?, parts.next().unwrap_or_default());
    let place = |name: &str| KINDS.iter().position(|kind| *kind == name);
    if let Some(kind) = place(before) {
        return Some((kind, Asked::Get));
    }
    let query = uri.query().unwrap_or_default();
    let is_watch = query.split('&').any(|part| part == "watch=true");
    let kind = match last {
        "pods" if !query.contains("spec.nodeName") => ALL_PODS,
        last => last,
    };
    Some((place(kind)?, if is_watch { Asked::Watch } else { Asked::List }))
}

/// The server has sent more than it may.
#[derive(Debug)]
pub struct TooLong(pub usize);

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer is longer than {} bytes", self.0)
    }
}

impl std::error::Error for TooLong {}

/// Puts the bounds around a client.
#[derive(Clone, Debug)]
pub struct Bounds(pub Arc<Contact>);

impl<S> Layer<S> for Bounds {
    type Service = Bounded<S>;

    fn layer(&self, inner: S) -> Bounded<S> {
        Bounded {
            inner,
            contact: self.0.clone(),
        }
    }
}

/// A client with bounds.
pub struct Bounded<S> {
    inner: S,
    contact: Arc<Contact>,
}

impl<S> Service<Request<Body>> for Bounded<S>
where
    S: Service<Request<Body>, Response = Response<Box<DynBody>>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<Measured>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let asked = asked(request.uri());
        let is_many = |kind: usize| KINDS.get(kind).is_some_and(|kind| MANY.contains(kind));
        let is_much = asked.is_some_and(|(kind, asked)| is_many(kind) && asked != Asked::Get);
        if is_much && !self.contact.is_strange.load(Ordering::Relaxed) {
            let accept = HeaderValue::from_static(protobuf::ACCEPT);
            request.headers_mut().insert(ACCEPT, accept);
        }
        let contact = self.contact.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let (parts, inner) = answer.await?.into_parts();
            if let Some((kind, asked)) = asked {
                contact.judge(kind, asked, parts.status);
            }
            // A refusal is no news of the pods.
            let is_news = parts.status.is_success();
            let is_watch = asked.is_some_and(|(_, asked)| asked == Asked::Watch);
            let kind = parts.headers.get(CONTENT_TYPE);
            let is_binary = kind.is_some_and(|kind| kind.as_bytes().starts_with(protobuf::TYPE.as_bytes()));
            let (length, answer) = match (is_news && is_watch, is_binary) {
                (true, true) => (None, Some(Answer::Events(BytesMut::new(), LONGEST_EVENT))),
                (true, false) => (Some(Length::Event(0)), None),
                (false, true) => (Some(Length::Passed(0)), Some(Answer::Whole(Whole::default()))),
                (false, false) => (Some(Length::Whole(0)), None),
            };
            let contact = asked.filter(|_| is_news).map(|(kind, _)| (contact, kind));
            Ok(Response::from_parts(
                parts,
                Measured {
                    inner,
                    length,
                    answer,
                    contact,
                },
            ))
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum Length {
    Whole(usize),
    /// Of which what is held has its own bound.
    Passed(usize),
    /// Since the last newline.
    Event(usize),
}

impl Length {
    /// What it is with these bytes.
    fn with(self, bytes: &[u8]) -> Result<Self, TooLong> {
        let (length, longest) = match self {
            Self::Whole(so_far) => (Self::Whole(so_far + bytes.len()), LONGEST_LIST),
            Self::Passed(so_far) => (Self::Passed(so_far + bytes.len()), LONGEST_PASSED),
            Self::Event(so_far) => {
                // Lines inside of the piece are as short as the piece.
                let first = bytes.iter().position(|b| *b == b'\n');
                if so_far + first.unwrap_or(bytes.len()) > LONGEST_EVENT {
                    return Err(TooLong(LONGEST_EVENT));
                }
                let rest = bytes.iter().rev().position(|b| *b == b'\n');
                (Self::Event(rest.unwrap_or(so_far + bytes.len())), LONGEST_EVENT)
            }
        };
        let (Self::Whole(bytes) | Self::Passed(bytes) | Self::Event(bytes)) = length;
        if bytes > longest {
            Err(TooLong(longest))
        } else {
            Ok(length)
        }
    }
}

/// A body that ends with an error when it is too long.
pub struct Measured {
    inner: Box<DynBody>,
    /// `None` = events have their lengths.
    length: Option<Length>,
    /// What is no JSON yet.
    answer: Option<Answer>,
    /// Who is told that something comes, and of which kind.
    contact: Option<(Arc<Contact>, usize)>,
}

impl Measured {
    /// What cannot be read is asked for in another form when it is listed again.
    fn is_strange(&self, error: BoxError) -> BoxError {
        if let Some((contact, _)) = self.contact.as_ref().filter(|_| !error.is::<TooLong>()) {
            contact.is_strange.store(true, Ordering::Relaxed);
        }
        error
    }
}

impl HttpBody for Measured {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            let Some(frame) = ready!(Pin::new(&mut *this.inner).poll_frame(context)) else {
                let rest = this.answer.take().map_or(Ok(Bytes::new()), Answer::end);
                let rest = match rest {
                    // A refusal says all by its status.
                    Err(_) if this.contact.is_none() => Bytes::new(),
                    rest => rest.map_err(|e| this.is_strange(e))?,
                };
                return Poll::Ready((!rest.is_empty()).then(|| Ok(Frame::data(rest))));
            };
            let frame = frame?;
            let Some(bytes) = frame.data_ref() else {
                return Poll::Ready(Some(Ok(frame)));
            };
            this.length = this.length.map(|length| length.with(bytes)).transpose()?;
            if let Some((contact, kind)) = &this.contact {
                contact.note(*kind);
            }
            let Some(answer) = &mut this.answer else {
                return Poll::Ready(Some(Ok(frame)));
            };
            let complete = answer.with(bytes).map_err(|e| this.is_strange(e))?;
            if !complete.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(complete))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.answer {
            Some(_) => SizeHint::default(),
            None => self.inner.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut length: Length, pieces: &[&[u8]]) -> Result<(), TooLong> {
        for piece in pieces {
            length = length.with(piece)?;
        }
        Ok(())
    }

    #[test]
    fn a_list_is_bounded_as_a_whole_and_a_watch_by_its_lines() {
        let half = vec![b'x'; LONGEST_LIST / 2];
        assert!(all(Length::Whole(0), &[&half, &half]).is_ok());
        assert!(all(Length::Whole(0), &[&half, b"\n", &half]).is_err());
        let event = vec![b'x'; LONGEST_EVENT - 1];
        let line = [event.as_slice(), b"\n"].concat();
        assert!(all(Length::Event(0), &[line.as_slice(); 20]).is_ok());
        assert!(all(Length::Event(0), &[&event, b"\n", &event, b"x"]).is_ok());
        assert!(all(Length::Event(0), &[&event, b"xx"]).is_err());
        assert!(all(Length::Event(0), &[&line, b"a\n", &event, b"xx\n"]).is_err());
        // The newline comes, but too late.
        assert!(all(Length::Event(0), &[&event, b"xx\n"]).is_err());
    }

    /// A body of one piece.
    struct Once(Option<Bytes>);

    impl HttpBody for Once {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    /// Cause: protobuf that is none. Seen: an error, after which the server is asked for JSON.
    #[test]
    fn protobuf_that_cannot_be_read_is_not_asked_for_again() {
        let contact = Arc::new(Contact::default());
        let mut answer = Measured {
            inner: Box::new(Once(Some(Bytes::from_static(b"k8s\0\xff\xff")))),
            length: Some(Length::Whole(0)),
            answer: Some(Answer::Whole(Whole::default())),
            contact: Some((contact.clone(), 3)),
        };
        let mut context = Context::from_waker(std::task::Waker::noop());
        let read = Pin::new(&mut answer).poll_frame(&mut context);
        assert!(matches!(read, Poll::Ready(Some(Err(_)))));
        assert!(contact.is_strange.load(Ordering::Relaxed));
    }

    #[test]
    fn each_kind_has_its_age_and_its_rights() {
        let contact = Contact::default();
        assert_eq!(contact.ages().count(), 0);
        let asks = |uri: &str| asked(&uri.parse().unwrap());
        let pods = "/api/v1/pods?fieldSelector=spec.nodeName%3Da&watch=true&allowWatchBookmarks=true";
        for (uri, expected) in [
            (pods, Some((0, Asked::Watch))),
            (
                "/api/v1/pods?fieldSelector=status.phase%21%3DFailed&resourceVersion=0",
                Some((4, Asked::List)),
            ),
            ("/api/v1/nodes/watch", Some((1, Asked::Get))),
            (
                "/apis/discovery.k8s.io/v1/endpointslices?",
                Some((3, Asked::List)),
            ),
            ("/api/v1/namespaces/shop/secrets", None),
            ("/", None),
        ] {
            assert_eq!(asks(uri), expected, "{uri}");
        }
        contact.note(0);
        let ages: Vec<_> = contact.ages().collect();
        assert!(ages.len() == 1 && ages[0].0 == "pods" && ages[0].1 < Duration::from_secs(5));
        for (status, expected) in [
            (500, None),
            (429, None),
            (200, Some(Right::Granted)),
            (403, Some(Right::Denied)),
            (503, Some(Right::Denied)),
            (410, Some(Right::Granted)),
            (401, Some(Right::Denied)),
        ] {
            contact.judge(0, Asked::Watch, StatusCode::from_u16(status).unwrap());
            assert_eq!(contact.right("pods", Asked::Watch), expected, "{status}");
        }
        assert_eq!(contact.right("pods", Asked::List), None);
        assert_eq!(contact.right("secrets", Asked::List), None);
    }
}
