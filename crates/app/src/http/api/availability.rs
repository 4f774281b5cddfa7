//! The availability of seats: a compact snapshot of all seats, and a stream of changes. Both come from memory, so that
//! a crowd of readers puts no load on the store.
//!
//! A stream keeps only its position in the list of changes. It reads the changes when there is room to send them.

use std::sync::Arc;

use actix_web::body::BoxBody;
use actix_web::http::header::HeaderValue;
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse, Responder};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream;
use paperclip::actix::web::{ServiceConfig, get, resource};
use paperclip::actix::{Apiv2Schema, OperationModifier, api_v2_operation};
use paperclip::v2::models::DefaultOperationRaw;
use paperclip::v2::schema::Apiv2Schema;
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use usher_kernel::PerformanceId;

use crate::http::answers::Cacheable;
use crate::http::problem::{Problem, ProblemCode, Refusals};
use crate::http::reading::{LastEventId, PathId, Query};
use crate::http::services::Services;
use crate::http::sse::{self, Pulse};
use crate::live::boards::{Bell, Board, Boards, FOLLOW_INTERVAL, News, Picture};
use crate::live::shared_json::SharedJson;
use crate::live::streams::{Followed, Room, Streams};

const OPERATION_REFUSALS: &[ProblemCode] = &[ProblemCode::StoreUnavailable];

pub(super) const REFUSALS: Refusals =
    &[("catalogue.availability", OPERATION_REFUSALS), ("catalogue.availability_stream", OPERATION_REFUSALS)];

/// With one second, a cache in front of the server absorbs a crowd.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("public, max-age=1");
/// The range of the random delay before a client reconnects, in ms, so that the clients of a stopped server do not come
/// back all at once.
const RETRY_AFTER_MS: std::ops::Range<u32> = 1_000..5_000;

pub(super) fn routes(config: &mut ServiceConfig<'_>) {
    config
        .service(resource("/performances/{performance_id}/availability").route(get().to(availability)))
        .service(resource("/performances/{performance_id}/availability/stream").route(get().to(follow)));
}

/// The services that the handlers of the availability use.
pub(super) struct Context {
    boards: Boards,
    streams: Streams,
}

impl From<&Services> for Context {
    fn from(services: &Services) -> Self {
        Self { boards: services.boards.clone(), streams: services.streams.clone() }
    }
}

/// The status of each seat, in two bits.
#[derive(Serialize, Apiv2Schema)]
#[openapi(rename = "Availability")]
struct AvailabilityView {
    /// The version of the seat map that has the indices.
    map_version: u32,
    /// The position in the history of the seats: every change up to it is included.
    sequence: u64,
    /// Base64 of two bits a seat in index order, the first seat in the lowest bits of the first byte: 0 available,
    /// 1 held, 2 sold.
    seats: String,
}

impl From<&Picture> for AvailabilityView {
    fn from(picture: &Picture) -> Self {
        let Picture { map_version, sequence, packed, .. } = picture;
        Self { map_version: *map_version, sequence: *sequence, seats: STANDARD.encode(packed) }
    }
}

fn write(picture: &Picture) -> SharedJson {
    // Serializing numbers and base64 does not fail.
    let json = serde_json::to_vec(&AvailabilityView::from(picture)).unwrap_or_default();
    if picture.is_settled {
        SharedJson::tagged(json, &picture.sequence.to_string())
    } else {
        // Seats can change while the sequence waits for an event that is not settled.
        SharedJson::of(json)
    }
}

/// Shows the status of all seats of a performance, in a compact form.
#[api_v2_operation(tags("catalogue"), operation_id = "catalogue.availability")]
async fn availability(
    context: Data<Context>,
    PathId(performance): PathId<PerformanceId>,
) -> Result<Cacheable<AvailabilityView>, Problem> {
    let picture = context.boards.open(performance).await?.picture();
    let json = picture.json.get_or_init(|| write(&picture)).clone();
    Ok(Cacheable::shared(json, CACHE_CONTROL).of_age(context.boards.age()))
}

/// A query for browsers, whose `EventSource` cannot set headers.
#[derive(Deserialize, Apiv2Schema)]
struct AfterQuery {
    /// The `sequence` of the availability that the client has, if it cannot send the header.
    after: Option<u64>,
}

/// Streams the changes of the seats of a performance.
#[api_v2_operation(tags("catalogue"), operation_id = "catalogue.availability_stream", produces = "text/event-stream")]
async fn follow(
    context: Data<Context>,
    PathId(performance): PathId<PerformanceId>,
    LastEventId(in_header): LastEventId,
    Query(AfterQuery { after: in_query }): Query<AfterQuery>,
) -> Result<SeatEvents, Problem> {
    let room = context.streams.make_room(Followed::Seats)?;
    let (board, bell) = context.boards.open_and_keep(performance).await?;
    // The header is newer: a browser reconnects to its first URL.
    Ok(SeatEvents { room, board, bell, known: in_header.or(in_query), highest: context.boards.highest() })
}

/// The answer: the changes since the sequence that the client knows, and all later changes.
struct SeatEvents {
    room: Room,
    board: Arc<Board>,
    bell: Bell,
    known: Option<u64>,
    highest: u64,
}

