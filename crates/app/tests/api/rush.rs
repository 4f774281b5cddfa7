//! Crowds: a thousand buyers of one seat, or of a thousand seats, and a line that never exceeds its capacity.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tokio::time::interval;
use usher_kernel::Timestamp;

use crate::app::{
    Admitted, Answer, Api, SaleOptions, TestApp, assert_problem, eventually, id_of, json_of, new_key, now, section,
    timestamp,
};
use crate::at_once::at_once;
use crate::store::{Store, assert_sound, captures_of, on_every_store};

on_every_store! {
    of_a_thousand_buyers_of_one_seat_one_gets_it_and_all_others_are_told_that_it_is_taken
    a_thousand_buyers_of_a_thousand_different_seats_all_get_and_all_pay_for_theirs
    a_hundred_and_sixty_buyers_of_the_best_seats_at_once_hold_all_eight_thousand
    of_a_rush_for_the_best_seats_only_those_are_refused_for_whom_too_few_are_left
    groups_that_fight_over_a_block_get_all_of_their_seats_or_none
    a_line_of_three_hundred_never_has_more_than_its_twenty_inside_and_lets_everybody_in_in_order
    a_pass_that_is_used_up_or_left_makes_room_at_once
}

/// A server whose lines have a capacity of a thousand.
async fn roomy(store: Store) -> TestApp {
    TestApp::start_on(store, |settings| settings.line.capacity = 1_000).await
}

/// The number of answers with each verdict.
fn tally(answers: &[Answer]) -> BTreeMap<(u16, String), usize> {
    let mut tally = BTreeMap::new();
    for answer in answers {
        *tally.entry(answer.verdict()).or_default() += 1;
    }
    tally
}

fn only<const N: usize>(verdicts: [(u16, &str, usize); N]) -> BTreeMap<(u16, String), usize> {
    verdicts.into_iter().map(|(status, code, n)| ((status, code.to_owned()), n)).collect()
}

fn join_request(api: &Api, token: &str, performance: &str) -> RequestBuilder {
    api.post(&format!("/api/v1/performances/{performance}/queue")).bearer_auth(token)
}

fn tokens(api: &Api, n: usize) -> Vec<String> {
    (0..n).map(|_| api.buyer()).collect()
}

/// LESSONS S18: all refused buyers get the same, exact reason.
async fn of_a_thousand_buyers_of_one_seat_one_gets_it_and_all_others_are_told_that_it_is_taken(store: Store) {
    let app = roomy(store).await;
    let performance = app.performance(&[section("A", 1, 2, "VIP", 150_000)], SaleOptions::default()).await;
    let people = app.crowd(&performance, 1_000).await;
    let wish = json!({"seats": ["A-1-1"]});

    let answers = at_once(&app, people.iter().map(|who| app.hold_request(who, &new_key(), &wish))).await;

    assert_eq!(tally(&answers), only([(201, "", 1), (409, "seat-taken", 999)]));
    let losers = answers.iter().filter(|answer| answer.status == 409);
    assert!(losers.map(Answer::json).all(|problem| problem["conflicts"] == json!(["A-1-1"])));
    let statuses = app.seat_statuses(&performance).await;
    assert_eq!((statuses["A-1-1"].as_str(), statuses["A-1-2"].as_str()), ("held", "available"));
    assert_sound(&app, &performance).await;
}

/// LESSONS S1: buyers of different seats do not block each other.
async fn a_thousand_buyers_of_a_thousand_different_seats_all_get_and_all_pay_for_theirs(store: Store) {
    let app = roomy(store).await;
    let performance = app.performance(&[section("A", 20, 50, "VIP", 150_000)], SaleOptions::default()).await;
    let people = app.crowd(&performance, 1_000).await;
    let wish = |i: usize| json!({"seats": [format!("A-{}-{}", i / 50 + 1, i % 50 + 1)]});
    let holds = people.iter().enumerate().map(|(i, who)| app.hold_request(who, &new_key(), &wish(i)));

    let held = at_once(&app, holds).await;
    assert_eq!(tally(&held), only([(201, "", 1_000)]));
    let confirms = people
        .iter()
        .zip(&held)
        .map(|(who, held)| app.confirm_request(&who.token, &id_of(&held.json()), &new_key(), "tok_ok"));
    let confirmed = at_once(&app, confirms).await;

    assert_eq!(tally(&confirmed), only([(200, "", 1_000)]));
    let tickets = confirmed.iter().map(|answer| answer.json()["tickets"][0]["id"].as_str().unwrap().to_owned());
    assert_eq!(tickets.collect::<BTreeSet<_>>().len(), 1_000);
    app.wait_for_sale_state(&performance, "sold_out").await;
    assert_eq!(captures_of(&app, &performance).await, 1_000);
    assert_sound(&app, &performance).await;
}

