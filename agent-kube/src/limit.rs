//! Bounds on what a server may send: kube reads an answer to its end and a line to its newline, wherever that is.

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use kube_client::client::{Body, DynBody};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tower::{BoxError, Layer, Service};

/// Longest answer to a list; of 100 pods it is 1 MiB or 2.
const LONGEST_LIST: usize = 8 << 20;
/// Longest event of a watch: etcd stores no object beyond 1.5 MiB.
const LONGEST_EVENT: usize = 2 << 20;

/// When the server last said something.
#[derive(Debug)]
pub struct Contact {
    start: Instant,
    /// Milliseconds after `start`, plus one; 0 = never.
    last: AtomicU64,
}

impl Default for Contact {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
        }
    }
}

impl Contact {
    /// It says something.
    pub fn note(&self) {
        let since = self.start.elapsed().as_millis() as u64 + 1;
        self.last.store(since, Ordering::Relaxed);
    }

    /// How long ago that was; `None` = it never has.
    pub fn age(&self) -> Option<Duration> {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed).checked_sub(1)?);
        Some(self.start.elapsed().saturating_sub(last))
    }
}

/// The server has sent more than it may.
#[derive(Debug)]
pub struct TooLong(usize);

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

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let query = request.uri().query().unwrap_or_default();
        let is_watch = query.split('&').any(|part| part == "watch=true");
        let contact = self.contact.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let (parts, inner) = answer.await?.into_parts();
            // A refusal is no news of the pods.
            let is_news = parts.status.is_success();
            let length = if is_news && is_watch {
                Length::Event(0)
            } else {
                Length::Whole(0)
            };
            let contact = is_news.then_some(contact);
            Ok(Response::from_parts(
                parts,
                Measured {
                    inner,
                    length,
                    contact,
                },
            ))
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum Length {
    Whole(usize),
    /// Since the last newline.
    Event(usize),
}

impl Length {
    /// What it is with these bytes.
    fn with(self, bytes: &[u8]) -> Result<Self, TooLong> {
        let (length, longest) = match self {
            Self::Whole(so_far) => (Self::Whole(so_far + bytes.len()), LONGEST_LIST),
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
        let (Self::Whole(bytes) | Self::Event(bytes)) = length;
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
    length: Length,
    contact: Option<Arc<Contact>>,
}

impl HttpBody for Measured {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some(frame) = ready!(Pin::new(&mut *this.inner).poll_frame(context)) else {
            return Poll::Ready(None);
        };
        let frame = frame?;
        if let Some(bytes) = frame.data_ref() {
            this.length = this.length.with(bytes)?;
            if let Some(contact) = &this.contact {
                contact.note();
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
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

    #[test]
    fn silence_has_an_age() {
        let contact = Contact::default();
        assert_eq!(contact.age(), None);
        contact.note();
        assert!(contact.age().unwrap() < Duration::from_secs(5));
    }
}
