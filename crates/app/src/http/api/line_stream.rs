//! The stream of a place: Server-Sent Events with the answer of a poll, whenever that changes. Each stream polls the
//! line inside the server, at the pace that the line asks of every client, and at once when the place is called.
//!
//! The state is read when there is room to send it, so that nothing queues up behind a slow reader, which gets only the
//! latest state.

use std::sync::Arc;
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse, Responder};
use futures_util::{StreamExt as _, stream};
use paperclip::actix::web::{ServiceConfig, get, resource};
use paperclip::actix::{Apiv2Schema, OperationModifier, api_v2_operation};
use paperclip::v2::models::DefaultOperationRaw;
use paperclip::v2::schema::Apiv2Schema;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use usher_kernel::{Clock, PerformanceId, Timestamp};
use usher_queue::service::{PassToken, PlaceState, PlaceStatus};

use super::line::{self, POLL_REFUSALS, PlaceView};
use crate::http::problem::{Problem, ProblemCode, Refusals};
use crate::http::reading::{PathId, Query, StreamPlace};
use crate::http::services::Services;
use crate::http::sse::{self, Pulse};
use crate::live::streams::{Followed, Following, Streams};

pub(super) const REFUSALS: Refusals = &[("line.stream", POLL_REFUSALS)];

pub(super) fn routes(config: &mut ServiceConfig<'_>) {
    config.service(resource("/performances/{performance_id}/queue/stream").route(get().to(follow)));
}

/// The services that the handler of the stream uses.
pub(super) struct Context {
    line: line::Context,
    streams: Streams,
}

impl From<&Services> for Context {
    fn from(services: &Services) -> Self {
        Self { line: line::Context::from(services), streams: services.streams.clone() }
    }
}

/// A query for browsers, whose `EventSource` cannot set headers.
#[derive(Deserialize, Apiv2Schema)]
struct PlaceQuery {
    /// The place token, if the client cannot send the header.
    place: Option<String>,
}

/// Streams a place: its state at once, and each change.
#[api_v2_operation(tags("line"), operation_id = "line.stream", produces = "text/event-stream")]
async fn follow(
    context: Data<Context>,
    PathId(performance): PathId<PerformanceId>,
    StreamPlace(in_header): StreamPlace,
    Query(PlaceQuery { place: in_query }): Query<PlaceQuery>,
) -> Result<PlaceEvents, Problem> {
    let Context { line: ref context, ref streams } = **context;
    let room = streams.make_room(Followed::Place)?;
    let place = in_header.or(in_query).ok_or_else(|| Problem::of(ProblemCode::PlaceInvalid))?;
    let (line, clock) = (context.line.clone(), Arc::clone(&context.clock));
    context.edge.polls.check(&place, clock.now())?;
    let (asked, asking) = (place.clone(), line.clone());
    let status = line::ask(context, performance, async move { asking.poll(performance, &asked).await }).await?;
    Ok(PlaceEvents { following: room.follow(performance, status.number)?, performance, place, status, line, clock })
}

/// The answer: the state of the place, and all its later changes.
struct PlaceEvents {
    following: Following,
    performance: PerformanceId,
    place: String,
    status: PlaceStatus,
    line: usher_queue::Service,
    clock: Arc<dyn Clock>,
}

impl Responder for PlaceEvents {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        let Self { following, performance, place, status, line, clock } = self;
        let mut answer = HttpResponse::Ok();
        if let Some(cookie) = PlaceView::from(status.clone()).pass_cookie(clock.now(), request) {
            answer.cookie(cookie);
        }
        let poll = async move || line.poll(performance, &place).await;
        let (follower, first) = Follower::begin(following, poll, clock, Pace::USUAL, status);
        let others = stream::unfold(follower, async |mut follower| Some((follower.next().await?, follower)));
        sse::streaming(answer, stream::iter([first]).chain(others))
    }
}

impl Apiv2Schema for PlaceEvents {}

