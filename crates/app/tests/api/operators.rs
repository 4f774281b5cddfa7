//! The operations for operators, and which callers may use each operation.

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::app::{
    SaleOptions, TestApp, assert_problem, eventually, header, id_of, json_of, new_key, now, rfc3339, section,
};

const LONG: Duration = Duration::from_secs(3_600);
const CSV_HEAD: &str = "section,row,number,grade,amount,currency\n";

/// The callers that may use an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callers {
    Anyone,
    LoggedIn,
    Operators,
}

impl Callers {
    /// As docs/API.md has it, independent of the served document.
    fn of(method: &Method, path: &str) -> Self {
        if path.starts_with("/api/v1/operator/") {
            Self::Operators
        } else if path == "/api/v1/members/me"
            || path.starts_with("/api/v1/reservations")
            || path.ends_with("/reservations")
            || (*method == Method::POST && path.ends_with("/queue"))
        {
            Self::LoggedIn
        } else {
            Self::Anyone
        }
    }
}

async fn put_csv(app: &TestApp, performance: &str, lines: &str) -> Response {
    let request = app.put(&format!("/api/v1/operator/performances/{performance}/seats")).bearer_auth(app.operator());
    request.header("Content-Type", "text/csv").body(format!("{CSV_HEAD}{lines}")).send().await.unwrap()
}

async fn seat_names(app: &TestApp, performance: &str) -> Vec<String> {
    let listed = app.list(&format!("/api/v1/performances/{performance}/seats"), None, 200).await;
    listed.iter().map(|seat| seat["seat"].as_str().unwrap().to_owned()).collect()
}

