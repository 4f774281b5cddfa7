//! Server-Sent Events: what every stream of the server has in common. Nothing queues up behind a slow reader: a stream is
//! asked for its next part when there is room to send it.

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
/// Tells nginx, and those who copied it, to pass on what comes as it comes.
const NO_BUFFERING: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// How long a stream says nothing at most: proxies close connections that are silent for a minute or less.
pub(super) const HEARTBEAT_AFTER: Duration = Duration::from_secs(15);
/// What a stream says that has nothing to say.
pub(super) const HEARTBEAT: &[u8] = b": still here\n\n";

/// The answer whose body are these parts.
pub(super) fn streaming(mut answer: HttpResponseBuilder, parts: impl Stream<Item = Bytes> + 'static) -> HttpResponse {
    answer.insert_header((header::CONTENT_TYPE, EVENT_STREAM)).insert_header(NO_BUFFERING);
    answer.streaming(parts.map(Ok::<_, Infallible>)).map_into_boxed_body()
}

/// Says in the API document what a stream is.
pub(super) fn describe(operation: &mut DefaultOperationRaw, description: &str) {
    let schema = DefaultSchemaRaw { data_type: Some(DataType::String), ..DefaultSchemaRaw::default() };
    let response = Response { description: Some(description.into()), schema: Some(schema), ..Response::default() };
    operation.responses.insert(StatusCode::OK.as_str().into(), Either::Right(response));
}

/// When a stream has to say something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pulse {
    heartbeat: Duration,
    beat_at: Instant,
}

impl Pulse {
    /// Begins now.
    pub(super) fn new(heartbeat: Duration) -> Self {
        Self { heartbeat, beat_at: Instant::now() + heartbeat }
    }

    /// When the next beat is due.
    pub(super) const fn beat_at(&self) -> Instant {
        self.beat_at
    }

    /// The beat, if it is due.
    pub(super) fn beat(&mut self) -> Option<Bytes> {
        if self.beat_at > Instant::now() {
            return None;
        }
        self.said_something();
        Some(Bytes::from_static(HEARTBEAT))
    }

    /// Whatever is said is as good as a beat.
    pub(super) fn said_something(&mut self) {
        self.beat_at = Instant::now() + self.heartbeat;
    }
}

/// Whether nobody asked for the next part, which was due at `due`, for so long that the client cannot be reading.
pub(super) fn is_stalled(due: Instant, stalled_after: Duration) -> bool {
    Instant::now() > due + stalled_after
}
