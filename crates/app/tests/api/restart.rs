//! Servers that are killed and restarted, or stopped in a rush: clients keep their places, passes and seats.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use serde_json::{Value, json};

use crate::app::{
    Admitted, Answer, Api, SaleOptions, TestApp, UsherProcess, eventually, id_of, json_of, new_key, now, section,
};
use crate::at_once::at_once;
use crate::store::{assert_verified, number};

/// Polls many places, some at a time. Returns the answers in order.
async fn poll_all(api: &Api, performance: &str, places: &[Value]) -> Vec<Value> {
    let polls = places
        .iter()
        .map(async |place| json_of(api.poll(place["place"].as_str().unwrap(), performance).await, 200).await);
    stream::iter(polls).buffered(16).collect().await
}

async fn join_all_of(api: &Api, performance: &str, tokens: &[String]) -> Vec<Value> {
    let path = format!("/api/v1/performances/{performance}/queue");
    let answers = at_once(api, tokens.iter().map(|token| api.post(&path).bearer_auth(token))).await;
    assert!(answers.iter().all(|answer| answer.status == 201), "{answers:?}");
    answers.iter().map(Answer::json).collect()
}

fn number_of(place: &Value) -> u64 {
    place["number"].as_u64().unwrap()
}

/// The saved numbers of waiting people and of passes.
async fn saved(folder: &Path) -> (i64, i64) {
    let waiting = number(folder, "SELECT coalesce(sum(waiting), 0) FROM lines").await;
    (waiting, number(folder, "SELECT count(*) FROM line_grants").await)
}