/// The names of the held seats.
fn held_seats<'a>(answers: impl IntoIterator<Item = &'a Answer>) -> Vec<String> {
    let bodies = answers.into_iter().filter(|answer| answer.status == 201).map(Answer::json);
    let seats = bodies.flat_map(|body| body["seats"].as_array().unwrap().clone());
    seats.map(|seat| seat["seat"].as_str().unwrap().to_owned()).collect()
}

/// LESSONS S9.
async fn a_hundred_and_sixty_buyers_of_the_best_seats_at_once_hold_all_eight_thousand(store: Store) {
    let app = roomy(store).await;
    let options = SaleOptions { seats_per_buyer: 50, ..SaleOptions::default() };
    let performance = app.performance(&[section("A", 80, 100, "VIP", 150_000)], options).await;
    let people = app.crowd(&performance, 160).await;
    let wish = json!({"best_available": {"count": 50}});

    let answers = at_once(&app, people.iter().map(|who| app.hold_request(who, &new_key(), &wish))).await;

    assert_eq!(tally(&answers), only([(201, "", 160)]));
    assert_eq!(held_seats(&answers).into_iter().collect::<BTreeSet<_>>().len(), 8_000);
    let late = app.admitted(&performance).await;
    assert_problem(app.hold_best(&late, 1, None).await, 409, "not-enough-seats").await;
    assert_sound(&app, &performance).await;
}

/// LESSONS S9: a buyer is told that there are not enough seats only if that is true.
async fn of_a_rush_for_the_best_seats_only_those_are_refused_for_whom_too_few_are_left(store: Store) {
    let app = roomy(store).await;
    let hall = [section("A", 5, 30, "VIP", 150_000), section("B", 10, 15, "R", 120_000)];
    let performance = app.performance(&hall, SaleOptions::default()).await;
    let people = app.crowd(&performance, 200).await;
    let count = |i: usize| i % 4 + 1;
    let wish = |i: usize| json!({"best_available": {"count": count(i)}});

    let (early, late) = people.split_at(100);
    let holds = early.iter().enumerate().map(|(i, who)| app.hold_request(who, &new_key(), &wish(i)));
    let early = at_once(&app, holds).await;
    let holds = late.iter().enumerate().map(|(i, who)| app.hold_request(who, &new_key(), &wish(i)));
    let late = at_once(&app, holds).await;

    assert_eq!(tally(&early), only([(201, "", 100)]), "250 of 300 seats");
    let seats = held_seats(early.iter().chain(&late));
    assert_eq!(seats.iter().collect::<BTreeSet<_>>().len(), seats.len(), "every seat has one owner");
    let n_left = 300 - seats.len();
    for (i, answer) in late.iter().enumerate().filter(|(_, answer)| answer.status != 201) {
        assert_eq!(answer.verdict(), (409, "not-enough-seats".into()));
        assert!(count(i) > n_left, "{} refused, {n_left} left", count(i));
    }
    assert_sound(&app, &performance).await;
}

