//! The edge: slow clients, floods, shutdown, request ids, labels of metrics.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{join, join_all};
use futures_util::stream;
use reqwest::Method;
use usher_app::config::Settings;

use crate::app::{
    SaleOptions, TestApp, UsherProcess, assert_problem, eventually, header, id_of, json_of, new_key, section,
};

const LOG_IN: &str = "/api/v1/auth/login";

fn seats() -> [serde_json::Value; 1] {
    [section("A", 1, 10, "R", 100)]
}

/// E1: a client that sends slowly times out, and shuts no other client out meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_shut_nobody_out() {
    let app = TestApp::start_with(|settings| settings.http.body_timeout_ms = 6_000).await;
    let performance = app.performance(&seats(), SaleOptions::default()).await;
    let mut attackers = join_all((0..300).map(|_| app.begin_slow_request(LOG_IN))).await;

    let honest = join_all((0..50).map(async |_| {
        let buyer = app.admitted(&performance).await;
        json_of(app.get("/api/v1/concerts").send().await.unwrap(), 200).await;
        json_of(app.poll(&buyer.place, &performance).await, 200).await
    }));
    let served = honest.await.len();
    let still_attacking = attackers.iter().filter(|attacker| attacker.is_silent()).count();
    let cut_off = join_all(attackers.iter_mut().map(|attacker| attacker.answer(LOG_IN))).await;

    assert_eq!((served, still_attacking), (50, 300), "all were served while all attacked");
    for answer in cut_off {
        answer.problem(408, "request-timeout");
    }
}

/// E2: a slow client does not keep a server from stopping within the grace period of containers.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_stops_in_time_whatever_its_clients_do() {
    let mut process = UsherProcess::start().await;
    let _idle = process.connect().await;
    let _slow_body = process.begin_slow_request(LOG_IN).await;
    let mut slow_head = process.connect().await;
    slow_head.send("GET /api/v1/concerts HTTP/1.1\r\nHost: ush").await;
    json_of(process.get("/api/v1/concerts").send().await.unwrap(), 200).await;

    process.terminate();
    let status = tokio::time::timeout(Duration::from_secs(10), process.ended()).await;

    assert!(status.expect("the process ends within 10 s").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_answers_what_is_under_way() {
    let mut process = UsherProcess::start().await;
    let performance = process.performance(&seats(), SaleOptions::default()).await;
    let buyer = process.admitted(&performance).await;
    let reservation = id_of(&process.held(&buyer, &["A-1-1"]).await);

    let paying = process.confirm_request(&buyer.token, &reservation, &new_key(), "tok_slow").send();
    let stopping = async {
        eventually("the payment began", async || {
            let found = json_of(process.reservation(&buyer.token, &reservation).await, 200).await;
            (found["status"] == "paying").then_some(())
        })
        .await;
        process.terminate();
    };
    let (paid, ()) = join(paying, stopping).await;

    assert_eq!(json_of(paid.unwrap(), 200).await["status"], "confirmed");
    let status = tokio::time::timeout(Duration::from_secs(10), process.ended()).await;
    assert!(status.expect("the process ends within 10 s").success());
}

/// E3: a flood of log-ins is bounded, and does not slow down the line.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_log_ins_leaves_the_line_alone() {
    let app = TestApp::start_with(|settings| {
        settings.auth.hash_threads = 1;
        settings.auth.hash_queue = 2;
    })
    .await;
    let performance = app.performance(&seats(), SaleOptions::default()).await;
    json_of(app.sign_up("minji@example.com", "correct horse").await, 201).await;
    let (is_over, checked, shed) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));

    let flood = join_all((0..20).map(async |_| {
        while !is_over.load(Ordering::Relaxed) {
            let answer = app.log_in("minji@example.com", "wrong horse").await;
            if answer.status() == 503 {
                let problem = assert_problem(answer, 503, "overloaded").await;
                assert!(problem["retry_after_ms"].as_u64().unwrap() > 0);
                shed.fetch_add(1, Ordering::Relaxed);
            } else {
                assert_problem(answer, 401, "invalid-credentials").await;
                checked.fetch_add(1, Ordering::Relaxed);
            }
        }
    }));
    let line = async {
        eventually("the flood is more than the pool takes", async || (shed.load(Ordering::Relaxed) > 20).then_some(()))
            .await;
        for _ in 0..30 {
            let visit = async {
                let joined = app.joined(&app.buyer(), &performance).await;
                json_of(app.poll(joined["place"].as_str().unwrap(), &performance).await, 200).await
            };
            tokio::time::timeout(Duration::from_secs(2), visit).await.expect("the line answers during the flood");
        }
        is_over.store(true, Ordering::Relaxed);
    };
    join(flood, line).await;

    assert!(checked.load(Ordering::Relaxed) > 0, "some log-ins are still checked");
    json_of(app.log_in("minji@example.com", "correct horse").await, 200).await;
}

async fn request_series(app: &TestApp) -> BTreeSet<String> {
    let text = app.metrics().await;
    let series = text.lines().filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series.to_owned());
    series.filter(|series| series.starts_with("usher_http_request")).collect()
}