/// L20: every route of the served document, for every kind of caller.
#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_for_those_it_is_for() {
    let app = TestApp::start().await;
    let performance = app.scheduled_performance(&[section("A", 1, 1, "R", 100)], LONG, SaleOptions::default()).await;
    let concert = id_of(&json_of(app.get("/api/v1/concerts").send().await.unwrap(), 200).await["items"][0]);
    let document = json_of(app.get("/api/openapi.json").send().await.unwrap(), 200).await;
    let (buyer, operator) = (app.buyer(), app.operator());

    let mut n_operations = [0; 3];
    for (template, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
            let callers = Callers::of(&method, template);
            n_operations[callers as usize] += 1;
            let path = template.replace("{concert_id}", &concert).replace("{performance_id}", &performance);
            let path = path.replace("{reservation_id}", "01890a5d-ac96-774b-bcce-b302099a8057");
            assert!(!path.contains('{'), "{path}");
            for (who, token) in [("nobody", None), ("buyer", Some(&buyer)), ("operator", Some(&operator))] {
                let mut request = app.request(method.clone(), &path);
                if let Some(token) = token {
                    request = request.bearer_auth(token);
                }
                let response = request.send().await.unwrap();
                let case = format!("{method} {template} by {who}: {}", response.status());
                let expected = match (callers, who) {
                    (Callers::LoggedIn | Callers::Operators, "nobody") => Some((401, "unauthenticated")),
                    (Callers::Operators, "buyer") => Some((403, "forbidden")),
                    _ => None,
                };
                if let Some((status, code)) = expected {
                    assert_problem(response, status, code).await;
                } else if header(&response, "content-type") != Some("text/event-stream") {
                    // A stream that begins admits the caller, and has no end to wait for.
                    let text = response.text().await.unwrap();
                    let is_shut = text.contains("\"unauthenticated\"") || text.contains("\"forbidden\"");
                    assert!(!is_shut, "{case}: {text}");
                }
            }
            assert_eq!(operation.get("security").is_some(), callers != Callers::Anyone, "{method} {template}");
        }
    }
    assert_eq!(n_operations[Callers::Operators as usize], 6, "operators' operations");
    assert!(n_operations.iter().all(|count| *count >= 5), "{n_operations:?}");
    assert_eq!(seat_names(&app, &performance).await, ["A-1-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn seats_are_laid_out_in_rectangles_or_one_by_one() {
    let app = TestApp::start().await;
    let concert = app.concert("The First Night").await;
    let performance = app.performance_without_seats(&concert, LONG, SaleOptions::default()).await;

    let put = app.put_seats(&performance, &[section("A", 2, 2, "VIP", 200), section("B", 1, 1, "R", 100)]).await;
    assert_eq!(json_of(put, 200).await, json!({"total": 5}));
    assert_eq!(seat_names(&app, &performance).await, ["A-1-1", "A-1-2", "A-2-1", "A-2-2", "B-1-1"]);

    let put = put_csv(&app, &performance, "C,7,3,S,50,KRW\nC,7,1,S,50,KRW\nD,1,1,VIP,900,KRW\n").await;
    assert_eq!(json_of(put, 200).await, json!({"total": 3}), "all seats before are replaced");
    assert_eq!(seat_names(&app, &performance).await, ["C-7-1", "C-7-3", "D-1-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_line_is_named_by_its_number_and_nothing_is_stored() {
    let app = TestApp::start().await;
    let performance = app.scheduled_performance(&[section("A", 1, 2, "R", 100)], LONG, SaleOptions::default()).await;

    for bad in ["B,1,x,R,100,KRW", "B,1", "B,1,2,R,-5,KRW", "B,1,1,R,100,KRW", "B,0,2,R,100,KRW", "B,1,2,R,100,EUR"] {
        let refused = put_csv(&app, &performance, &format!("B,1,1,R,100,KRW\n{bad}\nB,1,3,R,100,KRW\n")).await;
        let problem = assert_problem(refused, 400, "validation-failed").await;
        assert_eq!(problem["errors"][0]["field"], "line 3", "{bad}: {problem}");
    }

    assert_eq!(seat_names(&app, &performance).await, ["A-1-1", "A-1-2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stadium_is_laid_out_at_once_and_no_more_than_that() {
    let app = TestApp::start().await;
    let concert = app.concert("The Big Night").await;
    let performance = app.performance_without_seats(&concert, LONG, SaleOptions::default()).await;

    let stadium = app.put_seats(&performance, &[section("A", 100, 100, "R", 100)]).await;
    let endless = app.put_seats(&performance, &[section("A", 9_999, 9_999, "R", 100)]).await;

    assert_eq!(json_of(stadium, 200).await["total"], 10_000);
    assert_problem(endless, 400, "validation-failed").await;
    let shown = json_of(app.get(&format!("/api/v1/performances/{performance}")).send().await.unwrap(), 200).await;
    assert_eq!(shown["seats"]["total"], 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn seats_stay_as_they_are_once_the_sale_is_open() {
    let app = TestApp::start().await;
    let performance = app.performance(&[section("A", 1, 2, "R", 100)], SaleOptions::default()).await;

    let by_json = app.put_seats(&performance, &[section("B", 1, 1, "R", 1)]).await;
    let by_csv = put_csv(&app, &performance, "B,1,1,R,1,KRW\n").await;

    assert_problem(by_json, 409, "seats-locked").await;
    assert_problem(by_csv, 409, "seats-locked").await;
    assert_eq!(seat_names(&app, &performance).await, ["A-1-1", "A-1-2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_performance_whose_times_cannot_be_is_refused() {
    let app = TestApp::start().await;
    let concert = app.concert("The First Night").await;
    let at = |s: u64| rfc3339(now().plus(Duration::from_secs(s)));
    let path = format!("/api/v1/operator/concerts/{concert}/performances");
    let add = async |body: Value| {
        let request = app.post(&path).bearer_auth(app.operator()).header("Idempotency-Key", new_key());
        request.json(&body).send().await.unwrap()
    };

    for (body, fields) in [
        (json!({"starts_at": at(300), "sale_opens_at": at(200), "sale_closes_at": at(100)}), vec!["sale_closes_at"]),
        (json!({"starts_at": at(50), "sale_opens_at": at(100), "sale_closes_at": at(200)}), vec!["starts_at"]),
        (json!({"starts_at": "soon", "sale_opens_at": at(100), "sale_closes_at": at(200)}), vec!["starts_at"]),
        (
            json!({
                "starts_at": at(300), "sale_opens_at": at(100), "sale_closes_at": at(200), "seat_limit_per_buyer": 0,
                "hold_ttl_s": 0,
            }),
            vec!["seat_limit_per_buyer", "hold_ttl_s"],
        ),
    ] {
        let problem = assert_problem(add(body).await, 400, "validation-failed").await;
        let named: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|error| &error["field"]).collect();
        assert_eq!(named, fields);
    }
    let fine = json!({"starts_at": at(300), "sale_opens_at": at(100), "sale_closes_at": at(200)});
    assert_eq!(json_of(add(fine).await, 201).await["sale_state"], "scheduled");
    let nowhere = app.post("/api/v1/operator/concerts/01890a5d-ac96-774b-bcce-b302099a8057/performances");
    let nowhere = nowhere.bearer_auth(app.operator()).header("Idempotency-Key", new_key());
    let body = json!({"starts_at": at(300), "sale_opens_at": at(100), "sale_closes_at": at(200)});
    assert_problem(nowhere.json(&body).send().await.unwrap(), 404, "not-found").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_changed_in_parts_and_outlives_the_server() {
    let app = TestApp::start().await;
    let performance = app.scheduled_performance(&[section("A", 1, 1, "R", 100)], LONG, SaleOptions::default()).await;
    let path = format!("/api/v1/operator/performances/{performance}/admission");
    let default = json!({
        "capacity": 1_000, "rate_per_s": 0, "pass_ttl_s": 300, "presence_window_s": 90, "state": "open",
    });
    let policy =
        async |app: &TestApp| json_of(app.get(&path).bearer_auth(app.operator()).send().await.unwrap(), 200).await;

    assert_eq!(policy(&app).await, default);
    let patched =
        json_of(app.patch_admission(&performance, &json!({"capacity": 7, "state": "paused"})).await, 200).await;
    let refused = app.patch_admission(&performance, &json!({"rate_per_s": 5, "presence_window_s": 1})).await;
    assert_problem(refused, 400, "validation-failed").await;
    let app = app.restart().await;

    let mut expected = default;
    expected["capacity"] = json!(7);
    expected["state"] = json!("paused");
    assert_eq!(patched, expected);
    assert_eq!(policy(&app).await, expected, "a refused change changes nothing; the others are kept");
    let unknown = app.patch_admission("01890a5d-ac96-774b-bcce-b302099a8057", &json!({"capacity": 1})).await;
    assert_problem(unknown, 404, "not-found").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stats_count_people_and_seats() {
    let app = TestApp::start_with(|settings| settings.line.capacity = 3).await;
    let performance = app.performance(&[section("A", 1, 10, "R", 100)], SaleOptions::default()).await;
    let path = format!("/api/v1/operator/performances/{performance}/stats");
    let (first, second) = (app.admitted(&performance).await, app.admitted(&performance).await);
    app.admitted(&performance).await;
    for _ in 0..4 {
        app.joined(&app.buyer(), &performance).await;
    }
    app.held(&first, &["A-1-1", "A-1-2"]).await;
    let sold = id_of(&app.held(&second, &["A-1-3"]).await);
    app.confirmed(&second.token, &sold).await;

    // The used pass freed room, so four were admitted in all.
    let stats = eventually("the next is admitted", async || {
        let stats = json_of(app.get(&path).bearer_auth(app.operator()).send().await.unwrap(), 200).await;
        (stats["admitted_total"] == 4).then_some(stats)
    })
    .await;

    let counts =
        ["waiting", "present", "away", "active", "serving", "issued"].map(|name| stats[name].as_u64().unwrap());
    assert_eq!(counts, [3, 3, 0, 3, 4, 7], "{stats}");
    assert_eq!(stats["seats"], json!({"total": 10, "available": 7, "held": 2, "sold": 1}));
    assert!(stats["rate_per_s"].as_f64().is_some());
}