impl Responder for SeatEvents {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        let Self { room, board, bell, known, highest } = self;
        let retry_ms = rand::rng().random_range(RETRY_AFTER_MS);
        let first = board.begin(known, highest, |news, sequence| beginning(news.as_ref(), sequence, retry_ms));
        let quiet_until = Instant::now();
        let follower = Follower {
            room,
            board,
            bell,
            position: first.position,
            quiet_until,
            pulse: Pulse::new(sse::HEARTBEAT_AFTER),
        };
        let others = stream::unfold(follower, async |mut follower| Some((follower.next().await?, follower)));
        sse::streaming(HttpResponse::Ok(), futures_util::StreamExt::chain(stream::iter(first.bytes), others))
    }
}

impl Apiv2Schema for SeatEvents {}

impl OperationModifier for SeatEvents {
    fn update_response(operation: &mut DefaultOperationRaw) {
        let description = "Server-Sent Events whose id is the sequence. The data of `seats` is `[[index, state], ...]`, \
             with the states of the availability; after `reset` the client has to read the availability again.";
        sse::describe(operation, description);
    }
}

/// The state of a stream.
struct Follower {
    room: Room,
    board: Arc<Board>,
    bell: Bell,
    position: u64,
    /// Changes before this time are sent together.
    quiet_until: Instant,
    pulse: Pulse,
}

impl Follower {
    /// The next part of the stream; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.room.is_ended()
                || self.is_stalled()
                || timeout_at(self.quiet_until, self.room.ended()).await.is_ok()
            {
                return None;
            }
            let told = self.board.since(self.position, |news, sequence| event(&news, sequence));
            self.position = told.position;
            if told.bytes.is_some() {
                self.pulse.said_something();
                self.quiet_until = Instant::now() + FOLLOW_INTERVAL;
                return told.bytes;
            }
            if let Some(beat) = self.pulse.beat() {
                return Some(beat);
            }
            tokio::select! {
                () = self.room.ended() => return None,
                // This stream keeps the board, so that the bell's sender lives.
                _ = timeout_at(self.pulse.beat_at(), self.bell.changed()) => {}
            }
        }
    }

    /// Whether the client does not read.
    fn is_stalled(&self) -> bool {
        sse::is_stalled(self.pulse.beat_at(), self.room.stalled_after())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if self.is_stalled() {
            self.room.note_stalled();
        }
    }
}

/// The first part: the id that the client sends when it reconnects, and the changes that it missed.
fn beginning(news: Option<&News<'_>>, sequence: u64, retry_ms: u32) -> Bytes {
    match news {
        // Without data this is no event (HTML Living Standard, 9.2.6), but a client keeps its id.
        None => format!("id: {sequence}\nretry: {retry_ms}\n\n").into(),
        Some(news) => [format!("retry: {retry_ms}\n").as_bytes(), &event(news, sequence)].concat().into(),
    }
}

fn event(news: &News<'_>, sequence: u64) -> Bytes {
    let (name, data) = match news {
        News::Seats(seats) => {
            let states: Vec<_> = seats.iter().map(|(index, status)| format!("[{index},{}]", status.code())).collect();
            ("seats", format!("[{}]", states.join(",")))
        }
        News::Reset { map_version } => ("reset", format!("{{\"map_version\":{map_version}}}")),
    };
    format!("id: {sequence}\nevent: {name}\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use actix_web::body::{BodySize, MessageBody as _};
    use actix_web::http::header;
    use actix_web::test::TestRequest;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;
    use usher_reservation::SeatStatus;
    use usher_reservation::board::SeatStates;

    use super::*;

    /// The length of the answer for a hall of random seats, which compresses worst.
    fn answer_len(n_seats: usize, accepted: &str) -> u64 {
        let mut random = StdRng::seed_from_u64(7);
        let packed = (0..n_seats / 4).map(|_| (0..4).fold(0, |byte, _| byte << 2 | random.random_range(0..3_u8)));
        let picture = Picture {
            map_version: 1,
            sequence: 1 << 40,
            is_settled: true,
            packed: packed.collect(),
            json: OnceLock::new(),
        };
        let answer = Cacheable::<AvailabilityView>::shared(write(&picture), CACHE_CONTROL);
        let request = TestRequest::default().insert_header((header::ACCEPT_ENCODING, accepted)).to_http_request();
        match answer.respond_to(&request).body().size() {
            BodySize::Sized(len) => len,
            size @ (BodySize::None | BodySize::Stream) => panic!("{size:?}"),
        }
    }

    #[test]
    fn fifty_thousand_seats_are_thirteen_kilobytes_at_worst_for_who_takes_gzip() {
        let (plain, gzip) = (answer_len(50_000, "identity"), answer_len(50_000, "gzip"));

        assert!(gzip <= 13_000, "{gzip} bytes");
        assert!(plain <= 16_800, "base64 of 12,500 bytes: {plain} bytes");
    }

    #[test]
    fn an_event_names_each_seat_and_what_it_is_now() {
        let seats = SeatStates::from([(7, SeatStatus::Sold), (0, SeatStatus::Held), (49_999, SeatStatus::Available)]);

        assert_eq!(event(&News::Seats(&seats), 42), "id: 42\nevent: seats\ndata: [[0,1],[7,2],[49999,0]]\n\n");
        assert_eq!(event(&News::Reset { map_version: 3 }, 42), "id: 42\nevent: reset\ndata: {\"map_version\":3}\n\n");
    }

    #[test]
    fn a_stream_begins_with_where_it_is_and_when_to_come_back() {
        assert_eq!(beginning(None, 42, 1_500), "id: 42\nretry: 1500\n\n");
        assert_eq!(
            beginning(Some(&News::Reset { map_version: 3 }), 42, 1_500),
            "retry: 1500\nid: 42\nevent: reset\ndata: {\"map_version\":3}\n\n"
        );
    }
}
