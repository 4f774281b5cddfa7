//! The stream of a place: its first event, later changes, and the limits of streams.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use usher_app::config::Settings;

use crate::app::{Api, SaleOptions, TestApp, UsherProcess, assert_problem, eventually, header, json_of, now, section};
use crate::sse::Blocks;

fn seats() -> [Value; 1] {
    [section("A", 1, 10, "R", 100)]
}

/// A server whose lines have no capacity yet, and an open performance.
async fn line_with(adjust: impl FnOnce(&mut Settings)) -> (TestApp, String) {
    let app = TestApp::start_with(|settings| {
        settings.line.capacity = 0;
        adjust(settings);
    })
    .await;
    let performance = app.performance(&seats(), SaleOptions::default()).await;
    (app, performance)
}

async fn line() -> (TestApp, String) {
    line_with(|_| {}).await
}

/// The place token of a new person in the line.
async fn place(api: &Api, performance: &str) -> String {
    api.joined(&api.buyer(), performance).await["place"].as_str().unwrap().to_owned()
}

fn path(performance: &str) -> String {
    format!("/api/v1/performances/{performance}/queue/stream")
}

fn stream(api: &Api, performance: &str, place: &str) -> RequestBuilder {
    api.get(&path(performance)).header("Usher-Place", place)
}

async fn open(api: &Api, performance: &str, place: &str) -> Events {
    Events::of(stream(api, performance, place).send().await.unwrap())
}

/// The events of a stream.
struct Events(Blocks);

#[derive(Debug)]
struct Event {
    id: String,
    name: String,
    retry_ms: u64,
    data: String,
}

impl Event {
    fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Events {
    fn of(response: Response) -> Self {
        Self(Blocks::of(response))
    }

    /// The next event; `None` if the stream has ended properly.
    async fn next(&mut self) -> Option<Event> {
        let mut block = self.0.next().await?;
        let mut field = |name: &str| block.remove(name).unwrap_or_else(|| panic!("{name} of {block:?}"));
        let retry_ms = field("retry").parse().unwrap();
        Some(Event { id: field("id"), name: field("event"), retry_ms, data: field("data") })
    }

    /// The next event with this state. Skips events with other states.
    async fn until(&mut self, state: &str) -> Value {
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("the stream ended before {state}")).json();
            if event["state"] == state {
                return event;
            }
        }
    }
}

/// The value of a metric without labels.
pub(crate) async fn metric(api: &Api, name: &str) -> u64 {
    let text = api.metrics().await;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
}

pub(crate) async fn wait_for_open_streams(api: &Api, count: u64) {
    eventually(&format!("{count} streams are open"), async || {
        (metric(api, "usher_streams_open").await == count).then_some(())
    })
    .await;
}

async fn let_in(app: &TestApp, performance: &str, capacity: u32) {
    json_of(app.patch_admission(performance, &json!({"capacity": capacity})).await, 200).await;
}

