//! The line as its clients see it: join, wait, be admitted, leave; and the gate.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use usher_account::Role;
use usher_kernel::AccountId;

use crate::app::{
    Admitted, SaleOptions, TestApp, assert_problem, eventually, header, json_of, now, section, timestamp,
};

fn seats() -> [Value; 1] {
    [section("A", 1, 10, "R", 100)]
}

/// A server whose lines have this capacity, and an open performance.
async fn line_of(capacity: u32) -> (TestApp, String) {
    let app = TestApp::start_with(|settings| settings.line.capacity = capacity).await;
    let performance = app.performance(&seats(), SaleOptions::default()).await;
    (app, performance)
}

fn text<'a>(body: &'a Value, name: &str) -> &'a str {
    body[name].as_str().unwrap_or_else(|| panic!("{name} of {body}"))
}

/// L8: one place per account, from any number of tabs.
#[tokio::test(flavor = "multi_thread")]
async fn who_joins_from_many_tabs_at_once_has_one_place() {
    let (app, performance) = line_of(0).await;
    let token = app.buyer();

    let joins = join_all((0..20).map(|_| app.join(&token, &performance))).await;

    let statuses: Vec<_> = joins.iter().map(|join| join.status().as_u16()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 19, "{statuses:?}");
    let mut places = HashSet::new();
    for join in joins {
        let status = join.status().as_u16();
        let body = json_of(join, status).await;
        places.insert((text(&body, "place").to_owned(), body["number"].as_u64()));
    }
    assert_eq!(places.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_stand_in_the_order_in_which_they_came() {
    let (app, performance) = line_of(0).await;

    let mut joined = Vec::new();
    for _ in 0..20 {
        joined.push(app.joined(&app.buyer(), &performance).await);
    }

    for (i, body) in joined.iter().enumerate() {
        assert_eq!(body["state"], "waiting");
        assert_eq!(body["number"], i + 1);
        assert_eq!(body["position"], i + 1, "1 is next");
        assert_eq!(body["ahead"], i);
        assert_eq!((&body["pass"], &body["eta_s"]), (&Value::Null, &Value::Null));
    }
    let polled = json_of(app.poll(text(&joined[6], "place"), &performance).await, 200).await;
    for name in ["place", "number", "position", "ahead", "state", "sale_state"] {
        assert_eq!(polled[name], joined[6][name], "{name}");
    }
}

/// L4, as far as clients can see it: never more people inside than the capacity, and in the order of their numbers.
#[tokio::test(flavor = "multi_thread")]
async fn those_in_front_are_admitted_as_far_as_there_is_room() {
    let (app, performance) = line_of(0).await;
    let mut places = Vec::new();
    for _ in 0..12 {
        places.push(text(&app.joined(&app.buyer(), &performance).await, "place").to_owned());
    }

    json_of(app.patch_admission(&performance, &json!({"capacity": 5})).await, 200).await;
    app.wait_for_place(&places[4], &performance, "admitted").await;

    for (i, place) in places.iter().enumerate() {
        let body = json_of(app.poll(place, &performance).await, 200).await;
        let (state, position) = if i < 5 { ("admitted", 0) } else { ("waiting", i - 4) };
        assert_eq!((text(&body, "state"), &body["position"]), (state, &json!(position)), "place {i}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_given_up_lets_the_next_in() {
    let (app, performance) = line_of(1).await;
    let inside = app.admitted(&performance).await;
    let next = app.joined(&app.buyer(), &performance).await;
    let after_next = app.joined(&app.buyer(), &performance).await;
    for (waiting, position) in [(&next, 1), (&after_next, 2)] {
        // A server's view of the line may be a tick old.
        eventually("the line has moved", async || {
            let polled = json_of(app.poll(text(waiting, "place"), &performance).await, 200).await;
            (polled["position"] == position).then_some(())
        })
        .await;
    }

    assert_eq!(app.leave(text(&next, "place"), &performance).await.status(), 204);
    assert_eq!(app.leave(&inside.place, &performance).await.status(), 204);

    app.wait_for_place(text(&after_next, "place"), &performance, "admitted").await;
    for place in [inside.place.as_str(), text(&next, "place")] {
        assert_eq!(json_of(app.poll(place, &performance).await, 200).await["state"], "done");
        assert_eq!(app.leave(place, &performance).await.status(), 204, "leaving may be repeated");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_after_leaving_stands_at_the_back() {
    let (app, performance) = line_of(0).await;
    let token = app.buyer();
    let first = app.joined(&token, &performance).await;
    app.joined(&app.buyer(), &performance).await;

    app.leave(text(&first, "place"), &performance).await;
    let again = app.join(&token, &performance).await;

    let again = json_of(again, 201).await;
    assert_eq!(again["number"], 3);
    let old_place = json_of(app.poll(text(&first, "place"), &performance).await, 200).await;
    assert_eq!(old_place["state"], "done");
}

/// L6: each pass expires by itself, without the others.
#[tokio::test(flavor = "multi_thread")]
async fn who_lets_the_pass_run_out_stands_at_the_back() {
    let (app, performance) = line_of(10).await;
    let long = app.admitted(&performance).await;
    json_of(app.patch_admission(&performance, &json!({"pass_ttl_s": 1})).await, 200).await;
    let short = app.admitted(&performance).await;

    let expired = app.wait_for_place(&short.place, &performance, "expired").await;
    json_of(app.patch_admission(&performance, &json!({"capacity": 0})).await, 200).await;
    let again = json_of(app.join(&short.token, &performance).await, 201).await;

    assert_eq!((&expired["pass"], &expired["position"]), (&Value::Null, &json!(0)));
    assert!(again["number"].as_u64() > expired["number"].as_u64());
    assert_eq!(again["state"], "waiting");
    assert_eq!(json_of(app.poll(&long.place, &performance).await, 200).await["state"], "admitted");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pass_is_the_same_bytes_however_often_it_is_shown() {
    let (app, performance) = line_of(1).await;
    let token = app.buyer();
    let buyer = app.admit(&token, &performance).await;

    let polled = json_of(app.poll(&buyer.place, &performance).await, 200).await;
    let joined = json_of(app.join(&token, &performance).await, 200).await;

    for body in [&polled, &joined] {
        assert_eq!(body["state"], "admitted");
        assert_eq!(text(&body["pass"], "token"), buyer.pass);
        assert_eq!(body["position"], 0);
    }
    let lives = timestamp(&polled["pass"]["expires_at"]).since(now());
    assert!(Duration::from_secs(240) < lives && lives <= Duration::from_secs(300), "{lives:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_gets_the_pass_as_a_cookie_that_scripts_cannot_read() {
    let app =
        TestApp::start_with(|settings| settings.http.trusted_proxies.0 = vec!["127.0.0.1/32".parse().unwrap()]).await;
    let performance = app.performance(&seats(), SaleOptions::default()).await;
    let buyer = app.admitted(&performance).await;
    let path = format!("/api/v1/performances/{performance}/queue");

    let plain = app.poll(&buyer.place, &performance).await;
    let by_tls = app.get(&path).header("Usher-Place", &buyer.place).header("X-Forwarded-Proto", "https");
    let by_tls = by_tls.send().await.unwrap();

    let [plain, by_tls] = [plain, by_tls].map(|response| header(&response, "set-cookie").unwrap().to_owned());
    for cookie in [&plain, &by_tls] {
        let mut parts = cookie.split("; ");
        assert_eq!(parts.next(), Some(format!("usher_pass={}", buyer.pass).as_str()));
        let attributes: HashSet<_> = parts.collect();
        for attribute in ["HttpOnly", "SameSite=Lax", "Path=/"] {
            assert!(attributes.contains(attribute), "{attribute} of {cookie}");
        }
        assert!(attributes.iter().any(|attribute| attribute.starts_with("Max-Age=")), "{cookie}");
    }
    assert!(!plain.contains("Secure") && by_tls.contains("; Secure"), "{plain} / {by_tls}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_gets_no_cookie() {
    let (app, performance) = line_of(0).await;

    let waiting = app.join(&app.buyer(), &performance).await;

    assert_eq!((waiting.status().as_u16(), header(&waiting, "set-cookie")), (201, None));
    assert_eq!(header(&waiting, "cache-control"), Some("no-store"));
}

/// L12, L13, for pages behind the gate.
#[tokio::test(flavor = "multi_thread")]
async fn the_gate_opens_for_passes_only_and_refuses_all_else_alike() {
    let (app, performance) = line_of(1).await;
    let elsewhere = app.performance(&seats(), SaleOptions::default()).await;
    let buyer = app.admitted(&performance).await;
    let other = app.admitted(&elsewhere).await;
    let waiting = app.joined(&app.buyer(), &performance).await;
    let gate = |performance: &str| app.get(&format!("/api/v1/performances/{performance}/gate"));
    let cookie = |pass: &str| format!("theme=dark; usher_pass={pass}; lang=ko");

    let by_header = gate(&performance).header("Usher-Pass", &buyer.pass).send().await.unwrap();
    let by_cookie = gate(&performance).header("Cookie", cookie(&buyer.pass)).send().await.unwrap();
    assert_eq!((by_header.status().as_u16(), by_cookie.status().as_u16()), (200, 200));
    assert_eq!(header(&by_header, "usher-pass-id"), Some("1"));
    let account = header(&by_header, "usher-account").unwrap();
    assert!(account.len() == 32 && header(&by_cookie, "usher-account") == Some(account), "{account}");

    let mut refusals = Vec::new();
    for (case, request) in [
        ("nothing", gate(&performance)),
        ("an access token", gate(&performance).bearer_auth(&buyer.token)),
        ("nonsense", gate(&performance).header("Usher-Pass", "nonsense")),
        ("the place", gate(&performance).header("Usher-Pass", &buyer.place)),
        ("a waiting place", gate(&performance).header("Usher-Pass", text(&waiting, "place"))),
        ("another performance's pass", gate(&performance).header("Usher-Pass", &other.pass)),
        ("another performance's pass as a cookie", gate(&performance).header("Cookie", cookie(&other.pass))),
        ("no performance", gate("nonsense").header("Usher-Pass", &buyer.pass)),
        ("an unknown performance", gate("01890a5d-ac96-774b-bcce-b302099a8057").header("Usher-Pass", &buyer.pass)),
    ] {
        refusals.push((case, request.send().await.unwrap()));
    }
    app.leave(&buyer.place, &performance).await;
    let given_up = gate(&performance).header("Usher-Pass", &buyer.pass).send().await.unwrap();
    refusals.push(("a pass that was given up", given_up));

    let mut bodies = HashSet::new();
    for (case, refusal) in refusals {
        let mut body = assert_problem(refusal, 401, "pass-invalid").await;
        body.as_object_mut().unwrap().remove("instance");
        bodies.insert(body.to_string());
        assert_eq!(bodies.len(), 1, "{case} is refused in other words: {bodies:?}");
    }
}

/// Envoy sends the method and the path of the request, and a shop ends the pass at its check-out.
#[tokio::test(flavor = "multi_thread")]
async fn the_gate_answers_every_method_and_path_until_the_pass_is_ended_by_itself() {
    let (app, performance) = line_of(1).await;
    let buyer = app.admitted(&performance).await;
    let gate = format!("/api/v1/performances/{performance}/gate");
    let methods =
        [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    let ask = async |method: &Method, path: &str, pass: Option<&str>| {
        let request = app.request(method.clone(), path);
        let request = pass.into_iter().fold(request, |request, pass| request.header("Usher-Pass", pass));
        request.send().await.unwrap().status().as_u16()
    };

    for method in &methods {
        for path in [gate.clone(), format!("{gate}/"), format!("{gate}/cart/42?x=1")] {
            assert_eq!(ask(method, &path, Some(&buyer.pass)).await, 200, "{method} {path}");
            assert_eq!(ask(method, &path, None).await, 401, "{method} {path}");
        }
    }
    let queue = format!("/api/v1/performances/{performance}/queue");
    let elsewhere = app.performance(&seats(), SaleOptions::default()).await;
    let of_another = app.delete(&format!("/api/v1/performances/{elsewhere}/queue")).header("Usher-Pass", &buyer.pass);
    assert_problem(of_another.send().await.unwrap(), 403, "pass-mismatch").await;
    for _ in 0..2 {
        assert_eq!(app.delete(&queue).header("Usher-Pass", &buyer.pass).send().await.unwrap().status(), 204);
    }

    assert_eq!(ask(&Method::GET, &gate, Some(&buyer.pass)).await, 401);
    app.wait_for_place(&buyer.place, &performance, "done").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_shuts_when_the_pass_runs_out_or_is_used_up() {
    let (app, performance) = line_of(10).await;
    let used = app.admitted(&performance).await;
    json_of(app.patch_admission(&performance, &json!({"pass_ttl_s": 1})).await, 200).await;
    let short = app.admitted(&performance).await;
    let gate = async |buyer: &Admitted| {
        let path = format!("/api/v1/performances/{performance}/gate");
        app.get(&path).header("Usher-Pass", &buyer.pass).send().await.unwrap()
    };

    assert_eq!(gate(&used).await.status(), 200);
    let reservation = crate::app::id_of(&app.held(&used, &["A-1-1"]).await);
    app.confirmed(&used.token, &reservation).await;
    app.wait_for_place(&short.place, &performance, "expired").await;

    for buyer in [&used, &short] {
        assert_problem(gate(buyer).await, 401, "pass-invalid").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_before_the_sale_waits_for_it() {
    let app = TestApp::start().await;
    let opens_in = Duration::from_secs(2);
    let performance = app.scheduled_performance(&seats(), opens_in, SaleOptions::default()).await;
    let path = format!("/api/v1/performances/{performance}");
    let shown = json_of(app.get(&path).send().await.unwrap(), 200).await;
    let opens_at = timestamp(&shown["sale_opens_at"]);

    let early = app.joined(&app.buyer(), &performance).await;
    let place = text(&early, "place");
    let was_early = now() < opens_at;
    let first_inside = eventually("the sale opens and the first are inside", async || {
        let response = app.poll(place, &performance).await;
        if response.status() == 429 {
            return None;
        }
        (json_of(response, 200).await["state"] == "admitted").then(now)
    })
    .await;

    assert!(was_early, "the test was too slow to come early");
    assert_eq!((text(&early, "state"), text(&early, "sale_state")), ("waiting", "scheduled"));
    assert!(first_inside >= opens_at, "no person is inside before the sale");
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_lobby_opens_nobody_joins() {
    let app = TestApp::start_with(|settings| settings.line.lobby_s = 60).await;
    let performance = app.scheduled_performance(&seats(), Duration::from_secs(120), SaleOptions::default()).await;

    let too_early = app.join(&app.buyer(), &performance).await;

    let problem = assert_problem(too_early, 409, "sale-not-open").await;
    let shown = json_of(app.get(&format!("/api/v1/performances/{performance}")).send().await.unwrap(), 200).await;
    let lobby_opens_at = timestamp(&shown["sale_opens_at"]).minus(Duration::from_secs(60));
    let told = text(&problem, "detail")
        .split_whitespace()
        .find_map(|word| word.starts_with("20").then(|| timestamp(&json!(word.trim_end_matches('.')))));
    assert_eq!(told, Some(lobby_opens_at), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_line_takes_people_and_admits_nobody() {
    let (app, performance) = line_of(10).await;
    json_of(app.patch_admission(&performance, &json!({"state": "paused"})).await, 200).await;

    let waiting = app.joined(&app.buyer(), &performance).await;
    app.wait_for_sale_state(&performance, "paused").await;
    let still = json_of(app.poll(text(&waiting, "place"), &performance).await, 200).await;
    json_of(app.patch_admission(&performance, &json!({"state": "open"})).await, 200).await;

    assert_eq!((text(&waiting, "state"), text(&waiting, "sale_state")), ("waiting", "paused"));
    assert_eq!(text(&still, "state"), "waiting");
    app.wait_for_place(text(&waiting, "place"), &performance, "admitted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_ones_own_place_in_this_line_counts() {
    let (app, performance) = line_of(0).await;
    let elsewhere = app.performance(&seats(), SaleOptions::default()).await;
    let place = text(&app.joined(&app.buyer(), &performance).await, "place").to_owned();
    let damaged: Vec<_> = [0, place.len() / 2, place.len() - 1]
        .into_iter()
        .map(|i| {
            let other = if &place[i..=i] == "A" { "B" } else { "A" };
            format!("{}{other}{}", &place[..i], &place[i + 1..])
        })
        .collect();

    assert_problem(app.poll(&place, &elsewhere).await, 403, "pass-mismatch").await;
    assert_problem(app.leave(&place, &elsewhere).await, 403, "pass-mismatch").await;
    for wrong in damaged.iter().map(String::as_str).chain(["", "nonsense", &place[1..], &format!("{place}A")]) {
        assert_problem(app.poll(wrong, &performance).await, 401, "place-invalid").await;
        assert_problem(app.leave(wrong, &performance).await, 401, "place-invalid").await;
    }
    assert_eq!(json_of(app.poll(&place, &performance).await, 200).await["state"], "waiting");
}

/// L14: the account comes from signed tokens, and from nothing that a client can forge.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_joins_or_looks_as_somebody_else() {
    let (app, performance) = line_of(0).await;
    let victim = AccountId::from_bytes([7; 16]);
    let victims_place = app.joined(&app.token(victim, Role::Buyer), &performance).await;
    let path = format!("/api/v1/performances/{performance}/queue");
    let attacker = app.buyer();

    let body = json!({"account": victim.to_string(), "account_id": victim.to_string(), "user_id": victim.to_string()});
    let by_body = app.post(&format!("{path}?account={victim}")).bearer_auth(&attacker).json(&body);
    let by_body = json_of(by_body.send().await.unwrap(), 201).await;
    let without_token = app.post(&path).json(&body).send().await.unwrap();
    let by_id = app.get(&format!("{path}?account={victim}&number=1")).bearer_auth(&attacker).send().await.unwrap();
    let by_number = app.get(&path).header("Usher-Place", "1").send().await.unwrap();

    assert_ne!(by_body["number"], victims_place["number"]);
    assert_problem(without_token, 401, "unauthenticated").await;
    assert_problem(by_id, 401, "place-invalid").await;
    assert_problem(by_number, 401, "place-invalid").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_polls_far_too_fast_is_told_to_wait_and_nobody_else_is() {
    let (app, performance) = line_of(0).await;
    let hasty = text(&app.joined(&app.buyer(), &performance).await, "place").to_owned();
    let patient = text(&app.joined(&app.buyer(), &performance).await, "place").to_owned();

    let polls = join_all((0..100).map(|_| app.poll(&hasty, &performance))).await;
    let honest = app.poll(&patient, &performance).await;

    let (answered, refused): (Vec<_>, Vec<_>) = polls.into_iter().partition(|poll| poll.status() == 200);
    assert!(answered.len() >= 40, "a burst is forgiven: {}", answered.len());
    assert!(!refused.is_empty());
    for refusal in refused {
        let problem = assert_problem(refusal, 429, "too-many-requests").await;
        assert!(problem["retry_after_ms"].as_u64().unwrap() > 0);
    }
    assert_eq!(honest.status(), 200);
    eventually("after a while it may poll again", async || {
        (app.poll(&hasty, &performance).await.status() == 200).then_some(())
    })
    .await;
}

/// L21: people who join together are not told to poll together.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_poll_is_spread_by_jitter() {
    let (app, performance) = line_of(0).await;
    let buyers: Vec<_> = (0..200).map(|_| app.buyer()).collect();

    let joined = join_all(buyers.iter().map(|buyer| app.joined(buyer, &performance))).await;

    // As parts of the interval without jitter: 2 s, and 10 ms for each position.
    let parts: Vec<_> = joined
        .iter()
        .map(|body| body["poll_after_ms"].as_f64().unwrap() / (2_000.0 + 10.0 * body["position"].as_f64().unwrap()))
        .collect();
    assert!(parts.iter().all(|part| (0.74..=1.26).contains(part)), "{parts:?}");
    for fifth in 0..5 {
        let (low, high) = (0.75 + 0.1 * f64::from(fifth), 0.85 + 0.1 * f64::from(fifth));
        let within = parts.iter().filter(|part| (low..high).contains(*part)).count();
        assert!((15..=80).contains(&within), "{within} of 200 between {low} and {high}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_do_not_know_of_each_other() {
    let (app, performance) = line_of(1).await;
    let elsewhere = app.performance(&seats(), SaleOptions::default()).await;
    let token = app.buyer();

    let here = app.admit(&token, &performance).await;
    let there = app.admit(&token, &elsewhere).await;
    app.leave(&here.place, &performance).await;

    assert_eq!(json_of(app.poll(&here.place, &performance).await, 200).await["state"], "done");
    assert_eq!(json_of(app.poll(&there.place, &elsewhere).await, 200).await["state"], "admitted");
}
