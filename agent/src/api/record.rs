//! `/api/v1/record`: what the flight recorder has, as one recording.

use super::routes::{App, problem};
use axum::body::{Body, Bytes};
use axum::extract::State as From;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::channel::mpsc::{Receiver, Sender, channel};
use futures::{SinkExt as _, StreamExt as _};
use std::io;

/// Pieces that a slow client may be behind.
const PIECES: usize = 4;
/// Bytes of a piece.
const PIECE: usize = 64 * 1024;

/// Hands what is written to it to a body. Blocks while the client is behind.
struct Pieces {
    to: Sender<io::Result<Bytes>>,
    runtime: tokio::runtime::Handle,
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = bytes.get(..PIECE).unwrap_or(bytes);
        let piece = Ok(Bytes::copy_from_slice(bytes));
        self.runtime
            .block_on(self.to.send(piece))
            .map_err(|_gone| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// It changes nothing: hence GET.
pub(super) async fn record(From(app): From<App>) -> Response {
    let Some(flight) = app.state.flight.clone() else {
        return problem(
            StatusCode::NOT_FOUND,
            "the flight recorder is off; record.flight.minutes turns it on",
        );
    };
    let Ok(place) = app.waiting.clone().try_acquire_owned() else {
        return problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many wait for such an answer already",
        );
    };
    let (to, mut pieces): (_, Receiver<io::Result<Bytes>>) = channel(PIECES);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let _place = place;
        let mut failed = to.clone();
        let mut out = Pieces { to, runtime };
        if let Err(e) = flight.dump(&mut out)
            && !e.is_closed()
        {
            // A client sees that its answer is cut.
            let _ = failed.try_send(Err(io::Error::other(e)));
        }
    });
    // The first piece says whether there is an answer.
    match pieces.next().await {
        Some(Ok(first)) => {
            let first = futures::stream::once(async { Ok(first) });
            let mut response = Body::from_stream(first.chain(pieces)).into_response();
            let kind = HeaderValue::from_static("application/octet-stream");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Some(Err(e)) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
        None => problem(StatusCode::INTERNAL_SERVER_ERROR, "nothing was recorded"),
    }
}
