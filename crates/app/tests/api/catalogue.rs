//! The catalogue: lists, caching, seats, seat maps, availability.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::app::{SaleOptions, TestApp, assert_problem, eventually, header, id_of, json_of, now, section, timestamp};

const LONG: Duration = Duration::from_secs(3_600);

async fn get(app: &TestApp, path: &str) -> Value {
    json_of(app.get(path).send().await.unwrap(), 200).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_shows_everything_once_whatever_its_pages() {
    let app = TestApp::start().await;
    let mut concerts = Vec::new();
    for n in 0..7 {
        concerts.push(app.concert(&format!("Night {n}")).await);
    }
    let add = |_| app.performance_without_seats(&concerts[0], LONG, SaleOptions::default());
    let mut performances = join_all((0..5).map(add)).await;
    performances.sort_unstable();
    let performances_path = format!("/api/v1/concerts/{}/performances", concerts[0]);

    for limit in [1, 2, 3, 7, 200] {
        let listed: Vec<_> = app.list("/api/v1/concerts", None, limit).await.iter().map(id_of).collect();
        assert_eq!(listed, concerts, "pages of {limit}");
        let mut listed: Vec<_> = app.list(&performances_path, None, limit).await.iter().map(id_of).collect();
        listed.sort_unstable();
        assert_eq!(listed, performances, "pages of {limit}");
    }
    let other = format!("/api/v1/concerts/{}/performances", concerts[1]);
    assert_eq!(get(&app, &other).await, json!({"items": [], "next_cursor": null}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_cannot_be_is_refused() {
    let app = TestApp::start().await;

    for (query, field) in [("limit=0", "limit"), ("limit=201", "limit"), ("limit=x", "limit"), ("cursor=x", "cursor")] {
        let refused = app.get(&format!("/api/v1/concerts?{query}")).send().await.unwrap();
        let problem = assert_problem(refused, 400, "validation-failed").await;
        assert_eq!(problem["errors"][0]["field"], field, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_concert_and_a_performance_are_shown_as_they_were_made() {
    let app = TestApp::start().await;
    let concert = app.concert("The First Night").await;
    let options = SaleOptions { lasts: Duration::from_secs(7_200), ..SaleOptions::default() };
    let before = now();
    let performance = app.performance_without_seats(&concert, LONG, options).await;

    let shown_concert = get(&app, &format!("/api/v1/concerts/{concert}")).await;
    let shown = get(&app, &format!("/api/v1/performances/{performance}")).await;

    assert_eq!(
        shown_concert,
        json!({
            "id": concert, "title": "The First Night", "description": "Two hours.", "venue": "Usher Hall",
            "running_time_min": 120,
        })
    );
    assert_eq!((&shown["id"], &shown["concert_id"]), (&json!(performance), &json!(concert)));
    let (opens_at, closes_at) = (timestamp(&shown["sale_opens_at"]), timestamp(&shown["sale_closes_at"]));
    assert!(before.plus(LONG) <= opens_at && opens_at <= now().plus(LONG));
    assert_eq!(closes_at.since(opens_at), options.lasts);
    assert_eq!(shown["sale_opens_at"].as_str().unwrap().len(), "2026-01-02T03:04:05.678Z".len(), "milliseconds");
    assert_eq!(shown["seats"], json!({"total": 0, "available": 0, "held": 0, "sold": 0}));
    let listed = app.list(&format!("/api/v1/concerts/{concert}/performances"), None, 50).await;
    let mut without_seats = shown.clone();
    without_seats.as_object_mut().unwrap().remove("seats");
    assert_eq!(listed, [without_seats]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_is_scheduled_then_open_then_closed() {
    let app = TestApp::start().await;
    let options = SaleOptions { lasts: Duration::from_secs(3), ..SaleOptions::default() };
    let later = app.scheduled_performance(&[section("A", 1, 1, "R", 100)], LONG, options).await;

    app.wait_for_sale_state(&later, "scheduled").await;
    let performance = app.performance(&[section("A", 1, 1, "R", 100)], options).await;
    let shown = get(&app, &format!("/api/v1/performances/{performance}")).await;
    app.wait_for_sale_state(&performance, "closed").await;

    assert!(now() >= timestamp(&shown["sale_closes_at"]));
    assert_problem(app.join(&app.buyer(), &performance).await, 409, "sale-closed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_is_sold_out_when_its_last_seat_is_sold() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 1, 1, "R", 100)], SaleOptions::default()).await;
    let buyer = app.admitted(&performance).await;
    let reservation = id_of(&app.held(&buyer, &["A-1-1"]).await);
    app.confirmed(&buyer.token, &reservation).await;

    app.wait_for_sale_state(&performance, "sold_out").await;
    let late = app.joined(&app.buyer(), &performance).await;

    assert_eq!((&late["state"], &late["sale_state"]), (&json!("waiting"), &json!("sold_out")));
    let shown = get(&app, &format!("/api/v1/performances/{performance}")).await;
    assert_eq!(shown["seats"], json!({"total": 1, "available": 0, "held": 0, "sold": 1}));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_browser_has_is_not_sent_again() {
    let app = TestApp::start().await;
    let sections = [section("A", 1, 3, "R", 100)];
    let performance = app.performance(&sections, SaleOptions::default()).await;
    let concert = id_of(&get(&app, "/api/v1/concerts").await["items"][0]);

    for path in [
        "/api/v1/concerts".to_owned(),
        format!("/api/v1/concerts/{concert}"),
        format!("/api/v1/concerts/{concert}/performances"),
        format!("/api/v1/performances/{performance}"),
        format!("/api/v1/performances/{performance}/seats"),
        format!("/api/v1/performances/{performance}/seat-map"),
        format!("/api/v1/performances/{performance}/availability"),
    ] {
        let first = app.get(&path).send().await.unwrap();
        let tag = header(&first, "etag").unwrap_or_else(|| panic!("{path} has no ETag")).to_owned();
        let cache_control = header(&first, "cache-control").unwrap().to_owned();
        assert!(cache_control.starts_with("public, max-age="), "{path}: {cache_control}");
        let again = app.get(&path).header("If-None-Match", &tag).send().await.unwrap();
        assert_eq!((again.status().as_u16(), header(&again, "etag")), (304, Some(tag.as_str())), "{path}");
        assert_eq!(again.bytes().await.unwrap().len(), 0);
        let other = app.get(&path).header("If-None-Match", "\"something else\"").send().await.unwrap();
        assert_eq!(other.status(), 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_seats_changes_the_tags_of_what_shows_them() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 1, 3, "R", 100)], SaleOptions::default()).await;
    let paths = ["/seats", "/availability", ""].map(|rest| format!("/api/v1/performances/{performance}{rest}"));
    let mut tags = Vec::new();
    for path in &paths {
        tags.push(header(&app.get(path).send().await.unwrap(), "etag").unwrap().to_owned());
    }

    app.held(&app.admitted(&performance).await, &["A-1-2"]).await;

    for (path, tag) in paths.iter().zip(&tags) {
        let changed = app.get(path).header("If-None-Match", tag).send().await.unwrap();
        assert_eq!(changed.status(), 200, "{path}");
        assert_ne!(header(&changed, "etag"), Some(tag.as_str()), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seats_are_listed_by_status_and_grade() {
    let app = TestApp::start().await;
    let sections = [section("A", 1, 3, "VIP", 150_000), section("B", 2, 2, "R", 120_000)];
    let performance = app.performance(&sections, SaleOptions::default()).await;
    let buyer = app.admitted(&performance).await;
    let sold = id_of(&app.held(&buyer, &["A-1-1"]).await);
    app.confirmed(&buyer.token, &sold).await;
    app.held(&app.admitted(&performance).await, &["B-1-2", "A-1-3"]).await;
    let seats = async |query: &str| -> Vec<String> {
        let listed = app.list(&format!("/api/v1/performances/{performance}/seats?{query}"), None, 2).await;
        listed.iter().map(|seat| seat["seat"].as_str().unwrap().to_owned()).collect()
    };

    assert_eq!(seats("").await, ["A-1-1", "A-1-2", "A-1-3", "B-1-1", "B-1-2", "B-2-1", "B-2-2"]);
    assert_eq!(seats("status=available").await, ["A-1-2", "B-1-1", "B-2-1", "B-2-2"]);
    assert_eq!(seats("status=held").await, ["A-1-3", "B-1-2"]);
    assert_eq!(seats("status=sold").await, ["A-1-1"]);
    assert_eq!(seats("grade=VIP").await, ["A-1-1", "A-1-2", "A-1-3"]);
    assert_eq!(seats("grade=R&status=held").await, ["B-1-2"]);
    assert_eq!(seats("grade=none").await, [""; 0]);
    let unknown = app.get(&format!("/api/v1/performances/{performance}/seats?status=gone")).send().await.unwrap();
    assert_problem(unknown, 400, "validation-failed").await;
    let all = get(&app, &format!("/api/v1/performances/{performance}/seats")).await;
    let price = json!({"amount": 120_000, "currency": "KRW"});
    let expected = json!({
        "seat": "B-2-1", "section": "B", "row": 2, "number": 1, "grade": "R", "price": price, "status": "available",
        "version": 0,
    });
    let mut shown = all["items"][5].clone();
    // The first version is up to the store. The tests of the availability check that versions rise.
    shown["version"] = json!(0);
    assert_eq!(shown, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seat_map_shows_where_every_seat_is() {
    let app = TestApp::start().await;
    let sections = [section("B", 2, 2, "R", 100), section("A", 1, 3, "VIP", 200)];
    let performance = app.scheduled_performance(&sections, LONG, SaleOptions::default()).await;
    let path = format!("/api/v1/performances/{performance}/seat-map");

    let map = get(&app, &path).await;
    json_of(app.put_seats(&performance, &[section("C", 1, 1, "S", 50)]).await, 200).await;
    let new_map = get(&app, &path).await;

    let rows: Vec<_> =
        map["sections"].as_array().unwrap().iter().flat_map(|section| section["rows"].as_array().unwrap()).collect();
    let seats: Vec<_> = rows.iter().flat_map(|row| row["seats"].as_array().unwrap()).collect();
    let names: Vec<_> = seats.iter().map(|seat| seat["seat"].as_str().unwrap()).collect();
    assert_eq!(names, ["B-1-1", "B-1-2", "B-2-1", "B-2-2", "A-1-1", "A-1-2", "A-1-3"]);
    assert!(seats.iter().enumerate().all(|(i, seat)| seat["index"] == i));
    let places: Vec<_> = seats.iter().map(|seat| (seat["x"].as_i64().unwrap(), seat["y"].as_i64().unwrap())).collect();
    let distinct: std::collections::HashSet<_> = places.iter().collect();
    assert_eq!(distinct.len(), seats.len(), "no seat stands on another");
    assert!(places[0].1 < places[2].1 && places[3].1 < places[4].1, "rows and sections stand behind each other");
    assert_eq!(places[0].0, -places[1].0, "a row is centred");
    assert_eq!(seats[4]["price"], json!({"amount": 200, "currency": "KRW"}));
    assert_eq!(seats[4]["grade"], "VIP");
    assert!(new_map["map_version"].as_u64() > map["map_version"].as_u64());
    assert_eq!(new_map["sections"][0]["name"], "C");
}

/// S4: the seats of a lapsed hold read as free.
#[tokio::test(flavor = "multi_thread")]
async fn a_lapsed_hold_is_free_in_every_view() {
    let app = TestApp::start().await;
    let options = SaleOptions { hold_ttl_s: 1, ..SaleOptions::default() };
    let performance = app.performance(&[section("A", 1, 2, "R", 100)], options).await;
    app.held(&app.admitted(&performance).await, &["A-1-1"]).await;

    eventually("the seat is free in every view", async || {
        let counts = get(&app, &format!("/api/v1/performances/{performance}")).await["seats"].clone();
        let seats = get(&app, &format!("/api/v1/performances/{performance}/seats?status=available")).await;
        let availability = get(&app, &format!("/api/v1/performances/{performance}/availability")).await;
        let all_free = counts["available"] == 2 && seats["items"].as_array()?.len() == 2;
        (all_free && availability["seats"] == STANDARD.encode([0])).then_some(())
    })
    .await;

    app.held(&app.admitted(&performance).await, &["A-1-1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_of_a_seat_map_may_be_kept_for_ever() {
    let app = TestApp::start().await;
    let performance = app.scheduled_performance(&[section("A", 1, 1, "R", 100)], LONG, SaleOptions::default()).await;
    let look = async |query: &str| {
        let answer = app.get(&format!("/api/v1/performances/{performance}/seat-map{query}")).send().await.unwrap();
        let cache_control = header(&answer, "cache-control").unwrap().to_owned();
        (json_of(answer, 200).await["map_version"].as_u64().unwrap(), cache_control)
    };
    let for_ever = "public, max-age=31536000, immutable".to_owned();
    let for_a_while = "public, max-age=60".to_owned();

    let first = [look("").await, look("?map_version=1").await, look("?map_version=2").await];
    json_of(app.put_seats(&performance, &[section("C", 1, 1, "S", 50)]).await, 200).await;
    let second = [look("").await, look("?map_version=1").await, look("?map_version=2").await];

    assert_eq!(first, [(1, for_a_while.clone()), (1, for_ever.clone()), (1, for_a_while.clone())]);
    assert_eq!(second, [(2, for_a_while.clone()), (2, for_a_while), (2, for_ever)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_answers_are_compressed_for_who_can_read_that() {
    let app = TestApp::start().await;
    let sections = [section("A", 40, 50, "R", 100)];
    let performance = app.scheduled_performance(&sections, LONG, SaleOptions::default()).await;
    let path = format!("/api/v1/performances/{performance}/seat-map");

    let plain = app.get(&path).send().await.unwrap();
    let packed = app.get(&path).header("Accept-Encoding", "gzip").send().await.unwrap();

    assert_eq!((header(&plain, "content-encoding"), header(&packed, "content-encoding")), (None, Some("gzip")));
    assert_eq!(header(&plain, "etag"), header(&packed, "etag"));
    let (plain, packed) = (plain.bytes().await.unwrap().len(), packed.bytes().await.unwrap().len());
    assert!(packed < plain / 5, "{packed} of {plain} bytes");
}