/// E4: labels of metrics are route patterns, so that clients cannot add series.
#[tokio::test(flavor = "multi_thread")]
async fn random_paths_add_no_metric_series() {
    let app = TestApp::start().await;
    let visit = async |n: usize| {
        let id = format!("{n:08x}-0000-7000-8000-000000000000");
        for path in
            [format!("/{n}"), format!("/api/v1/concerts/{id}"), format!("/api/v1/performances/{id}/queue?n={n}")]
        {
            app.get(&path).header("Usher-Place", n.to_string()).send().await.unwrap();
        }
        let method: Method = format!("BREW{n}").parse().unwrap();
        app.request(method, "/api/v1/concerts").send().await.unwrap();
    };
    visit(0).await;
    request_series(&app).await;
    let before = request_series(&app).await;

    stream::iter(1..=500).for_each_concurrent(16, visit).await;

    assert_eq!(request_series(&app).await, before, "2,000 random requests");
    assert!(before.iter().any(|series| series.contains("route=\"/api/v1/concerts/{concert_id}\"")), "{before:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_the_id_of_its_request() {
    let app = TestApp::start().await;
    let ask = async |id: Option<&[u8]>| {
        let mut request = app.get("/api/v1/concerts");
        if let Some(id) = id {
            request = request.header("X-Request-Id", reqwest::header::HeaderValue::from_bytes(id).unwrap());
        }
        header(&request.send().await.unwrap(), "x-request-id").unwrap().to_owned()
    };

    for sane in ["r-1", "01890a5d-ac96-774b-bcce-b302099a8057", &"x".repeat(128)] {
        assert_eq!(ask(Some(sane.as_bytes())).await, sane);
    }
    let mut made = vec![ask(None).await, ask(None).await];
    for insane in [b"".as_slice(), b"two words", "\u{fc}".as_bytes(), "x".repeat(129).as_bytes()] {
        let id = ask(Some(insane)).await;
        assert_ne!(id.as_bytes(), insane);
        made.push(id);
    }
    assert_eq!(made.iter().collect::<BTreeSet<_>>().len(), made.len(), "each its own: {made:?}");
    let of_nothing = app.get("/nowhere").header("X-Request-Id", "r-2").send().await.unwrap();
    assert_eq!(header(&of_nothing, "x-request-id"), Some("r-2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_asks_too_fast_is_told_to_wait_and_the_others_are_not() {
    let adjust = |settings: &mut Settings| {
        settings.http.requests_per_address_per_s = 5;
        settings.http.trusted_proxies.0 = vec!["127.0.0.1/32".parse().unwrap()];
    };
    let app = TestApp::start_with(adjust).await;
    let ask = async |forwarded_for: &str| {
        app.get("/api/v1/concerts").header("X-Forwarded-For", forwarded_for).send().await.unwrap()
    };

    let of_one = join_all((0..40).map(|n| {
        // A client can forge the entries before the proxy's own.
        let claimed = format!("198.51.100.{n}, 192.0.2.1");
        async move { ask(&claimed).await }
    }))
    .await;
    let of_another = ask("192.0.2.2").await;
    let health = app.get("/healthz").header("X-Forwarded-For", "192.0.2.1").send().await.unwrap();

    let (answered, refused): (Vec<_>, Vec<_>) = of_one.into_iter().partition(|answer| answer.status() == 200);
    assert!((10..=30).contains(&answered.len()), "{} of 40 were answered", answered.len());
    for refusal in refused {
        assert_problem(refusal, 429, "too-many-requests").await;
    }
    assert_eq!((of_another.status().as_u16(), health.status().as_u16()), (200, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_however_much_there_is_to_do() {
    let app = TestApp::start_with(|settings| settings.http.max_in_flight = 1).await;

    let (_busy, shed) = app.keep_busy().await;

    shed.problem(503, "overloaded");
    for path in ["/healthz", "/readyz"] {
        assert_eq!(app.get(path).send().await.unwrap().status(), 200, "{path}");
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(app.get_metrics(path).send().await.unwrap().status(), 200, "{path} of its own listener");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_arrive_is_not_waited_for() {
    let app = TestApp::start_with(|settings| settings.http.head_timeout_ms = 1_500).await;
    let mut slow = app.connect().await;
    slow.send("GET /api/v1/concerts HTTP/1.1\r\nHost: ush").await;

    let answer = slow.answer("/api/v1/concerts").await;

    assert_eq!(answer.status, 408);
    json_of(app.get("/api/v1/concerts").send().await.unwrap(), 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_without_end_are_cut_off() {
    let app = TestApp::start().await;
    let mut wire = app.connect().await;
    wire.send("GET /api/v1/concerts HTTP/1.1\r\nHost: usher\r\n").await;

    let answer =
        wire.send_without_end("/api/v1/concerts", b"X-Filler: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n").await;

    assert_eq!(answer.status, 431);
    json_of(app.get("/api/v1/concerts").send().await.unwrap(), 200).await;
}
