//! Provokes every problem code, and checks that refusals change nothing and leak nothing.

use std::time::Duration;

use actix_web::body::MessageBody as _;
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use usher_app::http::problem::{Occurrence, Problem, ProblemCode};
use usher_kernel::StoreError;

use crate::app::{
    Admitted, Answer, SaleOptions, TestApp, assert_problem, eventually, header, id_of, json_of, new_key, section,
};
use crate::store;

/// An id that does not exist.
const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// One server on which most codes are provoked.
struct Stage {
    app: TestApp,
    performance: String,
}

impl Stage {
    async fn set() -> Self {
        let app = TestApp::start_with(|settings| settings.http.body_timeout_ms = 500).await;
        let options = SaleOptions { seats_per_buyer: 2, ..SaleOptions::default() };
        let performance = app.performance(&[section("A", 5, 20, "R", 120_000)], options).await;
        Self { app, performance }
    }

    fn path(&self, rest: &str) -> String {
        format!("/api/v1/performances/{}{rest}", self.performance)
    }

    async fn admitted(&self) -> Admitted {
        self.app.admitted(&self.performance).await
    }

    async fn bought(&self, seat: &str) -> Admitted {
        let buyer = self.admitted().await;
        let reservation = self.app.held(&buyer, &[seat]).await;
        self.app.confirmed(&buyer.token, &id_of(&reservation)).await;
        buyer
    }

