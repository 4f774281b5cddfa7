//! The availability of seats, as a snapshot and as a stream: a client sees the changes of others.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

use crate::app::{Api, SaleOptions, TestApp, assert_problem, eventually, header, id_of, json_of, section};
use crate::line_stream::{metric, wait_for_open_streams};
use crate::sse::{Block, Blocks};
use crate::store::tamper;

async fn get(app: &TestApp, path: &str) -> Value {
    json_of(app.get(path).send().await.unwrap(), 200).await
}

fn path(performance: &str) -> String {
    format!("/api/v1/performances/{performance}/availability")
}

/// A server with a performance of ten seats.
async fn hall() -> (TestApp, String) {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 1, 10, "R", 100)], SaleOptions::default()).await;
    (app, performance)
}

fn stream(api: &Api, performance: &str) -> RequestBuilder {
    api.get(&format!("{}/stream", path(performance)))
}

/// A request of a browser, which cannot set the header.
fn stream_after(api: &Api, performance: &str, known: &str) -> RequestBuilder {
    api.get(&format!("{}/stream?after={known}", path(performance)))
}

/// Opens a stream of the seats, from now on or after a known event.
async fn open(api: &Api, performance: &str, known: Option<&str>) -> Blocks {
    let mut request = stream(api, performance);
    if let Some(known) = known {
        request = request.header("Last-Event-ID", known);
    }
    Blocks::of(request.send().await.unwrap())
}

/// Reads the first block of a client that missed nothing: no event, but an id.
async fn beginning(blocks: &mut Blocks) -> Block {
    let first = blocks.next().await.unwrap();
    let retry_ms: u64 = first["retry"].parse().unwrap();
    assert!((1_000..5_000).contains(&retry_ms), "{first:?}");
    assert!(!first.contains_key("data") && first["id"].parse::<u64>().is_ok(), "{first:?}");
    first
}

/// The states in an event, by index.
fn seats(event: &Block) -> BTreeMap<u64, u64> {
    assert_eq!(event.get("event").map(String::as_str), Some("seats"), "{event:?}");
    let pairs: Vec<(u64, u64)> = serde_json::from_str(&event["data"]).unwrap();
    let n_pairs = pairs.len();
    let seats: BTreeMap<_, _> = pairs.into_iter().collect();
    assert_eq!(seats.len(), n_pairs, "each seat once: {event:?}");
    seats
}

