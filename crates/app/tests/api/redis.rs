//! The line on Redis: the way to a ticket, the loss of Redis under a running server, and two servers on one line.

use futures_util::future::join_all;
use serde_json::json;
use usher_app::config::{LineBackend, Secret, Settings};
use usher_test_servers::redis_server::{self, Server};

use crate::app::{Admitted, SECRET, SaleOptions, TestApp, eventually, json_of, section};

fn on_redis(settings: &mut Settings, url: &str) {
    settings.line.backend = LineBackend::Redis;
    settings.line.redis_url = Secret::new(url);
    settings.auth.secret = Secret::new(SECRET);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_to_a_ticket_is_the_same_on_redis() {
    let app = TestApp::start_with(|settings| on_redis(settings, redis_server::shared_url())).await;
    let performance = app.performance(&[section("A", 1, 4, "VIP", 150_000)], SaleOptions::default()).await;

    let buyer = app.admitted(&performance).await;
    let reservation = app.held(&buyer, &["A-1-1", "A-1-2"]).await;
    let confirmed = app.confirmed(&buyer.token, reservation["id"].as_str().unwrap()).await;

    assert_eq!(confirmed["tickets"].as_array().unwrap().len(), 2);
    app.wait_for_place(&buyer.place, &performance, "done").await;
    assert_eq!(app.get("/readyz").send().await.unwrap().status(), 200);
}

/// L16, L19: Redis restarts empty under a running server. All people keep their places, and all passes stay valid.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_restarts_under_the_server_costs_nobody_their_place() {
    let redis = Server::start(&[]);
    let app = TestApp::start_with(|settings| {
        on_redis(settings, &redis.url());
        settings.line.capacity = 5;
    })
    .await;
    let performance = app.performance(&[section("A", 1, 10, "R", 100)], SaleOptions::default()).await;
    let inside = join_all((0..5).map(|_| app.admitted(&performance))).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(app.joined(&app.buyer(), &performance).await);
    }

    let _redis = redis.restart(&[]);
    eventually("the line is back", async || {
        (app.poll(&inside[0].place, &performance).await.status() == 200).then_some(())
    })
    .await;

    for Admitted { place, pass, .. } in &inside {
        let again = app.wait_for_place(place, &performance, "admitted").await;
        assert_eq!(again["pass"]["token"], **pass, "the same pass, byte for byte");
    }
    for before in &waiting {
        let place = before["place"].as_str().unwrap();
        let after = app.wait_for_place(place, &performance, "waiting").await;
        assert_eq!(after["number"], before["number"]);
        assert!(after["position"].as_u64() <= before["position"].as_u64(), "{after} rose from {before}");
    }
    let newcomer = app.joined(&app.buyer(), &performance).await;
    assert!(waiting.iter().all(|before| before["number"].as_u64() < newcomer["number"].as_u64()));
    app.held(&inside[0], &["A-1-1"]).await;
}

/// A silent Redis is not lost: the server answers polls from memory, refuses joins for a while, and goes on when Redis
/// answers again.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_silent_for_a_while_keeps_nobody_waiting() {
    let redis = Server::start(&[]);
    let app = TestApp::start_with(|settings| {
        on_redis(settings, &redis.url());
        settings.line.capacity = 1;
    })
    .await;
    let performance = app.performance(&[section("A", 1, 10, "R", 100)], SaleOptions::default()).await;
    let inside = app.admitted(&performance).await;
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(app.joined(&app.buyer(), &performance).await);
    }
    let newcomer = app.buyer();

    redis.pause();
    let polls = join_all(waiting.iter().map(|before| app.poll(before["place"].as_str().unwrap(), &performance))).await;
    let joins = join_all((0..20).map(|_| app.join(&newcomer, &performance))).await;
    redis.resume();

    for (before, answer) in waiting.iter().zip(polls) {
        let after = json_of(answer, 200).await;
        assert_eq!((&after["number"], &after["state"]), (&before["number"], &before["state"]));
    }
    for answer in joins {
        assert!(answer.headers().contains_key("retry-after"));
        assert_eq!(json_of(answer, 503).await["code"], "line-unavailable");
    }
    eventually("the line goes on", async || (app.join(&newcomer, &performance).await.status() != 503).then_some(()))
        .await;
    let joined = app.joined(&newcomer, &performance).await;
    assert_eq!(joined["number"], 7, "however often it asked, it has one place");
    assert_eq!(app.leave(&inside.place, &performance).await.status(), 204);
    app.wait_for_place(waiting[0]["place"].as_str().unwrap(), &performance, "admitted").await;
}

/// L2, L3, L4: both servers run the scheduler on one line and one database.
#[tokio::test(flavor = "multi_thread")]
async fn two_servers_on_one_line_give_each_number_once_and_fill_the_room_once() {
    let first = TestApp::start_with(|settings| {
        on_redis(settings, redis_server::shared_url());
        settings.line.capacity = 20;
    })
    .await;
    let database = format!("sqlite://{}", first.folder().join("usher.db").display());
    let performance = first.performance(&[section("A", 5, 20, "R", 100)], SaleOptions::default()).await;
    let second = TestApp::start_with(|settings| {
        on_redis(settings, redis_server::shared_url());
        settings.line.capacity = 20;
        settings.store.url = Secret::new(database);
    })
    .await;
    second.wait_for_sale_state(&performance, "open").await;

    let servers = [&first, &second];
    let joined = join_all((0..200).map(async |person: usize| {
        let app = servers[person % 2];
        app.joined(&app.buyer(), &performance).await
    }))
    .await;

    let mut numbers: Vec<_> = joined.iter().map(|place| place["number"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 200, "each number is given once");
    eventually("both servers see the room full", async || {
        let (one, other) = (first.stats(&performance).await, second.stats(&performance).await);
        for stats in [&one, &other] {
            assert!(stats["active"].as_u64().unwrap() <= 20, "{stats}");
        }
        (one["active"] == 20 && other["active"] == 20).then_some(())
    })
    .await;
    let left = joined.iter().find(|place| place["pass"] != json!(null)).unwrap();
    let place = left["place"].as_str().unwrap();
    assert_eq!(second.leave(place, &performance).await.status(), 204);
    let seen = json_of(first.poll(place, &performance).await, 200).await;
    assert_eq!(seen["state"], "done", "what one server did, the other knows");
}