    async fn provoke(&self, code: ProblemCode) -> Answer {
        let app = &self.app;
        let response = match code {
            ProblemCode::MalformedRequest => {
                let request = app.post("/api/v1/auth/login").header("Content-Type", "application/json");
                request.body("{\"email\": ").send().await.unwrap()
            }
            ProblemCode::ValidationFailed => app.sign_up("nobody", "short").await,
            ProblemCode::IdempotencyKeyMissing => {
                let request = app.post("/api/v1/operator/concerts").bearer_auth(app.operator());
                request.json(&json!({})).send().await.unwrap()
            }
            ProblemCode::Unauthenticated => app.get("/api/v1/members/me").send().await.unwrap(),
            ProblemCode::InvalidCredentials => app.log_in("nobody@example.com", "correct horse").await,
            ProblemCode::PlaceInvalid => app.poll("no place", &self.performance).await,
            ProblemCode::PassRequired => {
                let request = app.post(&self.path("/reservations")).bearer_auth(app.buyer());
                let request = request.header("Idempotency-Key", new_key());
                request.json(&json!({"seats": ["A-1-1"]})).send().await.unwrap()
            }
            ProblemCode::PassInvalid => {
                let buyer = Admitted { pass: "no pass".into(), ..self.admitted().await };
                app.hold(&buyer, &["A-1-1"]).await
            }
            ProblemCode::PaymentDeclined => {
                let buyer = self.admitted().await;
                let reservation = app.held(&buyer, &["A-1-2"]).await;
                app.confirm(&buyer.token, &id_of(&reservation), "tok_declined").await
            }
            ProblemCode::Forbidden => {
                let request = app.get(&format!("/api/v1/operator/performances/{}/stats", self.performance));
                request.bearer_auth(app.buyer()).send().await.unwrap()
            }
            ProblemCode::PassExpired => {
                let seats = [section("A", 1, 1, "R", 100)];
                let performance = app.performance(&seats, SaleOptions::default()).await;
                json_of(app.patch_admission(&performance, &json!({"pass_ttl_s": 1})).await, 200).await;
                let buyer = app.admitted(&performance).await;
                app.wait_for_place(&buyer.place, &performance, "expired").await;
                app.hold(&buyer, &["A-1-1"]).await
            }
            ProblemCode::PassUsed => {
                let buyer = self.bought("A-1-3").await;
                app.hold(&buyer, &["A-1-4"]).await
            }
            ProblemCode::PassMismatch => {
                let buyer = Admitted { token: app.buyer(), ..self.admitted().await };
                app.hold(&buyer, &["A-1-5"]).await
            }
            ProblemCode::NotFound => app.get("/api/v1/nowhere").send().await.unwrap(),
            ProblemCode::MethodNotAllowed => app.put("/api/v1/auth/login").send().await.unwrap(),
            ProblemCode::RequestTimeout => {
                return app.begin_slow_request("/api/v1/auth/login").await.answer("/api/v1/auth/login").await;
            }
            ProblemCode::EmailTaken => {
                app.sign_up("twice@example.com", "correct horse").await;
                app.sign_up("twice@example.com", "battery staple").await
            }
            ProblemCode::SeatTaken => {
                app.held(&self.admitted().await, &["A-1-6"]).await;
                app.hold(&self.admitted().await, &["A-1-6"]).await
            }
            ProblemCode::NotEnoughSeats => {
                let performance = app.performance(&[section("A", 1, 1, "R", 100)], SaleOptions::default()).await;
                let buyer = app.admitted(&performance).await;
                app.hold_best(&buyer, 2, None).await
            }
            ProblemCode::HoldExpired => {
                let options = SaleOptions { hold_ttl_s: 1, ..SaleOptions::default() };
                let performance = app.performance(&[section("A", 1, 1, "R", 100)], options).await;
                let buyer = app.admitted(&performance).await;
                let reservation = id_of(&app.held(&buyer, &["A-1-1"]).await);
                eventually("the hold lapsed", async || {
                    let found = json_of(app.reservation(&buyer.token, &reservation).await, 200).await;
                    (found["status"] == "expired").then_some(())
                })
                .await;
                app.confirm(&buyer.token, &reservation, "tok_ok").await
            }
            ProblemCode::LimitReached => app.hold(&self.admitted().await, &["A-2-1", "A-2-2", "A-2-3"]).await,
            ProblemCode::SaleNotOpen => {
                let seats = [section("A", 1, 1, "R", 100)];
                let next_week = Duration::from_secs(7 * 86_400);
                let performance = app.scheduled_performance(&seats, next_week, SaleOptions::default()).await;
                app.join(&app.buyer(), &performance).await
            }
            ProblemCode::SaleClosed => {
                let seats = [section("A", 1, 1, "R", 100)];
                let performance = app.performance(&seats, SaleOptions::default()).await;
                json_of(app.patch_admission(&performance, &json!({"state": "closed"})).await, 200).await;
                app.join(&app.buyer(), &performance).await
            }
            ProblemCode::IdempotencyInFlight => {
                let buyer = self.admitted().await;
                let (reservation, key) = (id_of(&app.held(&buyer, &["A-2-4"]).await), new_key());
                let slow = async {
                    let request = app.confirm_request(&buyer.token, &reservation, &key, "tok_slow");
                    json_of(request.send().await.unwrap(), 200).await;
                };
                // Deletes the charge, as if the gateway had not got it yet. Otherwise the server would ask for its
                // status.
                let unheard = "DELETE FROM simulated_charges WHERE attempt_id IN (
                    SELECT attempt_id FROM reservations JOIN reservation_seats ON reservation_id = reservations.id
                    WHERE state = 'paying' AND seat = 'A-2-4')";
                let twin = async {
                    eventually("the payment began", async || {
                        (store::tamper(app.folder(), unheard).await == 1).then_some(())
                    })
                    .await;
                    app.confirm_request(&buyer.token, &reservation, &key, "tok_slow").send().await.unwrap()
                };
                futures_util::future::join(slow, twin).await.1
            }
            ProblemCode::ReservationState => {
                let buyer = self.admitted().await;
                app.held(&buyer, &["A-2-5"]).await;
                app.hold(&buyer, &["A-2-6"]).await
            }
            ProblemCode::SeatsLocked => app.put_seats(&self.performance, &[section("A", 1, 1, "R", 100)]).await,
            ProblemCode::PayloadTooLarge => app.sign_up("long@example.com", &"x".repeat(17 * 1024)).await,
            ProblemCode::UnsupportedMediaType => {
                app.post("/api/v1/auth/login").header("Content-Type", "text/plain").body("{}").send().await.unwrap()
            }
            ProblemCode::IdempotencyMismatch => {
                let (buyer, key) = (self.admitted().await, new_key());
                let first = app.hold_request(&buyer, &key, &json!({"seats": ["A-2-7"]})).send().await.unwrap();
                json_of(first, 201).await;
                app.hold_request(&buyer, &key, &json!({"seats": ["A-2-8"]})).send().await.unwrap()
            }
            ProblemCode::TooManyRequests => {
                let joined = app.joined(&app.buyer(), &self.performance).await;
                let place = joined["place"].as_str().unwrap();
                let polls = join_all((0..60).map(|_| app.poll(place, &self.performance))).await;
                polls.into_iter().find(|poll| poll.status() == 429).expect("one of 60 polls at once is refused")
            }
            ProblemCode::HeadersTooLarge => {
                app.get("/api/v1/concerts").header("X-Long", "x".repeat(64 * 1024)).send().await.unwrap()
            }
            ProblemCode::Internal => damaged_account(app).await,
            ProblemCode::Overloaded => return overloaded().await,
            ProblemCode::StoreUnavailable => return locked_store().await,
            ProblemCode::PaymentUnavailable => {
                let buyer = self.admitted().await;
                let reservation = app.held(&buyer, &["A-2-9"]).await;
                app.confirm(&buyer.token, &id_of(&reservation), "tok_timeout_after_capture").await
            }
            // An embedded line is always available, because it lives in the same process. This renders the answer
            // without a request.
            ProblemCode::LineUnavailable => {
                let source = "connection refused".into();
                let away = StoreError::Unavailable { operation: "line.join", source };
                return written(&usher_queue::Error::LineStore(away).into());
            }
        };
        Answer::of(response).await
    }
}