/// LESSONS S7, with two hundred groups that each want four adjacent seats in one row of forty.
async fn groups_that_fight_over_a_block_get_all_of_their_seats_or_none(store: Store) {
    let app = roomy(store).await;
    let performance = app.performance(&[section("A", 1, 40, "VIP", 150_000)], SaleOptions::default()).await;
    let people = app.crowd(&performance, 200).await;
    // All 37 windows of four seats, in a scattered order: 11 and 37 have no common divisor.
    let wish = |i: usize| (1..=4).map(|seat| format!("A-1-{}", i * 11 % 37 + seat)).collect::<Vec<_>>();
    let holds = people.iter().enumerate().map(|(i, who)| app.hold_request(who, &new_key(), &json!({"seats": wish(i)})));

    let answers = at_once(&app, holds).await;

    let mut owned = BTreeSet::new();
    for (i, answer) in answers.iter().enumerate() {
        let (body, wish) = (answer.json(), wish(i));
        if answer.status == 201 {
            let seats: Vec<_> = body["seats"].as_array().unwrap().iter().map(|seat| seat["seat"].clone()).collect();
            assert_eq!(seats, wish, "the whole group");
            assert!(wish.into_iter().all(|seat| owned.insert(seat)), "no other buyer has one of them");
        } else {
            assert_eq!(answer.verdict(), (409, "seat-taken".into()));
            let conflicts = body["conflicts"].as_array().unwrap();
            assert!(
                !conflicts.is_empty() && conflicts.iter().all(|seat| wish.iter().any(|wish| seat == wish)),
                "{body}"
            );
        }
    }
    // Winning windows leave gaps of at most three seats, because every loser overlaps a winner.
    assert!((6..=10).contains(&(owned.len() / 4)), "{owned:?}");
    let statuses = app.seat_statuses(&performance).await;
    let held: BTreeSet<_> = statuses.into_iter().filter(|(_, status)| status == "held").map(|(seat, _)| seat).collect();
    assert_eq!(held, owned);
    assert_sound(&app, &performance).await;
}

/// A person's behaviour in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// Waits, books, pays.
    Book,
    /// Waits, and leaves when admitted.
    LeaveInside,
    /// Waits, and lets the pass expire.
    Abandon,
    /// Leaves the line after three polls, unless admitted before.
    LoseTheirPatience,
}

/// The outcome of a visit.
#[derive(Debug)]
struct Visit {
    number: u64,
    plan: Plan,
    stay: Option<Stay>,
}

/// The time for which a person was certainly inside.
#[derive(Debug)]
struct Stay {
    pass: String,
    from: Timestamp,
    until: Timestamp,
}

const PASS_TTL: Duration = Duration::from_secs(4);
const POLL_EVERY: Duration = Duration::from_millis(400);

/// Visits the line by plan. Each visit has its own `seat`.
async fn visit(api: &Api, performance: &str, plan: Plan, seat: &str) -> Visit {
    let token = api.buyer();
    let mut status = api.joined(&token, performance).await;
    let (number, place) = (status["number"].as_u64().unwrap(), status["place"].as_str().unwrap().to_owned());
    let mut pause = interval(POLL_EVERY);
    let (mut position, mut n_polls) = (u64::MAX, 0);
    while status["state"] != "admitted" {
        assert_eq!((&status["state"], status["number"].as_u64()), (&json!("waiting"), Some(number)), "{status}");
        let now_at = status["position"].as_u64().unwrap();
        assert!(now_at <= position, "number {number} went from position {position} to {now_at}");
        position = now_at;
        if plan == Plan::LoseTheirPatience && n_polls == 3 {
            assert_eq!(api.leave(&place, performance).await.status(), 204);
            return Visit { number, plan, stay: None };
        }
        pause.tick().await;
        status = json_of(api.poll(&place, performance).await, 200).await;
        n_polls += 1;
    }
    let expires_at = timestamp(&status["pass"]["expires_at"]);
    let pass = status["pass"]["token"].as_str().unwrap().to_owned();
    let who = Admitted { token, performance: performance.to_owned(), place, pass };
    let until = match plan {
        Plan::Book => {
            let held = api.held(&who, &[seat]).await;
            let until = now();
            api.confirmed(&who.token, &id_of(&held)).await;
            until
        }
        Plan::LeaveInside | Plan::LoseTheirPatience => {
            let until = now();
            assert_eq!(api.leave(&who.place, performance).await.status(), 204);
            until
        }
        Plan::Abandon => {
            api.wait_for_place(&who.place, performance, "expired").await;
            expires_at
        }
    };
    Visit { number, plan, stay: Some(Stay { pass: who.pass, from: expires_at.minus(PASS_TTL), until }) }
}

/// The most people who were certainly inside at one instant.
fn most_at_once(visits: &[Visit]) -> i32 {
    let stays = visits.iter().filter_map(|visit| visit.stay.as_ref());
    // Within a millisecond, leaving comes before entering.
    let mut steps: Vec<_> = stays.flat_map(|stay| [(stay.from, 1), (stay.until, -1)]).collect();
    steps.sort_unstable();
    let inside = steps.iter().scan(0, |inside, (_, step)| {
        *inside += step;
        Some(*inside)
    });
    inside.max().unwrap_or(0)
}