/// LESSONS L16, for the embedded line; L1: no person is lost, L2: no person is admitted twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_finds_its_line_again_with_numbers_order_and_passes() {
    const INSIDE: usize = 100;
    const WAITING: usize = 1_000;
    const NEW: usize = 20;
    let variables = [("LINE__CAPACITY", "100"), ("LINE__PRESENCE_WINDOW_S", "15")];
    let mut usher = UsherProcess::start_with(&variables).await;
    let performance = usher.performance(&[section("A", 2, 50, "VIP", 150_000)], SaleOptions::default()).await;
    let tokens: Vec<_> = (0..INSIDE + WAITING).map(|_| usher.buyer()).collect();
    let joined = join_all_of(&usher, &performance, &tokens).await;
    let mut people: Vec<_> = tokens.into_iter().zip(joined).collect();
    people.sort_unstable_by_key(|(_, place)| number_of(place));
    let (tokens, places): (Vec<_>, Vec<_>) = people.into_iter().unzip();
    let before = poll_all(&usher, &performance, &places).await;
    eventually("the line is saved", async || (saved(usher.folder()).await == (1_000, 100)).then_some(())).await;

    usher.restart().await;
    // New people join first, before the earlier ones poll again.
    let new_tokens: Vec<_> = (0..NEW).map(|_| usher.buyer()).collect();
    let newcomers = join_all_of(&usher, &performance, &new_tokens).await;
    let after = poll_all(&usher, &performance, &places).await;

    let last = before.iter().map(number_of).max().unwrap();
    for newcomer in &newcomers {
        assert_eq!(newcomer["state"], "waiting");
        assert!(number_of(newcomer) > last, "{newcomer}");
    }
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(number_of(after), number_of(before));
        assert_eq!(after["state"], before["state"]);
        assert_eq!(after["pass"], before["pass"], "the very same pass");
        assert!(after["position"].as_u64() <= before["position"].as_u64(), "{before} {after}");
    }
    assert!(before[..INSIDE].iter().all(|place| place["state"] == "admitted"));
    let positions: Vec<_> = after[INSIDE..].iter().map(|place| place["position"].as_u64().unwrap()).collect();
    assert_eq!(positions, (1..=1_000).collect::<Vec<_>>());

    // Fifty people inside book and ten leave, so that the first sixty in the line are admitted.
    let inside = after[..INSIDE].iter().zip(&tokens).map(|(place, token)| Admitted {
        token: token.clone(),
        performance: performance.clone(),
        place: place["place"].as_str().unwrap().to_owned(),
        pass: place["pass"]["token"].as_str().unwrap().to_owned(),
    });
    let inside: Vec<_> = inside.collect();
    let holds = inside[..50]
        .iter()
        .enumerate()
        .map(|(i, who)| usher.hold_request(who, &new_key(), &json!({"seats": [format!("A-1-{}", i + 1)]})));
    let held = at_once(&usher, holds).await;
    assert!(held.iter().all(|answer| answer.status == 201), "their passes are as good as before: {held:?}");
    let confirms = inside
        .iter()
        .zip(&held)
        .map(|(who, held)| usher.confirm_request(&who.token, &id_of(&held.json()), &new_key(), "tok_ok"));
    let confirmed = at_once(&usher, confirms).await;
    assert!(confirmed.iter().all(|answer| answer.status == 200), "{confirmed:?}");
    for who in &inside[50..60] {
        assert_eq!(usher.leave(&who.place, &performance).await.status(), 204);
    }
    let sixtieth = number_of(&places[INSIDE + 59]);
    eventually("sixty of those who waited are inside", async || {
        let stats = usher.stats(&performance).await;
        assert!(stats["active"].as_u64().unwrap() <= 100, "{stats}");
        (stats["serving"].as_u64().unwrap() >= sixtieth).then_some(())
    })
    .await;
    let next = poll_all(&usher, &performance, &places[INSIDE..]).await;
    let admitted: Vec<_> = next.iter().filter(|place| place["state"] == "admitted").map(number_of).collect();
    assert_eq!(admitted, next[..60].iter().map(number_of).collect::<Vec<_>>(), "the lowest numbers");
    for newcomer in poll_all(&usher, &performance, &newcomers).await {
        assert_eq!(newcomer["state"], "waiting");
    }
    assert_verified(usher.folder()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reservations_tickets_accounts_and_tokens_survive_a_killed_server() {
    let mut usher = UsherProcess::start().await;
    let performance = usher.performance(&[section("A", 1, 10, "VIP", 150_000)], SaleOptions::default()).await;
    let token = usher.sign_up_and_log_in("minji@example.com").await;
    let me = usher.get("/api/v1/members/me").bearer_auth(&token).send().await.unwrap();
    let me = json_of(me, 200).await;
    let (minji, other) = (usher.admit(&token, &performance).await, usher.admitted(&performance).await);
    let bought = usher.held(&minji, &["A-1-1", "A-1-2"]).await;
    let bought = usher.confirmed(&token, &id_of(&bought)).await;
    let key = new_key();
    let wish = json!({"seats": ["A-1-3"]});
    let held = Answer::of(usher.hold_request(&other, &key, &wish).send().await.unwrap()).await;

    usher.restart().await;

    let still_me = usher.get("/api/v1/members/me").bearer_auth(&token).send().await.unwrap();
    assert_eq!(json_of(still_me, 200).await, me);
    json_of(usher.log_in("minji@example.com", "correct horse").await, 200).await;
    assert_eq!(usher.list("/api/v1/reservations", Some(&token), 50).await, [bought]);
    assert_eq!(json_of(usher.poll(&minji.place, &performance).await, 200).await["state"], "done");
    let repeated = Answer::of(usher.hold_request(&other, &key, &wish).send().await.unwrap()).await;
    assert_eq!(repeated.said(), held.said());
    let confirmed = usher.confirmed(&other.token, &id_of(&held.json())).await;
    assert_eq!(confirmed["tickets"][0]["seat"], "A-1-3");
    assert_verified(usher.folder()).await;
}

/// Holds and releases a seat, again and again, until the server stops. Returns the last acknowledged state of each
/// reservation.
async fn change_their_mind(api: &Api, who: &Admitted, seat: &str) -> BTreeMap<String, &'static str> {
    let mut told = BTreeMap::new();
    loop {
        let hold = api.hold_request(who, &new_key(), &json!({"seats": [seat]}));
        let Ok(response) = hold.send().await else { return told };
        let reservation = id_of(&json_of(response, 201).await);
        told.insert(reservation.clone(), "held");
        let release = api.delete(&format!("/api/v1/reservations/{reservation}")).bearer_auth(&who.token);
        let Ok(response) = release.send().await else { return told };
        assert_eq!(response.status(), 204);
        told.insert(reservation, "released");
    }
}