/// A place without `poll_after_ms`, which changes with every poll.
fn lasting(mut place: Value) -> Value {
    place.as_object_mut().unwrap().remove("poll_after_ms").unwrap();
    place
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_event_comes_at_once_and_is_what_a_poll_tells() {
    let (app, performance) = line().await;
    place(&app, &performance).await;
    let place = place(&app, &performance).await;

    let request = stream(&app, &performance, &place).header("Accept-Encoding", "gzip, deflate, br");
    let mut events = Events::of(request.send().await.unwrap());
    let first = events.next().await.unwrap();
    let polled = json_of(app.poll(&place, &performance).await, 200).await;

    assert_eq!(first.name, "place");
    assert_eq!(first.json()["poll_after_ms"], first.retry_ms, "a client reconnects when its next poll is due");
    assert_eq!(lasting(first.json()), lasting(polled));
    for (name, value) in [
        ("content-type", Some("text/event-stream")),
        ("cache-control", Some("no-store")),
        ("x-accel-buffering", Some("no")),
        ("content-encoding", None),
        ("set-cookie", None),
    ] {
        assert_eq!(header(&events.0.response, name), value, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn being_admitted_comes_by_itself_with_the_pass_that_a_poll_gives() {
    let (app, performance) = line().await;
    let (first, second) = (place(&app, &performance).await, place(&app, &performance).await);
    let mut firsts = open(&app, &performance, &first).await;
    let mut seconds = open(&app, &performance, &second).await;

    let_in(&app, &performance, 1).await;
    let admitted = firsts.until("admitted").await;
    let polled = json_of(app.poll(&first, &performance).await, 200).await;
    let moved = eventually("the second sees the line move", async || {
        Some(seconds.next().await.unwrap().json()).filter(|event| event["position"] == 1)
    })
    .await;

    assert_eq!(lasting(admitted), lasting(polled));
    assert_eq!(moved["state"], "waiting");
    assert_eq!(moved["ahead"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_loses_no_state_whatever_was_seen_last() {
    let (app, performance) = line().await;
    let place = place(&app, &performance).await;
    let mut events = open(&app, &performance, &place).await;
    let last_seen = events.next().await.unwrap().id;
    drop(events);
    let_in(&app, &performance, 1).await;
    app.wait_for_place(&place, &performance, "admitted").await;

    let again = stream(&app, &performance, &place).header("Last-Event-ID", last_seen).send().await.unwrap();
    let cookie = header(&again, "set-cookie").map(str::to_owned);
    let again = Events::of(again).next().await.unwrap();
    let repeated = stream(&app, &performance, &place).header("Last-Event-ID", &again.id).send().await.unwrap();
    let repeated = Events::of(repeated).next().await.unwrap();

    assert_eq!(again.json()["state"], "admitted");
    assert_eq!(lasting(repeated.json()), lasting(again.json()), "told again rather than left out");
    let pass = again.json()["pass"]["token"].as_str().unwrap().to_owned();
    assert!(cookie.unwrap().starts_with(&format!("usher_pass={pass}; ")), "browsers get the cookie too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_what_is_over() {
    let (app, performance) = line().await;
    let_in(&app, &performance, 10).await;
    let leaver = app.admitted(&performance).await;
    json_of(app.patch_admission(&performance, &json!({"pass_ttl_s": 1})).await, 200).await;
    let dawdler = app.admitted(&performance).await;
    let mut leavers = open(&app, &performance, &leaver.place).await;
    let mut dawdlers = open(&app, &performance, &dawdler.place).await;
    assert_eq!(leavers.next().await.unwrap().json()["pass"]["token"], leaver.pass.as_str());

    assert_eq!(app.leave(&leaver.place, &performance).await.status(), 204);
    let (done, expired) = futures_util::future::join(leavers.until("done"), dawdlers.until("expired")).await;

    assert_eq!((&done["pass"], &expired["pass"]), (&Value::Null, &Value::Null));
    assert!(leavers.next().await.is_none() && dawdlers.next().await.is_none());
    let mut late = open(&app, &performance, &leaver.place).await;
    assert_eq!(late.next().await.unwrap().json()["state"], "done");
    assert!(late.next().await.is_none());
    wait_for_open_streams(&app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_place_of_this_line_is_followed() {
    let (app, performance) = line().await;
    let elsewhere = app.performance(&seats(), SaleOptions::default()).await;
    let place = place(&app, &performance).await;
    let damaged = format!("{}{}", &place[..20], &place[21..]);
    let path = path(&performance);
    let send = async |request: RequestBuilder| request.send().await.unwrap();

    for request in [
        app.get(&path),
        app.get(&format!("{path}?place=")),
        app.get(&format!("{path}?place={damaged}")),
        stream(&app, &performance, "nonsense"),
        stream(&app, &performance, &damaged),
    ] {
        assert_problem(send(request).await, 401, "place-invalid").await;
    }
    assert_problem(send(stream(&app, &elsewhere, &place)).await, 403, "pass-mismatch").await;
    assert_problem(send(stream(&app, "nonsense", &place)).await, 404, "not-found").await;
    let twice = send(app.get(&format!("{path}?place={place}&place={place}"))).await;
    let refusal = assert_problem(twice, 400, "validation-failed").await;
    assert!(!refusal.to_string().contains(&place), "{refusal}");
    assert_eq!(metric(&app, "usher_streams_open").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_in_the_query_is_as_good_and_is_written_nowhere() {
    let (usher, log) = UsherProcess::start_with_log(&[("LINE__CAPACITY", "0"), ("LOG__FILTER", "trace")]).await;
    let performance = usher.performance(&seats(), SaleOptions::default()).await;
    let place = place(&usher, &performance).await;
    let elsewhere = usher.performance(&seats(), SaleOptions::default()).await;
    let in_query = |performance: &str| usher.get(&format!("{}?place={place}", path(performance)));

    let mut events = Events::of(in_query(&performance).send().await.unwrap());
    let first = events.next().await.unwrap();
    let refused = assert_problem(in_query(&elsewhere).send().await.unwrap(), 403, "pass-mismatch").await;

    assert_eq!(first.json()["place"], place.as_str());
    assert!(!refused.to_string().contains(&place), "{refused}");
    let metrics = usher.metrics().await;
    assert!(metrics.contains("/queue/stream") && !metrics.contains(&place));
    let logged = eventually("both requests are in the log", async || {
        let logged = std::fs::read_to_string(&log).unwrap();
        [&performance, &elsewhere].iter().all(|it| logged.contains(&path(it))).then_some(logged)
    })
    .await;
    assert!(!logged.contains(&place), "{logged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_has_so_many_streams_and_not_more() {
    let (app, performance) = line_with(|settings| {
        settings.http.streams_max = 3;
        settings.http.max_in_flight = 2;
    })
    .await;
    let mut places = Vec::new();
    for _ in 0..4 {
        places.push(place(&app, &performance).await);
    }

    let mut streams = Vec::new();
    for place in &places[..3] {
        streams.push(open(&app, &performance, place).await);
    }
    let refused = stream(&app, &performance, &places[3]).send().await.unwrap();
    let polled = app.poll(&places[3], &performance).await;

    let problem = assert_problem(refused, 503, "overloaded").await;
    assert!(problem["retry_after_ms"].as_u64().unwrap() > 0);
    assert_eq!(polled.status(), 200, "open streams are no requests in flight");
    assert_eq!(metric(&app, "usher_streams_open").await, 3);
    streams.pop();
    wait_for_open_streams(&app, 2).await;
    assert_eq!(open(&app, &performance, &places[3]).await.next().await.unwrap().json()["position"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_has_a_few_streams_and_not_more() {
    let (app, performance) = line().await;
    let (one, other) = (place(&app, &performance).await, place(&app, &performance).await);

    let tabs = join_all((0..5).map(|_| open(&app, &performance, &one))).await;
    let sixth = stream(&app, &performance, &one).send().await.unwrap();
    let others = stream(&app, &performance, &other).send().await.unwrap();

    let problem = assert_problem(sixth, 429, "too-many-requests").await;
    assert!(problem["retry_after_ms"].as_u64().unwrap() > 0);
    assert_eq!(others.status(), 200);
    drop(tabs);
    wait_for_open_streams(&app, 1).await;
    assert_eq!(stream(&app, &performance, &one).send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_answered_and_opens_no_stream() {
    let (app, performance) = line().await;
    let place = place(&app, &performance).await;

    let head = app.request(Method::HEAD, &path(&performance)).header("Usher-Place", &place).send().await.unwrap();

    assert_eq!((head.status().as_u16(), header(&head, "content-type")), (200, Some("text/event-stream")));
    wait_for_open_streams(&app, 0).await;
    json_of(app.poll(&place, &performance).await, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_ends_its_streams() {
    let (mut app, performance) = line().await;
    let places = join_all((0..20).map(|_| place(&app, &performance))).await;
    let mut streams = join_all(places.iter().map(|place| open(&app, &performance, place))).await;
    for stream in &mut streams {
        assert_eq!(stream.next().await.unwrap().json()["state"], "waiting");
    }

    let grace = Duration::from_secs(app.settings().http.shutdown_timeout_s);
    let stopped = tokio::time::timeout(grace, app.stop()).await;

    assert!(stopped.is_ok(), "the server waited for its streams");
    for stream in &mut streams {
        while stream.next().await.is_some() {}
    }
}

/// The client reads nothing, and the server sends more than the client's small buffer takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_let_go() {
    let (app, performance) = line_with(|settings| settings.http.send_timeout_ms = 2_000).await;
    let place = place(&app, &performance).await;
    let reader = open(&app, &performance, &place).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut silent = socket.connect(app.address()).await.unwrap();

    let document = "GET /api/openapi.json HTTP/1.1\r\nHost: usher\r\n\r\n";
    let request = format!("GET {} HTTP/1.1\r\nHost: usher\r\nUsher-Place: {place}\r\n\r\n", path(&performance));
    silent.write_all(format!("{document}{request}").as_bytes()).await.unwrap();
    wait_for_open_streams(&app, 2).await;

    wait_for_open_streams(&app, 1).await;
    drop(silent);
    assert_eq!(reader.0.response.status(), 200, "a client that reads stays");
}

/// A closed tab half-closes its connection. Later writes to it would not fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_is_gone_at_once() {
    let (app, performance) = line().await;
    let place = place(&app, &performance).await;
    let mut client = TcpStream::connect(app.address()).await.unwrap();
    let request = format!("GET {} HTTP/1.1\r\nHost: usher\r\nUsher-Place: {place}\r\n\r\n", path(&performance));
    client.write_all(request.as_bytes()).await.unwrap();
    wait_for_open_streams(&app, 1).await;

    client.shutdown().await.unwrap();

    wait_for_open_streams(&app, 0).await;
}

/// The shortest presence window is six seconds. A person who did not poll for the window and another quarter of it, the
/// precision of presence, is away.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_keeps_its_owner_present_and_a_closed_one_does_not() {
    const AWAY_AFTER: Duration = Duration::from_millis(6_000 + 1_500 + 1_000);
    let (app, performance) = line_with(|settings| settings.line.presence_window_s = 6).await;
    let (gone, here) = (place(&app, &performance).await, place(&app, &performance).await);
    let mut heres = open(&app, &performance, &here).await;
    let gones = open(&app, &performance, &gone).await;
    wait_for_open_streams(&app, 2).await;

    drop(gones);
    wait_for_open_streams(&app, 1).await;
    let away_at = now().plus(AWAY_AFTER);
    eventually("a whole window has passed", async || (now() >= away_at).then_some(())).await;
    let_in(&app, &performance, 1).await;
    let admitted = heres.until("admitted").await;
    let stats = app.stats(&performance).await;

    assert_eq!(admitted["number"], 2);
    assert_eq!((&stats["away"], &stats["active"]), (&json!(1), &json!(1)), "the other was skipped");
}