impl OperationModifier for PlaceEvents {
    fn update_response(operation: &mut DefaultOperationRaw) {
        let description = "Server-Sent Events named `place`. The data of each is a `Place`, as the poll answers it. \
             The stream ends after `done` and `expired`.";
        sse::describe(operation, description);
    }
}

/// The intervals of a stream, beside that of the polls that the line asks for.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// The time after which a silent stream sends a heartbeat.
    heartbeat: Duration,
    /// How often, at least, an admitted place is polled for the end of its pass.
    inside: Duration,
}

impl Pace {
    const USUAL: Self = Self { heartbeat: sse::HEARTBEAT_AFTER, inside: Duration::from_secs(5) };
}

/// The shortest time between two polls, even if a pass is about to expire.
const LOOK_AFTER_MIN: Duration = Duration::from_millis(50);

/// The state of a stream. `poll` asks the line for the place's state, which also marks its owner as present, so it runs
/// at least as often as the line asks for.
struct Follower<P> {
    following: Following,
    poll: P,
    clock: Arc<dyn Clock>,
    pace: Pace,
    /// The last state that was sent, without `poll_after`, whose change alone is no event.
    told: PlaceStatus,
    /// The time between two polls.
    look_after: Duration,
    look_at: Instant,
    pulse: Pulse,
}

impl<P: AsyncFn() -> Result<PlaceStatus, usher_queue::Error>> Follower<P> {
    /// Begins a stream. Its first event is `status`.
    fn begin(following: Following, poll: P, clock: Arc<dyn Clock>, pace: Pace, status: PlaceStatus) -> (Self, Bytes) {
        let (told, look_after, now) = (but_for_the_pace(&status), Duration::ZERO, Instant::now());
        let pulse = Pulse::new(pace.heartbeat);
        let mut follower = Self { following, poll, clock, pace, told, look_after, look_at: now, pulse };
        follower.plan(&status);
        let first = follower.tell(status);
        (follower, first)
    }

    /// The next part of the stream; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.is_over() {
            let is_woken = timeout_at(self.wake_at(), self.following.woken()).await.is_ok();
            if self.following.room().is_ended() || self.is_stalled() {
                return None;
            }
            if is_woken || self.look_at <= Instant::now() {
                let looked = tokio::select! {
                    biased;
                    // Boxed, because most streams do not poll most of the time.
                    looked = Box::pin((self.poll)()) => looked,
                    () = self.following.woken() => {
                        self.look_at = Instant::now();
                        continue;
                    }
                };
                match looked {
                    Ok(status) => {
                        self.plan(&status);
                        if but_for_the_pace(&status) != self.told {
                            return Some(self.tell(status));
                        }
                    }
                    Err(error) if passes(&error) => self.look_at = Instant::now() + self.look_after,
                    // The client reconnects, and gets the problem as its answer.
                    Err(_) => return None,
                }
            }
            if let Some(beat) = self.pulse.beat() {
                return Some(beat);
            }
        }
        None
    }

    /// Schedules the next poll.
    fn plan(&mut self, status: &PlaceStatus) {
        let until_it_ends = |pass: &PassToken| pass.expires_at.since(self.clock.now()).max(LOOK_AFTER_MIN);
        self.look_after = match &status.pass {
            Some(pass) => status.poll_after.min(self.pace.inside).min(until_it_ends(pass)),
            None => status.poll_after,
        };
        self.look_at = Instant::now() + self.look_after;
    }

    fn tell(&mut self, status: PlaceStatus) -> Bytes {
        self.told = but_for_the_pace(&status);
        self.pulse.said_something();
        event(status, self.clock.now())
    }

    fn is_over(&self) -> bool {
        match self.told.state {
            PlaceState::Waiting | PlaceState::Admitted => false,
            PlaceState::Done | PlaceState::Expired => true,
        }
    }
}

impl<P> Follower<P> {
    fn wake_at(&self) -> Instant {
        self.look_at.min(self.pulse.beat_at())
    }