fn assert_reset(event: &Block, map_version: u64) {
    assert_eq!(event.get("event").map(String::as_str), Some("reset"), "{event:?}");
    assert_eq!(serde_json::from_str::<Value>(&event["data"]).unwrap(), json!({"map_version": map_version}));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_availability_says_in_two_bits_what_the_list_says_in_words() {
    let app = TestApp::start().await;
    let sections = [section("A", 1, 5, "VIP", 150_000), section("B", 1, 4, "R", 120_000)];
    let performance = app.performance(&sections, SaleOptions::default()).await;
    let path = format!("/api/v1/performances/{performance}/availability");
    let first = get(&app, &path).await;
    let buyer = app.admitted(&performance).await;
    let sold = id_of(&app.held(&buyer, &["A-1-5", "B-1-1"]).await);
    app.confirmed(&buyer.token, &sold).await;
    app.held(&app.admitted(&performance).await, &["A-1-2", "B-1-4"]).await;

    let availability = get(&app, &path).await;
    let listed = app.list(&format!("/api/v1/performances/{performance}/seats"), None, 200).await;

    assert!(availability["sequence"].as_u64() > first["sequence"].as_u64());
    let bytes = STANDARD.decode(availability["seats"].as_str().unwrap()).unwrap();
    assert_eq!(bytes.len(), 3, "nine seats of two bits");
    let names = HashMap::from([(0, "available"), (1, "held"), (2, "sold")]);
    let states: Vec<_> = (0..9).map(|i| names[&(bytes[i / 4] >> (2 * (i % 4)) & 3)]).collect();
    let statuses: Vec<_> = listed.iter().map(|seat| seat["status"].as_str().unwrap()).collect();
    assert_eq!(states, statuses);
    assert_eq!(
        statuses,
        ["available", "held", "available", "available", "sold", "sold", "available", "available", "held"]
    );
    let versions: Vec<_> = listed.iter().map(|seat| seat["version"].as_u64().unwrap()).collect();
    assert!(versions[1] > versions[0] && versions[4] > versions[1], "+1 with each change: {versions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_changes_a_seat_sees_it_at_the_next_look() {
    let (app, performance) = hall().await;
    let look = async || {
        let shown = get(&app, &path(&performance)).await;
        STANDARD.decode(shown["seats"].as_str().unwrap()).unwrap()
    };
    assert_eq!(look().await, [0, 0, 0]);

    let buyer = app.admitted(&performance).await;
    let held = id_of(&app.held(&buyer, &["A-1-1", "A-1-10"]).await);
    assert_eq!(look().await, [0b01, 0, 0b01_00]);
    app.confirmed(&buyer.token, &held).await;
    assert_eq!(look().await, [0b10, 0, 0b10_00]);
    let other = app.admitted(&performance).await;
    let held = id_of(&app.held(&other, &["A-1-2"]).await);
    assert_eq!(look().await, [0b01_10, 0, 0b10_00]);
    assert_eq!(app.release(&other.token, &held).await.status(), 204);
    assert_eq!(look().await, [0b10, 0, 0b10_00]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_is_sent_again_only_if_something_changed() {
    let (app, performance) = hall().await;
    let look = async |tag: &str, encoding: &str| {
        let request = app.get(&path(&performance)).header("If-None-Match", tag).header("Accept-Encoding", encoding);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), header(&answer, "etag").unwrap().to_owned())
    };

    let (first, tag) = look("none", "identity").await;
    let (again, same) = look(&tag, "gzip").await;
    app.held(&app.admitted(&performance).await, &["A-1-3"]).await;
    let (changed, other) = look(&tag, "identity").await;

    assert_eq!((first, again, changed), (200, 304, 200));
    assert_eq!(tag, same);
    assert_ne!(tag, other);
    // With one writer, every event is settled at once.
    let body = json_of(app.get(&path(&performance)).send().await.unwrap(), 200).await;
    assert_eq!(other, format!("\"{}\"", body["sequence"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_what_becomes_of_the_seats() {
    let (app, performance) = hall().await;
    let mut events = open(&app, &performance, None).await;
    let first = beginning(&mut events).await;
    for (name, value) in [
        ("content-type", Some("text/event-stream")),
        ("cache-control", Some("no-store")),
        ("x-accel-buffering", Some("no")),
        ("content-encoding", None),
    ] {
        assert_eq!(header(&events.response, name), value, "{name}");
    }

    let buyer = app.admitted(&performance).await;
    let reservation = id_of(&app.held(&buyer, &["A-1-2", "A-1-7"]).await);
    let held = events.next().await.unwrap();
    app.confirmed(&buyer.token, &reservation).await;
    let sold = events.next().await.unwrap();
    let other = app.admitted(&performance).await;
    let reservation = id_of(&app.held(&other, &["A-1-1"]).await);
    let held_by_other = events.next().await.unwrap();
    app.release(&other.token, &reservation).await;
    let free = events.next().await.unwrap();

    assert_eq!(seats(&held), BTreeMap::from([(1, 1), (6, 1)]));
    assert_eq!(seats(&sold), BTreeMap::from([(1, 2), (6, 2)]));
    assert_eq!(seats(&held_by_other), BTreeMap::from([(0, 1)]));
    assert_eq!(seats(&free), BTreeMap::from([(0, 0)]));
    let ids: Vec<u64> = [first, held, sold, held_by_other, free].map(|event| event["id"].parse().unwrap()).into();
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    assert_eq!(get(&app, &path(&performance)).await["sequence"], ids[4], "the id is the sequence");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_lapses_comes_by_itself() {
    let app = TestApp::start().await;
    let options = SaleOptions { hold_ttl_s: 1, ..SaleOptions::default() };
    let performance = app.performance(&[section("A", 1, 2, "R", 100)], options).await;
    let mut events = open(&app, &performance, None).await;
    beginning(&mut events).await;

    app.held(&app.admitted(&performance).await, &["A-1-2"]).await;

    assert_eq!(seats(&events.next().await.unwrap()), BTreeMap::from([(1, 1)]));
    assert_eq!(seats(&events.next().await.unwrap()), BTreeMap::from([(1, 0)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_is_told_what_changed_since_as_it_is_now() {
    let (app, performance) = hall().await;
    let mut events = open(&app, &performance, None).await;
    beginning(&mut events).await;
    app.held(&app.admitted(&performance).await, &["A-1-1"]).await;
    let last_seen = events.next().await.unwrap()["id"].clone();
    drop(events);
    let buyer = app.admitted(&performance).await;
    let reservation = id_of(&app.held(&buyer, &["A-1-2"]).await);
    app.confirmed(&buyer.token, &reservation).await;
    app.held(&app.admitted(&performance).await, &["A-1-3"]).await;
    let sequence = get(&app, &path(&performance)).await["sequence"].to_string();
    let missed = BTreeMap::from([(1, 2), (2, 1)]);

    let again = open(&app, &performance, Some(&last_seen)).await.next().await.unwrap();
    let in_query = stream_after(&app, &performance, &last_seen).send().await.unwrap();
    let in_query = Blocks::of(in_query).next().await.unwrap();
    let in_both = stream_after(&app, &performance, "0").header("Last-Event-ID", &last_seen);
    let in_both = Blocks::of(in_both.send().await.unwrap()).next().await.unwrap();
    let from_the_start = open(&app, &performance, Some("1")).await.next().await.unwrap();
    let knows_all = beginning(&mut open(&app, &performance, Some(&sequence)).await).await;

    for event in [&again, &in_query, &in_both] {
        assert_eq!(seats(event), missed);
        assert!(event.contains_key("retry"));
    }
    assert_eq!(seats(&from_the_start), BTreeMap::from([(0, 1), (1, 2), (2, 1)]));
    assert_eq!((&again["id"], &knows_all["id"]), (&sequence, &sequence));
}

/// A client that reads the snapshot, opens a stream, and reconnects again and again, misses no change.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_and_goes_ends_up_with_what_is_so() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 4, 10, "R", 100)], SaleOptions::default()).await;
    let first = get(&app, &path(&performance)).await;
    let mut known: BTreeMap<u64, u64> = (0..40).map(|index| (index, 0)).collect();
    let buyers = app.crowd(&performance, 30).await;
    let changes = join_all((0..).zip(&buyers).map(async |(n, buyer): (usize, _)| {
        let seat = format!("A-{}-{}", n / 10 + 1, n % 10 + 1);
        let reservation = id_of(&app.held(buyer, &[&seat]).await);
        match n % 3 {
            0 => {}
            1 => drop(app.confirmed(&buyer.token, &reservation).await),
            _ => assert_eq!(app.release(&buyer.token, &reservation).await.status(), 204),
        }
    }));

    let follow = async {
        let mut last_seen = first["sequence"].to_string();
        let expected = |index: u64| if index >= 30 { 0 } else { [1, 2, 0][usize::try_from(index % 3).unwrap()] };
        let expected: BTreeMap<_, _> = (0..40).map(|index| (index, expected(index))).collect();
        let mut n_connections = 0;
        let end_of_change = eventually("the client knows all", async || {
            n_connections += 1;
            let mut events = open(&app, &performance, Some(&last_seen)).await;
            // Reads one block of each connection, so that changes fall between two connections.
            let block = tokio::time::timeout(Duration::from_secs(1), events.next()).await.ok()??;
            last_seen.clone_from(&block["id"]);
            if block.contains_key("data") {
                known.extend(seats(&block));
            }
            let shown = get(&app, &path(&performance)).await;
            (known == expected && shown["sequence"] == last_seen.parse::<u64>().unwrap()).then_some(())
        });
        end_of_change.await;
        n_connections
    };
    let (n_connections, _) = futures_util::future::join(follow, changes).await;

    assert!(n_connections > 1, "{n_connections}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_nothing_of_this_history_has_to_begin_anew() {
    let (app, performance) = hall().await;

    for unknown in ["nonsense", "-1", "1000000", "18446744073709551615"] {
        let mut events = open(&app, &performance, Some(unknown)).await;
        assert_reset(&events.next().await.unwrap(), 1);
        app.held(&app.admitted(&performance).await, &["A-1-1"]).await;
        assert_eq!(seats(&events.next().await.unwrap()), BTreeMap::from([(0, 1)]), "and goes on from there");
        tamper(app.folder(), "UPDATE reservations SET held_until = 0").await;
        assert_eq!(seats(&events.next().await.unwrap()), BTreeMap::from([(0, 0)]));
    }
    let in_query = stream_after(&app, &performance, "nonsense").send().await.unwrap();
    assert_problem(in_query, 400, "validation-failed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_for_too_many_changes_has_to_begin_anew() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 50, 100, "R", 100)], SaleOptions::default()).await;
    let early = get(&app, &path(&performance)).await["sequence"].to_string();
    let mut events = open(&app, &performance, Some(&early)).await;
    beginning(&mut events).await;

    // A test cannot hold so many seats in time, so this changes the database directly.
    let sell_all = "INSERT INTO seat_events (performance_id, seat, version, status, at) \
                    SELECT performance_id, seat, 2, 'sold', 0 FROM seats";
    assert_eq!(tamper(app.folder(), sell_all).await, 5_000);
    let shown = eventually("all are sold", async || {
        let shown = get(&app, &path(&performance)).await;
        (shown["seats"] == STANDARD.encode([0b10_10_10_10; 1_250])).then_some(shown)
    })
    .await;
    let back = open(&app, &performance, Some(&early)).await.next().await.unwrap();
    let latest = beginning(&mut open(&app, &performance, Some(&shown["sequence"].to_string())).await).await;

    assert_reset(&back, 1);
    assert_eq!(latest["id"], shown["sequence"].to_string());
    // An open stream gets all changes, in several events, or a `reset`.
    let mut sold = BTreeMap::new();
    while sold.len() < 5_000 {
        let told = events.next().await.unwrap();
        if told["event"] == "reset" {
            break;
        }
        sold.extend(seats(&told));
    }
    assert!(sold.values().all(|state| *state == 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_map_lets_everybody_begin_anew() {
    const LONG: Duration = Duration::from_secs(3_600);
    let app = TestApp::start().await;
    let performance = app.scheduled_performance(&[section("A", 1, 4, "R", 100)], LONG, SaleOptions::default()).await;
    let before = get(&app, &path(&performance)).await;
    let mut events = open(&app, &performance, None).await;
    beginning(&mut events).await;

    json_of(app.put_seats(&performance, &[section("B", 1, 9, "S", 50)]).await, 200).await;
    let after = get(&app, &path(&performance)).await;
    let told = events.next().await.unwrap();
    let back = open(&app, &performance, Some(&before["sequence"].to_string())).await.next().await.unwrap();
    let knows_it = beginning(&mut open(&app, &performance, Some(&after["sequence"].to_string())).await).await;

    assert_eq!((&before["map_version"], &after["map_version"]), (&json!(1), &json!(2)));
    assert_eq!(after["seats"], STANDARD.encode([0, 0, 0]), "the server that stored the change shows it at once");
    assert!(after["sequence"].as_u64() > before["sequence"].as_u64());
    for reset in [&told, &back] {
        assert_reset(reset, 2);
        assert_eq!(reset["id"], after["sequence"].to_string());
    }
    assert_eq!(knows_it["id"], after["sequence"].to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_look_leave_room_for_those_who_wait() {
    let app = TestApp::start_with(|settings| {
        settings.line.capacity = 0;
        settings.http.streams_max = 4;
    })
    .await;
    let performance = app.performance(&[section("A", 1, 4, "R", 100)], SaleOptions::default()).await;

    let mut looking = vec![open(&app, &performance, None).await, open(&app, &performance, None).await];
    let third = stream(&app, &performance).send().await.unwrap();
    let place = app.joined(&app.buyer(), &performance).await["place"].as_str().unwrap().to_owned();
    let waiting = app.get(&format!("/api/v1/performances/{performance}/queue/stream"));
    let waiting = waiting.header("Usher-Place", place).send().await.unwrap();

    let problem = assert_problem(third, 503, "overloaded").await;
    assert!(problem["retry_after_ms"].as_u64().unwrap() > 0);
    assert_eq!(waiting.status(), 200);
    looking.pop();
    wait_for_open_streams(&app, 2).await;
    beginning(&mut open(&app, &performance, None).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_of_the_seats_is_answered_and_opens_no_stream() {
    let (app, performance) = hall().await;

    let head = app.request(Method::HEAD, &format!("{}/stream", path(&performance))).send().await.unwrap();

    assert_eq!((head.status().as_u16(), header(&head, "content-type")), (200, Some("text/event-stream")));
    wait_for_open_streams(&app, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_ends_the_streams_of_its_seats() {
    let (mut app, performance) = hall().await;
    let mut streams = join_all((0..20).map(|_| open(&app, &performance, None))).await;
    for stream in &mut streams {
        beginning(stream).await;
    }

    let grace = Duration::from_secs(app.settings().http.shutdown_timeout_s);
    let stopped = tokio::time::timeout(grace, app.stop()).await;

    assert!(stopped.is_ok(), "the server waited for its streams");
    for stream in &mut streams {
        assert_eq!(stream.next().await, None);
    }
}

/// The client reads nothing, and the server sends more than the client's small buffer takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_its_seats_is_let_go() {
    let app = TestApp::start_with(|settings| settings.http.send_timeout_ms = 2_000).await;
    let performance = app.performance(&[section("A", 1, 10, "R", 100)], SaleOptions::default()).await;
    let mut reader = open(&app, &performance, None).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut silent = socket.connect(app.address()).await.unwrap();

    let document = "GET /api/openapi.json HTTP/1.1\r\nHost: usher\r\n\r\n";
    let request = format!("GET {}/stream HTTP/1.1\r\nHost: usher\r\n\r\n", path(&performance));
    silent.write_all(format!("{document}{request}").as_bytes()).await.unwrap();
    wait_for_open_streams(&app, 2).await;

    wait_for_open_streams(&app, 1).await;
    drop(silent);
    beginning(&mut reader).await;
    app.held(&app.admitted(&performance).await, &["A-1-1"]).await;
    assert_eq!(seats(&reader.next().await.unwrap()), BTreeMap::from([(0, 1)]), "a client that reads stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_seats_that_hangs_up_is_gone_at_once() {
    let (app, performance) = hall().await;
    let mut client = TcpStream::connect(app.address()).await.unwrap();
    let request = format!("GET {}/stream HTTP/1.1\r\nHost: usher\r\n\r\n", path(&performance));
    client.write_all(request.as_bytes()).await.unwrap();
    wait_for_open_streams(&app, 1).await;

    client.shutdown().await.unwrap();

    wait_for_open_streams(&app, 0).await;
    assert_eq!(metric(&app, "usher_streams_stalled_total").await, 0);
}