/// A refusal, rendered without a request.
fn written(problem: &Problem) -> Answer {
    let answer = problem.render(Some(Occurrence { path: "/nowhere", request_id: "r-1" }));
    let mut headers: reqwest::header::HeaderMap = answer
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str().parse().unwrap(), value.to_str().unwrap().parse().unwrap()))
        .collect();
    headers.insert("x-request-id", "r-1".parse().unwrap());
    let status = answer.status().as_u16();
    let body = answer.into_body().try_into_bytes().unwrap();
    Answer { path: "/nowhere".into(), status, headers, text: String::from_utf8(body.to_vec()).unwrap() }
}

/// Logs in to an account with a corrupt row.
async fn damaged_account(app: &TestApp) -> reqwest::Response {
    json_of(app.sign_up("damaged@example.com", "correct horse").await, 201).await;
    let damage = "UPDATE accounts SET role = 'emperor' WHERE email = 'damaged@example.com'";
    assert_eq!(store::tamper(app.folder(), damage).await, 1);
    app.log_in("damaged@example.com", "correct horse").await
}

/// Sends a server more requests than it may answer at once.
async fn overloaded() -> Answer {
    let app = TestApp::start_with(|settings| settings.http.max_in_flight = 1).await;
    app.keep_busy().await.1
}

