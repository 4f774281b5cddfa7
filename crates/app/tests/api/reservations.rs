//! Reservations: what buyers can and cannot do with holds, payments and releases.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use usher_account::Role;
use usher_kernel::{AccountId, PerformanceId};
use usher_queue::{AccountHash, Grant, PlaceNumber, TokenKeys};

use crate::app::{
    Admitted, Answer, Api, SaleOptions, TestApp, assert_problem, eventually, id_of, json_of, new_key, now, section,
    timestamp,
};
use crate::at_once::at_once;
use crate::store::{assert_verified, captures, number, tamper, verify};

/// Ten seats in front, twenty behind.
fn hall() -> [Value; 2] {
    [section("A", 1, 10, "VIP", 150_000), section("B", 1, 20, "R", 120_000)]
}

/// Holds that lapse soon, and last long enough for a few requests.
const SHORT: SaleOptions = SaleOptions { lasts: Duration::from_secs(86_400), seats_per_buyer: 4, hold_ttl_s: 2 };

fn seats_of(reservation: &Value) -> Vec<&str> {
    reservation["seats"].as_array().unwrap().iter().map(|seat| seat["seat"].as_str().unwrap()).collect()
}

/// Holds a seat as soon as another buyer's hold on it has lapsed.
async fn take_over(api: &Api, who: &Admitted, seat: &str) -> Value {
    eventually("the hold lapses", async || {
        let response = api.hold(who, &[seat]).await;
        if response.status() == 201 {
            return Some(json_of(response, 201).await);
        }
        assert_problem(response, 409, "seat-taken").await;
        None
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_signs_up_waits_their_turn_and_goes_home_with_tickets() {
    let app = TestApp::start().await;
    let performance = app.performance(&hall(), SaleOptions::default()).await;

    let token = app.sign_up_and_log_in("minji@example.com").await;
    let concerts = app.list("/api/v1/concerts", None, 50).await;
    let dates = app.list(&format!("/api/v1/concerts/{}/performances", id_of(&concerts[0])), None, 50).await;
    assert_eq!((id_of(&dates[0]), &dates[0]["sale_state"]), (performance.clone(), &json!("open")));
    let minji = app.admit(&token, &performance).await;

    let held = app.held(&minji, &["B-1-2", "A-1-1"]).await;

    let vip = json!({"seat": "A-1-1", "grade": "VIP", "price": {"amount": 150_000, "currency": "KRW"}});
    let r = json!({"seat": "B-1-2", "grade": "R", "price": {"amount": 120_000, "currency": "KRW"}});
    assert_eq!(held["seats"], json!([r, vip]), "in the order asked for");
    assert_eq!(held["total"], json!({"amount": 270_000, "currency": "KRW"}));
    assert_eq!((&held["status"], &held["tickets"]), (&json!("held"), &json!([])));
    assert_eq!(held["performance_id"], performance);
    let lasts = timestamp(&held["held_until"]).since(timestamp(&held["created_at"]));
    assert_eq!(lasts, Duration::from_secs(300));
    let reservation = id_of(&held);
    assert_eq!(json_of(app.reservation(&token, &reservation).await, 200).await, held);
    assert_eq!(app.list("/api/v1/reservations", Some(&token), 50).await, [held]);
    let detail = |performance: &str| app.get(&format!("/api/v1/performances/{performance}"));
    let before = json_of(detail(&performance).send().await.unwrap(), 200).await;
    assert_eq!(before["seats"], json!({"total": 30, "available": 28, "held": 2, "sold": 0}));

    let confirmed = app.confirmed(&token, &reservation).await;

    assert_eq!(confirmed["status"], "confirmed");
    let tickets = confirmed["tickets"].as_array().unwrap();
    assert_eq!(tickets.iter().map(|ticket| &ticket["seat"]).collect::<Vec<_>>(), ["B-1-2", "A-1-1"]);
    let codes: BTreeSet<_> = tickets.iter().map(|ticket| ticket["code"].as_str().unwrap()).collect();
    assert!(codes.len() == 2 && codes.iter().all(|code| code.len() == 26), "{codes:?}");
    assert_eq!(json_of(app.reservation(&token, &reservation).await, 200).await, confirmed);
    assert_eq!(app.list("/api/v1/reservations", Some(&token), 50).await, [confirmed]);
    let after = json_of(detail(&performance).send().await.unwrap(), 200).await;
    assert_eq!(after["seats"], json!({"total": 30, "available": 28, "held": 0, "sold": 2}));
    let statuses = app.seat_statuses(&performance).await;
    let sold: Vec<_> = statuses.iter().filter(|(_, status)| *status == "sold").map(|(seat, _)| seat.as_str()).collect();
    assert_eq!(sold, ["A-1-1", "B-1-2"]);
    let place = json_of(app.poll(&minji.place, &performance).await, 200).await;
    assert_eq!((&place["state"], &place["pass"]), (&json!("done"), &Value::Null));
    assert_problem(app.hold(&minji, &["A-1-2"]).await, 403, "pass-used").await;
    assert_verified(app.folder()).await;
}

/// LESSONS S6: a request cannot set a price, and the gateway charges the price in the database.
#[tokio::test(flavor = "multi_thread")]
async fn prices_come_from_the_database_only() {
    let app = TestApp::start().await;
    let performance = app.performance(&hall(), SaleOptions::default()).await;
    let who = app.admitted(&performance).await;
    let price = json!({"amount": 1, "currency": "KRW"});

    for wish in [
        json!({"seats": ["A-1-1"], "price": price}),
        json!({"seats": ["A-1-1"], "total": price}),
        json!({"seats": [{"seat": "A-1-1", "price": price}]}),
    ] {
        let response = app.hold_request(&who, &new_key(), &wish).send().await.unwrap();
        assert_problem(response, 400, "validation-failed").await;
    }
    let held = app.held(&who, &["A-1-1"]).await;
    let confirm = app.post(&format!("/api/v1/reservations/{}/confirm", id_of(&held))).bearer_auth(&who.token);
    let payment = json!({"payment": {"method": "simulated", "token": "tok_ok", "amount": 1}});
    let response = confirm.header("Idempotency-Key", new_key()).json(&payment).send().await.unwrap();
    assert_problem(response, 400, "validation-failed").await;
    app.confirmed(&who.token, &id_of(&held)).await;

    assert_eq!(held["total"]["amount"], 150_000);
    let charged = number(app.folder(), "SELECT sum(amount) FROM simulated_charges WHERE outcome = 'captured'").await;
    assert_eq!(charged, 150_000);
    assert_verified(app.folder()).await;
}

/// LESSONS S7.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_held_whole_or_not_at_all_and_every_conflict_is_named() {
    let app = TestApp::start().await;
    let performance = app.performance(&hall(), SaleOptions::default()).await;
    let [holder, owner, group] = [(); 3].map(|()| app.admitted(&performance));
    let (holder, owner, group) = tokio::join!(holder, owner, group);
    app.held(&holder, &["A-1-4"]).await;
    let bought = app.held(&owner, &["A-1-2"]).await;
    app.confirmed(&owner.token, &id_of(&bought)).await;

    let refusal = app.hold(&group, &["A-1-4", "A-1-3", "A-1-2", "A-1-1"]).await;

    let problem = assert_problem(refusal, 409, "seat-taken").await;
    assert_eq!(problem["conflicts"], json!(["A-1-4", "A-1-2"]), "all of them, and no other");
    let statuses = app.seat_statuses(&performance).await;
    let of = |seat: &str| statuses[seat].as_str();
    assert_eq!([of("A-1-1"), of("A-1-2"), of("A-1-3"), of("A-1-4")], ["available", "sold", "available", "held"]);
    assert_eq!(app.list("/api/v1/reservations", Some(&group.token), 50).await, Vec::<Value>::new());
    let rest = app.held(&group, &["A-1-3", "A-1-1"]).await;
    assert_eq!(seats_of(&rest), ["A-1-3", "A-1-1"], "the refusal used nothing up");
    assert_verified(app.folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_best_seats_are_side_by_side_in_front_and_of_the_grade_asked_for() {
    let app = TestApp::start().await;
    let performance = app.performance(&hall(), SaleOptions::default()).await;
    let [first, second, third, last] = [(); 4].map(|()| app.admitted(&performance));
    let (first, second, third, last) = tokio::join!(first, second, third, last);
    let key = new_key();
    let wish = json!({"best_available": {"count": 2}});

    let best = json_of(app.hold_request(&first, &key, &wish).send().await.unwrap(), 201).await;
    let of_grade = json_of(app.hold_best(&second, 4, Some("R")).await, 201).await;
    let rest = json_of(app.hold_best(&third, 4, Some("VIP")).await, 201).await;
    let again = json_of(app.hold_request(&first, &key, &wish).send().await.unwrap(), 201).await;

    assert_eq!(seats_of(&best), ["A-1-5", "A-1-6"]);
    assert_eq!(best["total"], json!({"amount": 300_000, "currency": "KRW"}));
    assert_eq!(again, best, "the same request has the same seats");
    assert_eq!(seats_of(&of_grade), ["B-1-9", "B-1-10", "B-1-11", "B-1-12"]);
    assert_eq!(seats_of(&rest), ["A-1-1", "A-1-2", "A-1-3", "A-1-4"]);
    let other = app.hold_request(&first, &key, &json!({"best_available": {"count": 1}})).send().await.unwrap();
    assert_problem(other, 422, "idempotency-mismatch").await;
    assert_problem(app.hold_best(&last, 5, Some("R")).await, 409, "limit-reached").await;
    let unknown = assert_problem(app.hold_best(&last, 1, Some("S")).await, 400, "validation-failed").await;
    assert_eq!(unknown["errors"][0]["field"], "best_available.grade");
    let bought = json_of(app.hold_best(&last, 4, None).await, 201).await;
    assert_eq!(seats_of(&bought), ["A-1-7", "A-1-8", "A-1-9", "A-1-10"]);
    app.confirmed(&last.token, &id_of(&bought)).await;
    let late = app.admitted(&performance).await;
    assert_problem(app.hold_best(&late, 1, Some("VIP")).await, 409, "not-enough-seats").await;
    app.release(&third.token, &id_of(&rest)).await;
    let released = json_of(app.hold_best(&late, 1, Some("VIP")).await, 201).await;
    assert_eq!(seats_of(&released), ["A-1-4"], "at the side, so that no single seat is left");
    assert_verified(app.folder()).await;
}

/// LESSONS S4.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_lapsed_keeps_nobody_from_the_seat() {
    let app = TestApp::start().await;
    let performance = app.performance(&hall(), SHORT).await;
    let (early, late) = tokio::join!(app.admitted(&performance), app.admitted(&performance));
    let lapsing = app.held(&early, &["A-1-1"]).await;

    let taken = take_over(&app, &late, "A-1-1").await;
    let bought = app.confirmed(&late.token, &id_of(&taken)).await;

    assert!(timestamp(&taken["created_at"]) >= timestamp(&lapsing["held_until"]), "not before its time");
    assert_eq!(seats_of(&bought), ["A-1-1"]);
    let lapsed = json_of(app.reservation(&early.token, &id_of(&lapsing)).await, 200).await;
    assert_eq!(lapsed["status"], "expired");
    assert_eq!(app.seat_statuses(&performance).await["A-1-1"], "sold");
    assert_verified(app.folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lapsed_hold_reads_expired_and_its_seats_available_to_everybody() {
    let app = TestApp::start().await;
    let performance = app.performance(&hall(), SaleOptions { hold_ttl_s: 1, ..SHORT }).await;
    let who = app.admitted(&performance).await;
    let held = app.held(&who, &["A-1-1", "A-1-2"]).await;
    let deadline = timestamp(&held["held_until"]);

    eventually("the hold lapses", async || (now() >= deadline).then_some(())).await;

    // At once, even before the sweeper runs.
    let lapsed = json_of(app.reservation(&who.token, &id_of(&held)).await, 200).await;
    assert_eq!(lapsed["status"], "expired");
    assert!(app.seat_statuses(&performance).await.values().all(|status| status == "available"));
    let again = app.held(&who, &["A-1-1"]).await;
    assert_eq!(again["status"], "held", "and the pass is free for another hold");
    assert_verified(app.folder()).await;
}

/// LESSONS S5.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_release_or_confirm_touches_nothing_of_the_next_owners() {
    let app = TestApp::start().await;
    let performance = app.performance(&hall(), SHORT).await;
    let (early, late) = tokio::join!(app.admitted(&performance), app.admitted(&performance));
    let lapsing = id_of(&app.held(&early, &["A-1-1"]).await);
    let taken = take_over(&app, &late, "A-1-1").await;
    let too_late = async || {
        assert_problem(app.release(&early.token, &lapsing).await, 409, "hold-expired").await;
        assert_problem(app.confirm(&early.token, &lapsing, "tok_ok").await, 409, "hold-expired").await;
    };

    too_late().await;
    let unharmed = json_of(app.reservation(&late.token, &id_of(&taken)).await, 200).await;
    let bought = app.confirmed(&late.token, &id_of(&taken)).await;
    too_late().await;

    assert_eq!(unharmed, taken);
    assert_eq!(json_of(app.reservation(&late.token, &id_of(&taken)).await, 200).await, bought);
    assert_eq!(app.seat_statuses(&performance).await["A-1-1"], "sold");
    assert_eq!(captures(app.folder()).await, 1, "the late confirm charged nothing");
    assert_verified(app.folder()).await;
}

/// LESSONS S12: the second release does nothing, even if the seat has a new owner by then.
#[tokio::test(flavor = "multi_thread")]
async fn released_seats_are_free_at_once_and_releasing_again_does_nothing() {
    let app = TestApp::start().await;
    let performance = app.performance(&hall(), SaleOptions::default()).await;
    let (first, next) = tokio::join!(app.admitted(&performance), app.admitted(&performance));
    let given_back = id_of(&app.held(&first, &["A-1-1", "A-1-2"]).await);

    assert_eq!(app.release(&first.token, &given_back).await.status(), 204);
    let taken = app.held(&next, &["A-1-1"]).await;
    assert_eq!(app.release(&first.token, &given_back).await.status(), 204);

    assert_eq!(json_of(app.reservation(&next.token, &id_of(&taken)).await, 200).await, taken);
    let statuses = app.seat_statuses(&performance).await;
    assert_eq!((statuses["A-1-1"].as_str(), statuses["A-1-2"].as_str()), ("held", "available"));
    let released = json_of(app.reservation(&first.token, &given_back).await, 200).await;
    assert_eq!(released["status"], "released");
    assert_problem(app.confirm(&first.token, &given_back, "tok_ok").await, 409, "reservation-state").await;
    assert_eq!(seats_of(&app.held(&first, &["A-1-3"]).await), ["A-1-3"], "the pass is free for another hold");
    assert_verified(app.folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_reservation_cannot_be_given_back() {
    let app = TestApp::start().await;
    let performance = app.performance(&hall(), SaleOptions::default()).await;
    let who = app.admitted(&performance).await;
    let reservation = id_of(&app.held(&who, &["A-1-1"]).await);
    let bought = app.confirmed(&who.token, &reservation).await;

    assert_problem(app.release(&who.token, &reservation).await, 409, "reservation-state").await;

    assert_eq!(json_of(app.reservation(&who.token, &reservation).await, 200).await, bought);
    assert_verified(app.folder()).await;
}

/// LESSONS L15: a pass carries one reservation at a time, and ends with the first that is paid.
#[tokio::test(flavor = "multi_thread")]
async fn a_pass_carries_one_reservation_at_a_time_and_ends_with_the_first_that_is_paid() {
    let app = TestApp::start().await;
    let performance = app.performance(&hall(), SaleOptions::default()).await;
    let who = app.admitted(&performance).await;

    let first = id_of(&app.held(&who, &["A-1-1"]).await);
    assert_problem(app.hold(&who, &["A-1-2"]).await, 409, "reservation-state").await;
    app.release(&who.token, &first).await;
    let second = id_of(&app.held(&who, &["A-1-2"]).await);
    app.confirmed(&who.token, &second).await;

    assert_problem(app.hold(&who, &["A-1-3"]).await, 403, "pass-used").await;
    assert_eq!(app.list("/api/v1/reservations", Some(&who.token), 50).await.len(), 2);
    assert_verified(app.folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyers_seat_limit_counts_what_they_bought_with_other_passes() {
    let app = TestApp::start().await;
    let performance = app.performance(&hall(), SaleOptions::default()).await;
    let first = app.admitted(&performance).await;
    assert_problem(app.hold(&first, &["A-1-1", "A-1-2", "A-1-3", "A-1-4", "A-1-5"]).await, 409, "limit-reached").await;
    let three = app.held(&first, &["A-1-1", "A-1-2", "A-1-3"]).await;
    app.confirmed(&first.token, &id_of(&three)).await;

    let second = app.admit(&first.token, &performance).await;

    assert_ne!(second.pass, first.pass);
    assert_problem(app.hold(&second, &["A-1-4", "A-1-5"]).await, 409, "limit-reached").await;
    let fourth = app.held(&second, &["A-1-4"]).await;
    app.confirmed(&second.token, &id_of(&fourth)).await;
    let third = app.admit(&first.token, &performance).await;
    assert_problem(app.hold(&third, &["A-1-5"]).await, 409, "limit-reached").await;
    let statuses = app.seat_statuses(&performance).await;
    assert_eq!(statuses.values().filter(|status| *status == "sold").count(), 4);
    assert_verified(app.folder()).await;
}

/// LESSONS S10: a line issues one pass at a time, so the test signs fifty passes for one account. The limit holds
/// although every request has its own pass and names its own seat.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_requests_of_one_buyer_at_once_never_get_more_seats_than_the_limit() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 5, 20, "VIP", 150_000)], SaleOptions::default()).await;
    let account = AccountId::from_bytes(rand::random());
    let token = app.token(account, Role::Buyer);
    let keys = TokenKeys::new(app.settings().secret().unwrap().expose(), None);
    let pass = |number| {
        let expires_at = now().plus(Duration::from_secs(60));
        let grant = Grant { number: PlaceNumber::new(number), account: AccountHash::of(account), expires_at };
        keys.sign_pass(performance.parse::<PerformanceId>().unwrap(), grant)
    };
    let requests = (0..50_u64).map(|i| {
        let (token, performance, place) = (token.clone(), performance.clone(), String::new());
        let who = Admitted { token, performance, place, pass: pass(1_000_000 + i) };
        app.hold_request(&who, &new_key(), &json!({"seats": [format!("A-{}-{}", i / 20 + 1, i % 20 + 1)]}))
    });

    let answers = at_once(&app, requests).await;

    let (held, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    assert_eq!(held.len(), 4);
    assert!(refused.iter().all(|answer| answer.verdict() == (409, "limit-reached".into())), "{refused:?}");
    let statuses = app.seat_statuses(&performance).await;
    assert_eq!(statuses.values().filter(|status| *status == "held").count(), 4);
    assert_verified(app.folder()).await;
}

/// LESSONS L15, S10: the same with one pass.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_requests_with_one_pass_at_once_make_one_reservation() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 5, 20, "VIP", 150_000)], SaleOptions::default()).await;
    let who = app.admitted(&performance).await;
    let requests = (0..50).map(|i| {
        let wish = json!({"seats": [format!("A-{}-{}", i / 20 + 1, i % 20 + 1)]});
        app.hold_request(&who, &new_key(), &wish)
    });

    let answers = at_once(&app, requests).await;

    let (held, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    assert_eq!(held.len(), 1);
    assert!(refused.iter().all(|answer| answer.verdict() == (409, "reservation-state".into())), "{refused:?}");
    assert_eq!(app.list("/api/v1/reservations", Some(&who.token), 50).await, [held[0].json()]);
    assert_verified(app.folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_hold_is_answered_byte_for_byte_whatever_became_of_it() {
    let app = TestApp::start().await;
    let performance = app.performance(&hall(), SaleOptions::default()).await;
    let wishes = [json!({"seats": ["A-1-1"]}), json!({"seats": ["A-1-2", "A-1-3"]}), json!({"seats": ["A-1-4"]})];
    let mut made = Vec::new();
    for wish in &wishes {
        let (who, key) = (app.admitted(&performance).await, new_key());
        let first = Answer::of(app.hold_request(&who, &key, wish).send().await.unwrap()).await;
        assert_eq!(first.status, 201);
        made.push((who, key, wish, first));
    }
    let repeat = async |(who, key, wish, _): &(Admitted, String, &Value, Answer)| {
        Answer::of(app.hold_request(who, key, wish).send().await.unwrap()).await
    };

    for one in &made {
        assert_eq!(repeat(one).await.said(), one.3.said(), "while it is held");
    }
    let [confirmed, released, declined] = [0, 1, 2].map(|i| (&made[i].0.token, id_of(&made[i].3.json())));
    app.confirmed(confirmed.0, &confirmed.1).await;
    app.release(released.0, &released.1).await;
    assert_problem(app.confirm(declined.0, &declined.1, "tok_declined").await, 402, "payment-declined").await;

    for one in &made {
        assert_eq!(repeat(one).await.said(), one.3.said(), "after it was confirmed, released, declined");
    }
    let statuses = app.seat_statuses(&performance).await;
    assert_eq!(statuses["A-1-2"], "available", "and nothing is held by the answer");
    let (who, key, ..) = &made[0];
    let another = app.hold_request(who, key, &json!({"seats": ["A-1-9"]})).send().await.unwrap();
    assert_problem(another, 422, "idempotency-mismatch").await;
    assert_verified(app.folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_hold_is_answered_byte_for_byte_after_hold_and_pass_have_expired() {
    let app = TestApp::start().await;
    let performance = app.performance(&hall(), SaleOptions { hold_ttl_s: 1, ..SHORT }).await;
    json_of(app.patch_admission(&performance, &json!({"pass_ttl_s": 1})).await, 200).await;
    let (who, key, wish) = (app.admitted(&performance).await, new_key(), json!({"seats": ["A-1-1"]}));
    let first = Answer::of(app.hold_request(&who, &key, &wish).send().await.unwrap()).await;
    assert_eq!(first.status, 201);

    app.wait_for_place(&who.place, &performance, "expired").await;
    let next = app.admitted(&performance).await;
    take_over(&app, &next, "A-1-1").await;
    let repeated = Answer::of(app.hold_request(&who, &key, &wish).send().await.unwrap()).await;

    assert_eq!(repeated.said(), first.said());
    assert_problem(app.hold(&who, &["A-1-2"]).await, 403, "pass-expired").await;
    assert_verified(app.folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_identical_holds_at_once_make_one_reservation_and_twenty_equal_answers() {
    let app = TestApp::start().await;
    let performance = app.performance(&hall(), SaleOptions::default()).await;
    let (who, key) = (app.admitted(&performance).await, new_key());
    let requests = (0..20).map(|_| app.hold_request(&who, &key, &json!({"seats": ["A-1-1", "A-1-2"]})));

    let answers = at_once(&app, requests).await;

    assert_eq!(answers[0].status, 201, "{:?}", answers[0]);
    assert!(answers.iter().all(|answer| answer.said() == answers[0].said()), "{answers:?}");
    assert_eq!(app.list("/api/v1/reservations", Some(&who.token), 50).await, [answers[0].json()]);
    assert_verified(app.folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_identical_confirms_at_once_charge_once() {
    let app = TestApp::start().await;
    let performance = app.performance(&hall(), SaleOptions::default()).await;
    let (who, key) = (app.admitted(&performance).await, new_key());
    let reservation = id_of(&app.held(&who, &["A-1-1", "A-1-2"]).await);
    let confirm = || app.confirm_request(&who.token, &reservation, &key, "tok_ok");

    let answers = at_once(&app, (0..20).map(|_| confirm())).await;

    let (paid, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert!(refused.iter().all(|answer| answer.verdict() == (409, "idempotency-in-flight".into())), "{refused:?}");
    let repeated = Answer::of(confirm().send().await.unwrap()).await;
    assert_eq!(repeated.status, 200);
    assert!(!paid.is_empty() && paid.iter().all(|answer| answer.said() == repeated.said()), "{paid:?}");
    assert_eq!(repeated.json()["tickets"].as_array().unwrap().len(), 2);
    assert_eq!(number(app.folder(), "SELECT count(*) FROM simulated_charges").await, 1);
    assert_verified(app.folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_different_confirms_at_once_charge_once() {
    let app = TestApp::start().await;
    let performance = app.performance(&hall(), SaleOptions::default()).await;
    let who = app.admitted(&performance).await;
    let reservation = id_of(&app.held(&who, &["A-1-1"]).await);
    let requests = (0..20).map(|_| app.confirm_request(&who.token, &reservation, &new_key(), "tok_ok"));

    let answers = at_once(&app, requests).await;

    let (paid, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert_eq!(paid.len(), 1, "{paid:?}");
    assert!(refused.iter().all(|answer| answer.verdict() == (409, "reservation-state".into())), "{refused:?}");
    assert_eq!(number(app.folder(), "SELECT count(*) FROM simulated_charges").await, 1);
    assert_verified(app.folder()).await;
}

/// Negative control: without it, a passing `usher verify` in the other tests would prove nothing.
#[tokio::test(flavor = "multi_thread")]
async fn verify_names_what_was_changed_behind_its_back() {
    let app = TestApp::start().await;
    let performance = app.performance(&hall(), SaleOptions::default()).await;
    let who = app.admitted(&performance).await;
    let held = app.held(&who, &["A-1-1", "A-1-2", "A-1-3"]).await;
    app.confirmed(&who.token, &id_of(&held)).await;
    assert_verified(app.folder()).await;

    for (statement, named) in [
        ("UPDATE seats SET status = 'available', reservation_id = NULL WHERE seat = 'A-1-1'", "A-1-1"),
        ("DELETE FROM sold WHERE seat = 'A-1-2'", "A-1-2"),
        ("DELETE FROM seat_events WHERE seat = 'A-1-3' AND version = 2", "A-1-3"),
        ("UPDATE seats SET version = version + 1 WHERE seat = 'B-1-1'", "B-1-1"),
        ("UPDATE simulated_charges SET refunded_at = charged_at", "was refunded although no refund is due"),
        (
            "UPDATE simulated_charges SET refunded_at = NULL, attempt_id = x'09090909090909090909090909090909'",
            "belongs to no performance",
        ),
    ] {
        assert_eq!(tamper(app.folder(), statement).await, 1, "{statement}");

        let output = verify(app.folder());

        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{statement}: {said}");
        assert!(said.contains(named), "{statement}: {said}");
    }
}