    /// Whether the client does not read.
    fn is_stalled(&self) -> bool {
        sse::is_stalled(self.wake_at(), self.following.room().stalled_after())
    }
}

impl<P> Drop for Follower<P> {
    fn drop(&mut self) {
        if self.is_stalled() {
            self.following.room().note_stalled();
        }
    }
}

/// The status without `poll_after`.
fn but_for_the_pace(status: &PlaceStatus) -> PlaceStatus {
    PlaceStatus { poll_after: Duration::ZERO, ..status.clone() }
}

/// Whether the next poll may succeed.
fn passes(error: &usher_queue::Error) -> bool {
    use usher_queue::Error;
    match error {
        Error::LineUnavailable | Error::PolledTooFast { .. } => true,
        Error::Store(error) | Error::LineStore(error) => error.is_retryable(),
        Error::NotFound
        | Error::SaleNotOpen { .. }
        | Error::SaleClosed
        | Error::PlaceInvalid
        | Error::PlaceMismatch
        | Error::NotAdmitted
        | Error::Invalid(_) => false,
    }
}

/// One event (HTML Living Standard, 9.2). A client whose connection breaks reconnects when its next poll would be due,
/// so that the clients of a stopped server are spread like polls.
fn event(status: PlaceStatus, now: Timestamp) -> Bytes {
    let (id, retry_ms) = (now.unix_ms(), status.poll_after.as_millis());
    // Compact JSON has no line breaks. Serializing does not fail, and clients would ignore an event without data.
    let json = serde_json::to_string(&PlaceView::from(status)).unwrap_or_default();
    format!("id: {id}\nevent: place\nretry: {retry_ms}\ndata: {json}\n\n").into()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;
    use usher_kernel::{ManualClock, StoreError};
    use usher_queue::policy::SaleState;
    use usher_queue::{Error, PlaceNumber};

    use super::*;
    use crate::http::sse::HEARTBEAT;
    use crate::runtime::metrics::Metrics;

    const HERE: PerformanceId = PerformanceId::from_bytes([1; 16]);
    const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);
    const SOON: Duration = Duration::from_millis(1);
    const LATER: Duration = Duration::from_secs(3_600);
    const NEVER_SILENT: Pace = Pace { heartbeat: SOON, inside: LATER };
    const SILENT: Pace = Pace { heartbeat: LATER, inside: LATER };

    fn waiting(position: u64, poll_after: Duration) -> PlaceStatus {
        PlaceStatus {
            place: "p".into(),
            number: PlaceNumber::new(7),
            state: PlaceState::Waiting,
            position,
            ahead: position - 1,
            poll_after,
            eta: None,
            pass: None,
            sale_state: SaleState::Open,
        }
    }

    fn over(state: PlaceState) -> PlaceStatus {
        PlaceStatus { state, position: 0, ..waiting(1, SOON) }
    }

    fn admitted(expires_at: Timestamp) -> PlaceStatus {
        let pass = Some(PassToken { token: "pass".into(), expires_at });
        PlaceStatus { state: PlaceState::Admitted, position: 0, pass, ..waiting(1, LATER) }
    }

    /// A line that answers from a list, and then always with `last`.
    struct Line {
        says: Mutex<VecDeque<Result<PlaceStatus, Error>>>,
        last: PlaceStatus,
        n_polls: AtomicUsize,
        streams: Streams,
        metrics: Arc<Metrics>,
    }

    impl Line {
        fn that_says(says: Vec<Result<PlaceStatus, Error>>, last: PlaceStatus) -> Self {
            Self::with_patience(says, last, LATER)
        }

        fn with_patience(says: Vec<Result<PlaceStatus, Error>>, last: PlaceStatus, stalled_after: Duration) -> Self {
            let metrics = Arc::new(Metrics::new().unwrap());
            let streams = Streams::new(10, stalled_after, Arc::clone(&metrics));
            Self { says: Mutex::new(says.into()), last, n_polls: AtomicUsize::new(0), streams, metrics }
        }

        async fn poll(&self) -> Result<PlaceStatus, Error> {
            self.n_polls.fetch_add(1, Ordering::Relaxed);
            self.says.lock().unwrap().pop_front().unwrap_or_else(|| Ok(self.last.clone()))
        }

        fn n_polls(&self) -> usize {
            self.n_polls.load(Ordering::Relaxed)
        }

        fn follow(
            &self,
            pace: Pace,
            first: PlaceStatus,
        ) -> Follower<impl AsyncFn() -> Result<PlaceStatus, Error> + use<'_>> {
            let following = self.streams.make_room(Followed::Place).unwrap().follow(HERE, first.number).unwrap();
            let clock = Arc::new(ManualClock::new(NOW));
            let (follower, event) = Follower::begin(following, async || self.poll().await, clock, pace, first);
            assert!(text(&event).starts_with("id: 1700000000000\nevent: place\nretry: "), "{}", text(&event));
            follower
        }

        fn n_stalled(&self) -> usize {
            let text = self.metrics.render().unwrap();
            let value = text.lines().find_map(|line| line.strip_prefix("usher_streams_stalled_total "));
            value.unwrap().parse().unwrap()
        }
    }

    fn text(part: &Bytes) -> &str {
        std::str::from_utf8(part).unwrap()
    }

    fn is_event(part: Option<&Bytes>, what: &str) -> bool {
        part.is_some_and(|part| text(part).contains("event: place\n") && text(part).contains(what))
    }

    #[test]
    fn an_event_is_what_a_poll_answers_in_one_line() {
        let status = waiting(3, Duration::from_millis(2_345));
        let json = serde_json::to_string(&PlaceView::from(status.clone())).unwrap();

        let event = event(status, NOW);

        assert_eq!(text(&event), format!("id: 1700000000000\nevent: place\nretry: 2345\ndata: {json}\n\n"));
    }

    #[tokio::test]
    async fn only_what_a_person_can_see_is_news() {
        let line = Line::that_says(vec![Ok(waiting(3, SOON)), Ok(waiting(3, 2 * SOON))], waiting(2, LATER));
        let mut follower = line.follow(SILENT, waiting(3, 3 * SOON));

        let next = follower.next().await;

        assert!(is_event(next.as_ref(), "\"position\":2"));
        assert_eq!(line.n_polls(), 3);
    }

    #[tokio::test]
    async fn whoever_is_called_is_told_at_once() {
        let line = Line::that_says(vec![], admitted(NOW.plus(LATER)));
        let mut follower = line.follow(SILENT, waiting(1, LATER));
        assert!(follower.next().now_or_never().is_none(), "nothing to tell before");

        line.streams.call([(HERE, PlaceNumber::new(7))]);
        let next = follower.next().await;

        assert!(is_event(next.as_ref(), "\"token\":\"pass\""));
    }

    #[tokio::test]
    async fn a_silent_stream_beats_and_goes_on() {
        let line = Line::that_says(vec![], waiting(2, LATER));
        let mut follower = line.follow(NEVER_SILENT, waiting(2, LATER));

        for _ in 0..3 {
            assert_eq!(follower.next().await.unwrap(), HEARTBEAT);
        }
        line.streams.call([(HERE, PlaceNumber::new(7))]);

        assert_eq!(follower.next().await.unwrap(), HEARTBEAT, "what is said again is no news");
        assert_eq!(line.n_polls(), 1);
    }

    #[tokio::test]
    async fn an_outage_is_sat_out_with_heartbeats() {
        let store_error = || StoreError::Unavailable { operation: "line.resolve", source: "away".into() };
        let outage =
            [Error::LineUnavailable, Error::LineStore(store_error()), Error::Store(store_error())].map(Err).into();
        let line = Line::that_says(outage, waiting(1, LATER));
        let mut follower = line.follow(NEVER_SILENT, waiting(2, 5 * SOON));

        let mut n_beats = 0;
        let event = loop {
            match follower.next().await.unwrap() {
                beat if beat == HEARTBEAT => n_beats += 1,
                event => break event,
            }
        };

        assert!(is_event(Some(&event), "\"position\":1"));
        assert!(n_beats > 0);
        assert_eq!(line.n_polls(), 4);
    }

    #[tokio::test]
    async fn what_will_not_pass_ends_the_stream() {
        for error in [Error::SaleClosed, Error::PlaceInvalid, Error::NotFound] {
            let line = Line::that_says(vec![Err(error)], waiting(1, SOON));

            assert_eq!(line.follow(SILENT, waiting(2, SOON)).next().await, None);
        }
    }

    #[tokio::test]
    async fn what_is_over_is_told_and_ends_the_stream() {
        for state in [PlaceState::Done, PlaceState::Expired] {
            let line = Line::that_says(vec![], over(state));
            let mut follower = line.follow(SILENT, waiting(1, SOON));

            let last = follower.next().await;

            assert!(is_event(last.as_ref(), state.as_str()));
            assert_eq!(follower.next().await, None);
        }
    }

    #[tokio::test]
    async fn a_stream_that_begins_at_the_end_has_one_event() {
        let line = Line::that_says(vec![], over(PlaceState::Done));

        assert_eq!(line.follow(SILENT, over(PlaceState::Done)).next().await, None);
        assert_eq!(line.n_polls(), 0);
    }

    #[tokio::test]
    async fn whoever_is_inside_is_told_when_the_pass_runs_out() {
        let line = Line::that_says(vec![], over(PlaceState::Expired));
        let mut follower = line.follow(SILENT, admitted(NOW.plus(SOON)));

        assert!(is_event(follower.next().await.as_ref(), "expired"));
    }

    #[tokio::test]
    async fn whoever_is_inside_is_looked_after_at_a_pace_of_its_own() {
        let line = Line::that_says(vec![], over(PlaceState::Done));
        let mut follower = line.follow(Pace { inside: SOON, ..SILENT }, admitted(NOW.plus(LATER)));

        assert!(is_event(follower.next().await.as_ref(), "done"));
    }

    #[tokio::test]
    async fn a_server_that_stops_ends_the_stream() {
        let line = Line::that_says(vec![], waiting(2, LATER));
        let mut follower = line.follow(SILENT, waiting(2, LATER));
        assert!(follower.next().now_or_never().is_none());

        line.streams.end();

        assert_eq!(follower.next().await, None);
        assert_eq!(line.n_stalled(), 0);
    }

    #[tokio::test]
    async fn nobody_looks_for_a_reader_that_does_not_read() {
        let line = Line::that_says(vec![Ok(waiting(2, SOON))], waiting(1, SOON));
        let mut follower = line.follow(SILENT, waiting(3, SOON));
        let mut other = line.follow(SILENT, waiting(3, SOON));
        assert!(is_event(follower.next().await.as_ref(), "\"position\":2"));

        // Long enough for the first stream to poll as often.
        for _ in 0..3 {
            assert!(is_event(other.next().await.as_ref(), "\"position\":1"));
            other.told = waiting(9, SOON);
        }

        assert_eq!(line.n_polls(), 4, "each was asked for");
        assert!(is_event(follower.next().await.as_ref(), "\"position\":1"), "the latest, not all of them");
    }

    #[tokio::test]
    async fn a_reader_that_did_not_read_for_too_long_is_given_up() {
        let line = Line::with_patience(vec![], waiting(1, LATER), Duration::ZERO);
        let mut follower = line.follow(NEVER_SILENT, waiting(2, LATER));

        let next = follower.next().await;
        drop(follower);

        assert_eq!(next, None);
        assert_eq!(line.n_stalled(), 1);
    }
}