/// Asks a server to write while the test locks the database for longer than the server waits.
async fn locked_store() -> Answer {
    let app = TestApp::start().await;
    let lock = store::lock(app.folder()).await;

    let answer = Answer::of(app.sign_up("late@example.com", "correct horse").await).await;

    drop(lock);
    json_of(app.sign_up("late@example.com", "correct horse").await, 201).await;
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn every_problem_code_is_answered_in_its_form() {
    let stage = Stage::set().await;

    let provoked =
        join_all(ProblemCode::ALL.iter().map(async |&code| (code, Box::pin(stage.provoke(code)).await))).await;

    for (code, answer) in &provoked {
        let body = answer.problem(code.status().as_u16(), code.code());
        assert_eq!(body["title"], code.title());
        if code.status().is_server_error() {
            assert_eq!(body["detail"], code.explanation(), "the text of a 5xx is constant");
        }
        if answer.status == 401 {
            assert_eq!(answer.headers["www-authenticate"], "Bearer", "{code:?}");
        }
    }
    let document = json_of(stage.app.get("/api/openapi.json").send().await.unwrap(), 200).await.to_string();
    for &code in ProblemCode::ALL {
        let is_declared = document.contains(&format!("`{}`", code.code()));
        let is_of_no_operation = matches!(code, ProblemCode::MethodNotAllowed | ProblemCode::HeadersTooLarge);
        assert_eq!(is_declared, !is_of_no_operation, "{code:?} in the API document");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_codes_and_their_statuses_are_those_of_the_written_contract() {
    let folder = env!("CARGO_MANIFEST_DIR");
    let page = std::fs::read_to_string(format!("{folder}/../../docs/API.md")).unwrap();
    let table = page.split("## Problem codes").nth(1).unwrap().split("\n## ").next().unwrap();

    let undocumented: Vec<_> = ProblemCode::ALL
        .iter()
        .filter(|code| {
            let (status, name) = (code.status().as_u16().to_string(), format!("`{}`", code.code()));
            !table.lines().any(|line| line.contains(&name) && line.contains(&status))
        })
        .collect();

    assert!(undocumented.is_empty(), "{undocumented:?} are not in the table of docs/API.md");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_inside_is_told_as_nothing_but_an_id() {
    let app = TestApp::start().await;

    let answer = Answer::of(damaged_account(&app).await).await;

    let body = answer.problem(500, "internal");
    assert_eq!(body["detail"], ProblemCode::Internal.explanation());
    for leak in ["emperor", "role", "accounts", "column", "sql"] {
        assert!(!answer.text.contains(leak), "{leak}: {}", answer.text);
    }
}

/// L12, L13.
#[tokio::test(flavor = "multi_thread")]
async fn no_seat_is_held_without_the_right_pass() {
    let app = TestApp::start().await;
    let seats = [section("A", 1, 4, "R", 100)];
    let here = app.performance(&seats, SaleOptions::default()).await;
    let elsewhere = app.performance(&seats, SaleOptions::default()).await;
    let mine = app.admitted(&here).await;
    let mine_elsewhere = app.admit(&mine.token, &elsewhere).await;
    let theirs = app.admitted(&here).await;
    let theirs_elsewhere = app.admitted(&elsewhere).await;
    let mut damaged = mine.pass.clone().into_bytes();
    damaged[20] ^= 1;
    let damaged = String::from_utf8_lossy(&damaged).into_owned();

    for (case, pass, status, code) in [
        ("another account's", &theirs.pass, 403, "pass-mismatch"),
        ("another performance's", &mine_elsewhere.pass, 403, "pass-mismatch"),
        ("another account's and performance's", &theirs_elsewhere.pass, 403, "pass-mismatch"),
        ("a damaged one", &damaged, 401, "pass-invalid"),
        ("the place", &mine.place, 401, "pass-invalid"),
        ("the access token", &mine.token, 401, "pass-invalid"),
        ("an empty one", &String::new(), 401, "pass-invalid"),
    ] {
        let buyer = Admitted { pass: pass.clone(), ..mine.clone() };
        let answer = Answer::of(app.hold(&buyer, &["A-1-1"]).await).await;
        assert_eq!(answer.problem(status, code)["code"], code, "{case}");
    }
    let without = app.post(&format!("/api/v1/performances/{here}/reservations")).bearer_auth(&mine.token);
    let without = without.header("Idempotency-Key", new_key()).json(&json!({"seats": ["A-1-1"]}));
    assert_problem(without.try_clone().unwrap().send().await.unwrap(), 401, "pass-required").await;
    let only_cookie = without.header("Cookie", format!("usher_pass={}", mine.pass));
    assert_problem(only_cookie.send().await.unwrap(), 401, "pass-required").await;

    let counts = json_of(app.get(&format!("/api/v1/performances/{here}")).send().await.unwrap(), 200).await;
    assert_eq!(counts["seats"]["available"], 4, "nothing was held");
    app.held(&mine, &["A-1-1"]).await;
}

/// L15.
#[tokio::test(flavor = "multi_thread")]
async fn a_pass_is_good_for_one_confirmed_reservation() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 1, 4, "R", 100)], SaleOptions::default()).await;
    let buyer = app.admitted(&performance).await;
    let first = id_of(&app.held(&buyer, &["A-1-1"]).await);

    let second_while_live = app.hold(&buyer, &["A-1-2"]).await;
    app.release(&buyer.token, &first).await;
    let after_release = id_of(&app.held(&buyer, &["A-1-2"]).await);
    app.confirmed(&buyer.token, &after_release).await;
    let after_sale = app.hold(&buyer, &["A-1-3"]).await;

    assert_problem(second_while_live, 409, "reservation-state").await;
    assert_problem(after_sale, 403, "pass-used").await;
    let place = json_of(app.poll(&buyer.place, &performance).await, 200).await;
    assert_eq!((&place["state"], &place["pass"]), (&json!("done"), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_that_was_given_up_opens_nothing() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 1, 4, "R", 100)], SaleOptions::default()).await;
    let buyer = app.admitted(&performance).await;

    let left = app.leave(&buyer.place, &performance).await;
    let hold = app.hold(&buyer, &["A-1-1"]).await;

    assert_eq!(left.status(), 204);
    assert_problem(hold, 403, "pass-used").await;
}