/// A graceful stop answers all requests under way within the ten seconds that containers get (LESSONS E2), and the next
/// start has every acknowledged change.
#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_in_the_middle_of_a_rush_loses_nothing_that_was_acknowledged() {
    const N: usize = 100;
    const N_BEFORE: i64 = 500;
    let mut usher = UsherProcess::start().await;
    let performance = usher.performance(&[section("A", 2, 50, "VIP", 150_000)], SaleOptions::default()).await;
    let people = usher.crowd(&performance, N).await;
    let seats: Vec<_> = (0..N).map(|i| format!("A-{}-{}", i / 50 + 1, i % 50 + 1)).collect();
    let rush = join_all(people.iter().zip(&seats).map(|(who, seat)| change_their_mind(&usher, who, seat)));
    let stop = async {
        eventually("the rush has begun", async || {
            let n_reservations = number(usher.folder(), "SELECT count(*) FROM reservations").await;
            (n_reservations >= N_BEFORE).then_some(())
        })
        .await;
        usher.terminate();
        now()
    };

    let (told, asked_at) = tokio::join!(rush, stop);
    let ended = usher.ended().await;
    let took = now().since(asked_at);
    usher.restart().await;

    assert!(ended.success(), "{ended}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    for (who, told) in people.iter().zip(&told) {
        let found = usher.list("/api/v1/reservations", Some(&who.token), 200).await;
        let found: BTreeMap<_, _> =
            found.iter().map(|found| (id_of(found), found["status"].as_str().unwrap())).collect();
        for (reservation, status) in told {
            // The last release may be stored but not acknowledged.
            assert!(found[reservation] == *status || found[reservation] == "released", "{reservation}: {status}");
        }
    }
    let n_told = told.iter().map(BTreeMap::len).sum::<usize>();
    assert!(n_told > usize::try_from(N_BEFORE).unwrap() - N, "{n_told}");
    assert_verified(usher.folder()).await;
}

/// The last step saves what happened since the step before. Without it, the newcomer was admitted in front of everybody.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_right_after_people_joined_finds_its_line_again() {
    let app = TestApp::start_with(|settings| {
        settings.line.capacity = 1;
        // No step between the joins and the stop.
        settings.line.tick_ms = 10_000;
    })
    .await;
    let performance = app.performance(&[section("A", 1, 2, "R", 100)], SaleOptions::default()).await;
    let mut places = Vec::new();
    for _ in 0..10 {
        places.push(app.joined(&app.buyer(), &performance).await);
    }
    assert_eq!((&places[0]["state"], &places[1]["state"]), (&json!("admitted"), &json!("waiting")));

    let app = app.restart().await;
    let newcomer = app.joined(&app.buyer(), &performance).await;
    let polled = poll_all(&app, &performance, &places).await;

    assert_eq!(newcomer["state"], "waiting", "{newcomer}");
    assert_eq!(polled[0]["state"], "admitted", "{polled:?}");
    let positions: Vec<_> = polled[1..].iter().map(|place| place["position"].as_u64().unwrap()).collect();
    assert!(positions.is_sorted() && positions.iter().all(|position| *position > 0), "{positions:?}");
    assert!(positions.last() < newcomer["position"].as_u64().as_ref(), "{positions:?}, {newcomer}");
}