/// LESSONS L4, and L1, L2, L5 and L6 for one server.
#[expect(clippy::future_not_send, reason = "a test is one task, which counts in cells")]
async fn a_line_of_three_hundred_never_has_more_than_its_twenty_inside_and_lets_everybody_in_in_order(store: Store) {
    let app = TestApp::start_on(store, |_| {}).await;
    let performance = app.performance(&[section("A", 3, 100, "VIP", 150_000)], SaleOptions::default()).await;
    let policy = json!({"capacity": 20, "pass_ttl_s": PASS_TTL.as_secs()});
    json_of(app.patch_admission(&performance, &policy).await, 200).await;
    let seats: Vec<_> = (0..300).map(|i| format!("A-{}-{}", i / 100 + 1, i % 100 + 1)).collect();
    let visits = join_all(seats.iter().enumerate().map(|(i, seat)| {
        let plan = match i % 20 {
            0 => Plan::Abandon,
            1..=4 => Plan::LeaveInside,
            5 | 6 => Plan::LoseTheirPatience,
            _ => Plan::Book,
        };
        visit(&app, &performance, plan, seat)
    }));
    let (most_active, n_samples) = (Cell::new(0), Cell::new(0));
    let watch = async {
        let mut pause = interval(Duration::from_millis(25));
        loop {
            pause.tick().await;
            let stats = app.stats(&performance).await;
            most_active.set(most_active.get().max(stats["active"].as_u64().unwrap()));
            n_samples.set(n_samples.get() + 1);
        }
    };

    let mut visits = tokio::select! {
        visits = visits => visits,
        () = watch => unreachable!("it watches for ever"),
    };

    assert_eq!(most_active.get(), 20, "in {} samples", n_samples.get());
    assert!((10..=20).contains(&most_at_once(&visits)), "{}", most_at_once(&visits));
    visits.sort_unstable_by_key(|visit| visit.number);
    assert_eq!(visits.iter().map(|visit| visit.number).collect::<BTreeSet<_>>().len(), 300);
    for visit in visits.iter().filter(|visit| visit.plan != Plan::LoseTheirPatience) {
        assert!(visit.stay.is_some(), "number {} stayed, and got in", visit.number);
    }
    let stays: Vec<_> = visits.iter().filter_map(|visit| visit.stay.as_ref()).collect();
    assert!(stays.is_sorted_by_key(|stay| stay.from), "in the order of their numbers: {stays:?}");
    assert_eq!(stays.iter().map(|stay| &stay.pass).collect::<BTreeSet<_>>().len(), stays.len());
    let stats = eventually("the line is empty", async || {
        Some(app.stats(&performance).await).filter(|stats| stats["active"] == 0 && stats["waiting"] == 0)
    })
    .await;
    let admitted_total = usize::try_from(stats["admitted_total"].as_u64().unwrap()).unwrap();
    assert!((stays.len()..=300).contains(&admitted_total), "no person was admitted twice: {admitted_total}");
    assert_eq!(stats["seats"]["sold"], 195);
    assert_sound(&app, &performance).await;
}

/// Polls places until `condition` holds, so that their owners stay present.
async fn keep_present_until(api: &Api, performance: &str, places: &[&str], mut condition: impl AsyncFnMut() -> bool) {
    let mut pause = interval(Duration::from_millis(500));
    while !condition().await {
        pause.tick().await;
        for place in places {
            json_of(api.poll(place, performance).await, 200).await;
        }
    }
}

fn place_of(status: &Value) -> &str {
    status["place"].as_str().unwrap()
}

