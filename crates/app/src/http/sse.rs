//! Server-Sent Events: the common parts of all streams. A stream produces its next part when there is room to send it,
//! so that nothing queues up behind a slow reader.

use std::convert::Infallible;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::web::Bytes;
use actix_web::{HttpResponse, HttpResponseBuilder};
use futures_util::{Stream, StreamExt as _};
use paperclip::v2::models::{DataType, DefaultOperationRaw, DefaultSchemaRaw, Either, Response};
use tokio::time::Instant;

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
/// Tells nginx, and proxies with the same header, not to buffer the stream.
const NO_BUFFERING: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// The time after which a silent stream sends a heartbeat. Proxies close connections that are silent for a minute or
/// less.
pub(super) const HEARTBEAT_AFTER: Duration = Duration::from_secs(15);
/// Heartbeat comment, sent while a stream has no event.
pub(super) const HEARTBEAT: &[u8] = b": still here\n\n";

/// An answer that streams these parts.
pub(super) fn streaming(mut answer: HttpResponseBuilder, parts: impl Stream<Item = Bytes> + 'static) -> HttpResponse {
    answer.insert_header((header::CONTENT_TYPE, EVENT_STREAM)).insert_header(NO_BUFFERING);
    answer.streaming(parts.map(Ok::<_, Infallible>)).map_into_boxed_body()
}

/// Describes a stream in the API document.
pub(super) fn describe(operation: &mut DefaultOperationRaw, description: &str) {
    let schema = DefaultSchemaRaw { data_type: Some(DataType::String), ..DefaultSchemaRaw::default() };
    let response = Response { description: Some(description.into()), schema: Some(schema), ..Response::default() };
    operation.responses.insert(StatusCode::OK.as_str().into(), Either::Right(response));
}

/// The heartbeats of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pulse {
    heartbeat: Duration,
    beat_at: Instant,
}

impl Pulse {
    /// The first heartbeat is due after `heartbeat`.
    pub(super) fn new(heartbeat: Duration) -> Self {
        Self { heartbeat, beat_at: Instant::now() + heartbeat }
    }

    /// When the next heartbeat is due.
    pub(super) const fn beat_at(&self) -> Instant {
        self.beat_at
    }

    /// The heartbeat, if it is due.
    pub(super) fn beat(&mut self) -> Option<Bytes> {
        if self.beat_at > Instant::now() {
            return None;
        }
        self.said_something();
        Some(Bytes::from_static(HEARTBEAT))
    }

    /// Postpones the heartbeat, after anything was sent.
    pub(super) fn said_something(&mut self) {
        self.beat_at = Instant::now() + self.heartbeat;
    }
}

/// Whether the client does not read: its next part was due at `due`, but there was no room to send it for
/// `stalled_after`.
pub(super) fn is_stalled(due: Instant, stalled_after: Duration) -> bool {
    Instant::now() > due + stalled_after
}