/// S7: all or nothing, and every conflict is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_hold_names_every_conflict_and_holds_nothing() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 1, 6, "R", 100)], SaleOptions::default()).await;
    app.held(&app.admitted(&performance).await, &["A-1-2", "A-1-4"]).await;

    let refused = app.hold(&app.admitted(&performance).await, &["A-1-4", "A-1-3", "A-1-2"]).await;

    let mut body = assert_problem(refused, 409, "seat-taken").await;
    body["conflicts"].as_array_mut().unwrap().sort_by_key(Value::to_string);
    assert_eq!(body["conflicts"], json!(["A-1-2", "A-1-4"]));
    let free = app.list(&format!("/api/v1/performances/{performance}/seats?status=available"), None, 50).await;
    let free: Vec<_> = free.iter().map(|seat| seat["seat"].as_str().unwrap()).collect();
    assert_eq!(free, ["A-1-1", "A-1-3", "A-1-5", "A-1-6"]);
}

/// S8: a repeated request gets the same bytes and has no second effect; the key of another request is refused.
#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_stands_for_one_wish() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 1, 6, "R", 100)], SaleOptions::default()).await;
    let (buyer, key) = (app.admitted(&performance).await, new_key());
    let hold = |seat: &str| app.hold_request(&buyer, &key, &json!({"seats": [seat]})).send();

    let first = Answer::of(hold("A-1-1").await.unwrap()).await;
    let again = Answer::of(hold("A-1-1").await.unwrap()).await;
    let another_wish = hold("A-1-2").await.unwrap();

    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.text, again.text, "byte for byte");
    assert_problem(another_wish, 422, "idempotency-mismatch").await;
    assert_eq!(app.list("/api/v1/reservations", Some(&buyer.token), 50).await.len(), 1);
    let stranger = app.admitted(&performance).await;
    let same_key = app.hold_request(&stranger, &key, &json!({"seats": ["A-1-2"]})).send().await.unwrap();
    json_of(same_key, 201).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_are_repeated_byte_for_byte_declined_or_not() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 1, 6, "R", 100)], SaleOptions::default()).await;
    let buyer = app.admitted(&performance).await;
    let reservation = id_of(&app.held(&buyer, &["A-1-1"]).await);
    let pay = async |key: &str, token: &str| {
        Answer::of(app.confirm_request(&buyer.token, &reservation, key, token).send().await.unwrap()).await
    };

    let (declined, declined_again) = (pay("k1", "tok_declined").await, pay("k1", "tok_declined").await);
    let another_wish = pay("k1", "tok_ok").await;
    let (paid, paid_again) = (pay("k2", "tok_ok").await, pay("k2", "tok_ok").await);
    let declined_long_ago = pay("k1", "tok_declined").await;

    declined.problem(402, "payment-declined");
    assert_eq!(declined.text, declined_again.text);
    assert_eq!(declined.text, declined_long_ago.text);
    another_wish.problem(422, "idempotency-mismatch");
    assert_eq!((paid.status, paid_again.status), (200, 200), "{} {}", paid.text, paid_again.text);
    assert_eq!(paid.text, paid_again.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_wish_is_granted_once_per_key() {
    let app = TestApp::start().await;
    let (operator, key) = (app.operator(), new_key());
    let add = async |title: &str| {
        let body = json!({"title": title, "description": "", "venue": "Usher Hall", "running_time_min": 90});
        let request = app.post("/api/v1/operator/concerts").bearer_auth(&operator).header("Idempotency-Key", &key);
        Answer::of(request.json(&body).send().await.unwrap()).await
    };

    let (first, again, other) = (add("One").await, add("One").await, add("Two").await);

    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.text, again.text);
    other.problem(422, "idempotency-mismatch");
    assert_eq!(app.list("/api/v1/concerts", None, 50).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_is_1_to_255_visible_characters() {
    let app = TestApp::start().await;
    let request = |key: &[u8]| {
        let value = reqwest::header::HeaderValue::from_bytes(key).unwrap();
        let body = json!({"title": "One", "description": "", "venue": "Hall", "running_time_min": 90});
        let request = app.post("/api/v1/operator/concerts").bearer_auth(app.operator());
        request.header("Idempotency-Key", value).json(&body).send()
    };

    for key in [b"".as_slice(), b"two words", "schlüssel".as_bytes(), "k".repeat(256).as_bytes()] {
        let body = assert_problem(request(key).await.unwrap(), 400, "validation-failed").await;
        assert_eq!(body["errors"][0]["field"], "Idempotency-Key");
    }
    json_of(request("k".repeat(255).as_bytes()).await.unwrap(), 201).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_someone_elses_looks_as_if_it_were_not_there() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 1, 2, "R", 100)], SaleOptions::default()).await;
    let owner = app.admitted(&performance).await;
    let theirs = id_of(&app.held(&owner, &["A-1-1"]).await);
    let stranger = app.buyer();

    let answers = async |reservation: &str| {
        let found = app.reservation(&stranger, reservation).await;
        let confirmed = app.confirm(&stranger, reservation, "tok_ok").await;
        let released = app.release(&stranger, reservation).await;
        join_all([found, confirmed, released].map(Answer::of)).await
    };
    let (of_theirs, of_nothing) = (answers(&theirs).await, answers(NOBODY).await);

    for (theirs, nothing) in of_theirs.iter().zip(&of_nothing) {
        let (mut body, mut of_nothing) = (theirs.problem(404, "not-found"), nothing.problem(404, "not-found"));
        for body in [&mut body, &mut of_nothing] {
            body.as_object_mut().unwrap().remove("instance");
        }
        assert_eq!(body, of_nothing);
        let mut names = [&theirs.headers, &nothing.headers].map(|headers| headers.keys().collect::<Vec<_>>());
        names.iter_mut().for_each(|names| names.sort_by_key(|name| name.as_str()));
        assert_eq!(names[0], names[1]);
    }
    assert_eq!(json_of(app.reservation(&owner.token, &theirs).await, 200).await["status"], "held");
    assert_eq!(app.list("/api/v1/reservations", Some(&stranger), 50).await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_value_is_refused_under_its_name() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 1, 4, "R", 100)], SaleOptions::default()).await;
    let buyer = app.admitted(&performance).await;
    let reservation = id_of(&app.held(&buyer, &["A-1-4"]).await);
    let hold = format!("/api/v1/performances/{performance}/reservations");
    let confirm = format!("/api/v1/reservations/{reservation}/confirm");
    let admission = format!("/api/v1/operator/performances/{performance}/admission");
    let seats = format!("/api/v1/operator/performances/{performance}/seats");
    let concert = json!({"title": "T", "description": "", "venue": "V", "running_time_min": 90});
    let with = |mut body: Value, name: &str, value: Value| {
        body[name] = value;
        body
    };
    let payment = |method: &str, token: &str| json!({"payment": {"method": method, "token": token}});

    for (method, path, body, field) in [
        (Method::POST, "/api/v1/auth/signup", json!({"email": "a@b.c", "password": "12345678"}), "name"),
        (Method::POST, "/api/v1/auth/signup", json!({"email": "a@b.c", "password": "12345678", "name": 7}), "name"),
        (
            Method::POST,
            "/api/v1/auth/signup",
            json!({"email": "a@b.c", "password": "12345678", "name": "A", "role": "operator"}),
            "role",
        ),
        (Method::POST, "/api/v1/auth/login", json!({"email": ["a@b.c"], "password": "12345678"}), "email"),
        (Method::POST, "/api/v1/operator/concerts", with(concert.clone(), "title", json!("")), "title"),
        (
            Method::POST,
            "/api/v1/operator/concerts",
            with(concert.clone(), "running_time_min", json!(-1)),
            "running_time_min",
        ),
        (Method::POST, "/api/v1/operator/concerts", with(concert, "price", json!(1)), "price"),
        (Method::POST, &hold, json!({}), "seats"),
        (Method::POST, &hold, json!({"seats": []}), "seats"),
        (Method::POST, &hold, json!({"seats": "A-1-1"}), "seats"),
        (Method::POST, &hold, json!({"seats": ["A-1-1", 7]}), "seats[1]"),
        (Method::POST, &hold, json!({"seats": ["A-1-1", "nonsense"]}), "seats[1]"),
        (Method::POST, &hold, json!({"seats": ["A-1-1", "A-1-1"]}), "seats[1]"),
        // S6: a client cannot set a price.
        (Method::POST, &hold, json!({"seats": ["A-1-1"], "total": 1}), "total"),
        (Method::POST, &hold, json!({"seats": ["A-1-1"], "best_available": {"count": 1}}), "best_available"),
        (Method::POST, &hold, json!({"best_available": {}}), "best_available.count"),
        (Method::POST, &hold, json!({"best_available": {"count": 0}}), "best_available.count"),
        (Method::POST, &hold, json!({"best_available": {"count": -1}}), "best_available.count"),
        (Method::POST, &hold, json!({"best_available": {"count": 101}}), "best_available.count"),
        (Method::POST, &hold, json!({"best_available": {"count": "2"}}), "best_available.count"),
        (Method::POST, &hold, json!({"best_available": {"count": 1, "grade": 7}}), "best_available.grade"),
        (Method::POST, &hold, json!({"best_available": {"count": 1, "row": 7}}), "best_available.row"),
        (Method::POST, &confirm, payment("cash", "tok_ok"), "payment.method"),
        (Method::POST, &confirm, payment("simulated", "tok_free"), "payment.token"),
        (Method::POST, &confirm, json!({"payment": {"method": "simulated"}}), "payment.token"),
        (Method::PATCH, &admission, json!({"capacity": -1}), "capacity"),
        (Method::PATCH, &admission, json!({"presence_window_s": 1}), "presence_window_s"),
        (Method::PATCH, &admission, json!({"state": "ajar"}), "state"),
        (Method::PATCH, &admission, json!({"speed": 1}), "speed"),
        (Method::PUT, &seats, json!({"sections": [{"name": "A"}]}), "sections[0].rows"),
    ] {
        let token = if path.contains("/operator/") { app.operator() } else { buyer.token.clone() };
        let request = app.request(method, path).bearer_auth(token).header("Usher-Pass", &buyer.pass);
        let request = request.header("Idempotency-Key", new_key()).json(&body);
        let answer = assert_problem(request.send().await.unwrap(), 400, "validation-failed").await;
        let fields: Vec<_> = answer["errors"].as_array().unwrap().iter().map(|error| &error["field"]).collect();
        assert_eq!(fields, [field], "{path} {body}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_seat_is_named_by_its_place_in_the_wish() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 1, 2, "R", 100)], SaleOptions::default()).await;
    let buyer = app.admitted(&performance).await;

    let refused = app.hold(&buyer, &["A-1-1", "Z-9-9", "A-1-2", "A-1-3"]).await;

    let body = assert_problem(refused, 400, "validation-failed").await;
    let fields: Vec<_> = body["errors"].as_array().unwrap().iter().map(|error| &error["field"]).collect();
    assert_eq!(fields, ["seats[1]", "seats[3]"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_json_is_malformed() {
    let app = TestApp::start().await;

    let twice = "{\"email\": \"a@b.c\", \"password\": \"12345678\"} {}";
    for body in ["", "{", "{\"email\": \"a@b.c\",}", twice, "\u{feff}{}", "nul", "{\"email\": \"\u{1}\"}"] {
        let request = app.post("/api/v1/auth/login").header("Content-Type", "application/json; charset=utf-8");
        assert_problem(request.body(body).send().await.unwrap(), 400, "malformed-request").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_json_is_taken_for_json() {
    let app = TestApp::start().await;

    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonx")]
    {
        let mut request = app.post("/api/v1/auth/login").body("{\"email\": \"a@b.c\", \"password\": \"12345678\"}");
        if let Some(content_type) = content_type {
            request = request.header("Content-Type", content_type);
        }
        assert_problem(request.send().await.unwrap(), 415, "unsupported-media-type").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_end_is_cut_off() {
    let app = TestApp::start().await;
    let path = "/api/v1/auth/login";
    let mut wire = app.connect().await;
    let head = "Host: usher\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked";
    wire.send(format!("POST {path} HTTP/1.1\r\n{head}\r\n\r\n")).await;

    let chunk = format!("400\r\n{}\r\n", "x".repeat(0x400));
    let answer = wire.send_without_end(path, chunk.as_bytes()).await;

    answer.problem(413, "payload-too-large");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let app = TestApp::start_with(|settings| settings.http.body_timeout_ms = 200).await;
    let path = "/api/v1/auth/login";
    let mut wire = app.begin_slow_request(path).await;

    let answer = wire.answer(path).await;

    answer.problem(408, "request-timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_with_the_wrong_method_is_told_the_right_ones() {
    let app = TestApp::start().await;
    let queue = format!("/api/v1/performances/{NOBODY}/queue");

    for (method, path, allowed) in [
        (Method::GET, "/api/v1/auth/login", vec!["POST"]),
        (Method::DELETE, "/api/v1/concerts", vec!["GET"]),
        (Method::PUT, queue.as_str(), vec!["DELETE", "GET", "POST"]),
    ] {
        let response = app.request(method, path).send().await.unwrap();
        let allow = header(&response, "allow").unwrap_or_default().to_owned();
        let mut methods: Vec<_> = allow.split(',').map(str::trim).filter(|method| *method != "HEAD").collect();
        methods.sort_unstable();
        assert_problem(response, 405, "method-not-allowed").await;
        assert_eq!(methods, allowed, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_an_id_is_not_found() {
    let app = TestApp::start().await;

    for id in ["7", "not-a-uuid", "%00", "01890a5d-ac96-774b-bcce-b302099a80577", NOBODY] {
        for (method, path) in [
            (Method::GET, format!("/api/v1/concerts/{id}")),
            (Method::GET, format!("/api/v1/concerts/{id}/performances")),
            (Method::GET, format!("/api/v1/performances/{id}")),
            (Method::GET, format!("/api/v1/performances/{id}/seats")),
            (Method::GET, format!("/api/v1/performances/{id}/seat-map")),
            (Method::GET, format!("/api/v1/performances/{id}/availability")),
            (Method::GET, format!("/api/v1/performances/{id}/availability/stream")),
            (Method::POST, format!("/api/v1/performances/{id}/queue")),
            (Method::GET, format!("/api/v1/reservations/{id}")),
            (Method::DELETE, format!("/api/v1/reservations/{id}")),
            (Method::GET, format!("/api/v1/operator/performances/{id}/admission")),
            (Method::GET, format!("/api/v1/operator/performances/{id}/stats")),
        ] {
            let response = app.request(method, &path).bearer_auth(app.operator()).send().await.unwrap();
            assert_problem(response, 404, "not-found").await;
        }
    }
    for path in ["/api", "/api/v1", "/api/v1/", "/api/v2/concerts", "/api/v1/concerts/", "/.env"] {
        let response = app.get(path).send().await.unwrap();
        assert_problem(response, 404, "not-found").await;
    }
}