/// LESSONS L18. The shortest presence window is six seconds. A person who did not poll for the window and another
/// quarter of it, the precision of presence, is away.
#[tokio::test(flavor = "multi_thread")]
async fn somebody_absent_is_skipped_and_comes_back_to_the_front() {
    const AWAY_AFTER: Duration = Duration::from_millis(6_000 + 1_500 + 1_000);
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 1, 10, "VIP", 150_000)], SaleOptions::default()).await;
    let policy = json!({"capacity": 0, "presence_window_s": 6});
    json_of(app.patch_admission(&performance, &policy).await, 200).await;
    let mut line = Vec::new();
    for _ in 0..3 {
        line.push(app.joined(&app.buyer(), &performance).await);
    }
    let [absent, second, third] = [0, 1, 2].map(|i| place_of(&line[i]));
    let away_at = now().plus(AWAY_AFTER);
    keep_present_until(&app, &performance, &[second, third], async || now() >= away_at).await;

    json_of(app.patch_admission(&performance, &json!({"capacity": 1})).await, 200).await;
    app.wait_for_place(second, &performance, "admitted").await;
    let skipped = app.stats(&performance).await;
    let returned = json_of(app.poll(absent, &performance).await, 200).await;
    let behind = json_of(app.poll(third, &performance).await, 200).await;
    app.leave(second, &performance).await;
    app.wait_for_place(absent, &performance, "admitted").await;
    let third_waits = json_of(app.poll(third, &performance).await, 200).await;
    app.leave(absent, &performance).await;
    app.wait_for_place(third, &performance, "admitted").await;

    assert_eq!((&skipped["away"], &skipped["present"], &skipped["active"]), (&json!(1), &json!(1), &json!(1)));
    assert_eq!((&returned["state"], &returned["number"]), (&json!("waiting"), &line[0]["number"]));
    assert_eq!((&returned["position"], &returned["ahead"]), (&json!(1), &json!(0)), "in front");
    assert_eq!(behind["position"], 1, "no position rises for it");
    assert_eq!(third_waits["state"], "waiting");
}

/// LESSONS L15, L5: a booking makes room at once, long before its pass would expire.
async fn a_pass_that_is_used_up_or_left_makes_room_at_once(store: Store) {
    let app = TestApp::start_on(store, |_| {}).await;
    let performance = app.performance(&[section("A", 1, 10, "VIP", 150_000)], SaleOptions::default()).await;
    let policy = json!({"capacity": 1, "pass_ttl_s": 3_600});
    json_of(app.patch_admission(&performance, &policy).await, 200).await;
    let first = app.admitted(&performance).await;
    let second = app.joined(&app.buyer(), &performance).await;
    let third = app.joined(&app.buyer(), &performance).await;
    assert_eq!((&second["state"], &third["state"]), (&json!("waiting"), &json!("waiting")));

    let held = app.held(&first, &["A-1-1"]).await;
    app.confirmed(&first.token, &id_of(&held)).await;
    app.wait_for_place(place_of(&second), &performance, "admitted").await;
    assert_eq!(json_of(app.poll(place_of(&third), &performance).await, 200).await["state"], "waiting");
    assert_eq!(app.leave(place_of(&second), &performance).await.status(), 204);
    app.wait_for_place(place_of(&third), &performance, "admitted").await;

    app.wait_for_place(&first.place, &performance, "done").await;
    assert_sound(&app, &performance).await;
}

/// LESSONS L5, L6: the passes of a thousand people who never come back make room when they expire.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_abandoned_passes_make_room_for_a_thousand_others() {
    let app = roomy(Store::Sqlite).await;
    let performance = app.performance(&[section("A", 1, 10, "VIP", 150_000)], SaleOptions::default()).await;
    json_of(app.patch_admission(&performance, &json!({"pass_ttl_s": 6})).await, 200).await;
    let (first, second) = (tokens(&app, 1_000), tokens(&app, 999));

    let inside = at_once(&app, first.iter().map(|token| join_request(&app, token, &performance))).await;
    let waiting = app.joined(&app.buyer(), &performance).await;
    app.wait_for_place(place_of(&waiting), &performance, "admitted").await;
    eventually("all have run out but the last", async || (app.stats(&performance).await["active"] == 1).then_some(()))
        .await;
    let others = at_once(&app, second.iter().map(|token| join_request(&app, token, &performance))).await;

    assert!(inside.iter().all(|answer| answer.status == 201 && answer.json()["state"] == "admitted"));
    assert_eq!(waiting["state"], "waiting", "there was no room for one more");
    let admitted = others.iter().filter(|answer| answer.status == 201 && answer.json()["state"] == "admitted");
    assert_eq!(admitted.count(), 999, "beside the person who had waited");
    let abandoned = inside[0].json();
    let (token, pass) = (first[0].clone(), abandoned["pass"]["token"].as_str().unwrap().to_owned());
    let late = Admitted { token, performance, place: place_of(&abandoned).to_owned(), pass };
    assert_problem(app.hold(&late, &["A-1-1"]).await, 403, "pass-expired").await;
}
